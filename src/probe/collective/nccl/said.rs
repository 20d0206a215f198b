//! What NCCL says of itself while it is measured: its log and its topology file, and what of them all ranks must know.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::probe::ProbeError;
use crate::sys::environment;
use crate::sys::nccl::{Nccl, show_version};
use crate::topology::{self, Class, Log};

/// Most that is kept of what NCCL says.
const MOST_SAID: u64 = 8 << 20;

/// Where NCCL writes: memory of this process, which is gone with it.
pub(super) struct Said {
    pub(super) log: OwnedFd,
    pub(super) topology: OwnedFd,
}

impl Said {
    /// Must come before the library is loaded, which reads its settings once.
    pub(super) fn listen() -> Result<Self, ProbeError> {
        let file = |name| {
            let made = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC);
            crate::probe::io("memory for NCCL's log", made.map_err(Into::into))
        };
        let said = Said { log: file("nccl-log")?, topology: file("nccl-topology")? };
        environment::set("NCCL_DEBUG", "INFO");
        environment::set("NCCL_DEBUG_SUBSYS", "INIT,ENV,NET,GRAPH,TUNING");
        environment::set("NCCL_DEBUG_FILE", said.path(&said.log));
        environment::set("NCCL_TOPO_DUMP_FILE", said.path(&said.topology));
        Ok(said)
    }

    fn path(&self, fd: &OwnedFd) -> String {
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    pub(super) fn read(&self, fd: &OwnedFd) -> String {
        use std::io::Read;
        let mut bytes = Vec::new();
        if let Ok(file) = fs::File::open(self.path(fd)) {
            let _ = file.take(MOST_SAID).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// What of a rank's log all must know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) transports: BTreeMap<topology::Way, u32>,
    sends_by: BTreeSet<u32>,
    devices: Vec<topology::NetDevice>,
    far: Vec<topology::Far>,
    refused: Vec<topology::Refused>,
    warnings: Vec<String>,
}

impl Seen {
    pub(super) fn of(log: &Log) -> Self {
        Seen {
            transports: log.transports.clone(),
            sends_by: log.sends_by.clone(),
            devices: log.devices.clone(),
            far: log.far.clone(),
            refused: log.refused.clone(),
            warnings: log.warnings.clone(),
        }
    }
}

/// Bytes per second that the adapters of this node carry one way, as NCCL sees them: of as many as there are GPUs that use them.
pub(super) fn adapters(topology: Option<&topology::NcclTopology>, class: Class, gpus: usize) -> Option<(f64, String)> {
    if !matches!(class, Class::Net | Class::NetDirect) {
        return None;
    }
    let mut rates: Vec<f64> = topology?
        .cpus
        .iter()
        .flat_map(|c| &c.nets)
        .filter_map(|n| n.speed_mbps)
        .map(|mbps| mbps as f64 / 8.0 * 1e6)
        .collect();
    rates.sort_by(|a, b| b.total_cmp(a));
    rates.truncate(gpus);
    let total: f64 = rates.iter().sum();
    (total > 0.0).then(|| (total, format!("{} adapters as NCCL sees them", rates.len())))
}

/// What NCCL said on all ranks, as one.
pub(super) fn facts(
    nccl: &Nccl,
    log: &Log,
    seen: &[Seen],
    (ranks, nodes): (u32, u32),
    topology: &Result<topology::NcclTopology, String>,
) -> topology::Nccl {
    let mut out = topology::Nccl {
        version: show_version(nccl.version),
        path: nccl.path.clone(),
        ranks,
        nodes,
        network: log.network.clone(),
        nvls: log.nvls,
        collnet: log.collnet,
        channels: log.channels,
        ring: log.ring.clone(),
        settings: log.settings.clone(),
        plugins: log.plugins.clone(),
        topology: topology.as_ref().ok().cloned(),
        ..topology::Nccl::default()
    };
    for (rank, s) in seen.iter().enumerate() {
        for (name, n) in &s.transports {
            *out.transports.entry(name.clone()).or_default() += n;
        }
        if !s.sends_by.is_empty() {
            out.sends_by.insert(rank as u32, s.sends_by.iter().copied().collect());
        }
        for device in &s.devices {
            match out.devices.iter_mut().find(|d| d.name == device.name) {
                // One rank that goes without it is one too many.
                Some(known) if device.gdr == Some(false) => known.gdr = device.gdr,
                Some(known) => known.gdr = known.gdr.or(device.gdr),
                None => out.devices.push(device.clone()),
            }
        }
        out.far.extend(s.far.iter().filter(|f| !out.far.contains(f)).cloned().collect::<Vec<_>>());
        out.refused.extend(s.refused.iter().filter(|r| !out.refused.contains(r)).cloned().collect::<Vec<_>>());
        for warning in &s.warnings {
            if out.warnings.len() < 8 && !out.warnings.contains(warning) {
                out.warnings.push(warning.clone());
            }
        }
    }
    out
}
