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
            Sign::GpuLost | Sign::GpuEcc | Sign::NvlinkFailed | Sign::FabricManager => Kind::Gpu,
            Sign::NodeFailed | Sign::MachineCheck | Sign::HungTask => Kind::Node,
            Sign::HostMemory => Kind::HostMemory,
            Sign::DiskFull | Sign::Quota | Sign::ReadOnly | Sign::IoError | Sign::StaleHandle => Kind::Storage,
            Sign::LinkDown | Sign::AdapterFailed => Kind::Link,
            Sign::SharedMemory
            | Sign::NoInterface
            | Sign::Memlock
            | Sign::OpenFiles
            | Sign::DuplicateGpu
            | Sign::NameUnresolved
            | Sign::AddressInUse
            | Sign::VersionMismatch => Kind::Setup,
            Sign::SizeMismatch => Kind::Disagreement,
            Sign::GpuMemory => Kind::GpuMemory,
            Sign::Exception | Sign::GpuFault | Sign::NotANumber | Sign::Crash | Sign::Aborted => Kind::Program,
            Sign::Killed => Kind::Killed,
            Sign::TimeLimit | Sign::Preempted | Sign::Cancelled => Kind::Outside,
            Sign::RdmaError | Sign::PeerClosed | Sign::Refused | Sign::NoRoute => Kind::Peer,
            Sign::CollectiveTimeout | Sign::Absent => Kind::Waited,
            Sign::RankExit | Sign::StepEnded | Sign::Teardown => Kind::Follows,
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
/// A program that fails so much before a part does has its own reason.
const BEFORE: SignedDuration = SignedDuration::from_secs(60);

fn plus(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(at)
}

fn earliest<'r>(traces: &[&'r Trace]) -> Option<&'r Trace> {
    let key = |t: &&Trace| (t.at.is_none(), t.at, Kind::of(t), t.source, t.line);
    traces.iter().copied().min_by_key(key)
}

pub(super) fn cause(r: &Remains) -> Option<Cause<'_>> {
    let of = |f: &dyn Fn(Kind) -> bool| -> Vec<&Trace> { r.traces.iter().filter(|t| f(Kind::of(t))).collect() };
    let first = |f: &dyn Fn(Kind) -> bool| of(f).iter().filter_map(|t| t.at).min();
    let waited = first(&|k| k == Kind::Waited);
    let lost = first(&|k| matches!(k, Kind::Peer | Kind::Waited));
    let ended = first(&|k| !k.is_part() && k != Kind::Outside);
    let before = if waited.is_some() { PATIENCE } else { SHORTLY };
    let near = |t: &&&Trace| match (t.at, ended) {
        (Some(at), Some(ended)) => at >= plus(ended, -before) && at <= plus(ended, LATE),
        _ => true,
    };
    let parts: Vec<&Trace> = of(&Kind::is_part).iter().filter(near).copied().collect();
    // What follows a lost connection is no cause, and what stops a run that hangs is none either.
    let own = |t: &&&Trace| match (t.at, lost) {
        (Some(at), Some(lost)) => at <= plus(lost, AFTER),
        _ => true,
    };
    let of_itself = of(&|k| (Kind::Setup..=Kind::Outside).contains(&k));
    let of_itself: Vec<&Trace> = of_itself
        .iter()
        .filter(own)
        .filter(|t| !by_launcher(r, t) && !gave_up(r, t) && !after_a_loss(r, t))
        .copied()
        .collect();
    let hangs = waited.is_some() || !r.stalls.is_empty();
    let program = earliest(&of_itself).filter(|t| !(hangs && Kind::of(t) == Kind::Outside));
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
    by_stalls(r).or_else(|| by_watchdogs(r)).or_else(|| by_peers(r)).or_else(|| {
        // It hung, nobody knows on whom, and then its time was over.
        earliest(&of_itself).map(|t| alike(t, &of_itself))
    })
}

/// Whether a process was killed when others had waited in vain, or when its launcher ended the rest: by the order of lines in one log,
/// where many lines have no time of their own.
fn by_launcher(r: &Remains, killed: &Trace) -> bool {
    let earlier = |t: &Trace| {
        t.source == killed.source && t.line < killed.line && matches!(t.sign, Sign::StepEnded | Sign::CollectiveTimeout)
    };
    Kind::of(killed) == Kind::Killed && r.traces.iter().any(earlier)
}

/// Whether a program that ended itself had lost others, or waited for them, before.
fn gave_up(r: &Remains, ended: &Trace) -> bool {
    let same = |t: &Trace| match (t.place.rank, ended.place.rank) {
        (Some(a), Some(b)) => a == b,
        _ => t.place.node.is_some() && t.place.node == ended.place.node,
    };
    let others = |t: &Trace| matches!(Kind::of(t), Kind::Peer | Kind::Waited);
    ended.sign == Sign::Aborted && r.traces.iter().any(|t| others(t) && same(t))
}

