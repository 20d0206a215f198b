//! Expectations: what a measurement is held against, each with where it comes from.
//!
//! Five sources: the plan's own requirements ([`required`]), the nominal rate of the hardware and the built-in catalogue of floors
//! ([`builtin`], `host.toml`, `gpu.toml`), a baseline learned from healthy records ([`Baseline`]), and peers in the same run, which
//! the judge adds.

mod learned;
mod lemon;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::RunPlan;

pub use learned::{Baseline, BaselineError, Entry as Learned, Hardware};
pub use lemon::{Lemon, merge};

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

/// A limit on a metric. It applies to the cases that begin with `case`.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    pub probe: String,
    pub case: String,
    pub metric: String,
    pub limit: Limit,
    /// Slowdown beyond the limit that is still tolerated.
    pub margin: f64,
    pub weight: Weight,
    pub source: Source,
    /// File, date, who measured, how many.
    pub provenance: String,
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
    case: String,
    metric: String,
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
                case: e.case.clone(),
                metric: e.metric.clone(),
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

/// The plan's requirements as limits: no margin, the owner has stated a number.
pub fn required(run: &RunPlan) -> Vec<Expectation> {
    let r = &run.require;
    let demand = |key: &str, probe: &str, case: &str, metric: &str, limit: Option<Limit>| {
        limit.map(|limit| Expectation {
            probe: probe.to_owned(),
            case: case.to_owned(),
            metric: metric.to_owned(),
            limit,
            margin: 0.0,
            weight: Weight::Fail,
            source: Source::Plan,
            provenance: format!("[require] {key}"),
        })
    };
    let rate = |r: Option<crate::unit::ByteRate>| r.map(|r| Limit::Value(r.0));
    let at_large = |n| demand("min_busbw", "collective", n, "busbw", rate(r.min_busbw));
    [
        at_large("all-reduce node n=2 64 MiB"),
        at_large("all-reduce node n=4 64 MiB"),
        demand("min_gemm_fraction", "gemm", "", "flops", r.min_gemm_fraction.map(Limit::ShareOfNominal)),
        demand("min_memory_copy", "memory", "copy", "bandwidth", rate(r.min_memory_copy)),
        demand("min_tcp", "tcp", "loopback", "bandwidth", rate(r.min_tcp)),
        demand(
            "max_allreduce_latency",
            "collective",
            "all-reduce node n=2 8 B",
            "latency",
            r.max_allreduce_latency.map(|t| Limit::Value(t.0.as_secs_f64())),
        ),
        demand("min_storage_write", "storage", "write", "write", rate(r.min_storage_write)),
        demand("min_storage_read", "storage", "read", "read", rate(r.min_storage_read)),
    ]
    .into_iter()
    .flatten()
    .collect()
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
                probe.is_some_and(|p| p.metrics().iter().any(|m| m.name == floor.metric)),
                "{} {}",
                floor.probe,
                floor.metric
            );
        }
    }
}
