//! Pairs and groups of nodes -> who is to blame.

use std::collections::{BTreeMap, HashSet};

use crate::forecast;
use crate::id::NodeName;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Proof, Rule, Subject};
use crate::judge::rules::links;
use crate::judge::rules::prices::Prices;
use crate::judge::severity::Severity;
use crate::localise::{self, Held, Hop, Open, Plane, Reading, Side, Verdict};
use crate::measure::{FailKind, LinkEnd, Outcome, stats};
use crate::plan::RunPlan;
use crate::record::Record;
use crate::unit::Unit;
use crate::work::{Metric, Way};

/// A fabric that carries less than this share across leaves under full load of what it carries when quiet is
/// oversubscribed.
const OVERSUBSCRIBED: f64 = 0.8;

/// Of the link's nominal rate, what the fastest pairs reach on any network that is well (the floors for RDMA fail there).
const LEAST_OF_NOMINAL: f64 = 0.6;

/// Of two nodes alone, one direction at less than this share of the other is slow.
const ONE_WAY: f64 = 0.5;

/// Adds to `slow` how much longer a step takes with a node whose network is slow.
pub(super) fn findings(
    record: &Record,
    run: &RunPlan,
    slow: &mut BTreeMap<NodeName, f64>,
    findings: &mut Vec<Finding>,
) {
    for plane in localise::planes(record) {
        pairs(record, run, &plane, slow, findings);
    }
    let culprits: HashSet<NodeName> =
        findings.iter().filter(|f| f.severity >= Severity::Hold).filter_map(|f| f.subject.node().cloned()).collect();
    for rail in localise::carriers(record) {
        ladder(record, rail, &culprits, findings);
    }
    transport(record, findings);
    links::unstable(record, findings);
}

fn pairs(
    record: &Record,
    run: &RunPlan,
    plane: &Plane,
    slow: &mut BTreeMap<NodeName, f64>,
    findings: &mut Vec<Finding>,
) {
    // On the usual network every node is to be measured; on others, those that have them.
    let all = if *plane == Plane::TCP { &record.header.nodes[..] } else { &[] };
    let network = localise::network_among(record, plane, all);
    let on = plane.label();
    if network.pairs.tests.is_empty() && network.disturbed.is_empty() {
        return;
    }
    links::busy(&network, plane, findings);
    let (verdict, held) = network.pairs.judged();
    for f in verdict.nodes.iter().filter(|f| f.deficit.share < 1.0) {
        let worst = slow.entry(network.nodes[f.node as usize].clone()).or_default();
        *worst = worst.max(forecast::longer(f.deficit.share));
    }
    let before = findings.len();
    let prices = Prices::new(record, run, verdict.nodes.iter().map(|f| f.deficit.share));
    nodes(record, plane, &network, &verdict, &prices, &on, findings);
    let leaves = localise::leaves(record);
    let leaf_name = |l: u32| {
        let of_leaf = network.nodes.iter().zip(&network.pairs.leaf).find(|(_, x)| **x == l).map(|(n, _)| (*n).clone());
        let named = of_leaf.and_then(|n| leaves.iter().find(|leaf| leaf.nodes.contains(&n)));
        Subject::Leaf(named.map_or_else(|| format!("leaf {l}"), |leaf| leaf.name.clone()))
    };
    for (l, sure) in verdict.leaves.iter().map(|l| (l, true)).chain(verdict.open_leaves.iter().map(|l| (l, false))) {
        let way = if l.up { "out of" } else { "into" };
        let crossed = format!("{on}traffic {way} the leaf loses {} in {} readings", lost(&l.deficit), l.readings);
        let finding = if sure {
            let evidence = format!("{crossed} over {} of its nodes; within it all is well", l.nodes);
            Finding::new(Code::NET_024, leaf_name(l.leaf), evidence)
        } else {
            // Nobody is left out for it: with two leaves it may be the other's uplinks as well.
            let evidence = format!(
                "{crossed} ({}); too few rounds, or too few other leaves, tell whose uplinks it is",
                leaf_name(l.leaf)
            );
            Finding::new(Code::NET_028, Subject::Run, evidence)
        };
        findings.push(finding.limit(SOURCE));
    }
    let name = |i: u32| network.nodes[i as usize].clone();
    for p in &verdict.pairs {
        let of = if p.slow == p.tests { "each".to_owned() } else { p.slow.to_string() };
        let evidence = format!(
            "{on}loses {} in {of} of {} tests of this pair; both nodes do well with others",
            lost(&p.deficit),
            p.tests
        );
        findings.push(Finding::new(Code::NET_023, Subject::Link(name(p.from), name(p.to)), evidence).limit(SOURCE));
    }
    if verdict.uneven {
        let evidence = format!(
            "{on}{} of {} readings are slow and no node, leaf or pair explains them",
            verdict.unexplained, verdict.readings
        );
        findings.push(Finding::new(Code::NET_028, Subject::Run, evidence).limit(SOURCE));
    }
    prove(&network, &held, &mut findings[before..]);
    never_tested(&network, &on, findings);
    against_nominal(&network, &verdict, &on, findings);
    unanswered(record, plane, &network, findings);
    if network.pairs.nodes == 2 {
        one_way(&network, &on, findings);
    }
    across(&network, &on, findings);
    links::lossy(record, plane, &network, &on, findings);
}

