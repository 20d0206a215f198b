//! One node, several names: whatever a topology, a fabric or a list of offenders calls a node, it is the one of the header.

use crate::common::*;
use gonogo::baseline::Offender;
use gonogo::id::NodeName;
use gonogo::judge::{Decision, Judgement, judge, judge_knowing};
use gonogo::measure::Outcome;
use gonogo::record::Record;
use gonogo::report;

/// Six leaves of four nodes; the first leaf's uplink is slow.
fn slow_leaf() -> Record {
    let mut record = network(24, 6);
    record.header.plan.run = run_plan("[nodes]\nneeded = 16\nspares = 8\n");
    let rate = |a: u32, b: u32| if a / 4 != b / 4 && (a < 4 || b < 4) { 1e9 } else { 10e9 };
    for (round, groups) in gonogo::localise::circle(24).into_iter().enumerate() {
        add_round(&mut record, round, "inter-leaf", &groups, &rate);
    }
    for round in 0..2 {
        let across: Vec<(u32, u32)> = (0..12).map(|i| (i, i + 12)).collect();
        add_round(&mut record, 100 + round, "confirm", &across, &rate);
    }
    record
}

fn judged(record: &Record) -> Judgement<'_> {
    judge(record, &record.header.plan.run, &[])
}

fn html(j: &Judgement<'_>) -> String {
    report::html(j, "record").unwrap_or_else(|e| panic!("no page: {e}"))
}

/// The leaf is named, its nodes are excluded by the scheduler's names, and the page shows them in their row.
#[test]
fn a_topology_may_use_any_name_of_a_node() {
    let own = slow_leaf();
    let want = judged(&own);
    assert!(want.findings.iter().any(|f| f.code.as_str() == "NET-024"), "{:?}", want.findings);
    assert_eq!(want.placement.exclude, ["n0", "n1", "n2", "n3"].map(|n| NodeName(n.into())));
    let page = html(&want);
    let renamed = |in_topology: &dyn Fn(usize) -> String, of_kernel: Option<&dyn Fn(usize) -> String>| {
        let mut record = slow_leaf();
        for (i, node) in record.header.leaves.iter_mut().flat_map(|l| &mut l.nodes).enumerate() {
            *node = NodeName(in_topology(i));
        }
        if let Some(kernel) = of_kernel {
            record.header.kernel_names =
                record.header.nodes.iter().enumerate().map(|(i, n)| (n.clone(), kernel(i))).collect();
        }
        record
    };
    let long = renamed(&|i| format!("n{i}.cluster.example"), None);
    let kernel = renamed(&|i| format!("gpu-{:03}", 900 - i), Some(&|i| format!("gpu-{:03}.dc2.example", 900 - i)));
    for record in [long, kernel] {
        let got = judged(&record);
        assert_eq!(got.findings, want.findings);
        assert_eq!((&got.decision, &got.placement), (&want.decision, &want.placement));
        assert_eq!(html(&got), page);
    }
}

/// A leaf none of whose nodes is the run's is nobody to leave out: no GO-WITHOUT that excludes nobody.
#[test]
fn a_leaf_of_strangers_cures_nothing() {
    let mut record = slow_leaf();
    record.header.leaves[0].nodes.clear();
    let got = judged(&record);
    assert!(got.findings.iter().any(|f| f.code.as_str() == "NET-024"), "{:?}", got.findings);
    assert_eq!(got.decision, Decision::NoGo);
}

/// Where a serial number is missing, a node that failed before is known again by any of its names.
#[test]
fn a_offender_is_known_by_any_name() {
    let mut record = healthy(Default::default());
    record.header.launcher = Some("Slurm".into());
    record.header.nodes = vec![NodeName("n1".into())];
    record.header.kernel_names = [(NodeName("n1".into()), "gpu-7.example".to_owned())].into();
    for line in &mut record.outcomes {
        line.node = NodeName("n1".into()).into();
    }
    let knows = |name: &str| {
        let offender = Offender {
            node: name.into(),
            serial: None,
            gpus: vec![],
            codes: ["PER-001".to_owned()].into(),
            on: ["2026-11-01".to_owned()].into(),
        };
        let j = judge_knowing(&record, &record.header.plan.run, &[], &[offender]);
        j.findings.iter().any(|f| f.code.as_str() == "LEM-001")
    };
    assert!(record.outcomes.iter().any(|l| matches!(&l.outcome, Outcome::Measured(m) if m.facts.is_some())));
    let told: Vec<bool> = ["n1", "n1.any", "gpu-7", "gpu-7.example", "gpu-7.other", "n2"].map(knows).to_vec();
    assert_eq!(told, [true, true, true, true, false, false]);
}
