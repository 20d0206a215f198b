//! What NCCL says of itself: its log and its topology file, parsed. Formats drift between versions, so every field is optional and
//! a line that is not understood is skipped.

mod diagnosis;
mod log;
mod way;
mod xml;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use diagnosis::{Diagnosis, parse_diagnoses};
pub use log::{Choice, Log, Prediction, parse_log};
pub use way::{Direct, P2p, SOCKETS, VERBS, Way};
pub use xml::{NcclTopology, NvLinkEnd, NvLinkTo, TopologyCpu, TopologyGpu, TopologyNet, parse_topology};

/// NCCL as one node's ranks saw it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Nccl {
    /// `2.27.3`.
    pub version: String,
    /// The library that was opened.
    pub path: String,
    /// Why that one of those that are there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Of the communicator: ranks, and nodes.
    pub ranks: u32,
    pub nodes: u32,
    /// `IB`, `Socket`, or a plugin's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Devices that its network uses, and whether each reads and writes the GPUs' memory by itself where that was said.
    pub devices: Vec<NetDevice>,
    /// Whether switches add up (NVLS, multicast over NVLink), and whether the network does (CollNet, SHARP); as far as told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collnet: Option<bool>,
    /// Channels of collectives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u32>,
    /// How many channels go how: `P2P/CUMEM`, `SHM/direct`, `NET/IB/0/GDRDMA`, `NVLS`.
    #[schemars(with = "BTreeMap<String, u32>")]
    pub transports: BTreeMap<Way, u32>,
    /// Devices of the network by the rank that sends through them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sends_by: BTreeMap<u32, Vec<u32>>,
    /// Ranks in the order of the first channel's ring.
    pub ring: Vec<u32>,
    /// Settings that were read from the environment, as NCCL tells them.
    pub settings: Vec<(String, String)>,
    /// Network plugins that were looked for: name, and whether it was loaded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<(String, bool)>,
    /// Network plugins that were found and do not serve.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
    /// GPUs and adapters that are too far from each other for GPUDirect RDMA, where it matters; as far as told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub far: Vec<Far>,
    /// What it warned of, without repetition; the first few.
    pub warnings: Vec<String>,
    /// What its own diagnostics told, of a version that has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub diagnoses: Vec<Diagnosis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<NcclTopology>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NetDevice {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gdr: Option<bool>,
}

/// A network plugin that NCCL found and does without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    pub name: String,
    pub how: Refusal,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The loader could not open it, or what it needs.
    NotOpened,
    /// It is made for another NCCL.
    Unsupported,
    /// It gave up, or found nothing that it could use.
    NotInitialised,
}

/// A GPU that an adapter is too far from for GPUDirect RDMA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Far {
    /// As NCCL names it: up to 2.23 by its bus (`ca000`), then by its rank.
    pub gpu: String,
    pub device: String,
    /// How far it is, and the farthest that GPUDirect is used at: steps that NCCL's versions number differently.
    pub distance: u32,
    pub allowed: u32,
}
