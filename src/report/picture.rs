//! What a page draws and a terminal cannot: the cluster as a map, matrices of pairs, curves over message sizes, distributions over
//! nodes and GPUs, how long the storage lasts.

use std::collections::{BTreeMap, HashMap};

use crate::forecast::{Runway, runway};
use crate::id::{NodeName, clean};
use crate::judge::{Facts, Judgement, Severity, Subject};
use crate::localise;
use crate::measure::{self, stats};
use crate::unit::Unit;
use crate::work::{Better, Carrier, Collective, CollectiveCase, Metric, NCCL};

/// How a node does, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Good,
    Warned,
    Open,
    Bad,
}

impl Health {
    fn of(severity: Severity) -> Self {
        match severity {
            Severity::Info => Health::Good,
            Severity::Warn => Health::Warned,
            Severity::Hold => Health::Open,
            Severity::Fail => Health::Bad,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Health::Good => "good",
            Health::Warned => "warned",
            Health::Open => "open",
            Health::Bad => "bad",
        }
    }

    /// A sign that needs no colour to be told apart.
    pub const fn sign(self) -> &'static str {
        match self {
            Health::Good => "",
            Health::Warned => "!",
            Health::Open => "?",
            Health::Bad => "\u{d7}",
        }
    }
}

/// A node on the map.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    pub name: String,
    pub health: Health,
    /// What was found about it, worst first: `NET-020 evidence`.
    pub found: Vec<String>,
    /// By plane, the best rate of its pairs over the median of all; absent where it was not measured.
    pub rails: Vec<Option<f64>>,
}

/// A leaf with its nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct LeafRow {
    pub name: String,
    pub health: Health,
    pub nodes: Vec<Place>,
}

/// A value of a pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    pub from: u32,
    pub to: u32,
    /// In the matrix's unit; absent where it failed.
    pub value: Option<f64>,
}

/// Who reaches whom how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    pub title: String,
    pub labels: Vec<String>,
    pub cells: Vec<Cell>,
    pub unit: Unit,
    pub median: f64,
}

/// Of one operation, carrier, topology and number of ranks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Curve {
    pub name: String,
    /// Bytes and value, by size.
    pub latency: Vec<(f64, f64)>,
    pub busbw: Vec<(f64, f64)>,
    /// What was expected of the bus bandwidth, where anything was.
    pub expected: Vec<(f64, f64)>,
}

/// One metric over nodes or GPUs.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    pub title: String,
    pub unit: Unit,
    pub better: Better,
    /// Who, and the median there.
    pub values: Vec<(String, f64)>,
    pub limit: Option<f64>,
}

/// Everything drawn.
#[derive(Debug)]
pub struct Picture {
    pub planes: Vec<String>,
    pub leaves: Vec<LeafRow>,
    pub matrices: Vec<Matrix>,
    pub curves: Vec<Curve>,
    pub spreads: Vec<Spread>,
    pub runway: Option<Runway>,
    /// Hours between checkpoints, where the plan says.
    pub interval_hours: Option<f64>,
    /// How many matrices and distributions were left out: a page has an end.
    pub left_out: usize,
}

/// A page with more than this is not read.
const MATRICES: usize = 12;
const SPREADS: usize = 24;
/// Nodes up to which a matrix has a row each.
const WIDE: usize = 128;
/// Fewer values than this make no distribution.
const FEWEST: usize = 4;

pub fn picture(j: &Judgement<'_>) -> Picture {
    let planes = localise::planes(j.record);
    let (leaves, mut matrices) = map(j, &planes);
    matrices.extend(peers(j));
    let mut spreads = spreads(j);
    let left_out = matrices.len().saturating_sub(MATRICES) + spreads.len().saturating_sub(SPREADS);
    matrices.truncate(MATRICES);
    spreads.truncate(SPREADS);
    let run = &j.record.header.plan.run;
    let available = Facts::filesystems(j.record).map(|(_, fs)| fs.room()).min();
    Picture {
        planes: planes.iter().map(plane_name).collect(),
        leaves,
        matrices,
        curves: curves(j),
        spreads,
        runway: available.and_then(|a| runway(run, a)),
        interval_hours: run.checkpoint.as_ref().and_then(|c| c.interval()).map(|i| i.period.as_secs_f64() / 3600.0),
        left_out,
    }
}

