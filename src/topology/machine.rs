//! One node as discovery saw it. Everything optional: a container hides much, and absence is a fact of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::topology::{Domain, Mount, Nvidia, Standing};
use crate::unit::Bytes;

/// One node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Machine {
    pub hostname: String,
    /// The kernel's boot id: nodes with one boot id share a machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The machine's serial number, where this user may read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    pub cpu: Cpu,
    pub memory: Memory,
    pub nics: Vec<Nic>,
    pub infiniband: Vec<IbDevice>,
    /// Whether /dev/infiniband is there; absent where there is no RDMA device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uverbs: Option<bool>,
    pub gpus: Vec<PciGpu>,
    /// What NVIDIA's driver says of them; absent without such a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvidia: Option<Nvidia>,
    pub disks: Vec<Disk>,
    pub mounts: Vec<Mount>,
    pub kernel: Kernel,
    pub cgroup: Cgroup,
    pub container: Option<String>,
    pub limits: Limits,
    /// Kernel settings that matter, by their path under /proc/sys with dots.
    pub sysctls: BTreeMap<String, String>,
    /// Of the modules that matter, those loaded.
    pub modules: Vec<String>,
    /// Allow-listed environment variables.
    pub environment: BTreeMap<String, String>,
    /// What is absent or unreadable and would have been used.
    pub missing: Vec<Missing>,
}

/// Something that discovery looked for and did not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Missing {
    pub path: PathBuf,
    /// True when it exists and this user may not read it.
    pub denied: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Cpu {
    pub model: String,
    pub vendor: String,
    pub sockets: u32,
    /// Physical cores.
    pub cores: u32,
    /// Hardware threads online.
    pub threads: u32,
    /// Hardware threads that this process may use.
    pub allowed: Vec<u32>,
    pub smt: bool,
    /// Where cores differ: each kind, the fastest first; empty where all are alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<CoreKind>,
    pub numa: Vec<NumaNode>,
    pub governor: Option<String>,
    /// Highest frequency that the kernel admits to any core.
    pub max_hz: Option<f64>,
    /// Frequency in /proc/cpuinfo when looked at; in a virtual machine the base frequency.
    pub seen_hz: Option<f64>,
    /// The widest vector extension: `avx512f`, `avx2`, `asimd`.
    pub simd: Option<String>,
    /// Of all last-level caches together.
    pub last_level_cache: Option<Bytes>,
    pub virtualised: bool,
}

