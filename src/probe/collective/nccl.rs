//! `collective` on GPUs, by NCCL: one process a GPU, every element of every result checked on the GPU.
//!
//! Timed by events between operations that are queued one behind the other, as nccl-tests' `-I` does; of each block the slowest
//! rank counts. NCCL's log and topology file go to memory of each process and come back as facts.

mod log;

use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Processes, Step};
use crate::id::clean;
use crate::measure::{Bound, Check, Facts, FailKind, Measured, Outcome, WaiveKind, bus_factor};
use crate::plan::{CheckPlan, Tier};
use crate::probe::collective::{HostCollective, slowest};
use crate::probe::gpu::{LEAST_BLOCKS, Session, count, open};
use crate::probe::{ProbeError, step};
use crate::sys::cuda::Arg;
use crate::sys::nccl::{Comm, ID_BYTES, Nccl, NcclError, Span, show_version};
use crate::topology::{Class, Log, Machine, NcclTopology, Wires, busbw_of};
use crate::unit::Bytes;
use crate::work::{Carrier, Case, CheckName, Collective, CollectiveCase, LinkCase, Metric, NCCL, Topology, Way};

use log::{Heard, NcclState, Seen, adapters, facts};

#[derive(Serialize, Deserialize)]
struct Args {
    topology: Topology,
    /// Of each node.
    gpus: u32,
    tests: Vec<Test>,
    /// NVML's numbers of the ranks' GPUs, in a step on one node.
    #[serde(default)]
    numbers: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Test {
    what: What,
    bytes: u64,
    #[serde(default)]
    in_place: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum What {
    All(Collective),
    /// From each GPU of the first node to its like on the second, all at once; or the other way.
    Pair(Way),
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Longest wait for what peers must do, too.
const PATIENCE: Duration = Duration::from_secs(10);
/// A part of the step's time for saying what went wrong.
const SPARE: Duration = Duration::from_secs(2);
/// From this size on bandwidth is what counts: smaller messages are held against no rate.
const LARGE: u64 = 256 * MIB;
/// A test may take so many times its share of the step's time, and so many seconds in any case: its deadline leaves more, and a slow
/// link is measured rather than left open.
const OVER: f64 = 8.0;
const LEAST_S: f64 = 3.0;
/// Of the memory that is free, what buffers may take.
const SHARE: f64 = 0.8;

fn tests(topology: Topology, tier: Tier, ranks: u32) -> Vec<Test> {
    let all = |op, bytes| Test { what: What::All(op), bytes, in_place: false };
    if topology == Topology::Pair {
        let bytes = tier.pick(128 * MIB, 512 * MIB, GIB);
        return [Way::Out, Way::Back].map(|way| Test { what: What::Pair(way), bytes, in_place: false }).to_vec();
    }
    let whole = matches!(topology, Topology::Node | Topology::World);
    let sizes: &[u64] = match (whole, tier) {
        (true, Tier::Quick | Tier::Image | Tier::Node) => &[8, MIB, GIB],
        (true, Tier::Standard) => {
            &[8, 64, 512, 4 * KIB, 32 * KIB, 256 * KIB, 2 * MIB, 16 * MIB, 128 * MIB, GIB, 4 * GIB]
        }
        (true, Tier::Soak) => &[
            8,
            32,
            128,
            512,
            2 * KIB,
            8 * KIB,
            32 * KIB,
            128 * KIB,
            512 * KIB,
            2 * MIB,
            8 * MIB,
            32 * MIB,
            128 * MIB,
            512 * MIB,
            2 * GIB,
            8 * GIB,
        ],
        (false, Tier::Quick | Tier::Node) => &[8, 256 * MIB],
        (false, _) => &[8, MIB, GIB],
    };
    let mut out: Vec<Test> = sizes.iter().map(|s| all(Collective::AllReduce, *s)).collect();
    if whole {
        let large = tier.pick(&[256 * MIB][..], &[64 * KIB, 16 * MIB, GIB], &[64 * KIB, 16 * MIB, GIB]);
        let ops = Collective::ALL.iter().copied().filter(|op| *op != Collective::AllReduce);
        out.extend(ops.flat_map(|op| large.iter().map(move |s| all(op, *s))));
        // In place, one rank alone has nothing to do.
        out.extend((ranks > 1).then_some(Test { in_place: true, ..all(Collective::AllReduce, GIB) }));
    }
    out
}

impl Test {
    /// `gpu` is the communicator's, where each GPU has one with its likes.
    fn case(&self, topology: Topology, ranks: u32, gpu: Option<u32>) -> Case {
        let (op, bytes, in_place) = match self.what {
            What::All(op) => (op, Bytes(self.bytes), self.in_place),
            What::Pair(way) => return Case::Link(LinkCase::pair(way, Some(NCCL))),
        };
        Case::Collective(CollectiveCase { op, topology, carrier: Carrier::Nccl, ranks, bytes, in_place, gpu })
    }
}

/// A topology in which each GPU has a communicator with its likes on the other nodes.
fn is_split(topology: Topology) -> bool {
    topology == Topology::Rail
}

/// Over `nodes` nodes with `gpus` GPUs each; the caller sets its groups.
pub fn nccl_step(plan: &CheckPlan, topology: Topology, nodes: u32, gpus: u32) -> Step {
    let (ranks, communicators) = if is_split(topology) { (nodes, gpus) } else { (nodes * gpus, 1) };
    let tests = tests(topology, plan.tier, ranks);
    let mut cases = vec![Case::Start { topology, ranks }];
    for c in 0..communicators {
        cases.extend(tests.iter().map(|t| t.case(topology, ranks, is_split(topology).then_some(c))));
    }
    cases.push(Case::Channels { topology, ranks });
    let start = start_ms(nodes, gpus);
    let ms = start + plan.tier.pick(120, 500, 2500) * tests.len() as u64;
    let step = step(&HostCollective, plan, cases, Args { topology, gpus, tests, numbers: Vec::new() }, ms);
    let name = format!("collective-gpu-{}-{ranks}", topology.name());
    let processes = Processes::Gpus;
    Step { name, ranks: gpus, rail: Some(NCCL.to_owned()), start_ms: start, processes, ..step }
}

/// The library and the communicator: half a second for one rank, 2 to 3 s on a node with eight GPUs, more with more nodes.
pub(in crate::probe) fn start_ms(nodes: u32, gpus: u32) -> u64 {
    if nodes * gpus == 1 { 500 } else { 1000 + 120 * u64::from(gpus) + 200 * u64::from(nodes.ilog2()) }
}

/// The GPUs of one node.
pub(super) fn node_step(plan: &CheckPlan, machine: &Machine) -> Option<Step> {
    let gpus = count(machine) as u32;
    // Since NCCL 2.30.3 two ranks may share a GPU when this says so: for machines with one, a test of function and not of speed.
    let shared = gpus == 1 && machine.environment.get("NCCL_MULTI_RANK_GPU_ENABLE").is_some_and(|v| v == "1");
    let ranks = if shared { 2 } else { gpus };
    (gpus > 0).then(|| {
        let step = nccl_step(plan, Topology::Node, 1, ranks);
        let mut args = step.args.clone();
        args["gpus"] = gpus.into();
        args["numbers"] = crate::probe::gpu::gpus(machine).iter().map(|p| p.number).collect::<Vec<u32>>().into();
        Step { name: "collective-gpu".to_owned(), args, ..step }
    })
}

/// Must come before any library is loaded in a process of a GPU.
pub(in crate::probe) fn listen(child: &mut Child) {
    NcclState::of(child);
}

pub(super) fn is_nccl(step: &Step) -> bool {
    step.rail.as_deref() == Some(NCCL)
}

/// What a rank says before a communicator is made.
#[derive(Serialize, Deserialize)]
struct Hello {
    version: String,
    free: u64,
    /// Of its communicator, by the first rank in it.
    id: Option<Vec<u8>>,
    error: Option<String>,
    absent: bool,
}

/// Why a rank cannot go on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::probe) struct NcclFault {
    /// It waited for others, who may be the ones to blame.
    late: bool,
    text: String,
}

impl From<NcclError> for NcclFault {
    fn from(e: NcclError) -> Self {
        NcclFault { late: matches!(e, NcclError::Late { .. }), text: e.to_string() }
    }
}

impl From<crate::sys::cuda::CudaError> for NcclFault {
    fn from(e: crate::sys::cuda::CudaError) -> Self {
        NcclFault { late: false, text: e.to_string() }
    }
}

impl From<ProbeError> for NcclFault {
    fn from(e: ProbeError) -> Self {
        NcclFault { late: false, text: e.to_string() }
    }
}

/// One rank at work.
struct Worker<'a> {
    session: &'a Session,
    comm: Comm,
    topology: Topology,
    seed: u64,
    /// GPUs of a node.
    each: usize,
    rank: usize,
}

pub(super) fn run(child: &mut Child) -> Result<(), ProbeError> {
    let args: Args = child.args()?;
    let begin = Instant::now();
    let each = (child.ranks as usize / child.members.len().max(1)).max(1);
    let rank = child.rank as usize;
    let (colour, place, ranks) = if is_split(args.topology) {
        (rank % each, rank / each, child.ranks as usize / each)
    } else {
        (0, rank, child.ranks as usize)
    };
    call_by_numbers(child, &args.numbers);
    let kept = NcclState::of(child);
    let mut heard = kept.listen();
    let Met { session, nccl, hellos } = match meet(child, args.gpus, place == 0)? {
        Ok(met) => met,
        Err(outcome) => return give_up(child, outcome),
    };
    let id = hellos.get(colour).and_then(|h| h.id.clone()).and_then(|id| <[u8; ID_BYTES]>::try_from(id).ok());
    let id = id.ok_or_else(|| ProbeError::Broken("the first rank published no unique id".to_owned()))?;
    let patience = patience(child);
    let joined = Comm::join(&nccl, &session.gpu, (place, ranks), id, patience).map_err(NcclFault::from);
    let took = begin.elapsed().as_secs_f64();
    let all = child.exchange(&joined.as_ref().map(|_| took).map_err(NcclFault::clone))?.all(child)?;
    if let Some(outcome) = faults(child, "making the communicator", &all) {
        give_up(child, outcome)?;
        // Its end would wait for those who did not come.
        child.retire();
        if let Ok(comm) = joined {
            comm.abort(SPARE);
        }
        return Ok(());
    }
    let Ok(comm) = joined else { return Ok(()) };
    if child.rank == 0 {
        let slowest = all.iter().filter_map(|a| a.as_ref().ok().copied()).fold(0.0, f64::max);
        let mut notes = session.notes.clone();
        notes.push(format!("NCCL {} is {}: {}", show_version(nccl.version), nccl.found.path, nccl.found.why));
        notes.extend(kept.note());
        notes.extend(heard.undiagnosed(nccl.version));
        let measured = Measured {
            series: vec![Metric::Start.series(vec![slowest], 1)],
            notes: notes.into(),
            ..Measured::default()
        };
        child.outcome(&Case::Start { topology: args.topology, ranks: ranks as u32 }, Outcome::Measured(measured))?;
    }
    let free = hellos.iter().map(|h| h.free).min().unwrap_or(0);
    let worker = Worker { session: &session, comm, topology: args.topology, seed: child.step.seed, each, rank };
    run_tests(child, &args, worker, &nccl, &mut heard, (ranks, free))
}

/// The tests of a communicator that stands, of `ranks` ranks; `free` are the bytes that the fullest GPU has left.
fn run_tests(
    child: &mut Child,
    args: &Args,
    worker: Worker<'_>,
    nccl: &Nccl,
    heard: &mut Heard<'_>,
    (ranks, free): (usize, u64),
) -> Result<(), ProbeError> {
    let (session, each, rank) = (worker.session, worker.each, worker.rank);
    // What every rank told of its channels; they are made in the first operations.
    let mut seen = vec![Seen::default(); child.ranks as usize];
    let topology = heard.topology();
    let wires = topology.as_ref().map_or(Wires::default(), Wires::of);
    let of_node = if is_split(args.topology) { 1 } else { each };
    let channels =
        Channels { nccl, case: Case::Channels { topology: args.topology, ranks: ranks as u32 }, topology: &topology };
    // Each test runs twice before it counts, and the largest take longest: room for both.
    let all = args.tests.len().max(1);
    let wanted = args.tests.iter().filter(|t| is_wanted(child, t, args.topology, ranks as u32, each)).count();
    let budget = child.share(wanted * (all + 8) / all);
    for test in &args.tests {
        let communicators = if is_split(args.topology) { each } else { 1 };
        let cases = cases_of(test, args.topology, ranks as u32, communicators);
        if !cases.iter().any(|c| child.wants(c)) {
            continue;
        }
        if 2.0 * test.bytes as f64 > SHARE * free as f64 {
            let why =
                format!("two buffers of {} do not fit the {} that are free on a GPU", Bytes(test.bytes), Bytes(free));
            for case in cases.iter().filter(|_| rank == 0) {
                child.outcome(case, Outcome::waived(WaiveKind::Absent, why.clone()))?;
            }
            continue;
        }
        // What an all-reduce goes by is what a training step goes by: told as soon as the last of them is done.
        if test.what != What::All(Collective::AllReduce) || test.in_place {
            channels.tell(child, &heard.log(), &seen)?;
        }
        let reports = match worker.measure(child, test, budget, heard)? {
            Measurement::RankReport(reports) => reports,
            Measurement::NoTime(why) => {
                for case in cases.iter().filter(|_| rank == 0) {
                    child.outcome(case, Outcome::waived(WaiveKind::NoTime, why.clone()))?;
                }
                continue;
            }
            Measurement::Lost(outcome) => {
                // Told first: what is left of the communicator may never end.
                channels.tell(child, &heard.log(), &seen)?;
                give_up(child, outcome)?;
                child.retire();
                worker.comm.abort(SPARE);
                return Ok(());
            }
        };
        for (seen, reports) in seen.iter_mut().zip(&reports) {
            if let Some(news) = &reports.seen {
                *seen = news.clone();
            }
        }
        if rank == 0 {
            // What it chose stands in the log of the communicator's first rank, which this is.
            let log = heard.log();
            let class = Class::of(seen.iter().flat_map(|s| s.transports.keys()), log.nvls).on(&wires);
            let net = adapters(topology.as_ref().ok(), class, of_node);
            for (c, case) in cases.iter().enumerate() {
                let own: Vec<RankReport> = reports.iter().skip(c).step_by(communicators).cloned().collect();
                let outcome =
                    conclude(child, session, test, &own, (&log, class, &wires, &net), (c, communicators, each));
                child.outcome(case, Outcome::Measured(outcome))?;
            }
        }
    }
    channels.tell(child, &heard.log(), &seen)
}

/// A test's cases, one a communicator.
fn cases_of(test: &Test, topology: Topology, ranks: u32, communicators: usize) -> Vec<Case> {
    (0..communicators as u32).map(|c| test.case(topology, ranks, is_split(topology).then_some(c))).collect()
}

fn is_wanted(child: &Child, test: &Test, topology: Topology, ranks: u32, each: usize) -> bool {
    let communicators = if is_split(topology) { each } else { 1 };
    cases_of(test, topology, ranks, communicators).iter().any(|c| child.wants(c))
}

/// Tells once what NCCL said of itself on all ranks.
struct Channels<'a> {
    nccl: &'a Nccl,
    case: Case,
    topology: &'a Result<NcclTopology, String>,
}

