//! Two records against each other: what got slower beyond its noise, what appeared and vanished, what software changed.
//!
//! A metric is compared by case over all nodes that have it: the ratio of the medians, with an interval by resampling nodes, or blocks
//! where there are few nodes. Blocks of one run are alike and runs differ more than they, so a margin is asked beside the interval.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::id::{NodeName, clean};
use crate::judge::{Facts, Judgement, Severity};
use crate::measure::{self, stats};
use crate::unit::Unit;
use crate::work::{Better, Case, Metric, Software};

/// Fewer nodes than this say nothing by their spread; blocks then do.
const FEW_NODES: usize = 5;
/// So many robust standard deviations from how the other nodes moved is no noise.
const ODD: f64 = 6.0;
const RESAMPLES: usize = 400;
/// Most values of a side that are resampled.
const MOST: usize = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Worse,
    Better,
    /// Within the margin, or not beyond the noise.
    Alike,
    /// In the second record only.
    Appeared,
    Vanished,
}

impl Change {
    pub const fn name(self) -> &'static str {
        match self {
            Change::Worse => "WORSE",
            Change::Better => "better",
            Change::Alike => "alike",
            Change::Appeared => "new",
            Change::Vanished => "gone",
        }
    }
}

/// A metric of a case in both records.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moved {
    pub probe: String,
    pub case: String,
    pub metric: Metric,
    pub unit: Unit,
    /// Medians over nodes.
    pub before: Option<f64>,
    pub after: Option<f64>,
    /// After over before, with its 95 % interval.
    pub ratio: Option<f64>,
    pub interval: Option<(f64, f64)>,
    pub change: Change,
    /// Of the nodes in both, that which lost most: its name and its own ratio; absent for one node.
    pub worst: Option<(String, f64)>,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    pub decisions: (String, String),
    /// Worst first.
    pub metrics: Vec<Moved>,
    /// Codes that fail more often than before, with how often more: whoever they are about, so that two clusters can be compared.
    pub failing: Vec<(String, usize)>,
    /// `CODE subject` of findings that weigh.
    pub findings_new: Vec<String>,
    pub findings_gone: Vec<String>,
    /// What, before, after.
    pub software: Vec<(String, String, String)>,
    pub nodes_new: Vec<String>,
    pub nodes_gone: Vec<String>,
    /// What both have: without any, nothing was compared.
    pub compared: usize,
}

impl Diff {
    pub fn is_worse(&self) -> bool {
        !self.failing.is_empty() || self.metrics.iter().any(|m| m.change == Change::Worse)
    }
}

type Key<'r> = (&'r str, &'r Case, Metric);

/// Of one metric in one record: medians by node, all blocks.
struct Side {
    unit: Unit,
    better: Better,
    nodes: Vec<(String, f64)>,
    blocks: Vec<f64>,
}

/// What a node of the second record is called in the first: two launchers, two names.
type Called<'c> = &'c dyn Fn(&NodeName) -> NodeName;

fn sides<'r>(j: &'r Judgement<'_>, called: Called<'_>) -> BTreeMap<Key<'r>, Side> {
    let mut out: BTreeMap<Key<'r>, Side> = BTreeMap::new();
    for c in j.cells.iter().filter(|c| c.series.metric != Metric::AlgBw) {
        let Some(summary) = c.summary else { continue };
        let side = out.entry((c.row().probe, c.row().case, c.series.metric)).or_insert_with(|| Side {
            unit: c.series.unit,
            better: c.series.better,
            nodes: Vec::new(),
            blocks: Vec::new(),
        });
        side.nodes.push((c.row().subject().renamed(called).to_string(), summary.median));
        side.blocks.extend(c.series.samples.iter().take(MOST.saturating_sub(side.blocks.len())));
    }
    out
}

