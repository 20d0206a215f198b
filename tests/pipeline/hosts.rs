//! Hosts as peers of hosts, and what neither a second fault, nor a waiver, nor a missing part may hide.

use crate::common::*;
use gonogo::id::NodeName;
use gonogo::judge;
use gonogo::measure::{ClockOffset, Facts, FailKind, Load, Outcome};
use gonogo::plan::RunPlan;
use gonogo::record::Record;
use gonogo::topology::{Machine, Nvidia};
use gonogo::{baseline, probe};

/// What a healthy host computes.
const RATE: f64 = 82e9;

/// `n0`, `n1` ... of one make, of which each computed at these shares of what is usual, an attempt each.
fn hosts(attempts: &[&[f64]]) -> Record {
    let mut r = network(attempts.len() as u32, 1);
    for (i, shares) in attempts.iter().enumerate() {
        let node = format!("n{i}");
        let mut m = Machine { boot: Some(format!("boot{i}")), ..good_machine() };
        m.cpu.model = "EPYC".into();
        add_on(&mut r, &node, "environment", "machine", machine(m));
        for (attempt, share) in (1..).zip(*shares) {
            let rate = RATE * share * (1.0 + 0.001 * (i % 5) as f64);
            let line = add_on(&mut r, &node, "gemm", "f32 1 core", measured(series("gemm", "flops", rate)));
            r.outcomes[line].attempt = attempt;
        }
    }
    r
}

fn change(r: &mut Record, node: &str, with: impl Fn(&mut Machine)) {
    for line in r.outcomes.iter_mut().filter(|l| l.node.0 == node) {
        if let Outcome::Measured(m) = &mut line.outcome
            && let Some(Facts::Machine(m)) = m.facts.as_deref_mut()
        {
            with(m);
        }
    }
}

/// The decision, and what weighs of the given families.
fn told(r: &Record, families: &[&str]) -> (String, Vec<String>) {
    let run = r.header.plan.run.clone();
    let mut limits = baseline::required(&run);
    limits.extend(baseline::builtin());
    let j = judge::judge(r, &run, &limits);
    let of = |code: &str| families.iter().any(|f| code.starts_with(f));
    let found = j.findings.iter().filter(|f| of(f.code.as_str()));
    (j.decision.to_string(), found.map(|f| format!("{} {} {}", f.severity.name(), f.code, f.subject)).collect())
}

fn named(r: &Record) -> Vec<String> {
    told(r, &["PER-", "VAL-"]).1
}

#[test]
fn more_than_half_may_be_slow_and_still_the_others_say_so() {
    let of = |slow: usize, share: f64| -> usize {
        let all: Vec<[f64; 2]> = (0..16).map(|i| if i < slow { [share; 2] } else { [1.0; 2] }).collect();
        named(&hosts(&all.iter().map(|a| &a[..]).collect::<Vec<_>>())).len()
    };
    assert_eq!([of(0, 1.0), of(3, 0.5), of(9, 0.5), of(14, 0.5)], [0, 3, 9, 14]);
    // One that is faster than all others is something else.
    assert_eq!([of(15, 0.5), of(14, 0.95)], [0, 0]);
}

#[test]
fn of_two_and_of_three_the_one_that_is_far_behind_is_named() {
    let (well, slow) = ([1.0; 2], [0.5; 2]);
    assert_eq!(named(&hosts(&[&well, &slow])), ["fail PER-001 node n1"]);
    assert_eq!(named(&hosts(&[&well, &slow, &well])), ["fail PER-001 node n1"]);
    assert_eq!(named(&hosts(&[&well, &slow, &slow])), ["fail PER-001 node n1", "fail PER-001 node n2"]);
    // Once is no proof; a tenth may be silicon; and what shares one machine shares its noise.
    assert_eq!(named(&hosts(&[&well, &slow[..1]])), ["hold VAL-003 node n1"]);
    assert_eq!(named(&hosts(&[&well, &[0.9; 2]])), [""; 0]);
    let mut shared = hosts(&[&well, &slow]);
    for node in ["n0", "n1"] {
        change(&mut shared, node, |m| m.boot = Some("one".into()));
    }
    assert_eq!(named(&shared), [""; 0]);
}

