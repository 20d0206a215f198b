//! A cluster that is not there: N virtual nodes with faults, measured by the same schedule, localiser and judge.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::cluster::{GroupOutcome, Step};
use crate::id::NodeName;
use crate::measure::{Bound, Facts, FailKind, Latencies, Measured, Outcome};
use crate::probe;
use crate::schedule::fleet::{ArgsOf, Fleet};
use crate::topology::{Gpu, Leaf, Machine, Nvidia, PciGpu, Pcie, PcieState};
use crate::unit::Unit;
use crate::work::{Better, Case, Fact, Metric, RoundKind, Way};

/// The launcher of a record that is simulated: it says nothing about any machine.
pub const SIMULATION: &str = "simulation";

/// A fault: what is slow, what it leaves, and how often it shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub part: Faulty,
    /// Share of the rate that is left; 0 is dead.
    pub left: f64,
    /// Share of tests in which it shows; each direction of a pair is a test of its own.
    pub duty: f64,
}

/// What can be slow.
#[derive(Debug, Clone, PartialEq)]
pub enum Faulty {
    /// Everything through the node's NIC.
    Node(u32),
    Sends(u32),
    Receives(u32),
    /// One pair, both ways.
    Pair(u32, u32),
    /// A pair of nodes that are well, among those that the schedule measures across leaves: what nobody measures nobody
    /// finds.
    MeasuredPair,
    /// All that crosses a leaf's uplinks.
    Leaf(u32),
    /// The node is slow only in groups of so many and more.
    Scale(u32, u32),
    /// The node computes slowly; its network is well.
    Computes(u32),
    /// One GPU of one node computes slowly.
    Gpu(u32, u32),
    /// The same GPU of every node computes slowly.
    Slot(u32),
}

/// How the virtual cluster behaves. Rates are of a link, in bytes per second.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub nodes: u32,
    pub per_leaf: u32,
    /// Relative standard deviation of a reading.
    pub noise: f64,
    /// Noise with heavy tails (Student's t with three degrees of freedom, of the same deviation) in place of a normal one.
    pub tails: bool,
    /// Share of tests that others' traffic disturbs under full load; a sixth of it when quiet. It leaves 30 to 95 %.
    pub false_bad: f64,
    /// Share of tests that a fault misses.
    pub miss: f64,
    /// Share of pairs whose flows are hashed onto one uplink, the same every time: half of the rate across leaves under
    /// full load.
    pub hash: f64,
    /// Share of leaves whose uplinks others' jobs use in a round. They leave 40 to 90 %.
    pub jobs: f64,
    /// Uplink capacity of a leaf over that of its nodes.
    pub uplinks: f64,
    /// GPUs of a node.
    pub gpus: u32,
    /// Relative standard deviation between healthy GPUs.
    pub silicon: f64,
}

const RATE: f64 = 45e9;
/// What the link of such a rate nominally carries: 400 Gb/s.
const NOMINAL: f64 = 50e9;
/// What others' traffic leaves of a test, and others' jobs of a leaf's uplinks, at least and at most.
const DISTURBED: (f64, f64) = (0.3, 0.95);
const JOBS: (f64, f64) = (0.4, 0.9);
/// Quiet rounds load few links: interference falls with concurrency (statically routed fabrics lose 40 % at full load).
const QUIET_SHARE: f64 = 1.0 / 6.0;

pub struct Simulated {
    pub shape: Shape,
    pub faults: Vec<Fault>,
    /// Rounds of pairs, and pairs in all.
    pub rounds: u32,
    pub tests: u64,
    names: Vec<NodeName>,
    numbers: HashMap<NodeName, u32>,
    rng: fastrand::Rng,
    /// What others' jobs leave of each leaf's uplinks in this round.
    jobs: Vec<f64>,
    seed: u64,
    /// What each GPU is good for, by node and slot: its own and the same every time.
    silicon: Vec<f64>,
}

