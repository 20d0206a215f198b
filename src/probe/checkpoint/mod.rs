//! `checkpoint`: the run's save, rehearsed. All nodes write what one save of the plan writes, in as many files, all at the same
//! time, until it is durable; then each reads back what another wrote, and compares every byte.
//!
//! What is too much for the time is written in part, which is said; file sizes stay those of the plan as long as they can. A sample is
//! one save: the bytes of all nodes over the time of the last. Every node decides by what all have told, so that all
//! decide alike and nobody waits for one who has stopped.

mod files;
mod restore;
mod save;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::scratch::{self, is_scratch};
use crate::cluster::{Child, Shape, Step};
use crate::id::{NodeName, ProbeName};
use crate::measure::{FailKind, Measured, Outcome, Series, WaiveKind};
use crate::plan::{CheckPlan, SaveMode};
use crate::probe::checkpoint::files::Part;
use crate::probe::storage::{filesystem, folder_at};
use crate::probe::{Priority, Probe, ProbeError, step};
use crate::topology::Machine;
use crate::unit::Bytes;
use crate::work::{Case, CheckpointOp, Declared, Metric};

pub struct Checkpoint;

/// Processes of a node that write at the same time, where the plan does not say how many GPUs a node has.
const WRITERS: u32 = 4;
const MAX_WRITERS: u32 = 16;
/// Never fill more than this share of what is free.
const SHARE_OF_FREE: u64 = 10;
/// Rounds that warm up, at most.
const GROWING: usize = 6;
/// Saves that are on the disk at the same time: the one that is written, and the one before it.
const KEPT: u64 = 2;
/// Saves, and reads of one, that an interval needs, and that are enough.
const ROUNDS: std::ops::RangeInclusive<usize> = 8..=24;

/// What one node does.
#[derive(Serialize, Deserialize)]
struct Args {
    /// Of the whole checkpoint; what each node writes in a save of the run; the largest part that is tried.
    whole: u64,
    share: u64,
    block: u64,
    writers: u32,
    /// Of one file, and of how many, where the plan tells; else each writer has one.
    file: Option<u64>,
    all_files: Option<u64>,
    mode: SaveMode,
    /// What a node copies of memory, at most.
    copy_ceiling: f64,
}

impl Probe for Checkpoint {
    fn name(&self) -> ProbeName {
        ProbeName::new("checkpoint")
    }

    fn about(&self) -> &'static str {
        "the run's save, rehearsed by all nodes at once: until it is durable, and read back by another node, every byte compared"
    }

    fn needs(&self) -> &'static str {
        "the plan's [checkpoint] dir, and its size or [model] parameters"
    }

    fn absence(&self) -> WaiveKind {
        WaiveKind::NotAsked
    }

    fn metrics(&self) -> &'static [Declared] {
        const METRICS: &[Declared] = &[
            Metric::Write.of("all nodes together: create, write, fsync every file and the directory"),
            Metric::Drain.of("the same, of a run that goes on meanwhile (mode = \"async\")"),
            Metric::Stage
                .of("all nodes together: copied within the hosts' memory, while a run with mode = \"async\" waits"),
            Metric::Read.of("all nodes together, each what another wrote, the page cache bypassed or dropped"),
        ];
        METRICS
    }

    fn priority(&self, _on_gpus: bool) -> Priority {
        Priority::new(3, 1).beside_gpus([1, 2, 1])
    }

    /// Of one machine by itself; several have [`steps`].
    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        let copy_ceiling = machine.copy_ceiling(machine.usable_cores());
        one(plan, 1, 1, copy_ceiling).into_iter().collect()
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        let args: Args = child.args()?;
        let broken = || ProbeError::Broken("no directory was named".to_owned());
        let scratch = child.step.scratch.clone().ok_or_else(broken)?;
        let path = scratch.parent().ok_or_else(broken)?.to_owned();
        let place = filesystem(&path).and_then(|fs| {
            scratch::sweep(&path);
            Ok((fs.room().0, folder_at(&scratch)?))
        });
        // A node that cannot take part says so and goes on: the others must not wait for it.
        let (room, held, trouble) = match place {
            Ok((room, held)) => (room, Some(held), None),
            Err(outcome) => (0, None, Some(Trouble::of(outcome))),
        };
        let own = Told { folder: name_of(&scratch), room, trouble };
        let told: Vec<Told> = child.exchange(&own)?.all(child)?;
        let result = rehearse(child, &args, &path, &told);
        let _ = std::fs::remove_dir_all(&scratch);
        drop(held);
        result
    }
}

