//! What the kernels at both ends of a flow counted beside it -> links that lose packets, that come and go, that others use.

use std::collections::{BTreeMap, HashSet};

use crate::id::NodeName;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Proof, Rule, Subject};
use crate::judge::rules::stretch::Stretch;
use crate::judge::severity::Severity;
use crate::localise::{self, Disturbed, Lossy, Network, Plane, Side};
use crate::measure::{LinkEnd, Transport, stats};
use crate::record::{OutcomeLine, Record};
use crate::unit::{Unit, several};
use crate::work::Metric;

/// Share of segments sent again from which a node is left out: TCP's rate falls with the root of it, and at 0.3 % a flow with a round
/// trip of 100 us and packets of 1500 bytes stays below 3 Gbit/s (Mathis et al. 1997).
const LOSES: f64 = 3e-3;
/// Flows that lose, and their share of all, from which it is the network's: queues that overflow, not links that fail.
const FLOWS: usize = 3;
const MANY: f64 = 0.2;
/// A link that went and came once may have been somebody's hand; one that did so twice is not stable.
const FLAPS: u64 = 4;
/// Tests without others' traffic, with as many partners, that clear a node all the same.
const PARTNERS: usize = 2;

/// Others' traffic: before the pairs are judged, as it is why some of them were not.
pub(super) fn busy(network: &Network<'_>, plane: &Plane, findings: &mut Vec<Finding>) {
    let on = plane.label();
    let mut by_end: BTreeMap<(&NodeName, &str), Vec<&Disturbed<'_>>> = BTreeMap::new();
    for d in &network.disturbed {
        by_end.entry((&d.end.node, &d.end.interface)).or_default().push(d);
    }
    for ((node, interface), tests) in by_end {
        let Some(most) = tests.iter().max_by(|a, b| a.others.total_cmp(&b.others)) else { continue };
        let show = |v: f64| Unit::BytePerSecond.show(v);
        // A rail is called by the device that is its interface.
        let on = if plane.rail.as_deref() == Some(interface) && !plane.late { "" } else { &on };
        let evidence = format!(
            "{on}{interface} carried up to {} beside the test's own {}, in {}, not counted",
            show(most.others),
            show(most.rate),
            several(tests.len(), "test")
        );
        let number = network.nodes.iter().position(|n| *n == node).map(|i| i as u32);
        let met = network.pairs.tests.iter().filter(|t| number.is_some_and(|n| t.a == n || t.b == n));
        let mut partners: Vec<u32> = met.map(|t| if Some(t.a) == number { t.b } else { t.a }).collect();
        partners.sort_unstable();
        partners.dedup();
        let cleared = partners.len() >= PARTNERS.min(network.nodes.len().saturating_sub(1));
        let severity = if cleared { Severity::Warn } else { Severity::Hold };
        let finding = Finding::new(Code::NET_036, Subject::Node(node.clone()), evidence).severity(severity);
        findings.push(finding.on_interface(Some(interface)));
    }
}

/// Nodes whose flows lose segments; those that the pairs named already lose them because they are slow, or are slow because of it.
pub(super) fn lossy(record: &Record, plane: &Plane, network: &Network<'_>, on: &str, findings: &mut Vec<Finding>) {
    let tests = localise::losses(record, plane, network);
    let lossy = localise::lossy(&tests);
    let (losing, all) = localise::unexplained(&tests, &lossy, LOSES);
    if losing >= FLOWS && losing as f64 >= MANY * all as f64 {
        let evidence = format!(
            "{on}{losing} of {all} flows had to send {} or more of their segments again, and no node explains it",
            percent(LOSES)
        );
        findings.push(Finding::new(Code::NET_034, Subject::Run, evidence).severity(Severity::Warn));
    }
    for l in lossy {
        let node = network.nodes[l.node as usize];
        if let Some(named) =
            findings.iter_mut().find(|f| f.severity == Severity::Fail && f.subject.node() == Some(node))
        {
            named.evidence.push_str(&format!("; {}", shown(&l)));
            continue;
        }
        let severity = if l.share >= LOSES { Severity::Fail } else { Severity::Warn };
        let evidence = format!("{on}{}", shown(&l));
        let limit = format!("{} of the segments of the others' flows were", percent(l.usual));
        let finding =
            Finding::new(Code::NET_034, Subject::Node(node.clone()), evidence).severity(severity).limit(limit);
        let interface = lines(record, plane).flat_map(ends).find(|e| e.node == *node).map(|e| e.interface.as_str());
        findings.push(finding.on_interface(interface).proven(Rule::Lost, proof(record, plane, node, &l)));
    }
}

fn percent(share: f64) -> String {
    if share == 0.0 { "none".to_owned() } else { format!("{:.2} %", 100.0 * share) }
}

