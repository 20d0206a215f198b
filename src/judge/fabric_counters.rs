//! Error counters -> findings, both ends of a cable in one. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::judge::codes::Code;
use crate::judge::fabric_names::{Names, cable};
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::topology::ib::{Counter, End, PortErrors};

/// Errors of the wire below this count are those of plugging it in (ibqueryerrors' own default threshold).
const PLUGGED: u64 = 10;
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
pub(super) fn counters(
    errors: &[PortErrors],
    before: Option<&[PortErrors]>,
    names: &Names<'_>,
    out: &mut Vec<Finding>,
) {
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
