//! `ibqueryerrors` and `perfquery`: counters since they were last cleared. Those of the old query stick at their maximum, those
//! of the extended one (`perfquery -x`) count in 64 bits; a port that is not listed has none beyond the threshold, or was not
//! reached.

use std::collections::HashMap;

use crate::topology::ib::{Parsed, Skipped, hex, lines, quoted, skip};

/// Counters of one port.
#[derive(Debug, Clone, PartialEq)]
pub struct PortErrors {
    /// Of an adapter the port's GUID, of a switch its own; perfquery tells a LID instead.
    pub guid: Option<u64>,
    pub lid: Option<u32>,
    pub name: String,
    pub port: u32,
    pub counters: Vec<Counter>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Counter {
    /// By the names of infiniband-diags, such as `SymbolErrorCounter`.
    pub name: String,
    pub value: u64,
    /// Where it stops; `None` where it has 64 bits, or where that is not known.
    pub end: Option<u64>,
}

impl Counter {
    pub fn is_at_end(&self) -> bool {
        self.end == Some(self.value)
    }
}

impl PortErrors {
    /// Takes in what another query of the same port says. Of a counter that both have, the one that cannot stop is kept, else
    /// the later one.
    fn take(&mut self, other: PortErrors) {
        for counter in other.counters {
            match self.counters.iter_mut().find(|c| c.name == counter.name) {
                Some(own) if own.end.is_some() || counter.end.is_none() => *own = counter,
                Some(_) => {}
                None => self.counters.push(counter),
            }
        }
    }
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
    // The block of perfquery that the next lines belong to.
    let mut block: Option<Block> = None;
    for (number, line) in lines(text) {
        let line = line.trim();
        if let Some(head) = block_head(line) {
            out.extend(block.take().and_then(Block::close));
            if head.is_none() {
                skip(&mut skipped, number, line);
            }
            block = head;
        } else if line.is_empty() || line.starts_with('#') || line.starts_with("Link info:") {
        } else if let Some(rest) = line.strip_prefix("Errors for ").or_else(|| line.strip_prefix("Data Counters for "))
        {
            out.extend(block.take().and_then(Block::close));
            name = quoted(rest).map_or(String::new(), |(_, n, _)| n.trim().to_owned());
        } else if let Some(rest) = line.strip_prefix("GUID 0x") {
            match port(rest, &name) {
                Some(Some((found, whole))) => {
                    if !whole {
                        skip(&mut skipped, number, line);
                    }
                    // What was cut before its first counter says nothing of the port.
                    out.extend((whole || !found.counters.is_empty()).then_some(found));
                }
                // The sum over a switch's ports: saturated on its own, and told by the ports already.
                Some(None) => {}
                None => skip(&mut skipped, number, line),
            }
        } else if let (Some(block), Some(counter)) = (&mut block, dotted(line)) {
            block.take(counter);
        } else {
            skip(&mut skipped, number, line);
        }
    }
    out.extend(block.and_then(Block::close));
    Parsed { value: merged(out), skipped }
}

/// What a capture of counters leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// perfquery's sums over all ports of a node, so many of them: whose errors they are cannot be told.
    Sums(usize),
    /// ibqueryerrors counted more ports beyond its thresholds than it lists.
    Unlisted { beyond: usize, listed: usize },
    /// There is no port in it, and nothing that says that all are well.
    Empty,
    /// It ends within a line.
    Cut,
}

