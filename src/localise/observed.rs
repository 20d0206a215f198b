//! A test as the decoder reads it.

use crate::localise::Hop;
use crate::localise::chance::Lost;

/// Deviations from which a reading is slow, and the least share (in the logarithm) that is.
const SLOW: f64 = 3.0;
pub(super) const LEAST_SLOW: f64 = 0.05;

/// The same for what no tail of noise explains: deviations, and the share (15 %).
const FAR: f64 = 5.0;
const LEAST_FAR: f64 = 0.163;

/// A reading that lost more than this (in the logarithm: 95 %) is as good as one that lost so much: a link at a hundredth of its rate
/// is not told from one at a twentieth by how far it is from what severities there are.
pub(super) const SLOWEST: f64 = 2.995_732_273_553_991;

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
    /// What the slower way lost against pairs within leaves; infinite where nothing arrived.
    pub fn lost(&self) -> Lost {
        let one = |way: usize| self.residual[way].map_or(f64::INFINITY, |y| self.hidden - y);
        Lost { by: one(0).max(one(1)), deviation: self.deviation[0].max(self.deviation[1]) }
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
