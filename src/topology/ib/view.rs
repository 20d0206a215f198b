//! All that is known of a fabric, from whatever captures there are.

use std::borrow::Cow;

use crate::topology::ib::errors::{gaps, merged};
use crate::topology::ib::{
    Adapter, Gap, LinkState, PortErrors, Skipped, Sm, Subnet, parse_ibstat, parse_linkinfo, parse_netdiscover,
    parse_queryerrors, parse_sm,
};
use crate::topology::ib::{ibstat, ports_report};

/// What each tool said; absent where it was not asked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fabric {
    pub subnet: Option<Subnet>,
    /// Fabrics apart from that one, each with LIDs of its own.
    pub others: Vec<Subnet>,
    /// Captures that are not used, each with the later one of the same fabric.
    pub outdated: Vec<(String, String)>,
    pub links: Option<Vec<LinkState>>,
    pub errors: Option<Vec<PortErrors>>,
    /// The same counters earlier: then only what moved since counts.
    pub before: Option<Vec<PortErrors>>,
    pub sms: Option<Vec<Sm>>,
    /// Of the nodes on which ibstat ran.
    pub adapters: Option<Vec<Adapter>>,
    /// How it should be.
    pub expected: Option<Subnet>,
    /// Where each line came from that nobody understood.
    pub skipped: Vec<(String, Skipped)>,
    /// What captures leave out, each with its name.
    pub gaps: Vec<(String, Gap)>,
}

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

    fn of_line(line: &str) -> Option<Self> {
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
        } else if line.contains("==(") {
            Some(Tool::Linkinfo)
        } else if line.starts_with("sminfo: ") || line.starts_with("SMInfoRecord dump:") {
            Some(Tool::Sm)
        } else if line.starts_with("switchguid=")
            || line.starts_with("caguid=")
            || node("Switch")
            || node("Ca")
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

impl Fabric {
    /// Every fabric that was captured.
    pub fn subnets(&self) -> impl Iterator<Item = &Subnet> {
        self.subnet.iter().chain(&self.others)
    }

    /// All fabrics in one, for what is told by GUID.
    pub fn joined(&self) -> Option<Cow<'_, Subnet>> {
        let first = self.subnet.as_ref()?;
        if self.others.is_empty() {
            return Some(Cow::Borrowed(first));
        }
        let mut all = first.clone();
        self.others.iter().for_each(|other| all.join(other));
        Some(Cow::Owned(all))
    }

    /// Whether no port was read at all, of whatever tool.
    pub fn is_empty(&self) -> bool {
        self.subnets().all(|s| s.nodes.values().all(|n| n.ports.is_empty()))
            && self.links.iter().flatten().next().is_none()
            && self.errors.iter().flatten().next().is_none()
            && self.sms.iter().flatten().next().is_none()
            && self.adapters.iter().flatten().all(|a| a.ports.is_empty())
    }

    /// Keeps a topology; of one fabric the later capture counts.
    fn keep(&mut self, subnet: Subnet) {
        let mut all: Vec<Subnet> = self.subnet.take().into_iter().chain(std::mem::take(&mut self.others)).collect();
        let outdated = all.extract_if(.., |known| known.is_same_fabric(&subnet) || known.nodes.is_empty());
        self.outdated.extend(outdated.map(|known| (known.source, subnet.source.clone())));
        all.push(subnet);
        let mut all = all.into_iter();
        self.subnet = all.next();
        self.others = all.collect();
    }

    /// Takes a capture in. False when it is of no tool that is known.
    pub fn take(&mut self, name: &str, text: &str) -> bool {
        let Some(tool) = Tool::of(text) else { return false };
        let skipped = match tool {
            Tool::Netdiscover => {
                let parsed = parse_netdiscover(text);
                self.keep(Subnet { source: name.to_owned(), ..parsed.value });
                parsed.skipped
            }
            Tool::Linkinfo => {
                let parsed = parse_linkinfo(text);
                self.links.get_or_insert_default().extend(parsed.value);
                parsed.skipped
            }
            Tool::Queryerrors => {
                let parsed = parse_queryerrors(text);
                self.gaps.extend(gaps(text, parsed.value.len()).into_iter().map(|gap| (name.to_owned(), gap)));
                let known = self.errors.take().unwrap_or_default();
                self.errors = Some(merged([known, parsed.value].concat()));
                parsed.skipped
            }
            Tool::Ibstat => {
                let parsed = parse_ibstat(name, text);
                self.adapters.get_or_insert_default().extend(parsed.value);
                parsed.skipped
            }
            Tool::Sm => {
                let parsed = parse_sm(text);
                self.sms.get_or_insert_default().extend(parsed.value);
                parsed.skipped
            }
        };
        // Blanks that are followed by nothing were the beginning of a line.
        let end = text.rsplit('\n').next().unwrap_or("");
        if !end.is_empty() && end.trim().is_empty() {
            self.gaps.push((name.to_owned(), Gap::Cut));
        }
        self.skipped.extend(skipped.into_iter().map(|s| (name.to_owned(), s)));
        true
    }
}
