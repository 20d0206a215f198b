//! A training step that was rehearsed: who computes slowly, what is not hidden, what varies, and whether the plan's step is kept.

use std::collections::{BTreeMap, BTreeSet};

use crate::forecast::{self, projected, slowest, together};
use crate::id::NodeName;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Proof, Rule, Subject};
use crate::judge::rules::Facts;
use crate::judge::rules::peers::gpu_model;
use crate::judge::rules::prices::Prices;
use crate::judge::severity::Severity;
use crate::localise::{Deficit, Late, late};
use crate::measure::{RankSteps, Rehearsal, Timed, stats};
use crate::plan::{RunPlan, Training};
use crate::record::{OutcomeLine, Record};
use crate::topology::Machine;
use crate::unit::{Unit, three_digits};
use crate::work::{Case, Metric, StepPart};

/// Of what could be hidden, the share that is not, from which the overlap is lost; and the least that it must be worth, of the step.
const LOST: f64 = 0.5;
const WORTH: f64 = 0.05;
/// What waiting for whoever is late by chance may cost a step.
const JITTER: f64 = 0.05;
/// Ranks that a finding shows beside the one that it is of.
const SHOWN: usize = 128;
/// A projected step may be so much longer than the plan's.
const OVER: f64 = 1.05;

/// Adds to `slow` how much longer a step takes with a node whose rank computes slowly.
pub(super) fn findings(
    record: &Record,
    run: &RunPlan,
    slow: &mut BTreeMap<NodeName, f64>,
    findings: &mut Vec<Finding>,
) {
    let Some((line, r)) = Facts::rehearsal(record) else {
        undivided(record, run, findings);
        return;
    };
    let one_machine = record.sharing().next().is_some();
    let kinds = kinds(record, line, r);
    let guilty = computing(record, run, (line, r), (&kinds, one_machine), slow, findings);
    if !one_machine {
        overlap(line, r, findings);
        if kinds.len() == 1 {
            jitter(line, r, &guilty, findings);
        }
    }
    step_time(line, r, run, findings);
}

/// A step that the nodes that are here cannot rehearse.
fn undivided(record: &Record, run: &RunPlan, findings: &mut Vec<Finding>) {
    let plan = &record.header.plan;
    if !plan.wants("rehearsal") {
        return;
    }
    let nodes = record.header.nodes.len() as u32;
    let each = run.nodes.as_ref().map_or(1, |n| n.gpus_per_node.max(1));
    let why = match Training::of(run, nodes.saturating_mul(each)) {
        Some(Err(why)) => why,
        Some(Ok(t)) if t.world.by_nodes(each).is_none() => {
            format!("nodes of {each} GPUs are no whole part of tp x cp x dp x pp")
        }
        _ => return,
    };
    findings.push(Finding::new(Code::REH_005, Subject::Run, why));
}

/// The part that a rank is.
fn subject(line: &OutcomeLine, rank: &RankSteps) -> Subject {
    let node = rank.node.clone().unwrap_or_else(|| (*line.node).clone());
    match rank.gpu {
        Some(gpu) => Subject::Gpu(node, gpu),
        None => Subject::Node(node),
    }
}

