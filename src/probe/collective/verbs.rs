//! The wire over RDMA: a reliable connection to every rank that is talked to. Messages are sent from slots and arrive in slots;
//! how many were taken out goes back as a number that the receiver writes into the sender's memory. Nothing is
//! allocated and no system call made once it is connected.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cluster::Child;
use crate::probe::ProbeError;
use crate::probe::collective::mesh::{PATIENCE, Wire};
use crate::probe::rdma::Address;
use crate::sys::verbs::{self, Endpoint, Op, Rdma, Source, Wc};
use crate::topology::{SysRoot, boot_id};

/// Largest message; a larger piece goes as several.
const SLOT: usize = 64 << 10;
/// Messages under way to one rank, unread: together more than bandwidth times round trip of any link of 2026.
const WINDOW: u64 = 8;
/// Requests in the send queue of a connection: messages, and the numbers of those taken out.
const DEPTH: u32 = 64;
/// Every so many requests one has a completion.
const SIGNAL: u64 = 8;
/// Empty looks between two looks at the clock.
const LOOKS: u32 = 4096;

/// Where a connection's parts lie in its piece of the memory: slots to send from, slots to receive into, the number that
/// the peer writes, the number that this side writes from.
const RECEIVE: usize = WINDOW as usize * SLOT;
const TAKEN_THERE: usize = 2 * RECEIVE;
const TAKEN_HERE: usize = TAKEN_THERE + 64;
const STRIDE: usize = TAKEN_THERE + 4096;

/// What one rank tells all others: what its connections have in common, and the number of each queue pair with whom.
#[derive(Serialize, Deserialize)]
struct Published {
    common: Endpoint,
    /// `(rank, queue pair)`, in the order of the pieces of memory.
    qps: Vec<(usize, u32)>,
    shown: String,
    boot: String,
}

/// One connection. Messages are counted from 0; message k lies in slot k modulo [`WINDOW`].
struct Connection {
    peer: usize,
    sent: u64,
    arrived: u64,
    taken: u64,
    /// As the peer knows it.
    told: u64,
    /// Of the oldest message that is not taken, bytes that are.
    offset: usize,
    lengths: [u32; WINDOW as usize],
    /// Requests in the send queue so far, and how many of them are known to be done.
    posted: u64,
    done: u64,
    /// Where the peer's piece of memory for this connection begins.
    there: u64,
    rkey: u32,
}

pub struct Verbs {
    rdma: Rdma,
    /// The number of the connection with a rank.
    by_rank: Vec<Option<usize>>,
    connections: Vec<Connection>,
    /// Every rank has a core to look with.
    spin: bool,
    rank: usize,
    /// What to call each rank in an error.
    names: Vec<String>,
    device: String,
    port: u8,
}

