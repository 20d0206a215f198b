//! Checkpoint storage: what the run needs, what it has, and when it is full.
//!
//! `need = (S x (kept + 1 in flight + 1 partial) + S x milestones) / usable fraction`

use crate::plan::{Checkpoint, RunPlan, WatchPlan};
use crate::unit::Bytes;

/// Distributed file systems begin to fail between 80 and 89 % full.
const USABLE: f64 = 0.80;

/// What the directory must hold, and how far what is there goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Runway {
    /// One checkpoint.
    pub size: Bytes,
    /// Checkpoints that stay: the retention limit, or every save of the run.
    pub kept: u64,
    /// Whether `kept` is every save because nobody limits them.
    pub unlimited: bool,
    pub milestones: u64,
    pub usable_fraction: f64,
    pub need: Bytes,
    pub available: Bytes,
    pub fits: bool,
    /// Whole checkpoints that go into what is there.
    pub saves_that_fit: u64,
    /// Hours until the save that does not fit, when saves accumulate and the interval is known.
    pub hours_until_failure: Option<f64>,
    /// Files that stay, when the plan says how many a checkpoint has.
    pub inodes: Option<u64>,
}

/// The arithmetic, when the plan gives a size and either a retention limit or a number of saves.
pub fn runway(run: &RunPlan, available: Bytes) -> Option<Runway> {
    let checkpoint = run.checkpoint.as_ref()?;
    let size = run.checkpoint_size()?;
    let interval = checkpoint.interval();
    let saves = interval.and_then(|i| i.saves).or_else(|| total_saves(checkpoint));
    // What a watch moves away does not stay.
    let watched = run.watch.as_ref().filter(|w| w.moves()).map(|_| WatchPlan::KEEP);
    let limit = checkpoint.keep.or(watched);
    let kept = limit.or(saves)?;
    let unlimited = limit.is_none();
    let usable_fraction = checkpoint.usable_fraction.unwrap_or(USABLE);
    let copies = kept.saturating_add(checkpoint.milestones).saturating_add(2);
    let need = Bytes::from_f64(size.as_f64() * copies as f64 / usable_fraction);
    let fits = need <= available;
    let saves_that_fit = available.0.checked_div(size.0).unwrap_or(u64::MAX);
    let hours_until_failure = interval
        .filter(|_| !fits && saves_that_fit < kept)
        .map(|i| (saves_that_fit as f64 + 1.0) * i.period.as_secs_f64() / 3600.0);
    let inodes = checkpoint.files.map(|f| f.saturating_mul(copies));
    Some(Runway {
        size,
        kept,
        unlimited,
        milestones: checkpoint.milestones,
        usable_fraction,
        need,
        available,
        fits,
        saves_that_fit,
        hours_until_failure,
        inodes,
    })
}

fn total_saves(checkpoint: &Checkpoint) -> Option<u64> {
    Some((checkpoint.total_steps? / checkpoint.interval_steps?).floor() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Model, parse};
    use std::path::Path;

    const TIB: u64 = 1 << 40;

    fn neox() -> RunPlan {
        let text = include_str!("../../tests/fixtures/plans/neox-20b.toml");
        parse(Path::new("neox"), text).unwrap_or_default()
    }

    /// Known answer: 300 saves x 287.7 GB = 78.5 TiB; a 1 TiB mount holds 3 and fails at the 4th, hour 24.4.
    #[test]
    fn gpt_neox_20b_does_not_fit_the_mount_it_had() {
        let run = neox();
        assert_eq!(run.checkpoint_size(), Some(Bytes(287_700_000_000)));
        let r = runway(&run, Bytes(TIB));
        let Some(r) = r else { panic!("no runway") };
        assert_eq!((r.kept, r.unlimited, r.fits, r.saves_that_fit), (300, true, false, 3));
        assert!((r.hours_until_failure.unwrap_or(0.0) - 24.4).abs() < 0.05, "{:?}", r.hours_until_failure);
        assert!((r.size.as_f64() * 300.0 / TIB as f64 - 78.5).abs() < 0.05);
        for (mount, holds) in [(2, 7), (5, 19), (10, 38)] {
            assert_eq!(runway(&run, Bytes(mount * TIB)).map(|r| r.saves_that_fit), Some(holds), "{mount} TiB");
        }
    }

    /// Known answers from published sizes.
    #[test]
    fn fourteen_bytes_a_parameter_reproduce_published_sizes() {
        for (parameters, gib) in [(20.55e9, 267.9), (176.247e9, 2298.0), (8.03e9, 104.7), (405.85e9, 5291.7)] {
            let run = RunPlan {
                model: Some(Model { parameters: Some(parameters), ..Model::default() }),
                checkpoint: Some(Checkpoint::default()),
                ..RunPlan::default()
            };
            let got = run.checkpoint_size().unwrap_or_default().as_f64() / (1u64 << 30) as f64;
            assert!((got / gib - 1.0).abs() < 5e-4, "{got} GiB for {parameters}, published {gib}");
        }
    }

    /// Known answer: 70.6e9 parameters, keep 3 -> at least 5.6 TiB.
    #[test]
    fn retention_bounds_the_need() {
        let run = RunPlan {
            model: Some(Model { parameters: Some(70.6e9), ..Model::default() }),
            checkpoint: Some(Checkpoint { keep: Some(3), ..Checkpoint::default() }),
            ..RunPlan::default()
        };
        let r = runway(&run, Bytes(6 * TIB));
        let need = r.as_ref().map_or(0.0, |r| r.need.as_f64() / TIB as f64);
        assert!((need - 5.6).abs() < 0.05, "{need}");
        assert!(r.is_some_and(|r| r.fits && r.hours_until_failure.is_none()));
    }

    /// Under a watch that moves, the mount that was too small is none.
    #[test]
    fn what_is_moved_away_does_not_stay() {
        let mut run = neox();
        run.watch = Some(WatchPlan { cold: Some("/cold".into()), ..WatchPlan::default() });
        let r = runway(&run, Bytes(2 * TIB));
        assert!(r.is_some_and(|r| r.fits && r.kept == WatchPlan::KEEP && !r.unlimited));
    }

    #[test]
    fn without_a_size_or_a_number_there_is_no_arithmetic() {
        assert_eq!(runway(&RunPlan::default(), Bytes(1)), None);
        let size_only = RunPlan {
            checkpoint: Some(Checkpoint { size: Some(Bytes(5)), ..Checkpoint::default() }),
            ..RunPlan::default()
        };
        assert_eq!(runway(&size_only, Bytes(1)), None);
    }
}