impl Simulated {
    pub fn new(shape: Shape, faults: Vec<Fault>, seed: u64) -> Self {
        let width = shape.nodes.to_string().len();
        let names: Vec<NodeName> = (1..=shape.nodes).map(|i| NodeName(format!("sim{i:0width$}"))).collect();
        let numbers = names.iter().enumerate().map(|(i, n)| (n.clone(), i as u32)).collect();
        let mut of_gpus = fastrand::Rng::with_seed(seed ^ 0x006b_0063);
        let healthy = |_| 1.0 + shape.silicon * gauss(&mut of_gpus);
        let silicon = (0..shape.nodes * shape.gpus).map(healthy).collect();
        let rng = fastrand::Rng::with_seed(seed);
        Simulated { shape, faults, rounds: 0, tests: 0, names, numbers, rng, jobs: Vec::new(), seed, silicon }
    }

    pub fn leaves(&self) -> Vec<Leaf> {
        let leaf = |(i, nodes): (usize, &[NodeName])| Leaf { name: format!("leaf{i}"), nodes: nodes.to_vec() };
        self.names.chunks(self.shape.per_leaf.max(1) as usize).enumerate().map(leaf).collect()
    }

    pub fn name(&self, node: u32) -> &NodeName {
        &self.names[node as usize]
    }

    /// Nodes that a perfect check would leave out.
    pub fn guilty(&self) -> BTreeSet<NodeName> {
        let mut out = BTreeSet::new();
        for f in &self.faults {
            match f.part {
                Faulty::Node(n) | Faulty::Sends(n) | Faulty::Receives(n) | Faulty::Computes(n) | Faulty::Gpu(n, _) => {
                    out.insert(self.name(n).clone());
                }
                // With one group of that size there is none to hold it against.
                Faulty::Scale(n, from) if from.next_power_of_two().max(2) * 2 <= self.shape.nodes => {
                    out.insert(self.name(n).clone());
                }
                Faulty::Pair(..) | Faulty::MeasuredPair | Faulty::Leaf(_) | Faulty::Scale(..) | Faulty::Slot(_) => {}
            }
        }
        out
    }

    /// What a fault leaves of a node's network, for each that is guilty.
    pub fn left(&self, node: &NodeName) -> Option<f64> {
        let of = |f: &&Fault| match f.part {
            Faulty::Node(n) | Faulty::Sends(n) | Faulty::Receives(n) => self.name(n) == node,
            _ => false,
        };
        self.faults.iter().find(of).map(|f| f.left)
    }

    /// Pairs and leaves that a perfect check would name.
    pub fn guilty_pairs(&self) -> BTreeSet<(NodeName, NodeName)> {
        let of = |f: &Fault| match f.part {
            Faulty::Pair(a, b) => Some((self.name(a.min(b)).clone(), self.name(a.max(b)).clone())),
            _ => None,
        };
        self.faults.iter().filter_map(of).collect()
    }

    pub fn guilty_leaves(&self) -> BTreeSet<String> {
        let of = |f: &Fault| if let Faulty::Leaf(l) = f.part { Some(format!("leaf{l}")) } else { None };
        self.faults.iter().filter_map(of).collect()
    }

    /// Picks the pair that is to be among the measured ones: at the first round across leaves, of nodes that are well.
    fn choose_pair(&mut self, step: &Step) {
        let well = |n: u32| {
            !self.faults.iter().any(|f| match f.part {
                Faulty::Node(x) | Faulty::Sends(x) | Faulty::Receives(x) => x == n,
                Faulty::Leaf(l) => self.leaf(n) == l,
                _ => false,
            })
        };
        let of = |g: &[NodeName]| Some((*self.numbers.get(g.first()?)?, *self.numbers.get(g.get(1)?)?));
        let pairs: Vec<(u32, u32)> = step.groups().filter_map(of).filter(|(a, b)| well(*a) && well(*b)).collect();
        let Some((a, b)) = self.rng.choice(pairs) else { return };
        for f in self.faults.iter_mut().filter(|f| f.part == Faulty::MeasuredPair) {
            f.part = Faulty::Pair(a, b);
        }
    }