/// Compares two judged records. What is slower by no more than `margin` (0.05 is 5 %) is alike.
pub fn diff(a: &Judgement<'_>, b: &Judgement<'_>, margin: f64) -> Diff {
    let (theirs, kernel) = (a.record.header.roster(), &b.record.header.kernel_names);
    let same = |n: &NodeName| theirs.find(&n.0).or_else(|| theirs.find(kernel.get(n)?));
    let called_there = |n: &NodeName| same(n).unwrap_or(n).clone();
    let as_it_is = NodeName::clone;
    let (before, after) = (sides(a, &as_it_is), sides(b, &called_there));
    let keys: BTreeSet<Key<'_>> = before.keys().chain(after.keys()).copied().collect();
    let mut metrics: Vec<Moved> =
        keys.into_iter().map(|key| moved(key, before.get(&key), after.get(&key), margin)).collect();
    // Of two images, what is compared is what they bring.
    let compared = metrics.iter().filter(|m| m.ratio.is_some()).count() + parts(a).intersection(&parts(b)).count();
    let far = |m: &Moved| m.ratio.map_or(0.0, |r| -(r.ln().abs()));
    metrics.sort_by(|x, y| x.change.cmp(&y.change).then(far(x).total_cmp(&far(y))));
    let found = |j: &Judgement<'_>, called: Called<'_>| -> BTreeSet<String> {
        let weighs = j.findings.iter().filter(|f| f.weighs());
        weighs.map(|f| format!("{} {}", f.code, f.subject.renamed(called))).collect()
    };
    let (old, new) = (found(a, &as_it_is), found(b, &called_there));
    let nodes = |j: &Judgement<'_>, called: Called<'_>| -> BTreeSet<String> {
        j.record.header.nodes.iter().map(|n| called(n).to_string()).collect()
    };
    let (there, here) = (nodes(a, &as_it_is), nodes(b, &called_there));
    Diff {
        decisions: (a.decision.name().to_owned(), b.decision.name().to_owned()),
        metrics,
        failing: failing(a, b),
        findings_new: new.difference(&old).cloned().collect(),
        findings_gone: old.difference(&new).cloned().collect(),
        software: software(a, b),
        nodes_new: here.difference(&there).cloned().collect(),
        nodes_gone: there.difference(&here).cloned().collect(),
        compared,
    }
}

fn moved(key: Key<'_>, before: Option<&Side>, after: Option<&Side>, margin: f64) -> Moved {
    let middle = |s: &Side| stats::median(&s.nodes.iter().map(|(_, v)| *v).collect::<Vec<_>>());
    let unit = before.or(after).map_or(Unit::Ratio, |s| s.unit);
    let mut out = Moved {
        probe: clean(key.0).into_owned(),
        case: key.1.to_string(),
        metric: key.2,
        unit,
        before: before.map(middle),
        after: after.map(middle),
        ratio: None,
        interval: None,
        change: if before.is_none() { Change::Appeared } else { Change::Vanished },
        worst: None,
    };
    // What is counted in another unit is another metric.
    let (Some(a), Some(b)) = (before, after.filter(|b| b.unit == unit)) else { return out };
    let (Some(x), Some(y)) = (out.before.filter(|v| *v > 0.0), out.after.filter(|v| *v > 0.0)) else { return out };
    let ratio = y / x;
    let (low, high) = interval(a, b).unwrap_or((ratio, ratio));
    let (worse, better) = match b.better {
        Better::Higher => (high < 1.0 - margin, low > 1.0 + margin),
        Better::Lower => (low > 1.0 + margin, high < 1.0 - margin),
    };
    out.change = if worse {
        Change::Worse
    } else if better {
        Change::Better
    } else {
        Change::Alike
    };
    (out.ratio, out.interval) = (Some(ratio), Some((low, high)));
    if a.nodes.len() > 1 || b.nodes.len() > 1 {
        let own = |name: &str| a.nodes.iter().find(|(n, _)| n == name).map(|(_, v)| *v).filter(|v| *v > 0.0);
        // What is kept of a node's rate, whichever direction is better.
        let kept = |r: f64| if b.better == Better::Higher { r } else { 1.0 / r };
        let ratios: Vec<(&String, f64)> = b.nodes.iter().filter_map(|(n, v)| Some((n, v / own(n)?))).collect();
        let worst = ratios.iter().min_by(|p, q| kept(p.1).total_cmp(&kept(q.1)));
        out.worst = worst.map(|(n, r)| ((*n).clone(), *r));
        // One node of many that lost a lot does not move the median, and is what one wants to know: far from how the others moved.
        let all: Vec<f64> = ratios.iter().map(|(_, r)| kept(*r)).collect();
        if let (Some((_, r)), Some((middle, sigma))) = (&out.worst, stats::robust(&all))
            && all.len() >= FEW_NODES
            && kept(*r) < 1.0 - 4.0 * margin.max(0.01)
            && middle - kept(*r) > ODD * sigma
        {
            out.change = Change::Worse;
        }
    }
    out
}

