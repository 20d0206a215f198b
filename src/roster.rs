//! One identity of a node. A scheduler may call a host otherwise than the host's kernel does, and either by a short or a long name:
//! whoever compares names of nodes that come from two places does it here.

use std::collections::{BTreeMap, HashMap};

use crate::hostlist::short;
use crate::id::NodeName;

/// Nodes by all the names that they are known by.
#[derive(Debug, Default)]
pub struct Roster<'a> {
    nodes: Vec<&'a NodeName>,
    exact: HashMap<&'a str, usize>,
    short: HashMap<&'a str, Vec<(usize, &'a str)>>,
}

impl<'a> Roster<'a> {
    /// `kernel` is what a node's own kernel calls it, where that is not the name that it has here.
    pub fn new(nodes: impl IntoIterator<Item = &'a NodeName>, kernel: &'a BTreeMap<NodeName, String>) -> Self {
        let mut out = Roster::default();
        for node in nodes {
            let at = out.nodes.len();
            out.nodes.push(node);
            for name in [Some(node.0.as_str()), kernel.get(node).map(String::as_str)].into_iter().flatten() {
                out.exact.entry(name).or_insert(at);
                out.short.entry(short(name)).or_default().push((at, name));
            }
        }
        out
    }

    /// The node that `name` means: one of its names, or the short form of one where that is no other's. Two long names are of
    /// two hosts.
    pub fn find(&self, name: &str) -> Option<&'a NodeName> {
        if let Some(at) = self.exact.get(name) {
            return Some(self.nodes[*at]);
        }
        let long = |n: &str| n != short(n);
        let mut found: Vec<usize> = self
            .short
            .get(short(name))?
            .iter()
            .filter(|(_, known)| !long(name) || !long(known))
            .map(|(at, _)| *at)
            .collect();
        found.dedup();
        match found[..] {
            [at] => Some(self.nodes[at]),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName(name.into())
    }

    #[test]
    fn long_and_short_names_are_one_node_where_that_is_certain() {
        let nodes = ["n1", "n2.cluster", "n3.a", "n3.b", "10.0.0.1", "10.0.0.2"].map(node);
        let kernel = BTreeMap::from([(node("n1"), "host-7.example".to_owned())]);
        let roster = Roster::new(&nodes, &kernel);
        let find = |n: &str| roster.find(n).map(|n| n.0.as_str());
        assert_eq!(find("n1"), Some("n1"));
        assert_eq!(find("n1.any"), Some("n1"));
        assert_eq!(find("host-7"), Some("n1"));
        assert_eq!(find("host-7.example"), Some("n1"));
        assert_eq!(find("host-7.other"), None);
        assert_eq!(find("n2"), Some("n2.cluster"));
        assert_eq!(find("n2.other"), None);
        // Which of the two is meant cannot be told.
        assert_eq!(find("n3"), None);
        assert_eq!(find("n3.b"), Some("n3.b"));
        // Addresses have no short form.
        assert_eq!((find("10.0.0.2"), find("10.0.0.3"), find("10")), (Some("10.0.0.2"), None, None));
        assert_eq!(find(""), None);
    }
}
