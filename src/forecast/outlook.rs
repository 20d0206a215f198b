//! How long the space for checkpoints lasts, by those that were written.
//!
//! What a save takes for good is the growth of what is in use from one save to the next: that covers a retention job of the trainer,
//! and others who write there. The k-th save from now fails when `available - (k-1) x growth < size`.

use crate::measure::{Save, SaveState, Watched, stats};
use crate::plan::{RunPlan, WatchPlan};
use crate::unit::Bytes;

/// Saves that are learned from, the latest.
const LEARNED: usize = 12;
/// Fewer saves tell no interval of their own.
const FEW: usize = 3;
/// Saves that a plan is worth which is nearer to them than this.
const PLANNED: f64 = 4.0;
const NEAR: f64 = 0.3;
/// Of a normal distribution, both sides.
const SURE: f64 = 1.96;

/// Which place is full first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Hot,
    Cold,
}

/// The save that does not fit any more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Full {
    pub place: Place,
    /// The next save is 1.
    pub save: u64,
    /// Seconds until it begins, by the interval so far: the least, the likeliest, the most; absent where no interval is known.
    pub seconds: Option<(f64, f64, f64)>,
    /// Whether the run ends before; `None` where the plan does not say how long it is.
    pub after_the_run: Option<bool>,
}

/// What is to be expected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// Of the next save.
    pub size: Bytes,
    /// From one save to the next, seconds: mean and standard deviation; learned from three saves on, else the plan's.
    pub interval_s: Option<(f64, f64)>,
    /// What a save takes while it is written, seconds.
    pub save_s: Option<f64>,
    /// Whether size and interval are those of saves that were seen.
    pub learned: bool,
    /// Whole saves for which there is room now.
    pub fit: u64,
    /// `None` when it never is full: as much is taken away as is written.
    pub full: Option<Full>,
    /// Saves that the plan still has.
    pub left: Option<u64>,
}

/// Of what is known now; `None` before the first save where the plan tells no size.
pub fn outlook(w: &Watched, run: &RunPlan) -> Option<Outlook> {
    let whole: Vec<&Save> = w
        .saves
        .iter()
        .filter(|s| matches!(s.state, SaveState::Complete | SaveState::Moved | SaveState::Unclear))
        .collect();
    let latest = &whole[whole.len().saturating_sub(LEARNED)..];
    let largest = latest.iter().rev().take(FEW).map(|s| s.bytes).max();
    let size = largest.or_else(|| run.checkpoint_size()).filter(|s| s.0 > 0)?;
    let gaps = gaps(latest);
    let learned = gaps.len() + 1 >= FEW;
    let planned = run.checkpoint.as_ref().and_then(|c| c.interval());
    let planned = planned.map(|i| i.period.as_secs_f64());
    let interval_s = if learned { spread(&gaps, planned) } else { planned.map(|p| (p, 0.0)) };
    let took: Vec<f64> = latest.iter().map(|s| s.ended.duration_since(s.began).as_secs_f64()).collect();
    // What a save that is being written has taken already is its own.
    let writing = w.saves.iter().filter(|s| s.state == SaveState::Writing);
    let room = writing.fold(w.space.available.0, |sum, s| sum.saturating_add(s.bytes.0));
    let left = left(w, run);
    let moves = run.watch.as_ref().is_some_and(WatchPlan::moves);
    let (place, save) = if moves {
        // What fills up is the cold place: the hot one is emptied into it.
        (Place::Cold, w.cold.as_ref().and_then(|c| c.available).map(|a| a.0 / size.0 + 1))
    } else {
        (Place::Hot, first_that_fails(room, size, growth(latest, size)))
    };
    let full = save.map(|save| Full {
        place,
        save,
        seconds: interval_s.map(|i| until(save, i, latest, w, gaps.len())),
        after_the_run: left.map(|left| save > left),
    });
    Some(Outlook {
        size,
        interval_s,
        save_s: (!took.is_empty()).then(|| stats::median(&took)),
        learned,
        fit: room / size.0,
        full,
        left,
    })
}

/// Seconds between the ends of saves, those that a clock which jumped spoils left out.
fn gaps(saves: &[&Save]) -> Vec<f64> {
    let between = |w: &[&Save]| w[1].ended.duration_since(w[0].ended).as_secs_f64();
    saves.windows(2).map(between).filter(|s| *s > 0.0).collect()
}

