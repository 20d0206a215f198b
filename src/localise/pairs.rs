//! Pair tests, read against those of the same round and hop class.

use crate::localise::decode::{self, Belief, Model, Observation};
use crate::measure::stats;

/// Between two nodes of one leaf, or of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hop {
    Intra,
    Inter,
}

/// One direction of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading {
    /// Bytes per second.
    Rate(f64),
    /// No connection, or it broke.
    Failed,
}

/// A pair, measured once. Nodes are numbers below [`Pairs::nodes`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Test {
    pub round: u32,
    /// At low concurrency: a suspect with a cleared node, or a pair again.
    pub quiet: bool,
    /// Two cleared nodes: the reference of a quiet round.
    pub control: bool,
    pub a: u32,
    pub b: u32,
    /// From `a` to `b`.
    pub out: Reading,
    /// From `b` to `a`.
    pub back: Reading,
}

/// A part of the cluster that can be bad by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// What a node sends.
    Sends(u32),
    /// What a node receives.
    Receives(u32),
    /// What leaves a leaf.
    Up(u32),
    /// What comes into a leaf.
    Down(u32),
}

/// What was made of all tests.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    /// Bad parts, with the best share of the reference that was ever read over a node's, and the median share over a
    /// leaf's: of its many readings some miss.
    pub bad: Vec<(Part, f64)>,
    /// Bad pairs between good nodes, as (from, to): read at least three times, never well. With the best share.
    pub pairs: Vec<(u32, u32, f64)>,
    /// Nodes about which too little is known, though they were tested.
    pub open: Vec<u32>,
    /// Readings that were bad and that nothing explains: interference.
    pub unexplained: usize,
    pub readings: usize,
}

/// Rates of pairs under full load and at low concurrency, bytes per second; absent where too few were measured for an
/// interval.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fabric {
    pub intra: Option<Rate>,
    pub inter: Option<Rate>,
    pub inter_quiet: Option<Rate>,
}

/// A median with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// All tests of one network.
#[derive(Debug, Clone, Default)]
pub struct Pairs {
    pub nodes: u32,
    /// Each node's leaf; one leaf for all where the topology is unknown.
    pub leaf: Vec<u32>,
    pub tests: Vec<Test>,
    pub model: Model,
    /// Rounds of all nodes at once, before suspects are looked at.
    pub full: u32,
}

/// Rounds of all nodes that find one bad node in a hundred with few false alarms (section 2.3 of the method: one within
/// leaves, two across).
const FULL_ROUNDS: u32 = 3;

/// A reading as the decoder wants it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged {
    pub from: u32,
    pub to: u32,
    pub quiet: bool,
    pub bad: bool,
    /// Of the reference; 0 where there was no connection.
    pub share: f64,
    pub hop: Hop,
}

/// Fewer values than this give no reference of their own.
const FEW: usize = 4;
/// Spread (in robust standard deviations) within which a reading is ordinary.
const ORDINARY: f64 = 4.0;
/// However much readings vary, half of the reference is bad.
const SURELY_BAD: f64 = 0.5;

impl Pairs {
    pub fn new(leaf: Vec<u32>) -> Self {
        let nodes = leaf.len() as u32;
        Pairs { nodes, leaf, tests: Vec::new(), model: Model::default(), full: FULL_ROUNDS }
    }

    pub fn hop(&self, a: u32, b: u32) -> Hop {
        if self.leaf[a as usize] == self.leaf[b as usize] { Hop::Intra } else { Hop::Inter }
    }

    pub fn leaves(&self) -> u32 {
        self.leaf.iter().copied().max().map_or(0, |l| l + 1)
    }

    /// Every direction of every test, held against its round and hop class.
    pub(super) fn readings(&self) -> Vec<Judged> {
        let mut out = Vec::with_capacity(self.tests.len() * 2);
        let mut by_class: std::collections::BTreeMap<(u32, Hop), Vec<&Test>> = Default::default();
        for t in &self.tests {
            by_class.entry((t.round, self.hop(t.a, t.b))).or_default().push(t);
        }
        let rates = |tests: &mut dyn Iterator<Item = &&Test>| -> Vec<f64> {
            tests
                .flat_map(|t| [t.out, t.back])
                .filter_map(|r| match r {
                    Reading::Rate(v) if v > 0.0 => Some(v),
                    _ => None,
                })
                .collect()
        };
        // Where a round has too few of a class, the class over all rounds stands in; then everything.
        let everything = rates(&mut self.tests.iter().collect::<Vec<_>>().iter());
        for ((_, hop), tests) in &by_class {
            let quiet = tests[0].quiet;
            let control = rates(&mut tests.iter().filter(|t| t.control));
            let own = rates(&mut tests.iter());
            let values = if control.len() >= 2 {
                control
            } else if own.len() >= FEW && !quiet {
                own
            } else {
                let class: Vec<&Test> =
                    self.tests.iter().filter(|t| self.hop(t.a, t.b) == *hop && t.quiet == quiet).collect();
                let class = rates(&mut class.iter());
                if class.len() >= FEW && !quiet { class } else { everything.clone() }
            };
            let limit = limit(&values, self.model.margin);
            for t in tests {
                for (from, to, reading) in [(t.a, t.b, t.out), (t.b, t.a, t.back)] {
                    let share = match (reading, limit) {
                        (Reading::Failed, _) => 0.0,
                        (Reading::Rate(v), Some((reference, _))) => v / reference,
                        (Reading::Rate(_), None) => 1.0,
                    };
                    let bad = limit.map_or(share == 0.0, |(_, least)| share < least);
                    out.push(Judged { from, to, quiet: t.quiet, bad, share, hop: *hop });
                }
            }
        }
        out
    }

