//! Which port and which address of a device to use, as sysfs tells it: the choice that most RoCE problems come from.

use std::net::Ipv6Addr;

use crate::measure::Bound;
use crate::sys::verbs::{Path, Port};
use crate::topology::{Gid, SysRoot, gids};

/// A port and the address to use on it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::probe) struct Address {
    pub port: u8,
    pub gid_index: u8,
    /// `RoCE v2 10.0.0.3`, `IB fe80:0000:...`.
    pub shown: String,
    /// The port's rate in bytes per second.
    pub rate: Option<Bound>,
    pub service_level: u8,
    pub traffic_class: u8,
    /// The device's own NUMA node.
    pub numa: Option<u32>,
}

impl Address {
    /// How connections from here are made.
    pub fn path(&self, port: &Port) -> Path {
        Path {
            port: self.port,
            gid_index: self.gid_index,
            global: port.ethernet,
            service_level: self.service_level,
            traffic_class: self.traffic_class,
        }
    }
}

/// The first port that is active, and its best address. The error says what was seen.
pub(in crate::probe) fn choose(root: &SysRoot, device: &str) -> Result<Address, String> {
    // It may come from a coordinator: a device has a name, and no place elsewhere.
    if device.contains('/') || device.starts_with('.') {
        return Err(format!("`{}` is no device", crate::id::clean(device)));
    }
    let dir = format!("/sys/class/infiniband/{device}");
    let numa = root.parse::<i64>(format!("{dir}/device/numa_node")).and_then(|n| u32::try_from(n).ok());
    // The class that the job itself will ask for.
    let environment = root.environment();
    let class = |name: &str| environment.get(name).and_then(|v| v.parse::<u8>().ok()).unwrap_or(0);
    let (service_level, traffic_class) = (class("NCCL_IB_SL").min(15), class("NCCL_IB_TC"));
    let mut seen = Vec::new();
    for port in root.list(format!("{dir}/ports")).iter().filter_map(|p| p.parse::<u8>().ok()) {
        let at = format!("{dir}/ports/{port}");
        let state = root.read(format!("{at}/state")).unwrap_or_else(|| "unknown".to_owned());
        if !state.ends_with("ACTIVE") {
            seen.push(format!("port {port} is {}", state.rsplit(": ").next().unwrap_or_default()));
            continue;
        }
        let ethernet = root.read(format!("{at}/link_layer")).as_deref() == Some("Ethernet");
        let gids = gids(root, &at);
        let software = !root.exists(format!("{dir}/device"));
        let rate = root.read(format!("{at}/rate")).and_then(|text| {
            let claim = if software { ", which is software" } else { "" };
            let why = format!("the rate of {device}{claim}");
            Some(Bound { claimed: software, ..Bound::new(rate(&text)? as f64, why) })
        });
        match best(&gids, ethernet) {
            Some(gid) => {
                let kind = if ethernet { gid.kind.trim_start_matches("IB/").to_owned() } else { "IB".to_owned() };
                let mut shown = format!("{device} port {port}, GID {} {kind} {}", gid.index, short(&gid.address));
                if service_level > 0 {
                    shown += &format!(", service level {service_level}");
                }
                if traffic_class > 0 {
                    shown += &format!(", traffic class {traffic_class}");
                }
                let gid_index = gid.index;
                return Ok(Address { port, gid_index, shown, rate, service_level, traffic_class, numa });
            }
            None => seen.push(format!("port {port} is active and has no address: give its interface an IP address")),
        }
    }
    if !root.exists(&dir) {
        // It may have gone while it was looked at.
        seen = vec!["the device is gone".to_owned()];
    } else if seen.is_empty() {
        seen.push("it has no port".to_owned());
    }
    Err(format!("{device}: {}", seen.join(", ")))
}

/// RoCE v2 over IPv4 first, for it is routed and its peers have it; then v2 over IPv6, then v1. Addresses for the link
/// alone come last of each. InfiniBand's own is the first.
fn best(gids: &[Gid], ethernet: bool) -> Option<&Gid> {
    let worth = |g: &Gid| {
        let v2 = g.kind.ends_with("v2");
        let (four, link) = (g.address.starts_with("0000:0000:0000:0000:0000:ffff:"), g.address.starts_with("fe80"));
        (ethernet && v2, ethernet && four, !link, std::cmp::Reverse(g.index))
    };
    if ethernet { gids.iter().max_by_key(|g| worth(g)) } else { gids.iter().min_by_key(|g| g.index) }
}

/// `10.77.0.1` of an address that holds an IPv4 one.
fn short(gid: &str) -> String {
    let parsed: Option<Ipv6Addr> = gid.parse().ok();
    parsed.map_or_else(|| gid.to_owned(), |v6| v6.to_canonical().to_string())
}

/// Bytes per second of `100 Gb/sec (4X EDR)`.
fn rate(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ')?;
    let gbps: f64 = number.parse().ok().filter(|g: &f64| g.is_finite() && *g > 0.0)?;
    unit.starts_with("Gb/sec").then_some((gbps * 1e9 / 8.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(index: u8, address: &str, kind: &str) -> Gid {
        Gid { index, address: address.into(), kind: kind.into() }
    }

    #[test]
    fn roce_v2_over_ipv4_is_preferred_and_infiniband_takes_its_first() {
        let link = "fe80:0000:0000:0000:0ac0:ebff:fe00:0001";
        let four = "0000:0000:0000:0000:0000:ffff:0a4d:0001";
        let table =
            [gid(0, link, "IB/RoCE v1"), gid(1, link, "RoCE v2"), gid(2, four, "IB/RoCE v1"), gid(3, four, "RoCE v2")];
        assert_eq!(best(&table, true).map(|g| g.index), Some(3));
        assert_eq!(best(&table[..2], true).map(|g| g.index), Some(1));
        assert_eq!(best(&table[..1], true).map(|g| g.index), Some(0));
        assert_eq!(best(&[], true), None);
        assert_eq!(best(&[gid(0, link, ""), gid(1, four, "")], false).map(|g| g.index), Some(0));
        assert_eq!(short(four), "10.77.0.1");
    }

    #[test]
    fn rates_are_bytes_per_second() {
        assert_eq!(rate("100 Gb/sec (4X EDR)"), Some(12_500_000_000));
        assert_eq!(rate("2.5 Gb/sec (1X SDR)"), Some(312_500_000));
        assert_eq!((rate("N/A"), rate(""), rate("x Gb/sec"), rate("1e999 Gb/sec")), (None, None, None, None));
    }
}
