//! Who is slower than its peers in the same run by more than chance and noise explain: nodes beside nodes, GPUs beside GPUs.
//!
//! A cluster of which every part is equally bad has no outliers: floors catch that. Here the margin is what it costs.

mod gpus;

use std::collections::BTreeMap;

pub(super) use gpus::model as gpu_model;

use rustc_hash::{FxHashMap, FxHashSet};
use statrs::distribution::{ContinuousCDF, Normal};

use crate::baseline::{Source, Weight};
use crate::forecast::{longer, worth_excluding};
use crate::id::NodeName;
use crate::judge::cell::{Cell, LimitShown, Straggler, by_kernel, by_key, is_busy, is_taken};
use crate::judge::verdict::{Reason, Verdict};
use crate::measure::stats;
use crate::measure::{Load, fast_end};
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
/// Of fewer peers the spread is not known: only what is far behind the best of them is told.
const FEW: usize = 4;
const MARGIN_FEW: f64 = 0.15;
/// So much slower in one attempt, in another well: it was no chance, and what it was may come again.
const FAR: f64 = 0.2;
/// False alarms that a whole check may have, before confirmation.
const ALPHA: f64 = 0.05;
/// A GPU that lost a tenth is broken, whatever it costs to do without its node: three times as much as healthy ones differ, and where
/// gpu-fryer fails one, too.
const BROKEN: f64 = 0.10;
/// What a node's cores and memory lost is priced up to here; beyond it something is broken.
const BROKEN_NODE: f64 = 1.0 / 3.0;

/// Marks the cells of outliers: open until an attempt of their own confirms it, then failed, or a warning when leaving
/// the node out costs more than keeping it.
/// Tells how much longer a step takes with each slow node.
pub(super) fn judge(record: &Record, run: &RunPlan, cells: &mut [Cell<'_>]) -> BTreeMap<NodeName, f64> {
    if record.header.launcher.is_some() {
        nodes(&Hosts::of(record), cells);
    }
    // Nodes on one host share its cores, not their GPUs.
    gpus::judge(record, gpus::MARGIN, cells);
    weigh(record, run, cells)
}

/// What the nodes are: only like is compared with like.
struct Hosts<'r> {
    model: FxHashMap<&'r NodeName, &'r str>,
    /// Those that share their machine with another.
    sharing: FxHashSet<&'r NodeName>,
}

impl<'r> Hosts<'r> {
    fn of(record: &'r Record) -> Self {
        let model = record.machines().map(|(node, m)| (node, m.cpu.model.as_str())).collect();
        Hosts { model, sharing: record.sharing().flatten().collect() }
    }

