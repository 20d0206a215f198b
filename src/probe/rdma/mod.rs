//! `rdma`: reliable connections over verbs, bandwidth and latency of write, read and send; payload compared, error counters
//! of both ports read before and after.
//!
//! Over one device of a node (loopback: PCIe and the adapter, no cable), and between two nodes, device by device.
//! `address` picks port and GID, `engine` holds the timed loops.

mod address;
mod engine;
mod gpu;
mod memory;
mod rails;
mod seen;

pub(super) use address::{Address, choose};
pub use gpu::gpu_pair_step;
pub use rails::rails_step;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Step};
use crate::id::{ProbeName, clean};
use crate::measure::{Carried, Check, Counters, Measured, Outcome, Series, WaiveKind, stats};
use crate::plan::{CheckPlan, Tier};
use crate::probe::{Priority, Probe, ProbeError, affinity, step};
use crate::sys::verbs::{self, Endpoint, Op, Port, Rdma, Source};
use crate::topology::{Connectionless, Machine, SysRoot};
use crate::unit::Bytes;
use crate::work::{Case, CheckName, Declared, Fact, LinkCase, LinkTest, Memory, Metric, RdmaOp, Scope, Way};

use engine::{End, MAX_QPS, window};
use memory::GpuMemory;
use seen::{Flowed, Seen, finish, seen};

pub struct RdmaProbe;

/// How a case is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Test {
    Bandwidth { op: Op, bytes: u32, qps: usize, way: Way },
    Latency { op: Op, bytes: u32 },
}

/// Which rank asks for the transfer.
fn starts(way: Way, rank: u32) -> bool {
    matches!((way, rank), (Way::Both, _) | (Way::Out, 0) | (Way::Back, 1))
}

fn verbs_op(op: RdmaOp) -> Op {
    match op {
        RdmaOp::Write => Op::Write,
        RdmaOp::Read => Op::Read,
        RdmaOp::Send => Op::Send,
    }
}

#[derive(Serialize, Deserialize)]
struct Args {
    device: String,
}

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;
/// The message of a flow that says nothing else.
const FLOW: u32 = 64 * KIB;
/// Requests outstanding over all queue pairs of a test: perftest's default.
const DEPTH: u32 = 128;

fn case(scope: Scope, device: &str, test: LinkTest) -> Case {
    Case::Link(LinkCase { scope, test, over: Some(device.into()) })
}

fn bandwidth_test(op: RdmaOp, bytes: u32, queue_pairs: u32) -> LinkTest {
    LinkTest::Verbs { op, bytes: Bytes(u64::from(bytes)), queue_pairs, memory: Memory::Host }
}

fn latency_test(op: RdmaOp, bytes: u32) -> LinkTest {
    LinkTest::VerbsLatency { op, bytes: Bytes(u64::from(bytes)) }
}

/// What is measured between two nodes. The first two, each way, are what the localiser reads.
fn pair_tests(tier: Tier, device: &str) -> Vec<Case> {
    let mut tests: Vec<LinkTest> =
        Way::ALL.iter().map(|way| LinkTest::Flow { way: *way, memory: Memory::Host }).collect();
    tests.extend([RdmaOp::Read, RdmaOp::Send].map(|op| bandwidth_test(op, FLOW, 1)));
    tests.extend(RdmaOp::ALL.iter().map(|op| latency_test(*op, 2)));
    if !tier.is_short() {
        tests.push(bandwidth_test(RdmaOp::Write, FLOW, 4));
        let sizes: &[u32] =
            tier.pick(&[], &[2, 4 * KIB, MIB, 8 * MIB], &[2, 64, 512, 4 * KIB, 32 * KIB, 256 * KIB, MIB, 8 * MIB]);
        for op in RdmaOp::ALL {
            tests.extend(sizes.iter().map(|bytes| bandwidth_test(*op, *bytes, 1)));
            tests.push(latency_test(*op, 4 * KIB));
        }
    }
    tests.into_iter().map(|test| case(Scope::Pair, device, test)).collect()
}

