//! What NCCL says of itself -> findings.

mod network;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::measure::{self, stats};
use crate::record::{OutcomeLine, Record};
use crate::topology::{FabricState, Machine, Nccl, NcclTopology, NvLinks, Way, Wires};
use crate::unit::Unit;
use crate::work::Metric;

/// Variables that take a decision from NCCL which it makes better, or switch off what it needs.
const OVERRIDES: &[&str] = &[
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NCCL_NTHREADS",
    "NCCL_BUFFSIZE",
    "NCCL_MIN_NCHANNELS",
    "NCCL_MAX_NCHANNELS",
    "NCCL_MIN_CTAS",
    "NCCL_MAX_CTAS",
    "NCCL_P2P_DISABLE",
    "NCCL_P2P_LEVEL",
    "NCCL_SHM_DISABLE",
    "NCCL_NET_GDR_LEVEL",
    "NCCL_NET_GDR_READ",
    "NCCL_CROSS_NIC",
    "NCCL_NVLS_ENABLE",
    "NCCL_COLLNET_ENABLE",
    "NCCL_TOPO_FILE",
    "NCCL_GRAPH_FILE",
    "NCCL_CHECKS_DISABLE",
];

/// So many times what NCCL itself expects is told.
const FAR: f64 = 2.0;
/// NVLS needs the third generation of switches: compute capability 9.0.
const NVLS_SINCE: (i32, i32) = (9, 0);

pub(super) fn findings(record: &Record, findings: &mut Vec<Finding>) {
    let machines: HashMap<&NodeName, &Machine> = record.machines().collect();
    let mut told: HashSet<(Code, String)> = HashSet::new();
    let mut versions: BTreeMap<&str, BTreeSet<&NodeName>> = BTreeMap::new();
    // What a configuration file of NCCL (/etc/nccl.conf) sets, its log alone tells.
    let mut settings: HashMap<&NodeName, Vec<(&str, &str)>> = HashMap::new();
    for (line, fact) in record.outcomes.facts() {
        let measure::Facts::Nccl(nccl) = fact else { continue };
        if nccl.nodes == 1 && !nccl.version.is_empty() {
            versions.entry(&nccl.version).or_default().insert(&line.node);
        }
        let of_log = nccl.settings.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        settings.entry(&line.node).or_default().extend(of_log);
        of_communicator(nccl, machines.get(&*line.node).copied(), &mut |code, severity, evidence| {
            // The same of a node in every step is told once.
            if told.insert((code, format!("{} {evidence}", line.node))) {
                let f = Finding::new(code, subject(record, line), format!("{}: {evidence}", line.step));
                findings.push(match severity {
                    Some(s) => f.severity(s),
                    None => f,
                });
            }
        });
    }
    record.outcomes.iter().for_each(|line| far_from_expected(record, line, findings));
    for (node, machine) in record.machines() {
        overrides(node, machine, settings.get(node).map_or(&[], Vec::as_slice), findings);
    }
    differing(&versions, findings);
}

/// Nodes whose NCCL is not that of most; where no version has most, all of it is one finding.
fn differing(versions: &BTreeMap<&str, BTreeSet<&NodeName>>, findings: &mut Vec<Finding>) {
    let total: usize = versions.values().map(BTreeSet::len).sum();
    let usual = versions.iter().find(|(_, nodes)| nodes.len() * 2 > total);
    match usual {
        _ if versions.len() < 2 => {}
        Some((usual, most)) => {
            for (version, nodes) in versions.iter().filter(|(v, _)| *v != usual) {
                let evidence =
                    format!("NCCL {} here, {} on {} other node(s)", clean(version), clean(usual), most.len());
                let of = |n: &&NodeName| Finding::new(Code::NCL_008, Subject::Node((*n).clone()), evidence.clone());
                findings.extend(nodes.iter().map(of));
            }
        }
        None => {
            let shown: Vec<String> = versions
                .iter()
                .map(|(v, nodes)| {
                    let names: Vec<String> = nodes.iter().map(|n| n.0.clone()).collect();
                    format!("{} on {}", clean(v), clean(&hostlist::compress(&names)))
                })
                .collect();
            findings.push(Finding::new(Code::NCL_008, Subject::Run, format!("NCCL {}", shown.join(", "))));
        }
    }
}

