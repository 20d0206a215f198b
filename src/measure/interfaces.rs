//! Bytes that each network interface counted: what a transport claims is held against what the kernel saw leave.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

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
}

/// A reading of all interfaces' counters.
#[derive(Debug, Clone, Default)]
pub struct Interfaces(BTreeMap<String, u64>);

impl Interfaces {
    /// `tx_bytes` of every interface, from sysfs.
    pub fn read() -> Self {
        let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let of = |e: fs::DirEntry| {
            let text = fs::read_to_string(e.path().join("statistics/tx_bytes")).ok()?;
            Some((e.file_name().into_string().ok()?, text.trim().parse().ok()?))
        };
        Interfaces(names.filter_map(of).collect())
    }

    /// What each interface sent since `before`; those that sent nothing are left out, and so are counters that went
    /// back.
    pub fn sent_since(&self, before: &Interfaces) -> Vec<(String, u64)> {
        let of = |(name, now): (&String, &u64)| {
            let sent = now.checked_sub(*before.0.get(name)?)?;
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
        fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
    }

    /// The interface that bears an address.
    pub fn of(address: IpAddr) -> Option<String> {
        let address = address.to_canonical();
        if_addrs::get_if_addrs().ok()?.into_iter().find(|i| i.ip() == address).map(|i| i.name)
    }
}
