//! `gonogo gate`: a command starts only behind a verdict that may be used here and now, and only on the nodes that it is for.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use jiff::{SignedDuration, Timestamp};

use crate::cli;
use crate::cluster::Job;
use crate::cmd::judge::Case;
use crate::cmd::{Failure, shell, watch};
use crate::exit::Exit;
use crate::files::{self, Readers};
use crate::gate::{self, Allocation, Ask, Launch, Placeholder, Refusal, Ticket, Verdict};
use crate::hostlist;
use crate::id::clean;
use crate::judge::{self, Decision};
use crate::plan::{self, RunPlan, Tier};
use crate::record;
use crate::report;
use crate::schedule::SIMULATION;
use crate::topology::{SysRoot, discover};

/// A verdict, and where it comes from.
struct Source {
    what: String,
    verdict: Verdict,
    /// The image that a ticket was written for.
    image: Option<String>,
    /// Why, when the decision is against a launch.
    why: String,
    /// Where a file for the command may be put.
    dir: PathBuf,
}

pub(super) fn run(args: cli::Gate) -> Result<Exit, Failure> {
    if let Some(path) = &args.new_key {
        let public = gate::new_key(path).map_err(Failure::usage)?;
        shell::print(&format!("secret key {}\npublic key {}\n", path.display(), public.display()))
            .map_err(Failure::internal)?;
        return Ok(Exit::Go);
    }
    let given = args.plan.as_ref().map(|path| plan::read(path)).transpose().map_err(Failure::usage)?;
    let nodes = nodes(&args)?;
    let source = match (&args.require_ticket, &args.trust, &args.record) {
        (Some(ticket), Some(trust), _) => by_ticket(ticket, trust)?,
        (_, trust, Some(path)) => by_record(path, given.as_ref(), trust.as_deref())?,
        _ => return Err(Failure::usage(anyhow!("give a RECORD, or --require-ticket FILE with --trust FILE.pub"))),
    };
    let decision = &source.verdict.verdict;
    if !matches!(decision, Decision::Go | Decision::GoWithout { .. }) {
        eprint!("{}", source.why);
        eprintln!("the gate stays closed: {decision} by {}", source.what);
        return Ok(decision.exit());
    }
    let allocation = match admit(&source, &args, given.as_ref(), &nodes) {
        Ok(allocation) => allocation,
        Err(refusals) => {
            eprintln!("HOLD  {} is not used:", source.what);
            for r in &refusals {
                eprintln!("  {r}");
            }
            return Ok(Exit::Hold);
        }
    };
    if let (Some(path), Some(key)) = (&args.ticket, &args.key) {
        write_ticket(path, key, &args, source.verdict.clone())?;
    }
    let decision = &source.verdict.verdict;
    if args.command.is_empty() {
        let on = clean(&hostlist::compress(&allocation.nodes)).into_owned();
        shell::print(&format!("{decision}  on {on}, by {}\n", source.what)).map_err(Failure::internal)?;
        return Ok(Exit::Go);
    }
    let launch = prepare(decision, &allocation, &source, &args.command)?;
    if args.watch {
        let run = given.as_ref().unwrap_or(&source.verdict.plan);
        return watch::beside(&launch, run, &source.dir, args.record.as_deref());
    }
    eprintln!("{decision}  by {}; starting {}", source.what, clean(&launch.command[0]));
    Err(watch::not_started(&launch, launch.exec()))
}

fn prepare(
    decision: &Decision,
    allocation: &Allocation,
    source: &Source,
    command: &[String],
) -> Result<Launch, Failure> {
    let hostfile = if Placeholder::Hostfile.is_in(command) {
        let written = gate::write_hostfile(&source.dir, &allocation.nodes);
        Some(
            written
                .with_context(|| format!("cannot write a hostfile in {}", source.dir.display()))
                .map_err(Failure::internal)?,
        )
    } else {
        None
    };
    Ok(Launch::new(decision.name(), allocation, hostfile.as_deref(), command))
}

