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
mod pairs;
mod parts;
mod peers;
mod ports;
mod prices;
mod rehearsal;
mod remains;
mod since;
mod storage;
mod stretch;
mod unproven;
mod waivers;
mod watched;
mod xids;

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rayon::prelude::*;
use rustc_hash::FxBuildHasher;

use crate::baseline::{Expectation, Offender};
use crate::id::NodeName;
use crate::judge::cell::{Attempt, Groups, Limits, Place, Places, Row, groups};
use crate::judge::decide::decide;
use crate::judge::finding::Finding;
use crate::judge::{Cell, Coverage, Decision, Judgement, Placement, cell};
use crate::measure::{self, Measured, Outcome};
use crate::plan::{RunPlan, Tier};
use crate::record::{OutcomeLine, Record};
use crate::topology::{Component, Filesystem};
use crate::work::{Case, Software, on_gpu};

/// The facts of a record that are no samples.
pub struct Facts;

impl Facts {
    /// Round trips between all nodes that are left: the last that were measured.
    fn latencies(record: &Record) -> Option<(&OutcomeLine, &measure::Latencies)> {
        let mut all = record.outcomes.facts().filter_map(|(line, f)| match f {
            measure::Facts::Latencies(all) => Some((line, all)),
            _ => None,
        });
        all.next_back()
    }

    /// The training step that was rehearsed last, with the line that tells it.
    pub fn rehearsal(record: &Record) -> Option<(&OutcomeLine, &measure::Rehearsal)> {
        let mut all = record.outcomes.facts().filter_map(|(line, f)| match f {
            measure::Facts::Rehearsal(r) => Some((line, &**r)),
            _ => None,
        });
        all.next_back()
    }

    /// What an image brings, by part.
    pub fn software(record: &Record) -> impl Iterator<Item = (Software, &Component)> {
        record.outcomes.facts().filter_map(|(line, f)| match (f, &line.case) {
            (measure::Facts::Software(c), Case::Software(part)) => Some((*part, &**c)),
            _ => None,
        })
    }

    /// Each node's checkpoint file system.
    pub fn filesystems(record: &Record) -> impl Iterator<Item = (&NodeName, &Filesystem)> {
        record.outcomes.facts().filter_map(|(line, f)| match f {
            measure::Facts::Filesystem(fs) => Some((&*line.node, &**fs)),
            _ => None,
        })
    }
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

/// Every case with its attempts, in the order of the record. Of a million outcomes each byte is a megabyte: what is kept of a line is its
/// position.
struct Cases<'r> {
    lines: &'r [OutcomeLine],
    groups: Groups<'r>,
    /// The first attempt at each case.
    first: Vec<u32>,
    /// The next attempt at the same case after each line; [`NONE`] after the last.
    next: Vec<u32>,
    /// The first and the last attempt at each case, by its row.
    ends: HashTable<(u32, u32)>,
}

/// No line of a record: it would be too long to read.
const NONE: u32 = u32::MAX;

impl<'r> Cases<'r> {
    fn of(record: &'r Record) -> Self {
        let lines = &record.outcomes[..record.outcomes.len().min(NONE as usize)];
        let mut out = Cases {
            lines,
            groups: groups(record),
            first: Vec::new(),
            next: vec![NONE; lines.len()],
            ends: HashTable::with_capacity(lines.len()),
        };
        for (line, i) in lines.iter().zip(0..) {
            let row = Row::of(line, &out.groups);
            let same = |(first, _): &(u32, u32)| Row::of(&lines[*first as usize], &out.groups) == row;
            let hash_of = |(first, _): &(u32, u32)| hash(&Row::of(&lines[*first as usize], &out.groups));
            match out.ends.entry(hash(&row), same, hash_of) {
                Entry::Occupied(mut known) => {
                    let last = &mut known.get_mut().1;
                    out.next[*last as usize] = i;
                    *last = i;
                }
                Entry::Vacant(new) => {
                    new.insert((i, i));
                    out.first.push(i);
                }
            }
        }
        out
    }

    /// All attempts at a case; none where it is not in the record.
    fn find(&self, row: &Row<'_>) -> impl Iterator<Item = &'r OutcomeLine> + Clone {
        let same = |(first, _): &(u32, u32)| Row::of(&self.lines[*first as usize], &self.groups) == *row;
        self.attempts(self.ends.find(hash(row), same).map(|(first, _)| *first))
    }

    /// All attempts at the case whose first is this line.
    fn attempts(&self, first: Option<u32>) -> impl Iterator<Item = &'r OutcomeLine> + Clone {
        let after = |i: &u32| Some(self.next[*i as usize]).filter(|next| *next != NONE);
        std::iter::successors(first, after).map(|i| &self.lines[i as usize])
    }
}

fn hash(row: &Row<'_>) -> u64 {
    FxBuildHasher.hash_one(row)
}

