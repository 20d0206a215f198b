//! Collectives held against what their parts can do: what pairs of the same nodes reached in the same run, and what the algorithm
//! needs. Links that are well one by one may be slow together; a group that contains a slow link is as slow as that, and no finding.

use std::collections::{BTreeMap, HashMap};

use crate::baseline::{Source, Weight};
use crate::id::NodeName;
use crate::judge::Cell;
use crate::judge::cell::LimitShown;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Rule, Subject};
use crate::judge::rules::{Facts, metrics};
use crate::judge::severity::Severity;
use crate::judge::verdict::Verdict;
use crate::localise::{self, Plane};
use crate::measure::{bus_factor, stats};
use crate::probe::cost;
use crate::record::Record;
use crate::unit::Unit;
use crate::work::{Better, Carrier, Case, Collective, CollectiveCase, Metric, Topology};

/// So many times what its parts need a collective may take: ranks wait for the slowest of each exchange, and others compute.
const SLACK: f64 = 2.0;
/// From so many times on it holds, where smaller groups were well.
const BROKEN: f64 = 4.0;
/// GPUs' smaller messages are bound by what no pair shows: kernels, proxies, the choice of a protocol.
const LARGE_FOR_GPUS: u64 = 16 << 20;
/// Messages up to this size tell what an exchange takes.
const SMALL: u64 = 64;

/// From the best to the worst.
#[derive(Debug, Clone, Copy)]
struct Span {
    best: f64,
    worst: f64,
}

/// What the parts of collectives on a carrier reached.
struct Parts<'r> {
    /// Bytes per second in a node's slower direction.
    rates: HashMap<&'r NodeName, Span>,
    /// Seconds of a small exchange.
    exchange: Option<Span>,
    /// Bytes per second of bus bandwidth among the GPUs of a node; endless where none was measured.
    within: f64,
}

/// Gives a limit to the collectives between nodes that nothing else is held against.
pub(super) fn judge(record: &Record, cells: &mut [Cell<'_>]) {
    let shared: Vec<&NodeName> = record.sharing().flatten().collect();
    let between = |c: &Cell<'_>| c.group().len() > 1 && !c.has_limit() && c.verdict == Verdict::NoLimit;
    let mut carriers: Vec<&Carrier> =
        cells.iter().filter(|c| between(c)).filter_map(|c| Some(&c.row().case.collective()?.carrier)).collect();
    carriers.sort_unstable();
    carriers.dedup();
    for carrier in carriers {
        let parts = Parts::of(record, carrier, cells);
        for cell in cells.iter_mut().filter(|c| between(c)) {
            let Some(case) = cell.row().case.collective().filter(|c| c.carrier == *carrier) else { continue };
            // What shares a machine shares its cores: pairs have them in turn, a group all at once.
            if !cell.group().iter().any(|n| shared.contains(&n)) {
                hold(cell, case, &parts);
            }
        }
    }
}

fn hold(cell: &mut Cell<'_>, case: &CollectiveCase, parts: &Parts<'_>) {
    let (Some(summary), Some((needed, why))) = (cell.summary, parts.needed(case, cell.group())) else { return };
    let most = SLACK * needed.worst;
    let bytes = case.bytes.0 as f64;
    let value = match cell.series.metric {
        Metric::Latency => most,
        Metric::AlgBw => bytes / most,
        Metric::BusBw => bytes * bus_factor(case.op, case.ranks) / most,
        _ => return,
    };
    let slow = match cell.series.better {
        Better::Lower => summary.median > value,
        Better::Higher => summary.median < value,
    };
    let show = |s: f64| Unit::Second.show(s);
    let provenance =
        format!("{SLACK:.0} times what its parts need: {} to {} by {why}", show(needed.best), show(needed.worst));
    cell.hold(LimitShown { value, source: Source::Parts, weight: Weight::Warn, provenance: provenance.into() });
    cell.verdict = if slow { Verdict::Warn } else { Verdict::Pass };
}

impl<'r> Parts<'r> {
    fn of(record: &'r Record, carrier: &Carrier, cells: &[Cell<'r>]) -> Self {
        Parts {
            rates: rates(record, &Plane::of_carrier(carrier)),
            exchange: exchange(record, carrier, cells),
            within: within(cells),
        }
    }

    /// Seconds that a collective of a group takes by its parts, and by which; `None` where they do not tell.
    fn needed(&self, case: &CollectiveCase, group: &[NodeName]) -> Option<(Span, String)> {
        let mut rate = Span { best: f64::INFINITY, worst: f64::INFINITY };
        for node in group {
            let of = self.rates.get(node)?;
            rate = Span { best: rate.best.min(of.best), worst: rate.worst.min(of.worst) };
        }
        let show = |r: Span| {
            let [worst, best] = [r.worst, r.best].map(|v| Unit::BytePerSecond.show(v));
            if worst == best { best } else { format!("{worst} to {best}") }
        };
        let size = case.bytes.0;
        if case.carrier == Carrier::Nccl {
            // Each GPU with its likes uses a part of what all of them reached.
            if size < LARGE_FOR_GPUS || case.topology == Topology::Rail {
                return None;
            }
            let bus = size as f64 * bus_factor(case.op, case.ranks);
            let [best, worst] = [rate.best, rate.worst].map(|r| bus / r.min(self.within));
            let nodes = format!("{} between the slowest of its nodes", show(rate));
            let inside = format!(" and {} within one", Unit::BytePerSecond.show(self.within));
            return Some((Span { best, worst }, nodes + if self.within.is_finite() { &inside } else { "" }));
        }
        let exchange = self.exchange?;
        let time =
            |latency, per_byte| cost::expected(case.op, case.ranks, size as usize, cost::Link { latency, per_byte });
        // Both ways at once a link may be as fast as one way, or half of that.
        let needed = Span { best: time(exchange.best, 1.0 / rate.best), worst: time(exchange.worst, 2.0 / rate.worst) };
        let [best, worst] = [exchange.best, exchange.worst].map(|s| Unit::Second.show(s));
        Some((needed, format!("{} between the slowest of its nodes and {best} to {worst} an exchange", show(rate))))
    }
}

