//! A record's pair steps as tests for the localiser.

use std::collections::{HashMap, HashSet};

use crate::cluster::Step;
use crate::id::{NodeName, ProbeName};
use crate::localise::{GroupTest, Level, LossTest, Pairs, Reading, Scale, Test, infer};
use crate::measure::{Facts, LinkEnd, Measured, Outcome, Transport, stats};
use crate::record::Record;
use crate::topology::Leaf;
use crate::work::{Carrier, Case, Collective, Metric, NCCL, Topology, Way};

/// Largest cluster whose round trips are measured all to all to infer its leaves.
pub const MAX_INFERRED: usize = 256;

/// A network of its own: what carries it, and the interface or device where it is not the usual one. What was looked at again after the
/// collectives is another: it says how things stand now, the one before how they stood.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plane {
    pub probe: ProbeName,
    pub rail: Option<String>,
    /// Whether it was looked at after collectives that were slow or did not end.
    pub late: bool,
}

impl Plane {
    /// The network of the control channel.
    pub const TCP: Plane = Plane { probe: ProbeName::new("tcp"), rail: None, late: false };

    /// What carries collectives here, as their steps have it: an RDMA device, or NCCL; `None` over TCP.
    pub fn carrier(&self) -> Option<&str> {
        self.rail.as_deref().filter(|_| self.probe.as_str() != "tcp")
    }

    /// Where pairs show what a carrier of collectives can do.
    pub fn of_carrier(carrier: &Carrier) -> Self {
        let (probe, rail) = match carrier {
            Carrier::Tcp => return Plane::TCP,
            Carrier::Interface(name) => ("tcp", &**name),
            Carrier::Rdma(device) => ("rdma", &**device),
            Carrier::Nccl => ("collective", NCCL),
        };
        Plane { probe: ProbeName::new(probe), rail: Some(rail.to_owned()), late: false }
    }

    /// The plane of a round of pairs; `None` for any other step.
    pub fn of(step: &Step) -> Option<Self> {
        let late = step.pair_round()?.late;
        Some(Plane { probe: step.probe.clone(), rail: step.rail.clone(), late })
    }

    /// What a round of pairs is called.
    pub fn step_name(&self, round: usize) -> String {
        let rail = self.rail.as_ref().map_or(String::new(), |r| format!("-{r}"));
        let late = if self.late { "-late" } else { "" };
        format!("{}-pairs{rail}{late}-{round}", self.probe)
    }

    /// What evidence begins with: nothing on the control channel's own network.
    pub fn label(&self) -> String {
        let rail = self.rail.as_ref().map_or(String::new(), |r| format!("{r}: "));
        if self.late { format!("{rail}after the collectives, ") } else { rail }
    }
}

/// Whether a step is a round of pairs.
pub fn is_pairs(step: &Step) -> bool {
    step.pair_round().is_some()
}

/// Which nodes the numbers in [`Pairs`] stand for.
pub struct Network<'r> {
    pub nodes: Vec<&'r NodeName>,
    pub pairs: Pairs,
    /// The steps that measured, by [`Test::round`](crate::localise::Test).
    pub steps: Vec<&'r Step>,
    /// Tests that others' traffic disturbed: they are not among those of `pairs`, and their nodes are measured again.
    pub disturbed: Vec<Disturbed<'r>>,
}

/// A link that others used while it was measured.
#[derive(Debug, Clone, Copy)]
pub struct Disturbed<'r> {
    pub step: &'r Step,
    /// The end that counted what was not the test's own.
    pub end: &'r LinkEnd,
    /// Bytes per second that others sent the same way, and that the test reached beside them.
    pub others: f64,
    pub rate: f64,
}

/// Others' share of what a link usually carries from which a test says nothing of the link.
const OTHERS: f64 = 0.1;
/// Flows that show how interfaces count, and by how much what they count beside flows may differ between them.
const FEW_FLOWS: usize = 4;
const ALIKE: f64 = 1.2;

impl<'r> Disturbed<'r> {
    fn of(step: &'r Step, outcome: &'r Outcome, usual: f64) -> Option<Self> {
        let m = outcome.measured()?;
        let rate = bandwidth(m)?;
        let of = |t: &'r Transport| {
            let (end, bytes) = t.others()?;
            let others = bytes as f64 * rate / t.bytes.max(1) as f64;
            (others > OTHERS * usual).then_some(Disturbed { step, end, others, rate })
        };
        m.transport.iter().filter_map(of).max_by(|a, b| a.others.total_cmp(&b.others))
    }
}