fn plane_name(plane: &localise::Plane) -> String {
    let rail = plane.rail.as_deref().map_or(String::new(), |r| format!(" {}", clean(r)));
    format!("{}{rail}", clean(plane.probe.as_str()))
}

/// How each node and each leaf is by what was found of it, and what that was.
#[expect(clippy::type_complexity, reason = "two maps that are taken apart at once")]
fn healths<'j>(j: &'j Judgement<'_>) -> (HashMap<&'j NodeName, (Health, Vec<String>)>, HashMap<&'j str, Health>) {
    let mut health: HashMap<&NodeName, (Health, Vec<String>)> = HashMap::new();
    let mut leaf_health: HashMap<&str, Health> = HashMap::new();
    for f in j.findings.iter().filter(|f| f.weighs() && f.severity > Severity::Info) {
        let of = Health::of(f.severity);
        if let Subject::Leaf(name) = &f.subject {
            let worst = leaf_health.entry(name).or_insert(Health::Good);
            *worst = (*worst).max(of);
        }
        // Of a link either end may be to blame: both are shown, and neither as proven.
        let (nodes, of): (Vec<&NodeName>, Health) = match &f.subject {
            Subject::Node(n) | Subject::Gpu(n, _) | Subject::Path(n, _) => (vec![n], of),
            Subject::Link(a, b) => (vec![a, b], of.min(Health::Open)),
            _ => continue,
        };
        for node in nodes {
            let entry = health.entry(node).or_insert((Health::Good, Vec::new()));
            entry.0 = entry.0.max(of);
            if entry.1.len() < 8 {
                entry.1.push(format!("{} {}", f.code, f.evidence));
            }
        }
    }
    (health, leaf_health)
}

fn map(j: &Judgement<'_>, planes: &[localise::Plane]) -> (Vec<LeafRow>, Vec<Matrix>) {
    let record = j.record;
    let (health, leaf_health) = healths(j);
    let known = localise::leaves(record);
    let mut rails: HashMap<&NodeName, Vec<Option<f64>>> = HashMap::new();
    let mut matrices = Vec::new();
    for (p, plane) in planes.iter().enumerate() {
        let network = localise::network(record, plane);
        let mut cells: BTreeMap<(u32, u32), Option<f64>> = BTreeMap::new();
        let mut best: HashMap<u32, f64> = HashMap::new();
        for t in &network.pairs.tests {
            for (from, to, reading) in [(t.a, t.b, t.out), (t.b, t.a, t.back)] {
                let value = reading.rate();
                // A pair measured again shows its better time: it is the path that is looked at.
                let cell = cells.entry((from, to)).or_insert(value);
                *cell = match (*cell, value) {
                    (Some(a), Some(b)) => Some(a.max(b)),
                    (a, b) => a.or(b),
                };
            }
            // A node is only as bad as its best partner, and as good as its worse direction.
            let both = t.out.rate().zip(t.back.rate()).map(|(a, b)| a.min(b));
            for node in [t.a, t.b] {
                if let Some(both) = both {
                    let b = best.entry(node).or_insert(0.0);
                    *b = b.max(both);
                }
            }
        }
        let values: Vec<f64> = cells.values().flatten().copied().collect();
        if values.is_empty() {
            continue;
        }
        let median = stats::median(&values);
        for (i, node) in network.nodes.iter().enumerate() {
            let shares = rails.entry(node).or_insert_with(|| vec![None; planes.len()]);
            shares[p] = best.get(&(i as u32)).map(|b| b / median.max(1e-9));
        }
        let all = Matrix {
            title: format!("pairs over {}", plane_name(plane)),
            labels: network.nodes.iter().map(|n| n.to_string()).collect(),
            cells: cells.into_iter().map(|((from, to), value)| Cell { from, to, value }).collect(),
            unit: Unit::BytePerSecond,
            median,
        };
        matrices.push(if all.labels.len() > WIDE { by_leaf(all, &network.pairs.leaf, &known) } else { all });
    }
    let place = |node: &NodeName| {
        let (health, found) = health.get(node).cloned().unwrap_or((Health::Good, Vec::new()));
        let rails = rails.get(node).cloned().unwrap_or_else(|| vec![None; planes.len()]);
        Place { name: node.to_string(), health, found, rails }
    };
    let nodes = &record.header.nodes;
    let refs: Vec<&NodeName> = nodes.iter().collect();
    let numbers = localise::leaf_numbers(&refs, &known);
    let mut rows: Vec<LeafRow> = Vec::new();
    for (node, number) in nodes.iter().zip(numbers) {
        if rows.len() <= number as usize {
            let leaf = known.iter().find(|l| l.nodes.contains(node));
            let name = leaf.map_or_else(String::new, |l| clean(&l.name).into_owned());
            let health = leaf.and_then(|l| leaf_health.get(l.name.as_str())).copied().unwrap_or(Health::Good);
            rows.push(LeafRow { name, health, nodes: Vec::new() });
        }
        if let Some(row) = rows.get_mut(number as usize) {
            row.nodes.push(place(node));
        }
    }
    (rows, matrices)
}

