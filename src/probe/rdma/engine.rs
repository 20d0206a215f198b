//! The timed loops: no allocation, and no system call but the provider's own.

use std::time::{Duration, Instant};

use crate::probe::ProbeError;
use crate::probe::rdma::DEPTH;
use crate::probe::rdma::memory::GpuMemory;
use crate::sys::verbs::{self, Endpoint, Op, Rdma, VerbsError, Wc};

/// Queue pairs of one test at most.
pub(super) const MAX_QPS: usize = 8;
/// Requests posted between two looks for completions.
const BURST: u32 = 8;
/// Empty looks between two looks at the clock.
const LOOKS: u32 = 4096;

impl From<VerbsError> for ProbeError {
    fn from(e: VerbsError) -> Self {
        ProbeError::Broken(e.to_string())
    }
}

/// One end of connected queue pairs. The first half of the memory is sent, the second received into.
pub(super) struct End {
    pub device: String,
    pub rdma: Rdma,
    /// Where the memory is a GPU's. After `rdma`, so that it is freed after it was deregistered.
    pub gpu: Option<GpuMemory>,
    pub peers: Vec<Endpoint>,
    /// Where the second half begins.
    pub half: usize,
    pub deadline: Instant,
    /// Both ends are on this machine, and it has no core for each: who looks gives its core away.
    pub shares: bool,
    /// What the peer is called in an error.
    pub peer: String,
}

impl End {
    fn check(&self, wcs: &[Wc]) -> Result<(), ProbeError> {
        match wcs.iter().find(|wc| wc.status != 0) {
            None => Ok(()),
            Some(wc) => {
                let why = verbs::explain(wc.status, wc.vendor_err);
                Err(ProbeError::Broken(format!("to {}: {why}", self.peer)))
            }
        }
    }

    fn late(&self, what: &str) -> ProbeError {
        ProbeError::Broken(format!("{what} {} did not come in time", self.peer))
    }

    /// Whether the time is over; looks at the clock now and then only.
    fn is_over(&self, looks: &mut u32) -> bool {
        // No pause between looks: it is 40 ns on recent cores, of a latency below a microsecond.
        *looks = looks.wrapping_add(1);
        if self.shares {
            std::thread::yield_now();
        }
        looks.is_multiple_of(LOOKS) && Instant::now() > self.deadline
    }

    /// Sends, writes or reads `count` messages over the first `qps` queue pairs as fast as they go. Returns `blocks` moments
    /// at most, each with how many messages were complete by then; the start first, the end last. After `limit` no more
    /// is posted, but for sends, whose other side counts them: a path that loses packets is measured, not waited for.
    pub fn stream(
        &mut self,
        op: Op,
        bytes: u32,
        qps: usize,
        count: u64,
        blocks: u64,
        limit: Duration,
    ) -> Result<Vec<(Instant, u64)>, ProbeError> {
        let (depth, blocks) = window(count, qps as u64, blocks);
        // A completion for every quarter of the queue: few enough to cost nothing, often enough to keep it full.
        let every = (depth / 4).max(1);
        let share = |q: usize| count / qps as u64 + u64::from((q as u64) < count % qps as u64);
        let (mut posted, mut done) = ([0u64; MAX_QPS], [0u64; MAX_QPS]);
        let mut wcs = [Wc::default(); 32];
        let mut marks = Vec::with_capacity(blocks as usize + 2);
        let (from, to) = if op == Op::Read { (self.half, 0) } else { (0, self.half as u64) };
        let (mut total, mut next, mut looks) = (0, 1, 0);
        let start = Instant::now();
        marks.push((start, 0));
        let mut whole = [0u64; MAX_QPS];
        (0..qps).for_each(|q| whole[q] = share(q));
        let mut open = op != Op::Send;
        while total < whole.iter().sum() {
            for q in 0..qps {
                // A few, then a look: where the provider does the work inside the post, completions come meanwhile.
                for _ in 0..BURST {
                    if posted[q] >= whole[q] || posted[q] - done[q] >= depth {
                        break;
                    }
                    let number = posted[q] + 1;
                    let id = (number % every == 0 || number == whole[q]).then_some((q as u64) << 48 | number);
                    let peer = &self.peers[q];
                    if !self.rdma.post(q, op, (from, bytes), (peer.address + to, peer.rkey), id)? {
                        break;
                    }
                    posted[q] = number;
                }
            }
            let n = self.rdma.poll(&mut wcs)?;
            if n == 0 {
                if self.is_over(&mut looks) {
                    return Err(self.late("an answer of"));
                }
                continue;
            }
            self.check(&wcs[..n])?;
            if open && start.elapsed() > limit {
                // The last that is posted must be the last that is waited for: one more each, with a completion.
                open = false;
                (0..qps).for_each(|q| whole[q] = whole[q].min(posted[q] + 1));
            }
            for wc in wcs[..n].iter().filter(|wc| !verbs::is_receive(wc)) {
                let (q, number) = ((wc.wr_id >> 48) as usize & (MAX_QPS - 1), wc.wr_id & 0xffff_ffff_ffff);
                total += number - done[q];
                done[q] = number;
            }
            if total * blocks >= next * count {
                marks.push((Instant::now(), total));
                next = total * blocks / count + 1;
            }
        }
        // Cut short, the last part is no block of its own unless it is large enough for one.
        if let Some((_, counted)) = marks.last().filter(|(_, counted)| *counted < total) {
            if marks.len() > 1 && total - counted < WINDOWS * depth * qps as u64 {
                marks.pop();
            }
            marks.push((Instant::now(), total));
        }
        Ok(marks)
    }

