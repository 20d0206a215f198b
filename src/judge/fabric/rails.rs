//! Rails -> findings: adapters that a host lacks and, in a fabric with a rail a leaf, what hangs elsewhere. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::judge::codes::Code;
use crate::judge::fabric::like::{FEW, UNIFORM, most};
use crate::judge::fabric::names::cable;
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
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
    let mut of_host: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for (host, device, rail, ..) in &places {
        of_host.entry(host).or_default().insert(device, rail);
    }
    for (host, device, rail, own, peer) in places.iter().filter(|(_, d, r, ..)| d != r) {
        let Some(devices) = of_host.get(host) else { continue };
        let swapped = devices.get(rail) == Some(device);
        // Its own device of that rail hangs there, too: no other way of counting puts two of a host on one rail.
        let doubled = devices.get(rail) == Some(rail);
        // A host that merely counts its devices in another way has most of them elsewhere.
        let elsewhere = devices.iter().filter(|(device, rail)| device != rail).count();
        let evidence = if swapped {
            format!("{device} hangs at a leaf where the others are {rail}, and {rail} where they are {device}")
        } else if doubled || 2 * elsewhere < devices.len() {
            format!("{device} hangs at a leaf where the others are {rail}")
        } else {
            continue;
        };
        let subject = cable(subnet, *peer, *own);
        out.push(Finding::new(Code::FAB_009, subject, evidence).limit("the other ports of these leaves"));
    }
}

/// Hosts that lack an adapter's port which nearly all the others have.
pub(super) fn lost(subnet: &Subnet, out: &mut Vec<Finding>) {
    let mut hosts: BTreeMap<&str, BTreeSet<(&str, u32)>> = BTreeMap::new();
    for node in subnet.nodes.values() {
        let Some((host, device)) = node.host() else { continue };
        hosts.entry(host).or_default().extend(node.ports.keys().map(|port| (device, *port)));
    }
    let Some((usual, n)) = most(hosts.values()) else { return };
    if hosts.len() < FEW || (n as f64) < UNIFORM * hosts.len() as f64 {
        return;
    }
    for (host, ports) in &hosts {
        // Login and storage nodes are built with fewer: one that lost something has most of it, and nothing else. Several that have the
        // same are of another kind.
        let alike = hosts.values().filter(|other| *other == ports).count();
        if alike >= FEW || ports.len() >= usual.len() || !ports.is_subset(usual) || 2 * ports.len() <= usual.len() {
            continue;
        }
        for (device, port) in usual.difference(ports) {
            let subject = Subject::Cable(format!("{host} {device} port {port}"), "nothing".to_owned());
            let evidence = format!("it is not in the fabric: {host} has {} of {} ports", ports.len(), usual.len());
            let limit = format!("{n} of {} hosts have it", hosts.len());
            out.push(Finding::new(Code::FAB_003, subject, evidence).limit(limit).severity(Severity::Warn));
        }
    }
}