#[test]
fn another_processor_is_no_sick_one() {
    let (well, other) = ([1.0; 2], [0.7; 2]);
    let mut r = hosts(&[&well, &well, &well, &well, &other, &other]);
    assert_eq!(named(&r).len(), 2);
    for node in ["n4", "n5"] {
        change(&mut r, node, |m| m.cpu.model = "older EPYC".into());
    }
    assert_eq!(named(&r), [""; 0]);
}

#[test]
fn two_that_share_a_machine_blind_nobody_for_the_others() {
    let (well, slow) = ([1.0; 2], [0.6; 2]);
    let mut r = hosts(&[&well, &well, &well, &well, &well, &slow, &slow]);
    for node in ["n0", "n6"] {
        change(&mut r, node, |m| m.boot = Some("one".into()));
    }
    assert_eq!(named(&r), ["fail PER-001 node n5"]);
}

#[test]
fn slow_at_one_time_and_well_at_another_is_open_and_so_is_slow_beside_others() {
    let well = [1.0; 2];
    let of = |own: &[f64]| named(&hosts(&[&well, &well, &well, &well, &well, own]));
    assert_eq!(of(&[0.3, 1.0]), ["hold VAL-006 node n5"]);
    assert_eq!(of(&[0.3, 0.3, 1.0]), ["hold VAL-006 node n5"]);
    // So little may be chance.
    assert_eq!(of(&[0.9, 1.0]), [""; 0]);
    let mut r = hosts(&[&well, &well, &well, &well, &well, &[0.5; 2]]);
    for line in r.outcomes.iter_mut().filter(|l| l.node.0 == "n5") {
        line.load = Some(Box::new(Load { window_ms: 1000, others_cores: 4.0, ..Load::default() }));
    }
    assert_eq!(named(&r), ["hold VAL-002 node n5", "warn VAL-004 node n5"]);
}

#[test]
fn a_gpu_that_is_slow_at_one_time_and_not_at_another_is_open() {
    let mut r = crate::peers::slow(4, &|_, _| 1.0);
    let of = |l: &&mut gonogo::record::OutcomeLine| l.node.0 == "n2" && l.case.gpu() == Some(3) && l.attempt == 1;
    for line in r.outcomes.iter_mut().filter(of) {
        if let Outcome::Measured(m) = &mut line.outcome {
            m.series.iter_mut().for_each(|s| s.samples.iter_mut().for_each(|x| *x *= 0.6));
        }
    }
    assert_eq!(named(&r), ["hold VAL-006 node n2"]);
}

/// A node that is slow, or that lost a process, makes others wait; it makes nobody compute a wrong sum.
#[test]
fn nothing_excuses_a_wrong_answer() {
    let well = [1.0; 2];
    let wrong = |plan: &str, own: &[f64], crashed: bool| {
        let mut r = hosts(&[&well, &well, &well, &well, &well, own]);
        r.header.plan.run = run_plan(plan);
        let all = r.header.nodes.clone();
        add_groups(&mut r, "world", "collective", &["all-reduce world n=6 64 MiB"], serde_json::Value::Null, &[all]);
        let sum = checked(series("collective", "busbw", 1e9), "sum", false);
        add_line(&mut r, &NodeName("n0".into()), "world", "collective", "all-reduce world n=6 64 MiB", sum);
        if crashed {
            add_on(&mut r, "n5", "memory", "triad 1 core", Outcome::error(FailKind::Crashed, "signal 11"));
        }
        told(&r, &["COL-001"])
    };
    let waived = "[[waive]]\ncode = \"PER-001\"\nreason = \"known\"\nuntil = \"2099-01-01\"\n";
    for (plan, own, crashed) in [
        ("", [1.0; 2], false),
        (waived, [0.5; 2], false),
        ("[nodes]\nneeded = 4\n", [0.5; 2], false),
        ("[nodes]\nneeded = 4\n", [1.0; 2], true),
    ] {
        let (decision, found) = wrong(plan, &own, crashed);
        assert_eq!((decision.as_str(), found.len()), ("NO-GO", 1), "{plan}");
        assert!(found[0].starts_with("fail COL-001"), "{found:?}");
    }
}

