//! Verdicts on metrics -> findings.

use std::collections::BTreeMap;

use crate::baseline::{self, Expectation, Limit, Source};
use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::judge::cell::Row;
use crate::judge::cell::{Places, by_kernel, is_busy, is_taken, off_cores};
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Proof, Rule, Subject};
use crate::judge::severity::Severity;
use crate::judge::{Cell, Reason, Straggler, Verdict};
use crate::work::{Case, Metric};

pub(super) fn findings(cells: &[Cell<'_>], findings: &mut Vec<Finding>) {
    let mut stragglers: BTreeMap<Who<'_>, Vec<&Cell<'_>>> = BTreeMap::new();
    // What stays behind its parts is told once, at the size where that begins.
    let by_itself = |c: &Cell<'_>| c.limit().is_none_or(|l| l.source != Source::Parts);
    for cell in cells {
        let severity = match cell.verdict {
            Verdict::NoLimit | Verdict::Pass => continue,
            Verdict::Warn => Severity::Warn,
            Verdict::Inconclusive(_) => Severity::Hold,
            Verdict::Fail => Severity::Fail,
        };
        if !by_itself(cell) {
            continue;
        }
        let code = match (cell.verdict, cell.straggler, cell.row().gpu()) {
            (Verdict::Inconclusive(Reason::Invalid), ..) => Code::VAL_001,
            (Verdict::Inconclusive(Reason::Busy), ..) => Code::VAL_002,
            (Verdict::Inconclusive(Reason::NearYardstick), ..) => Code::VAL_005,
            (Verdict::Inconclusive(Reason::Unsteady), ..) => Code::VAL_006,
            (Verdict::Inconclusive(_), ..) => Code::VAL_003,
            (_, Some(straggler), Some(gpu)) => {
                let who = match straggler {
                    Straggler::Node => Who::Node(cell.row().node),
                    Straggler::Gpu => Who::Gpu(cell.row().node, gpu),
                    Straggler::Slot => Who::Slot(gpu),
                };
                stragglers.entry(who).or_default().push(cell);
                continue;
            }
            (_, Some(_), None) if matches!(cell.row().case, Case::Storage(_)) => Code::STO_013,
            (_, Some(_), None) => Code::PER_001,
            (_, None, _) => code_of(&cell.row(), cell.series.metric, cell.limit().map(|l| l.source)),
        };
        let rule = if cell.straggler.is_some() { Rule::Peers } else { Rule::Limit };
        let finding = Finding::new(code, cell.row().subject(), evidence(cell)).severity(severity).limit(limit(cell));
        findings.push(finding.proven(rule, vec![proof(cell)]));
    }
    findings.extend(stragglers.iter().filter_map(|(who, cells)| straggler(who, cells)));
}

/// Who is slow beside its peers, by what its GPUs measured: told once, whatever number of cases shows it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Who<'r> {
    Node(&'r NodeName),
    Gpu(&'r NodeName, u32),
    Slot(u32),
}

fn straggler(who: &Who<'_>, cells: &[&Cell<'_>]) -> Option<Finding> {
    let behind = |c: &Cell<'_>| {
        let (value, usual) = (c.summary.map_or(1.0, |s| s.median), c.limit().map_or(1.0, |l| l.value));
        if c.series.better == crate::work::Better::Higher { value / usual } else { usual / value }
    };
    let worst = cells.iter().max_by(|a, b| a.verdict.cmp(&b.verdict).then(behind(b).total_cmp(&behind(a))))?;
    let severity = if worst.verdict == Verdict::Fail { Severity::Fail } else { Severity::Warn };
    let mut nodes: Vec<String> = cells.iter().map(|c| c.row().node.0.clone()).collect();
    nodes.dedup();
    let mut tests: Vec<String> = cells.iter().map(|c| c.row().case.test().to_string()).collect();
    tests.sort_unstable();
    tests.dedup();
    let (code, subject, mut text) = match who {
        Who::Node(node) => {
            let mut gpus: Vec<u32> = cells.iter().filter_map(|c| c.row().gpu()).collect();
            gpus.sort_unstable();
            gpus.dedup();
            let text = format!("{} of its GPUs are slow; the slowest: {}", gpus.len(), evidence(worst));
            (Code::PER_001, Subject::Node((*node).clone()), text)
        }
        Who::Gpu(node, gpu) => (Code::PER_002, Subject::Gpu((*node).clone(), *gpu), evidence(worst)),
        Who::Slot(slot) => {
            nodes.sort();
            nodes.dedup();
            let on = clean(&hostlist::compress(&nodes)).into_owned();
            let text = format!(
                "GPU {slot} of {on} ({} nodes); the slowest: {} on {}",
                nodes.len(),
                evidence(worst),
                worst.row().node
            );
            (Code::PER_003, Subject::Run, text)
        }
    };
    if tests.len() > 1 {
        text.push_str(&format!("; slow in {} tests: {}", tests.len(), tests.join(", ")));
    }
    let proof = cells.iter().map(|c| proof(c)).collect();
    Some(Finding::new(code, subject, text).severity(severity).limit(limit(worst)).proven(Rule::Peers, proof))
}

