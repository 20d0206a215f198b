//! A fabric -> findings: cables by both ends, switches by name. Pure.
//!
//! What a link should reach is told by both ends (iblinkinfo's "Could be"), by the expected topology, or by the others of
//! its kind: what is uniform is not blamed, unless nobody builds it so (one lane, SDR).

mod adapters;
mod counters;
mod like;
mod links;
mod names;
mod rails;
mod rates;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::judge::codes::Code;
use crate::judge::fabric::counters::counters;
use crate::judge::fabric::like::{FEW, UNIFORM, listed, most};
use crate::judge::fabric::links::states;
use crate::judge::fabric::names::{Names, cable, cable_name, is_host};
use crate::judge::fabric::rails::{lost, rails};
use crate::judge::fabric::rates::rates;
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::topology::ib::{End, Fabric, Gap, Kind, Node, Skipped, Subnet};
use crate::unit::several;

/// A leaf whose ratio of hosts' to uplinks' capacity differs by more is not like the others.
const UNEVEN: f64 = 0.25;

/// Everything that is wrong with a fabric, worst first.
pub fn findings(fabric: &Fabric) -> Vec<Finding> {
    let mut out = Vec::new();
    for subnet in fabric.subnets() {
        alone(subnet, &mut out);
        open(subnet, &mut out);
        uplinks(subnet, &mut out);
        rails(subnet, &mut out);
        lost(subnet, &mut out);
        doubles(subnet, &mut out);
        against(subnet, fabric.expected.as_ref(), &mut out);
    }
    let joined = fabric.joined();
    if let (Some(all), Some(expected)) = (joined.as_deref(), &fabric.expected) {
        let (all, expected) = comparable(all, expected);
        cabling(&all, &expected, &mut out);
        unexpected(&all, &expected, &mut out);
    }
    let names = Names::of(fabric, joined.as_deref());
    if let Some(links) = &fabric.links {
        states(links, &names, &mut out);
    }
    if let Some(errors) = &fabric.errors {
        counters(errors, fabric.before.as_deref(), &names, &mut out);
    }
    if let Some(all) = &fabric.adapters {
        adapters::findings(all, &names, &mut out);
    }
    managers(fabric, &mut out);
    unread(fabric, &mut out);
    // What the rates of the topology, iblinkinfo and ibstat all say is said once, at its worst.
    out.sort_by_key(|f| std::cmp::Reverse(f.severity));
    let mut seen = BTreeSet::new();
    let of_run = |f: &Finding| (f.subject == Subject::Run).then(|| f.evidence.clone());
    out.retain(|f| seen.insert((f.code, f.subject.clone(), of_run(f))));
    out.sort_by(|a, b| (b.severity, &a.code, &a.subject).cmp(&(a.severity, &b.code, &b.subject)));
    out
}

/// A capture that reached nothing: the adapter that it was made from has no link.
fn alone(subnet: &Subnet, out: &mut Vec<Finding>) {
    if subnet.nodes.is_empty() || subnet.nodes.values().any(|n| !n.ports.is_empty()) {
        return;
    }
    let names: Vec<&str> = subnet.nodes.values().map(|n| n.name.trim()).take(4).collect();
    let evidence =
        format!("{} is connected with nothing: no switch and no other adapter was reached", names.join(", "));
    out.push(Finding::new(Code::FAB_003, Subject::Run, evidence));
}

/// Adapters' ports without anything at their other end. Of a switch that is ordinary; of an adapter, the second port may be meant to
/// have none.
fn open(subnet: &Subnet, out: &mut Vec<Finding>) {
    // That it is alone was said.
    if subnet.nodes.values().all(|n| n.ports.is_empty()) {
        return;
    }
    for end in subnet.open.iter().filter(|e| is_host(subnet, e.guid)) {
        let evidence = "no cable, or nothing at its other end";
        let subject = Subject::Cable(subnet.show(*end), "nothing".to_owned());
        out.push(Finding::new(Code::FAB_003, subject, evidence).severity(Severity::Warn));
    }
}

/// What links run at, also against the expected topology.
fn against(subnet: &Subnet, expected: Option<&Subnet>, out: &mut Vec<Finding>) {
    match expected {
        Some(expected) => {
            let (subnet, expected) = comparable(subnet, expected);
            rates(&subnet, Some(&expected), out);
        }
        None => rates(subnet, None, out),
    }
}

