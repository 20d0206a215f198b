//! `iblinkinfo`, by node and with `-l`: every port with its state, also those that nothing answers at.

use crate::topology::ib::{Kind, Parsed, Rate, Skipped, Speed, hex, lines, quoted, skip};

/// A port as iblinkinfo shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkState {
    /// Of an adapter the port's GUID, of a switch its own. Absent where a capture lost its heading.
    pub guid: Option<u64>,
    pub kind: Kind,
    pub name: String,
    pub lid: u32,
    pub port: u32,
    /// Absent for a port that is down.
    pub rate: Option<Rate>,
    /// `Active`, `Down`, `Initialize`, `Armed`.
    pub state: String,
    /// `LinkUp`, `Polling`, `Disabled`, `PortConfigurationTraining`, `LinkErrorRecovery`.
    pub physical: String,
    /// LID, port and name at the other end.
    pub peer: Option<(u32, u32, String)>,
    /// `Could be 4X Could be 53.125 Gbps`: what both ends can do and this link does not.
    pub could_be: String,
}

/// Reads iblinkinfo's output.
pub fn parse_linkinfo(text: &str) -> Parsed<Vec<LinkState>> {
    let mut out = Vec::new();
    let mut skipped: Vec<Skipped> = Vec::new();
    let mut heading: (Option<u64>, Kind, String) = (None, Kind::Other, String::new());
    for (number, line) in lines(text) {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if let Some(found) = port(line, &heading) {
            out.push(found);
        } else if let Some(found) = head(trimmed) {
            heading = found;
        } else {
            skip(&mut skipped, number, trimmed);
        }
    }
    Parsed { value: out, skipped }
}

/// The links that an error report tells with its ports (`ibqueryerrors -r`): `Link info: 3 4[ ] ==( 4X 53.125 Gbps Active/ LinkUp)==> ...`
/// below `GUID 0x... port 4: ...`.
pub(super) fn link_infos(text: &str) -> Vec<LinkState> {
    let mut heading: (Option<u64>, Kind, String) = (None, Kind::Other, String::new());
    let mut out = Vec::new();
    for (_, line) in lines(text) {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("Errors for ").or_else(|| line.strip_prefix("Data Counters for ")) {
            let name = quoted(rest).map_or("", |(_, name, _)| name.trim());
            heading = (None, Kind::Other, name.to_owned());
        } else if let Some(rest) = line.strip_prefix("GUID 0x") {
            heading.0 = rest.split_once(' ').and_then(|(guid, _)| hex(guid));
        } else if let Some(link) = line.strip_prefix("Link info:") {
            out.extend(port(link, &heading));
        }
    }
    out
}

/// `Switch: 0x0002c903006e29b0 MF0;sw1:SX6036/U1:`, `CA: node1 mlx5_0:`. A name may hold colons.
fn head(line: &str) -> Option<(Option<u64>, Kind, String)> {
    let (word, rest) = line.split_once(": ")?;
    let name = rest.strip_suffix(':')?.trim();
    match word {
        "Switch" => {
            let (guid, name) = name.split_once(' ')?;
            Some((Some(hex(guid)?), Kind::Switch, name.trim().to_owned()))
        }
        "CA" => Some((None, Kind::Ca, name.to_owned())),
        "Router" => Some((None, Kind::Router, name.to_owned())),
        _ => None,
    }
}

/// `      0x0002c903000688b7    515    1[  ] ==( 4X  10.0 Gbps Active/  LinkUp)==>      11    6[  ] "name" ( )`; with `-l` the
/// port's GUID and its node's name come first, and the peer's GUID after the arrow.
fn port(line: &str, heading: &(Option<u64>, Kind, String)) -> Option<LinkState> {
    let (left, rest) = line.split_once("==(")?;
    let (link, right) = rest.split_once(")==>").or_else(|| rest.split_once(") ("))?;
    let (mut guid, mut kind, mut name) = heading.clone();
    let mut left = left.trim();
    if let Some(rest) = left.strip_prefix("0x") {
        let (digits, rest) = rest.split_once(' ')?;
        guid = Some(hex(digits)?);
        left = rest.trim();
        if let Some(rest) = left.strip_prefix('"') {
            let (inside, rest) = rest.rsplit_once('"')?;
            (kind, name, left) = (Kind::Other, inside.trim().to_owned(), rest.trim());
        }
    }
    let (lid, own) = left.split_once(char::is_whitespace)?;
    let (rate, state, physical) = link_of(link)?;
    let (peer, could_be) = peer_of(right);
    Some(LinkState {
        guid,
        kind,
        name,
        lid: lid.parse().ok()?,
        port: own.trim().split('[').next()?.trim().parse().ok()?,
        rate,
        state,
        physical,
        peer,
        could_be,
    })
}

/// ` 4X      25.78125 Gbps Active/  LinkUp`, `                Down/ Polling`.
fn link_of(text: &str) -> Option<(Option<Rate>, String, String)> {
    let (before, physical) = text.rsplit_once('/')?;
    let before = before.trim();
    let (link, state) = before.rsplit_once(char::is_whitespace).unwrap_or(("", before));
    let (state, physical) = (state.to_owned(), physical.trim().to_owned());
    let link = link.trim();
    if link.is_empty() || state == "Down" {
        return Some((None, state, physical));
    }
    let (width, speed) = link.split_once(char::is_whitespace)?;
    let width = width.trim_end_matches('X').parse().unwrap_or(0);
    Some((Some(Rate { width, speed: Speed::of_lane(speed) }), state, physical))
}

/// `      11    6[  ] "name" (Could be 4X)`.
fn peer_of(text: &str) -> (Option<(u32, u32, String)>, String) {
    let message = text.rsplit_once("\" (").map_or("", |(_, m)| m.trim().trim_end_matches(')').trim());
    let peer = || {
        let (before, rest) = text.split_once('"')?;
        let (name, _) = rest.rsplit_once('"')?;
        let mut words = before.split_whitespace();
        let mut first = words.next()?;
        if first.starts_with("0x") {
            first = words.next()?;
        }
        let port = words.next()?.split('[').next()?;
        Some((first.parse().ok()?, port.parse().ok()?, name.trim().to_owned()))
    };
    (peer(), message.to_owned())
}
