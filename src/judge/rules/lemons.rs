//! Who failed before, by the list of the baseline.

use crate::baseline::Lemon;
use crate::id::clean;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::rules::Facts;
use crate::record::Record;

pub(super) fn findings(record: &Record, lemons: &[Lemon], findings: &mut Vec<Finding>) {
    let roster = record.header.roster();
    for (node, machine) in Facts::machines(record) {
        let is_called = |name: &str| roster.find(name) == Some(node);
        for lemon in lemons {
            let gpu = machine.nvidia.iter().flat_map(|n| &n.gpus).find(|g| lemon.gpus.contains(&g.uuid));
            let who = match gpu {
                Some(g) => format!("GPU {} ({})", g.index, clean(&g.uuid)),
                None if lemon.gpus.is_empty() && lemon.is_node(machine.serial.as_deref(), is_called) => "it".to_owned(),
                None => continue,
            };
            let (codes, times): (Vec<&str>, usize) = (lemon.codes.iter().map(String::as_str).collect(), lemon.on.len());
            let then = if lemon.node == node.0 { String::new() } else { format!(" as {}", clean(&lemon.node)) };
            let evidence = format!(
                "{who} failed{then} {times} time{}, last on {}: {}",
                if times == 1 { "" } else { "s" },
                clean(lemon.last()),
                clean(&codes.join(", "))
            );
            findings.push(Finding::new(Code::LEM_001, Subject::Node(node.clone()), evidence));
        }
    }
}
