//! What the host of a virtual machine takes without saying so. `steal` in /proc/stat is what a host tells, and many tell nothing; a
//! neighbour on the other thread of the same core is never in it. How fast an empty loop turns shows both.

use std::thread;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sys::spin;

/// How fast a virtual machine's cores ran just before and after a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pace {
    /// Cores that were looked at, at the same time.
    pub cores: u32,
    /// Turns of a loop of one cycle, by the second and core.
    pub hz: f64,
    /// The base clock that the machine states.
    pub base_hz: f64,
}

impl Pace {
    /// The share of the cores' time that the host took, at least: a core runs at its base clock or above where nobody takes it.
    pub fn taken(&self) -> f64 {
        let share = 1.0 - self.hz / self.base_hz;
        if share.is_finite() { share.max(0.0) } else { 0.0 }
    }
}

/// A look before, and one after: longer than a scheduler's slice of a few milliseconds.
const LOOK: Duration = Duration::from_millis(20);

/// Looks at the pace of the cores around a measurement.
#[derive(Debug)]
pub struct PaceMeter {
    base_hz: Option<f64>,
    cores: usize,
    before: Option<f64>,
}

impl PaceMeter {
    /// Looks for the first time. Without a base clock it never looks: on hardware of one's own, slow cores are the finding.
    pub fn open(base_hz: Option<f64>, cores: usize) -> Self {
        let before = base_hz.and_then(|_| all(cores));
        PaceMeter { base_hz, cores, before }
    }

    /// Looks again, and tells both.
    pub fn read(&self) -> Option<Pace> {
        let (base_hz, before) = (self.base_hz?, self.before?);
        let hz = (before + all(self.cores)?) / 2.0;
        Some(Pace { cores: self.cores as u32, hz, base_hz })
    }
}

/// The mean over so many threads at once.
fn all(cores: usize) -> Option<f64> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.max(1))
            .map(|_| thread::Builder::new().spawn_scoped(scope, || spin::turns_per_second(LOOK)))
            .collect();
        let n = threads.len() as f64;
        let turns = threads.into_iter().map(|t| t.ok()?.join().ok()?);
        Some(turns.collect::<Option<Vec<f64>>>()?.iter().sum::<f64>() / n)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_is_taken_for_a_third_runs_at_two_thirds() {
        let pace = |cores, hz| Pace { cores, hz, base_hz: 3e9 };
        assert!((pace(2, 2e9).taken() - 1.0 / 3.0).abs() < 1e-9);
        // Faster than its base clock: nothing was taken. A clock of nonsense takes nothing.
        assert_eq!(pace(2, 4e9).taken(), 0.0);
        assert_eq!(Pace { cores: 1, hz: 1.0, base_hz: 0.0 }.taken(), 0.0);
    }

    #[test]
    fn threads_that_share_a_core_have_a_part_of_it() {
        // Eight to a core: whatever else runs on this machine, each gets less than where there is one.
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let best = |n: usize| (0..5).filter_map(|_| all(n)).fold(0.0, f64::max);
        let (fits, shared) = (best(cores), best(8 * cores));
        assert!(fits > 0.1e9 && shared < 0.8 * fits, "{fits} {shared}");
    }

    #[test]
    fn without_a_base_clock_nothing_is_looked_at() {
        assert_eq!(PaceMeter::open(None, 2).read(), None);
    }
}
