//! What a run will take, in words: a sentence for every report with a plan, and the table of `gonogo forecast`.

use std::time::Duration;

use serde::Serialize;

use crate::forecast::{Basis, Course, Forecast, Measured, Missing, Projected, forecast, projected, slowest};
use crate::hostlist;
use crate::id::clean;
use crate::judge::{Cell, Code, Facts, Judgement};
use crate::measure::{RankSteps, Timed, stats};
use crate::plan::{RunPlan, Time};
use crate::unit::{Unit, three_digits};
use crate::work::{Case, CheckpointOp, Dtype, Load, Metric};

const DAY: f64 = 86_400.0;

/// A forecast as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CourseShown {
    pub sentence: String,
    /// What, as planned, at best.
    pub rows: Vec<[String; 3]>,
    /// What it rests on, and what else to do.
    pub notes: Vec<String>,
}

impl CourseShown {
    pub const TITLES: [&'static str; 3] = ["forecast", "as planned", "at best"];
}

/// What a judged record tells of the nodes.
pub fn measured(j: &Judgement<'_>) -> Measured {
    let sustained = j.cells.iter().filter(|c| {
        let bf16 = matches!(c.row().case, Case::GpuGemm { dtype: Dtype::Bf16, load: Load::Sustained, .. });
        bf16 && c.series.metric == Metric::Flops && c.straggler.is_none()
    });
    let flops = sustained.filter_map(|c| Some(c.summary?.median)).reduce(f64::min);
    let writes = j.cells.iter().filter(|c| c.row().probe == "storage" && c.series.metric == Metric::Write);
    let writes: Vec<f64> = writes.filter_map(|c| Some(c.summary?.median)).collect();
    // Every node writes its share at the same time: the slowest decides.
    let write = writes.iter().copied().reduce(f64::min).map(|least| least * writes.len() as f64);
    // A save that was rehearsed says it itself; one that goes on meanwhile blocks for as long as staging takes.
    let rehearsed = |metrics: &[Metric]| {
        let of = |c: &&Cell<'_>| match c.row().case {
            Case::Checkpoint { op: CheckpointOp::Save, nodes } if metrics.contains(&c.series.metric) => Some(*nodes),
            _ => None,
        };
        j.cells.iter().filter(|c| of(c).is_some()).max_by_key(of).and_then(|c| Some(c.summary?.median))
    };
    let write = rehearsed(&[Metric::Stage]).or_else(|| rehearsed(&[Metric::Write])).or(write);
    let gpus = j.record.machines().map(|(_, m)| m.nvidia.as_ref().map_or(0, |n| n.gpus.len())).max();
    Measured {
        nodes: j.record.header.nodes.len() as u32,
        gpus: gpus.unwrap_or(0) as u32,
        flops,
        step: step(j),
        write,
        available: Facts::filesystems(j.record).map(|(_, fs)| fs.room()).min(),
        slow: j.slow.iter().map(|(node, longer)| (node.0.clone(), *longer)).collect(),
    }
}

/// The run's step, without what slow ranks add to it: that is reckoned for each of them.
fn step(j: &Judgement<'_>) -> Option<Projected> {
    let (line, r) = Facts::rehearsal(j.record)?;
    let step = projected(r)?;
    let late: Vec<_> = j.findings.iter().filter(|f| f.code == Code::REH_001).filter_map(|f| f.subject.node()).collect();
    let others: Vec<RankSteps> =
        r.ranks.iter().filter(|rank| !late.contains(&rank.node.as_ref().unwrap_or(&line.node))).cloned().collect();
    let computing = |ranks: &[RankSteps]| {
        let all = slowest(ranks, Timed::Alone);
        (!all.is_empty()).then(|| stats::median(&all))
    };
    let longer = computing(&r.ranks).zip(computing(&others)).map_or(1.0, |(all, others)| (all / others).max(1.0));
    let [seconds, low, high] = [step.seconds, step.low, step.high].map(|s| s / longer);
    Some(Projected { seconds, low, high, flops: step.flops * longer, ..step })
}

/// The forecast of a plan with what was measured.
///
/// # Errors
/// What the plan does not say.
pub fn course(run: &RunPlan, seen: &Measured) -> Result<CourseShown, Missing> {
    let f = forecast(run, seen)?;
    Ok(CourseShown { sentence: sentence(&f), rows: rows(&f), notes: notes(&f) })
}

fn days(seconds: f64) -> String {
    if seconds.is_finite() && seconds < 1e6 * DAY {
        Time(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()).to_string()
    } else {
        "for ever".to_owned()
    }
}

/// `44.1 to 49.6 days`, in one unit.
fn range(low: f64, high: f64) -> String {
    let (low, high) = (days(low), days(high));
    match (low.split_once(' '), high.split_once(' ')) {
        (Some((l, unit)), Some((_, same))) if unit == same => format!("{l} to {high}"),
        _ => format!("{low} to {high}"),
    }
}

