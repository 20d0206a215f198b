//! `gonogo simulate`: the schedule, the localiser and the judge on a cluster that is not there.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::campaign::{Campaign, Fault, SIMULATION, Shape, Simulated, Watch};
use crate::cli;
use crate::cmd::{Failure, check, judge as judging, shell};
use crate::exit::Exit;
use crate::hostlist;
use crate::id::NodeName;
use crate::judge;
use crate::judge::codes::Code;
use crate::plan::{self, RunPlan, Selection, Time};
use crate::probe;
use crate::record::Writer;

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
    right: bool,
    rounds: u32,
    tests: u64,
    true_nodes: usize,
    called: usize,
    hits: usize,
    seconds: f64,
    lines: Vec<String>,
    decision: String,
}

pub(super) fn run(args: &cli::Simulate) -> Result<Exit, Failure> {
    let fewest = if args.gpus > 0 { 1 } else { 2 };
    if !(fewest..=100_000).contains(&args.nodes) {
        return Err(Failure::usage(anyhow!("--nodes {}: {fewest} to 100000", args.nodes)));
    }
    if args.gpus > 64 {
        return Err(Failure::usage(anyhow!("--gpus {}: 0 to 64", args.gpus)));
    }
    for (name, value) in [
        ("noise", args.noise),
        ("false-bad", args.false_bad),
        ("miss", args.miss),
        ("severity", args.severity),
        ("silicon", args.silicon),
    ] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Failure::usage(anyhow!("--{name} {value}: a share from 0 to 1")));
        }
    }
    if args.uplinks.is_nan() || args.uplinks <= 0.0 {
        return Err(Failure::usage(anyhow!("--uplinks {}: above 0", args.uplinks)));
    }
    let mut all = Vec::new();
    for run in 0..args.runs.max(1) {
        all.push(one(args, args.seed.wrapping_add(u64::from(run)))?);
    }
    shell::print(&report(args, &all)).map_err(Failure::internal)?;
    Ok(Exit::Go)
}

fn one(args: &cli::Simulate, seed: u64) -> Result<Found, Failure> {
    let shape = Shape {
        nodes: args.nodes,
        per_leaf: args.per_leaf,
        noise: args.noise,
        false_bad: args.false_bad,
        miss: args.miss,
        severity: args.severity,
        uplinks: args.uplinks,
        gpus: args.gpus,
        silicon: args.silicon,
    };
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let mut faults = Vec::new();
    for text in &args.fault {
        faults.push(parse_fault(text, args.nodes, args.gpus, &mut rng).map_err(|e| Failure::usage(anyhow!(e)))?);
    }
    let mut free: Vec<u32> = (0..args.nodes).collect();
    rng.shuffle(&mut free);
    faults.extend(free.into_iter().take(args.bad as usize).map(Fault::Node));
    let mut fleet = Simulated::new(shape, faults, seed);
    let plan = plan_of(args, seed).map_err(Failure::internal)?;
    let nodes: Vec<_> = (0..args.nodes).map(|i| (fleet.name(i).clone(), String::new())).collect();
    let header = check::header(
        plan,
        &nodes,
        Some(SIMULATION.to_owned()),
        if args.no_topology { Vec::new() } else { fleet.leaves() },
    );
    let limits = judging::limits(&header.plan.run);
    let started = Instant::now();
    let cannot = |path: &Path| format!("cannot write the record {}", path.display());
    let mut writer = match &args.record {
        Some(path) => Some(Writer::create(path).with_context(|| cannot(path)).map_err(Failure::usage)?),
        None => None,
    };
    let mut campaign = Campaign::new(header, &mut fleet, writer.as_mut(), &Nobody, started);
    campaign.go(&limits);
    let (record, lost) = campaign.end();
    if let (Some(error), Some(path)) = (lost, &args.record) {
        return Err(Failure::internal(anyhow!(error).context(cannot(path))));
    }
    let judgement = judge::judge(&record, &record.header.plan.run, &limits);
    let seconds = started.elapsed().as_secs_f64();
    let guilty = fleet.guilty();
    let named = |counts: &dyn Fn(&judge::Finding) -> bool| -> BTreeSet<NodeName> {
        judgement.findings.iter().filter(|f| counts(f)).filter_map(|f| f.subject.node().cloned()).collect()
    };
    let failed = named(&|f| f.severity == judge::Severity::Fail);
    // A GPU that is not worth its node's absence is called by a warning.
    let called = named(&|f| f.severity == judge::Severity::Fail || matches!(f.subject, judge::Subject::Gpu(..)));
    let lines = judgement
        .findings
        .iter()
        .filter(|f| f.severity >= judge::Severity::Warn && f.code != Code::COV_006)
        .take(12)
        .map(|f| format!("{}  {}  {}: {}", f.severity.name(), f.code, f.subject, f.evidence))
        .collect();
    Ok(Found {
        right: guilty == called,
        rounds: fleet.rounds,
        tests: fleet.tests,
        true_nodes: guilty.len(),
        hits: guilty.intersection(&called).count(),
        called: called.len(),
        seconds,
        lines,
        decision: format!(
            "{}{}",
            judgement.decision,
            if failed.is_empty() {
                String::new()
            } else {
                let names: Vec<String> = failed.iter().map(|n| n.0.clone()).collect();
                format!(" without {}", hostlist::compress(&names))
            }
        ),
    })
}

