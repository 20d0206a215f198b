//! What NCCL says of itself while it is measured: its log and its topology file, and what of them all ranks must know.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::cluster::Child;
use crate::id::clean;
use crate::sys::nccl::{Nccl, NcclError, show_version};
use crate::sys::{environment, flush_printed};
use crate::topology::{self, Class, Log};

/// Descriptors from here on are free in every process that has just begun.
const PLACE: i32 = 900;
/// Most that is kept of what NCCL says.
const MOST_SAID: u64 = 8 << 20;

/// What gonogo sets to hear NCCL.
const OURS: [&str; 6] = [
    "NCCL_DEBUG",
    "NCCL_DEBUG_SUBSYS",
    "NCCL_DEBUG_FILE",
    "NCCL_TOPO_DUMP_FILE",
    // Since 2.31: GPUs read and write each other's memory while a communicator is made, and ranks are compared. The reports go to the
    // standard output of its first rank, which is a file in memory here.
    "NCCL_RUN_DIAGNOSTICS",
    "NCCL_RUN_RAS_DIAGNOSTICS",
];
/// The first version that has diagnostics, and what turns off the part that compares ranks.
const DIAGNOSES_SINCE: i32 = 23_100;
const RAS: &str = "NCCL_RAS_ENABLE";

/// What a GPU's process keeps of NCCL from one communicator to the next: the library, and what it says of itself, which it writes to
/// memory of this process.
pub(super) struct NcclState {
    files: Result<Files, String>,
    nccl: RefCell<Option<Rc<Nccl>>>,
    /// Of the communicators before.
    log: RefCell<Log>,
}

struct Files {
    log: OwnedFd,
    topology: OwnedFd,
    /// What the user had set of these settings: variable and value.
    replaced: Vec<(&'static str, String)>,
}

impl NcclState {
    /// Must come before any library is loaded: NCCL reads its settings once, and nobody else may read them meanwhile.
    pub(super) fn of(child: &mut Child) -> Rc<Self> {
        child.kept(|| NcclState { files: Files::listen(), nccl: RefCell::default(), log: RefCell::default() })
    }

    /// That the user's own settings of NCCL's log do not hold here.
    pub(super) fn note(&self) -> Option<String> {
        let replaced = &self.files.as_ref().ok()?.replaced;
        let all: Vec<String> = replaced.iter().map(|(name, value)| format!("{name}={}", clean(value))).collect();
        (!all.is_empty()).then(|| {
            format!(
                "{} set by you: not used here, gonogo reads NCCL's log itself, and no file of yours was written",
                all.join(", ")
            )
        })
    }

    /// The library that fits a driver of this version of CUDA.
    pub(super) fn nccl(&self, driver: i32) -> Result<Rc<Nccl>, NcclError> {
        if let Some(nccl) = &*self.nccl.borrow() {
            return Ok(nccl.clone());
        }
        let nccl = Nccl::load(Some(driver))?;
        *self.nccl.borrow_mut() = Some(nccl.clone());
        Ok(nccl)
    }

    /// Begins to listen to a communicator that is made from here on.
    pub(super) fn listen(&self) -> Heard<'_> {
        let from = self.files.as_ref().map_or(0, |f| rustix::fs::fstat(&f.log).map_or(0, |s| s.st_size as u64));
        Heard { kept: self, from, said_from: said().len() as u64, told: None }
    }
}

impl Drop for NcclState {
    fn drop(&mut self) {
        // Nothing may hang on a library that is being unloaded; see `Child::finish`.
        std::mem::forget(self.nccl.borrow_mut().take());
    }
}

impl Files {
    fn listen() -> Result<Self, String> {
        let file = |name| {
            let made = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC);
            // NCCL compares settings of all ranks: a path that is the same in every process differs nowhere.
            let placed = made.map(|fd| rustix::io::fcntl_dupfd_cloexec(&fd, PLACE).unwrap_or(fd));
            placed.map_err(|e| format!("no memory for what NCCL says: {e}"))
        };
        let mut files = Files { log: file("nccl-log")?, topology: file("nccl-topology")?, replaced: Vec::new() };
        let (log, topology) = (path(&files.log), path(&files.topology));
        let values = ["INFO", "INIT,ENV,NET,GRAPH,TUNING", &log, &topology, "1", "1"];
        for (name, value) in OURS.into_iter().zip(values) {
            let user = std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
            files.replaced.extend(user.filter(|v| v != value).map(|v| (name, v)));
            environment::set(name, value);
        }
        Ok(files)
    }
}

fn path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// What libraries printed, where the standard output is a file in memory.
fn said() -> String {
    // What goes to a file is held back until there is much of it.
    flush_printed();
    const STDOUT: &str = "/proc/self/fd/1";
    let in_memory = fs::read_link(STDOUT).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"));
    let mut bytes = Vec::new();
    if in_memory && let Ok(file) = fs::File::open(STDOUT) {
        let _ = file.take(MOST_SAID).read_to_end(&mut bytes);
    }
    // Byte for byte: places in it must stay where they are.
    bytes.into_iter().map(|b| if b.is_ascii() { char::from(b) } else { '?' }).collect()
}

fn read(fd: &OwnedFd, from: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = fs::File::open(path(fd)) {
        let _ = file.seek(SeekFrom::Start(from)).and_then(|_| file.take(MOST_SAID).read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What NCCL says while one communicator lives.
pub(super) struct Heard<'k> {
    kept: &'k NcclState,
    /// Where in the log it begins, and in what was printed.
    from: u64,
    said_from: u64,
    told: Option<Seen>,
}

impl Heard<'_> {
    /// As far as it has come: since NCCL 2.22 ranks connect in the first operations, not when the communicator is made.
    pub(super) fn log(&self) -> Log {
        let text = self.kept.files.as_ref().map_or(String::new(), |f| read(&f.log, self.from));
        let mut log = self.kept.log.borrow().after(&text);
        let said = said();
        log.diagnoses = topology::parse_diagnoses(said.get(self.said_from as usize..).unwrap_or(""));
        log
    }

    /// Why NCCL's own diagnostics say nothing, or less than they could.
    pub(super) fn undiagnosed(&self, version: i32) -> Option<String> {
        if version < DIAGNOSES_SINCE {
            return Some(format!("NCCL {}: its own diagnostics came with 2.31", show_version(version)));
        }
        let off = std::env::var(RAS).is_ok_and(|v| v.trim() == "0");
        off.then(|| format!("{RAS}=0: NCCL did not compare its ranks"))
    }

    /// What others must know of it, where that has changed since it was asked last.
    pub(super) fn news(&mut self) -> Option<Seen> {
        let seen = Seen::of(&self.log());
        if self.told.as_ref() == Some(&seen) {
            return None;
        }
        self.told = Some(seen.clone());
        Some(seen)
    }

    pub(super) fn topology(&self) -> Result<topology::NcclTopology, String> {
        let files = self.kept.files.as_ref().map_err(String::clone)?;
        topology::parse_topology(&read(&files.topology, 0))
    }
}

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        let log = self.log();
        *self.kept.log.borrow_mut() = log;
    }
}

/// What of a rank's log all must know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
        path: nccl.found.path.clone(),
        why: nccl.found.why.clone(),
        ranks,
        nodes,
        network: log.network.clone(),
        nvls: log.nvls,
        collnet: log.collnet,
        channels: log.channels,
        ring: log.ring.clone(),
        settings: log.settings.iter().filter(|(name, _)| !OURS.contains(&name.as_str())).cloned().collect(),
        plugins: log.plugins.clone(),
        diagnoses: log.diagnoses.clone(),
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
