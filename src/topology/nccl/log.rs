//! NCCL's log (NCCL_DEBUG=INFO, subsystems INIT, ENV, NET, GRAPH, TUNING): a line is `host:pid:tid [device] NCCL INFO text`.
//!
//! The texts are those of NCCL 2.18 to 2.30 (src/init.cc, src/transport/, src/graph/, src/plugin/, src/enqueue.cc). Before 2.22, and
//! where cuMem is off, all channels are connected before `Init COMPLETE`; since 2.22 each algorithm's are connected when a
//! collective first needs it (`ncclCollPreconnectFunc`), so that a log grows what matters most after the first collectives.

mod direct;
mod plugin;
mod tuning;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::topology::nccl::{Diagnosis, Far, NetDevice, Refused, Way};

pub use tuning::{Choice, Prediction};

/// What one rank's log tells of one communicator.
///
/// A process that makes several communicators one after another writes one log. Whoever reads it remembers how long it was
/// when a communicator began and reads on from there, as often as it likes while the communicator lives:
///
/// ```text
/// let first = parse_log(&text);             // the process's first communicator
/// let second = first.after(&text[began..]); // the next, whose first line stands at the byte `began`
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Log {
    // Of the process: some of it is logged once only.
    pub network: Option<String>,
    pub devices: Vec<NetDevice>,
    /// Multicast over NVLink; NCCL says it of nodes with several GPUs only.
    pub nvls: Option<bool>,
    pub settings: Vec<(String, String)>,
    /// Network plugins that were looked for, and whether each was loaded.
    pub plugins: Vec<(String, bool)>,
    /// Network plugins that were found and do not serve.
    pub refused: Vec<Refused>,
    /// Devices of the network by its numbers.
    numbers: BTreeMap<u32, String>,

    // Of the communicator.
    /// `Some(true)` when it was connected or chosen, `Some(false)` when NCCL gave it up.
    pub collnet: Option<bool>,
    pub channels: Option<u32>,
    /// Channels by how they leave this rank.
    pub transports: BTreeMap<Way, u32>,
    /// Devices of the network that this process sends through.
    pub sends_by: BTreeSet<u32>,
    pub ring: Vec<u32>,
    /// GPUs and devices that are too far from each other for GPUDirect, where it matters.
    pub far: Vec<Far>,
    pub warnings: Vec<String>,
    /// What its own diagnostics wrote beside the log.
    pub diagnoses: Vec<Diagnosis>,
    /// What it expects of each operation by algorithm and protocol.
    pub predictions: Vec<Prediction>,
    /// What it chose, by operation and bytes; the last of each.
    pub choices: Vec<Choice>,

    // What is not yet whole.
    plugin: plugin::Search,
    distances: Vec<direct::Distance>,
    multicast: bool,
    nvls_channels: u32,
    columns: tuning::Columns,
}

const WARNINGS: usize = 8;
/// Names and texts are cut here.
const LONGEST: usize = 200;
/// More of a kind than this are not kept.
const MOST: usize = 4096;

/// Reads the log of a process's first communicator. Never fails: what is not understood is skipped.
pub fn parse_log(text: &str) -> Log {
    Log::default().after(text)
}

impl Log {
    /// Reads what was logged since the communicator of `self`: of the next one, whose text begins where this
    /// rank began to join it. What holds for the process (network, adapters and their GPUDirect, multicast, settings, plugins) is kept where it
    /// is not logged anew; what belongs to a communicator (channels, ways, ring, distances, choices, predictions, warnings)
    /// begins afresh. Reading more of the same communicator is reading its whole text again, after the same `self`.
    #[must_use]
    pub fn after(&self, text: &str) -> Log {
        let mut log = Log {
            network: self.network.clone(),
            devices: self.devices.clone(),
            nvls: self.nvls,
            settings: self.settings.clone(),
            plugins: self.plugins.clone(),
            refused: self.refused.clone(),
            numbers: self.numbers.clone(),
            plugin: self.plugin.clone(),
            ..Log::default()
        };
        for line in text.lines() {
            if let Some((_, message)) = line.split_once("NCCL INFO ") {
                log.info(message.trim_end());
            } else if let Some((_, message)) = line.split_once("NCCL WARN ") {
                log.warn(message.trim());
            }
        }
        log.finish();
        log
    }

