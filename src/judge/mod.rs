//! Record + expectations + plan -> verdicts, findings, a decision. Pure: no clock, no file, no environment, so that the
//! same record gives the same answer on a laptop a year later.

mod cell;
pub mod codes;
mod coverage;
mod decide;
mod diff;
pub mod fabric;
mod finding;
mod offenders;
mod rules;
mod severity;
mod sources;
mod verdict;

pub use cell::{Cell, LimitShown, Row, Straggler, by_key};
pub use codes::{CODES, Code, CodeDoc};
pub use coverage::Coverage;
pub use decide::{Decision, Placement};
pub use diff::{Change, Diff, Moved, diff};
pub use finding::{Finding, Proof, Rule, Subject};
pub use offenders::offenders;
pub use rules::{Facts, judge, judge_knowing, remains, watched};
pub use severity::Severity;
pub use sources::sources;
pub use verdict::{Reason, Verdict};

use std::collections::BTreeMap;

use crate::id::NodeName;
use crate::record::Record;
use crate::work::Case;

/// A case whose verdict is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCase {
    pub node: NodeName,
    pub step: String,
    pub case: Case,
}

/// What was made of a record.
#[derive(Debug)]
pub struct Judgement<'r> {
    pub record: &'r Record,
    pub decision: Decision,
    /// Which nodes to take and to leave, whatever the decision.
    pub placement: Placement,
    /// Worst first.
    pub findings: Vec<Finding>,
    /// One a metric of a case of a node, in the order of the record.
    pub cells: Vec<Cell<'r>>,
    pub coverage: Coverage,
    /// Nodes that are slow though they work, and how much longer (0.04: 4 %) a step takes with each.
    pub slow: BTreeMap<NodeName, f64>,
    /// Whether it was judged by the plan that it was measured for: no gate opens by another's verdict.
    pub own_plan: bool,
}

impl Judgement<'_> {
    /// Steps with a case that may be measured again: its verdict is open for a reason that more samples may cure.
    pub fn open_cases(&self) -> Vec<OpenCase> {
        let curable = |c: &&Cell<'_>| match c.verdict {
            Verdict::Inconclusive(reason) => reason.curable(),
            // A failure is confirmed, apart in time: a host that took a guest's cores shows in nothing else.
            Verdict::Fail => c.attempts().is_empty(),
            Verdict::NoLimit | Verdict::Pass | Verdict::Warn => false,
        };
        let open = |c: &Cell<'_>| OpenCase {
            node: c.row().node.clone(),
            step: c.row().step.to_owned(),
            case: c.row().case.clone(),
        };
        let mut out: Vec<OpenCase> = self.cells.iter().filter(curable).map(open).collect();
        out.dedup();
        out
    }
}