/// Two topologies that can be held against each other. One of them may be a ports report, which knows no adapters but their ports:
/// then the other is taken by ports, too.
fn comparable<'s>(subnet: &'s Subnet, expected: &'s Subnet) -> (Cow<'s, Subnet>, Cow<'s, Subnet>) {
    if subnet.by_port || expected.by_port {
        (Cow::Owned(subnet.split_by_port()), Cow::Owned(expected.split_by_port()))
    } else {
        (Cow::Borrowed(subnet), Cow::Borrowed(expected))
    }
}

/// Leaves with fewer uplinks than the others, and leaves that are more oversubscribed.
fn uplinks(subnet: &Subnet, out: &mut Vec<Finding>) {
    let leaves = subnet.leaf_switches();
    // Switches of other models are other leaves.
    let mut by_model: BTreeMap<Option<u32>, Vec<_>> = BTreeMap::new();
    for l in leaves.into_iter().filter(|l| !l.up.is_empty()) {
        by_model.entry(l.node.device).or_default().push(l);
    }
    for leaves in by_model.values().filter(|l| l.len() >= FEW) {
        let counts: Vec<usize> = leaves.iter().map(|l| l.up.len()).collect();
        let Some((usual, n)) = most(counts.iter()) else { continue };
        let uniform = n as f64 >= UNIFORM * leaves.len() as f64;
        for l in leaves {
            let capacity =
                |ports: &[u32]| -> f64 { ports.iter().filter_map(|p| l.node.ports.get(p)?.rate.gbps()).sum::<f64>() };
            if uniform && l.up.len() < *usual {
                let mut to: BTreeMap<u64, usize> = BTreeMap::new();
                for port in l.up.iter().filter_map(|p| l.node.ports.get(p)) {
                    *to.entry(port.peer).or_default() += 1;
                }
                let most_to = to.values().copied().max().unwrap_or(0);
                let short: Vec<String> = to
                    .iter()
                    .filter(|(_, n)| **n < most_to)
                    .filter_map(|(guid, n)| Some(format!("{} to {}", n, subnet.nodes.get(guid)?.name.trim())))
                    .take(3)
                    .collect();
                let only = if short.is_empty() { String::new() } else { format!("; only {}", short.join(", ")) };
                let evidence = format!("{} uplinks{only}", l.up.len());
                let limit = format!("{usual} uplinks: {n} of {} leaves of this model", leaves.len());
                out.push(
                    Finding::new(Code::FAB_004, Subject::Switch(switch_name(subnet, l.node)), evidence).limit(limit),
                );
                continue;
            }
            // A leaf with few hosts is not yet full; one with more than its uplinks carry is told.
            let ratio = capacity(&l.down) / capacity(&l.up).max(1.0);
            let others: Vec<f64> = leaves.iter().map(|o| o.down.len() as f64 / o.up.len() as f64).collect();
            let median = crate::measure::stats::median(&others);
            let own = l.down.len() as f64 / l.up.len() as f64;
            if ratio > 1.0 + UNEVEN && own > (1.0 + UNEVEN) * median {
                let evidence = format!(
                    "{} hosts' ports over {} uplinks: {ratio:.1} to 1 oversubscribed",
                    l.down.len(),
                    l.up.len()
                );
                let limit = format!("{median:.1} ports an uplink, the median of {} leaves", leaves.len());
                out.push(
                    Finding::new(Code::FAB_014, Subject::Switch(switch_name(subnet, l.node)), evidence).limit(limit),
                );
            }
        }
    }
}

fn switch_name(subnet: &Subnet, node: &Node) -> String {
    let shown = subnet.show(End { guid: node.guid, port: 0 });
    shown.strip_suffix(" port 0").unwrap_or(&shown).to_owned()
}

