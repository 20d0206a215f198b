//! Nodes and GPUs that failed before: a part that was reset and passes today is more likely to fail again than its neighbours.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A node, or GPUs of it, that failed in a record. GPUs are known by their UUID wherever they are built in later, nodes by their
/// serial number, and by name where that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offender {
    /// As it was called.
    pub node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// UUIDs; empty when it is the node that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// What was found.
    pub codes: BTreeSet<String>,
    /// When the records were made: one failure each.
    pub on: BTreeSet<String>,
}

impl Offender {
    /// Whether both are of the same part.
    pub fn is(&self, other: &Offender) -> bool {
        self.gpus == other.gpus && (!self.gpus.is_empty() || self.is_node(other.serial.as_deref(), |n| n == other.node))
    }

    /// Whether a node is the one that failed; `is_called` says whether a name is its, where a serial number is missing.
    pub fn is_node(&self, serial: Option<&str>, is_called: impl FnOnce(&str) -> bool) -> bool {
        match (self.serial.as_deref(), serial) {
            (Some(a), Some(b)) => a == b,
            _ => is_called(&self.node),
        }
    }

    /// The day of the last failure.
    pub fn last(&self) -> &str {
        self.on.last().map_or("", |t| t.get(..10).unwrap_or(t))
    }
}

/// Adds offenders to a list; those of one part become one, and a record that is added again counts once.
pub fn merge(list: &mut Vec<Offender>, more: impl IntoIterator<Item = Offender>) {
    for new in more {
        match list.iter_mut().find(|l| l.is(&new)) {
            Some(old) => {
                old.codes.extend(new.codes);
                old.on.extend(new.on);
                old.serial = new.serial.or(old.serial.take());
                old.node = new.node;
            }
            None => list.push(new),
        }
    }
    list.sort_by(|a, b| b.on.len().cmp(&a.on.len()).then_with(|| a.node.cmp(&b.node)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offender(node: &str, serial: Option<&str>, gpus: &[&str], on: &str) -> Offender {
        Offender {
            node: node.into(),
            serial: serial.map(str::to_owned),
            gpus: gpus.iter().map(|g| (*g).to_owned()).collect(),
            codes: ["GEM-004".to_owned()].into(),
            on: [on.to_owned()].into(),
        }
    }

    #[test]
    fn a_part_is_known_again_and_a_record_counts_once() {
        let mut list = Vec::new();
        merge(
            &mut list,
            [offender("n1", Some("S1"), &[], "2026-01-01T00:00:00Z"), offender("n2", None, &["GPU-a"], "2026-01-01")],
        );
        // Renamed, and the GPU moved; then the same record once more, and a node without a serial.
        let again =
            [offender("n9", Some("S1"), &[], "2026-01-02T00:00:00Z"), offender("n7", None, &["GPU-a"], "2026-01-03")];
        merge(&mut list, again.clone());
        merge(&mut list, again);
        merge(&mut list, [offender("n1", Some("S2"), &[], "2026-01-04"), offender("n3", None, &[], "x")]);
        let told: Vec<_> = list.iter().map(|l| (l.node.as_str(), l.on.len())).collect();
        assert_eq!(told, [("n7", 2), ("n9", 2), ("n1", 1), ("n3", 1)]);
        assert_eq!((list[1].last(), list[3].last()), ("2026-01-02", "x"));
    }
}
