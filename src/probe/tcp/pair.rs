//! `tcp` between two nodes: each direction alone, both at once, round trips; payload compared, and the bytes counted at
//! the interfaces held against those sent.
//!
//! The receiver measures: it counts what arrived in each of some twenty intervals. What lies in a sender's buffer was
//! never received and is not counted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Step};
use crate::id::NodeName;
use crate::measure::{
    Check, FailKind, Interfaces, LinkEnd, LinkState, Measured, Outcome, Segments, Transport, stats, waited_for_core,
};
use crate::plan::CheckPlan;
use crate::probe::tcp::{CHUNK, Tcp, connect, fill};
use crate::probe::{ProbeError, io, step};
use crate::sys::tcp;
use crate::work::{Case, CheckName, LinkCase, LinkTest, Metric, Name, Scope, Way};

const STREAMS: usize = 4;
/// Chunks of each stream that are compared.
const COMPARED: usize = 2;
/// Intervals in a measurement.
const INTERVALS: u32 = 20;
/// Round trips at most.
const PINGS: usize = 2000;

fn ping_case(rail: Option<&str>) -> Case {
    Case::Link(LinkCase { scope: Scope::Pair, test: LinkTest::Ping, over: rail.map(Name::from) })
}

/// The step that one round of pairs runs, over a rail or the usual interface; the caller sets its name and groups.
pub fn pair_step(plan: &CheckPlan, rail: Option<&str>) -> Step {
    let flows = Way::ALL.iter().map(|way| Case::Link(LinkCase::pair(*way, rail)));
    let cases = flows.chain([ping_case(rail)]).collect();
    let step = step(&Tcp, plan, cases, (), plan.tier.pick(900, 4000, 20_000));
    Step { rail: rail.map(str::to_owned), ..step }
}

/// Both ends' words after a case, by JSON in an exchange.
#[derive(Serialize, Deserialize, Default)]
struct RankReport {
    /// Bytes per second received in each interval.
    rates: Vec<f64>,
    received: u64,
    sent: u64,
    /// Everything sent was received before the time for it was over.
    whole: bool,
    wrong: u64,
    error: Option<String>,
    /// Its connections were open, and nothing arrived over them.
    stalled: bool,
    interface: Option<String>,
    mtu: Option<u32>,
    /// Bytes sent by each interface meanwhile.
    counted: Vec<(String, u64)>,
    /// Of what it sent itself.
    segments: Option<Segments>,
    /// Bytes that its interface sent and received meanwhile.
    moved: Option<(u64, u64)>,
    state: LinkState,
    /// Share of its time that its threads waited for a core.
    waited: Option<f64>,
}

impl RankReport {
    fn end(&self, node: &NodeName) -> Option<LinkEnd> {
        let (sent, received) = self.moved?;
        Some(LinkEnd { node: node.clone(), interface: self.interface.clone()?, sent, received, state: self.state })
    }
}

pub(super) fn run(child: &mut Child) -> Result<(), ProbeError> {
    child.on_rail()?;
    let budget = Duration::from_millis(child.step.estimate_ms).mul_f64(0.22);
    for (way, sends) in [(Way::Out, [true, false]), (Way::Back, [false, true]), (Way::Both, [true, true])] {
        let case = Case::Link(LinkCase::pair(way, child.step.rail.as_deref()));
        if child.wants(&case) && !flow(child, &case, (way, sends), budget)? {
            // Nothing else would come over it, either.
            return Ok(());
        }
    }
    let case = ping_case(child.step.rail.as_deref());
    if child.wants(&case) {
        ping(child, &case, budget / 2)?;
    }
    Ok(())
}

