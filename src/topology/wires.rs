//! What joins the GPUs of a communicator, by NCCL's own topology: the NVLinks that are up between them, and their PCI Express.

use crate::topology::{NcclTopology, NvLinkEnd, PcieLink, TopologyGpu};

/// What GPUs have between them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Wires {
    pub nvlinks: NvLinks,
    /// The slowest GPU's link to the host, at most: told where all GPUs hang off one CPU. Between CPUs their own link counts.
    pub pcie: Option<PcieLink>,
}

/// NVLinks that a ring through all GPUs can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NvLinks {
    /// Nobody told.
    #[default]
    Untold,
    /// No ring of NVLinks passes all GPUs: there are none, or they join pairs only.
    Apart,
    /// So many go out of any set of GPUs, at the least.
    Ring(u32),
}

/// Without a switch, GPUs are joined one by one: no board has more of them.
const MOST_JOINED: usize = 12;

impl Wires {
    /// Of the GPUs that are ranks.
    pub fn of(topology: &NcclTopology) -> Wires {
        let on: Vec<Vec<&TopologyGpu>> =
            topology.cpus.iter().map(|c| c.gpus.iter().filter(|g| g.rank.is_some()).collect()).collect();
        let gpus: Vec<&TopologyGpu> = on.iter().flatten().copied().collect();
        if gpus.len() < 2 {
            return Wires::default();
        }
        let one_cpu = on.iter().filter(|gpus| !gpus.is_empty()).count() == 1;
        let links: Option<Vec<PcieLink>> = gpus.iter().map(|g| pcie(g)).collect();
        let slowest = links.and_then(|l| l.into_iter().min_by(|a, b| a.rate().total_cmp(&b.rate())));
        Wires { nvlinks: nvlinks(&gpus), pcie: slowest.filter(|_| one_cpu) }
    }
}

/// `32.0 GT/s PCIe` and 16.
fn pcie(gpu: &TopologyGpu) -> Option<PcieLink> {
    let gigatransfers: f64 = gpu.link_speed.as_deref()?.split(' ').next()?.parse().ok()?;
    let lanes = u32::try_from(gpu.link_width?).ok().filter(|w| (1..=32).contains(w))?;
    (gigatransfers.is_finite() && gigatransfers > 0.0).then_some(PcieLink { gigatransfers, lanes })
}

/// A PCI address as a number: NVML writes eight digits of the domain, the kernel four.
fn number(bus: &str) -> Option<u64> {
    let digits: String = bus.chars().filter(|c| !matches!(c, ':' | '.')).collect();
    u64::from_str_radix(&digits, 16).ok()
}

fn nvlinks(gpus: &[&TopologyGpu]) -> NvLinks {
    let sum = |gpu: &TopologyGpu, to: &dyn Fn(Option<u64>, NvLinkEnd) -> bool| {
        let ends = gpu.joins.iter().filter(|j| to(j.bus.as_deref().and_then(number), j.end));
        ends.fold(0u32, |sum, j| sum.saturating_add(j.count))
    };
    let switched: Vec<u32> = gpus.iter().map(|g| sum(g, &|_, end| end == NvLinkEnd::Switch)).collect();
    if switched.iter().all(|n| *n > 0) {
        // A switch joins all that have links to it; fewer of them are fewer for everybody.
        return NvLinks::Ring(switched.into_iter().min().unwrap_or(0));
    }
    if gpus.len() > MOST_JOINED {
        return NvLinks::Apart;
    }
    let place: Vec<Option<u64>> = gpus.iter().map(|g| g.bus.as_deref().and_then(number)).collect();
    let between = |from: &TopologyGpu, to: Option<u64>| {
        if to.is_some() { sum(from, &|bus, end| end == NvLinkEnd::Gpu && bus == to) } else { 0 }
    };
    let links: Vec<Vec<u32>> = gpus.iter().map(|g| place.iter().map(|p| between(g, *p)).collect()).collect();
    if has_ring(&links) { NvLinks::Ring(fewest_out(&links)) } else { NvLinks::Apart }
}

/// Whether some ring passes every GPU once: by the sets of GPUs that a way from the first has passed, and where such ways end.
fn has_ring(links: &[Vec<u32>]) -> bool {
    let n = links.len();
    let mut ends = vec![0u32; 1 << n];
    ends[1] = 1;
    for set in 1..1usize << n {
        let here = ends[set];
        for last in (0..n).filter(|g| here & (1 << g) != 0) {
            for next in (0..n).filter(|g| set & (1 << g) == 0 && links[last][*g] > 0) {
                ends[set | 1 << next] |= 1 << next;
            }
        }
    }
    let all = ends[(1 << n) - 1];
    (1..n).any(|last| all & (1 << last) != 0 && links[last][0] > 0)
}

