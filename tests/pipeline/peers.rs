//! GPUs as peers of GPUs: on one node, over nodes, in one slot.

use crate::common::*;
use gonogo::cluster::Step;
use gonogo::id::{NodeName, ProbeName};
use gonogo::judge::{self, Judgement, Severity, judge};
use gonogo::measure::{Measured, Outcome};
use gonogo::plan::RunPlan;
use gonogo::record::Record;
use gonogo::topology::{Gpu, Machine, NvLink, Nvidia, PciGpu, Pcie, PcieState};
use gonogo::work::Case;
use gonogo::{baseline, probe};

const SUSTAINED: &str = "bf16 8192 sustained";

fn gauss(rng: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
}

/// What is measured of every GPU: tests of probes, as parts of what a healthy one does.
struct Fleet<'a> {
    nodes: u32,
    slots: u32,
    tests: &'a [(&'static str, &'static str)],
    attempts: u32,
    /// Standard deviation of single samples.
    noise: f64,
    /// By node, slot and test.
    part: &'a dyn Fn(u32, u32, &str) -> f64,
    machine: &'a dyn Fn(u32) -> Option<Machine>,
}

impl Fleet<'_> {
    fn record(&self, seed: u64) -> Record {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut record = if self.nodes == 1 { empty(RunPlan::default()) } else { network(self.nodes, 1) };
        let nodes = record.header.nodes.clone();
        let alone: Vec<Vec<NodeName>> =
            if self.nodes == 1 { Vec::new() } else { nodes.iter().map(|n| vec![n.clone()]).collect() };
        for probe in ["gemm", "memory", "copy"] {
            let tests: Vec<&str> = self.tests.iter().filter(|(p, _)| *p == probe).map(|(_, t)| *t).collect();
            if tests.is_empty() {
                continue;
            }
            record.header.plan.probes.push(ProbeName::new(probe));
            let cases: Vec<String> =
                tests.iter().flat_map(|t| (0..self.slots).map(move |g| format!("{t} gpu{g}"))).collect();
            let names: Vec<&str> = cases.iter().map(String::as_str).collect();
            let step = format!("{probe}-gpu");
            add_groups(&mut record, &step, probe, &names, serde_json::Value::Null, &alone);
            for attempt in 1..=self.attempts {
                for (n, node) in nodes.iter().enumerate() {
                    for (test, slot) in tests.iter().flat_map(|t| (0..self.slots).map(move |g| (*t, g))) {
                        let part = (self.part)(n as u32, slot, test);
                        let samples = (0..12).map(|_| 1e12 * part * (1.0 + self.noise * gauss(&mut rng))).collect();
                        let metric = probe::find(probe)
                            .and_then(|p| p.metrics().first())
                            .unwrap_or_else(|| panic!("{probe} has no metric"));
                        let outcome = measured(metric.metric.series(samples, 1));
                        let line = add_line(&mut record, node, &step, probe, &format!("{test} gpu{slot}"), outcome);
                        record.outcomes[line].attempt = attempt;
                    }
                }
            }
        }
        record.header.plan.probes.push(ProbeName::new("environment"));
        add_groups(&mut record, "environment", "environment", &["machine"], serde_json::Value::Null, &alone);
        for (n, node) in nodes.iter().enumerate() {
            let m = (self.machine)(n as u32).unwrap_or_else(good_machine);
            add_line(&mut record, node, "environment", "environment", "machine", machine(m));
        }
        record
    }
}

fn fleet<'a>(nodes: u32, part: &'a dyn Fn(u32, u32, &str) -> f64) -> Fleet<'a> {
    Fleet { nodes, slots: 8, tests: &[("gemm", SUSTAINED)], attempts: 2, noise: 0.01, part, machine: &|_| None }
}

/// Sustained products of eight GPUs a node, measured twice.
pub fn slow(nodes: u32, part: &dyn Fn(u32, u32) -> f64) -> Record {
    fleet(nodes, &|n, g, _| part(n, g)).record(1)
}

