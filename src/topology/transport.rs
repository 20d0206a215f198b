//! What carries a collective between GPUs, and what it has been seen to reach.

use serde::Deserialize;

use crate::topology::{Direct, SOCKETS, Way, gpu_spec_named};

/// A transport's class: expectations belong to it, not to the GPU alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Added up by the NVLink switches.
    Nvls,
    /// GPU to GPU, over NVLink where there is any.
    Peer,
    /// Through the host's memory.
    Host,
    /// Between nodes, by RDMA from the GPUs' memory.
    NetDirect,
    /// Between nodes by RDMA, through the host's memory.
    Net,
    /// Between nodes by sockets.
    Socket,
    /// One rank talks to nobody.
    Alone,
}

impl Class {
    /// Of the ways of all channels; the slowest way decides. `nvls` says whether the switches could add up.
    pub fn of<'a>(ways: impl IntoIterator<Item = &'a Way>, nvls: Option<bool>) -> Class {
        let slowest = ways.into_iter().filter_map(Class::of_way).min_by_key(|c| c.rank()).unwrap_or(Class::Alone);
        // NCCL has both then, and takes for each size what it thinks is faster.
        if slowest == Class::Peer && nvls == Some(true) { Class::Nvls } else { slowest }
    }

    /// `None` where a way says nothing of what is fast: one that is not known, or what the network's switches add up beside it.
    fn of_way(way: &Way) -> Option<Class> {
        match way {
            Way::Net { network, .. } if network == SOCKETS => Some(Class::Socket),
            Way::Net { direct: Direct::No, .. } => Some(Class::Net),
            Way::Net { .. } => Some(Class::NetDirect),
            Way::Shm(_) => Some(Class::Host),
            Way::P2p { .. } => Some(Class::Peer),
            Way::Nvls => Some(Class::Nvls),
            Way::CollNet { .. } | Way::Other(_) => None,
        }
    }

    /// The slowest first.
    const fn rank(self) -> u8 {
        match self {
            Class::Socket => 0,
            Class::Net => 1,
            Class::NetDirect => 2,
            Class::Host => 3,
            Class::Peer => 4,
            Class::Nvls => 5,
            Class::Alone => 6,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Class::Nvls => "nvls",
            Class::Peer => "GPU to GPU",
            Class::Host => "host memory",
            Class::NetDirect => "network with GPUDirect",
            Class::Net => "network through host memory",
            Class::Socket => "sockets",
            Class::Alone => "one rank",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Class::Peer => "nvlink",
            other => other.name(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    reached: Vec<Reached>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reached {
    gpu: String,
    gpus: u32,
    class: String,
    busbw: f64,
    source: String,
}

const FILE: &str = include_str!("collectives.toml");

fn reached() -> Vec<Reached> {
    // The file is part of the binary, and a test reads it.
    toml::from_str::<File>(FILE).map(|f| f.reached).unwrap_or_default()
}

/// All-reduce bus bandwidth of large messages that `gpus` GPUs of a model (by its name in gpus.toml) in one node should reach, in bytes
/// per second, and where that comes from.
pub fn busbw_of(gpu: &str, gpus: u32, class: Class) -> Option<(f64, String)> {
    let fits = |r: &Reached| r.gpu == gpu && r.gpus == gpus && r.class == class.key();
    if let Some(r) = reached().into_iter().find(fits) {
        return Some((r.busbw * 1e9, format!("{gpus} x {gpu}, {}: {}", class.name(), r.source)));
    }
    // What switches add up is at least what a ring would carry.
    let spec = gpu_spec_named(gpu).filter(|s| s.nvlink > 0.0 && matches!(class, Class::Peer | Class::Nvls))?;
    Some((
        NCCL_SHARE * spec.nvlink,
        format!(
            "{gpus} x {gpu}: NVLink's {:.0} GB/s each way by {}, less what NCCL's protocol takes",
            spec.nvlink / 1e9,
            spec.source
        ),
    ))
}

/// Of NVLink's rate by the datasheet, what NCCL's own model has (src/graph/topo.h): 20 of 25 GB/s a link on SM70 and SM80, 20.6 of 25
/// on SM90, 40.1 of 50 on SM100.
const NCCL_SHARE: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_of_a_gpu_that_is_known_and_has_a_dated_source() {
        let file: Result<File, _> = toml::from_str(FILE);
        let file = file.map(|f| f.reached).unwrap_or_default();
        assert!(file.len() > 10);
        for r in file {
            assert!(gpu_spec_named(&r.gpu).is_some(), "{}", r.gpu);
            assert!(r.source.contains("20") && r.busbw > 0.0 && r.gpus > 1, "{}", r.source);
        }
    }

    #[test]
    fn the_slowest_way_decides() {
        let of = |ways: &[&str], nvls| Class::of(&ways.iter().map(|w| Way::of(w)).collect::<Vec<_>>(), nvls);
        assert_eq!(of(&["P2P/CUMEM", "NET/IB/0/GDRDMA"], Some(true)), Class::NetDirect);
        assert_eq!(of(&["NET/IB/0/GDRDMA", "NET/IB/1"], None), Class::Net);
        assert_eq!(of(&["NET/AWS Libfabric/0/GDRDMA", "NVLS"], Some(true)), Class::NetDirect);
        assert_eq!(of(&["P2P/IPC"], Some(true)), Class::Nvls);
        assert_eq!(of(&["P2P/IPC", "SHM/direct"], Some(false)), Class::Host);
        assert_eq!(of(&["NET/Socket/0"], None), Class::Socket);
        assert_eq!(of(&["NVLS"], Some(true)), Class::Nvls);
        assert_eq!(of(&["P2P/MNNVL", "NVLS"], Some(false)), Class::Peer);
        assert_eq!(of(&[], Some(true)), Class::Alone);
    }

    #[test]
    fn what_was_not_published_follows_from_the_links() {
        let of = |gpu, n, class| busbw_of(gpu, n, class).map(|(v, _)| v / 1e9);
        assert_eq!(of("H100 SXM", 8, Class::Nvls), Some(478.0));
        // 18 links of 20.6 are 371.
        assert!(of("H100 SXM", 4, Class::Peer).is_some_and(|v| (v / 371.0 - 1.0).abs() < 0.05));
        assert_eq!((of("H100 SXM", 8, Class::Host), of("L40S", 8, Class::Peer)), (None, None));
    }
}
