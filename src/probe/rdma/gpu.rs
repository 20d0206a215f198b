//! A GPU's memory as source and target (GPUDirect RDMA): registered by dma-buf, else through nvidia_peermem; the payload is made
//! and compared on the GPU.
//!
//! Latency is not measured: the CPU cannot look for the last byte in a GPU's memory.

use std::rc::Rc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Step};
use crate::measure::{FailKind, Outcome, WaiveKind};
use crate::plan::CheckPlan;
use crate::probe::rdma::{Counters, KIB, RdmaProbe, SPARE, Way, bandwidth, choose, connect, finish, seen};
use crate::probe::{ProbeError, affinity, step};
use crate::sys::cuda::{Arg, Cuda, CudaError, Gpu, Kernels, Memory, Stream};
use crate::sys::verbs::{Handover, Op, Rdma, Source};
use crate::topology::{Machine, PciGpu, Pcie, SysRoot};

const BYTES: u32 = 64 * KIB;
/// What the driver aligns large allocations to, and a dma-buf needs.
const PAGE: usize = 2 << 20;

#[derive(Serialize, Deserialize)]
pub(super) struct Args {
    device: String,
    /// PCI addresses of the GPUs of this node, the nearest to the device first.
    gpus: Vec<String>,
    tests: Vec<(String, Way)>,
}

/// GPUs of a machine, by how much of their way up to the root they share with the device.
fn nearest(machine: &Machine, device: &str) -> Vec<String> {
    let place = machine.infiniband.iter().find(|d| d.name == device).and_then(|d| d.pcie.as_ref());
    let shared = |g: &PciGpu| {
        let common = |a: &Pcie, b: &Pcie| a.bridges.iter().zip(&b.bridges).take_while(|(x, y)| x == y).count();
        place.zip(g.pcie.as_ref()).map_or(0, |(a, b)| common(a, b))
    };
    let numa = machine.infiniband.iter().find(|d| d.name == device).and_then(|d| d.numa);
    let mut gpus: Vec<&PciGpu> = machine.gpus.iter().filter(|g| g.is_nvidia()).collect();
    gpus.sort_by_key(|g| std::cmp::Reverse((shared(g), g.numa.is_some() && g.numa == numa)));
    gpus.into_iter().map(|g| g.pci.clone()).collect()
}

fn gpu_step(plan: &CheckPlan, device: &str, gpus: Vec<String>, tests: Vec<(String, Way)>) -> Step {
    let cases = tests.iter().map(|(name, _)| name.clone()).collect();
    // Without a GPU it is told at once.
    let each = if gpus.is_empty() { 20 } else { plan.tier.pick(300, 700, 2500) };
    let estimate = each * tests.len() as u64 + if gpus.is_empty() { 0 } else { 1500 };
    let args = Args { device: device.to_owned(), gpus, tests };
    let step = step(&RdmaProbe, plan, cases, args, estimate);
    Step { rail: Some(device.to_owned()), name: format!("rdma-gpu-{device}"), ranks: 2, ..step }
}

/// Over one device, from a GPU's memory into the same GPU's.
pub(super) fn loopback_step(plan: &CheckPlan, device: &str, machine: &Machine) -> Step {
    gpu_step(plan, device, nearest(machine, device), vec![(format!("loopback gpu write 64 KiB {device}"), Way::Out)])
}

/// Between two nodes, from the memory of one's GPU into that of the other's; the caller sets its groups. `machine` is any of the
/// nodes: all have GPUs at the same places.
pub fn gpu_pair_step(plan: &CheckPlan, device: &str, machine: &Machine) -> Option<Step> {
    let gpus = nearest(machine, device);
    let tests = vec![(format!("pair gpu out {device}"), Way::Out), (format!("pair gpu back {device}"), Way::Back)];
    (!gpus.is_empty()).then(|| Step {
        ranks: 1,
        name: format!("rdma-gpu-pairs-{device}"),
        ..gpu_step(plan, device, gpus, tests)
    })
}

/// Memory of a GPU, in two halves as the host's is, and what works on it. Fields are dropped in this order.
pub(super) struct GpuMemory {
    memory: Memory,
    counted: Memory,
    stream: Stream,
    kernels: Kernels,
    gpu: Gpu,
    half: usize,
    /// How it was registered at last, or why it was not by dma-buf.
    pub told: std::cell::RefCell<String>,
}

impl GpuMemory {
    fn new(cuda: &Rc<Cuda>, gpus: &[String], half: usize) -> Result<Self, CudaError> {
        // CUDA counts its GPUs in an order of its own, and CUDA_VISIBLE_DEVICES hides some: the nearest of those that it shows.
        let mut found: Option<(usize, Gpu)> = None;
        for index in 0..cuda.count()? {
            let gpu = Gpu::open(cuda, index)?;
            let rank = gpus.iter().position(|p| *p == gpu.pci).unwrap_or(gpus.len());
            if found.as_ref().is_none_or(|(best, _)| rank < *best) {
                found = Some((rank, gpu));
            }
        }
        let (_, gpu) = found.ok_or(CudaError::NoDevice { wanted: 0, count: 0 })?;
        gpu.make_current()?;
        Ok(GpuMemory {
            memory: gpu.alloc((2 * half).next_multiple_of(PAGE))?,
            counted: gpu.alloc(16)?,
            stream: gpu.stream()?,
            kernels: gpu.kernels()?,
            gpu,
            half,
            told: Default::default(),
        })
    }

