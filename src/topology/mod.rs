//! What the machine is: types, and their readers over a [`SysRoot`] that may be live or recorded.

mod allowance;
mod cpu;
mod fabric;
mod filesystem;
pub mod ib;
mod leaf;
mod lustre;
mod machine;
mod nccl;
mod net;
mod nvidia;
mod os;
mod pci;
mod ports;
mod rdma;
mod read;
pub mod secret;
mod slurm_conf;
mod slurm_yaml;
mod software;
mod spec;
mod sysroot;
mod transport;
mod wires;
mod yaml;

pub use allowance::{quotas, targets};
pub use cpu::parse_list as parse_cpu_list;
pub use fabric::{leaves_of, read_topology};
pub use filesystem::{Filesystem, Mount, Quota, QuotaOf, Target, mount_of};
pub use leaf::{FabricError, Leaf};
pub use machine::*;
pub use nccl::{
    Choice, Diagnosis, Direct, Far, Log, Nccl, NcclTopology, NetDevice, NvLinkEnd, NvLinkTo, P2p, Prediction, Refusal,
    Refused, SOCKETS, TopologyCpu, TopologyGpu, TopologyNet, VERBS, Way, parse_diagnoses, parse_log, parse_topology,
};
pub use nvidia::{
    Clocks, DeviceNode, Domain, DriverView, FabricHealth, FabricState, Gpu, GpuProcess, Imex, NvLink, Nvidia,
    PcieState, Recovery, Remapped, Slice, Standing, Xid, XidDetail, nvidia, nvidia_within, short_pci, throttled,
};
pub use pci::host_path;
pub use ports::{Listener, who_listens};
pub use rdma::gids;
pub use read::{boot_id, discover, gpus_on_bus, mounts};
pub use software::{
    Component, Elf, ElfError, LibraryFile, Reach, Start, Version, architecture, cuda_of, driver_of, elf, net_plugins,
    newest_cuda, oldest_cuda, oldest_driver, start,
};
pub use spec::{GpuSpec, gpu_spec, gpu_spec_named, gpu_specs};
pub use sysroot::{SysRoot, SysRootError};
pub use transport::{Class, busbw_of};
pub use wires::{NvLinks, Wires};
