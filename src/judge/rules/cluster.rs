//! What the nodes are to each other: clocks, the shared directory, machines they share, callers without the token.

use std::collections::BTreeMap;

use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::rules::majority;
use crate::judge::severity::Severity;
use crate::measure;
use crate::plan::RunPlan;
use crate::record::Record;
use crate::topology::Machine;

/// Clocks further apart than this order checkpoints wrongly; than that, break certificates.
const SKEW_WARN_MS: f64 = 1_000.0;
const SKEW_FAIL_MS: f64 = 60_000.0;
/// A file that takes longer to be seen makes a restart load an old checkpoint.
const LATE_MS: f64 = 5_000.0;

pub(super) fn findings(record: &Record, run: &RunPlan, findings: &mut Vec<Finding>) {
    enough(record, run, findings);
    if record.header.launcher.is_none() {
        return;
    }
    for (_, f) in record.outcomes.facts() {
        match f {
            measure::Facts::Clocks(offsets) => clocks(offsets, findings),
            measure::Facts::Shared(views) => shared(views, findings),
            measure::Facts::Unauthenticated(list) => {
                let total: u64 = list.iter().map(|(_, n)| n).sum();
                let shown: Vec<String> = list.iter().take(4).map(|(a, n)| format!("{} ({n})", clean(a))).collect();
                let evidence = format!("{total} connections without the token, from {}", shown.join(", "));
                findings.push(Finding::new(Code::CLU_007, Subject::Run, evidence));
            }
            measure::Facts::Outsiders(names) => {
                let shown: Vec<_> = names.iter().take(4).map(|n| clean(n)).collect();
                let evidence = format!("{} asked to join: {}", names.len(), shown.join(", "));
                findings.push(Finding::new(Code::CLU_010, Subject::Run, evidence));
            }
            measure::Facts::RdmaPath(ends) => mtus(ends, findings),
            // Leaves are inferred from latencies where pairs are judged; daemons are compared below.
            measure::Facts::Machine(_)
            | measure::Facts::Filesystem(_)
            | measure::Facts::Watched(_)
            | measure::Facts::Remains(_)
            | measure::Facts::Rehearsal(_)
            | measure::Facts::Latencies(_)
            | measure::Facts::Fabric(_)
            | measure::Facts::Nvidia(_)
            | measure::Facts::GpuLoad(_)
            | measure::Facts::Nccl(_)
            | measure::Facts::Peers(_)
            | measure::Facts::Software(_)
            | measure::Facts::Start(_)
            | measure::Facts::Slurmd(_) => {}
        }
    }
    let machines: Vec<(&NodeName, &Machine)> = record.machines().collect();
    daemons(record, findings);
    sharing(record, findings);
    addresses(&machines, findings);
}

/// One address on two nodes, on an interface whose addresses are otherwise each node's own: docker0 and its like have one address
/// everywhere.
fn addresses(machines: &[(&NodeName, &Machine)], findings: &mut Vec<Finding>) {
    let mut of: BTreeMap<&str, Vec<(usize, _)>> = BTreeMap::new();
    for (i, (_, machine)) in machines.iter().enumerate() {
        for nic in &machine.nics {
            of.entry(&nic.name).or_default().extend(nic.addresses.iter().map(|a| (i, *a)));
        }
    }
    // Two agents in one network namespace see the same interfaces.
    let all = |m: &Machine| m.nics.iter().map(|n| (n.name.clone(), n.addresses.clone())).collect::<Vec<_>>();
    for (interface, bearers) in of {
        let mut first: BTreeMap<_, usize> = BTreeMap::new();
        let twice: Vec<(usize, usize, _)> = bearers
            .iter()
            .filter_map(|(i, a)| {
                let other = *first.entry(*a).or_insert(*i);
                (other != *i).then_some((other, *i, *a))
            })
            .collect();
        if first.len() * 2 <= bearers.len() {
            continue;
        }
        for (a, b, address) in twice {
            let ((one, m), (other, n)) = (machines[a], machines[b]);
            if m.boot.is_some() && m.boot == n.boot && all(m) == all(n) {
                continue;
            }
            let subject = Subject::Link(one.clone(), other.clone());
            let evidence = format!("{} of both has {address}", clean(interface));
            findings.push(Finding::new(Code::NET_032, subject, evidence).on_interface(Some(interface)));
        }
    }
}

