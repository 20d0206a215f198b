//! What every renderer shows, arranged once: verdict, findings worst first, a table a probe, coverage, what comes next.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use serde::Serialize;

use crate::hostlist;
use crate::id::{NodeName, clean, drives};
use crate::judge::{Cell, Code, Decision, Finding, Judgement, Severity, Subject, Verdict, by_key, remains, watched};
use crate::measure::{Outcome, WaiveKind};
use crate::plan::{ImagePlan, RunPlan, Tier};
use crate::record::Spent;
use crate::report::course::{CourseShown, course, measured};
use crate::report::rehearsed::step;
use crate::report::saves::{Saves, saves};
use crate::report::software::{Software, software};
use crate::report::timeline::{Timeline, timeline};
use crate::schedule::SIMULATION;
use crate::unit::several;
use crate::work::{Better, Metric};

/// Findings of one code and weight.
#[derive(Debug)]
pub struct FindingGroup<'j> {
    pub findings: Vec<&'j Finding>,
}

/// What is seen alike, of all whom it is seen of.
#[derive(Debug)]
pub struct Seen<'j> {
    pub subject: String,
    pub evidence: &'j str,
    pub limit: &'j str,
}

impl<'j> FindingGroup<'j> {
    pub fn first(&self) -> &'j Finding {
        self.findings[0]
    }

    /// What was seen, in order: what several nodes say alike is said once, with their list.
    pub fn seen(&self) -> Vec<Seen<'j>> {
        let mut out: Vec<(&'j Finding, Vec<NodeName>)> = Vec::new();
        let mut at: HashMap<(&str, &str, Option<&Path>), usize> = HashMap::new();
        for f in &self.findings {
            let (node, path) = match &f.subject {
                Subject::Node(node) => (node, None),
                Subject::Path(node, path) => (node, Some(path.as_path())),
                _ => {
                    out.push((f, Vec::new()));
                    continue;
                }
            };
            let place = *at.entry((&f.evidence, &f.limit, path)).or_insert(out.len());
            if place == out.len() {
                out.push((f, Vec::new()));
            }
            out[place].1.push(node.clone());
        }
        let subject = |f: &Finding, nodes: &[NodeName]| match (&f.subject, nodes) {
            (_, [] | [_]) => f.subject.to_string(),
            (Subject::Path(_, path), many) => format!("{} on {}", clean(&path.to_string_lossy()), list(many)),
            (_, many) => format!("nodes {}", list(many)),
        };
        out.iter()
            .map(|(f, nodes)| Seen { subject: subject(f, nodes), evidence: &f.evidence, limit: &f.limit })
            .collect()
    }
}

/// One line of a probe's table: a metric of a case, over the nodes and their GPUs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub case: String,
    pub metric: Metric,
    pub nodes: usize,
    /// Median over nodes of the nodes' medians, and the interval when it is one node's.
    pub measured: String,
    pub spread: String,
    /// The worst node and its value; empty for one node.
    pub worst: String,
    pub limit: String,
    /// Share of nominal.
    pub share: String,
    /// The median over nodes in the metric's own unit, for sorting.
    #[serde(skip)]
    pub value: Option<f64>,
    #[serde(skip)]
    pub verdict: Verdict,
    #[serde(rename = "verdict")]
    pub verdict_text: String,
    pub note: String,
}

/// A probe's table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    pub probe: String,
    pub rows: Vec<Row>,
}

/// Everything a report shows.
#[derive(Debug)]
pub struct View<'j> {
    pub decision: &'j Decision,
    pub headline: String,
    /// Where, when, how, by what.
    pub provenance: Vec<String>,
    pub findings: Vec<FindingGroup<'j>>,
    pub tables: Vec<Table>,
    /// A run's checkpoints, of a watch.
    pub saves: Option<Saves>,
    /// How a run ended, of an autopsy.
    pub timeline: Option<Timeline>,
    /// A step of the run's training, as it was rehearsed.
    pub step: Option<String>,
    /// What the run will take, where the plan says enough.
    pub course: Option<CourseShown>,
    /// What an image brings; empty for machines.
    pub software: Vec<Software>,
    pub coverage: String,
    /// Where the time of the check went.
    pub time: Option<String>,
    /// `probe, case: why`, with how often.
    pub waived: Vec<String>,
    pub record_path: String,
    /// Label and hostlist: who to leave out, who to run on, who is spare. Empty for one node.
    pub placement: Vec<(&'static str, String)>,
    /// The next command to type.
    pub next: String,
}

