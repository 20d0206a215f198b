//! `gonogo check`: discover, measure, judge, report, decide.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli;
use crate::cluster::{Interrupt, Step, Supervisor};
use crate::cmd::{Failure, judge as judging, schedule, shell};
use crate::exit::Exit;
use crate::id::NodeName;
use crate::judge;
use crate::measure::{Facts, Load, Outcome, WaiveKind, resolution};
use crate::plan::{self, CheckPlan, RunPlan, Selection, Time};
use crate::probe;
use crate::record::{End, Header, OutcomeLine, Record, Writer};
use crate::topology::Machine;

/// Kept of the budget for judging and printing.
const RESERVE: Duration = Duration::from_millis(400);
/// Rounds of measuring open cases again.
const ROUNDS: u32 = 3;

pub(super) fn run(args: cli::Check) -> Result<Exit, Failure> {
    let started = Instant::now();
    let interrupt = listen().map_err(Failure::internal)?;
    let plan = resolve(&args)?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let header = Header {
        schema: crate::record::SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("GONOGO_GIT").to_owned(),
        started: Timestamp::now(),
        nodes: vec![NodeName(host)],
        plan,
        clock_resolution_ns: resolution() * 1e9,
    };
    let supervisor = supervisor(interrupt.clone()).map_err(Failure::internal)?;
    if args.dry_run {
        return dry_run(header, &supervisor);
    }
    let path = record_path(args.out.as_deref(), &header);
    let writer = Writer::create(&path)
        .with_context(|| format!("cannot create the record {}; give another --out", path.display()))
        .map_err(Failure::usage)?;
    let progress = progress(!args.quiet && std::io::stderr().is_terminal());
    let mut run = Run { record: Record::new(header), writer, lost: None, progress, supervisor, started };
    run.measure();
    let limits = judging::limits(&run.record.header.plan.run);
    run.measure_again(&limits);
    run.end(interrupt.load(Ordering::Relaxed));
    if args.out.is_none() {
        point_latest(&path);
    }
    let judgement = judge::judge(&run.record, &run.record.header.plan.run, &limits);
    judging::show(&judgement, run.writer.path(), args.format)?;
    match run.lost.take() {
        Some(error) => Err(Failure::internal(anyhow!(error).context(format!(
            "the record {} is not complete: the report above is, the file is not; make room and check again",
            path.display()
        )))),
        None => Ok(judgement.decision.exit()),
    }
}

/// The first signal ends the run in good order, with a report; the second at once.
fn listen() -> anyhow::Result<Interrupt> {
    let interrupt: Interrupt = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let code = i32::from(Exit::Hold.code());
        signal_hook::flag::register_conditional_shutdown(signal, code, interrupt.clone())
            .context("cannot listen for signals")?;
        signal_hook::flag::register(signal, interrupt.clone()).context("cannot listen for signals")?;
    }
    Ok(interrupt)
}

fn resolve(args: &cli::Check) -> Result<CheckPlan, Failure> {
    let run = match &args.plan {
        Some(path) => plan::read(path).map_err(Failure::usage)?,
        None => RunPlan::default(),
    };
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
    };
    let fresh = Timestamp::now().as_nanosecond() as u64 ^ u64::from(std::process::id());
    plan::resolve(asked, run, &probe::names(), fresh).map_err(Failure::usage)
}

fn supervisor(interrupt: Interrupt) -> anyhow::Result<Supervisor> {
    let program = std::env::current_exe().context("cannot find gonogo's own binary")?;
    Ok(Supervisor { program, arguments: vec!["worker".to_owned()], interrupt })
}

fn record_path(out: Option<&Path>, header: &Header) -> PathBuf {
    let dir = out.map_or_else(
        || {
            let host: String = header.nodes[0]
                .0
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
                .collect();
            let dir = PathBuf::from("gonogo-out").join(format!("{}-{host}", header.started.strftime("%Y%m%d-%H%M%S")));
            // Two checks begun in one second are two records.
            if dir.exists() { PathBuf::from(format!("{}-{}", dir.display(), std::process::id())) } else { dir }
        },
        Path::to_owned,
    );
    dir.join("record.jsonl")
}

/// `gonogo-out/latest` names the newest record; that it cannot be made costs nobody a verdict.
fn point_latest(record: &Path) {
    if let Some(dir) = record.parent().and_then(Path::file_name) {
        let link = Path::new("gonogo-out/latest");
        let _ = std::fs::remove_file(link);
        let _ = std::os::unix::fs::symlink(dir, link);
    }
}