    fn info(&mut self, message: &str) {
        if self.setting(message) || plugin::line(self, message) || self.collnet(message) {
            return;
        }
        if let Some(name) = message.strip_prefix("Using network ") {
            self.network = Some(kept(name));
        } else if let Some(list) =
            message.strip_prefix("NET/IB : Using ").or_else(|| message.strip_prefix("NET/Socket : Using "))
        {
            direct::devices(self, list);
        } else if let Some((_, rest)) = message.split_once("GPU Direct RDMA ") {
            direct::line(self, rest);
        } else if message.starts_with("NVLS ") || message.contains("(NVLS)") {
            self.nvlink_sharp(message);
        } else if message.starts_with("Channel ") && message.contains(" via ") {
            self.channel(message);
        } else if let Some((before, after)) = message.split_once(" coll channels, ") {
            self.channels = before.trim().parse().ok();
            let nvls = after.split(", ").find_map(|part| part.trim().strip_suffix(" nvls channels"));
            self.nvls_channels = nvls.and_then(|n| n.parse().ok()).unwrap_or(0);
        } else if let Some(rest) = message.strip_prefix("Channel 00/") {
            // `Channel 00/24 : 0 1 2 3`: the first ring, told by rank 0.
            let ranks = rest.split_once(':').map_or("", |(_, r)| r);
            let ring: Option<Vec<u32>> = ranks.split_whitespace().map(|w| w.parse().ok()).collect();
            if let Some(ring) = ring.filter(|r| !r.is_empty() && r.len() <= MOST) {
                self.ring = ring;
            }
        } else if message.contains('|') {
            tuning::table(self, message);
        } else if let Some((left, right)) = message.split_once(" Bytes -> Algo ") {
            tuning::choice(self, left, right);
        }
    }

    fn warn(&mut self, message: &str) {
        if message.contains("(NVLS)") {
            self.nvlink_sharp(message);
        }
        let message = kept(message);
        if self.warnings.len() < WARNINGS && !self.warnings.contains(&message) {
            self.warnings.push(message);
        }
    }

    /// `NVLS multicast support is available on dev 0 (NVLS_NCHANNELS 16)`; `NVLS comm 0x.. headRank 0 nHeads 8 ..` when it is
    /// connected; `Failed to bind NVLink SHARP (NVLS) Multicast memory ..` when what seemed available is not (since 2.27).
    fn nvlink_sharp(&mut self, message: &str) {
        if let Some(rest) = message.strip_prefix("NVLS multicast support is ") {
            self.nvls = Some(rest.starts_with("available"));
        } else if message.starts_with("NVLS comm ") {
            self.multicast = true;
        } else if message.starts_with("Failed to bind ") {
            (self.nvls, self.multicast) = (Some(false), false);
        }
    }

    /// `Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0/GDRDMA/Shared`
    fn channel(&mut self, message: &str) {
        let Some((ends, how)) = message.split_once(" via ") else { return };
        // What one side receives, the other sends.
        if ends.contains("[receive]") || how.trim().is_empty() {
            return;
        }
        self.count(Way::of(how), 1);
    }

    fn count(&mut self, way: Way, channels: u32) {
        if let Way::Net { device, .. } = &way {
            self.sends_by.insert(*device);
        }
        if self.transports.len() < MOST || self.transports.contains_key(&way) {
            let n = self.transports.entry(way).or_default();
            *n = n.saturating_add(channels);
        }
    }

    /// What says that the network's switches add up. The `collnet channels` of the line of channels say nothing: since 2.21 they
    /// are the channels of collectives, whatever carries these.
    fn collnet(&mut self, message: &str) -> bool {
        // `CollNet 00/0 : 0 [send] via COLLNET/SHARP/0/GDRDMA`
        let connected = message.starts_with("CollNet ") && message.contains(" via COLLNET/")
            || message.starts_with("Connected collnet")
            || message.starts_with("Connected Collnet")
            || message.ends_with(" Connected CollNet");
        if connected {
            self.collnet = Some(true);
            if let Some((_, how)) = message.split_once("[send] via ") {
                self.count(Way::of(how), 1);
            }
        } else if message.ends_with("disabling CollNet") {
            self.collnet = Some(false);
        } else {
            return false;
        }
        true
    }

    /// `NCCL_ALGO set by environment to Ring`, `Comm config netName reset to NCCL_NET=IB`, `NCCL_IB_HCA set to mlx5`; true if it is one.
    fn setting(&mut self, message: &str) -> bool {
        let (name, value) = if let Some((name, value)) = message.split_once(" set by environment to ") {
            (name.rsplit(' ').next().unwrap_or(name), value)
        } else if let Some((name, value)) =
            message.strip_prefix("Comm config ").and_then(|s| s.split_once(" reset to ")?.1.split_once('='))
        {
            (name, value)
        } else if let Some(value) = message.strip_prefix("NCCL_IB_HCA set to ") {
            ("NCCL_IB_HCA", value)
        } else {
            return false;
        };
        self.set(name, value);
        true
    }

    fn set(&mut self, name: &str, value: &str) {
        let value = kept(value.trim_end_matches('.'));
        if !name.starts_with("NCCL_") || name.len() > LONGEST {
            return;
        }
        if let Some(old) = self.settings.iter_mut().find(|(n, _)| n == name) {
            old.1 = value;
        } else if self.settings.len() < MOST {
            self.settings.push((name.to_owned(), value));
        }
    }

    /// What only the whole text tells.
    fn finish(&mut self) {
        if self.multicast {
            self.count(Way::Nvls, self.nvls_channels.max(1));
        }
        if self.choices.iter().any(|c| c.algorithm.starts_with("COLLNET")) {
            self.collnet = Some(true);
        }
        plugin::finish(self);
        direct::finish(self);
    }
}

/// A name or a text as it may stand in a record.
fn kept(text: &str) -> String {
    crate::id::clean(text.trim()).chars().take(LONGEST).collect()
}
