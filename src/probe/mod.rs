//! The probes. Each declares what it measures and what it needs, plans its steps, and runs inside a child process.
//!
//! A probe returns facts; it never says whether they are good.

mod affinity;
mod checkpoint;
mod collective;
mod environment;
mod fabric;
mod gemm;
mod gpu;
mod image;
mod memory;
mod peer;
mod rdma;
mod rehearsal;
mod storage;
mod tcp;

use crate::cluster::{Child, ChildError, Processes, Step};
use crate::id::ProbeName;
use crate::measure::WaiveKind;
use crate::plan::CheckPlan;
use crate::topology::Machine;
use crate::work::{Case, Declared};

pub use checkpoint::steps as checkpoint_steps;
pub use collective::{cost, group_step, nccl_step};
pub use environment::{clock_step, gpus_step, launcher_step};
pub use fabric::fabric_step;
pub use gpu::gpus as visible_gpus;
pub use image::{image_parts, load_library};
pub use rdma::{gpu_pair_step, rails_step};
pub use rehearsal::{Means, steps as rehearsal_steps};
pub use storage::shared_step;
pub use tcp::latency_step;

/// Why a probe gives up. Its text goes into the record as the case's error.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{0}")]
    Broken(String),
    /// A GPU failed, or the driver lost it.
    #[error("{0}")]
    Gpu(String),
    /// The step's time is too short for as many blocks as a measurement needs.
    #[error("{0}")]
    NoTime(String),
}

/// Names what was being done when an input or output failed.
pub(crate) fn io<T>(what: impl Into<String>, result: std::io::Result<T>) -> Result<T, ProbeError> {
    result.map_err(|source| ProbeError::Io { what: what.into(), source })
}

/// A probe. The registry is [`PROBES`].
pub trait Probe: Sync {
    fn name(&self) -> ProbeName;
    /// One line for `gonogo list probes`.
    fn about(&self) -> &'static str;
    /// What must be there, in words.
    fn needs(&self) -> &'static str;
    fn metrics(&self) -> &'static [Declared];
    /// What will be measured on this machine under this plan. Looks at nothing else.
    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step>;
    /// Why there may be nothing for it on any node: something is not here, or the plan asks for nothing.
    fn absence(&self) -> WaiveKind {
        WaiveKind::Absent
    }
    /// Where its steps stand when time is short; `on_gpus` for those that its GPU processes run.
    fn priority(&self, on_gpus: bool) -> Priority;
    /// How long `cases` of a step of this probe take to measure, where cases take unlike times; `None` where they share alike.
    fn again_ms(&self, _step: &Step, _cases: &[Case]) -> Option<u64> {
        None
    }
    /// Measures; called inside a child process, once a rank.
    fn run(&self, child: &mut Child) -> Result<(), ProbeError>;
}

/// How a probe's steps stand against the others' when time is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority {
    /// When it runs on a node with GPUs, the least first: what only such a node can tell comes before what every node has.
    pub turn: u8,
    /// What is given up first when the time does not suffice: the greatest. What was forgotten before the crash in the story, the
    /// storage, is among the last to go; then what only the devices of this node can tell; then its host.
    pub expendable: u8,
    /// By what its time is divided on a node with GPUs, in the quick, standard and soak tiers: the host itself is looked at for a
    /// shorter time there.
    pub beside_gpus: [u64; 3],
}

impl Priority {
    const fn new(turn: u8, expendable: u8) -> Self {
        Priority { turn, expendable, beside_gpus: [1; 3] }
    }

    const fn beside_gpus(self, divisors: [u64; 3]) -> Self {
        Priority { beside_gpus: divisors, ..self }
    }
}

/// The priority of a step; the last of all where its probe is gone.
pub fn priority(step: &Step) -> Priority {
    find(step.probe.as_str()).map_or(Priority::new(4, 11), |p| p.priority(is_on_gpus(step)))
}