impl Channels<'_> {
    fn tell(&self, child: &mut Child, log: &Log, seen: &[Seen]) -> Result<(), ProbeError> {
        if child.rank != 0 || child.has_told(&self.case) || !child.wants(&self.case) {
            return Ok(());
        }
        let nodes = child.members.len().max(1) as u32;
        let facts = facts(self.nccl, log, seen, (child.ranks, nodes), self.topology);
        let well: Vec<&str> = log.diagnoses.iter().filter(|d| d.ok).map(|d| d.check.as_str()).collect();
        let diagnosed =
            (!well.is_empty()).then(|| format!("NCCL's own diagnostics find well: {}", clean(&well.join(", "))));
        let notes = self.topology.as_ref().err().cloned().into_iter().chain(diagnosed).collect();
        let facts = Some(Box::new(Facts::Nccl(Box::new(facts))));
        Ok(child.outcome(&self.case, Outcome::Measured(Measured { notes, facts, ..Measured::default() }))?)
    }
}

/// Calls the ranks of a step on one node by NVML's numbers of their GPUs, where they are told.
pub(in crate::probe) fn call_by_numbers(child: &mut Child, numbers: &[u32]) {
    if !numbers.is_empty() {
        let name = |r: usize| format!("rank {r} (GPU {})", numbers[r % numbers.len()]);
        child.call_ranks((0..child.ranks as usize).map(name).collect());
    }
}

