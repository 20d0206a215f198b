//! Expectations: what a measurement is held against, each with where it comes from.
//!
//! Six sources: the plan's own requirements ([`required`]), the nominal rate of the hardware and the built-in catalogue of floors
//! ([`builtin`], `host.toml`, `gpu.toml`), a baseline learned from healthy records ([`Baseline`]), and of the same run peers and what a
//! collective consists of, which the judge adds.

mod learned;
mod offender;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::{RunPlan, SaveMode, Time};
use crate::unit::ByteRate;
use crate::work::{
    Among, Case, CheckpointOp, Collective, Extent, Filter, Kernel, Loopback, Metric, Scope, StorageOp, Way,
};

pub use learned::{Baseline, BaselineError, Entry as Learned, Hardware};
pub use offender::{Offender, merge};

/// Where a limit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The run's owner demands it.
    Plan,
    /// A share of what the hardware nominally does.
    Spec,
    /// An achieved value that somebody measured.
    Catalogue,
    /// The median of the other nodes in the same run.
    Peers,
    /// What this cluster reached when it was healthy.
    Baseline,
    /// What links and nodes reached by themselves in the same run.
    Parts,
}

/// How bad it is to miss a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    Warn,
    Fail,
}

/// What a limit is measured in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// In the base unit of the metric.
    Value(f64),
    /// Of the series' own nominal value.
    ShareOfNominal(f64),
}

/// A limit on a metric of a probe's cases.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    pub probe: String,
    /// Which cases it is for.
    pub of: Filter,
    pub metric: Metric,
    pub limit: Limit,
    /// Slowdown beyond the limit that is still tolerated.
    pub margin: f64,
    pub weight: Weight,
    pub source: Source,
    /// File, date, who measured, how many.
    pub provenance: String,
}

impl Expectation {
    /// Whether it is for a case of a probe.
    pub fn is_for(&self, probe: &str, case: &Case, among: &Among<'_>) -> bool {
        self.probe == probe && self.of.fits(case, among)
    }
}

/// The plan's demands among expectations, key by key: what is measured of any of a key's answers it. A cluster is asked about its
/// links, one node about its loopback.
///
/// What `[checkpoint]` says is none: where saving is not rehearsed, the rate of the storage answers.
pub fn demands(all: &[Expectation]) -> impl Iterator<Item = &[Expectation]> {
    let all = all.chunk_by(|a, b| a.source == b.source && a.provenance == b.provenance);
    all.filter(|of| of[0].source == Source::Plan && of[0].of.checkpoint.is_none())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    expect: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    probe: String,
    #[serde(default)]
    of: Filter,
    metric: Metric,
    warn: Option<f64>,
    fail: Option<f64>,
    /// True when `warn` and `fail` are shares of the nominal value.
    #[serde(default)]
    share: bool,
    margin: f64,
    source: String,
}

const FILES: [(&str, &str); 2] = [("host.toml", include_str!("host.toml")), ("gpu.toml", include_str!("gpu.toml"))];

/// The built-in floors for hosts and GPUs.
pub fn builtin() -> Vec<Expectation> {
    FILES.iter().flat_map(|(name, text)| of_file(name, text)).collect()
}

fn of_file(name: &str, text: &str) -> Vec<Expectation> {
    // The files are part of the binary and the test below parses them.
    let file: File = toml::from_str(text).unwrap_or(File { expect: Vec::new() });
    let limits = |e: Entry| {
        [(Weight::Fail, e.fail), (Weight::Warn, e.warn)].map(|(weight, value)| {
            value.map(|v| Expectation {
                probe: e.probe.clone(),
                of: e.of.clone(),
                metric: e.metric,
                limit: if e.share { Limit::ShareOfNominal(v) } else { Limit::Value(v) },
                margin: e.margin,
                weight,
                source: if e.share { Source::Spec } else { Source::Catalogue },
                provenance: format!("{name}: {}", e.source),
            })
        })
    };
    file.expect.into_iter().flat_map(limits).flatten().collect()
}