    fn margin(&self, node: &NodeName) -> f64 {
        if self.sharing.contains(node) { MARGIN_SHARED } else { MARGIN }
    }
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

/// Whether it was far behind in one attempt and not in another.
fn swings(cell: &Cell<'_>, usual: f64) -> bool {
    let far = |m: &&f64| loss(cell.series.better, **m, usual) > FAR;
    let slow = cell.attempts().iter().filter(far).count();
    (1..cell.attempts().len()).contains(&slow)
}

/// A cell of an outlier gets its verdict, unless something that weighs more has given it one.
fn mark(cell: &mut Cell<'_>, behind: Behind) {
    // Every attempt for itself must say so: chance does not strike twice.
    let again = cell.attempts().len() > 1;
    let losses: Vec<f64> = cell.attempts().iter().map(|m| loss(cell.series.better, *m, behind.usual)).collect();
    let confirmed = again && losses.iter().all(|loss| *loss > behind.margin);
    // What is as uneven as a shared machine or file system may be well at one time and not at another.
    let unsteady = !confirmed && behind.margin < FAR && swings(cell, behind.usual);
    // Attempts that lie on both sides of a floor contradict each other about the floor, and not about the peers.
    let about_the_floor = cell.verdict == Verdict::Inconclusive(Reason::Unsteady) && confirmed;
    if cell.verdict >= Verdict::Inconclusive(Reason::TooFewSamples) && !about_the_floor {
        return;
    }
    if again && !confirmed && !unsteady && cell.verdict != Verdict::NoLimit {
        // Measured again and well: it was chance, and what its own limit says stands.
        return;
    }
    let (value, provenance) = (behind.usual, behind.peers.into());
    cell.hold(LimitShown { value, source: Source::Peers, weight: Weight::Fail, provenance });
    cell.straggler = Some(behind.straggler);
    cell.verdict = match (confirmed, again) {
        _ if unsteady => Verdict::Inconclusive(Reason::Unsteady),
        _ if disturbed(cell) => Verdict::Inconclusive(Reason::Busy),
        (true, _) => Verdict::Fail,
        (false, false) => Verdict::Inconclusive(Reason::Unconfirmed),
        // Measured again and well: it was chance.
        (false, true) => Verdict::Pass,
    };
}

/// Whether others used the cores in every attempt: then a slow result of theirs says nothing. A GPU does not share them.
fn disturbed(cell: &Cell<'_>) -> bool {
    let load = |l: &Load| is_busy(l) || by_kernel(l, cell.row().case);
    cell.row().gpu().is_none() && (cell.load().is_some_and(load) || cell.pace().is_some_and(is_taken))
}

/// Nodes beside nodes of the same make, in all that no single GPU did.
fn nodes(hosts: &Hosts<'_>, cells: &mut [Cell<'_>]) {
    let alone = |c: &Cell<'_>| c.group().is_empty() && c.summary.is_some();
    let tests = cells.iter().filter(|c| alone(c)).count();
    let by_metric = by_key(cells, |c| {
        let counts = alone(c) && c.row().gpu().is_none();
        // What a file system gives depends on no processor.
        let of_cpu = !matches!(c.row().case, Case::Storage(_));
        let model = hosts.model.get(c.row().node).copied().filter(|_| of_cpu).unwrap_or("");
        counts.then(|| (c.row().probe, c.row().case, c.series.metric, model))
    });
    let Ok(normal) = Normal::new(0.0, 1.0) else { return };
    let critical = normal.inverse_cdf(1.0 - ALPHA / tests.max(1) as f64);
    for ((_, case, ..), indices) in &by_metric {
        let saves = matches!(case, Case::Storage(_));
        if indices.len() < FEW {
            few(hosts, if saves { MARGIN_STORAGE } else { MARGIN_FEW }, indices, cells);
            continue;
        }
        let medians: Vec<f64> = indices.iter().filter_map(|i| Some(cells[*i as usize].summary?.median)).collect();
        let fast = fastest(hosts, indices, cells, if saves { MARGIN_STORAGE } else { MARGIN_FEW });
        let Some((usual, deviation)) = stats::robust(fast.as_ref().unwrap_or(&medians)) else { continue };
        // Equal values are never more exact than a quarter of a percent.
        let scale = deviation.max(0.0025 * usual);
        for i in indices {
            let cell = &mut cells[*i as usize];
            let Some(summary) = cell.summary else { continue };
            let own = hosts.margin(cell.row().node);
            let margin = if saves { own.max(MARGIN_STORAGE) } else { own };
            let worse = match cell.series.better {
                Better::Higher => usual - summary.median,
                Better::Lower => summary.median - usual,
            };
            if loss(cell.series.better, summary.median, usual) > margin && worse / scale > critical {
                let peers = match &fast {
                    Some(fast) => format!("the fastest {} of {} nodes in this run", fast.len(), indices.len()),
                    None => format!("the median of {} nodes in this run", indices.len()),
                };
                mark(cell, Behind { straggler: Straggler::Node, usual, margin, peers });
            }
        }
    }
}

/// What the fastest reach where most are slow; of nodes that share machines nothing.
fn fastest(hosts: &Hosts<'_>, indices: &[u32], cells: &[Cell<'_>], margin: f64) -> Option<Vec<f64>> {
    let of = |i: &u32| Some(&cells[*i as usize]).filter(|c| !hosts.sharing.contains(c.row().node));
    let all: Vec<&Cell<'_>> = indices.iter().map(of).collect::<Option<_>>()?;
    let better = all.first()?.series.better;
    let turned = |v: f64| if better == Better::Higher { v } else { 1.0 / v };
    let speeds: Vec<f64> = all.iter().filter_map(|c| c.summary.as_ref()).map(|s| turned(s.median)).collect();
    Some(fast_end(&speeds, margin)?.into_iter().map(turned).collect())
}

/// Two or three nodes: who is far behind the best of them, by more than either's readings vary.
fn few(hosts: &Hosts<'_>, margin: f64, indices: &[u32], cells: &mut [Cell<'_>]) {
    if indices.iter().any(|i| hosts.sharing.contains(cells[*i as usize].row().node)) {
        return;
    }
    let known = |i: &u32| Some((*i, cells[*i as usize].series.better, cells[*i as usize].summary?));
    let all: Vec<_> = indices.iter().filter_map(known).collect();
    let cmp = |better: Better, a: f64, b: f64| if better == Better::Higher { a.total_cmp(&b) } else { b.total_cmp(&a) };
    let Some((at, better, best)) =
        all.iter().copied().max_by(|(_, better, a), (.., b)| cmp(*better, a.median, b.median))
    else {
        return;
    };
    for (i, _, own) in all.iter().filter(|(i, ..)| *i != at) {
        let apart = match (own.interval, best.interval, better) {
            (Some(own), Some(best), Better::Higher) => own.1 < best.0,
            (Some(own), Some(best), Better::Lower) => own.0 > best.1,
            _ => false,
        };
        if apart && loss(better, own.median, best.median) > margin {
            let peers = format!("the fastest of {} nodes in this run", all.len());
            let (straggler, usual) = (Straggler::Node, best.median);
            mark(&mut cells[*i as usize], Behind { straggler, usual, margin, peers });
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
    let broken = |c: &Cell<'_>| {
        let of_host = c.row().gpu().is_none();
        slowdown(c) > longer(if of_host { BROKEN_NODE } else { BROKEN })
    };
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
            Some(Straggler::Node) => cheap(c) && !broken(c),
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