/// Whether an exception comes from the same rank that had lost a peer, or waited in vain, some lines before.
fn after_a_loss(r: &Remains, thrown: &Trace) -> bool {
    let earlier = |t: &Trace| t.source == thrown.source && t.line < thrown.line && t.place.rank == thrown.place.rank;
    let lost = |t: &Trace| matches!(Kind::of(t), Kind::Peer | Kind::Waited);
    thrown.sign == Sign::Exception && r.traces.iter().any(|t| lost(t) && earlier(t))
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

fn by_watchdogs(r: &Remains) -> Option<Cause<'_>> {
    if let Some(named) = r.traces.iter().find(|t| t.sign == Sign::Absent && t.names.is_some()) {
        let numbers = named.names.iter().flat_map(|n| n.split(|c: char| !c.is_ascii_digit()));
        let ranks: BTreeSet<u32> = numbers.filter_map(|n| n.parse().ok()).collect();
        return (!ranks.is_empty()).then(|| Cause::Absent { ranks, told: Told::Watchdogs(vec![named]) });
    }
    let timed: Vec<&Trace> = r.traces.iter().filter(|t| t.sign == Sign::CollectiveTimeout).collect();
    let mut by_call: BTreeMap<Option<i64>, BTreeSet<u32>> = BTreeMap::new();
    for t in &timed {
        by_call.entry(t.number).or_default().extend(t.place.rank);
    }
    let (call, waiting) = by_call.iter().max_by_key(|(_, ranks)| ranks.len())?;
    let told = r.traces.iter().filter_map(|t| t.place.rank).chain(r.ranks.keys().copied());
    let all: BTreeSet<u32> = (0..=told.max()?.min(1 << 20)).collect();
    let ranks: BTreeSet<u32> = all.difference(waiting).copied().collect();
    // Those that wait in another call of another group say nothing of this one; half of a job is no culprit.
    if ranks.is_empty() || ranks.len() > waiting.len() {
        return None;
    }
    let by = timed.into_iter().filter(|t| t.number == *call).collect();
    Some(Cause::Absent { ranks, told: Told::Watchdogs(by) })
}

fn by_peers(r: &Remains) -> Option<Cause<'_>> {
    let first = |f: &dyn Fn(Sign) -> bool| earliest(&r.traces.iter().filter(|t| f(t.sign)).collect::<Vec<_>>());
    let broken = first(&|s| matches!(s, Sign::RdmaError | Sign::PeerClosed));
    let unreached = first(&|s| matches!(s, Sign::Refused | Sign::NoRoute));
    // Where nothing ever broke, nothing was ever joined.
    if let (None, Some(unreached)) = (broken, unreached) {
        return Some(Cause::Unreached(unreached));
    }
    lost(r).or_else(|| first(&|s| s == Sign::RdmaError).map(Cause::Path))
}

/// Whoever others lost.
fn lost(r: &Remains) -> Option<Cause<'_>> {
    let complaints: Vec<&Trace> =
        r.traces.iter().filter(|t| Kind::of(t) == Kind::Peer && t.names.is_some() && t.place.node.is_some()).collect();
    // Whoever writes is alive. What is complained of and writes nothing is the one that went.
    let alive: BTreeSet<&NodeName> = r
        .traces
        .iter()
        .filter(|t| !matches!(Kind::of(t), Kind::Outside | Kind::Killed))
        .filter_map(|t| t.place.node.as_ref())
        .collect();
    let mut votes: BTreeMap<NodeName, (BTreeSet<&NodeName>, Option<Timestamp>)> = BTreeMap::new();
    for t in &complaints {
        let peer = NodeName(t.names.clone().unwrap_or_default());
        let (by, first) = votes.entry(peer).or_default();
        by.extend(t.place.node.as_ref());
        *first = [*first, t.at].into_iter().flatten().min();
    }
    let silent: Vec<&NodeName> = votes.keys().filter(|peer| !alive.contains(peer)).collect();
    let all = votes.values().map(|(by, _)| by.len()).max()?;
    let named: Vec<&NodeName> = match silent.len() {
        0 => votes.iter().filter(|(_, (by, _))| by.len() == all && all > 1).map(|(peer, _)| peer).collect(),
        _ => silent,
    };
    let [node] = named[..] else { return None };
    let by = complaints.into_iter().filter(|t| t.names.as_deref() == Some(&node.0)).collect();
    Some(Cause::Lost { node: node.clone(), by })
}
