//! What agents and the coordinator say to each other: JSON, one message each, behind [`crate::cluster::secure`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cluster::wire::Blob;
use crate::cluster::{Step, StepKey};
use crate::id::NodeName;
use crate::measure::{FailKind, Load, Outcome};

/// Grows when either side would misread the other.
pub const PROTOCOL: u32 = 3;
/// Largest first message of an agent.
pub const MAX_JOIN: usize = 64 << 10;

/// Who joins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Join {
    pub protocol: u32,
    /// Version, commit and digest of the binary: `0.1.0 (abc) 0123456789ab`.
    pub build: String,
    /// The world that this agent believes to be in.
    pub job: String,
    pub rank: u32,
    pub size: u32,
    pub local_size: u32,
    /// What its kernel calls it.
    pub host: String,
    /// What the launcher calls it, where it has names of its own.
    pub name: Option<String>,
    /// The kernel's boot id: two agents with one boot id share a machine.
    pub boot: String,
    /// Hash of what the command line and the plan ask for.
    pub plan: String,
}

/// The place of a node's processes in a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// Rank of this node's first process.
    pub base: u32,
    /// Processes of the whole group.
    pub total: u32,
    /// The group's nodes, by place.
    pub members: Vec<NodeName>,
    /// What the group's processes prove themselves to each other with.
    pub key: StepKey,
}

/// Agent to coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Up {
    Join(Box<Join>),
    /// A task that is no agent waits for the verdict of this world.
    Wait {
        job: String,
    },
    /// It knows the verdict, and ends once rank 0 has.
    Leaving,
    Alive,
    /// This node's part of an exchange: one a process.
    Publish {
        task: u64,
        blobs: Vec<Blob>,
    },
    Outcome {
        task: u64,
        /// Its place among the cases of the step.
        case: u32,
        outcome: Box<Outcome>,
        load: Option<Load>,
    },
    /// This node's part of the task is over; every outcome of it was sent before.
    Ended {
        task: u64,
        failure: Option<Failure>,
    },
}

/// Why a node's part of a task ended badly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailKind,
    pub error: String,
}

/// Coordinator to agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Down {
    Welcome {
        node: NodeName,
    },
    /// A task that is no agent is told the verdict when it is there.
    Wait,
    /// The agent is not wanted, and why.
    Refused {
        why: String,
    },
    /// This is not the run that the caller looks for; where it met us may be stale.
    NotHere {
        why: String,
    },
    Alive,
    Run {
        task: u64,
        step: Box<Step>,
        placement: Placement,
        at_most_ms: u64,
    },
    /// The answer to the `Publish` of every member, in rank order.
    All {
        task: u64,
        blobs: Vec<Blob>,
    },
    Stop {
        task: u64,
    },
    /// All is done; the code that every task of the run ends with.
    Bye {
        exit: u8,
    },
}

/// The address that peers reach this node at: that of its control connection unless it is a loopback one.
pub fn reachable(seen: IpAddr) -> IpAddr {
    let usable = |ip: &IpAddr| !ip.is_loopback() && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if usable(&seen) {
        return seen;
    }
    let mut own: Vec<IpAddr> =
        if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|i| i.ip()).filter(usable).collect();
    own.sort_by_key(|ip| ip.is_ipv4() != seen.is_ipv4());
    own.first().copied().unwrap_or(seen)
}
