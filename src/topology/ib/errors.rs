//! `ibqueryerrors` and `perfquery`: counters since they were last cleared. They stick at their maximum, and a port that is
//! not listed has none beyond the threshold, or was not reached.

use crate::topology::ib::{Parsed, Skipped, hex, lines, quoted, skip};

/// Counters of one port.
#[derive(Debug, Clone, PartialEq)]
pub struct PortErrors {
    /// Of an adapter the port's GUID, of a switch its own; perfquery tells a LID instead.
    pub guid: Option<u64>,
    pub lid: Option<u32>,
    pub name: String,
    pub port: u32,
    /// By the names of infiniband-diags, such as `SymbolErrorCounter`.
    pub counters: Vec<(String, u64)>,
}

/// perfquery's names for what ibqueryerrors spells out.
const LONG_NAMES: &[(&str, &str)] = &[
    ("SymbolErrors", "SymbolErrorCounter"),
    ("LinkRecovers", "LinkErrorRecoveryCounter"),
    ("LinkDowned", "LinkDownedCounter"),
    ("RcvErrors", "PortRcvErrors"),
    ("RcvRemotePhysErrors", "PortRcvRemotePhysicalErrors"),
    ("RcvSwRelayErrors", "PortRcvSwitchRelayErrors"),
    ("XmtDiscards", "PortXmitDiscards"),
    ("XmtConstraintErrors", "PortXmitConstraintErrors"),
    ("RcvConstraintErrors", "PortRcvConstraintErrors"),
    ("LinkIntegrityErrors", "LocalLinkIntegrityErrors"),
    ("ExcBufOverrunErrors", "ExcessiveBufferOverrunErrors"),
    ("XmtWait", "PortXmitWait"),
    ("XmtData", "PortXmitData"),
    ("RcvData", "PortRcvData"),
];

/// Reads either tool's output.
pub fn parse_queryerrors(text: &str) -> Parsed<Vec<PortErrors>> {
    let mut out: Vec<PortErrors> = Vec::new();
    let mut skipped: Vec<Skipped> = Vec::new();
    let mut name = String::new();
    for (number, line) in lines(text) {
        let line = line.trim();
        if let Some(found) = perfquery_head(line) {
            out.push(found);
        } else if line.is_empty() || line.starts_with('#') || line.starts_with("Link info:") {
        } else if let Some(rest) = line.strip_prefix("Errors for ").or_else(|| line.strip_prefix("Data Counters for "))
        {
            name = quoted(rest).map_or(String::new(), |(_, n, _)| n.trim().to_owned());
        } else if let Some(rest) = line.strip_prefix("GUID 0x") {
            match port(rest, &name) {
                Some(Some(found)) => out.push(found),
                // The sum over a switch's ports: saturated on its own, and told by the ports already.
                Some(None) => {}
                None => skip(&mut skipped, number, line),
            }
        } else if let (Some(current), Some(counter)) = (out.last_mut().filter(|p| p.lid.is_some()), dotted(line)) {
            current.counters.extend(counter);
        } else {
            skip(&mut skipped, number, line);
        }
    }
    Parsed { value: out, skipped }
}

/// `2c903006e29b0 port 5: [SymbolErrorCounter == 65535] [PortXmitWait == 14681376621 (13.673G)]`; `None` inside for
/// `port ALL`.
fn port(rest: &str, name: &str) -> Option<Option<PortErrors>> {
    let (guid, rest) = rest.split_once(" port ")?;
    let (number, counters) = rest.split_once(':')?;
    if number == "ALL" {
        return Some(None);
    }
    let counters = counters
        .split('[')
        .filter_map(|part| {
            let (counter, value) = part.split_once(" == ")?;
            let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
            Some((counter.trim().to_owned(), digits.parse().ok()?))
        })
        .collect();
    let port = number.trim().parse().ok()?;
    Some(Some(PortErrors { guid: Some(hex(guid)?), lid: None, name: name.to_owned(), port, counters }))
}

/// `# Port extended counters: Lid 1719 port 1 (CapMask: 0x5A00 ...)`.
fn perfquery_head(line: &str) -> Option<PortErrors> {
    let rest = line.strip_prefix("# Port ")?;
    let (_, rest) = rest.split_once("counters: Lid ")?;
    let mut words = rest.split_whitespace();
    let lid = words.next()?.parse().ok()?;
    words.find(|w| *w == "port")?;
    let port = words.next()?.parse().ok()?;
    Some(PortErrors { guid: None, lid: Some(lid), name: String::new(), port, counters: Vec::new() })
}

/// `SymbolErrorCounter:..............12`; fields that count nothing give `None` inside.
fn dotted(line: &str) -> Option<Option<(String, u64)>> {
    let (name, value) = line.split_once(':')?;
    let value = value.trim_start_matches('.').trim();
    if name.contains(' ') || name.ends_with("Select") || name.ends_with("Select2") {
        return (!name.contains(' ')).then_some(None);
    }
    let name = LONG_NAMES.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long);
    Some(value.parse().ok().map(|v| (name.to_owned(), v)))
}
