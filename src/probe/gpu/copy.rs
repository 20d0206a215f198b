//! `copy`: between host and GPU from pinned memory on the GPU's own NUMA node, each way and both at once, each GPU alone and all
//! together; and between every two GPUs of the node.

use std::rc::Rc;

use crate::cluster::{Child, Step};
use crate::id::ProbeName;
use crate::measure::{Check, Facts, Measured, Outcome, PeerCopy, stats};
use crate::plan::CheckPlan;
use crate::probe::gpu::monitor::HostLink;
use crate::probe::gpu::{GpuArgs, GpuState, LEAST_BLOCKS, Place, Session, count, failed, gpu_step, run_all};
use crate::probe::{Priority, Probe, ProbeError};
use crate::sys::cuda::{CudaError, Pinned};
use crate::topology::{GpuSpec, Machine, PcieLink, SysRoot, host_path};
use crate::work::{Case, CheckName, CopyKind, Declared, Metric};

pub struct Copy;

/// Bytes of a copy: a millisecond of the fastest link, beside which the microsecond of starting one in a queue is nothing.
const SIZE: usize = 64 << 20;
const BLOCK_S: f64 = 0.05;
/// Page-locked memory of two copies, and its comparison.
const HOST_MS: u64 = 300;
/// A context on another GPU, for the matrix.
const CONTEXT_MS: u64 = 200;

fn test(kind: CopyKind) -> Case {
    Case::Copy { kind, gpu: 0 }
}

fn kind(test: &Case) -> Option<CopyKind> {
    if let Case::Copy { kind, .. } = test { Some(*kind) } else { None }
}

impl Probe for Copy {
    fn name(&self) -> ProbeName {
        ProbeName::new("copy")
    }

    fn about(&self) -> &'static str {
        "copies between host and GPU, each alone and all at once, and between GPUs; every word compared"
    }

    fn needs(&self) -> &'static str {
        "an NVIDIA GPU and its driver"
    }

    fn metrics(&self) -> &'static [Declared] {
        const METRICS: &[Declared] = &[
            Metric::Bandwidth.of("bytes copied per second; of both ways together where both go"),
            Metric::BandwidthMedian.of("of a GPU's ways to the others the middle one: low where the GPU itself is slow, not where one other is"),
        ];
        METRICS
    }

    fn priority(&self, _on_gpus: bool) -> Priority {
        Priority::new(1, 4)
    }

    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        let gpus = count(machine) as u64;
        let kinds = CopyKind::ALL.iter().copied().filter(|k| *k != CopyKind::Peer || gpus > 1);
        let tests: Vec<Case> = kinds.map(test).collect();
        let start = HOST_MS + if gpus > 1 { CONTEXT_MS * (gpus - 1) } else { 0 };
        let turns: u64 = tests.iter().map(|t| turns(t, gpus)).sum();
        let ms = start + plan.tier.pick(30, 120, 600) * (TURN * turns + pairs(gpus));
        let step = gpu_step(self, plan, machine, "copy", &tests, ms);
        step.map(|s| Step { start_ms: start, ..s }).into_iter().collect()
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        let args: GpuArgs = child.args()?;
        let gpus = u64::from(child.ranks);
        // In units of a pair's time: a turn has four of them.
        let turns: u64 = args.tests.iter().filter(|t| args.wants(child, t)).map(|t| turns(t, gpus)).sum();
        let peer = test(CopyKind::Peer);
        let pairs = if args.wants(child, &peer) { pairs(gpus) } else { 0 };
        let pair = child.share((TURN * turns + pairs) as usize).as_secs_f64();
        let turn = TURN as f64 * pair;
        let mut host: Option<[Pinned; 2]> = None;
        let tests: Vec<Case> = args.tests.iter().filter(|t| **t != peer).cloned().collect();
        run_all(
            child,
            &args,
            &tests,
            |test| kind(test).is_some_and(is_alone),
            |session, place, child| {
                if host.is_none() {
                    host = Some([session.gpu.pinned(SIZE)?, session.gpu.pinned(SIZE)?]);
                }
                let host = host.as_mut().ok_or_else(|| ProbeError::Broken("no pinned memory".to_owned()))?;
                let kind =
                    kind(&tests[place]).ok_or_else(|| ProbeError::Broken(format!("`{}` is no copy", tests[place])))?;
                with_host(session, host, kind, turn, child.step.seed)
            },
        )?;
        drop(host);
        if args.wants(child, &peer) { matrix(child, &args.places, pair) } else { Ok(()) }
    }
}

