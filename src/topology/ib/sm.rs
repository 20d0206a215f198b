//! Subnet managers: `sminfo`, and `saquery SMIR`.

use crate::topology::ib::{Parsed, Skipped, hex, lines, skip};

/// A subnet manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sm {
    pub guid: u64,
    pub lid: Option<u32>,
    pub priority: Option<u32>,
    pub master: bool,
    /// Whether its state was told at all: an old sminfo does not.
    pub is_told: bool,
}

/// Reads either tool's output.
pub fn parse_sm(text: &str) -> Parsed<Vec<Sm>> {
    let mut out: Vec<Sm> = Vec::new();
    let mut skipped: Vec<Skipped> = Vec::new();
    for (number, line) in lines(text) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
        } else if let Some(sm) = sminfo(line) {
            out.push(sm);
        } else if let (Some(sm), true) = (out.last_mut().filter(|sm| !sm.is_told), line.starts_with("state ")) {
            // Wrapped on its way: `state 3 SMINFO_MASTER` stands in a line of its own.
            (sm.master, sm.is_told) = (is_master(line), true);
        } else if matches!(line, "RID" | "SMInfo dump:") {
        } else if line == "SMInfoRecord dump:" {
            out.push(Sm { guid: 0, lid: None, priority: None, master: false, is_told: true });
        } else if let (Some(sm), Some((key, value))) = (out.last_mut(), line.split_once('.')) {
            let value = value.trim_start_matches('.').trim();
            match key {
                "GUID" => sm.guid = hex(value).unwrap_or(0),
                "LID" | "lid" => sm.lid = value.parse().ok(),
                "Priority" => sm.priority = value.parse().ok(),
                // 3 is MASTER (IBTA volume 1, SMInfo attribute).
                "SMState" => sm.master = value.starts_with('3'),
                _ => {}
            }
        } else {
            skip(&mut skipped, number, line);
        }
    }
    Parsed { value: out, skipped }
}

/// `sminfo: sm lid 1 sm guid 0x2c9030001, activity count 86 priority 0 state 3 SMINFO_MASTER`.
fn sminfo(line: &str) -> Option<Sm> {
    let rest = line.strip_prefix("sminfo: sm lid ")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let after = |word: &str| words.iter().position(|w| *w == word).and_then(|i| words.get(i + 1)).copied();
    Some(Sm {
        guid: hex(after("guid")?.trim_end_matches(','))?,
        lid: words.first().and_then(|lid| match lid.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => lid.parse().ok(),
        }),
        priority: after("priority").and_then(|p| p.parse().ok()),
        master: is_master(line),
        is_told: after("state").is_some() || line.contains("SMINFO_"),
    })
}

/// `... state 3 SMINFO_MASTER`; 3 is MASTER (IBTA volume 1, SMInfo attribute).
fn is_master(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.find(|w| *w == "state").and_then(|_| words.next()) == Some("3") || line.ends_with("MASTER")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_may_be_wrapped_or_missing() {
        let of = |text: &str| {
            let parsed = parse_sm(text);
            assert_eq!(parsed.skipped, []);
            (parsed.value[0].lid, parsed.value[0].master, parsed.value[0].is_told)
        };
        let head = "sminfo: sm lid 0x1f sm guid 0x2c9010b7c2ae1, activity count 20 priority 1";
        assert_eq!(of(head), (Some(31), false, false));
        assert_eq!(of(&format!("{head}\nstate 3 SMINFO_MASTER\n")), (Some(31), true, true));
        assert_eq!(of(&format!("{head} state 2 SMINFO_STANDBY\n")), (Some(31), false, true));
    }
}
