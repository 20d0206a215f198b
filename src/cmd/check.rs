//! `gonogo check`: this machine, or the cluster that a launcher placed it in.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use jiff::Timestamp;

use crate::cli;
use crate::cluster::{Interrupt, Supervisor, World};
use crate::cmd::measure::{Progress, header, hostname, measure, own_name};
use crate::cmd::{Failure, cluster, judge as judging, shell};
use crate::exit::Exit;
use crate::gate;
use crate::id::{clean, nearest};
use crate::judge;
use crate::plan::{self, CheckPlan, ImagePlan, RunPlan, Selection, Tier};
use crate::probe;
use crate::record::Header;
use crate::schedule::{self, Schedule, Solo, machine_of, unmet};
use crate::topology::{Machine, SysRoot, Version, architecture, gpu_specs, gpus_on_bus};

pub(super) fn run(args: cli::Check) -> Result<Exit, Failure> {
    let started = Instant::now();
    let interrupt = shell::listen().map_err(Failure::internal)?;
    let world = cluster::world(&args).map_err(Failure::usage)?;
    let plan = resolve(&args, world.as_ref())?;
    // Before anything is measured, too: a demand that cannot be met would hold the gate however good the machines are.
    let together = world.as_ref().filter(|_| plan.tier != Tier::Node);
    if let Some(why) = unmet(&plan, together.map_or(1, World::nodes)) {
        return Err(Failure::usage(anyhow!(why)));
    }
    // Before anything is measured: a record that cannot be signed is of no use to who asks for it.
    let key = args.sign.as_deref().map(gate::read_secret).transpose().map_err(Failure::usage)?;
    // An image is the same everywhere, and is looked at by every task for itself: each ends with its own verdict, the first tells it.
    let of_image = plan.tier == Tier::Image;
    let second = of_image && world.as_ref().is_some_and(|w| w.rank != 0);
    if plan.tier == Tier::Node && world.as_ref().is_some_and(|w| !w.is_agent()) {
        // One look at a node is enough, and several would disturb each other.
        println!("the first task of this node looks at it");
        return Ok(Exit::Go);
    }
    let by_itself = of_image || plan.tier == Tier::Node;
    let world = world.filter(|_| !by_itself);
    if let Some(world) = world.as_ref().filter(|w| !w.is_agent() && !args.dry_run) {
        // One agent a node is enough: the other tasks of the launcher end as the run does.
        return cluster::wait(&args, world, &interrupt);
    }
    let supervisor = supervisor(interrupt.clone()).map_err(Failure::internal)?;
    match world {
        Some(world) if !args.dry_run => cluster::run(&args, world, plan, supervisor, interrupt, key.as_ref()),
        world => {
            let header = header(plan, &[(own_name(), hostname())], None, Vec::new());
            if args.dry_run {
                return dry_run(header, &supervisor, world.as_ref());
            }
            let mut fleet = Solo { node: header.nodes[0].clone(), supervisor };
            if second {
                return verdict_alone(header, &mut fleet, started);
            }
            measure(&args, header, &mut fleet, started, Progress::new(&args), key.as_ref())
        }
    }
}

/// The verdict of a task that keeps no record and tells nobody.
fn verdict_alone(header: Header, fleet: &mut Solo, started: Instant) -> Result<Exit, Failure> {
    let limits = judging::limits(&header.plan.run);
    let silent = Progress::hidden();
    let mut schedule = Schedule::new(header, fleet, None, &silent, started);
    schedule.go(&limits);
    let (record, _) = schedule.end();
    Ok(judge::judge_knowing(&record, &record.header.plan.run, &limits, &[]).decision.exit())
}

fn resolve(args: &cli::Check, world: Option<&World>) -> Result<CheckPlan, Failure> {
    let mut run = match &args.plan {
        Some(path) => plan::read(path).map_err(Failure::usage)?,
        None => RunPlan::default(),
    };
    image(args, &mut run)?;
    // A relative --path would mean another place to whoever reads the record.
    let path = args.path.as_ref().map(std::path::absolute).transpose().context("--path").map_err(Failure::usage)?;
    // A record is JSON: a path that is no text could not be told in it.
    if path.as_ref().is_some_and(|p| p.to_str().is_none()) {
        return Err(Failure::usage(anyhow!("--path is not UTF-8; rename the directory or reach it by a link")));
    }
    let asked = Selection {
        tier: args.tier,
        budget: args.budget,
        only: args.only.clone(),
        skip: args.skip.clone(),
        path,
        seed: args.seed,
        cluster: world.is_some(),
        gpus: gpus_on_bus(&SysRoot::live()),
    };
    let fresh = Timestamp::now().as_nanosecond() as u64 ^ u64::from(std::process::id());
    plan::resolve(asked, run, &probe::names(), fresh).map_err(Failure::usage)
}