/// A rank whose GPU and library are there, as all others' are.
pub(in crate::probe) struct Met {
    pub session: Rc<Session>,
    pub nccl: Rc<Nccl>,
    hellos: Vec<Hello>,
}

impl Met {
    /// Bytes that the fullest GPU of all has left.
    pub fn free(&self) -> u64 {
        self.hellos.iter().map(|h| h.free).min().unwrap_or(0)
    }
}

/// Opens this rank's GPU, one of `gpus` of its node, and NCCL, and hears whether all others have: else the outcome of all. Who is `first` of
/// a communicator makes its id.
pub(in crate::probe) fn meet(child: &mut Child, gpus: u32, first: bool) -> Result<Result<Met, Outcome>, ProbeError> {
    let kept = NcclState::of(child);
    let each = (child.ranks as usize / child.members.len().max(1)).max(1);
    let (session, nccl) = match open(child, child.rank as usize % each % gpus.max(1) as usize, None) {
        Err(outcome) => (Err(outcome), None),
        Ok(session) => match kept.nccl(session.gpu.driver().version) {
            Ok(nccl) => (Ok(session), Some(nccl)),
            Err(e @ NcclError::NoLibrary(_)) => (Err(Outcome::waived(WaiveKind::Absent, e.to_string())), None),
            Err(e) => (Err(Outcome::error(FailKind::Error, e.to_string())), None),
        },
    };
    let hellos = greet(child, &session, nccl.as_ref(), first)?;
    if let Some(outcome) = unfit(child, &hellos) {
        return Ok(Err(outcome));
    }
    match (session, nccl) {
        (Ok(session), Some(nccl)) => Ok(Ok(Met { session, nccl, hellos })),
        _ => Err(ProbeError::Broken("this rank has no GPU, and nobody saw it".to_owned())),
    }
}