    /// Posts room for the messages that come first; before the peer is told to send. Each has room for the largest message
    /// of the step: what one test leaves posted serves the next.
    pub fn make_room(&mut self, qps: usize, count: u64) -> Result<(), ProbeError> {
        let depth = u64::from(DEPTH) / qps as u64;
        for q in 0..qps {
            for _ in 0..depth.min(count) {
                self.rdma.post_receive(q, self.half, self.half as u32, q as u64)?;
            }
        }
        Ok(())
    }

    /// Receives `count` messages over `qps` queue pairs, making room again for each.
    pub fn sink(&mut self, qps: usize, count: u64) -> Result<(), ProbeError> {
        let depth = u64::from(DEPTH) / qps as u64;
        let first = qps as u64 * depth.min(count);
        let (mut got, mut room, mut looks) = (0, first, 0);
        let mut wcs = [Wc::default(); 32];
        while got < count {
            let n = self.rdma.poll(&mut wcs)?;
            if n == 0 {
                if self.is_over(&mut looks) {
                    return Err(self.late("a message of"));
                }
                continue;
            }
            self.check(&wcs[..n])?;
            for wc in &wcs[..n] {
                got += 1;
                if room < count {
                    self.again(wc.wr_id as usize)?;
                    room += 1;
                }
            }
        }
        Ok(())
    }

    /// Room for one more; a slot may come free a moment after its completion.
    fn again(&mut self, qp: usize) -> Result<(), ProbeError> {
        let mut looks = 0;
        while !self.rdma.post_receive(qp, self.half, self.half as u32, qp as u64)? {
            if self.is_over(&mut looks) {
                return Err(self.late("room for a message of"));
            }
        }
        Ok(())
    }

    fn post_one(&mut self, op: Op, bytes: u32, id: Option<u64>) -> Result<(), ProbeError> {
        let (from, to) = if op == Op::Read { (self.half, 0) } else { (0, self.half as u64) };
        let (address, rkey) = (self.peers[0].address + to, self.peers[0].rkey);
        let mut looks = 0;
        while !self.rdma.post(0, op, (from, bytes), (address, rkey), id)? {
            // Completions make room.
            let mut wcs = [Wc::default(); 8];
            let n = self.rdma.poll(&mut wcs)?;
            self.check(&wcs[..n])?;
            if n == 0 && self.is_over(&mut looks) {
                return Err(self.late("room in the queue for"));
            }
        }
        Ok(())
    }

    /// Takes `n` completions and gives them to nobody.
    fn reap(&mut self, mut n: usize) -> Result<(), ProbeError> {
        let mut wcs = [Wc::default(); 8];
        let mut looks = 0;
        while n > 0 {
            let most = n.min(wcs.len());
            let got = self.rdma.poll(&mut wcs[..most])?;
            self.check(&wcs[..got])?;
            n -= got;
            if got == 0 && self.is_over(&mut looks) {
                return Err(self.late("a completion of a message to"));
            }
        }
        Ok(())
    }

