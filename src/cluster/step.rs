//! A step: one probe, its cases, its ranks, its deadline.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{NodeName, ProbeName};
use crate::work::{Case, RoundKind};

/// Whose steps say what became of the nodes themselves: no probe, the coordinator.
pub const PRESENCE: ProbeName = ProbeName::new("cluster");

/// Whose processes run a step on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Processes {
    /// Its own, which end with it.
    #[default]
    Own,
    /// The node's GPU processes: one a GPU, started by the first step that needs it and kept for the steps that follow, with its
    /// context and its libraries. One that fails is replaced.
    Gpus,
    /// Its own, after the GPU processes have ended: what they hold would be seen.
    AfterGpus,
}

impl Processes {
    fn is_own(&self) -> bool {
        *self == Processes::Own
    }
}

/// One piece of work, planned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Unique in a plan: the probe's name, and more where a probe has several steps.
    pub name: String,
    pub probe: ProbeName,
    /// Child processes on each node.
    pub ranks: u32,
    /// Who does it: disjoint groups of nodes, all at once, rank order within a group. Empty means every node alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Vec<NodeName>>,
    /// Nodes that share one machine take turns: the step wants all of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
    /// What will be measured, in order.
    pub cases: Vec<Case>,
    /// The probe's own parameters.
    pub args: serde_json::Value,
    pub seed: u64,
    /// How long it should take.
    pub estimate_ms: u64,
    /// Of the estimate, what passes before anything is measured, however little there is to measure: contexts and libraries.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_ms: u64,
    #[serde(default, skip_serializing_if = "Processes::is_own")]
    pub processes: Processes,
    /// The directory in which each node gets a folder of its own for files; removed when the step ends, however it
    /// ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<PathBuf>,
    /// Of a step of pairs, what its round is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<PairRound>,
    /// The network interface that carries it, where that is not the one of the control channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rail: Option<String>,
    /// 1 at first, 2 and more when measured again with more samples.
    pub attempt: u32,
}

/// A round of pairs, all at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairRound {
    pub kind: RoundKind,
    /// The first nodes of the pairs that are there for reference.
    #[serde(default)]
    pub controls: Vec<NodeName>,
    /// Whether it came after collectives that were slow or did not end, to see what changed since the pairs before them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

impl Step {
    /// The round of pairs that it is; `None` for any other step. Records of schema 1 have it among the probe's parameters.
    pub fn pair_round(&self) -> Option<Cow<'_, PairRound>> {
        if let Some(round) = &self.round {
            return Some(Cow::Borrowed(round));
        }
        let kind = self.args.get("round")?.as_str().and_then(RoundKind::named).unwrap_or(RoundKind::Inter);
        let controls = self.args.get("controls").and_then(|c| Vec::deserialize(c).ok()).unwrap_or_default();
        Some(Cow::Owned(PairRound { kind, controls, late: false }))
    }

    /// The group of several nodes that a node speaks for; `None` for a node alone.
    pub fn group_of(&self, first: &NodeName) -> Option<&[NodeName]> {
        self.groups.iter().find(|g| g.len() > 1 && g[0] == *first).map(Vec::as_slice)
    }

    /// The place of a case among its cases.
    pub fn place(&self, case: &Case) -> Option<u32> {
        self.cases.iter().position(|c| c == case).map(|at| at as u32)
    }

    /// Of the estimate, the time for measuring.
    pub fn measuring_ms(&self) -> u64 {
        self.estimate_ms.saturating_sub(self.start_ms)
    }

    /// After this long the step's processes are killed: four times the estimate and some room for a slow start.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.estimate_ms * 4) + Duration::from_secs(3)
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}