/// `sends[rank]` says who sends. With both, each direction has connections of its own. False when nothing arrives at all.
fn flow(child: &mut Child, case: &Case, (way, sends): (Way, [bool; 2]), budget: Duration) -> Result<bool, ProbeError> {
    let me = child.rank as usize;
    let flows = sends.iter().filter(|s| **s).count();
    // Who sends calls: a node that refuses calls, or cannot make any, is seen in each of its tests, whichever end of them it is.
    let caller = u32::from(way == Way::Back);
    let mut streams = connect(child, caller, STREAMS * flows, way as u64)?;
    let seed = child.step.seed;
    let before = Interfaces::read();
    let local = streams[0].local_addr().map(|a| a.ip()).ok();
    let (mine, theirs) = match sends {
        [true, true] => {
            let second = streams.split_off(STREAMS);
            if me == 0 { (streams, second) } else { (second, streams) }
        }
        _ if sends[me] => (streams, Vec::new()),
        _ => (Vec::new(), streams),
    };
    let mut reports = RankReport::default();
    thread::scope(|scope| {
        let sending = (!mine.is_empty()).then(|| scope.spawn(|| send(mine, seed, budget)));
        let receiving = (!theirs.is_empty()).then(|| scope.spawn(|| receive(theirs, seed, budget)));
        if let Some(Ok(flow)) = sending.map(thread::ScopedJoinHandle::join) {
            (reports.sent, reports.whole, reports.error) = (flow.bytes, flow.whole, flow.error);
            (reports.segments, reports.waited) = (flow.segments, flow.waited);
        }
        if let Some(Ok(arrived)) = receiving.map(thread::ScopedJoinHandle::join) {
            (reports.rates, reports.received, reports.wrong) = (arrived.rates, arrived.bytes, arrived.wrong);
            reports.error = reports.error.take().or(arrived.error);
            reports.stalled = arrived.bytes == 0 && reports.error.is_none();
            reports.waited = arrived.waited;
        }
    });
    let after = Interfaces::read();
    reports.counted = after.sent_since(&before);
    reports.interface = local.and_then(Interfaces::of);
    if let Some(interface) = &reports.interface {
        reports.moved = after.moved_since(&before, interface);
        reports.state = Interfaces::state(interface);
    }
    reports.mtu = reports.interface.as_deref().and_then(Interfaces::mtu);
    let reports = child.exchange(&reports)?.all(child)?;
    if let Some(to) = reports.iter().position(|t| t.stalled) {
        if child.rank == 0 {
            child.outcome(case, Outcome::error(FailKind::Stalled, stalled(child, case, &reports, to)))?;
        }
        return Ok(false);
    }
    if child.rank != 0 {
        return Ok(true);
    }
    if let Some(error) = reports.iter().find_map(|t| t.error.clone()) {
        return Err(ProbeError::Broken(format!("{case}: {error}")));
    }
    let measured = both_ends(child, sends, &reports);
    child.outcome(case, Outcome::Measured(measured))?;
    Ok(true)
}

/// What both ends say together: rates, what arrived, and what their kernels counted.
fn both_ends(child: &Child, sends: [bool; 2], reports: &[RankReport]) -> Measured {
    let flowing: Vec<(usize, usize)> = [(0, 1), (1, 0)].into_iter().filter(|(from, _)| sends[*from]).collect();
    // Both ways: interval by interval, as long as both flowed.
    let n = flowing.iter().map(|(_, to)| reports[*to].rates.len()).min().unwrap_or(0);
    let rates: Vec<f64> = (0..n).map(|i| flowing.iter().map(|(_, to)| reports[*to].rates[i]).sum()).collect();
    // With flows both ways an interface's counters cannot be told apart.
    let alone = flowing.len() == 1;
    let mut checks = Vec::new();
    let mut transport = Vec::new();
    for (from, to) in flowing {
        let (sender, receiver) = (&reports[from], &reports[to]);
        let whole = (sender.sent == receiver.received || !sender.whole) && receiver.wrong == 0;
        let detail = format!(
            "{} -> {}: {} of {} bytes arrived, {} of {} compared bytes differ",
            child.members[from],
            child.members[to],
            receiver.received,
            sender.sent,
            receiver.wrong,
            STREAMS * COMPARED * CHUNK
        );
        checks.push(Check::new(CheckName::Payload, whole, detail));
        let ends = sender.end(&child.members[from]).zip(receiver.end(&child.members[to])).map(<[LinkEnd; 2]>::from);
        transport.push(Transport {
            node: child.members[from].clone(),
            interface: sender.interface.clone(),
            bytes: sender.sent,
            counted: sender.counted.clone(),
            segments: sender.segments.filter(|_| alone),
            again: None,
            ends: ends.filter(|_| alone).map(Box::new),
            waited: sender.waited.zip(receiver.waited).filter(|_| alone).map(<[f64; 2]>::from),
        });
    }
    let series = vec![Metric::Bandwidth.series(rates, 1)];
    Measured { series, checks: checks.into(), transport: transport.into(), ..Measured::default() }
}

/// What is known of a direction in which nothing arrives.
fn stalled(child: &Child, case: &Case, reports: &[RankReport], to: usize) -> String {
    let end = |r: usize| {
        let interface = reports[r].interface.as_deref().unwrap_or("its interface");
        let mtu = reports[r].mtu.map_or(String::new(), |mtu| format!(" (MTU {mtu})"));
        format!("{} on {interface}{mtu}", child.name(r))
    };
    format!("{case}: connections open, and of what {} sends nothing arrives at {}", end(1 - to), end(to))
}

