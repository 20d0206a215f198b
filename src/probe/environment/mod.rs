//! `environment`: the machine turned into facts, and whether anybody else is using it.

mod clock;
mod gpus;
mod launcher;

use std::thread;
use std::time::Duration;

use crate::cluster::{Child, Step};
use crate::id::ProbeName;
use crate::measure::{Facts, Outcome};
use crate::plan::CheckPlan;
use crate::probe::{Priority, Probe, ProbeError, step};
use crate::topology::{Machine, SysRoot, discover};
use crate::work::{Case, Declared, Fact};

pub use clock::clock_step;
pub use gpus::gpus_step;
pub use launcher::launcher_step;

pub struct Environment;

const MACHINE: Case = Case::Fact(Fact::Machine);

/// The parent reads the load of the machine over a step: this long, nothing of ours works.
const QUIET: Duration = Duration::from_millis(300);

/// A node without GPUs takes a quarter of it. Of the deadline that follows (9 s), NVML may use 7 s.
const ESTIMATE_MS: u64 = 1500;

impl Probe for Environment {
    fn name(&self) -> ProbeName {
        ProbeName::new("environment")
    }

    fn about(&self) -> &'static str {
        "CPU, memory, NICs, InfiniBand, GPUs, disks, limits, modules, container; who else is busy"
    }

    fn needs(&self) -> &'static str {
        "/proc and /sys"
    }

    fn metrics(&self) -> &'static [Declared] {
        &[]
    }

    fn priority(&self, _on_gpus: bool) -> Priority {
        Priority::new(0, 0)
    }

    fn steps(&self, plan: &CheckPlan, _: &Machine) -> Vec<Step> {
        // The deadline has room for a driver that does not answer: what else the machine is must then still be told.
        let mut step = step(self, plan, vec![MACHINE], (), ESTIMATE_MS);
        step.exclusive = false;
        vec![step]
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        if child.wants(&clock::CASE) {
            return clock::run(child);
        }
        if child.wants(&launcher::CASE) {
            return launcher::run(child);
        }
        if child.wants(&gpus::CASE) {
            return gpus::run(child);
        }
        let machine = discover(&SysRoot::live());
        thread::sleep(QUIET);
        let facts = Facts::Machine(Box::new(machine));
        Ok(child.outcome(&MACHINE, Outcome::facts(facts))?)
    }
}
