//! The identity of a measurement. [`Display`](fmt::Display) gives the words that people read and search for; a record keeps these words, and
//! `read` turns them back once, when a record is read.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{self, clean};
use crate::unit::Bytes;
use crate::work::named::named;

/// A name from outside: of an interface, an RDMA device, a tool.
pub type Name = Arc<str>;

/// One thing that is measured, or read. Which nodes do it, and when, its step says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Case {
    /// What is read and not timed.
    Fact(Fact),
    /// What a tool says of the InfiniBand fabric: `ibnetdiscover before`.
    Fabric { tool: Name, when: When },
    /// A kind of software in a container image: `nccl`.
    Software(Software),
    /// What so many cores of the host do at once: `f32 2 cores`, `read 1 core`.
    Host { test: HostTest, cores: u32 },
    /// Matrix products on a GPU: `bf16 8192 burst gpu3`; `m` is the rows of the result.
    GpuGemm { dtype: Dtype, m: u32, load: Load, gpu: u32 },
    /// Bandwidth of a GPU's memory: `device read gpu0`.
    GpuMemory { kernel: GpuKernel, gpu: u32 },
    /// Copies between the host and a GPU, or between GPUs: `h2d alone gpu0`.
    Copy { kind: CopyKind, gpu: u32 },
    /// TCP within a node, so many streams: `loopback 4 streams`.
    Streams(u32),
    /// TCP within a node, messages of so many bytes to and fro: `loopback ping 4 KiB`.
    Ping(Bytes),
    /// A link between two nodes, or an adapter's own: `pair out eth1`, `loopback write 64 KiB mlx5_0`.
    Link(LinkCase),
    /// A collective operation: `all-reduce world n=8 16 MiB`.
    Collective(CollectiveCase),
    /// Making an NCCL communicator: `start nccl world n=64`.
    Start { topology: Topology, ranks: u32 },
    /// What NCCL says of its channels: `channels nccl world n=64`.
    Channels { topology: Topology, ranks: u32 },
    /// The checkpoint directory.
    Storage(StorageOp),
    /// A save of the run's checkpoint by so many nodes together, and reading it back: `save n=8`.
    Checkpoint { op: CheckpointOp, nodes: u32 },
    /// A part of a training step, rehearsed by so many ranks together: `step n=8`, `compute n=64 GPUs`.
    Rehearsal { part: StepPart, ranks: u32, gpus: bool },
    /// What another version of gonogo measured, or a damaged record says.
    Other(Name),
}

/// What is read and not timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// The node's hardware and settings.
    Machine,
    /// The nodes' clocks against the first node's.
    Clocks,
    /// Whether Slurm's node daemon runs.
    Slurmd,
    /// What the GPUs' driver says when everything has run.
    GpusAtEnd,
    /// How many GPUs a program sees, where that differs between nodes.
    GpuCount,
    /// Round trips between all nodes.
    Latencies,
    /// The checkpoint directory's file system.
    Capacity,
    /// The checkpoint directory as all nodes see it.
    Shared,
    /// The run's checkpoints, as a watcher sees them.
    Checkpoints,
    /// What a run that ended left behind.
    Remains,
    /// What a probe needs and this machine lacks.
    Device,
    /// How a container was started.
    ContainerStart,
    /// Whether a node is there.
    Presence(Presence),
}

/// A kind of software in a container image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Software {
    Driver,
    Cuda,
    CublasLt,
    Nccl,
    NcclNet,
    Ibverbs,
    Providers,
    Ucx,
    UcxModules,
    Mpi,
    Gdrcopy,
}

/// When a node's presence is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Presence {
    Join,
    Stay,
}

/// Before or after the check's own traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum When {
    Before,
    After,
}

/// What cores of the host do. A test of another probe is one more value, with its name in the table below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostTest {
    /// Matrix products.
    Gemm(Dtype),
    /// Bandwidth of the memory.
    Memory(Kernel),
}