/// Gives what the verdict names the readings that it rests on: those of a node, of a link, of what crosses a leaf's border; of the
/// run, all that are slow.
fn prove(network: &localise::Network<'_>, held: &[Held], findings: &mut [Finding]) {
    let name = |i: u32| network.nodes[i as usize];
    let proof = |h: &Held| {
        let step = network.steps.get(h.round as usize)?;
        let way = if h.back { Way::Back } else { Way::Out };
        let case = step.cases.iter().find(|c| c.pair_way() == Some(way))?;
        Some(Proof {
            to: Some(name(h.to).clone()),
            metric: Some(Metric::Bandwidth),
            measured: h.rate,
            expected: Some(h.reference),
            speaks: h.slow,
            ..Proof::new(name(h.from), &step.name, case)
        })
    };
    for finding in findings {
        let rests_on = |h: &&Held| match &finding.subject {
            Subject::Node(n) => name(h.from) == n || name(h.to) == n,
            Subject::Link(a, b) => (name(h.from) == a && name(h.to) == b) || (name(h.from) == b && name(h.to) == a),
            Subject::Leaf(_) => h.slow && network.pairs.hop(h.from, h.to) == Hop::Inter,
            _ => h.slow,
        };
        let proof = held.iter().filter(rests_on).filter_map(proof).collect();
        (finding.rule, finding.proof) = (Some(Rule::Localised), proof);
    }
}

/// Share of its time without a core from which a node's own load may be what makes it slow.
const STARVED: f64 = 0.2;

/// What a pair is held against.
const SOURCE: &str = "the fastest group of pairs of the same round and hop class";

/// A deficit with its interval.
fn lost(d: &localise::Deficit) -> String {
    format!("{:.0} % of the rate ({:.0} to {:.0} %)", 100.0 * d.share, 100.0 * d.low.max(0.0), 100.0 * d.high)
}

/// Nodes that are slow, and those that nobody can clear.
fn nodes(
    record: &Record,
    plane: &Plane,
    network: &localise::Network<'_>,
    verdict: &Verdict,
    prices: &Prices,
    on: &str,
    findings: &mut Vec<Finding>,
) {
    let name = |i: u32| network.nodes[i as usize].clone();
    for f in &verdict.nodes {
        let (code, way) = match f.side {
            Side::Both => (Code::NET_020, "in both directions"),
            Side::Sends => (Code::NET_021, "sending"),
            Side::Receives => (Code::NET_022, "receiving"),
        };
        let dead = f.deficit.share >= 1.0;
        let (code, evidence) = if let Some(said) = stalled(record, plane, &name(f.node)).filter(|_| dead) {
            (Code::NET_031, format!("{on}with each of {} partners; {said}", f.partners))
        } else if dead {
            (Code::NET_027, format!("{on}no connection with any of {} partners", f.partners))
        } else {
            let shown = format!("{} of {} readings with {} partners", f.slow, f.readings, f.partners);
            let starved = starved(record, plane, &name(f.node));
            (code, format!("{on}{way}, it loses {}, by {shown}{starved}; {}", lost(&f.deficit), prices.of(&f.deficit)))
        };
        let severity = if !dead && prices.is_worth_keeping(&f.deficit) { Severity::Warn } else { Severity::Fail };
        let interface =
            plane.rail.as_deref().filter(|_| plane.carrier().is_none()).or_else(|| interface(record, &name(f.node)));
        let finding = Finding::new(code, Subject::Node(name(f.node)), evidence).limit(SOURCE);
        findings.push(finding.severity(severity).on_interface(interface));
    }
    for (i, why) in &verdict.open {
        let node = name(*i);
        let evidence = match why {
            // Whose absence is told already needs no second word.
            Open::Untested { .. } if findings.iter().any(|f| speaks_for(f, &node)) => continue,
            Open::Untested { partners: 0 } => format!("{on}no partner that is well itself was measured with it"),
            Open::Untested { partners } => {
                format!(
                    "{on}{partners} partner that is well itself was measured with it; two tell a node from its partner"
                )
            }
            Open::Suspected { slow, readings, probability } => format!(
                "{on}{slow} of {readings} readings are slow: {:.0} % likely the node's own fault, by others' traffic or its \
                 partners else",
                100.0 * probability
            ),
            Open::Recurring { slow, tests } => format!(
                "{on}slow in {slow} of {tests} tests, more than others' traffic explains, and neither a leaf nor a pair is why: it comes and goes, \
                 here or at its partners"
            ),
        };
        findings.push(Finding::new(Code::NET_028, Subject::Node(node), evidence));
    }
}