/// Rounds of pairs at about 50 GB/s; `rate` makes some of them slow.
fn rounds(plan: &str, rate: &dyn Fn(usize, u32, u32) -> f64) -> Record {
    let mut r = network(8, 1);
    r.header.plan.run = run_plan(plan);
    for (i, shift) in [1u32, 3, 5, 7].into_iter().enumerate() {
        let pairs: Vec<(u32, u32)> = (0..4).map(|a| (2 * a, (2 * a + shift) % 8)).collect();
        add_round(&mut r, i + 1, "inter-leaf", &pairs, &|from, to| rate(i, from, to));
    }
    r
}

#[test]
fn one_disturbed_test_below_a_limit_is_no_failure_of_two_innocents() {
    let plan = "[require]\nmin_tcp = \"40 GB/s\"\n";
    let well = |_: usize, from: u32, to: u32| 50e9 * (1.0 + 0.001 * f64::from(from + to));
    let once = rounds(plan, &|i, from, to| if (i, from, to) == (1, 2, 5) { 20e9 } else { well(i, from, to) });
    assert_eq!(told(&once, &["NET-010"]).1, ["warn NET-010 group n[2,5]"]);
    assert_eq!(told(&rounds(plan, &well), &["NET-010"]), ("GO".into(), vec![]));
    // What is below it for all is how the network is, and what is below it with everybody is the node.
    let slow = rounds(plan, &|i, from, to| 0.7 * well(i, from, to));
    let (decision, found) = told(&slow, &["NET-010"]);
    assert!(decision == "NO-GO" && found.iter().all(|f| f.starts_with("fail")), "{decision} {found:?}");
    let node = rounds(plan, &|i, from, to| if from == 2 { 20e9 } else { well(i, from, to) });
    assert_eq!(told(&node, &["NET-010"]).0, "NO-GO");
}

#[test]
fn a_node_of_which_no_test_came_about_is_not_cleared() {
    let (decision, found) = told(&rounds("[nodes]\nneeded = 4\n", &|_, _, _| 0.0), &["NET-028"]);
    assert_eq!((decision.as_str(), found.len()), ("HOLD", 8), "{found:?}");
    let one = rounds("[nodes]\nneeded = 4\n", &|i, from, to| if from == 2 || to == 2 { 0.0 } else { 50e9 + i as f64 });
    assert_eq!(told(&one, &["NET-027", "NET-028"]), ("GO-WITHOUT".into(), vec!["fail NET-027 node n2".into()]));
}

#[test]
fn a_run_that_needs_more_nodes_than_there_are_is_no_go() {
    let well = [1.0; 2];
    let of = |plan: &str, launched: bool| {
        let mut r = hosts(&[&well[..]; 4]);
        r.header.plan.run = run_plan(plan);
        if !launched {
            r.header.launcher = None;
        }
        told(&r, &["CLU-013"])
    };
    assert_eq!(of("[nodes]\nneeded = 5\n", true), ("NO-GO".into(), vec!["fail CLU-013 this run".into()]));
    assert_eq!(of("[nodes]\nneeded = 4\nspares = 1\n", true), ("GO".into(), vec!["warn CLU-013 this run".into()]));
    assert_eq!(of("[nodes]\nneeded = 4\n", true), ("GO".into(), vec![]));
    // One that is checked by itself is one of them.
    assert_eq!(of("[nodes]\nneeded = 5\n", false).1, ["note CLU-013 this run"]);
}