/// What each node reached with its partners, by quarters, in its slower direction.
fn rates<'r>(record: &'r Record, plane: &Plane) -> HashMap<&'r NodeName, Span> {
    let network = localise::network(record, plane);
    let mut by_node: HashMap<u32, [Vec<f64>; 2]> = HashMap::new();
    for t in &network.pairs.tests {
        for (from, to, reading) in [(t.a, t.b, t.out), (t.b, t.a, t.back)] {
            if let Some(rate) = reading.rate() {
                by_node.entry(from).or_default()[0].push(rate);
                by_node.entry(to).or_default()[1].push(rate);
            }
        }
    }
    let span = |readings: &mut Vec<f64>| {
        readings.sort_by(f64::total_cmp);
        let at = |quarter: usize| readings.get((readings.len().saturating_sub(1)) * quarter / 4).copied();
        at(1).zip(at(3)).map(|(worst, best)| Span { best, worst })
    };
    let slower = |[mut sends, mut receives]: [Vec<f64>; 2]| {
        let (sends, receives) = (span(&mut sends)?, span(&mut receives)?);
        Some(Span { best: sends.best.min(receives.best), worst: sends.worst.min(receives.worst) })
    };
    by_node.into_iter().filter_map(|(n, of)| Some((network.nodes[n as usize], slower(of)?))).collect()
}

/// What a small exchange takes: of round trips a half at the least and a whole at the most, and what two nodes need for the smallest
/// all-reduce, which is one exchange between two processes.
fn exchange(record: &Record, carrier: &Carrier, cells: &[Cell<'_>]) -> Option<Span> {
    let mut all: Vec<f64> = Vec::new();
    if let (Carrier::Tcp, Some((_, last))) = (carrier, Facts::latencies(record)) {
        let trips = last.rtt_us.iter().flatten().flatten().filter(|us| us.is_finite() && **us > 0.0);
        all.extend(trips.flat_map(|us| [0.5e-6 * us, 1e-6 * us]));
    }
    let of_two = |c: &&Cell<'_>| {
        let small = |case: &CollectiveCase| {
            case.carrier == *carrier && case.ranks == 2 && case.op == Collective::AllReduce && case.bytes.0 <= SMALL
        };
        c.group().len() == 2 && c.series.metric == Metric::Latency && c.row().case.collective().is_some_and(small)
    };
    let mut pairs: Vec<f64> = cells.iter().filter(of_two).filter_map(|c| Some(c.summary?.median)).collect();
    // One pair that is slow by itself must not excuse all others.
    pairs.sort_by(f64::total_cmp);
    pairs.truncate(pairs.len().div_ceil(2));
    all.extend(pairs);
    let (best, worst) = all.iter().fold((f64::INFINITY, 0.0f64), |(l, h), v| (l.min(*v), h.max(*v)));
    (!all.is_empty()).then_some(Span { best, worst })
}

