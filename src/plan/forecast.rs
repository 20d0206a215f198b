//! What `[forecast]` of `run.toml` says of a run's course that no check can measure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::value::{Time, some_positive, some_share};

/// How often the cluster fails, and what that costs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ForecastPlan {
    /// Failures that end the run, for each node and day; else learned from `failures` and `node_days`, else as published.
    #[serde(deserialize_with = "some_positive", skip_serializing_if = "Option::is_none")]
    pub failures_per_node_day: Option<f64>,
    /// What this cluster saw itself: so many failures in so many node-days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    #[serde(deserialize_with = "some_positive", skip_serializing_if = "Option::is_none")]
    pub node_days: Option<f64>,
    /// Until a node that failed can be used again; 24 h unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<Time>,
    /// From a failure until the run computes again; 10 min unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Time>,
    /// What a save blocks; else the checkpoint's size over what was measured of writing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save: Option<Time>,
    /// What of a GPU's sustained products a training step keeps; 0.65 unless stated.
    #[serde(deserialize_with = "some_share", skip_serializing_if = "Option::is_none")]
    pub efficiency: Option<f64>,
    /// Sustained bf16 products of a GPU, TFLOP/s; else those of the slowest that was measured.
    #[serde(deserialize_with = "some_positive", skip_serializing_if = "Option::is_none")]
    pub tflops: Option<f64>,
}

impl ForecastPlan {
    /// What the keys contradict: the key, and why.
    pub(super) fn contradiction(&self) -> Option<(&'static str, String)> {
        let wrong = |key, why: &str| Some((key, why.to_owned()));
        match (self.failures_per_node_day, self.failures, self.node_days) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => wrong(
                "failures_per_node_day",
                "`failures_per_node_day` and a history of `failures` are two rates; give one",
            ),
            (_, Some(_), None) => wrong("failures", "`failures` needs `node_days` beside it: in how long?"),
            (_, None, Some(_)) => wrong("node_days", "`node_days` needs `failures` beside it; none is 0"),
            _ => None,
        }
    }
}
