//! Which lines say something, and what of.

use crate::measure::Sign;

/// A line that holds `needle` and all of `also`, and none of `not`, is a sign. Of several the first in the table counts: the more a line
/// says, the further up it stands.
pub(super) struct Pattern {
    pub needle: &'static str,
    pub also: &'static [&'static str],
    pub not: &'static [&'static str],
    pub sign: Sign,
}

const fn p(needle: &'static str, sign: Sign) -> Pattern {
    Pattern { needle, also: &[], not: &[], sign }
}

const fn with(needle: &'static str, also: &'static [&'static str], sign: Sign) -> Pattern {
    Pattern { needle, also, not: &[], sign }
}

const fn without(needle: &'static str, not: &'static [&'static str], sign: Sign) -> Pattern {
    Pattern { needle, also: &[], not, sign }
}

/// What follows an error elsewhere stands above the errors that it is made of.
pub(super) const PATTERNS: &[Pattern] = &[
    // GPUs and what joins them, by the driver and by programs.
    p("NVRM: Xid", Sign::Xid),
    p("Xid ", Sign::Xid),
    p("fallen off the bus", Sign::GpuLost),
    p("NV_ERR_RESET_REQUIRED", Sign::GpuLost),
    p("Unable to determine the device handle for GPU", Sign::GpuLost),
    p("GPU is lost", Sign::GpuLost),
    p("uncorrectable ECC error", Sign::GpuEcc),
    p("uncorrectable NVLink error", Sign::NvlinkFailed),
    p("CUDA_ERROR_ECC_UNCORRECTABLE", Sign::GpuEcc),
    p("no CUDA-capable device is detected", Sign::GpuLost),
    p("system not yet initialized", Sign::FabricManager),
    p("CUDA_ERROR_SYSTEM_NOT_READY", Sign::FabricManager),
    p("Multicast memory", Sign::FabricManager),
    p("nvidia-fabricmanager", Sign::FabricManager),
    // The node.
    p("DUE TO NODE FAILURE", Sign::SomeNodeFailed),
    p("Node failure on", Sign::NodeFailed),
    p("NODE_FAIL", Sign::SomeNodeFailed),
    p("[Hardware Error]: Machine check", Sign::MachineCheck),
    p("mce: [Hardware Error]", Sign::MachineCheck),
    p("Uncorrected hardware memory error", Sign::MachineCheck),
    with("blocked for more than", &["INFO: task"], Sign::HungTask),
    with("mlx5_core", &["Link down"], Sign::LinkDown),
    p("NIC Link is Down", Sign::LinkDown),
    p("mlx5_cmd_out_err", Sign::RdmaError),
    with("Got async event", &["atastrophic"], Sign::AdapterFailed),
    with("Got async event", &["fatal"], Sign::AdapterFailed),
    p("Got async fatal event", Sign::AdapterFailed),
    // Memory.
    p("Out of memory: Killed process", Sign::HostMemory),
    p("Memory cgroup out of memory", Sign::HostMemory),
    p("oom_kill event", Sign::HostMemory),
    p("oom-kill event", Sign::HostMemory),
    p("invoked oom-killer", Sign::HostMemory),
    p("OUT_OF_MEMORY", Sign::HostMemory),
    p("OOMKilled", Sign::HostMemory),
    p("DefaultCPUAllocator: can't allocate memory", Sign::HostMemory),
    p("CUDA out of memory", Sign::GpuMemory),
    p("CUDA error: out of memory", Sign::GpuMemory),
    p("torch.OutOfMemoryError", Sign::GpuMemory),
    p("CUDA_ERROR_OUT_OF_MEMORY", Sign::GpuMemory),
    with("Cuda failure", &["out of memory"], Sign::GpuMemory),
    // From outside.
    p("DUE TO TIME LIMIT", Sign::TimeLimit),
    p("DUE TO PREEMPTION", Sign::Preempted),
    p("this job is preempted", Sign::Preempted),
    p("got signal: 15", Sign::Teardown),
    p("got signal: 1", Sign::Cancelled),
    p("got signal: 2", Sign::Cancelled),
    p("DUE TO TASK FAILURE", Sign::Teardown),
    with("error: *** ", &["slurmstepd", "CANCELLED AT"], Sign::Cancelled),
    p("KeyboardInterrupt", Sign::Cancelled),
    // What starts wrong.
    p("Duplicate GPU detected", Sign::DuplicateGpu),
    with("NCCL DIAG [INFO] p2p: ", &["passed verification"], Sign::PeerAccess),
    p("no socket interface found", Sign::NoInterface),
    p("No socket interface found", Sign::NoInterface),
    p("No interface found in the same subnet", Sign::NoInterface),
    p("Unable to find address for", Sign::NoInterface),
    p("is neither AF_INET", Sign::NoInterface),
    with("Cannot allocate memory", &["ibv_"], Sign::Memlock),
    with("Cannot allocate memory", &["NET/IB"], Sign::Memlock),
    with("No space left on device", &["shm"], Sign::SharedMemory),
    with("No space left on device", &["fallocate"], Sign::SharedMemory),
    p("Error while creating shared memory segment", Sign::SharedMemory),
    with("Bus error", &["shared memory"], Sign::SharedMemory),
    p("insufficient shared memory", Sign::SharedMemory),
    p("Too many open files", Sign::OpenFiles),
    p("NCCL version mismatch", Sign::VersionMismatch),
    p("Mismatched NCCL version detected", Sign::VersionMismatch),
    p("CUDA driver version is insufficient", Sign::VersionMismatch),
    p("forward compatibility was attempted", Sign::VersionMismatch),
    p("Temporary failure in name resolution", Sign::NameUnresolved),
    p("Name or service not known", Sign::NameUnresolved),
    p("Address already in use", Sign::AddressInUse),
    p("EADDRINUSE", Sign::AddressInUse),
    // Ranks that disagree.
    p("essage truncated :", Sign::SizeMismatch),
    p("collective mismatch error", Sign::SizeMismatch),
    p("Mismatched collective detected", Sign::SizeMismatch),
    p("op.preamble.length <= op.nbytes", Sign::SizeMismatch),
    p("Detected mismatch between collectives", Sign::SizeMismatch),
    p("got different sizes", Sign::SizeMismatch),
    // Storage.
    p("No space left on device", Sign::DiskFull),
    p("PytorchStreamWriter failed writing file", Sign::DiskFull),
    p("Disk quota exceeded", Sign::Quota),
    p("Read-only file system", Sign::ReadOnly),
    p("Stale file handle", Sign::StaleHandle),
    p("Input/output error", Sign::IoError),
    with("I/O error", &["dev "], Sign::IoError),
    with("nfs: server", &["not responding"], Sign::IoError),
    // Who waits too long, and for whom.
    p("failed to pass monitoredBarrier", Sign::Absent),
    p("successfully reached monitoredBarrier", Sign::Teardown),
    p("Socket Timeout", Sign::CollectiveTimeout),
    p("Watchdog caught collective operation timeout", Sign::CollectiveTimeout),
    with("Timed out waiting", &["ms for"], Sign::CollectiveTimeout),
    p("Timed out waiting for clients", Sign::CollectiveTimeout),
    p("wait timeout after", Sign::CollectiveTimeout),
    // RDMA and TCP, with who the other end is.
    p("Got completion from peer", Sign::RdmaError),
    p("Got completion with error", Sign::RdmaError),
    p("Got async event : port error", Sign::LinkDown),
    p("Got async event", Sign::RdmaError),
    p("transport retry counter exceeded", Sign::RdmaError),
    p("Software caused connection abort", Sign::NoRoute),
    with("timed out after", &["trying to connect"], Sign::NoRoute),
    p("Connection closed by peer", Sign::PeerClosed),
    p("Connection closed by remote peer", Sign::PeerClosed),
    p("Connection reset by peer", Sign::PeerClosed),
    p("Broken pipe", Sign::PeerClosed),
    p("remote process exited or there was a network error", Sign::PeerClosed),
    p("No route to host", Sign::NoRoute),
    p("Network is unreachable", Sign::NoRoute),
    p("Connection timed out", Sign::NoRoute),
    p("Connection refused", Sign::Refused),
    // The program.
    p("an illegal memory access was encountered", Sign::GpuFault),
    p("device-side assert triggered", Sign::GpuFault),
    with("Assertion `", &["block: ["], Sign::GpuFault),
    with("Assertion `", &["failed"], Sign::Crash),
    p("unspecified launch failure", Sign::GpuFault),
    p("CUDA_ERROR_ILLEGAL_ADDRESS", Sign::GpuFault),
    p("loss is nan", Sign::NotANumber),
    p("loss is NaN", Sign::NotANumber),
    p("found NaN in", Sign::NotANumber),
    with("is killed by signal", &["DataLoader worker", "Killed"], Sign::Killed),
    p("died with <Signals.SIGSEGV", Sign::Crash),
    p("died with <Signals.SIGKILL", Sign::Killed),
    p("WTERMSIG 9", Sign::Killed),
    p("exits with return code", Sign::RankExit),
    p("Segmentation fault", Sign::Crash),
    p("*** SIGSEGV received", Sign::Crash),
    // How processes ended.
    p("Signal 11 (SIGSEGV) received by PID", Sign::Crash),
    p("Signal 7 (SIGBUS) received by PID", Sign::Crash),
    p("Signal 9 (SIGKILL) received by PID", Sign::Killed),
    p("Signal 15 (SIGTERM) received by PID", Sign::Teardown),
    p("Sending process", Sign::Teardown),
    p("Job step aborted: Waiting", Sign::StepEnded),
    p("death signal, shutting down workers", Sign::Teardown),
    p("SignalException", Sign::Teardown),
    with("exitcode  :", &["(pid:"], Sign::RankExit),
    with("failed (exitcode:", &["local_rank:"], Sign::RankExit),
    with("srun: error:", &["Killed"], Sign::Killed),
    with("srun: error:", &["Segmentation fault"], Sign::Crash),
    with("srun: error:", &["Aborted"], Sign::Aborted),
    with("srun: error:", &["Exited with exit code"], Sign::RankExit),
    with("srun: error:", &["Terminated"], Sign::Teardown),
    with("exited on signal 9", &["mpirun"], Sign::Killed),
    // Exceptions of Python: what only tells of other ranks' first.
    p("ChildFailedError", Sign::Teardown),
    p("DistBackendError", Sign::Teardown),
    p("DistNetworkError", Sign::Teardown),
    p("Rendezvous", Sign::Teardown),
    p("CalledProcessError", Sign::Teardown),
    p("ncclRemoteError", Sign::Teardown),
    p("ncclSystemError", Sign::Teardown),
    p("ncclInternalError", Sign::Teardown),
    p("ncclInvalidUsage", Sign::Teardown),
    p("ncclUnhandledCudaError", Sign::Teardown),
    p("BrokenPipeError", Sign::PeerClosed),
    without("Error: ", &["slurm", "srun: ", "NCCL "], Sign::Exception),
    p("Exception: ", Sign::Exception),
    p("AssertionError", Sign::Exception),
];

/// Lines that say where a rank runs.
pub(super) const PLACES: &[&str] = &["NCCL INFO comm 0x", "NCCL INFO ncclCommInitRank", "NCCL INFO Bootstrap"];