#[test]
fn a_gpu_that_the_plan_counts_on_and_nobody_measured_holds() {
    let of = |plan: &str, cases: u32, facts: bool| {
        let mut r = empty(run_plan(plan));
        for g in 0..cases {
            let metric =
                probe::find("gemm").and_then(|p| p.metrics().first()).map(|m| m.metric.series(vec![1e12; 12], 1));
            add(&mut r, "gemm", &format!("bf16 8192 burst gpu{g}"), measured(metric.unwrap_or_else(|| panic!("none"))));
        }
        if facts {
            add(
                &mut r,
                "environment",
                "machine",
                machine(Machine { nvidia: Some(Nvidia::default()), ..good_machine() }),
            );
        }
        told(&r, &["COV-003"]).1
    };
    let eight = "[nodes]\nneeded = 1\ngpus_per_node = 8\n";
    assert_eq!(of(eight, 8, true), [""; 0]);
    assert_eq!(of(eight, 7, true), ["hold COV-003 node n1"]);
    assert_eq!(of(eight, 0, false), ["hold COV-003 node n1"]);
    assert_eq!(of("", 7, true), [""; 0]);
}

#[test]
fn of_two_clocks_nobody_tells_which_is_right() {
    let mut r = hosts(&[&[1.0; 2], &[1.0; 2]]);
    let at = |node: &str, ms: f64| ClockOffset { node: NodeName(node.into()), low_ms: ms - 1.0, high_ms: ms + 1.0 };
    let offsets = Facts::Clocks(vec![at("n0", 0.0), at("n1", 3_600_000.0)]);
    add_on(&mut r, "n0", "environment", "clocks", Outcome::facts(offsets));
    assert_eq!(told(&r, &["CLK-"]), ("NO-GO".into(), vec!["fail CLK-001 link n0 -> n1".into()]));
}

/// A header that names nobody, or one node twice, is no record.
#[test]
fn a_record_without_nodes_is_refused() {
    let text = |nodes: &str| {
        let header = serde_json::to_string(&empty(RunPlan::default()).header).unwrap_or_default();
        format!("{{\"header\":{}}}\n", header.replace("[\"n1\"]", nodes))
    };
    let read = |nodes: &str| gonogo::record::parse(std::path::Path::new("r.jsonl"), text(nodes).as_bytes());
    assert!(read("[\"n1\"]").is_ok());
    assert!(read("[]").is_err_and(|e| e.to_string().contains("names no node")));
    assert!(read("[\"n1\",\"n2\",\"n1\"]").is_err_and(|e| e.to_string().contains("n1 twice")));
}

/// What is to be typed next works as it stands: a path with blanks in it is one word, and no gate opens by a simulation.
#[test]
fn the_next_command_can_be_typed() {
    let well = [1.0; 2];
    let mut r = hosts(&[&well, &well]);
    let next = |r: &Record, path: &str| {
        let run = r.header.plan.run.clone();
        let limits = baseline::builtin();
        gonogo::report::view(&judge::judge(r, &run, &limits), path).next
    };
    assert!(next(&r, "out/record.jsonl").starts_with("gonogo gate out/record.jsonl -- srun "));
    assert!(next(&r, "my lab's.jsonl").starts_with("gonogo gate 'my lab'\\''s.jsonl' -- srun "));
    let other = run_plan("[nodes]\nneeded = 2\n");
    let limits = baseline::builtin();
    let judged = gonogo::report::view(&judge::judge(&r, &other, &limits), "out/record.jsonl").next;
    assert!(judged.starts_with("gonogo check --plan "), "{judged}");
    r.header.launcher = Some(gonogo::schedule::SIMULATION.into());
    assert!(next(&r, "out/record.jsonl").starts_with("srun gonogo check"));
}
