//! `rehearsal`: a step of the plan's training, without a trainer: the products of its layers and the messages of its ranks, each alone and
//! both together as the plan overlaps them.
//!
//! Every rank times its own products, apart from its waits for others: who makes the others wait shows in its own time alone. The three
//! are taken in turn, round by round, so that what drifts meets all alike. A machine that is too slow for the run's layers in the time that
//! there is rehearses a narrower likeness of them, in which computing and gradients keep their proportion; that is said.

mod fit;
mod gpu;
mod host;

use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

use crate::cluster::{Child, Processes, Shape, Step};
use crate::id::{NodeName, ProbeName};
use crate::measure::{Check, CountersMoved, Facts, Measured, Outcome, RankSteps, Rehearsal, Series, Timed, WaiveKind};
use crate::plan::{CheckPlan, Training};
use crate::probe::collective::slowest;
use crate::probe::gpu::gpus as gpu_places;
use crate::probe::{Priority, Probe, ProbeError, step};
use crate::topology::Machine;
use crate::unit::Unit;
use crate::work::{Case, CheckName, Declared, Metric, StepPart};

use fit::Fit;

pub struct Rehearsed;

/// What a rank needs to know.
#[derive(Serialize, Deserialize)]
struct Args {
    training: Training,
    /// Threads that compute, and whether a core is left beside them.
    threads: usize,
    own_core: bool,
    /// GPUs of each node; none where hosts compute.
    gpus: u32,
    /// NVML's numbers of the ranks' GPUs, in a step on one node.
    numbers: Vec<u32>,
    /// The RDMA device that carries what hosts send each other; TCP without one.
    device: Option<String>,
}

/// What the ranks of a step compute with, and what carries their messages.
#[derive(Default)]
pub struct Means<'a> {
    /// Of each host.
    pub cores: usize,
    /// Of each node; none where hosts compute.
    pub gpus: u32,
    /// NVML's numbers of them, in a step on one node.
    pub numbers: Vec<u32>,
    /// The RDMA device of each node by which hosts reach each other; TCP without one.
    pub device: Option<&'a str>,
}

/// Rounds, at least and at most: a median of fewer has no interval.
const ROUNDS: std::ops::RangeInclusive<usize> = 6..=48;
/// So many passes are to fit the time: three a round, and rounds as many as tell a rank that is a few percent slower.
const PASSES: f64 = 3.0 * 24.0;
const NOTHING_FITS: &str = "not even a narrow likeness of a layer fits the time and the memory";

impl Args {
    const fn case(&self, part: StepPart, ranks: u32) -> Case {
        Case::Rehearsal { part, ranks, gpus: self.gpus > 0 }
    }
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

    fn priority(&self, on_gpus: bool) -> Priority {
        if on_gpus { Priority::new(2, 4) } else { Priority::new(4, 6) }
    }

    /// Of one machine by itself; several have [`steps`].
    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        let numbers: Vec<u32> = gpu_places(machine).iter().map(|p| p.number).collect();
        let (cores, gpus) = (machine.usable_cores(), numbers.len() as u32);
        one(plan, 1, &Means { cores, gpus, numbers, device: None }).into_iter().collect()
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        let args: Args = child.args()?;
        let there = args.training.world.ranks();
        if there != child.ranks {
            return Err(ProbeError::Broken(format!("a step of {there} ranks was given to {}", child.ranks)));
        }
        if args.gpus > 0 { gpu::run(child, &args) } else { host::run(child, &args) }
    }
}

/// The step that the nodes rehearse together, all or as many as it divides among: by their GPUs or by their hosts.
pub fn steps(plan: &CheckPlan, nodes: &[NodeName], means: &Means<'_>) -> Vec<Step> {
    // As many as the plan's division fits: spares, or who is left when one has died, need not be a multiple of it.
    let of = |n: usize| {
        let step = one(plan, n as u32, means)?;
        Some(Step { shape: Shape::groups(vec![nodes[..n].to_vec()]), ..step })
    };
    (1..=nodes.len()).rev().find_map(of).into_iter().collect()
}

/// Of `nodes` nodes, whose hosts each stand for one of its GPUs where the run is on GPUs and there are none; `None` where the plan does not
/// say what a step is, or it does not divide among so many.
fn one(plan: &CheckPlan, nodes: u32, means: &Means<'_>) -> Option<Step> {
    let (cores, gpus, numbers) = (means.cores, means.gpus, means.numbers.clone());
    let planned = plan.run.nodes.as_ref().map_or(1, |n| n.gpus_per_node.max(1));
    let each = if gpus > 0 { gpus } else { planned };
    let training = Training::of(&plan.run, nodes.saturating_mul(each))?.ok()?;
    let training = if gpus > 0 { training } else { training.by_nodes(each)? };
    let ranks = training.world.ranks();
    // One core is left to the messages, where there are several.
    let (threads, own_core) = (cores.saturating_sub(1).max(1), cores > 1 || gpus > 0);
    // Of GPUs NCCL finds the way; and who is alone sends nothing.
    let device = means.device.filter(|_| gpus == 0 && ranks > 1).map(str::to_owned);
    let args = Args { training, threads, own_core, gpus, numbers, device };
    let parts = if ranks > 1 { StepPart::ALL } else { &[StepPart::Compute, StepPart::Whole] };
    let cases = parts.iter().map(|part| args.case(*part, ranks)).collect();
    let measuring = plan.tier.pick(7500, 30_000, 120_000);
    if gpus == 0 {
        return Some(Step { start_ms: 500, ..step(&Rehearsed, plan, cases, &args, 500 + measuring) });
    }
    let start = gpu::start_ms(nodes, gpus, &args.training);
    let step = step(&Rehearsed, plan, cases, &args, start + measuring);
    let name = "rehearsal-gpu".to_owned();
    Some(Step { name, ranks: gpus, start_ms: start, processes: Processes::Gpus, ..step })
}

