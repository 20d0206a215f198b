//! `collective`: all-reduce and its relatives, every result checked: among processes over TCP and over RDMA by own algorithms, and
//! among GPUs by NCCL (`nccl`).
//!
//! Topology `node`: 2 and 4 ranks on this machine, or all its GPUs. `mesh` is what algorithms see of the ranks, `tcp` and `verbs` carry the
//! bytes, `algorithm` arranges them, `verify` knows what must come out.

mod algorithm;
pub mod cost;
pub(super) mod mesh;
pub(super) mod nccl;
pub(super) mod tcp;
mod verbs;
pub(super) mod verify;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Step};
use crate::id::ProbeName;
use crate::measure::{Check, Counters, CountersMoved, Measured, Outcome, Sampler, WaiveKind, bus_factor};
use crate::plan::{CheckPlan, Tier};
use crate::probe::rdma::{self, Address};
use crate::probe::{Priority, Probe, ProbeError, affinity, step};
use crate::topology::{Machine, SysRoot};
use crate::unit::{Bytes, Unit};
use crate::work::{Carrier, Case, CheckName, Collective, CollectiveCase, Declared, Metric, Topology};

use cost::{Algorithm, Link};
use mesh::Mesh;
use tcp::Tcp;
use verbs::Verbs;

pub(super) use nccl::listen;
pub use nccl::nccl_step;

pub struct HostCollective;

/// Ranks on one node.
const RANKS: [u32; 2] = [2, 4];

#[derive(Serialize, Deserialize)]
struct Args {
    cores: usize,
    copy_ceiling: f64,
    sizes: Vec<(Collective, usize)>,
    topology: Topology,
    /// The RDMA device that carries it; TCP without one.
    device: Option<String>,
    /// The interface that carries it over TCP, where that is not the one of the control channel.
    interface: Option<String>,
}

/// More nodes than this do without all-to-all: every rank would need a connection to every other.
const MAX_ALL_TO_ALL: u32 = 64;

/// A step of one rank a node over groups of `nodes` nodes, by processes of the host; the caller sets its groups. `rate` is
/// what pairs of nodes reached, in bytes per second, where that is known: on slow links a step takes longer.
pub fn group_step(plan: &CheckPlan, topology: Topology, nodes: u32, carrier: &Carrier, rate: Option<f64>) -> Step {
    const MIB: usize = 1 << 20;
    let all_reduce: &[usize] = plan.tier.pick(
        &[8, 16 * MIB],
        &[8, 4096, MIB, 16 * MIB, 64 * MIB],
        &[8, 4096, 65_536, MIB, 16 * MIB, 64 * MIB],
    );
    let mut sizes: Vec<_> = all_reduce.iter().map(|s| (Collective::AllReduce, *s)).collect();
    if topology == Topology::World {
        let others = Collective::ALL.iter().copied().skip(1);
        sizes
            .extend(others.filter(|op| nodes <= MAX_ALL_TO_ALL || *op != Collective::AllToAll).map(|op| (op, 4 * MIB)));
    }
    let (device, interface) = match carrier {
        Carrier::Rdma(name) => (Some(name.to_string()), None),
        Carrier::Interface(name) => (None, Some(name.to_string())),
        Carrier::Tcp | Carrier::Nccl => (None, None),
    };
    let args = Args { cores: 2, copy_ceiling: f64::MAX, sizes, topology, device, interface };
    let cases = args.sizes.iter().map(|(op, s)| args.case(*op, nodes, *s)).collect();
    let each = plan.tier.pick(250, 1000, 6000);
    // Both ways at once, which may halve the rate.
    let link = Link { latency: 0.0, per_byte: rate.filter(|r| *r > 0.0).map_or(0.0, |r| 2.0 / r) };
    let slow = |(op, size): &(Collective, usize)| {
        (cost::expected(*op, nodes, *size, link) * FEWEST as f64 * 1e3).min(MOST_MS as f64) as u64
    };
    let estimate = args.sizes.iter().map(|case| each.max(slow(case))).sum();
    let step = step(&HostCollective, plan, cases, args, estimate);
    let name = match carrier {
        Carrier::Rdma(device) => format!("collective-{}-{nodes}-{device}", topology.name()),
        Carrier::Interface(name) => format!("collective-{}-{name}-{nodes}", topology.name()),
        Carrier::Tcp | Carrier::Nccl => format!("collective-{}-{nodes}", topology.name()),
    };
    let rail = match carrier {
        Carrier::Rdma(name) | Carrier::Interface(name) => Some(name.to_string()),
        Carrier::Tcp | Carrier::Nccl => None,
    };
    Step { name, rail, ..step }
}

