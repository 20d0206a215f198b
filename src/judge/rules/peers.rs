//! Who is slower than its peers in the same run by more than chance and noise explain: nodes beside nodes, GPUs beside GPUs.
//!
//! A cluster of which every part is equally bad has no outliers: floors catch that. Here the margin is what it costs.

mod gpus;

use std::collections::BTreeMap;

pub(super) use gpus::model as gpu_model;

use statrs::distribution::{ContinuousCDF, Normal};

use crate::baseline::{Source, Weight};
use crate::forecast::{longer, worth_excluding};
use crate::id::NodeName;
use crate::judge::cell::{Cell, LimitShown, Straggler, by_key};
use crate::judge::verdict::{Reason, Verdict};
use crate::measure::stats;
use crate::plan::RunPlan;
use crate::record::Record;
use crate::work::{Better, Case};

/// A node slower than this is told; below, silicon and cooling differ (1 to 5 % is normal).
const MARGIN: f64 = 0.06;
/// What shares a machine shares its noise, and differs only by what each is allowed.
const MARGIN_SHARED: f64 = 0.5;
/// A shared file system serves its nodes unevenly; what gets less than half of what they get is no matter of fairness.
const MARGIN_STORAGE: f64 = 0.5;
/// Saving is a small part of a run: only a node that makes it five times as long is worth doing without.
const BROKEN_STORAGE: f64 = 0.8;
/// Fewer peers say nothing about who is odd.
const FEW: usize = 4;
/// False alarms that a whole check may have, before confirmation.
const ALPHA: f64 = 0.05;
/// A GPU that lost a tenth is broken, whatever it costs to do without its node: three times as much as healthy ones differ, and where
/// gpu-fryer fails one, too.
const BROKEN: f64 = 0.10;