/// An element's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    Bf16,
    F16,
    Fp8,
    Tf32,
    F32,
    F64,
}

/// How long a GPU computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Load {
    /// Cool and short.
    Burst,
    /// All GPUs of the node at once, until the clocks have settled.
    Sustained,
}

/// STREAM's kernels on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kernel {
    Read,
    Write,
    Copy,
    Triad,
}

/// What moves a GPU's memory: kernels, the driver's own copy, and a pattern that is written and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GpuKernel {
    Device(Kernel),
    DriverCopy,
    Pattern,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CopyKind {
    HostToDevice {
        alone: bool,
    },
    DeviceToHost {
        alone: bool,
    },
    BothWays,
    /// From this GPU to every other of its node.
    Peer,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkCase {
    pub scope: Scope,
    pub test: LinkTest,
    /// The interface, the RDMA device or `nccl`; `None` on the network of the control channel.
    pub over: Option<Name>,
}

/// Which ends a link has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Both on one adapter.
    Loopback,
    /// Two nodes.
    Pair,
    /// Two nodes, and all their adapters at once.
    AllRails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkTest {
    /// As fast as it goes.
    Flow {
        way: Way,
        memory: Memory,
    },
    /// A small message to and fro over TCP.
    Ping,
    /// Verbs, so many queue pairs.
    Verbs {
        op: RdmaOp,
        bytes: Bytes,
        queue_pairs: u32,
        memory: Memory,
    },
    VerbsLatency {
        op: RdmaOp,
        bytes: Bytes,
    },
}

/// From the first node of a pair, to it, or both at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    Out,
    Back,
    Both,
}

/// Whose memory a message comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Memory {
    Host,
    Gpu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RdmaOp {
    Write,
    Read,
    Send,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectiveCase {
    pub op: Collective,
    pub topology: Topology,
    pub carrier: Carrier,
    pub ranks: u32,
    pub bytes: Bytes,
    pub in_place: bool,
    /// In a communicator for each GPU and its likes on the other nodes, which.
    pub gpu: Option<u32>,
}

/// The collective operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Collective {
    AllReduce,
    AllGather,
    ReduceScatter,
    Broadcast,
    AllToAll,
    /// Each rank to the next round a ring.
    SendReceive,
}

impl Collective {
    /// As NCCL's log calls it.
    pub const fn nccl_name(self) -> &'static str {
        match self {
            Collective::AllReduce => "AllReduce",
            Collective::AllGather => "AllGather",
            Collective::ReduceScatter => "ReduceScatter",
            Collective::Broadcast => "Broadcast",
            Collective::AllToAll => "AlltoAll",
            Collective::SendReceive => "SendRecv",
        }
    }
}

/// What carries a collective.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carrier {
    /// TCP on the network of the control channel; within a node, its loopback.
    Tcp,
    /// TCP on another interface.
    Interface(Name),
    /// An RDMA device.
    Rdma(Name),
    /// GPUs by NCCL.
    Nccl,
}

/// Which ranks take part together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topology {
    /// Those of one node.
    Node,
    /// Two nodes.
    Pair,
    /// The nodes at one leaf switch.
    Leaf,
    /// Neighbours in the ring of all nodes.
    Ring,
    /// Groups of 2, 4, 8 ... nodes.
    Ladder,
    /// Halves of a group that was slow together.
    Narrow,
    /// All nodes over one rail.
    Rail,
    /// All nodes.
    World,
}

/// What a round of pairs is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoundKind {
    /// Random pairs within leaves.
    Intra,
    /// Random pairs across leaves, or across all nodes where there is one leaf.
    Inter,
    /// Suspects against cleared nodes, with control pairs.
    Confirm,
    /// Suspicious pairs of good nodes once more, with control pairs.
    Again,
}

