//! Findings -> go or no-go. Fails closed.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::id::NodeName;
use crate::judge::codes::Code;
use crate::judge::{Finding, Severity, Subject};
use crate::localise;
use crate::plan::RunPlan;
use crate::record::{Header, Record};
use crate::topology::Leaf;

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "decision")]
pub enum Decision {
    Go,
    /// Enough healthy nodes when these are left out.
    GoWithout {
        exclude: Vec<NodeName>,
    },
    NoGo,
    Hold,
}

impl Decision {
    pub const fn name(&self) -> &'static str {
        match self {
            Decision::Go => "GO",
            Decision::GoWithout { .. } => "GO-WITHOUT",
            Decision::NoGo => "NO-GO",
            Decision::Hold => "HOLD",
        }
    }

    pub const fn exit(&self) -> Exit {
        match self {
            Decision::Go | Decision::GoWithout { .. } => Exit::Go,
            Decision::NoGo => Exit::NoGo,
            Decision::Hold => Exit::Hold,
        }
    }

    /// Nodes to leave out; empty unless GO-WITHOUT.
    pub fn exclude(&self) -> &[NodeName] {
        match self {
            Decision::GoWithout { exclude } => exclude,
            _ => &[],
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which nodes to take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Nodes with something against them; leaving them out is what would help.
    pub exclude: Vec<NodeName>,
    /// Healthy nodes to run on: as many as the plan needs, whole leaves first.
    pub run_on: Vec<NodeName>,
    /// Healthy nodes that are not needed.
    pub spares: Vec<NodeName>,
}

/// GO when nothing weighs against it. A finding on nodes costs those nodes; when the plan states how many it needs and
/// enough are left, they are excluded. Otherwise proven bad is NO-GO, unproven is HOLD.
pub(super) fn decide(findings: &[Finding], record: &Record, run: &RunPlan) -> (Decision, Placement) {
    let (header, leaves) = (&record.header, localise::leaves(record));
    let against: Vec<&Finding> = findings.iter().filter(|f| f.weighs() && f.severity >= Severity::Hold).collect();
    let mut exclude: Vec<NodeName> = against.iter().filter_map(|f| f.subject.node().cloned()).collect();
    let mut curable = true;
    for f in &against {
        match &f.subject {
            Subject::Node(_) | Subject::Gpu(..) | Subject::Path(..) => {}
            // Either end will do: the one that others complain of, else the second.
            Subject::Link(a, b) => {
                if !exclude.contains(a) && !exclude.contains(b) {
                    exclude.push(b.clone());
                }
            }
            Subject::Leaf(name) => {
                let leaf = leaves.iter().filter(|l| l.name == *name).flat_map(|l| &l.nodes);
                let own: Vec<NodeName> = leaf.filter(|n| header.nodes.contains(n)).cloned().collect();
                curable &= !own.is_empty();
                exclude.extend(own);
            }
            // A fabric is judged by itself, not in a record of nodes.
            Subject::Run | Subject::Image | Subject::Group(_) | Subject::Switch(_) | Subject::Cable(..) => {
                curable = false
            }
        }
    }
    exclude.sort();
    exclude.dedup();
    let known = findings.iter().filter(|f| f.weighs() && f.code == Code::LEM_001);
    let offenders: HashSet<&NodeName> = known.filter_map(|f| f.subject.node()).collect();
    let placement = place(header, &leaves, run, exclude, &offenders);
    if against.is_empty() {
        return (Decision::Go, placement);
    }
    let healthy = placement.run_on.len() + placement.spares.len();
    if curable && run.nodes.as_ref().is_some_and(|n| healthy >= n.needed as usize) {
        return (Decision::GoWithout { exclude: placement.exclude.clone() }, placement);
    }
    let proven = against.iter().any(|f| f.severity == Severity::Fail);
    (if proven { Decision::NoGo } else { Decision::Hold }, placement)
}

/// Healthy nodes, as many as needed: who failed before last, then from the fullest leaves first, so that what is left over is left
/// whole, too.
fn place(
    header: &Header,
    leaves: &[Leaf],
    run: &RunPlan,
    exclude: Vec<NodeName>,
    offenders: &HashSet<&NodeName>,
) -> Placement {
    let out: HashSet<&NodeName> = exclude.iter().collect();
    let healthy: Vec<&NodeName> = header.nodes.iter().filter(|n| !out.contains(n)).collect();
    let needed = run.nodes.as_ref().map_or(healthy.len(), |n| n.needed as usize);
    let leaf = localise::leaf_numbers(&healthy, leaves);
    let mut size: HashMap<u32, usize> = HashMap::new();
    for l in &leaf {
        *size.entry(*l).or_default() += 1;
    }
    let mut order: Vec<(usize, u32, &NodeName)> = leaf.iter().zip(&healthy).map(|(l, n)| (size[l], *l, *n)).collect();
    // Stable within a leaf: ranks stay in the launcher's order.
    order.sort_by_key(|(size, leaf, n)| (offenders.contains(n), std::cmp::Reverse(*size), *leaf));
    let names: Vec<NodeName> = order.into_iter().map(|(_, _, n)| n.clone()).collect();
    let (run_on, spares) = names.split_at(needed.min(names.len()));
    let in_order = |chosen: &[NodeName]| {
        let chosen: HashSet<&NodeName> = chosen.iter().collect();
        healthy.iter().filter(|n| chosen.contains(*n)).map(|n| (*n).clone()).collect()
    };
    Placement { run_on: in_order(run_on), spares: in_order(spares), exclude }
}
