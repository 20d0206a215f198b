//! The rules: what in a record makes which finding.

mod cluster;
mod configuration;
mod differences;
mod distance;
mod domain;
mod environment;
mod fabric;
mod gpus;
mod image;
mod links;
mod metrics;
mod nccl;
mod network;
mod offenders;
mod outcomes;
mod parts;
mod peers;
mod ports;
mod prices;
mod rehearsal;
mod remains;
mod storage;
mod unproven;
mod waivers;
mod watched;
mod xids;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::baseline::{Expectation, Offender};
use crate::id::NodeName;
use crate::judge::cell::{Attempt, Limits, Place, Places, Row, groups};
use crate::judge::decide::decide;
use crate::judge::finding::Finding;
use crate::judge::{Cell, Coverage, Decision, Judgement, Placement, cell};
use crate::measure::{self, Load, Measured, Outcome};
use crate::plan::{RunPlan, Tier};
use crate::record::{OutcomeLine, Record};
use crate::topology::{Component, Filesystem};
use crate::work::{Case, Software, on_gpu};

/// The facts of a record that are no samples.
pub struct Facts;

impl Facts {
    /// Round trips between all nodes that are left: the last that were measured.
    fn latencies(record: &Record) -> Option<(&OutcomeLine, &measure::Latencies)> {
        let all = facts(record).filter_map(|(line, f)| match f {
            measure::Facts::Latencies(all) => Some((line, all)),
            _ => None,
        });
        all.last()
    }

    /// The training step that was rehearsed last, with the line that tells it.
    pub fn rehearsal(record: &Record) -> Option<(&OutcomeLine, &measure::Rehearsal)> {
        let all = facts(record).filter_map(|(line, f)| match f {
            measure::Facts::Rehearsal(r) => Some((line, &**r)),
            _ => None,
        });
        all.last()
    }

    /// What an image brings, by part.
    pub fn software(record: &Record) -> impl Iterator<Item = (Software, &Component)> {
        facts(record).filter_map(|(line, f)| match (f, &line.case) {
            (measure::Facts::Software(c), Case::Software(part)) => Some((*part, &**c)),
            _ => None,
        })
    }

    /// Each node's checkpoint file system.
    pub fn filesystems(record: &Record) -> impl Iterator<Item = (&NodeName, &Filesystem)> {
        facts(record).filter_map(|(line, f)| match f {
            measure::Facts::Filesystem(fs) => Some((&line.node, &**fs)),
            _ => None,
        })
    }
}

fn facts(record: &Record) -> impl Iterator<Item = (&OutcomeLine, &measure::Facts)> {
    record.outcomes.iter().filter_map(|l| Some((l, l.outcome.measured()?.facts.as_deref()?)))
}

pub use remains::remains;
pub use watched::latest as watched;

/// What most nodes have; `None` without a majority.
fn majority<'a, T: Ord + ?Sized>(values: impl Iterator<Item = &'a T>) -> Option<(&'a T, usize)> {
    let mut counts: BTreeMap<&T, usize> = BTreeMap::new();
    let mut total = 0;
    for v in values {
        *counts.entry(v).or_default() += 1;
        total += 1;
    }
    counts.into_iter().max_by_key(|(_, n)| *n).filter(|(_, n)| 2 * n > total)
}

/// Every case with its attempts, in the order of the record.
struct Cases<'r> {
    rows: Vec<(Row<'r>, Vec<&'r OutcomeLine>)>,
    /// Position in `rows`.
    index: FxHashMap<Row<'r>, usize>,
}

impl<'r> Cases<'r> {
    fn of(record: &'r Record) -> Self {
        let mut out = Cases {
            rows: Vec::new(),
            index: FxHashMap::with_capacity_and_hasher(record.outcomes.len(), Default::default()),
        };
        let groups = groups(record);
        for line in &record.outcomes {
            let row = Row::of(line, &groups);
            let i = *out.index.entry(row).or_insert_with(|| {
                out.rows.push((row, Vec::with_capacity(1)));
                out.rows.len() - 1
            });
            out.rows[i].1.push(line);
        }
        out
    }
}

/// The outcome that stands for a case: a failure in any attempt outlasts a later success.
fn standing<'r>(attempts: &[&'r OutcomeLine]) -> Option<&'r OutcomeLine> {
    let broken = |l: &&&OutcomeLine| matches!(l.outcome, Outcome::Failed { .. } | Outcome::TimedOut { .. });
    let measured = |l: &&&OutcomeLine| l.outcome.measured().is_some();
    attempts.iter().find(broken).or_else(|| attempts.iter().find(measured)).or_else(|| attempts.first()).copied()
}

