//! What `run.toml` says: the run that wants to launch. Every key is optional; unknown keys are errors.

use std::path::PathBuf;
use std::time::Duration;

use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::value::{Time, some_positive, some_share};
use crate::plan::{ForecastPlan, Model, Parallel, Tier, WatchPlan};
use crate::unit::{ByteRate, Bytes};
use crate::work::{CarrierKind, Collective, Extent, Filter, Topology, Way};

/// The run that wants to launch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunPlan {
    /// A name for people.
    pub name: Option<String>,
    /// How thorough to check when `--tier` does not say.
    pub tier: Option<Tier>,
    /// Time from start to verdict when `--budget` does not say.
    pub budget: Option<Time>,
    pub nodes: Option<Nodes>,
    pub model: Option<Model>,
    /// How a step is divided among the GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<Parallel>,
    pub checkpoint: Option<Checkpoint>,
    /// How the checkpoints are looked after while the run goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<WatchPlan>,
    /// What is known of the cluster's failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<ForecastPlan>,
    /// Which nodes hang at which leaf switch; wins over Slurm's topology.conf.
    pub leaf: Vec<LeafPlan>,
    pub require: Require,
    /// The container image that it runs from, for `--tier image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImagePlan>,
    /// Findings that the operator accepts, each by code, with a reason and an end.
    pub waive: Vec<Waiver>,
}

/// What the run needs to be placed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// Nodes that the run cannot start without.
    pub needed: u32,
    /// Nodes beyond those needed that may be left out.
    #[serde(default)]
    pub spares: u32,
    /// GPUs that every node must have.
    #[serde(default)]
    pub gpus_per_node: u32,
    /// The run is meant for GPUs in MIG mode: their instances are measured as what they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mig: bool,
}

/// bf16 weights, fp32 master weights and both Adam moments: reproduces the published checkpoint sizes of GPT-NeoX-20B,
/// BLOOM, Llama 3 8B and 405B.
const BYTES_PER_PARAMETER: f64 = 14.0;

impl RunPlan {
    /// Size of one checkpoint, from its measured size or the parameters.
    pub fn checkpoint_size(&self) -> Option<Bytes> {
        let checkpoint = self.checkpoint.as_ref()?;
        checkpoint.size.or_else(|| {
            let each = checkpoint.bytes_per_parameter.unwrap_or(BYTES_PER_PARAMETER);
            self.model.as_ref().map(|m| Bytes::from_f64(m.parameters() * each))
        })
    }

    /// What it asks of each node by itself: one node is needed, and nothing is demanded of what lies between nodes.
    pub fn of_one_node(mut self) -> Self {
        if let Some(nodes) = &mut self.nodes {
            (nodes.needed, nodes.spares) = (1, 0);
        }
        self.require.collective.retain(|c| c.topology == Some(Topology::Node));
        self.require.link.clear();
        // What all nodes save together one node cannot tell, nor hold a share of what they stage.
        if let Some(c) = &mut self.checkpoint {
            (c.stall_budget, c.restore_budget, c.mode, c.staging_copies) = (None, None, None, None);
        }
        let r = &mut self.require;
        (r.min_busbw, r.max_allreduce_latency, r.min_tcp, r.strict) = (None, None, None, false);
        r.probes.retain(|p| Tier::Node.includes(p));
        self
    }

    /// Of so many nodes, those that the run can do without.
    pub fn spares_of(&self, nodes: u32) -> u32 {
        self.nodes.as_ref().map_or(0, |n| nodes.saturating_sub(n.needed))
    }
}

/// The machines that an image is for, and what it must bring.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImagePlan {
    /// NVIDIA's driver on them, such as `550.54.14`.
    pub driver: Option<String>,
    /// Their GPU, such as `H100` or `sm_90`.
    pub gpu: Option<String>,
    /// Their kernel, such as `5.15`.
    pub kernel: Option<String>,
    /// Parts that must be there and load: `nccl`, `ibverbs`, or a provider such as `mlx5`.
    pub needs: Vec<String>,
}

/// A leaf switch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeafPlan {
    pub name: String,
    /// Such as `node[001-032]`.
    pub nodes: String,
}

/// How often a checkpoint is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Wall-clock time between two saves.
    pub period: Duration,
    /// Saves in the whole run, if the run's length is known.
    pub saves: Option<u64>,
}

/// Where checkpoints go, how large they are, how many stay.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// The directory that the run will save to.
    pub dir: Option<PathBuf>,
    /// Measured size of one checkpoint; wins over `bytes_per_parameter`.
    pub size: Option<Bytes>,
    /// 14 for bf16 weights with fp32 master weights and both Adam moments (the default), 2 for weights alone.
    #[serde(deserialize_with = "some_positive")]
    pub bytes_per_parameter: Option<f64>,
    /// Time between saves; or give `interval_steps` with `step_time`.
    pub interval: Option<Time>,
    #[serde(deserialize_with = "some_positive")]
    pub interval_steps: Option<f64>,
    pub step_time: Option<Time>,
    /// The run's length in steps, or as `run_time`.
    #[serde(deserialize_with = "some_positive")]
    pub total_steps: Option<f64>,
    pub run_time: Option<Time>,
    /// Checkpoints kept by the retention job. Without it every save is kept for ever.
    pub keep: Option<u64>,
    /// Checkpoints kept beside those, for ever.
    pub milestones: u64,
    /// Share of the file system that may be filled; 0.80 unless stated.
    #[serde(deserialize_with = "some_share")]
    pub usable_fraction: Option<f64>,
    /// Share of the run that synchronous saving may cost, such as 0.01.
    #[serde(deserialize_with = "some_share")]
    pub stall_budget: Option<f64>,
    /// Files in one checkpoint (about one a rank), for the inode arithmetic.
    pub files: Option<u64>,
    /// Whether the run waits until a save is durable (`sync`, unless stated), or goes on when it is in the hosts' memory (`async`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<SaveMode>,
    /// Copies of a node's share that an asynchronous save holds in its memory; 1 unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staging_copies: Option<u64>,
    /// How long a restart may read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_budget: Option<Time>,
    /// How often a restart reads the whole checkpoint: once where every rank reads its own shard (unless stated), as often as there are
    /// replicas where each reads all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_reads: Option<u64>,
}