/// What is measured over one device alone.
fn loopback_tests(device: &str) -> Vec<Case> {
    let one = |op: &RdmaOp| [bandwidth_test(*op, FLOW, 1), latency_test(*op, 2)];
    RdmaOp::ALL.iter().flat_map(one).map(|test| case(Scope::Loopback, device, test)).collect()
}

impl Test {
    /// How a case of one device is measured; `None` for one that is measured elsewhere.
    fn of(case: &Case) -> Option<Test> {
        let Case::Link(link) = case else { return None };
        Some(match link.test {
            LinkTest::Flow { way, .. } => Test::Bandwidth { op: Op::Write, bytes: FLOW, qps: 1, way },
            LinkTest::Verbs { op, bytes, queue_pairs, .. } => {
                let (op, bytes) = (verbs_op(op), u32::try_from(bytes.0).ok()?);
                Test::Bandwidth { op, bytes, qps: queue_pairs as usize, way: Way::Out }
            }
            LinkTest::VerbsLatency { op, bytes } => {
                Test::Latency { op: verbs_op(op), bytes: u32::try_from(bytes.0).ok()? }
            }
            LinkTest::Ping => return None,
        })
    }
}

/// The step that one round of pairs runs over a device; the caller sets its name and groups.
pub fn pair_step(plan: &CheckPlan, device: &str) -> Step {
    let tests = pair_tests(plan.tier, device);
    let each = plan.tier.pick(180, 700, 2500);
    of_tests(plan, device, tests, each)
}

fn of_tests(plan: &CheckPlan, device: &str, cases: Vec<Case>, each: u64) -> Step {
    let estimate = each * cases.len() as u64 + 200;
    let step = step(&RdmaProbe, plan, cases, Args { device: device.to_owned() }, estimate);
    Step { rail: Some(device.to_owned()), name: format!("rdma-{device}"), ..step }
}

/// Kept of the step's time for saying what went wrong.
const SPARE: Duration = Duration::from_secs(2);

/// The case that says why nothing is measured.
const DEVICE: Case = Case::Fact(Fact::Device);