/// The nodes that the launcher has.
fn nodes(args: &cli::Gate) -> Result<Vec<String>, Failure> {
    let slurm = || std::env::var("SLURM_JOB_NODELIST").ok().filter(|l| !l.is_empty());
    let nodes = match args.nodes.clone().or_else(slurm) {
        Some(list) => hostlist::expand(&list).map_err(Failure::usage)?,
        None => vec![rustix::system::uname().nodename().to_string_lossy().into_owned()],
    };
    match nodes.iter().find(|n| !hostlist::is_host(n)) {
        Some(bad) => Err(Failure::usage(anyhow!("`{}` is no host name", clean(bad)))),
        None => Ok(nodes),
    }
}

fn held(error: anyhow::Error) -> Failure {
    Failure { exit: Exit::Hold, error }
}

fn by_record(path: &Path, given: Option<&RunPlan>, trust: Option<&Path>) -> Result<Source, Failure> {
    let file = record::file_of(path);
    let trusted = trust.map(gate::read_trusted).transpose().map_err(Failure::usage)?;
    let (record, digest) = record::read_digested(path).map_err(Failure::usage)?;
    if let Some(trusted) = trusted {
        gate::check_record(&file, &digest, &trusted)
            .map_err(|e| held(anyhow!(e).context("--trust takes signed records only: check with --sign KEY")))?;
    }
    if record.header.launcher.as_deref() == Some(SIMULATION) {
        return Err(held(anyhow!("the record {} is simulated, and says nothing about a machine", path.display())));
    }
    if judge::watched(&record).is_some() || judge::remains(&record).is_some() {
        return Err(held(anyhow!(
            "the record {} is of a run (watch, autopsy) and not of a check; run `gonogo check` on the nodes",
            path.display()
        )));
    }
    if record.header.plan.tier == Tier::Node {
        return Err(held(anyhow!(
            "the record {} is of one node by itself (--tier node) and says nothing about what nodes do together; run `gonogo check` on all",
            path.display()
        )));
    }
    if record.header.plan.tier == Tier::Image {
        return Err(held(anyhow!(
            "the record {} is of an image and says nothing about a machine; run `gonogo check` on the nodes",
            path.display()
        )));
    }
    // What a record says is waived is no more than what somebody wrote into it.
    let in_record = record.header.plan.run.waive.len();
    let waive = given.map_or_else(Vec::new, |plan| plan.waive.clone());
    let run = RunPlan { waive, ..record.header.plan.run.clone() };
    let dropped = if given.is_none() { in_record } else { 0 };
    let case = Case::of(record, run.clone());
    let (record, judgement) = (&case.record, case.judge());
    let shown = path.to_string_lossy();
    let mut view = report::view(&judgement, &shown);
    // The gate tells the verdict and its reasons; the tables are in the report.
    view.tables.clear();
    let mut why = report::terminal(&view, shell::style());
    if dropped > 0 {
        let s = if dropped == 1 { " in the record counts" } else { "s in the record count" };
        why += &format!("{dropped} waiver{s} for nothing without the plan that has them: give --plan RUN.TOML\n");
    }
    let machine = record.machines().next().map(|(_, m)| gate::software_digest(m));
    let header = &record.header;
    let verdict = Verdict {
        verdict: judgement.decision.clone(),
        placement: judgement.placement.clone(),
        nodes: header.nodes.clone(),
        kernel_names: header.kernel_names.clone(),
        job: header.job.clone(),
        plan: run,
        record: digest,
        software: machine,
        measured: header.started,
    };
    if let Some(name) = verdict.no_host() {
        return Err(Failure::usage(anyhow!(
            "{}:1: `{}` is no host name, and is handed to no command; check the nodes again",
            file.display(),
            clean(name)
        )));
    }
    let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    Ok(Source { what: format!("the record {}", clean(&shown)), verdict, image: None, why, dir })
}