    /// The parts on the path of a reading, by their numbers in the decoder.
    fn path(&self, r: &Judged) -> Vec<u32> {
        let n = self.nodes;
        let mut out = vec![r.from, n + r.to];
        if r.hop == Hop::Inter {
            let l = self.leaves();
            out.extend([2 * n + self.leaf[r.from as usize], 2 * n + l + self.leaf[r.to as usize]]);
        }
        out
    }

    fn part(&self, number: u32) -> Part {
        let (n, l) = (self.nodes, self.leaves());
        match number {
            x if x < n => Part::Sends(x),
            x if x < 2 * n => Part::Receives(x - n),
            x if x < 2 * n + l => Part::Up(x - 2 * n),
            x => Part::Down(x - 2 * n - l),
        }
    }

    /// What is believed of every part, by its number: sends, receives, up, down.
    pub fn beliefs(&self) -> Vec<Belief> {
        self.decode(&self.readings())
    }

    pub(super) fn decode(&self, readings: &[Judged]) -> Vec<Belief> {
        let observations: Vec<Observation> =
            readings.iter().map(|r| Observation { path: self.path(r), bad: r.bad, quiet: r.quiet }).collect();
        let nodes = 2 * self.nodes as usize;
        decode::beliefs(&observations, nodes, 2 * self.leaves() as usize, &self.model)
    }

    /// The verdict on everything measured so far.
    pub fn verdict(&self) -> Verdict {
        let readings = self.readings();
        let beliefs = self.decode(&readings);
        let mut verdict = Verdict { readings: readings.len(), ..Verdict::default() };
        let mut shares: Vec<Vec<f64>> = vec![Vec::new(); beliefs.len()];
        let mut bad_pairs: std::collections::BTreeMap<(u32, u32), Vec<&Judged>> = Default::default();
        for r in &readings {
            let path = self.path(r);
            for part in &path {
                if beliefs[*part as usize].is_bad() {
                    shares[*part as usize].push(r.share);
                }
            }
            if path.iter().all(|p| !beliefs[*p as usize].is_bad()) {
                verdict.unexplained += usize::from(r.bad);
                bad_pairs.entry((r.from, r.to)).or_default().push(r);
            }
        }
        for (number, belief) in beliefs.iter().enumerate() {
            if belief.is_bad() {
                let (part, all) = (self.part(number as u32), &shares[number]);
                let share = match part {
                    Part::Sends(_) | Part::Receives(_) => all.iter().copied().fold(0.0, f64::max),
                    Part::Up(_) | Part::Down(_) => stats::median(all),
                };
                verdict.bad.push((part, share));
            }
        }
        for ((from, to), readings) in bad_pairs {
            if readings.len() >= 3 && readings.iter().all(|r| r.bad) {
                verdict.unexplained -= readings.len();
                verdict.pairs.push((from, to, readings.iter().map(|r| r.share).fold(0.0, f64::max)));
            }
        }
        // With two nodes nobody can tell which of them it is.
        if self.nodes >= 3 {
            let unsure = |n: u32| {
                let (s, r) = (&beliefs[n as usize], &beliefs[(self.nodes + n) as usize]);
                s.observations > 0 && ((s.observations < 2 && s.bad > 0) || s.is_open() || r.is_open())
            };
            verdict.open = (0..self.nodes).filter(|n| unsure(*n)).collect();
        }
        verdict
    }

    /// The rates that tell an oversubscribed fabric from slow nodes.
    pub fn fabric(&self) -> Fabric {
        let median = |hop: Hop, quiet: bool| {
            let rates: Vec<f64> = self
                .tests
                .iter()
                .filter(|t| self.hop(t.a, t.b) == hop && t.quiet == quiet && (!quiet || t.control))
                .flat_map(|t| [t.out, t.back])
                .filter_map(|r| if let Reading::Rate(v) = r { Some(v) } else { None })
                .collect();
            let s = stats::summary(&rates)?;
            s.interval.map(|(low, high)| Rate { median: s.median, low, high })
        };
        Fabric {
            intra: median(Hop::Intra, false),
            inter: median(Hop::Inter, false),
            inter_quiet: median(Hop::Inter, true),
        }
    }
}

/// The reference of a class, and the least share of it that is ordinary there.
fn limit(values: &[f64], margin: f64) -> Option<(f64, f64)> {
    let (reference, deviation) = stats::robust(values)?;
    Some((reference, (1.0 - (ORDINARY * deviation / reference).max(margin)).max(SURELY_BAD)))
}
