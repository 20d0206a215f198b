//! What the GPUs' driver says at the end of a check: counters that moved and Xids that came are held against the beginning.

use std::time::Duration;

use crate::cluster::{Child, Processes, Step};
use crate::measure::{Facts, Outcome, WaiveKind};
use crate::plan::CheckPlan;
use crate::probe::environment::Environment;
use crate::probe::{ProbeError, step};
use crate::topology::{SysRoot, nvidia_within};
use crate::work::{Case, Fact};

pub(super) const CASE: Case = Case::Fact(Fact::GpusAtEnd);

/// The step on every node that has GPUs; the caller sets its groups.
pub fn gpus_step(plan: &CheckPlan) -> Step {
    let step = step(&Environment, plan, vec![CASE], (), 800);
    // What our own processes hold is nobody's fault; and the driver answers slowly while contexts end.
    Step { name: "gpus-end".to_owned(), exclusive: false, start_ms: 400, processes: Processes::AfterGpus, ..step }
}

/// Time to say so after the driver did not answer.
const ROOM: Duration = Duration::from_millis(500);

pub(super) fn run(child: &mut Child) -> Result<(), ProbeError> {
    let patience = child.time_left().saturating_sub(ROOM);
    let outcome = match nvidia_within(&SysRoot::live(), true, patience) {
        // An error is a fact too: a driver that answered at the beginning and does not now has broken down meanwhile.
        Some(n) => {
            let facts = Facts::Nvidia(Box::new(n));
            Outcome::facts(facts)
        }
        None => Outcome::waived(WaiveKind::Absent, "no NVIDIA driver"),
    };
    Ok(child.outcome(&CASE, outcome)?)
}
