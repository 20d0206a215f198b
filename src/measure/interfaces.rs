//! What network interfaces counted: a transport's claim is held against what the kernel saw leave and arrive, and what else the link
//! carried or suffered meanwhile is told.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::NodeName;

/// What one sender claims and what its kernel counted meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Transport {
    pub node: NodeName,
    /// The interface that bears the address used; absent when it cannot be told.
    pub interface: Option<String>,
    /// Payload bytes sent.
    pub bytes: u64,
    /// Bytes that each interface sent meanwhile, headers and everybody else's included.
    pub counted: Vec<(String, u64)>,
    /// Of a flow with nothing beside it: its segments, as the sender's kernel counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<Segments>,
    /// Of a flow over RDMA: bytes that were sent again, at most. Its ports count how often, not how much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<u64>,
    /// Of a flow with nothing beside it: the interface (of RDMA: the device) of the sender, and that of the receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<Box<[LinkEnd; 2]>>,
    /// Share of its time that the flow's threads were ready to run and had no core, at the sender and at the receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited: Option<[f64; 2]>,
}

/// Segments with data of one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Segments {
    pub sent: u64,
    /// Those of them that were sent again, and their bytes.
    pub again: u64,
    pub bytes_again: u64,
    /// Those of `again` that the receiver had already (DSACK, RFC 2883): they came late or out of order, and none was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needless: Option<u64>,
}

impl Segments {
    /// The share that had to be sent again; `None` where too few were sent to tell.
    pub fn share_again(&self) -> Option<f64> {
        let again = self.again.saturating_sub(self.needless.unwrap_or(0));
        (self.sent >= FEW_SEGMENTS).then(|| again as f64 / self.sent as f64)
    }
}

/// Of fewer segments one that is sent again says nothing.
const FEW_SEGMENTS: u64 = 500;

/// An interface at one end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkEnd {
    pub node: NodeName,
    pub interface: String,
    /// Bytes that it counted meanwhile, headers and everybody else's included.
    pub sent: u64,
    pub received: u64,
    #[serde(flatten)]
    pub state: LinkState,
}

/// What an interface has suffered since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct LinkState {
    /// How often its carrier came or went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier_changes: Option<u64>,
    /// Packets that it received or sent with errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<u64>,
}

impl Transport {
    /// Bytes that others sent the same way meanwhile: what an end counted beyond payload, headers and what was sent again. Of the two
    /// ends, the one with more.
    pub fn others(&self) -> Option<(&LinkEnd, u64)> {
        let [from, to] = &**self.ends.as_ref()?;
        let again = self.segments.map(|s| s.bytes_again).or(self.again).unwrap_or(0);
        // Headers are a tenth of packets of 576 bytes, and less of larger ones.
        let own = self.bytes.saturating_add(again);
        let own = own.saturating_add(own / 10);
        let ends = [(from, from.sent), (to, to.received)].into_iter().filter(|(end, _)| end.interface != "lo");
        ends.map(|(end, counted)| (end, counted.saturating_sub(own))).max_by_key(|(_, others)| *others)
    }

    /// Share of the flow's time that the threads at its sender and at its receiver had no core, as far as they are shares.
    pub fn without_core(&self) -> Option<[f64; 2]> {
        self.waited.filter(|both| both.iter().all(|w| (0.0..=1.0).contains(w)))
    }
}

/// A reading of all interfaces' counters.
#[derive(Debug, Clone, Default)]
pub struct Interfaces(BTreeMap<String, Counted>);

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counted {
    pub sent: u64,
    pub received: u64,
}

impl Counted {
    /// `tx_bytes` and `rx_bytes` of an interface.
    pub fn of(interface: &str) -> Option<Self> {
        let received = number(interface, "statistics/rx_bytes").unwrap_or(0);
        Some(Counted { sent: number(interface, "statistics/tx_bytes")?, received })
    }

    /// What went since `before`; nothing where a counter went back.
    pub fn since(&self, before: Counted) -> Option<Counted> {
        let (sent, received) = (self.sent.checked_sub(before.sent)?, self.received.checked_sub(before.received)?);
        Some(Counted { sent, received })
    }
}

impl Interfaces {
    /// `tx_bytes` and `rx_bytes` of every interface, from sysfs.
    pub fn read() -> Self {
        let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let of = |e: fs::DirEntry| {
            let name = e.file_name().into_string().ok()?;
            let counted = Counted::of(&name)?;
            Some((name, counted))
        };
        Interfaces(names.filter_map(of).collect())
    }

    /// What an interface sent and received since `before`; nothing where its counters went back.
    pub fn moved_since(&self, before: &Interfaces, name: &str) -> Option<(u64, u64)> {
        let moved = self.0.get(name)?.since(*before.0.get(name)?)?;
        Some((moved.sent, moved.received))
    }

    /// What an interface has suffered so far.
    pub fn state(name: &str) -> LinkState {
        let (received, sent) = (number(name, "statistics/rx_errors"), number(name, "statistics/tx_errors"));
        LinkState {
            carrier_changes: number(name, "carrier_changes"),
            errors: received.zip(sent).map(|(r, s): (u64, u64)| r.saturating_add(s)),
        }
    }

    /// What each interface sent since `before`; those that sent nothing are left out, and so are counters that went
    /// back.
    pub fn sent_since(&self, before: &Interfaces) -> Vec<(String, u64)> {
        let of = |(name, now): (&String, &Counted)| {
            let sent = now.sent.checked_sub(before.0.get(name)?.sent)?;
            (sent > 0).then(|| (name.clone(), sent))
        };
        self.0.iter().filter_map(of).collect()
    }

    /// The first address of an interface, IPv4 before IPv6; none that is for the link alone.
    pub fn address(name: &str) -> Option<IpAddr> {
        let usable = |ip: &IpAddr| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let all = if_addrs::get_if_addrs().ok()?;
        all.iter().filter(|i| i.name == name).map(|i| i.ip()).filter(usable).min_by_key(IpAddr::is_ipv6)
    }

    /// The largest packet of an interface, in bytes.
    pub fn mtu(name: &str) -> Option<u32> {
        number(name, "mtu")
    }

    /// The interface that bears an address.
    pub fn of(address: IpAddr) -> Option<String> {
        let address = address.to_canonical();
        if_addrs::get_if_addrs().ok()?.into_iter().find(|i| i.ip() == address).map(|i| i.name)
    }
}

/// A file of an interface in sysfs that holds one number.
fn number<T: FromStr>(name: &str, file: &str) -> Option<T> {
    fs::read_to_string(format!("/sys/class/net/{name}/{file}")).ok()?.trim().parse().ok()
}