/// Arranges a judgement. `record_path` is what to type to name the record.
pub fn view<'j>(j: &'j Judgement<'_>, record_path: &str) -> View<'j> {
    let (saves, timeline) = (saves(j), timeline(j));
    let (headline, provenance, coverage) = match (&saves, &timeline) {
        (Some(s), _) => (s.headline.clone(), of_watch(j, s), s.summary.clone()),
        (_, Some(t)) => (t.headline.clone(), of_autopsy(j), t.summary.clone()),
        (None, None) => (headline(j), provenance(j), coverage(j)),
    };
    View {
        decision: &j.decision,
        headline,
        provenance,
        findings: groups(&j.findings),
        tables: tables(j),
        software: software(j),
        coverage,
        time: time(j),
        waived: waived(j),
        record_path: clean(record_path).into_owned(),
        placement: placement(j),
        next: next(j, record_path),
        step: step(j),
        course: (saves.is_none() && timeline.is_none()).then(|| course_of(j)).flatten(),
        saves,
        timeline,
    }
}

fn course_of(j: &Judgement<'_>) -> Option<CourseShown> {
    let run = &j.record.header.plan.run;
    if j.record.header.plan.tier == Tier::Image || *run == RunPlan::default() {
        return None;
    }
    course(run, &measured(j)).ok()
}

/// Where a watch looks, for whom, and since when.
fn of_watch(j: &Judgement<'_>, saves: &Saves) -> Vec<String> {
    let h = &j.record.header;
    let mut out = saves.place.clone();
    let run = h.plan.run.name.as_deref().map_or(String::new(), |n| format!(" of {}", clean(n)));
    out.push(format!(
        "gonogo {} ({}), watch{run} since {}",
        clean(&h.version),
        clean(&h.commit),
        h.started.strftime("%Y-%m-%d %H:%M:%S UTC")
    ));
    out
}

/// By what, when, and for whom.
fn of_autopsy(j: &Judgement<'_>) -> Vec<String> {
    let h = &j.record.header;
    let run = h.plan.run.name.as_deref().map_or(String::new(), |n| format!(" of {}", clean(n)));
    let at = h.started.strftime("%Y-%m-%d %H:%M:%S UTC");
    vec![format!("gonogo {} ({}), autopsy{run}, {at}", clean(&h.version), clean(&h.commit))]
}

/// What took how long, the longest first; the rest is short, lies between steps, or is the judging.
fn time(j: &Judgement<'_>) -> Option<String> {
    const LEAST_MS: u64 = 100;
    const MOST: usize = 8;
    let end = j.record.end.as_ref().filter(|e| !e.spent.is_empty())?;
    let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1e3);
    let all = end.ended.duration_since(j.record.header.started).as_millis().max(0) as u64;
    let mut probes: Vec<&Spent> = end.spent.iter().filter(|s| s.ms >= LEAST_MS).collect();
    probes.sort_by_key(|s| std::cmp::Reverse(s.ms));
    probes.truncate(MOST);
    let rest = probes.iter().fold(all, |rest, s| rest.saturating_sub(s.ms));
    let of_probes = probes.iter().map(|s| format!("{} {}, ", s.probe, seconds(s.ms))).collect::<String>();
    let joining = j.record.header.joining_ms.filter(|ms| *ms >= LEAST_MS);
    let joining = joining.map_or(String::new(), |ms| format!(" after {} of joining", seconds(ms)));
    Some(format!("{}{joining}: {of_probes}the rest {}", seconds(all), seconds(rest)))
}

