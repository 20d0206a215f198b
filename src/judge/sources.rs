//! Where in a record a finding comes from that no reading proves: the facts that its rule reads, or the outcomes that are missing.

use crate::judge::finding::Finding;
use crate::measure::{Facts, Outcome};
use crate::record::{OutcomeLine, Record};

/// The outcomes that a finding's rule goes by, of its node where it has one.
pub fn sources<'r>(record: &'r Record, f: &Finding) -> Vec<&'r OutcomeLine> {
    let of_subject = |l: &&OutcomeLine| f.subject.node().is_none_or(|node| *l.node == *node);
    record.outcomes.iter().filter(of_subject).filter(|l| goes_by(f.code.family(), &l.outcome)).collect()
}

fn goes_by(family: &str, outcome: &Outcome) -> bool {
    let facts = outcome.measured().and_then(|m| m.facts.as_deref());
    match (family, facts) {
        // What broke off, or was never reached.
        ("RUN" | "COV" | "CLU", None) => outcome.measured().is_none(),
        ("CLU", Some(facts)) => matches!(facts, Facts::Machine(_) | Facts::Slurmd(_)),
        ("ENV" | "HET" | "CLK", Some(Facts::Machine(_))) | ("CLK", Some(Facts::Clocks(_))) => true,
        ("GPU", Some(facts)) => matches!(facts, Facts::Machine(_) | Facts::Nvidia(_) | Facts::GpuLoad(_)),
        ("RDM", Some(facts)) => matches!(facts, Facts::Machine(_) | Facts::RdmaPath(_)),
        ("CPY", Some(facts)) => matches!(facts, Facts::Peers(_)),
        ("NCL" | "COL", Some(facts)) => matches!(facts, Facts::Nccl(_)),
        ("FAB", Some(facts)) => matches!(facts, Facts::Fabric(_)),
        ("IMG", Some(facts)) => matches!(facts, Facts::Software(_) | Facts::Start(_)),
        ("STO", Some(facts)) => matches!(facts, Facts::Filesystem(_) | Facts::Shared(_) | Facts::Watched(_)),
        ("NET", Some(facts)) => matches!(facts, Facts::Machine(_) | Facts::Latencies(_)),
        ("REH", Some(facts)) => matches!(facts, Facts::Rehearsal(_)),
        ("MOR", Some(facts)) => matches!(facts, Facts::Remains(_)),
        _ => false,
    }
}
