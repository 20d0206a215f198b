//! What both ends of a test saw of their ports: counters that moved, the address used, and what else went over them.

use serde::{Deserialize, Serialize};

use crate::cluster::Child;
use crate::measure::{
    Bound, Carried, Counters, CountersMoved, Facts, LinkEnd, LinkState, Measured, RdmaEnd, Towards, Transport,
    sent_again,
};
use crate::probe::ProbeError;
use crate::probe::rdma::Address;
use crate::probe::rdma::engine::End;
use crate::work::Metric;

/// What an end saw of its port.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Error counters that moved.
    moved: Vec<(String, u64)>,
    /// As [`RdmaEnd::address`], and its MTU in bytes.
    address: String,
    mtu: u32,
    /// Of a flow between two nodes.
    flowed: Option<Flowed>,
}

/// What went over a port while a flow did.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Flowed {
    /// Bytes that this end sent for the flow.
    pub sent: u64,
    /// And so many of them were on the way at once, at most: whatever was may go again.
    pub outstanding: u64,
    pub carried: Carried,
}

/// What an end tells of its port after a measurement: counters are told since `before`.
pub(super) fn seen(
    end: &End,
    address: &Address,
    before: &Counters,
    flowed: Option<Flowed>,
) -> Result<Seen, ProbeError> {
    let moved = Counters::read(&end.device, address.port).moved(before);
    Ok(Seen { moved, address: address.shown.clone(), mtu: end.rdma.port(address.port)?.mtu_bytes(), flowed })
}

/// A flow as both its ends counted it; `None` where both sent, or no counter of both ends saw it.
fn transport(child: &Child, device: &str, all: &[Seen]) -> Option<Transport> {
    let [a, b] = [all.first()?.flowed?, all.get(1)?.flowed?];
    let (from, to) = match (a.sent > 0, b.sent > 0) {
        (true, false) => (0, 1),
        (false, true) => (1, 0),
        _ => return None,
    };
    let bytes = a.sent.max(b.sent);
    let flows = [a, b];
    let end = |rank: usize| {
        let counted = |towards, own| flows[rank].carried.bytes(towards, own);
        // Against the flow go answers only.
        let (out, back) = if rank == from { (bytes, 0) } else { (0, bytes) };
        let (sent, received) = (counted(Towards::Wire, out)?, counted(Towards::Host, back)?);
        let node = child.members.get(rank)?.clone();
        Some(LinkEnd { node, interface: device.to_owned(), sent, received, state: LinkState::default() })
    };
    let times = all.iter().map(|s| sent_again(&s.moved)).fold(0, u64::saturating_add);
    let again = times.saturating_mul(a.outstanding.max(b.outstanding));
    Some(Transport {
        node: child.members.get(from)?.clone(),
        interface: Some(device.to_owned()),
        bytes,
        counted: Vec::new(),
        segments: None,
        again: (again > 0).then_some(again),
        ends: Some(Box::new([end(from)?, end(to)?])),
        waited: None,
    })
}

/// What both ends (by place of their nodes) saw of their ports goes with what was measured.
pub(super) fn finish(child: &Child, device: &str, address: &Address, all: Vec<Seen>, measured: Measured) -> Measured {
    let mut measured = measured;
    measured.transport.extend(transport(child, device, &all));
    let mut ends: Vec<RdmaEnd> = Vec::new();
    for (rank, Seen { moved, address: shown, mtu, .. }) in all.into_iter().enumerate() {
        let node = child.members.get(rank).cloned();
        if let Some(node) = node.clone() {
            ends.push(RdmaEnd { node, address: shown.clone(), mtu });
        }
        measured.notes.push(shown);
        if !moved.is_empty() {
            measured.counters.push(CountersMoved { node, device: device.to_owned(), port: address.port, moved });
        }
    }
    measured.notes.dedup();
    measured.facts = <[RdmaEnd; 2]>::try_from(ends).ok().map(|ends| Box::new(Facts::RdmaPath(Box::new(ends))));
    for s in measured.series.iter_mut().filter(|s| s.metric == Metric::Bandwidth) {
        let Some(rate) = &address.rate else { continue };
        s.nominal = Some(Box::new(rate.clone()));
        if !rate.claimed {
            // Both ways at most twice the rate; what the clock adds.
            s.bound = Some(Box::new(Bound::new(2.1 * rate.value, format!("twice {}", rate.why))));
        }
    }
    measured
}