/// A matrix of leaves, or of neighbours in the list where there is one leaf only: of more nodes than a page has dots for.
fn by_leaf(m: Matrix, leaf: &[u32], known: &[crate::topology::Leaf]) -> Matrix {
    let leaves = leaf.iter().max().map_or(1, |l| l + 1);
    let each = m.labels.len().div_ceil(64) as u32;
    let of = |node: u32| if leaves > 1 { leaf.get(node as usize).copied().unwrap_or(0) } else { node / each };
    let name = |l: u32| {
        let first = leaf.iter().position(|x| *x == l).and_then(|i| m.labels.get(i));
        let leaf = first.and_then(|n| known.iter().find(|leaf| leaf.nodes.iter().any(|x| x.to_string() == *n)));
        match leaf {
            Some(leaf) if leaves > 1 => clean(&leaf.name).into_owned(),
            _ => format!("{l}"),
        }
    };
    let mut values: BTreeMap<(u32, u32), Vec<f64>> = BTreeMap::new();
    for c in &m.cells {
        values.entry((of(c.from), of(c.to))).or_default().push(c.value.unwrap_or(0.0));
    }
    let total = if leaves > 1 { leaves } else { (m.labels.len() as u32).div_ceil(each) };
    Matrix {
        title: format!("{}, {} together", m.title, if leaves > 1 { "leaves" } else { "neighbours" }),
        labels: (0..total).map(name).collect(),
        cells: values
            .into_iter()
            .map(|((from, to), v)| Cell { from, to, value: Some(stats::median(&v)).filter(|v| *v > 0.0) })
            .collect(),
        ..m
    }
}

/// Copies between the GPUs of a node: of the nodes whose slowest pair is the slowest.
fn peers(j: &Judgement<'_>) -> Vec<Matrix> {
    let mut by_node: BTreeMap<&NodeName, Vec<(u32, &Vec<measure::PeerCopy>)>> = BTreeMap::new();
    for (line, fact) in j.record.outcomes.facts() {
        if let measure::Facts::Peers(row) = fact
            && let Some(gpu) = line.case.gpu()
        {
            by_node.entry(&line.node).or_default().push((gpu, row));
        }
    }
    let mut out: Vec<Matrix> = by_node
        .into_iter()
        .filter_map(|(node, rows)| {
            let cells: Vec<Cell> = rows
                .iter()
                .flat_map(|(from, row)| row.iter().map(|p| Cell { from: *from, to: p.to, value: Some(p.rate) }))
                .collect();
            let values: Vec<f64> = cells.iter().filter_map(|c| c.value).collect();
            let most = cells.iter().map(|c| c.from.max(c.to)).max().filter(|m| *m < 64)?;
            Some(Matrix {
                title: format!("GPU to GPU on {node}"),
                labels: (0..=most).map(|g| format!("gpu{g}")).collect(),
                median: stats::median(&values),
                cells,
                unit: Unit::BytePerSecond,
            })
        })
        .collect();
    let slowest = |m: &Matrix| m.cells.iter().filter_map(|c| c.value).fold(f64::INFINITY, f64::min);
    out.sort_by(|a, b| slowest(a).total_cmp(&slowest(b)));
    out
}

/// What of a collective names its curve over message sizes: `nccl world n=8 gpu3`.
fn curve_name(c: &CollectiveCase) -> String {
    let mut words: Vec<String> = vec![c.topology.to_string()];
    match &c.carrier {
        Carrier::Tcp | Carrier::Rdma(_) => {}
        Carrier::Interface(name) => words.push(clean(name).into_owned()),
        Carrier::Nccl => words.insert(0, NCCL.to_owned()),
    }
    words.push(format!("n={}", c.ranks));
    words.extend(c.in_place.then(|| "in place".to_owned()));
    if let Carrier::Rdma(device) = &c.carrier {
        words.push(clean(device).into_owned());
    }
    words.extend(c.gpu.map(|gpu| format!("gpu{gpu}")));
    words.join(" ")
}

