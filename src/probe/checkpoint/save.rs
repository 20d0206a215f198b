//! Saving: all nodes write their parts at the same time, round after round.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cluster::Child;
use crate::measure::{Outcome, Series};
use crate::plan::SaveMode;
use crate::probe::ProbeError;
use crate::probe::checkpoint::files::{self, Part, Which};
use crate::probe::checkpoint::{GROWING, Job, Trouble, enough, first_trouble, rates, slowest};
use crate::probe::storage::content::Content;
use crate::probe::storage::failure;
use crate::sys::pages::Pages;
use crate::work::Metric;

/// Of all nodes together, and of files of a writer, in the first round.
const FIRST: u64 = 16 << 20;
const FEW: usize = 8;
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
    pub fn series(&self, job: &Job<'_>) -> Vec<Series> {
        let bytes = (self.part.of_node() * job.active as u64) as f64;
        let metric = if job.args.mode == SaveMode::Sync { Metric::Write } else { Metric::Drain };
        let series = rates(metric, bytes, &self.seconds, &self.last, job, true);
        let staged = (!self.staged.is_empty()).then(|| Metric::Stage.series(self.staged.clone(), 1));
        [Some(series), staged].into_iter().flatten().collect()
    }
}

/// Saves until there are enough rounds, or somebody cannot. What `Err` holds is the same on all nodes.
///
/// At first little is written: nobody knows yet how fast it goes. It grows until a round takes its part of the time, and beyond that while
/// a round takes no longer for being larger: then what counts is the time of a call, and a whole file of the run would hardly feel it.
pub(super) fn run(child: &mut Child, job: &Job<'_>) -> Result<Result<Saved, Outcome>, ProbeError> {
    let (args, rank, nodes) = (job.args, child.rank as usize, job.folders.len());
    let budget = child.share(2);
    let own = job.folders[rank].clone();
    let mut contents: Vec<Content> = (0..job.writers).map(|_| Content::new(child.step.seed)).collect();
    let part = |block: u64, most: usize| Part::of(args.file, job.writers, block.clamp(Part::LEAST, job.block), most);
    let mut saved = Saved {
        part: part(FIRST / nodes as u64, FEW),
        round: 0,
        seconds: Vec::new(),
        last: Vec::new(),
        staged: Vec::new(),
    };
    // Of the rounds that warm up: bytes of a node, and seconds; none once it has grown up.
    let mut growing = Some(Vec::new());
    loop {
        child.barrier()?;
        let staged = if args.mode == SaveMode::Async && growing.is_none() { stage(job.writers) } else { 0.0 };
        let began = Instant::now();
        let written = if rank < job.active { write(&own, &saved, rank, nodes, &mut contents) } else { Ok(()) };
        let seconds = began.elapsed().as_secs_f64();
        let trouble = written.err().map(|e| Trouble::of(failure(&e, &format!("saving to {}", own.display()))));
        let all: Vec<Fared> = child.exchange(&Fared { seconds, staged, trouble })?.all(child)?;
        if let Some(outcome) = first_trouble(child, all.iter().map(|f| f.trouble.as_ref())) {
            return Ok(Err(outcome));
        }
        let (last, longest) = slowest(&all.iter().map(|f| f.seconds).collect::<Vec<_>>());
        if let Some(before) = &mut growing {
            before.push((saved.part.of_node() as f64, longest));
            remove(&own, &saved);
            match larger(before, budget.as_secs_f64()).map(|bytes| part(bytes, saved.part.files.saturating_mul(8))) {
                Some(more) if more.of_node() > saved.part.of_node() && before.len() < GROWING => saved.part = more,
                _ => growing = None,
            }
        } else {
            saved.seconds.push(longest);
            saved.last.push(last);
            if args.mode == SaveMode::Async {
                // Staging ends when the last node has staged.
                let least = all.iter().map(|f| f.staged).fold(f64::INFINITY, f64::min);
                saved.staged.push(least * nodes as f64);
            }
            if enough(&saved.seconds, budget) {
                return Ok(Ok(saved));
            }
            remove(&own, &saved);
        }
        saved.round += 1;
    }
}

/// How much to try after rounds of so many bytes and seconds; `None` when the last was right.
fn larger(before: &[(f64, f64)], budget: f64) -> Option<u64> {
    let (bytes, seconds) = before.last().copied()?;
    let target = budget / *super::ROUNDS.start() as f64;
    let spent: f64 = before.iter().map(|(_, s)| s).sum();
    // It took less than half of what that much more would take at the same rate.
    let by_calls = match before {
        [.., (b, s), _] => seconds < s * bytes / b / 2.0,
        _ => true,
    };
    if seconds < 0.7 * target {
        return Some((bytes * (target / seconds.max(1e-6)).clamp(1.5, 8.0)) as u64);
    }
    // Every further round will take as long: no more of them than the time bears.
    (by_calls && spent + 2.0 * seconds < budget).then_some((bytes * 4.0) as u64)
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
fn stage(writers: usize) -> f64 {
    let gate = Barrier::new(writers);
    let copy = || {
        let (from, mut to) = (Pages::new(STAGED), Pages::new(STAGED));
        gate.wait();
        let began = Instant::now();
        to.copy_from_slice(&from);
        std::hint::black_box(&to[..]);
        (began, Instant::now())
    };
    let all: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let all: Vec<_> = (0..writers).map(|_| scope.spawn(copy)).collect();
        all.into_iter().filter_map(|w| w.join().ok()).collect()
    });
    // From the first that began until the last that ended: with fewer cores than writers they take turns.
    let (first, last) = (all.iter().map(|t| t.0).min(), all.iter().map(|t| t.1).max());
    let longest = first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    (writers * STAGED) as f64 / longest.max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grows as `run` does, on a disk that takes so long for a call and so long for a byte: what one node writes at last, and the time until
    /// then.
    fn grown(call: f64, rate: f64, budget: f64) -> (f64, f64) {
        let mut before: Vec<(f64, f64)> = Vec::new();
        let mut bytes = FIRST as f64;
        loop {
            before.push((bytes, call + bytes / rate));
            let more = larger(&before, budget).map(|more| (more as f64).min(256e6));
            match more.filter(|more| *more > bytes && before.len() < GROWING) {
                Some(more) => bytes = more,
                None => return (bytes, before.iter().map(|(_, s)| s).sum()),
            }
        }
    }

    #[test]
    fn a_round_grows_to_its_time_and_beyond_where_calls_take_it() {
        // A fast disk: an eighth of the time.
        let (bytes, spent) = grown(0.0, 2e9, 1.0);
        assert!((0.6..1.4).contains(&(bytes / 2e9 / 0.125)) && spent < 0.4, "{bytes} {spent}");
        // A tenth of a second a call: larger files, at the rate that the run's own will have.
        let (bytes, spent) = grown(0.1, 2e9, 1.0);
        assert!(bytes > 60e6 && spent < 1.0, "{bytes} {spent}");
        // So slow that little is all there is time for: never less than at first.
        let (bytes, spent) = grown(0.0, 10e6, 1.0);
        assert!(bytes >= FIRST as f64 && spent < 7.0, "{bytes} {spent}");
    }
}