fn clocks(offsets: &[measure::ClockOffset], findings: &mut Vec<Finding>) {
    // Of two nobody tells which is right.
    if let [a, b] = offsets {
        let apart = (a.low_ms - b.high_ms).max(b.low_ms - a.high_ms);
        if apart > SKEW_WARN_MS {
            let subject = Subject::Link(a.node.clone(), b.node.clone());
            let finding = Finding::new(Code::CLK_001, subject, format!("their clocks are {:.1} s apart", apart / 1e3));
            findings.push(finding.severity(by_skew(apart)));
        }
        return;
    }
    // Against the median node: the first node's clock may be the wrong one.
    let mut middles: Vec<f64> = offsets.iter().map(|o| (o.low_ms + o.high_ms) / 2.0).collect();
    middles.sort_by(f64::total_cmp);
    let Some(median) = middles.get(middles.len() / 2).copied() else { return };
    for o in offsets {
        let (low, high) = (o.low_ms - median, o.high_ms - median);
        let sure = if low > 0.0 { low } else { (-high).max(0.0) };
        if sure > SKEW_WARN_MS {
            let side = if low > 0.0 { "ahead of" } else { "behind" };
            let evidence = format!("its clock is {:.1} s {side} that of the other nodes", sure / 1e3);
            let finding = Finding::new(Code::CLK_001, Subject::Node(o.node.clone()), evidence);
            findings.push(finding.severity(by_skew(sure)));
        }
    }
}

fn by_skew(ms: f64) -> Severity {
    if ms > SKEW_FAIL_MS { Severity::Fail } else { Severity::Warn }
}

/// Whether the run finds as many nodes as it needs. A node that is checked by itself is one of them.
fn enough(record: &Record, run: &RunPlan, findings: &mut Vec<Finding>) {
    let Some(wanted) = &run.nodes else { return };
    let there = record.header.nodes.len() as u64;
    let (needed, spares) = (u64::from(wanted.needed), u64::from(wanted.spares));
    let severity = match there {
        _ if record.header.launcher.is_none() => Severity::Info,
        _ if there < needed => Severity::Fail,
        _ => Severity::Warn,
    };
    if there < needed + spares {
        let and = if spares > 0 { format!(" and {spares} spares") } else { String::new() };
        let evidence = format!("{there} nodes were checked; the plan needs {needed}{and}");
        findings
            .push(Finding::new(Code::CLU_013, Subject::Run, evidence).severity(severity).limit("[nodes] of the plan"));
    }
}

fn mtus([a, b]: &[measure::RdmaEnd; 2], findings: &mut Vec<Finding>) {
    if a.mtu != b.mtu {
        let subject = Subject::Link(a.node.clone(), b.node.clone());
        let evidence = format!("{} has {} bytes, {} has {}", clean(&a.address), a.mtu, clean(&b.address), b.mtu);
        let finding = Finding::new(Code::RDM_003, subject, evidence);
        // Every case of the pair says it.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
}

fn shared(views: &[measure::SharedView], findings: &mut Vec<Finding>) {
    let usual = majority(views.iter().filter(|v| v.error.is_none()).map(|v| v.mount.as_str()));
    let blind = views.iter().filter(|v| v.error.is_none() && v.visible_ms.is_none()).count();
    let all_blind = 2 * blind > views.len();
    if all_blind {
        let evidence = format!(
            "a file written by one node was not there on {blind} of {} nodes: this is no shared directory",
            views.len()
        );
        findings.push(Finding::new(Code::STO_041, Subject::Run, evidence));
    }
    for v in views {
        let subject = || Subject::Node(v.node.clone());
        if let Some((usual, n)) = usual.filter(|(u, _)| v.error.is_none() && v.mount != **u) {
            let evidence = format!("the checkpoint directory is on {}, on {n} other nodes on {usual}", v.mount);
            findings.push(Finding::new(Code::STO_040, subject(), evidence));
        }
        match (v.visible_ms, &v.error) {
            // Its own storage step says what is wrong with it.
            (_, Some(_)) => {}
            (None, None) if all_blind => {}
            (None, None) => {
                findings.push(Finding::new(
                    Code::STO_041,
                    subject(),
                    "a file written by another node was not there after 10 s",
                ));
            }
            (Some(ms), None) if ms > LATE_MS => {
                let evidence = format!("a file written by another node was there after {:.1} s", ms / 1e3);
                findings.push(Finding::new(Code::STO_041, subject(), evidence).severity(Severity::Warn));
            }
            _ => {}
        }
        if v.read_back == Some(false) {
            findings.push(Finding::new(Code::STO_042, subject(), "its neighbour's file came back with other bytes"));
        }
    }
}

/// Slurm's daemon was there when the check began and is not when it ends.
fn daemons(record: &Record, findings: &mut Vec<Finding>) {
    let mut before: BTreeMap<&NodeName, bool> = BTreeMap::new();
    for (line, f) in record.outcomes.facts() {
        let measure::Facts::Slurmd(runs) = f else { continue };
        if before.insert(&line.node, *runs) == Some(true) && !runs {
            let evidence = "slurmd ran when the check began, and no longer when it ended";
            findings.push(Finding::new(Code::CLU_009, Subject::Node((*line.node).clone()), evidence));
        }
    }
}

fn sharing(record: &Record, findings: &mut Vec<Finding>) {
    for nodes in record.sharing() {
        let names: Vec<String> = nodes.into_iter().map(|n| n.0.clone()).collect();
        let evidence = format!(
            "{} run under one kernel; they took turns where a step wants a machine whole",
            hostlist::compress(&names)
        );
        findings.push(Finding::new(Code::CLU_008, Subject::Run, evidence));
    }
}
