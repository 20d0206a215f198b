//! What the GPUs' driver says at the end of a check: counters that moved and Xids that came are held against the beginning.

use crate::cluster::{Child, Processes, Step};
use crate::measure::{Facts, Measured, Outcome, WaiveKind};
use crate::plan::CheckPlan;
use crate::probe::environment::Environment;
use crate::probe::{ProbeError, step};
use crate::topology::{SysRoot, nvidia};

pub(super) const CASE: &str = "gpus at the end";

/// The step on every node that has GPUs; the caller sets its groups.
pub fn gpus_step(plan: &CheckPlan) -> Step {
    let step = step(&Environment, plan, vec![CASE.to_owned()], (), 800);
    // What our own processes hold is nobody's fault; and the driver answers slowly while contexts end.
    Step { name: "gpus-end".to_owned(), exclusive: false, start_ms: 400, processes: Processes::AfterGpus, ..step }
}

pub(super) fn run(child: &mut Child) -> Result<(), ProbeError> {
    let outcome = match nvidia(&SysRoot::live(), true) {
        Some(n) if n.error.is_none() => {
            let facts = Some(Facts::Nvidia(Box::new(n)));
            Outcome::Measured(Measured { facts, ..Measured::default() })
        }
        other => {
            let why = other.and_then(|n| n.error).unwrap_or_else(|| "no NVIDIA driver".to_owned());
            Outcome::waived(WaiveKind::Absent, why)
        }
    };
    Ok(child.outcome(CASE, outcome)?)
}