/// Nodes of which no test came about, with whichever of several partners: nobody may take them for well because their partners are to blame as much.
fn never_tested(network: &localise::Network<'_>, on: &str, findings: &mut Vec<Finding>) {
    let mut partners: BTreeMap<u32, (HashSet<u32>, bool)> = BTreeMap::new();
    for t in &network.pairs.tests {
        let came = [t.out, t.back].iter().any(|r| matches!(r, Reading::Rate(_)));
        for (own, other) in [(t.a, t.b), (t.b, t.a)] {
            let of = partners.entry(own).or_default();
            of.0.insert(other);
            of.1 |= came;
        }
    }
    for (i, (partners, _)) in partners.iter().filter(|(_, (with, came))| !came && with.len() > 1) {
        let node = network.nodes[*i as usize].clone();
        if !findings.iter().any(|f| speaks_for(f, &node)) {
            let evidence = format!("{on}no test came about with any of {} partners, which may be why", partners.len());
            findings.push(Finding::new(Code::NET_028, Subject::Node(node), evidence));
        }
    }
}

/// Whether a finding that weighs is about a node.
fn speaks_for(f: &Finding, node: &NodeName) -> bool {
    f.severity >= Severity::Hold && f.subject.node() == Some(node)
}

/// Even the fastest pairs stay behind what the hardware nominally carries: no node can be told from another by that.
fn against_nominal(network: &localise::Network<'_>, verdict: &Verdict, on: &str, findings: &mut Vec<Finding>) {
    let (Some(nominal), Some(fastest)) = (network.pairs.nominal, verdict.fastest) else { return };
    if fastest < LEAST_OF_NOMINAL * nominal {
        let show = |v: f64| Unit::BytePerSecond.show(v);
        let evidence = format!(
            "{on}even the fastest pairs reach {} of the link's {}: {:.0} %; all are slow, or nobody met a node that is well",
            show(fastest),
            show(nominal),
            100.0 * fastest / nominal
        );
        findings.push(Finding::new(Code::NET_028, Subject::Run, evidence).limit("the link's nominal rate"));
    }
}

/// Pairs across leaves against those within them.
fn across(network: &localise::Network<'_>, on: &str, findings: &mut Vec<Finding>) {
    let f = network.pairs.fabric();
    let show = |v: f64| Unit::BytePerSecond.show(v);
    let best = f.inter_quiet.into_iter().chain(f.intra).max_by(|a, b| a.median.total_cmp(&b.median));
    let (Some(busy), Some(best)) = (f.inter, best) else { return };
    if busy.high < OVERSUBSCRIBED * best.low {
        let rates = format!(
            "{on}across leaves, {} a pair under full load against {} within them or when quiet: {:.0} %",
            show(busy.median),
            show(best.median),
            100.0 * busy.median / best.median
        );
        // An oversubscribed fabric carries a few pairs as well as any; a slow uplink does not.
        let alone = f.inter_quiet.filter(|q| q.high < OVERSUBSCRIBED * best.low);
        let finding = match alone {
            Some(alone) => {
                let evidence = format!("{rates}; and {} with few pairs at a time", show(alone.median));
                Finding::new(Code::NET_025, Subject::Run, evidence).severity(Severity::Hold)
            }
            None if f.inter_quiet.is_none() => {
                let evidence = format!("{rates}; nothing says whether few pairs at a time do better");
                Finding::new(Code::NET_025, Subject::Run, evidence).severity(Severity::Hold)
            }
            None => Finding::new(Code::NET_025, Subject::Run, format!("{rates}; no node is to blame")),
        };
        findings.push(finding);
    }
}