/// 2.5 and 97.5 % of the ratio of medians over resamples of both sides. The seed is fixed: the same records give the same answer.
fn interval(a: &Side, b: &Side) -> Option<(f64, f64)> {
    let values = |s: &Side| -> Vec<f64> {
        if s.nodes.len() >= FEW_NODES { s.nodes.iter().map(|(_, v)| *v).take(MOST).collect() } else { s.blocks.clone() }
    };
    let (x, y) = (values(a), values(b));
    if x.len() < 3 || y.len() < 3 {
        return None;
    }
    let mut rng = fastrand::Rng::with_seed(7);
    let mut draw = |v: &[f64]| {
        let again: Vec<f64> = (0..v.len()).map(|_| v[rng.usize(0..v.len())]).collect();
        stats::median(&again)
    };
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(|_| draw(&y) / draw(&x).max(f64::MIN_POSITIVE)).collect();
    ratios.sort_by(f64::total_cmp);
    Some((ratios[RESAMPLES / 40], ratios[RESAMPLES - 1 - RESAMPLES / 40]))
}

/// How often each code fails.
fn failures<'j>(j: &'j Judgement<'_>) -> BTreeMap<&'j str, usize> {
    let mut out = BTreeMap::new();
    for f in j.findings.iter().filter(|f| f.weighs() && f.severity == Severity::Fail) {
        *out.entry(f.code.as_str()).or_default() += 1;
    }
    out
}

fn failing(a: &Judgement<'_>, b: &Judgement<'_>) -> Vec<(String, usize)> {
    let before = failures(a);
    let more = |(code, n): (&str, usize)| {
        let more = n.saturating_sub(before.get(code).copied().unwrap_or(0));
        (more > 0).then(|| (code.to_owned(), more))
    };
    failures(b).into_iter().filter_map(more).collect()
}

/// The parts that an image brings.
fn parts(j: &Judgement<'_>) -> BTreeSet<Software> {
    Facts::software(j.record).map(|(part, _)| part).collect()
}

/// Versions that one node or more has, as a set: of two clusters the names of nodes say nothing.
fn versions(j: &Judgement<'_>) -> BTreeMap<String, BTreeSet<String>> {
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut add = |what: String, value: Option<&str>| {
        if let Some(v) = value {
            out.entry(what).or_default().insert(clean(v).into_owned());
        }
    };
    add("gonogo".to_owned(), Some(&j.record.header.version));
    for (_, m) in j.record.machines() {
        add("kernel".to_owned(), m.kernel.release.as_deref());
        add("CPU".to_owned(), Some(m.cpu.model.trim()).filter(|c| !c.is_empty()));
        if let Some(n) = &m.nvidia {
            add("NVIDIA driver".to_owned(), n.driver.as_deref());
            add("CUDA of the driver".to_owned(), n.cuda.as_deref());
            for g in &n.gpus {
                add("GPU".to_owned(), Some(&g.name));
                add("VBIOS".to_owned(), g.vbios.as_deref());
            }
        }
        for d in &m.infiniband {
            let model = d.model.as_deref().map_or("adapter", |m| m);
            add(format!("firmware of {}", clean(model)), d.firmware.as_deref());
        }
        for (name, value) in m.environment.iter().filter(|(n, _)| n.starts_with("NCCL_") || n.starts_with("UCX_")) {
            add(clean(name).into_owned(), Some(value));
        }
    }
    for (part, f) in Facts::software(j.record).flat_map(|(part, c)| c.files.iter().map(move |f| (part, f))) {
        let version = f.version.as_deref().unwrap_or(if f.works() { "there" } else { "does not load" });
        let cuda = f.cuda.as_ref().map_or(String::new(), |c| format!(" of CUDA {c}"));
        add(format!("{part}, {}", clean(&f.name)), Some(&format!("{version}{cuda}")));
    }
    for (_, fact) in j.record.outcomes.facts() {
        match fact {
            measure::Facts::Start(s) => {
                add("base".to_owned(), s.os.as_deref());
                for (name, value) in s.environment.iter().filter(|(n, _)| !n.starts_with("SLURM_")) {
                    add(clean(name).into_owned(), Some(value));
                }
            }
            measure::Facts::Nccl(n) => add("NCCL".to_owned(), Some(&n.version)),
            _ => {}
        }
    }
    out
}

fn software(a: &Judgement<'_>, b: &Judgement<'_>) -> Vec<(String, String, String)> {
    let (old, new) = (versions(a), versions(b));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let show = |set: Option<&BTreeSet<String>>| {
        set.map_or("none".to_owned(), |s| s.iter().take(6).cloned().collect::<Vec<_>>().join(", "))
    };
    keys.into_iter()
        .filter(|k| old.get(*k) != new.get(*k))
        .map(|k| (k.clone(), show(old.get(k)), show(new.get(k))))
        .collect()
}
