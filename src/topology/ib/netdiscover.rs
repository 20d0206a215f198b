//! `ibnetdiscover`'s topology file, also with `-f`, `-g` and `-p`; ibsim's net files; ibdiagnet's `.ibnetdiscover`.

use crate::topology::ib::ports_report;
use crate::topology::ib::{Kind, Node, Parsed, Port, Rate, Skipped, Speed, Subnet, hex, lines, quoted, skip};

/// Reads a topology. Never fails: a text without a single node is an empty subnet.
pub fn parse_netdiscover(text: &str) -> Parsed<Subnet> {
    if lines(text).any(|(_, line)| ports_report::is_line(line)) {
        return ports_report::parse(text);
    }
    let mut subnet = Subnet::default();
    let mut skipped: Vec<Skipped> = Vec::new();
    let mut device = None;
    let mut current: Option<Node> = None;
    for (number, raw) in lines(text) {
        let line = raw.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(("devid", value)) = line.split_once('=') {
            device = hex(value.split_whitespace().next().unwrap_or("")).and_then(|d| u32::try_from(d).ok());
        } else if is_heading(line) {
        } else if line.starts_with('[') {
            match (current.as_mut(), port(line)) {
                (Some(node), Some((own, port))) => {
                    node.ports.insert(own, port);
                }
                _ => skip(&mut skipped, number, line),
            }
        } else if let Some(node) = node(line, device.take()) {
            keep(&mut subnet, current.replace(node));
        } else {
            skip(&mut skipped, number, line);
        }
    }
    keep(&mut subnet, current);
    Parsed { value: subnet, skipped }
}

fn keep(subnet: &mut Subnet, node: Option<Node>) {
    let Some(node) = node else { return };
    let name = node.name.clone();
    if let Some(before) = subnet.nodes.insert(node.guid, node) {
        subnet.twice.push((before.guid, before.name, name));
    }
}

/// Lines that say nothing of the graph: vendor and GUIDs (the node's line repeats them), chassis, page headings.
fn is_heading(line: &str) -> bool {
    let key = line.split_once('=').map(|(k, _)| k);
    matches!(key, Some("vendid" | "sysimgguid" | "switchguid" | "caguid" | "rtguid"))
        || line.starts_with("Chassis ")
        || line.starts_with("Non-Chassis")
}

/// `Switch 36 "S-0008f10400411a08"  # "name" enhanced port 0 lid 3 lmc 0`, `Ca 1 "H-..."  # "host mlx5_0"`. Tabs get lost in
/// captures: the number may stand right after the word.
fn node(line: &str, device: Option<u32>) -> Option<Node> {
    let (head, comment) = line.split_once('#').unwrap_or((line, ""));
    let (before, id, _) = quoted(head)?;
    let word = before.trim().trim_end_matches(|c: char| c.is_ascii_digit()).trim();
    let kind = match word {
        "Switch" => Kind::Switch,
        "Ca" | "Hca" | "CA" => Kind::Ca,
        "Rt" | "Router" => Kind::Router,
        "???" => Kind::Other,
        _ => return None,
    };
    let (_, name, tail) = quoted(comment).unwrap_or(("", "", comment));
    Some(Node {
        guid: guid_of(id)?,
        kind,
        // A net file that somebody wrote has no comments.
        name: if name.is_empty() && !id.contains('-') { id.to_owned() } else { name.to_owned() },
        device,
        lid: after(tail, "lid"),
        ports: Default::default(),
    })
}

/// `S-0008f10400411a08`; ibsim's net files also have plain names, which bear no GUID: such a name gives one.
fn guid_of(id: &str) -> Option<u64> {
    let told = id.split_once('-').filter(|(letter, _)| matches!(*letter, "S" | "H" | "R" | "?"));
    let plain = || {
        let is_plain = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        // FNV-1a.
        let hash = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        is_plain.then(|| id.bytes().fold(0xcbf2_9ce4_8422_2325, hash))
    };
    told.and_then(|(_, digits)| hex(digits)).or_else(|| if told.is_some() { None } else { plain() })
}

/// `[1](guid) "S-..."[7][ext 3](guid)  # lid 5 lmc 0 "leaf1" lid 3 4xHDR`.
fn port(line: &str) -> Option<(u32, Port)> {
    let (own, rest) = bracket(line)?;
    let own_guid = rest.trim_start().strip_prefix('(').and_then(|r| r.split_once(')')).and_then(|(g, _)| hex(g));
    let open = rest.find('"')?;
    let (id, rest) = rest[open + 1..].split_once('"')?;
    let (peer_port, rest) = bracket(rest)?;
    let comment = rest.split_once('#').map_or("", |(_, c)| c);
    let (before, _, tail) = quoted(comment).unwrap_or((comment, "", comment));
    let rate = Rate::of_words(tail).unwrap_or(Rate { width: 0, speed: Speed::Unknown("?".to_owned()) });
    let port = Port { peer: guid_of(id)?, peer_port, rate, lid: after(before, "lid"), guid: own_guid };
    Some((own, port))
}

/// `[12]` at the beginning, and what follows it.
fn bracket(text: &str) -> Option<(u32, &str)> {
    let (number, rest) = text.trim_start().strip_prefix('[')?.split_once(']')?;
    Some((number.trim().parse().ok()?, rest))
}

/// The number after a word.
fn after<T: std::str::FromStr>(text: &str, word: &str) -> Option<T> {
    let mut words = text.split_whitespace();
    words.find(|w| *w == word)?;
    words.next()?.parse().ok()
}