/// How long to wait for peers: within the step's time.
pub(in crate::probe) fn patience(child: &Child) -> Duration {
    PATIENCE.min(child.time_left().saturating_sub(SPARE))
}

fn greet(
    child: &mut Child,
    session: &Result<Rc<Session>, Outcome>,
    nccl: Option<&Rc<Nccl>>,
    first: bool,
) -> Result<Vec<Hello>, ProbeError> {
    let id = nccl.filter(|_| first).map(|n| n.unique_id());
    let (mut error, mut absent) = match session {
        Err(Outcome::Waived { why, .. }) => (Some(why.clone()), true),
        Err(Outcome::Failed { error, .. }) => (Some(error.clone()), false),
        _ => (None, false),
    };
    let free = session.as_ref().ok().and_then(|s| s.gpu.memory_info().ok()).map_or(0, |(free, _)| free as u64);
    let id = match id {
        Some(Err(e)) => {
            (error, absent) = (Some(e.to_string()), false);
            None
        }
        Some(Ok(id)) => Some(id.to_vec()),
        None => None,
    };
    let version = nccl.map_or(String::new(), |n| show_version(n.version));
    Ok(child.exchange(&Hello { version, free, id, error, absent })?.all(child)?)
}

/// Why no communicator can be made of these ranks, if so: alike on all of them.
fn unfit(child: &Child, hellos: &[Hello]) -> Option<Outcome> {
    let here = child.members.is_empty();
    let of = |rank: usize, text: &str| {
        if here && child.ranks == 1 { text.to_owned() } else { format!("{}: {text}", child.name(rank)) }
    };
    let wrong: Vec<(usize, &Hello)> = hellos.iter().enumerate().filter(|(_, h)| h.error.is_some()).collect();
    // A fault weighs more than what is not there.
    let worst = wrong.iter().find(|(_, h)| !h.absent).or(wrong.first());
    if let Some((rank, hello)) = worst {
        let text = of(*rank, hello.error.as_deref().unwrap_or_default());
        // What one node has and another lacks is no mere absence.
        let absent = hello.absent && wrong.len() == hellos.len();
        return Some(if absent {
            Outcome::waived(WaiveKind::Absent, text)
        } else {
            Outcome::error(FailKind::Error, text)
        });
    }
    let other = hellos.iter().position(|h| h.version != hellos[0].version)?;
    Some(Outcome::error(
        FailKind::Error,
        format!(
            "NCCL {} on {} and {} on {}: all ranks need one version",
            hellos[0].version,
            child.name(0),
            hellos[other].version,
            child.name(other)
        ),
    ))
}

