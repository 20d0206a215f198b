//! What a node was when the gate opened, and what it is now: held against each other they tell what befell it under the run.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::measure::CountersMoved;
use crate::topology::Machine;

/// Two looks at one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Since {
    /// Whether the first look is what a check kept; else the watch took it as it began.
    pub of_check: bool,
    #[schemars(with = "String")]
    pub from: Timestamp,
    #[schemars(with = "String")]
    pub at: Timestamp,
    pub before: Machine,
    pub after: Machine,
    /// Error counters of RDMA ports that moved since the watch began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<CountersMoved>,
}

/// What a watch knows of its own node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OwnNode {
    Looked(Box<Since>),
    /// The last look failed, and why.
    Unseen(String),
}