    /// Opens the RDMA device on this memory: by dma-buf first, through nvidia_peermem second.
    pub fn open(&self, device: &str, qps: usize) -> Result<Rdma, ProbeError> {
        let source = |by| Source::Device { address: self.memory.address(), bytes: self.memory.len(), by };
        let dma_buf = self.gpu.dma_buf(&self.memory).and_then(|fd| {
            let rdma = Rdma::open(device, source(Handover::DmaBuf(fd)), qps, super::DEPTH);
            rdma.map_err(|e| e.to_string())
        });
        let why = match dma_buf {
            Ok(rdma) => {
                *self.told.borrow_mut() = format!("memory of {} ({}) by dma-buf", self.gpu.name, self.gpu.pci);
                return Ok(rdma);
            }
            Err(why) => why,
        };
        match Rdma::open(device, source(Handover::Peer), qps, super::DEPTH) {
            Ok(rdma) => {
                let (name, pci) = (&self.gpu.name, &self.gpu.pci);
                *self.told.borrow_mut() = format!("memory of {name} ({pci}) through nvidia_peermem; no dma-buf: {why}");
                Ok(rdma)
            }
            Err(e) => Err(ProbeError::Broken(format!(
                "no GPUDirect RDMA with {} ({}). dma-buf: {why}. nvidia_peermem: {e}",
                self.gpu.name, self.gpu.pci
            ))),
        }
    }

    /// Fills the first half, clears the second.
    pub fn prepare(&self, seed: u64) -> Result<(), ProbeError> {
        self.stream.fill(&self.memory, 0)?;
        let words = (self.half / 4) as u64;
        let args = [Arg::Memory(&self.memory), Arg::U64(words), Arg::U64(seed), Arg::U32(0)];
        self.kernels.launch(&self.stream, c"pattern_fill", None, &args)?;
        Ok(self.stream.synchronize()?)
    }

    /// How many of the first `bytes` bytes in the second half differ from what the peer has in its first.
    pub fn wrong(&self, seed: u64, bytes: usize) -> Result<usize, ProbeError> {
        self.stream.fill(&self.counted, 0)?;
        let (wrong, first) = (Arg::Memory(&self.counted), Arg::At(&self.counted, 8));
        let arrived = Arg::At(&self.memory, self.half as u64);
        let args = [arrived, Arg::U64((bytes / 4) as u64), Arg::U64(seed), Arg::U32(0), wrong, first];
        self.kernels.launch(&self.stream, c"pattern_check", None, &args)?;
        Ok(self.stream.read_u64(&self.counted)? as usize * 4)
    }
}

pub(super) fn run(child: &mut Child, args: &Args) -> Result<(), ProbeError> {
    // All ranks find out alike whether there is anything to do, or who is left would wait.
    let opened = open(args);
    let told = child.exchange(opened.as_ref().err().map_or(String::new(), |(_, why)| why.clone()))?;
    let absent = opened.as_ref().err().map(|(kind, _)| *kind);
    if let Some((rank, why)) = told.iter().enumerate().find(|(_, why)| !why.is_empty()) {
        let why = if child.members.is_empty() { why.clone() } else { format!("{}: {why}", child.name(rank)) };
        let speaks = child.rank == 0;
        for (case, _) in args.tests.iter().filter(|_| speaks) {
            let outcome = match absent {
                Some(Missing::Here) | None => Outcome::waived(WaiveKind::Absent, why.clone()),
                Some(Missing::Broken) => Outcome::error(FailKind::Error, why.clone()),
            };
            child.outcome(case, outcome)?;
        }
        return Ok(());
    }
    let Ok(gpu) = opened else { return Ok(()) };
    let root = SysRoot::live();
    let address = choose(&root, &args.device).map_err(ProbeError::Broken)?;
    let place = affinity::near(&root, address.numa);
    let budget = child.share(args.tests.len());
    let mut end = connect(child, &args.device, &address, BYTES as usize, 1, 1 - child.rank as usize, Some(gpu))?;
    for (case, way) in &args.tests {
        end.deadline = Instant::now() + child.time_left().saturating_sub(SPARE);
        let before = Counters::read(&args.device, address.port);
        let measured = bandwidth(child, &mut end, Op::Write, BYTES, 1, *way, budget)?;
        let all =
            child.exchange(serde_json::to_string(&seen(&end, &args.device, &address, &before)?).unwrap_or_default())?;
        if child.rank == 0 {
            let mut outcome = finish(child, &args.device, &address, &all, measured);
            outcome.notes.extend(place.clone());
            outcome.notes.extend(end.gpu.as_ref().map(|g| g.told.borrow().clone()));
            child.outcome(case, Outcome::Measured(outcome))?;
        }
    }
    Ok(())
}

/// Why there is no memory of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// Nothing that should be here.
    Here,
    /// A GPU is here and cannot be used.
    Broken,
}

fn open(args: &Args) -> Result<GpuMemory, (Missing, String)> {
    if args.gpus.is_empty() {
        return Err((Missing::Here, "no NVIDIA GPU on the PCI bus of this node".to_owned()));
    }
    let of = |e: CudaError| {
        let missing = if e.is_absent() { Missing::Here } else { Missing::Broken };
        (missing, e.to_string())
    };
    let cuda = Cuda::load().map_err(of)?;
    GpuMemory::new(&cuda, &args.gpus, (BYTES as usize).next_multiple_of(4096)).map_err(of)
}