/// `SEVERITY CODE subject` of what is told of peers, and the decision.
fn told(record: &Record) -> (String, Vec<String>) {
    let limits = baseline::builtin();
    let j: Judgement<'_> = judge(record, &record.header.plan.run, &limits);
    let of_peers = |code: &str| code.starts_with("PER-") || code.starts_with("VAL-");
    let found = j.findings.iter().filter(|f| of_peers(f.code.as_str()));
    (j.decision.to_string(), found.map(|f| format!("{} {} {}", f.severity.name(), f.code, f.subject)).collect())
}

/// A quarter of the peers' rate lies at the floor itself, once on this side of it and once on that.
#[test]
fn a_node_at_its_floor_is_slow_beside_its_peers_all_the_same() {
    let told = |attempts: [f64; 2]| {
        let mut r = network(8, 1);
        let nodes = r.header.nodes.clone();
        let alone: Vec<Vec<NodeName>> = nodes.iter().map(|n| vec![n.clone()]).collect();
        add_groups(&mut r, "gemm", "gemm", &["f32 1 core"], serde_json::Value::Null, &alone);
        for (n, node) in nodes.iter().enumerate() {
            let rates = if n == 5 { &attempts[..] } else { &[82e9] };
            for (attempt, rate) in (1..).zip(rates) {
                let series = series("gemm", "flops", *rate).nominally(83.1e9, "the test's CPU");
                let line = add_line(&mut r, node, "gemm", "gemm", "f32 1 core", measured(series));
                r.outcomes[line].attempt = attempt;
            }
        }
        told(&r).1
    };
    assert_eq!(told([19.1e9, 21.4e9]), ["fail PER-001 node n5"]);
    // Well beside its peers in one attempt: open.
    assert_eq!(told([19.1e9, 81.0e9]), ["hold VAL-006 node n5"]);
}

#[test]
fn a_case_of_a_gpu_says_its_test_and_number() {
    let of = |words: &str| {
        let case = Case::read(words);
        case.gpu().map(|gpu| (case.test().to_string(), gpu))
    };
    assert_eq!(of("bf16 8192 burst gpu3"), Some(("bf16 8192 burst".to_owned(), 3)));
    assert_eq!(of("all-reduce nccl rail n=4 1 GiB gpu11"), Some(("all-reduce nccl rail n=4 1 GiB".to_owned(), 11)));
    for other in
        ["f32 1 core", "loopback gpu write 64 KiB mlx5_0", "pair gpu out", "x gpu", "peer gpu+3", "peer gpu99999999999"]
    {
        assert_eq!(of(other), None, "{other}");
    }
}

/// One of eight that is a sixth slower: on one node, and on three.
#[test]
fn a_broken_gpu_is_no_go_on_one_node_and_on_three() {
    let one = slow(1, &|_, g| if g == 3 { 0.84 } else { 1.0 });
    assert_eq!(told(&one), ("NO-GO".into(), vec!["fail PER-002 GPU 3 of node n1".into()]));
    let three = slow(3, &|n, g| if (n, g) == (1, 3) { 0.84 } else { 1.0 });
    assert_eq!(told(&three), ("NO-GO".into(), vec!["fail PER-002 GPU 3 of node n1".into()]));
    // With a spare, its node stays out.
    let mut spare = three;
    spare.header.plan.run = run_plan("[nodes]\nneeded = 2\n");
    assert_eq!(told(&spare).0, "GO-WITHOUT");
}

/// Among eight on one node, and among 64 where it costs less than its node.
#[test]
fn six_percent_is_named_among_eight_and_among_64() {
    for seed in 0..50 {
        let one = fleet(1, &|_, g, _| if g == 6 { 0.94 } else { 1.0 }).record(seed);
        assert_eq!(told(&one).1, ["fail PER-002 GPU 6 of node n1"], "seed {seed}");
    }
    for seed in 0..20 {
        let many = fleet(8, &|n, g, _| if (n, g) == (5, 6) { 0.94 } else { 1.0 }).record(seed);
        assert_eq!(told(&many), ("GO".into(), vec!["warn PER-002 GPU 6 of node n5".into()]), "seed {seed}");
    }
}