fn plan_of(args: &cli::Simulate, seed: u64) -> Result<plan::CheckPlan, plan::SelectionError> {
    // Collectives on GPUs are not simulated; one node has no network.
    let probes: &[&str] = match (args.gpus > 0, args.nodes, args.alone) {
        (true, 1, _) => &["gemm", "memory", "copy"],
        (true, ..) => &["gemm", "memory", "copy", "tcp"],
        (false, _, true) => &["gemm", "memory", "tcp", "collective"],
        (false, _, false) => &["tcp", "collective"],
    };
    let asked = Selection {
        tier: Some(args.tier.into()),
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

/// `node:7`, `sends:7`, `receives:7`, `flapping:7`, `leaf:2`, `pair:3-9`, `scale:7@64`, `gpu:7:3`, `slot:3`; `?` picks one by the
/// seed.
fn parse_fault(text: &str, nodes: u32, gpus: u32, rng: &mut fastrand::Rng) -> Result<Fault, String> {
    let bad = || {
        format!(
            "`{}` is not a fault; they look like node:7, sends:7, receives:7, cpu:7, flapping:7, leaf:2, pair:3-9, scale:7@64, gpu:7:3 or slot:3 (with --gpus), and node:? picks one",
            crate::id::clean(text)
        )
    };
    let (kind, who) = text.split_once(':').ok_or_else(bad)?;
    let mut number = |t: &str, most: u32| match t {
        "?" if most > 0 => Ok(rng.u32(0..most)),
        t => t.parse::<u32>().ok().filter(|n| *n < most).ok_or_else(bad),
    };
    Ok(match kind {
        "node" => Fault::Node(number(who, nodes)?),
        "sends" => Fault::Sends(number(who, nodes)?),
        "receives" => Fault::Receives(number(who, nodes)?),
        "cpu" => Fault::Computes(number(who, nodes)?),
        "flapping" => Fault::Flapping(number(who, nodes)?),
        "leaf" => Fault::Leaf(number(who, nodes)?),
        "pair" => {
            let (a, b) = who.split_once('-').ok_or_else(bad)?;
            Fault::Pair(number(a, nodes)?, number(b, nodes)?)
        }
        "scale" => {
            let (n, from) = who.split_once('@').ok_or_else(bad)?;
            Fault::Scale(number(n, nodes)?, from.parse().map_err(|_| bad())?)
        }
        "gpu" => {
            let (node, slot) = who.split_once(':').ok_or_else(bad)?;
            Fault::Gpu(number(node, nodes)?, number(slot, gpus)?)
        }
        "slot" => Fault::Slot(number(who, gpus)?),
        _ => return Err(bad()),
    })
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
    let rounds = all.iter().map(|f| f.rounds).max().unwrap_or(0);
    let mut lines = vec![
        format!(
            "{} nodes, {} a leaf, {} bad at random, faults {:?}, seed {}",
            args.nodes, args.per_leaf, args.bad, args.fault, args.seed
        ),
        format!(
            "noise {}, false-bad {} (quiet {:.3}), miss {}, severity {}",
            args.noise,
            args.false_bad,
            args.false_bad / 6.0,
            args.miss,
            args.severity
        ),
        format!(
            "rounds {:.1} in the mean, {rounds} at most; {:.0} pair tests; at {} s a round {} for pairs",
            mean(&|f| f64::from(f.rounds)),
            mean(&|f| f.tests as f64),
            ROUND.as_secs(),
            Time(ROUND * rounds)
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
        lines.push(only.decision.clone());
        lines.extend(only.lines.iter().cloned());
    }
    lines.iter().map(|l| format!("simulated  {l}\n")).collect()
}
