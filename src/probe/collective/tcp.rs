//! The wire over TCP: non-blocking connections. Waits spin where every rank has a core of its own and sleep in `poll` where
//! not; every wait has a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cluster::Child;
use crate::probe::collective::mesh::{PATIENCE, Wire};
use crate::probe::peer::{Call, Door, call};
use crate::probe::{ProbeError, io};
use crate::topology::{SysRoot, boot_id};

/// Bytes in one read or write.
const PIECE: usize = 256 << 10;
/// Empty looks before a wait sleeps: about a hundred microseconds, ten times what a small exchange takes. Longer would
/// burn a core that the peer needs as soon as anybody else is on the machine.
const SPINS: u32 = 300;
/// The same where ranks share cores: each look gives the core away first.
const YIELDS: u32 = 100;

pub struct Tcp {
    rank: usize,
    /// By rank; `None` at this rank's own place.
    links: Vec<Option<TcpStream>>,
    spin: bool,
    /// What to call each rank in an error.
    names: Vec<String>,
}

impl Tcp {
    /// Connects this rank with those that it will talk to: each listens, publishes its address, and calls those below
    /// it, while those above it call here.
    pub fn connect(child: &mut Child, cores: usize, with: &dyn Fn(usize, usize) -> bool) -> Result<Self, ProbeError> {
        let (rank, ranks) = (child.rank as usize, child.ranks as usize);
        let limit = child.time_left().min(Duration::from_secs(5));
        let deadline = Instant::now() + limit;
        let door = Door::open(child)?;
        let boot = boot_id(&SysRoot::live()).unwrap_or_default();
        let published = child.exchange(&(door.address, boot))?.all(child)?;
        let (addresses, boots): (Vec<SocketAddr>, Vec<String>) = published.into_iter().unzip();
        let mut links: Vec<Option<TcpStream>> = (0..ranks).map(|_| None).collect();
        let from = |peer: usize, to: usize| Call { from: peer as u32, to: to as u32, number: 0 };
        // Those that will call here: while this rank calls those below it, who has no answer yet waits.
        let above: Vec<usize> = (rank + 1..ranks).filter(|p| with(rank, *p)).collect();
        let expected: Vec<Call> = above.iter().map(|p| from(*p, rank)).collect();
        let accepted = thread::scope(|scope| {
            let accepting = scope.spawn(|| door.accept(&expected, deadline));
            let called = (0..rank).filter(|peer| with(rank, *peer)).try_for_each(|peer| {
                let who = child.name(peer);
                let address = addresses[peer];
                let stream = call(child, &address, from(rank, peer), limit);
                links[peer] = Some(io(format!("cannot connect to {who} at {address}"), stream)?);
                Ok::<(), ProbeError>(())
            });
            let accepted = accepting.join().map_err(|_| ProbeError::Broken("a thread panicked".to_owned()));
            called.and(accepted)
        })?;
        let accepted = accepted.map_err(|(missing, source)| {
            let what = format!("{} did not call {}", child.name(missing.from as usize), child.name(rank));
            ProbeError::Io { what, source }
        })?;
        for (peer, stream) in above.into_iter().zip(accepted) {
            links[peer] = Some(stream);
        }
        for stream in links.iter().flatten() {
            io("cannot prepare a connection", stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)))?;
        }
        // Ranks under one kernel share its cores: who spins takes the core that the others need.
        let spin = boots.iter().filter(|b| **b == boots[rank]).count() <= cores;
        let names = (0..ranks).map(|r| child.name(r)).collect();
        Ok(Tcp { rank, links, spin, names })
    }

    fn link(&mut self, peer: usize) -> Result<&mut TcpStream, ProbeError> {
        self.links
            .get_mut(peer)
            .and_then(Option::as_mut)
            .ok_or_else(|| ProbeError::Broken(format!("no link to rank {peer}")))
    }

    /// Sleeps until one of the two can go on, at most a tenth of a second.
    fn sleep(&self, to: Option<usize>, from: Option<usize>) -> Result<(), ProbeError> {
        let wait = |peer: Option<usize>, flags| Some(PollFd::new(self.links.get(peer?)?.as_ref()?, flags));
        let mut fds: Vec<PollFd<'_>> =
            [wait(to, PollFlags::OUT), wait(from, PollFlags::IN)].into_iter().flatten().collect();
        let limit = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => io("cannot wait for a connection", Err(e.into())),
        }
    }
}

impl Wire for Tcp {
    fn exchange(&mut self, to: usize, out: &[u8], from: usize, into: &mut [u8]) -> Result<(), ProbeError> {
        let (mut sent, mut got) = (0, 0);
        let mut idle = 0u32;
        let mut since = None;
        while sent < out.len() || got < into.len() {
            let mut moved = false;
            if sent < out.len() {
                let end = out.len().min(sent + PIECE);
                match self.link(to)?.write(&out[sent..end]) {
                    Ok(n) => (sent, moved) = (sent + n, n > 0),
                    Err(e) if is_pause(&e) => {}
                    Err(e) => {
                        return io(format!("{} cannot send to {}", self.names[self.rank], self.names[to]), Err(e));
                    }
                }
            }
            if got < into.len() {
                let end = into.len().min(got + PIECE);
                match self.link(from)?.read(&mut into[got..end]) {
                    Ok(0) => {
                        return Err(ProbeError::Broken(format!(
                            "{} closed its connection to {}",
                            self.names[from], self.names[self.rank]
                        )));
                    }
                    Ok(n) => {
                        (got, moved) = (got + n, true);
                    }
                    Err(e) if is_pause(&e) => {}
                    Err(e) => {
                        return io(
                            format!("{} cannot receive from {}", self.names[self.rank], self.names[from]),
                            Err(e),
                        );
                    }
                }
            }
            if moved {
                (idle, since) = (0, None);
                continue;
            }
            idle += 1;
            if self.spin && idle < SPINS {
                std::hint::spin_loop();
                continue;
            }
            if !self.spin && idle < YIELDS {
                // The peer that is waited for gets the core at once; to sleep and be woken costs more.
                thread::yield_now();
                continue;
            }
            let since = *since.get_or_insert_with(Instant::now);
            if since.elapsed() > PATIENCE {
                let (what, peer) = if got < into.len() { ("receive from", from) } else { ("send to", to) };
                return Err(ProbeError::Broken(format!(
                    "{} waited {} s to {what} {}",
                    self.names[self.rank],
                    PATIENCE.as_secs(),
                    self.names[peer]
                )));
            }
            self.sleep((sent < out.len()).then_some(to), (got < into.len()).then_some(from))?;
        }
        Ok(())
    }
}

fn is_pause(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
