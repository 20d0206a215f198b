//! A network that is held against nothing but itself: nodes that agree may be slow all together.

use std::collections::BTreeMap;

use crate::baseline::Source;
use crate::judge::Cell;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::measure::stats;
use crate::plan::RunPlan;
use crate::unit::Unit;
use crate::work::{Carrier, Case, Collective, Metric, Topology};

/// Networks that are told by name; the rest by their number.
const SHOWN: usize = 4;

pub(super) fn findings(cells: &[Cell<'_>], run: &RunPlan, findings: &mut Vec<Finding>) {
    let mut rates: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for cell in cells.iter().filter(|c| c.group().len() > 1) {
        let Some(what) = throughput(cell) else { continue };
        // What nodes are held against by each other says who is odd among them, and pairs beside collectives how well they add up:
        // neither says what they should reach.
        if cell.limit().is_some_and(|l| !matches!(l.source, Source::Peers | Source::Parts)) {
            return;
        }
        rates.entry(what).or_default().extend(cell.summary.map(|s| s.median));
    }
    if rates.is_empty() {
        return;
    }
    let of = |(what, rates): (&String, &Vec<f64>)| {
        let number = if rates.len() == 1 { String::new() } else { format!(" (the middle of {})", rates.len()) };
        format!("{what} {}{number}", Unit::BytePerSecond.show(stats::median(rates)))
    };
    let mut list: Vec<String> = rates.iter().filter(|(_, r)| !r.is_empty()).take(SHOWN).map(of).collect();
    if rates.len() > SHOWN {
        list.push(format!("and {} more", rates.len() - SHOWN));
    }
    let severity = if run.require.strict { Severity::Hold } else { Severity::Warn };
    let evidence = format!("between nodes: {}; held against each other at the most", list.join(", "));
    let limit = "none: neither the plan nor the adapters' rate nor a baseline says what it should be";
    findings.push(Finding::new(Code::COV_007, Subject::Run, evidence).severity(severity).limit(limit));
}

/// What a cell says of the network's throughput: of its pairs, or of the all-reduce that all nodes do.
fn throughput(cell: &Cell<'_>) -> Option<String> {
    match (cell.row().case, cell.series.metric) {
        (Case::Link(link), Metric::Bandwidth) => {
            Some(format!("pairs over {}", link.over.as_deref().unwrap_or(cell.row().probe)))
        }
        (Case::Collective(c), Metric::BusBw) if c.op == Collective::AllReduce && c.topology == Topology::World => {
            let carrier = match &c.carrier {
                Carrier::Tcp => "tcp",
                Carrier::Nccl => "nccl",
                Carrier::Interface(name) | Carrier::Rdma(name) => name,
            };
            Some(format!("all-reduce of {} over {carrier}", c.bytes))
        }
        _ => None,
    }
}
