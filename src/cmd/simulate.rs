//! `gonogo simulate`: the schedule, the localiser and the judge on a cluster that is not there.

mod fault;
mod grid;
mod setting;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::cli;
use crate::cmd::simulate::setting::Setting;
use crate::cmd::{Failure, judge as judging, measure, shell};
use crate::exit::Exit;
use crate::hostlist;
use crate::id::NodeName;
use crate::judge::codes::Code;
use crate::judge::{self, Decision, Subject};
use crate::localise;
use crate::plan::{self, RunPlan, Selection, Time};
use crate::probe;
use crate::record::{Record, Writer};
use crate::schedule::{Fault, Faulty, SIMULATION, Schedule, Simulated, Watch};

/// What a round of pairs takes on real hardware, for the estimate of time.
const ROUND: Duration = Duration::from_secs(10);

struct Nobody;

impl Watch for Nobody {
    fn steps(&self, _: u64) {}
    fn step(&self, _: &str) {}
    fn done(&self) {}
}

/// What one run found.
struct Found {
    /// Exactly the faulty nodes, leaves and pairs were named.
    right: bool,
    /// Some fault would cost the run more than 5 %, and shows in a fifth of the tests or more.
    harm: bool,
    decision: Decision,
    rounds: u32,
    tests: u64,
    true_nodes: usize,
    called: usize,
    hits: usize,
    /// What the worst of the nodes that were missed leaves of a rate.
    least_missed: Option<f64>,
    seconds: f64,
    /// Of the localiser alone: choosing every round, and the verdict.
    localiser: f64,
    lines: Vec<String>,
    said: String,
}

impl Found {
    fn wrong_go(&self) -> bool {
        self.harm && self.decision == Decision::Go
    }

    /// Nothing wrong is GO; something wrong is not, and nobody innocent is named for it.
    fn decided_right(&self) -> bool {
        if self.harm {
            self.decision != Decision::Go && self.called == self.hits
        } else {
            self.called == self.hits && self.decision == Decision::Go
        }
    }
}

pub(super) fn run(args: &cli::Simulate) -> Result<Exit, Failure> {
    if let Some(path) = &args.grid {
        return grid::run(path);
    }
    let setting = Setting::of(args);
    setting.check().map_err(|(name, why)| Failure::usage(anyhow!("--{name} {why}")))?;
    let mut all = Vec::new();
    for run in 0..args.runs.max(1) {
        all.push(one(&setting, args.record.as_deref(), args.seed.wrapping_add(u64::from(run)))?);
    }
    shell::print(&report(args, &all)).map_err(Failure::internal)?;
    Ok(Exit::Go)
}

/// The faults of a setting, by the seed.
fn faults(s: &Setting, rng: &mut fastrand::Rng) -> Result<Vec<Fault>, String> {
    let mut faults = Vec::new();
    for text in &s.fault {
        faults.push(fault::read(text, s, &faults, rng)?);
    }
    let mut free: Vec<u32> = (0..s.nodes).collect();
    rng.shuffle(&mut free);
    for node in free.into_iter().take(s.bad as usize) {
        let left = s.severity_to.map_or(s.severity, |to| s.severity + (to - s.severity) * rng.f64());
        faults.push(Fault { part: Faulty::Node(node), left, duty: s.duty });
    }
    Ok(faults)
}

fn one(s: &Setting, keep: Option<&Path>, seed: u64) -> Result<Found, Failure> {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let faults = faults(s, &mut rng).map_err(|e| Failure::usage(anyhow!(e)))?;
    let harm = faults.iter().any(|f| f.left < 0.95 && f.duty >= 0.2);
    let mut fleet = Simulated::new(s.shape(), faults, seed);
    let plan = plan_of(s, seed).map_err(Failure::internal)?;
    let nodes: Vec<_> = (0..s.nodes).map(|i| (fleet.name(i).clone(), String::new())).collect();
    let leaves = if s.topology { fleet.leaves() } else { Vec::new() };
    let header = measure::header(plan, &nodes, Some(SIMULATION.to_owned()), leaves);
    let limits = judging::limits(&header.plan.run);
    let started = Instant::now();
    let cannot = |path: &Path| format!("cannot write the record {}", path.display());
    let mut writer = match keep {
        Some(path) => Some(Writer::create(path).with_context(|| cannot(path)).map_err(Failure::usage)?),
        None => None,
    };
    let mut schedule = Schedule::new(header, &mut fleet, writer.as_mut(), &Nobody, started);
    schedule.go(&limits);
    let (record, lost) = schedule.end();
    if let (Some(error), Some(path)) = (lost, keep) {
        return Err(Failure::internal(anyhow!(error).context(cannot(path))));
    }
    let judgement = judge::judge(&record, &record.header.plan.run, &limits);
    let seconds = started.elapsed().as_secs_f64();
    let guilty = fleet.guilty();
    let failed = || judgement.findings.iter().filter(|f| f.severity == judge::Severity::Fail);
    let excluded: BTreeSet<NodeName> = failed().filter_map(|f| f.subject.node().cloned()).collect();
    // A GPU that is not worth its node's absence is called by a warning.
    let gpus = judgement.findings.iter().filter(|f| matches!(f.subject, Subject::Gpu(..)));
    let called: BTreeSet<NodeName> =
        excluded.iter().cloned().chain(gpus.filter_map(|f| f.subject.node().cloned())).collect();
    let pair = |a: &NodeName, b: &NodeName| (a.min(b).clone(), a.max(b).clone());
    let pairs: BTreeSet<(NodeName, NodeName)> =
        failed().filter_map(|f| if let Subject::Link(a, b) = &f.subject { Some(pair(a, b)) } else { None }).collect();
    let leaves: BTreeSet<String> =
        failed().filter_map(|f| if let Subject::Leaf(l) = &f.subject { Some(l.clone()) } else { None }).collect();
    // Inferred leaves have names of their own.
    let right_leaves =
        if s.topology { leaves == fleet.guilty_leaves() } else { leaves.len() == fleet.guilty_leaves().len() };
    let lines = judgement
        .findings
        .iter()
        .filter(|f| f.severity >= judge::Severity::Warn && f.code != Code::COV_006)
        .take(12)
        .map(|f| format!("{}  {}  {}: {}", f.severity.name(), f.code, f.subject, f.evidence))
        .collect();
    let names: Vec<String> = excluded.iter().map(|n| n.0.clone()).collect();
    let without = if names.is_empty() { String::new() } else { format!(" without {}", hostlist::compress(&names)) };
    Ok(Found {
        right: guilty == called && pairs == fleet.guilty_pairs() && right_leaves,
        harm,
        rounds: fleet.rounds,
        tests: fleet.tests,
        true_nodes: guilty.len(),
        hits: guilty.intersection(&called).count(),
        called: called.len(),
        least_missed: guilty.difference(&called).filter_map(|n| fleet.left(n)).reduce(f64::min),
        seconds,
        localiser: localiser(&record, seed),
        lines,
        said: format!("{}{without}", judgement.decision),
        decision: judgement.decision,
    })
}