impl RoundKind {
    /// Few pairs at a time: nobody disturbs anybody.
    pub const fn is_quiet(self) -> bool {
        matches!(self, RoundKind::Confirm | RoundKind::Again)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StorageOp {
    Write,
    Read,
    Metadata,
    Rename,
}

/// What is done with a whole checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckpointOp {
    /// Every node writes its share.
    Save,
    /// Every node reads another's share.
    Restore,
}

/// What of a training step is rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepPart {
    /// Its products alone.
    Compute,
    /// Its messages alone.
    Communication,
    /// Both, as the plan overlaps them.
    Whole,
}

named!(StepPart {
    StepPart::Compute => "compute", StepPart::Communication => "communication", StepPart::Whole => "step",
} [StepPart::Compute, StepPart::Communication, StepPart::Whole]);
named!(Fact {
    Fact::Machine => "machine", Fact::Clocks => "clocks", Fact::Slurmd => "slurmd", Fact::GpusAtEnd => "gpus at the end",
    Fact::GpuCount => "GPUs of a node", Fact::Latencies => "latencies", Fact::Capacity => "capacity", Fact::Shared => "shared",
    Fact::Checkpoints => "checkpoints",
    Fact::Remains => "remains",
    Fact::Device => "device", Fact::ContainerStart => "start", Fact::Presence(Presence::Join) => "join", Fact::Presence(Presence::Stay) => "stay",
} [
    Fact::Machine, Fact::Clocks, Fact::Slurmd, Fact::GpusAtEnd, Fact::GpuCount, Fact::Latencies, Fact::Capacity, Fact::Shared,
    Fact::Checkpoints,
    Fact::Remains,
    Fact::Device, Fact::ContainerStart, Fact::Presence(Presence::Join), Fact::Presence(Presence::Stay),
]);
named!(Software {
    Software::Driver => "driver", Software::Cuda => "cuda", Software::CublasLt => "cublaslt", Software::Nccl => "nccl",
    Software::NcclNet => "nccl-net", Software::Ibverbs => "ibverbs", Software::Providers => "providers", Software::Ucx => "ucx",
    Software::UcxModules => "ucx-modules", Software::Mpi => "mpi", Software::Gdrcopy => "gdrcopy",
} [
    Software::Driver, Software::Cuda, Software::CublasLt, Software::Nccl, Software::NcclNet, Software::Ibverbs,
    Software::Providers, Software::Ucx, Software::UcxModules, Software::Mpi, Software::Gdrcopy,
]);
named!(When { When::Before => "before", When::After => "after" } [When::Before, When::After]);
named!(Dtype {
    Dtype::Bf16 => "bf16", Dtype::F16 => "f16", Dtype::Fp8 => "fp8", Dtype::Tf32 => "tf32", Dtype::F32 => "f32", Dtype::F64 => "f64",
} [Dtype::Bf16, Dtype::F16, Dtype::Fp8, Dtype::Tf32, Dtype::F32, Dtype::F64]);
named!(HostTest {
    HostTest::Gemm(Dtype::Bf16) => "bf16", HostTest::Gemm(Dtype::F16) => "f16", HostTest::Gemm(Dtype::Fp8) => "fp8",
    HostTest::Gemm(Dtype::Tf32) => "tf32", HostTest::Gemm(Dtype::F32) => "f32", HostTest::Gemm(Dtype::F64) => "f64",
    HostTest::Memory(Kernel::Read) => "read", HostTest::Memory(Kernel::Write) => "write",
    HostTest::Memory(Kernel::Copy) => "copy", HostTest::Memory(Kernel::Triad) => "triad",
} [
    HostTest::Gemm(Dtype::Bf16), HostTest::Gemm(Dtype::F16), HostTest::Gemm(Dtype::Fp8), HostTest::Gemm(Dtype::Tf32),
    HostTest::Gemm(Dtype::F32), HostTest::Gemm(Dtype::F64), HostTest::Memory(Kernel::Read), HostTest::Memory(Kernel::Write),
    HostTest::Memory(Kernel::Copy), HostTest::Memory(Kernel::Triad),
]);
named!(Load { Load::Burst => "burst", Load::Sustained => "sustained" } [Load::Burst, Load::Sustained]);
named!(Kernel {
    Kernel::Read => "read", Kernel::Write => "write", Kernel::Copy => "copy", Kernel::Triad => "triad",
} [Kernel::Read, Kernel::Write, Kernel::Copy, Kernel::Triad]);
named!(GpuKernel {
    GpuKernel::Device(Kernel::Read) => "device read", GpuKernel::Device(Kernel::Write) => "device write",
    GpuKernel::Device(Kernel::Copy) => "device copy", GpuKernel::Device(Kernel::Triad) => "device triad",
    GpuKernel::DriverCopy => "driver copy", GpuKernel::Pattern => "pattern",
} [
    GpuKernel::Device(Kernel::Read), GpuKernel::Device(Kernel::Write), GpuKernel::Device(Kernel::Copy),
    GpuKernel::Device(Kernel::Triad), GpuKernel::DriverCopy, GpuKernel::Pattern,
]);
named!(CopyKind {
    CopyKind::HostToDevice { alone: true } => "h2d alone", CopyKind::DeviceToHost { alone: true } => "d2h alone",
    CopyKind::HostToDevice { alone: false } => "h2d", CopyKind::DeviceToHost { alone: false } => "d2h",
    CopyKind::BothWays => "both ways", CopyKind::Peer => "peer",
} [
    CopyKind::HostToDevice { alone: true }, CopyKind::DeviceToHost { alone: true }, CopyKind::HostToDevice { alone: false },
    CopyKind::DeviceToHost { alone: false }, CopyKind::BothWays, CopyKind::Peer,
]);
named!(Scope {
    Scope::Loopback => "loopback", Scope::Pair => "pair", Scope::AllRails => "all rails",
} [Scope::Loopback, Scope::Pair, Scope::AllRails]);
named!(Way { Way::Out => "out", Way::Back => "back", Way::Both => "both ways" } [Way::Out, Way::Back, Way::Both]);
named!(RdmaOp {
    RdmaOp::Write => "write", RdmaOp::Read => "read", RdmaOp::Send => "send",
} [RdmaOp::Write, RdmaOp::Read, RdmaOp::Send]);
named!(Collective {
    Collective::AllReduce => "all-reduce", Collective::AllGather => "all-gather", Collective::ReduceScatter => "reduce-scatter",
    Collective::Broadcast => "broadcast", Collective::AllToAll => "all-to-all", Collective::SendReceive => "send-receive",
} [
    Collective::AllReduce, Collective::AllGather, Collective::ReduceScatter, Collective::Broadcast, Collective::AllToAll,
    Collective::SendReceive,
]);
named!(RoundKind {
    RoundKind::Intra => "intra-leaf", RoundKind::Inter => "inter-leaf", RoundKind::Confirm => "confirm", RoundKind::Again => "again",
} [RoundKind::Intra, RoundKind::Inter, RoundKind::Confirm, RoundKind::Again]);
named!(Topology {
    Topology::Node => "node", Topology::Pair => "pair", Topology::Leaf => "leaf", Topology::Ring => "ring",
    Topology::Ladder => "ladder", Topology::Narrow => "narrow", Topology::Rail => "rail", Topology::World => "world",
} [
    Topology::Node, Topology::Pair, Topology::Leaf, Topology::Ring, Topology::Ladder, Topology::Narrow, Topology::Rail,
    Topology::World,
]);
named!(StorageOp {
    StorageOp::Write => "write", StorageOp::Read => "read", StorageOp::Metadata => "metadata", StorageOp::Rename => "rename",
} [StorageOp::Write, StorageOp::Read, StorageOp::Metadata, StorageOp::Rename]);