/// What a capture leaves out, by its text and how many ports were read from it.
pub(super) fn gaps(text: &str, read: usize) -> Vec<Gap> {
    let mut out = Vec::new();
    // `##          272 ports checked, 7 ports have errors beyond threshold`
    let beyond = |line: &str| -> Option<usize> {
        let (_, rest) = line.strip_prefix("##")?.split_once(" ports checked, ")?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let summaries: Vec<usize> = lines(text).filter_map(|(_, line)| beyond(line.trim())).collect();
    let listed = lines(text).filter(|(_, l)| l.trim().starts_with("GUID 0x") && !l.contains(" port ALL:")).count();
    let beyond = summaries.iter().sum::<usize>();
    if beyond > listed {
        out.push(Gap::Unlisted { beyond, listed });
    }
    let heads = lines(text).filter_map(|(_, line)| block_head(line.trim()).flatten());
    let sums = heads.filter(|block| block.port.port == ALL_PORTS).count();
    if sums > 0 {
        out.push(Gap::Sums(sums));
    }
    if read == 0 && summaries.is_empty() && sums == 0 {
        out.push(Gap::Empty);
    }
    out
}

/// Queries of one port as one: perfquery asks the old, the extended and the detailed counters one at a time.
pub(super) fn merged(all: Vec<PortErrors>) -> Vec<PortErrors> {
    let mut at: HashMap<(u32, u32), usize> = HashMap::new();
    let mut out: Vec<PortErrors> = Vec::new();
    for found in all {
        // ibqueryerrors prints a port once.
        let Some(lid) = found.lid else {
            out.push(found);
            continue;
        };
        match at.get(&(lid, found.port)).and_then(|i| out.get_mut(*i)) {
            Some(known) => known.take(found),
            None => {
                at.insert((lid, found.port), out.len());
                out.push(found);
            }
        }
    }
    out
}

/// `2c903006e29b0 port 5: [SymbolErrorCounter == 65535] [PortXmitWait == 14681376621 (13.673G)]`; `None` inside for
/// `port ALL`. Beside the port stands whether every counter has its end: of one that was cut off the value may be, too.
fn port(rest: &str, name: &str) -> Option<Option<(PortErrors, bool)>> {
    let (guid, rest) = rest.split_once(" port ")?;
    let (number, counters) = rest.split_once(':')?;
    if number == "ALL" {
        return Some(None);
    }
    let counter = |part: &str| {
        let (counter, value) = part.split_once(']')?.0.split_once(" == ")?;
        let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
        let (name, value) = (counter.trim().to_owned(), digits.parse().ok()?);
        Some(Counter { end: end_of(&name), name, value })
    };
    let parts: Vec<Option<Counter>> = counters.split('[').skip(1).map(counter).collect();
    let whole = parts.iter().all(Option::is_some);
    let counters = parts.into_iter().flatten().collect();
    let port = number.trim().parse().ok()?;
    let found = PortErrors { guid: Some(hex(guid)?), lid: None, name: name.to_owned(), port, counters };
    Some(Some((found, whole)))
}

/// One answer of perfquery.
struct Block {
    port: PortErrors,
    wide: bool,
}

/// PortSelect of a sum over all ports of a node (perfquery's ALL_PORTS).
const ALL_PORTS: u32 = 255;

impl Block {
    fn take(&mut self, counter: Option<(String, u64)>) {
        self.port.counters.extend(counter.map(|(name, value)| Counter {
            end: end_of(&name).filter(|_| !self.wide),
            name,
            value,
        }));
    }

    /// The port that it is of; a sum over ports is of none.
    fn close(self) -> Option<PortErrors> {
        (self.port.port != ALL_PORTS).then_some(self.port)
    }
}

/// `# Port counters: Lid 7 port 1 (CapMask: 0x5A00)`, `# Port extended counters: ...`, `# PortRcvErrorDetails counters: ...`; `None`
/// inside for a block whose port is not told by a LID (`DR path ...`).
fn block_head(line: &str) -> Option<Option<Block>> {
    let (kind, rest) = line.strip_prefix("# Port")?.split_once("counters: ")?;
    let read = || {
        let mut words = rest.strip_prefix("Lid ")?.split_whitespace();
        let lid = words.next()?.parse().ok()?;
        words.find(|w| *w == "port")?;
        let port = words.next()?.parse().ok()?;
        let port = PortErrors { guid: None, lid: Some(lid), name: String::new(), port, counters: Vec::new() };
        Some(Block { port, wide: kind.trim() == "extended" })
    };
    Some(read())
}

/// `SymbolErrorCounter:..............12`; fields that count nothing give `None` inside.
fn dotted(line: &str) -> Option<Option<(String, u64)>> {
    let (name, value) = line.split_once(':')?;
    let value = value.trim_start_matches('.').trim();
    if name.is_empty() || name.contains(' ') {
        return None;
    }
    if name.ends_with("Select") || name.ends_with("Select2") {
        return Some(None);
    }
    let name = LONG_NAMES.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long);
    Some(Some((name.to_owned(), value.parse().ok()?)))
}