/// What the localiser alone took, seconds: it chooses every round once more, and makes its verdict.
fn localiser(record: &Record, seed: u64) -> f64 {
    let mut spent = 0.0;
    for plane in localise::planes(record) {
        let mut pairs = localise::network_among(record, &plane, &record.header.nodes).pairs;
        let all = std::mem::take(&mut pairs.tests);
        let rounds = record.steps.iter().filter(|s| localise::Plane::of(s).as_ref() == Some(&plane));
        let mut done = Vec::new();
        for (i, round) in rounds.filter_map(|s| s.pair_round()).enumerate() {
            let started = Instant::now();
            std::hint::black_box(localise::next(&pairs, &|_| true, &done, seed));
            spent += started.elapsed().as_secs_f64();
            done.push(round.kind);
            pairs.tests.extend(all.iter().filter(|t| t.round == i as u32));
        }
        let started = Instant::now();
        std::hint::black_box(localise::next(&pairs, &|_| true, &done, seed));
        std::hint::black_box(pairs.verdict());
        spent += started.elapsed().as_secs_f64();
    }
    spent
}

fn plan_of(s: &Setting, seed: u64) -> Result<plan::CheckPlan, plan::SelectionError> {
    // Collectives on GPUs are not simulated; one node has no network.
    let probes: &[&str] = match (s.gpus > 0, s.nodes, s.alone) {
        (true, 1, _) => &["gemm", "memory", "copy"],
        (true, ..) => &["gemm", "memory", "copy", "tcp"],
        (false, _, true) => &["gemm", "memory", "tcp", "collective"],
        (false, _, false) => &["tcp", "collective"],
    };
    let asked = Selection {
        tier: Some(s.tier),
        budget: Some(Time(Duration::from_secs(86_400))),
        only: probes.iter().map(|p| (*p).to_owned()).collect(),
        skip: Vec::new(),
        path: None,
        seed: Some(seed),
        cluster: true,
        gpus: 0,
    };
    plan::resolve(asked, RunPlan::default(), &probe::names(), seed)
}

fn report(args: &cli::Simulate, all: &[Found]) -> String {
    let runs = all.len();
    let mean = |f: &dyn Fn(&Found) -> f64| all.iter().map(f).sum::<f64>() / runs as f64;
    let (hits, called, truth) = (
        all.iter().map(|f| f.hits).sum::<usize>(),
        all.iter().map(|f| f.called).sum::<usize>(),
        all.iter().map(|f| f.true_nodes).sum::<usize>(),
    );
    let share = |a: usize, b: usize| {
        if b == 0 { "none to find".to_owned() } else { format!("{:.2} %", 100.0 * a as f64 / b as f64) }
    };
    let mut rounds: Vec<u32> = all.iter().map(|f| f.rounds).collect();
    rounds.sort_unstable();
    let most = rounds.last().copied().unwrap_or(0);
    let usual = rounds.get((99 * rounds.len()).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
    let mut lines = vec![
        format!(
            "{} nodes, {} a leaf, {} bad at random, faults {:?}, seed {}",
            args.nodes, args.per_leaf, args.bad, args.fault, args.seed
        ),
        format!(
            "noise {}{}, false-bad {} (quiet {:.3}), miss {}, severity {}",
            args.noise,
            if args.tails { " with heavy tails" } else { "" },
            args.false_bad,
            args.false_bad / 6.0,
            args.miss,
            args.severity
        ),
        format!(
            "rounds {:.1} in the mean, {usual} or fewer in 99 % of the runs, {most} at most; {:.0} pair tests; at {} s a round {} for pairs",
            mean(&|f| f64::from(f.rounds)),
            mean(&|f| f.tests as f64),
            ROUND.as_secs(),
            Time(ROUND * most)
        ),
        format!("schedule, localiser and judge took {:.3} s of computing in the mean", mean(&|f| f.seconds)),
        format!("precision {}, recall {}", share(hits, called), share(hits, truth)),
        format!(
            "exactly the right nodes in {} of {runs} runs: {}",
            all.iter().filter(|f| f.right).count(),
            share(all.iter().filter(|f| f.right).count(), runs)
        ),
    ];
    if let [only] = all {
        lines.push(only.said.clone());
        lines.extend(only.lines.iter().cloned());
    }
    lines.iter().map(|l| format!("simulated  {l}\n")).collect()
}
