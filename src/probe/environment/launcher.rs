//! Whether the daemon that starts jobs on this node is there: looked for when a check begins and when it ends, for a
//! node whose daemon died meanwhile answers to everything but the launch.

use crate::cluster::{Child, Step};
use crate::measure::{Facts, Outcome};
use crate::plan::CheckPlan;
use crate::probe::environment::Environment;
use crate::probe::{ProbeError, step};
use crate::work::{Case, Fact};

pub(super) const CASE: Case = Case::Fact(Fact::Slurmd);

/// The step on every node; `when` is `start` or `end`. The caller sets its groups.
pub fn launcher_step(plan: &CheckPlan, when: &str) -> Step {
    let mut step = step(&Environment, plan, vec![CASE], (), 50);
    step.name = format!("slurmd-{when}");
    step.exclusive = false;
    step
}

pub(super) fn run(child: &mut Child) -> Result<(), ProbeError> {
    let facts = Facts::Slurmd(runs("slurmd"));
    Ok(child.outcome(&CASE, Outcome::facts(facts))?)
}

/// Whether a process of this name is to be seen. In a container's own process namespace none is, at either time.
fn runs(name: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let comm = |e: std::fs::DirEntry| std::fs::read_to_string(e.path().join("comm")).ok();
    processes.filter_map(comm).any(|c| c.trim_end() == name)
}