/// Whether interfaces count something else than flows do: where no flow is without others' traffic, and each has as much of it for its size
/// as any, it is the counters (of another unit, of two ports in one) and nobody's traffic.
fn miscount<'r>(outcomes: impl Iterator<Item = &'r Outcome>) -> bool {
    let share = |t: &Transport| Some(t.others()?.1 as f64 / t.bytes.max(1) as f64);
    let shares: Vec<f64> =
        outcomes.filter_map(|o| o.measured()).flat_map(|m| m.transport.iter().filter_map(share)).collect();
    let (low, high) = shares.iter().fold((f64::INFINITY, 0.0), |(l, h): (f64, f64), s| (l.min(*s), h.max(*s)));
    shares.len() >= FEW_FLOWS && low > OTHERS && high < ALIKE * low
}

fn bandwidth(m: &Measured) -> Option<f64> {
    let s = m.series.iter().find(|s| s.metric == Metric::Bandwidth).filter(|s| !s.samples.is_empty())?;
    Some(stats::median(&s.samples))
}

/// Share of a flow's time that the threads of the end that waited longer had no core; 0 where it is not known.
fn longest_wait(flow: Option<&Outcome>) -> f64 {
    let flows = flow.and_then(Outcome::measured).map_or(&[][..], |m| &m.transport);
    flows.iter().filter_map(Transport::without_core).flatten().fold(0.0, f64::max)
}

/// What links of a plane carry: the upper quartile of all readings, as most are well.
fn usual_rate<'r>(outcomes: impl Iterator<Item = &'r Outcome>) -> f64 {
    let mut rates: Vec<f64> = outcomes.filter_map(|o| bandwidth(o.measured()?)).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() * 3 / 4).copied().unwrap_or(0.0)
}

/// How many segments each flow of a plane sent again, by the numbers of its nodes in `network`.
pub fn losses(record: &Record, plane: &Plane, network: &Network<'_>) -> Vec<LossTest> {
    let number: HashMap<&NodeName, u32> = network.nodes.iter().enumerate().map(|(i, n)| (*n, i as u32)).collect();
    let steps: HashSet<&str> = network.steps.iter().map(|s| s.name.as_str()).collect();
    let of = |t: &Transport| {
        let [from, to] = &**t.ends.as_ref()?;
        let share = t.segments?.share_again()?;
        Some(LossTest { from: *number.get(&from.node)?, to: *number.get(&to.node)?, share })
    };
    let lines = record.outcomes.iter().filter(|l| l.probe == plane.probe && steps.contains(&*l.step));
    lines.filter_map(|l| l.outcome.measured()).flat_map(|m| m.transport.iter().filter_map(of)).collect()
}

/// The leaves that the run was told of, else those of the fabric that was read, else those that the latencies between its nodes
/// show. Their nodes have the names of the record's header, whatever a topology or a fabric calls them.
pub fn leaves(record: &Record) -> Vec<Leaf> {
    let roster = record.header.roster();
    let named = |leaves: &[Leaf]| -> Vec<Leaf> {
        let name = |n: &NodeName| roster.find(&n.0).unwrap_or(n).clone();
        leaves.iter().map(|l| Leaf { name: l.name.clone(), nodes: l.nodes.iter().map(name).collect() }).collect()
    };
    if !record.header.leaves.is_empty() {
        return named(&record.header.leaves);
    }
    let mut of_fabric = record.outcomes.facts().filter_map(|(_, fact)| match fact {
        Facts::Fabric(capture) if !capture.leaves.is_empty() => Some(&capture.leaves),
        _ => None,
    });
    // A fabric that has none of the run's nodes is another one.
    let known = |leaves: &&Vec<Leaf>| leaves.iter().flat_map(|l| &l.nodes).any(|n| roster.find(&n.0).is_some());
    if let Some(leaves) = of_fabric.next_back().filter(known) {
        return named(leaves);
    }
    let mut latencies = record.outcomes.facts().filter_map(|(_, fact)| match fact {
        Facts::Latencies(all) => Some(all),
        _ => None,
    });
    let Some((latencies, numbers)) = latencies.next_back().and_then(|l| Some((l, infer::leaves(&l.rtt_us)?))) else {
        return Vec::new();
    };
    let mut out: Vec<Leaf> = Vec::new();
    for (node, number) in latencies.nodes.iter().zip(numbers) {
        // Numbers come in order of appearance.
        if number as usize == out.len() {
            out.push(Leaf { name: format!("inferred{number}"), nodes: Vec::new() });
        }
        out[number as usize].nodes.push(node.clone());
    }
    out
}

