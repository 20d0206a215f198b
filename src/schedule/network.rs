//! Steps over several nodes: which pairs and groups, in which order.

use std::collections::{HashMap, HashSet};

use crate::cluster::{PairRound, Shape, Step};
use crate::id::NodeName;
use crate::localise::{self, Plane, Reading, Round};
use crate::measure::{Outcome, WaiveKind, stats};
use crate::plan::CheckPlan;
use crate::probe;
use crate::record::{OutcomeLine, Record};
use crate::topology::{Machine, Nic};
use crate::work::{Carrier, Metric, RoundKind, Topology};

/// A plane, and how many GPUs of each node take part in it: none where processes of the host do.
pub(super) struct Net {
    pub plane: Plane,
    pub gpus: u32,
}

impl Net {
    pub fn host(plane: Plane) -> Self {
        Net { plane, gpus: 0 }
    }

    /// The GPUs by NCCL.
    pub fn nccl(gpus: u32) -> Self {
        Net { plane: Plane::of_carrier(&Carrier::Nccl), gpus }
    }

    pub fn pair_step(&self, plan: &CheckPlan) -> Step {
        match self.gpus {
            0 => probe::pair_step(plan, &self.plane.probe, self.plane.rail.as_deref()),
            gpus => probe::nccl_step(plan, Topology::Pair, 2, gpus),
        }
    }

    /// `rate` is what pairs of nodes reached, where that is known.
    fn group_step(&self, plan: &CheckPlan, topology: Topology, nodes: u32, rate: Option<f64>) -> Step {
        let carrier = self.plane.carrier().map_or(Carrier::Tcp, |device| Carrier::Rdma(device.into()));
        match self.gpus {
            0 => probe::group_step(plan, topology, nodes, &carrier, rate),
            gpus => probe::nccl_step(plan, topology, nodes, gpus),
        }
    }
}

/// Whether the GPUs' driver said what it has.
pub(super) fn driver_answers(machine: &Machine) -> bool {
    machine.gpus_granted().is_some_and(|gpus| gpus > 0)
}

/// The nodes that have as many GPUs as most have, and how many that is.
pub(super) fn with_gpus(machines: &[(NodeName, Machine)]) -> (u32, Vec<NodeName>) {
    let count = |m: &Machine| if driver_answers(m) { probe::visible_gpus(m).len() as u32 } else { 0 };
    let mut by_count: HashMap<u32, Vec<NodeName>> = HashMap::new();
    for (node, machine) in machines.iter().filter(|(_, m)| count(m) > 0) {
        by_count.entry(count(machine)).or_default().push(node.clone());
    }
    by_count.into_iter().max_by_key(|(gpus, nodes)| (nodes.len(), *gpus)).unwrap_or_default()
}

/// The next round of pairs among `alive` nodes on a plane, as a step; `None` when enough is known.
pub(super) fn next_pairs(
    record: &Record,
    plan: &CheckPlan,
    net: &Net,
    alive: &[NodeName],
    done: &[RoundKind],
) -> Option<(Step, RoundKind)> {
    let plane = &net.plane;
    // Who sat out is among them, and who died is not measured any more.
    let mut network = localise::network_among(record, plane, alive);
    let there: HashSet<&NodeName> = alive.iter().collect();
    let further = localise::planes(record).iter().any(|p| p.probe == plane.probe && p != plane);
    if plane.late || (further && plan.tier.is_short()) {
        // The nodes are known by now: two partners show a bad rail, and only suspects are looked at again.
        network.pairs.full = 2;
    }
    let there = |i: u32| there.contains(network.nodes[i as usize]);
    let Round { kind, pairs } = localise::next(&network.pairs, &there, done, plan.seed)?;
    let name = |i: u32| network.nodes[i as usize].clone();
    let controls: Vec<NodeName> = pairs.iter().filter(|(_, _, c)| *c).map(|(a, _, _)| name(*a)).collect();
    let mut step = net.pair_step(plan);
    step.name = plane.step_name(done.len() + 1);
    let pairs = pairs.iter().map(|(a, b, _)| [name(*a), name(*b)]).collect();
    step.shape = Shape::Pairs(PairRound { kind, controls, late: plane.late }, pairs);
    Some((step, kind))
}

