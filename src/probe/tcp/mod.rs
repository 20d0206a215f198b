//! `tcp`: over loopback between two processes, the yardstick of everything that goes through the host's network stack;
//! between two nodes ([`pair`]), and round trips between all ([`latency`]).

mod connect;
mod latency;
mod pair;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Step};
use crate::id::ProbeName;
use crate::measure::{Check, Measured, Outcome, Sampler, stats};
use crate::plan::CheckPlan;
use crate::probe::{Priority, Probe, ProbeError, io, step};
use crate::topology::Machine;
use crate::unit::Bytes;
use crate::work::{Case, CheckName, Declared, Metric};

use connect::connect;

pub use latency::latency_step;
pub use pair::pair_step;

pub struct Tcp;

const STREAMS: [usize; 2] = [1, 4];
const PINGS: [usize; 2] = [1, 4096];
/// Round trips in a block: what a 99th percentile needs at 95 % confidence is 299.
const PINGS_PER_BLOCK: usize = 320;
/// Bytes in a write: what iperf3 writes, too.
const CHUNK: usize = 128 << 10;
/// Bytes whose every one is compared, untimed.
const VERIFIED: usize = 16 << 20;

#[derive(Serialize, Deserialize)]
struct Args {
    copy_ceiling: f64,
}

fn bandwidth_case(streams: usize) -> Case {
    Case::Streams(streams as u32)
}

fn ping_case(bytes: usize) -> Case {
    Case::Ping(Bytes(bytes as u64))
}

impl Probe for Tcp {
    fn name(&self) -> ProbeName {
        ProbeName::new("tcp")
    }

    fn about(&self) -> &'static str {
        "TCP over loopback between two processes: bandwidth with 1 and 4 streams, round trips; payload compared"
    }

    fn needs(&self) -> &'static str {
        "a loopback interface"
    }

    fn metrics(&self) -> &'static [Declared] {
        const METRICS: &[Declared] = &[
            Metric::Bandwidth.of("payload bytes per second, one direction"),
            Metric::RttP50.of("median full round trip of a blocking ping-pong"),
            Metric::RttP99.of("99th percentile of the full round trip"),
        ];
        METRICS
    }

    fn priority(&self, _on_gpus: bool) -> Priority {
        Priority::new(4, 8).beside_gpus([1, 3, 1])
    }

    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        let cases = STREAMS.map(bandwidth_case).into_iter().chain(PINGS.map(ping_case)).collect();
        let args = Args { copy_ceiling: machine.copy_ceiling(machine.usable_cores()) };
        let mut step = step(self, plan, cases, args, plan.tier.pick(2200, 10_000, 40_000));
        step.ranks = 2;
        vec![step]
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        if child.wants(&latency::CASE) {
            return latency::run(child);
        }
        if !child.members.is_empty() {
            return pair::run(child);
        }
        let args: Args = child.args()?;
        for streams in STREAMS {
            if child.wants(&bandwidth_case(streams)) {
                bandwidth(child, streams, &args)?;
            }
        }
        for bytes in PINGS {
            if child.wants(&ping_case(bytes)) {
                ping(child, bytes)?;
            }
        }
        Ok(())
    }
}

/// Chunk `i` of what a stream carries to be compared: different at every place and in every stream.
fn fill(seed: u64, i: usize, buffer: &mut [u8]) {
    fastrand::Rng::with_seed(seed.rotate_left(32) ^ i as u64).fill(buffer);
}

fn compared_chunks(streams: usize) -> usize {
    VERIFIED / CHUNK / streams
}