/// Each node's leaf number among [`leaves`]; nodes that no leaf names share one more. One leaf for all when nothing is known.
pub fn leaf_numbers(nodes: &[&NodeName], leaves: &[Leaf]) -> Vec<u32> {
    let at: HashMap<&NodeName, u32> =
        leaves.iter().zip(0..).flat_map(|(l, i)| l.nodes.iter().map(move |n| (n, i))).collect();
    let found = nodes.iter().map(|n| at.get(n).copied().unwrap_or(leaves.len() as u32));
    // Numbers without gaps, in order of appearance.
    let mut seen: HashMap<u32, u32> = HashMap::new();
    found
        .map(|l| {
            let next = seen.len() as u32;
            *seen.entry(l).or_insert(next)
        })
        .collect()
}

/// Every plane that pairs were measured on, in the order of the record.
pub fn planes(record: &Record) -> Vec<Plane> {
    let mut out: Vec<Plane> = Vec::new();
    for plane in record.steps.iter().filter_map(Plane::of) {
        if !out.contains(&plane) {
            out.push(plane);
        }
    }
    out
}

/// Collects every pair test of a plane.
pub fn network<'r>(record: &'r Record, plane: &Plane) -> Network<'r> {
    network_among(record, plane, &[])
}

/// The same, among these nodes as well, whether or not they took part in any.
pub fn network_among<'r>(record: &'r Record, plane: &Plane, also: &'r [NodeName]) -> Network<'r> {
    let steps: Vec<&Step> = record.steps.iter().filter(|s| Plane::of(s).as_ref() == Some(plane)).collect();
    let mut nodes: Vec<&NodeName> = steps.iter().flat_map(|s| s.groups().flatten()).chain(also).collect();
    nodes.sort();
    nodes.dedup();
    let number: HashMap<&NodeName, u32> = nodes.iter().enumerate().map(|(i, n)| (*n, i as u32)).collect();
    let mut pairs = Pairs::new(leaf_numbers(&nodes, &leaves(record)));
    let names: HashSet<&str> = steps.iter().map(|s| s.name.as_str()).collect();
    type Ends<'r> = (Option<&'r Outcome>, Option<&'r Outcome>, bool);
    let mut got: HashMap<(&str, &NodeName), Ends<'_>> = HashMap::new();
    for line in record.outcomes.iter().filter(|l| names.contains(&*l.step)) {
        let ends = got.entry((&*line.step, &line.node)).or_default();
        match line.case.pair_way() {
            Some(Way::Out) => ends.0 = Some(&line.outcome),
            Some(Way::Back) => ends.1 = Some(&line.outcome),
            Some(Way::Both) | None => {}
        }
        // Whose own fault it is has its own finding: such a test says nothing about the network.
        ends.2 |= line.blame.is_some();
    }
    let flows = || got.values().flat_map(|(out, back, _)| [*out, *back].into_iter().flatten());
    let (usual, miscount) = (usual_rate(flows()), miscount(flows()));
    let (mut disturbed, mut waited): (Vec<Disturbed<'_>>, Vec<[f64; 2]>) = Default::default();
    let mut nominal: Option<f64> = None;
    let mut reading = |o: Option<&Outcome>| match o? {
        Outcome::Measured(m) => {
            let s = m.series.iter().find(|s| s.metric == Metric::Bandwidth).filter(|s| !s.samples.is_empty())?;
            if let Some(n) = s.nominal.as_ref().filter(|n| !n.claimed) {
                // The slower of two ends bounds a pair.
                nominal = Some(nominal.map_or(n.value, |least| least.min(n.value)));
            }
            Some(Reading::Rate(stats::median(&s.samples)))
        }
        Outcome::Failed { .. } | Outcome::TimedOut { .. } => Some(Reading::Failed),
        Outcome::Waived { .. } => None,
    };
    for (i, step) in steps.iter().enumerate() {
        let Some(round) = step.pair_round() else { continue };
        let quiet = round.kind.is_quiet();
        for group in step.groups() {
            let Some((out, back, blamed)) = got.get(&(step.name.as_str(), &group[0])) else { continue };
            if *blamed {
                continue;
            }
            let by_others = [*out, *back].into_iter().flatten().filter_map(|o| Disturbed::of(step, o, usual));
            let before = disturbed.len();
            disturbed.extend(by_others.filter(|_| !miscount));
            if disturbed.len() > before {
                continue;
            }
            let waits = [*out, *back].map(longest_wait);
            let (out, back) = match (reading(*out), reading(*back)) {
                (Some(out), Some(back)) => (out, back),
                // A first direction that failed takes the second with it: one failure, told once for both.
                (Some(Reading::Failed), None) => (Reading::Failed, Reading::Failed),
                _ => continue,
            };
            let (a, b) = (number[&group[0]], number[&group[1]]);
            let control = round.controls.contains(&group[0]);
            pairs.tests.push(Test { round: i as u32, quiet, control, a, b, out, back, excused: [0.0; 2] });
            waited.push(waits);
        }
    }
    pairs.nominal = nominal;
    pairs.one_machine = record.sharing().any(|some| some.iter().any(|n| number.contains_key(n)));
    if pairs.one_machine {
        pairs.excuse_waits(&waited, usual);
    }
    Network { nodes, pairs, steps, disturbed }
}

/// Which nodes the numbers in [`Scale`] stand for.
pub struct Groups<'r> {
    pub nodes: Vec<&'r NodeName>,
    pub scale: Scale,
    /// What was measured at each of its levels.
    pub steps: Vec<(&'r Step, &'r Case)>,
}