fn coverage(j: &Judgement<'_>) -> String {
    let metrics = format!("; {} metrics measured, {} of them without a limit", j.cells.len(), j.coverage.without_limit);
    format!("{}{}", j.coverage.sentence(), if j.record.header.plan.tier == Tier::Image { "" } else { &metrics })
}

fn headline(j: &Judgement<'_>) -> String {
    let nodes = &j.record.header.nodes;
    let who = match nodes.as_slice() {
        _ if j.record.header.plan.tier == Tier::Image => "this image".to_owned(),
        [one] => format!("node {one}"),
        many => format!("{} nodes", many.len()),
    };
    let count = |s: Severity| j.findings.iter().filter(|f| f.weighs() && f.severity == s).count();
    let (fails, holds, warns) = (count(Severity::Fail), count(Severity::Hold), count(Severity::Warn));
    let for_run = j.record.header.plan.run.name.as_deref().map_or(String::new(), |n| format!(" for {}", clean(n)));
    let unproven = j.findings.iter().any(|f| f.weighs() && f.code == Code::COV_007);
    let mut but = if unproven { ", network not proven".to_owned() } else { String::new() };
    if warns > 0 {
        but.push_str(&format!(", {}", several(warns, "warning")));
    }
    match &j.decision {
        Decision::Go if j.record.header.plan.tier == Tier::Node => format!("{who} ready by itself{but}"),
        Decision::Go => format!("{who} ready{for_run}{but}"),
        Decision::GoWithout { exclude } => {
            format!("{who} ready{for_run} without {}{but}", several(exclude.len(), "node"))
        }
        Decision::NoGo => format!(
            "{who} not ready{for_run}: {}{}",
            several(fails, "failure"),
            if holds > 0 { format!(", {holds} open") } else { String::new() }
        ),
        Decision::Hold => format!("nothing proven{for_run} on {who}: {}", several(holds, "open question")),
    }
}

fn provenance(j: &Judgement<'_>) -> Vec<String> {
    let h = &j.record.header;
    let took = j.record.end.as_ref().map_or("not ended".to_owned(), |e| {
        let seconds = e.ended.duration_since(h.started).as_secs_f64();
        format!("{seconds:.1} s")
    });
    let plan = match (&h.plan.run.name, h.plan.run == Default::default()) {
        (None, false) if h.plan.tier == Tier::Image => machines_of(h.plan.run.image.as_ref()),
        (_, true) => "no run plan".to_owned(),
        (name, false) => {
            format!("plan {} ({})", clean(name.as_deref().unwrap_or("without a name")), clean(h.plan.run_hash.short()))
        }
    };
    let mut out = vec![format!("{} tier, {took}, {plan}", h.plan.tier.name())];
    if let Some(launcher) = &h.launcher {
        let mut line = format!("{} nodes by {}: {}", h.nodes.len(), clean(launcher), list(&h.nodes));
        let leaves = crate::localise::leaves(j.record);
        if !leaves.is_empty() {
            let how = if h.leaves.is_empty() { " by latency" } else { "" };
            line.push_str(&format!("; {} leaves{how}", leaves.len()));
        }
        out.push(line);
    }
    let mut machines = j.record.machines();
    if let (Some((_, m)), None) = (machines.next(), machines.next()) {
        let memory = m.memory.total.map_or(String::new(), |t| format!(", {t} memory"));
        let virtualised = if m.cpu.virtualised { ", virtual" } else { "" };
        out.push(
            clean(&format!(
                "{}, {} cores{memory}{virtualised}, Linux {}",
                m.cpu.model.trim(),
                m.cpu.cores,
                m.kernel.release.as_deref().unwrap_or("?")
            ))
            .into_owned(),
        );
    }
    out.extend(gpus(j));
    out.push(
        clean(&format!("gonogo {} ({}), {}", h.version, h.commit, h.started.strftime("%Y-%m-%d %H:%M:%S UTC")))
            .into_owned(),
    );
    out
}

