//! Memory of a GPU that an RDMA device reads and writes.

use std::rc::Rc;

use crate::probe::ProbeError;
use crate::probe::gpu::Session;
use crate::probe::rdma::{DEPTH, FLOW};
use crate::sys::cuda::{Arg, Memory};
use crate::sys::verbs::{Handover, Rdma, Source};

const BYTES: u32 = FLOW;
/// What the driver aligns large allocations to, and a dma-buf needs.
const PAGE: usize = 2 << 20;

/// Memory of a GPU, in two halves as the host's is. Fields are dropped in this order.
pub(super) struct GpuMemory {
    memory: Memory,
    session: Rc<Session>,
    pub half: usize,
    /// How it was registered at last, or why it was not by dma-buf.
    pub told: std::cell::RefCell<String>,
}

impl GpuMemory {
    pub fn new(session: &Rc<Session>) -> Result<Self, ProbeError> {
        session.gpu.make_current()?;
        let half = (BYTES as usize).next_multiple_of(4096);
        let memory = session.gpu.alloc((2 * half).next_multiple_of(PAGE))?;
        Ok(GpuMemory { memory, session: session.clone(), half, told: Default::default() })
    }

    /// Opens the RDMA device on this memory: by dma-buf first, through nvidia_peermem second.
    pub fn open(&self, device: &str, qps: usize) -> Result<Rdma, ProbeError> {
        let source = |by| Source::Device { address: self.memory.address(), bytes: self.memory.len(), by };
        let dma_buf = self.session.gpu.dma_buf(&self.memory).and_then(|fd| {
            let rdma = Rdma::open(device, source(Handover::DmaBuf(fd)), qps, DEPTH);
            rdma.map_err(|e| e.to_string())
        });
        let why = match dma_buf {
            Ok(rdma) => {
                *self.told.borrow_mut() =
                    format!("memory of {} ({}) by dma-buf", self.session.gpu.name, self.session.gpu.pci);
                return Ok(rdma);
            }
            Err(why) => why,
        };
        match Rdma::open(device, source(Handover::Peer), qps, DEPTH) {
            Ok(rdma) => {
                let (name, pci) = (&self.session.gpu.name, &self.session.gpu.pci);
                *self.told.borrow_mut() = format!("memory of {name} ({pci}) through nvidia_peermem; no dma-buf: {why}");
                Ok(rdma)
            }
            Err(e) => Err(ProbeError::Broken(format!(
                "no GPUDirect RDMA with {} ({}): `modprobe nvidia_peermem`, or use NVIDIA's open kernel modules. dma-buf: {why}. nvidia_peermem: {e}",
                self.session.gpu.name, self.session.gpu.pci
            ))),
        }
    }

    /// Fills the first half, clears the second.
    pub fn prepare(&self, seed: u64) -> Result<(), ProbeError> {
        let s = &self.session;
        s.stream.fill(&self.memory, 0)?;
        let words = (self.half / 4) as u64;
        let args = [Arg::Memory(&self.memory), Arg::U64(words), Arg::U64(seed), Arg::U32(0)];
        s.kernels.launch(&s.stream, c"pattern_fill", None, &args)?;
        Ok(s.stream.synchronize()?)
    }

    /// How many of the first `bytes` bytes in the second half differ from what the peer has in its first.
    pub fn wrong(&self, seed: u64, bytes: usize) -> Result<usize, ProbeError> {
        let s = &self.session;
        s.stream.fill(&s.counted, 0)?;
        let (wrong, first) = (Arg::Memory(&s.counted), Arg::At(&s.counted, 8));
        let arrived = Arg::At(&self.memory, self.half as u64);
        let args = [arrived, Arg::U64((bytes / 4) as u64), Arg::U64(seed), Arg::U32(0), wrong, first];
        s.kernels.launch(&s.stream, c"pattern_check", None, &args)?;
        Ok(s.stream.read_u64(&s.counted)? as usize * 4)
    }
}