/// Why adapters that are up are left out: these tests are made of reliable connections, which theirs do not have.
fn without_connections(machine: &Machine) -> Option<String> {
    let mut by_kind: BTreeMap<Connectionless, Vec<&str>> = BTreeMap::new();
    for (name, kind) in machine.connectionless() {
        by_kind.entry(kind).or_default().push(name);
    }
    let told = by_kind.into_iter().map(|(kind, names)| {
        let (has, it) = if names.len() == 1 { ("has", "it") } else { ("have", "them") };
        let proof = match kind.plugin() {
            Some(plugin) => format!("NCCL through its plugin ({plugin}) is what proves {it}"),
            None => format!("nothing here proves {it}"),
        };
        format!("{} ({}) {has} no reliable-connected queue pairs: {proof}", clean(&names.join(", ")), kind.name())
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

impl Probe for RdmaProbe {
    fn name(&self) -> ProbeName {
        ProbeName::new("rdma")
    }

    fn about(&self) -> &'static str {
        "RDMA verbs: write, read, send; bandwidth and latency, over each device and between nodes; payload compared"
    }

    fn needs(&self) -> &'static str {
        "an RDMA device with an active port, and libibverbs"
    }

    fn metrics(&self) -> &'static [Declared] {
        const METRICS: &[Declared] = &[
            Metric::Bandwidth.of("payload bytes per second; of both ways together where both send"),
            Metric::Latency.of("median; half a round trip of write and send, a whole one of read"),
            Metric::LatencyP99.of("99th percentile of the same"),
            Metric::LatencyP999.of("99.9th percentile of the same"),
        ];
        METRICS
    }

    fn priority(&self, on_gpus: bool) -> Priority {
        Priority::new(if on_gpus { 1 } else { 2 }, 6)
    }

    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        let connected: Vec<&str> = machine.connected_rdma().collect();
        let waived = |why: String| step(self, plan, vec![DEVICE], why, 50);
        let mut out: Vec<Step> = without_connections(machine).map(waived).into_iter().collect();
        if connected.is_empty() && out.is_empty() {
            let why = match machine.infiniband.len() {
                0 => "no RDMA device in /sys/class/infiniband".to_owned(),
                n => format!("none of {n} RDMA devices has an active port"),
            };
            return vec![waived(why)];
        }
        if connected.is_empty() {
            return out;
        }
        // Many adapters share the time of a few.
        let each = plan.tier.pick(if connected.len() > 2 { 55 } else { 150 }, 700, 2500);
        let host = |device: &&str| Step { ranks: 2, ..of_tests(plan, device, loopback_tests(device), each) };
        out.extend(connected.iter().map(host));
        out.push(gpu::loopback_step(plan, &connected, machine));
        out
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        if child.wants(&DEVICE) {
            let why: String = child.args()?;
            return Ok(child.outcome(&DEVICE, Outcome::waived(WaiveKind::Absent, why))?);
        }
        if let Ok(args) = child.args::<gpu::Args>() {
            return gpu::run(child, &args);
        }
        if let Ok(args) = child.args::<rails::Args>() {
            return rails::run(child, &args);
        }
        let args: Args = child.args()?;
        let wanted: Vec<(Case, Test)> =
            child.step.cases.iter().filter_map(|case| Some((case.clone(), Test::of(case)?))).collect();
        let budget = child.share(wanted.len());
        let root = SysRoot::live();
        let address = choose(&root, &args.device).map_err(ProbeError::Broken)?;
        let place = affinity::near(&root, address.numa);
        let most = wanted.iter().map(|(_, t)| t.bytes()).max().unwrap_or(1) as usize;
        let qps = wanted.iter().map(|(_, t)| t.qps()).max().unwrap_or(1);
        let mut end = connect(child, &args.device, &address, most, qps, 1 - child.rank as usize, None)?;
        for (case, test) in wanted {
            // Before the parent ends it: who waits for a peer must live to say so.
            end.deadline = Instant::now() + child.time_left().saturating_sub(SPARE);
            let before = Counters::read(&args.device, address.port);
            let (measured, flowed) = match test {
                Test::Bandwidth { op, bytes, qps, way } => {
                    let (measured, flowed) = bandwidth(child, &mut end, &address, op, bytes, qps, way, budget)?;
                    (measured, case.pair_way().map(|_| flowed))
                }
                Test::Latency { op, bytes } => (latency(child, &mut end, op, bytes, budget)?, None),
            };
            let all = child.exchange(&seen(&end, &address, &before, flowed)?)?;
            if child.rank == 0 {
                let all = all.all(child)?;
                let mut outcome = finish(child, &end.device, &address, all, measured);
                outcome.notes.extend(place.clone());
                child.outcome(&case, Outcome::Measured(outcome))?;
            }
        }
        Ok(())
    }
}

impl Test {
    fn bytes(&self) -> u32 {
        match self {
            Test::Bandwidth { bytes, .. } | Test::Latency { bytes, .. } => *bytes,
        }
    }

    fn qps(&self) -> usize {
        match self {
            Test::Bandwidth { qps, .. } => (*qps).min(MAX_QPS),
            Test::Latency { .. } => 1,
        }
    }
}

