//! What every way of checking does: the header, the schedule, the record, the report, and a bar meanwhile.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use ed25519_dalek::SigningKey;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;

use crate::cli;
use crate::cluster::{Interrupt, Job, node_name};
use crate::cmd::{Failure, baseline, judge as judging};
use crate::exit::Exit;
use crate::files;
use crate::gate;
use crate::hostlist;
use crate::id::NodeName;
use crate::judge;
use crate::measure::resolution;
use crate::plan::CheckPlan;
use crate::record::{self, Header, Writer};
use crate::schedule::{Fleet, Schedule, Watch};
use crate::topology::{Leaf, SysRoot, discover};

/// Runs the schedule, judges, reports. The record is written as it comes.
pub(super) fn measure<F: Fleet>(
    args: &cli::Check,
    header: Header,
    fleet: &mut F,
    started: Instant,
    progress: Progress,
    key: Option<&SigningKey>,
) -> Result<Exit, Failure> {
    let files = judging::files(&args.reports)?;
    let (learned, offenders) = match (baseline::read(args.baseline.as_ref())?, &args.baseline) {
        (Some(b), Some(path)) => {
            // Before anything is measured: a baseline of other hardware would judge all of it wrongly.
            b.fits(&discover(&SysRoot::live())).map_err(|e| baseline::refused(path, e))?;
            (b.limits(), b.offender)
        }
        _ => Default::default(),
    };
    let path = record_path(args.out.as_deref(), args.compress, &header);
    let mut writer = Writer::create(&path)
        .with_context(|| format!("cannot create the record {}; give another --out", path.display()))
        .map_err(Failure::usage)?;
    let mut limits = judging::limits(&header.plan.run);
    limits.extend(learned);
    let mut schedule = Schedule::new(header, fleet, Some(&mut writer), &progress, started);
    schedule.go(&limits);
    let (record, lost) = schedule.end();
    progress.0.finish_and_clear();
    if args.out.is_none() {
        point_latest(&path);
    }
    let judgement = judge::judge_knowing(&record, &record.header.plan.run, &limits, &offenders);
    if record.header.launcher.is_some() {
        hostfile(&path, &judgement.placement.run_on);
    }
    if let (Some(key), None) = (key, &lost) {
        let digest = record::digest(&path).map_err(Failure::internal)?;
        gate::sign_record(&path, digest, key).context("cannot sign the record").map_err(Failure::internal)?;
    }
    judging::show(&judgement, &path, args.format, &files)?;
    match lost {
        Some(error) => Err(Failure::internal(anyhow!(error).context(format!(
            "the record {} is not complete: the report above is, the file is not; make room and check again",
            path.display()
        )))),
        None => Ok(judgement.decision.exit()),
    }
}

/// This node's name: the scheduler's where it has one of its own.
pub(super) fn own_name() -> NodeName {
    NodeName(node_name(&|name| std::env::var(name).ok()).unwrap_or_else(hostname))
}

pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// `nodes` by their names here and what their kernels call them.
pub(super) fn header(
    plan: CheckPlan,
    nodes: &[(NodeName, String)],
    launcher: Option<String>,
    leaves: Vec<Leaf>,
) -> Header {
    let other = |(node, host): &&(NodeName, String)| !host.is_empty() && node.0 != *host;
    Header {
        kernel_names: nodes.iter().filter(other).cloned().collect(),
        job: Job::read(&|name| std::env::var(name).ok()),
        nodes: nodes.iter().map(|(node, _)| node.clone()).collect(),
        schema: crate::record::SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("GONOGO_GIT").to_owned(),
        started: Timestamp::now(),
        joining_ms: None,
        launcher,
        leaves,
        plan,
        clock_resolution_ns: resolution() * 1e9,
    }
}

fn record_path(out: Option<&Path>, compress: bool, header: &Header) -> PathBuf {
    let dir = out.map_or_else(
        || {
            let host: String = header.nodes[0]
                .0
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
                .collect();
            let who = if header.nodes.len() > 1 { format!("{}-nodes", header.nodes.len()) } else { host };
            let dir = PathBuf::from("gonogo-out").join(format!("{}-{who}", header.started.strftime("%Y%m%d-%H%M%S")));
            // Two checks begun in one second are two records.
            if dir.exists() { PathBuf::from(format!("{}-{}", dir.display(), std::process::id())) } else { dir }
        },
        Path::to_owned,
    );
    dir.join(if compress { record::NAME_PACKED } else { record::NAME })
}

/// `gonogo-out/latest` names the newest record; that it cannot be made costs nobody a verdict.
fn point_latest(record: &Path) {
    if let Some(dir) = record.parent().and_then(Path::file_name) {
        let link = Path::new("gonogo-out/latest");
        let _ = std::fs::remove_file(link);
        let _ = std::os::unix::fs::symlink(dir, link);
    }
}

/// The nodes to run on, one a line, beside the record. That it cannot be written costs nobody a verdict.
fn hostfile(record: &Path, nodes: &[NodeName]) {
    let lines: String = nodes.iter().filter(|n| hostlist::is_host(&n.0)).map(|n| format!("{}\n", n.0)).collect();
    let _ = files::create(&record.with_file_name("hostfile")).and_then(|mut f| f.write_all(lines.as_bytes()));
}

/// A bar on a terminal, nothing elsewhere.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn hidden() -> Self {
        Progress(ProgressBar::hidden())
    }

    pub(super) fn new(args: &cli::Check) -> Self {
        if args.quiet || !std::io::stderr().is_terminal() {
            return Progress::hidden();
        }
        let bar = ProgressBar::new(1);
        let style = ProgressStyle::with_template("{spinner} [{elapsed}] {bar:24} {pos}/{len}  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress(bar)
    }
}

impl Watch for Progress {
    fn steps(&self, total: u64) {
        self.0.set_length(total);
    }

    fn step(&self, text: &str) {
        self.0.set_message(text.to_owned());
    }

    fn done(&self) {
        // Pair rounds are not known beforehand: the bar grows with them.
        if self.0.position() + 1 > self.0.length().unwrap_or(0) {
            self.0.inc_length(1);
        }
        self.0.inc(1);
    }
}

/// Whether a signal asked the run to end.
pub(super) fn is_interrupted(interrupt: &Interrupt) -> bool {
    interrupt.load(Ordering::Relaxed)
}