/// Mean and standard deviation; where the plan is not far off, it counts as so many saves that were seen.
fn spread(values: &[f64], planned: Option<f64>) -> Option<(f64, f64)> {
    let n = values.len() as f64;
    let seen = values.iter().sum::<f64>() / n;
    let near = planned.filter(|p| (seen / p - 1.0).abs() < NEAR);
    let mean = near.map_or(seen, |p| (n * seen + PLANNED * p) / (n + PLANNED));
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean.is_finite() && mean > 0.0).then(|| (mean, variance.sqrt()))
}

/// Bytes that a save adds for good.
fn growth(saves: &[&Save], size: Bytes) -> f64 {
    let used: Vec<f64> = saves.iter().filter_map(|s| Some(s.used?.as_f64())).collect();
    let steps: Vec<f64> = used.windows(2).map(|w| w[1] - w[0]).collect();
    if steps.is_empty() { size.as_f64() } else { stats::median(&steps) }
}

fn first_that_fails(room: u64, size: Bytes, growth: f64) -> Option<u64> {
    if room < size.0 {
        return Some(1);
    }
    // Less than a hundredth of a save is chatter: logs, metadata.
    if growth < 0.01 * size.as_f64() {
        return None;
    }
    Some(((room - size.0) as f64 / growth).floor() as u64 + 2)
}

/// Seconds until the save with this number, counted from the last.
fn until(save: u64, (mean, deviation): (f64, f64), saves: &[&Save], w: &Watched, learned: usize) -> (f64, f64, f64) {
    let since = saves.last().map_or(0.0, |s| w.at.duration_since(s.ended).as_secs_f64().clamp(0.0, mean));
    let k = save as f64;
    // Each interval differs, and their mean is known from so many only.
    let error = SURE * deviation * (k + k * k / learned.max(1) as f64).sqrt();
    let middle = k * mean - since;
    ((middle - error).max(0.0), middle.max(0.0), middle.max(0.0) + error)
}

