//! `rehearsal`: a step of the plan's training, without a trainer: the products of its layers and the messages of its ranks, each alone and
//! both together as the plan overlaps them.
//!
//! Every rank times its own products, apart from its waits for others: who makes the others wait shows in its own time alone. The three
//! are taken in turn, round by round, so that what drifts meets all alike. A machine that is too slow for the run's layers in the time that
//! there is rehearses a narrower likeness of them, in which computing and gradients keep their proportion; that is said.

mod host;

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Shape, Step};
use crate::id::{NodeName, ProbeName};
use crate::measure::{Check, Facts, Measured, Outcome, RankSteps, Rehearsal, Series, WaiveKind};
use crate::plan::{CheckPlan, Training};
use crate::probe::collective::slowest;
use crate::probe::{Priority, Probe, ProbeError, step};
use crate::topology::Machine;
use crate::work::{Case, CheckName, Declared, Metric, StepPart};

pub struct Rehearsed;

/// What a rank needs to know.
#[derive(Serialize, Deserialize)]
struct Args {
    training: Training,
    /// Threads that compute, and whether a core is left beside them.
    threads: usize,
    own_core: bool,
}

impl Probe for Rehearsed {
    fn name(&self) -> ProbeName {
        ProbeName::new("rehearsal")
    }

    fn about(&self) -> &'static str {
        "a step of the plan's training: its layers' products and its ranks' messages, each alone and both together; own time by rank"
    }

    fn needs(&self) -> &'static str {
        "the plan's [model] preset or shape, and [parallel]"
    }

    fn absence(&self) -> WaiveKind {
        WaiveKind::NotAsked
    }

    fn metrics(&self) -> &'static [Declared] {
        const METRICS: &[Declared] = &[
            Metric::Step.of("time of the layers that were rehearsed, the slowest rank's"),
            Metric::Flops.of("operations a second of their products, the slowest rank's"),
        ];
        METRICS
    }

    fn priority(&self, _on_gpus: bool) -> Priority {
        Priority::new(4, 6)
    }

    /// Of one machine by itself; several have [`steps`].
    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        one(plan, 1, machine.usable_cores()).into_iter().collect()
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        let args: Args = child.args()?;
        host::run(child, &args)
    }
}

/// The step that all nodes rehearse together.
pub fn steps(plan: &CheckPlan, nodes: &[NodeName], cores: usize) -> Vec<Step> {
    let of = |step: Step| Step { shape: Shape::groups(vec![nodes.to_vec()]), ..step };
    one(plan, nodes.len() as u32, cores).map(of).into_iter().collect()
}

/// Of `nodes` nodes, whose hosts each stand for one of its GPUs where the run is on GPUs; `None` where the plan does not say what a step is,
/// or it does not divide among so many.
fn one(plan: &CheckPlan, nodes: u32, cores: usize) -> Option<Step> {
    let each = plan.run.nodes.as_ref().map_or(1, |n| n.gpus_per_node.max(1));
    let training = Training::of(&plan.run, nodes.saturating_mul(each))?.ok()?.by_nodes(each)?;
    // One core is left to the messages, where there are several.
    let args = Args { training, threads: cores.saturating_sub(1).max(1), own_core: cores > 1 };
    let parts = if nodes > 1 { StepPart::ALL } else { &[StepPart::Compute, StepPart::Whole] };
    let cases = parts.iter().map(|part| case(*part, nodes)).collect();
    let estimate = plan.tier.pick(8000, 30_000, 120_000);
    let step = step(&Rehearsed, plan, cases, &args, estimate);
    Some(Step { start_ms: 500, ..step })
}

const fn case(part: StepPart, ranks: u32) -> Case {
    Case::Rehearsal { part, ranks, gpus: false }
}

/// What one rank tells when all rounds are over: its times, and how many elements of its messages were wrong.
#[derive(Serialize, Deserialize)]
struct RankReport {
    times: RankSteps,
    wrong: usize,
}

/// Tells the outcomes of all ranks' rounds; rank 0 does.
fn tell(child: &mut Child, rehearsal: Rehearsal, wrong: usize, notes: Vec<String>) -> Result<(), ProbeError> {
    let ranks = child.ranks;
    for part in StepPart::ALL.iter().copied() {
        let of = |r: &RankSteps| match part {
            StepPart::Compute => r.alone.clone(),
            StepPart::Communication => r.communication.clone(),
            StepPart::Whole => r.whole.clone(),
        };
        let times: Vec<Vec<f64>> = rehearsal.ranks.iter().map(of).collect();
        let times: Vec<&[f64]> = times.iter().map(Vec::as_slice).collect();
        let rounds = times.iter().map(|t| t.len()).min().unwrap_or(0);
        if rounds == 0 {
            continue;
        }
        let (seconds, last) = slowest(&times, rounds);
        let flops = rehearsal.training.narrowed(rehearsal.narrow).layer_flops() * rehearsal.layers as f64;
        let rates = Metric::Flops.series(seconds.iter().map(|s| flops / s).collect(), 1);
        let mut series = vec![Series { slowest_rank: last, ..Metric::Step.series(seconds, 1) }];
        series.extend((part == StepPart::Compute).then_some(rates));
        let is_whole = part == StepPart::Whole;
        let sums =
            Check::new(CheckName::Sum, wrong == 0, format!("{wrong} elements of what the ranks sent came out wrong"));
        let measured = Measured {
            series,
            checks: if part == StepPart::Communication { vec![sums] } else { Vec::new() },
            facts: is_whole.then(|| Box::new(Facts::Rehearsal(Box::new(rehearsal.clone())))),
            notes: notes.clone(),
            ..Measured::default()
        };
        child.outcome(&case(part, ranks), Outcome::Measured(measured))?;
    }
    Ok(())
}