/// GUIDs and LIDs that two have.
fn doubles(subnet: &Subnet, out: &mut Vec<Finding>) {
    for (guid, a, b) in &subnet.twice {
        // A file that was put together from two captures says the same node twice.
        if a.trim() != b.trim() {
            let evidence = format!("0x{guid:016x} is {} and {}", a.trim(), b.trim());
            out.push(Finding::new(Code::FAB_012, Subject::Run, evidence));
        }
    }
    claimed_twice(subnet, out);
    let mut lids: BTreeMap<u16, BTreeSet<End>> = BTreeMap::new();
    for node in subnet.nodes.values() {
        if let Some(lid) = node.lid.filter(|_| node.kind == Kind::Switch) {
            lids.entry(lid).or_default().insert(End { guid: node.guid, port: 0 });
        }
        for (number, port) in node.ports.iter().filter(|_| node.kind != Kind::Switch) {
            if let Some(lid) = port.lid {
                lids.entry(lid).or_default().insert(End { guid: node.guid, port: *number });
            }
        }
    }
    // 0 and 65535 say that no manager has given one.
    for (lid, ends) in lids.into_iter().filter(|(lid, ends)| ends.len() > 1 && (1..0xc000).contains(lid)) {
        let names: Vec<String> = ends.iter().take(4).map(|e| subnet.show(*e)).collect();
        out.push(Finding::new(Code::FAB_013, Subject::Run, format!("LID {lid} is that of {}", names.join(", "))));
    }
}

/// A port has one cable: where two ports say that they are connected with it, there are two nodes of one GUID, whatever they are called.
fn claimed_twice(subnet: &Subnet, out: &mut Vec<Finding>) {
    let mut claims: BTreeMap<End, BTreeSet<End>> = BTreeMap::new();
    for node in subnet.nodes.values() {
        for (number, port) in &node.ports {
            let to = End { guid: port.peer, port: port.peer_port };
            claims.entry(to).or_default().insert(End { guid: node.guid, port: *number });
        }
    }
    let named = |guid: u64| subnet.twice.iter().any(|(g, a, b)| *g == guid && a.trim() != b.trim());
    for (port, by) in claims.iter().filter(|(port, by)| by.len() > 1 && !named(port.guid)) {
        let ends: Vec<String> = by.iter().take(4).map(|e| subnet.show(*e)).collect();
        let evidence = format!(
            "0x{:016x}: {} say that {} is at their other end",
            port.guid,
            ends.join(" and "),
            subnet.show(*port)
        );
        out.push(Finding::new(Code::FAB_012, Subject::Run, evidence));
    }
}

/// Cables against the topology as it should be.
fn cabling(subnet: &Subnet, expected: &Subnet, out: &mut Vec<Finding>) {
    for c in expected.cables() {
        let goes_to = |end: End| {
            let port = subnet.nodes.get(&end.guid)?.ports.get(&end.port)?;
            Some(End { guid: port.peer, port: port.peer_port })
        };
        let (from_a, from_b) = (goes_to(c.a), goes_to(c.b));
        if from_a == Some(c.b) || from_b == Some(c.a) {
            continue;
        }
        // Names as they were: a host that is gone is not in the new capture.
        let subject = cable(expected, c.a, c.b);
        let elsewhere = [(c.a, from_a), (c.b, from_b)].into_iter().find_map(|(end, to)| Some((end, to?)));
        match elsewhere {
            Some((end, to)) => {
                let evidence = format!("{} is now connected with {}", expected.show(end), subnet.show(to));
                out.push(Finding::new(Code::FAB_008, subject, evidence).limit("the expected topology"));
            }
            None => {
                let gone: Vec<String> = [c.a, c.b]
                    .iter()
                    .filter(|e| !subnet.nodes.contains_key(&e.guid))
                    .filter_map(|e| Some(expected.nodes.get(&e.guid)?.name.trim().to_owned()))
                    .collect();
                let why = if gone.is_empty() {
                    "nothing answers at either end".to_owned()
                } else {
                    format!("{} is not in the fabric", gone.join(" and "))
                };
                out.push(Finding::new(Code::FAB_007, subject, why).limit("the expected topology"));
            }
        }
    }
}

fn managers(fabric: &Fabric, out: &mut Vec<Finding>) {
    let Some(sms) = &fabric.sms else { return };
    let masters: BTreeSet<u64> = sms.iter().filter(|s| s.master).map(|s| s.guid).collect();
    let name = |guid: &u64| {
        let nodes = fabric.subnets().flat_map(|s| s.nodes.values());
        let mut of = nodes.filter(|n| n.guid == *guid || n.ports.values().any(|p| p.guid == Some(*guid)));
        of.next().map_or_else(|| format!("0x{guid:016x}"), |n| n.name.trim().to_owned())
    };
    if masters.is_empty() && sms.iter().any(|s| !s.is_told) {
        // An old sminfo tells no state: it asked the manager that gave the LIDs, and that one answered.
    } else if masters.is_empty() {
        let evidence = match sms.len() {
            0 => "no manager answers".to_owned(),
            1 => "1 manager answers, and it is not master".to_owned(),
            n => format!("{n} managers answer, none of them is master"),
        };
        out.push(Finding::new(Code::FAB_010, Subject::Run, evidence));
    } else if masters.len() > 1 {
        let names: Vec<String> = masters.iter().map(name).collect();
        out.push(Finding::new(Code::FAB_011, Subject::Run, format!("{} are both master", names.join(" and "))));
    }
}

