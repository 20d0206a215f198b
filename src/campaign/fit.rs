//! Fitting the steps into the time that was promised.

use std::time::Duration;

use crate::cluster::Step;

/// Shorter than this share of its estimate a step measures too few blocks to be worth its time.
const SHORTEST: f64 = 0.4;

/// Probes in the order in which they are given up when time is short: the last first. What was forgotten before the
/// crash in the story, the storage, is among the last to go.
const KEEP_FIRST: &[&str] = &["environment", "storage", "gemm", "tcp", "collective", "memory"];

/// Shortens steps to fit `time`, and drops what does not fit even then. Returns what to run, in order, and what was
/// cut.
///
/// `turns` says how often each step runs one after the other, because nodes share machines.
pub fn fit(steps: Vec<Step>, turns: &[u32], time: Duration) -> (Vec<Step>, Vec<Step>) {
    let mut kept: Vec<(Step, f64)> = steps.into_iter().zip(turns.iter().map(|t| f64::from(*t))).collect();
    let mut cut = Vec::new();
    let available = time.as_millis() as f64;
    let total = |steps: &[(Step, f64)]| steps.iter().map(|(s, turns)| s.estimate_ms as f64 * turns).sum::<f64>();
    while !kept.is_empty() && total(&kept) * SHORTEST > available {
        let worth = |s: &Step| KEEP_FIRST.iter().position(|p| *p == s.probe.as_str()).unwrap_or(KEEP_FIRST.len());
        let last = (0..kept.len()).max_by_key(|i| (worth(&kept[*i].0), *i)).unwrap_or(0);
        cut.push(kept.remove(last).0);
    }
    let scale = (available / total(&kept).max(1.0)).min(1.0);
    let scaled =
        |(step, _): (Step, f64)| Step { estimate_ms: ((step.estimate_ms as f64 * scale) as u64).max(1), ..step };
    (kept.into_iter().map(scaled).collect(), cut)
}

/// Shortens one step to the time that is left; false when that is too short to measure in.
pub fn shorten(step: &mut Step, turns: u32, left: Duration) -> bool {
    let left = left.as_millis() as f64 / f64::from(turns.max(1));
    let worth_it = left >= step.estimate_ms as f64 * SHORTEST;
    step.estimate_ms = step.estimate_ms.min(left as u64).max(1);
    worth_it
}

/// A step again, for some of its cases, with `factor` times the time for each.
pub fn again(step: &Step, cases: Vec<String>, factor: u64) -> Step {
    let share = cases.len() as u64 * step.estimate_ms * factor / step.cases.len().max(1) as u64;
    Step { estimate_ms: share.max(200), cases, attempt: step.attempt + 1, ..step.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Processes;
    use crate::id::ProbeName;

    fn step(probe: &'static str, estimate_ms: u64) -> Step {
        let cases = vec!["a".into(), "b".into()];
        Step {
            name: probe.into(),
            probe: ProbeName::new(probe),
            ranks: 1,
            groups: Vec::new(),
            exclusive: false,
            cases,
            args: serde_json::Value::Null,
            seed: 1,
            estimate_ms,
            start_ms: 0,
            processes: Processes::Own,
            scratch: None,
            rail: None,
            attempt: 1,
        }
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
    fn measuring_again_takes_the_open_cases_and_more_time() {
        let s = again(&step("gemm", 1000), vec!["b".into()], 2);
        assert_eq!((s.cases.len(), s.estimate_ms, s.attempt), (1, 1000, 2));
    }
}
