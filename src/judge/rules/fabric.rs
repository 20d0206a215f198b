//! The fabric as a check's own node read it, and what moved in it meanwhile.

use std::collections::HashSet;

use crate::judge::fabric as rules;
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::measure;
use crate::record::Record;
use crate::topology::ib::{Fabric, parse_queryerrors};
use crate::work::{Case, When};

pub(super) fn findings(record: &Record, findings: &mut Vec<Finding>) {
    let mut fabric = Fabric::default();
    let mut captures = 0;
    for (line, fact) in record.outcomes.facts().filter(|(l, _)| l.probe.as_str() == "fabric") {
        let measure::Facts::Fabric(capture) = fact else { continue };
        captures += 1;
        if matches!(line.case, Case::Fabric { when: When::After, .. }) {
            fabric.before = fabric.errors.take();
            fabric.errors = Some(parse_queryerrors(&capture.text).value);
        } else {
            fabric.take(&capture.tool, &capture.text);
        }
    }
    if captures == 0 {
        return;
    }
    // sminfo answers with an error where there is none.
    if fabric.sms.is_none() && fabric.subnet.as_ref().is_some_and(|s| !s.nodes.is_empty()) {
        fabric.sms = Some(Vec::new());
    }
    let hosts: HashSet<&str> =
        fabric.subnet.iter().flat_map(|s| s.nodes.values()).filter_map(|n| n.host()).map(|(host, _)| host).collect();
    let roster = record.header.roster();
    let known = hosts.iter().any(|h| roster.find(h).is_some());
    for f in rules::findings(&fabric) {
        // The cable of a node that has no part in this run is its owner's affair.
        let foreign = |end: &str| {
            let host = end.split(' ').next().unwrap_or("");
            hosts.contains(host) && roster.find(host).is_none()
        };
        let other = matches!(&f.subject, Subject::Cable(a, b) if foreign(a) || foreign(b));
        findings.push(if known && other { f.severity(Severity::Info) } else { f });
    }
}