/// Every ring leaves every set of GPUs once, so no more rings fit than the fewest links out of any.
fn fewest_out(links: &[Vec<u32>]) -> u32 {
    let n = links.len();
    let out = |set: usize| -> u32 {
        let inside = |g: usize| set & (1 << g) != 0;
        let from = (0..n).filter(|g| inside(*g));
        from.flat_map(|a| (0..n).filter(|b| !inside(*b)).map(move |b| links[a][b])).fold(0, u32::saturating_add)
    };
    (1..(1 << n) - 1).map(out).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{NvLinkTo, TopologyCpu};

    const SWITCH: usize = usize::MAX;

    /// GPUs with NVLinks: from, to, how many, both ways; on as many CPUs.
    fn node(gpus: usize, joins: &[(usize, usize, u32)], cpus: usize) -> NcclTopology {
        let bus = |g: usize, domain: usize| format!("{:0domain$x}:{:02x}:00.0", 0, 16 + g);
        let gpu = |g: usize| {
            let ends = joins.iter().filter_map(|(a, b, n)| match () {
                () if *a == g => Some((*b, *n)),
                () if *b == g => Some((*a, *n)),
                () => None,
            });
            let to = |(to, count)| match to {
                SWITCH => NvLinkTo { end: NvLinkEnd::Switch, bus: None, count },
                // NVML's way of writing it.
                other => NvLinkTo { end: NvLinkEnd::Gpu, bus: Some(bus(other, 8)), count },
            };
            TopologyGpu {
                rank: Some(g as i64),
                bus: Some(bus(g, 4)),
                link_speed: Some("16.0 GT/s PCIe".into()),
                link_width: Some(16),
                joins: ends.map(to).collect(),
                ..TopologyGpu::default()
            }
        };
        let on = |cpu: usize| (0..gpus).filter(|g| g % cpus == cpu).map(gpu).collect();
        NcclTopology { cpus: (0..cpus).map(|c| TopologyCpu { gpus: on(c), ..TopologyCpu::default() }).collect() }
    }

    fn nvlinks_of(gpus: usize, joins: &[(usize, usize, u32)]) -> NvLinks {
        Wires::of(&node(gpus, joins, 1)).nvlinks
    }

    #[test]
    fn boards_are_told_apart_by_their_nvlinks() {
        let switched = |links: u32| (0..8).map(|g| (g, SWITCH, links)).collect::<Vec<_>>();
        assert_eq!(nvlinks_of(8, &switched(18)), NvLinks::Ring(18));
        let mut lame = switched(12);
        lame[5].2 = 11;
        assert_eq!(nvlinks_of(8, &lame), NvLinks::Ring(11));
        // One GPU that lost its switches.
        assert_eq!(nvlinks_of(8, &lame[..7]), NvLinks::Apart);
        // Four GPUs, four links between each two: HGX A100.
        let mesh: Vec<_> = (0..4).flat_map(|a| (a + 1..4).map(move |b| (a, b, 4))).collect();
        assert_eq!(nvlinks_of(4, &mesh), NvLinks::Ring(12));
        // DGX-1: six links from each of eight.
        let cube = [
            (0, 1, 1),
            (0, 2, 1),
            (0, 3, 2),
            (0, 4, 2),
            (1, 2, 2),
            (1, 3, 1),
            (1, 5, 2),
            (2, 3, 1),
            (2, 6, 2),
            (3, 7, 2),
            (4, 5, 1),
            (4, 6, 1),
            (4, 7, 2),
            (5, 6, 2),
            (5, 7, 1),
            (6, 7, 1),
        ];
        assert_eq!(nvlinks_of(8, &cube), NvLinks::Ring(6));
    }

    #[test]
    fn bridges_in_pairs_join_two_and_not_four() {
        assert_eq!(nvlinks_of(2, &[(0, 1, 12)]), NvLinks::Ring(12));
        assert_eq!(nvlinks_of(4, &[(0, 1, 12), (2, 3, 12)]), NvLinks::Apart);
        assert_eq!((nvlinks_of(4, &[]), nvlinks_of(1, &[])), (NvLinks::Apart, NvLinks::Untold));
        // A chain is no ring, and a ring is as wide as where it is narrowest.
        assert_eq!(nvlinks_of(3, &[(0, 1, 4), (1, 2, 4)]), NvLinks::Apart);
        assert_eq!(nvlinks_of(4, &[(0, 1, 9), (1, 2, 1), (2, 3, 9), (3, 0, 1)]), NvLinks::Ring(2));
    }

    #[test]
    fn pcie_counts_on_one_cpu_only() {
        let link = Some(PcieLink { gigatransfers: 16.0, lanes: 16 });
        assert_eq!(Wires::of(&node(4, &[], 1)).pcie, link);
        assert_eq!(Wires::of(&node(4, &[], 2)).pcie, None);
        let mut odd = node(2, &[], 1);
        odd.cpus[0].gpus[1].link_speed = Some("Unknown".into());
        assert_eq!(Wires::of(&odd).pcie, None);
        // GPUs that are no ranks do not count.
        let mut part = node(3, &[(0, 1, 12)], 1);
        part.cpus[0].gpus[2].rank = None;
        assert_eq!(Wires::of(&part).nvlinks, NvLinks::Ring(12));
    }

    proptest::proptest! {
        #[test]
        fn any_wiring_is_data(joins in proptest::collection::vec((0usize..9, 0usize..9, 0u32..40), 0..30), gpus in 0usize..9) {
            let wires = Wires::of(&node(gpus, &joins, 1));
            proptest::prop_assert_eq!(wires.nvlinks == NvLinks::Untold, gpus < 2);
        }
    }
}
