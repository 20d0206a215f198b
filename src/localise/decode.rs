//! Belief about parts from noisy readings of paths: a reading is bad when any part on its path is, but for misses and
//! false alarms. Each part's log-odds are worked out from the others' until they settle (naive mean-field on the OR
//! model of Boolean tomography).

/// What readings are like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// A reading over good parts is bad so often: others' traffic. Under full load, and at low concurrency.
    pub false_bad: f64,
    pub false_bad_quiet: f64,
    /// A reading over a bad part is good so often: it comes and goes.
    pub miss: f64,
    /// Share of nodes that are bad before anything is known (SuperBench, GREYHOUND: 0.5 to 2 %).
    pub prior: f64,
    /// Share below the reference that is always ordinary.
    pub margin: f64,
}

impl Default for Model {
    fn default() -> Self {
        Model { false_bad: 0.03, false_bad_quiet: 0.005, miss: 0.01, prior: 0.005, margin: 0.15 }
    }
}

/// What is believed of a part.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Belief {
    /// Natural logarithm of P(bad) / P(good).
    pub log_odds: f64,
    pub observations: u32,
    pub bad: u32,
}

/// Log-odds from which a part is called bad: 3 to 1.
const CALLED: f64 = 1.1;
/// Log-odds between which nothing is said.
const OPEN: (f64, f64) = (-1.1, CALLED);

impl Belief {
    pub fn probability(&self) -> f64 {
        1.0 / (1.0 + (-self.log_odds).exp())
    }

    pub fn is_bad(&self) -> bool {
        self.log_odds > CALLED
    }

    pub fn is_open(&self) -> bool {
        self.log_odds > OPEN.0 && self.log_odds <= OPEN.1
    }
}

pub(super) struct Observation {
    pub path: Vec<u32>,
    pub bad: bool,
    pub quiet: bool,
}

/// Rounds in which the beliefs settle: they travel one part further in each.
const SWEEPS: usize = 12;

/// Beliefs about `nodes` parts of nodes and, after them, `leaves` parts of leaves.
pub(super) fn beliefs(observations: &[Observation], nodes: usize, leaves: usize, model: &Model) -> Vec<Belief> {
    let n = nodes + leaves;
    let logit = |p: f64| (p / (1.0 - p)).ln();
    // Leaves are few and well watched; a leaf is bad less often than one of its dozens of nodes.
    let prior: Vec<f64> = (0..n).map(|i| logit(if i < nodes { model.prior } else { model.prior / 5.0 })).collect();
    let mut out: Vec<Belief> = prior.iter().map(|p| Belief { log_odds: *p, ..Belief::default() }).collect();
    for o in observations {
        for part in &o.path {
            let b = &mut out[*part as usize];
            b.observations += 1;
            b.bad += u32::from(o.bad);
        }
    }
    let mut next = prior.clone();
    for sweep in 0..SWEEPS {
        next.copy_from_slice(&prior);
        for o in observations {
            let q = if o.quiet { model.false_bad_quiet } else { model.false_bad };
            // P(nobody on the path reads bad), part by part left out.
            let clear = |b: &Belief| 1.0 - b.probability() * (1.0 - model.miss);
            let all: f64 = o.path.iter().map(|p| clear(&out[*p as usize])).product();
            for part in &o.path {
                let others = (all / clear(&out[*part as usize])).clamp(0.0, 1.0);
                let good_if_good = (1.0 - q) * others;
                let good_if_bad = model.miss * good_if_good;
                next[*part as usize] +=
                    if o.bad { ((1.0 - good_if_bad) / (1.0 - good_if_good).max(1e-9)).ln() } else { model.miss.ln() };
            }
        }
        // Half a step at first: two parts that explain the same readings must not blame each other in turns.
        let step = if sweep < SWEEPS / 2 { 0.5 } else { 1.0 };
        for (b, log_odds) in out.iter_mut().zip(&next) {
            b.log_odds += step * (log_odds - b.log_odds);
            b.log_odds = b.log_odds.clamp(-60.0, 60.0);
        }
    }
    out
}
