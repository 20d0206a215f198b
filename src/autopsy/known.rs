//! What is known of a run's nodes from elsewhere: their names and addresses, their clocks, which rank runs where.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use crate::autopsy::parts::Parts;
use crate::id::NodeName;
use crate::measure::{Facts, Place, Remains, Trace};
use crate::record::Record;
use crate::roster::Roster;

/// From a check of the same nodes, and from what the run's own logs say of themselves.
#[derive(Debug, Default)]
pub struct Known {
    nodes: Vec<NodeName>,
    kernel: BTreeMap<NodeName, String>,
    addresses: BTreeMap<String, NodeName>,
    /// Each clock minus the first node's, in milliseconds.
    clocks: BTreeMap<NodeName, f64>,
    per_node: Option<u32>,
    parts: Parts,
}

impl Known {
    /// What a record of a check before the run tells.
    pub fn of(record: &Record) -> Self {
        let mut out = Known { nodes: record.header.nodes.clone(), ..Known::default() };
        out.per_node = record.header.plan.run.nodes.as_ref().map(|n| n.gpus_per_node);
        // No node has more; a plan that says so says nothing of ranks.
        out.per_node = out.per_node.filter(|n| (1..=1024).contains(n));
        for (line, fact) in record.outcomes.facts() {
            match fact {
                Facts::Machine(m) => {
                    out.kernel.insert((*line.node).clone(), m.hostname.clone());
                    for address in m.nics.iter().flat_map(|n| &n.addresses) {
                        out.addresses.insert(address.to_string(), (*line.node).clone());
                    }
                }
                Facts::Clocks(offsets) => {
                    out.clocks.extend(offsets.iter().map(|o| (o.node.clone(), (o.low_ms + o.high_ms) / 2.0)));
                }
                _ => {}
            }
        }
        out.parts = Parts::of(record, &Roster::new(&out.nodes, &out.kernel));
        out
    }

    pub(super) fn at(&mut self, address: String, node: NodeName) {
        self.addresses.entry(address).or_insert(node);
    }

    /// Calls every node by one name, puts ranks on their nodes, and all times on the first node's clock.
    pub(super) fn settle(&self, remains: &mut Remains) {
        let roster = Roster::new(&self.nodes, &self.kernel);
        let called =
            |name: &str| -> Option<NodeName> { roster.find(name).or_else(|| self.addresses.get(name)).cloned() };
        let rename = |place: &mut Place| {
            if let Some(node) = &mut place.node
                && let Some(known) = called(&node.0)
            {
                *node = known;
            }
        };
        remains.ranks.values_mut().for_each(rename);
        self.by_order(remains);
        let names: BTreeSet<NodeName> =
            self.nodes.iter().cloned().chain(remains.ranks.values().filter_map(|p| p.node.clone())).collect();
        let of_source: Vec<(Option<NodeName>, Option<u32>)> =
            remains.sources.iter().map(|s| (node_of(&s.name, &names), rank_of(&s.name))).collect();
        for trace in &mut remains.traces {
            rename(&mut trace.place);
            let (node, rank) = &of_source[trace.source];
            settle(trace, node.as_ref(), *rank, &remains.ranks);
            if let Some(known) = trace.names.as_deref().and_then(called) {
                trace.names = Some(known.0);
            }
            if let (Some(at), Some(ms)) = (trace.at, trace.place.node.as_ref().and_then(|n| self.clocks.get(n)))
                && let Ok(at) = at.checked_sub(SignedDuration::from_micros((ms * 1e3) as i64))
            {
                trace.at = Some(at);
            }
        }
        self.parts.settle(remains);
    }

    /// Where nothing says where ranks run, they stand in the order of the nodes, as launchers put them.
    fn by_order(&self, remains: &mut Remains) {
        let stalled = remains.stalls.iter().flat_map(|s| s.waiting.iter().chain(&s.behind).chain(&s.silent)).copied();
        let Some(highest) = remains.traces.iter().filter_map(|t| t.place.rank).chain(stalled).max() else { return };
        if !remains.ranks.is_empty() || self.nodes.is_empty() {
            return;
        }
        let each = self.per_node.unwrap_or(1);
        // More ranks than the nodes have: the order is not known.
        if u64::from(highest) >= u64::from(each) * self.nodes.len() as u64 {
            return;
        }
        for (node, name) in self.nodes.iter().enumerate() {
            for place in 0..each {
                let rank = node as u32 * each + place;
                let gpu = self.per_node.map(|_| place);
                remains.ranks.insert(rank, Place { node: Some(name.clone()), rank: Some(rank), gpu });
            }
        }
    }
}

/// What a line does not say, its rank, its file, and the rank's place say.
fn settle(trace: &mut Trace, node: Option<&NodeName>, rank: Option<u32>, ranks: &BTreeMap<u32, Place>) {
    let place = &mut trace.place;
    place.rank = place.rank.or(rank);
    if let Some(known) = place.rank.and_then(|r| ranks.get(&r)) {
        place.node = place.node.take().or_else(|| known.node.clone());
        place.gpu = place.gpu.or(known.gpu);
    }
    place.node = place.node.take().or_else(|| node.cloned());
    if place.rank.is_none() && place.gpu.is_some() {
        // Where two ranks share a GPU, it says nothing of which.
        let mut same = ranks.values().filter(|p| p.node == place.node && p.gpu == place.gpu);
        place.rank = same.next().filter(|_| same.next().is_none()).and_then(|p| p.rank);
    }
}

/// The one node whose name stands in a path.
fn node_of(path: &str, nodes: &BTreeSet<NodeName>) -> Option<NodeName> {
    let words: BTreeSet<&str> = path.split(['/', '_', '=', ',']).flat_map(|w| stems(w)).collect();
    let mut found = nodes.iter().filter(|n| words.contains(n.0.as_str()));
    found.next().filter(|_| found.next().is_none()).cloned()
}

/// `node3.x.log`: itself, `node3.x`, `node3`; and the same behind each dash.
fn stems(word: &str) -> Vec<&str> {
    let starts = std::iter::once(0).chain(word.match_indices('-').map(|(i, _)| i + 1));
    let mut out = Vec::new();
    for start in starts {
        let mut rest = &word[start..];
        out.push(rest);
        while let Some((head, _)) = rest.rsplit_once(['.', '-']) {
            out.push(head);
            rest = head;
        }
    }
    out
}

/// `rank3`, `rank_3`, `rank-3` in a path.
fn rank_of(path: &str) -> Option<u32> {
    let (_, rest) = path.rsplit_once("rank")?;
    let rest = rest.strip_prefix(['_', '-', '=']).unwrap_or(rest);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_whose_log_it_is() {
        let nodes: BTreeSet<NodeName> = ["node3", "node30", "gpu-a1"].map(|n| NodeName(n.into())).into();
        let of = |path: &str| node_of(path, &nodes).map(|n| n.0);
        assert_eq!(of("/logs/node3/stderr.log"), Some("node3".into()));
        assert_eq!(of("logs/dmesg-node30.txt"), Some("node30".into()));
        assert_eq!(of("logs/gpu-a1.log"), Some("gpu-a1".into()));
        assert_eq!(of("logs/node3/of-node30.log"), None);
        assert_eq!(of("logs/all.log"), None);
        assert_eq!((rank_of("x/rank_12.err"), rank_of("x/rank3/log"), rank_of("frank.log")), (Some(12), Some(3), None));
    }
}
