//! Why a run ended, of all that its remains tell. An error's own words say less than its order: what everybody reports is what followed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::id::NodeName;
use crate::judge::rules::xids;
use crate::measure::{Remains, Sign, Stall, Trace};

/// What a sign is of, in the order in which it explains the others where no time does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Gpu,
    Node,
    HostMemory,
    Storage,
    Link,
    Setup,
    Disagreement,
    GpuMemory,
    Program,
    Killed,
    Outside,
    /// Of the other end of a connection.
    Peer,
    /// It waited for somebody.
    Waited,
    Follows,
}

impl Kind {
    pub(super) fn of(t: &Trace) -> Kind {
        match t.sign {
            // Of other Xids a program is the cause.
            Sign::Xid if t.number.and_then(|n| u32::try_from(n).ok()).is_some_and(|n| xids::meaning(n).is_some()) => {
                Kind::Gpu
            }
            Sign::Xid => Kind::Follows,
            Sign::GpuLost | Sign::GpuFailed | Sign::GpuEcc | Sign::NvlinkFailed | Sign::FabricManager => Kind::Gpu,
            Sign::NodeFailed | Sign::MachineCheck | Sign::HungTask | Sign::Kernel => Kind::Node,
            Sign::HostMemory => Kind::HostMemory,
            Sign::DiskFull
            | Sign::Quota
            | Sign::ReadOnly
            | Sign::IoError
            | Sign::StaleHandle
            | Sign::BrokenFile
            | Sign::Denied => Kind::Storage,
            Sign::LinkDown | Sign::AdapterFailed => Kind::Link,
            Sign::SharedMemory
            | Sign::NoInterface
            | Sign::Memlock
            | Sign::OpenFiles
            | Sign::DuplicateGpu
            | Sign::PeerAccess
            | Sign::NameUnresolved
            | Sign::AddressInUse
            | Sign::PortDenied
            | Sign::GpuBusy
            | Sign::RdmaSetup
            | Sign::Processes
            | Sign::MissingLibrary
            | Sign::Launch
            | Sign::VersionMismatch => Kind::Setup,
            Sign::SizeMismatch => Kind::Disagreement,
            Sign::GpuMemory => Kind::GpuMemory,
            Sign::Exception | Sign::GpuFault | Sign::NotANumber | Sign::Crash | Sign::Aborted => Kind::Program,
            Sign::Killed => Kind::Killed,
            Sign::TimeLimit | Sign::Preempted | Sign::Cancelled | Sign::SomeNodeFailed => Kind::Outside,
            Sign::RdmaError | Sign::PeerClosed | Sign::Refused | Sign::NoRoute => Kind::Peer,
            Sign::CollectiveTimeout | Sign::Absent => Kind::Waited,
            Sign::RankExit | Sign::StepEnded | Sign::Terminated | Sign::Teardown => Kind::Follows,
        }
    }

    /// Whether a part failed, rather than what ran on it.
    fn is_part(self) -> bool {
        self <= Kind::Link
    }
}