/// What the localiser reads of a collective step.
pub fn is_all_reduce(case: &Case) -> bool {
    case.collective().is_some_and(|c| c.op == Collective::AllReduce)
}

/// A collective over groups of nodes.
fn is_group(s: &Step) -> bool {
    s.probe.as_str() == "collective" && !s.is_solo()
}

/// What carried collectives over groups: `None` for the control channel's own network, else a rail's name.
pub fn carriers(record: &Record) -> Vec<Option<&str>> {
    let mut out: Vec<Option<&str>> = Vec::new();
    for s in record.steps.iter().filter(|s| is_group(s)) {
        if !out.contains(&s.rail.as_deref()) {
            out.push(s.rail.as_deref());
        }
    }
    out
}

/// Collects every collective over groups of nodes on a carrier: the last all-reduce of each, which is the largest.
pub fn groups<'r>(record: &'r Record, rail: Option<&str>) -> Groups<'r> {
    let several = |s: &&Step| is_group(s) && s.rail.as_deref() == rail;
    let steps: Vec<(&Step, &Case)> = record
        .steps
        .iter()
        .filter(several)
        .filter_map(|s| Some((s, s.cases.iter().rfind(|c| is_all_reduce(c))?)))
        .collect();
    let mut nodes: Vec<&NodeName> = steps.iter().flat_map(|(s, _)| s.groups().flatten()).collect();
    nodes.sort();
    nodes.dedup();
    let number: HashMap<&NodeName, u32> = nodes.iter().enumerate().map(|(i, n)| (*n, i as u32)).collect();
    let case: HashMap<&str, &Case> = steps.iter().map(|(s, case)| (s.name.as_str(), *case)).collect();
    let mut busbw: HashMap<(&str, &NodeName), f64> = HashMap::new();
    for line in record.outcomes.iter().filter(|l| case.get(&*l.step).is_some_and(|c| **c == l.case)) {
        let Some(m) = line.outcome.measured() else { continue };
        if let Some(series) = m.series.iter().find(|s| s.metric == Metric::BusBw) {
            busbw.insert((&line.step, &line.node), stats::median(&series.samples));
        }
    }
    let level = |(step, _): &(&Step, &Case)| Level {
        size: step.groups().map(<[NodeName]>::len).max().unwrap_or(0) as u32,
        narrowing: step.cases.iter().any(|c| c.collective().is_some_and(|c| c.topology == Topology::Narrow)),
        groups: step
            .groups()
            .map(|g| GroupTest {
                nodes: g.iter().map(|n| number[n]).collect(),
                busbw: busbw.get(&(step.name.as_str(), &g[0])).copied().filter(|b| *b > 0.0),
            })
            .collect(),
    };
    let levels = steps.iter().map(level).collect();
    Groups { nodes, scale: Scale { levels }, steps }
}