/// Opens the device and connects `qps` queue pairs with rank `partner`.
fn connect(
    child: &mut Child,
    device: &str,
    address: &Address,
    bytes: usize,
    qps: usize,
    partner: usize,
    gpu: Option<GpuMemory>,
) -> Result<End, ProbeError> {
    // Each half on pages of its own: what is received never shares a line with what is sent.
    let half = bytes.next_multiple_of(4096);
    let rdma = match &gpu {
        None => Rdma::open(device, Source::Host(2 * half), qps, DEPTH)?,
        Some(gpu) => gpu.open(device, qps)?,
    };
    let (port, own) = endpoints(&rdma, device, address, qps)?;
    let (peers, there) = child.exchange(&(own.clone(), address.shown.clone()))?.of(child, partner)?;
    let peer = child.name(partner);
    if peers.len() != qps || peers.iter().any(|e| e.qp == 0 || e.address == 0) {
        return Err(ProbeError::Broken(format!("{peer} published no endpoints of queue pairs")));
    }
    // In an error both addresses stand side by side: most often one of them is the error.
    let peer = format!("{peer} ({}; here {})", clean(&there), address.shown);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shares = child.members.is_empty() && cores < 2;
    let deadline = Instant::now() + child.time_left();
    let mut end = End { device: device.to_owned(), rdma, gpu, peers, half, deadline, shares, peer };
    let path = address.path(&port);
    for (q, own) in own.iter().enumerate() {
        let peer = end.peers[q];
        let connected = end.rdma.connect(q, own.psn, &peer, &path, port.mtu);
        connected.map_err(|e| ProbeError::Broken(format!("to {}: {e}", end.peer)))?;
    }
    // Nobody sends before both can receive.
    child.barrier()?;
    Ok(end)
}

/// The port of an open device, and what its queue pairs are called by those who connect to them.
fn endpoints(rdma: &Rdma, device: &str, address: &Address, qps: usize) -> Result<(Port, Vec<Endpoint>), ProbeError> {
    let port = rdma.port(address.port)?;
    if !port.active {
        return Err(ProbeError::Broken(format!("{device} port {} went down", address.port)));
    }
    let gid = rdma.gid(address.port, address.gid_index)?;
    let (at, rkey) = rdma.remote();
    // 24 bits; a new one for each connection, so that a packet of an older one is not taken for one of this.
    let psn = |q: usize| (fastrand::u32(..) ^ q as u32) & 0xff_ffff;
    let one = |q: usize| Endpoint {
        qp: rdma.number(q),
        psn: psn(q),
        lid: port.lid,
        gid,
        mtu: port.mtu,
        address: at,
        rkey,
        reads: rdma.reads,
    };
    let all = (0..qps).map(one).collect();
    Ok((port, all))
}

/// Fills what is sent, clears where it arrives.
fn prepare(end: &mut End, seed: u64, bytes: u32) -> Result<(), ProbeError> {
    let half = end.half;
    if let Some(gpu) = &end.gpu {
        return gpu.prepare(seed);
    }
    let memory = end.rdma.memory();
    fastrand::Rng::with_seed(seed).fill(&mut memory[..bytes as usize]);
    memory[half..half + bytes as usize].fill(0);
    Ok(())
}

/// How many bytes of what arrived differ from what the peer sent; the last `but` are not compared.
fn wrong(end: &mut End, seed: u64, bytes: u32, but: usize) -> Result<usize, ProbeError> {
    if let Some(gpu) = &end.gpu {
        return gpu.wrong(seed, bytes as usize);
    }
    let mut want = vec![0u8; bytes as usize];
    fastrand::Rng::with_seed(seed).fill(&mut want);
    let half = end.half;
    let n = bytes as usize - but.min(bytes as usize);
    Ok(end.rdma.memory()[half..half + n].iter().zip(&want[..n]).filter(|(a, b)| a != b).count())
}

/// Messages before the clock counts: they fill caches, tables of translations and the path.
const WARM: u64 = 256;
const BLOCKS: u64 = 20;