/// What all nodes agreed on.
struct Job<'a> {
    args: &'a Args,
    folders: &'a [PathBuf],
    /// So many nodes write, the first ones; all read.
    active: usize,
    /// Of a node.
    writers: usize,
    /// Bytes of a node in a round, at most.
    block: u64,
}

/// Where a node writes, how much is free there, and what stands in its way.
#[derive(Serialize, Deserialize)]
struct Told {
    folder: String,
    room: u64,
    trouble: Option<Trouble>,
}

/// What went wrong on a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Trouble {
    kind: FailKind,
    error: String,
}

impl Trouble {
    fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Failed { kind, error, .. } => Trouble { kind, error },
            other => Trouble { kind: FailKind::Error, error: format!("{other:?}") },
        }
    }
}

/// The first who met trouble, as the outcome of all.
fn first_trouble<'t>(child: &Child, all: impl Iterator<Item = Option<&'t Trouble>>) -> Option<Outcome> {
    let (rank, trouble) = all.enumerate().find_map(|(rank, t)| Some((rank, t?)))?;
    let who = if child.ranks > 1 { format!("{}: ", child.name(rank)) } else { String::new() };
    Some(Outcome::error(trouble.kind, format!("{who}{}", trouble.error)))
}

fn name_of(scratch: &Path) -> String {
    scratch.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn rehearse(child: &mut Child, args: &Args, path: &Path, told: &[Told]) -> Result<(), ProbeError> {
    let nodes = child.ranks;
    let [save, restore] = [CheckpointOp::Save, CheckpointOp::Restore].map(|op| Case::Checkpoint { op, nodes });
    let fails = |child: &mut Child, outcome: Outcome| {
        if child.rank == 0 {
            child.outcome(&save, outcome)?;
            child.outcome(
                &restore,
                Outcome::waived(WaiveKind::NotReached, "nothing was saved that could be read back"),
            )?;
        }
        Ok(())
    };
    if let Some(outcome) = first_trouble(child, told.iter().map(|t| t.trouble.as_ref())) {
        return fails(child, outcome);
    }
    // A name is a place in this folder, whoever said it.
    let folders: Option<Vec<PathBuf>> =
        told.iter().map(|t| is_scratch(&t.folder).then(|| path.join(&t.folder))).collect();
    let Some(folders) = folders else {
        return Err(ProbeError::Broken("a node told of a folder that is no scratch folder".to_owned()));
    };
    // As many files as the plan has: where they are fewer than nodes, so many nodes write one each.
    let active = args.all_files.map_or(nodes, |files| files.min(u64::from(nodes)) as u32).max(1);
    let least = told.iter().enumerate().min_by_key(|(_, t)| t.room);
    let (narrow, free) = least.map_or((0, 0), |(rank, t)| (rank, t.room));
    let room = free / SHARE_OF_FREE / KEPT / u64::from(active);
    if room < Part::LEAST {
        let on = if nodes > 1 { format!(" on {}", child.name(narrow)) } else { String::new() };
        let error = format!("{} free in {}{on}: not enough to rehearse a save with", Bytes(free), path.display());
        return fails(child, Outcome::error(FailKind::DiskFull, error));
    }
    let share = if active < nodes { args.whole / u64::from(active) } else { args.share };
    let block = args.block.min(share).min(room).max(Part::LEAST);
    let most = args.all_files.map_or(u64::MAX, |files| files.div_ceil(u64::from(active)));
    let writers = u64::from(args.writers).min(most).min(block / Part::LEAST).max(1) as usize;
    let job = Job { args, folders: &folders, active: active as usize, writers, block };
    let saved = match save::run(child, &job)? {
        Ok(saved) => saved,
        Err(outcome) => return fails(child, outcome),
    };
    let restored = if child.wants(&restore) { Some(restore::run(child, &job, &saved)?) } else { None };
    if child.rank == 0 {
        let how = saved.part.describe(args, active);
        let series = saved.series(&job);
        child.outcome(&save, Outcome::Measured(Measured { series, notes: [how].into(), ..Measured::default() }))?;
        if let Some(outcome) = restored {
            child.outcome(&restore, outcome)?;
        }
    }
    // Nobody takes its files away while another still reads them.
    Ok(child.barrier()?)
}

/// Time of one round: the slowest node's, of what all told.
fn slowest(seconds: &[f64]) -> (usize, f64) {
    let last = seconds.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    last.unwrap_or((0, 0.0))
}

/// Rates of rounds of so many bytes, with the rank that was last most often.
fn rates(metric: Metric, bytes: f64, seconds: &[f64], last: &[usize], job: &Job<'_>, bounded: bool) -> Series {
    let mut series = metric.series(seconds.iter().map(|s| bytes / s).collect(), 1);
    if bounded && job.args.copy_ceiling > 0.0 {
        series = series.bounded(job.args.copy_ceiling, "every byte is copied by a core, one cache line per cycle");
    }
    let times = |rank: &usize| last.iter().filter(|r| *r == rank).count();
    let slowest = last.iter().max_by_key(|r| times(r)).filter(|_| job.folders.len() > 1);
    series.slowest_rank = slowest.map(|r| *r as u32);
    series
}

/// Whether these rounds are enough; by what all know, so that all end at the same one.
fn enough(rounds: &[f64], budget: Duration) -> bool {
    let spent: f64 = rounds.iter().sum();
    let budget = budget.as_secs_f64();
    rounds.len() >= *ROUNDS.end() || spent > if rounds.len() < *ROUNDS.start() { 3.0 * budget } else { budget }
}

/// The saves that all nodes rehearse together: of all of them, and beyond the quick tier of 1, 2, 4 ... first, to see from how many
/// nodes on more nodes do not help.
pub fn steps(plan: &CheckPlan, nodes: &[NodeName]) -> Vec<Step> {
    let all = nodes.len();
    // All of them first: it is what the run will do, and what is held against the plan.
    let smaller = std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < all && !plan.tier.is_short());
    let sizes = [all].into_iter().chain(smaller);
    let of = |n: usize| {
        let step = one(plan, n as u32, all as u32, f64::INFINITY)?;
        Some(Step { shape: Shape::groups(vec![nodes[..n].to_vec()]), ..step })
    };
    sizes.filter_map(of).collect()
}