/// What is held to be the cause.
#[derive(Debug)]
pub(super) enum Cause<'r> {
    /// Lines that say so; the first is the earliest.
    Lines(Kind, Vec<&'r Trace>),
    /// These ranks did not come to where the others wait.
    Absent { ranks: BTreeSet<u32>, told: Told<'r> },
    /// Ranks came to one place with different things, or wait for each other in a circle.
    Disagree(Vec<&'r Stall>),
    /// All came, and nothing moves.
    Stuck(&'r Stall),
    /// Others lost this one, and it says nothing itself.
    Lost { node: NodeName, by: Vec<&'r Trace> },
    /// A path between two did not carry what RDMA sent, and which end is at fault does not show.
    Path(&'r Trace),
    /// A peer was never reached.
    Unreached(&'r Trace),
    /// More than half of those that it would need did not tell: nothing can be said.
    FewTold(&'r Stall),
}

/// Who told that somebody did not come.
#[derive(Debug)]
pub(super) enum Told<'r> {
    Stalls(Vec<&'r Stall>),
    /// Those that waited until their patience ended.
    Watchdogs(Vec<&'r Trace>),
}

/// A part that failed so long before the end has nothing to do with it.
const SHORTLY: SignedDuration = SignedDuration::from_mins(15);
/// NCCL's watchdog waits ten minutes and gloo thirty before anybody says a word.
const PATIENCE: SignedDuration = SignedDuration::from_mins(60);
/// A kernel and a scheduler write down late what they saw.
const LATE: SignedDuration = SignedDuration::from_secs(120);
/// What comes so much after the first lost connection follows from it: clocks and buffers are no better.
const AFTER: SignedDuration = SignedDuration::from_secs(2);
/// Whoever writes nothing of an error for so long had got over the last.
const SOON: SignedDuration = SignedDuration::from_mins(5);
/// A program that fails so much before a part does has its own reason.
const BEFORE: SignedDuration = SignedDuration::from_secs(60);

fn plus(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(at)
}

fn earliest<'r>(traces: &[&'r Trace]) -> Option<&'r Trace> {
    let key = |t: &&Trace| (t.at.is_none(), t.at, Kind::of(t), t.source, t.line);
    traces.iter().copied().min_by_key(key)
}

/// The traces of the end: what a rank wrote of errors and went on is no end, nor is what all had forgotten by then. Parts and what comes
/// from outside are held against the end by their own rules.
fn of_the_end(r: &Remains) -> Vec<&Trace> {
    let apart = |t: &Trace| Kind::of(t).is_part() || Kind::of(t) == Kind::Outside;
    let (mut out, others): (Vec<&Trace>, Vec<&Trace>) = r.traces.iter().partition(|t| apart(t));
    let mut by_writer: BTreeMap<(usize, Option<u32>), Vec<&Trace>> = BTreeMap::new();
    for t in others {
        by_writer.entry((t.source, t.place.rank)).or_default().push(t);
    }
    let last: Vec<&Trace> = by_writer.into_values().flat_map(|of| last_of(of, SOON)).collect();
    let waited = last.iter().any(|t| Kind::of(t) == Kind::Waited);
    out.extend(last_of(last, if waited { PATIENCE } else { SHORTLY }));
    out
}

/// The latest of these, and what leads up to them with no longer a gap. What has no time belongs to them.
fn last_of(mut traces: Vec<&Trace>, gap: SignedDuration) -> Vec<&Trace> {
    traces.sort_by_key(|t| std::cmp::Reverse(t.at));
    let mut since: Option<Timestamp> = None;
    traces.retain(|t| match (t.at, since) {
        (Some(at), Some(later)) if at < plus(later, -gap) => false,
        (Some(at), _) => {
            since = Some(at);
            true
        }
        (None, _) => true,
    });
    traces
}

pub(super) fn cause(r: &Remains) -> Option<Cause<'_>> {
    let all = of_the_end(r);
    let of = |f: &dyn Fn(&Trace) -> bool| -> Vec<&Trace> { all.iter().filter(|t| f(t)).copied().collect() };
    let first = |f: &dyn Fn(&Trace) -> bool| of(f).iter().filter_map(|t| t.at).min();
    let waited = first(&|t| Kind::of(t) == Kind::Waited);
    // A connection that is refused is tried again, as long as others start.
    let lost = first(&|t| Kind::of(t) == Kind::Waited || matches!(t.sign, Sign::PeerClosed | Sign::RdmaError));
    let ended = first(&|t| !Kind::of(t).is_part() && Kind::of(t) != Kind::Outside);
    let before = if waited.is_some() { PATIENCE } else { SHORTLY };
    let near = |t: &Trace| match (t.at, ended) {
        (Some(at), Some(ended)) => at >= plus(ended, -before) && at <= plus(ended, LATE),
        _ => true,
    };
    let parts = of(&|t| Kind::of(t).is_part() && near(t));
    // What follows a lost connection is no cause, and what stops a run that hangs is none either.
    let own = |t: &Trace| match (t.at, lost) {
        (Some(at), Some(lost)) => at <= plus(lost, AFTER),
        _ => true,
    };
    let follows = |t: &Trace| by_launcher(&all, t) || gave_up(&all, t) || after_a_loss(&all, t);
    let of_itself = of(&|t| (Kind::Setup..=Kind::Outside).contains(&Kind::of(t)) && own(t) && !follows(t));
    let hangs = waited.is_some() || !r.stalls.is_empty();
    // That a node failed is a reason to ask which.
    let asks = |t: &Trace| t.sign == Sign::SomeNodeFailed || hangs && Kind::of(t) == Kind::Outside;
    let program = earliest(&of_itself.iter().filter(|t| !asks(t)).copied().collect::<Vec<_>>());
    if let Some(part) = earliest(&parts) {
        let own_reason = program.is_some_and(|p| {
            let earlier = matches!((p.at, part.at), (Some(p), Some(part)) if p < plus(part, -BEFORE));
            let stands = Kind::of(p) < Kind::Killed && matches!(Kind::of(part), Kind::Link | Kind::Node);
            earlier || stands
        });
        if !own_reason {
            return Some(alike(part, &parts));
        }
    }
    if let Some(program) = program {
        return Some(alike(program, &of_itself));
    }
    by_stalls(r).or_else(|| by_watchdogs(r, &all)).or_else(|| by_peers(&all)).or_else(|| {
        // It hung, nobody knows on whom, and then its time was over.
        earliest(&of_itself).map(|t| alike(t, &of_itself)).or_else(|| asked_to_end(&all)).or_else(|| by_xids(&all))
    })
}

/// An Xid that programs cause, where nothing else tells.
fn by_xids<'r>(all: &[&'r Trace]) -> Option<Cause<'r>> {
    of_sign(Kind::Program, Sign::Xid, all)
}

/// A launcher that was asked to end, where nobody had complained before: by a person or a scheduler.
fn asked_to_end<'r>(all: &[&'r Trace]) -> Option<Cause<'r>> {
    let complains = |t: &Trace| !matches!(t.sign, Sign::Terminated | Sign::Teardown);
    if all.iter().any(|t| complains(t)) { None } else { of_sign(Kind::Outside, Sign::Terminated, all) }
}