fn curves(j: &Judgement<'_>) -> Vec<Curve> {
    type Values<'a> = BTreeMap<u64, Vec<f64>>;
    let mut order: Vec<String> = Vec::new();
    let mut got: HashMap<(String, Metric), Values<'_>> = HashMap::new();
    let mut expected: HashMap<String, BTreeMap<u64, f64>> = HashMap::new();
    for c in j.cells.iter().filter(|c| c.row().probe == "collective") {
        let Some(case) = c.row().case.collective().filter(|c| c.op == Collective::AllReduce) else { continue };
        let (name, bytes) = (curve_name(case), case.bytes.as_f64());
        let Some(summary) = c.summary else { continue };
        let metric = c.series.metric;
        if !matches!(metric, Metric::Latency | Metric::BusBw) {
            continue;
        }
        if !order.contains(&name) {
            order.push(name.clone());
        }
        if metric == Metric::BusBw
            && let Some(limit) = c.limit().map(|l| l.value).or(c.series.nominal.as_ref().map(|n| n.value))
        {
            expected.entry(name.clone()).or_default().insert(bytes as u64, limit);
        }
        got.entry((name, metric)).or_default().entry(bytes as u64).or_default().push(summary.median);
    }
    let points = |values: Option<&Values<'_>>| -> Vec<(f64, f64)> {
        values.into_iter().flatten().map(|(b, v)| (*b as f64, stats::median(v))).collect()
    };
    order
        .into_iter()
        .map(|name| Curve {
            latency: points(got.get(&(name.clone(), Metric::Latency))),
            busbw: points(got.get(&(name.clone(), Metric::BusBw))),
            expected: expected.get(&name).into_iter().flatten().map(|(b, v)| (*b as f64, *v)).collect(),
            name: clean(&name).into_owned(),
        })
        .filter(|c| c.latency.len() > 1)
        .collect()
}

/// Metrics that many nodes or GPUs have; those with the most to look at first.
fn spreads(j: &Judgement<'_>) -> Vec<Spread> {
    let mut order: Vec<(&str, String, Metric)> = Vec::new();
    let mut got: HashMap<(&str, String, Metric), (Spread, bool)> = HashMap::new();
    for c in j.cells.iter().filter(|c| c.group().is_empty() && c.series.metric != Metric::AlgBw) {
        let Some(summary) = c.summary else { continue };
        // Of GPUs, `bf16 8192 burst gpu3`: all are one distribution.
        let gpu = c.row().gpu().map_or(String::new(), |gpu| format!(" gpu{gpu}"));
        let test = if gpu.is_empty() { c.row().case.to_string() } else { c.row().case.test().to_string() };
        let key = (c.row().probe, test.clone(), c.series.metric);
        let (spread, bad) = got.entry(key.clone()).or_insert_with(|| {
            order.push(key.clone());
            let title = format!("{} {}, {}", clean(c.row().probe), clean(&test), c.series.metric);
            let (unit, better) = (c.series.unit, c.series.better);
            (Spread { title, unit, better, values: Vec::new(), limit: None }, false)
        });
        spread.values.push((format!("{}{gpu}", c.row().node), summary.median));
        spread.limit = spread.limit.or(c.limit().map(|l| l.value));
        *bad |= c.verdict > crate::judge::Verdict::Pass;
    }
    let mut out: Vec<(Spread, bool)> =
        order.iter().filter_map(|k| got.remove(k)).filter(|(s, _)| s.values.len() >= FEWEST).collect();
    out.sort_by_key(|(_, bad)| !*bad);
    out.into_iter().map(|(s, _)| s).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_says_its_curve() {
        let of = |words| crate::work::Case::read(words).collective().map(curve_name);
        assert_eq!(of("all-reduce node n=2 16 MiB"), Some("node n=2".into()));
        assert_eq!(of("all-reduce nccl rail n=4 8 B gpu3"), Some("nccl rail n=4 gpu3".into()));
        assert_eq!(of("all-reduce world n=8 1 MiB mlx5_0"), Some("world n=8 mlx5_0".into()));
        assert_eq!(of("all-reduce rail eth1 n=8 1 MiB"), Some("rail eth1 n=8".into()));
        assert_eq!((of("pair out"), of("all-reduce node n=2")), (None, None));
    }
}