/// The outcome of the first case that is still open; the others are not reached.
pub(in crate::probe) fn give_up(child: &mut Child, outcome: Outcome) -> Result<(), ProbeError> {
    if child.rank != 0 {
        return Ok(());
    }
    let cases = child.step.cases.clone();
    let absent = matches!(outcome, Outcome::Waived { .. });
    let open: Vec<&Case> = cases.iter().filter(|c| !child.has_told(c)).collect();
    for (i, case) in open.into_iter().enumerate() {
        let outcome = if i == 0 || absent {
            outcome.clone()
        } else {
            Outcome::waived(WaiveKind::NotReached, "the communicator was lost before it")
        };
        child.outcome(case, outcome)?;
    }
    Ok(())
}

/// What went wrong on which ranks, if anything did. Who failed is named before who waited for it.
pub(in crate::probe) fn faults<T>(child: &Child, what: &str, all: &[Result<T, NcclFault>]) -> Option<Outcome> {
    let wrong: Vec<(usize, &NcclFault)> =
        all.iter().enumerate().filter_map(|(r, a)| Some((r, a.as_ref().err()?))).collect();
    let (rank, first) = *wrong.iter().find(|(_, t)| !t.late).or(wrong.first())?;
    let names: Vec<String> = wrong.iter().filter(|(_, t)| t.late == first.late).map(|(r, _)| child.name(*r)).collect();
    let done: Vec<String> = (0..all.len()).filter(|r| all[*r].is_ok()).map(|r| child.name(r)).collect();
    let mut error = format!("{what}: {}: {}", child.name(rank), first.text);
    if names.len() > 1 {
        error.push_str(&format!("; {} of {} ranks alike", names.len(), all.len()));
    }
    if first.late && !done.is_empty() {
        let shown = done.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        error.push_str(&format!("; done on {shown}"));
    }
    Some(Outcome::error(FailKind::Error, error))
}