/// All lines of a sign, the earliest first.
fn of_sign<'r>(kind: Kind, sign: Sign, all: &[&'r Trace]) -> Option<Cause<'r>> {
    let those: Vec<&Trace> = all.iter().copied().filter(|t| t.sign == sign).collect();
    let first = earliest(&those)?;
    let rest = those.into_iter().filter(|t| !std::ptr::eq(*t, first));
    Some(Cause::Lines(kind, std::iter::once(first).chain(rest).collect()))
}

/// Whether a process was killed when others had waited in vain, or when its launcher ended the rest: by the order of lines in one log,
/// where many lines have no time of their own.
fn by_launcher(all: &[&Trace], killed: &Trace) -> bool {
    let earlier = |t: &Trace| {
        t.source == killed.source && t.line < killed.line && matches!(t.sign, Sign::StepEnded | Sign::CollectiveTimeout)
    };
    Kind::of(killed) == Kind::Killed && all.iter().any(|t| earlier(t))
}

/// Whether a program that ended itself had lost others, or waited for them, before.
fn gave_up(all: &[&Trace], ended: &Trace) -> bool {
    let same = |t: &Trace| match (t.place.rank, ended.place.rank) {
        (Some(a), Some(b)) => a == b,
        _ => t.place.node.is_some() && t.place.node == ended.place.node,
    };
    let others = |t: &Trace| matches!(Kind::of(t), Kind::Peer | Kind::Waited);
    ended.sign == Sign::Aborted && all.iter().any(|t| others(t) && same(t))
}

/// Whether an exception comes from the same rank that had lost a peer, or waited in vain, some lines before.
fn after_a_loss(all: &[&Trace], thrown: &Trace) -> bool {
    let earlier = |t: &Trace| t.source == thrown.source && t.line < thrown.line && t.place.rank == thrown.place.rank;
    let lost = |t: &Trace| matches!(Kind::of(t), Kind::Peer | Kind::Waited);
    thrown.sign == Sign::Exception && all.iter().any(|t| lost(t) && earlier(t))
}

/// The first, and others of its kind that came with it.
fn alike<'r>(first: &'r Trace, all: &[&'r Trace]) -> Cause<'r> {
    let kind = Kind::of(first);
    let with = |t: &&&Trace| match (first.at, t.at) {
        (Some(first), Some(at)) => at <= plus(first, AFTER),
        _ => t.sign == first.sign,
    };
    let mut traces: Vec<&Trace> =
        all.iter().filter(|t| Kind::of(t) == kind && !std::ptr::eq(**t, first)).filter(with).copied().collect();
    traces.insert(0, first);
    Cause::Lines(kind, traces)
}

fn by_stalls(r: &Remains) -> Option<Cause<'_>> {
    // What moved between two looks is at work.
    let standing: Vec<&Stall> = r.stalls.iter().filter(|s| s.still != Some(false)).collect();
    let different: Vec<&Stall> = standing.iter().filter(|s| !s.different.is_empty()).copied().collect();
    if !different.is_empty() {
        return Some(Cause::Disagree(different));
    }
    let waiting: BTreeSet<u32> = standing.iter().flat_map(|s| s.waiting.iter().copied()).collect();
    let short = |s: &&&Stall| !s.behind.is_empty() || !s.silent.is_empty();
    let waits_for: Vec<&Stall> = standing.iter().filter(short).copied().collect();
    let (Some(first), false) = (standing.first(), waits_for.is_empty()) else {
        return standing.first().map(|s| Cause::Stuck(s));
    };
    // A rank that waits elsewhere waits for somebody else.
    let missed = waits_for.iter().flat_map(|s| s.behind.iter().chain(&s.silent));
    let ranks: BTreeSet<u32> = missed.copied().filter(|rank| !waiting.contains(rank)).collect();
    if ranks.is_empty() {
        return Some(Cause::Disagree(waits_for));
    }
    if ranks.len() > waiting.len() {
        return Some(Cause::FewTold(first));
    }
    Some(Cause::Absent { ranks, told: Told::Stalls(waits_for) })
}

