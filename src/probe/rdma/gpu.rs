//! A GPU's memory as source and target (GPUDirect RDMA): registered by dma-buf, else through nvidia_peermem; the payload is made
//! and compared on the GPU. The node's GPU processes do it, each with the memory of its own GPU.
//!
//! Latency is not measured: the CPU cannot look for the last byte in a GPU's memory.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Processes, Step};
use crate::measure::{Check, Counters, FailKind, Measured, Outcome, WaiveKind};
use crate::plan::CheckPlan;
use crate::probe::gpu::{self, Session};
use crate::probe::rdma::memory::GpuMemory;
use crate::probe::rdma::{
    BLOCKS, End, FLOW, MOST, RdmaProbe, SPARE, TRIES, Test, bandwidth, case, choose, connect, endpoints, finish,
    flowing, more, rates, seen, span, warm_count,
};
use crate::probe::{ProbeError, step};
use crate::sys::verbs::Op;
use crate::topology::{Machine, SysRoot};
use crate::unit::Bytes;
use crate::work::{self, Case, CheckName, LinkTest, Metric, RdmaOp, Scope, Way};

const BYTES: u32 = FLOW;

#[derive(Serialize, Deserialize)]
pub(super) enum Args {
    /// Over each device from a GPU's memory into the same GPU's: all GPUs at once.
    Loopback(Vec<Place>),
    Pair {
        device: String,
        gpu: usize,
    },
}

/// A device and the GPU nearest to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Place {
    device: String,
    gpu: usize,
}

impl Place {
    fn case(device: &str) -> Case {
        let (op, bytes) = (RdmaOp::Write, Bytes(u64::from(BYTES)));
        case(Scope::Loopback, device, LinkTest::Verbs { op, bytes, queue_pairs: 1, memory: work::Memory::Gpu })
    }
}

/// Of the GPUs that a job sees, as CUDA counts them, the one that shares most of its way up to the root with the device; `None`
/// without GPUs.
fn nearest(machine: &Machine, device: &str) -> Option<usize> {
    let gpus = gpu::gpus(machine);
    // Among equals the first.
    (0..gpus.len()).max_by_key(|i| (machine.nearness(device, &gpus[*i].pci), std::cmp::Reverse(*i)))
}

/// Over each of `devices` alone, from a GPU's memory into the same GPU's.
pub(super) fn loopback_step(plan: &CheckPlan, devices: &[&str], machine: &Machine) -> Step {
    let near = |d: &&str| Some(Place { device: (*d).to_owned(), gpu: nearest(machine, d)? });
    let places: Vec<Place> = devices.iter().filter_map(near).collect();
    let cases = devices.iter().map(|d| Place::case(d)).collect();
    let gpus = gpu::count(machine);
    // A GPU that is the nearest to several devices takes one after the other.
    let most = (0..gpus).map(|g| places.iter().filter(|p| p.gpu == g).count()).max().unwrap_or(0) as u64;
    let (start, each) = (100 * most, plan.tier.pick(200, 700, 2500));
    // Without a GPU it is told at once.
    let estimate = if gpus == 0 { 20 } else { start + each * most };
    let step = step(&RdmaProbe, plan, cases, Args::Loopback(places), estimate);
    let processes = if gpus == 0 { Processes::Own } else { Processes::Gpus };
    let start_ms = if gpus == 0 { 0 } else { start };
    Step { name: "rdma-gpu".to_owned(), ranks: gpus.max(1) as u32, processes, start_ms, ..step }
}

/// Between two nodes, from the memory of one's GPU into that of the other's; the caller sets its groups. `machine` is any of the
/// nodes: all have GPUs at the same places.
pub fn gpu_pair_step(plan: &CheckPlan, device: &str, machine: &Machine) -> Option<Step> {
    let gpu = nearest(machine, device)?;
    let of_way = |way| case(Scope::Pair, device, LinkTest::Flow { way, memory: work::Memory::Gpu });
    let cases = [Way::Out, Way::Back].map(of_way).to_vec();
    // One more context in the first GPU's process.
    let start = 500;
    let estimate = start + plan.tier.pick(300, 700, 2500) * cases.len() as u64;
    let step = step(&RdmaProbe, plan, cases, Args::Pair { device: device.to_owned(), gpu }, estimate);
    let (rail, name) = (Some(device.to_owned()), format!("rdma-gpu-pairs-{device}"));
    Some(Step { rail, name, processes: Processes::Gpus, start_ms: start, ..step })
}

pub(super) fn run(child: &mut Child, args: &Args) -> Result<(), ProbeError> {
    match args {
        Args::Loopback(places) => loopback(child, places),
        Args::Pair { device, gpu } => pair(child, device, *gpu),
    }
}

