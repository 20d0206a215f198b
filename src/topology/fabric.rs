//! Which node hangs at which leaf: from the plan or from Slurm's topology.conf.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::topology::ib;

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
    #[error("{0} is neither Slurm's topology.conf (SwitchName=... Nodes=...) nor what `ibnetdiscover` says")]
    Neither(PathBuf),
    #[error("{0} names no leaf switch with nodes at it")]
    NoLeaf(PathBuf),
}

/// Largest topology.conf that is read.
const MAX_BYTES: u64 = 32 << 20;

/// Reads Slurm's topology.conf (topology/tree), or ibnetdiscover's output: the switches that have nodes are the leaves.
pub fn read_topology(path: &Path) -> Result<Vec<Leaf>, FabricError> {
    let fail = |message: String| FabricError::Read { path: path.to_owned(), message };
    let text = files::open(path).and_then(|f| files::read_text(f, MAX_BYTES)).map_err(|e| fail(e.to_string()))?;
    let leaves = if is_topology_conf(&text) {
        parse_topology_conf(path, &text)?
    } else if ib::Tool::of(&text) == Some(ib::Tool::Netdiscover) {
        ib::parse_netdiscover(&text).value.leaves()
    } else {
        return Err(FabricError::Neither(path.to_owned()));
    };
    if leaves.is_empty() { Err(FabricError::NoLeaf(path.to_owned())) } else { Ok(leaves) }
}

/// Whether the first line that says anything is `KEY=VALUE`, as in all of Slurm's files.
fn is_topology_conf(text: &str) -> bool {
    let first = text.lines().map(|l| l.split('#').next().unwrap_or("").trim()).find(|l| !l.is_empty());
    let key = first.and_then(|l| l.split_once('=')).map(|(key, _)| key.trim().to_ascii_lowercase());
    key.is_some_and(|k| matches!(k.as_str(), "switchname" | "switches" | "nodes" | "linkspeed" | "include"))
}

/// Parses the text of a topology.conf; `path` is for the messages only. Keys are matched as Slurm does, in any case.
pub fn parse_topology_conf(path: &Path, text: &str) -> Result<Vec<Leaf>, FabricError> {
    let mut leaves = Vec::new();
    let mut at: BTreeMap<String, String> = BTreeMap::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        let fail = |message: String| FabricError::Line { path: path.to_owned(), line: i + 1, message };
        let mut keys: BTreeMap<String, &str> = BTreeMap::new();
        for word in line.split_whitespace() {
            let (key, value) =
                word.split_once('=').ok_or_else(|| fail(format!("`{}` is not KEY=VALUE", clean(word))))?;
            keys.insert(key.to_ascii_lowercase(), value);
        }
        let Some(name) = keys.get("switchname") else {
            if keys.is_empty() {
                continue;
            }
            return Err(fail("a line without SwitchName".to_owned()));
        };
        if let Some(nodes) = keys.get("nodes") {
            let nodes = hostlist::expand(nodes).map_err(|e| fail(e.to_string()))?;
            for node in &nodes {
                if let Some(other) = at.insert(node.clone(), (*name).to_owned()) {
                    return Err(fail(format!("{} hangs at {} and at {}", clean(node), clean(&other), clean(name))));
                }
            }
            leaves.push(Leaf { name: clean(name).into_owned(), nodes: nodes.into_iter().map(NodeName).collect() });
        }
    }
    Ok(leaves)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, String> {
        let show =
            |l: &Leaf| format!("{}:{}", l.name, l.nodes.iter().map(|n| n.0.clone()).collect::<Vec<_>>().join("+"));
        parse_topology_conf(Path::new("t"), text)
            .map(|l| l.iter().map(show).collect::<Vec<_>>().join(" "))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn leaves_are_the_switches_with_nodes() {
        let text = "# a tree\nSwitchName=leaf0 Nodes=node[1-2] LinkSpeed=9\nswitchname=leaf1 nodes=node3\n\nSwitchName=spine Switches=leaf[0-1]\n";
        assert_eq!(parse(text), Ok("leaf0:node1+node2 leaf1:node3".into()));
    }

    #[test]
    fn nonsense_is_placed() {
        assert_eq!(
            parse("SwitchName=a Nodes=n[1-"),
            Err("t:1: `n[1-` is not a list of hosts; write it like `node[001-004,007]`".into())
        );
        assert_eq!(parse("\nhello"), Err("t:2: `hello` is not KEY=VALUE".into()));
        assert!(
            parse("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n1").is_err_and(|e| e.contains("n1 hangs at a and at b"))
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(SwitchName=|Nodes=|a|\\[|1-|\\]|,| |\n|\\PC){0,40}") {
            let _ = parse(&text);
        }
    }
}