/// What is still under way this long after the time was over is given up.
const DRAIN: Duration = Duration::from_millis(1000);
/// A wait is looked at so often.
const LOOK: Duration = Duration::from_millis(100);

fn is_pause(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut | std::io::ErrorKind::Interrupted)
}

/// What was sent on all streams of a flow.
struct Flow {
    bytes: u64,
    /// All of it arrived.
    whole: bool,
    /// As far as the kernel counts them.
    segments: Option<Segments>,
    error: Option<String>,
    waited: Option<f64>,
}

/// How long the threads of an end waited for a core.
#[derive(Default)]
struct Waits(Mutex<Vec<(Duration, Duration)>>);

impl Waits {
    /// A thread that began with the flow has done its part.
    fn end_of_thread(&self, began: Instant) {
        if let (Some(waited), Ok(mut all)) = (waited_for_core(), self.0.lock()) {
            all.push((waited, began.elapsed()));
        }
    }

    /// Of all their time, the share that they waited.
    fn share(self) -> Option<f64> {
        let all = self.0.into_inner().unwrap_or_default();
        let (waited, time) =
            all.iter().fold((0.0, 0.0), |(w, t), (waited, time)| (w + waited.as_secs_f64(), t + time.as_secs_f64()));
        (time > 0.0).then(|| (waited / time).min(1.0))
    }
}

/// Sends on every stream for `budget`.
fn send(streams: Vec<TcpStream>, seed: u64, budget: Duration) -> Flow {
    let began = Instant::now();
    let end = began + budget;
    let waits = Waits::default();
    let one = |(i, mut s): (usize, TcpStream)| -> std::io::Result<(u64, bool, Option<tcp::Sent>)> {
        s.set_write_timeout(Some(LOOK))?;
        s.set_read_timeout(Some(LOOK))?;
        let mut chunk = vec![0u8; CHUNK];
        let mut sent = 0usize;
        loop {
            let (n, at) = (sent / CHUNK, sent % CHUNK);
            if at == 0 && n < COMPARED {
                fill(seed ^ i as u64, n, &mut chunk);
            }
            let now = Instant::now();
            if now >= end + DRAIN || (now >= end && at == 0 && n >= COMPARED) {
                break;
            }
            match s.write(&chunk[at..]) {
                Ok(k) => sent += k,
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(e),
            }
        }
        waits.end_of_thread(began);
        s.shutdown(std::net::Shutdown::Write)?;
        // The other end closes when it has read everything: until then the bytes are under way.
        let whole = loop {
            match s.read(&mut [0u8; 1]) {
                Ok(_) => break true,
                Err(e) if is_pause(&e) && Instant::now() < end + DRAIN => {}
                Err(e) if is_pause(&e) => break false,
                Err(e) => return Err(e),
            }
        };
        if !whole {
            // What a slow link still holds must not disturb the next case.
            let _ = rustix::net::sockopt::set_socket_linger(&s, Some(Duration::ZERO));
        }
        Ok((sent as u64, whole, tcp::sent(&s)))
    };
    let results: Vec<std::io::Result<(u64, bool, Option<tcp::Sent>)>> = thread::scope(|scope| {
        let handles: Vec<_> = streams.into_iter().enumerate().map(|s| scope.spawn(move || one(s))).collect();
        let panicked = || std::io::Error::other("a stream's thread panicked");
        handles.into_iter().map(|h| h.join().unwrap_or_else(|_| Err(panicked()))).collect()
    });
    let mut flow = Flow { bytes: 0, whole: true, segments: None, error: None, waited: waits.share() };
    for r in results {
        match r {
            Ok((bytes, whole, sent)) => {
                flow.bytes += bytes;
                flow.whole &= whole;
                if let Some(tcp::Sent { segments, again, needless, mss }) = sent {
                    let all = flow.segments.get_or_insert_default();
                    all.sent += segments;
                    all.again += again;
                    all.bytes_again += again * mss;
                    all.needless = needless.map(|n| n + all.needless.unwrap_or(0));
                }
            }
            Err(e) => flow.error = flow.error.or(Some(format!("sending: {e}"))),
        }
    }
    flow
}

/// What arrived on all streams of a flow.
struct Arrived {
    /// Bytes per second in each interval.
    rates: Vec<f64>,
    bytes: u64,
    /// Of the bytes that were compared.
    wrong: u64,
    error: Option<String>,
    waited: Option<f64>,
}

