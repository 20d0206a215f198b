//! Records made by hand, for tests of what is made of them.

use gonogo::cluster::{PairRound, Shape, Step};
use gonogo::id::{NodeName, ProbeName};
use gonogo::measure::{Check, Facts, Load, Measured, Outcome, Series};
use gonogo::plan::{self, CheckPlan, RunPlan};
use gonogo::record::{End, Header, OutcomeLine, Record, SCHEMA};
use gonogo::topology::{Filesystem, Leaf, Machine, Mount};
use gonogo::unit::Bytes;
use gonogo::work::{Case, CheckName, RoundKind};
use gonogo::{baseline, judge, probe};
use jiff::Timestamp;

/// 2026-11-24 12:00:00 UTC.
pub fn noon() -> Timestamp {
    Timestamp::from_second(1_795_521_600).unwrap_or_default()
}

pub fn run_plan(text: &str) -> RunPlan {
    plan::parse(std::path::Path::new("run.toml"), text).unwrap_or_else(|e| panic!("{e}"))
}

pub fn check_plan(run: RunPlan) -> CheckPlan {
    plan::resolve(Default::default(), run, &probe::names(), 7).unwrap_or_else(|e| panic!("{e}"))
}

/// A record of one node `n1` that ended well, with nothing in it.
pub fn empty(run: RunPlan) -> Record {
    let header = Header {
        schema: SCHEMA,
        version: "0.0.0".into(),
        commit: "test".into(),
        started: noon(),
        joining_ms: None,
        nodes: vec![NodeName("n1".into())],
        kernel_names: Default::default(),
        job: None,
        launcher: None,
        leaves: Vec::new(),
        plan: check_plan(run),
        clock_resolution_ns: 30.0,
    };
    let mut record = Record::new(header);
    // `add` chooses the probes that it adds.
    record.header.plan.probes.clear();
    record.end = Some(End { ended: noon(), interrupted: false, spent: Vec::new() });
    record
}

/// Adds a planned case with its outcome, each in a step of its own.
pub fn add(record: &mut Record, probe: &'static str, case: &str, outcome: Outcome) -> usize {
    add_loaded(record, probe, case, outcome, None)
}

pub fn add_loaded(record: &mut Record, probe: &'static str, case: &str, outcome: Outcome, load: Option<Load>) -> usize {
    let name = format!("{probe}-{}", record.steps.len());
    record
        .steps
        .push(Step { estimate_ms: 1000, ..Step::new(name.clone(), ProbeName::new(probe), vec![Case::read(case)]) });
    if !record.header.plan.probes.contains(&ProbeName::new(probe)) {
        record.header.plan.probes.push(ProbeName::new(probe));
    }
    let node = record.header.nodes[0].clone();
    record.outcomes.push(OutcomeLine {
        node: node.into(),
        step: name.into(),
        probe: ProbeName::new(probe),
        case: Case::read(case),
        attempt: 1,
        blame: None,
        load: load.map(Box::new),
        outcome,
    });
    record.outcomes.len() - 1
}

/// Samples close to `value` of a probe's metric.
pub fn series(probe: &str, metric: &str, value: f64) -> Series {
    let found = probe::find(probe).and_then(|p| p.metrics().iter().map(|m| m.metric).find(|m| m.name() == metric));
    let metric = found.unwrap_or_else(|| panic!("{probe} has no metric {metric}"));
    metric.series((0..12).map(|i| value * (1.0 + 0.001 * f64::from(i % 5 - 2))).collect(), 10)
}

pub fn measured(series: Series) -> Outcome {
    Outcome::Measured(Measured { series: vec![series], ..Measured::default() })
}

pub fn check_named(name: &str, ok: bool) -> Check {
    Check::new(CheckName::named(name).unwrap_or_else(|| panic!("no check {name}")), ok, "as the test has it")
}

pub fn checked(series: Series, check: &str, ok: bool) -> Outcome {
    Outcome::Measured(Measured {
        series: vec![series],
        checks: vec![check_named(check, ok)].into(),
        ..Measured::default()
    })
}

/// A good GEMM on any machine: 90 % of nominal.
pub fn good_gemm() -> Outcome {
    checked(
        series("gemm", "flops", 90e9).nominally(100e9, "the test's CPU").bounded(400e9, "the test's CPU"),
        "repeat",
        true,
    )
}

