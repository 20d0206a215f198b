//! NCCL's log (NCCL_DEBUG=INFO, subsystems INIT, ENV, NET, GRAPH, TUNING): a line is `host:pid:tid [device] NCCL INFO text`.
//!
//! The texts are those of NCCL 2.18 to 2.32 (src/init.cc, src/transport/*.cc, src/graph/*.cc, src/enqueue.cc).

use std::collections::{BTreeMap, BTreeSet};

use crate::topology::nccl::NetDevice;

/// What one rank's log tells.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Log {
    pub network: Option<String>,
    pub devices: Vec<NetDevice>,
    pub nvls: Option<bool>,
    pub collnet: Option<bool>,
    pub channels: Option<u32>,
    /// Channels by how they go.
    pub transports: BTreeMap<String, u32>,
    /// Devices of the network that this process sends through.
    pub sends_by: BTreeSet<u32>,
    pub ring: Vec<u32>,
    pub settings: Vec<(String, String)>,
    pub plugins: Vec<(String, bool)>,
    pub warnings: Vec<String>,
    /// What it expects of each operation by algorithm and protocol.
    pub predictions: Vec<Prediction>,
    /// What it chose, by operation and bytes; the last of each.
    pub choices: Vec<Choice>,
    // Columns of the table of predictions that is being read.
    columns: (Vec<String>, Vec<String>),
}

/// `time = latency + bytes / bandwidth`
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// `AllReduce`.
    pub operation: String,
    pub algorithm: String,
    pub protocol: String,
    pub latency_s: f64,
    /// Bytes per second of the operation's size (not of its bus).
    pub bandwidth: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub operation: String,
    pub bytes: u64,
    pub algorithm: String,
    pub protocol: String,
}

const WARNINGS: usize = 8;
/// Names and texts are cut here.
const LONGEST: usize = 200;
/// Columns of an algorithm in the table of predictions.
const PROTOCOLS: usize = 3;
/// More of a kind than this are not kept.
const MOST: usize = 4096;

impl Log {
    /// What NCCL chose for an operation of so many bytes, and how long it expects it to take, in seconds.
    pub fn chosen(&self, operation: &str, bytes: u64) -> Option<(&Choice, Option<f64>)> {
        let choice = self.choices.iter().find(|c| c.operation == operation && c.bytes == bytes)?;
        let same = |p: &&Prediction| {
            // The table has `NVLSTree`, the choice `NVLS_TREE`.
            let alike = |a: &str, b: &str| a.replace('_', "").eq_ignore_ascii_case(&b.replace('_', ""));
            p.operation == operation && alike(&p.algorithm, &choice.algorithm) && alike(&p.protocol, &choice.protocol)
        };
        let expected = self.predictions.iter().find(same).filter(|p| p.bandwidth > 0.0);
        Some((choice, expected.map(|p| p.latency_s + bytes as f64 / p.bandwidth)))
    }
}

/// Reads a log. Never fails: what is not understood is skipped.
pub fn parse_log(text: &str) -> Log {
    Log::default().after(text)
}

impl Log {
    #[must_use]
    pub fn after(&self, text: &str) -> Log {
        let mut log = Log {
            network: self.network.clone(),
            devices: self.devices.clone(),
            nvls: self.nvls,
            settings: self.settings.clone(),
            plugins: self.plugins.clone(),
            ..Log::default()
        };
        for line in text.lines() {
            if let Some((_, said)) = line.split_once("NCCL INFO ") {
                info(&mut log, said.trim_end());
            } else if let Some((_, said)) = line.split_once("NCCL WARN ") {
                let said: String = crate::id::clean(said.trim()).chars().take(LONGEST).collect();
                if log.warnings.len() < WARNINGS && !log.warnings.contains(&said) {
                    log.warnings.push(said);
                }
            }
        }
        log
    }
}

