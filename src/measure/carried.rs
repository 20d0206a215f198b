//! What an RDMA port carried while a flow went over it, everybody else's included.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::measure::interfaces::Counted;

/// `port_xmit_data` and `port_rcv_data` count in words of so many bytes.
const WORD: u64 = 4;
/// Where an adapter counts in 32 bits, its counter stands still at its end.
const FULL: u64 = u32::MAX as u64;

/// A reading of a port: what it carried so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// By the port's own counters of data; soft-RoCE and virtual functions have none.
    port: Option<Counted>,
    /// By the Ethernet interface that the port is: some adapters count RDMA there as well, others do not.
    interface: Option<Counted>,
}

/// Which way data went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Towards {
    Wire,
    Host,
}

impl Carried {
    pub fn read(device: &str, port: u8, gid_index: u8) -> Self {
        let at = format!("/sys/class/infiniband/{device}/ports/{port}");
        let text = |file: String| fs::read_to_string(format!("{at}/{file}")).ok();
        let words = |name: &str| {
            let n: u64 = text(format!("counters/{name}"))?.trim().parse().ok()?;
            (n != FULL).then(|| n.saturating_mul(WORD))
        };
        let counted = || Some(Counted { sent: words("port_xmit_data")?, received: words("port_rcv_data")? });
        // Of InfiniBand the interface is IPoIB, whose packets the port counts anyway.
        let ethernet = text("link_layer".to_owned()).is_some_and(|l| l.trim() == "Ethernet");
        let interface = || Counted::of(text(format!("gid_attrs/ndevs/{gid_index}"))?.trim());
        Carried { port: counted(), interface: if ethernet { interface() } else { None } }
    }

    /// What it carried since `before`; nothing of a counter that went back.
    #[must_use]
    pub fn since(&self, before: &Carried) -> Carried {
        let moved = |now: Option<Counted>, then: Option<Counted>| now?.since(then?);
        Carried { port: moved(self.port, before.port), interface: moved(self.interface, before.interface) }
    }

    /// Bytes that went one way, of which the test itself sent `own`; `None` where no counter saw even those.
    ///
    /// An interface that counted less than half of them does not count RDMA: what it shows went beside. Else both may show the same, and
    /// the larger stands: too little is told rather than one's own traffic as others'.
    pub fn bytes(&self, towards: Towards, own: u64) -> Option<u64> {
        let one = |c: Counted| match towards {
            Towards::Wire => c.sent,
            Towards::Host => c.received,
        };
        let (port, interface) = (self.port.map(one), self.interface.map(one));
        let port = port.filter(|p| *p >= own / 2);
        match (port, interface) {
            (Some(p), Some(i)) if i < own / 2 => Some(p.saturating_add(i)),
            (Some(p), Some(i)) => Some(p.max(i)),
            (Some(p), None) => Some(p),
            (None, i) => i.filter(|i| *i >= own / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(port: Option<(u64, u64)>, interface: Option<(u64, u64)>) -> Carried {
        let of = |(sent, received)| Counted { sent, received };
        Carried { port: port.map(of), interface: interface.map(of) }
    }

    #[test]
    fn what_others_sent_shows_whichever_counter_has_it() {
        let wire = |c: Carried| c.bytes(Towards::Wire, 1000);
        // InfiniBand; RoCE beside TCP that only the interface counts; soft-RoCE, which the interface counts with the rest.
        assert_eq!(wire(carried(Some((1010, 7)), None)), Some(1010));
        assert_eq!(wire(carried(Some((1010, 7)), Some((400, 9)))), Some(1410));
        assert_eq!(wire(carried(None, Some((1600, 9)))), Some(1600));
        // An adapter whose interface counts RDMA as well: its own bytes are not told twice.
        assert_eq!(wire(carried(Some((1010, 7)), Some((1030, 9)))), Some(1030));
        assert_eq!(carried(Some((3, 1010)), None).bytes(Towards::Host, 1000), Some(1010));
    }

    #[test]
    fn a_counter_that_did_not_see_the_test_proves_nothing() {
        let wire = |c: Carried| c.bytes(Towards::Wire, 1000);
        // A virtual function whose counters stand still, and one whose interface is busy with something else.
        assert_eq!(wire(carried(Some((0, 0)), None)), None);
        assert_eq!(wire(carried(Some((0, 0)), Some((300, 300)))), None);
        assert_eq!(wire(carried(None, None)), None);
        let (before, after) = (carried(Some((500, 5)), Some((9, 9))), carried(Some((100, 7)), Some((19, 9))));
        assert_eq!(after.since(&before), carried(None, Some((10, 0))));
    }
}