/// Cables that the expected topology does not have, between ports that it has nothing at. Where only a part of it was read, that says
/// nothing.
fn unexpected(subnet: &Subnet, expected: &Subnet, out: &mut Vec<Finding>) {
    if undescribed(expected).is_some() {
        return;
    }
    let used: BTreeSet<End> = expected.cables().iter().flat_map(|c| [c.a, c.b]).collect();
    let mut of_new: Vec<String> = Vec::new();
    for c in subnet.cables().iter().filter(|c| !used.contains(&c.a) && !used.contains(&c.b)) {
        if expected.nodes.contains_key(&c.a.guid) && expected.nodes.contains_key(&c.b.guid) {
            let finding = Finding::new(Code::FAB_008, cable(subnet, c.a, c.b), "this cable is not expected");
            out.push(finding.limit("the expected topology has none at either port").severity(Severity::Warn));
        } else {
            of_new.push(cable_name(subnet, c.a, c.b));
        }
    }
    if !of_new.is_empty() {
        let evidence = format!("{} of nodes that are new: {}", several(of_new.len(), "cable"), listed(&of_new));
        let finding = Finding::new(Code::FAB_008, Subject::Run, evidence).limit("the expected topology");
        out.push(finding.severity(Severity::Warn));
    }
}

/// What was not understood, and nodes that others point at and nobody describes.
fn unread(fabric: &Fabric, out: &mut Vec<Finding>) {
    let mut files: BTreeMap<&str, Vec<&Skipped>> = BTreeMap::new();
    for (file, skipped) in &fabric.skipped {
        files.entry(file).or_default().push(skipped);
    }
    // Where no port was read nothing is proven.
    let is_nothing = fabric.is_empty() && !(fabric.skipped.is_empty() && fabric.gaps.is_empty());
    let told = |evidence: String| {
        let finding = Finding::new(Code::FAB_015, Subject::Run, evidence);
        if is_nothing { finding.severity(Severity::Hold) } else { finding }
    };
    for (file, all) in files {
        let Some(first) = all.first() else { continue };
        let lines = if all.len() == 1 { "1 line was".to_owned() } else { format!("{} lines were", all.len()) };
        out.push(told(format!("{lines} not understood, the first is {file}:{}: {}", first.line, first.text)));
    }
    for (file, gap) in &fabric.gaps {
        let what = match gap {
            Gap::Sums(n) => format!(
                "of {} only the sum over all ports was captured: whose errors they are cannot be told",
                several(*n, "node")
            ),
            Gap::Unlisted { beyond, listed } => {
                let have = if *beyond == 1 { "port has" } else { "ports have" };
                format!("its summary says that {beyond} {have} errors beyond threshold, and {listed} are listed")
            }
            Gap::Empty => "there is no port in it".to_owned(),
            Gap::Cut => "it ends within a line".to_owned(),
        };
        out.push(told(format!("{file}: {what}")));
    }
    if let Some(evidence) = fabric.expected.as_ref().and_then(undescribed) {
        let evidence = format!("of the expected topology {evidence}");
        out.push(Finding::new(Code::FAB_015, Subject::Run, evidence));
    }
    for subnet in fabric.subnets() {
        if let Some(evidence) = undescribed(subnet) {
            out.push(Finding::new(Code::FAB_015, Subject::Run, evidence));
        }
    }
}

/// Nodes that others point at and nobody describes.
fn undescribed(subnet: &Subnet) -> Option<String> {
    let peers: BTreeSet<u64> = subnet.nodes.values().flat_map(|n| n.ports.values().map(|p| p.peer)).collect();
    let missing: Vec<String> =
        peers.iter().filter(|g| !subnet.nodes.contains_key(g)).map(|g| format!("0x{g:016x}")).collect();
    let are = if missing.len() == 1 { "1 node is".to_owned() } else { format!("{} nodes are", missing.len()) };
    let first = missing[..missing.len().min(4)].join(", ");
    (!missing.is_empty()).then(|| format!("{are} pointed at and not described: {first}"))
}
