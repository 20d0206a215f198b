//! What a run left behind -> why it ended, with whom, and what to do before it starts again.

mod cause;

use std::collections::{BTreeMap, BTreeSet};

use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::rules::xids;
use crate::judge::severity::Severity;
use crate::measure::{self, Place, Remains, Sign, SourceKind, Stall, Trace, Wired};
use crate::record::Record;
use crate::work::{Case, Fact};
use cause::{Cause, Kind, Told, cause};

/// Ranks that a line names.
const SHOWN: usize = 8;
/// Nodes that a cause is told of.
const NODES: usize = 16;
/// GPUs of a node that it is told by.
const PARTS: usize = 4;

/// What was found, and on which node it was read.
pub fn remains(record: &Record) -> Option<(&NodeName, &Remains)> {
    record.steps.iter().find(|s| s.cases.contains(&Case::Fact(Fact::Remains)))?;
    record.outcomes.facts().find_map(|(line, f)| match f {
        measure::Facts::Remains(r) => Some((&*line.node, &**r)),
        _ => None,
    })
}

pub(super) fn findings(r: &Remains, findings: &mut Vec<Finding>) {
    let cause = cause(r);
    match &cause {
        Some(Cause::Lines(kind, traces)) => lines(r, *kind, traces, findings),
        Some(Cause::Absent { ranks, told }) => absent(r, ranks, told, findings),
        Some(Cause::Disagree(stalls)) => disagree(stalls, findings),
        Some(Cause::Stuck(s)) => {
            let text =
                format!("all {} ranks of {} came to {}, and none goes on", s.waiting.len(), clean(&s.group), call(s));
            findings.push(Finding::new(Code::MOR_013, Subject::Run, text));
        }
        Some(Cause::Lost { node, by }) => lost(r, node, by, findings),
        Some(Cause::Path(t)) => path(r, t, findings),
        Some(Cause::Unreached(t)) => {
            let text = format!("{}: {}", t.sign.text(), told(r, t));
            findings.push(Finding::new(Code::MOR_020, Subject::Run, text));
        }
        Some(Cause::FewTold(s)) => {
            let told = s.waiting.len() + s.behind.len();
            let text = format!("{told} of {} ranks of {} told: too few to say who is missing", s.size, clean(&s.group));
            findings.push(Finding::new(Code::MOR_014, Subject::Run, text));
        }
        None => findings.push(Finding::new(Code::MOR_014, Subject::Run, nothing(r))),
    }
    let of_cause = |t: &Trace| match &cause {
        Some(Cause::Lines(_, traces)) => traces.iter().any(|c| std::ptr::eq(*c, t)),
        _ => false,
    };
    others(r, &of_cause, findings);
    for s in r.sources.iter().filter(|s| s.trouble.is_some()) {
        let text = format!("{}: {}", clean(&s.name), clean(s.trouble.as_deref().unwrap_or("")));
        findings.push(Finding::new(Code::MOR_016, Subject::Run, text));
    }
    for change in &r.changes {
        let subject = change.node.clone().map_or(Subject::Run, Subject::Node);
        let severity = if change.weighs { Severity::Hold } else { Severity::Warn };
        findings.push(Finding::new(Code::MOR_017, subject, clean(&change.what).into_owned()).severity(severity));
    }
}

fn nothing(r: &Remains) -> String {
    let lines: u64 = r.sources.iter().map(|s| s.lines).sum();
    let logs = r.sources.iter().filter(|s| s.kind == SourceKind::Log).count();
    let effects = r.traces.iter().map(|t| t.times).sum::<u64>();
    let of = if effects > 0 { format!(", {effects} of them of what follows an error") } else { String::new() };
    format!("{lines} lines of {logs} logs{of}; none says why it began")
}