named!(CheckpointOp {
    CheckpointOp::Save => "save", CheckpointOp::Restore => "restore",
} [CheckpointOp::Save, CheckpointOp::Restore]);

/// What carries a pair of GPUs, in the place of a device's name.
pub const NCCL: &str = "nccl";

impl LinkCase {
    /// A flow from host to host between two nodes.
    pub fn pair(way: Way, over: Option<&str>) -> Self {
        LinkCase { scope: Scope::Pair, test: LinkTest::Flow { way, memory: Memory::Host }, over: over.map(Name::from) }
    }
}

impl Case {
    /// The number of the GPU that it is of, as NVML and cases count.
    pub fn gpu(&self) -> Option<u32> {
        match self {
            Case::GpuGemm { gpu, .. } | Case::GpuMemory { gpu, .. } | Case::Copy { gpu, .. } => Some(*gpu),
            Case::Collective(c) => c.gpu,
            _ => None,
        }
    }

    /// The RDMA device of a node that it is of alone.
    pub fn adapter(&self) -> Option<&str> {
        match self {
            Case::Link(LinkCase { scope: Scope::Loopback, over, .. }) => over.as_deref(),
            _ => None,
        }
    }

    /// The collective operation that it measures.
    pub fn collective(&self) -> Option<&CollectiveCase> {
        match self {
            Case::Collective(c) => Some(c),
            _ => None,
        }
    }