fn by_ticket(path: &Path, trust: &Path) -> Result<Source, Failure> {
    let trusted = gate::read_trusted(trust).map_err(Failure::usage)?;
    // A ticket that is forged or expired proves nothing: hold, as for any verdict that may not be used.
    let ticket = Ticket::open(path, &trusted, Timestamp::now()).map_err(|e| held(anyhow!(e)))?;
    if let Some(name) = ticket.verdict.no_host() {
        return Err(Failure::usage(anyhow!(
            "{}: `{}` is no host name, and is handed to no command",
            path.display(),
            clean(name)
        )));
    }
    Ok(Source {
        what: format!("the ticket {}", path.display()),
        verdict: ticket.verdict,
        image: ticket.image,
        why: String::new(),
        dir: std::env::temp_dir(),
    })
}

/// Every reason not to start, in words; else where to.
fn admit(
    source: &Source,
    args: &cli::Gate,
    given: Option<&RunPlan>,
    nodes: &[String],
) -> Result<Allocation, Vec<String>> {
    let job = Job::read(&|name| std::env::var(name).ok()).filter(|_| !args.any_job);
    let ask = Ask { now: Timestamp::now(), max_age: args.max_age.0, plan: given, nodes, job, command: &args.command };
    let (allocation, refusals) = match gate::admit(&source.verdict, &ask) {
        Ok(allocation) => (allocation, Vec::new()),
        Err(refusals) => (Allocation::default(), refusals),
    };
    let mut out: Vec<String> = refusals.iter().map(|r| explain(r, args)).collect();
    out.extend(image(source, args));
    // A ticket is used on a node of the run: its software must be what was measured.
    if let (Some(claimed), true) = (&source.verdict.software, args.require_ticket.is_some())
        && gate::software_digest(&discover(&SysRoot::live())) != *claimed
    {
        out.push(
            "kernel, distribution, container or modules of this node changed since it was measured; check again"
                .to_owned(),
        );
    }
    if out.is_empty() { Ok(allocation) } else { Err(out) }
}

/// A refusal, and the line to type where there is one.
fn explain(refusal: &Refusal, args: &cli::Gate) -> String {
    if !matches!(refusal, Refusal::Excluded(_)) {
        return refusal.to_string();
    }
    let record = args.record.as_ref().map_or_else(|| "...".to_owned(), |p| p.display().to_string());
    let command = gate::told_where(&args.command).join(" ");
    format!("{refusal}; type: gonogo gate {} -- {}", clean(&record), clean(&command))
}

fn image(source: &Source, args: &cli::Gate) -> Option<String> {
    let given = args.image.as_deref();
    match (source.image.as_deref(), given) {
        (Some(claimed), given) if given != Some(claimed) => Some(format!(
            "it was made for the image {}, not for {}; give --image, or check again",
            clean(claimed),
            clean(given.unwrap_or("none given"))
        )),
        (None, Some(given)) if args.require_ticket.is_some() => {
            Some(format!("it was made for no image, and {} would run; write the ticket with --image", clean(given)))
        }
        (None, None) if args.require_image => {
            Some("it was made for no image; write the ticket with --image".to_owned())
        }
        _ => None,
    }
}

fn write_ticket(path: &Path, key: &Path, args: &cli::Gate, verdict: Verdict) -> Result<(), Failure> {
    let key = gate::read_secret(key).map_err(Failure::usage)?;
    let valid =
        SignedDuration::try_from(args.valid_for.0.min(Duration::from_secs(366 * 86_400))).map_err(Failure::usage)?;
    let ticket = Ticket {
        format: gate::TICKET_FORMAT,
        image: args.image.clone(),
        expires: verdict.measured.checked_add(valid).map_err(Failure::usage)?,
        verdict,
    };
    let text = ticket.sign(&key).map_err(Failure::internal)?;
    files::replace(path, Readers::Owner, |file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write the ticket {}", path.display()))
        .map_err(Failure::internal)
}