/// A turn of a test with the host has as much time as so many pairs of GPUs.
const TURN: u64 = 4;

/// Turns of a test with the host: alone means one GPU after the other.
fn turns(test: &Case, gpus: u64) -> u64 {
    match kind(test) {
        None | Some(CopyKind::Peer) => 0,
        Some(alone) if is_alone(alone) => gpus,
        Some(_) => 1,
    }
}

fn is_alone(kind: CopyKind) -> bool {
    matches!(kind, CopyKind::HostToDevice { alone: true } | CopyKind::DeviceToHost { alone: true })
}

const fn pairs(gpus: u64) -> u64 {
    gpus * gpus.saturating_sub(1)
}

fn with_host(
    session: &Session,
    host: &mut [Pinned; 2],
    kind: CopyKind,
    budget: f64,
    seed: u64,
) -> Result<Measured, ProbeError> {
    let [out, back] = host;
    let (there, here) = (session.gpu.alloc(SIZE)?, session.gpu.alloc(SIZE)?);
    // The GPU makes the pattern for the host: what goes up came down once.
    session.pattern(&here, seed, 0)?;
    session.stream.download(out, &here)?;
    session.stream.synchronize()?;
    back.fill(0);
    let second = session.gpu.stream()?;
    let (ready, done) = (session.gpu.event()?, session.gpu.event()?);
    let work = || {
        match kind {
            CopyKind::HostToDevice { .. } => session.stream.upload(&there, out)?,
            CopyKind::DeviceToHost { .. } => session.stream.download(back, &here)?,
            _ => {
                // The second stream goes along with the first, and the first waits for it: a block holds both.
                session.stream.record(&ready)?;
                second.wait_for(&ready)?;
                session.stream.upload(&there, out)?;
                second.download(back, &here)?;
                second.record(&done)?;
                session.stream.wait_for(&done)?;
            }
        }
        Ok(())
    };
    let (seconds, block) = session.blocks(LEAST_BLOCKS, BLOCK_S, budget * 0.6, work)?;
    let mut wrong = 0;
    if !matches!(kind, CopyKind::DeviceToHost { .. }) {
        wrong += session.wrong(&there, seed, 0)?;
    }
    if !matches!(kind, CopyKind::HostToDevice { .. }) {
        wrong += differing(out, back);
    }
    let both = kind == CopyKind::BothWays;
    let ways = if both { 2.0 } else { 1.0 };
    let mut series = Metric::Bandwidth.series(seconds.iter().map(|s| ways * SIZE as f64 / s).collect(), block);
    let path = host_path(&SysRoot::live(), &session.gpu.pci);
    let reached = crate::measure::stats::median(&series.samples) / ways;
    if let Some((rate, why)) = expected(session.spec.as_ref(), session.link, path, reached, both) {
        series = series.nominally(rate, why);
    }
    let checks = vec![Check::new(CheckName::Payload, wrong == 0, format!("{wrong} of {} words differ", SIZE / 4))];
    Ok(Measured { series: vec![series], checks: checks.into(), ..Measured::default() })
}

/// Of NVLink-C2C's rate, what one copy at a time has reached at best: 377 of 450 GB/s down and 359 up on half a GB300 (ml-engineering,
/// network/README.md, 2026-08-22), 346 up on GH200 (nvbandwidth#23).
const C2C_SHARE: f64 = 0.84;