/// The plan's requirements as limits: no margin, the owner has stated a number. Those of one key have one provenance: what is measured
/// of any of them answers it.
pub fn required(run: &RunPlan) -> Vec<Expectation> {
    let r = &run.require;
    let rate = |r: Option<ByteRate>| r.map(|r| Limit::Value(r.0));
    let time = |t: Option<Time>| t.map(|t| Limit::Value(t.0.as_secs_f64()));
    let own = Filter { op: Some(Collective::AllReduce), of_run: true, ..Filter::default() };
    let large = Filter { extent: Some(Extent::Largest), ..own.clone() };
    let small = Filter { extent: Some(Extent::Smallest), ..own };
    let copy = Filter { kernel: Some(Kernel::Copy), extent: Some(Extent::Largest), ..Filter::default() };
    let streams = Filter { loopback: Some(Loopback::Streams), ..Filter::default() };
    let storage = |op| Filter { storage: Some(op), ..Filter::default() };
    let share = r.min_gemm_fraction.map(Limit::ShareOfNominal);
    let mut out: Vec<Option<Expectation>> = vec![
        demand("min_busbw", "collective", large, Metric::BusBw, rate(r.min_busbw)),
        demand("min_gemm_fraction", "gemm", Filter::default(), Metric::Flops, share),
        demand("min_memory_copy", "memory", copy, Metric::Bandwidth, rate(r.min_memory_copy)),
        demand("max_allreduce_latency", "collective", small, Metric::Latency, time(r.max_allreduce_latency)),
        demand("min_storage_write", "storage", storage(StorageOp::Write), Metric::Write, rate(r.min_storage_write)),
        demand("min_storage_read", "storage", storage(StorageOp::Read), Metric::Read, rate(r.min_storage_read)),
    ];
    // Between nodes the network is what is asked about.
    out.push(demand("min_tcp", "tcp", streams, Metric::Bandwidth, rate(r.min_tcp)));
    out.extend(ways(None).map(|of| demand("min_tcp", "tcp", of, Metric::Bandwidth, rate(r.min_tcp))));
    for (i, c) in r.collective.iter().enumerate() {
        let key = |what: &str| format!("collective number {}: {what}", i + 1);
        let (large, small) = (c.filter(Extent::Largest), c.filter(Extent::Smallest));
        out.push(demand(&key("min_busbw"), "collective", large, Metric::BusBw, rate(c.min_busbw)));
        out.push(demand(&key("max_latency"), "collective", small, Metric::Latency, time(c.max_latency)));
    }
    for (i, link) in r.link.iter().enumerate() {
        let key = format!("link number {}: min_bandwidth", i + 1);
        out.extend(
            ways(link.way).map(|of| demand(&key, link.probe(), of, Metric::Bandwidth, rate(Some(link.min_bandwidth)))),
        );
    }
    out.into_iter().flatten().chain(saving(run)).collect()
}

