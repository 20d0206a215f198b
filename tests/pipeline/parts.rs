//! Collectives beside what pairs of the same nodes reached: slow together is told, slow because of a slow link is not.

use crate::common::*;
use gonogo::id::NodeName;
use gonogo::judge::{self, Severity, Subject};
use gonogo::measure::{Facts, Latencies, Measured, Outcome, bus_factor};
use gonogo::record::Record;
use gonogo::work::{Collective, Metric};

const NODES: u32 = 16;
/// Of a pair, bytes per second; of a small exchange, seconds.
const RATE: f64 = 10e9;
const EXCHANGE: f64 = 20e-6;
const LARGE: f64 = 16.0 * 1024.0 * 1024.0;

/// What an all-reduce takes where both ways of a link work at once: a ring for large messages, doubling for small ones.
fn needed(n: u32, bytes: f64, rate: f64) -> f64 {
    let ranks = f64::from(n);
    if bytes < 1e6 { ranks.log2() * EXCHANGE } else { 2.0 * (ranks - 1.0) * (EXCHANGE + bytes / ranks / rate) }
}

/// Pairs of 16 nodes, node 5 at `slow` of the others' rate, and the ladder, each all-reduce `times` as long as it needs.
pub fn scaled(slow: f64, times: &dyn Fn(u32, &[u32]) -> f64) -> Record {
    let mut r = network(NODES, 1);
    let rate = |a: u32, b: u32| if a == 5 || b == 5 { slow * RATE } else { RATE };
    for (round, pairs) in gonogo::localise::circle(NODES).into_iter().take(3).enumerate() {
        add_round(&mut r, round, "inter-leaf", &pairs, &rate);
    }
    let name = |i: u32| NodeName(format!("n{i}"));
    let trip = |i: u32, j: u32| (i != j).then_some(30.0);
    let rtt_us = (0..NODES).map(|i| (0..NODES).map(|j| trip(i, j)).collect()).collect();
    let latencies = Facts::Latencies(Latencies { nodes: (0..NODES).map(name).collect(), rtt_us });
    add_on(&mut r, "n0", "tcp", "latencies", Outcome::facts(latencies));
    let mut size = 2;
    while size <= NODES {
        let topology = if size == NODES { "world" } else { "ladder" };
        let step = format!("collective-{topology}-{size}");
        let cases = ["8 B", "16 MiB"].map(|bytes| format!("all-reduce {topology} n={size} {bytes}"));
        let groups: Vec<Vec<u32>> =
            (0..NODES).collect::<Vec<u32>>().chunks(size as usize).map(<[u32]>::to_vec).collect();
        let named: Vec<Vec<NodeName>> = groups.iter().map(|g| g.iter().map(|i| name(*i)).collect()).collect();
        let texts: Vec<&str> = cases.iter().map(String::as_str).collect();
        add_groups(&mut r, &step, "collective", &texts, serde_json::Value::Null, &named);
        for group in &groups {
            for (case, bytes) in cases.iter().zip([8.0, LARGE]) {
                let rate = if group.contains(&5) { slow * RATE } else { RATE };
                let seconds = times(size, group) * needed(size, bytes, rate);
                let around = |v: f64| (0..12).map(|i| v * (1.0 + 0.002 * f64::from(i % 5))).collect::<Vec<f64>>();
                let busbw = bytes * bus_factor(Collective::AllReduce, size) / seconds;
                let series = vec![Metric::Latency.series(around(seconds), 10), Metric::BusBw.series(around(busbw), 10)];
                let outcome = Outcome::Measured(Measured { series, ..Measured::default() });
                add_line(&mut r, &name(group[0]), &step, "collective", case, outcome);
            }
        }
        size *= 2;
    }
    r
}

fn found(r: &Record) -> Vec<(String, Severity, Subject)> {
    let j = judge::judge(r, &r.header.plan.run, &[]);
    j.findings
        .iter()
        .filter(|f| f.code.to_string().starts_with("COL-"))
        .map(|f| (f.code.to_string(), f.severity, f.subject.clone()))
        .collect()
}

#[test]
fn what_its_parts_need_is_no_finding_and_a_limit() {
    let r = scaled(1.0, &|_, _| 1.1);
    assert_eq!(found(&r), []);
    let j = judge::judge(&r, &r.header.plan.run, &[]);
    let collectives = j.cells.iter().filter(|c| c.row().probe == "collective");
    for cell in collectives {
        let limit = cell.limit().unwrap_or_else(|| panic!("{:?} has no limit", cell.row()));
        assert!(limit.provenance.contains("parts need"), "{limit:?}");
    }
    // Half of the rate because both ways share a link is within what parts allow.
    assert_eq!(found(&scaled(1.0, &|n, _| if n > 2 { 2.0 } else { 1.5 })), []);
}

#[test]
fn a_group_as_slow_as_its_slowest_link_is_well() {
    assert_eq!(found(&scaled(0.2, &|_, _| 1.1)), []);
}

#[test]
fn slow_together_is_told_at_the_size_where_it_begins() {
    // A fabric that breaks down under eight flows at once.
    let r = scaled(1.0, &|n, _| if n >= 8 { 12.0 } else { 1.1 });
    assert_eq!(found(&r), [("COL-023".to_owned(), Severity::Hold, Subject::Run)]);
    let j = judge::judge(&r, &r.header.plan.run, &[]);
    let Some(f) = j.findings.iter().find(|f| f.code.to_string() == "COL-023") else { panic!("{:?}", j.findings) };
    assert!(f.evidence.contains("begins with 8 ranks"), "{}", f.evidence);
    let speaks: Vec<bool> = f.proof.iter().map(|p| p.speaks).collect();
    assert_eq!((speaks.len(), speaks.iter().filter(|s| **s).count()), (2 * (8 + 4 + 2 + 1), 2 * (2 + 1)));
    assert_ne!(j.decision.to_string(), "GO");
    // Beyond twice it is told, and no reason to stay.
    let mild = found(&scaled(1.0, &|n, _| if n >= 8 { 5.0 } else { 1.1 }));
    assert_eq!(mild, [("COL-023".to_owned(), Severity::Warn, Subject::Run)]);
    // Two processes that are slow by themselves are no network's fault.
    let host = found(&scaled(1.0, &|_, _| 12.0));
    assert_eq!(host, [("COL-023".to_owned(), Severity::Warn, Subject::Run)]);
}

#[test]
fn nodes_on_one_machine_are_not_compared() {
    let mut r = scaled(1.0, &|_, _| 12.0);
    for i in 0..NODES {
        let m = gonogo::topology::Machine { boot: Some("one".into()), ..good_machine() };
        add_on(&mut r, &format!("n{i}"), "environment", "machine", machine(m));
    }
    assert_eq!(found(&r), []);
}