/// What a rank tells of a measurement: wrong elements, seconds by block, operations of a block.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RankReport {
    wrong: u64,
    seconds: Vec<f64>,
    block: u64,
    /// What its log says of its channels, where that is new.
    seen: Option<Seen>,
}

/// How a test ended, alike on all ranks.
enum Measurement {
    RankReport(Vec<RankReport>),
    /// As many blocks as are needed do not fit the time.
    NoTime(String),
    /// The communicator is of no use any more.
    Lost(Outcome),
}

impl Worker<'_> {
    /// One test on this rank; what all ranks tell of it, or why the communicator is of no use any more.
    fn measure(
        &self,
        child: &mut Child,
        test: &Test,
        budget: Duration,
        heard: &mut Heard<'_>,
    ) -> Result<Measurement, ProbeError> {
        let what = test.case(self.topology, child.ranks, None).to_string();
        let prepared = self.prepare(test, patience(child));
        let all = child.exchange(&prepared.as_ref().map(|p| p.1).map_err(NcclFault::clone))?.all(child)?;
        if let Some(outcome) = faults(child, &what, &all) {
            return Ok(Measurement::Lost(outcome));
        }
        let Ok((buffers, _)) = prepared else {
            return Ok(Measurement::Lost(Outcome::error(FailKind::Error, what)));
        };
        let once = all.iter().filter_map(|o| o.as_ref().ok().copied()).fold(1e-6, f64::max);
        // The same on every rank, so that none goes on alone.
        if once * LEAST_BLOCKS as f64 > (OVER * budget.as_secs_f64()).max(LEAST_S) {
            return Ok(Measurement::NoTime(format!(
                "one takes {once:.2} s, {LEAST_BLOCKS} are needed, and it has {:.2} s: give more --budget",
                budget.as_secs_f64()
            )));
        }
        // Every rank runs as many: blocks enough for an interval, of one operation each where that is slow.
        let available = budget.as_secs_f64() * 0.7;
        let total = ((available / once) as u64).clamp(LEAST_BLOCKS as u64, 4000);
        let block = (total / 40).max(1);
        let blocks = (total / block).clamp(LEAST_BLOCKS as u64, 200);
        let buffers = ManuallyDrop::new(buffers);
        let mut reports = self.blocks(test, &buffers, (blocks, block), patience(child));
        if let Ok(reports) = &mut reports {
            drop(ManuallyDrop::into_inner(buffers));
            reports.seen = heard.news();
        }
        let all = child.exchange(&reports)?.all(child)?;
        Ok(match faults(child, &what, &all) {
            Some(outcome) => Measurement::Lost(outcome),
            None => Measurement::RankReport(all.into_iter().filter_map(Result::ok).collect()),
        })
    }

    /// Fills, runs once and checks, runs once more for its time.
    fn prepare(&self, test: &Test, patience: Duration) -> Result<(Buffers, f64), NcclFault> {
        let s = self.session;
        // What failed may be under way still, and would be freed under its feet: it stays until the process ends.
        let mut buffers = ManuallyDrop::new(Buffers::new(self, test)?);
        buffers.fill(self)?;
        buffers.run(self)?;
        self.comm.wait(&s.stream, patience)?;
        buffers.wrong += buffers.count_wrong(self)?;
        let events = ManuallyDrop::new([s.gpu.event()?, s.gpu.event()?]);
        s.stream.record(&events[0])?;
        buffers.run(self)?;
        s.stream.record(&events[1])?;
        self.comm.wait(&s.stream, patience)?;
        let once = events[1].seconds_since(&events[0])?;
        drop(ManuallyDrop::into_inner(events));
        Ok((ManuallyDrop::into_inner(buffers), once))
    }

    fn blocks(
        &self,
        test: &Test,
        buffers: &Buffers,
        (blocks, block): (u64, u64),
        patience: Duration,
    ) -> Result<RankReport, NcclFault> {
        let s = self.session;
        let mut events = ManuallyDrop::new(Vec::with_capacity(blocks as usize + 1));
        for _ in 0..=blocks {
            events.push(s.gpu.event()?);
        }
        // One that does not count: ranks come to it at different times.
        buffers.run(self)?;
        s.stream.record(&events[0])?;
        for event in &events[1..] {
            for _ in 0..block {
                buffers.run(self)?;
            }
            s.stream.record(event)?;
        }
        self.comm.wait(&s.stream, patience)?;
        let mut wrong = buffers.wrong;
        // In place, what comes out is what goes in next: only the first is known.
        if !test.in_place {
            wrong += buffers.count_wrong(self)?;
        }
        let mut seconds = Vec::with_capacity(blocks as usize);
        for pair in events.windows(2) {
            seconds.push(pair[1].seconds_since(&pair[0])? / block as f64);
        }
        drop(ManuallyDrop::into_inner(events));
        Ok(RankReport { wrong, seconds, block, seen: None })
    }
}

