//! The checkpoint directory against the run that will save to it.

use std::collections::{HashMap, HashSet};

use crate::forecast::{Runway, runway};
use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::judge::Cell;
use crate::judge::cell::is_busy;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Proof, Rule, Subject};
use crate::judge::rules::{Facts, metrics};
use crate::judge::severity::Severity;
use crate::measure;
use crate::measure::stats::Summary;
use crate::plan::{RunPlan, SaveMode, WatchPlan};
use crate::record::Record;
use crate::topology::{Filesystem, Target};
use crate::unit::{Bytes, Unit};
use crate::work::{Case, CheckpointOp, Metric};

/// File systems that are gone with the node or the container.
const PASSING: &[&str] = &["tmpfs", "ramfs", "overlay", "overlayfs", "aufs", "rootfs"];

pub(super) fn findings(record: &Record, run: &RunPlan, cells: &[Cell<'_>], findings: &mut Vec<Finding>) {
    let planned = run.checkpoint.as_ref();
    if let Some(c) = planned {
        let moved = run.watch.as_ref().is_some_and(WatchPlan::moves);
        if c.keep.is_none() && c.interval().is_some() && !moved {
            findings.push(Finding::new(Code::STO_028, Subject::Run, "[checkpoint] has an interval and no keep"));
        }
        let measured = record.header.plan.storage_path.as_ref();
        if let (Some(dir), Some(measured)) = (&c.dir, measured)
            && dir != measured
        {
            let evidence = format!("measured {}, the plan saves to {}", measured.display(), dir.display());
            findings.push(Finding::new(Code::STO_030, Subject::Run, evidence));
        }
    }
    let mut seen = false;
    for (node, fs) in Facts::filesystems(record) {
        seen = true;
        let subject = || Subject::Path(node.clone(), fs.path.clone());
        if PASSING.contains(&fs.mount.fstype.as_str()) {
            let severity = if planned.is_some() { Severity::Fail } else { Severity::Warn };
            let evidence = format!("file system {}, mounted at {}", fs.mount.fstype, fs.mount.point.display());
            findings.push(Finding::new(Code::STO_025, subject(), evidence).severity(severity));
        }
        if let Some(r) = runway(run, fs.room()) {
            capacity(&r, fs, subject(), findings);
        }
        options(fs, &subject(), findings);
    }
    targets(record, run, findings);
    staging(record, run, findings);
    knee(cells, findings);
    // The plan states a need and no capacity is known: the check that was forgotten must not be forgotten here.
    if !seen && run.checkpoint_size().is_some() {
        findings.push(Finding::new(
            Code::COV_002,
            Subject::Run,
            "the plan states checkpoints, and no capacity of their directory was measured",
        ));
    }
    stall(run, cells, findings);
    unanswered(run, cells, findings);
}

/// What the plan says of saving and restoring, and nothing measured answers. How long a synchronous save takes follows from what nodes write.
fn unanswered(run: &RunPlan, cells: &[Cell<'_>], findings: &mut Vec<Finding>) {
    let Some(c) = &run.checkpoint else { return };
    let measured = |metric: Metric| {
        cells.iter().any(|cell| cell.series.metric == metric && matches!(cell.row().case, Case::Checkpoint { .. }))
    };
    let background = c.mode() == SaveMode::Async;
    for (key, asked, metric) in [
        ("restore_budget", c.restore_budget.is_some(), Metric::Read),
        ("stall_budget", background && c.stall_budget.is_some(), Metric::Stage),
        ("interval", background && c.interval().is_some(), Metric::Drain),
    ] {
        if asked && !measured(metric) {
            let evidence = format!("[checkpoint] {key}: no rehearsal of a save could be held against it");
            findings.push(Finding::new(Code::COV_002, Subject::Run, evidence).limit(format!("[checkpoint] {key}")));
        }
    }
}

/// File systems that a server gives to many nodes.
const SERVED: &[&str] = &[
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "cifs",
    "smb3",
    "glusterfs",
    "wekafs",
    "9p",
    "virtiofs",
    "panfs",
];

/// What is wrong with a directory that several nodes share is wrong for all of them: to leave out those that met it first would
/// help nobody.
pub(super) fn share(record: &Record, findings: &mut Vec<Finding>) {
    let shared = sharing(record);
    let of_all = |f: &Finding| matches!(f.code, Code::STO_020 | Code::STO_021 | Code::STO_026);
    // Where each stands, and who says the same.
    let mut told: HashMap<Code, (usize, Vec<String>)> = HashMap::new();
    let mut out: Vec<Finding> = Vec::with_capacity(findings.len());
    for mut f in findings.drain(..) {
        let node = match &f.subject {
            Subject::Node(n) | Subject::Path(n, _) => Some(n.clone()),
            _ => None,
        };
        if let Some(node) = node.filter(|n| of_all(&f) && shared.contains(n)) {
            if let Some((_, alike)) = told.get_mut(&f.code) {
                alike.push(node.0);
                continue;
            }
            told.insert(f.code, (out.len(), Vec::new()));
            f.evidence = format!("on {node}, which shares it with other nodes: {}", f.evidence);
            f.subject = Subject::Run;
        }
        out.push(f);
    }
    for (first, alike) in told.into_values().filter(|(_, alike)| !alike.is_empty()) {
        out[first].evidence.push_str(&format!("; {} alike", clean(&hostlist::compress(&alike))));
    }
    *findings = out;
}

/// Nodes whose checkpoint directory others have, too: by what a server gives it, as each node's mounts tell, or by a file of another node
/// that was read there.
fn sharing(record: &Record) -> HashSet<&NodeName> {
    let mut out: HashSet<&NodeName> = HashSet::new();
    if let Some(dir) = &record.header.plan.storage_path {
        let mut by_source: HashMap<(&str, &str), Vec<&NodeName>> = HashMap::new();
        for (node, machine) in record.machines() {
            let holds = machine.mounts.iter().filter(|m| dir.starts_with(&m.point));
            if let Some(m) = holds.max_by_key(|m| m.point.components().count())
                && SERVED.contains(&m.fstype.as_str())
            {
                by_source.entry((&m.source, &m.fstype)).or_default().push(node);
            }
        }
        out.extend(by_source.into_values().filter(|nodes| nodes.len() > 1).flatten());
    }
    let views = record.outcomes.facts().filter_map(|(_, fact)| match fact {
        measure::Facts::Shared(views) => Some(views),
        _ => None,
    });
    out.extend(views.flatten().filter(|v| v.read_back == Some(true)).map(|v| &v.node));
    out
}

fn capacity(r: &Runway, fs: &Filesystem, subject: Subject, findings: &mut Vec<Finding>) {
    let kept = if r.unlimited { format!("all {} saves (no keep is set)", r.kept) } else { format!("{} kept", r.kept) };
    let milestones = if r.milestones > 0 { format!(" + {} milestones", r.milestones) } else { String::new() };
    let arithmetic = format!(
        "{} x ({kept}{milestones} + 1 in flight + 1 partial) / {:.2} = {} needed",
        r.size, r.usable_fraction, r.need
    );
    if !r.fits {
        let end = match r.hours_until_failure {
            Some(h) => format!("{} saves fit, the save at hour {h:.1} fails", r.saves_that_fit),
            None => format!("{} saves fit", r.saves_that_fit),
        };
        let (code, evidence) = match fs.tightest() {
            Some((q, left)) => {
                let limit = q.limit.unwrap_or_default();
                let whose = format!("the quota of {} {}", q.of.name(), q.id);
                (Code::STO_031, format!("{whose} leaves {left} of {limit}, {} are free; {end}", fs.available))
            }
            None => (Code::STO_020, format!("{} free of {}; {end}", r.available, fs.total)),
        };
        findings.push(Finding::new(code, subject.clone(), evidence).limit(arithmetic));
    }
    let Some(files) = r.inodes else { return };
    let stay = format!("{files} files stay");
    // File systems that allot inodes as they go report none.
    if fs.inodes_total > 0 && files > fs.inodes_free {
        let evidence = format!("{} inodes free", fs.inodes_free);
        findings.push(Finding::new(Code::STO_021, subject, evidence).limit(stay));
    } else if let Some((q, left)) =
        fs.quotas.iter().filter_map(|q| Some((q, q.files_left()?))).find(|(_, l)| *l < files)
    {
        let evidence = format!("the quota of {} {} leaves {left} files", q.of.name(), q.id);
        findings.push(Finding::new(Code::STO_031, subject, evidence).limit(stay));
    }
}

/// Options of a mount under which a write may be lost, or its free space be wrong.
fn options(fs: &Filesystem, subject: &Subject, findings: &mut Vec<Finding>) {
    let kind = fs.mount.fstype.as_str();
    let has = |wanted: &[&str]| fs.mount.options.split(',').find(|o| wanted.contains(o)).map(str::to_owned);
    let loses = match kind {
        "nfs" | "nfs4" => has(&["soft", "softerr"]),
        "ext4" | "xfs" => has(&["nobarrier", "barrier=0"]),
        _ => None,
    };
    let told = |code, option: String| {
        let evidence = format!("{kind} at {}, mounted with {option}", clean(&fs.mount.point.to_string_lossy()));
        Finding::new(code, subject.clone(), evidence)
    };
    findings.extend(loses.map(|option| told(Code::STO_037, option)));
    let blind = has(&["lazystatfs"]).filter(|_| kind == "lustre" && fs.targets.is_empty());
    findings.extend(blind.map(|option| told(Code::STO_038, option)));
}

/// From this fill on a target that is fuller than the rest is told.
const FULL: f64 = 0.85;

/// The parts of a file system that many nodes see alike, by the first that tells them.
fn targets(record: &Record, run: &RunPlan, findings: &mut Vec<Finding>) {
    let Some((_, fs)) = Facts::filesystems(record).find(|(_, fs)| !fs.targets.is_empty()) else { return };
    let free = |t: &Target| t.available.as_f64() / t.total.as_f64().max(1.0);
    let mut shares: Vec<f64> = fs.targets.iter().filter(|t| t.active).map(free).collect();
    shares.sort_by(f64::total_cmp);
    let usual = shares.get(shares.len() / 2).copied().unwrap_or(1.0);
    let each = runway(run, fs.room()).map(|r| r.need.as_f64() / shares.len().max(1) as f64);
    let some = |wanted: &dyn Fn(&Target) -> bool| -> Option<String> {
        let names: Vec<&str> = fs.targets.iter().filter(|t| wanted(t)).map(|t| t.name.as_str()).collect();
        let more = if names.len() > 4 { format!(" and {} more", names.len() - 4) } else { String::new() };
        (!names.is_empty()).then(|| format!("{}{more}", clean(&names[..names.len().min(4)].join(", "))))
    };
    if let Some(silent) = some(&|t| !t.active) {
        findings.push(Finding::new(
            Code::STO_032,
            Subject::Run,
            format!("{silent} of {} do not answer", fs.targets.len()),
        ));
    }
    // A save that is spread evenly needs as much on each.
    // Where all of it is too small, no part is to blame.
    let fits = runway(run, fs.room()).is_some_and(|r| r.fits);
    let short = |t: &Target| t.active && fits && each.is_some_and(|each| t.available.as_f64() < each);
    let fuller = |t: &Target| t.active && free(t) < usual / 2.0 && 1.0 - free(t) > FULL;
    let least = fs.targets.iter().filter(|t| t.active).min_by(|a, b| free(a).total_cmp(&free(b)));
    let any_short = fs.targets.iter().find(|t| short(t));
    let Some(least) = any_short.or(least.filter(|t| fuller(t))) else { return };
    let which = some(&|t| fuller(t) || short(t)).unwrap_or_default();
    let evidence = format!(
        "{which}: {} has {} left of {}, the middle of {} is {:.0} % free",
        clean(&least.name),
        least.available,
        least.total,
        fs.targets.len(),
        usual * 100.0
    );
    let severity = if short(least) { Severity::Fail } else { Severity::Warn };
    let mut finding = Finding::new(Code::STO_032, Subject::Run, evidence).severity(severity);
    if let Some(each) = each.filter(|_| short(least)) {
        finding = finding.limit(format!("{} on each, where checkpoints are spread evenly", Bytes::from_f64(each)));
    }
    findings.push(finding);
}

/// What an asynchronous save holds in each node's memory, against what is free there.
fn staging(record: &Record, run: &RunPlan, findings: &mut Vec<Finding>) {
    let Some((c, size)) = run.checkpoint.as_ref().zip(run.checkpoint_size()) else { return };
    if c.mode() != SaveMode::Async {
        return;
    }
    let nodes = run.nodes.as_ref().map_or(record.header.nodes.len() as u32, |n| n.needed).max(1);
    let copies = c.staging_copies.unwrap_or(1);
    let need = Bytes((size.0 / u64::from(nodes)).saturating_mul(copies));
    for (node, machine) in record.machines() {
        let Some(available) = machine.memory.available.filter(|a| *a < need) else { continue };
        let total = machine.memory.total.unwrap_or_default();
        let times = if copies > 1 { format!("{copies} x ") } else { String::new() };
        let limit = format!("{times}{size} / {nodes} nodes = {need} on each");
        let evidence = format!("{available} of {total} available");
        findings.push(Finding::new(Code::STO_034, Subject::Node(node.clone()), evidence).limit(limit));
    }
}

/// Below this share of what fewer nodes reached, more nodes stand in each other's way.
const FEWER: f64 = 0.7;

/// What all nodes together write, as nodes are added.
fn knee(cells: &[Cell<'_>], findings: &mut Vec<Finding>) {
    let save = |c: &&Cell<'_>| matches!(c.series.metric, Metric::Write | Metric::Drain);
    let mut sizes: Vec<(u32, Summary, &Cell<'_>)> = Vec::new();
    for c in cells.iter().filter(save) {
        if let (Case::Checkpoint { op: CheckpointOp::Save, nodes }, Some(summary)) = (c.row().case, c.summary) {
            sizes.push((*nodes, summary, c));
        }
    }
    sizes.sort_by_key(|(nodes, ..)| *nodes);
    let Some((all, smaller)) = sizes.split_last().filter(|(_, smaller)| !smaller.is_empty()) else { return };
    let low = |s: &Summary| s.interval.map_or(s.min, |(low, _)| low);
    let high = |s: &Summary| s.interval.map_or(s.max, |(_, high)| high);
    let Some(best) = smaller.iter().max_by(|a, b| a.1.median.total_cmp(&b.1.median)) else { return };
    if high(&all.1) >= FEWER * low(&best.1) {
        return;
    }
    let shown: Vec<String> =
        sizes.iter().map(|(n, s, _)| format!("{n}: {}", Unit::BytePerSecond.show(s.median))).collect();
    let limit = format!("{:.0} % of what {} reached, or more", FEWER * 100.0, best.0);
    let expected = Some(FEWER * best.1.median);
    let proof = sizes.iter().map(|(n, _, c)| {
        let speaks = *n == all.0;
        Proof { expected: expected.filter(|_| speaks), speaks, ..metrics::proof(c) }
    });
    let busy = all.2.load().is_some_and(is_busy);
    let severity = if busy { Severity::Info } else { Severity::Warn };
    let evidence = format!("by nodes, all together: {}", shown.join(", "));
    let finding = Finding::new(Code::STO_036, Subject::Run, evidence).severity(severity).limit(limit);
    findings.push(finding.proven(Rule::Limit, proof.collect()));
}

fn rehearsed(cell: &Cell<'_>) -> bool {
    matches!(cell.row().case, Case::Checkpoint { op: CheckpointOp::Save, .. })
}

/// Seconds that a save blocks, against the share of the interval that it may take.
fn stall(run: &RunPlan, cells: &[Cell<'_>], findings: &mut Vec<Finding>) {
    let Some(c) = &run.checkpoint else { return };
    let (Some(size), Some(interval), Some(budget)) = (run.checkpoint_size(), c.interval(), c.stall_budget) else {
        return;
    };
    // A save that was rehearsed was held against the budget itself.
    if c.mode() == SaveMode::Async || cells.iter().any(|c| rehearsed(c)) {
        return;
    }
    let writes = cells.iter().filter(|c| c.row().probe == "storage" && c.series.metric == Metric::Write);
    let measured: Vec<(&Cell<'_>, Summary)> = writes.filter_map(|c| Some((c, c.summary?))).collect();
    // Every node writes its share at the same time: the slowest decides.
    let Some((slowest, rate)) = measured.iter().min_by(|a, b| a.1.median.total_cmp(&b.1.median)) else { return };
    let nodes = measured.len() as f64;
    let total = rate.median * nodes;
    let period = interval.period.as_secs_f64();
    let need = size.as_f64() / (budget * period);
    if total < need {
        let takes = size.as_f64() / total;
        let rates = |(low, high): (f64, f64)| {
            let show = |v: f64| Unit::BytePerSecond.show(v * nodes);
            format!(" ({} to {})", show(low), show(high))
        };
        let mut evidence = format!(
            "{} at {}{} from {} node(s) take {}, {:.1} % of every interval",
            size,
            Unit::BytePerSecond.show(total),
            rate.interval.map(rates).unwrap_or_default(),
            measured.len(),
            crate::plan::Time(std::time::Duration::try_from_secs_f64(takes).unwrap_or_default()),
            100.0 * takes / period
        );
        // Fewer nodes than the run has: their sum says little about what all together reach.
        let all = run.nodes.as_ref().is_none_or(|n| measured.len() >= n.needed as usize);
        // What may as well be fast enough, or was slowed by others, is open, as any metric is.
        let best = rate.interval.map_or(rate.max, |(_, high)| high);
        let busy = slowest.load().is_some_and(is_busy);
        let severity = match (all, best * nodes >= need || busy) {
            (false, _) => Severity::Warn,
            (true, true) => Severity::Hold,
            (true, false) => Severity::Fail,
        };
        if busy {
            evidence.push_str(&format!("; the machine of {} was busy", slowest.row().node));
        }
        let limit = format!("{:.1} % of the interval: {} or more", budget * 100.0, Unit::BytePerSecond.show(need));
        let proof = measured.iter().map(|(c, _)| Proof { expected: Some(need / nodes), ..metrics::proof(c) }).collect();
        let finding = Finding::new(Code::STO_029, Subject::Run, evidence).severity(severity).limit(limit);
        findings.push(finding.proven(Rule::Limit, proof));
    }
}