/// Marks the cells of outliers: open until an attempt of their own confirms it, then failed, or a warning when leaving
/// the node out costs more than keeping it.
/// Tells how much longer a step takes with each slow node.
pub(super) fn judge(record: &Record, run: &RunPlan, cells: &mut [Cell<'_>]) -> BTreeMap<NodeName, f64> {
    let mut boots: Vec<&str> = record.machines().filter_map(|(_, m)| m.boot.as_deref()).collect();
    let seen = boots.len();
    boots.sort_unstable();
    boots.dedup();
    let shared = (boots.len() < seen).then_some(MARGIN_SHARED);
    if record.header.launcher.is_some() {
        nodes(shared.unwrap_or(MARGIN), cells);
    }
    // Nodes on one host share its cores, not their GPUs.
    gpus::judge(record, gpus::MARGIN, cells);
    weigh(record, run, cells)
}

/// What is slow beside its peers: the middle of these, and the most that it may stay behind.
struct Behind {
    straggler: Straggler,
    usual: f64,
    margin: f64,
    peers: String,
}

fn loss(better: Better, value: f64, usual: f64) -> f64 {
    match better {
        Better::Higher => 1.0 - value / usual,
        Better::Lower => 1.0 - usual / value,
    }
}

/// A cell of an outlier gets its verdict, unless something that weighs more has given it one.
fn mark(cell: &mut Cell<'_>, behind: Behind) {
    // Every attempt for itself must say so: chance does not strike twice.
    let again = cell.attempts().len() > 1;
    let better = cell.series.better;
    let confirmed = again && cell.attempts().iter().all(|m| loss(better, *m, behind.usual) > behind.margin);
    // Attempts that lie on both sides of a floor contradict each other about the floor, and not about the peers.
    let about_the_floor = cell.verdict == Verdict::Inconclusive(Reason::Unsteady) && confirmed;
    if cell.verdict >= Verdict::Inconclusive(Reason::TooFewSamples) && !about_the_floor {
        return;
    }
    if again && !confirmed && cell.verdict != Verdict::NoLimit {
        // Measured again and well: it was chance, and what its own limit says stands.
        return;
    }
    let (value, provenance) = (behind.usual, behind.peers.into());
    cell.hold(LimitShown { value, source: Source::Peers, weight: Weight::Fail, provenance });
    cell.straggler = Some(behind.straggler);
    cell.verdict = match (confirmed, again) {
        (true, _) => Verdict::Fail,
        (false, false) => Verdict::Inconclusive(Reason::Unconfirmed),
        // Measured again and well: it was chance.
        (false, true) => Verdict::Pass,
    };
}

/// Nodes beside nodes, in all that no single GPU did.
fn nodes(margin: f64, cells: &mut [Cell<'_>]) {
    let alone = |c: &Cell<'_>| c.group().is_empty() && c.summary.is_some();
    let tests = cells.iter().filter(|c| alone(c)).count();
    let by_metric = by_key(cells, |c| {
        let counts = alone(c) && c.row().gpu().is_none();
        counts.then(|| (c.row().probe, c.row().case, c.series.metric))
    });
    let Ok(normal) = Normal::new(0.0, 1.0) else { return };
    let critical = normal.inverse_cdf(1.0 - ALPHA / tests.max(1) as f64);
    for ((_, case, _), indices) in by_metric.iter().filter(|(_, i)| i.len() >= FEW) {
        let margin = if matches!(case, Case::Storage(_)) { margin.max(MARGIN_STORAGE) } else { margin };
        let medians: Vec<f64> = indices.iter().filter_map(|i| Some(cells[*i as usize].summary?.median)).collect();
        let Some((usual, deviation)) = stats::robust(&medians) else { continue };
        // Equal values are never more exact than a quarter of a percent.
        let scale = deviation.max(0.0025 * usual);
        for i in indices {
            let cell = &mut cells[*i as usize];
            let Some(summary) = cell.summary else { continue };
            let worse = match cell.series.better {
                Better::Higher => usual - summary.median,
                Better::Lower => summary.median - usual,
            };
            if loss(cell.series.better, summary.median, usual) > margin && worse / scale > critical {
                let peers = format!("the median of {} nodes in this run", indices.len());
                mark(cell, Behind { straggler: Straggler::Node, usual, margin, peers });
            }
        }
    }
}

/// What a slow node costs the run against what its absence costs: with spares it is free to leave it out.
fn weigh(record: &Record, run: &RunPlan, cells: &mut [Cell<'_>]) -> BTreeMap<NodeName, f64> {
    let nodes = record.header.nodes.len();
    let failed = |c: &Cell<'_>| (c.verdict == Verdict::Fail).then_some(c.straggler).flatten();
    // How much longer everything takes with it.
    let slowdown = |c: &Cell<'_>| {
        let (median, usual) = (c.summary.map_or(1.0, |s| s.median), c.limit().map_or(1.0, |l| l.value));
        if c.series.better == Better::Higher { usual / median - 1.0 } else { median / usual - 1.0 }
    };
    let broken = |c: &Cell<'_>| slowdown(c) > longer(BROKEN);
    let spares = run.spares_of(nodes as u32);
    let mut slow: BTreeMap<NodeName, f64> = BTreeMap::new();
    let saves = |c: &Cell<'_>| matches!(c.row().case, Case::Storage(_));
    for c in cells.iter().filter(|c| matches!(failed(c), Some(Straggler::Node | Straggler::Gpu)) && !saves(c)) {
        let worst = slow.entry(c.row().node.clone()).or_default();
        *worst = worst.max(slowdown(c));
    }
    let losses: Vec<f64> = slow.values().copied().collect();
    let least = worth_excluding(&losses, nodes as u32, spares);
    let cheap = |c: &Cell<'_>| slow.get(c.row().node).is_some_and(|worst| *worst < least);
    for c in cells.iter_mut() {
        let warns = match failed(c) {
            None => false,
            Some(Straggler::Node) if saves(c) => slowdown(c) < longer(BROKEN_STORAGE),
            Some(Straggler::Node) => cheap(c),
            // One node is checked for itself: there is no run that would go on without it.
            Some(Straggler::Gpu) => nodes > 1 && cheap(c) && !broken(c),
            // Every node has it: there is none to leave out.
            Some(Straggler::Slot) => !broken(c),
        };
        if warns {
            c.verdict = Verdict::Warn;
        }
    }
    slow
}
