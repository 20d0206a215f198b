//! Inputs whose results are known exactly, and the comparison of every element.
//!
//! Inputs are whole numbers below 1024, so that sums over up to 16384 ranks are exact in f32 in any order: what differs
//! is wrong, no tolerance needed.

use crate::probe::ProbeError;
use crate::probe::collective::algorithm::{self, part};
use crate::probe::collective::cost::Algorithm;
use crate::probe::collective::mesh::Mesh;
use crate::sys::pages::huge_vec;
use crate::work::Collective;

/// What this rank sends and receives.
pub struct Buffers {
    op: Collective,
    rank: usize,
    ranks: usize,
    seed: u64,
    send: Vec<f32>,
    receive: Vec<f32>,
}

/// Element `i` of rank `rank`'s input: a hash, full of entropy, 0..1023.
fn element(seed: u64, rank: usize, i: usize) -> f32 {
    let mut x =
        seed ^ (rank as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (i as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
    x ^= x >> 32;
    x = x.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    ((x >> 48) & 1023) as f32
}

impl Buffers {
    /// Buffers for an operation of `size` bytes, as nccl-tests counts size: the larger of what is sent and received.
    /// Sizes are rounded up so that every rank has at least one element where the operation splits.
    pub fn new(op: Collective, rank: u32, ranks: u32, size: usize, seed: u64) -> Self {
        let (rank, ranks) = (rank as usize, ranks as usize);
        let whole = size.div_ceil(4);
        let split = whole.div_ceil(ranks) * ranks;
        let (send, receive) = match op {
            Collective::AllReduce | Collective::SendReceive => (whole, whole),
            Collective::AllGather => (split / ranks, split),
            Collective::ReduceScatter => (split, split / ranks),
            Collective::AllToAll => (split, split),
            Collective::Broadcast => (0, whole),
        };
        let inputs = |rank: usize, len: usize| {
            let mut data = huge_vec(len, f32::NAN);
            data.iter_mut().enumerate().for_each(|(i, x)| *x = element(seed, rank, i));
            data
        };
        let receive = match op {
            Collective::Broadcast if rank == 0 => inputs(0, receive),
            _ => huge_vec(receive, f32::NAN),
        };
        Buffers { op, rank, ranks, seed, send: inputs(rank, send), receive }
    }

    /// One operation.
    pub fn run(&mut self, mesh: &mut Mesh, algorithm: Algorithm) -> Result<(), ProbeError> {
        match self.op {
            Collective::AllReduce => algorithm::all_reduce(mesh, algorithm, &self.send, &mut self.receive),
            Collective::AllGather => algorithm::all_gather(mesh, &self.send, &mut self.receive),
            Collective::ReduceScatter => algorithm::reduce_scatter(mesh, &self.send, &mut self.receive),
            Collective::Broadcast => algorithm::broadcast(mesh, algorithm, &mut self.receive),
            Collective::AllToAll => algorithm::all_to_all(mesh, &self.send, &mut self.receive),
            Collective::SendReceive => algorithm::send_receive(mesh, &self.send, &mut self.receive),
        }
    }

    /// Number of wrong elements of the last operation; the result is wiped, so that the next one must write it anew.
    pub fn wrong(&mut self) -> usize {
        let wrong = self.receive.iter().enumerate().filter(|(i, got)| **got != self.expected(*i)).count();
        if !(self.op == Collective::Broadcast && self.rank == 0) {
            self.receive.fill(f32::NAN);
        }
        wrong
    }

    fn expected(&self, i: usize) -> f32 {
        let total = |j: usize| (0..self.ranks).map(|r| element(self.seed, r, j)).sum();
        match self.op {
            Collective::AllReduce => total(i),
            Collective::ReduceScatter => total(self.rank * self.receive.len() + i),
            Collective::Broadcast => element(self.seed, 0, i),
            Collective::SendReceive => element(self.seed, (self.rank + self.ranks - 1) % self.ranks, i),
            Collective::AllGather => {
                let each = self.receive.len() / self.ranks;
                element(self.seed, i / each, i % each)
            }
            Collective::AllToAll => {
                let mine = part(self.receive.len(), self.ranks, self.rank).start;
                let each = self.receive.len() / self.ranks;
                element(self.seed, i / each, mine + i % each)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_element_is_counted_and_an_unwritten_result_is_all_wrong() {
        let mut b = Buffers::new(Collective::Broadcast, 1, 2, 4096, 7);
        assert_eq!(b.wrong(), 1024);
        b.receive = (0..1024).map(|i| element(7, 0, i)).collect();
        b.receive[77] += 1.0;
        assert_eq!(b.wrong(), 1);
    }

    #[test]
    fn inputs_differ_between_ranks_and_places() {
        let ones = (0..1000).filter(|i| element(1, 0, *i) == element(1, 1, *i)).count();
        assert!(ones < 10, "{ones}");
        let repeated = (1..1000).filter(|i| element(1, 0, *i) == element(1, 0, i - 1)).count();
        assert!(repeated < 10, "{repeated}");
    }
}
