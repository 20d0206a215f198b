//! What iblinkinfo says of ports -> findings: links that can do more, and ports that try to come up. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::judge::codes::Code;
use crate::judge::fabric::like::{ALIKE, listed};
use crate::judge::fabric::names::{Names, cable};
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::topology::ib::{Kind, LinkState};

/// Links that can do more, and ports that try to come up.
pub(super) fn states(links: &[LinkState], names: &Names<'_>, out: &mut Vec<Finding>) {
    for l in links {
        let training = matches!(l.physical.as_str(), "PortConfigurationTraining" | "LinkErrorRecovery");
        let unused = matches!(l.state.as_str(), "Initialize" | "Armed");
        if training || unused {
            let evidence = format!("{} / {}", l.state, l.physical);
            out.push(Finding::new(Code::FAB_003, subject(l, names), evidence));
        } else if l.kind == Kind::Ca && l.state == "Down" {
            // Of a switch, ports without a cable are ordinary; of an adapter, the second port may be meant to have none.
            let evidence = format!("{} / {}: no cable, or nothing at its other end", l.state, l.physical);
            out.push(Finding::new(Code::FAB_003, subject(l, names), evidence).severity(Severity::Warn));
        }
    }
    hints(links, names, out);
}

fn subject(l: &LinkState, names: &Names<'_>) -> Subject {
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
}

/// Links that could be wider or faster, by what both ends can do. What one lane could be is always told; what most links could be
/// is how the fabric was built, or a kind of cable: told once.
fn hints(links: &[LinkState], names: &Names<'_>, out: &mut Vec<Finding>) {
    let up: Vec<&LinkState> = links.iter().filter(|l| l.rate.is_some()).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for hint in up.iter().flat_map(|l| could_be(&l.could_be)) {
        *counts.entry(hint).or_default() += 1;
    }
    let is_common = |hint: &String| 2 * counts.get(hint).copied().unwrap_or(0) > up.len();
    let mut slow: BTreeMap<(bool, String, String), Vec<&LinkState>> = BTreeMap::new();
    for l in up.iter().filter(|l| !is_inside(l)) {
        let Some(rate) = &l.rate else { continue };
        let one_lane = rate.width == 1;
        let wide = format!("4X {}", rate.speed);
        let (common, own): (Vec<String>, Vec<String>) =
            could_be(&l.could_be).into_iter().filter(|hint| one_lane || !is_vain(hint)).partition(is_common);
        // A simulator says of one lane what it says of all; without any hint one lane is no less a fault.
        let own = if one_lane { [own, common.clone()].concat() } else { own };
        let could = if one_lane && own.is_empty() { wide } else { own.join(", ") };
        if !could.is_empty() {
            slow.entry((false, rate.to_string(), could)).or_default().push(l);
        } else if !common.is_empty() {
            slow.entry((true, rate.to_string(), common.join(", "))).or_default().push(l);
        }
    }
    for ((common, rate, could), links) in slow {
        let one_lane = links.iter().any(|l| l.rate.as_ref().is_some_and(|r| r.width == 1));
        let is_narrow = one_lane || could.split(", ").any(|h| h.ends_with('X'));
        let code = if is_narrow { Code::FAB_001 } else { Code::FAB_002 };
        let limit = format!("{could}: what both ends can do");
        // Dozens alike are how it was built, splitter cables most often: said once, and no cable is called bad. Nothing is built
        // with one lane.
        if common || links.len() > ALIKE {
            let named: BTreeSet<String> = links.iter().map(|l| ends(subject(l, names))).collect();
            let cables = listed(&named.into_iter().collect::<Vec<_>>());
            let evidence = format!("{} of {} ports run at {rate}: {cables}", links.len(), up.len());
            let severity = if one_lane { Severity::Fail } else { Severity::Warn };
            out.push(Finding::new(code, Subject::Run, evidence).limit(limit).severity(severity));
            continue;
        }
        for l in links {
            out.push(Finding::new(code, subject(l, names), format!("it runs at {rate}")).limit(limit.clone()));
        }
    }
}

/// Nothing has twelve lanes but the silicon: no cable is made for them.
fn is_vain(hint: &str) -> bool {
    hint == "12X"
}

/// What joins a switch with the node inside it is as wide as its makers made it.
fn is_inside(l: &LinkState) -> bool {
    let peer = l.peer.as_ref().map_or("", |(_, _, name)| name);
    [l.name.as_str(), peer].iter().any(|name| name.contains("Aggregation Node"))
}

fn ends(subject: Subject) -> String {
    match subject {
        Subject::Cable(a, b) => format!("{a} - {b}"),
        other => other.to_string(),
    }
}

/// `Could be 4X Could be 53.125 Gbps` in parts.
fn could_be(text: &str) -> Vec<String> {
    text.split("Could be").map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect()
}
