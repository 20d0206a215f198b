//! Which tool a text is of.

use crate::topology::ib::{ibstat, ports_report};

/// Which tool a capture is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Netdiscover,
    Linkinfo,
    Queryerrors,
    Sm,
    Ibstat,
}

impl Tool {
    /// By how its lines are built: file names are the user's own, and a word of one tool may stand in the text of another.
    pub fn of(text: &str) -> Option<Self> {
        let mut seen: Option<Self> = None;
        for line in text.lines() {
            let tool = Tool::of_line(line.trim_start());
            // An error report with link information has arrows, too.
            if tool == Some(Tool::Queryerrors) {
                return tool;
            }
            seen = match (seen, tool) {
                (Some(Tool::Linkinfo), _) | (_, Some(Tool::Linkinfo)) => Some(Tool::Linkinfo),
                (seen, tool) => seen.or(tool),
            };
        }
        seen
    }

    pub(super) fn of_line(line: &str) -> Option<Self> {
        const COUNTERS: [&str; 3] = ["Errors for ", "Data Counters for ", "## Summary:"];
        // `# Port counters: Lid 7 port 1`, `# PortRcvErrorDetails counters: ...`
        let perfquery = line.strip_prefix("# Port").is_some_and(|rest| rest.contains("counters: "));
        // `Switch  40 "S-b8cef6..."`, `Ca  1 "H-..."`
        let node = |kind: &str| {
            let rest = line.strip_prefix(kind).filter(|r| r.starts_with([' ', '\t'])).map(str::trim_start);
            rest.is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
        };
        if perfquery || COUNTERS.iter().any(|mark| line.starts_with(mark)) {
            Some(Tool::Queryerrors)
        } else if line.starts_with("Link info:") {
            // Of an error report that tells both ends.
            None
        } else if line.contains("==(") {
            Some(Tool::Linkinfo)
        } else if line.starts_with("sminfo: ") || line.starts_with("SMInfoRecord dump:") {
            Some(Tool::Sm)
        } else if line.starts_with("switchguid=")
            || line.starts_with("caguid=")
            || node("Switch")
            || node("Ca")
            || node("Hca")
            || ports_report::is_line(line)
        {
            Some(Tool::Netdiscover)
        } else if ibstat::is_head(line) {
            Some(Tool::Ibstat)
        } else {
            None
        }
    }
}
