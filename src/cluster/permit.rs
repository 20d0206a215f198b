//! What a coordinator may have a node do. It holds the token, and so may whoever took it: a node starts what its own plan has, in the
//! folder that its own plan names, and no more of it than the machine can bear.

use std::path::PathBuf;

use crate::cluster::Step;
use crate::cluster::message::{Group, Placement};
use crate::id::{NodeName, ProbeName, clean};
use crate::topology::SysRoot;

/// Largest group.
const MAX_MEMBERS: usize = 100_000;
/// Longest step; a soak of a day is the longest that anybody plans.
const MAX_ESTIMATE_MS: u64 = 48 * 3600 * 1000;

/// A node's own bounds.
#[derive(Debug, Clone)]
pub struct Permit {
    /// What this node's own plan has.
    pub probes: Vec<ProbeName>,
    /// Where its own plan has storage measured.
    pub storage: Option<PathBuf>,
    /// Processes of one step.
    pub ranks: u32,
}

impl Permit {
    /// `probes` are those of this node's plan; the others are planned on what discovery finds, which is therefore always one.
    pub fn new(mut probes: Vec<ProbeName>, storage: Option<PathBuf>) -> Self {
        probes.push(ProbeName::new("environment"));
        // A rank a core, a GPU, or an adapter; a few more where there are few.
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let root = SysRoot::live();
        let devices = root.list("/sys/class/infiniband").len() + crate::topology::gpus_on_bus(&root);
        Permit { probes, storage, ranks: (cores * 2).max(devices as u32).max(16) }
    }

    /// Where this node's processes stand in a step's group; or why it is not started here.
    pub fn place(&self, step: &Step, group: Group, node: &NodeName) -> Result<Placement, String> {
        if !self.probes.contains(&step.probe) {
            return Err(format!("`{}` is not in this node's plan", step.probe));
        }
        if step.scratch.is_some() && step.scratch != self.storage {
            let asked = step.scratch.as_ref().map(|p| clean(&p.to_string_lossy()).into_owned()).unwrap_or_default();
            return Err(format!("{asked} is not where this node's plan has storage measured"));
        }
        let ranks = step.ranks;
        if ranks == 0 || ranks > self.ranks {
            return Err(format!("{ranks} processes of one step, where {} are allowed", self.ranks));
        }
        if group.members.len() > MAX_MEMBERS {
            return Err(format!("a step of {} nodes, where {MAX_MEMBERS} are allowed", group.members.len()));
        }
        if step.estimate_ms > MAX_ESTIMATE_MS {
            return Err(format!("a step of {} s is longer than any", step.estimate_ms / 1000));
        }
        group.place(node, ranks).ok_or_else(|| "this node is not in its group".to_owned())
    }
}
