//! The network's devices, and which of them reach the GPUs' memory by themselves.

use std::collections::{BTreeMap, BTreeSet};

use crate::topology::nccl::log::{LONGEST, Log, MOST, kept};
use crate::topology::nccl::{Far, NetDevice};

/// How far a GPU is from a device of the network, in NCCL's own steps (`PATH_*` of src/graph/topo.h, which versions number differently).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distance {
    gpu: String,
    device: u32,
    distance: u32,
    /// The farthest that GPUDirect is used at.
    allowed: u32,
    direct: bool,
}

/// More pairs than this tell nothing new.
const PAIRS: usize = 64;

/// `[0]mlx5_0:1/IB [1]mlx5_1:1/IB/SHARP [RO]; OOB eth0:10.0.0.1<0>`
pub fn devices(log: &mut Log, list: &str) {
    let list = list.split("; OOB").next().unwrap_or(list);
    for part in list.split_whitespace() {
        let Some((number, name)) = part.strip_prefix('[').and_then(|p| p.split_once(']')) else { continue };
        let Ok(number) = number.parse() else { continue };
        device(log, number, name.split([':', '/']).next().unwrap_or(""));
    }
}

fn device<'a>(log: &'a mut Log, number: u32, name: &str) -> Option<&'a mut NetDevice> {
    let name = kept(name);
    if name.is_empty() {
        return None;
    }
    if log.numbers.len() < MOST {
        log.numbers.insert(number, name.clone());
    }
    let at = log.devices.iter().position(|d| d.name == name);
    if at.is_none() && log.devices.len() < MOST {
        log.devices.push(NetDevice { name, gdr: None });
        return log.devices.last_mut();
    }
    log.devices.get_mut(at?)
}

/// What follows `GPU Direct RDMA `: of a device (`Enabled for HCA 0 'mlx5_0'`), or of a GPU and a device.
pub fn line(log: &mut Log, rest: &str) {
    let (direct, of) = match (rest.strip_prefix("Enabled for "), rest.strip_prefix("Disabled for ")) {
        (Some(of), _) => (true, of),
        (_, Some(of)) => (false, of),
        _ => return,
    };
    if let Some(of) = of.strip_prefix("HCA ") {
        let Some((number, name)) = of.split_once(' ') else { return };
        let name = name.trim().strip_prefix('\'').and_then(|n| n.strip_suffix('\''));
        if let (Ok(number), Some(name)) = (number.parse(), name)
            && let Some(device) = device(log, number, name)
        {
            device.gdr = Some(direct);
        }
    } else if let Some(distance) = distance(of, direct)
        && log.distances.len() < PAIRS * PAIRS
        && !log.distances.contains(&distance)
    {
        // Each channel says it again.
        log.distances.push(distance);
    }
}

/// Up to 2.23 `GPU ca000 / HCA 0 (distance 7 > 4)` by the GPU's bus, then `GPU 3 / HCA 0 (..)` by its rank, in 2.29
/// `GPU/0-827392 (rank 3) - NET/0-0 (distance 9 > 5)`; since 2.30 no release says it.
fn distance(of: &str, direct: bool) -> Option<Distance> {
    let (ends, numbers) = of.rsplit_once("distance ")?;
    let mut numbers = numbers.split([' ', ',', ')']).filter(|w| !w.is_empty());
    let (distance, _, allowed) = (numbers.next()?.parse().ok()?, numbers.next()?, numbers.next()?.parse().ok()?);
    let (gpu, device) = match ends.split_once(" / HCA ") {
        Some((gpu, device)) => {
            let device = u64::from_str_radix(device.split_whitespace().next()?, 16).ok()?;
            (gpu.strip_prefix("GPU ")?.to_owned(), device)
        }
        None => {
            let (gpu, device) = ends.split_once(" - NET/")?;
            let rank = gpu.split_once("(rank ")?.1.trim_end_matches(')');
            let device = device.split_whitespace().next()?.split_once('-')?.1.parse().ok()?;
            (rank.to_owned(), device)
        }
    };
    // The highest byte numbers the host (NCCL_TOPO_ID).
    let device = u32::try_from(device & 0x00ff_ffff_ffff_ffff).ok()?;
    let gpu: String = gpu.chars().take(LONGEST).collect();
    (!gpu.is_empty()).then_some(Distance { gpu, device, distance, allowed, direct })
}

/// Pairs that are too far from each other and matter: a GPU that is near to no device at all (with many devices each GPU is far from
/// most of them, and near to its own), and those of the devices that this rank sends through.
pub fn finish(log: &mut Log) {
    let reached: BTreeSet<&str> = log.distances.iter().filter(|d| d.direct).map(|d| d.gpu.as_str()).collect();
    let paired = |d: &Distance| log.distances.iter().any(|o| o.direct && (&o.gpu, o.device) == (&d.gpu, d.device));
    let mut nearest: BTreeMap<&str, &Distance> = BTreeMap::new();
    for d in log.distances.iter().filter(|d| !reached.contains(d.gpu.as_str())) {
        let best = nearest.entry(&d.gpu).or_insert(d);
        if d.distance < best.distance {
            *best = d;
        }
    }
    let sends = log.distances.iter().filter(|d| log.sends_by.contains(&d.device) && !d.direct && !paired(d));
    let name = |number: u32| log.numbers.get(&number).cloned().unwrap_or_else(|| number.to_string());
    let mut far: Vec<Far> = Vec::new();
    for d in nearest.into_values().chain(sends) {
        let (gpu, device) = (d.gpu.clone(), name(d.device));
        let pair = Far { gpu, device, distance: d.distance, allowed: d.allowed };
        if far.len() < PAIRS && !far.contains(&pair) {
            far.push(pair);
        }
    }
    log.far = far;
}