/// Nodes in leaf order: neighbours in the list are neighbours in the fabric, as a scheduler's ranks are.
fn in_leaf_order(record: &Record, nodes: &[NodeName]) -> Vec<(u32, NodeName)> {
    let refs: Vec<&NodeName> = nodes.iter().collect();
    let leaves = localise::leaf_numbers(&refs, &localise::leaves(record));
    let mut out: Vec<(u32, NodeName)> = leaves.into_iter().zip(nodes.iter().cloned()).collect();
    out.sort_by_key(|(leaf, _)| *leaf);
    out
}

/// Collectives over TCP or an RDMA device: by leaf, the ladder 2, 4, 8 ... and the world. Groups of one step are disjoint.
pub(super) fn collectives(record: &Record, plan: &CheckPlan, nodes: &[NodeName], net: &Net) -> Vec<Step> {
    if nodes.len() < 2 || !plan.wants("collective") {
        return Vec::new();
    }
    let rate = pair_rate(record, &net.plane);
    let ordered = in_leaf_order(record, nodes);
    let names: Vec<NodeName> = ordered.iter().map(|(_, n)| n.clone()).collect();
    let total = names.len();
    let mut out = Vec::new();
    let mut alike: HashMap<(Topology, usize), u32> = HashMap::new();
    let mut add = |topology: Topology, size: usize, groups: Vec<Vec<NodeName>>| {
        if !groups.is_empty() {
            let mut step = net.group_step(plan, topology, size as u32, rate);
            let number = alike.entry((topology, size)).or_default();
            *number += 1;
            if *number > 1 {
                step.name = format!("{}-{number}", step.name);
            }
            step.shape = Shape::Groups(groups);
            out.push(step);
        }
    };
    let mut size = 2;
    while size < total {
        add(Topology::Ladder, size, names.chunks_exact(size).map(<[NodeName]>::to_vec).collect());
        size *= 2;
    }
    if !plan.tier.is_short() {
        for neighbours in ring(&names) {
            add(Topology::Ring, 2, neighbours);
        }
        let leaves: Vec<Vec<NodeName>> =
            ordered.chunk_by(|a, b| a.0 == b.0).map(|c| c.iter().map(|(_, n)| n.clone()).collect()).collect();
        let mut sizes: Vec<usize> = leaves.iter().map(Vec::len).filter(|n| *n > 1 && *n < total).collect();
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes {
            add(Topology::Leaf, size, leaves.iter().filter(|l| l.len() == size).cloned().collect());
        }
    }
    // Each GPU with its likes on the other nodes: what the network alone does, adapter by adapter.
    if net.gpus > 1 && !plan.tier.is_short() {
        add(Topology::Rail, total, vec![names.clone()]);
    }
    add(Topology::World, total, vec![names.clone()]);
    out
}

/// The neighbours in the ring that a job's ranks will use, in rounds of disjoint pairs: two, and a third for the last
/// pair of an odd ring.
fn ring(names: &[NodeName]) -> Vec<Vec<Vec<NodeName>>> {
    let total = names.len();
    let mut rounds: Vec<Vec<Vec<NodeName>>> = vec![Vec::new(); 3];
    // Two nodes are one pair, not two.
    for i in 0..if total == 2 { 1 } else { total } {
        let round = if !total.is_multiple_of(2) && i == total - 1 { 2 } else { i % 2 };
        rounds[round].push(vec![names[i].clone(), names[(i + 1) % total].clone()]);
    }
    rounds.retain(|r| !r.is_empty());
    rounds
}

