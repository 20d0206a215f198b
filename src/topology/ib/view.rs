//! All that is known of a fabric, from whatever captures there are.

use crate::topology::ib::{
    LinkState, PortErrors, Skipped, Sm, Subnet, parse_linkinfo, parse_netdiscover, parse_queryerrors, parse_sm,
};

/// What each tool said; absent where it was not asked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fabric {
    pub subnet: Option<Subnet>,
    pub links: Option<Vec<LinkState>>,
    pub errors: Option<Vec<PortErrors>>,
    /// The same counters earlier: then only what moved since counts.
    pub before: Option<Vec<PortErrors>>,
    pub sms: Option<Vec<Sm>>,
    /// How it should be.
    pub expected: Option<Subnet>,
    /// Where each line came from that nobody understood.
    pub skipped: Vec<(String, Skipped)>,
}

/// Which tool a capture is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Netdiscover,
    Linkinfo,
    Queryerrors,
    Sm,
}

impl Tool {
    /// By what is in it: file names are the user's own.
    pub fn of(text: &str) -> Option<Self> {
        let has = |marks: &[&str]| marks.iter().any(|m| text.contains(m));
        // An error report with link information has arrows, too.
        if has(&["Errors for ", "Data Counters for ", "# Port counters:", "# Port extended counters:", "## Summary:"]) {
            Some(Tool::Queryerrors)
        } else if has(&["==("]) {
            Some(Tool::Linkinfo)
        } else if has(&["sminfo: ", "SMInfoRecord dump:"]) {
            Some(Tool::Sm)
        } else if has(&["switchguid=", "caguid=", "\nSwitch", "\nCa\t", "\nCa "]) {
            Some(Tool::Netdiscover)
        } else {
            None
        }
    }
}

impl Fabric {
    /// Takes a capture in. False when it is of no tool that is known.
    pub fn take(&mut self, name: &str, text: &str) -> bool {
        let Some(tool) = Tool::of(text) else { return false };
        let skipped = match tool {
            Tool::Netdiscover => {
                let parsed = parse_netdiscover(text);
                self.subnet = Some(parsed.value);
                parsed.skipped
            }
            Tool::Linkinfo => {
                let parsed = parse_linkinfo(text);
                self.links.get_or_insert_default().extend(parsed.value);
                parsed.skipped
            }
            Tool::Queryerrors => {
                let parsed = parse_queryerrors(text);
                self.errors.get_or_insert_default().extend(parsed.value);
                parsed.skipped
            }
            Tool::Sm => {
                let parsed = parse_sm(text);
                self.sms.get_or_insert_default().extend(parsed.value);
                parsed.skipped
            }
        };
        self.skipped.extend(skipped.into_iter().map(|s| (name.to_owned(), s)));
        true
    }
}