/// What the link between host and GPU can do by what is there, in bytes per second of all ways together, and what says so: the slowest
/// of the GPU, its slot and the way to the CPU, and never more than the datasheet.
fn expected(
    spec: Option<&GpuSpec>,
    told: HostLink,
    path: Option<PcieLink>,
    reached: f64,
    both: bool,
) -> Option<(f64, String)> {
    if let Some(c2c) = spec.and_then(|s| s.c2c) {
        let (rate, by) = told.c2c.map_or_else(
            || (c2c, spec.map_or(String::new(), |s| s.source.clone())),
            |rate| (rate, "its links as NVML counts them".to_owned()),
        );
        // Both ways share Grace's memory, which carries no more than one way does: 175 and 172 GB/s on half a GB300.
        let shared = if both { ", both ways together: they share the CPU's memory" } else { "" };
        let why = format!("NVLink-C2C's {:.0} GB/s each way: {by}; copies reach {C2C_SHARE} of it{shared}", rate / 1e9);
        return Some((C2C_SHARE * rate, why));
    }
    let ways = if both { 2.0 } else { 1.0 };
    let of = |(generation, lanes)| PcieLink::of(generation, lanes);
    let sheet = spec.map(|s| (of(s.pcie), s.source.clone()));
    let gpu = told.pcie.map(|p| (of(p), "the most that the GPU and its slot can do".to_owned()));
    // The bridges above a GPU say how fast it cannot be; how fast it is, is for the GPU to say.
    let path = path.filter(|_| sheet.is_some() || gpu.is_some());
    let way = path.map(|p| (p, "the slowest link on the way to the CPU, at most".to_owned()));
    // A virtual machine's bridges may tell anything: a link that carried more than it can was not told truly.
    let there = [gpu, way].into_iter().flatten().filter(|(link, _)| reached <= link.rate());
    let slowest = sheet.into_iter().chain(there).min_by(|(a, _), (b, _)| a.rate().total_cmp(&b.rate()));
    slowest.map(|(link, why)| (ways * link.rate(), format!("PCIe {link}: {why}")))
}

/// Words of four bytes that differ.
fn differing(a: &[u8], b: &[u8]) -> u64 {
    // Compared as a whole first, which is as fast as memory: most often nothing differs.
    if a == b { 0 } else { a.chunks_exact(4).zip(b.chunks_exact(4)).filter(|(a, b)| a != b).count() as u64 }
}

/// From every GPU to every other, pair by pair. One process does it all: who copies needs a context on both, and eight processes
/// would make 64 of them. The others wait.
fn matrix(child: &mut Child, places: &[Place], budget: f64) -> Result<(), ProbeError> {
    // Ranks come to it together: nobody else uses a link meanwhile.
    child.barrier()?;
    let mut broken = false;
    if child.rank == 0 {
        let kept = GpuState::of(child);
        let open = |(index, p): (usize, &Place)| (p.number, kept.session_at(index, &p.pci));
        let gpus: Vec<Opened> = places.iter().enumerate().map(open).collect();
        for (from, place) in places.iter().enumerate() {
            let row = row(&gpus, from, budget, child.step.seed).map_or_else(failed, Outcome::Measured);
            broken |= matches!(row, Outcome::Failed { .. });
            child.outcome(&test(CopyKind::Peer).of_gpu(place.number), row)?;
        }
        // This process's own GPU is current again.
        broken |= gpus.first().is_some_and(|(_, own)| own.as_ref().is_ok_and(|own| own.gpu.make_current().is_err()));
        if broken {
            child.retire();
        }
    }
    child.barrier()?;
    Ok(())
}

/// A GPU's number, and what became of opening it.
type Opened = (u32, Result<Rc<Session>, CudaError>);