/// `8 x NVIDIA H100 80GB HBM3, driver 570.86.15, CUDA 12.8`; over the nodes, how many of each.
fn gpus(j: &Judgement<'_>) -> Option<String> {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for (_, m) in j.record.machines() {
        let Some(n) = &m.nvidia else { continue };
        let text = |t: &Option<String>| t.clone().unwrap_or_else(|| "?".to_owned());
        for g in &n.gpus {
            let kind = format!("{}, driver {}, CUDA {}", g.name, text(&n.driver), text(&n.cuda));
            match kinds.iter_mut().find(|(k, _)| *k == kind) {
                Some((_, count)) => *count += 1,
                None => kinds.push((kind, 1)),
            }
        }
    }
    let shown: Vec<String> = kinds.iter().take(4).map(|(kind, n)| format!("{n} x {kind}")).collect();
    (!shown.is_empty()).then(|| clean(&shown.join("; ")).into_owned())
}

/// The machines that an image is for, as they were stated.
fn machines_of(image: Option<&ImagePlan>) -> String {
    let Some(image) = image else { return "no machines stated".to_owned() };
    let stated = [("", &image.gpu), ("driver ", &image.driver), ("kernel ", &image.kernel)];
    let mut parts: Vec<String> =
        stated.into_iter().filter_map(|(what, value)| Some(format!("{what}{}", clean(value.as_ref()?)))).collect();
    if !image.needs.is_empty() {
        parts.push(format!("needing {}", clean(&image.needs.join(" "))));
    }
    if parts.is_empty() { "no machines stated".to_owned() } else { format!("for {}", parts.join(", ")) }
}

pub(super) fn groups(findings: &[Finding]) -> Vec<FindingGroup<'_>> {
    let mut out: Vec<FindingGroup<'_>> = Vec::new();
    let mut index = FxHashMap::default();
    for f in findings {
        let key = (&f.code, f.severity, f.waived.is_some());
        let i = *index.entry(key).or_insert_with(|| {
            out.push(FindingGroup { findings: Vec::new() });
            out.len() - 1
        });
        out[i].findings.push(f);
    }
    out
}

fn tables(j: &Judgement<'_>) -> Vec<Table> {
    let cells = &j.cells;
    let alone = j.record.header.nodes.len() == 1;
    let who = |c: &Cell<'_>| match part(c) {
        Some(part) if alone => part.to_string(),
        Some(part) => format!("{} {part}", c.row().node),
        None => of_group(c.row().node, c.group()),
    };
    // Over nodes, GPUs and adapters: the same test and metric of the same probe, in the order of first appearance. The bus bandwidth
    // says the same as the algorithm's and is what limits are about.
    let by_test = by_key(cells, |c| {
        let test = || if part(c).is_some() { Cow::Owned(c.row().case.any_part()) } else { Cow::Borrowed(c.row().case) };
        (c.series.metric != Metric::AlgBw).then(|| (c.row().probe, test(), c.series.metric))
    });
    let row_of = |positions: &[u32]| {
        let alike: Vec<&Cell<'_>> = positions.iter().map(|i| &cells[*i as usize]).collect();
        row(&alike, &who)
    };
    let rows: Vec<Row> = by_test.par_iter().map(|(_, positions)| row_of(positions)).collect();
    let mut out: Vec<Table> = Vec::new();
    for (((probe, ..), _), row) in by_test.iter().zip(rows) {
        match out.iter_mut().find(|t| t.probe == *probe) {
            Some(t) => t.rows.push(row),
            None => out.push(Table { probe: clean(probe).into_owned(), rows: vec![row] }),
        }
    }
    out
}