/// The code of a metric that missed its limit.
fn code_of(row: &Row<'_>, metric: Metric, source: Option<Source>) -> Code {
    // What the plan says of a save is its own; a floor is any file system's.
    let planned = matches!(row.case, Case::Checkpoint { .. }) && source == Some(Source::Plan);
    match metric {
        Metric::Flops if row.on_gpu() => Code::GEM_011,
        Metric::Flops => Code::GEM_010,
        Metric::Bandwidth => match row.case {
            Case::Host { .. } => Code::MEM_010,
            Case::GpuMemory { .. } => Code::MEM_011,
            Case::Copy { .. } => Code::CPY_010,
            Case::Link(_) if row.probe == "rdma" => Code::RDM_012,
            Case::Link(_) if row.probe == "collective" => Code::COL_010,
            _ => Code::NET_010,
        },
        Metric::BandwidthMedian => Code::CPY_010,
        Metric::Latency if row.probe == "rdma" => Code::RDM_012,
        Metric::LatencyP99 | Metric::LatencyP999 => Code::RDM_012,
        Metric::Latency | Metric::Start => Code::COL_011,
        Metric::BusBw | Metric::AlgBw => Code::COL_010,
        Metric::RttP50 | Metric::RttP99 => Code::NET_011,
        Metric::Write | Metric::Stage if planned => Code::STO_029,
        Metric::Drain if planned => Code::STO_033,
        Metric::Read if planned => Code::STO_035,
        Metric::Write | Metric::Drain | Metric::Stage => Code::STO_010,
        Metric::Read => Code::STO_011,
        Metric::Metadata | Metric::Publish => Code::STO_012,
        Metric::Step => Code::REH_004,
    }
}

/// The cell as what a finding rests on.
pub(super) fn proof(cell: &Cell<'_>) -> Proof {
    Proof {
        metric: Some(cell.series.metric),
        measured: cell.summary.map(|s| s.median),
        interval: cell.summary.and_then(|s| s.interval),
        n: cell.summary.map(|s| s.n),
        expected: cell.limit().map(|l| l.value),
        ..Proof::new(cell.row().node, cell.row().step, cell.row().case)
    }
}

fn evidence(cell: &Cell<'_>) -> String {
    let unit = cell.series.unit;
    let mut out = format!("{}, {} of `{}`: ", cell.row().step, cell.series.metric, cell.row().case);
    match (&cell.summary, cell.verdict) {
        (None, _) => out.push_str("samples that are not positive numbers"),
        (Some(s), Verdict::Inconclusive(Reason::Invalid)) => {
            out.push_str(&format!(
                "up to {} measured",
                unit.show(if cell.series.better == crate::work::Better::Higher { s.max } else { s.min })
            ));
        }
        (Some(s), _) => {
            out.push_str(&unit.show(s.median));
            match s.interval {
                Some((lo, hi)) => {
                    out.push_str(&format!(" (95 % interval {} to {}, n = {})", unit.show(lo), unit.show(hi), s.n))
                }
                None => out.push_str(&format!(" (n = {}, too few for an interval)", s.n)),
            }
        }
    }
    if cell.attempts().len() > 1 {
        let shown: Vec<String> = cell.attempts().iter().map(|m| unit.show(*m)).collect();
        out.push_str(&format!("; by attempt {}", shown.join(", ")));
    }
    if let Some(load) = cell.load().filter(|l| is_busy(l)) {
        out.push_str(&format!(
            "; meanwhile others took {:.1} cores and the hypervisor {:.1}",
            load.others_cores, load.steal_cores
        ));
    } else if let Some(load) = cell.load().filter(|l| by_kernel(l, cell.row().case)) {
        out.push_str(&format!("; meanwhile the kernel took {:.1} cores for others", load.others_system_cores));
    }
    if let Some(share) = off_cores(cell.series, cell.row().case) {
        out.push_str(&format!("; its threads were on a core for {:.0} % of the time", 100.0 * share));
    }
    if let Some(pace) = cell.pace().filter(|p| is_taken(p)) {
        out.push_str(&format!(
            "; {} core(s) ran at {:.1} GHz instead of {:.1}, which the host of this virtual machine took without saying so",
            pace.cores,
            pace.hz / 1e9,
            pace.base_hz / 1e9
        ));
    }
    if let (Verdict::Fail | Verdict::Warn, Some(rank)) = (cell.verdict, cell.series.slowest_rank) {
        out.push_str(&format!("; slowest rank {rank}"));
    }
    out
}

fn limit(cell: &Cell<'_>) -> String {
    let unit = cell.series.unit;
    if cell.verdict == Verdict::Inconclusive(Reason::Invalid) {
        return cell
            .series
            .bound
            .as_ref()
            .map_or(String::new(), |b| format!("bound {}: {}", unit.show(b.value), b.why));
    }
    let side = if cell.series.better == crate::work::Better::Higher { "at least" } else { "at most" };
    cell.limit().map_or(String::new(), |l| format!("{side} {}, from {}", unit.show(l.value), l.provenance))
}

/// A requirement of the plan for which nothing was measured holds the gate.
pub(super) fn unmeasured_requirements(
    cells: &[Cell<'_>],
    limits: &[Expectation],
    places: &Places<'_>,
    findings: &mut Vec<Finding>,
) {
    for of_key in baseline::demands(limits) {
        let answers = |c: &Cell<'_>, e: &Expectation| {
            let nominal_known =
                !matches!(e.limit, Limit::ShareOfNominal(_)) || c.series.nominal.as_ref().is_some_and(|n| !n.claimed);
            c.series.metric == e.metric
                && nominal_known
                && e.is_for(c.row().probe, c.row().case, &places.of(c.row().step).among)
        };
        if !cells.iter().any(|c| of_key.iter().any(|e| answers(c, e))) {
            let (key, probe) = (&of_key[0].provenance, &of_key[0].probe);
            let evidence = format!("{key}: no measurement of {probe} could be held against it");
            findings.push(Finding::new(Code::COV_002, Subject::Run, evidence).limit(key.clone()));
        }
    }
}