fn bandwidth(child: &mut Child, streams: usize, args: &Args) -> Result<(), ProbeError> {
    let connections = connect(child, 0, streams, 0)?;
    let budget = child.share(child.step.cases.len());
    let seed = child.step.seed;
    // A thread a stream, and what each returned; a panic of one is an error of the case.
    let panicked = || ProbeError::Broken("a stream's thread panicked".to_owned());
    if child.rank == 1 {
        let wrong = thread::scope(|scope| {
            let run = |(i, s)| scope.spawn(move || sink(s, seed ^ i as u64, streams));
            let handles: Vec<_> = connections.into_iter().enumerate().map(run).collect();
            handles.into_iter().map(|h| h.join().map_err(|_| panicked())?).sum::<Result<usize, ProbeError>>()
        })?;
        child.exchange(&Some(wrong))?;
        return Ok(());
    }
    let pace = Pace { gate: Barrier::new(streams), chunks: AtomicUsize::new(64), sampler: Sampler::new(budget) };
    let blocks = thread::scope(|scope| {
        let pace = &pace;
        let run = |(i, s)| scope.spawn(move || source(s, seed ^ i as u64, i == 0, streams, pace));
        let handles: Vec<_> = connections.into_iter().enumerate().map(run).collect();
        handles.into_iter().map(|h| h.join().map_err(|_| panicked())?).collect::<Result<Vec<_>, ProbeError>>()
    })?;
    let rates = blocks[0].iter().map(|(t, chunks)| (chunks * CHUNK * streams) as f64 / t).collect();
    let wrong = child.exchange(&None::<usize>)?.of(child, 1)?;
    let wrong = wrong.ok_or_else(|| ProbeError::Broken("the receiver published no comparison".to_owned()))?;
    let series = Metric::Bandwidth
        .series(rates, 1)
        .bounded(args.copy_ceiling, "every byte is copied by a core, one cache line per cycle");
    let checks = vec![Check::new(
        CheckName::Payload,
        wrong == 0,
        format!("{wrong} of {} compared bytes differ", compared_chunks(streams) * streams * CHUNK),
    )];
    let measured = Measured { series: vec![series], checks: checks.into(), ..Measured::default() };
    Ok(child.outcome(&bandwidth_case(streams), Outcome::Measured(measured))?)
}

/// What the senders of one case share: they run in step, the first of them keeps the time.
struct Pace {
    gate: Barrier,
    /// Chunks in the next block of each stream; 0 ends it.
    chunks: AtomicUsize,
    sampler: Sampler,
}

/// Sends: first what is compared, then blocks of chunks, each announced by its number of chunks. Returns seconds and
/// chunks of every block. The first block fills the buffers between the two ends and is not counted; from then on a
/// block is written as fast as one is received, and nothing waits for the pipe to run dry.
fn source(
    mut s: TcpStream,
    seed: u64,
    first: bool,
    streams: usize,
    pace: &Pace,
) -> Result<Vec<(f64, usize)>, ProbeError> {
    let mut chunk = vec![0u8; CHUNK];
    let mut compared = || {
        for i in 0..compared_chunks(streams) {
            fill(seed, i, &mut chunk);
            s.write_all(&chunk)?;
        }
        Ok(())
    };
    let mut state = compared();
    let mut sent = 0;
    let mut block = |chunks: usize| {
        s.write_all(&(chunks as u64).to_le_bytes())?;
        for _ in 0..chunks {
            s.write_all(&chunk)?;
        }
        sent += chunks * CHUNK;
        if chunks == 0 {
            // All of it must have arrived: what lies in a socket's buffer was never received.
            let mut arrived = [0u8; 8];
            s.read_exact(&mut arrived)?;
            let arrived = u64::from_le_bytes(arrived);
            if arrived != sent as u64 {
                return Err(std::io::Error::other(format!("{arrived} of {sent} bytes arrived")));
            }
        }
        Ok(())
    };
    let mut out: Vec<(f64, usize)> = Vec::new();
    let mut started = None;
    loop {
        pace.gate.wait();
        let chunks = pace.chunks.load(Ordering::Relaxed);
        let start = Instant::now();
        // A broken stream stays at the gate with the others: they would wait for it.
        state = state.and_then(|()| block(chunks));
        if chunks == 0 {
            return io("cannot send over loopback", state.map(|()| out));
        }
        pace.gate.wait();
        if first {
            let seconds = start.elapsed().as_secs_f64();
            let next = match started {
                // The first block warms up; those after it last about a fortieth of the budget.
                None => (chunks as f64 * pace.sampler.budget.as_secs_f64() / 40.0 / seconds) as usize,
                Some(_) => {
                    out.push((seconds, chunks));
                    chunks
                }
            };
            let since = *started.get_or_insert_with(Instant::now);
            let times: Vec<f64> = out.iter().map(|(t, _)| *t).collect();
            let stop = state.is_err() || pace.sampler.enough(&times, since);
            pace.chunks.store(if stop { 0 } else { next.clamp(16, 1 << 16) }, Ordering::Relaxed);
        }
    }
}

