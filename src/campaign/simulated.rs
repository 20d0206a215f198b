//! A cluster that is not there: N virtual nodes with faults, measured by the same schedule, localiser and judge.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::campaign::fleet::{ArgsOf, Fleet};
use crate::cluster::{GroupOutcome, Step};
use crate::id::NodeName;
use crate::measure::{Facts, Latencies, Measured, Outcome};
use crate::probe;
use crate::topology::{Gpu, Leaf, Machine, Nvidia, PciGpu, Pcie, PcieState};
use crate::unit::Unit;
use crate::work::{Better, Case, Fact, Metric, Way};

/// The launcher of a record that is simulated: it says nothing about any machine.
pub const SIMULATION: &str = "simulation";

/// What is injected.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Everything through the node's NIC.
    Node(u32),
    Sends(u32),
    Receives(u32),
    /// One pair, both ways.
    Pair(u32, u32),
    /// All that crosses a leaf's uplinks.
    Leaf(u32),
    /// The node is slow only in groups of so many and more.
    Scale(u32, u32),
    /// The node is slow in half of its tests.
    Flapping(u32),
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
    /// Share of good readings that read bad under full load; a sixth of it when quiet.
    pub false_bad: f64,
    /// Share of bad readings that read good.
    pub miss: f64,
    /// What a bad part leaves of a rate.
    pub severity: f64,
    /// Uplink capacity of a leaf over that of its nodes.
    pub uplinks: f64,
    /// GPUs of a node.
    pub gpus: u32,
    /// Relative standard deviation between healthy GPUs.
    pub silicon: f64,
}

const RATE: f64 = 45e9;
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
        Simulated { shape, faults, rounds: 0, tests: 0, names, numbers, rng: fastrand::Rng::with_seed(seed), silicon }
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
            match f {
                Fault::Node(n)
                | Fault::Sends(n)
                | Fault::Receives(n)
                | Fault::Flapping(n)
                | Fault::Computes(n)
                | Fault::Gpu(n, _) => {
                    out.insert(self.name(*n).clone());
                }
                // With one group of that size there is none to hold it against.
                Fault::Scale(n, from) if from.next_power_of_two().max(2) * 2 <= self.shape.nodes => {
                    out.insert(self.name(*n).clone());
                }
                Fault::Pair(..) | Fault::Leaf(_) | Fault::Scale(..) | Fault::Slot(_) => {}
            }
        }
        out
    }

    fn leaf(&self, node: u32) -> u32 {
        node / self.shape.per_leaf.max(1)
    }

    fn gauss(&mut self) -> f64 {
        gauss(&mut self.rng)
    }

    /// Whether a fault lies on the way, and it shows this time.
    fn hit(&mut self, from: u32, to: u32) -> bool {
        let across = self.leaf(from) != self.leaf(to);
        let mut hit = false;
        let mut flap = false;
        for f in &self.faults {
            match f {
                Fault::Node(n) => hit |= *n == from || *n == to,
                Fault::Sends(n) => hit |= *n == from,
                Fault::Receives(n) => hit |= *n == to,
                Fault::Pair(a, b) => hit |= (*a, *b) == (from, to) || (*b, *a) == (from, to),
                Fault::Leaf(l) => hit |= across && (self.leaf(from) == *l || self.leaf(to) == *l),
                Fault::Flapping(n) => flap |= *n == from || *n == to,
                Fault::Scale(..) | Fault::Computes(_) | Fault::Gpu(..) | Fault::Slot(_) => {}
            }
        }
        hit || (flap && self.rng.bool())
    }

    fn pair(&mut self, step: &Step, a: u32, b: u32) -> (f64, f64) {
        let quiet = step.pair_round().is_some_and(|r| r.kind.is_quiet());
        let across = self.leaf(a) != self.leaf(b);
        let fabric = if across && !quiet { self.shape.uplinks.min(1.0) } else { 1.0 };
        // Interference and misses are of the test: both directions share the moment.
        let false_bad = self.shape.false_bad * if quiet { QUIET_SHARE } else { 1.0 };
        let (disturbed, missed) = (self.rng.f64() < false_bad, self.rng.f64() < self.shape.miss);
        let mut one = |from: u32, to: u32| {
            let bad = (self.hit(from, to) && !missed) || disturbed;
            let noise = 1.0 + self.shape.noise * self.gauss();
            RATE * fabric * noise.max(0.1) * if bad { self.shape.severity } else { 1.0 }
        };
        (one(a, b), one(b, a))
    }

    /// What a node measures alone: every metric of the probe that the schedule chose, each as noisy as the next.
    fn alone(&mut self, step: &Step, node: u32) -> Outcome {
        let metrics = probe::find(step.probe.as_str()).map_or(&[][..], |p| p.metrics());
        let slow = self.faults.contains(&Fault::Computes(node)) && matches!(step.probe.as_str(), "gemm" | "memory");
        let mut one = |m: Metric| {
            // Of the order that servers reach, so that the floors for servers are far.
            let base = match m.unit() {
                Unit::FlopPerSecond => 2e12,
                Unit::Second => 5e-6,
                _ => RATE,
            };
            let left = if slow { self.shape.severity } else { 1.0 };
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
        Outcome::Measured(Measured { facts: Some(Facts::Machine(Box::new(machine))), ..Measured::default() })
    }

    /// What one GPU measures of a case.
    fn gpu(&mut self, step: &Step, node: u32, gpu: u32) -> Outcome {
        let metrics = probe::find(step.probe.as_str()).map_or(&[][..], |p| p.metrics());
        let computes = step.probe.as_str() == "gemm";
        let own = self.silicon.get((node * self.shape.gpus + gpu) as usize).copied().unwrap_or(1.0);
        // A link carries what its generation does, whatever silicon is at its end.
        let own = if step.probe.as_str() == "copy" { 1.0 } else { own };
        let hit = computes && (self.faults.contains(&Fault::Gpu(node, gpu)) || self.faults.contains(&Fault::Slot(gpu)));
        let left = own * if hit { self.shape.severity } else { 1.0 };
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
        let facts = Some(Facts::Latencies(Latencies { nodes: nodes.to_vec(), rtt_us }));
        Outcome::Measured(Measured { facts, ..Measured::default() })
    }

    fn group(&mut self, group: &[u32]) -> f64 {
        let size = group.len() as u32;
        let hit = self.faults.iter().any(|f| match f {
            Fault::Scale(n, from) => size >= *from && group.contains(n),
            Fault::Node(n) | Fault::Sends(n) | Fault::Receives(n) => group.contains(n),
            _ => false,
        });
        let noise = 1.0 + self.shape.noise * self.gauss();
        RATE * 0.9 * noise.max(0.1) * if hit { self.shape.severity } else { 1.0 }
    }
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
            self.tests += step.groups.len() as u64;
        }
        for group in &step.groups {
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
                    (_, Some(Way::Out)) => series(Metric::Bandwidth, rates.0),
                    (_, Some(Way::Back)) => series(Metric::Bandwidth, rates.1),
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

    fn interrupted(&self) -> bool {
        false
    }
}
