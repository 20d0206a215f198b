//! `ibnetdiscover -p`: a line a port, with what is at its other end. The format is that of `dump_ports_report` in
//! infiniband-diags/ibnetdiscover.c (rdma-core).
//!
//! It tells the GUIDs of ports, never those of nodes: of an adapter each port stands here as a node of its own. A switch has one
//! GUID for all its ports, which is its own.

use std::collections::BTreeMap;

use crate::topology::ib::{End, Kind, Node, Parsed, Port, Rate, Skipped, Speed, Subnet, hex, lines, skip};

/// Whether a line is of a ports report.
pub(super) fn is_line(line: &str) -> bool {
    near(line).is_some()
}

/// Reads a ports report. Never fails: a text without a single port is an empty subnet.
pub(super) fn parse(text: &str) -> Parsed<Subnet> {
    let mut subnet = Subnet { by_port: true, ..Subnet::default() };
    let mut skipped: Vec<Skipped> = Vec::new();
    for (number, line) in lines(text) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match read(line) {
            Some(found) => keep(&mut subnet, found),
            None => skip(&mut skipped, number, line),
        }
    }
    Parsed { value: subnet, skipped }
}

/// One end of a line.
struct Side {
    kind: Kind,
    lid: Option<u16>,
    end: End,
}

struct Line {
    own: Side,
    rate: Rate,
    name: String,
    peer: Option<End>,
}

/// `CA     7   1 0x0002c90300a1b2c4 4x FDR - SW     3  12 0x0002c903007f1c40 ( 'node7 HCA-1' - 'leaf1' )`, and without anything at
/// the other end `SW     3  13 0x0002c903007f1c40 4x SDR                                    'leaf1'`.
fn read(line: &str) -> Option<Line> {
    let (own, rest) = near(line)?;
    let (quote, arrow) = (rest.find('\''), rest.find(" - "));
    match arrow.filter(|at| quote.is_none_or(|q| *at < q)) {
        Some(at) => {
            let (peer, names) = side(&rest[at + 3..])?;
            // A name may hold the mark that parts the two: the first one is taken.
            let names = names.trim().strip_prefix("( '")?.strip_suffix("' )")?;
            let (name, _) = names.split_once("' - '")?;
            Some(Line { own, rate: rate(&rest[..at]), name: name.to_owned(), peer: Some(peer.end) })
        }
        None => {
            let (link, name) = rest.split_at(quote?);
            let name = name.strip_prefix('\'')?.strip_suffix('\'')?;
            Some(Line { own, rate: rate(link), name: name.to_owned(), peer: None })
        }
    }
}

/// The near end, and what follows it: a width comes next.
fn near(line: &str) -> Option<(Side, &str)> {
    let (own, rest) = side(line)?;
    let width = rest.trim_start();
    let is_width = width.starts_with('?') || width.starts_with(|c: char| c.is_ascii_digit());
    is_width.then_some((own, rest))
}

/// `SW     3  12 0x0002c903007f1c40`, and what follows it.
fn side(text: &str) -> Option<(Side, &str)> {
    let mut rest = text;
    let mut word = || {
        let from = rest.trim_start();
        let (word, after) = from.split_at(from.find(char::is_whitespace).unwrap_or(from.len()));
        rest = after;
        word
    };
    let kind = match word() {
        "SW" => Kind::Switch,
        "CA" => Kind::Ca,
        "RT" => Kind::Router,
        "??" => Kind::Other,
        _ => return None,
    };
    let lid: u32 = word().parse().ok()?;
    let port = word().parse().ok()?;
    let guid = word();
    let guid = guid.starts_with("0x").then(|| hex(guid)).flatten()?;
    Some((Side { kind, lid: u16::try_from(lid).ok(), end: End { guid, port } }, rest))
}

fn rate(link: &str) -> Rate {
    Rate::of_words(link).unwrap_or(Rate { width: 0, speed: Speed::Unknown("?".to_owned()) })
}

fn keep(subnet: &mut Subnet, line: Line) {
    let Line { own: Side { kind, lid, end }, rate, name, peer } = line;
    let is_switch = kind == Kind::Switch;
    let fresh = || Node {
        guid: end.guid,
        kind,
        name: name.clone(),
        device: None,
        lid: lid.filter(|_| is_switch),
        ports: BTreeMap::new(),
    };
    let node = subnet.nodes.entry(end.guid).or_insert_with(fresh);
    if node.name != name && !subnet.twice.iter().any(|(guid, _, other)| *guid == end.guid && *other == name) {
        subnet.twice.push((end.guid, node.name.clone(), name));
    }
    let own = |known: Option<u64>| known.filter(|_| !is_switch);
    match peer {
        Some(peer) => {
            let port = Port {
                peer: peer.guid,
                peer_port: peer.port,
                rate,
                lid: lid.filter(|_| !is_switch),
                guid: own(Some(end.guid)),
            };
            node.ports.insert(end.port, port);
        }
        None => subnet.open.push(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "SW     3 13 0x0002c903007f1c40 4x SDR                                    'leaf1 - 'a''\nSW     3 12 0x0002c903007f1c40 4x FDR - CA     7  1 0x0002c90300a1b2c4 ( 'leaf1 - 'a'' - 'node7 HCA-1' )\nCA     7  1 0x0002c90300a1b2c4 4x FDR - SW     3 12 0x0002c903007f1c40 ( 'node7 HCA-1' - 'leaf1 - 'a'' )\n";

    #[test]
    fn a_line_is_a_port_with_what_is_at_its_other_end() {
        let parsed = parse(REPORT);
        let (leaf, ca) = (0x0002_c903_007f_1c40, 0x0002_c903_00a1_b2c4);
        assert_eq!(parsed.skipped, []);
        let subnet = parsed.value;
        assert_eq!(subnet.open, [End { guid: leaf, port: 13 }]);
        let shown: Vec<String> = subnet
            .cables()
            .iter()
            .map(|c| format!("{} - {}: {}", subnet.show(c.a), subnet.show(c.b), c.rate))
            .collect();
        assert_eq!(shown, ["leaf1 - 'a' port 12 - node7 HCA-1 port 1: 4xFDR"]);
        let node = &subnet.nodes[&ca];
        assert_eq!((node.kind, node.lid, node.ports[&1].lid, node.ports[&1].guid), (Kind::Ca, None, Some(7), Some(ca)));
        assert_eq!(subnet.nodes[&leaf].lid, Some(3));
        assert!(subnet.twice.is_empty());
    }

    #[test]
    fn what_is_cut_off_is_placed() {
        let cut = format!("{REPORT}CA     8  1 0x0002c90300a1b2c5 4x FDR - SW     3\nhello\n");
        let lines: Vec<usize> = parse(&cut).skipped.iter().map(|s| s.line).collect();
        assert_eq!(lines, [4, 5]);
        // Lines of other tools with the same words in front.
        for line in ["CA: node1 mlx5_0:", "CA 'mlx5_0'", "Ca\t1 \"H-0000000000001000\"", "SW 3 12 0x7 (x"] {
            assert!(!is_line(line), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(SW |CA |\\?\\? |[0-9]{1,6} | 0x[0-9a-f]{1,18} |4x |FDR| - |\\( '|' - '|' \\)|'|\n|\\PC){0,40}") {
            let _ = (parse(&text), is_line(&text));
        }
    }
}
