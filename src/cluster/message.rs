//! What agents and the coordinator say to each other: JSON, one message each, behind [`crate::cluster::secure`].

use std::io::{self, Read};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cluster::secure::MAX_MESSAGE;
use crate::cluster::wire::{Blob, Blobs};
use crate::cluster::{Step, StepKey};
use crate::files::ZSTD_MAGIC;
use crate::id::NodeName;
use crate::measure::{FailKind, Load, Outcome};

/// Grows when either side would misread the other.
pub const PROTOCOL: u32 = 5;
/// What the coordinator says to a node is packed from this length on: names and addresses of thousands of nodes go to each of them.
const LONG: usize = 16 << 10;
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

/// Who works on a step together: the same for all of them, so that what goes to thousands is packed once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its nodes, by place.
    pub members: Vec<NodeName>,
    /// What its processes prove themselves to each other with.
    pub key: StepKey,
}

/// The place of a node's processes in a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// Rank of this node's first process.
    pub base: u32,
    /// Processes of the whole group.
    pub total: u32,
    pub group: Group,
}

impl Group {
    /// Where the processes of a node stand, `ranks` on each; `None` where it is not in it.
    pub fn place(self, node: &NodeName, ranks: u32) -> Option<Placement> {
        let place = self.members.iter().position(|m| m == node)?;
        let of = |nodes: usize| u32::try_from(nodes).ok()?.checked_mul(ranks);
        Some(Placement { base: of(place)?, total: of(self.members.len())?, group: self })
    }
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
        group: Group,
        at_most_ms: u64,
    },
    /// The answer to the `Publish` of every member, in rank order.
    All {
        task: u64,
        blobs: Blobs,
    },
    Stop {
        task: u64,
    },
    /// All is done; the code that every task of the run ends with.
    Bye {
        exit: u8,
    },
}

impl Down {
    /// As it is sent, packed by zstd where it is long.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A message of ours always serialises.
        let text = serde_json::to_vec(self).unwrap_or_default();
        let packed = (text.len() >= LONG).then(|| zstd::encode_all(&*text, 1).ok()).flatten();
        packed.unwrap_or(text)
    }

    /// # Errors
    /// What is no message of ours, and what unpacks to more than [`MAX_MESSAGE`].
    pub fn of(bytes: &[u8]) -> io::Result<Self> {
        if !bytes.starts_with(&ZSTD_MAGIC) {
            return Ok(serde_json::from_slice(bytes)?);
        }
        let mut text = Vec::new();
        let packed = zstd::stream::read::Decoder::with_buffer(bytes)?;
        packed.take(MAX_MESSAGE as u64 + 1).read_to_end(&mut text)?;
        if text.len() > MAX_MESSAGE {
            return Err(io::Error::other(format!("a message that unpacks to more than {} MiB", MAX_MESSAGE >> 20)));
        }
        Ok(serde_json::from_slice(&text)?)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_packed_and_comes_out_as_it_was() {
        for nodes in [1, 10_000] {
            let blobs: Vec<Blob> =
                (0..nodes).map(|i| Blob::of(&format!("10.1.{}.{}:4321", i / 256, i % 256)).unwrap()).collect();
            let all = Down::All { task: 7, blobs: Blobs::of(&blobs).unwrap() };
            let (bytes, text) = (all.to_bytes(), serde_json::to_vec(&all).unwrap());
            assert_eq!(bytes.starts_with(&ZSTD_MAGIC), nodes > 1);
            assert!(nodes == 1 || bytes.len() * 4 < text.len(), "{} of {}", bytes.len(), text.len());
            assert_eq!(Down::of(&bytes).unwrap(), all);
            assert_eq!(Down::of(&text).unwrap(), all);
        }
    }

    #[test]
    fn what_unpacks_to_no_end_and_what_is_cut_is_refused() {
        let bomb = zstd::encode_all(io::repeat(b' ').take(MAX_MESSAGE as u64 * 4), 1).unwrap();
        assert!(bomb.len() < 1 << 20);
        assert!(Down::of(&bomb).unwrap_err().to_string().contains("unpacks to more than"));
        let whole = Down::Refused { why: "x".repeat(LONG) }.to_bytes();
        for cut in [0, 3, 4, 5, whole.len() / 2, whole.len() - 1] {
            assert!(Down::of(&whole[..cut]).is_err(), "{cut}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read(packed in proptest::bool::ANY, rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let bytes = if packed { [&ZSTD_MAGIC[..], &rest].concat() } else { rest };
            let _ = Down::of(&bytes);
        }
    }
}
