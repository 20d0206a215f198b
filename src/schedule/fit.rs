//! Fitting the steps into the time that was promised.

use std::time::Duration;

use crate::cluster::{Processes, Step};
use crate::probe;
use crate::work::Case;

/// With less than this share of its time for measuring a step measures too few blocks to be worth it.
const SHORTEST: f64 = 0.4;

/// A step with `share` of its time for measuring: what it needs to start stays.
fn scaled(step: Step, share: f64) -> Step {
    let measuring = step.measuring_ms() as f64 * share.min(1.0);
    Step { estimate_ms: (step.start_ms + measuring as u64).max(1), ..step }
}

/// Shortens steps to fit `time`, and drops what does not fit even then. Returns what to run, in order, and what was
/// cut.
///
/// `turns` says how often each step runs one after the other, because nodes share machines.
pub fn fit(steps: Vec<Step>, turns: &[u32], time: Duration) -> (Vec<Step>, Vec<Step>) {
    let mut kept: Vec<(Step, f64)> = steps.into_iter().zip(turns.iter().map(|t| f64::from(*t))).collect();
    let mut cut = Vec::new();
    let available = time.as_millis() as f64;
    let starts = |steps: &[(Step, f64)]| steps.iter().map(|(s, turns)| s.start_ms as f64 * turns).sum::<f64>();
    let measuring = |steps: &[(Step, f64)]| steps.iter().map(|(s, turns)| s.measuring_ms() as f64 * turns).sum::<f64>();
    while !kept.is_empty() && starts(&kept) + measuring(&kept) * SHORTEST > available {
        let last = (0..kept.len()).max_by_key(|i| (probe::priority(&kept[*i].0).expendable, *i)).unwrap_or(0);
        cut.push(kept.remove(last).0);
    }
    let share = (available - starts(&kept)) / measuring(&kept).max(1.0);
    (kept.into_iter().map(|(step, _)| scaled(step, share)).collect(), cut)
}

/// Shortens one step to the time that is left; false when that is too short to measure in.
pub fn shorten(step: &mut Step, turns: u32, left: Duration) -> bool {
    let left = left.as_millis() as f64 / f64::from(turns.max(1));
    let share = (left - step.start_ms as f64) / step.measuring_ms().max(1) as f64;
    *step = scaled(step.clone(), share.max(0.0));
    share >= SHORTEST
}

/// A step again, for some of its cases, with `factor` times the time for each. Starting takes as long as before. A probe whose cases
/// take unlike times says itself how long these take, as `asked_ms`.
pub fn again(step: &Step, cases: Vec<Case>, factor: u64, asked_ms: Option<u64>) -> Step {
    // What the GPUs of a node measure at once takes the time of one.
    let at_once = if step.processes == Processes::Gpus { step.ranks.max(1) as usize } else { 1 };
    let units = (step.cases.len() / at_once).max(1);
    let share = cases.len().min(units) as u64 * step.measuring_ms() / units as u64;
    let measuring = asked_ms.unwrap_or(share).saturating_mul(factor).max(200);
    Step { estimate_ms: step.start_ms + measuring, cases, attempt: step.attempt + 1, ..step.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ProbeName;

    fn step(probe: &'static str, estimate_ms: u64) -> Step {
        let cases = vec![Case::read("a"), Case::read("b")];
        Step { estimate_ms, ..Step::new(probe, ProbeName::new(probe), cases) }
    }

    #[test]
    fn steps_shrink_before_they_are_cut_and_storage_outlasts_memory() {
        let all = || vec![step("gemm", 1000), step("memory", 1000), step("storage", 1000)];
        let names = |steps: &[Step]| steps.iter().map(|s| s.name.clone()).collect::<Vec<_>>().join(" ");
        let (kept, cut) = fit(all(), &[1; 3], Duration::from_secs(10));
        assert_eq!((kept.len(), cut.len(), kept[0].estimate_ms), (3, 0, 1000));
        let (kept, cut) = fit(all(), &[1; 3], Duration::from_millis(1500));
        assert_eq!((kept.len(), cut.len(), kept[0].estimate_ms), (3, 0, 500));
        let (kept, cut) = fit(all(), &[1; 3], Duration::from_millis(500));
        assert_eq!((names(&kept), names(&cut)), ("storage".into(), "memory gemm".into()));
    }

    #[test]
    fn what_starting_takes_is_not_shortened_and_comes_again() {
        let start = || Step { start_ms: 900, processes: Processes::Gpus, ..step("copy", 1900) };
        let (kept, cut) = fit(vec![start()], &[1], Duration::from_millis(1400));
        assert_eq!((kept[0].estimate_ms, cut.len()), (1400, 0));
        // A start alone measures nothing.
        assert_eq!(fit(vec![start()], &[1], Duration::from_millis(1000)).1.len(), 1);
        let mut short = start();
        assert!(shorten(&mut short, 1, Duration::from_millis(1400)) && short.estimate_ms == 1400);
        assert!(!shorten(&mut start(), 1, Duration::from_millis(950)));
        assert_eq!(again(&start(), vec![Case::read("b")], 2, None).estimate_ms, 900 + 1000);
        // Eight GPUs at once: one of them again takes as long as all, not an eighth.
        let cases = (0..8)
            .flat_map(|g| [format!("device read gpu{g}"), format!("peer gpu{g}")].map(|c| Case::read(&c)))
            .collect();
        let eight = Step { cases, ranks: 8, ..start() };
        assert_eq!(again(&eight, vec![Case::read("peer gpu3")], 2, None).estimate_ms, 900 + 1000);
        assert_eq!(again(&eight, vec![Case::read("peer gpu3")], 2, Some(800)).estimate_ms, 900 + 1600);
    }

    #[test]
    fn what_only_a_gpu_can_tell_outlasts_the_host() {
        let gpu = |probe| Step { processes: Processes::Gpus, ..step(probe, 1000) };
        let all = vec![gpu("gemm"), gpu("copy"), step("rdma", 1000), step("gemm", 1000), step("memory", 1000)];
        let (kept, _) = fit(all, &[1; 5], Duration::from_millis(1300));
        assert_eq!(kept.iter().map(|s| s.probe.as_str()).collect::<Vec<_>>(), ["gemm", "copy", "rdma"]);
    }

    #[test]
    fn measuring_again_takes_the_open_cases_and_more_time() {
        let s = again(&step("gemm", 1000), vec![Case::read("b")], 2, None);
        assert_eq!((s.cases.len(), s.estimate_ms, s.attempt), (1, 1000, 2));
    }
}