fn row(cells: &[&Cell<'_>], who: &impl Fn(&Cell<'_>) -> String) -> Row {
    let first = cells[0];
    let (unit, better) = (first.series.unit, first.series.better);
    let mut medians: Vec<f64> = cells.iter().filter_map(|c| Some(c.summary?.median)).collect();
    medians.sort_unstable_by(f64::total_cmp);
    let middle = medians.get(medians.len() / 2).copied();
    let worst_first = |a: &&&Cell<'_>, b: &&&Cell<'_>| {
        let value =
            |c: &Cell<'_>| c.summary.map_or(f64::NAN, |s| if better == Better::Higher { -s.median } else { s.median });
        a.verdict.cmp(&b.verdict).then(value(a).total_cmp(&value(b)))
    };
    let worst = cells.iter().max_by(worst_first).unwrap_or(&first);
    let show = |v: f64| unit.show(v);
    let spread = match (cells.len(), first.summary.and_then(|s| Some((s.interval?, s.n)))) {
        (1, Some(((lo, hi), n))) => format!("{} .. {} n={n}", show(lo), show(hi)),
        (1, None) => first.summary.map_or(String::new(), |s| format!("n={}", s.n)),
        _ => String::new(),
    };
    let sign = if better == Better::Higher { ">=" } else { "<=" };
    let share = worst
        .series
        .nominal
        .as_ref()
        .zip(worst.summary)
        .map_or(String::new(), |(n, s)| format!("{:.0} %", 100.0 * s.median / n.value));
    let slowest = worst.series.slowest_rank.map_or(String::new(), |r| format!("slowest rank {r}"));
    Row {
        case: case(cells),
        metric: first.series.metric,
        nodes: cells.len(),
        measured: middle.map_or("not a number".to_owned(), show),
        spread,
        worst: if cells.len() > 1 {
            format!("{} {}", worst.summary.map_or("?".to_owned(), |s| show(s.median)), who(worst))
        } else {
            String::new()
        },
        limit: worst.limit().map_or(String::new(), |l| format!("{sign} {}", show(l.value))),
        share,
        value: middle,
        verdict: worst.verdict,
        verdict_text: worst.verdict.to_string(),
        note: slowest,
    }
}

/// Who did it together.
fn of_group(node: &NodeName, group: &[NodeName]) -> String {
    match group {
        [] => node.to_string(),
        [a, b] => format!("{a}+{b}"),
        group => list(group),
    }
}

/// A part of a node that was tested alone. Every cell is asked for it, and few are shown.
enum Part<'r> {
    Gpu(u32),
    Rdma(&'r str),
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Gpu(number) => write!(f, "gpu{number}"),
            Part::Rdma(device) => f.write_str(&clean(device)),
        }
    }
}

/// The GPU or RDMA device of a node that a cell is of.
fn part<'r>(c: &Cell<'r>) -> Option<Part<'r>> {
    if !c.group().is_empty() {
        return None;
    }
    c.row().case.gpu().map(Part::Gpu).or_else(|| c.row().case.adapter().map(Part::Rdma))
}

