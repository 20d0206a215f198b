//! Which cases a limit is for: any property fixed or free, never a prefix of words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::unit::Bytes;
use crate::work::case::{
    Carrier, Case, CheckpointOp, Collective, CollectiveCase, CopyKind, Dtype, GpuKernel, HostTest, Kernel, LinkTest,
    Memory, Scope, StorageOp, Topology, Way,
};

/// What computes, moves or holds the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    Host,
    Gpu,
}

/// TCP within a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loopback {
    Streams,
    Ping,
}

/// What carries messages, whichever interface or device it is. The best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CarrierKind {
    Tcp,
    Rdma,
    Nccl,
}

impl CarrierKind {
    pub fn of(carrier: &Carrier) -> Self {
        match carrier {
            Carrier::Tcp | Carrier::Interface(_) => CarrierKind::Tcp,
            Carrier::Rdma(_) => CarrierKind::Rdma,
            Carrier::Nccl => CarrierKind::Nccl,
        }
    }
}

/// Which of the cases of a step that are alike but for their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// Those of the most cores, ranks and bytes.
    Largest,
    Smallest,
}

/// Properties that a case must have; what is `None` may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// This case and no other.
    pub exactly: Option<Case>,
    pub on: Option<On>,
    pub dtype: Option<Dtype>,
    /// Rows of a product on a GPU.
    pub m: Option<u32>,
    pub kernel: Option<Kernel>,
    pub gpu_kernel: Option<GpuKernel>,
    /// Copies, whether a GPU copies alone or all at once.
    pub copy: Option<CopyKind>,
    pub loopback: Option<Loopback>,
    pub scope: Option<Scope>,
    pub way: Option<Way>,
    pub op: Option<Collective>,
    pub topology: Option<Topology>,
    pub carrier: Option<CarrierKind>,
    pub ranks: Option<u32>,
    pub bytes: Option<Bytes>,
    pub storage: Option<StorageOp>,
    pub checkpoint: Option<CheckpointOp>,
    /// Of a checkpoint, by so many nodes together or more.
    pub nodes_at_least: Option<u32>,
    pub extent: Option<Extent>,
    /// The run's own collective: over as many nodes as there are, by the best that carries it; or the save of the most nodes.
    pub of_run: bool,
}

/// What a case is looked at among.
#[derive(Debug, Clone, Copy, Default)]
pub struct Among<'r> {
    /// All cases of its step.
    pub step: &'r [Case],
    /// What the run's own collectives go over, as far as the record has any.
    pub run: Option<(Topology, CarrierKind)>,
    /// Nodes of the largest save that was planned.
    pub saves: Option<u32>,
}

impl<'r> Among<'r> {
    /// What all steps of a record have in common, of the cases of all.
    pub fn all(cases: impl IntoIterator<Item = &'r Case> + Clone) -> Among<'r> {
        let saves = cases.clone().into_iter().filter_map(|c| match c {
            Case::Checkpoint { nodes, .. } => Some(*nodes),
            _ => None,
        });
        Among { step: &[], saves: saves.max(), run: widest(cases) }
    }
}

/// What the collectives of a run go over: the widest topology that was planned, and of its carriers the best. A rail, a ring, a leaf
/// are parts; one rank alone is nothing.
fn widest<'r>(cases: impl IntoIterator<Item = &'r Case>) -> Option<(Topology, CarrierKind)> {
    let width = |c: &CollectiveCase| match c.topology {
        Topology::World => 3,
        Topology::Ladder | Topology::Pair => 2,
        Topology::Node => 1,
        Topology::Leaf | Topology::Ring | Topology::Narrow | Topology::Rail => 0,
    };
    let of = |case: &'r Case| {
        let c = case.collective().filter(|c| c.op == Collective::AllReduce && c.ranks > 1 && width(c) > 0)?;
        Some((width(c), CarrierKind::of(&c.carrier), c.topology))
    };
    cases.into_iter().filter_map(of).max_by_key(|(width, carrier, _)| (*width, *carrier)).map(|(_, c, t)| (t, c))
}

/// Whether what is asked for, if anything is, is what is there.
fn fits<T: PartialEq>(asked: Option<T>, there: Option<T>) -> bool {
    asked.is_none() || asked == there
}

impl Filter {
    /// The one case.
    pub fn exactly(case: Case) -> Self {
        Filter { exactly: Some(case), ..Filter::default() }
    }

