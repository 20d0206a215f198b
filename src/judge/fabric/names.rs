//! Names for the ports of a fabric, by whatever a tool told of them: a GUID, a LID, a name.

use std::collections::HashMap;

use crate::judge::finding::Subject;
use crate::topology::ib::{End, Fabric, Kind, Subnet};

/// What to call a port, and what hangs at its other end.
pub(super) struct Names<'f> {
    pub(super) subnet: Option<&'f Subnet>,
    /// An adapter's ports by their own GUIDs.
    by_port: HashMap<u64, End>,
    by_lid: HashMap<u32, End>,
}

impl<'f> Names<'f> {
    /// `joined` is all of the fabric's topologies in one.
    pub(super) fn of(fabric: &Fabric, joined: Option<&'f Subnet>) -> Self {
        let mut by_port = HashMap::new();
        // A LID that two fabrics gave tells no port.
        let mut lids: HashMap<u32, Option<End>> = HashMap::new();
        for subnet in fabric.subnets() {
            let mut own: HashMap<u32, End> = HashMap::new();
            for node in subnet.nodes.values() {
                if let Some(lid) = node.lid {
                    own.insert(u32::from(lid), End { guid: node.guid, port: 0 });
                }
                for (number, port) in node.ports.iter().filter(|_| node.kind != Kind::Switch) {
                    let end = End { guid: node.guid, port: *number };
                    by_port.extend(port.guid.map(|g| (g, end)));
                    own.extend(port.lid.map(|l| (u32::from(l), end)));
                }
            }
            for (lid, end) in own {
                lids.entry(lid).and_modify(|known| *known = None).or_insert(Some(end));
            }
        }
        let by_lid = lids.into_iter().filter_map(|(lid, end)| Some((lid, end?))).collect();
        Names { subnet: joined, by_port, by_lid }
    }

    /// The port that a GUID (of a node or of an adapter's port) or a LID stands for.
    pub(super) fn end(&self, guid: Option<u64>, lid: Option<u32>, port: u32) -> Option<End> {
        let known = |g: &u64| self.subnet.is_some_and(|s| s.nodes.contains_key(g));
        // Of an adapter the tools give the port's GUID, which may be a neighbour's own.
        let by_guid = guid.and_then(|g| self.by_port.get(&g).map(|e| e.guid).or_else(|| known(&g).then_some(g)));
        let guid = by_guid.or_else(|| self.by_lid.get(&lid?).map(|e| e.guid));
        guid.map(|guid| End { guid, port })
    }

    pub(super) fn peer(&self, end: End) -> Option<End> {
        let port = self.subnet?.nodes.get(&end.guid)?.ports.get(&end.port)?;
        Some(End { guid: port.peer, port: port.peer_port })
    }

    /// By the node's name, else by what the tool itself told: the name, the GUID, or the LID.
    pub(super) fn show(
        &self,
        end: Option<End>,
        name: &str,
        (guid, lid): (Option<u64>, Option<u32>),
        port: u32,
    ) -> String {
        match (end, self.subnet, guid, lid) {
            (Some(end), Some(subnet), ..) => subnet.show(end),
            _ if !name.trim().is_empty() => format!("{} port {port}", name.trim()),
            (.., Some(guid), _) => format!("0x{guid:016x} port {port}"),
            (.., Some(lid)) => format!("LID {lid} port {port}"),
            _ => format!("port {port}"),
        }
    }
}

/// Both ends of a cable, named; the host's or the leaf's end first.
pub(super) fn cable(subnet: &Subnet, a: End, b: End) -> Subject {
    let (a, b) = ends(subnet, a, b);
    Subject::Cable(a, b)
}

/// The same for a list of cables.
pub(super) fn cable_name(subnet: &Subnet, a: End, b: End) -> String {
    let (a, b) = ends(subnet, a, b);
    format!("{a} - {b}")
}

fn ends(subnet: &Subnet, a: End, b: End) -> (String, String) {
    let rank = |e: &End| match subnet.nodes.get(&e.guid) {
        Some(n) if n.kind != Kind::Switch => (0, 0),
        Some(n) => (1, usize::MAX - n.ports.values().filter(|p| is_host(subnet, p.peer)).count()),
        None => (2, 0),
    };
    let (a, b) = if (rank(&a), a) <= (rank(&b), b) { (a, b) } else { (b, a) };
    (subnet.show(a), subnet.show(b))
}

pub(super) fn is_host(subnet: &Subnet, guid: u64) -> bool {
    subnet.nodes.get(&guid).is_some_and(|n| n.kind == Kind::Ca && !n.is_aggregation())
}
