//! What a run will take: days, interruptions, what is lost to saving and to failures, what slow nodes cost.

use crate::forecast::Projected;
use crate::forecast::exclude::worth_excluding;
use crate::forecast::failures::{Rate, RateSource, band, rate, spares};
use crate::forecast::interval::{Costs, best_interval, wall_time};
use crate::forecast::storage::{Runway, runway};
use crate::plan::{ForecastPlan, RunPlan};
use crate::unit::Bytes;

const DAY: f64 = 86_400.0;
/// Operations a token and parameter, forward and backward.
const PER_TOKEN: f64 = 6.0;
/// What of sustained products a training step keeps, where nobody has measured it: Llama 3's 400 TFLOP/s over 650.
const EFFICIENCY: f64 = 0.65;
const RESTART: f64 = 600.0;
const REPAIR: f64 = DAY;
/// Between saves, where nobody says how often and what one costs.
const UNKNOWN: f64 = 3600.0;

/// What a check measured of the nodes, as far as the arithmetic needs it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measured {
    pub nodes: u32,
    /// Of each node.
    pub gpus: u32,
    /// Sustained bf16 products of the slowest GPU that is not slow beside its peers, operations a second.
    pub flops: Option<f64>,
    /// The run's step, by one that the nodes rehearsed.
    pub step: Option<Projected>,
    /// All nodes together, bytes a second.
    pub write: Option<f64>,
    pub available: Option<Bytes>,
    /// Slow nodes, and how much longer everything takes with each.
    pub slow: Vec<(String, f64)>,
}

/// A node that makes everything take more than twice as long is broken: nobody starts with it.
const BROKEN: f64 = 1.0;

/// What the time of computing is known from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Basis {
    /// Steps and the time of one, or the run's length: the owner's.
    Stated,
    /// Tokens, and a step that was rehearsed, as far as it was.
    Rehearsed { step: f64, tokens: u64 },
    /// Parameters, tokens and what the GPUs sustain.
    Arithmetic { flops: f64, efficiency: f64, assumed: bool },
}

/// The run at one choice of nodes and interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Course {
    pub nodes: u32,
    /// Computing between two saves, seconds.
    pub interval: f64,
    /// At the expected rate of failures, and at the ends of its band, seconds; endless where failures come faster than saves.
    pub wall: f64,
    pub wall_low: f64,
    pub wall_high: f64,
    /// Expected, with the band of chance alone, and with that of the rate as well.
    pub interruptions: f64,
    pub interruptions_band: (u64, u64),
    pub interruptions_wide: (u64, u64),
    /// Shares of the wall time.
    pub saving: f64,
    pub restarting: f64,
    pub lost: f64,
}

/// What is to be expected of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// Computing alone, on all nodes at full speed, seconds.
    pub productive: f64,
    pub basis: Basis,
    pub rate: Rate,
    pub rate_source: RateSource,
    /// What a save blocks, seconds, and whether it was measured or stated; else it is not known, and counts as nothing.
    pub save: Option<f64>,
    pub restart: f64,
    /// As planned: all nodes, and the plan's interval, or the best where it has none.
    pub planned: Course,
    /// Without the nodes that are not worth keeping, and with the best interval.
    pub best: Course,
    pub planned_interval: Option<f64>,
    /// Nodes that are slow, how much longer everything takes with each, and whether to leave it out.
    pub slow: Vec<(String, f64, bool)>,
    /// Nodes that are no question.
    pub broken: Vec<String>,
    pub spares: u64,
    pub repair: f64,
    pub runway: Option<Runway>,
    pub size: Option<Bytes>,
}

/// What a plan does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error(
        "the plan does not say how long the run is: give [checkpoint] total_steps and step_time, or run_time, or [model] tokens"
    )]
    Length,
    #[error(
        "how fast a GPU computes is not known: give a RECORD of a check with GPUs, [checkpoint] step_time, or [forecast] tflops"
    )]
    Speed,
    #[error("how many nodes and GPUs there are is not known: give a RECORD, or [nodes] needed and gpus_per_node")]
    Nodes,
}

