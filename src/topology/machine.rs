//! One node as discovery saw it. Everything optional: a container hides much, and absence is a fact of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::topology::Mount;
use crate::unit::Bytes;

/// One node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Machine {
    pub hostname: String,
    /// The kernel's boot id: nodes with one boot id share a machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    pub cpu: Cpu,
    pub memory: Memory,
    pub nics: Vec<Nic>,
    pub infiniband: Vec<IbDevice>,
    /// Whether /dev/infiniband is there; absent where there is no RDMA device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uverbs: Option<bool>,
    pub gpus: Vec<PciGpu>,
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
    pub numa: Vec<NumaNode>,
    pub governor: Option<String>,
    /// Highest frequency that the kernel admits.
    pub max_hz: Option<f64>,
    /// Frequency in /proc/cpuinfo when looked at; in a virtual machine the base frequency.
    pub seen_hz: Option<f64>,
    /// The widest vector extension: `avx512f`, `avx2`, `asimd`.
    pub simd: Option<String>,
    /// Of all last-level caches together.
    pub last_level_cache: Option<Bytes>,
    pub virtualised: bool,
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
    pub numa: Option<u32>,
    pub ports: Vec<IbPort>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IbPort {
    pub port: u32,
    pub state: Option<String>,
    pub phys_state: Option<String>,
    pub rate: Option<String>,
    pub link_layer: Option<String>,
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
    /// Hardware threads that measuring may use: allowed ones, cut by the cgroup's quota.
    pub fn usable_threads(&self) -> usize {
        let allowed = if self.cpu.allowed.is_empty() { self.cpu.threads as usize } else { self.cpu.allowed.len() };
        let quota = self.cgroup.cpus.map_or(usize::MAX, |c| c.floor().max(1.0) as usize);
        allowed.min(quota).max(1)
    }

    /// RDMA devices with an active port.
    pub fn active_rdma(&self) -> impl Iterator<Item = &str> {
        let active = |d: &&IbDevice| d.ports.iter().any(|p| p.state.as_deref() == Some("ACTIVE"));
        self.infiniband.iter().filter(active).map(|d| d.name.as_str())
    }

    /// Physical cores among the usable threads.
    pub fn usable_cores(&self) -> usize {
        let per_core = self.cpu.threads.checked_div(self.cpu.cores).map_or(1, |t| t.max(1) as usize);
        (self.usable_threads() / per_core).max(1)
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
