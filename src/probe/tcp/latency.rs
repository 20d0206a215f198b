//! Round trips between all nodes at once, small datagrams: what the leaves of a cluster are inferred from where nobody
//! says them. The smallest of several is kept, for noise only adds.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{Child, Step};
use crate::measure::{Facts, Latencies, Outcome};
use crate::plan::CheckPlan;
use crate::probe::tcp::Tcp;
use crate::probe::{ProbeError, io, step};
use crate::work::{Case, Fact};

pub(super) const CASE: Case = Case::Fact(Fact::Latencies);
/// Round trips with each other node.
const PINGS: u32 = 24;
/// A datagram that has not come back by then is lost.
const LOST: Duration = Duration::from_millis(5);
/// After so many lost ones a node is not asked further.
const GIVE_UP: u32 = 3;
/// What only the step's nodes know, and which one it is.
const BYTES: usize = 16;
type Mark = [u8; 8];

/// The step over all nodes; the caller sets its groups.
pub fn latency_step(plan: &CheckPlan) -> Step {
    let mut step = step(&Tcp, plan, vec![CASE], (), 500);
    step.name = "tcp-latencies".to_owned();
    step.exclusive = false;
    step
}

pub(super) fn run(child: &mut Child) -> Result<(), ProbeError> {
    let address = child.address;
    let bind = || UdpSocket::bind((address, 0));
    let (echo, ask) = (io(format!("cannot open a socket at {address}"), bind())?, io("cannot open a socket", bind())?);
    let own = io("cannot read a socket's address", echo.local_addr())?;
    let peers = child.exchange(&own)?.all(child)?;
    let (rank, limit) = (child.rank as usize, child.time_left() / 3);
    // Of the step's key, as it goes over the network in clear.
    let proof = child.key.prove(&[b"latencies"]);
    let mark: Mark = std::array::from_fn(|i| proof[i]);
    let over = AtomicBool::new(false);
    let row = thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&echo, mark, &over));
        let row = round_trips(&ask, &peers, rank, mark, limit);
        // Others may still ask: the answers go on until all have what they wanted.
        let all = row
            .map_err(|source| ProbeError::Io { what: "cannot ping".to_owned(), source })
            .and_then(|row| Ok(child.exchange(&row)?));
        over.store(true, Ordering::Relaxed);
        let _ = answering.join();
        all
    })?;
    if child.rank != 0 {
        return Ok(());
    }
    let ranks = child.ranks as usize;
    let rtt_us: Vec<Vec<Option<f64>>> = row.all(child)?;
    if rtt_us.iter().any(|r| r.len() != ranks) {
        return Err(ProbeError::Broken("a node published latencies of other nodes".to_owned()));
    }
    let facts = Facts::Latencies(Latencies { nodes: child.members.clone(), rtt_us });
    Ok(child.outcome(&CASE, Outcome::facts(facts))?)
}

/// Sends back what bears the step's mark, and nothing else.
fn answer(socket: &UdpSocket, mark: Mark, over: &AtomicBool) {
    let _ = socket.set_read_timeout(Some(Duration::from_millis(20)));
    let mut buffer = [0u8; BYTES + 1];
    while !over.load(Ordering::Relaxed) {
        if let Ok((BYTES, from)) = socket.recv_from(&mut buffer)
            && buffer[..8] == mark
        {
            let _ = socket.send_to(&buffer[..BYTES], from);
        }
    }
}

/// Microseconds to each peer, the smallest of several, rounded to the nanosecond.
fn round_trips(
    socket: &UdpSocket,
    peers: &[SocketAddr],
    rank: usize,
    mark: Mark,
    limit: Duration,
) -> std::io::Result<Vec<Option<f64>>> {
    socket.set_read_timeout(Some(LOST))?;
    let mut out = vec![None; peers.len()];
    let end = Instant::now() + limit;
    let mut datagram = [0u8; BYTES];
    datagram[..8].copy_from_slice(&mark);
    let mut number = 0u64;
    // Everybody begins with the next: nobody is asked by all at once.
    for peer in (1..peers.len()).map(|k| (rank + k) % peers.len()) {
        let address = peers[peer];
        let mut lost = 0;
        for _ in 0..PINGS {
            if lost >= GIVE_UP || Instant::now() > end {
                break;
            }
            number += 1;
            datagram[8..].copy_from_slice(&number.to_le_bytes());
            let start = Instant::now();
            if socket.send_to(&datagram, address).is_err() {
                lost += 1;
                continue;
            }
            let mut answer = [0u8; BYTES + 1];
            let came = loop {
                match socket.recv_from(&mut answer) {
                    Ok((BYTES, from)) if from == address && answer[..BYTES] == datagram => break true,
                    // A late one of before.
                    Ok(_) if start.elapsed() < LOST => {}
                    _ => break false,
                }
            };
            let us = (start.elapsed().as_secs_f64() * 1e9).round() / 1e3;
            if came {
                out[peer] = Some(out[peer].map_or(us, |best: f64| best.min(us)));
            } else {
                lost += 1;
            }
        }
    }
    Ok(out)
}