/// From one GPU to each other: a series for each, and whether they reach each other directly.
fn row(gpus: &[Opened], from: usize, budget: f64, seed: u64) -> Result<Measured, ProbeError> {
    let open = |g: usize| {
        let (number, session) = &gpus[g];
        session.as_ref().map_err(|e| ProbeError::Broken(format!("GPU {number}: {e}")))
    };
    let session = open(from)?;
    session.gpu.make_current()?;
    let (source, returned) = (session.gpu.alloc(SIZE)?, session.gpu.alloc(SIZE)?);
    session.pattern(&source, seed, 0)?;
    session.stream.synchronize()?;
    let (mut series, mut checks, mut row) = (Vec::new(), Vec::new(), Vec::new());
    for other in (0..gpus.len()).filter(|g| *g != from) {
        let there = &open(other)?.gpu;
        there.make_current()?;
        let to = there.alloc(SIZE)?;
        let (access, atomics) = session.gpu.peer(there)?;
        if access {
            session.gpu.enable_peer(there)?;
        }
        session.gpu.make_current()?;
        let work = || Ok(session.stream.copy_peer((&to, there), (&source, &session.gpu))?);
        let (seconds, block) = session.blocks(LEAST_BLOCKS, BLOCK_S / 4.0, budget, work)?;
        // Back here to be compared.
        session.stream.fill(&returned, 0)?;
        session.stream.copy_peer((&returned, &session.gpu), (&to, there))?;
        let wrong = session.wrong(&returned, seed, 0)?;
        checks.push(Check::new(
            CheckName::Payload,
            wrong == 0,
            format!("to gpu{}: {wrong} of {} words differ", gpus[other].0, SIZE / 4),
        ));
        let one = Metric::Bandwidth.series(seconds.iter().map(|s| SIZE as f64 / s).collect(), block);
        row.push(PeerCopy { to: gpus[other].0, rate: stats::median(&one.samples), direct: access, atomics });
        series.push(one);
    }
    // The slowest stands for the row: a GPU is only as good as its worst link. One bad GPU makes every row as slow, and tells itself
    // by the middle of its own. The row has all.
    series.sort_by(|a, b| stats::median(&a.samples).total_cmp(&stats::median(&b.samples)));
    let middle = (series.len() > 2).then(|| &series[series.len() / 2]);
    let usual = middle.map(|s| Metric::BandwidthMedian.series(s.samples.to_vec(), s.block.into()));
    series.truncate(1);
    series.extend(usual);
    let notes = session.notes.clone();
    Ok(Measured {
        series,
        checks: checks.into(),
        notes: notes.into(),
        facts: Some(Box::new(Facts::Peers(row))),
        ..Measured::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::topology::gpu_spec;

    fn gbs(name: &str, told: HostLink, path: Option<(u32, u32)>, both: bool) -> Option<f64> {
        let reached = 20e9;
        let found = expected(gpu_spec(name).as_ref(), told, path.map(|(g, l)| PcieLink::of(g, l)), reached, both);
        found.map(|(rate, _)| (rate / 1e9).round())
    }

    fn slot(generation: u32, lanes: u32) -> HostLink {
        HostLink { pcie: Some((generation, lanes)), c2c: None }
    }

    #[test]
    fn a_link_carries_what_its_generation_does() {
        assert_eq!((PcieLink::of(3, 16).rate() / 1e8).round(), 158.0);
        assert_eq!((PcieLink::of(5, 16).rate() / 1e8).round(), 630.0);
        assert_eq!((PcieLink::of(1, 16).rate() / 1e8).round(), 40.0);
    }

    #[test]
    fn copies_are_held_to_the_slowest_of_gpu_slot_and_way() {
        let (b300, h100) = ("NVIDIA B300 SXM6 AC", "NVIDIA H100 80GB HBM3");
        // A Gen6 GPU in a Gen5 host, told by its slot, or by the switch's own link above a Gen6 slot.
        assert_eq!(gbs(b300, slot(5, 16), None, false), Some(63.0));
        assert_eq!(gbs(b300, slot(6, 16), Some((5, 16)), false), Some(63.0));
        assert_eq!(gbs(b300, slot(6, 16), Some((6, 16)), false), Some(126.0));
        // Never more than the datasheet, whatever the slot could do; less where the slot is narrow.
        assert_eq!(gbs(h100, slot(6, 16), Some((6, 16)), true), Some(126.0));
        assert_eq!(gbs(h100, slot(5, 8), None, false), Some(32.0));
        // The datasheet where nobody tells; nothing for a GPU without a row of which nobody tells.
        assert_eq!(gbs(h100, HostLink::default(), None, false), Some(63.0));
        assert_eq!(gbs("NVIDIA Z999", HostLink::default(), None, false), None);
        assert_eq!(gbs("NVIDIA Z999", slot(4, 16), None, false), Some(32.0));
        assert_eq!(gbs("NVIDIA Z999", HostLink::default(), Some((5, 16)), false), None);
    }

    #[test]
    fn a_link_that_carried_more_than_it_can_was_not_told_truly() {
        // 20 GB/s through a virtual bridge that says Gen1 x1.
        assert_eq!(gbs("NVIDIA H100 80GB HBM3", slot(5, 16), Some((1, 1)), false), Some(63.0));
        assert_eq!(gbs("NVIDIA Z999", slot(1, 1), Some((1, 1)), false), None);
    }

    #[test]
    fn a_grace_hosts_link_is_no_pcie() {
        let c2c = |links: f64| HostLink { pcie: Some((4, 1)), c2c: Some(links * 44.712e9) };
        assert_eq!(gbs("NVIDIA GH200 480GB", c2c(10.0), Some((4, 1)), false), Some(376.0));
        assert_eq!(gbs("NVIDIA GH200 480GB", c2c(10.0), None, true), Some(376.0));
        assert_eq!(gbs("NVIDIA GB200", c2c(5.0), None, false), Some(188.0));
        // Without NVML's word, the datasheet's.
        assert_eq!(gbs("NVIDIA GH200 480GB", HostLink::default(), None, false), Some(378.0));
    }
}