/// What the GPUs of the slowest node reach among themselves.
fn within<'r>(cells: &[Cell<'r>]) -> f64 {
    let large = |case: &CollectiveCase| {
        case.carrier == Carrier::Nccl
            && case.topology == Topology::Node
            && case.op == Collective::AllReduce
            && case.ranks > 1
            && case.bytes.0 >= LARGE_FOR_GPUS
    };
    let of = |c: &Cell<'r>| {
        let counts = c.series.metric == Metric::BusBw && c.row().case.collective().is_some_and(large);
        counts.then_some((c.row().node, c.summary?.median))
    };
    // Of each node its best size.
    let mut best: HashMap<&NodeName, f64> = HashMap::new();
    for (node, rate) in cells.iter().filter_map(of) {
        let at = best.entry(node).or_default();
        *at = at.max(rate);
    }
    best.into_values().fold(f64::INFINITY, f64::min)
}

/// One finding a carrier: the smallest groups that stay behind their parts.
pub(super) fn findings(cells: &[Cell<'_>], findings: &mut Vec<Finding>) {
    let time = |c: &Cell<'_>| c.series.metric == Metric::Latency;
    let mut by_carrier: BTreeMap<&Carrier, Vec<(&CollectiveCase, &Cell<'_>)>> = BTreeMap::new();
    for cell in cells.iter().filter(|c| c.limit().is_some_and(|l| l.source == Source::Parts) && time(c)) {
        if let Case::Collective(case) = cell.row().case {
            by_carrier.entry(&case.carrier).or_default().push((case, cell));
        }
    }
    findings.extend(by_carrier.values().filter_map(|all| behind(all)));
}

fn behind(all: &[(&CollectiveCase, &Cell<'_>)]) -> Option<Finding> {
    // Of what its parts need.
    let times = |c: &Cell<'_>| SLACK * c.summary.map_or(0.0, |s| s.median) / c.limit().map_or(1.0, |l| l.value);
    let slow = |c: &Cell<'_>| c.verdict == Verdict::Warn;
    let first = all.iter().filter(|(_, c)| slow(c)).map(|(case, _)| case.ranks).min()?;
    let at_first: Vec<&Cell<'_>> = all.iter().filter(|(case, _)| case.ranks == first).map(|(_, c)| *c).collect();
    let worst = at_first.iter().filter(|c| slow(c)).max_by(|a, b| times(a).total_cmp(&times(b)))?;
    let smaller: Vec<f64> = all.iter().filter(|(case, _)| case.ranks < first).map(|(_, c)| times(c)).collect();
    // By processes of the host two ranks show what these cost by themselves: only what grows with the number is the network's.
    let most = all.iter().filter(|(_, c)| slow(c)).map(|(_, c)| times(c)).fold(0.0, f64::max);
    let severity = if most > BROKEN && !smaller.is_empty() { Severity::Hold } else { Severity::Warn };
    let mut groups: Vec<&[NodeName]> = at_first.iter().filter(|c| slow(c)).map(|c| c.group()).collect();
    groups.sort_unstable();
    groups.dedup();
    let well = at_first.iter().any(|c| !groups.contains(&c.group()));
    let subject = match groups[..] {
        [group] if well => Subject::Group(group.to_vec()),
        _ => Subject::Run,
    };
    let median = worst.summary.map_or(0.0, |s| s.median);
    let before = match stats::summary(&smaller) {
        Some(s) => format!("; smaller groups take {:.1} times as long as theirs need", s.median),
        None => "; no smaller group was measured".to_owned(),
    };
    let evidence = format!(
        "{}: `{}` takes {}, {:.1} times as long as its parts need; it begins with {first} ranks{before}",
        worst.row().step,
        worst.row().case,
        Unit::Second.show(median),
        times(worst)
    );
    let limit = worst.limit().map_or(String::new(), |l| l.provenance.to_string());
    let proof = all.iter().map(|(_, c)| {
        let mut proof = metrics::proof(c);
        // Held against what it needs, not against the limit.
        (proof.expected, proof.speaks) = (proof.expected.map(|e| e / SLACK), slow(c));
        proof
    });
    let finding = Finding::new(Code::COL_023, subject, evidence).severity(severity).limit(limit);
    Some(finding.proven(Rule::Parts, proof.collect()))
}
