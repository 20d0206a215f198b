//! A test as the decoder reads it.

use std::f64::consts::PI;

use crate::localise::Hop;

/// Deviations from which a reading is slow, and the least share (in the logarithm) that is.
const SLOW: f64 = 3.0;
pub(super) const LEAST_SLOW: f64 = 0.05;

/// The same for what no tail of noise explains: deviations, and the share (15 %).
const FAR: f64 = 5.0;
const LEAST_FAR: f64 = 0.163;

/// A reading that lost more than this (in the logarithm: 95 %) is as good as one that lost so much: a link at a hundredth of its rate
/// is not told from one at a twentieth by how far it is from what severities there are.
pub(super) const SLOWEST: f64 = 2.995_732_273_553_991;

/// Student's t with three degrees of freedom over its standard deviation as [`stats::robust`](crate::measure::stats::robust) sees it.
const TAILS: f64 = 1.134;

/// How often noise alone makes a way slower by `z` of its deviations or more. Its tails are heavy, as those of real readings are, however
/// it looks near its middle.
pub(super) fn tail(z: f64) -> f64 {
    let t = TAILS * z / 3f64.sqrt();
    0.5 - (1.0 / (t + 1.0 / t) + t.atan()) / PI
}

/// A test between two nodes. Ways: 0 is out (the first end sends), 1 is back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observed {
    pub ends: [u32; 2],
    pub round: u32,
    pub quiet: bool,
    pub hop: Hop,
    /// What the rate is held against: its class's upper mode, in the logarithm.
    pub reference: f64,
    /// Logarithm of the rate over the reference's; `None` where nothing arrived.
    pub residual: [Option<f64>; 2],
    /// How much of it no reading shows ([`Test::excused`](crate::localise::Test)).
    pub excused: [f64; 2],
    /// Standard deviation of a residual where all is well.
    pub deviation: [f64; 2],
    /// What leaves on the way lose, in the logarithm.
    pub floor: [f64; 2],
    /// What its class loses against pairs within leaves, in the logarithm: a node that loses less is not seen here.
    pub hidden: f64,
    /// Share of such tests that others' traffic disturbs.
    pub disturbed: f64,
    /// Probability that the pair itself explains the test.
    pub explained: f64,
}

impl Observed {
    /// What the slower way loses against pairs within leaves, in the logarithm, with its deviation; infinite where nothing arrived.
    pub fn loss(&self) -> (f64, f64) {
        let one = |way: usize| self.residual[way].map_or(f64::INFINITY, |y| self.hidden - y);
        (one(0).max(one(1)), self.deviation[0].max(self.deviation[1]))
    }

    /// The residual as severities are looked for in it.
    pub fn seen(&self, way: usize) -> Option<f64> {
        self.residual[way].map(|y| y.max(-SLOWEST))
    }

    /// How well a way fits a deficit that is itself uncertain by `wide`; at most 1 + what disturbance adds.
    pub fn fit(&self, way: usize, deficit: f64, wide: f64) -> f64 {
        let Some(y) = self.seen(way) else { return self.disturbed.max(1e-3) };
        let own = self.deviation[way];
        let all = own.hypot(wide);
        let z = (y + deficit) / all;
        let w = 1.0 + z * z / 4.0;
        let plain = 1.0 / (w * w * w.sqrt());
        (1.0 - self.disturbed) * plain + self.disturbed * 0.3 * if z < 0.0 { 1.0 } else { plain }
    }

    /// Whether a way is slower than noise and what is known to lie on it explain.
    pub fn is_slow(&self, way: usize, known: f64) -> bool {
        self.lacks((SLOW * self.deviation[way]).max(LEAST_SLOW), way, known)
    }

    /// The same by more than the tails of noise explain, which repeat as noise does.
    pub fn is_far_behind(&self, way: usize, known: f64) -> bool {
        self.lacks((FAR * self.deviation[way]).max(LEAST_FAR), way, known)
    }

    fn lacks(&self, least: f64, way: usize, known: f64) -> bool {
        self.residual[way].is_none_or(|y| y + self.floor[way].max(known) < -least) && known.is_finite()
    }
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
}
