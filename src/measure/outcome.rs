//! What a probe returns: facts. Whether they are good is somebody else's business.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

use crate::id::NodeName;
use crate::measure::{CountersMoved, Pace, Rehearsal, Remains, Transport, Watched};
use crate::topology::{Component, Filesystem, Leaf, Machine, Nccl, Nvidia, Start};
use crate::unit::Unit;
use crate::work::{Better, CheckName, Metric};

impl Metric {
    /// A series of this metric with `samples` blocks of `block` iterations each. Samples are kept to seven digits: no
    /// clock tells more, and records stay half as large.
    pub fn series(self, mut samples: Vec<f64>, block: u64) -> Series {
        for s in &mut samples {
            *s = seven_digits(*s);
        }
        Series {
            metric: self,
            unit: self.unit(),
            better: self.better(),
            block: u32::try_from(block).unwrap_or(u32::MAX),
            samples: samples.into(),
            bound: None,
            nominal: None,
            slowest_rank: None,
            on_cpu: None,
        }
    }
}

/// Rounded to seven significant digits.
fn seven_digits(v: f64) -> f64 {
    // Through text, so that the number is exactly what the record will say.
    if v.is_finite() { format!("{v:.6e}").parse().unwrap_or(v) } else { v }
}

/// A value that comes with the reason for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bound {
    pub value: f64,
    pub why: String,
    /// What software says of itself: shown, and nothing is held against it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub claimed: bool,
}

impl Bound {
    pub fn new(value: f64, why: impl Into<String>) -> Self {
        Bound { value, why: why.into(), claimed: false }
    }
}

/// Samples of one metric. A sample is a block: the median or mean of `block` iterations; blocks are what n counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    pub metric: Metric,
    pub unit: Unit,
    pub better: Better,
    /// Iterations inside one sample.
    pub block: u32,
    /// In the unit's base, in the order measured.
    pub samples: Box<[f64]>,
    /// What physics allows: a rate above it, or a time below it, is a mistake of the measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Box<Bound>>,
    /// What the hardware nominally does, for a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nominal: Option<Box<Bound>>,
    /// The rank that was last most often, when ranks differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest_rank: Option<u32>,
    /// Of what computes on cores: the share of each sample's time that its threads were on one, in thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<u16>>")]
    pub on_cpu: Option<ThinVec<u16>>,
}

impl Series {
    /// `cores` is how many each sample's threads were on, of `threads`.
    pub fn on_cores(mut self, cores: &[f64], threads: usize) -> Self {
        let share = |c: &f64| (1000.0 * c / threads.max(1) as f64).round().clamp(0.0, 2000.0) as u16;
        self.on_cpu = Some(cores.iter().map(share).collect());
        self
    }

    pub fn bounded(mut self, value: f64, why: impl Into<String>) -> Self {
        self.bound = Some(Box::new(Bound::new(value, why)));
        self
    }

    pub fn nominally(mut self, value: f64, why: impl Into<String>) -> Self {
        self.nominal = Some(Box::new(Bound::new(value, why)));
        self
    }
}

/// An answer checked: residual, repeat, payload, sum, checksum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    pub name: CheckName,
    pub ok: bool,
    /// What was compared with what, with numbers; where it went wrong.
    pub detail: String,
}

impl Check {
    pub fn new(name: CheckName, ok: bool, detail: impl Into<String>) -> Self {
        Check { name, ok, detail: detail.into() }
    }
}

/// Facts that are no samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Facts {
    Machine(Box<Machine>),
    Filesystem(Box<Filesystem>),
    /// Nodes' clocks against the first node's.
    Clocks(Vec<ClockOffset>),
    /// The checkpoints of a run, as a watcher sees them.
    Watched(Box<Watched>),
    /// What a run left behind.
    Remains(Box<Remains>),
    /// A training step, rank by rank.
    Rehearsal(Box<Rehearsal>),
    /// The checkpoint directory as every node sees it.
    Shared(Vec<SharedView>),
    /// Round trips between all nodes.
    Latencies(Latencies),
    /// Both ends of a connection by RDMA.
    RdmaPath(Box<[RdmaEnd; 2]>),
    /// Whether a process of Slurm's node daemon is to be seen.
    Slurmd(bool),
    /// What the GPUs' driver says at the end of a check.
    Nvidia(Box<Nvidia>),
    /// What the driver saw of a GPU under load.
    GpuLoad(Box<GpuLoad>),
    /// What a GPU reaches of each other of its node: a row of the matrix.
    Peers(Vec<PeerCopy>),
    /// What NCCL said of itself.
    Nccl(Box<Nccl>),
    /// What a tool said of the fabric.
    Fabric(Box<Capture>),
    /// The files of one kind of software in an image.
    Software(Box<Component>),
    /// How a container was started.
    Start(Box<Start>),
    /// Who called at the coordinator's port without the token: address and times.
    #[serde(rename = "strangers")]
    Unauthenticated(Vec<(String, u64)>),
    /// Who held the token and asked for a place in the run that is not theirs: the names that they gave.
    Outsiders(Vec<String>),
}

/// A node's clock minus the first node's lies between these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClockOffset {
    pub node: NodeName,
    pub low_ms: f64,
    pub high_ms: f64,
}

/// Copies from one GPU into another of its node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerCopy {
    pub to: u32,
    /// Bytes per second, the median.
    pub rate: f64,
    /// Whether it goes there directly; else through the host.
    pub direct: bool,
    pub atomics: bool,
}