/// `train.log:120, 09:50:18 UTC, rank 3 on node3: ...`
fn told(r: &Remains, t: &Trace) -> String {
    let source = r.sources.get(t.source).map_or("?", |s| s.name.as_str());
    let after = if t.inherited { "after " } else { "" };
    let at = t.at.map_or(String::new(), |at| format!(", {after}{}", at.strftime("%Y-%m-%d %H:%M:%S UTC")));
    let times = if t.times > 1 { format!(" ({} times)", t.times) } else { String::new() };
    format!("{}:{}{at}{}: {}{times}", clean(source), t.line, who(&t.place), clean(t.text.trim()))
}

fn who(place: &Place) -> String {
    let rank = place.rank.map_or(String::new(), |r| format!(", rank {r}"));
    let node = place.node.as_ref().map_or(String::new(), |n| format!(" on {n}"));
    if rank.is_empty() && !node.is_empty() { format!(",{node}") } else { format!("{rank}{node}") }
}

fn call(s: &Stall) -> String {
    let operation = if s.operation.is_empty() { "collective" } else { &s.operation };
    format!("{} number {}", clean(operation), s.sequence)
}

fn ranks(of: impl IntoIterator<Item = u32>) -> String {
    let all: Vec<String> = of.into_iter().map(|r| r.to_string()).collect();
    let word = if all.len() == 1 { "rank" } else { "ranks" };
    let more = all.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{word} {}{more}", all[..all.len().min(SHOWN)].join(", "))
}

/// `; GPU 3 is GPU-5fc3, at mlx5_3, whose cable ends at leaf07 port 12`, of what a check knew of these places; empty without one.
fn hardware<'p>(r: &Remains, places: impl Iterator<Item = &'p Place>) -> String {
    let places: BTreeSet<(&NodeName, u32)> = places.filter_map(|p| p.node.as_ref().zip(p.gpu)).collect();
    let parts = r.parts.iter().filter(|p| places.contains(&(&p.node, p.gpu)));
    parts.take(PARTS).map(|p| format!("; GPU {} is {}{}", p.gpu, clean(&p.uuid), wired(&p.adapters))).collect()
}

fn wired(adapters: &[Wired]) -> String {
    let cable = |w: &Wired| match &w.to[..] {
        [] => clean(&w.device).into_owned(),
        to => format!("{}, whose cable ends at {}", clean(&w.device), clean(&to.join(" and "))),
    };
    let all: Vec<String> = adapters.iter().map(cable).collect();
    if all.is_empty() { String::new() } else { format!(", at {}", all.join("; and at ")) }
}

/// A cause that lines tell: once a node.
fn lines(r: &Remains, kind: Kind, traces: &[&Trace], findings: &mut Vec<Finding>) {
    let code = match kind {
        Kind::Gpu => Code::MOR_001,
        Kind::Node => Code::MOR_002,
        Kind::Link => Code::MOR_003,
        Kind::Storage => Code::MOR_004,
        Kind::HostMemory => Code::MOR_005,
        Kind::GpuMemory => Code::MOR_006,
        Kind::Program => Code::MOR_007,
        Kind::Outside if traces.iter().any(|t| t.sign == Sign::SomeNodeFailed) => Code::MOR_002,
        Kind::Outside => Code::MOR_008,
        Kind::Killed => Code::MOR_009,
        Kind::Disagreement => Code::MOR_011,
        Kind::Setup => Code::MOR_012,
        Kind::Peer | Kind::Waited | Kind::Follows => return,
    };
    let mut by_subject: BTreeMap<Subject, Vec<&Trace>> = BTreeMap::new();
    for t in traces {
        by_subject.entry(subject(r, kind, t)).or_default().push(t);
    }
    // What befell every node is the run's.
    if by_subject.len() > NODES {
        by_subject = BTreeMap::from([(Subject::Run, traces.to_vec())]);
    }
    for (subject, of) in by_subject {
        let meaning = of[0].number.and_then(|n| xids::meaning(u32::try_from(n).ok()?));
        let sign = match (of[0].sign, of[0].number, meaning) {
            (Sign::Xid, Some(code), Some(meaning)) => format!("Xid {code}, {meaning}"),
            (sign, ..) => sign.text().to_owned(),
        };
        let more = if of.len() > 1 { format!("; {} more lines say so", of.len() - 1) } else { String::new() };
        let hardware = match kind {
            Kind::Gpu | Kind::Link => hardware(r, of.iter().map(|t| &t.place)),
            _ => String::new(),
        };
        let finding = Finding::new(code, subject, format!("{sign}: {}{more}{hardware}", told(r, of[0])));
        // Of which node is not known: nothing is proven against any.
        findings.push(if kind == Kind::Outside && code == Code::MOR_002 {
            finding.severity(Severity::Hold)
        } else {
            finding
        });
    }
}