pub fn machine(m: Machine) -> Outcome {
    Outcome::facts(Facts::Machine(Box::new(m)))
}

/// A server of which nothing is wrong.
pub fn good_machine() -> Machine {
    let mut m = Machine { hostname: "n1".into(), ..Machine::default() };
    m.cpu.threads = 64;
    m.cpu.cores = 64;
    m.limits.known = true;
    m.limits.nofile = Some(1 << 20);
    m
}

pub fn filesystem(fstype: &str, available: u64) -> Outcome {
    let mount = Mount { point: "/ckpt".into(), fstype: fstype.into(), source: "srv:/x".into(), options: "rw".into() };
    let fs = Filesystem {
        path: "/ckpt".into(),
        mount,
        total: Bytes(available * 2),
        available: Bytes(available),
        inodes_total: 1_000_000,
        inodes_free: 900_000,
        ..Filesystem::default()
    };
    Outcome::facts(Facts::Filesystem(Box::new(fs)))
}

/// A record that is a GO.
pub fn healthy(run: RunPlan) -> Record {
    let mut record = empty(run);
    add(&mut record, "environment", "machine", machine(good_machine()));
    add(&mut record, "gemm", "f32 1 core", good_gemm());
    add(&mut record, "storage", "capacity", filesystem("ext4", 1 << 50));
    record
}

/// Decision and `CODE severity` of every finding that weighs, as the record's own plan judges it.
pub fn verdict(record: &Record) -> (String, Vec<String>) {
    let run = record.header.plan.run.clone();
    let mut limits = baseline::required(&run);
    limits.extend(baseline::builtin());
    let j = judge::judge(record, &run, &limits);
    let findings =
        j.findings.iter().filter(|f| f.weighs()).map(|f| format!("{} {}", f.code, f.severity.name())).collect();
    (j.decision.to_string(), findings)
}

/// Adds a planned case of one node of several, with its outcome. Cases of one name share a step.
pub fn add_on(record: &mut Record, node: &str, probe: &'static str, case: &str, outcome: Outcome) -> usize {
    let step = format!("{probe}-{case}");
    let node = NodeName(node.into());
    match record.steps.iter_mut().find(|s| s.name == step) {
        Some(s) if s.groups().any(|g| g[0] == node) => {}
        Some(s) => {
            let more = s.groups().map(<[NodeName]>::to_vec).chain([vec![node.clone()]]).collect();
            s.shape = Shape::groups(more);
        }
        None => add_groups(record, &step, probe, &[case], serde_json::Value::Null, &[vec![node.clone()]]),
    }
    add_line(record, &node, &step, probe, case, outcome)
}

pub fn add_groups(
    record: &mut Record,
    step: &str,
    probe: &'static str,
    cases: &[&str],
    args: serde_json::Value,
    groups: &[Vec<NodeName>],
) {
    record.steps.push(Step {
        shape: Shape::groups(groups.to_vec()),
        exclusive: true,
        args,
        estimate_ms: 1000,
        ..Step::new(step, ProbeName::new(probe), cases.iter().map(|c| Case::read(c)).collect())
    });
}

pub fn add_line(
    record: &mut Record,
    node: &NodeName,
    step: &str,
    probe: &'static str,
    case: &str,
    outcome: Outcome,
) -> usize {
    record.outcomes.push(OutcomeLine {
        node: node.clone().into(),
        step: step.into(),
        probe: ProbeName::new(probe),
        case: Case::read(case),
        attempt: 1,
        blame: None,
        load: None,
        outcome,
    });
    record.outcomes.len() - 1
}

/// A record of `nodes` nodes `n0`, `n1`, ... in `leaves` leaves of four, with no measurement yet.
pub fn network(nodes: u32, leaves: u32) -> Record {
    let mut record = empty(RunPlan::default());
    record.header.launcher = Some("Slurm".into());
    record.header.nodes = (0..nodes).map(|i| NodeName(format!("n{i}"))).collect();
    if leaves > 1 {
        let leaf = |(i, nodes): (usize, &[NodeName])| Leaf { name: format!("leaf{i}"), nodes: nodes.to_vec() };
        record.header.leaves = record.header.nodes.chunks(4).enumerate().map(leaf).collect();
    }
    record
}