/// Where a counter of the old query stops (IBTA volume 1, PortCounters, PortRcvErrorDetails, PortXmitDiscardDetails).
fn end_of(name: &str) -> Option<u64> {
    match name {
        "LinkErrorRecoveryCounter" | "LinkDownedCounter" => Some(255),
        "LocalLinkIntegrityErrors" | "ExcessiveBufferOverrunErrors" => Some(15),
        "SymbolErrorCounter"
        | "PortRcvErrors"
        | "PortRcvRemotePhysicalErrors"
        | "PortXmitDiscards"
        | "PortLocalPhysicalErrors"
        | "PortSwLifetimeLimitDiscards"
        | "PortSwHOQLifetimeLimitDiscards" => Some(65_535),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> (Vec<String>, Vec<usize>) {
        let parsed = parse_queryerrors(text);
        let counter = |c: &Counter| format!("{}={}{}", c.name, c.value, if c.is_at_end() { "!" } else { "" });
        let port = |p: &PortErrors| {
            let counters: Vec<String> = p.counters.iter().map(counter).collect();
            format!("{:?} {}: {}", p.lid, p.port, counters.join(" "))
        };
        (parsed.value.iter().map(port).collect(), parsed.skipped.iter().map(|s| s.line).collect())
    }

    #[test]
    fn extended_counters_do_not_stop_where_the_old_ones_do() {
        let old = "# Port counters: Lid 7 port 1 (CapMask: 0x5A00)\nPortSelect:......................1\nSymbolErrorCounter:..............65535\nLinkDownedCounter:...............3\n";
        let wide = "# Port extended counters: Lid 7 port 1 (CapMask: 0x5A00 CapMask2: 0x0000002)\nCounterSelect:...................0x0000\nSymbolErrorCounter:..............65535\n";
        assert_eq!(shown(old).0, ["Some(7) 1: SymbolErrorCounter=65535! LinkDownedCounter=3"]);
        assert_eq!(shown(wide).0, ["Some(7) 1: SymbolErrorCounter=65535"]);
        // Both of one port are one port, in either order.
        let more = wide.replace("65535", "4294967296");
        let both = ["Some(7) 1: SymbolErrorCounter=4294967296 LinkDownedCounter=3"];
        assert_eq!(shown(&format!("{old}{more}")).0, both);
        assert_eq!(shown(&format!("{more}{old}")).0, both);
    }

    #[test]
    fn details_of_errors_and_of_discards_are_of_their_own_port() {
        let text = "# PortRcvErrorDetails counters: Lid 7 port 1\nPortSelect:......................1\nPortLocalPhysicalErrors:.........9\n# PortXmitDiscardDetails counters: Lid 8 port 2\nPortSwHOQLifetimeLimitDiscards:..65535\n";
        assert_eq!(
            shown(text),
            (
                vec![
                    "Some(7) 1: PortLocalPhysicalErrors=9".to_owned(),
                    "Some(8) 2: PortSwHOQLifetimeLimitDiscards=65535!".to_owned()
                ],
                vec![]
            )
        );
    }

    #[test]
    fn a_sum_over_ports_is_of_no_port_and_nonsense_is_placed() {
        assert_eq!(
            shown("# Port counters: Lid 7 port 255 (CapMask: 0x100)\nSymbolErrorCounter:....9\n"),
            (vec![], vec![])
        );
        let bad = "# Port counters: DR path slid 0; dlid 0; 0,1 port 1 (CapMask: 0x100)\nSymbolErrorCounter:....9\n# Port counters: Lid 7 port 1\nSymbolErrorCounter:....many\n";
        assert_eq!(shown(bad), (vec!["Some(7) 1: ".to_owned()], vec![1, 2, 4]));
    }

    #[test]
    fn what_is_left_out_is_told() {
        let summary = |bad: usize| {
            format!(
                "## Summary: 38 nodes checked, 3 bad nodes found\n##          272 ports checked, {bad} ports have errors beyond threshold\n"
            )
        };
        let one = "Errors for \"a\"\n   GUID 0x7 port ALL: [SymbolErrorCounter == 9]\n   GUID 0x7 port 1: [SymbolErrorCounter == 9]\n";
        let of = |text: &str| gaps(text, parse_queryerrors(text).value.len());
        assert_eq!((of(&summary(0)), of(&format!("{one}{}", summary(1)))), (vec![], vec![]));
        assert_eq!(of(&summary(7)), [Gap::Unlisted { beyond: 7, listed: 0 }]);
        assert_eq!(of("# Port counters: Lid 7 port 255\nSymbolErrorCounter:....9\n"), [Gap::Sums(1)]);
        assert_eq!(of("Errors for \"a\"\n"), [Gap::Empty]);
        // A number that was cut off may be another one.
        let cut = parse_queryerrors("   GUID 0x7 port 1: [LinkDownedCounter == 3] [SymbolErrorCounter == 6");
        assert_eq!((cut.value[0].counters.len(), cut.skipped.len()), (1, 1));
        assert_eq!(parse_queryerrors("   GUID 0x7 port 1: [SymbolErrorCounter ==").value, []);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(# Port counters: |# Port extended counters: |# PortRcvErrorDetails counters: |Lid 7|Lid | port 1|port |SymbolErrorCounter:\\.+|[0-9]{1,22}|GUID 0x|Errors for |: \\[|\\]| == |\n|\\PC){0,40}") {
            let _ = parse_queryerrors(&text);
        }
    }
}