/// Whether two ranks ever talk: the ring's neighbours, the doubling's and the barrier's partners; all when few.
pub(super) fn neighbours(ranks: usize) -> impl Fn(usize, usize) -> bool {
    move |a: usize, b: usize| {
        if ranks <= MAX_ALL_TO_ALL as usize {
            return true;
        }
        let base = 1usize << ranks.ilog2();
        let distance = (a + ranks - b) % ranks;
        distance.is_power_of_two()
            || (ranks - distance).is_power_of_two()
            || (a ^ b).is_power_of_two()
            || a.abs_diff(b) == base
    }
}

/// Message sizes by tier: both ends always; the curve between them when there is time.
fn sizes(tier: Tier) -> Vec<(Collective, usize)> {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    let all_reduce: &[usize] = tier.pick(
        &[8, 4 * KIB, MIB, 64 * MIB],
        &[8, 64, 512, 4 * KIB, 32 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB],
        &[8, 64, 512, 4 * KIB, 32 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB],
    );
    let others: &[usize] =
        tier.pick(&[4 * MIB], &[KIB, 64 * KIB, 4 * MIB, 64 * MIB], &[KIB, 64 * KIB, 4 * MIB, 64 * MIB]);
    let others = Collective::ALL.iter().copied().skip(1).flat_map(|op| others.iter().map(move |s| (op, *s)));
    all_reduce.iter().map(|s| (Collective::AllReduce, *s)).chain(others).collect()
}

/// Operations before the one that is timed, where there is time for them.
const WARM_UPS: usize = 3;
/// Samples that a case needs.
const LEAST_BLOCKS: usize = 3;
/// Operations that a case consists of at the least: a warm-up, one for its time, the samples.
const FEWEST: usize = 2 + LEAST_BLOCKS;
/// From this size on bandwidth is what counts.
const LARGE: usize = 1 << 20;
/// However slow a link: no more time for a case than this.
const MOST_MS: u64 = 8000;

impl Args {
    fn case(&self, op: Collective, ranks: u32, size: usize) -> Case {
        let carrier = match (&self.device, &self.interface) {
            (Some(device), _) => Carrier::Rdma(device.as_str().into()),
            (None, Some(name)) => Carrier::Interface(name.as_str().into()),
            (None, None) => Carrier::Tcp,
        };
        let (topology, bytes) = (self.topology, Bytes(size as u64));
        Case::Collective(CollectiveCase { op, topology, carrier, ranks, bytes, in_place: false, gpu: None })
    }
}

impl Probe for HostCollective {
    fn name(&self) -> ProbeName {
        ProbeName::new("collective")
    }