/// What a rank sends and receives, in elements of four bytes.
struct Buffers {
    what: What,
    send: crate::sys::cuda::Memory,
    receive: Option<crate::sys::cuda::Memory>,
    /// Elements that an operation takes, as the call counts them.
    count: usize,
    sent: usize,
    received: usize,
    wrong: u64,
}

impl Buffers {
    fn new(w: &Worker<'_>, test: &Test) -> Result<Self, NcclFault> {
        let ranks = w.comm.ranks;
        let whole = (test.bytes as usize).div_ceil(4);
        let part = whole.div_ceil(ranks);
        let (count, sent, received) = match test.what {
            What::All(Collective::AllGather) => (part, part, part * ranks),
            What::All(Collective::ReduceScatter) => (part, part * ranks, part),
            What::All(Collective::AllToAll) => (part, part * ranks, part * ranks),
            _ => (whole, whole, whole),
        };
        let send = w.session.gpu.alloc(4 * sent)?;
        let receive = if test.in_place { None } else { Some(w.session.gpu.alloc(4 * received)?) };
        Ok(Buffers { what: test.what, send, receive, count, sent, received, wrong: 0 })
    }

    fn fill(&self, w: &Worker<'_>) -> Result<(), NcclFault> {
        let s = w.session;
        let args =
            [Arg::Memory(&self.send), Arg::U64(self.sent as u64), Arg::U64(w.seed), Arg::U64(w.comm.rank as u64)];
        s.kernels.launch(&s.stream, c"ranks_fill", None, &args)?;
        if let Some(receive) = &self.receive {
            // Not a number: what is not written is wrong.
            s.stream.fill(receive, 0xff)?;
        }
        Ok(())
    }

    fn run(&self, w: &Worker<'_>) -> Result<(), NcclError> {
        let (comm, stream) = (&w.comm, &w.session.stream);
        let from = Span::new(&self.send);
        let to = Span::new(self.receive.as_ref().unwrap_or(&self.send));
        let (rank, ranks) = (comm.rank, comm.ranks);
        match self.what {
            What::All(Collective::AllReduce) => comm.all_reduce(stream, from, to, self.count),
            What::All(Collective::AllGather) => comm.all_gather(stream, from, to, self.count),
            What::All(Collective::ReduceScatter) => comm.reduce_scatter(stream, from, to, self.count),
            What::All(Collective::Broadcast) => comm.broadcast(stream, from, to, self.count),
            What::All(Collective::AllToAll) => comm.all_to_all(stream, from, to, self.count),
            What::All(Collective::SendReceive) => {
                let (next, previous) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
                comm.group(|| {
                    comm.send(stream, from, self.count, next)?;
                    comm.receive(stream, to, self.count, previous)
                })
            }
            What::Pair(way) => match role(way, w) {
                Role::Sends(peer) => comm.send(stream, from, self.count, peer),
                Role::Receives(peer) => comm.receive(stream, to, self.count, peer),
            },
        }
    }

    /// Elements that are not what they must be.
    fn count_wrong(&self, w: &Worker<'_>) -> Result<u64, NcclFault> {
        let (rank, ranks) = (w.comm.rank, w.comm.ranks);
        let each = self.count;
        let got = self.receive.as_ref().unwrap_or(&self.send);
        // (elements, from which place of the receiver, from which place of the sender, first rank, ranks that are added)
        type Part = (usize, usize, usize, usize, usize);
        let parts: Vec<Part> = match self.what {
            What::All(Collective::AllReduce) => vec![(self.received, 0, 0, 0, ranks)],
            What::All(Collective::ReduceScatter) => vec![(each, 0, rank * each, 0, ranks)],
            What::All(Collective::Broadcast) => vec![(self.received, 0, 0, 0, 1)],
            What::All(Collective::AllGather) => (0..ranks).map(|r| (each, r * each, 0, r, 1)).collect(),
            What::All(Collective::AllToAll) => (0..ranks).map(|r| (each, r * each, rank * each, r, 1)).collect(),
            What::All(Collective::SendReceive) => vec![(self.received, 0, 0, (rank + ranks - 1) % ranks, 1)],
            What::Pair(way) => match role(way, w) {
                Role::Sends(_) => Vec::new(),
                Role::Receives(peer) => vec![(self.received, 0, 0, peer, 1)],
            },
        };
        let s = w.session;
        s.stream.fill(&s.counted, 0)?;
        for (elements, at, from, first, added) in parts {
            let args = [
                Arg::At(got, 4 * at as u64),
                Arg::U64(elements as u64),
                Arg::U64(from as u64),
                Arg::U64(w.seed),
                Arg::U64(first as u64),
                Arg::U64(added as u64),
                Arg::Memory(&s.counted),
            ];
            s.kernels.launch(&s.stream, c"ranks_check", None, &args)?;
        }
        Ok(s.stream.read_u64(&s.counted)?)
    }
}