/// Slow once is open, and measured again; well the second time, it was chance.
#[test]
fn what_was_slow_once_is_measured_again() {
    let part = |_: u32, g: u32, _: &str| if g == 2 { 0.84 } else { 1.0 };
    let once = Fleet { attempts: 1, ..fleet(1, &part) }.record(3);
    assert_eq!(told(&once), ("HOLD".into(), vec!["hold VAL-003 node n1".into()]));
    let limits = baseline::builtin();
    let open = judge(&once, &RunPlan::default(), &limits).open_cases();
    assert!(open.len() == 1 && open[0].case == Case::read(&format!("{SUSTAINED} gpu2")), "{open:?}");
    let mut again = once.clone();
    let well = measured(series("gemm", "flops", 1e12));
    let node = again.header.nodes[0].clone();
    let line = add_line(&mut again, &node, "gemm-gpu", "gemm", &format!("{SUSTAINED} gpu2"), well);
    again.outcomes[line].attempt = 2;
    assert_eq!(told(&again), ("GO".into(), vec![]));
}

#[test]
fn two_of_eight_and_half_of_eight_are_all_named() {
    let two = slow(1, &|_, g| if g == 1 || g == 4 { 0.90 } else { 1.0 });
    assert_eq!(told(&two).1, ["fail PER-002 GPU 1 of node n1", "fail PER-002 GPU 4 of node n1"]);
    let half = slow(1, &|_, g| if g < 4 { 0.84 } else { 1.0 });
    let all: Vec<String> = (0..4).map(|g| format!("fail PER-002 GPU {g} of node n1")).collect();
    assert_eq!(told(&half).1, all);
}

/// The same GPU of every node is the slot's affair, and told once.
#[test]
fn a_slot_that_is_slow_everywhere_is_named_as_a_slot() {
    for nodes in [2, 4, 8] {
        let found = told(&slow(nodes, &|_, g| if g == 3 { 0.84 } else { 1.0 }));
        assert_eq!(found, ("NO-GO".into(), vec!["fail PER-003 this run".into()]), "{nodes} nodes");
    }
    // Each by itself is within what chance may do; together they are not.
    let found = told(&slow(16, &|_, g| if g == 3 { 0.945 } else { 1.0 }));
    assert_eq!(found, ("GO".into(), vec!["warn PER-003 this run".into()]));
    // One node's GPU in that slot is worse still: it is told with the slot.
    let found = told(&slow(8, &|n, g| {
        if g != 3 {
            1.0
        } else if n == 2 {
            0.7
        } else {
            0.84
        }
    }));
    assert_eq!(found.1, ["fail PER-003 this run"]);
}

#[test]
fn a_node_whose_gpus_are_all_slow_is_named_as_a_node() {
    let found = told(&slow(8, &|n, _| if n == 2 { 0.8 } else { 1.0 }));
    assert_eq!(found, ("NO-GO".into(), vec!["fail PER-001 node n2".into()]));
}

/// One thousand healthy nodes, each by itself: GPUs that lie within 1 to 3 % of each other, samples that vary by 0.5 to 1 %.
#[test]
fn no_gpu_of_a_thousand_healthy_nodes_is_named() {
    const TESTS: &[(&str, &str)] = &[
        ("gemm", "bf16 8192 burst"),
        ("gemm", "fp8 8192 burst"),
        ("gemm", SUSTAINED),
        ("memory", "device copy"),
        ("memory", "device triad"),
        ("copy", "h2d"),
    ];
    for seed in 0..1000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let spread = 0.01 + 0.02 * rng.f64();
        // Eight normal values range over 2.85 standard deviations.
        let silicon: Vec<f64> = (0..8).map(|_| 1.0 + spread / 2.85 * gauss(&mut rng)).collect();
        let part = |_: u32, g: u32, _: &str| silicon[g as usize];
        let noise = 0.005 + 0.005 * rng.f64();
        let record = Fleet { tests: TESTS, attempts: 1, noise, ..fleet(1, &part) }.record(seed);
        assert_eq!(told(&record), ("GO".into(), vec![]), "seed {seed}, spread {spread}");
    }
}