/// What the tests of a node say, where each that broke off had opened its connections and nothing arrived over them.
fn stalled<'r>(record: &'r Record, plane: &Plane, node: &NodeName) -> Option<&'r str> {
    let mut said = None;
    for step in record.steps.iter().filter(|s| Plane::of(s).as_ref() == Some(plane)) {
        let Some(group) = step.groups().find(|g| g.contains(node)) else { continue };
        for line in record.outcomes.iter().filter(|l| *l.step == *step.name && *l.node == group[0]) {
            match &line.outcome {
                Outcome::Failed { kind: FailKind::Stalled, error } => said = Some(error.as_str()),
                Outcome::Failed { .. } | Outcome::TimedOut { .. } => return None,
                Outcome::Measured(_) | Outcome::Waived { .. } => {}
            }
        }
    }
    said
}

/// That a node's own threads lacked cores while it was measured, and others' did not: no fault of its link. Empty where it is not so.
fn starved(record: &Record, plane: &Plane, node: &NodeName) -> String {
    let lines = record.outcomes.iter().filter(|l| l.probe == plane.probe && l.case.pair_way().is_some());
    let flows = lines.filter_map(|l| l.outcome.measured()).flat_map(|m| &m.transport);
    let ends = flows.filter_map(|t| Some(t.ends.as_ref()?.iter().zip(t.without_core()?))).flatten();
    let (here, elsewhere): (Vec<_>, Vec<_>) = ends.partition(|(end, _)| end.node == *node);
    let waited = |ends: Vec<(&LinkEnd, f64)>| stats::median(&ends.iter().map(|(_, w)| *w).collect::<Vec<f64>>());
    let (here, elsewhere) = (waited(here), waited(elsewhere));
    if here < STARVED || here < 2.0 * elsewhere {
        return String::new();
    }
    format!(
        "; its threads had no core for {:.0} % of the time, others' for {:.0} %: look at what else runs there",
        100.0 * here,
        100.0 * elsewhere
    )
}

/// The interface by which a node reaches the others, as its own measurements tell.
fn interface<'r>(record: &'r Record, node: &NodeName) -> Option<&'r str> {
    let mut flows = record.outcomes.beyond_samples().flat_map(|(_, m)| &m.transport);
    flows.find(|t| t.node == *node).and_then(|t| t.interface.as_deref())
}

/// Pairs whose last test broke off, where nothing else explains it.
fn unanswered(record: &Record, plane: &Plane, network: &localise::Network<'_>, findings: &mut Vec<Finding>) {
    let mut last: BTreeMap<(u32, u32), bool> = BTreeMap::new();
    for t in &network.pairs.tests {
        let failed = t.out == Reading::Failed || t.back == Reading::Failed;
        last.insert((t.a.min(t.b), t.a.max(t.b)), failed);
    }
    let blamed: HashSet<&NodeName> = findings
        .iter()
        .filter(|f| f.severity >= Severity::Hold)
        .flat_map(|f| match &f.subject {
            Subject::Node(n) => vec![n],
            Subject::Link(a, b) => vec![a, b],
            _ => Vec::new(),
        })
        .collect();
    let mut found = Vec::new();
    for (a, b) in last.into_iter().filter(|(_, failed)| *failed).map(|(pair, _)| pair) {
        let (a, b) = (network.nodes[a as usize], network.nodes[b as usize]);
        if blamed.contains(a) || blamed.contains(b) {
            continue;
        }
        let steps = record.steps.iter().filter(|s| Plane::of(s).as_ref() == Some(plane));
        let of_pair = |g: &&[NodeName]| g.contains(a) && g.contains(b);
        let error = steps.rev().find_map(|s| {
            let first = &s.groups().find(of_pair)?[0];
            record.outcomes.iter().find_map(|l| match &l.outcome {
                Outcome::Failed { error, .. } if *l.step == *s.name && *l.node == *first => Some(error.clone()),
                Outcome::TimedOut { after_ms, .. } if *l.step == *s.name && *l.node == *first => {
                    Some(format!("no end after {} ms", after_ms))
                }
                _ => None,
            })
        });
        let evidence = error.unwrap_or_else(|| "the test broke off".to_owned());
        found.push(Finding::new(Code::NET_029, Subject::Link(a.clone(), b.clone()), evidence));
    }
    findings.extend(found);
}