/// One case over its attempts: a cell a metric, and a finding a wrong answer.
fn judge_case<'r>(
    row: Row<'r>,
    attempts: &[&'r OutcomeLine],
    limits: &Limits<'r>,
    clock_s: f64,
    place: &Place<'_>,
    cells: &mut Vec<Cell<'r>>,
    findings: &mut Vec<Finding>,
) {
    let measured: Vec<(&'r Measured, Option<&'r Load>)> =
        attempts.iter().filter_map(|l| Some((l.outcome.measured()?, l.load.as_ref()))).collect();
    outcomes::checks(&row, &measured, findings);
    // A metric counts if any attempt has it: a later one that lacks it takes nothing away.
    for (i, (m, _)) in measured.iter().enumerate() {
        for series in &m.series {
            let same = |m: &'r Measured| m.series.iter().find(|s| s.metric == series.metric);
            if measured[..i].iter().all(|(earlier, _)| same(earlier).is_none()) {
                let attempt = |(m, load): &(&'r Measured, Option<&'r Load>)| {
                    Some(Attempt { series: same(m)?, load: *load, pace: m.pace.as_ref() })
                };
                let attempts: Vec<Attempt<'r>> = measured.iter().filter_map(attempt).collect();
                cells.extend(cell::judge(row, &attempts, limits, clock_s, place));
            }
        }
    }
}

/// What a watcher or an autopsy wrote is no check of a machine: nothing else is asked of it.
fn of_facts<'r>(record: &'r Record, run: &RunPlan, mut findings: Vec<Finding>) -> Judgement<'r> {
    let (decision, placement) = conclude(record, run, &mut findings);
    let mut coverage = Coverage::default();
    record.outcomes.iter().for_each(|l| coverage.count(Some(&l.outcome)));
    Judgement { record, decision, placement, findings, cells: Vec::new(), coverage, slow: BTreeMap::new() }
}

/// What the operator accepts is marked, what weighs most comes first, and all of it makes a decision.
fn conclude(record: &Record, run: &RunPlan, findings: &mut Vec<Finding>) -> (Decision, Placement) {
    waivers::apply(run, record.header.started, findings);
    // Worst first; waived ones last; stable within a class, so the order of the record shows through.
    findings.sort_by_key(|f| (f.waived.is_some(), std::cmp::Reverse(f.severity)));
    decide(findings, record, run)
}

/// Judges a record. `run` is the plan to judge by: the record's own unless another was given.
pub fn judge<'r>(record: &'r Record, run: &RunPlan, limits: &'r [Expectation]) -> Judgement<'r> {
    judge_knowing(record, run, limits, &[])
}

/// Judges a record, knowing who failed before.
pub fn judge_knowing<'r>(
    record: &'r Record,
    run: &RunPlan,
    limits: &'r [Expectation],
    known: &[Offender],
) -> Judgement<'r> {
    if let Some((node, w)) = watched(record) {
        let mut findings = Vec::new();
        watched::findings(node, w, run, &mut findings);
        return of_facts(record, run, findings);
    }
    if let Some((_, r)) = remains(record) {
        let mut findings = Vec::new();
        remains::findings(r, &mut findings);
        return of_facts(record, run, findings);
    }
    // One plan serves an image and the machines: what it asks of machines is not asked of an image.
    let of_image = record.header.plan.tier == Tier::Image;
    let reduced = of_image.then(|| RunPlan {
        name: run.name.clone(),
        image: run.image.clone(),
        waive: run.waive.clone(),
        ..RunPlan::default()
    });
    let run = reduced.as_ref().unwrap_or(run);
    let cases = Cases::of(record);
    let mut findings = Vec::new();
    let mut coverage = Coverage {
        skipped_probes: record.header.plan.skipped.iter().map(|p| p.to_string()).collect(),
        ..Coverage::default()
    };
    outcomes::coverage(record, run, &cases, &mut coverage, &mut findings);
    let clock = record.header.clock_resolution_ns * 1e-9;
    // Of a million cells each byte is a megabyte: what is not looked up any more goes before they come.
    let Cases { rows, index } = cases;
    drop(index);
    let mut cells: Vec<Cell<'r>> = Vec::with_capacity(2 * rows.len());
    let by_key = Limits::new(limits);
    let places = Places::new(record);
    for (row, attempts) in rows {
        judge_case(row, &attempts, &by_key, clock, places.of(row.step), &mut cells, &mut findings);
    }
    let mut slow = peers::judge(record, run, &mut cells);
    parts::judge(record, &mut cells);
    coverage.without_limit = cells.iter().filter(|c| c.limit.is_none()).count();
    metrics::findings(&cells, &mut findings);
    if !of_image {
        metrics::unmeasured_requirements(&cells, limits, &places, &mut findings);
        unproven::findings(&cells, run, &mut findings);
    }
    environment::findings(record, run, &mut findings);
    gpus::findings(record, run, &mut findings);
    domain::findings(record, &mut findings);
    image::findings(record, run, &mut findings);
    offenders::findings(record, known, &mut findings);
    nccl::findings(record, &mut findings);
    ports::findings(record, &mut findings);
    fabric::findings(record, &mut findings);
    storage::findings(record, run, &cells, &mut findings);
    cluster::findings(record, &mut findings);
    differences::findings(record, &mut findings);
    network::findings(record, run, &mut slow, &mut findings);
    distance::findings(record, &mut findings);
    parts::findings(&cells, &mut findings);
    rehearsal::findings(record, run, &mut slow, &mut findings);
    storage::share(record, &mut findings);
    outcomes::excuse(&mut findings);
    let (decision, placement) = conclude(record, run, &mut findings);
    Judgement { record, decision, placement, findings, cells, coverage, slow }
}