/// Receives until every stream ends.
fn receive(streams: Vec<TcpStream>, seed: u64, budget: Duration) -> Arrived {
    let start = Instant::now();
    let waits = Waits::default();
    let last = start + budget + DRAIN * 2;
    let count = AtomicU64::new(0);
    let (wrong, left) = (AtomicU64::new(0), AtomicU64::new(streams.len() as u64));
    let one = |(i, mut s): (usize, TcpStream)| -> std::io::Result<()> {
        s.set_read_timeout(Some(LOOK))?;
        let (mut buffer, mut want) = (vec![0u8; CHUNK], vec![0u8; CHUNK]);
        let mut got = 0usize;
        loop {
            let (n, at) = (got / CHUNK, got % CHUNK);
            let k = match s.read(&mut buffer[at..]) {
                Ok(0) => return Ok(()),
                Ok(k) => k,
                Err(e) if is_pause(&e) && Instant::now() < last => continue,
                // The sender gave up on what a slow link still held.
                Err(e) if is_pause(&e) || e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
                Err(e) => return Err(e),
            };
            if n < COMPARED {
                if at == 0 {
                    fill(seed ^ i as u64, n, &mut want);
                }
                let differ = buffer[at..at + k].iter().zip(&want[at..at + k]).filter(|(got, want)| got != want).count();
                wrong.fetch_add(differ as u64, Ordering::Relaxed);
            }
            got += k;
            count.fetch_add(k as u64, Ordering::Relaxed);
        }
    };
    let interval = budget / INTERVALS;
    let mut rates = Vec::new();
    let mut error = None;
    thread::scope(|scope| {
        let (count, left, one, waits) = (&count, &left, &one, &waits);
        let handles: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|s| {
                scope.spawn(move || {
                    let result = one(s);
                    waits.end_of_thread(start);
                    left.fetch_sub(1, Ordering::Relaxed);
                    result
                })
            })
            .collect();
        let (mut seen, mut at) = (0, Instant::now());
        while left.load(Ordering::Relaxed) > 0 {
            thread::sleep(interval);
            let (now, total) = (Instant::now(), count.load(Ordering::Relaxed));
            // An interval in which a stream ended is not whole.
            if left.load(Ordering::Relaxed) == handles.len() as u64 {
                rates.push((total - seen) as f64 / (now - at).as_secs_f64());
            }
            (seen, at) = (total, now);
        }
        for h in handles {
            if let Ok(Err(e)) = h.join() {
                error.get_or_insert(format!("receiving: {e}"));
            }
        }
    });
    // The first interval is the windows opening. A link so slow that nothing came in some interval is told by the mean.
    if rates.len() > 4 {
        rates.remove(0);
    }
    let total = count.load(Ordering::Relaxed);
    if rates.iter().any(|r| *r <= 0.0) || rates.is_empty() {
        rates = vec![total as f64 / start.elapsed().as_secs_f64(); 8];
    }
    Arrived { rates, bytes: total, wrong: wrong.load(Ordering::Relaxed), error, waited: waits.share() }
}

fn ping(child: &mut Child, case: &Case, budget: Duration) -> Result<(), ProbeError> {
    let mut stream = connect(child, 0, 1, 99)?.pop().ok_or_else(|| ProbeError::Broken("no connection".to_owned()))?;
    let mut byte = [0u8; 1];
    if child.rank == 1 {
        loop {
            match stream.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => io("cannot echo", stream.write_all(&byte))?,
                Err(e) => return io("cannot receive a ping", Err(e)),
            }
        }
        child.barrier()?;
        return Ok(());
    }
    let end = Instant::now() + budget;
    let mut times = Vec::new();
    while times.len() < 8 || (times.len() < PINGS && Instant::now() < end) {
        let start = Instant::now();
        io("cannot ping", stream.write_all(&[times.len() as u8]).and_then(|()| stream.read_exact(&mut byte)))?;
        times.push(start.elapsed().as_secs_f64());
        if byte[0] != (times.len() - 1) as u8 {
            return Err(ProbeError::Broken("an echo differs from what was sent".to_owned()));
        }
    }
    drop(stream);
    child.barrier()?;
    // The first round trips wake both ends.
    let times = &times[times.len() / 10..];
    let blocks: Vec<f64> = times.chunks(times.len().div_ceil(16)).map(stats::median).collect();
    let mut series = vec![Metric::RttP50.series(blocks, times.len().div_ceil(16) as u64)];
    if times.len() >= 299 {
        series.push(Metric::RttP99.series(stats::quantile(times, 0.99).into_iter().collect(), times.len() as u64));
    }
    Ok(child.outcome(case, Outcome::Measured(Measured { series, ..Measured::default() }))?)
}