#[test]
fn no_gpu_of_healthy_clusters_is_named() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let silicon: Vec<f64> = (0..512).map(|_| 1.0 + 0.01 * gauss(&mut rng)).collect();
        let part = |n: u32, g: u32, _: &str| silicon[(8 * n + g) as usize];
        let record = Fleet { attempts: 1, ..fleet(64, &part) }.record(seed);
        assert_eq!(told(&record), ("GO".into(), vec![]), "seed {seed}");
    }
}

/// A node with GPUs of these models, each pair of them behind one bridge, all by one link.
fn with_gpus(models: &[&str], lanes: impl Fn(u32) -> u32) -> Machine {
    let pci = |i: usize| format!("0000:{:02x}:00.0", 16 + i);
    let link = NvLink { active: true, ..NvLink::default() };
    let gpu = |(i, name): (usize, &&str)| Gpu {
        index: i as u32,
        name: (*name).to_owned(),
        pci: pci(i),
        pcie: PcieState { generation_max: Some(5), lanes_max: Some(lanes(i as u32)), ..PcieState::default() },
        nvlinks: vec![link.clone(); 18],
        ..Gpu::default()
    };
    let bus = |(i, _): (usize, &&str)| PciGpu {
        pci: pci(i),
        vendor: "0x10de".into(),
        pcie: Some(Pcie { bridges: vec![format!("0000:{:02x}:01.0", i / 2)], ..Pcie::default() }),
        ..PciGpu::default()
    };
    let nvidia = Nvidia { gpus: models.iter().enumerate().map(gpu).collect(), ..Nvidia::default() };
    Machine { nvidia: Some(nvidia), gpus: models.iter().enumerate().map(bus).collect(), ..good_machine() }
}

#[test]
fn other_models_are_no_peers() {
    let models = [
        "NVIDIA H100",
        "NVIDIA H100",
        "NVIDIA H100",
        "NVIDIA H100",
        "NVIDIA L4",
        "NVIDIA L4",
        "NVIDIA L4",
        "NVIDIA L4",
    ];
    let part = |_: u32, g: u32, _: &str| if g < 4 { 1.0 } else { 0.2 };
    let machine = |_| Some(with_gpus(&models, |_| 16));
    assert_eq!(told(&Fleet { machine: &machine, ..fleet(1, &part) }.record(1)).1, [""; 0]);
    let part = |_: u32, g: u32, _: &str| {
        if g == 5 {
            0.17
        } else if g < 4 {
            1.0
        } else {
            0.2
        }
    };
    let found = told(&Fleet { machine: &machine, ..fleet(1, &part) }.record(1)).1;
    assert_eq!(found, ["fail PER-002 GPU 5 of node n1"]);
}

/// Slots of some boards have other links by design: those are compared with the same slot elsewhere.
#[test]
fn copies_are_compared_where_the_links_are_the_same() {
    const COPIES: &[(&str, &str)] = &[("copy", "h2d"), ("copy", "peer")];
    let half = |_: u32, g: u32, _: &str| if g == 3 { 0.5 } else { 1.0 };
    let of = |nodes, part: &dyn Fn(u32, u32, &str) -> f64, machine: &dyn Fn(u32) -> Option<Machine>| {
        told(&Fleet { tests: COPIES, machine, ..fleet(nodes, part) }.record(1)).1
    };
    let (alike, by_design) = (
        |_| Some(with_gpus(&["NVIDIA H100"; 8], |_| 16)),
        |_| Some(with_gpus(&["NVIDIA H100"; 8], |g| if g == 3 { 8 } else { 16 })),
    );
    assert_eq!(of(1, &half, &alike), ["fail PER-002 GPU 3 of node n1"]);
    assert_eq!(of(1, &half, &by_design), [""; 0]);
    // Nothing is known of the links: on one node nothing is said.
    assert_eq!(of(1, &half, &|_| None), [""; 0]);
    assert_eq!(of(4, &half, &by_design), [""; 0]);
    let one = |n: u32, g: u32, _: &str| {
        if (n, g) == (2, 3) {
            0.25
        } else if g == 3 {
            0.5
        } else {
            1.0
        }
    };
    assert_eq!(of(4, &one, &by_design), ["fail PER-002 GPU 3 of node n2"]);
    assert_eq!(of(4, &one, &|_| None), ["fail PER-002 GPU 3 of node n2"]);
}