    /// The way of a flow between two nodes from host to host (or GPUs by NCCL), with nothing beside it: what a link is judged by.
    pub fn pair_way(&self) -> Option<Way> {
        match self {
            Case::Link(LinkCase { scope: Scope::Pair, test: LinkTest::Flow { way, memory: Memory::Host }, .. }) => {
                Some(*way)
            }
            _ => None,
        }
    }

    /// What is tested, for people, whichever GPU or adapter of a node it is of: `bf16 8192 burst`.
    pub fn test(&self) -> Test<'_> {
        Test(self)
    }

    /// The same on that GPU.
    pub fn of_gpu(&self, number: u32) -> Case {
        let mut case = self.clone();
        match &mut case {
            Case::GpuGemm { gpu, .. } | Case::GpuMemory { gpu, .. } | Case::Copy { gpu, .. } => *gpu = number,
            Case::Collective(c) => c.gpu = Some(number),
            _ => {}
        }
        case
    }

    /// The same for every GPU or adapter of a node that does the same.
    pub fn any_part(&self) -> Case {
        let mut case = self.clone();
        match &mut case {
            Case::GpuGemm { gpu, .. } | Case::GpuMemory { gpu, .. } | Case::Copy { gpu, .. } => *gpu = 0,
            Case::Collective(c) => c.gpu = c.gpu.map(|_| 0),
            Case::Link(LinkCase { scope: Scope::Loopback, over, .. }) => *over = None,
            _ => {}
        }
        case
    }
}

/// A case without its GPU or adapter.
#[derive(Debug, Clone, Copy)]
pub struct Test<'c>(&'c Case);

/// For people: a name from outside cannot drive a terminal.
impl fmt::Display for Test<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Words { case: self.0, part: false, safe: true }.fmt(f)
    }
}

/// For people: a name from outside cannot drive a terminal.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Words { case: self, part: true, safe: true }.fmt(f)
    }
}

impl Serialize for Case {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.words())
    }
}

thread_local! {
    /// What words that were read are of: a record repeats some hundreds of them in a million lines.
    static READ: RefCell<FxHashMap<Box<str>, Case>> = RefCell::default();
}

impl<'de> Deserialize<'de> for Case {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        const MOST: usize = 1024;
        const LONGEST: usize = 256;
        id::text(d, |words| {
            READ.with_borrow_mut(|read| {
                if let Some(known) = read.get(words) {
                    return known.clone();
                }
                let case = Case::read(words);
                if words.len() <= LONGEST {
                    if read.len() == MOST {
                        read.clear();
                    }
                    read.insert(words.into(), case.clone());
                }
                case
            })
        })
    }
}

impl JsonSchema for Case {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Case".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "description": "what is measured, such as `all-reduce world n=8 16 MiB`"})
    }
}

/// How a case is written.
pub(super) struct Words<'c> {
    case: &'c Case,
    /// With the GPU or adapter that it is of.
    part: bool,
    /// Names from outside are made safe to show.
    safe: bool,
}