/// Saves of the plan that are still to come.
fn left(w: &Watched, run: &RunPlan) -> Option<u64> {
    let checkpoint = run.checkpoint.as_ref()?;
    let all = checkpoint.interval().and_then(|i| i.saves)?;
    let step = w.saves.iter().rfind(|s| s.state != SaveState::Partial).and_then(|s| s.step);
    let done = match (step, checkpoint.interval_steps) {
        (Some(step), Some(every)) => (step as f64 / every) as u64,
        _ => w.saves.iter().filter(|s| !matches!(s.state, SaveState::Partial | SaveState::Writing)).count() as u64,
    };
    Some(all.saturating_sub(done))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::measure::{Cold, Space};
    use crate::plan::parse;

    const GIB: u64 = 1 << 30;
    const HOUR: f64 = 3600.0;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs_f64(seconds.max(0.0))
    }

    /// Saves of `size` that ended at these hours on a place of `total`, of which nothing goes.
    fn watched(ends: &[f64], size: u64, total: u64) -> Watched {
        let save = |(i, hour): (usize, &f64)| Save {
            name: format!("global_step{}", 500 * (i + 1)),
            step: Some(500 * (i as u64 + 1)),
            bytes: Bytes(size),
            files: 8,
            began: at(hour * HOUR - 60.0),
            ended: at(hour * HOUR),
            state: SaveState::Complete,
            used: Some(Bytes(size * (i as u64 + 1))),
        };
        let available = Bytes(total - size * ends.len() as u64);
        Watched {
            dir: PathBuf::from("/ckpt"),
            since: at(0.0),
            at: at(ends.last().map_or(0.0, |h| h * HOUR)),
            mount: "srv:/x nfs4".into(),
            layout: None,
            space: Space { total: Bytes(total), available, ..Space::default() },
            saves: ends.iter().enumerate().map(save).collect(),
            cold: None,
            troubles: Vec::new(),
            node: None,
        }
    }

    fn run(text: &str) -> RunPlan {
        parse(std::path::Path::new("p"), text).unwrap_or_else(|e| panic!("{e}"))
    }

    fn full(w: &Watched, run: &RunPlan) -> Full {
        let o = outlook(w, run).unwrap_or_else(|| panic!("nothing known"));
        o.full.unwrap_or_else(|| panic!("never full: {o:?}"))
    }

    /// Known answer: GPT-NeoX-20B on 1 TiB holds 3 saves, and the fourth fails at hour 24.4.
    #[test]
    fn neox_fails_at_hour_24_4() {
        let text = include_str!("../../tests/fixtures/plans/neox-20b.toml");
        let run = run(text);
        let before = full(&watched(&[], 0, 1 << 40), &run);
        assert_eq!((before.save, before.after_the_run), (4, Some(false)));
        assert!(before.seconds.is_some_and(|(_, s, _)| (s / HOUR - 24.4).abs() < 0.05), "{before:?}");
        // Seen as it happens, the same.
        let after_two = full(&watched(&[6.1, 12.2], 287_700_000_000, 1 << 40), &run);
        assert!(after_two.seconds.is_some_and(|(_, s, _)| (s / HOUR - 12.2).abs() < 0.05), "{after_two:?}");
    }

    #[test]
    fn from_the_third_save_on_time_to_full_is_within_an_interval_under_jitter() {
        let (size, saves, interval) = (100 * GIB, 10u64, 6.0);
        let planned = run("[checkpoint]\ninterval = \"6h\"\n");
        let mut missed = [0, 0];
        for seed in 0..500 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut hour = 0.0;
            let ends: Vec<f64> = (0..=saves)
                .map(|_| {
                    hour += interval * (1.0 + 0.2 * (2.0 * rng.f64() - 1.0));
                    hour
                })
                .collect();
            // One more than fits.
            let total = size * saves + size / 2;
            for seen in 3..=saves as usize {
                let w = watched(&ends[..seen], size, total);
                let truth = (ends[saves as usize] - ends[seen - 1]) * HOUR;
                for (missed, run) in missed.iter_mut().zip([&RunPlan::default(), &planned]) {
                    let told = full(&w, run);
                    assert_eq!(told.save, saves - seen as u64 + 1);
                    let Some((_, middle, _)) = told.seconds else { panic!("no time") };
                    *missed += u32::from((middle - truth).abs() > interval * HOUR);
                }
            }
        }
        // Jitter that adds up from save to save leaves a few at the third and fourth; with the plan's interval hardly any.
        assert!(missed[0] <= 200 && missed[1] <= 12, "{missed:?} of 4000 predictions were an interval off");
    }

    #[test]
    fn what_is_taken_away_as_fast_as_it_comes_never_ends() {
        let mut w = watched(&[1.0, 2.0, 3.0, 4.0], 10 * GIB, 100 * GIB);
        // A retention job: what is in use stays the same.
        w.saves.iter_mut().for_each(|s| s.used = Some(Bytes(30 * GIB)));
        assert_eq!(outlook(&w, &RunPlan::default()).map(|o| (o.full, o.fit)), Some((None, 6)));
        // Others who write as much again halve the time.
        w.saves.iter_mut().zip(1..).for_each(|(s, i)| s.used = Some(Bytes(20 * GIB * i)));
        assert_eq!(full(&w, &RunPlan::default()).save, 4);
    }

    #[test]
    fn a_watch_that_moves_ends_when_the_cold_place_does() {
        let mut w = watched(&[1.0, 2.0, 3.0], 10 * GIB, 100 * GIB);
        w.cold = Some(Cold { place: "/cold".into(), available: Some(Bytes(45 * GIB)), moves_s: vec![] });
        let told = full(&w, &run("[watch]\ncold = \"/cold\"\n"));
        assert_eq!((told.place, told.save), (Place::Cold, 5));
    }

    #[test]
    fn the_end_of_the_run_comes_first_where_it_does() {
        let plan = |steps: u32| {
            run(&format!("[checkpoint]\ninterval_steps = 500\nstep_time = \"7s\"\ntotal_steps = {steps}\n"))
        };
        let w = watched(&[1.0, 2.0, 3.0], 10 * GIB, 100 * GIB);
        assert_eq!(full(&w, &plan(5000)).after_the_run, Some(true));
        assert_eq!(full(&w, &plan(50_000)).after_the_run, Some(false));
        assert_eq!(outlook(&w, &plan(5000)).and_then(|o| o.left), Some(7));
    }

    proptest::proptest! {
        #[test]
        fn no_times_and_sizes_are_too_much(
            ends in proptest::collection::vec(-1e5f64..1e6, 0..20),
            size in 0u64..u64::MAX / 32,
            available in 0u64..,
            used in proptest::collection::vec(0u64.., 20),
        ) {
            let mut w = watched(&ends, size, u64::MAX);
            w.space.available = Bytes(available);
            w.saves.iter_mut().zip(used).for_each(|(s, u)| s.used = Some(Bytes(u)));
            if let Some(o) = outlook(&w, &RunPlan::default()) {
                let times = o.full.and_then(|f| f.seconds).unwrap_or((0.0, 0.0, 0.0));
                proptest::prop_assert!(times.0 <= times.1 && times.1 <= times.2, "{:?}", o);
            }
        }
    }
}
