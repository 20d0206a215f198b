//! Round trips between all nodes -> who is far from everybody.

use std::cmp::Ordering;

use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Proof, Rule, Subject};
use crate::judge::rules::Facts;
use crate::localise::far;
use crate::measure::Latencies;
use crate::record::{OutcomeLine, Record};
use crate::unit::Unit;
use crate::work::Metric;

pub(super) fn findings(record: &Record, findings: &mut Vec<Finding>) {
    let Some((line, all)) = Facts::latencies(record) else { return };
    if all.nodes.len() != all.rtt_us.len() {
        return;
    }
    let show = |us: f64| Unit::Second.show(us * 1e-6);
    for f in far(&all.rtt_us) {
        let evidence = format!(
            "even with its nearest of {} partners a round trip takes {}, {:.0} times as long as the nearest two others'",
            all.nodes.len() - 1,
            show(f.nearest_us),
            f.nearest_us / f.usual_us
        );
        let limit = format!("{}, the nearest two nodes of this run", show(f.usual_us));
        let finding = Finding::new(Code::NET_033, Subject::Node(all.nodes[f.node].clone()), evidence).limit(limit);
        findings.push(finding.proven(Rule::Distance, proof(line, all, f.node, f.usual_us)));
    }
}

/// The node's round trips with each partner, the shortest first.
fn proof(line: &OutcomeLine, all: &Latencies, node: usize, usual_us: f64) -> Vec<Proof> {
    let with = |(j, us): (usize, &Option<f64>)| {
        Some(Proof {
            to: Some(all.nodes.get(j)?.clone()),
            metric: Some(Metric::RttP50),
            measured: Some((*us)? * 1e-6),
            expected: Some(usual_us * 1e-6),
            ..Proof::new(&all.nodes[node], &line.step, &line.case)
        })
    };
    let mut out: Vec<Proof> = all.rtt_us[node].iter().enumerate().filter_map(with).collect();
    out.sort_by(|a, b| a.measured.partial_cmp(&b.measured).unwrap_or(Ordering::Equal));
    out
}
