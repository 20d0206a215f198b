//! Findings -> go or no-go. Fails closed.

use std::fmt;

use serde::Serialize;

use crate::exit::Exit;
use crate::id::NodeName;
use crate::judge::{Finding, Severity};
use crate::plan::RunPlan;

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// GO when nothing weighs against it. A finding on single nodes costs those nodes; when the plan states how many it
/// needs and enough are left, they are excluded. Otherwise proven bad is NO-GO, unproven is HOLD.
pub(super) fn decide(findings: &[Finding], nodes: &[NodeName], run: &RunPlan) -> Decision {
    let against: Vec<&Finding> = findings.iter().filter(|f| f.weighs() && f.severity >= Severity::Hold).collect();
    if against.is_empty() {
        return Decision::Go;
    }
    let mut exclude: Vec<NodeName> = against.iter().filter_map(|f| f.subject.node().cloned()).collect();
    exclude.sort();
    exclude.dedup();
    let on_nodes_only = against.iter().all(|f| f.subject.node().is_some());
    let healthy = nodes.len().saturating_sub(exclude.len());
    if on_nodes_only && run.nodes.as_ref().is_some_and(|n| healthy >= n.needed as usize) {
        return Decision::GoWithout { exclude };
    }
    if against.iter().any(|f| f.severity == Severity::Fail) { Decision::NoGo } else { Decision::Hold }
}
