//! Error counters -> findings, both ends of a cable in one. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::judge::codes::Code;
use crate::judge::fabric::like::listed;
use crate::judge::fabric::names::{Names, cable};
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::topology::ib::{Counter, End, PortErrors};
use crate::unit::several;

/// Errors of the wire below this count are those of plugging it in (ibqueryerrors' own default threshold).
const PLUGGED: u64 = 10;
/// A link that went down more often does so on its own: each boot of its host takes it down once or twice.
const FLAPPED: u64 = 100;
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

/// A port, by whatever names it in both readings: ibqueryerrors tells GUIDs and perfquery LIDs, which a topology makes one.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    End(End),
    Told(Option<u64>, Option<u32>, u32),
}

/// An earlier reading.
struct Earlier<'e> {
    ports: HashMap<Key, &'e PortErrors>,
    /// Whether it lists the ports with errors of all that it asked: then one that is not listed had none.
    is_list: bool,
}

impl<'e> Earlier<'e> {
    fn of(before: &'e [PortErrors], names: &Names<'_>) -> Self {
        let ports = before.iter().map(|p| (key(p, names), p)).collect();
        Earlier { ports, is_list: before.iter().all(|p| p.guid.is_some()) }
    }

    /// What the port's counters were, `None` inside where it had no errors; `None` where that is not known.
    fn port(&self, p: &PortErrors, names: &Names<'_>) -> Option<Option<&'e PortErrors>> {
        let key = key(p, names);
        let known = self.ports.get(&key).map(|old| Some(*old));
        let is_named_alike = matches!(key, Key::End(_)) || p.guid.is_some() || self.ports.is_empty();
        known.or_else(|| (self.is_list && is_named_alike).then_some(None))
    }
}

fn key(p: &PortErrors, names: &Names<'_>) -> Key {
    names.end(p.guid, p.lid, p.port).map_or(Key::Told(p.guid, p.lid, p.port), Key::End)
}

/// What one port counted.
#[derive(Default)]
struct Told {
    wire: Vec<String>,
    aside: Vec<String>,
    drops: Vec<String>,
    stuck: Vec<String>,
}

impl Told {
    /// `was` is absent where there is no earlier reading.
    fn of(p: &PortErrors, was: Option<Option<&PortErrors>>) -> Self {
        let mut out = Told::default();
        for counter in &p.counters {
            let name = counter.name.as_str();
            let old = was.flatten().and_then(|o| o.counters.iter().find(|c| c.name == name));
            out.take(counter, moved_by(old, counter), was.is_some());
        }
        out
    }

    fn take(&mut self, counter: &Counter, n: u64, compared: bool) {
        let name = counter.name.as_str();
        let (is_wire, is_drop) = (WIRE.contains(&name), DROPS.contains(&name));
        // Without an earlier reading a few may be from plugging in, and a link goes down when its host boots.
        let least = match (compared, name) {
            (true, _) => 1,
            (false, "LinkDownedCounter") => FLAPPED + 1,
            (false, "LocalLinkIntegrityErrors" | "ExcessiveBufferOverrunErrors") => 1,
            (false, _) => PLUGGED + 1,
        };
        let at_end = counter.is_at_end();
        // A link may go down hundreds of times over the years: at the end of its counter nobody sees the next time.
        let is_stuck = n == 0 || (!compared && name == "LinkDownedCounter");
        if at_end && is_stuck && (is_wire || is_drop) {
            self.stuck.push(format!("{name} {}", counter.value));
        }
        let shown = format!("{name} {n}{}", if at_end { " (at its end)" } else { "" });
        if is_wire && n >= least {
            self.wire.push(shown);
        } else if is_drop && n >= least {
            self.drops.push(shown);
        } else if n > 0 && (ASIDE.contains(&name) || (name == WAIT && compared)) {
            self.aside.push(shown);
        }
    }
}

/// What the ends of one cable counted.
struct OfCable {
    subject: Subject,
    wire: Vec<String>,
    drops: Vec<String>,
    compared: bool,
}

/// Counters of both ends of a cable in one finding.
pub(super) fn counters(
    errors: &[PortErrors],
    before: Option<&[PortErrors]>,
    names: &Names<'_>,
    out: &mut Vec<Finding>,
) {
    let earlier = before.map(|b| Earlier::of(b, names));
    // By both ends, or by name where they are not known.
    let mut cables: BTreeMap<(Option<(End, End)>, String), OfCable> = BTreeMap::new();
    // Counters that stood at their end before: they cannot show whether anything came since.
    let mut stuck: Vec<String> = Vec::new();
    let mut not_compared: Vec<String> = Vec::new();
    for p in errors {
        let end = names.end(p.guid, p.lid, p.port);
        let peer = end.and_then(|e| names.peer(e));
        let own = names.show(end, &p.name, (p.guid, p.lid), p.port);
        let subject = match (end, peer, names.subnet) {
            (Some(a), Some(b), Some(subnet)) => cable(subnet, a, b),
            _ => Subject::Cable(own.clone(), "unknown".to_owned()),
        };
        let ends = end.zip(peer).map(|(a, b)| (a.min(b), a.max(b)));
        let was = earlier.as_ref().and_then(|e| e.port(p, names));
        if earlier.is_some() && was.is_none() {
            not_compared.push(own.clone());
        }
        let told = Told::of(p, was);
        stuck.extend(told.stuck.iter().map(|s| format!("{own}: {s}")));
        let entry = cables.entry((ends, if ends.is_none() { own.clone() } else { String::new() }));
        let new = || OfCable { subject, wire: Vec::new(), drops: Vec::new(), compared: true };
        let entry = entry.or_insert_with(new);
        entry.compared &= was.is_some();
        if !told.wire.is_empty() {
            entry.wire.push(format!("{own}: {}", [told.wire, told.aside].concat().join(", ")));
        } else if !told.drops.is_empty() {
            entry.drops.push(format!("{own}: {}", [told.drops, told.aside].concat().join(", ")));
        }
    }
    if let Some(first) = stuck.first() {
        let more = if stuck.len() > 1 { format!(" and {} more", stuck.len() - 1) } else { String::new() };
        out.push(
            Finding::new(Code::FAB_016, Subject::Run, format!("{first}{more}")).limit("counters that can still count"),
        );
    }
    if !not_compared.is_empty() {
        let n = several(not_compared.len(), "port");
        let evidence = format!(
            "{n} cannot be compared: the earlier reading does not have them, or names them in another way without a \
             topology that tells which is which: {}",
            listed(&not_compared)
        );
        out.push(Finding::new(Code::FAB_015, Subject::Run, evidence));
    }
    cables.into_values().for_each(|c| c.tell(out));
}

impl OfCable {
    fn tell(self, out: &mut Vec<Finding>) {
        let since = if self.compared { "since the earlier reading" } else { "since the counters were last cleared" };
        if !self.wire.is_empty() {
            let severity = if self.compared { Severity::Fail } else { Severity::Warn };
            let evidence = format!("{}, {since}", self.wire.join("; "));
            out.push(Finding::new(Code::FAB_005, self.subject.clone(), evidence).severity(severity));
        }
        if !self.drops.is_empty() {
            out.push(Finding::new(Code::FAB_006, self.subject, format!("{}, {since}", self.drops.join("; "))));
        }
    }
}