impl Case {
    /// What a record keeps, exactly.
    pub(super) fn words(&self) -> Words<'_> {
        Words { case: self, part: true, safe: false }
    }
}

impl Words<'_> {
    fn name(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        f.write_str(&if self.safe { clean(name) } else { name.into() })
    }

    fn gpu(&self, f: &mut fmt::Formatter<'_>, gpu: u32) -> fmt::Result {
        if self.part { write!(f, " gpu{gpu}") } else { Ok(()) }
    }

    fn link(&self, f: &mut fmt::Formatter<'_>, link: &LinkCase) -> fmt::Result {
        let of = |memory: Memory| if memory == Memory::Gpu { " gpu" } else { "" };
        write!(f, "{}", link.scope)?;
        match link.test {
            LinkTest::Flow { way, memory } => write!(f, "{} {way}", of(memory))?,
            LinkTest::Ping => f.write_str(" ping")?,
            LinkTest::Verbs { op, bytes, queue_pairs, memory } => {
                write!(f, "{} {op} {bytes}", of(memory))?;
                if queue_pairs > 1 {
                    write!(f, " {queue_pairs} QPs")?;
                }
            }
            LinkTest::VerbsLatency { op, bytes } => write!(f, " {op} latency {bytes}")?,
        }
        match &link.over {
            Some(over) if self.part || link.scope != Scope::Loopback => {
                f.write_str(" ")?;
                self.name(f, over)
            }
            _ => Ok(()),
        }
    }

    fn collective(&self, f: &mut fmt::Formatter<'_>, c: &CollectiveCase) -> fmt::Result {
        let nccl = if c.carrier == Carrier::Nccl { "nccl " } else { "" };
        write!(f, "{} {nccl}{} ", c.op.name(), c.topology)?;
        if let Carrier::Interface(name) = &c.carrier {
            self.name(f, name)?;
            f.write_str(" ")?;
        }
        write!(f, "n={} {}", c.ranks, c.bytes)?;
        if c.in_place {
            f.write_str(" in place")?;
        }
        if let Carrier::Rdma(device) = &c.carrier {
            f.write_str(" ")?;
            self.name(f, device)?;
        }
        c.gpu.map_or(Ok(()), |gpu| self.gpu(f, gpu))
    }
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.case {
            Case::Fact(fact) => write!(f, "{fact}"),
            Case::Fabric { tool, when } => {
                self.name(f, tool)?;
                write!(f, " {when}")
            }
            Case::Software(software) => write!(f, "{software}"),
            Case::Other(name) => self.name(f, name),
            Case::Host { test, cores: n } => write!(f, "{test} {n} core{}", if *n == 1 { "" } else { "s" }),
            Case::GpuGemm { dtype, m, load, gpu } => {
                write!(f, "{dtype} {m} {load}")?;
                self.gpu(f, *gpu)
            }
            Case::GpuMemory { kernel, gpu } => {
                write!(f, "{kernel}")?;
                self.gpu(f, *gpu)
            }
            Case::Copy { kind, gpu } => {
                write!(f, "{kind}")?;
                self.gpu(f, *gpu)
            }
            Case::Streams(n) => write!(f, "loopback {n} stream{}", if *n == 1 { "" } else { "s" }),
            Case::Ping(bytes) => write!(f, "loopback ping {bytes}"),
            Case::Link(link) => self.link(f, link),
            Case::Collective(c) => self.collective(f, c),
            Case::Start { topology, ranks } => write!(f, "start nccl {topology} n={ranks}"),
            Case::Channels { topology, ranks } => write!(f, "channels nccl {topology} n={ranks}"),
            Case::Storage(op) => write!(f, "{op}"),
            Case::Checkpoint { op, nodes } => write!(f, "{op} n={nodes}"),
            Case::Rehearsal { part, ranks, gpus } => {
                write!(f, "{part} n={ranks}{}", if *gpus { " GPUs" } else { "" })
            }
        }
    }
}