/// A number of things that come by chance: none is never promised.
fn number(n: f64) -> String {
    if n < 10.0 { format!("{n:.1}") } else { format!("{n:.0}") }
}

fn sentence(f: &Forecast) -> String {
    let c = &f.planned;
    let band = c.interruptions_band;
    let mut out = format!(
        "{} ({}) for {} of computing; {} interruptions are to be expected ({} to {})",
        days(c.wall),
        range(c.wall_low, c.wall_high),
        days(f.productive),
        number(c.interruptions),
        band.0,
        band.1
    );
    let saved = c.wall - f.best.wall;
    if saved > 0.005 * c.wall {
        let mut how = Vec::new();
        let out_: Vec<String> = f.slow.iter().filter(|s| s.2).map(|s| s.0.clone()).collect();
        if !out_.is_empty() {
            how.push(format!("without {}", clean(&hostlist::compress(&out_))));
        }
        if f.planned_interval.is_some() && f.save.is_some() {
            how.push(format!("saving every {} instead of {}", days(f.best.interval), days(c.interval)));
        }
        if !how.is_empty() {
            out.push_str(&format!("; {} takes {} less", how.join(" and "), days(saved)));
        }
    }
    out
}

fn rows(f: &Forecast) -> Vec<[String; 3]> {
    let both = |what: &str, of: &dyn Fn(&Course) -> String| [what.to_owned(), of(&f.planned), of(&f.best)];
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut out = vec![
        both("nodes", &|c| c.nodes.to_string()),
        both("save every", &|c| {
            if f.save.is_some() || f.planned_interval.is_some() { days(c.interval) } else { "?".to_owned() }
        }),
        both("wall time", &|c| days(c.wall)),
        both("  at the published band of failures", &|c| range(c.wall_low, c.wall_high)),
        both("interruptions, 90 % band", &|c| {
            format!("{} ({} to {})", number(c.interruptions), c.interruptions_band.0, c.interruptions_band.1)
        }),
        both("  with the rate's own band", &|c| format!("{} to {}", c.interruptions_wide.0, c.interruptions_wide.1)),
        both("of it saving", &|c| if f.save.is_some() { percent(c.saving) } else { "?".to_owned() }),
        both("of it restarting", &|c| percent(c.restarting)),
        both("of it done twice", &|c| percent(c.lost)),
    ];
    if f.rate.low == f.rate.high {
        out.retain(|r| !r[0].starts_with("  "));
    }
    out
}

fn notes(f: &Forecast) -> Vec<String> {
    let mut out = Vec::new();
    out.push(match f.basis {
        Basis::Stated => format!("{} of computing: as the plan states", days(f.productive)),
        Basis::Rehearsed { step, tokens } => format!(
            "{} of computing: a step of {tokens} tokens takes {} as it was rehearsed, without optimiser, norms and data",
            days(f.productive),
            Unit::Second.show(step)
        ),
        Basis::Arithmetic { flops, efficiency, assumed } => format!(
            "{} of computing: 6 operations a parameter and token at {} sustained of each GPU, of which a step keeps {:.0} %{}",
            days(f.productive),
            Unit::FlopPerSecond.show(flops),
            100.0 * efficiency,
            if assumed { " (assumed; [forecast] efficiency)" } else { "" }
        ),
    });
    out.push(format!(
        "failures: {} for each node and 1000 days, {}; none of this says that there will be none",
        three_digits(1000.0 * f.rate.mean),
        f.rate_source.text()
    ));
    match f.save {
        Some(s) => out.push(format!("a save blocks {}, a restart takes {}", days(s), days(f.restart))),
        None => out.push("what a save costs is not known: check the storage, or state [forecast] save".to_owned()),
    }
    let are = if f.spares == 1 { "node is" } else { "nodes are" };
    out.push(format!("{} spare {are} enough in 99 of 100 moments, with a repair in {}", f.spares, days(f.repair)));
    if !f.broken.is_empty() {
        let who = clean(&hostlist::compress(&f.broken)).into_owned();
        out.push(format!("{who} would more than double the time: broken, and not reckoned with"));
    }
    for (node, longer, leave) in &f.slow {
        let costs = days(f.planned.wall * longer / (1.0 + longer));
        let what = if *leave { "leave it out" } else { "keep it: leaving it out costs more" };
        out.push(format!(
            "{} makes a step {:.1} % longer, up to {costs} of the run: {what}",
            clean(node),
            100.0 * longer
        ));
    }
    if let Some(r) = &f.runway {
        let end = r.hours_until_failure.map_or(String::new(), |h| format!(", full at hour {h:.1}"));
        out.push(format!("checkpoints need {}, {} are free{end}", r.need, r.available));
    } else if let Some(size) = f.size {
        out.push(format!("a checkpoint takes {size}"));
    }
    out
}