/// What was said of the image's machines goes into the plan, by which the record is judged.
fn image(args: &cli::Check, run: &mut RunPlan) -> Result<(), Failure> {
    let stated =
        args.for_driver.is_some() || args.for_gpu.is_some() || args.for_kernel.is_some() || !args.needs.is_empty();
    if stated && args.tier.or(run.tier) != Some(Tier::Image) {
        return Err(Failure::usage(anyhow!("--for-driver, --for-gpu, --for-kernel and --needs are for --tier image")));
    }
    if stated {
        let image = run.image.get_or_insert_with(ImagePlan::default);
        for (from, to) in [
            (&args.for_driver, &mut image.driver),
            (&args.for_gpu, &mut image.gpu),
            (&args.for_kernel, &mut image.kernel),
        ] {
            *to = from.clone().or(to.take());
        }
        if !args.needs.is_empty() {
            image.needs = args.needs.clone();
        }
    }
    let Some(image) = &run.image else { return Ok(()) };
    let wrong = |what: String| Err(Failure::usage(anyhow!(what)));
    for (name, version) in [("driver", &image.driver), ("kernel", &image.kernel)] {
        if let Some(v) = version.as_ref().filter(|v| Version::parse(v).is_none()) {
            return wrong(format!("`{}` is no version of a {name}; write it like 550.54.14", clean(v)));
        }
    }
    if let Some(gpu) = image.gpu.as_ref().filter(|g| architecture(g).is_none()) {
        let names: Vec<String> = gpu_specs().into_iter().filter(|g| g.capability.is_some()).map(|g| g.name).collect();
        return wrong(format!(
            "`{}` is no GPU that is known here: {}, or its compute capability as sm_90",
            clean(gpu),
            names.join(", ")
        ));
    }
    let known: Vec<&str> = probe::image_parts().chain(PROVIDERS.iter().copied()).collect();
    for need in &image.needs {
        if !known.contains(&need.as_str()) {
            let hint = nearest(need, known.iter().copied())
                .map_or_else(|| format!("there are {}", known.join(", ")), |n| format!("did you mean `{n}`?"));
            return wrong(format!("no part of an image is called `{}`; {hint}", clean(need)));
        }
    }
    Ok(())
}

/// rdma-core's providers that drive adapters of training clusters.
const PROVIDERS: &[&str] =
    &["mlx5", "mlx4", "efa", "irdma", "bnxt_re", "hns", "mana", "rxe", "siw", "erdma", "qedr", "cxgb4"];

fn supervisor(interrupt: Interrupt) -> anyhow::Result<Supervisor> {
    let program = std::env::current_exe().context("cannot find gonogo's own binary")?;
    Ok(Supervisor::new(program, vec!["worker".to_owned()], interrupt))
}

fn dry_run(header: Header, supervisor: &Supervisor, world: Option<&World>) -> Result<Exit, Failure> {
    let plan = &header.plan;
    let mut machine = Machine::default();
    for step in probe::find("environment").map(|p| p.steps(plan, &machine)).unwrap_or_default() {
        supervisor
            .run(&step, Duration::from_secs(10), |_, outcome, _| machine = machine_of(&outcome).unwrap_or_default());
    }
    if world.is_some_and(|w| w.rank != 0) {
        return Ok(Exit::Go);
    }
    let (kept, cut) = schedule::preview(plan, &machine);
    let named = |t: &Option<PathBuf>| t.as_ref().map_or("none".to_owned(), |p| p.display().to_string());
    let mut out = format!(
        "plan     {} tier, budget {}, seed {}, run {} ({})\nstorage  {}\n",
        plan.tier.name(),
        plan.budget,
        plan.seed,
        crate::id::clean(plan.run.name.as_deref().unwrap_or("without a plan")),
        plan.run_hash.short(),
        crate::id::clean(&named(&plan.storage_path)),
    );
    if let Some(w) = world {
        out.push_str(&format!(
            "cluster  {} tasks by {}, rank 0 at {}\n         after these: clocks, shared storage, up to 8 rounds of pairs, the ladder of collectives\n",
            w.size,
            w.launcher.name(),
            w.meeting
        ));
    }
    out.push_str(&format!("\n{:<20} {:>5} {:>6} {:>9} {:>9}\n", "step", "ranks", "cases", "estimate", "deadline"));
    let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1000.0);
    for s in &kept {
        let deadline = format!("{:.1} s", s.deadline().as_secs_f64());
        out.push_str(&format!(
            "{:<20} {:>5} {:>6} {:>9} {:>9}\n",
            s.name,
            s.ranks,
            s.cases.len(),
            seconds(s.estimate_ms),
            deadline
        ));
    }
    out.push_str(&format!(
        "{:<20} {:>5} {:>6} {:>9}\n",
        "together",
        "",
        kept.iter().map(|s| s.cases.len()).sum::<usize>(),
        seconds(kept.iter().map(|s| s.estimate_ms).sum())
    ));
    for s in &cut {
        out.push_str(&format!("{:<20} cut: the budget has no room for it\n", s.name));
    }
    for p in &plan.skipped {
        out.push_str(&format!("{:<20} left out on request\n", p.as_str()));
    }
    out.push_str("\nNothing was measured. Without --dry-run, the record goes to --out or gonogo-out/.\n");
    shell::print(&out).map_err(Failure::internal)?;
    Ok(Exit::Go)
}
