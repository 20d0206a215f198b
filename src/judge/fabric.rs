//! A fabric -> findings: cables by both ends, switches by name. Pure.
//!
//! What a link should reach is told by both ends (iblinkinfo's "Could be"), by the expected topology, or by the others of
//! its kind: no list of hardware is needed, and what is uniform is not blamed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::judge::adapters;
use crate::judge::codes::Code;
use crate::judge::fabric_names::{Names, cable, is_host};
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::topology::ib::{Cable, Counter, End, Fabric, Kind, LinkState, Node, PortErrors, Rate, Subnet};

/// A kind of link is uniform when this share of it has one rate.
const UNIFORM: f64 = 0.75;
/// Fewer of a kind tell nothing.
const FEW: usize = 4;
/// Errors of the wire below this count are those of plugging it in (ibqueryerrors' own default threshold).
const PLUGGED: u64 = 10;
/// A leaf whose ratio of hosts' to uplinks' capacity differs by more is not like the others.
const UNEVEN: f64 = 0.25;

/// More links than this that are slow in the same way are slow by design.
const ALIKE: usize = 32;

/// Counters of a bad cable, connector or port.
const WIRE: &[&str] = &[
    "SymbolErrorCounter",
    "LinkErrorRecoveryCounter",
    "PortRcvErrors",
    "LocalLinkIntegrityErrors",
    "ExcessiveBufferOverrunErrors",
    "LinkDownedCounter",
    "PortLocalPhysicalErrors",
];
/// Told beside them, never alone: another port saw the error first, or it is ordinary.
const ASIDE: &[&str] = &["PortRcvRemotePhysicalErrors", "PortMalformedPktErrors", "PortInactiveDiscards"];
const DROPS: &[&str] = &["PortXmitDiscards", "PortSwLifetimeLimitDiscards", "PortSwHOQLifetimeLimitDiscards"];
const WAIT: &str = "PortXmitWait";

