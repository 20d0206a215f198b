//! What `[watch]` of `run.toml` says: where checkpoints go when the space runs out, and who is told.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::value::Time;
use crate::unit::ByteRate;
use crate::work::Layout;

/// How the checkpoints of a run are looked after while it goes on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WatchPlan {
    /// The directory that finished checkpoints are moved to, on another file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold: Option<PathBuf>,
    /// A command that copies `{source}` away under the name `{name}`, instead of `cold`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cold_command: Vec<String>,
    /// A command that ends with 0 when what `cold_command` left is the same as `{source}`; nothing is removed without it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verify_command: Vec<String>,
    /// Share of the space in use from which checkpoints are moved; 0.80 unless stated.
    #[serde(deserialize_with = "super::value::some_share", skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// And down to which; 0.60 unless stated.
    #[serde(deserialize_with = "super::value::some_share", skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Saves for which there must be room; with less checkpoints are moved however full it is, and with less than one the alarm is
    /// raised. 2 unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve: Option<u64>,
    /// How the trainer lays its checkpoints out; seen by their names unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// A file in each checkpoint that the trainer writes last, where its layout has none that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete_file: Option<String>,
    /// Checkpoints at multiples of so many steps stay where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milestone_steps: Option<u64>,
    /// The most that copying may read and write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<ByteRate>,
    /// A command that is run when the alarm is raised, with GONOGO_ALARM (the code) and GONOGO_TEXT in its environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_alarm: Vec<String>,
    /// Time between two looks; 10 s unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Time>,
}

impl WatchPlan {
    pub const HIGH: f64 = 0.80;
    pub const LOW: f64 = 0.60;
    pub const RESERVE: u64 = 2;
    /// Checkpoints that stay where they are, where the plan does not say: the last, and the one before, as the last may be bad.
    pub const KEEP: u64 = 2;

    /// Whether anything is moved at all.
    pub fn moves(&self) -> bool {
        self.cold.is_some() || !self.cold_command.is_empty()
    }

    pub fn high(&self) -> f64 {
        self.high.unwrap_or(WatchPlan::HIGH)
    }

    pub fn low(&self) -> f64 {
        self.low.unwrap_or(WatchPlan::LOW.min(self.high()))
    }

    pub fn reserve(&self) -> u64 {
        self.reserve.unwrap_or(WatchPlan::RESERVE)
    }

    /// What the keys contradict: the key, and why.
    pub(super) fn contradiction(&self, dir: Option<&std::path::Path>) -> Option<(&'static str, String)> {
        let wrong = |key, why: &str| Some((key, why.to_owned()));
        if self.low() > self.high() {
            return wrong("low", "`low` is above `high`: moving would never begin, or never end");
        }
        if self.cold.is_some() && !self.cold_command.is_empty() {
            return wrong("cold_command", "`cold` and `cold_command` are two places; give one");
        }
        if !self.cold_command.is_empty() && self.verify_command.is_empty() {
            return wrong(
                "cold_command",
                "`cold_command` needs `verify_command` beside it: no checkpoint is removed whose copy nobody has read",
            );
        }
        for (key, command) in [("cold_command", &self.cold_command), ("verify_command", &self.verify_command)] {
            if !command.is_empty() && !command.iter().any(|a| a.contains("{source}")) {
                return wrong(key, &format!("`{key}` does not say {{source}}, so it cannot know what to take"));
            }
        }
        let text = self.complete_file.as_deref();
        if text.is_some_and(|f| f.is_empty() || f.contains('/') || f == "." || f == "..") {
            return wrong("complete_file", "`complete_file` is the name of a file in the checkpoint, without a path");
        }
        let cold = self.cold.as_deref()?;
        if !cold.is_absolute() {
            return wrong("cold", "`cold` must be an absolute path");
        }
        let dir = dir?;
        if cold.starts_with(dir) {
            return wrong("cold", "`cold` lies inside `dir`: what is moved there stays on the same file system");
        }
        if dir.starts_with(cold) {
            return wrong("cold", "`dir` lies inside `cold`: what is moved there stays on the same file system");
        }
        None
    }
}
