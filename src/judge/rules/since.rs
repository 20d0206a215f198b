//! What befell the node of a watch since the gate opened -> findings, by the rules of the check itself.

use crate::id::{NodeName, clean};
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::rules::ports::active;
use crate::judge::rules::stretch::Stretch;
use crate::judge::rules::{gpus, links};
use crate::judge::severity::Severity;
use crate::measure::{CountersMoved, OwnNode, Since};
use crate::topology::{IbPort, Machine, Nic};

/// Counters of a port that move when its link is bad. The others move in any long run: queues fill, receivers are late.
const OF_THE_LINK: &[&str] = &[
    "symbol_error",
    "link_error_recovery",
    "link_downed",
    "port_rcv_errors",
    "port_rcv_remote_physical_errors",
    "local_link_integrity_errors",
    "excessive_buffer_overrun_errors",
];

pub(super) fn findings(node: &NodeName, own: &OwnNode, findings: &mut Vec<Finding>) {
    let s = match own {
        OwnNode::Looked(s) => s,
        OwnNode::Unseen(why) => {
            let evidence = format!("what it counts is not known now: {}", clean(why));
            findings.push(Finding::new(Code::COV_008, Subject::Node(node.clone()), evidence));
            return;
        }
    };
    if restarted(&s.before, &s.after) {
        let evidence = "its boot id is another than at the check: its counters begin anew".to_owned();
        findings.push(Finding::new(Code::CLU_012, Subject::Node(node.clone()), evidence));
        return;
    }
    let over = if s.of_check { Stretch::Run } else { Stretch::Watch };
    of_gpus(node, s, over, findings);
    of_interfaces(node, s, over, findings);
    of_ports(node, s, over, findings);
}

fn restarted(before: &Machine, after: &Machine) -> bool {
    before.boot.as_ref().zip(after.boot.as_ref()).is_some_and(|(was, now)| was != now)
}

fn of_gpus(node: &NodeName, s: &Since, over: Stretch, findings: &mut Vec<Finding>) {
    let mut add = |code: Code, severity: Option<Severity>, evidence: String| {
        let f = Finding::new(code, Subject::Node(node.clone()), evidence);
        findings.push(severity.map_or(f.clone(), |severity| f.severity(severity)));
    };
    match (&s.before.nvidia, &s.after.nvidia) {
        (Some(before), Some(after)) => {
            gpus::since(&s.after, before, after, over, &mut add);
            gpus::at_work(after, &mut add);
        }
        (Some(_), None) => {
            let [first, last] = over.ends();
            add(Code::GPU_001, Some(Severity::Fail), format!("the driver was there {first}, and is not {last}"));
        }
        (None, _) => {}
    }
}

/// Those that a run may use: up, with a device behind them or an address. What containers make and drop is none of its business.
fn in_use(nic: &&Nic) -> bool {
    nic.name != "lo" && nic.state.as_deref() == Some("up") && (nic.pci.is_some() || !nic.addresses.is_empty())
}

fn of_interfaces(node: &NodeName, s: &Since, over: Stretch, findings: &mut Vec<Finding>) {
    for was in s.before.nics.iter().filter(in_use) {
        let lost = |what: &str, findings: &mut Vec<Finding>| {
            let [first, last] = over.ends();
            let evidence = format!("{} was up {first}, and {last} it is {what}", clean(&was.name));
            let finding = Finding::new(Code::NET_035, Subject::Node(node.clone()), evidence).severity(Severity::Fail);
            findings.push(finding.on_interface(Some(&was.name)));
        };
        let Some(now) = s.after.nics.iter().find(|n| n.name == was.name) else {
            lost("gone", findings);
            continue;
        };
        // Counters that went back are those of an interface that was made anew.
        let grew = |was: Option<u64>, now: Option<u64>| now.zip(was).map_or(0, |(n, w)| n.saturating_sub(w));
        let carrier = grew(was.carrier_changes, now.carrier_changes);
        links::moved(node, &was.name, carrier, grew(was.errors, now.errors), over, findings);
        match now.state.as_deref() {
            Some("up") | None => {}
            Some(state) => lost(&clean(state), findings),
        }
    }
}

fn of_ports(node: &NodeName, s: &Since, over: Stretch, findings: &mut Vec<Finding>) {
    for device in &s.before.infiniband {
        for was in device.ports.iter().filter(|p| active(p)) {
            let now = s.after.infiniband.iter().filter(|d| d.name == device.name).flat_map(|d| &d.ports);
            let now = now.into_iter().find(|p| p.port == was.port);
            let [first, last] = over.ends();
            let shown = match now {
                None => "gone".to_owned(),
                Some(p) if !active(p) => clean(p.state.as_deref().unwrap_or("unknown")).into_owned(),
                // Narrower or slower than it was: it trained again, and worse.
                Some(p) if p.rate != was.rate => {
                    let rate = |p: &IbPort| clean(p.rate.as_deref().unwrap_or("no rate")).into_owned();
                    format!("at {}, not at {}", rate(p), rate(was))
                }
                Some(_) => continue,
            };
            let evidence = format!("{} port {} was ACTIVE {first}, and {last} it is {shown}", device.name, was.port);
            let finding = Finding::new(Code::RDM_002, Subject::Node(node.clone()), evidence);
            findings.push(finding.severity(Severity::Fail));
        }
    }
    for CountersMoved { device, port, moved, .. } in &s.ports {
        let moved: Vec<&(String, u64)> = moved.iter().filter(|(n, _)| OF_THE_LINK.contains(&n.as_str())).collect();
        if moved.is_empty() {
            continue;
        }
        let fell = moved.iter().any(|(name, _)| name == "link_downed");
        let shown: Vec<String> = moved.iter().map(|(name, by)| format!("{} +{by}", clean(name))).collect();
        let evidence = format!("{} port {port}, {}: {}", clean(device), Stretch::Watch.during(), shown.join(", "));
        let finding = Finding::new(Code::RDM_001, Subject::Node(node.clone()), evidence);
        findings.push(if fell { finding.severity(Severity::Fail) } else { finding });
    }
}
