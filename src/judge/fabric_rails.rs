//! Rails -> findings: in a fabric with a rail a leaf, what hangs elsewhere. Pure.

use std::collections::{BTreeSet, HashMap};

use crate::judge::codes::Code;
use crate::judge::fabric_like::{FEW, UNIFORM, most};
use crate::judge::fabric_names::cable;
use crate::judge::finding::Finding;
use crate::topology::ib::{End, Subnet};

/// In a fabric with a rail a leaf, adapters that hang at another rail's leaf.
pub(super) fn rails(subnet: &Subnet, out: &mut Vec<Finding>) {
    // Devices of each leaf, as hosts call them.
    let mut leaves: Vec<Vec<(&str, &str, End, End)>> = Vec::new();
    for leaf in subnet.leaf_switches() {
        let at = |number: &u32| {
            let port = leaf.node.ports.get(number)?;
            let (host, device) = subnet.nodes.get(&port.peer)?.host()?;
            let own = End { guid: leaf.node.guid, port: *number };
            Some((host, device, own, End { guid: port.peer, port: port.peer_port }))
        };
        leaves.push(leaf.down.iter().filter_map(at).collect());
    }
    leaves.retain(|l| l.len() >= FEW);
    let labels: BTreeSet<&str> = leaves.iter().flatten().map(|(_, d, ..)| *d).collect();
    if labels.len() < 2 || leaves.len() < 2 {
        return;
    }
    let main = |leaf: &Vec<(&'_ str, &'_ str, End, End)>| -> Option<(String, usize)> {
        let devices: Vec<&str> = leaf.iter().map(|(_, d, ..)| *d).collect();
        most(devices.iter()).map(|(d, n)| ((*d).to_owned(), n))
    };
    let pure: Vec<Option<String>> =
        leaves.iter().map(|l| main(l).filter(|(_, n)| *n as f64 >= UNIFORM * l.len() as f64).map(|(d, _)| d)).collect();
    // Where leaves mix rails by design, nothing is crossed.
    if (pure.iter().flatten().count() as f64) < UNIFORM * leaves.len() as f64
        || pure.iter().flatten().collect::<BTreeSet<_>>().len() < 2
    {
        return;
    }
    let places: Vec<(&str, &str, &str, End, End)> = leaves
        .iter()
        .zip(&pure)
        .filter_map(|(leaf, rail)| Some((leaf, rail.as_deref()?)))
        .flat_map(|(leaf, rail)| leaf.iter().map(move |(host, device, own, peer)| (*host, *device, rail, *own, *peer)))
        .collect();
    let at: HashMap<(&str, &str), &str> = places.iter().map(|(h, d, r, ..)| ((*h, *d), *r)).collect();
    for (host, device, rail, own, peer) in places.iter().filter(|(_, d, r, ..)| d != r) {
        // Swapped: its own device of that rail hangs where this one belongs. A host that merely counts its devices in
        // another way has no such pair.
        if at.get(&(*host, *rail)) == Some(device) {
            let evidence =
                format!("{device} hangs at a leaf where the others are {rail}, and {rail} where they are {device}");
            let subject = cable(subnet, *peer, *own);
            out.push(Finding::new(Code::FAB_009, subject, evidence).limit("the other ports of these leaves"));
        }
    }
}