/// The forecast of a plan, with what was measured.
pub fn forecast(run: &RunPlan, seen: &Measured) -> Result<Forecast, Missing> {
    let plan = run.forecast.clone().unwrap_or_default();
    let nodes = match (seen.nodes, &run.nodes) {
        // What was checked may be spares, too: the run takes what it needs.
        (n, Some(planned)) => planned.needed.max(n.min(planned.needed + planned.spares)),
        (0, None) => return Err(Missing::Nodes),
        (n, None) => n,
    };
    let (productive, basis) = productive(run, &plan, seen, nodes)?;
    let (rate, rate_source) = rate(&plan);
    let size = run.checkpoint_size();
    let stated = plan.save.map(|t| t.0.as_secs_f64());
    let save = stated.or_else(|| Some(size?.as_f64() / seen.write.filter(|w| *w > 0.0)?));
    let restart = plan.restart.map_or(RESTART, |t| t.0.as_secs_f64());
    let spare = run.spares_of(seen.nodes.max(nodes));
    let (broken, slow): (Vec<_>, Vec<_>) = seen.slow.iter().partition(|(_, s)| *s > BROKEN);
    let broken: Vec<String> = broken.into_iter().map(|(n, _)| n.clone()).collect();
    let slowdowns: Vec<f64> = slow.iter().map(|(_, s)| *s).collect();
    let worth = worth_excluding(&slowdowns, nodes, spare);
    let slow: Vec<(String, f64, bool)> = slow.into_iter().map(|(n, s)| (n.clone(), *s, *s >= worth)).collect();
    let worst =
        |kept: &dyn Fn(&(String, f64, bool)) -> bool| slow.iter().filter(|s| kept(s)).map(|s| s.1).fold(0.0, f64::max);
    let out = (slow.iter().filter(|s| s.2).count() as u32).saturating_sub(spare);
    let left = nodes.saturating_sub(out).max(1);
    let planned_interval =
        run.checkpoint.as_ref().and_then(|c| c.interval()).map(|i| i.period.as_secs_f64()).filter(|p| *p > 0.0);
    let of = |nodes_used: u32, slowdown: f64, interval: Option<f64>| {
        let work = productive * f64::from(nodes) / f64::from(nodes_used) * (1.0 + slowdown);
        course(work, nodes_used, rate, save.unwrap_or(0.0), restart, interval)
    };
    let repair = plan.repair.map_or(REPAIR, |t| t.0.as_secs_f64());
    Ok(Forecast {
        productive,
        basis,
        rate,
        rate_source,
        save,
        restart,
        planned: of(nodes, worst(&|_| true), planned_interval),
        // Without what a save costs nobody knows how often to save.
        best: of(left, worst(&|s| !s.2), save.map_or(planned_interval, |_| None)),
        planned_interval,
        slow,
        broken,
        spares: spares(nodes, rate.mean, repair / DAY),
        repair,
        runway: seen.available.and_then(|a| runway(run, a)),
        size,
    })
}

/// Seconds of computing on all nodes at full speed.
fn productive(run: &RunPlan, plan: &ForecastPlan, seen: &Measured, nodes: u32) -> Result<(f64, Basis), Missing> {
    if let Some(days) = crate::forecast::run_days(run) {
        return Ok((days * DAY, Basis::Stated));
    }
    let model = run.model.as_ref().ok_or(Missing::Length)?;
    let tokens = model.tokens.ok_or(Missing::Length)?;
    // What an owner knows of his GPUs or his step's efficiency is more than what was rehearsed without optimiser and data.
    if let Some(p) = seen.step.filter(|p| p.seconds > 0.0 && p.tokens > 0 && plan.tflops.is_none() && p.nodes > 0) {
        let of_run = p.tokens as f64 * f64::from(nodes) / f64::from(p.nodes);
        return Ok((tokens / of_run * p.seconds, Basis::Rehearsed { step: p.seconds, tokens: of_run as u64 }));
    }
    let gpus = run.nodes.as_ref().map(|n| n.gpus_per_node).filter(|g| *g > 0).unwrap_or(seen.gpus);
    if gpus == 0 {
        return Err(Missing::Nodes);
    }
    let flops = plan.tflops.map(|t| t * 1e12).or(seen.flops).ok_or(Missing::Speed)?;
    let efficiency = plan.efficiency.unwrap_or(EFFICIENCY);
    let seconds = PER_TOKEN * model.parameters() * tokens / (f64::from(nodes) * f64::from(gpus) * flops * efficiency);
    Ok((seconds, Basis::Arithmetic { flops, efficiency, assumed: plan.efficiency.is_none() }))
}

