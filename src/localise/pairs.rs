//! Pair tests, as they were measured.

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

impl Reading {
    pub fn rate(self) -> Option<f64> {
        match self {
            Reading::Rate(rate) => Some(rate),
            Reading::Failed => None,
        }
    }
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
    /// What each way lost by a longer wait for a core than is usual on a machine that nodes share, in the logarithm.
    pub excused: [f64; 2],
}

/// All tests of one network.
#[derive(Debug, Clone, Default)]
pub struct Pairs {
    pub nodes: u32,
    /// Each node's leaf; one leaf for all where the topology is unknown.
    pub leaf: Vec<u32>,
    pub tests: Vec<Test>,
    /// Rounds of all nodes at once, before suspects are looked at.
    pub full: u32,
    /// Nodes that run under one kernel: they take each other's cores.
    pub one_machine: bool,
    /// What the hardware between two nodes nominally carries, bytes per second, where the record says so.
    pub nominal: Option<f64>,
}

/// Rounds of all nodes that find one bad node in a hundred with few false alarms (section 2.3 of the method: one within
/// leaves, two across).
const FULL_ROUNDS: u32 = 3;

/// No more of a flow's time than this is put down to waiting for a core: what it did in the rest says too little.
const LONGEST_WAIT: f64 = 0.9;

impl Pairs {
    pub fn new(leaf: Vec<u32>) -> Self {
        let nodes = leaf.len() as u32;
        Pairs { nodes, leaf, tests: Vec::new(), full: FULL_ROUNDS, one_machine: false, nominal: None }
    }

    pub fn hop(&self, a: u32, b: u32) -> Hop {
        if self.leaf[a as usize] == self.leaf[b as usize] { Hop::Intra } else { Hop::Inter }
    }

    /// Nodes of one machine share its cores, and a test that waited longer for one than others did is slow by that: it is excused for what
    /// it would have reached had it waited as long as those that reach `rate` (bytes per second, what is usual), up to that rate. `waited` is
    /// the share of each test's ways, 0 to 1, that its threads had no core.
    pub fn excuse_waits(&mut self, waited: &[[f64; 2]], rate: f64) {
        let ways = |(t, w): (&Test, &[f64; 2])| [(t.out, w[0]), (t.back, w[1])];
        let well = |(r, w): (Reading, f64)| r.rate().is_some_and(|v| v >= rate).then_some(w);
        let usual = stats::median(&self.tests.iter().zip(waited).flat_map(ways).filter_map(well).collect::<Vec<f64>>());
        let excuse = |reading: Reading, waited: f64| {
            let longer = ((1.0 - usual) / (1.0 - waited.min(LONGEST_WAIT))).ln();
            let behind = reading.rate().map_or(0.0, |v| (rate / v).ln());
            longer.min(behind).max(0.0)
        };
        for (t, w) in self.tests.iter_mut().zip(waited) {
            t.excused = [excuse(t.out, w[0]), excuse(t.back, w[1])];
        }
    }

    pub fn leaves(&self) -> u32 {
        self.leaf.iter().copied().max().map_or(0, |l| l + 1)
    }
}
