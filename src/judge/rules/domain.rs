//! NVLink domains: nodes whose GPUs reach each other over NVLink, what they need for it, and whether NCCL used it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::measure;
use crate::record::{OutcomeLine, Record};
use crate::topology::{Domain, Imex, Machine, Nccl, P2p, Way};

/// What switches NVLink between nodes off (NCCL 2.32, src/mnnvl.cc and src/init.cc).
const SWITCHES: &[&str] = &["NCCL_MNNVL_ENABLE", "NCCL_CUMEM_ENABLE", "NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL"];

pub(super) fn findings(record: &Record, findings: &mut Vec<Finding>) {
    let machines: BTreeMap<&NodeName, &Machine> = record.machines().collect();
    let mut domains: BTreeMap<Domain<'_>, Vec<&NodeName>> = BTreeMap::new();
    for (node, machine) in &machines {
        torn(node, machine, findings);
        if let Some(domain) = machine.nvlink_domain() {
            domains.entry(domain).or_default().push(node);
        }
    }
    for (domain, nodes) in domains.iter().filter(|(_, nodes)| nodes.len() > 1) {
        let lending: Vec<(&NodeName, &Imex)> =
            nodes.iter().filter_map(|n| Some((*n, machines.get(n)?.nvidia.as_ref()?.imex.as_ref()?))).collect();
        imex(*domain, &lending, findings);
    }
    if domains.len() > 1 {
        spread(&domains, findings);
    }
    let of_node: HashMap<&NodeName, Domain<'_>> =
        domains.iter().flat_map(|(d, nodes)| nodes.iter().map(move |n| (*n, *d))).collect();
    for (line, fact) in record.outcomes.facts() {
        if let measure::Facts::Nccl(nccl) = fact {
            findings.extend(by_network(record, line, nccl, &of_node));
        }
    }
}

/// A node whose GPUs are not all in one place: not even NCCL within the node can use them alike.
fn torn(node: &NodeName, machine: &Machine, findings: &mut Vec<Finding>) {
    let gpus = machine.nvidia.iter().flat_map(|n| &n.gpus);
    let places: BTreeSet<(Option<&str>, u32)> =
        gpus.filter_map(|g| g.fabric.as_ref()).map(|f| (f.cluster.as_deref(), f.clique)).collect();
    if places.len() > 1 {
        let shown: Vec<String> = places
            .iter()
            .map(|(cluster, clique)| {
                cluster.map_or(format!("clique {clique}"), |c| format!("{} clique {clique}", clean(c)))
            })
            .collect();
        let evidence = format!("the node's GPUs are in {} NVLink domains: {}", places.len(), shown.join(", "));
        findings.push(Finding::new(Code::GPU_010, Subject::Node(node.clone()), evidence));
    }
}

/// What every node of a domain needs before they can lend each other memory.
fn imex(domain: Domain<'_>, nodes: &[(&NodeName, &Imex)], findings: &mut Vec<Finding>) {
    let mut add = |node: &NodeName, evidence: String| {
        let evidence = format!("NVLink domain {domain}: {evidence}");
        findings.push(Finding::new(Code::GPU_022, Subject::Node(node.clone()), evidence));
    };
    let mut lists: BTreeMap<&[String], Vec<&NodeName>> = BTreeMap::new();
    for (node, imex) in nodes {
        if imex.channels.is_empty() {
            add(node, "no IMEX channel in /dev/nvidia-caps-imex-channels".to_owned());
        }
        if imex.daemon == Some(false) {
            add(node, "nvidia-imex does not run".to_owned());
        }
        if let Some(list) = &imex.nodes {
            lists.entry(list).or_default().push(node);
        }
    }
    // Daemons that were told different things do not come together; without a majority nobody can be named.
    let told: usize = lists.values().map(Vec::len).sum();
    let usual = lists.iter().find(|(_, nodes)| nodes.len() * 2 > told).map(|(list, _)| *list);
    match usual {
        _ if lists.len() < 2 => {}
        Some(usual) => {
            for (list, nodes) in lists.iter().filter(|(list, _)| **list != usual) {
                for node in nodes {
                    let (here, there) = (list.len(), usual.len());
                    add(node, format!("its nodes_config.cfg ({here} nodes) is not that of most ({there} nodes)"));
                }
            }
        }
        None => {
            let all: Vec<NodeName> = nodes.iter().map(|(n, _)| (*n).clone()).collect();
            let evidence = format!("NVLink domain {domain}: {} different nodes_config.cfg on its nodes", lists.len());
            findings.push(Finding::new(Code::GPU_022, Subject::Group(all), evidence));
        }
    }
}

fn spread(domains: &BTreeMap<Domain<'_>, Vec<&NodeName>>, findings: &mut Vec<Finding>) {
    /// More are counted only.
    const SHOWN: usize = 6;
    let shown: Vec<String> = domains
        .iter()
        .take(SHOWN)
        .map(|(domain, nodes)| {
            let names: Vec<String> = nodes.iter().map(|n| n.0.clone()).collect();
            format!("{} in {domain}", clean(&hostlist::compress(&names)))
        })
        .collect();
    let more = domains.len().saturating_sub(SHOWN);
    let tail = if more > 0 { format!(", and {more} more") } else { String::new() };
    let evidence = format!("{} NVLink domains: {}{tail}", domains.len(), shown.join(", "));
    findings.push(Finding::new(Code::GPU_021, Subject::Run, evidence));
}

/// A collective whose nodes share a domain and that did not use it.
fn by_network(
    record: &Record,
    line: &OutcomeLine,
    nccl: &Nccl,
    domains: &HashMap<&NodeName, Domain<'_>>,
) -> Option<Finding> {
    let step = record.steps.iter().find(|s| *s.name == *line.step)?;
    let group = step.group_of(&line.node)?;
    // The domain that most of the group is in, whoever is first.
    let mut members: BTreeMap<&Domain<'_>, usize> = BTreeMap::new();
    for domain in group.iter().filter_map(|n| domains.get(n)) {
        *members.entry(domain).or_default() += 1;
    }
    let (here, inside) = members.into_iter().max_by_key(|(_, n)| *n)?;
    let network: Vec<(&Way, u32)> =
        nccl.transports.iter().filter(|(way, _)| matches!(way, Way::Net { .. })).map(|(way, n)| (way, *n)).collect();
    let over_nvlink = nccl.transports.keys().any(|way| matches!(way, Way::P2p { by: P2p::Mnnvl, .. }));
    let whole = inside == group.len();
    // Between domains the network is what there is; then only a domain that nothing went through is left aside.
    if inside < 2 || network.is_empty() || (!whole && over_nvlink) {
        return None;
    }
    let shown: Vec<String> = network.iter().take(4).map(|(t, n)| format!("{n} by {}", clean(&t.to_string()))).collect();
    let set = nccl.settings.iter().filter(|(k, _)| SWITCHES.contains(&k.as_str()));
    let set: Vec<String> = set.map(|(k, v)| format!("; {}={}", clean(k), clean(v))).collect();
    let who = if whole { "all nodes are".to_owned() } else { format!("{inside} of {} nodes are", group.len()) };
    let evidence =
        format!("{}: {who} in NVLink domain {here}, and channels go {}{}", line.step, shown.join(", "), set.concat());
    let finding = Finding::new(Code::NCL_014, Subject::Group(group.to_vec()), evidence);
    Some(if whole { finding } else { finding.severity(Severity::Warn) })
}
