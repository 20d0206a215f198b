//! What a run left behind: signs in logs, and who was waiting for whom.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::NodeName;
use crate::unit::Bytes;

/// All that was found in the files and answers that were given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Remains {
    pub sources: Vec<Source>,
    /// In the order found.
    pub traces: Vec<Trace>,
    /// Groups of ranks that wait for each other.
    pub stalls: Vec<Stall>,
    /// Where a rank of the whole job ran, by its number.
    pub ranks: BTreeMap<u32, Place>,
    /// What is different between a check before the run and one after it.
    pub changes: Vec<Change>,
    /// Of sources whose times have no zone, by their numbers: how many minutes they are ahead of UTC, as the times of their files say.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<usize, i32>,
    /// GPUs of the ranks that are spoken of, as the check before knew them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// A GPU, and what connects it to other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    pub node: NodeName,
    /// Its number in the node.
    pub gpu: u32,
    pub uuid: String,
    /// The RDMA devices nearest to it, where some are nearer than others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<Wired>,
}

/// An RDMA device and where its cables end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Wired {
    pub device: String,
    /// `leaf07 port 12`; empty where no capture of the fabric tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
}

/// Something that a check after a run found and the one before it did not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Absent where it is of no one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    pub what: String,
    /// Whether it weighs against the node.
    pub weighs: bool,
}

/// Something that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// As it was given: a path, or an address.
    pub name: String,
    pub kind: SourceKind,
    pub bytes: Bytes,
    pub lines: u64,
    /// Why it, or its rest, could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// Lines: of a trainer, a launcher, NCCL, a kernel.
    Log,
    /// PyTorch's flight recorder, of one rank.
    Recorder,
    /// NCCL's RAS.
    Ras,
    /// What a scheduler says of a job.
    Scheduler,
    /// Of a watch that ran beside the job.
    Journal,
}

/// Where something ran.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Place {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Rank in the whole job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// The GPU's number in its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<u32>,
}

/// A line of a log that says something of why a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trace {
    pub sign: Sign,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub at: Option<Timestamp>,
    /// Whether the time is that of a line above it: it came then, or later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherited: bool,
    #[serde(flatten)]
    pub place: Place,
    /// An Xid, an exit code, a signal, a sequence number: what the sign counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// What the line names: the other end's address, a GPU's PCI address, a path, an operation, an exception's class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// Which of the sources.
    pub source: usize,
    /// From 1.
    pub line: u64,
    /// The line, cut, with its secrets masked.
    pub text: String,
    /// So many lines said the same; the first is shown.
    pub times: u64,
}

/// What a line is a sign of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    // A part that failed.
    /// An Xid of the GPU's driver; the number is its code.
    Xid,
    GpuLost,
    /// As a watch saw it: by an Xid, or as the driver wants a reset.
    GpuFailed,
    GpuEcc,
    MachineCheck,
    NvlinkFailed,
    LinkDown,
    AdapterFailed,
    /// An RDMA operation ended with an error, or a device told of one.
    RdmaError,
    /// A job's node failed, as the scheduler saw it.
    NodeFailed,
    /// Some node of the job failed, and the line does not say which.
    SomeNodeFailed,
    HungTask,
    /// A kernel that locked up or crashed.
    Kernel,
    // Storage.
    DiskFull,
    Quota,
    ReadOnly,
    IoError,
    StaleHandle,
    /// A file that is not whole.
    BrokenFile,
    /// A file that may not be opened.
    Denied,
    // Memory.
    HostMemory,
    GpuMemory,
    SharedMemory,
    // What started wrong.
    NoInterface,
    Memlock,
    OpenFiles,
    DuplicateGpu,
    /// NCCL's own diagnostics: what one GPU wrote to another's memory was not there.
    PeerAccess,
    FabricManager,
    /// A GPU that is there and not to be had: taken by another, or not given to the program.
    GpuBusy,
    /// Queues or memory of an adapter could not be set up.
    RdmaSetup,
    Processes,
    MissingLibrary,
    /// A launcher could not start its tasks.
    Launch,
    PortDenied,
    NameUnresolved,
    AddressInUse,
    VersionMismatch,
    Refused,
    NoRoute,
    // The program.
    GpuFault,
    Exception,
    NotANumber,
    SizeMismatch,
    Crash,
    /// A program ended itself: by an assertion of its own, or because NCCL's watchdog had waited long enough.
    Aborted,
    // From outside.
    TimeLimit,
    Preempted,
    Cancelled,
    /// A launcher or a process was asked to end; by whom, others may tell.
    Terminated,
    Killed,
    // What follows.
    CollectiveTimeout,
    /// Ranks that a barrier waited for; the line names them.
    Absent,
    PeerClosed,
    RankExit,
    /// A launcher ends what still runs.
    StepEnded,
    Teardown,
}