/// A flow, or both ways at once; and what went over the own port meanwhile.
#[expect(clippy::too_many_arguments, reason = "each is a number of the test; a struct would name them twice")]
fn bandwidth(
    child: &mut Child,
    end: &mut End,
    address: &Address,
    op: Op,
    bytes: u32,
    qps: usize,
    way: Way,
    budget: Duration,
) -> Result<(Measured, Flowed), ProbeError> {
    let (me, seed) = (child.rank, child.step.seed);
    let (starts, serves) = (starts(way, me), starts(way, 1 - me));
    prepare(end, seed ^ u64::from(me), bytes)?;
    // A few messages tell how many fit the time; the slower side's word counts.
    let first = warm_count(bytes);
    let warm = phase(child, end, op, bytes, qps, (first, 1, budget), starts, serves)?;
    let each = warm.map_or(0.0, |m| span(&m) / m.last().map_or(1, |l| l.1.max(1)) as f64);
    let slowest = child.exchange(&each)?.all(child)?.into_iter().fold(1e-9, f64::max);
    let count = (budget.as_secs_f64() * 0.7 / slowest) as u64;
    let mut count = count.clamp(BLOCKS, MOST).next_multiple_of(qps as u64);
    let (mut tries, mut spent) = (1, 0.0);
    let carried = |end: &End| Carried::read(&end.device, address.port, address.gid_index);
    let mut flowed = Flowed::default();
    let marks = loop {
        let before = carried(end);
        let marks = phase(child, end, op, bytes, qps, (count, BLOCKS, 2 * budget), starts, serves)?;
        flowed.carried = carried(end).since(&before);
        flowed.outstanding = window(count, qps as u64, BLOCKS).0 * qps as u64 * u64::from(bytes);
        flowed.sent = marks.as_ref().and_then(|m| m.last()).map_or(0, |(_, n)| n * u64::from(bytes));
        // All ends decide alike.
        let took = child.exchange(&marks.as_ref().map(|m| (flowing(m), span(m))))?.all(child)?;
        let (took, whole) =
            took.into_iter().flatten().fold((0.0, 0.0), |a, b| (f64::max(a.0, b.0), f64::max(a.1, b.1)));
        spent += whole;
        match more(count, took, budget).filter(|_| tries < TRIES && spent < budget.as_secs_f64()) {
            Some(larger) => (count, tries) = (larger.next_multiple_of(qps as u64), tries + 1),
            None => break marks,
        }
    };
    // Of a read the own memory holds what came; of a write or send the peer's.
    let arrived = if op == Op::Read { starts } else { serves };
    let wrong = if arrived { wrong(end, seed ^ u64::from(1 - me), bytes, 0)? } else { 0 };
    let rates = marks.map_or(Vec::new(), |m| rates(&m, bytes));
    let all = child.exchange(&(rates, wrong))?.all(child)?;
    // Both ways: block by block, as long as both flowed.
    let flows: Vec<&Vec<f64>> = all.iter().map(|(r, _)| r).filter(|r| !r.is_empty()).collect();
    let n = flows.iter().map(|r| r.len()).min().unwrap_or(0);
    let rates = (0..n).map(|i| flows.iter().map(|r| r[i]).sum()).collect();
    let wrong: usize = all.iter().map(|(_, w)| w).sum();
    let detail = format!("{wrong} of {bytes} compared bytes differ after {count} messages");
    let measured = Measured {
        series: vec![Metric::Bandwidth.series(rates, count / BLOCKS)],
        checks: [Check::new(CheckName::Payload, wrong == 0, detail)].into(),
        ..Measured::default()
    };
    Ok((measured, flowed))
}

/// Bytes per second, block by block; of a flow that stood still for most of its time (a lost packet waits for its timeout, and
/// what was queued behind it then completes at once) one figure for the whole: its blocks would tell the bursts.
fn rates(marks: &[(Instant, u64)], bytes: u32) -> Vec<f64> {
    let rate = |a: &(Instant, u64), b: &(Instant, u64)| {
        (b.1 - a.1) as f64 * f64::from(bytes) / (b.0 - a.0).as_secs_f64().max(1e-9)
    };
    let longest = marks.windows(2).map(|w| (w[1].0 - w[0].0).as_secs_f64()).fold(0.0, f64::max);
    match (marks.first(), marks.last()) {
        (Some(first), Some(last)) if marks.len() > 4 && longest > span(marks) / 3.0 => vec![rate(first, last)],
        _ => marks.windows(2).map(|w| rate(&w[0], &w[1])).collect(),
    }
}

