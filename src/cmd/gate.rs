//! `gonogo gate`: a command starts only behind a verdict that may be used here and now.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use jiff::{SignedDuration, Timestamp};

use crate::cli;
use crate::cmd::judge::Case;
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::gate::{self, Claim, Launch, Ticket};
use crate::hostlist;
use crate::judge::{self, Decision};
use crate::plan::{self, PlanHash, Tier};
use crate::report;
use crate::topology::{SysRoot, discover};

/// What a record or a ticket says, of one form.
struct Verdict {
    what: String,
    decision: Decision,
    measured: Timestamp,
    nodes: Vec<String>,
    run_hash: PlanHash,
    software: Option<PlanHash>,
    image: Option<String>,
    /// Why, when the decision is against a launch.
    why: String,
}

pub(super) fn run(args: cli::Gate) -> Result<Exit, Failure> {
    if let Some(path) = &args.new_key {
        let public = gate::new_key(path).map_err(Failure::usage)?;
        shell::print(&format!("secret key {}\npublic key {}\n", path.display(), public.display()))
            .map_err(Failure::internal)?;
        return Ok(Exit::Go);
    }
    let given = match &args.plan {
        Some(path) => Some(PlanHash::of(&plan::read(path).map_err(Failure::usage)?)),
        None => None,
    };
    let nodes = nodes(&args)?;
    let verdict = match (&args.require_ticket, &args.trust, &args.record) {
        (Some(ticket), Some(trust), _) => by_ticket(ticket, trust)?,
        (_, _, Some(path)) => by_record(path)?,
        _ => return Err(Failure::usage(anyhow!("give a RECORD, or --require-ticket FILE with --trust FILE.pub"))),
    };
    let refusals = refusals(&verdict, &args, given.as_ref(), &nodes);
    if !refusals.is_empty() {
        eprintln!("HOLD  {} is not used:", verdict.what);
        for r in &refusals {
            eprintln!("  {r}");
        }
        return Ok(Exit::Hold);
    }
    let open = matches!(verdict.decision, Decision::Go | Decision::GoWithout { .. });
    if !open {
        eprint!("{}", verdict.why);
        eprintln!("the gate stays closed: {} by {}", verdict.decision, verdict.what);
        return Ok(verdict.decision.exit());
    }
    if let (Some(path), Some(key)) = (&args.ticket, &args.key) {
        write_ticket(path, key, &args, &verdict)?;
    }
    if args.command.is_empty() {
        shell::print(&format!("{}  by {}\n", verdict.decision, verdict.what)).map_err(Failure::internal)?;
        return Ok(Exit::Go);
    }
    let exclude: Vec<String> = verdict.decision.exclude().iter().map(|n| n.0.clone()).collect();
    let launch = Launch::new(verdict.decision.name(), &nodes, &exclude, &args.command);
    eprintln!("{}  by {}; starting {}", verdict.decision, verdict.what, launch.command[0]);
    let error = launch.exec();
    let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::Usage } else { Exit::Internal };
    Err(Failure { exit, error: anyhow!(error).context(format!("cannot start {}", launch.command[0])) })
}

/// The nodes that the command would run on.
fn nodes(args: &cli::Gate) -> Result<Vec<String>, Failure> {
    let slurm = || std::env::var("SLURM_JOB_NODELIST").ok().filter(|l| !l.is_empty());
    match args.nodes.clone().or_else(slurm) {
        Some(list) => hostlist::expand(&list).map_err(Failure::usage),
        None => Ok(vec![rustix::system::uname().nodename().to_string_lossy().into_owned()]),
    }
}

