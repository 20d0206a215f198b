//! Nodes and GPUs that are proven bad in a record, for the list that later checks are held against.

use crate::baseline::{Offender, merge};
use crate::id::{NodeName, clean};
use crate::judge::Judgement;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::topology::Machine;

/// Families and codes that speak of hardware. What is configured wrongly is no offender.
const HARDWARE: &[&str] = &["GPU", "GEM", "MEM", "CPY", "NET", "RDM", "COL", "PER"];

fn is_of_hardware(code: Code) -> bool {
    HARDWARE.contains(&code.family()) || matches!(code, Code::CLU_002 | Code::CLU_003)
}

/// Every part that failed here.
pub fn offenders(j: &Judgement<'_>) -> Vec<Offender> {
    let mut out = Vec::new();
    let machines: Vec<(&NodeName, &Machine)> = j.record.machines().collect();
    let hard = |f: &&Finding| f.severity == Severity::Fail && is_of_hardware(f.code);
    for f in j.findings.iter().filter(hard) {
        let Some(node) = f.subject.node() else { continue };
        let machine = machines.iter().find(|(n, _)| *n == node).map(|(_, m)| *m);
        let gpus = machine.map(|m| gpus(f, m)).unwrap_or_default();
        let new = Offender {
            node: clean(&node.0).into_owned(),
            serial: machine.and_then(|m| m.serial.clone()),
            gpus,
            codes: [f.code.to_string()].into(),
            on: [j.record.header.started.to_string()].into(),
        };
        merge(&mut out, [new]);
    }
    out
}

/// The GPUs that a finding names, by their place on PCI or as the measured case does.
fn gpus(f: &Finding, m: &Machine) -> Vec<String> {
    let words: Vec<&str> = f.evidence.split(|c: char| !c.is_ascii_alphanumeric() && !":.-_".contains(c)).collect();
    let named = |g: &&crate::topology::Gpu| {
        if let Subject::Gpu(_, number) = f.subject {
            return g.index == number;
        }
        let case = format!("gpu{}", g.index);
        words.iter().any(|w| *w == g.pci || *w == case)
    };
    m.nvidia.iter().flat_map(|n| &n.gpus).filter(named).map(|g| clean(&g.uuid).into_owned()).collect()
}
