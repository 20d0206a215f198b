//! Subnet managers: `sminfo`, and `saquery SMIR`.

use crate::topology::ib::{Parsed, Skipped, hex, lines, skip};

/// A subnet manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sm {
    pub guid: u64,
    pub lid: Option<u32>,
    pub priority: Option<u32>,
    pub master: bool,
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
        } else if matches!(line, "RID" | "SMInfo dump:") {
        } else if line == "SMInfoRecord dump:" {
            out.push(Sm { guid: 0, lid: None, priority: None, master: false });
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
        lid: words.first()?.parse().ok(),
        priority: after("priority").and_then(|p| p.parse().ok()),
        master: after("state") == Some("3") || line.ends_with("MASTER"),
    })
}