/// So many cases are judged by all cores, then taken in order: what they make waits twice for so long only.
const WAVE: usize = 1 << 14;
/// So many of them are worth handing to another core.
const SHARE: usize = 1 << 10;

/// Judges every case by itself.
fn judge_cases<'r>(record: &'r Record, cases: &Cases<'r>, limits: &Limits<'r>) -> (Vec<Cell<'r>>, Vec<Finding>) {
    let clock = record.header.clock_resolution_ns * 1e-9;
    let places = Places::new(record);
    let (mut cells, mut findings) = (Vec::with_capacity(2 * cases.first.len()), Vec::new());
    for wave in cases.first.chunks(WAVE) {
        let judged = wave.par_chunks(SHARE).map(|share| {
            let (mut cells, mut findings) = (Vec::with_capacity(2 * share.len()), Vec::new());
            let mut measured = Vec::new();
            for first in share {
                measured.clear();
                measured.extend(cases.attempts(Some(*first)).filter_map(|l| Some((l, l.outcome.measured()?))));
                let row = Row::of(&cases.lines[*first as usize], &cases.groups);
                judge_case(row, &measured, limits, clock, places.of(row.step), &mut cells, &mut findings);
            }
            (cells, findings)
        });
        for (of_share, found) in judged.collect::<Vec<_>>() {
            cells.extend(of_share);
            findings.extend(found);
        }
    }
    (cells, findings)
}

/// The outcome that stands for a case: a failure in any attempt outlasts a later success.
fn standing<'r>(attempts: impl Iterator<Item = &'r OutcomeLine> + Clone) -> Option<&'r OutcomeLine> {
    let broken = |l: &&OutcomeLine| matches!(l.outcome, Outcome::Failed { .. } | Outcome::TimedOut { .. });
    let measured = |l: &&OutcomeLine| l.outcome.measured().is_some();
    let all = || attempts.clone();
    all().find(broken).or_else(|| all().find(measured)).or_else(|| all().next())
}

/// One case over its attempts: a cell a metric, and a finding a wrong answer.
fn judge_case<'r>(
    row: Row<'r>,
    measured: &[(&'r OutcomeLine, &'r Measured)],
    limits: &Limits<'r>,
    clock_s: f64,
    place: &Place<'_>,
    cells: &mut Vec<Cell<'r>>,
    findings: &mut Vec<Finding>,
) {
    outcomes::checks(&row, measured.iter().flat_map(|(_, m)| &m.checks), findings);
    // A metric counts if any attempt has it: a later one that lacks it takes nothing away.
    for (i, (_, m)) in measured.iter().enumerate() {
        for series in &m.series {
            let same = |m: &'r Measured| m.series.iter().find(|s| s.metric == series.metric);
            if measured[..i].iter().all(|(_, earlier)| same(earlier).is_none()) {
                let attempt = |(line, m): &(&'r OutcomeLine, &'r Measured)| Some(Attempt { line, series: same(m)? });
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
    let (cells, slow, own_plan) = (Vec::new(), BTreeMap::new(), *run == record.header.plan.run);
    Judgement { record, decision, placement, findings, cells, coverage, slow, own_plan }
}

/// What the operator accepts is marked, what weighs most comes first, and all of it makes a decision.
fn conclude(record: &Record, run: &RunPlan, findings: &mut Vec<Finding>) -> (Decision, Placement) {
    waivers::apply(run, record.header.started, findings);
    outcomes::excuse(findings);
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
        if let Some(own) = &w.node {
            since::findings(node, own, &mut findings);
        }
        return of_facts(record, run, findings);
    }
    if let Some((_, r)) = remains(record) {
        let mut findings = Vec::new();
        remains::findings(r, &mut findings);
        return of_facts(record, run, findings);
    }
    let own_plan = *run == record.header.plan.run;
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
    let by_key = Limits::new(limits);
    let ((mut coverage, mut findings), (mut cells, found)) =
        rayon::join(|| outcomes::coverage(record, run, &cases), || judge_cases(record, &cases, &by_key));
    findings.extend(found);
    drop(cases);
    let places = Places::new(record);
    let mut slow = peers::judge(record, run, &mut cells);
    parts::judge(record, &mut cells);
    pairs::judge(&mut cells);
    coverage.without_limit = cells.iter().filter(|c| !c.has_limit()).count();
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
    cluster::findings(record, run, &mut findings);
    differences::findings(record, &mut findings);
    network::findings(record, run, &mut slow, &mut findings);
    distance::findings(record, &mut findings);
    parts::findings(&cells, &mut findings);
    rehearsal::findings(record, run, &mut slow, &mut findings);
    storage::share(record, &mut findings);
    let (decision, placement) = conclude(record, run, &mut findings);
    Judgement { record, decision, placement, findings, cells, coverage, slow, own_plan }
}