/// The next round that halves the groups which are slow only together; `None` when all is found or cannot be.
pub(super) fn next_halving(record: &Record, plan: &CheckPlan, alive: &[NodeName], net: &Net) -> Option<Step> {
    let carrier = net.plane.carrier();
    let groups = localise::groups(record, carrier);
    let there = |i: u32| alive.contains(groups.nodes[i as usize]);
    let (size, halves) = groups.scale.next(&there, plan.seed)?;
    let mut step = net.group_step(plan, Topology::Narrow, size, pair_rate(record, &net.plane));
    // The largest all-reduce is what showed it.
    let largest = step.cases.iter().rposition(localise::is_all_reduce)?;
    step.estimate_ms = step.start_ms + step.measuring_ms() / step.cases.len() as u64;
    step.cases = vec![step.cases.swap_remove(largest)];
    let done = groups.scale.levels.iter().filter(|l| l.narrowing).count();
    step.name = format!("collective-narrow-{}{}", carrier.map_or(String::new(), |c| format!("{c}-")), done + 1);
    let of_group = |g: &Vec<u32>| g.iter().map(|i| groups.nodes[*i as usize].clone()).collect();
    step.shape = Shape::Groups(halves.iter().map(of_group).collect());
    Some(step)
}

/// Nodes whose own network is bad by the pairs measured so far on a plane.
pub(super) fn bad_nodes(record: &Record, plane: &Plane) -> Vec<NodeName> {
    let network = localise::network(record, plane);
    network.pairs.verdict().nodes.iter().map(|f| network.nodes[f.node as usize].clone()).collect()
}

/// An all-reduce that reaches less than this share of what pairs did has another reason than its algorithm.
const BEHIND: f64 = 0.25;

/// Whether collectives over nodes, of the outcomes after the first `from`, broke off, were too slow for their time, or reached far less
/// than the pairs before them: that only where no nodes share a machine, whose pairs have it to themselves in turn.
pub(super) fn fell_behind(record: &Record, from: usize, net: &Net, share: bool) -> bool {
    let carrier = net.plane.carrier();
    let of_groups = |s: &&Step| !s.is_solo() && s.rail.as_deref() == carrier;
    let steps: HashMap<&str, &Step> = record.steps.iter().filter(of_groups).map(|s| (s.name.as_str(), s)).collect();
    let pairs = pair_rate(record, &net.plane);
    record.outcomes[from..].iter().any(|line| {
        let Some(step) = steps.get(&*line.step).filter(|_| line.blame.is_none()) else { return false };
        match &line.outcome {
            Outcome::Failed { .. } | Outcome::TimedOut { .. } => true,
            // A step that was cut whole was never tried.
            Outcome::Waived { kind, .. } => {
                let tried = |l: &&OutcomeLine| l.step == line.step && l.outcome.measured().is_some();
                *kind == WaiveKind::NoTime && record.outcomes[from..].iter().any(|l| tried(&l))
            }
            Outcome::Measured(m) => {
                let largest = step.cases.iter().rfind(|c| localise::is_all_reduce(c)) == Some(&line.case);
                let busbw = m.series.iter().find(|s| s.metric == Metric::BusBw).map(|s| stats::median(&s.samples));
                !share && largest && busbw.zip(pairs).is_some_and(|(busbw, pairs)| busbw < BEHIND * pairs)
            }
        }
    })
}

/// What pairs reach on a plane, in the middle; `None` before any was measured.
fn pair_rate(record: &Record, plane: &Plane) -> Option<f64> {
    let tests = localise::network(record, plane).pairs.tests;
    let rates: Vec<f64> = tests.iter().flat_map(|t| [t.out, t.back]).filter_map(Reading::rate).collect();
    (!rates.is_empty()).then(|| stats::median(&rates))
}