fn by_record(path: &Path) -> Result<Verdict, Failure> {
    let case = Case::read(path, None, None)?;
    let (record, judgement) = (&case.record, case.judge());
    if record.header.plan.tier == Tier::Image {
        let error = anyhow!(
            "the record {} is of an image and says nothing about a machine; run `gonogo check` on the nodes",
            path.display()
        );
        return Err(Failure { exit: Exit::Hold, error });
    }
    let shown = path.to_string_lossy();
    let mut view = report::view(&judgement, &shown);
    // The gate tells the verdict and its reasons; the tables are in the report.
    view.tables.clear();
    let why = report::terminal(&view, shell::style());
    let machine = judge::Facts::machines(record).next().map(|(_, m)| gate::software_digest(m));
    Ok(Verdict {
        what: format!("the record {}", crate::id::clean(&shown)),
        decision: judgement.decision.clone(),
        measured: record.header.started,
        nodes: record.header.nodes.iter().map(|n| n.0.clone()).collect(),
        run_hash: PlanHash::of(&record.header.plan.run),
        software: machine,
        image: None,
        why,
    })
}

fn by_ticket(path: &Path, trust: &Path) -> Result<Verdict, Failure> {
    let trusted = gate::read_trusted(trust).map_err(Failure::usage)?;
    // A ticket that is forged or expired proves nothing: hold, as for any verdict that may not be used.
    let held = |error: gate::TicketError| Failure { exit: Exit::Hold, error: anyhow!(error) };
    let ticket = Ticket::open(path, &trusted, Timestamp::now()).map_err(held)?;
    let exclude: Vec<_> = ticket.exclude.iter().cloned().map(crate::id::NodeName).collect();
    let decision = match ticket.decision.as_str() {
        "GO" => Decision::Go,
        "GO-WITHOUT" => Decision::GoWithout { exclude },
        _ => Decision::Hold,
    };
    Ok(Verdict {
        what: format!("the ticket {}", path.display()),
        decision,
        measured: ticket.measured,
        nodes: ticket.nodes,
        run_hash: ticket.run_hash,
        software: ticket.software,
        image: ticket.image,
        why: String::new(),
    })
}

fn refusals(verdict: &Verdict, args: &cli::Gate, given: Option<&PlanHash>, nodes: &[String]) -> Vec<String> {
    let claim = Claim { measured: verdict.measured, nodes: &verdict.nodes, run_hash: &verdict.run_hash };
    let mut out: Vec<String> =
        gate::admit(&claim, Timestamp::now(), args.max_age.0, given, nodes).iter().map(ToString::to_string).collect();
    if let Some(claimed) = verdict.image.as_ref().filter(|i| Some(*i) != args.image.as_ref()) {
        let given = args.image.as_deref().unwrap_or("none given");
        out.push(format!(
            "it was made for the image {}, not for {}; give --image, or check again",
            crate::id::clean(claimed),
            crate::id::clean(given)
        ));
    }
    // A ticket is used on a node of the run: its software must be what was measured.
    if let (Some(claimed), true) = (&verdict.software, args.require_ticket.is_some()) {
        let here = gate::software_digest(&discover(&SysRoot::live()));
        if here != *claimed {
            out.push(
                "kernel, distribution, container or modules of this node changed since it was measured; check again"
                    .to_owned(),
            );
        }
    }
    out
}

fn write_ticket(path: &Path, key: &Path, args: &cli::Gate, verdict: &Verdict) -> Result<(), Failure> {
    let key = gate::read_secret(key).map_err(Failure::usage)?;
    let valid =
        SignedDuration::try_from(args.valid_for.0.min(Duration::from_secs(366 * 86_400))).map_err(Failure::usage)?;
    let ticket = Ticket {
        format: gate::TICKET_FORMAT,
        decision: verdict.decision.name().to_owned(),
        nodes: verdict.nodes.clone(),
        exclude: verdict.decision.exclude().iter().map(|n| n.0.clone()).collect(),
        run_hash: verdict.run_hash.clone(),
        image: args.image.clone(),
        software: verdict.software.clone(),
        measured: verdict.measured,
        expires: verdict.measured.checked_add(valid).map_err(Failure::usage)?,
    };
    let text = ticket.sign(&key).map_err(Failure::internal)?;
    std::fs::write(path, text)
        .with_context(|| format!("cannot write the ticket {}", path.display()))
        .map_err(Failure::internal)
}