/// Ranks whose own products take longer than the others', alone or only while messages go. Returns who they are.
fn computing(
    record: &Record,
    run: &RunPlan,
    (line, r): (&OutcomeLine, &Rehearsal),
    (kinds, one_machine): (&[Vec<usize>], bool),
    slow: &mut BTreeMap<NodeName, f64>,
    findings: &mut Vec<Finding>,
) -> Vec<usize> {
    let (mut told, mut open): (Vec<Told<'_>>, Vec<Told<'_>>) = (Vec::new(), Vec::new());
    for kind in kinds {
        let times =
            |what: Timed| late(&kind.iter().map(|i| r.ranks[*i].of(what)).collect::<Vec<&[f64]>>(), one_machine);
        let (Some(alone), Some(beside)) = (times(Timed::Alone), times(Timed::Beside)) else { continue };
        let of = |l: &Late, what: Timed| Told { late: Late { rank: kind[l.rank], ..*l }, what, kind };
        let known = |l: &&Late| alone.late.iter().all(|a| a.rank != l.rank);
        told.extend(alone.late.iter().map(|l| of(l, Timed::Alone)));
        told.extend(beside.late.iter().filter(known).map(|l| of(l, Timed::Beside)));
        open.extend(alone.open.iter().map(|l| of(l, Timed::Alone)));
    }
    let prices = Prices::new(record, run, told.iter().map(|t| t.late.deficit.share));
    for t in &told {
        let l = &t.late;
        let subject = subject(line, &r.ranks[l.rank]);
        let when = if t.what == Timed::Beside { "only while messages go, " } else { "" };
        let often = l.comes.map_or(String::new(), |(slow, of)| format!(" on average ({slow} of {of} rounds)"));
        let evidence = format!(
            "rank {}: {when}its own products take {}{often} where the others' take {}, {}; {}",
            l.rank,
            Unit::Second.show(l.seconds),
            Unit::Second.show(l.usual),
            lost(&l.deficit),
            prices.of(&l.deficit)
        );
        if let Some(node) = subject.node() {
            let worst = slow.entry(node.clone()).or_default();
            *worst = worst.max(forecast::longer(l.deficit.share));
        }
        let severity = if prices.is_worth_keeping(&l.deficit) { Severity::Warn } else { Severity::Fail };
        let limit = "the fastest group of ranks in the same rounds";
        let finding = Finding::new(Code::REH_001, subject, evidence).severity(severity).limit(limit);
        findings.push(finding.proven(Rule::Ranks, t.proof(line, r)));
    }
    for t in &open {
        let evidence = format!(
            "rank {}: its own products are {} in one half of the rounds, and not in the other",
            t.late.rank,
            lost(&t.late.deficit)
        );
        let severity = if one_machine { Severity::Info } else { Severity::Warn };
        let finding = Finding::new(Code::REH_003, subject(line, &r.ranks[t.late.rank]), evidence).severity(severity);
        findings.push(finding.proven(Rule::Ranks, t.proof(line, r)));
    }
    told.iter().map(|t| t.late.rank).collect()
}

/// A rank that is told of, by which of its times, and the ranks that it is held against, itself among them.
struct Told<'k> {
    late: Late,
    what: Timed,
    kind: &'k [usize],
}

impl Told<'_> {
    fn proof(&self, line: &OutcomeLine, r: &Rehearsal) -> Vec<Proof> {
        let shown: BTreeSet<usize> = self.kind.iter().copied().take(SHOWN).chain([self.late.rank]).collect();
        proof(line, r, shown, self.what, self.late.usual, Some(self.late.rank))
    }
}

/// Ranks that compute by the same hardware, as far as it is known: others' times say nothing of theirs.
fn kinds(record: &Record, line: &OutcomeLine, r: &Rehearsal) -> Vec<Vec<usize>> {
    let machines: BTreeMap<&NodeName, &Machine> = record.machines().collect();
    let mut out: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, rank) in r.ranks.iter().enumerate() {
        let machine = machines.get(rank.node.as_ref().unwrap_or(&line.node));
        let kind = machine.map_or_else(String::new, |m| match rank.gpu {
            Some(gpu) => gpu_model(m, gpu),
            None => m.cpu.model.clone(),
        });
        out.entry(kind).or_default().push(i);
    }
    out.into_values().collect()
}

fn lost(d: &Deficit) -> String {
    let [share, low, high] = [d.share, d.low.max(0.0), d.high].map(|s| three_digits(100.0 * s));
    format!("{share} % slower ({low} to {high} %)")
}

/// The median of each of these ranks, beside what is usual; `speaks` is who it is about.
fn proof(
    line: &OutcomeLine,
    r: &Rehearsal,
    shown: impl IntoIterator<Item = usize>,
    what: Timed,
    usual: f64,
    speaks: Option<usize>,
) -> Vec<Proof> {
    let case = match (&line.case, what) {
        (Case::Rehearsal { ranks, gpus, .. }, Timed::Alone) => {
            Case::Rehearsal { part: StepPart::Compute, ranks: *ranks, gpus: *gpus }
        }
        (other, _) => other.clone(),
    };
    let one = |i: usize| {
        let rank = &r.ranks[i];
        let s = stats::summary(rank.of(what));
        let node = rank.node.as_ref().unwrap_or(&line.node);
        Proof {
            metric: Some(Metric::Step),
            measured: s.map(|s| s.median),
            interval: s.and_then(|s| s.interval),
            n: s.map(|s| s.n),
            expected: Some(usual),
            speaks: speaks.is_none_or(|who| who == i),
            ..Proof::new(node, &line.step, &case)
        }
    };
    shown.into_iter().map(one).collect()
}

