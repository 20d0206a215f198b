//! What iblinkinfo says of ports -> findings: links that can do more, and ports that try to come up. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::judge::codes::Code;
use crate::judge::fabric_names::{Names, cable};
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::topology::ib::{Kind, LinkState};

/// More links than this that are slow in the same way are slow by design.
const ALIKE: usize = 32;

/// Links that can do more, and ports that try to come up.
pub(super) fn states(links: &[LinkState], names: &Names<'_>, out: &mut Vec<Finding>) {
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