fn progress(visible: bool) -> ProgressBar {
    if !visible {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(1);
    let style = ProgressStyle::with_template("{spinner} [{elapsed}] {bar:24} {pos}/{len}  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn dry_run(header: Header, supervisor: &Supervisor) -> Result<Exit, Failure> {
    let plan = &header.plan;
    let mut machine = Machine::default();
    for step in probe::find("environment").map(|p| p.steps(plan, &machine)).unwrap_or_default() {
        supervisor
            .run(&step, Duration::from_secs(10), |_, outcome, _| machine = machine_of(&outcome).unwrap_or_default());
    }
    let (kept, cut) = schedule::fit(probe::steps(plan, &machine), plan.budget.0.saturating_sub(RESERVE));
    let named = |t: &Option<PathBuf>| t.as_ref().map_or("none".to_owned(), |p| p.display().to_string());
    let mut out = format!(
        "plan     {} tier, budget {}, seed {}, run {} ({})\nstorage  {}\n\n{:<20} {:>5} {:>6} {:>9} {:>9}\n",
        plan.tier.name(),
        plan.budget,
        plan.seed,
        crate::id::clean(plan.run.name.as_deref().unwrap_or("without a plan")),
        plan.run_hash.short(),
        crate::id::clean(&named(&plan.storage_path)),
        "step",
        "ranks",
        "cases",
        "estimate",
        "deadline"
    );
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

fn machine_of(outcome: &Outcome) -> Option<Machine> {
    match outcome.measured()?.facts.as_ref()? {
        Facts::Machine(m) => Some((**m).clone()),
        Facts::Filesystem(_) => None,
    }
}

/// A check under way. Every outcome goes to the record on disk first and to the one in memory next.
struct Run {
    record: Record,
    writer: Writer,
    /// The first write to the record that failed; measuring goes on.
    lost: Option<std::io::Error>,
    progress: ProgressBar,
    supervisor: Supervisor,
    started: Instant,
}

impl Run {
    fn left(&self) -> Duration {
        self.record.header.plan.budget.0.saturating_sub(RESERVE).saturating_sub(self.started.elapsed())
    }

    fn interrupted(&self) -> bool {
        self.supervisor.interrupt.load(Ordering::Relaxed)
    }

    /// Discovery first: the other steps are planned on the machine that it finds.
    fn measure(&mut self) {
        let header = self.record.header.clone();
        self.keep(|w| w.header(&header));
        let plan = &header.plan;
        let look = probe::find("environment").map(|p| p.steps(plan, &Machine::default())).unwrap_or_default();
        let wanted = plan.probes.iter().any(|p| p.as_str() == "environment");
        let mut machine = Machine::default();
        if wanted {
            self.plan_steps(look.clone());
        }
        for step in &look {
            let from = self.record.outcomes.len();
            self.step(step);
            machine = self.record.outcomes[from..].iter().find_map(|l| machine_of(&l.outcome)).unwrap_or_default();
        }
        let others = probe::steps(plan, &machine).into_iter().filter(|s| s.probe.as_str() != "environment").collect();
        let (kept, cut) = schedule::fit(others, self.left());
        // What was cut is tried last, worthiest first: steps that end early leave their time to it.
        let steps: Vec<Step> = kept.into_iter().chain(cut.into_iter().rev()).collect();
        self.plan_steps(steps.clone());
        self.progress.set_length(steps.len() as u64);
        for mut step in steps {
            if self.interrupted() {
                self.waive(&step, WaiveKind::Interrupted, "interrupted");
            } else if schedule::shorten(&mut step, self.left()) {
                self.step(&step);
            } else {
                self.waive(&step, WaiveKind::NoTime, &format!("cut to fit the budget of {}", plan.budget));
            }
            self.progress.inc(1);
        }
    }

    fn plan_steps(&mut self, steps: Vec<Step>) {
        self.keep(|w| w.steps(&steps));
        self.record.steps.extend(steps);
    }

    /// Open cases again, with more time each, while the budget lasts.
    fn measure_again(&mut self, limits: &[crate::baseline::Expectation]) {
        for round in 1..=ROUNDS {
            if self.interrupted() {
                return;
            }
            let open = judge::judge(&self.record, &self.record.header.plan.run, limits).open_cases();
            let again: Vec<Step> = self
                .record
                .steps
                .iter()
                .filter_map(|s| {
                    let cases: Vec<String> =
                        open.iter().filter(|(step, _)| *step == s.name).map(|(_, case)| case.clone()).collect();
                    (!cases.is_empty()).then(|| Step { attempt: round + 1, ..schedule::again(s, cases, 2) })
                })
                .collect();
            if again.is_empty() {
                return;
            }
            for step in again {
                if Duration::from_millis(step.estimate_ms) < self.left() && !self.interrupted() {
                    self.progress.set_message(format!("{} again: {} open", step.name, step.cases.len()));
                    self.step(&step);
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        self.progress.set_message(format!("{} ({})", step.name, Time(Duration::from_millis(step.estimate_ms))));
        // A budget is a promise; discovery alone may take what it needs, or nothing could be said at all.
        let at_most = if step.probe.as_str() == "environment" { step.deadline() } else { self.left() };
        let mut got = Vec::new();
        let node = self.record.header.nodes[0].clone();
        let (writer, lost, progress) = (&mut self.writer, &mut self.lost, &self.progress);
        self.supervisor.run(step, at_most, |case, outcome, load| {
            let line = line(&node, step, case, outcome, load);
            progress.set_message(format!("{}: {case}", step.name));
            if let Err(error) = writer.outcome(&line) {
                lost.get_or_insert(error);
            }
            got.push(line);
        });
        self.record.outcomes.extend(got);
    }

    fn waive(&mut self, step: &Step, kind: WaiveKind, why: &str) {
        let node = self.record.header.nodes[0].clone();
        for case in &step.cases {
            let line = line(&node, step, case, Outcome::waived(kind, why), None);
            self.keep(|w| w.outcome(&line));
            self.record.outcomes.push(line);
        }
    }

    fn end(&mut self, interrupted: bool) {
        self.progress.finish_and_clear();
        let end = End { ended: Timestamp::now(), interrupted };
        self.keep(|w| w.end(&end));
        self.record.end = Some(end);
    }

    fn keep(&mut self, write: impl FnOnce(&mut Writer) -> std::io::Result<()>) {
        if let Err(error) = write(&mut self.writer) {
            self.lost.get_or_insert(error);
        }
    }
}

fn line(node: &NodeName, step: &Step, case: &str, outcome: Outcome, load: Option<Load>) -> OutcomeLine {
    OutcomeLine {
        node: node.clone(),
        step: step.name.clone(),
        probe: step.probe.clone(),
        case: case.to_owned(),
        attempt: step.attempt,
        load,
        outcome,
    }
}
