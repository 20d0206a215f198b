//! A network whose nodes agree: well, or slow all together. Nobody but the plan, the hardware or a baseline can say.

use crate::common::*;
use gonogo::baseline::Baseline;
use gonogo::judge::{Decision, Judgement, Severity, judge};
use gonogo::record::Record;
use gonogo::{baseline, report};

/// Eight nodes whose pairs all carry `rate` bytes per second, judged by a plan and a baseline.
fn judged<T>(rate: f64, plan: &str, learned: Option<&Baseline>, look: impl Fn(&Judgement<'_>) -> T) -> T {
    let record = alike(rate);
    let run = run_plan(plan);
    let mut limits = baseline::required(&run);
    limits.extend(baseline::builtin());
    limits.extend(learned.into_iter().flat_map(Baseline::limits));
    look(&judge(&record, &run, &limits))
}

fn alike(rate: f64) -> Record {
    let mut record = network(8, 1);
    for (round, pairs) in gonogo::localise::circle(8).into_iter().enumerate() {
        add_round(&mut record, round, "inter-leaf", &pairs, &|_, _| rate);
    }
    record
}

fn unproven(j: &Judgement<'_>) -> Option<(Severity, String)> {
    j.findings.iter().find(|f| f.code.to_string() == "COV-007").map(|f| (f.severity, f.evidence.clone()))
}

#[test]
fn a_network_that_nothing_holds_is_told_in_the_first_line() {
    judged(2.5e6, "", None, |j| {
        assert_eq!(j.decision, Decision::Go);
        let (severity, evidence) = unproven(j).unwrap_or_else(|| panic!("{:?}", j.findings));
        assert_eq!(severity, Severity::Warn);
        assert!(evidence.contains("pairs over tcp 2.50 MB/s"), "{evidence}");
        let text = report::terminal(&report::view(j, "record"), report::Style { width: 100, colour: false });
        assert!(text.starts_with("GO  8 nodes ready, network not proven, 1 warning"), "{text}");
        assert!(text.contains("min_tcp"), "what would close it: {text}");
    });
}

#[test]
fn where_the_plan_is_strict_it_holds() {
    judged(2.5e6, "[require]\nstrict = true\n", None, |j| {
        assert_eq!((j.decision.clone(), unproven(j).map(|u| u.0)), (Decision::Hold, Some(Severity::Hold)));
    });
}

#[test]
fn a_demand_of_the_plan_proves_it_or_fails_it() {
    let strict = |rate: &str| format!("[require]\nstrict = true\nmin_tcp = \"{rate}\"\n");
    judged(2.5e6, &strict("1 GB/s"), None, |j| {
        assert_eq!((j.decision.clone(), unproven(j)), (Decision::NoGo, None));
        assert!(j.findings.iter().any(|f| f.code.to_string() == "NET-010"));
    });
    judged(2.5e9, &strict("1 GB/s"), None, |j| assert_eq!((j.decision.clone(), unproven(j)), (Decision::Go, None)));
}

#[test]
fn a_learned_baseline_proves_it() {
    let healthy: Vec<Record> = (0..8).map(|i| alike(2.5e9 * (1.0 + 0.002 * f64::from(i % 3)))).collect();
    let learned = Baseline::learn(&healthy, "2026-11-26").unwrap_or_else(|e| panic!("{e}"));
    judged(2.5e9, "", Some(&learned), |j| assert_eq!((j.decision.clone(), unproven(j)), (Decision::Go, None)));
    judged(2.5e6, "", Some(&learned), |j| assert_eq!((j.decision.clone(), unproven(j)), (Decision::NoGo, None)));
}

#[test]
fn a_node_alone_has_no_network_to_prove() {
    let record = healthy(run_plan(""));
    let limits = baseline::builtin();
    let j = judge(&record, &record.header.plan.run, &limits);
    assert_eq!(unproven(&j), None);
}
