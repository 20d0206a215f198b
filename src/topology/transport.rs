//! What carries a collective between GPUs, and what it has been seen to reach.

use serde::Deserialize;

use crate::topology::gpu_spec_named;

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
    /// Of the ways of all channels, by their names in NCCL's log; the slowest way decides.
    pub fn of(transports: &[&str], nvls: Option<bool>) -> Class {
        let any = |test: &dyn Fn(&str) -> bool| transports.iter().any(|t| test(t));
        if any(&|t| t.starts_with("NET/Socket")) {
            Class::Socket
        } else if any(&|t| t.starts_with("NET/") && !t.contains("GDRDMA")) {
            Class::Net
        } else if any(&|t| t.starts_with("NET/")) {
            Class::NetDirect
        } else if any(&|t| t.starts_with("SHM")) {
            Class::Host
        } else if !any(&|t| t.starts_with("P2P")) {
            Class::Alone
        } else if nvls == Some(true) {
            Class::Nvls
        } else {
            Class::Peer
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
        assert_eq!(Class::of(&["P2P/CUMEM", "NET/IB/0/GDRDMA"], Some(true)), Class::NetDirect);
        assert_eq!(Class::of(&["NET/IB/0/GDRDMA", "NET/IB/1"], None), Class::Net);
        assert_eq!(Class::of(&["P2P/IPC"], Some(true)), Class::Nvls);
        assert_eq!(Class::of(&["P2P/IPC", "SHM/direct"], Some(false)), Class::Host);
        assert_eq!(Class::of(&["NET/Socket/0"], None), Class::Socket);
        assert_eq!(Class::of(&[], Some(true)), Class::Alone);
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
