//! A node against its peers in the same run: who is slower than the others by more than chance and noise explain.
//!
//! A cluster of which every node is equally bad has no outliers: floors catch that. Here the margin is what it costs.

use std::collections::BTreeMap;

use statrs::distribution::{ContinuousCDF, Normal};

use crate::baseline::Source;
use crate::baseline::Weight;
use crate::forecast::worth_excluding;
use crate::judge::cell::{Cell, LimitShown};
use crate::judge::rules::Facts;
use crate::judge::verdict::{Reason, Verdict};
use crate::measure::{Better, stats};
use crate::plan::RunPlan;
use crate::record::Record;

/// Slower than this is told; below, silicon and cooling differ (1 to 5 % is normal).
const MARGIN: f64 = 0.06;
/// Nodes that share a machine share its noise, and differ only by what each is allowed.
const MARGIN_SHARED: f64 = 0.5;
/// Fewer peers say nothing about who is odd.
const FEW: usize = 4;
/// False alarms that a whole check may have, before confirmation.
const ALPHA: f64 = 0.05;

/// Marks the cells of outliers: open until an attempt of their own confirms it, then failed, or a warning when leaving
/// the node out costs more than keeping it.
pub(super) fn judge(record: &Record, run: &RunPlan, cells: &mut [Cell<'_>]) {
    if record.header.launcher.is_none() {
        return;
    }
    let mut by_metric: BTreeMap<(&str, &str, &str), Vec<usize>> = BTreeMap::new();
    for (i, c) in cells.iter().enumerate() {
        // A file system is shared: there the slowest rank is the directory's affair, not the node's.
        if c.row.group.is_empty() && c.summary.is_some() && c.row.probe != "storage" {
            by_metric.entry((c.row.probe, c.row.case, c.series.metric.as_str())).or_default().push(i);
        }
    }
    let tests: usize = by_metric.values().map(Vec::len).sum();
    let Ok(normal) = Normal::new(0.0, 1.0) else { return };
    let critical = normal.inverse_cdf(1.0 - ALPHA / tests.max(1) as f64);
    let mut failed: Vec<usize> = Vec::new();
    let mut boots: Vec<&str> = Facts::machines(record).filter_map(|(_, m)| m.boot.as_deref()).collect();
    let seen = boots.len();
    boots.sort_unstable();
    boots.dedup();
    let margin = if boots.len() < seen { MARGIN_SHARED } else { MARGIN };
    let nodes = record.header.nodes.len();
    for indices in by_metric.values().filter(|i| i.len() >= FEW) {
        let medians: Vec<f64> = indices.iter().filter_map(|i| Some(cells[*i].summary?.median)).collect();
        let Some((reference, deviation)) = stats::robust(&medians) else { continue };
        // Equal values are never more exact than a quarter of a percent.
        let scale = deviation.max(0.0025 * reference);
        for i in indices {
            let cell = &mut cells[*i];
            let slow = |median: f64| match cell.series.better {
                Better::Higher => (1.0 - median / reference, (reference - median) / scale),
                Better::Lower => (1.0 - reference / median, (median - reference) / scale),
            };
            let Some(summary) = cell.summary else { continue };
            let (loss, z) = slow(summary.median);
            let beyond = |(loss, z): (f64, f64)| loss > margin && z > critical;
            if !beyond((loss, z)) || cell.verdict >= Verdict::Inconclusive(Reason::TooFewSamples) {
                continue;
            }
            // Every attempt for itself must say so: chance does not strike twice.
            let confirmed = cell.attempts.len() > 1 && cell.attempts.iter().all(|m| slow(*m).0 > margin);
            let weight = Weight::Fail;
            cell.limit = Some(LimitShown {
                value: reference,
                source: Source::Peers,
                weight,
                provenance: format!("the median of {} nodes in this run", indices.len()).into(),
            });
            cell.verdict = match (confirmed, cell.attempts.len() > 1) {
                (true, _) => Verdict::Fail,
                (false, false) => Verdict::Inconclusive(Reason::Unconfirmed),
                // Measured again and well: it was chance.
                (false, true) => Verdict::Pass,
            };
            if confirmed {
                failed.push(*i);
            }
        }
    }
    // What a slow node costs the run against what its absence costs: with spares it is free to leave it out.
    let slowdown = |c: &Cell<'_>| {
        let (median, limit) = (c.summary.map_or(1.0, |s| s.median), c.limit.as_ref().map_or(1.0, |l| l.value));
        if c.series.better == Better::Higher { limit / median - 1.0 } else { median / limit - 1.0 }
    };
    let spares = run.nodes.as_ref().map_or(0, |n| (nodes as u32).saturating_sub(n.needed));
    let mut slow: BTreeMap<String, f64> = BTreeMap::new();
    for i in &failed {
        let worst = slow.entry(cells[*i].row.node.0.clone()).or_default();
        *worst = worst.max(slowdown(&cells[*i]));
    }
    let losses: Vec<f64> = slow.values().copied().collect();
    let least = worth_excluding(&losses, nodes as u32, spares);
    for i in failed {
        if slow.get(cells[i].row.node.0.as_str()).is_some_and(|worst| *worst < least) {
            cells[i].verdict = Verdict::Warn;
        }
    }
}
