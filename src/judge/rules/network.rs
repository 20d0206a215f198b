//! Pairs and groups of nodes -> who is to blame.

use std::collections::HashSet;

use crate::id::NodeName;
use crate::judge::Cell;
use crate::judge::finding::{Finding, Severity, Subject, doc};
use crate::localise::{self, Group, Part};
use crate::measure::Outcome;
use crate::record::Record;
use crate::unit::Unit;

/// A fabric that carries less than this share across leaves under full load of what it carries when quiet is
/// oversubscribed.
const OVERSUBSCRIBED: f64 = 0.8;
/// How much slower than others of its size a group may be.
const SCALE_MARGIN: f64 = 0.3;

pub(super) fn findings(record: &Record, cells: &[Cell<'_>], findings: &mut Vec<Finding>) {
    pairs(record, findings);
    let culprits: HashSet<NodeName> =
        findings.iter().filter(|f| f.severity >= Severity::Hold).filter_map(|f| f.subject.node().cloned()).collect();
    ladder(record, cells, &culprits, findings);
    transport(record, findings);
}

fn pairs(record: &Record, findings: &mut Vec<Finding>) {
    let network = localise::network(record);
    if network.pairs.tests.is_empty() {
        return;
    }
    let verdict = network.pairs.verdict();
    let name = |i: u32| network.nodes[i as usize].clone();
    let leaf_name = |l: u32| {
        let of_leaf = network.nodes.iter().zip(&network.pairs.leaf).find(|(_, x)| **x == l).map(|(n, _)| (*n).clone());
        let named = of_leaf.and_then(|n| record.header.leaves.iter().find(|leaf| leaf.nodes.contains(&n)));
        named.map_or_else(|| format!("leaf {l}"), |leaf| leaf.name.clone())
    };
    let tests = |i: u32| network.pairs.tests.iter().filter(|t| t.a == i || t.b == i).count();
    let share = |s: f64| format!("{:.0} % of the pairs of its round", 100.0 * s);
    let source = "the median of the same round and hop class";
    let both = |i: u32| {
        let part = |p: Part| verdict.bad.iter().find(|(b, _)| *b == p).map(|(_, s)| *s);
        (part(Part::Sends(i)), part(Part::Receives(i)))
    };
    for i in 0..network.pairs.nodes {
        let (code, best, way) = match both(i) {
            (Some(s), Some(r)) => ("NET-020", s.max(r), "in both directions"),
            (Some(s), None) => ("NET-021", s, "sending"),
            (None, Some(r)) => ("NET-022", r, "receiving"),
            (None, None) => continue,
        };
        let (code, evidence) = if best == 0.0 {
            ("NET-027", format!("no connection with any of {} partners", tests(i)))
        } else {
            (code, format!("{way}, its best of {} tests reached {}", tests(i), share(best)))
        };
        findings.push(Finding::new(doc(code), Subject::Node(name(i)), evidence).limit(source));
    }
    for (part, best) in &verdict.bad {
        let (leaf, way) = match part {
            Part::Up(l) => (*l, "out of"),
            Part::Down(l) => (*l, "into"),
            Part::Sends(_) | Part::Receives(_) => continue,
        };
        let evidence = format!("traffic {way} the leaf reached at best {}, within it all is well", share(*best));
        findings.push(Finding::new(doc("NET-024"), Subject::Leaf(leaf_name(leaf)), evidence).limit(source));
    }
    for (from, to, best) in &verdict.pairs {
        let evidence = format!("three tests of this pair, at best {}; both nodes do well with others", share(*best));
        findings.push(Finding::new(doc("NET-023"), Subject::Link(name(*from), name(*to)), evidence).limit(source));
    }
    for i in &verdict.open {
        let evidence = format!("{} tests do not tell whether the node or its partners are slow", tests(*i));
        findings.push(Finding::new(doc("NET-028"), Subject::Node(name(*i)), evidence));
    }
    let f = network.pairs.fabric();
    let show = |v: f64| Unit::BytePerSecond.show(v);
    let (busy, quiet) = (f.inter, f.inter_quiet.into_iter().chain(f.intra).reduce(f64::max));
    if let (Some(busy), Some(quiet)) = (busy, quiet)
        && busy < OVERSUBSCRIBED * quiet
    {
        let evidence = format!(
            "across leaves, {} a pair under full load against {} within them or when quiet: {:.0} %; no node is to blame",
            show(busy),
            show(quiet),
            100.0 * busy / quiet
        );
        findings.push(Finding::new(doc("NET-025"), Subject::Run, evidence));
    }
}

/// Groups of one size, held against each other.
fn ladder(record: &Record, cells: &[Cell<'_>], culprits: &HashSet<NodeName>, findings: &mut Vec<Finding>) {
    let mut told: Vec<&Vec<NodeName>> = Vec::new();
    for step in record.steps.iter().filter(|s| s.name.starts_with("collective-") && s.groups.len() >= 3) {
        let Some(case) = step.cases.iter().rfind(|c| c.starts_with("all-reduce")) else { continue };
        let rate = |group: &Vec<NodeName>| {
            let cell = cells.iter().find(|c| {
                c.row.step == step.name && c.row.case == case && *c.row.node == group[0] && c.series.metric == "busbw"
            });
            cell.and_then(|c| Some(c.summary?.median))
        };
        let level: Vec<Group> = step.groups.iter().map(|g| Group { nodes: Vec::new(), busbw: rate(g) }).collect();
        // A group that was not measured has its own finding.
        for (i, share) in localise::scale_suspects(&level, SCALE_MARGIN) {
            let group = &step.groups[i];
            if level[i].busbw.is_none() || group.iter().any(|n| culprits.contains(n)) {
                continue;
            }
            // A larger group is slow because the smaller one in it is: the smallest is what to look at.
            if told.iter().any(|t| t.iter().all(|n| group.contains(n))) {
                continue;
            }
            told.push(group);
            let evidence = format!(
                "{case}: {:.0} % of the busbw of the {} other groups of this size, and no pair of its nodes is slow",
                100.0 * share,
                level.len() - 1
            );
            findings.push(Finding::new(doc("COL-020"), Subject::Group(group.clone()), evidence));
        }
    }
}

/// Traffic that left by another interface than the one that bears the address.
fn transport(record: &Record, findings: &mut Vec<Finding>) {
    let mut told: HashSet<NodeName> = HashSet::new();
    for line in &record.outcomes {
        let Outcome::Measured(m) = &line.outcome else { continue };
        for t in &m.transport {
            let Some(claimed) = &t.interface else { continue };
            // Between two nodes under one kernel, loopback carries what is sent to either's address.
            let by = |name: &str| t.counted.iter().filter(|(n, _)| n == name).map(|(_, b)| *b).sum::<u64>();
            let other = t.counted.iter().filter(|(n, _)| n != claimed && n != "lo").max_by_key(|(_, b)| *b);
            let Some((other, bytes)) = other else { continue };
            // Half of the payload elsewhere and not where it was claimed: headers and chatter explain neither.
            if by(claimed) < t.bytes / 2 && *bytes > t.bytes / 2 && told.insert(t.node.clone()) {
                let evidence = format!(
                    "{}: {} were sent from {claimed}'s address; {claimed} counted {}, {other} counted {}",
                    line.step,
                    crate::unit::Bytes(t.bytes),
                    crate::unit::Bytes(by(claimed)),
                    crate::unit::Bytes(*bytes)
                );
                findings.push(Finding::new(doc("NET-026"), Subject::Node(t.node.clone()), evidence));
            }
        }
    }
}
