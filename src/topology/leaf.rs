//! Leaf switches, and what is wrong with a file that names them.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hostlist;
use crate::id::{NodeName, clean};

/// A leaf switch and the nodes at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Leaf {
    pub name: String,
    pub nodes: Vec<NodeName>,
}

/// Why a topology file is not used.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum FabricError {
    #[error("cannot read the topology {path}: {message}")]
    Read { path: PathBuf, message: String },
    #[error("{path}:{line}: {message}")]
    Line { path: PathBuf, line: usize, message: String },
    #[error(
        "{0} is neither Slurm's topology.conf (SwitchName=... or BlockName=...) nor its topology.yaml nor what `ibnetdiscover` says"
    )]
    Neither(PathBuf),
    #[error("{0} names no leaf switch with nodes at it")]
    NoLeaf(PathBuf),
}

/// Leaves as a file names them one after the other: each once, and each node at one of them.
#[derive(Default)]
pub(super) struct Leaves {
    found: Vec<Leaf>,
    names: HashSet<String>,
    at: HashMap<String, String>,
}

impl Leaves {
    /// Takes in a switch or a block; `nodes` is Slurm's list of hosts. A switch without nodes is no leaf, but has its name.
    pub(super) fn add(&mut self, name: &str, nodes: Option<&str>) -> Result<(), String> {
        if name.is_empty() {
            return Err("a switch or a block without a name".to_owned());
        }
        if !self.names.insert(name.to_owned()) {
            return Err(format!("{} is named twice", clean(name)));
        }
        let Some(nodes) = nodes else { return Ok(()) };
        let nodes = hostlist::expand(nodes).map_err(|e| e.to_string())?;
        for node in &nodes {
            if let Some(other) = self.at.insert(node.clone(), name.to_owned()) {
                return Err(format!("{} hangs at {} and at {}", clean(node), clean(&other), clean(name)));
            }
        }
        let nodes = nodes.into_iter().map(NodeName).collect();
        self.found.push(Leaf { name: clean(name).into_owned(), nodes });
        Ok(())
    }

    pub(super) fn into_vec(self) -> Vec<Leaf> {
        self.found
    }
}