/// What a rank of a pair of nodes does, and with which rank.
enum Role {
    Sends(usize),
    Receives(usize),
}

fn role(way: Way, w: &Worker<'_>) -> Role {
    let first = w.rank < w.each;
    let peer = if first { w.rank + w.each } else { w.rank - w.each };
    if first == (way == Way::Out) { Role::Sends(peer) } else { Role::Receives(peer) }
}

fn conclude(
    child: &Child,
    session: &Session,
    test: &Test,
    reports: &[RankReport],
    (log, class, wires, net): (&Log, Class, &Wires, &Option<(f64, String)>),
    (communicator, communicators, each): (usize, usize, usize),
) -> Measured {
    let ranks = reports.len() as u32;
    let name = |r: usize| child.name(r * communicators + communicator);
    let block = reports.first().map_or(1, |t| t.block);
    let blocks = reports.iter().map(|t| t.seconds.len()).min().unwrap_or(0);
    let times: Vec<&[f64]> = reports.iter().map(|t| t.seconds.as_slice()).collect();
    let (latency, slow) = slowest(&times, blocks);
    let size = test.bytes as f64;
    let rate = |factor: f64| latency.iter().map(|t| size * factor / t.max(1e-9)).collect::<Vec<f64>>();
    let wrong: Vec<String> = reports
        .iter()
        .enumerate()
        .filter(|(_, t)| t.wrong > 0)
        .map(|(r, t)| format!("{}: {}", name(r), t.wrong))
        .collect();
    let detail = match wrong.len() {
        0 => "no element differs on any rank".to_owned(),
        _ => format!("wrong elements on {}", wrong.join(", ")),
    };
    let checks = vec![Check::new(CheckName::Sum, wrong.is_empty(), detail)];
    let mut notes = Vec::new();
    let What::All(op) = test.what else {
        // From all of a node's GPUs at once.
        let series = vec![Metric::Bandwidth.series(rate(each as f64), block)];
        return Measured { series, checks: checks.into(), notes: notes.into(), ..Measured::default() };
    };
    let mut time = Metric::Latency.series(latency.clone(), block);
    time.slowest_rank = slow;
    let mut series = vec![time, Metric::AlgBw.series(rate(1.0), block)];
    let factor = bus_factor(op, ranks);
    if factor > 0.0 {
        let mut busbw = Metric::BusBw.series(rate(factor), block);
        if test.bytes >= LARGE && op == Collective::AllReduce {
            let spec = session.spec.as_ref();
            let expected = spec.and_then(|s| busbw_of(&s.name, ranks, class, wires, test.bytes));
            busbw.nominal = expected.or(net.clone()).map(|(value, why)| Box::new(Bound::new(value, why)));
        }
        series.push(busbw);
    }
    notes.push(format!("{} ({})", class.name(), log.network.as_deref().unwrap_or("no network")));
    if let Some((choice, expected)) = log.chosen(op.nccl_name(), test.bytes.div_ceil(4) * 4) {
        let by = format!("{} {}", choice.algorithm, choice.protocol);
        // Its model is of large messages; of small ones it knows the order only.
        if let Some(seconds) = expected.filter(|_| test.bytes >= LARGE) {
            series[0].nominal =
                Some(Box::new(Bound { claimed: true, ..Bound::new(seconds, format!("NCCL's own model of {by}")) }));
        }
        notes.push(by);
    }
    Measured { series, checks: checks.into(), notes: notes.into(), ..Measured::default() }
}

#[cfg(test)]
mod tests_of_plan {
    use super::*;

    #[test]
    fn cases_are_told_apart_and_pairs_are_read_by_the_localiser() {
        for tier in [Tier::Quick, Tier::Standard, Tier::Soak] {
            for topology in Topology::ALL.iter().copied() {
                let cases: Vec<Case> = tests(topology, tier, 8).iter().map(|t| t.case(topology, 8, None)).collect();
                let unique: std::collections::BTreeSet<_> = cases.iter().collect();
                assert_eq!(unique.len(), cases.len(), "{cases:?}");
                assert!(topology != Topology::Pair || cases.iter().all(|c| c.pair_way().is_some()));
            }
        }
        let of = |late| Err::<(), NcclFault>(NcclFault { late, text: "x".to_owned() });
        assert!(matches!(of(true), Err(NcclFault { late: true, .. })));
    }
}
