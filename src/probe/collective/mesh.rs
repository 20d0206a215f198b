//! A mesh among ranks with one primitive: send to one rank while receiving from another. What carries the bytes is a
//! [`Wire`].

use std::time::Duration;

use crate::probe::ProbeError;

/// Elements received between two additions: small enough to be still in the cache then.
const INBOX: usize = 64 << 10;
/// Longest wait for a peer inside a collective.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Connections to the ranks that this one talks to. Between two ranks it is a stream of bytes, in order.
pub trait Wire {
    /// Sends `out` to rank `to` while filling `into` from rank `from`.
    fn exchange(&mut self, to: usize, out: &[u8], from: usize, into: &mut [u8]) -> Result<(), ProbeError>;
}

pub struct Mesh {
    pub rank: usize,
    pub ranks: usize,
    wire: Box<dyn Wire>,
    inbox: Vec<f32>,
    /// Where only some ranks work together: who they are on the wire, by their place among them.
    members: Option<Vec<u32>>,
}

impl Mesh {
    pub fn new(rank: u32, ranks: u32, wire: impl Wire + 'static) -> Self {
        Mesh {
            rank: rank as usize,
            ranks: ranks as usize,
            wire: Box::new(wire),
            inbox: vec![0.0; INBOX],
            members: None,
        }
    }

    /// Sends `out` to rank `to` while filling `into` from rank `from`.
    pub fn exchange(&mut self, to: usize, out: &[u8], from: usize, into: &mut [u8]) -> Result<(), ProbeError> {
        let on_wire = |rank: usize| self.members.as_ref().map_or(rank, |m| m[rank] as usize);
        let (to, from) = (on_wire(to), on_wire(from));
        self.wire.exchange(to, out, from, into)
    }

    /// Does `work` among some ranks, in this order; this rank is one of them. Each is called by its place among them meanwhile.
    pub fn among<T>(&mut self, members: &[u32], work: impl FnOnce(&mut Mesh) -> T) -> T {
        let of_all = (self.rank, self.ranks, self.members.take());
        self.rank = members.iter().position(|m| *m as usize == self.rank).unwrap_or(0);
        self.ranks = members.len();
        self.members = Some(members.to_vec());
        let out = work(self);
        (self.rank, self.ranks, self.members) = of_all;
        out
    }

    /// The buffer for what is to be added; kept between operations, whose time would else be that of fresh pages.
    pub fn take_inbox(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.inbox)
    }

    pub fn give_inbox(&mut self, inbox: Vec<f32>) {
        self.inbox = inbox;
    }

    /// All ranks have come here before any goes on: a dissemination barrier.
    pub fn barrier(&mut self) -> Result<(), ProbeError> {
        self.any(false).map(drop)
    }

    /// A barrier that tells each rank whether any of them said yes; what is heard twice on its way changes nothing.
    pub fn any(&mut self, mut yes: bool) -> Result<bool, ProbeError> {
        let mut distance = 1;
        while distance < self.ranks {
            let (to, from) = ((self.rank + distance) % self.ranks, (self.rank + self.ranks - distance) % self.ranks);
            let mut heard = [0u8];
            self.exchange(to, &[u8::from(yes)], from, &mut heard)?;
            yes |= heard != [0];
            distance *= 2;
        }
        Ok(yes)
    }
}
