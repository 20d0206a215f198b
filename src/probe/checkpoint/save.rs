//! Saving: all nodes write their parts at the same time, round after round.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cluster::Child;
use crate::measure::{Outcome, Series};
use crate::plan::SaveMode;
use crate::probe::ProbeError;
use crate::probe::checkpoint::files::{self, Part, Which};
use crate::probe::checkpoint::{Args, Trouble, enough, first_trouble, slowest};
use crate::probe::storage::content::Content;
use crate::probe::storage::failure;
use crate::sys::pages::Pages;
use crate::work::Metric;

/// Of a node, in the first round: it shows how much can be written in the time.
const FIRST: u64 = 16 << 20;
/// Of one writer: what is copied within memory, larger than a core's part of the caches.
const STAGED: usize = 32 << 20;

/// What was saved, by what all nodes know.
pub(super) struct Saved {
    pub part: Part,
    /// The last round, which is still there.
    pub round: usize,
    /// Seconds of each round that counts, and who was last.
    seconds: Vec<f64>,
    last: Vec<usize>,
    /// Bytes a second of all nodes, copied within memory, by round; none for a run that waits for the disk.
    staged: Vec<f64>,
}

/// How a node fared in a round.
#[derive(Serialize, Deserialize)]
struct Fared {
    seconds: f64,
    staged: f64,
    trouble: Option<Trouble>,
}

impl Saved {
    pub fn series(&self, args: &Args, nodes: u32) -> Vec<Series> {
        let bytes = (self.part.of_node() * u64::from(nodes)) as f64;
        let metric = if args.mode == SaveMode::Sync { Metric::Write } else { Metric::Drain };
        let rates = self.seconds.iter().map(|s| bytes / s).collect();
        let mut series = metric.series(rates, 1);
        if args.copy_ceiling > 0.0 {
            series = series.bounded(args.copy_ceiling, "every byte is copied by a core, one cache line per cycle");
        }
        let times = |rank: &usize| self.last.iter().filter(|r| *r == rank).count();
        series.slowest_rank = self.last.iter().max_by_key(|r| times(r)).filter(|_| nodes > 1).map(|r| *r as u32);
        let staged = (!self.staged.is_empty()).then(|| Metric::Stage.series(self.staged.clone(), 1));
        [Some(series), staged].into_iter().flatten().collect()
    }
}

/// Saves until there are enough rounds, or somebody cannot. What `Err` holds is the same on all nodes.
pub(super) fn run(
    child: &mut Child,
    args: &Args,
    folders: &[PathBuf],
    block: u64,
) -> Result<Result<Saved, Outcome>, ProbeError> {
    let budget = child.share(2);
    let own = folders[child.rank as usize].clone();
    let mut contents: Vec<Content> = (0..args.writers).map(|_| Content::new(child.step.seed)).collect();
    let mut saved = Saved {
        part: Part::of(args, FIRST.min(block)),
        round: 0,
        seconds: Vec::new(),
        last: Vec::new(),
        staged: Vec::new(),
    };
    loop {
        child.barrier()?;
        let staged = if args.mode == SaveMode::Async && saved.round > 0 { stage(args.writers) } else { 0.0 };
        let began = Instant::now();
        let written = write(&own, &saved, child.rank as usize, folders.len(), &mut contents);
        let seconds = began.elapsed().as_secs_f64();
        let trouble = written.err().map(|e| Trouble::of(failure(&e, &format!("saving to {}", own.display()))));
        let all: Vec<Fared> = child.exchange(&Fared { seconds, staged, trouble })?.all(child)?;
        if let Some(outcome) = first_trouble(child, all.iter().map(|f| f.trouble.as_ref())) {
            return Ok(Err(outcome));
        }
        let (last, longest) = slowest(&all.iter().map(|f| f.seconds).collect::<Vec<_>>());
        if saved.round == 0 {
            // The first warms up, and shows how much a tenth of the time holds.
            let rate = saved.part.of_node() as f64 / longest.max(1e-6);
            let target = rate * budget.as_secs_f64() / *super::ROUNDS.start() as f64;
            remove(&own, &saved);
            saved.part = Part::of(args, (target as u64).clamp(u64::from(args.writers) * Part::LEAST, block));
        } else {
            saved.seconds.push(longest);
            saved.last.push(last);
            if args.mode == SaveMode::Async {
                // Staging ends when the last node has staged.
                let least = all.iter().map(|f| f.staged).fold(f64::INFINITY, f64::min);
                saved.staged.push(least * folders.len() as f64);
            }
            if enough(&saved.seconds, budget) {
                return Ok(Ok(saved));
            }
            remove(&own, &saved);
        }
        saved.round += 1;
    }
}

/// One save of this node.
fn write(own: &Path, saved: &Saved, node: usize, nodes: usize, contents: &mut [Content]) -> io::Result<()> {
    let (part, round) = (saved.part, saved.round);
    thread::scope(|scope| {
        let one = |(writer, content): (usize, &mut Content)| {
            (0..part.files).try_for_each(|file| {
                let which = Which { round, node, writer, file };
                files::write(&which.path(own), &part, which.first(&part, nodes), content)
            })
        };
        let all: Vec<_> = contents.iter_mut().enumerate().map(|w| scope.spawn(move || one(w))).collect();
        let panicked = |_| Err(io::Error::other("a writer broke off"));
        all.into_iter().try_for_each(|w| w.join().unwrap_or_else(panicked))
    })?;
    // A file is there after a crash when its name is.
    File::open(own)?.sync_all()
}

fn remove(own: &Path, saved: &Saved) {
    let (part, round) = (saved.part, saved.round);
    for writer in 0..part.writers {
        for file in 0..part.files {
            let _ = fs::remove_file(Which { round, node: 0, writer, file }.path(own));
        }
    }
}

/// Bytes a second that this node's writers copy within its memory, all at the same time.
fn stage(writers: u32) -> f64 {
    let copy = || {
        let (from, mut to) = (Pages::new(STAGED), Pages::new(STAGED));
        let began = Instant::now();
        to.copy_from_slice(&from);
        std::hint::black_box(&to[..]);
        began.elapsed().as_secs_f64()
    };
    let longest = thread::scope(|scope| {
        let all: Vec<_> = (0..writers).map(|_| scope.spawn(copy)).collect();
        all.into_iter().filter_map(|w| w.join().ok()).fold(0.0, f64::max)
    });
    f64::from(writers) * STAGED as f64 / longest.max(1e-9)
}