fn subject(record: &Record, line: &OutcomeLine) -> Subject {
    let step = record.steps.iter().find(|s| *s.name == *line.step);
    let group = step.and_then(|s| s.group_of(&line.node));
    group.map_or_else(|| Subject::Node((*line.node).clone()), |g| Subject::Group(g.to_vec()))
}

/// Whether NVLinks join all GPUs of a communicator: bridges in pairs do not. Where NCCL did not tell, the driver's word that there are
/// some counts.
fn are_joined(n: &Nccl, machine: Option<&Machine>) -> bool {
    let told = |t: &&NcclTopology| t.cpus.iter().flat_map(|c| &c.gpus).any(|g| !g.joins.is_empty());
    match n.topology.as_ref().filter(told) {
        Some(topology) => matches!(Wires::of(topology).nvlinks, NvLinks::Ring(_)),
        None => machine
            .and_then(|m| m.nvidia.as_ref())
            .is_some_and(|n| n.gpus.iter().any(|g| g.nvlinks.iter().any(|l| l.active))),
    }
}

type Add<'a> = &'a mut dyn FnMut(Code, Option<Severity>, String);

fn of_communicator(n: &Nccl, machine: Option<&Machine>, add: Add<'_>) {
    // On one node the network carries nothing yet: what is wrong with it is a warning.
    let alone = (n.nodes == 1).then_some(Severity::Warn);
    network::findings(n, machine, alone, add);
    let shared = n.transports.iter().filter(|(w, _)| matches!(w, Way::Shm(_))).map(|(_, c)| *c);
    let channels = shared.fold(0, u32::saturating_add);
    if channels > 0 {
        let joined = are_joined(n, machine);
        let beside = if joined { ", though NVLinks join the GPUs" } else { "" };
        add(Code::NCL_005, joined.then_some(Severity::Fail), format!("{channels} channels by SHM{beside}"));
    }
    if n.nodes == 1 {
        ring(n, machine, add);
        placed(n, add);
    }
    let switched = machine.and_then(|m| m.nvidia.as_ref()).is_some_and(|n| {
        let fit = |g: &crate::topology::Gpu| {
            g.capability.is_some_and(|c| c >= NVLS_SINCE) && g.fabric.as_ref().is_some_and(FabricState::is_completed)
        };
        n.gpus.len() > 1 && n.gpus.iter().all(fit)
    });
    if n.nvls == Some(false) && switched && n.nodes == 1 && n.ranks > 1 {
        add(Code::NCL_010, None, "the GPUs are joined by NVSwitches, and NVLS multicast is not available".to_owned());
    }
    for paths in [true, false] {
        let of: Vec<String> = n
            .diagnoses
            .iter()
            .filter(|d| !d.ok && d.is_of_paths() == paths)
            .map(|d| format!("`{}: {}`", clean(&d.check), clean(&d.text)))
            .collect();
        if !of.is_empty() {
            let more = if of.len() > 4 { format!(" and {} lines more", of.len() - 4) } else { String::new() };
            // What did not pass between two GPUs is no difference of settings.
            let severity = paths.then_some(Severity::Hold);
            add(Code::NCL_015, severity, format!("{}{more}", of[..of.len().min(4)].join(", ")));
        }
    }
    if !n.warnings.is_empty() {
        let shown: Vec<String> = n.warnings.iter().take(3).map(|w| format!("`{}`", clean(w))).collect();
        add(Code::NCL_011, None, shown.join(", "));
    }
}