    /// Whether a case is meant.
    pub fn fits(&self, case: &Case, among: &Among<'_>) -> bool {
        let mut alike = among.step.iter().filter(|c| self.has_all(c)).map(size);
        self.has_all(case)
            && (!self.of_run || is_of_run(case, among))
            && match self.extent {
                None => true,
                Some(Extent::Largest) => alike.all(|other| other <= size(case)),
                Some(Extent::Smallest) => alike.all(|other| other >= size(case)),
            }
    }

    fn has_all(&self, case: &Case) -> bool {
        if let Some(one) = &self.exactly {
            return one == case;
        }
        let both_alike = |kind: CopyKind| match kind {
            CopyKind::HostToDevice { .. } => CopyKind::HostToDevice { alone: false },
            CopyKind::DeviceToHost { .. } => CopyKind::DeviceToHost { alone: false },
            other => other,
        };
        let (mut dtype, mut m, mut kernel, mut gpu_kernel, mut copy, mut loopback) =
            (None, None, None, None, None, None);
        let (mut scope, mut way, mut storage, mut bytes) = (None, None, None, None);
        let (mut checkpoint, mut nodes) = (None, None);
        match case {
            Case::Host { test: HostTest::Gemm(d), .. } => dtype = Some(*d),
            Case::Host { test: HostTest::Memory(k), .. } => kernel = Some(*k),
            Case::GpuGemm { dtype: d, m: rows, .. } => (dtype, m) = (Some(*d), Some(*rows)),
            Case::GpuMemory { kernel: k, .. } => gpu_kernel = Some(*k),
            Case::Copy { kind, .. } => copy = Some(both_alike(*kind)),
            Case::Streams(_) => loopback = Some(Loopback::Streams),
            Case::Ping(size) => (loopback, bytes) = (Some(Loopback::Ping), Some(*size)),
            Case::Link(link) => {
                scope = Some(link.scope);
                match link.test {
                    LinkTest::Flow { way: w, memory: Memory::Host } => way = Some(w),
                    LinkTest::Verbs { bytes: b, .. } | LinkTest::VerbsLatency { bytes: b, .. } => bytes = Some(b),
                    LinkTest::Flow { .. } | LinkTest::Ping => {}
                }
            }
            Case::Collective(c) => bytes = Some(c.bytes),
            Case::Storage(op) => storage = Some(*op),
            Case::Checkpoint { op, nodes: n } => (checkpoint, nodes) = (Some(*op), Some(*n)),
            _ => {}
        }
        let collective = case.collective();
        fits(self.on, Some(if on_gpu(case) { On::Gpu } else { On::Host }))
            && fits(self.dtype, dtype)
            && fits(self.m, m)
            && fits(self.kernel, kernel)
            && fits(self.gpu_kernel, gpu_kernel)
            && fits(self.copy.map(both_alike), copy)
            && fits(self.loopback, loopback)
            && fits(self.scope, scope)
            && fits(self.way, way)
            && fits(self.op, collective.map(|c| c.op))
            && fits(self.topology, collective.map(|c| c.topology))
            && fits(self.carrier, collective.map(|c| CarrierKind::of(&c.carrier)))
            && fits(self.ranks, collective.map(|c| c.ranks))
            && fits(self.bytes, bytes)
            && fits(self.storage, storage)
            && fits(self.checkpoint, checkpoint)
            && self.nodes_at_least.is_none_or(|least| nodes.is_some_and(|n| n >= least))
    }
}

fn is_of_run(case: &Case, among: &Among<'_>) -> bool {
    match case {
        Case::Checkpoint { nodes, .. } => among.saves == Some(*nodes),
        Case::Collective(c) => among.run == Some((c.topology, CarrierKind::of(&c.carrier))),
        _ => false,
    }
}

/// Whether GPUs do it.
pub fn on_gpu(case: &Case) -> bool {
    match case {
        Case::GpuGemm { .. } | Case::GpuMemory { .. } | Case::Copy { .. } => true,
        Case::Start { .. } | Case::Channels { .. } => true,
        Case::Rehearsal { gpus, .. } => *gpus,
        Case::Collective(c) => c.carrier == Carrier::Nccl,
        _ => false,
    }
}

/// Cores, ranks, bytes.
fn size(case: &Case) -> (u32, u32, u64) {
    match case {
        Case::Host { cores, .. } => (*cores, 0, 0),
        Case::Streams(streams) => (*streams, 0, 0),
        Case::Collective(c) => (0, c.ranks, c.bytes.0),
        _ => (0, 0, 0),
    }
}
