//! Frames between a step's parent and its child processes: one JSON text a line, bounded.

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cluster::{Step, StepKey};
use crate::id::NodeName;
use crate::measure::Outcome;

/// Longest line either side accepts.
pub const MAX_LINE: usize = 8 << 20;
/// Most that one child may say in a step.
pub const MAX_TOTAL: usize = 64 << 20;

/// What a rank publishes: JSON that only the ranks read; on its way it is passed on as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Blob(Box<RawValue>);

impl Blob {
    /// # Errors
    /// What cannot be JSON, such as a map whose keys are no texts.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Blob)
    }

    /// # Errors
    /// What is of another kind.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }

    /// Bytes on the wire.
    pub fn bytes(&self) -> usize {
        self.0.get().len()
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// Parent to child.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToChild {
    /// First line: the work.
    Job {
        step: Box<Step>,
        rank: u32,
        /// Of the whole group, over all its nodes.
        ranks: u32,
        /// Where the peers of this node reach it; loopback when the group is this node.
        address: IpAddr,
        /// The group's nodes by place; empty for a step on one node.
        members: Vec<NodeName>,
        /// What the group's processes prove themselves to each other with.
        key: StepKey,
        /// After so long it is killed: the step's own deadline, or what the budget has left.
        deadline_ms: u64,
    },
    /// The answer to a `Publish` of every rank, in rank order.
    All { blobs: Vec<Blob> },
}

/// Child to parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToParent {
    /// This rank's part of an exchange.
    Publish { blob: Blob },
    /// A case ended, by its place among those of the step. Rank 0 speaks for all ranks.
    Outcome { case: u32, outcome: Outcome },
    /// The step ended as it should, and this process ends with it.
    Done,
    /// The step ended as it should, and this process waits for another.
    Ready,
}