/// Two nodes have no others to be held against: their two directions are held against each other.
fn one_way(network: &localise::Network<'_>, on: &str, findings: &mut Vec<Finding>) {
    let rates = |from: u32| -> Option<(f64, f64, f64)> {
        let one = |t: &localise::Test| match if t.a == from { t.out } else { t.back } {
            Reading::Rate(v) => Some(v),
            Reading::Failed => None,
        };
        let all: Vec<f64> = network.pairs.tests.iter().filter_map(one).collect();
        let (least, most) = all.iter().fold((f64::INFINITY, 0f64), |(l, m), r| (l.min(*r), m.max(*r)));
        (!all.is_empty()).then(|| (least, stats::median(&all), most))
    };
    let (Some(out), Some(back)) = (rates(0), rates(1)) else { return };
    let (slow, fast, from, to) = if out.1 < back.1 { (out, back, 0, 1) } else { (back, out, 1, 0) };
    // In every test, not in the middle of them only: with one pair there is nobody else to tell noise by.
    let always = slow.2 < ONE_WAY * fast.0;
    let (slow, fast) = (slow.1, fast.1);
    if always {
        let show = |v: f64| Unit::BytePerSecond.show(v);
        let evidence =
            format!("{on}{}, against {} the other way: {:.0} %", show(slow), show(fast), 100.0 * slow / fast);
        let subject = Subject::Link(network.nodes[from].clone(), network.nodes[to].clone());
        findings.push(Finding::new(Code::NET_030, subject, evidence).limit("the other direction of the same pair"));
    }
}

/// What is slow only in company: the node if halving found it, else the group.
fn ladder(record: &Record, rail: Option<&str>, culprits: &HashSet<NodeName>, findings: &mut Vec<Finding>) {
    let groups = localise::groups(record, rail);
    let on = rail.map_or(String::new(), |r| format!("{r}: "));
    for s in groups.scale.suspects() {
        let nodes: Vec<NodeName> = s.nodes.iter().map(|i| groups.nodes[*i as usize].clone()).collect();
        if nodes.iter().any(|n| culprits.contains(n)) {
            continue;
        }
        let others = if s.others == 1 { "the other group".to_owned() } else { format!("{} other groups", s.others) };
        let slow = format!("{on}{:.0} % of the all-reduce busbw of {others} of {} nodes", 100.0 * s.share, s.size);
        // Of two groups one is always the slower: that alone proves nothing.
        let sure = !s.vanished && (s.others > 1 || s.halvings > 0);
        let severity = if sure { Severity::Fail } else { Severity::Warn };
        let finding = match (&nodes[..], s.vanished) {
            ([node], _) => {
                let evidence = format!("{slow} in {} rounds of halving; no pair of it is slow", s.halvings);
                Finding::new(Code::COL_022, Subject::Node(node.clone()), evidence)
            }
            (_, true) => {
                let evidence = format!("{slow}, once; neither half of it was slow among other nodes");
                Finding::new(Code::COL_020, Subject::Group(nodes), evidence)
            }
            (_, false) => {
                let evidence = format!("{slow}, and no pair of its nodes is slow; halved {} times", s.halvings);
                Finding::new(Code::COL_020, Subject::Group(nodes), evidence)
            }
        };
        findings.push(finding.severity(severity).proven(Rule::Groups, of_size(&groups, &s)));
    }
}

/// Every group of the suspects' size, and whether it speaks against them.
fn of_size(groups: &localise::Groups<'_>, s: &localise::Suspects) -> Vec<Proof> {
    let mut out = Vec::new();
    for (level, (step, case)) in groups.scale.levels.iter().zip(&groups.steps).filter(|(l, _)| l.size == s.size) {
        let expected = level.usual();
        for group in &level.groups {
            let (Some(first), Some(busbw)) = (group.nodes.first(), group.busbw) else { continue };
            out.push(Proof {
                metric: Some(Metric::BusBw),
                measured: Some(busbw),
                expected,
                speaks: s.nodes.iter().any(|n| group.nodes.contains(n)),
                ..Proof::new(groups.nodes[*first as usize], &step.name, case)
            });
        }
    }
    out
}

/// Traffic that left by another interface than the one that bears the address.
fn transport(record: &Record, findings: &mut Vec<Finding>) {
    let mut told: HashSet<NodeName> = HashSet::new();
    for (line, m) in record.outcomes.beyond_samples() {
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
                findings.push(Finding::new(Code::NET_026, Subject::Node(t.node.clone()), evidence));
            }
        }
    }
}