/// A case, or a test and how many parts of a node did it: `bf16 8192 burst x8`.
fn case(cells: &[&Cell<'_>]) -> String {
    let one = cells[0].row().case;
    let parts = cells.iter().any(|c| c.row().case != one);
    if parts { format!("{} x{}", one.test(), cells.len()) } else { one.to_string() }
}

fn list(nodes: &[NodeName]) -> String {
    // A list is to be pasted: it is never cut, and a name that could drive a terminal is shown harmless. What is longer than a
    // host's name can be is none.
    let name = |n: &NodeName| if n.0.len() > 255 { clean(&n.0).into_owned() } else { n.0.clone() };
    let names: Vec<String> = nodes.iter().map(name).collect();
    hostlist::compress(&names).chars().map(|c| if drives(c) { '?' } else { c }).collect()
}

fn placement(j: &Judgement<'_>) -> Vec<(&'static str, String)> {
    if j.record.header.launcher.is_none() {
        return Vec::new();
    }
    let p = &j.placement;
    [("exclude", &p.exclude), ("run on", &p.run_on), ("spare", &p.spares)]
        .into_iter()
        .filter(|(label, nodes)| {
            !nodes.is_empty() && (*label != "run on" || !p.exclude.is_empty() || !p.spares.is_empty())
        })
        .map(|(label, nodes)| (label, list(nodes)))
        .collect()
}

fn waived(j: &Judgement<'_>) -> Vec<String> {
    let mut out: Vec<(String, usize)> = Vec::new();
    let mut absent: Vec<String> = Vec::new();
    for line in &j.record.outcomes {
        if let Outcome::Waived { why, kind } = &line.outcome {
            if *kind == WaiveKind::Absent && line.probe.as_str() == "image" {
                absent.push(line.case.to_string());
                continue;
            }
            let text = format!("{}: {}", clean(&line.step), clean(why));
            // A line a reason, not a line a case; beyond a page nobody reads on.
            match out.iter().position(|(t, _)| *t == text) {
                Some(i) => out[i].1 += 1,
                None if out.len() < 20 => out.push((text, 1)),
                None => {}
            }
        }
    }
    if !absent.is_empty() {
        out.push((format!("not in the image: {}", clean(&absent.join(", "))), 1));
    }
    out.into_iter().map(|(text, n)| if n > 1 { format!("{text} ({n} cases)") } else { text }).collect()
}

/// A path as a shell takes it.
fn typed(path: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    let path = clean(path);
    if path.chars().all(plain) { path.into_owned() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

fn next(j: &Judgement<'_>, record_path: &str) -> String {
    let record = typed(record_path);
    let worst = j.findings.iter().find(|f| f.weighs());
    let p = &j.placement;
    let slurm = j.record.header.launcher.as_deref() == Some("Slurm");
    if watched(j.record).is_some() {
        return match worst {
            Some(f) => format!("gonogo explain {}", f.code),
            // A glance keeps no record.
            None if record.is_empty() => "gonogo watch --plan RUN.TOML".to_owned(),
            None => format!("gonogo report {record} --report page.html"),
        };
    }
    if remains(j.record).is_some() {
        return match (&j.decision, worst) {
            (_, Some(f)) if p.exclude.is_empty() => format!("gonogo explain {}", f.code),
            _ if slurm && p.run_on.len() > 1 => {
                format!("srun --exclude={} -N{} gonogo check", list(&p.exclude), p.run_on.len())
            }
            (Decision::Go, _) => "gonogo check, then start from the last checkpoint".to_owned(),
            _ => format!("srun --exclude={} gonogo check (or a hostfile without it)", list(&p.exclude)),
        };
    }
    match (&j.decision, worst) {
        // No gate opens by it.
        (Decision::Go | Decision::GoWithout { .. }, _) if j.record.header.launcher.as_deref() == Some(SIMULATION) => {
            "srun gonogo check (this record is simulated)".to_owned()
        }
        (Decision::Go | Decision::GoWithout { .. }, _) if !j.own_plan => {
            "gonogo check --plan PLAN (the record was made for another plan: no gate opens by it)".to_owned()
        }
        // An image proves no machine: there the check goes on.
        (Decision::Go, _) if j.record.header.plan.tier == Tier::Image => {
            "srun --container-image=IMAGE gonogo check (or docker run, as above)".to_owned()
        }
        // One node proves nothing of what lies between nodes.
        (Decision::Go, _) if j.record.header.plan.tier == Tier::Node => {
            "srun gonogo check (all nodes together)".to_owned()
        }
        (Decision::Go | Decision::GoWithout { .. }, _) if slurm => {
            format!("gonogo gate {record} -- srun --nodelist={{nodelist}} --nodes={{count}} CMD ARGS...")
        }
        (Decision::GoWithout { .. }, _) => {
            format!("gonogo gate {record} -- mpirun --hostfile {{hostfile}} CMD ARGS...")
        }
        (Decision::NoGo | Decision::Hold, _) if slurm && !p.exclude.is_empty() && p.run_on.len() > 1 => {
            format!("srun --exclude={} -N{} gonogo check", list(&p.exclude), p.run_on.len())
        }
        (Decision::Go, _) => format!("gonogo gate {record} -- CMD ARGS..."),
        (_, Some(f)) => format!("gonogo explain {}", f.code),
        (_, None) => format!("gonogo judge {record}"),
    }
}