pub fn add_pairs(
    record: &mut Record,
    step: &str,
    probe: &'static str,
    cases: &[&str],
    round: PairRound,
    pairs: &[[NodeName; 2]],
) {
    add_groups(record, step, probe, cases, serde_json::Value::Null, &[]);
    if let Some(step) = record.steps.last_mut() {
        step.shape = Shape::Pairs(round, pairs.to_vec());
    }
}

/// Nodes two by two, and a first round of pairs among all of them.
pub fn pairs_of(nodes: &[NodeName]) -> (PairRound, Vec<[NodeName; 2]>) {
    let pair = |p: &[NodeName]| [p[0].clone(), p[1].clone()];
    let round = PairRound { kind: RoundKind::Inter, controls: Vec::new(), late: false };
    (round, nodes.chunks_exact(2).map(pair).collect())
}

/// A round of pairs, each direction at `rate(from, to)`; a rate of 0 is no connection.
pub fn add_round(record: &mut Record, round: usize, kind: &str, pairs: &[(u32, u32)], rate: &dyn Fn(u32, u32) -> f64) {
    let name = |i: u32| NodeName(format!("n{i}"));
    let step = format!("tcp-pairs-{round}");
    // In a quiet round all but the first are there for reference.
    let controls: Vec<NodeName> =
        if kind == "confirm" { pairs.iter().skip(1).map(|(a, _)| name(*a)).collect() } else { vec![] };
    let kind = RoundKind::named(kind).unwrap_or_else(|| panic!("no round {kind}"));
    let named: Vec<[NodeName; 2]> = pairs.iter().map(|(a, b)| [name(*a), name(*b)]).collect();
    add_pairs(record, &step, "tcp", &["pair out", "pair back"], PairRound { kind, controls, late: false }, &named);
    for (a, b) in pairs {
        for (case, from, to) in [("pair out", *a, *b), ("pair back", *b, *a)] {
            let outcome = match rate(from, to) {
                0.0 => Outcome::error(gonogo::measure::FailKind::Error, "no connection"),
                v => measured(series("tcp", "bandwidth", v)),
            };
            add_line(record, &name(*a), &step, "tcp", case, outcome);
        }
    }
}

/// 1024 nodes with eight GPUs each, over leaves of 32, with pairs on eight rails.
pub fn large() -> Record {
    let mut record = network(1024, 1);
    let nodes = record.header.nodes.clone();
    record.header.launcher = Some("Slurm".into());
    record.header.leaves =
        nodes.chunks(32).enumerate().map(|(i, n)| Leaf { name: format!("leaf{i:02}"), nodes: n.to_vec() }).collect();
    let tests = ["bf16 8192 burst", "bf16 8192 sustained", "fp8 8192 burst"];
    let cases: Vec<String> = tests.iter().flat_map(|t| (0..8).map(move |g| format!("{t} gpu{g}"))).collect();
    let names: Vec<&str> = cases.iter().map(String::as_str).collect();
    let alone: Vec<Vec<NodeName>> = nodes.iter().map(|n| vec![n.clone()]).collect();
    add_groups(&mut record, "gemm-gpu", "gemm", &names, serde_json::Value::Null, &alone);
    for (i, node) in nodes.iter().enumerate() {
        for case in &cases {
            let slow = if i == 700 && case.ends_with("gpu3") { 0.7 } else { 1.0 };
            let value = 800e12 * slow * (1.0 + 0.001 * (i % 7) as f64);
            let s = series("gemm", "flops", value).nominally(989e12, "H100 SXM");
            add_line(&mut record, node, "gemm-gpu", "gemm", case, measured(s));
        }
    }
    for rail in 0..8 {
        let device = format!("mlx5_{rail}");

        let step = format!("rdma-pairs-{device}-1");
        let (round, pairs) = pairs_of(&nodes);
        let cases = [format!("pair out {device}"), format!("pair back {device}")];
        add_pairs(&mut record, &step, "rdma", &[&cases[0], &cases[1]], round, &pairs);
        if let Some(s) = record.steps.last_mut() {
            s.rail = Some(device.clone());
        }
        for pair in &pairs {
            for case in &cases {
                let rate = if pair[0] == nodes[100] && rail == 3 { 20e9 } else { 48e9 };
                add_line(&mut record, &pair[0], &step, "rdma", case, measured(series("rdma", "bandwidth", rate)));
            }
        }
    }
    record
}