/// What `[checkpoint]` says of saving and restoring, as rates of all nodes together. Fewer nodes than the run has say less of what all
/// reach: they warn.
fn saving(run: &RunPlan) -> Vec<Expectation> {
    let Some((c, size)) = run.checkpoint.as_ref().zip(run.checkpoint_size()) else { return Vec::new() };
    let interval = c.interval().map(|i| i.period.as_secs_f64());
    let stall = c.stall().map(|s| ("stall_budget", s));
    let reads = c.restore_reads.unwrap_or(1) as f64;
    let restore = c.restore_budget.map(|t| t.0.as_secs_f64());
    let every = interval.map(|i| ("interval", i));
    let (save, read) = (CheckpointOp::Save, CheckpointOp::Restore);
    let demands = match c.mode() {
        SaveMode::Sync => vec![(save, Metric::Write, stall.or(every), 1.0)],
        SaveMode::Async => vec![(save, Metric::Stage, stall, 1.0), (save, Metric::Drain, every, 1.0)],
    };
    let restoring = (read, Metric::Read, restore.map(|s| ("restore_budget", s)), reads);
    let needed = run.nodes.as_ref().map_or(1, |n| n.needed);
    let mut out = Vec::new();
    for (op, metric, within, times) in demands.into_iter().chain([restoring]) {
        let Some((key, seconds)) = within.filter(|(_, s)| *s > 0.0) else { continue };
        let of = Filter { checkpoint: Some(op), of_run: true, ..Filter::default() };
        let weights = [(Weight::Fail, Some(needed)), (Weight::Warn, None)];
        out.extend(weights.into_iter().map(|(weight, nodes_at_least)| Expectation {
            probe: "checkpoint".to_owned(),
            of: Filter { nodes_at_least, ..of.clone() },
            metric,
            limit: Limit::Value(size.as_f64() * times / seconds),
            margin: 0.0,
            weight,
            source: Source::Plan,
            provenance: format!("[checkpoint] {key}"),
        }));
    }
    out
}

/// Flows between two nodes, one way or each.
fn ways(way: Option<Way>) -> impl Iterator<Item = Filter> {
    let all = Way::ALL.iter().copied().filter(move |w| way.map_or(*w != Way::Both, |asked| asked == *w));
    all.map(|way| Filter { scope: Some(Scope::Pair), way: Some(way), ..Filter::default() })
}

fn demand(key: &str, probe: &str, of: Filter, metric: Metric, limit: Option<Limit>) -> Option<Expectation> {
    limit.map(|limit| Expectation {
        probe: probe.to_owned(),
        of,
        metric,
        limit,
        margin: 0.0,
        weight: Weight::Fail,
        source: Source::Plan,
        provenance: format!("[require] {key}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_parses_and_every_limit_has_a_source() {
        for (name, text) in FILES {
            let file: Result<File, _> = toml::from_str(text);
            assert!(file.as_ref().is_ok_and(|f| f.expect.len() > 5), "{name}: {:?}", file.err());
        }
        for e in builtin() {
            assert!(
                e.provenance.len() > 30 && e.provenance.contains("20"),
                "{} {} has no dated source: {}",
                e.probe,
                e.metric,
                e.provenance
            );
            assert!(e.margin > 0.0 && e.margin < 0.5);
        }
    }

    /// Two would say of one figure that it comes from two places.
    #[test]
    fn products_on_hosts_and_on_gpus_have_one_floor_each() {
        use crate::work::{Dtype, HostTest, Load};
        let gpu = Case::GpuGemm { dtype: Dtype::Fp8, m: 8192, load: Load::Burst, gpu: 0 };
        let host = Case::Host { test: HostTest::Gemm(Dtype::F32), cores: 1 };
        for (case, file) in [(gpu, "gpu.toml"), (host, "host.toml")] {
            let all = builtin();
            let floors: Vec<&Expectation> =
                all.iter().filter(|e| e.probe == "gemm" && e.of.fits(&case, &Among::default())).collect();
            assert_eq!(floors.len(), 2, "{case}: a warning and a failure");
            assert!(floors.iter().all(|e| e.provenance.starts_with(file)), "{case}");
        }
    }

    #[test]
    fn every_probe_that_measures_has_an_absolute_floor() {
        let floors = builtin();
        for probe in crate::probe::PROBES.iter().filter(|p| !p.metrics().is_empty()) {
            let name = probe.name();
            assert!(floors.iter().any(|f| f.probe == name.as_str() && f.weight == Weight::Fail), "{name} has no floor");
        }
        for floor in floors {
            let probe = crate::probe::find(&floor.probe);
            assert!(
                probe.is_some_and(|p| p.metrics().iter().any(|m| m.metric == floor.metric)),
                "{} {}",
                floor.probe,
                floor.metric
            );
        }
    }
}