impl Sign {
    /// As a report tells it.
    pub const fn text(self) -> &'static str {
        match self {
            Sign::Xid => "Xid",
            Sign::GpuLost => "GPU lost",
            Sign::GpuFailed => "GPU failed",
            Sign::GpuEcc => "uncorrectable ECC error",
            Sign::MachineCheck => "machine check",
            Sign::NvlinkFailed => "NVLink error",
            Sign::LinkDown => "link down",
            Sign::AdapterFailed => "adapter failed",
            Sign::RdmaError => "RDMA error",
            Sign::NodeFailed => "node failure",
            Sign::SomeNodeFailed => "a node of the job failed",
            Sign::HungTask => "task hangs in the kernel",
            Sign::Kernel => "the kernel locked up or crashed",
            Sign::DiskFull => "file system full",
            Sign::Quota => "quota used up",
            Sign::ReadOnly => "read-only file system",
            Sign::IoError => "I/O error",
            Sign::StaleHandle => "stale file handle",
            Sign::BrokenFile => "file not whole",
            Sign::Denied => "access denied",
            Sign::HostMemory => "out of host memory",
            Sign::GpuMemory => "out of GPU memory",
            Sign::SharedMemory => "/dev/shm too small",
            Sign::NoInterface => "no network interface",
            Sign::Memlock => "memlock limit",
            Sign::OpenFiles => "too many open files",
            Sign::DuplicateGpu => "two ranks on one GPU",
            Sign::PeerAccess => "GPUs do not reach each other's memory",
            Sign::FabricManager => "NVSwitch fabric not ready",
            Sign::GpuBusy => "GPU not to be had",
            Sign::RdmaSetup => "RDMA not to be set up",
            Sign::Processes => "limit of processes",
            Sign::MissingLibrary => "library missing",
            Sign::Launch => "launcher could not start tasks",
            Sign::PortDenied => "port not allowed",
            Sign::NameUnresolved => "name not resolved",
            Sign::AddressInUse => "port taken",
            Sign::VersionMismatch => "versions do not fit",
            Sign::Refused => "connection refused",
            Sign::NoRoute => "peer not reached",
            Sign::GpuFault => "illegal access or fault in a kernel",
            Sign::Exception => "exception",
            Sign::NotANumber => "loss is not a number",
            Sign::SizeMismatch => "ranks disagree in a collective",
            Sign::Crash => "crash",
            Sign::Aborted => "aborted",
            Sign::TimeLimit => "time limit",
            Sign::Preempted => "preempted",
            Sign::Cancelled => "cancelled",
            Sign::Terminated => "asked to end",
            Sign::Killed => "killed",
            Sign::CollectiveTimeout => "collective timed out",
            Sign::Absent => "ranks did not come to a barrier",
            Sign::PeerClosed => "peer closed the connection",
            Sign::RankExit => "rank ended",
            Sign::StepEnded => "launcher ends the rest",
            Sign::Teardown => "teardown",
        }
    }
}

/// A group of ranks of which some wait for others.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Stall {
    /// Which of the sources told.
    pub source: usize,
    /// The group's own name, or a communicator's hash.
    pub group: String,
    pub size: u32,
    /// What they wait in: `all_reduce`.
    pub operation: String,
    /// Its number in the group.
    pub sequence: u64,
    /// Ranks of the job that are in it.
    pub waiting: Vec<u32>,
    /// Ranks that have not come, though they told of themselves.
    pub behind: Vec<u32>,
    /// Ranks of which nothing is known.
    pub silent: Vec<u32>,
    /// Ranks that came with something else, and with what: another operation, another size.
    pub different: Vec<(u32, String)>,
    /// Whether it stood still between two looks; absent where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub still: Option<bool>,
}