/// With whom it is: a node where the node is the matter, and the run where any node would have done the same.
fn subject(r: &Remains, kind: Kind, t: &Trace) -> Subject {
    let Some(node) = t.place.node.clone() else { return Subject::Run };
    let alone = r.ranks.values().all(|p| p.node.as_ref() == Some(&node));
    match (kind, t.sign) {
        (Kind::Gpu, _) => t.place.gpu.map_or(Subject::Node(node.clone()), |g| Subject::Gpu(node, g)),
        (Kind::Node | Kind::Link | Kind::HostMemory | Kind::Killed, _) => Subject::Node(node),
        (Kind::Storage, Sign::ReadOnly | Sign::IoError | Sign::StaleHandle | Sign::Denied) if !alone => {
            Subject::Node(node)
        }
        (Kind::Setup, Sign::PeerAccess) => Subject::Node(node),
        (
            Kind::Setup,
            Sign::SharedMemory
            | Sign::NoInterface
            | Sign::Memlock
            | Sign::OpenFiles
            | Sign::GpuBusy
            | Sign::RdmaSetup
            | Sign::Processes
            | Sign::MissingLibrary,
        ) if !alone => Subject::Node(node),
        _ => Subject::Run,
    }
}

/// Ranks that did not come, by their nodes.
fn absent(r: &Remains, missing: &BTreeSet<u32>, by: &Told<'_>, findings: &mut Vec<Finding>) {
    let how = match by {
        Told::Stalls(stalls) => {
            let waiting: BTreeSet<u32> = stalls.iter().flat_map(|s| s.waiting.iter().copied()).collect();
            let source = r.sources.get(stalls[0].source).map_or("?", |s| s.name.as_str());
            format!(
                "{} others wait in {} of {} ({})",
                waiting.len(),
                call(stalls[0]),
                clean(&stalls[0].group),
                clean(source)
            )
        }
        Told::Watchdogs(traces) => {
            let waiting: BTreeSet<u32> = traces.iter().filter_map(|t| t.place.rank).collect();
            // A launcher that names the missing does not always say who waits.
            let many = if waiting.is_empty() { "the".to_owned() } else { waiting.len().to_string() };
            format!("{many} others waited until their patience ended ({})", told(r, traces[0]))
        }
    };
    let silent = |rank: u32| match by {
        Told::Stalls(stalls) => stalls.iter().any(|s| s.silent.contains(&rank)),
        Told::Watchdogs(_) => r.traces.iter().all(|t| t.place.rank != Some(rank)),
    };
    let mut by_node: BTreeMap<Option<NodeName>, Vec<u32>> = BTreeMap::new();
    for rank in missing {
        by_node.entry(r.ranks.get(rank).and_then(|p| p.node.clone())).or_default().push(*rank);
    }
    for (node, of) in by_node {
        let tells = if of.iter().all(|rank| silent(*rank)) { ", and told nothing of itself" } else { "" };
        let unknown =
            if node.is_none() { "; where it ran is not known: give --before RECORD, or NCCL's own log" } else { "" };
        let hardware = hardware(r, of.iter().filter_map(|rank| r.ranks.get(rank)));
        let text = format!("{} did not come{tells}; {how}{hardware}{unknown}", ranks(of));
        findings.push(Finding::new(Code::MOR_010, node.map_or(Subject::Run, Subject::Node), text));
    }
}