/// What one rank tells when all rounds are over: its times, how many elements of its messages were wrong, and which error counters of
/// the port that carried them moved.
#[derive(Serialize, Deserialize)]
struct RankReport {
    times: RankSteps,
    wrong: usize,
    counters: Option<CountersMoved>,
}

/// Rounds that fit, where one took `once` seconds on this rank: alike on all. Why none do, else.
fn rounds(child: &mut Child, once: f64, budget: f64) -> Result<Result<usize, String>, ProbeError> {
    let left = child.measuring_left().as_secs_f64();
    let told = child.exchange(&(once, left))?.all(child)?;
    let once = told.iter().map(|t| t.0).fold(1e-6, f64::max);
    let left = told.iter().map(|t| t.1).fold(f64::INFINITY, f64::min);
    let rounds = ((budget / once) as usize).clamp(*ROUNDS.start(), *ROUNDS.end());
    let fits = once * rounds as f64 <= left;
    Ok(if fits { Ok(rounds) } else { Err(format!("a round takes {}: too few fit the time", Unit::Second.show(once))) })
}

fn waive(child: &mut Child, args: &Args, why: String) -> Result<(), ProbeError> {
    let ranks = child.ranks;
    let parts = StepPart::ALL.iter().filter(|_| child.rank == 0);
    let cases: Vec<Case> = parts.map(|part| args.case(*part, ranks)).collect();
    cases.iter().try_for_each(|c| Ok(child.outcome(c, Outcome::waived(WaiveKind::NoTime, why.clone()))?))
}

/// Tells the outcomes of what all ranks reported; rank 0 does. `how` is what computed, `nominal` its rate by the datasheet.
fn tell(
    child: &mut Child,
    args: &Args,
    fit: Fit,
    all: Vec<RankReport>,
    (how, nominal): (String, Option<(f64, String)>),
) -> Result<(), ProbeError> {
    let ranks = child.ranks;
    let wrong: usize = all.iter().map(|r| r.wrong).sum();
    let Fit { layers, narrow } = fit;
    let counters: ThinVec<CountersMoved> = all.iter().filter_map(|r| r.counters.clone()).collect();
    let own = all.into_iter().map(|r| r.times).collect();
    let (training, device) = (args.training.clone(), args.device.clone());
    let rehearsal = Rehearsal { training, layers, narrow, own_core: args.own_core, device, ranks: own };
    let w = args.training.world;
    let width = if rehearsal.is_exact() { String::new() } else { format!(", a {narrow}th of their width") };
    let divided = format!("tp {} cp {} dp {} pp {} ep {}", w.tp, w.cp, w.dp, w.pp, w.ep);
    let notes = vec![format!("{layers} of {} layers{width}; {divided}; {how}", args.training.of_layers)];
    let flops = args.training.narrowed(narrow).layer_flops() * layers as f64;
    for part in StepPart::ALL.iter().copied() {
        let what = match part {
            StepPart::Compute => Timed::Alone,
            StepPart::Communication => Timed::Communication,
            StepPart::Whole => Timed::Whole,
        };
        let times: Vec<&[f64]> = rehearsal.ranks.iter().map(|r| r.of(what)).collect();
        let rounds = times.iter().map(|t| t.len()).min().unwrap_or(0);
        if rounds == 0 {
            continue;
        }
        let (seconds, last) = slowest(&times, rounds);
        let mut series = Vec::new();
        if part == StepPart::Compute {
            let rates = Metric::Flops.series(seconds.iter().map(|s| flops / s).collect(), 1);
            series.push(match &nominal {
                Some((rate, why)) => rates.nominally(*rate, why.clone()).bounded(1.1 * rate, why.clone()),
                None => rates,
            });
        }
        series.insert(0, Series { slowest_rank: last, ..Metric::Step.series(seconds, 1) });
        let is_whole = part == StepPart::Whole;
        let sums =
            Check::new(CheckName::Sum, wrong == 0, format!("{wrong} elements of what the ranks sent came out wrong"));
        let measured = Measured {
            series,
            // On GPUs the probe `collective` looks at what arrives; here nobody does.
            checks: (part == StepPart::Communication && args.gpus == 0).then_some(sums).into_iter().collect(),
            facts: is_whole.then(|| Box::new(Facts::Rehearsal(Box::new(rehearsal.clone())))),
            counters: if is_whole { counters.clone() } else { ThinVec::new() },
            notes: notes.clone().into(),
            ..Measured::default()
        };
        child.outcome(&args.case(part, ranks), Outcome::Measured(measured))?;
    }
    Ok(())
}