    fn leaf(&self, node: u32) -> u32 {
        node / self.shape.per_leaf.max(1)
    }

    fn gauss(&mut self) -> f64 {
        gauss(&mut self.rng)
    }

    /// The noise of a reading, in deviations.
    fn noise(&mut self) -> f64 {
        let normal = self.gauss();
        if !self.shape.tails {
            return normal;
        }
        let square = (0..3).map(|_| self.gauss().powi(2)).sum::<f64>() / 3.0;
        // Three degrees of freedom have a variance of three.
        normal / (3.0 * square.max(1e-6)).sqrt()
    }

    /// What faults leave from one node to another, each if it shows this time.
    fn left_between(&mut self, from: u32, to: u32) -> f64 {
        let across = self.leaf(from) != self.leaf(to);
        let mut least: f64 = 1.0;
        for f in &self.faults {
            let lies = match f.part {
                Faulty::Node(n) => n == from || n == to,
                Faulty::Sends(n) => n == from,
                Faulty::Receives(n) => n == to,
                Faulty::Pair(a, b) => (a, b) == (from, to) || (b, a) == (from, to),
                Faulty::Leaf(l) => across && (self.leaf(from) == l || self.leaf(to) == l),
                Faulty::MeasuredPair | Faulty::Scale(..) | Faulty::Computes(_) | Faulty::Gpu(..) | Faulty::Slot(_) => {
                    false
                }
            };
            if lies && (f.duty >= 1.0 || self.rng.f64() < f.duty) {
                least = least.min(f.left);
            }
        }
        least
    }

    /// What the fabric leaves between two nodes in this round.
    fn fabric_between(&self, a: u32, b: u32, quiet: bool) -> f64 {
        let (here, there) = (self.leaf(a), self.leaf(b));
        if here == there {
            return 1.0;
        }
        let jobs = |l: u32| self.jobs.get(l as usize).copied().unwrap_or(1.0);
        let mut left = jobs(here).min(jobs(there));
        if !quiet {
            left = left.min(self.shape.uplinks);
            let pair = u64::from(a.min(b)) << 32 | u64::from(a.max(b));
            if self.shape.hash > 0.0 && fastrand::Rng::with_seed(self.seed ^ pair).f64() < self.shape.hash {
                left = left.min(0.5);
            }
        }
        left
    }

    fn pair(&mut self, step: &Step, a: u32, b: u32) -> (f64, f64) {
        let quiet = step.pair_round().is_some_and(|r| r.kind.is_quiet());
        // Interference and misses are of the test: both directions share the moment.
        let false_bad = self.shape.false_bad * if quiet { QUIET_SHARE } else { 1.0 };
        let (disturbed, missed) = (self.rng.f64() < false_bad, self.rng.f64() < self.shape.miss);
        let others = if disturbed { between(&mut self.rng, DISTURBED) } else { 1.0 };
        let fabric = self.fabric_between(a, b, quiet).min(others);
        let mut one = |from: u32, to: u32| {
            let left = if missed { 1.0 } else { self.left_between(from, to) };
            RATE * fabric.min(left) * (1.0 + self.shape.noise * self.noise()).max(0.1)
        };
        (one(a, b), one(b, a))
    }

    /// What a case of a pair measured; nothing arrives over what is dead.
    fn reading(&self, rate: f64) -> Outcome {
        if rate <= 0.0 {
            return Outcome::error(FailKind::Error, "simulated: nothing arrived".to_owned());
        }
        let mut outcome = series(Metric::Bandwidth, rate);
        if let Outcome::Measured(m) = &mut outcome {
            m.series
                .iter_mut()
                .for_each(|s| s.nominal = Some(Box::new(Bound::new(NOMINAL, "a simulated link of 400 Gb/s"))));
        }
        outcome
    }