/// Cores that are alike among others that are not: performance and efficiency cores, big and little ones.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CoreKind {
    /// Hardware threads.
    pub cpus: Vec<u32>,
    pub cores: u32,
    pub max_hz: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct NumaNode {
    pub id: u32,
    pub cpus: Vec<u32>,
    pub memory: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Memory {
    pub total: Option<Bytes>,
    pub available: Option<Bytes>,
    pub swap: Option<Bytes>,
    pub huge_pages: u64,
    pub huge_page_size: Option<Bytes>,
    /// `always`, `madvise` or `never`.
    pub transparent_huge_pages: Option<String>,
    pub shm: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Nic {
    pub name: String,
    pub driver: Option<String>,
    pub state: Option<String>,
    /// Link rate in Mb/s as ethtool has it; absent when down or virtual.
    pub speed_mbps: Option<u64>,
    pub mtu: Option<u32>,
    /// How often its carrier came or went since it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier_changes: Option<u64>,
    /// Packets that it received or sent with errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<u64>,
    pub numa: Option<u32>,
    /// PCI address, when a device is behind it.
    pub pci: Option<String>,
    /// Its own addresses in networks that it reaches without a gateway.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IbDevice {
    pub name: String,
    pub firmware: Option<String>,
    /// The adapter's model, such as `MT4129`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The board's number (PSID): what one model is sold as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board: Option<String>,
    /// The kernel driver; absent where no device is behind it, as for soft-RoCE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Whether libibverbs' configuration names a provider for it; absent where that cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<bool>,
    pub numa: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie: Option<Pcie>,
    /// Congestion control as the driver's files show it: absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub congestion: Option<Congestion>,
    pub ports: Vec<IbPort>,
}

/// A network whose adapters have no reliable-connected queue pairs: programs reach it through libfabric, NCCL through a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Connectionless {
    /// Amazon's: datagrams and its own SRD only (rdma-core, providers/efa: `IBV_QPT_UD` and `IBV_QPT_DRIVER`).
    Efa,
    /// HPE's Slingshot, by Cassini adapters.
    Slingshot,
    /// Cisco's: datagrams only (`IBV_NODE_USNIC_UDP`).
    Usnic,
}

impl Connectionless {
    /// By the kernel driver behind the device: EFA's is `efa`, Cassini's `cxi_ss1` (before its rename `cxi_core`), and that of usNIC's
    /// functions `usnic_verbs`, of the card itself `enic`.
    fn of(driver: Option<&str>) -> Option<Self> {
        match driver? {
            "efa" => Some(Connectionless::Efa),
            "cxi_ss1" | "cxi_core" => Some(Connectionless::Slingshot),
            "usnic_verbs" | "enic" => Some(Connectionless::Usnic),
            _ => None,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Connectionless::Efa => "EFA",
            Connectionless::Slingshot => "Slingshot",
            Connectionless::Usnic => "usNIC",
        }
    }

    /// What NCCL reaches it by, if anything does.
    pub const fn plugin(self) -> Option<&'static str> {
        match self {
            Connectionless::Efa | Connectionless::Slingshot => Some("aws-ofi-nccl"),
            Connectionless::Usnic => None,
        }
    }
}

impl IbDevice {
    pub fn connectionless(&self) -> Option<Connectionless> {
        Connectionless::of(self.driver.as_deref())
    }

    fn is_active(&self) -> bool {
        self.ports.iter().any(|p| p.state.as_deref() == Some("ACTIVE"))
    }
}

/// What a RoCE adapter does against loss, by traffic class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Congestion {
    /// Classes in which the sender slows down when told (DCQCN).
    pub ecn: Option<u32>,
    /// Classes that may be paused.
    pub pfc: Option<u32>,
}

/// A device's place on PCI Express.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Pcie {
    /// Bridges above it, the root port first.
    pub bridges: Vec<String>,
    /// Bridges of those that send peer-to-peer traffic up to the root complex (ACS); absent where that may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirecting: Option<Vec<String>>,
    pub link: Option<PcieLink>,
    /// What the device itself could do.
    pub most: Option<PcieLink>,
    /// What the slot above it could do.
    pub slot: Option<PcieLink>,
}

/// Transfers per second and lane, and lanes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct PcieLink {
    /// 2.5 for the first generation, 32 for the fifth.
    pub gigatransfers: f64,
    pub lanes: u32,
}

impl PcieLink {
    /// By its generation, 1 for the first.
    pub fn of(generation: u32, lanes: u32) -> Self {
        let gigatransfers = match generation {
            1 => 2.5,
            2 => 5.0,
            n => 8.0 * f64::from(1u32 << (n.clamp(3, 8) - 3)),
        };
        PcieLink { gigatransfers, lanes }
    }

    /// Bytes per second each way, after line coding, before packet headers.
    pub fn rate(&self) -> f64 {
        let coding = if self.gigatransfers <= 5.0 { 0.8 } else { 128.0 / 130.0 };
        self.gigatransfers * 1e9 * coding * f64::from(self.lanes) / 8.0
    }
}

impl std::fmt::Display for PcieLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} GT/s x{}", self.gigatransfers, self.lanes)
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IbPort {
    pub port: u32,
    pub state: Option<String>,
    pub phys_state: Option<String>,
    pub rate: Option<String>,
    pub link_layer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lid: Option<u16>,
    /// The subnet manager's; 0 while there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sm_lid: Option<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gids: Vec<Gid>,
    /// Partitions in the order of the port's table; the highest bit means full membership.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pkeys: Vec<u16>,
}