/// The step of `n` nodes of `all`; `None` where the plan does not say what a save is, or where to.
fn one(plan: &CheckPlan, n: u32, all: u32, copy_ceiling: f64) -> Option<Step> {
    let path = plan.storage_path.clone()?;
    let planned = plan.run.checkpoint.as_ref()?;
    let whole = plan.run.checkpoint_size()?.0;
    let needed = plan.run.nodes.as_ref();
    let of_run = needed.map_or(all, |n| n.needed).max(1);
    let gpus = needed.map_or(0, |n| n.gpus_per_node);
    let writers = if gpus > 0 { gpus.min(MAX_WRITERS) } else { WRITERS };
    let args = Args {
        whole,
        share: whole / u64::from(of_run.max(n)),
        block: plan.tier.pick(256, 1024, 4096) * Bytes::MIB,
        writers,
        file: planned.files.filter(|f| *f > 0).map(|files| whole / files),
        all_files: planned.files.filter(|f| *f > 0),
        mode: planned.mode(),
        copy_ceiling: if copy_ceiling.is_finite() { copy_ceiling } else { 0.0 },
    };
    let cases = vec![
        Case::Checkpoint { op: CheckpointOp::Save, nodes: n },
        Case::Checkpoint { op: CheckpointOp::Restore, nodes: n },
    ];
    let estimate = plan.tier.pick(3000, 12_000, 60_000);
    let step = step(&Checkpoint, plan, cases, &args, estimate);
    let name = if n == all { "checkpoint".to_owned() } else { format!("checkpoint-{n}") };
    Some(Step { name, scratch: Some(path), exclusive: false, start_ms: 200, ..step })
}
