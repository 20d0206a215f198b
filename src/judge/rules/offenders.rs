//! Who failed before, by the list of the baseline.

use crate::baseline::Offender;
use crate::id::clean;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::record::Record;
use crate::unit::several;

pub(super) fn findings(record: &Record, offenders: &[Offender], findings: &mut Vec<Finding>) {
    let roster = record.header.roster();
    for (node, machine) in record.machines() {
        let is_called = |name: &str| roster.find(name) == Some(node);
        for offender in offenders {
            let gpu = machine.nvidia.iter().flat_map(|n| &n.gpus).find(|g| offender.gpus.contains(&g.uuid));
            let who = match gpu {
                Some(g) => format!("GPU {} ({})", g.index, clean(&g.uuid)),
                None if offender.gpus.is_empty() && offender.is_node(machine.serial.as_deref(), is_called) => {
                    "it".to_owned()
                }
                None => continue,
            };
            let (codes, times): (Vec<&str>, usize) =
                (offender.codes.iter().map(String::as_str).collect(), offender.on.len());
            let then = if offender.node == node.0 { String::new() } else { format!(" as {}", clean(&offender.node)) };
            let evidence = format!(
                "{who} failed{then} {}, last on {}: {}",
                several(times, "time"),
                clean(offender.last()),
                clean(&codes.join(", "))
            );
            findings.push(Finding::new(Code::LEM_001, Subject::Node(node.clone()), evidence));
        }
    }
}
