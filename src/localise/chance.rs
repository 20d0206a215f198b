//! What tests lost, and how likely it is that no fault took it: others' traffic takes something else each time, noise a little.

use std::f64::consts::PI;

use crate::measure::stats;

/// Student's t with three degrees of freedom over its standard deviation as [`stats::robust`] sees it.
const TAILS: f64 = 1.134;
/// Deviations within which two are alike; and of losses this share of the smaller one more.
pub(super) const ALIKE: f64 = 4.0;
const ALIKE_SHARE: f64 = 0.05;
/// How often others' traffic takes as much again as it took, and how much likelier it is than a fault where it does not.
pub(super) const AGAIN: f64 = 0.3;
const APART: f64 = 8.0;

/// What a test lost, in the logarithm, with its deviation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost {
    pub by: f64,
    pub deviation: f64,
}

impl Lost {
    /// How often noise alone makes a way so slow. Its tails are heavy, as those of real readings are, however it looks near its middle.
    pub fn by_noise(self) -> f64 {
        tail(self.by / self.deviation)
    }

    /// Whether both are the same.
    pub fn is_like(self, other: Lost) -> bool {
        let apart = || (self.by - other.by).abs();
        let least = || ALIKE * self.deviation.max(other.deviation) + ALIKE_SHARE * self.by.min(other.by).abs();
        self.by == other.by || apart() < least()
    }

    /// The median, as certain as the surest of them.
    pub fn middle(all: &[Lost]) -> Lost {
        let by = stats::median(&all.iter().map(|l| l.by).collect::<Vec<f64>>());
        Lost { by, deviation: all.iter().map(|l| l.deviation).fold(f64::INFINITY, f64::min) }
    }
}

/// How likely it is that no fault made tests what they are, which lost so much where they are slow. Of each test: how likely others'
/// traffic makes it, and how likely noise does. A fault takes the same each time and others' traffic something else; what noise takes is
/// alike as well, and of `nodes` of which more than `few` were looked at, these are the ones that it made the slowest.
pub(super) fn no_fault(tests: impl Iterator<Item = (f64, f64)>, lost: &[Lost], few: usize, nodes: usize) -> f64 {
    let (mut traffic, mut either) = (1.0, 1.0);
    for (by_traffic, by_noise) in tests {
        traffic *= by_traffic;
        either *= by_traffic + by_noise;
    }
    traffic * by_traffic(lost) + (either - traffic) / among(few, nodes)
}

/// How much likelier than a fault others' traffic makes these losses.
fn by_traffic(lost: &[Lost]) -> f64 {
    let usual = Lost::middle(lost);
    let agree = lost.iter().filter(|l| l.is_like(usual)).count();
    // The first says nothing.
    AGAIN.powi(agree.saturating_sub(1) as i32) * APART.powi((lost.len() - agree) as i32)
}

/// What a share, of nodes or of pairs, that holds among up to `few` nodes is to be taken times of among `nodes`: of ten thousand chance
/// makes any pattern once.
pub(super) fn among(few: usize, nodes: usize) -> f64 {
    (few as f64 / nodes as f64).min(1.0)
}

fn tail(z: f64) -> f64 {
    let t = TAILS * z / 3f64.sqrt();
    0.5 - (1.0 / (t + 1.0 / t) + t.atan()) / PI
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_students_t() {
        // Of three degrees of freedom: 3.182 and 5.841 leave 2.5 % and 0.5 % on a side (any table of t).
        assert!((tail(3.182 / TAILS) - 0.025).abs() < 1e-4 && (tail(5.841 / TAILS) - 0.005).abs() < 1e-4);
        assert_eq!((tail(0.0), tail(f64::INFINITY)), (0.5, 0.0));
    }

    #[test]
    fn losses_that_are_alike_are_no_traffic_and_may_be_noise() {
        let lost = |by: f64| Lost { by, deviation: 0.02 };
        let of = |by: [f64; 2], noise: f64, nodes| no_fault([(0.03, noise); 2].into_iter(), &by.map(lost), 64, nodes);
        assert!(of([0.7, 0.71], 0.0, 8) < of([0.5, 0.9], 0.0, 8) / 20.0);
        assert!(of([0.7, 0.71], 1e-2, 8) > 1.5 * of([0.7, 0.71], 0.0, 8));
        // The more nodes there were to pick from, the likelier noise made what was picked; traffic no more than before.
        assert!(of([0.7, 0.71], 1e-2, 10_000) > 100.0 * of([0.7, 0.71], 1e-2, 64));
        assert_eq!(of([0.7, 0.71], 0.0, 10_000), of([0.7, 0.71], 0.0, 64));
    }

    #[test]
    fn where_nothing_arrived_losses_are_alike() {
        let none = Lost { by: f64::INFINITY, deviation: 0.02 };
        assert!(none.is_like(none) && !none.is_like(Lost { by: 1.0, ..none }));
    }
}