    /// What a node measures alone: every metric of the probe that the schedule chose, each as noisy as the next.
    fn alone(&mut self, step: &Step, node: u32) -> Outcome {
        let metrics = probe::find(step.probe.as_str()).map_or(&[][..], |p| p.metrics());
        let computes = self.faults.iter().find(|f| f.part == Faulty::Computes(node));
        let left = computes.filter(|_| matches!(step.probe.as_str(), "gemm" | "memory")).map_or(1.0, |f| f.left);
        let mut one = |m: Metric| {
            // Of the order that servers reach, so that the floors for servers are far.
            let base = match m.unit() {
                Unit::FlopPerSecond => 2e12,
                Unit::Second => 5e-6,
                _ => RATE,
            };
            let of_case = (1.0 + self.shape.noise * self.gauss()).max(0.1);
            let value = if m.better() == Better::Higher { base * of_case * left } else { base * of_case / left };
            let samples = (0..8).map(|_| value * (1.0 + 0.25 * self.shape.noise * self.gauss()).max(0.1)).collect();
            m.series(samples, 1)
        };
        Outcome::Measured(Measured { series: metrics.iter().map(|d| one(d.metric)).collect(), ..Measured::default() })
    }

    /// What discovery finds of a node: its GPUs, all of one model that no datasheet knows.
    fn machine(&self, node: u32) -> Outcome {
        let pci = |gpu: u32| format!("{gpu:04x}:01:00.0");
        let gpu = |index: u32| Gpu {
            index,
            name: "Simulated GPU".to_owned(),
            uuid: format!("GPU-simulated-{node}-{index}"),
            pci: pci(index),
            pcie: PcieState { generation_max: Some(5), lanes_max: Some(16), ..PcieState::default() },
            ..Gpu::default()
        };
        let on_bus = |gpu: u32| PciGpu {
            pci: pci(gpu),
            vendor: PciGpu::NVIDIA.to_owned(),
            device: "simulated".to_owned(),
            pcie: Some(Pcie { bridges: vec![format!("{gpu:04x}:00:00.0")], ..Pcie::default() }),
            ..PciGpu::default()
        };
        let gpus = 0..self.shape.gpus;
        let machine = Machine {
            hostname: self.name(node).0.clone(),
            gpus: gpus.clone().map(on_bus).collect(),
            nvidia: Some(Nvidia { gpus: gpus.map(gpu).collect(), ..Nvidia::default() }),
            ..Machine::default()
        };
        Outcome::facts(Facts::Machine(Box::new(machine)))
    }

    /// What one GPU measures of a case.
    fn gpu(&mut self, step: &Step, node: u32, gpu: u32) -> Outcome {
        let metrics = probe::find(step.probe.as_str()).map_or(&[][..], |p| p.metrics());
        let computes = step.probe.as_str() == "gemm";
        let own = self.silicon.get((node * self.shape.gpus + gpu) as usize).copied().unwrap_or(1.0);
        // A link carries what its generation does, whatever silicon is at its end.
        let own = if step.probe.as_str() == "copy" { 1.0 } else { own };
        let hit = |f: &&Fault| computes && (f.part == Faulty::Gpu(node, gpu) || f.part == Faulty::Slot(gpu));
        let left = own * self.faults.iter().find(hit).map_or(1.0, |f| f.left);
        let mut one = |m: Metric| {
            let base = if m.unit() == Unit::FlopPerSecond { 700e12 } else { 3e12 };
            let samples = (0..8).map(|_| base * left * (1.0 + self.shape.noise * self.gauss()).max(0.1)).collect();
            m.series(samples, 1)
        };
        Outcome::Measured(Measured { series: metrics.iter().map(|d| one(d.metric)).collect(), ..Measured::default() })
    }