/// The collective that all nodes do over one rail: an interface's TCP, or an RDMA device.
pub(super) fn rail_collective(record: &Record, plan: &CheckPlan, plane: &Plane, nodes: Vec<NodeName>) -> Option<Step> {
    let rail = plane.rail.as_deref()?;
    let carrier =
        plane.carrier().map_or_else(|| Carrier::Interface(rail.into()), |device| Carrier::Rdma(device.into()));
    let step = probe::group_step(plan, Topology::Rail, nodes.len() as u32, &carrier, pair_rate(record, plane));
    Some(Step { shape: Shape::Groups(vec![nodes]), ..step })
}

/// The RDMA devices that every node has, with an active port and reliable connections.
pub(super) fn devices(machines: &[(NodeName, Machine)]) -> Vec<String> {
    let everywhere = |d: &&str| machines.iter().all(|(_, m)| m.connected_rdma().any(|other| other == *d));
    let first = machines.first().map(|(_, m)| m.connected_rdma().filter(everywhere).map(str::to_owned).collect());
    first.unwrap_or_default()
}

/// Neighbours, two by two, from the memory of one's GPU into that of the other's; `None` unless all nodes have one.
pub(super) fn gpu_pairs(
    plan: &CheckPlan,
    device: &str,
    machines: &[(NodeName, Machine)],
    nodes: &[NodeName],
) -> Option<Step> {
    let gpus = machines.iter().all(|(_, m)| m.gpus.iter().any(|g| g.is_nvidia()));
    let (_, first) = machines.first().filter(|_| gpus && nodes.len() > 1)?;
    let step = probe::gpu_pair_step(plan, device, first)?;
    Some(Step { shape: Shape::two_by_two(nodes), ..step })
}

/// Neighbours, two by two, over all their devices at once.
pub(super) fn all_rails(plan: &CheckPlan, devices: &[String], nodes: &[NodeName]) -> Option<Step> {
    if devices.len() < 2 || nodes.len() < 2 {
        return None;
    }
    Some(Step { shape: Shape::two_by_two(nodes), ..probe::rails_step(plan, devices) })
}

/// The other interfaces of the same kind as the one that carried the pairs: up, with an address, on every node, as fast.
/// A management network is of another kind, and is left alone.
pub(super) fn rails(record: &Record, machines: &[(NodeName, Machine)]) -> Vec<String> {
    // What each node's pairs left by.
    let mut used: HashMap<&NodeName, &str> = HashMap::new();
    for line in &record.outcomes {
        if let Outcome::Measured(m) = &line.outcome {
            used.extend(m.transport.iter().filter_map(|t| Some((&t.node, t.interface.as_deref()?))));
        }
    }
    let candidates = |(node, machine): &(NodeName, Machine)| -> Option<Vec<String>> {
        let main = machine.nics.iter().find(|n| Some(&n.name.as_str()) == used.get(node))?;
        let like = |n: &&Nic| {
            n.name != main.name
                && n.state == main.state
                && (n.speed_mbps, &n.driver) == (main.speed_mbps, &main.driver)
                && !n.addresses.is_empty()
        };
        Some(machine.nics.iter().filter(like).map(|n| n.name.clone()).collect())
    };
    let all: Vec<Vec<String>> = machines.iter().filter_map(candidates).collect();
    let Some(first) = all.first().filter(|_| all.len() == machines.len()) else { return Vec::new() };
    let address = |(_, m): &(NodeName, Machine), name: &str| {
        m.nics.iter().find(|n| n.name == name).and_then(|n| n.addresses.first().copied())
    };
    let distinct = |name: &&String| {
        // A bridge of containers has the same address everywhere and leads nowhere.
        let mut addresses: Vec<_> = machines.iter().filter_map(|m| address(m, name)).collect();
        addresses.sort();
        addresses.dedup();
        addresses.len() == machines.len()
    };
    first.iter().filter(|name| all.iter().all(|a| a.contains(name))).filter(distinct).cloned().collect()
}
