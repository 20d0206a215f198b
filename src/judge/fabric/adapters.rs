//! What ibstat says of nodes' adapters -> findings. Pure.
//!
//! ibstat knows neither the adapter's board nor what a port is for: within a node, ports of one type may be meant to differ, and one
//! that is slower is a warning. The same port of the same device on many nodes is meant to be alike.

use std::collections::BTreeMap;

use crate::judge::codes::Code;
use crate::judge::fabric::like::{FEW, UNIFORM};
use crate::judge::fabric::names::{Names, cable};
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::topology::ib::{Adapter, AdapterPort, Speed, fastest_of_type};

/// A port with its adapter.
type Place<'a> = (&'a Adapter, &'a AdapterPort);

pub(super) fn findings(adapters: &[Adapter], names: &Names<'_>, out: &mut Vec<Finding>) {
    let ports: Vec<Place<'_>> = adapters.iter().flat_map(|a| a.ports.iter().map(move |p| (a, p))).collect();
    for place in &ports {
        state(*place, names, out);
    }
    fallen_back(&ports, names, out);
    layers(&ports, names, out);
    rates(&ports, names, out);
}

/// Both ends of the cable where a topology tells them, else where the port was seen.
fn subject((adapter, port): Place<'_>, names: &Names<'_>) -> Subject {
    let end = names.end(port.guid, None, port.number);
    match (end, end.and_then(|e| names.peer(e)), names.subnet) {
        (Some(a), Some(b), Some(subnet)) => cable(subnet, a, b),
        (Some(a), None, Some(subnet)) => Subject::Cable(subnet.show(a), "nothing".to_owned()),
        _ => {
            let own = format!("{}: {} port {}", adapter.source, adapter.device, port.number);
            Subject::Cable(own, "unknown".to_owned())
        }
    }
}

fn state(place: Place<'_>, names: &Names<'_>, out: &mut Vec<Finding>) {
    let port = place.1;
    let is_stuck = matches!(port.physical.as_str(), "PortConfigurationTraining" | "LinkErrorRecovery")
        || matches!(port.state.as_str(), "Initializing" | "Armed");
    if port.state == "Active" && !is_stuck {
        return;
    }
    let why = match port.physical.as_str() {
        _ if is_stuck => "",
        "Disabled" => ": it was turned off",
        _ => ": no cable, or nothing at its other end",
    };
    let evidence = format!("{} / {}{why}", port.state, port.physical);
    let finding = Finding::new(Code::FAB_003, subject(place, names), evidence);
    // A port that is down may be meant to have no cable.
    out.push(if is_stuck { finding } else { finding.severity(Severity::Warn) });
}

/// InfiniBand ports of adapters that can do EDR or more at a rate that only one lane or SDR has: nobody builds that, so that one port
/// alone shows it.
fn fallen_back(ports: &[Place<'_>], names: &Names<'_>, out: &mut Vec<Finding>) {
    for place in ports.iter().filter(|(_, p)| p.state == "Active" && p.layer == "InfiniBand") {
        let (Some(rate), Some(best)) = (place.1.rate, fastest_of_type(&place.0.model)) else { continue };
        let is_modern = best.lane_gbps() >= Speed::Edr.lane_gbps();
        let Some((_, what, certain)) = LEFT_OVER.iter().find(|(gbps, ..)| is_modern && *gbps == rate) else { continue };
        let evidence = format!("its rate is {rate} Gb/s: {what}");
        let finding = Finding::new(Code::FAB_002, subject(*place, names), evidence);
        let finding = finding.limit(format!("up to 4x{best}: what a {} can do", place.0.model));
        out.push(if *certain { finding } else { finding.severity(Severity::Warn) });
    }
}

/// Rates of ibstat, in Gb/s, that no link is built for, what they are of, and whether they can be of nothing else.
const LEFT_OVER: &[(f64, &str, bool)] = &[
    (2.5, "one lane at SDR", true),
    (5.0, "one lane at DDR, or two at SDR", true),
    (10.0, "SDR, or one lane at QDR", true),
    (14.0, "one lane at FDR", true),
    (25.0, "one lane at EDR", true),
    // An EDR adapter at half of a splitter cable has two lanes.
    (50.0, "one lane at HDR, or two at EDR", false),
];

/// The same port of the same device on every node.
fn alike<'p>(ports: &[Place<'p>]) -> Vec<Vec<Place<'p>>> {
    let mut groups: BTreeMap<(&str, &str, u32), Vec<Place<'p>>> = BTreeMap::new();
    for (adapter, port) in ports {
        let key = (adapter.device.as_str(), adapter.model.as_str(), port.number);
        groups.entry(key).or_default().push((adapter, port));
    }
    groups.into_values().filter(|group| group.len() >= FEW).collect()
}