fn by_watchdogs<'r>(r: &'r Remains, traces: &[&'r Trace]) -> Option<Cause<'r>> {
    let named: Vec<&Trace> = traces.iter().copied().filter(|t| t.sign == Sign::Absent).collect();
    if !named.is_empty() {
        let numbers =
            named.iter().filter_map(|t| t.names.as_deref()).flat_map(|n| n.split(|c: char| !c.is_ascii_digit()));
        let ranks: BTreeSet<u32> = numbers.filter_map(|n| n.parse().ok()).collect();
        return (!ranks.is_empty()).then_some(Cause::Absent { ranks, told: Told::Watchdogs(named) });
    }
    let timed: Vec<&Trace> = traces.iter().filter(|t| t.sign == Sign::CollectiveTimeout).copied().collect();
    let mut by_call: BTreeMap<Option<i64>, BTreeSet<u32>> = BTreeMap::new();
    for t in &timed {
        by_call.entry(t.number).or_default().extend(t.place.rank);
    }
    let (call, waiting) = by_call.iter().max_by_key(|(_, ranks)| ranks.len())?;
    let told = r.traces.iter().filter_map(|t| t.place.rank).chain(r.ranks.keys().copied());
    let all: BTreeSet<u32> = (0..=told.max()?.min(1 << 20)).collect();
    // Whoever waits in a later call came to this one.
    let later = by_call.iter().filter(|(number, _)| *number > call).flat_map(|(_, ranks)| ranks).copied().collect();
    let mut ranks: BTreeSet<u32> = &(&all - waiting) - &later;
    // Whoever lost a peer there had come: the peer gave up first. Where nobody else is left, it may be the one that is cut off.
    let lost = |rank: &u32| traces.iter().any(|t| Kind::of(t) == Kind::Peer && t.place.rank == Some(*rank));
    if ranks.iter().any(|rank| !lost(rank)) {
        ranks.retain(|rank| !lost(rank));
    }
    // Those that wait in another call of another group say nothing of this one; half of a job is no culprit.
    if ranks.is_empty() || ranks.len() > waiting.len() {
        return None;
    }
    let by = timed.into_iter().filter(|t| t.number == *call).collect();
    Some(Cause::Absent { ranks, told: Told::Watchdogs(by) })
}

fn by_peers<'r>(all: &[&'r Trace]) -> Option<Cause<'r>> {
    let first = |f: &dyn Fn(Sign) -> bool| earliest(&all.iter().filter(|t| f(t.sign)).copied().collect::<Vec<_>>());
    let broken = first(&|s| matches!(s, Sign::RdmaError | Sign::PeerClosed));
    let unreached = first(&|s| matches!(s, Sign::Refused | Sign::NoRoute));
    // Where nothing ever broke, nothing was ever joined.
    if let (None, Some(unreached)) = (broken, unreached) {
        return Some(Cause::Unreached(unreached));
    }
    lost(all).or_else(|| first(&|s| s == Sign::RdmaError).map(Cause::Path))
}

/// Whoever others lost.
fn lost<'r>(all: &[&'r Trace]) -> Option<Cause<'r>> {
    let complaint = |t: &&Trace| Kind::of(t) == Kind::Peer && t.names.is_some() && t.place.node.is_some();
    let complaints: Vec<&Trace> = all.iter().copied().filter(complaint).collect();
    // Whoever writes is alive. What is complained of and writes nothing is the one that went.
    let writes = |t: &&&Trace| !matches!(Kind::of(t), Kind::Outside | Kind::Killed);
    let alive: BTreeSet<&NodeName> = all.iter().filter(writes).filter_map(|t| t.place.node.as_ref()).collect();
    let mut votes: BTreeMap<&str, BTreeSet<&NodeName>> = BTreeMap::new();
    for t in &complaints {
        votes.entry(t.names.as_deref()?).or_default().extend(t.place.node.as_ref());
    }
    let silent: Vec<&str> = votes.keys().filter(|peer| alive.iter().all(|n| n.0 != **peer)).copied().collect();
    let most = votes.values().map(BTreeSet::len).max()?;
    let named: Vec<&str> = match silent.len() {
        0 => votes.iter().filter(|(_, by)| by.len() == most && most > 1).map(|(peer, _)| *peer).collect(),
        _ => silent,
    };
    let [node] = named[..] else { return None };
    let by = complaints.iter().filter(|t| t.names.as_deref() == Some(node)).copied().collect();
    Some(Cause::Lost { node: NodeName(node.to_owned()), by })
}