    /// Microseconds: a kernel's round trip, more across leaves, and what is left of noise after the best of many.
    fn latencies(&mut self, nodes: &[NodeName], members: &[u32]) -> Outcome {
        let mut one = |a: u32, b: u32| {
            let hops = if self.leaf(a) == self.leaf(b) { 0.0 } else { 1.2 };
            (a != b).then(|| 15.0 + hops - 0.1 * (1.0 - self.rng.f64()).ln())
        };
        let rtt_us = members.iter().map(|a| members.iter().map(|b| one(*a, *b)).collect()).collect();
        let facts = Facts::Latencies(Latencies { nodes: nodes.to_vec(), rtt_us });
        Outcome::facts(facts)
    }

    fn group(&mut self, group: &[u32]) -> f64 {
        let size = group.len() as u32;
        let hit = |f: &&Fault| match f.part {
            Faulty::Scale(n, from) => size >= from && group.contains(&n),
            Faulty::Node(n) | Faulty::Sends(n) | Faulty::Receives(n) => f.duty >= 1.0 && group.contains(&n),
            _ => false,
        };
        let left = self.faults.iter().filter(hit).map(|f| f.left).fold(1.0, f64::min);
        RATE * 0.9 * (1.0 + self.shape.noise * self.noise()).max(0.1) * left
    }
}

fn between(rng: &mut fastrand::Rng, (low, high): (f64, f64)) -> f64 {
    low + (high - low) * rng.f64()
}

fn gauss(rng: &mut fastrand::Rng) -> f64 {
    // Twelve uniforms: mean 6, variance 1.
    (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
}

fn series(metric: Metric, value: f64) -> Outcome {
    Outcome::Measured(Measured { series: vec![metric.series(vec![value; 8], 1)], ..Measured::default() })
}

impl Fleet for Simulated {
    fn nodes(&self) -> Vec<NodeName> {
        self.names.clone()
    }

    fn run(&mut self, step: &Step, _: ArgsOf<'_>, _: Duration, each: &mut dyn FnMut(GroupOutcome)) {
        let pairs = crate::localise::is_pairs(step);
        if pairs {
            self.rounds += 1;
            self.tests += step.groups().count() as u64;
            let leaves = self.shape.nodes.div_ceil(self.shape.per_leaf.max(1));
            let (share, rng) = (self.shape.jobs, &mut self.rng);
            self.jobs = (0..leaves).map(|_| if rng.f64() < share { between(rng, JOBS) } else { 1.0 }).collect();
            if step.pair_round().is_some_and(|r| r.kind == RoundKind::Inter) {
                self.choose_pair(step);
            }
        }
        for group in step.groups() {
            let members: Vec<u32> = group.iter().map(|n| self.numbers[n]).collect();
            let rates = if pairs { self.pair(step, members[0], members[1]) } else { Default::default() };
            for case in &step.cases {
                let outcome = match (case, case.pair_way()) {
                    (Case::Fact(Fact::Latencies), _) => self.latencies(group, &members),
                    (Case::Fact(Fact::Machine), _) if self.shape.gpus > 0 => self.machine(members[0]),
                    _ if members.len() == 1 => match case.gpu() {
                        Some(gpu) => self.gpu(step, members[0], gpu),
                        None => self.alone(step, members[0]),
                    },
                    (_, Some(Way::Out)) => self.reading(rates.0),
                    (_, Some(Way::Back)) => self.reading(rates.1),
                    (c, _) if crate::localise::is_all_reduce(c) => series(Metric::BusBw, self.group(&members)),
                    // What is not simulated is not told.
                    _ => Outcome::Measured(Measured::default()),
                };
                each(GroupOutcome { node: group[0].clone(), case: case.clone(), outcome, load: None, blame: None });
            }
        }
    }

    fn turns(&self, _: &Step) -> u32 {
        1
    }

    fn takes_time(&self) -> bool {
        false
    }

    fn interrupted(&self) -> bool {
        false
    }
}