fn course(work: f64, nodes: u32, rate: Rate, save: f64, restart: f64, interval: Option<f64>) -> Course {
    let costs = |rate: f64| Costs { mtbf: DAY / (f64::from(nodes) * rate), save, restart };
    let expected = costs(rate.mean);
    // A save that costs nothing would be made all the time: with no cost known, the best is not known either.
    let best = if save > 0.0 { best_interval(expected) } else { UNKNOWN.min(expected.mtbf / 100.0) };
    let interval = interval.unwrap_or(best);
    let wall = |rate: f64| wall_time(work, interval, costs(rate));
    let middle = wall(rate.mean);
    let count = |rate: f64, wall: f64| f64::from(nodes) * rate * wall / DAY;
    let interruptions = count(rate.mean, middle);
    let (low, _) = band(count(rate.low, wall(rate.low)));
    let (_, high) = band(count(rate.high, wall(rate.high)));
    let saving = work / interval * save / middle;
    let restarting = interruptions * restart / middle;
    Course {
        nodes,
        interval,
        wall: middle,
        wall_low: wall(rate.low),
        wall_high: wall(rate.high),
        interruptions,
        interruptions_band: band(interruptions),
        interruptions_wide: (low, high),
        saving,
        restarting,
        lost: (1.0 - work / middle - saving - restarting).max(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::parse;

    const WORKED: &str = "[model]\nparameters = 70.6e9\ntokens = 15e12\n[nodes]\nneeded = 512\ngpus_per_node = 8\n\
                          [checkpoint]\ninterval = \"3h\"\nkeep = 3\n[forecast]\ntflops = 650\nsave = \"30s\"\n";

    fn run(text: &str) -> RunPlan {
        parse(std::path::Path::new("p"), text).unwrap_or_else(|e| panic!("{e}"))
    }

    fn slow(n: usize) -> Measured {
        Measured { slow: (0..n).map(|i| (format!("n{i}"), 0.04)).collect(), ..Measured::default() }
    }

    /// Known answers of the worked plan: 512 nodes of 8 GPUs, three of them 4 % slower.
    #[test]
    fn the_worked_plan() {
        let f = forecast(&run(WORKED), &slow(3)).unwrap_or_else(|e| panic!("{e}"));
        let days = |s: f64| s / DAY;
        assert!((days(f.productive) - 42.496).abs() < 5e-4, "{}", days(f.productive));
        // All kept: 44.196 days of computing; three left out: 42.746.
        let computing = |c: &Course| days(c.wall) * (1.0 - c.saving - c.restarting - c.lost);
        assert!((computing(&f.planned) - 44.196).abs() < 5e-3, "{}", computing(&f.planned));
        assert!((computing(&f.best) - 42.746).abs() < 5e-3, "{}", computing(&f.best));
        assert!((days(f.best.wall) - 44.95).abs() < 0.01 && f.best.nodes == 509, "{:?}", f.best);
        assert!((f.best.interval / 60.0 - 27.0).abs() < 0.1, "{}", f.best.interval / 60.0);
        assert!((f.best.interruptions - 86.7).abs() < 0.1 && f.best.interruptions_band == (72, 102), "{:?}", f.best);
        assert!(f.slow.iter().all(|s| s.2));
        assert_eq!((f.spares, f.rate_source), (6, RateSource::Published));
        // Saving every three hours without leaving anybody out.
        assert!((days(f.planned.wall) - 44.196 / 0.869).abs() < 0.2, "{}", days(f.planned.wall));
        let runway = forecast(&run(WORKED), &Measured { available: Some(Bytes(6 << 40)), ..slow(0) });
        let need = runway.ok().and_then(|f| f.runway).map_or(0.0, |r| r.need.as_f64() / (1u64 << 40) as f64);
        assert!((need - 5.6).abs() < 0.05, "{need}");
    }

    /// Known answer: Llama 3 405B at 400 TFLOP/s of each of 16384 GPUs takes 66.9 days of computing.
    #[test]
    fn llama_3_405b() {
        let text = "[model]\nparameters = 405e9\ntokens = 15.6e12\n[nodes]\nneeded = 2048\ngpus_per_node = 8\n\
                    [forecast]\ntflops = 400\nefficiency = 1.0\nsave = \"10s\"\n";
        let f = forecast(&run(text), &Measured::default()).unwrap_or_else(|e| panic!("{e}"));
        assert!((f.productive / DAY - 66.9).abs() < 0.05, "{}", f.productive / DAY);
    }

    /// Known answer: 10^12 tokens, 2^20 of them in a step of 2 s on half of the run's nodes.
    #[test]
    fn a_rehearsed_step_tells_the_days() {
        let text = "[model]\nparameters = 8e9\ntokens = 1e12\n[nodes]\nneeded = 16\n[forecast]\nsave = \"10s\"\n";
        let step = Projected { seconds: 2.0, low: 1.9, high: 2.1, tokens: 1 << 20, nodes: 8, flops: 1e12 };
        let f = forecast(&run(text), &Measured { nodes: 8, step: Some(step), ..Measured::default() });
        let f = f.unwrap_or_else(|e| panic!("{e}"));
        assert!((f.productive - 1e12 / (2.0 * f64::from(1 << 20)) * 2.0).abs() < 1.0, "{}", f.productive);
        assert_eq!(f.basis, Basis::Rehearsed { step: 2.0, tokens: 2 << 20 });
    }

    #[test]
    fn what_is_missing_is_named() {
        let of = |text: &str| forecast(&run(text), &Measured { nodes: 4, ..Measured::default() }).err();
        assert_eq!(of(""), Some(Missing::Length));
        assert_eq!(of("[model]\nparameters = 1e9\ntokens = 1e12\n"), Some(Missing::Nodes));
        assert_eq!(
            of("[model]\nparameters = 1e9\ntokens = 1e12\n[nodes]\nneeded = 4\ngpus_per_node = 8\n"),
            Some(Missing::Speed)
        );
        assert_eq!(of("[checkpoint]\nrun_time = \"30d\"\n"), None);
    }

    proptest::proptest! {
        #[test]
        fn leaving_out_and_saving_at_the_best_time_is_never_worse(
            nodes in 2u32..5000, slow in proptest::collection::vec(0.0f64..1.0, 0..6), rate in 1e-4f64..0.1, save in 1f64..600.0,
        ) {
            let text = format!(
                "[checkpoint]\nrun_time = \"30d\"\ninterval = \"2h\"\n[nodes]\nneeded = {nodes}\n\
                 [forecast]\nfailures_per_node_day = {rate}\nsave = \"{save:.3}s\"\n"
            );
            let slow = slow.into_iter().enumerate().map(|(i, s)| (format!("n{i}"), s)).collect();
            let f = forecast(&run(&text), &Measured { slow, ..Measured::default() });
            let Ok(f) = f else { return Err(proptest::test_runner::TestCaseError::fail("no forecast")) };
            proptest::prop_assert!(f.best.wall <= f.planned.wall * 1.001, "{:?} {:?}", f.best, f.planned);
        }
    }
}