fn info(log: &mut Log, said: &str) {
    let word = |text: &str| -> String { text.split_whitespace().next().unwrap_or("").chars().take(LONGEST).collect() };
    if let Some(name) = said.strip_prefix("Using network ") {
        log.network = Some(word(name));
    } else if let Some(list) = said.strip_prefix("NET/IB : Using ").or_else(|| said.strip_prefix("NET/Socket : Using "))
    {
        devices(log, list);
    } else if let Some((_, rest)) = said.split_once("GPU Direct RDMA ") {
        direct(log, rest);
    } else if let Some((_, rest)) = said.split_once("NVLS multicast support is ") {
        log.nvls = Some(rest.starts_with("available"));
    } else if said.starts_with("Channel ") && said.contains(" via ") {
        channel(log, said);
    } else if let Some((before, _)) = said.split_once(" coll channels, ") {
        log.channels = word(before).parse().ok();
        let collnet = said.split(", ").find_map(|part| part.trim().strip_suffix(" collnet channels"));
        log.collnet = collnet.and_then(|n| n.trim().parse::<u32>().ok()).map(|n| n > 0);
    } else if let Some(rest) = said.strip_prefix("Channel 00/") {
        // `Channel 00/24 : 0 1 2 3`: the first ring, told by rank 0.
        let ranks = rest.split_once(':').map_or("", |(_, r)| r);
        let ring: Option<Vec<u32>> = ranks.split_whitespace().map(|w| w.parse().ok()).collect();
        if let Some(ring) = ring.filter(|r| !r.is_empty() && r.len() <= MOST) {
            log.ring = ring;
        }
    } else if let Some((name, value)) = said.split_once(" set by environment to ") {
        setting(log, name, value);
    } else if said.contains("/Plugin: ") || said.contains("NET/Plugin:") {
        plugin(log, said);
    } else if said.contains('|') {
        table(log, said);
    } else if let Some((left, right)) = said.split_once(" Bytes -> Algo ") {
        choice(log, left, right);
    }
}

/// `[0]mlx5_0:1/IB [1]mlx5_1:1/IB [RO]; OOB eth0:10.0.0.1<0>`
fn devices(log: &mut Log, list: &str) {
    let list = list.split("; OOB").next().unwrap_or(list);
    for part in list.split_whitespace() {
        let Some((number, name)) = part.strip_prefix('[').and_then(|p| p.split_once(']')) else { continue };
        let name: String = name.split([':', '/']).next().unwrap_or("").chars().take(LONGEST).collect();
        let new = !log.devices.iter().any(|d| d.name == name);
        if number.parse::<u32>().is_ok() && !name.is_empty() && new && log.devices.len() < MOST {
            log.devices.push(NetDevice { name, gdr: None });
        }
    }
}

/// `Enabled for HCA 0 'mlx5_0'`
fn direct(log: &mut Log, rest: &str) {
    let gdr = if rest.starts_with("Enabled") {
        true
    } else if rest.starts_with("Disabled") {
        false
    } else {
        return;
    };
    let Some(name) = rest.split('\'').nth(1) else { return };
    let name: String = name.chars().take(LONGEST).collect();
    match log.devices.iter_mut().find(|d| d.name == name) {
        Some(device) => device.gdr = Some(gdr),
        None => {
            if log.devices.len() < MOST {
                log.devices.push(NetDevice { name, gdr: Some(gdr) });
            }
        }
    }
}

/// `Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0/GDRDMA/Shared`
fn channel(log: &mut Log, said: &str) {
    let Some((ends, how)) = said.split_once(" via ") else { return };
    // What one side receives, the other sends.
    if ends.contains("[receive]") {
        return;
    }
    let how = how.split_whitespace().next().unwrap_or("");
    let mut parts: Vec<&str> = how.split('/').take(4).filter(|p| !matches!(*p, "Shared" | "read" | "comm")).collect();
    if let ["NET", _, device, ..] = parts[..] {
        // `0`, or `0(3)` where rank 3's process sends it.
        let device = device.split('(').next().unwrap_or(device);
        if let Ok(device) = device.parse::<u32>() {
            log.sends_by.insert(device);
        }
        parts[2] = device;
    }
    let name: String = parts.join("/").chars().take(LONGEST).collect();
    if log.transports.len() < MOST || log.transports.contains_key(&name) {
        *log.transports.entry(name).or_default() += 1;
    }
}