    fn about(&self) -> &'static str {
        "all-reduce, all-gather, reduce-scatter, broadcast, all-to-all, send-receive: among local ranks, nodes, and GPUs by NCCL; sums checked"
    }

    fn needs(&self) -> &'static str {
        "a loopback interface; for GPUs their driver and libnccl.so.2"
    }

    fn metrics(&self) -> &'static [Declared] {
        const METRICS: &[Declared] = &[
            Metric::Latency.of("time of one operation, the slowest rank's"),
            Metric::AlgBw.of("size / time"),
            Metric::BusBw.of("algbw times the operation's bus factor"),
            Metric::Bandwidth.of("from all GPUs of a node to their likes on another, together"),
            Metric::Start.of("from the start of a rank's process until the communicator stands: context, libraries, NCCL; the slowest rank's"),
        ];
        METRICS
    }

    fn priority(&self, on_gpus: bool) -> Priority {
        if on_gpus { Priority::new(1, 5) } else { Priority::new(4, 9).beside_gpus([1, 3, 1]) }
    }

    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        let args = Args {
            cores: machine.usable_cores(),
            copy_ceiling: machine.copy_ceiling(machine.usable_cores()),
            sizes: sizes(plan.tier),
            topology: Topology::Node,
            device: None,
            interface: None,
        };
        let local = RANKS.into_iter().map(|ranks| {
            let cases = args.sizes.iter().map(|(op, s)| args.case(*op, ranks, *s)).collect();
            let mut step = step(self, plan, cases, &args, plan.tier.pick(2200, 16_000, 80_000));
            step.name = format!("collective-node-{ranks}");
            step.ranks = ranks;
            step
        });
        nccl::node_step(plan, machine).into_iter().chain(local).collect()
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        if nccl::is_nccl(&child.step) {
            return nccl::run(child);
        }
        let args: Args = child.args()?;
        let with = neighbours(child.ranks as usize);
        let (ranks, rank) = (child.ranks, child.rank);
        let port = args.device.as_deref().map(Port::of).transpose()?;
        if let Some(port) = &port {
            affinity::near(&SysRoot::live(), port.address.numa);
        } else {
            child.on_rail()?;
        }
        let mut mesh = connect(child, args.cores, port.as_ref(), &with)?;
        let link = tune(child, &mut mesh)?;
        let wanted: Vec<_> = args.sizes.iter().filter(|(op, s)| child.wants(&args.case(*op, ranks, *s))).collect();
        let budget = child.share(wanted.len());
        for (i, (op, size)) in wanted.iter().enumerate() {
            let expected = cost::expected(*op, ranks, *size, link);
            // All ranks decide alike: the shortest time left counts. Half of it is for the cases after this one.
            let share = if i + 1 == wanted.len() { 1 } else { 2 };
            let left = child.measuring_left() / share;
            let left = child.exchange(&left.as_secs_f64())?.all(child)?.into_iter().fold(f64::INFINITY, f64::min);
            let outcome = if expected * FEWEST as f64 > left {
                (rank == 0).then(|| no_time(expected))
            } else {
                let time = Time { share: budget, left: Duration::try_from_secs_f64(left).unwrap_or_default() };
                measure(child, &mut mesh, (*op, *size), link, time, &args, port.as_ref())?
            };
            if let Some(outcome) = outcome {
                child.outcome(&args.case(*op, ranks, *size), outcome)?;
            }
        }
        Ok(())
    }
}

