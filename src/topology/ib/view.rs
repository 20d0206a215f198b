//! All that is known of a fabric, from whatever captures there are.

use std::borrow::Cow;

use crate::topology::ib::errors::{gaps, merged};
use crate::topology::ib::linkinfo::link_infos;
use crate::topology::ib::sections;
use crate::topology::ib::{
    Adapter, Gap, LinkState, PortErrors, Skipped, Sm, Subnet, Tool, parse_ibstat, parse_linkinfo, parse_netdiscover,
    parse_queryerrors, parse_sm,
};

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
        if let Some(nodes) = sections::by_node(text) {
            return nodes.into_iter().fold(false, |any, (node, own)| self.take_parts(node, &own) || any);
        }
        self.take_parts(name, text)
    }

    fn take_parts(&mut self, name: &str, text: &str) -> bool {
        let parts = sections::by_tool(text);
        for (tool, own) in &parts {
            self.take_one(*tool, name, own);
        }
        !parts.is_empty()
    }

    fn take_one(&mut self, tool: Tool, name: &str, text: &str) {
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
                let links = link_infos(text);
                if !links.is_empty() {
                    self.links.get_or_insert_default().extend(links);
                }
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
    }
}
