//! RDMA ports: state, rate, lanes, PCIe, addresses, partitions, and what they count under traffic.

use std::collections::BTreeMap;

use crate::id::{NodeName, clean};
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::measure::stats;
use crate::record::Record;
use crate::topology::{IbDevice, IbPort, Machine};
use crate::unit::Unit;
use crate::work::{Case, LinkCase, LinkTest, Memory, Metric, Scope, Way};

/// What models can do at most per port, in Gb/s; from the vendor's datasheets.
const MODELS: &[(&str, &str, f64)] = &[
    ("MT4113", "Connect-IB", 56.0),
    ("MT4115", "ConnectX-4", 100.0),
    ("MT4117", "ConnectX-4 Lx", 50.0),
    ("MT4119", "ConnectX-5", 100.0),
    ("MT4121", "ConnectX-5 Ex", 100.0),
    ("MT4123", "ConnectX-6", 200.0),
    ("MT4125", "ConnectX-6 Dx", 200.0),
    ("MT4127", "ConnectX-6 Lx", 50.0),
    ("MT4129", "ConnectX-7", 400.0),
    ("MT4131", "ConnectX-8", 800.0),
    ("MT41692", "BlueField-3", 400.0),
];

/// Of what the rails reach alone, less than this together is told.
const TOGETHER: f64 = 0.85;

pub(super) fn findings(record: &Record, findings: &mut Vec<Finding>) {
    for (node, machine) in record.machines() {
        of_machine(machine, &mut |code, severity, evidence| {
            let f = Finding::new(code, Subject::Node(node.clone()), evidence);
            findings.push(severity.map_or(f.clone(), |s| f.severity(s)));
        });
    }
    slower_than_like(record, findings);
    counters(record, findings);
    together(record, findings);
}

pub(super) fn active(p: &IbPort) -> bool {
    p.state.as_deref() == Some("ACTIVE")
}

/// Gb/s of `400 Gb/sec (4X NDR)`; `None` for a device that is software, whose rate is invented.
fn rate(d: &IbDevice, p: &IbPort) -> Option<f64> {
    let text = p.rate.as_deref().filter(|_| d.driver.is_some())?;
    text.split_once(" Gb/sec")?.0.parse().ok().filter(|g: &f64| g.is_finite() && *g > 0.0)
}

fn of_machine(m: &Machine, add: &mut dyn FnMut(Code, Option<Severity>, String)) {
    for (d, p) in m.infiniband.iter().flat_map(|d| d.ports.iter().map(move |p| (d, p))) {
        let name = format!("{} port {}", d.name, p.port);
        if !active(p) {
            let (state, physical) =
                (p.state.as_deref().unwrap_or("unknown"), p.phys_state.as_deref().unwrap_or("unknown"));
            add(Code::RDM_002, None, format!("{name}: {}, physically {}", clean(state), clean(physical)));
            continue;
        }
        let shown = clean(p.rate.as_deref().unwrap_or(""));
        if p.link_layer.as_deref() == Some("InfiniBand") {
            if shown.contains("(1X") {
                add(Code::RDM_006, None, format!("{name}: {shown}"));
            }
            match (p.lid, p.sm_lid) {
                (Some(0 | 0xffff), _) => add(Code::RDM_009, None, format!("{name}: ACTIVE, and its LID is not set")),
                (_, Some(0)) => {
                    add(Code::RDM_009, None, format!("{name}: ACTIVE, and no subnet manager is known to it"))
                }
                _ => {}
            }
            if let Some(key) = p.pkeys.first().filter(|k| **k & 0x8000 == 0) {
                add(Code::RDM_010, None, format!("{name}: {key:#06x}"));
            }
        }
        let model = MODELS.iter().find(|(id, ..)| Some(*id) == d.model.as_deref());
        if let (Some((id, model, most)), Some(rate)) = (model, rate(d, p))
            && rate < 0.95 * most
        {
            let board = d.board.as_deref().map_or(String::new(), |b| format!(", board {}", clean(b)));
            add(Code::RDM_007, None, format!("{name}: {shown}; {model} ({id}{board}) can reach {most} Gb/s"));
        }
    }
    for d in &m.infiniband {
        let Some(pcie) = &d.pcie else { continue };
        let Some(link) = pcie.link else { continue };
        let most = [pcie.most, pcie.slot].into_iter().flatten().min_by(|a, b| a.rate().total_cmp(&b.rate()));
        let wanted: f64 = d.ports.iter().filter(|p| active(p)).filter_map(|p| rate(d, p)).sum::<f64>() * 1e9 / 8.0;
        let show = |rate: f64| Unit::BytePerSecond.show(rate);
        let narrow = most.filter(|m| link.rate() < 0.95 * m.rate());
        let below = wanted > 0.0 && link.rate() < wanted;
        let why = match (narrow, below) {
            (None, false) => continue,
            (Some(m), _) => format!("{} here and {} possible in this slot", link, m),
            (None, true) => format!("{link} is all that this slot and device can do"),
        };
        let ports =
            if below { format!("; {} of PCIe, {} of ports", show(link.rate()), show(wanted)) } else { String::new() };
        // Narrow and yet enough is a flaw; less than the port carries, where more was possible, is a fault.
        let severity = (below && narrow.is_some()).then_some(Severity::Fail);
        add(Code::RDM_008, severity, format!("{}: {why}{ports}", d.name));
    }
}