fn setting(log: &mut Log, name: &str, value: &str) {
    let name = name.rsplit(' ').next().unwrap_or(name);
    let value: String = crate::id::clean(value.trim_end_matches('.')).chars().take(LONGEST).collect();
    let new = !log.settings.iter().any(|(n, _)| n == name);
    if name.starts_with("NCCL_") && name.len() <= LONGEST && new && log.settings.len() < MOST {
        log.settings.push((name.to_owned(), value));
    }
}

/// `NET/Plugin: Loaded net plugin Libfabric (v9)`, `NET/Plugin: Could not find: libnccl-net.so`, `... Failed to load ...`
fn plugin(log: &mut Log, said: &str) {
    let text: String = crate::id::clean(said).chars().take(LONGEST).collect();
    let name = |after: &str| text.split_once(after).map(|(_, n)| n.trim_start_matches([':', ' ']).to_owned());
    let found = if let Some(name) = name("Loaded net plugin") {
        Some((name, true))
    } else if let Some(name) = name("Could not find") {
        Some((name, false))
    } else {
        name("Failed to").map(|rest| (rest, false))
    };
    if let Some((name, loaded)) = found {
        let name = name.split([' ', '(']).next().unwrap_or(&name).trim_end_matches('.').to_owned();
        if log.plugins.len() < MOST && !log.plugins.iter().any(|(n, _)| *n == name) {
            log.plugins.push((name, loaded));
        }
    }
}

/// The table of predictions: a line of algorithms, one of protocols, and one of `latency/bandwidth` an operation (microseconds, GB/s).
fn table(log: &mut Log, said: &str) {
    let mut cells = said.split('|');
    let head = cells.next().unwrap_or("").trim();
    let cells: Vec<&str> = cells.collect();
    match head {
        // Each algorithm's name stands once over its three protocols.
        "Algorithm" => log.columns.0 = cells.iter().map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).collect(),
        "Protocol" => log.columns.1 = cells.iter().map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).collect(),
        _ => {
            let (algorithms, protocols) = &log.columns;
            if algorithms.is_empty() || protocols.is_empty() || head.contains(' ') {
                return;
            }
            for (i, cell) in cells.iter().enumerate() {
                let Some((latency, bandwidth)) = cell.trim().split_once('/') else { continue };
                let (Ok(us), Ok(gb)) = (latency.trim().parse::<f64>(), bandwidth.trim().parse::<f64>()) else {
                    continue;
                };
                let Some(protocol) = protocols.get(i) else { continue };
                let Some(algorithm) = algorithms.get(i / PROTOCOLS) else { continue };
                if gb > 0.0 && us.is_finite() && gb.is_finite() && log.predictions.len() < MOST {
                    log.predictions.push(Prediction {
                        operation: head.to_owned(),
                        algorithm: algorithm.clone(),
                        protocol: protocol.clone(),
                        latency_s: us * 1e-6,
                        bandwidth: gb * 1e9,
                    });
                }
            }
        }
    }
}