/// Each GPU's process with the devices nearest to it, one after the other; rank 0 tells of all.
fn loopback(child: &mut Child, places: &[Place]) -> Result<(), ProbeError> {
    if places.is_empty() {
        let why = "no NVIDIA GPU on the PCI bus of this node";
        for case in child.step.cases.clone() {
            child.outcome(&case, Outcome::waived(WaiveKind::Absent, why))?;
        }
        return Ok(());
    }
    let wanted: Vec<&Place> = places.iter().filter(|p| child.wants(&Place::case(&p.device))).collect();
    let most = (0..child.ranks as usize).map(|g| wanted.iter().filter(|p| p.gpu == g).count()).max().unwrap_or(1);
    let budget = child.share(most);
    let session = gpu::open(child, child.rank as usize, None);
    // All begin together.
    child.barrier()?;
    let mut own: Vec<(Case, Outcome)> = Vec::new();
    for place in wanted.iter().filter(|p| p.gpu == child.rank as usize) {
        let outcome = match &session {
            Err(outcome) => outcome.clone(),
            Ok(session) => match over(child, session, &place.device, budget) {
                Ok(measured) => Outcome::Measured(measured),
                Err(e) => Outcome::error(FailKind::Error, e.to_string()),
            },
        };
        own.push((Place::case(&place.device), outcome));
    }
    if own.iter().any(|(_, o)| matches!(o, Outcome::Failed { .. })) {
        child.retire();
    }
    let all = child.exchange(&own)?;
    if child.rank == 0 {
        for (case, outcome) in all.all(child)?.into_iter().flatten() {
            child.outcome(&case, outcome)?;
        }
    }
    Ok(())
}

/// Writes over one device between two pieces of one GPU's memory, both ends in this process.
fn over(child: &Child, session: &Rc<Session>, device: &str, budget: Duration) -> Result<Measured, ProbeError> {
    let address = choose(&SysRoot::live(), device).map_err(ProbeError::Broken)?;
    let before = Counters::read(device, address.port);
    let (here, there) = (GpuMemory::new(session)?, GpuMemory::new(session)?);
    let (mut from, mut to) = (here.open(device, 1)?, there.open(device, 1)?);
    let (port, own) = endpoints(&from, device, &address, 1)?;
    let (_, peers) = endpoints(&to, device, &address, 1)?;
    let path = address.path(&port);
    from.connect(0, own[0].psn, &peers[0], &path, port.mtu)?;
    to.connect(0, peers[0].psn, &own[0], &path, port.mtu)?;
    let seed = child.step.seed;
    here.prepare(seed)?;
    there.prepare(!seed)?;
    let half = here.half;
    let deadline = Instant::now() + child.time_left().saturating_sub(SPARE);
    let peer = format!("{device} ({}), both ends of this process", address.shown);
    let mut end =
        End { device: device.to_owned(), rdma: from, gpu: Some(here), peers, half, deadline, shares: false, peer };
    let warm = end.stream(Op::Write, BYTES, 1, warm_count(BYTES), 1, budget)?;
    let each = (span(&warm) / warm.last().map_or(1, |l| l.1.max(1)) as f64).max(1e-9);
    let mut count = ((budget.as_secs_f64() * 0.7 / each) as u64).clamp(BLOCKS, MOST);
    let (mut tries, mut spent) = (1, 0.0);
    let marks = loop {
        let marks = end.stream(Op::Write, BYTES, 1, count, BLOCKS, 2 * budget)?;
        spent += span(&marks);
        match more(count, flowing(&marks), budget).filter(|_| tries < TRIES && spent < budget.as_secs_f64()) {
            Some(larger) => (count, tries) = (larger, tries + 1),
            None => break marks,
        }
    };
    let wrong = there.wrong(seed, BYTES as usize)?;
    let detail = format!("{wrong} of {BYTES} compared bytes differ after {count} messages");
    let measured = Measured {
        series: vec![Metric::Bandwidth.series(rates(&marks, BYTES), count / BLOCKS)],
        checks: [Check::new(CheckName::Payload, wrong == 0, detail)].into(),
        ..Measured::default()
    };
    let told = seen(&end, &address, &before, None)?;
    let mut measured = finish(child, device, &address, vec![told], measured);
    measured.notes.extend(end.gpu.as_ref().map(|g| g.told.borrow().clone()));
    // The other end's memory is registered until here.
    drop(to);
    Ok(measured)
}

fn pair(child: &mut Child, device: &str, gpu: usize) -> Result<(), ProbeError> {
    let cases = child.step.cases.clone();
    // All ranks find out alike whether there is anything to do, or who is left would wait.
    let session = gpu::open(child, gpu, None);
    let all = child.exchange(&session.as_ref().err().cloned())?.all(child)?;
    for (rank, outcome) in all.into_iter().enumerate() {
        let Some(mut outcome) = outcome else { continue };
        if let Outcome::Waived { why, .. } | Outcome::Failed { error: why, .. } = &mut outcome {
            *why = format!("{}: {why}", child.name(rank));
        }
        let speaks = child.rank == 0;
        for case in cases.iter().filter(|_| speaks) {
            child.outcome(case, outcome.clone())?;
        }
        return Ok(());
    }
    let Ok(session) = session else { return Ok(()) };
    let address = choose(&SysRoot::live(), device).map_err(ProbeError::Broken)?;
    let budget = child.share(cases.len());
    let memory = GpuMemory::new(&session)?;
    let mut end = connect(child, device, &address, BYTES as usize, 1, 1 - child.rank as usize, Some(memory))?;
    for case in &cases {
        let Some(Test::Bandwidth { way, .. }) = Test::of(case) else { continue };
        end.deadline = Instant::now() + child.time_left().saturating_sub(SPARE);
        let before = Counters::read(device, address.port);
        let (measured, flowed) = bandwidth(child, &mut end, &address, Op::Write, BYTES, 1, way, budget)?;
        let all = child.exchange(&seen(&end, &address, &before, Some(flowed))?)?;
        if child.rank == 0 {
            let all = all.all(child)?;
            let mut outcome = finish(child, device, &address, all, measured);
            outcome.notes.extend(end.gpu.as_ref().map(|g| g.told.borrow().clone()));
            child.outcome(case, Outcome::Measured(outcome))?;
        }
    }
    Ok(())
}