/// What cannot be true is nobody's measure.
#[test]
fn an_impossible_reading_accuses_nobody_else() {
    let mut record = slow(1, &|_, g| if g == 0 { 1.5 } else { 1.0 });
    for line in &mut record.outcomes {
        if let Outcome::Measured(Measured { series, .. }) = &mut line.outcome {
            series.iter_mut().for_each(|s| *s = s.clone().bounded(1.2e12, "the test's GPU"));
        }
    }
    assert_eq!(told(&record).1, ["hold VAL-001 node n1"]);
}

#[test]
fn a_slow_gpu_is_one_finding_with_all_its_tests() {
    const TESTS: &[(&str, &str)] = &[("gemm", "bf16 8192 burst"), ("gemm", "fp8 8192 burst"), ("gemm", SUSTAINED)];
    let part = |_: u32, g: u32, test: &str| match (g, test) {
        (3, SUSTAINED) => 0.80,
        (3, _) => 0.90,
        _ => 1.0,
    };
    let record = Fleet { tests: TESTS, ..fleet(1, &part) }.record(1);
    let limits = baseline::builtin();
    let j = judge(&record, &RunPlan::default(), &limits);
    let found: Vec<_> = j.findings.iter().filter(|f| f.severity == Severity::Fail).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].evidence.contains("flops of `bf16 8192 sustained gpu3`"), "{}", found[0].evidence);
    assert!(found[0].evidence.contains("slow in 3 tests"), "{}", found[0].evidence);
    assert!(found[0].limit.contains("8 GPUs of this run") && found[0].limit.contains("% behind"), "{}", found[0].limit);
}

/// More than one core judges and groups them; who is slow stands in the last of their shares, and no cell of anybody is lost between.
#[test]
fn of_twenty_thousand_nodes_the_slow_one_is_told() {
    const NODES: u32 = 20_000;
    let mut record = network(NODES, 1);
    let cases = ["f32 1 core", "f32 2 cores"];
    record.header.plan.probes.push(ProbeName::new("gemm"));
    record.steps.push(Step::new("gemm", ProbeName::new("gemm"), cases.map(Case::read).to_vec()));
    for (n, node) in record.header.nodes.clone().iter().enumerate() {
        for (case, share) in cases.iter().zip([1.0, if n == 19_998 { 0.8 } else { 1.0 }]) {
            let flops = share * 90e9 * (1.0 + 0.001 * (n % 7) as f64);
            for attempt in 1..=if share < 1.0 { 2 } else { 1 } {
                let line = add_line(&mut record, node, "gemm", "gemm", case, measured(series("gemm", "flops", flops)));
                record.outcomes[line].attempt = attempt;
            }
        }
    }
    let j = judge(&record, &record.header.plan.run, &[]);
    let slow = j.cells.iter().filter(|c| c.straggler.is_some());
    let slow: Vec<String> = slow.map(|c| format!("{} {}", c.row().node, c.row().case)).collect();
    assert_eq!(slow, ["n19998 f32 2 cores"]);
    assert_eq!(j.cells.len(), 2 * NODES as usize);
    let kinds = judge::by_key(&j.cells, |c| (c.row().case.to_string() != "f32 1 core").then(|| c.row().case));
    let of_two: Vec<u32> = (0..NODES).map(|n| 2 * n + 1).collect();
    assert_eq!(kinds, [(&Case::read("f32 2 cores"), of_two)]);
}