/// A GPU while a probe worked on it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GpuLoad {
    pub pci: String,
    /// The middle of all looks.
    pub sm_mhz: Option<f64>,
    /// The highest seen.
    pub power_w: Option<f64>,
    pub temperature_c: Option<u32>,
    /// What held the clocks down, and in which share of the looks.
    pub throttled: Vec<(String, f64)>,
    pub pcie_generation: Option<u32>,
    pub pcie_generation_max: Option<u32>,
    pub pcie_lanes: Option<u32>,
    pub pcie_lanes_max: Option<u32>,
}

/// What a tool said of the fabric, whole: it is judged again with the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Capture {
    /// As it was called.
    pub tool: String,
    pub text: String,
    /// Hosts at their leaf switches, where the tool tells them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaves: Vec<Leaf>,
}

/// One end of a connection by RDMA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RdmaEnd {
    pub node: NodeName,
    /// Device, port, and the address used: `mlx5_0 port 1, GID 3 RoCE v2 10.0.0.7`.
    pub address: String,
    /// Of the port, in bytes.
    pub mtu: u32,
}

/// The smallest of several round trips between each two nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latencies {
    pub nodes: Vec<NodeName>,
    /// By asking node, then by answering node, in microseconds; absent where no answer came, and on the diagonal.
    pub rtt_us: Vec<Vec<Option<f64>>>,
}

/// The checkpoint directory as one node sees it while all use it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SharedView {
    pub node: NodeName,
    /// Source and type of the mount: `srv:/x nfs4`.
    pub mount: String,
    /// Time until the first node's file was there; absent when it never was.
    pub visible_ms: Option<f64>,
    /// Whether its neighbour's file came back as it was written; absent when it could not be tried.
    pub read_back: Option<bool>,
    /// What went wrong on this node, in its own words.
    pub error: Option<String>,
}

// A large record has half a million of them, most with samples alone: what is rarely there is thin.
/// Measured values, each with its checks.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Measured {
    pub series: Vec<Series>,
    #[schemars(with = "Vec<Check>")]
    pub checks: ThinVec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facts: Option<Box<Facts>>,
    /// What senders claim and what their interfaces counted.
    #[serde(skip_serializing_if = "ThinVec::is_empty")]
    #[schemars(with = "Vec<Transport>")]
    pub transport: ThinVec<Transport>,
    /// Error counters of ports that moved meanwhile.
    #[serde(skip_serializing_if = "ThinVec::is_empty")]
    #[schemars(with = "Vec<CountersMoved>")]
    pub counters: ThinVec<CountersMoved>,
    /// What a GPU computed, for comparison with its likes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<Box<Bits>>,
    /// How fast a virtual machine's cores ran meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pace: Option<Box<Pace>>,
    /// Conditions of the measurement that a reader must know.
    #[serde(skip_serializing_if = "ThinVec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub notes: ThinVec<String>,
}

/// A digest of a result: what bears the same name must have the same digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bits {
    /// The GPU's model and the library that chose the algorithm.
    pub of: String,
    pub digest: String,
}

/// Why a probe has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailKind {
    /// The probe met an error it can name.
    Error,
    /// A GPU failed while it was used, or the driver lost it.
    Gpu,
    /// A connection opened, and nothing of what was sent over it arrived.
    Stalled,
    /// Its process died.
    Crashed,
    /// Its process wrote something that is not gonogo's protocol, or too much.
    Junk,
    PathMissing,
    NotADirectory,
    ReadOnly,
    NoPermission,
    DiskFull,
    /// What another node wrote is not there.
    Unseen,
    /// No agent came from the node.
    NeverJoined,
    /// No agent came from the node, and callers without the token filled the port meanwhile: it may have been refused.
    KeptOut,
    /// The node's agent died or its connection broke.
    NodeLost,
    /// The node's agent stopped answering.
    NodeSilent,
    /// The node runs another gonogo than rank 0.
    OtherBuild,
    /// The node was given another plan than rank 0.
    OtherPlan,
    /// The node takes itself for another rank, or in another world.
    OtherWorld,
}

/// Why something was not measured though nothing broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaiveKind {
    /// What it needs is not on this machine.
    Absent,
    /// Nobody asked for it.
    NotAsked,
    /// The time budget has no room for it.
    NoTime,
    /// gonogo was told to end.
    Interrupted,
    /// Something before it in its step failed.
    NotReached,
}

/// The fact that a case ended with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Measured(Measured),
    /// Not measured, for a reason that is no fault: absent hardware, no time, interrupted.
    Waived {
        kind: WaiveKind,
        why: String,
    },
    Failed {
        kind: FailKind,
        error: String,
    },
    TimedOut {
        after_ms: u64,
        /// Ranks that did not come to an exchange in which the others waited.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        missing: Vec<u32>,
    },
}

impl Outcome {
    /// What was read and not timed.
    pub fn facts(facts: Facts) -> Self {
        Outcome::Measured(Measured { facts: Some(Box::new(facts)), ..Measured::default() })
    }

    pub fn error(kind: FailKind, error: impl Into<String>) -> Self {
        Outcome::Failed { kind, error: error.into() }
    }

    pub fn waived(kind: WaiveKind, why: impl Into<String>) -> Self {
        Outcome::Waived { kind, why: why.into() }
    }

    /// Gives back what lists have room for and do not hold: a parser does not know how long they become, and a record has a million.
    pub fn shrink(&mut self) {
        let Outcome::Measured(m) = self else { return };
        m.series.shrink_to_fit();
        m.checks.shrink_to_fit();
        m.notes.shrink_to_fit();
    }

    pub fn measured(&self) -> Option<&Measured> {
        match self {
            Outcome::Measured(m) => Some(m),
            _ => None,
        }
    }
}