fn shown(l: &Lossy) -> String {
    let way = match l.side {
        Side::Both => "it sends and receives",
        Side::Sends => "it sends",
        Side::Receives => "it receives",
    };
    format!(
        "{} of the segments that {way} had to be sent again, in {} of {} flows with {} partners",
        percent(l.share),
        l.slow,
        l.flows,
        l.partners
    )
}

/// The flows of a node: what they reached, and what share of the segments was sent again beside what others' were.
fn proof(record: &Record, plane: &Plane, node: &NodeName, l: &Lossy) -> Vec<Proof> {
    let of = |line: &OutcomeLine, t: &Transport| {
        let [from, to] = &**t.ends.as_ref()?;
        let share = t.segments?.share_again()?;
        let rate = line.outcome.measured()?.series.iter().find(|s| s.metric == Metric::Bandwidth)?;
        (from.node == *node || to.node == *node).then(|| Proof {
            to: Some(to.node.clone()),
            metric: Some(Metric::Bandwidth),
            measured: Some(stats::median(&rate.samples)),
            sent_again: Some(share),
            speaks: share >= l.least(),
            ..Proof::new(&from.node, &line.step, &line.case)
        })
    };
    lines(record, plane)
        .flat_map(|line| {
            line.outcome.measured().map_or(&[][..], |m| &m.transport).iter().filter_map(move |t| of(line, t))
        })
        .collect()
}

/// The outcomes of a plane's pairs, in the order measured.
fn lines<'r>(record: &'r Record, plane: &Plane) -> impl Iterator<Item = &'r OutcomeLine> {
    let steps = record.steps.iter().filter(|s| Plane::of(s).as_ref() == Some(plane));
    let names: HashSet<&str> = steps.map(|s| s.name.as_str()).collect();
    record.outcomes.iter().filter(move |l| names.contains(&*l.step))
}

/// Both ends of each flow of an outcome.
fn ends(line: &OutcomeLine) -> impl Iterator<Item = &LinkEnd> {
    let transport = line.outcome.measured().map_or(&[][..], |m| &m.transport);
    transport.iter().filter_map(|t| t.ends.as_ref()).flat_map(|e| e.iter())
}

/// An interface's counters as they first and last stood.
struct Span {
    carrier: (u64, u64),
    errors: (u64, u64),
}

/// Interfaces in use whose carrier came and went during the check, or that counted errors: from what discovery found to the last
/// test.
pub(super) fn unstable(record: &Record, findings: &mut Vec<Finding>) {
    let mut spans: BTreeMap<(&NodeName, &str), Span> = BTreeMap::new();
    let mut see = |node, interface, carrier: Option<u64>, errors: Option<u64>| {
        let (carrier, errors) = (carrier.unwrap_or(0), errors.unwrap_or(0));
        let first = Span { carrier: (carrier, carrier), errors: (errors, errors) };
        let span = spans.entry((node, interface)).or_insert(first);
        (span.carrier.1, span.errors.1) = (carrier.max(span.carrier.1), errors.max(span.errors.1));
    };
    let flows = || record.outcomes.beyond_samples().flat_map(|(line, _)| ends(line));
    let used: HashSet<(&NodeName, &str)> = flows().map(|e| (&e.node, e.interface.as_str())).collect();
    for (node, machine) in record.machines() {
        for nic in machine.nics.iter().filter(|nic| used.contains(&(node, nic.name.as_str()))) {
            // Of a record that does not have them, the first test's count.
            if nic.carrier_changes.is_some() && nic.errors.is_some() {
                see(node, &nic.name, nic.carrier_changes, nic.errors);
            }
        }
    }
    flows().for_each(|e| see(&e.node, &e.interface, e.state.carrier_changes, e.state.errors));
    for ((node, interface), span) in spans {
        let (carrier, errors) = (span.carrier.1 - span.carrier.0, span.errors.1 - span.errors.0);
        moved(node, interface, carrier, errors, Stretch::Check, findings);
    }
}

/// An interface in use that counted so many changes of its carrier, and packets with errors.
pub(super) fn moved(
    node: &NodeName,
    interface: &str,
    carrier: u64,
    errors: u64,
    over: Stretch,
    findings: &mut Vec<Finding>,
) {
    let during = over.during();
    if carrier > 0 {
        let severity = if carrier >= FLAPS { Severity::Fail } else { Severity::Hold };
        let evidence = format!("the carrier of {interface} came or went {carrier} times {during}");
        let finding = Finding::new(Code::NET_035, Subject::Node(node.clone()), evidence).severity(severity);
        findings.push(finding.on_interface(Some(interface)));
    }
    if errors > 0 {
        let evidence = format!("{interface} counted {errors} packets with errors {during}");
        let finding = Finding::new(Code::NET_037, Subject::Node(node.clone()), evidence);
        findings.push(finding.on_interface(Some(interface)));
    }
}