/// An entry of a port's table of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Gid {
    pub index: u8,
    pub address: String,
    /// `IB/RoCE v1` or `RoCE v2`; of InfiniBand the former.
    pub kind: String,
}

/// A GPU by its PCI class; what only a driver can tell is not here.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PciGpu {
    pub pci: String,
    pub vendor: String,
    pub device: String,
    pub driver: Option<String>,
    pub numa: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie: Option<Pcie>,
}

impl PciGpu {
    /// The vendor's number on PCI.
    pub const NVIDIA: &'static str = "0x10de";

    pub fn is_nvidia(&self) -> bool {
        self.vendor == Self::NVIDIA
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Disk {
    pub name: String,
    pub model: Option<String>,
    pub size: Option<Bytes>,
    pub rotational: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Kernel {
    pub release: Option<String>,
    pub command_line: Option<String>,
    pub os: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Cgroup {
    /// Cores' worth of time that the cgroup allows; absent when unlimited.
    pub cpus: Option<f64>,
    /// Memory limit; absent when unlimited.
    pub memory: Option<Bytes>,
}

/// Soft limits of this process; absent means unlimited or unknown, `known` tells which.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    pub known: bool,
    pub memlock: Option<Bytes>,
    pub nofile: Option<u64>,
    pub stack: Option<Bytes>,
}

impl Machine {
    /// NVIDIA GPUs on the PCI bus: what the machine has, whoever may use it.
    pub fn gpus_present(&self) -> usize {
        self.gpus.iter().filter(|g| g.is_nvidia()).count()
    }

    /// How near an RDMA device is to a GPU: bridges above both, then whether they share a NUMA node.
    pub fn nearness(&self, device: &str, gpu_pci: &str) -> (usize, bool) {
        let adapter = self.infiniband.iter().find(|d| d.name == device);
        let gpu = self.gpus.iter().find(|g| g.pci == gpu_pci);
        let Some((adapter, gpu)) = adapter.zip(gpu) else { return (0, false) };
        let ways = adapter.pcie.as_ref().zip(gpu.pcie.as_ref());
        let shared = ways.map_or(0, |(a, b)| a.bridges.iter().zip(&b.bridges).take_while(|(x, y)| x == y).count());
        (shared, gpu.numa.is_some() && gpu.numa == adapter.numa)
    }

    /// What the GPUs' driver told, where it answered to the end: one that broke off in the middle told of some GPUs only.
    pub fn driver(&self) -> Option<&Nvidia> {
        self.nvidia.as_ref().filter(|n| n.error.is_none())
    }

    /// NVIDIA GPUs that this process may use; `None` where the driver could not be asked.
    pub fn gpus_granted(&self) -> Option<usize> {
        self.driver().map(|n| n.gpus.len())
    }

    /// GPUs of the PCI bus that NVML does not show, each with what it is to this process. Empty where NVML could not be asked.
    pub fn gpus_hidden(&self) -> Vec<(&PciGpu, Standing)> {
        let Some(n) = self.driver() else { return Vec::new() };
        let any_bound = n.driver_views.iter().any(|s| s.bound);
        let hidden = |g: &&PciGpu| g.is_nvidia() && !n.gpus.iter().any(|x| x.pci == g.pci);
        let standing = |g: &PciGpu| {
            let view = n.driver_views.iter().find(|s| s.pci == g.pci);
            view.map_or(Standing::Unknown, |s| s.standing(g.driver.as_deref(), n.masked, any_bound))
        };
        self.gpus.iter().filter(hidden).map(|g| (g, standing(g))).collect()
    }

    /// The NVLink domain of the node's GPUs, where it reaches beyond the node.
    pub fn nvlink_domain(&self) -> Option<Domain<'_>> {
        self.nvidia.as_ref()?.domain()
    }

    /// Hardware threads that measuring may use: allowed ones, cut by the cgroup's quota.
    pub fn usable_threads(&self) -> usize {
        let allowed = if self.cpu.allowed.is_empty() { self.cpu.threads as usize } else { self.cpu.allowed.len() };
        let quota = self.cgroup.cpus.map_or(usize::MAX, |c| c.floor().max(1.0) as usize);
        allowed.min(quota).max(1)
    }

    /// RDMA devices with an active port. EFA's driver reports every port as active, whatever its link does: nothing better is
    /// to be had from /sys/class/infiniband.
    pub fn active_rdma(&self) -> impl Iterator<Item = &str> {
        self.infiniband.iter().filter(|d| d.is_active()).map(|d| d.name.as_str())
    }

    /// Those of `active_rdma` that have reliable connections, which is what NCCL's own network and the verbs tests need.
    pub fn connected_rdma(&self) -> impl Iterator<Item = &str> {
        let connected = |d: &&IbDevice| d.is_active() && d.connectionless().is_none();
        self.infiniband.iter().filter(connected).map(|d| d.name.as_str())
    }

    /// Adapters that are up and have none: RDMA devices, and interfaces whose driver makes no RDMA device (Slingshot's).
    pub fn connectionless(&self) -> impl Iterator<Item = (&str, Connectionless)> {
        let devices = self.infiniband.iter().filter(|d| d.is_active());
        let devices = devices.filter_map(|d| Some((d.name.as_str(), d.connectionless()?)));
        let of_nic = |n: &Nic| Connectionless::of(n.driver.as_deref()).filter(|c| *c == Connectionless::Slingshot);
        let nics = self.nics.iter().filter(|n| n.state.as_deref() == Some("up"));
        let cassini = self.infiniband.iter().all(|d| d.connectionless() != Some(Connectionless::Slingshot));
        devices.chain(nics.filter(move |_| cassini).filter_map(move |n| Some((n.name.as_str(), of_nic(n)?))))
    }

    /// Physical cores among the usable threads.
    pub fn usable_cores(&self) -> usize {
        let per_core = |threads: u32, cores: u32| threads.checked_div(cores).map_or(1, |t| t.max(1) as usize);
        let threads = self.usable_threads();
        if self.cpu.kinds.is_empty() {
            return (threads / per_core(self.cpu.threads, self.cpu.cores)).max(1);
        }
        let usable = |k: &CoreKind| {
            let allowed = k.cpus.iter().filter(|c| self.cpu.allowed.is_empty() || self.cpu.allowed.contains(c)).count();
            allowed / per_core(k.cpus.len() as u32, k.cores)
        };
        // A quota bounds what the affinity mask allows.
        self.cpu.kinds.iter().map(usable).sum::<usize>().clamp(1, threads.max(1))
    }

    /// The clock that a core of a virtual machine runs at where its host takes nothing of it. Absent on a machine's own hardware, and
    /// under a quota: there the job's own group takes it, and that is the finding.
    pub fn guest_hz(&self) -> Option<f64> {
        let own = self.cgroup.cpus.is_some_and(|quota| quota < self.cpu.threads as f64);
        self.cpu.seen_hz.filter(|hz| self.cpu.virtualised && !own && *hz > 0.0)
    }

    /// A clock that no core of this machine exceeds: the kernel's maximum, or 6.5 GHz, above every part sold by 2026.
    pub fn clock_ceiling_hz(&self) -> f64 {
        self.cpu.max_hz.unwrap_or(6.5e9).max(self.cpu.seen_hz.unwrap_or(0.0))
    }

    /// Bytes per second that `cores` cores could at most move if every cycle moved one 64-byte line: the physical
    /// ceiling of every copy that goes through them.
    pub fn copy_ceiling(&self, cores: usize) -> f64 {
        cores as f64 * 64.0 * self.clock_ceiling_hz()
    }
}