/// What a run waits for when it saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaveMode {
    /// Until the checkpoint is durable.
    #[default]
    Sync,
    /// Until it is in the hosts' memory.
    Async,
}

impl Checkpoint {
    /// What the run waits for.
    pub fn mode(&self) -> SaveMode {
        self.mode.unwrap_or_default()
    }

    /// Of the interval, how long the run may wait for a save, seconds.
    pub fn stall(&self) -> Option<f64> {
        Some(self.stall_budget? * self.interval()?.period.as_secs_f64())
    }

    /// The save interval, if the plan gives enough to know it.
    pub fn interval(&self) -> Option<Interval> {
        let step = self.step_time.map(|t| t.0.as_secs_f64());
        let period = match (self.interval, self.interval_steps, step) {
            (Some(t), _, _) => t.0.as_secs_f64(),
            (None, Some(n), Some(s)) => n * s,
            _ => return None,
        };
        if period <= 0.0 {
            return None;
        }
        let saves = match (self.total_steps, self.interval_steps, self.run_time, step) {
            (Some(total), Some(every), _, _) => Some((total / every).floor() as u64),
            (_, _, Some(run), _) => Some((run.0.as_secs_f64() / period).floor() as u64),
            (Some(total), None, None, Some(s)) => Some((total * s / period).floor() as u64),
            _ => None,
        };
        Duration::try_from_secs_f64(period).ok().map(|period| Interval { period, saves })
    }
}

/// What the run's owner demands. A requirement that could not be measured holds the gate.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Require {
    /// All-reduce bus bandwidth of the run's own collective at the largest message: over all nodes, or within the one node, by the
    /// best that carries it (NCCL, else RDMA, else TCP).
    pub min_busbw: Option<ByteRate>,
    /// GEMM throughput as a share of the nominal peak.
    #[serde(deserialize_with = "some_share")]
    pub min_gemm_fraction: Option<f64>,
    /// Host memory copy bandwidth, all cores.
    pub min_memory_copy: Option<ByteRate>,
    /// TCP bandwidth: each way of every pair of nodes; on one node over its loopback.
    pub min_tcp: Option<ByteRate>,
    /// All-reduce latency of the run's own collective at the smallest message (8 B), median.
    pub max_allreduce_latency: Option<Time>,
    /// Checkpoint directory: sequential write with fsync.
    pub min_storage_write: Option<ByteRate>,
    /// Checkpoint directory: sequential read, caches dropped.
    pub min_storage_read: Option<ByteRate>,
    /// Probes that must have measured something: their absence holds the gate also when `--skip` names them.
    pub probes: Vec<String>,
    /// Whether a network that nothing says the speed of holds the gate (COV-007).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// Demands on collectives, each by operation, topology, carrier and size.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub collective: Vec<RequireCollective>,
    /// Demands on links between nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<RequireLink>,
}

/// A demand on a collective. What is not said is what the run itself will use.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RequireCollective {
    /// `all-reduce` unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<Collective>,
    /// `node`, `world`, `rail` ...; the widest that was measured unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// `tcp`, `rdma` or `nccl`; the best that was measured unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier: Option<CarrierKind>,
    /// Size of the message; the largest that was measured unless stated, for a latency the smallest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_busbw: Option<ByteRate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency: Option<Time>,
}

impl RequireCollective {
    /// The cases that it is for.
    pub fn filter(&self, unless_stated: Extent) -> Filter {
        Filter {
            op: Some(self.op.unwrap_or(Collective::AllReduce)),
            topology: self.topology,
            carrier: self.carrier,
            bytes: self.bytes,
            extent: self.bytes.is_none().then_some(unless_stated),
            of_run: self.topology.is_none() && self.carrier.is_none(),
            ..Filter::default()
        }
    }
}

/// A demand on the links between nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequireLink {
    /// `tcp`, `rdma`, or `nccl`: from all GPUs of a node to those of another.
    pub carrier: CarrierKind,
    /// `out`, `back` or `both ways`; each way alone unless stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<Way>,
    pub min_bandwidth: ByteRate,
}

impl RequireLink {
    /// The probe that measures it.
    pub const fn probe(&self) -> &'static str {
        match self.carrier {
            CarrierKind::Tcp => "tcp",
            CarrierKind::Rdma => "rdma",
            CarrierKind::Nccl => "collective",
        }
    }
}

/// An accepted finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    /// The finding's code, such as `STO-025`.
    pub code: String,
    /// Why this is acceptable. Shown in every report.
    pub reason: String,
    /// Last day on which the waiver counts, such as `2026-12-31`.
    #[schemars(with = "String")]
    pub until: Date,
}