impl Verbs {
    /// Connects this rank over `device` with those that it will talk to.
    pub fn connect(
        child: &mut Child,
        device: &str,
        address: &Address,
        with: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Self, ProbeError> {
        let (rank, ranks) = (child.rank as usize, child.ranks as usize);
        let peers: Vec<usize> = (0..ranks).filter(|p| *p != rank && with(rank, *p)).collect();
        let mut rdma = Rdma::open(device, Source::Host(STRIDE * peers.len()), peers.len(), DEPTH)?;
        let port = rdma.port(address.port)?;
        let (at, rkey) = rdma.remote();
        let common = Endpoint {
            qp: 0,
            psn: fastrand::u32(..) & 0xff_ffff,
            lid: port.lid,
            gid: rdma.gid(address.port, address.gid_index)?,
            mtu: port.mtu,
            address: at,
            rkey,
            reads: rdma.reads,
        };
        let published = Published {
            common,
            qps: peers.iter().enumerate().map(|(q, p)| (*p, rdma.number(q))).collect(),
            shown: address.shown.clone(),
            boot: boot_id(&SysRoot::live()).unwrap_or_default(),
        };
        let all = child.exchange(&published)?.all(child)?;
        let path = address.path(&port);
        let mut connections = Vec::with_capacity(peers.len());
        for (q, peer) in peers.iter().copied().enumerate() {
            let there = &all[peer];
            let who = format!("{} ({}; here {})", child.name(peer), crate::id::clean(&there.shown), address.shown);
            let (place, number) = there
                .qps
                .iter()
                .enumerate()
                .find(|(_, (r, number))| *r == rank && *number != 0)
                .map(|(place, (_, number))| (place, *number))
                .ok_or_else(|| ProbeError::Broken(format!("{who} published no queue pair for this rank")))?;
            let end = Endpoint { qp: number, ..there.common };
            let connected = rdma.connect(q, common.psn, &end, &path, port.mtu);
            connected.map_err(|e| ProbeError::Broken(format!("to {who}: {e}")))?;
            for slot in 0..WINDOW as usize {
                rdma.post_receive(q, q * STRIDE + RECEIVE + slot * SLOT, SLOT as u32, q as u64)?;
            }
            connections.push(Connection {
                peer,
                sent: 0,
                arrived: 0,
                taken: 0,
                told: 0,
                offset: 0,
                lengths: [0; WINDOW as usize],
                posted: 0,
                done: 0,
                there: there.common.address.wrapping_add((place * STRIDE) as u64),
                rkey: there.common.rkey,
            });
        }
        let mut by_rank = vec![None; ranks];
        peers.iter().enumerate().for_each(|(q, p)| by_rank[*p] = Some(q));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = all.iter().filter(|p| p.boot == published.boot).count() <= cores;
        let names = (0..ranks).map(|r| child.name(r)).collect();
        // Nobody sends before all can receive.
        child.barrier()?;
        Ok(Verbs { rdma, by_rank, connections, spin, rank, names, device: device.to_owned(), port: address.port })
    }

    fn connection(&self, peer: usize) -> Result<usize, ProbeError> {
        let found = self.by_rank.get(peer).copied().flatten();
        found.ok_or_else(|| ProbeError::Broken(format!("no connection to {}", self.names[peer])))
    }

    /// How many messages the peer has taken out, as it wrote it here.
    fn taken_there(&self, q: usize) -> u64 {
        self.rdma.peek_u64(q * STRIDE + TAKEN_THERE)
    }

    /// Posts a request; false while the queue is full.
    fn post(&mut self, q: usize, op: Op, from: usize, bytes: usize, to: u64) -> Result<bool, ProbeError> {
        let c = &self.connections[q];
        if c.posted - c.done >= u64::from(DEPTH) {
            return Ok(false);
        }
        let (number, there, rkey) = (c.posted + 1, c.there.wrapping_add(to), c.rkey);
        let id = number.is_multiple_of(SIGNAL).then_some((q as u64) << 48 | number);
        let posted = self.rdma.post(q, op, (q * STRIDE + from, bytes as u32), (there, rkey), id)?;
        if posted {
            self.connections[q].posted = number;
        }
        Ok(posted)
    }

    /// Sends the next message from `out` if there is room; how many bytes went.
    fn send(&mut self, q: usize, out: &[u8]) -> Result<usize, ProbeError> {
        let sent = self.connections[q].sent;
        if sent.wrapping_sub(self.taken_there(q)) >= WINDOW {
            return Ok(0);
        }
        let (n, at) = (out.len().min(SLOT), (sent % WINDOW) as usize * SLOT);
        self.rdma.memory()[q * STRIDE + at..][..n].copy_from_slice(&out[..n]);
        if !self.post(q, Op::Send, at, n, 0)? {
            return Ok(0);
        }
        self.connections[q].sent += 1;
        Ok(n)
    }

    /// Takes what has arrived, at most one message; how many bytes came.
    fn take(&mut self, q: usize, into: &mut [u8]) -> Result<usize, ProbeError> {
        let c = &self.connections[q];
        if c.taken == c.arrived {
            return Ok(0);
        }
        let slot = (c.taken % WINDOW) as usize;
        let (length, offset) = (c.lengths[slot] as usize, c.offset);
        let at = q * STRIDE + RECEIVE + slot * SLOT;
        let n = into.len().min(length - offset);
        into[..n].copy_from_slice(&self.rdma.memory()[at + offset..][..n]);
        if offset + n < length {
            self.connections[q].offset += n;
            return Ok(n);
        }
        // Its queue has room for several times the window.
        self.rdma.post_receive(q, at, SLOT as u32, q as u64)?;
        let c = &mut self.connections[q];
        (c.offset, c.taken) = (0, c.taken + 1);
        // The sender has room for half a window more when it hears of the first half.
        if c.taken - c.told >= WINDOW / 2 {
            self.tell(q)?;
        }
        Ok(n)
    }

    /// Tells the peer how many of its messages were taken out.
    fn tell(&mut self, q: usize) -> Result<(), ProbeError> {
        let taken = self.connections[q].taken;
        self.rdma.memory()[q * STRIDE + TAKEN_HERE..][..8].copy_from_slice(&taken.to_ne_bytes());
        let mut wait = Wait::default();
        while !self.post(q, Op::Write, TAKEN_HERE, 8, TAKEN_THERE as u64)? {
            if !self.poll()? && wait.is_over(self.spin) {
                return Err(self.late("send to", self.connections[q].peer));
            }
        }
        self.connections[q].told = taken;
        Ok(())
    }

    fn late(&self, what: &str, peer: usize) -> ProbeError {
        let (me, peer, device, port) = (&self.names[self.rank], &self.names[peer], &self.device, self.port);
        ProbeError::Broken(format!("{me} waited {} s to {what} {peer} over {device} port {port}", PATIENCE.as_secs()))
    }

    /// Takes completions; whether there were any.
    fn poll(&mut self) -> Result<bool, ProbeError> {
        let mut wcs = [Wc::default(); 16];
        let n = self.rdma.poll(&mut wcs)?;
        for wc in &wcs[..n] {
            if wc.status != 0 {
                let peer = (0..self.connections.len()).find(|q| self.rdma.number(*q) == wc.qp_num);
                let peer = peer.map_or("a peer", |q| &self.names[self.connections[q].peer]);
                let why = verbs::explain(wc.status, wc.vendor_err);
                return Err(ProbeError::Broken(format!("{} to {peer}: {why}", self.names[self.rank])));
            }
            if verbs::is_receive(wc) {
                let c = &mut self.connections[wc.wr_id as usize];
                c.lengths[(c.arrived % WINDOW) as usize] = wc.byte_len.min(SLOT as u32);
                c.arrived += 1;
            } else {
                let c = &mut self.connections[(wc.wr_id >> 48) as usize];
                c.done = wc.wr_id & 0xffff_ffff_ffff;
            }
        }
        Ok(n > 0)
    }
}

/// Looks in vain, and since when.
#[derive(Default)]
struct Wait {
    looks: u32,
    since: Option<Instant>,
}

impl Wait {
    /// One more; true when it is enough.
    fn is_over(&mut self, spin: bool) -> bool {
        self.looks = self.looks.wrapping_add(1);
        if !spin {
            std::thread::yield_now();
        }
        self.looks.is_multiple_of(LOOKS) && self.since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
    }
}

impl Wire for Verbs {
    fn exchange(&mut self, to: usize, out: &[u8], from: usize, into: &mut [u8]) -> Result<(), ProbeError> {
        let (mut sent, mut got, mut wait) = (0, 0, Wait::default());
        // A side with nothing to do needs no connection.
        let (target, source) = (
            if out.is_empty() { 0 } else { self.connection(to)? },
            if into.is_empty() { 0 } else { self.connection(from)? },
        );
        while sent < out.len() || got < into.len() {
            let went = if sent < out.len() { self.send(target, &out[sent..])? } else { 0 };
            let came = if got < into.len() { self.take(source, &mut into[got..])? } else { 0 };
            (sent, got) = (sent + went, got + came);
            if went + came > 0 || self.poll()? {
                wait = Wait::default();
            } else if wait.is_over(self.spin) {
                return Err(if got < into.len() { self.late("receive from", from) } else { self.late("send to", to) });
            }
        }
        Ok(())
    }
}
