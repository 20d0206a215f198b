//! What NCCL expects of each algorithm, and what it chooses.

use crate::topology::nccl::log::{LONGEST, Log, MOST};

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

/// Algorithms and protocols over the columns of the table that is being read.
pub type Columns = (Vec<String>, Vec<String>);

/// Columns of an algorithm in the table of predictions.
const PROTOCOLS: usize = 3;

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

/// The table of predictions: a line of algorithms, one of protocols, and one of `latency/bandwidth` an operation (microseconds, GB/s).
pub fn table(log: &mut Log, message: &str) {
    let mut cells = message.split('|');
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
pub fn choice(log: &mut Log, left: &str, right: &str) {
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