/// Everything that is wrong with a fabric, worst first.
pub fn findings(fabric: &Fabric) -> Vec<Finding> {
    let mut out = Vec::new();
    if let Some(subnet) = &fabric.subnet {
        alone(subnet, &mut out);
        open(subnet, &mut out);
        uplinks(subnet, &mut out);
        rails(subnet, &mut out);
        doubles(subnet, &mut out);
        against(subnet, fabric.expected.as_ref(), &mut out);
    }
    let names = Names::of(fabric);
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
    out.retain(|f| seen.insert((f.code, f.subject.clone())));
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

/// Rates and cables, also against the expected topology. One of the two may be a ports report, which knows no adapters but their
/// ports: then the other is taken by ports, too.
fn against(subnet: &Subnet, expected: Option<&Subnet>, out: &mut Vec<Finding>) {
    if let Some(expected) = expected {
        let by_port = subnet.by_port || expected.by_port;
        let like = |subnet: &Subnet| by_port.then(|| subnet.split_by_port());
        let (own, was) = (like(subnet), like(expected));
        let (subnet, expected) = (own.as_ref().unwrap_or(subnet), was.as_ref().unwrap_or(expected));
        rates(subnet, Some(expected), out);
        cabling(subnet, expected, out);
    } else {
        rates(subnet, None, out);
    }
}

/// Links slower than the others of their kind, or than they were.
fn rates(subnet: &Subnet, expected: Option<&Subnet>, out: &mut Vec<Finding>) {
    let cables = subnet.cables();
    let was: HashMap<(End, End), Rate> =
        expected.map(|e| e.cables().into_iter().map(|c| ((c.a, c.b), c.rate)).collect()).unwrap_or_default();
    // Of a kind: the same models at both ends.
    let model = |guid: u64| subnet.nodes.get(&guid).map(|n| (n.kind, n.device));
    let kind = |c: &Cable| {
        let mut ends = [model(c.a.guid), model(c.b.guid)];
        ends.sort();
        ends
    };
    let known = |ends: &[Option<(Kind, Option<u32>)>; 2]| ends.iter().all(|end| end.is_some_and(|(_, d)| d.is_some()));
    let mut kinds: BTreeMap<_, Vec<&Rate>> = BTreeMap::new();
    for c in &cables {
        kinds.entry(kind(c)).or_default().push(&c.rate);
    }
    let usual: BTreeMap<_, (Rate, String)> = kinds
        .into_iter()
        .filter_map(|(kind, rates)| {
            let (usual, n) = most(rates.iter().copied())?;
            let clear = rates.len() >= FEW && n as f64 >= UNIFORM * rates.len() as f64;
            let like =
                if known(&kind) { "the same models" } else { "nodes of the same kind, whose models were not told" };
            clear.then(|| (kind, (usual.clone(), format!("{n} of {} links between {like}", rates.len()))))
        })
        .collect();
    // One lane is what is left of a link: nobody builds one. However few links there are, one wider shows what its kind can do.
    let mut widest: BTreeMap<_, &Rate> = BTreeMap::new();
    for c in &cables {
        let best = widest.entry(kind(c)).or_insert(&c.rate);
        if c.rate.width > best.width {
            *best = &c.rate;
        }
    }
    let lanes_lost = |c: &Cable| {
        let best = widest.get(&kind(c)).filter(|best| c.rate.width == 1 && best.width > 1)?;
        Some(((*best).clone(), "the widest link between the same models".to_owned()))
    };
    for c in &cables {
        let expected = was.get(&(c.a, c.b)).map(|rate| (rate.clone(), "the expected topology".to_owned()));
        // Nodes whose models nobody told may be meant to differ; what one lane runs at is no design.
        let certain = expected.is_some() || c.rate.width == 1 || known(&kind(c));
        let like = expected.or_else(|| usual.get(&kind(c)).cloned()).or_else(|| lanes_lost(c));
        let Some((reference, source)) = like else { continue };
        let is_slower = match (c.rate.speed.lane_gbps(), reference.speed.lane_gbps()) {
            (Some(ours), Some(theirs)) => ours < 0.99 * theirs,
            _ => false,
        };
        let code = match c.rate.width > 0 && c.rate.width < reference.width {
            true => Code::FAB_001,
            false if is_slower => Code::FAB_002,
            false => continue,
        };
        let finding = Finding::new(code, cable(subnet, c.a, c.b), format!("it runs at {}", c.rate));
        let finding = finding.limit(format!("{reference}: {source}"));
        out.push(if certain { finding } else { finding.severity(Severity::Warn) });
    }
}

/// The most frequent value, and how often.
fn most<'a, T: Eq + std::hash::Hash + 'a>(values: impl Iterator<Item = &'a T>) -> Option<(&'a T, usize)> {
    let mut counts: HashMap<&T, usize> = HashMap::new();
    for v in values {
        *counts.entry(v).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, n)| *n)
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

/// In a fabric with a rail a leaf, adapters that hang at another rail's leaf.
fn rails(subnet: &Subnet, out: &mut Vec<Finding>) {
    // Devices of each leaf, as hosts call them.
    let mut leaves: Vec<Vec<(&str, &str, End, End)>> = Vec::new();
    for leaf in subnet.leaf_switches() {
        let at = |number: &u32| {
            let port = leaf.node.ports.get(number)?;
            let (host, device) = subnet.nodes.get(&port.peer)?.host()?;
            let own = End { guid: leaf.node.guid, port: *number };
            Some((host, device, own, End { guid: port.peer, port: port.peer_port }))
        };
        leaves.push(leaf.down.iter().filter_map(at).collect());
    }
    leaves.retain(|l| l.len() >= FEW);
    let labels: BTreeSet<&str> = leaves.iter().flatten().map(|(_, d, ..)| *d).collect();
    if labels.len() < 2 || leaves.len() < 2 {
        return;
    }
    let main = |leaf: &Vec<(&'_ str, &'_ str, End, End)>| -> Option<(String, usize)> {
        let devices: Vec<&str> = leaf.iter().map(|(_, d, ..)| *d).collect();
        most(devices.iter()).map(|(d, n)| ((*d).to_owned(), n))
    };
    let pure: Vec<Option<String>> =
        leaves.iter().map(|l| main(l).filter(|(_, n)| *n as f64 >= UNIFORM * l.len() as f64).map(|(d, _)| d)).collect();
    // Where leaves mix rails by design, nothing is crossed.
    if (pure.iter().flatten().count() as f64) < UNIFORM * leaves.len() as f64
        || pure.iter().flatten().collect::<BTreeSet<_>>().len() < 2
    {
        return;
    }
    let places: Vec<(&str, &str, &str, End, End)> = leaves
        .iter()
        .zip(&pure)
        .filter_map(|(leaf, rail)| Some((leaf, rail.as_deref()?)))
        .flat_map(|(leaf, rail)| leaf.iter().map(move |(host, device, own, peer)| (*host, *device, rail, *own, *peer)))
        .collect();
    let at: HashMap<(&str, &str), &str> = places.iter().map(|(h, d, r, ..)| ((*h, *d), *r)).collect();
    for (host, device, rail, own, peer) in places.iter().filter(|(_, d, r, ..)| d != r) {
        // Swapped: its own device of that rail hangs where this one belongs. A host that merely counts its devices in
        // another way has no such pair.
        if at.get(&(*host, *rail)) == Some(device) {
            let evidence =
                format!("{device} hangs at a leaf where the others are {rail}, and {rail} where they are {device}");
            let subject = cable(subnet, *peer, *own);
            out.push(Finding::new(Code::FAB_009, subject, evidence).limit("the other ports of these leaves"));
        }
    }
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

/// Links that can do more, and ports that try to come up.
fn states(links: &[LinkState], names: &Names<'_>, out: &mut Vec<Finding>) {
    let subject = |l: &LinkState| {
        let end = names.end(l.guid, Some(l.lid), l.port);
        let own = names.show(end, &l.name, (l.guid, Some(l.lid)), l.port);
        let peer = l
            .peer
            .as_ref()
            .map(|(lid, port, name)| names.show(names.end(None, Some(*lid), *port), name, (None, Some(*lid)), *port));
        match (end, end.and_then(|e| names.peer(e)), names.subnet, peer) {
            (Some(a), Some(b), Some(subnet), _) => cable(subnet, a, b),
            // Both ends print it: one order for both.
            (.., Some(peer)) => Subject::Cable(own.clone().min(peer.clone()), own.max(peer)),
            _ => Subject::Cable(own, "nothing".to_owned()),
        }
    };
    let up = links.iter().filter(|l| l.rate.is_some()).count();
    // What nearly every link could be is what a simulator or a switch model says of itself.
    let mut hints: HashMap<String, usize> = HashMap::new();
    for l in links {
        for hint in could_be(&l.could_be) {
            *hints.entry(hint).or_default() += 1;
        }
    }
    let mut slow: BTreeMap<(String, String), Vec<&LinkState>> = BTreeMap::new();
    for l in links {
        let hints: Vec<String> = could_be(&l.could_be).into_iter().filter(|h| 2 * hints[h] <= up.max(1)).collect();
        if let (false, Some(rate)) = (hints.is_empty(), &l.rate) {
            slow.entry((rate.to_string(), hints.join(", "))).or_default().push(l);
        }
        let training = matches!(l.physical.as_str(), "PortConfigurationTraining" | "LinkErrorRecovery");
        let unused = matches!(l.state.as_str(), "Initialize" | "Armed");
        if training || unused {
            let evidence = format!("{} / {}", l.state, l.physical);
            out.push(Finding::new(Code::FAB_003, subject(l), evidence));
        } else if l.kind == Kind::Ca && l.state == "Down" {
            // Of a switch, ports without a cable are ordinary; of an adapter, the second port may be meant to have none.
            let evidence = format!("{} / {}: no cable, or nothing at its other end", l.state, l.physical);
            out.push(Finding::new(Code::FAB_003, subject(l), evidence).severity(Severity::Warn));
        }
    }
    for ((rate, could), links) in slow {
        let code = if could.split(", ").any(|h| h.ends_with('X')) { Code::FAB_001 } else { Code::FAB_002 };
        let limit = format!("{could}: what both ends can do");
        // Dozens alike are how it was built, splitter cables most often: said once, and no cable is called bad.
        if links.len() > ALIKE {
            let evidence = format!("{} ports run at {rate}", links.len());
            out.push(Finding::new(code, Subject::Run, evidence).limit(limit).severity(Severity::Warn));
            continue;
        }
        for l in links {
            out.push(Finding::new(code, subject(l), format!("it runs at {rate}")).limit(limit.clone()));
        }
    }
}

/// `Could be 4X Could be 53.125 Gbps` in parts.
fn could_be(text: &str) -> Vec<String> {
    text.split("Could be").map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect()
}

/// How far a counter moved.
fn moved_by(old: Option<&Counter>, now: &Counter) -> u64 {
    match old {
        // What the old query no longer counted stands in the extended counter: when it came cannot be told.
        Some(old) if old.is_at_end() && now.end.is_none() => 0,
        // A counter that went back was cleared: what it shows is all new.
        Some(old) => now.value.checked_sub(old.value).unwrap_or(now.value),
        None => now.value,
    }
}

/// Counters of both ends of a cable in one finding.
fn counters(errors: &[PortErrors], before: Option<&[PortErrors]>, names: &Names<'_>, out: &mut Vec<Finding>) {
    type Key = (Option<u64>, Option<u32>, u32);
    let key = |p: &PortErrors| -> Key { (p.guid, p.lid, p.port) };
    let earlier: HashMap<Key, &PortErrors> = before.unwrap_or(&[]).iter().map(|p| (key(p), p)).collect();
    let moved = |p: &PortErrors, counter: &Counter| {
        let old = earlier.get(&key(p)).and_then(|o| o.counters.iter().find(|c| c.name == counter.name));
        moved_by(old, counter)
    };
    // By both ends, or by name where they are not known: what of the wire, what of drops, and whom it is about.
    type Cables = BTreeMap<(Option<(End, End)>, String), (Vec<String>, Vec<String>, Subject)>;
    let mut cables = Cables::new();
    // Counters that stood at their end before: they cannot show whether anything came since.
    let mut stuck: Vec<String> = Vec::new();
    for p in errors {
        let end = names.end(p.guid, p.lid, p.port);
        let peer = end.and_then(|e| names.peer(e));
        let own = names.show(end, &p.name, (p.guid, p.lid), p.port);
        let subject = match (end, peer, names.subnet) {
            (Some(a), Some(b), Some(subnet)) => cable(subnet, a, b),
            _ => Subject::Cable(own.clone(), "unknown".to_owned()),
        };
        let ends = end.zip(peer).map(|(a, b)| (a.min(b), a.max(b)));
        let (mut wire, mut aside, mut drops) = (Vec::new(), Vec::new(), Vec::new());
        for counter in &p.counters {
            let (name, n) = (&counter.name, moved(p, counter));
            // Without an earlier reading a few may be from plugging in, and a link goes down when its host boots.
            let least = match (before.is_some(), name.as_str()) {
                (true, _) => 1,
                (false, "LinkDownedCounter") => u64::MAX,
                (false, "LocalLinkIntegrityErrors" | "ExcessiveBufferOverrunErrors") => 1,
                (false, _) => PLUGGED + 1,
            };
            let at_end = counter.is_at_end();
            if at_end && n == 0 && (WIRE.contains(&name.as_str()) || DROPS.contains(&name.as_str())) {
                stuck.push(format!("{own}: {name} {}", counter.value));
            }
            let shown = format!("{name} {n}{}", if at_end { " (at its end)" } else { "" });
            if WIRE.contains(&name.as_str()) && n >= least {
                wire.push(shown);
            } else if ASIDE.contains(&name.as_str()) && n > 0 {
                aside.push(shown);
            } else if DROPS.contains(&name.as_str()) && n > 0 {
                drops.push(shown);
            } else if name == WAIT && n > 0 && before.is_some() {
                aside.push(shown);
            }
        }
        let entry = cables.entry((ends, if ends.is_none() { own.clone() } else { String::new() }));
        let entry = entry.or_insert_with(|| (Vec::new(), Vec::new(), subject));
        if !wire.is_empty() {
            entry.0.push(format!("{own}: {}", [wire, aside].concat().join(", ")));
        } else if !drops.is_empty() {
            entry.1.push(format!("{own}: {}", [drops, aside].concat().join(", ")));
        }
    }
    if let Some(first) = stuck.first() {
        let more = if stuck.len() > 1 { format!(" and {} more", stuck.len() - 1) } else { String::new() };
        out.push(
            Finding::new(Code::FAB_016, Subject::Run, format!("{first}{more}")).limit("counters that can still count"),
        );
    }
    let since = if before.is_some() { "since the earlier reading" } else { "since the counters were last cleared" };
    for (wire, drops, subject) in cables.into_values() {
        if !wire.is_empty() {
            let severity = if before.is_some() { Severity::Fail } else { Severity::Warn };
            let finding = Finding::new(Code::FAB_005, subject.clone(), format!("{}, {since}", wire.join("; ")));
            out.push(finding.severity(severity));
        }
        if !drops.is_empty() {
            out.push(Finding::new(Code::FAB_006, subject, format!("{}, {since}", drops.join("; "))));
        }
    }
}

fn managers(fabric: &Fabric, out: &mut Vec<Finding>) {
    let Some(sms) = &fabric.sms else { return };
    let masters: BTreeSet<u64> = sms.iter().filter(|s| s.master).map(|s| s.guid).collect();
    let name = |guid: &u64| {
        let nodes = fabric.subnet.iter().flat_map(|s| s.nodes.values());
        let mut of = nodes.filter(|n| n.guid == *guid || n.ports.values().any(|p| p.guid == Some(*guid)));
        of.next().map_or_else(|| format!("0x{guid:016x}"), |n| n.name.trim().to_owned())
    };
    if masters.is_empty() {
        let evidence = format!("{} managers answer, none of them is master", sms.len());
        out.push(Finding::new(Code::FAB_010, Subject::Run, evidence));
    } else if masters.len() > 1 {
        let names: Vec<String> = masters.iter().map(name).collect();
        out.push(Finding::new(Code::FAB_011, Subject::Run, format!("{} are both master", names.join(" and "))));
    }
}

/// What was not understood, and nodes that others point at and nobody describes.
fn unread(fabric: &Fabric, out: &mut Vec<Finding>) {
    if let Some((file, first)) = fabric.skipped.first() {
        let evidence = format!(
            "{} lines were not understood, the first is {file}:{}: {}",
            fabric.skipped.len(),
            first.line,
            first.text
        );
        out.push(Finding::new(Code::FAB_015, Subject::Run, evidence));
    }
    let Some(subnet) = &fabric.subnet else { return };
    let peers: BTreeSet<u64> = subnet.nodes.values().flat_map(|n| n.ports.values().map(|p| p.peer)).collect();
    let missing: Vec<String> =
        peers.iter().filter(|g| !subnet.nodes.contains_key(g)).map(|g| format!("0x{g:016x}")).collect();
    if !missing.is_empty() {
        let evidence = format!(
            "{} nodes are pointed at and not described: {}",
            missing.len(),
            missing[..missing.len().min(4)].join(", ")
        );
        out.push(Finding::new(Code::FAB_015, Subject::Run, evidence));
    }
}