/// Computing and messages together, beside what they take one by one.
fn overlap(line: &OutcomeLine, r: &Rehearsal, findings: &mut Vec<Finding>) {
    if !r.training.overlap || !r.own_core || r.training.gradients.is_empty() {
        return;
    }
    let [alone, messages, gradients, whole] =
        [Timed::Alone, Timed::Communication, Timed::Gradients, Timed::Whole].map(|what| slowest(&r.ranks, what));
    let rounds = [&alone, &messages, &gradients, &whole].into_iter().map(Vec::len).min().unwrap_or(0);
    let round = |i: usize| {
        let best = together(r, alone[i], messages[i], gradients[i]);
        let serial = alone[i] + messages[i];
        (best, serial, whole[i])
    };
    let all: Vec<(f64, f64, f64)> = (0..rounds).map(round).collect();
    let middle = |of: &dyn Fn(&(f64, f64, f64)) -> f64| stats::median(&all.iter().map(of).collect::<Vec<f64>>());
    if all.is_empty() {
        return;
    }
    let (best, serial, took) = (middle(&|r| r.0), middle(&|r| r.1), middle(&|r| r.2));
    let shares: Vec<f64> = all.iter().filter(|r| r.1 > r.0).map(|r| (r.2 - r.0) / (r.1 - r.0)).collect();
    let Some(s) = stats::summary(&shares) else { return };
    let low = s.interval.map_or(s.min, |(low, _)| low);
    if serial - best < WORTH * best || took < (1.0 + WORTH) * best || s.median < LOST || low < LOST / 2.0 {
        return;
    }
    let show = |v: f64| Unit::Second.show(v);
    let evidence = format!(
        "computing alone {}, messages alone {}; both together should take {} and take {}: {:.0} % of what could be hidden is not",
        show(stats::median(&alone)),
        show(stats::median(&messages)),
        show(best),
        show(took),
        100.0 * s.median
    );
    let finding = Finding::new(Code::REH_002, Subject::Run, evidence)
        .limit("computing alone and messages alone, in the same rounds");
    findings.push(finding.proven(Rule::Rehearsed, proof(line, r, 0..r.ranks.len(), Timed::Whole, best, None)));
}

/// What every step waits for whoever happens to be late.
fn jitter(line: &OutcomeLine, r: &Rehearsal, guilty: &[usize], findings: &mut Vec<Finding>) {
    let ranks: Vec<RankSteps> =
        r.ranks.iter().enumerate().filter(|(i, _)| !guilty.contains(i)).map(|(_, r)| r.clone()).collect();
    let last = slowest(&ranks, Timed::Alone);
    if last.is_empty() || ranks.len() < 2 {
        return;
    }
    let usual = stats::median(&ranks.iter().map(|r| stats::median(&r.alone)).collect::<Vec<f64>>());
    let cost = stats::median(&last) / usual - 1.0;
    if cost < JITTER || !cost.is_finite() {
        return;
    }
    let evidence = format!(
        "the {} ranks' own products usually take {}, and the last of them takes {} in the middle round: every step is {:.0} % longer for it",
        ranks.len(),
        Unit::Second.show(usual),
        Unit::Second.show(stats::median(&last)),
        100.0 * cost
    );
    let finding = Finding::new(Code::REH_003, Subject::Run, evidence).limit("the ranks' own medians");
    findings.push(finding.proven(Rule::Rehearsed, proof(line, r, 0..r.ranks.len(), Timed::Alone, usual, None)));
}

/// The run's step by the rehearsed one, beside the plan's.
fn step_time(line: &OutcomeLine, r: &Rehearsal, run: &RunPlan, findings: &mut Vec<Finding>) {
    let planned = run.checkpoint.as_ref().and_then(|c| c.step_time).map(|t| t.0.as_secs_f64());
    let (Some(p), Some(planned)) = (projected(r), planned) else { return };
    if p.low <= OVER * planned {
        return;
    }
    let days = forecast::run_days(run).map_or(String::new(), |days| {
        format!("; {} days of the plan become {}", three_digits(days), three_digits(days * p.seconds / planned))
    });
    let evidence = format!(
        "{} of {} layers, rehearsed by {} ranks, make a step of {} ({} to {}); without optimiser, norms and data{days}",
        r.layers,
        r.training.of_layers,
        r.ranks.len(),
        Unit::Second.show(p.seconds),
        Unit::Second.show(p.low),
        Unit::Second.show(p.high)
    );
    let finding = Finding::new(Code::REH_004, Subject::Run, evidence)
        .limit(format!("[checkpoint] step_time = {}", Unit::Second.show(planned)));
    findings.push(finding.proven(Rule::Rehearsed, proof(line, r, 0..r.ranks.len(), Timed::Whole, planned, None)));
}
