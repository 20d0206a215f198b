//! A rank's hardware, by what a check before the run saw: its GPU, the adapter nearest to it, and where that one's cable ends.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::NodeName;
use crate::measure::{Facts, Part, Remains, Wired};
use crate::record::Record;
use crate::roster::Roster;
use crate::topology::Machine;
use crate::topology::ib::Fabric;

/// More devices as near as each other, and none of them is the GPU's own.
const OWN: usize = 2;

/// Every GPU of the nodes of a record.
#[derive(Debug, Default)]
pub(super) struct Parts(Vec<Part>);

impl Parts {
    pub(super) fn of(record: &Record, roster: &Roster<'_>) -> Self {
        let cables = cables(record, roster);
        let of_machine = |(node, m): (&NodeName, &Machine)| -> Vec<Part> {
            let gpus = m.nvidia.iter().flat_map(|n| &n.gpus);
            gpus.map(|g| Part {
                node: node.clone(),
                gpu: g.index,
                uuid: g.uuid.clone(),
                adapters: nearest(m, &g.pci)
                    .into_iter()
                    .map(|device| Wired {
                        to: cables.get(&(node.clone(), device.clone())).cloned().unwrap_or_default(),
                        device,
                    })
                    .collect(),
            })
            .collect()
        };
        Parts(record.machines().flat_map(of_machine).collect())
    }

    /// Keeps those of which a line or a stall speaks.
    pub(super) fn settle(&self, remains: &mut Remains) {
        let late = remains.stalls.iter().flat_map(|s| s.behind.iter().chain(&s.silent));
        let late = late.filter_map(|rank| remains.ranks.get(rank));
        let spoken = remains.traces.iter().map(|t| &t.place).chain(late);
        let spoken: BTreeSet<(&NodeName, u32)> = spoken.filter_map(|p| p.node.as_ref().zip(p.gpu)).collect();
        let parts = self.0.iter().filter(|p| spoken.contains(&(&p.node, p.gpu)));
        remains.parts = parts.cloned().collect();
    }
}

/// The RDMA devices that share most of the way up with a GPU; none where all do alike.
fn nearest(m: &Machine, gpu: &str) -> Vec<String> {
    let near: Vec<_> = m.infiniband.iter().map(|d| (m.nearness(&d.name, gpu), &d.name)).collect();
    let Some(best) = near.iter().map(|(n, _)| *n).max().filter(|(shared, _)| *shared > 0) else { return Vec::new() };
    let own: Vec<String> = near.iter().filter(|(n, _)| *n == best).map(|(_, name)| (*name).clone()).collect();
    if own.len() <= OWN { own } else { Vec::new() }
}

/// Where the cables of each node's devices end, by what was read of the fabric.
fn cables(record: &Record, roster: &Roster<'_>) -> BTreeMap<(NodeName, String), Vec<String>> {
    let mut fabric = Fabric::default();
    for (_, fact) in record.outcomes.facts() {
        if let Facts::Fabric(capture) = fact {
            fabric.take(&capture.tool, &capture.text);
        }
    }
    let mut out: BTreeMap<(NodeName, String), Vec<String>> = BTreeMap::new();
    let Some(subnet) = fabric.subnet else { return out };
    for cable in subnet.cables() {
        for (near, far) in [(cable.a, cable.b), (cable.b, cable.a)] {
            let host = subnet.nodes.get(&near.guid).and_then(|n| n.host());
            if let Some((host, device)) = host
                && let Some(node) = roster.find(host)
            {
                out.entry((node.clone(), device.to_owned())).or_default().push(subnet.show(far));
            }
        }
    }
    out
}