/// Messages of a flow at most.
const MOST: u64 = 50_000_000;
/// A flow that ended before this share of its time was sized by a warm-up that something disturbed, and says little.
const EARLY: f64 = 0.2;
/// How often a flow is sized.
const TRIES: u32 = 4;

/// How many messages fill the time, where `count` of them took `took` seconds ([`flowing`]) and ended early; `None` where they are enough.
fn more(count: u64, took: f64, budget: Duration) -> Option<u64> {
    let whole = budget.as_secs_f64();
    let fills = (0.7 * whole / took.max(1e-6) * count as f64) as u64;
    // Not at once: what took next to no time tells little of what more would take.
    (took < EARLY * whole && count < MOST).then(|| fills.clamp(2 * count, 32 * count).min(MOST))
}

/// Large messages are few.
fn warm_count(bytes: u32) -> u64 {
    (u64::from(16 * MIB) / u64::from(bytes)).clamp(4, WARM)
}

fn span(marks: &[(Instant, u64)]) -> f64 {
    marks.first().zip(marks.last()).map_or(0.0, |(a, b)| (b.0 - a.0).as_secs_f64())
}

/// The seconds a flow took, were all its blocks like the middle one: one that mostly stood still (a core that was taken away) has had
/// next to no time, and what was outstanding meanwhile makes up much of its blocks.
fn flowing(marks: &[(Instant, u64)]) -> f64 {
    let mut blocks: Vec<f64> = marks.windows(2).map(|w| (w[1].0 - w[0].0).as_secs_f64()).collect();
    blocks.sort_unstable_by(f64::total_cmp);
    blocks.get(blocks.len() / 2).map_or(0.0, |middle| middle * blocks.len() as f64)
}

/// One flow from its start to its end, on both sides. Returns this side's moments if it asks.
#[expect(clippy::too_many_arguments, reason = "each is a number of the test; a struct would name them twice")]
fn phase(
    child: &mut Child,
    end: &mut End,
    op: Op,
    bytes: u32,
    qps: usize,
    (count, blocks, limit): (u64, u64, Duration),
    starts: bool,
    serves: bool,
) -> Result<Option<Vec<(Instant, u64)>>, ProbeError> {
    let receives = serves && op == Op::Send;
    if receives {
        end.make_room(qps, count)?;
    }
    child.barrier()?;
    let marks = if starts { Some(end.stream(op, bytes, qps, count, blocks, limit)?) } else { None };
    if receives {
        end.sink(qps, count)?;
    }
    child.barrier()?;
    Ok(marks)
}

/// Round trips at most, and at least.
const PINGS: (u64, u64) = (20_000, 64);