/// Every probe, in the order in which they run.
pub const PROBES: &[&dyn Probe] = &[
    &environment::Environment,
    &fabric::Fabric,
    &gemm::Gemm,
    &memory::Memory,
    &gpu::Copy,
    &tcp::Tcp,
    &rdma::RdmaProbe,
    &collective::HostCollective,
    &rehearsal::Rehearsed,
    &storage::Storage,
    &checkpoint::Checkpoint,
    &image::Image,
];

/// The probe of that name.
pub fn find(name: &str) -> Option<&'static dyn Probe> {
    PROBES.iter().copied().find(|p| p.name().as_str() == name)
}

/// The step that one round of pairs runs on a plane; the caller sets its name and groups.
pub fn pair_step(plan: &CheckPlan, probe: &ProbeName, rail: Option<&str>) -> Step {
    match (probe.as_str(), rail) {
        ("rdma", Some(device)) => rdma::pair_step(plan, device),
        _ => tcp::pair_step(plan, rail),
    }
}

/// The names, for the plan stage.
pub fn names() -> Vec<ProbeName> {
    PROBES.iter().map(|p| p.name()).collect()
}

/// What a process must do before it runs steps: settings that libraries read when they are loaded.
pub fn begin(child: &mut Child) {
    if child.step.processes == Processes::Gpus {
        collective::listen(child);
    }
}

/// Every step of a plan on a machine, in the order in which they run.
pub fn steps(plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
    let chosen = PROBES.iter().filter(|p| plan.probes.contains(&p.name()));
    let mut steps: Vec<Step> = chosen.flat_map(|p| p.steps(plan, machine)).collect();
    let gpus = gpu::count(machine);
    if gpus == 0 {
        return steps;
    }
    steps.sort_by_key(|s| priority(s).turn);
    for step in &mut steps {
        let [quick, standard, soak] = priority(step).beside_gpus;
        step.estimate_ms /= plan.tier.pick(quick, standard, soak);
    }
    // The processes of the GPUs start with the first step that needs them.
    if let Some(first) = steps.iter_mut().find(|s| is_on_gpus(s)) {
        let start = gpu::start_ms(gpus);
        first.start_ms += start;
        first.estimate_ms += start;
    }
    steps
}

fn is_on_gpus(step: &Step) -> bool {
    step.processes == Processes::Gpus
}

/// A step of `probe` with one rank; the callers set what differs.
fn step(probe: &dyn Probe, plan: &CheckPlan, cases: Vec<Case>, args: impl serde::Serialize, estimate_ms: u64) -> Step {
    Step {
        exclusive: true,
        // The arguments are plain structs of ours: their serialisation cannot fail.
        args: serde_json::to_value(args).unwrap_or_default(),
        seed: plan.seed,
        estimate_ms,
        ..Step::new(probe.name().as_str(), probe.name(), cases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_registry_is_well_formed() {
        let mut names = BTreeSet::new();
        for probe in PROBES {
            let name = probe.name();
            assert!(names.insert(name.clone()), "{name} is there twice");
            assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase()), "{name}");
            assert!(!probe.about().is_empty() && !probe.needs().is_empty(), "{name}");
            let metrics: BTreeSet<_> = probe.metrics().iter().map(|m| m.metric).collect();
            assert_eq!(metrics.len(), probe.metrics().len(), "{name} declares a metric twice");
        }
    }

    #[test]
    fn steps_have_unique_names_and_cases_on_any_machine() {
        let plan = crate::plan::resolve(Default::default(), Default::default(), &names(), 1);
        let Ok(plan) = plan else { panic!("{plan:?}") };
        for machine in [Machine::default(), crate::topology::discover(&crate::topology::SysRoot::live())] {
            let steps = steps(&plan, &machine);
            let unique: BTreeSet<_> = steps.iter().map(|s| &s.name).collect();
            assert_eq!(unique.len(), steps.len());
            for s in &steps {
                assert!(!s.cases.is_empty() && s.estimate_ms > 0 && s.ranks > 0, "{}", s.name);
                assert_eq!(s.cases.iter().collect::<BTreeSet<_>>().len(), s.cases.len(), "{}", s.name);
            }
            let total: u64 = steps.iter().map(|s| s.estimate_ms).sum();
            assert!(total <= 18_000, "the quick tier plans {total} ms");
        }
    }
}
