//! What a rehearsed training step took, rank by rank.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::NodeName;
use crate::plan::Training;

/// A training step that was rehearsed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rehearsal {
    /// The run's step, of one rank.
    pub training: Training,
    /// Layers that ran, of those of a rank.
    pub layers: u64,
    /// The part of a layer's width that ran: all of it at 1, a half at 2.
    pub narrow: u64,
    /// Whether messages had a core of their own beside those that computed; GPUs' have.
    pub own_core: bool,
    /// The RDMA device that carried hosts' messages; absent where TCP or NCCL did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    pub ranks: Vec<RankSteps>,
}

/// What one rank's rounds took, seconds, in the order measured: the same round at the same place for all.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct RankSteps {
    /// Absent where there is one node: the outcome's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Its number on the node; absent where the host computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<u32>,
    /// Its own products, with nothing beside them.
    pub alone: Vec<f64>,
    /// Its own products while messages went, without its waits for them.
    pub beside: Vec<f64>,
    /// All of the step, with its waits.
    pub whole: Vec<f64>,
    /// Messages alone; and of that, the gradients.
    pub communication: Vec<f64>,
    pub gradients: Vec<f64>,
    /// And of that, keys and values; absent where no sequence is divided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ring: Vec<f64>,
}

/// What of a rank's rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timed {
    Alone,
    Beside,
    Whole,
    Communication,
    Gradients,
    Ring,
}

impl RankSteps {
    pub fn of(&self, what: Timed) -> &[f64] {
        match what {
            Timed::Alone => &self.alone,
            Timed::Beside => &self.beside,
            Timed::Whole => &self.whole,
            Timed::Communication => &self.communication,
            Timed::Gradients => &self.gradients,
            Timed::Ring => &self.ring,
        }
    }
}

impl Rehearsal {
    /// Whether what ran is what the run will do, and not a narrower likeness.
    pub const fn is_exact(&self) -> bool {
        self.narrow == 1
    }
}