/// `AllReduce: 33554432` and `RING proto SIMPLE channel{Lo..Hi}={0..31}`; before 2.23 by number.
fn choice(log: &mut Log, left: &str, right: &str) {
    let Some((operation, bytes)) = left.rsplit_once(": ") else { return };
    let Ok(bytes) = bytes.trim().parse::<u64>() else { return };
    let mut words = right.split_whitespace();
    let (Some(algorithm), Some("proto"), Some(protocol)) = (words.next(), words.next(), words.next()) else { return };
    let name = |names: &[&str], word: &str| match word.parse::<usize>() {
        Ok(n) => names.get(n).map_or_else(|| word.to_owned(), |n| (*n).to_owned()),
        Err(_) => word.to_owned(),
    };
    let algorithm = name(&["TREE", "RING", "COLLNET_DIRECT", "COLLNET_CHAIN", "NVLS", "NVLS_TREE", "PAT"], algorithm);
    let protocol = name(&["LL", "LL128", "SIMPLE"], protocol);
    let operation: String = operation.rsplit(' ').next().unwrap_or(operation).chars().take(LONGEST).collect();
    let choice = Choice { operation, bytes, algorithm, protocol };
    match log.choices.iter_mut().find(|c| c.operation == choice.operation && c.bytes == bytes) {
        Some(old) => *old = choice,
        None => {
            if log.choices.len() < MOST {
                log.choices.push(choice);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = include_str!("../../../tests/fixtures/nccl/two-nodes.log");

    #[test]
    fn a_log_of_two_nodes_is_understood() {
        let log = parse_log(LOG);
        assert_eq!(log.network.as_deref(), Some("IB"));
        let gdr: Vec<_> = log.devices.iter().map(|d| (d.name.as_str(), d.gdr)).collect();
        assert_eq!(gdr, [("mlx5_0", Some(true)), ("mlx5_1", Some(false))]);
        assert_eq!((log.nvls, log.collnet, log.channels), (Some(true), Some(false), Some(24)));
        assert_eq!(log.ring, [0, 1, 3, 2]);
        assert_eq!(log.transports["P2P/CUMEM"], 2);
        assert_eq!(log.transports["NET/IB/0/GDRDMA"], 1);
        assert_eq!(log.transports["NET/IB/1"], 1);
        assert_eq!(log.sends_by.iter().copied().collect::<Vec<_>>(), [0, 1]);
        assert!(log.settings.contains(&("NCCL_ALGO".to_owned(), "Ring".to_owned())));
        assert_eq!(log.plugins, [("libnccl-net.so".to_owned(), false)]);
        assert_eq!(
            log.warnings,
            ["NET/IB : Got completion from peer 10.0.0.2 with status=12 opcode=0 len=0 vendor err 129"]
        );
    }

    #[test]
    fn what_it_chose_and_expects_is_found_by_operation_and_size() {
        let log = parse_log(LOG);
        let (choice, seconds) = log.chosen("AllReduce", 33_554_432).unwrap();
        assert_eq!((choice.algorithm.as_str(), choice.protocol.as_str()), ("RING", "SIMPLE"));
        // 28.6 us and 93.2 GB/s by the table.
        let expected = 28.6e-6 + 33_554_432.0 / 93.2e9;
        assert!((seconds.unwrap() / expected - 1.0).abs() < 1e-9, "{seconds:?}");
        assert_eq!(log.chosen("AllReduce", 8).map(|(c, _)| c.protocol.as_str()), Some("LL"));
        let (_, tree) = log.chosen("AllReduce", 1 << 30).unwrap();
        assert!((tree.unwrap() / (40e-6 + f64::from(1 << 30) / 105e9) - 1.0).abs() < 1e-9, "{tree:?}");
        assert!(log.chosen("AllGather", 8).is_none());
        let pat = log.predictions.iter().find(|p| p.operation == "AllGather").unwrap();
        assert_eq!((pat.algorithm.as_str(), pat.protocol.as_str()), ("PAT", "Simple"));
    }

    proptest::proptest! {
        #[test]
        fn nonsense_is_survived(lines in proptest::collection::vec("\\PC{0,60}", 0..20), from in 0usize..60, cut in 0usize..120) {
            let mut text = String::new();
            for (i, line) in LOG.lines().enumerate() {
                let line: String = if i == from { line.chars().take(cut).collect() } else { line.to_owned() };
                text.push_str(&line);
                if let Some(junk) = lines.get(i) {
                    text.push_str(junk);
                }
                text.push('\n');
            }
            let _ = parse_log(&text);
        }
    }
}