fn disagree(stalls: &[&Stall], findings: &mut Vec<Finding>) {
    for s in stalls.iter().take(NODES) {
        let text = match s.different.first() {
            Some((_, what)) => format!(
                "at number {} of {}, {} came with {} and the others with {}",
                s.sequence,
                clean(&s.group),
                ranks(s.different.iter().map(|(rank, _)| *rank)),
                clean(what),
                clean(&s.operation)
            ),
            None => format!(
                "{} of {} wait for {} in {}, which wait for others in another group",
                ranks(s.waiting.iter().copied()),
                clean(&s.group),
                ranks(s.behind.iter().chain(&s.silent).copied()),
                call(s)
            ),
        };
        findings.push(Finding::new(Code::MOR_011, Subject::Run, text));
    }
}

fn lost(r: &Remains, node: &NodeName, by: &[&Trace], findings: &mut Vec<Finding>) {
    let nodes: BTreeSet<String> = by.iter().filter_map(|t| t.place.node.as_ref()).map(|n| n.0.clone()).collect();
    let nodes: Vec<String> = nodes.into_iter().collect();
    let text = format!(
        "{} lost it, and it wrote nothing of an error itself; the first: {}",
        clean(&hostlist::compress(&nodes)),
        told(r, by[0])
    );
    findings.push(Finding::new(Code::MOR_015, Subject::Node(node.clone()), text));
}

/// Between two nodes where both are known.
fn path(r: &Remains, t: &Trace, findings: &mut Vec<Finding>) {
    let known = |name: &String| r.ranks.values().any(|p| p.node.as_ref().is_some_and(|n| n.0 == *name));
    let subject = match (&t.place.node, t.names.as_ref().filter(|n| known(n))) {
        (Some(from), Some(to)) => Subject::Link(from.clone(), NodeName(to.clone())),
        _ => Subject::Run,
    };
    findings.push(Finding::new(Code::MOR_003, subject, told(r, t)).severity(Severity::Hold));
}

/// What else was seen: other parts that failed, and how much followed.
fn others(r: &Remains, of_cause: &dyn Fn(&Trace) -> bool, findings: &mut Vec<Finding>) {
    let rest = || r.traces.iter().filter(|t| !of_cause(t));
    let mut told_of: BTreeSet<(Sign, Option<&NodeName>)> = BTreeSet::new();
    for t in rest().filter(|t| Kind::of(t) <= Kind::Link) {
        if told_of.insert((t.sign, t.place.node.as_ref())) && told_of.len() <= NODES {
            let subject = t.place.node.clone().map_or(Subject::Run, Subject::Node);
            findings.push(Finding::new(Code::MOR_018, subject, format!("{}: {}", t.sign.text(), told(r, t))));
        }
    }
    let mut by_sign: BTreeMap<&str, u64> = BTreeMap::new();
    let mut by_rank: BTreeSet<u32> = BTreeSet::new();
    for t in rest().filter(|t| Kind::of(t) > Kind::Link) {
        *by_sign.entry(t.sign.text()).or_default() += t.times;
        by_rank.extend(t.place.rank);
    }
    if !by_sign.is_empty() {
        let mut all: Vec<(&str, u64)> = by_sign.into_iter().collect();
        all.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let all: Vec<String> = all.iter().map(|(sign, n)| format!("{sign} ({n})")).collect();
        let of = if by_rank.is_empty() { String::new() } else { format!(", of {} ranks", by_rank.len()) };
        findings.push(Finding::new(Code::MOR_019, Subject::Run, format!("{}{of}", all.join(", "))));
    }
}