/// Measures what the link costs, for the choice of algorithm: the latency of a small exchange, and the time a byte
/// takes in a large one. Every rank takes rank 0's figures, so that all choose the same.
pub(super) fn tune(child: &mut Child, mesh: &mut Mesh) -> Result<Link, ProbeError> {
    let time = |mesh: &mut Mesh, bytes: usize, rounds: u32| -> Result<f64, ProbeError> {
        let data = vec![1.0f32; bytes / 4];
        let mut sum = vec![0.0f32; bytes / 4];
        let mut best = f64::INFINITY;
        for _ in 0..rounds {
            let start = Instant::now();
            algorithm::all_reduce(mesh, Algorithm::Ring, &data, &mut sum)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    };
    let steps = 2.0 * f64::from(child.ranks - 1);
    let small = time(mesh, 64, 100)? / steps;
    let large = time(mesh, 1 << 20, 10)? / steps;
    let per_byte = (large - small).max(1e-12) * f64::from(child.ranks) / f64::from(1 << 20);
    let (latency, per_byte) = child.exchange(&(small, per_byte))?.of(child, 0)?;
    Ok(Link { latency, per_byte })
}

/// All ranks, each connected with those that it talks to: by RDMA where there is a port for it, else by TCP, whose ranks each use so many
/// cores.
pub(super) fn connect(
    child: &mut Child,
    cores: usize,
    port: Option<&Port>,
    with: &dyn Fn(usize, usize) -> bool,
) -> Result<Mesh, ProbeError> {
    let (rank, ranks) = (child.rank, child.ranks);
    Ok(match port {
        None => Mesh::new(rank, ranks, Tcp::connect(child, cores, with)?),
        Some(port) => Mesh::new(rank, ranks, Verbs::connect(child, &port.device, &port.address, with)?),
    })
}

/// The port that a mesh over RDMA leaves by.
pub(super) struct Port {
    device: String,
    address: Address,
}

impl Port {
    /// The port of a device that gonogo uses.
    pub fn of(device: &str) -> Result<Self, ProbeError> {
        let address = rdma::choose(&SysRoot::live(), device).map_err(ProbeError::Broken)?;
        Ok(Port { device: device.to_owned(), address })
    }

    pub fn counters(&self) -> Counters {
        Counters::read(&self.device, self.address.port)
    }

    /// Which error counters moved since; `None` if none did.
    pub fn moved(&self, before: &Counters, child: &Child) -> Option<CountersMoved> {
        let moved = self.counters().moved(before);
        let node = child.members.get(child.rank as usize).cloned();
        let of = |moved| CountersMoved { node, device: self.device.clone(), port: self.address.port, moved };
        (!moved.is_empty()).then(|| of(moved))
    }
}

/// What a rank tells of a measurement: wrong elements, seconds by block, error counters of its port that moved.
type RankReport = (usize, Vec<f64>, Option<CountersMoved>);

/// The time of a test: what it should take, and what it may, agreed on by all ranks.
#[derive(Clone, Copy)]
struct Time {
    share: Duration,
    left: Duration,
}

impl Time {
    /// Whether a test that has `blocks` after so long ends here. What was to be expected says little of a machine whose cores others have
    /// taken since: the fewest that make an interval may take all that is left, more of them what the estimate has for the test.
    fn is_over(&self, after: Duration, blocks: usize) -> bool {
        after > self.left || (blocks >= LEAST_BLOCKS && after > self.share * 4 / 3)
    }
}

fn no_time(one_takes: f64) -> Outcome {
    let why = format!("one takes {}: not enough fit the time", Unit::Second.show(one_takes));
    Outcome::waived(WaiveKind::NoTime, why)
}

/// One test on this rank; on rank 0 what all ranks tell of it.
fn measure(
    child: &mut Child,
    mesh: &mut Mesh,
    (op, size): (Collective, usize),
    link: Link,
    time: Time,
    args: &Args,
    port: Option<&Port>,
) -> Result<Option<Outcome>, ProbeError> {
    let ranks = child.ranks;
    let before = port.map(Port::counters);
    let mut buffers = verify::Buffers::new(op, child.rank, ranks, size, child.step.seed);
    let algorithm = cost::choose(op, ranks, size, link);
    let begun = Instant::now();
    let mut wrong = 0usize;
    let mut once = 0.0;
    // The last of these is timed, those before it warm up: one at the least.
    for warmed in 0..=WARM_UPS {
        let start = Instant::now();
        buffers.run(mesh, algorithm)?;
        once = start.elapsed().as_secs_f64();
        wrong += buffers.wrong();
        if mesh.any(begun.elapsed() > time.share / 8)? && warmed > 0 {
            break;
        }
    }
    // Every rank must run the same number of blocks: the slowest one's time is everybody's plan.
    let once = child.exchange(&once)?.all(child)?.into_iter().fold(1e-7, f64::max);
    let blocks = Sampler::new(time.share).max_blocks / 2;
    let available = time.share.as_secs_f64() * 0.6;
    let block = ((available / once / blocks as f64) as u64).clamp(1, 2000);
    let blocks = ((available / once) as usize / block as usize).clamp(8, blocks);
    let mut seconds = Vec::with_capacity(blocks);
    while seconds.len() < blocks && !mesh.any(time.is_over(begun.elapsed(), seconds.len()))? {
        let start = Instant::now();
        for _ in 0..block {
            buffers.run(mesh, algorithm)?;
        }
        seconds.push(start.elapsed().as_secs_f64() / block as f64);
    }
    // What was looked at once is wiped.
    if !seconds.is_empty() {
        wrong += buffers.wrong();
    }
    let enough = seconds.len() >= LEAST_BLOCKS;
    let moved = port.zip(before).and_then(|(port, before)| port.moved(&before, child));
    let reports: RankReport = (wrong, seconds, moved);
    let all = child.exchange(&reports)?;
    if child.rank != 0 {
        return Ok(None);
    }
    let all = all.all(child)?;
    // Wrong elements are told of however few the samples.
    if !enough && all.iter().all(|(wrong, ..)| *wrong == 0) {
        return Ok(Some(no_time(once)));
    }
    let mut measured = conclude(child, &all, (op, size), block, args, port);
    if !enough {
        measured.series.clear();
    }
    measured.notes.insert(0, algorithm.name().to_owned());
    Ok(Some(Outcome::Measured(measured)))
}

/// What all ranks told of a test, `block` operations to a sample, as its outcome.
fn conclude(
    child: &Child,
    all: &[RankReport],
    (op, size): (Collective, usize),
    block: u64,
    args: &Args,
    port: Option<&Port>,
) -> Measured {
    let times: Vec<&[f64]> = all.iter().map(|(_, t, _)| t.as_slice()).collect();
    let (latency, slowest) = slowest(&times, times.first().map_or(0, |t| t.len()));
    let factor = bus_factor(op, child.ranks);
    let rate = |f: f64| latency.iter().map(|t| size as f64 * f / t).collect::<Vec<f64>>();
    let why = "each rank's bus bytes are copied by a core at a cache line per cycle";
    let mut time =
        Metric::Latency.series(latency.clone(), block).bounded(100e-9, "two transfers of a cache line between cores");
    time.slowest_rank = slowest;
    let mut busbw = Metric::BusBw.series(rate(factor), block);
    if args.topology == Topology::Node {
        busbw = busbw.bounded(args.copy_ceiling, why);
    }
    // Small messages are bound by latency: a share of the port's rate says nothing of them.
    if let Some(port) = port.filter(|_| size >= LARGE) {
        busbw.nominal = port.address.rate.clone().map(Box::new);
    }
    let series = vec![time, Metric::AlgBw.series(rate(1.0), block), busbw];
    let wrong: Vec<String> = all
        .iter()
        .enumerate()
        .filter(|(_, (w, ..))| *w > 0)
        .map(|(r, (w, ..))| format!("{}: {w}", child.name(r)))
        .collect();
    let detail = if wrong.is_empty() {
        "no element differs on any rank".to_owned()
    } else {
        format!("wrong elements on {}", wrong.join(", "))
    };
    let checks = vec![Check::new(CheckName::Sum, wrong.is_empty(), detail)];
    let notes = port.map(|p| p.address.shown.clone()).into_iter().collect();
    let counters = all.iter().filter_map(|(.., moved)| moved.clone()).collect();
    Measured { series, checks: checks.into(), notes, counters, ..Measured::default() }
}

/// The maximum over ranks of each block, and the rank that was last in most of them, when it was by a twentieth or
/// more.
pub(super) fn slowest(all: &[&[f64]], blocks: usize) -> (Vec<f64>, Option<u32>) {
    let mut last = vec![0usize; all.len()];
    let latency = (0..blocks)
        .map(|b| {
            let times: Vec<f64> = all.iter().map(|t| t.get(b).copied().unwrap_or(f64::NAN)).collect();
            let longest = times.iter().copied().fold(0.0, f64::max);
            let shortest = times.iter().copied().fold(f64::INFINITY, f64::min);
            if longest > 1.05 * shortest
                && let Some(rank) = times.iter().position(|t| *t == longest)
            {
                last[rank] += 1;
            }
            longest
        })
        .collect();
    let named = last.iter().enumerate().max_by_key(|(_, n)| **n).filter(|(_, n)| **n * 2 > blocks);
    (latency, named.map(|(r, _)| r as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_rank_is_named_when_it_is_slow() {
        let (one, slow, like) = ([1.0; 10], [1.2; 10], [1.01; 10]);
        assert_eq!(slowest(&[&one, &slow], 10), (vec![1.2; 10], Some(1)));
        assert_eq!(slowest(&[&one, &like], 10).1, None);
    }
}
