//! What carries a collective between GPUs, and what it has been seen to reach.

use serde::Deserialize;

use crate::topology::{Direct, GpuSpec, NvLinks, SOCKETS, Way, Wires, gpu_spec_named};

/// A transport's class: expectations belong to it, not to the GPU alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Added up by the NVLink switches.
    Nvls,
    /// GPU to GPU, over NVLink where there is any.
    Peer,
    /// GPU to GPU, and over PCI Express between some of them at least.
    Pcie,
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
            Class::Pcie => 4,
            Class::Peer => 5,
            Class::Nvls => 6,
            Class::Alone => 7,
        }
    }

    /// NCCL's log calls both NVLink and PCI Express `P2P`: what joins the GPUs tells them apart.
    pub fn on(self, wires: &Wires) -> Class {
        match (self, wires.nvlinks) {
            (Class::Peer, NvLinks::Apart) => Class::Pcie,
            _ => self,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Class::Nvls => "nvls",
            Class::Peer => "GPU to GPU",
            Class::Pcie => "GPU to GPU over PCIe",
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
            Class::Pcie => "pcie",
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
    /// GiB of the message and GB/s, from the smallest message to the largest.
    busbw: Vec<(f64, f64)>,
    source: String,
}

const FILE: &str = include_str!("collectives.toml");
const GIB: f64 = (1u64 << 30) as f64;

fn reached() -> Vec<Reached> {
    // The file is part of the binary, and a test reads it.
    toml::from_str::<File>(FILE).map(|f| f.reached).unwrap_or_default()
}

/// All-reduce bus bandwidth of messages of `bytes` that `gpus` GPUs of a model (by its name in gpus.toml) in one node should reach over
/// what joins them, in bytes per second, and where that comes from. `None` where nobody could tell: it is held against its like only.
pub fn busbw_of(gpu: &str, gpus: u32, class: Class, wires: &Wires, bytes: u64) -> Option<(f64, String)> {
    let spec = gpu_spec_named(gpu)?;
    let class = class.on(wires);
    let size = bytes as f64 / GIB;
    let over_nvlink = matches!(class, Class::Peer | Class::Nvls);
    let (share, told) = if over_nvlink { nvlinks(&spec, wires.nvlinks)? } else { (1.0, String::new()) };
    let fits = |r: &Reached| r.gpu == gpu && r.gpus == gpus && r.class == class.key();
    if let Some(r) = reached().into_iter().find(fits) {
        let (rate, at) = r.at(size, &spec)?;
        return Some((share * rate, format!("{gpus} x {gpu}, {}{told}{at}: {}", class.name(), r.source)));
    }
    if class == Class::Pcie {
        let link = wires.pcie?;
        let why =
            format!("{gpus} x {gpu}, {}: {:.0} % of {link} on one CPU, uncalibrated", class.name(), 100.0 * PCIE_SHARE);
        return Some((PCIE_SHARE * link.rate(), why));
    }
    // What switches add up is at least what a ring would carry.
    let grown = if size >= GROWN { 1.0 } else { early(&spec) };
    (over_nvlink && spec.nvlink > 0.0 && size >= LEAST).then(|| {
        let why = format!(
            "{gpus} x {gpu}{told}: NVLink's {:.0} GB/s each way by {}, less what NCCL's protocol takes",
            spec.nvlink / 1e9,
            spec.source
        );
        (share * grown * NCCL_SHARE * spec.nvlink, why)
    })
}

impl Reached {
    /// Of a message of this size: what the nearest smaller one reached.
    fn at(&self, size: f64, spec: &GpuSpec) -> Option<(f64, String)> {
        let (first, rate) = *self.busbw.first()?;
        if let Some((at, rate)) = self.busbw.iter().rfind(|(at, _)| *at <= size) {
            return Some((rate * 1e9, format!(" at {at} GiB")));
        }
        (size >= LEAST).then(|| (early(spec) * rate * 1e9, format!(", less than {first} GiB")))
    }
}

/// Of what the datasheet's NVLinks carry, the share of those that are there; `None` where a ring cannot use them, or nobody knows
/// whether the card has its bridge.
fn nvlinks(spec: &GpuSpec, found: NvLinks) -> Option<(f64, String)> {
    match found {
        NvLinks::Apart => None,
        NvLinks::Untold => (!spec.bridge).then(|| (1.0, String::new())),
        NvLinks::Ring(links) if links < spec.links => {
            Some((f64::from(links) / f64::from(spec.links), format!(", {links} of {} NVLinks", spec.links)))
        }
        NvLinks::Ring(_) => Some((1.0, String::new())),
    }
}

/// Of NVLink's rate by the datasheet, what NCCL's own model has (src/graph/topo.h): 20 of 25 GB/s a link on SM70 and SM80, 20.6 of 25
/// on SM90, 40.1 of 50 on SM100, 12 of 14 on SM86.
const NCCL_SHARE: f64 = 0.8;
/// Of PCI Express's rate. NCCL's own model has 12 GB/s of the 15.75 of Gen3 x16, and a sixth less through an Intel CPU
/// (src/graph/topo.h): 0.63. Root complexes of other makers are slower still, and no rate of a whole ring was published.
const PCIE_SHARE: f64 = 0.55;
/// From this size on, in GiB, published curves do not rise any more.
const GROWN: f64 = 8.0;
/// Below this size, in GiB, nothing is expected of a GPU whose curve was not published.
const LEAST: f64 = 0.5;

/// What is reached of the largest messages' rate by those of 512 MiB on: 0.94 on A100, 0.92 on H100 and H200, 0.82 on B200
/// (collectives.toml).
fn early(spec: &GpuSpec) -> f64 {
    if spec.capability.is_some_and(|c| c >= 100) { 0.8 } else { 0.9 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{PcieLink, parse_topology};

    fn wires(nvlinks: NvLinks) -> Wires {
        Wires { nvlinks, pcie: None }
    }

    fn gbs(gpu: &str, n: u32, class: Class, nvlinks: NvLinks, gib: f64) -> Option<f64> {
        busbw_of(gpu, n, class, &wires(nvlinks), (gib * GIB) as u64).map(|(v, _)| (v / 1e8).round() / 10.0)
    }

    #[test]
    fn every_entry_is_of_a_gpu_that_is_known_and_has_a_dated_source() {
        let file: Result<File, _> = toml::from_str(FILE);
        let file = file.map(|f| f.reached).unwrap_or_default();
        assert!(file.len() > 10);
        for r in file {
            assert!(gpu_spec_named(&r.gpu).is_some(), "{}", r.gpu);
            assert!(r.source.contains("20") && !r.busbw.is_empty() && r.gpus > 1, "{}", r.source);
            let rising = r.busbw.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1);
            assert!(rising && r.busbw[0].0 > 0.0 && r.busbw[0].1 > 0.0, "{}", r.gpu);
            let keys = [Class::Nvls, Class::Peer, Class::Pcie, Class::Host].map(Class::key);
            assert!(keys.contains(&r.class.as_str()), "{}", r.class);
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
        assert_eq!(Class::Peer.on(&wires(NvLinks::Apart)), Class::Pcie);
        assert_eq!(Class::Peer.on(&wires(NvLinks::Ring(12))), Class::Peer);
        assert_eq!(Class::Host.on(&wires(NvLinks::Apart)), Class::Host);
    }

    #[test]
    fn what_was_not_published_follows_from_the_links() {
        let of = |gpu, n, class| gbs(gpu, n, class, NvLinks::Untold, 8.0);
        assert_eq!(of("H100 SXM", 8, Class::Nvls), Some(478.9));
        // 18 links of 20.6 are 371.
        assert!(of("H100 SXM", 4, Class::Peer).is_some_and(|v| (v / 371.0 - 1.0).abs() < 0.05));
        assert_eq!((of("H100 SXM", 8, Class::Host), of("L40S", 8, Class::Peer)), (None, None));
        assert_eq!(of("no such GPU", 8, Class::Peer), None);
    }

    #[test]
    fn a_message_is_held_to_what_its_size_has_reached() {
        let of = |gib| gbs("B200", 8, Class::Nvls, NvLinks::Ring(18), gib);
        assert_eq!((of(1.0), of(4.0), of(16.0)), (Some(723.3), Some(740.6), Some(845.7)));
        // Only large messages were published of five: smaller ones are expected to reach less of it, and small ones nothing.
        let five = |gib| gbs("H200", 5, Class::Nvls, NvLinks::Ring(18), gib);
        assert_eq!((five(8.0), five(1.0), five(0.25)), (Some(414.2), Some(372.8), None));
    }

    #[test]
    fn links_that_are_not_there_carry_nothing() {
        let a100 = "A100 PCIe 80GB";
        // No bridge, or bridges in pairs: PCIe between four, and nothing said of it across CPUs.
        assert_eq!(gbs(a100, 4, Class::Peer, NvLinks::Apart, 8.0), None);
        assert_eq!(gbs(a100, 2, Class::Peer, NvLinks::Ring(12), 16.0), Some(200.0));
        assert_eq!(gbs(a100, 2, Class::Peer, NvLinks::Ring(4), 16.0), Some(66.7));
        // Whether a card has its bridge is not for the datasheet to say; of a board it is.
        assert_eq!(gbs(a100, 2, Class::Peer, NvLinks::Untold, 8.0), None);
        assert_eq!(gbs("A100 SXM 80GB", 8, Class::Peer, NvLinks::Untold, 8.0), Some(231.6));
        // A link less is a twelfth less.
        assert_eq!(gbs("A100 SXM 80GB", 8, Class::Peer, NvLinks::Ring(11), 8.0), Some(212.3));
        let link = PcieLink { gigatransfers: 16.0, lanes: 16 };
        let near = Wires { nvlinks: NvLinks::Apart, pcie: Some(link) };
        let (rate, why) = busbw_of("L40S", 4, Class::Peer, &near, 8 << 30).unwrap();
        assert!((16e9..18e9).contains(&rate) && why.contains("over PCIe"), "{rate} {why}");
    }

    /// As NCCL writes it: four A100 PCIe, bridged in pairs, each behind a root port of one of two CPUs.
    const PAIRS: &str = r#"<system version="1">
  <cpu numaid="0" arch="x86_64" vendor="AuthenticAMD" familyid="143" modelid="49">
    <pci busid="0000:01:00.0" class="0x030200" link_speed="16.0 GT/s PCIe" link_width="16">
      <gpu dev="0" sm="80" rank="0" gdr="1"><nvlink target="0000:41:00.0" count="12" tclass="0x030200"/></gpu></pci>
    <pci busid="0000:41:00.0" class="0x030200" link_speed="16.0 GT/s PCIe" link_width="16">
      <gpu dev="1" sm="80" rank="1" gdr="1"><nvlink target="0000:01:00.0" count="12" tclass="0x030200"/></gpu></pci>
  </cpu>
  <cpu numaid="1" arch="x86_64" vendor="AuthenticAMD" familyid="143" modelid="49">
    <pci busid="0000:81:00.0" class="0x030200" link_speed="16.0 GT/s PCIe" link_width="16">
      <gpu dev="2" sm="80" rank="2" gdr="1"><nvlink target="0000:c1:00.0" count="12" tclass="0x030200"/></gpu></pci>
    <pci busid="0000:c1:00.0" class="0x030200" link_speed="16.0 GT/s PCIe" link_width="16">
      <gpu dev="3" sm="80" rank="3" gdr="1"><nvlink target="0000:81:00.0" count="12" tclass="0x030200"/></gpu></pci>
  </cpu>
</system>"#;

    #[test]
    fn cards_bridged_in_pairs_are_not_held_to_nvlink_by_four() {
        let of = |text: &str, n| {
            let wires = Wires::of(&parse_topology(text).unwrap());
            let found = busbw_of("A100 PCIe 80GB", n, Class::Peer, &wires, 8 << 30);
            (Class::Peer.on(&wires), found.map(|(v, _)| (v / 1e9).round()))
        };
        assert_eq!(of(PAIRS, 4), (Class::Pcie, None));
        // The same four on one CPU: what PCIe carries.
        let near = PAIRS.replace("  </cpu>\n  <cpu numaid=\"1\"", "  </cpu>\n  <x numaid=\"1\"").replacen(
            "  </cpu>\n  <x",
            "  <x",
            1,
        );
        let near = near.replace("  </cpu>\n</system>", "  </x>\n  </cpu>\n</system>");
        assert_eq!(of(&near, 4), (Class::Pcie, Some(17.0)));
        // Two ranks on a pair: NVLink.
        let two = PAIRS.replace(" rank=\"2\"", "").replace(" rank=\"3\"", "");
        assert_eq!(of(&two, 2), (Class::Peer, Some(180.0)));
        // Without bridges: PCIe.
        let bare = two.replace("0x030200\"/>", "0x030200\" count=\"0\"/>").replace("count=\"12\" ", "");
        assert_eq!(of(&bare, 2), (Class::Pcie, Some(17.0)));
    }
}