    /// Waits until the last byte of what the peer writes is `mark`.
    fn see(&mut self, at: usize, mark: u8) -> Result<(), ProbeError> {
        let mut looks = 0;
        while self.rdma.peek(at) != mark {
            if self.is_over(&mut looks) {
                // A connection that broke says why in its completion.
                let mut wcs = [Wc::default(); 8];
                let n = self.rdma.poll(&mut wcs)?;
                self.check(&wcs[..n])?;
                return Err(self.late("a write of"));
            }
        }
        Ok(())
    }

    /// Full round trips of messages of `bytes` bytes; the asking side. Into `times`, up to its capacity; nothing is
    /// allocated.
    pub fn ask(&mut self, op: Op, bytes: u32, count: u64, times: &mut Vec<Duration>) -> Result<(), ProbeError> {
        let last = bytes as usize - 1;
        let mut unreaped = 0;
        for i in 1..=count {
            match op {
                Op::Read => {
                    let start = Instant::now();
                    self.post_one(op, bytes, Some(i))?;
                    self.reap(1)?;
                    times.push(start.elapsed());
                }
                Op::Write => {
                    self.rdma.memory()[last] = i as u8;
                    let signal = i.is_multiple_of(SIGNAL);
                    let start = Instant::now();
                    self.post_one(op, bytes, signal.then_some(i))?;
                    self.see(self.half + last, i as u8)?;
                    times.push(start.elapsed());
                    unreaped += usize::from(signal);
                }
                Op::Send => {
                    let start = Instant::now();
                    self.post_one(op, bytes, Some(i))?;
                    // The own message's completion and the answer, in any order.
                    self.reap(2)?;
                    times.push(start.elapsed());
                    self.again(0)?;
                }
            }
            if unreaped > 0 {
                self.reap(std::mem::take(&mut unreaped))?;
            }
        }
        Ok(())
    }

    /// The answering side of [`End::ask`].
    pub fn answer(&mut self, op: Op, bytes: u32, count: u64) -> Result<(), ProbeError> {
        let last = bytes as usize - 1;
        for i in 1..=count {
            match op {
                Op::Read => return Ok(()),
                Op::Write => {
                    self.see(self.half + last, i as u8)?;
                    self.rdma.memory()[last] = i as u8;
                    let signal = i.is_multiple_of(SIGNAL);
                    self.post_one(op, bytes, signal.then_some(i))?;
                    if signal {
                        self.reap(1)?;
                    }
                }
                Op::Send => {
                    self.reap(1)?;
                    self.again(0)?;
                    self.post_one(op, bytes, Some(i))?;
                    self.reap(1)?;
                }
            }
        }
        Ok(())
    }
}

/// How many requests each of `qps` queue pairs keeps outstanding, and into how many of `blocks` blocks `count` messages part.
///
/// Where a flow stands still for a moment (a lost packet, a core that was taken away), all that was outstanding completes at
/// once afterwards: as much of the next block as that is seems to take no time. A block is [`WINDOWS`] such windows at least,
/// so that it reads a third too fast at most, and not many times the rate of the wire.
pub(super) fn window(count: u64, qps: u64, blocks: u64) -> (u64, u64) {
    let depth = (count / (blocks * WINDOWS)).clamp(LEAST_DEPTH, u64::from(DEPTH)) / qps;
    let depth = depth.max(1);
    (depth, (count / (WINDOWS * depth * qps)).clamp(1, blocks))
}

/// What is outstanding goes so often into a block.
const WINDOWS: u64 = 4;
/// Requests outstanding of a flow so slow that few fit its time: enough to hide the way to and fro.
const LEAST_DEPTH: u64 = 4;

/// Of a ping-pong by writes, so many messages share a completion: what the others leave in the queue is known to have
/// arrived by the answer.
const SIGNAL: u64 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_larger_than_what_is_outstanding() {
        assert_eq!(window(76_000, 1, 20), (128, 20));
        assert_eq!(window(76_000, 4, 20), (32, 20));
        // The clock of the warm-up stood still: few messages, and no block of one completion.
        assert_eq!(window(1300, 1, 20), (16, 20));
        assert_eq!(window(20, 1, 20), (4, 1));
        proptest::proptest!(|(count in 1u64..10_000_000, qps in 1u64..=MAX_QPS as u64, blocks in 1u64..=20)| {
            let (depth, blocks) = window(count, qps, blocks);
            proptest::prop_assert!(depth >= 1 && depth * qps <= u64::from(DEPTH).max(qps));
            proptest::prop_assert!(blocks == 1 || count / blocks >= WINDOWS * depth * qps);
        });
    }
}