/// Ports of one model, layer and board: the rate of most is what the others should have.
fn slower_than_like(record: &Record, findings: &mut Vec<Finding>) {
    type Kind<'a> = (&'a str, &'a str, &'a str);
    let mut kinds: BTreeMap<Kind<'_>, Vec<(&NodeName, String, f64)>> = BTreeMap::new();
    for (node, machine) in record.machines() {
        for (d, p) in
            machine.infiniband.iter().flat_map(|d| d.ports.iter().map(move |p| (d, p))).filter(|(_, p)| active(p))
        {
            if let (Some(model), Some(layer), Some(rate)) = (&d.model, &p.link_layer, rate(d, p)) {
                let kind = (model.as_str(), d.board.as_deref().unwrap_or(""), layer.as_str());
                kinds.entry(kind).or_default().push((node, format!("{} port {}", d.name, p.port), rate));
            }
        }
    }
    for ((model, _, layer), ports) in kinds {
        let rates: Vec<f64> = ports.iter().map(|(.., r)| *r).collect();
        let fastest = rates.iter().copied().fold(0.0, f64::max);
        let many = rates.iter().filter(|r| **r == fastest).count();
        // Where fewer than half are fast, the others are meant to be as they are.
        if many * 2 <= rates.len() {
            continue;
        }
        for (node, name, rate) in ports.iter().filter(|(.., r)| *r < fastest) {
            let evidence = format!(
                "{name}: {rate} Gb/s; {many} of {} {layer} ports of {} run at {fastest}",
                rates.len(),
                clean(model)
            );
            findings.push(Finding::new(Code::RDM_005, Subject::Node((*node).clone()), evidence));
        }
    }
}

/// Error counters that moved under traffic, each port once with all that moved.
fn counters(record: &Record, findings: &mut Vec<Finding>) {
    let mut ports: BTreeMap<(NodeName, String, u8), BTreeMap<String, u64>> = BTreeMap::new();
    for (line, measured) in record.outcomes.beyond_samples() {
        for c in &measured.counters {
            let node = c.node.clone().unwrap_or_else(|| (*line.node).clone());
            let port = ports.entry((node, c.device.clone(), c.port)).or_default();
            for (name, by) in &c.moved {
                *port.entry(name.clone()).or_default() += by;
            }
        }
    }
    // To wait for room at the other end is what a full link does: by itself it is no error.
    ports.retain(|_, moved| moved.keys().any(|name| name != "port_xmit_wait"));
    for ((node, device, port), moved) in ports {
        let shown: Vec<String> = moved.iter().map(|(name, by)| format!("{name} +{by}")).collect();
        let evidence = format!("{device} port {port}: {}", shown.join(", "));
        findings.push(Finding::new(Code::RDM_001, Subject::Node(node), evidence));
    }
}

/// Devices of two nodes all at once against each alone.
fn together(record: &Record, findings: &mut Vec<Finding>) {
    let median = |line: &crate::record::OutcomeLine| {
        let s =
            line.outcome.measured()?.series.iter().find(|s| s.metric == Metric::Bandwidth && !s.samples.is_empty())?;
        Some(stats::median(&s.samples))
    };
    // What a device reached alone, by the best of its pairs.
    let mut alone: BTreeMap<&str, f64> = BTreeMap::new();
    let mut pairs: BTreeMap<&NodeName, BTreeMap<&str, f64>> = BTreeMap::new();
    for line in record.outcomes.iter().filter(|l| l.probe.as_str() == "rdma") {
        let Some(rate) = median(line) else { continue };
        let Case::Link(LinkCase { scope, test, over: Some(device) }) = &line.case else { continue };
        let LinkTest::Flow { way: Way::Out | Way::Back, memory: Memory::Host } = test else { continue };
        match scope {
            Scope::Pair => {
                let best = alone.entry(device).or_default();
                *best = best.max(rate);
            }
            Scope::AllRails => {
                let both = pairs.entry(&line.node).or_default().entry(device).or_insert(rate);
                *both = both.min(rate);
            }
            Scope::Loopback => {}
        }
    }
    let all_rails = |c: &Case| matches!(c, Case::Link(LinkCase { scope: Scope::AllRails, .. }));
    let step = record.steps.iter().find(|s| s.cases.iter().any(all_rails));
    let mut slow: Vec<(Subject, String)> = Vec::new();
    for (node, rails) in &pairs {
        let shares: Vec<(&str, f64, f64)> =
            rails.iter().filter_map(|(d, r)| Some((*d, *r, *alone.get(d).filter(|a| **a > 0.0)?))).collect();
        let (sum, each): (f64, f64) = shares.iter().fold((0.0, 0.0), |(s, e), (_, r, a)| (s + r, e + a));
        if shares.len() < 2 || sum >= TOGETHER * each {
            continue;
        }
        let shown: Vec<String> = shares.iter().map(|(d, r, a)| format!("{d} {:.0} %", 100.0 * r / a)).collect();
        let show = |v: f64| Unit::BytePerSecond.show(v);
        let evidence = format!("{} together, {} alone: {}", show(sum), show(each), shown.join(", "));
        let other = step.and_then(|s| s.group_of(node)).and_then(|g| g.get(1));
        let subject = other.map_or(Subject::Node((*node).clone()), |o| Subject::Link((*node).clone(), o.clone()));
        slow.push((subject, evidence));
    }
    // Where most pairs show it, it is how the nodes are built.
    if slow.len() * 2 > pairs.len() && slow.len() > 1 {
        let (_, first) = &slow[0];
        let evidence = format!("{} of {} pairs alike, such as {first}", slow.len(), pairs.len());
        findings.push(Finding::new(Code::RDM_004, Subject::Run, evidence));
        return;
    }
    findings.extend(slow.into_iter().map(|(subject, evidence)| Finding::new(Code::RDM_004, subject, evidence)));
}