/// Receives; returns how many of the compared bytes were wrong.
fn sink(mut s: TcpStream, seed: u64, streams: usize) -> Result<usize, ProbeError> {
    let (mut buffer, mut want) = (vec![0u8; CHUNK], vec![0u8; CHUNK]);
    let mut serve = || -> std::io::Result<usize> {
        let mut wrong = 0;
        for i in 0..compared_chunks(streams) {
            fill(seed, i, &mut want);
            s.read_exact(&mut buffer)?;
            wrong += buffer.iter().zip(&want).filter(|(got, want)| got != want).count();
        }
        let mut header = [0u8; 8];
        let mut arrived = 0u64;
        loop {
            s.read_exact(&mut header)?;
            let mut left = u64::from_le_bytes(header) as usize * CHUNK;
            arrived += left as u64;
            if left == 0 {
                s.write_all(&arrived.to_le_bytes())?;
                return Ok(wrong);
            }
            while left > 0 {
                match s.read(&mut buffer[..left.min(CHUNK)])? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    n => left -= n,
                }
            }
        }
    };
    io("cannot receive over loopback", serve())
}

fn ping(child: &mut Child, bytes: usize) -> Result<(), ProbeError> {
    let mut connection =
        connect(child, 0, 1, 0)?.pop().ok_or_else(|| ProbeError::Broken("no connection".to_owned()))?;
    let budget = child.share(child.step.cases.len());
    let mut buffer = vec![0u8; bytes];
    if child.rank == 1 {
        // Echo until the other side closes.
        loop {
            match connection.read_exact(&mut buffer) {
                Ok(()) => io("cannot echo over loopback", connection.write_all(&buffer))?,
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(e) => return io("cannot receive a ping over loopback", Err(e)),
            }
        }
        child.barrier()?;
        return Ok(());
    }
    let mut sent = vec![0u8; bytes];
    fill(child.seed(), 0, &mut sent);
    let mut wrong = 0usize;
    let mut block = |c: &mut TcpStream| -> std::io::Result<Vec<f64>> {
        (0..PINGS_PER_BLOCK)
            .map(|_| {
                sent[0] = sent[0].wrapping_add(1);
                let start = Instant::now();
                c.write_all(&sent)?;
                c.read_exact(&mut buffer)?;
                let seconds = start.elapsed().as_secs_f64();
                wrong += usize::from(buffer != sent);
                Ok(seconds)
            })
            .collect()
    };
    io("cannot ping over loopback", block(&mut connection))?;
    let sampler = Sampler::new(budget);
    let started = Instant::now();
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    while !sampler.enough(&p50, started) {
        let times = io("cannot ping over loopback", block(&mut connection))?;
        p50.push(stats::median(&times));
        p99.extend(stats::quantile(&times, 0.99));
    }
    drop(connection);
    child.barrier()?;
    let floor = 100e-9;
    let why = "two system calls and two transfers of a cache line between cores";
    let block = PINGS_PER_BLOCK as u64;
    let series = vec![
        Metric::RttP50.series(p50, block).bounded(floor, why),
        Metric::RttP99.series(p99, block).bounded(floor, why),
    ];
    let checks = vec![Check::new(CheckName::Payload, wrong == 0, format!("{wrong} echoes differ from what was sent"))];
    Ok(child.outcome(
        &ping_case(bytes),
        Outcome::Measured(Measured { series, checks: checks.into(), ..Measured::default() }),
    )?)
}