fn is_usual(n: usize, of: usize) -> bool {
    n as f64 >= UNIFORM * of as f64
}

/// Ports with another link layer than the same port has on nearly all nodes.
fn layers(ports: &[Place<'_>], names: &Names<'_>, out: &mut Vec<Finding>) {
    for group in alike(ports) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, port) in group.iter().filter(|(_, p)| !p.layer.is_empty()) {
            *counts.entry(port.layer.as_str()).or_default() += 1;
        }
        let Some((usual, n)) = counts.into_iter().max_by_key(|(_, n)| *n) else { continue };
        if !is_usual(n, group.len()) {
            continue;
        }
        for place in group.iter().filter(|(_, p)| !p.layer.is_empty() && p.layer != usual) {
            let (adapter, port) = place;
            let evidence = format!("{} port {} is {}", adapter.device, port.number, port.layer);
            let limit = format!("{usual}: {n} of {} nodes", group.len());
            out.push(Finding::new(Code::FAB_017, subject(*place, names), evidence).limit(limit));
        }
    }
}

/// Ports below the rate of their like: of the same port on the other nodes, else of the ports of this type.
fn rates(ports: &[Place<'_>], names: &Names<'_>, out: &mut Vec<Finding>) {
    let up: Vec<Place<'_>> =
        ports.iter().filter(|(_, p)| p.state == "Active" && p.rate.is_some_and(|r| r > 0.0)).copied().collect();
    let mut layers: BTreeMap<&str, Vec<Place<'_>>> = BTreeMap::new();
    for place in &up {
        layers.entry(place.1.layer.as_str()).or_default().push(*place);
    }
    for (layer, ports) in &layers {
        for group in alike(ports) {
            slower(&group, is_usual, &format!("{layer} nodes"), Severity::Fail, names, out);
        }
        let mut models: BTreeMap<&str, Vec<Place<'_>>> = BTreeMap::new();
        for place in ports {
            models.entry(place.0.model.as_str()).or_default().push(*place);
        }
        for (model, group) in models {
            // Where no more than half are fast, the others are meant to be as they are.
            slower(&group, |n, of| 2 * n > of, &format!("{layer} ports of {model}"), Severity::Warn, names, out);
        }
    }
}

/// Ports below the highest rate of a group, where enough of it have that.
fn slower(
    group: &[Place<'_>],
    is_enough: impl Fn(usize, usize) -> bool,
    what: &str,
    severity: Severity,
    names: &Names<'_>,
    out: &mut Vec<Finding>,
) {
    let rate = |place: &Place<'_>| place.1.rate.unwrap_or(0.0);
    let fastest = group.iter().map(rate).fold(0.0, f64::max);
    let is_slow = |place: &&Place<'_>| rate(place) < 0.99 * fastest;
    let slow: Vec<&Place<'_>> = group.iter().filter(is_slow).collect();
    let n = group.len() - slow.len();
    if !is_enough(n, group.len()) {
        return;
    }
    for place in slow {
        let evidence = format!("its rate is {} Gb/s", rate(place));
        let limit = format!("{fastest} Gb/s: {n} of {} {what}", group.len());
        out.push(Finding::new(Code::FAB_002, subject(*place, names), evidence).limit(limit).severity(severity));
    }
}
