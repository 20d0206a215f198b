//! Pair tests, as they were measured.

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

impl Pairs {
    pub fn new(leaf: Vec<u32>) -> Self {
        let nodes = leaf.len() as u32;
        Pairs { nodes, leaf, tests: Vec::new(), full: FULL_ROUNDS, one_machine: false, nominal: None }
    }

    pub fn hop(&self, a: u32, b: u32) -> Hop {
        if self.leaf[a as usize] == self.leaf[b as usize] { Hop::Intra } else { Hop::Inter }
    }

    pub fn leaves(&self) -> u32 {
        self.leaf.iter().copied().max().map_or(0, |l| l + 1)
    }
}