fn latency(child: &mut Child, end: &mut End, op: Op, bytes: u32, budget: Duration) -> Result<Measured, ProbeError> {
    let (me, seed) = (child.rank, child.step.seed);
    prepare(end, seed ^ u64::from(me), bytes)?;
    let mut times: Vec<Duration> = Vec::with_capacity(PINGS.0 as usize);
    let round = |child: &mut Child, end: &mut End, count: u64, times: &mut Vec<Duration>| -> Result<(), ProbeError> {
        if op == Op::Send {
            end.make_room(1, u64::from(DEPTH))?;
        }
        let at = end.half + bytes as usize - 1;
        end.rdma.memory()[at] = 0;
        child.barrier()?;
        if me == 0 {
            end.ask(op, bytes, count, times)?
        } else {
            end.answer(op, bytes, count)?
        }
        child.barrier()?;
        Ok(())
    };
    let warm = PINGS.1;
    round(child, end, warm, &mut times)?;
    let each = times.iter().sum::<Duration>().as_secs_f64() / warm as f64;
    let each = Some(child.exchange(&each)?.of(child, 0)?).filter(|t| *t > 0.0).unwrap_or(1e-3);
    let count = ((budget.as_secs_f64() * 0.7 / each) as u64).clamp(PINGS.1, PINGS.0);
    times.clear();
    // What was left posted by the warm-up serves now.
    if op == Op::Send {
        drain(end)?;
    }
    round(child, end, count, &mut times)?;
    let checked = op != Op::Read || me == 0;
    let wrong = if checked { wrong(end, seed ^ u64::from(1 - me), bytes, 1)? } else { 0 };
    let wrong: usize = child.exchange(&wrong)?.all(child)?.into_iter().sum();
    let share = if op == Op::Read { 1.0 } else { 0.5 };
    let seconds: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * share).collect();
    let mut series: Vec<Series> = Vec::new();
    if !seconds.is_empty() {
        let block = seconds.len().div_ceil(16);
        series.push(Metric::Latency.series(seconds.chunks(block).map(stats::median).collect(), block as u64));
        // With fewer than these (log 0.05 / log q) a quantile cannot be told at 95 % confidence.
        for (metric, quantile, least) in [(Metric::LatencyP99, 0.99, 299), (Metric::LatencyP999, 0.999, 2995)] {
            if seconds.len() >= least {
                series.push(
                    metric.series(stats::quantile(&seconds, quantile).into_iter().collect(), seconds.len() as u64),
                );
            }
        }
    }
    let detail = format!("{wrong} of {} compared bytes differ", bytes - 1);
    let notes = vec![if op == Op::Read { "a whole round trip" } else { "half a round trip" }.to_owned()];
    Ok(Measured {
        series,
        checks: [Check::new(CheckName::Payload, wrong == 0, detail)].into(),
        notes: notes.into(),
        ..Measured::default()
    })
}

/// Takes what the queue still holds.
fn drain(end: &mut End) -> Result<(), ProbeError> {
    let mut wcs = [verbs::Wc::default(); 32];
    while end.rdma.poll(&mut wcs)? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_that_ended_early_is_made_longer() {
        let budget = Duration::from_millis(100);
        assert_eq!(more(1000, 0.07, budget), None);
        assert!(more(1000, 0.01, budget).is_some_and(|n| (6990..=7010).contains(&n)));
        assert_eq!(more(20, 4e-6, budget), Some(640));
        assert_eq!(more(MOST, 1e-3, budget), None);
    }

    #[test]
    fn a_stall_makes_no_flow_longer() {
        let start = Instant::now();
        let marks = |us: &[u64]| -> Vec<(Instant, u64)> {
            us.iter().enumerate().map(|(i, us)| (start + Duration::from_micros(*us), i as u64 * 100)).collect()
        };
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(flowing(&marks(&[0, 100, 200, 300])), 300e-6));
        assert!(close(flowing(&marks(&[0, 100, 20_100, 20_200, 45_200, 45_300])), 500e-6));
        assert!(close(flowing(&marks(&[0, 700])), 700e-6) && close(flowing(&marks(&[0])), 0.0));
    }

    #[test]
    fn a_flow_that_stood_still_is_told_as_a_whole() {
        let start = Instant::now();
        let at = |ms: &[u64]| -> Vec<(Instant, u64)> {
            ms.iter().enumerate().map(|(i, ms)| (start + Duration::from_millis(*ms), i as u64 * 100)).collect()
        };
        let steady = rates(&at(&[0, 10, 20, 30, 40, 50]), 1000);
        assert!(steady.len() == 5 && steady.iter().all(|r| (r / 1e7 - 1.0).abs() < 1e-6), "{steady:?}");
        let stalled = rates(&at(&[0, 1, 2, 3, 4, 500]), 1000);
        assert!(stalled.len() == 1 && (stalled[0] / 1e6 - 1.0).abs() < 1e-6, "{stalled:?}");
    }
}
