//! Steps over several nodes: which pairs and groups, in which order.

use crate::cluster::Step;
use crate::id::NodeName;
use crate::localise::{self, Kind, PAIR_STEP, Part, Round};
use crate::plan::{CheckPlan, Tier};
use crate::probe;
use crate::record::Record;

/// The next round of pairs among `alive` nodes, as a step; `None` when enough is known.
pub(super) fn next_pairs(record: &Record, plan: &CheckPlan, alive: &[NodeName], done: &[Kind]) -> Option<(Step, Kind)> {
    let mut network = localise::network(record);
    if done.is_empty() || network.nodes.is_empty() {
        let nodes: Vec<&NodeName> = alive.iter().collect();
        network.pairs = localise::Pairs::new(localise::leaf_numbers(&nodes, &record.header.leaves));
        network.nodes = nodes;
    }
    let Round { kind, pairs } = localise::next(&network.pairs, done, plan.seed)?;
    let name = |i: u32| network.nodes[i as usize].clone();
    // A node that died meanwhile, and its partner, sit this one out.
    let there = |i: u32| alive.contains(network.nodes[i as usize]);
    let pairs: Vec<_> = pairs.into_iter().filter(|(a, b, _)| there(*a) && there(*b)).collect();
    if pairs.is_empty() {
        return None;
    }
    let controls: Vec<NodeName> = pairs.iter().filter(|(_, _, c)| *c).map(|(a, _, _)| name(*a)).collect();
    let mut step = probe::pair_step(plan);
    step.name = format!("{PAIR_STEP}{}", done.len() + 1);
    step.args = localise::round_args(kind.name(), &controls);
    step.groups = pairs.iter().map(|(a, b, _)| vec![name(*a), name(*b)]).collect();
    Some((step, kind))
}

/// Nodes in leaf order: neighbours in the list are neighbours in the fabric, as a scheduler's ranks are.
fn in_leaf_order(record: &Record, nodes: &[NodeName]) -> Vec<(u32, NodeName)> {
    let refs: Vec<&NodeName> = nodes.iter().collect();
    let leaves = localise::leaf_numbers(&refs, &record.header.leaves);
    let mut out: Vec<(u32, NodeName)> = leaves.into_iter().zip(nodes.iter().cloned()).collect();
    out.sort_by_key(|(leaf, _)| *leaf);
    out
}

/// Collectives: by leaf, the ladder 2, 4, 8 ... and the world. Groups of one step are disjoint.
pub(super) fn collectives(record: &Record, plan: &CheckPlan, nodes: &[NodeName]) -> Vec<Step> {
    if nodes.len() < 2 || !plan.wants("collective") {
        return Vec::new();
    }
    let ordered = in_leaf_order(record, nodes);
    let names: Vec<NodeName> = ordered.iter().map(|(_, n)| n.clone()).collect();
    let total = names.len();
    let mut out = Vec::new();
    let mut add = |topology: &str, size: usize, groups: Vec<Vec<NodeName>>| {
        if !groups.is_empty() {
            let mut step = probe::group_step(plan, topology, size as u32);
            step.groups = groups;
            out.push(step);
        }
    };
    let mut size = 2;
    while size < total {
        add("ladder", size, names.chunks_exact(size).map(<[NodeName]>::to_vec).collect());
        size *= 2;
    }
    if plan.tier != Tier::Quick {
        // The ring that a job's ranks will use, in two rounds of disjoint neighbours.
        let neighbours = |first: usize| -> Vec<Vec<NodeName>> {
            (first..total)
                .step_by(2)
                .filter(|i| total > 2 || *i + 1 < total)
                .map(|i| vec![names[i].clone(), names[(i + 1) % total].clone()])
                .collect()
        };
        let mut even = neighbours(0);
        even.retain(|p| total.is_multiple_of(2) || p[1] != names[0]);
        add("ring", 2, even);
        let leaves: Vec<Vec<NodeName>> =
            ordered.chunk_by(|a, b| a.0 == b.0).map(|c| c.iter().map(|(_, n)| n.clone()).collect()).collect();
        let mut sizes: Vec<usize> = leaves.iter().map(Vec::len).filter(|n| *n > 1 && *n < total).collect();
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes {
            add("leaf", size, leaves.iter().filter(|l| l.len() == size).cloned().collect());
        }
    }
    add("world", total, vec![names.clone()]);
    out
}

/// Nodes whose own network is bad by the pairs measured so far.
pub(super) fn bad_nodes(record: &Record) -> Vec<NodeName> {
    let network = localise::network(record);
    let of = |part: &Part| match part {
        Part::Sends(i) | Part::Receives(i) => Some(network.nodes[*i as usize].clone()),
        Part::Up(_) | Part::Down(_) => None,
    };
    network.pairs.verdict().bad.iter().filter_map(|(part, _)| of(part)).collect()
}