/// How often the ring goes from one NUMA node to another, where no switch makes that cheap.
fn ring(n: &Nccl, machine: Option<&Machine>, add: Add<'_>) {
    let Some(topology) = &n.topology else { return };
    let linked = machine
        .and_then(|m| m.nvidia.as_ref())
        .is_some_and(|n| n.gpus.iter().any(|g| g.nvlinks.iter().any(|l| l.active)));
    let mut numa: HashMap<i64, i64> = HashMap::new();
    for cpu in &topology.cpus {
        numa.extend(cpu.gpus.iter().filter_map(|g| Some((g.rank?, cpu.numa?))));
    }
    let order: Option<Vec<i64>> = n.ring.iter().map(|r| numa.get(&i64::from(*r)).copied()).collect();
    let Some(order) = order.filter(|o| o.len() > 2 && !linked) else { return };
    let crossings = (0..order.len()).filter(|i| order[*i] != order[(i + 1) % order.len()]).count();
    let places = order.iter().collect::<BTreeSet<_>>().len();
    let least = if places > 1 { places } else { 0 };
    if crossings > least {
        let shown: Vec<String> = n.ring.iter().map(u32::to_string).collect();
        add(
            Code::NCL_006,
            None,
            format!("ring {} changes its NUMA node {crossings} times, {least} would do", shown.join(" ")),
        );
    }
}

/// GPUs whose CPU has no adapter, while another CPU has several.
fn placed(n: &Nccl, add: Add<'_>) {
    let Some(topology) = &n.topology else { return };
    let nets = |c: &crate::topology::TopologyCpu| c.nets.iter().filter(|n| n.bus.is_some()).count();
    let most = topology.cpus.iter().map(nets).max().unwrap_or(0);
    for cpu in topology.cpus.iter().filter(|c| !c.gpus.is_empty() && nets(c) == 0 && most > 0) {
        let gpus: Vec<String> = cpu.gpus.iter().filter_map(|g| g.dev).map(|d| format!("gpu{d}")).collect();
        let at = cpu.numa.map_or("a NUMA node that is not known".to_owned(), |n| format!("NUMA node {n}"));
        add(Code::NCL_012, None, format!("{} on {at}: no adapter there, up to {most} on another", gpus.join(", ")));
    }
}

/// `settings` are those that NCCL told in its log on this node.
fn overrides(node: &NodeName, machine: &Machine, settings: &[(&str, &str)], findings: &mut Vec<Finding>) {
    // Without a GPU nobody will use NCCL here.
    let gpus = machine.gpus.iter().any(|g| g.is_nvidia());
    let of_machine = machine.environment.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let both = of_machine.chain(settings.iter().copied());
    let set: BTreeMap<&str, &str> = both.filter(|(k, _)| OVERRIDES.contains(k)).collect();
    if gpus && !set.is_empty() {
        let shown: Vec<String> = set.iter().map(|(k, v)| format!("{k}={}", clean(v))).collect();
        findings.push(Finding::new(Code::NCL_009, Subject::Node(node.clone()), shown.join(", ")));
    }
}

/// Large operations that take far longer than NCCL itself expects.
fn far_from_expected(record: &Record, line: &OutcomeLine, findings: &mut Vec<Finding>) {
    let Some(measured) = line.outcome.measured().filter(|_| line.probe.as_str() == "collective") else { return };
    for series in measured.series.iter().filter(|s| s.metric == Metric::Latency && !s.samples.is_empty()) {
        let Some(claimed) = series.nominal.as_ref().filter(|n| n.claimed && n.value > 0.0) else { continue };
        let took = stats::median(&series.samples);
        if took > FAR * claimed.value {
            let show = |s| Unit::Second.show(s);
            let evidence = format!("{}, `{}`: {}, {:.1} times", line.step, line.case, show(took), took / claimed.value);
            let limit = format!("{} by {}", show(claimed.value), claimed.why);
            findings.push(Finding::new(Code::NCL_013, subject(record, line), evidence).limit(limit));
        }
    }
}
