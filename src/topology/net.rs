//! Network interfaces from /sys/class/net.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::topology::{Nic, SysRoot};

pub(super) fn nics(root: &SysRoot) -> Vec<Nic> {
    let names = root.list("/sys/class/net");
    let addresses = addresses(
        &root.read("/proc/net/fib_trie").unwrap_or_default(),
        &root.read("/proc/net/route").unwrap_or_default(),
        &root.read("/proc/net/if_inet6").unwrap_or_default(),
    );
    let of = |name: &str| addresses.iter().filter(|(n, _)| n == name).map(|(_, ip)| *ip).collect();
    let real = |n: &&String| *n != "lo" && *n != "bonding_masters";
    names.iter().filter(real).map(|name| Nic { addresses: of(name), ..nic(root, name) }).collect()
}

/// Each interface's own addresses. The kernel lists IPv4 addresses without interfaces (`fib_trie`), and networks with
/// them (`route`): an address belongs to the interface of the narrowest network that holds it.
fn addresses(fib_trie: &str, route: &str, if_inet6: &str) -> Vec<(String, IpAddr)> {
    // Iface Destination Gateway Flags RefCnt Use Metric Mask: numbers as the machine's words in hexadecimal.
    let word = |text: Option<&&str>| u32::from_str_radix(text?, 16).ok().map(|w| u32::from_be_bytes(w.to_ne_bytes()));
    let networks: Vec<(&str, u32, u32)> = route
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (network, gateway, mask) = (word(words.get(1))?, word(words.get(2))?, word(words.get(7))?);
            (gateway == 0 && mask != 0).then_some((*words.first()?, network, mask))
        })
        .collect();
    let mut out: Vec<(String, IpAddr)> = Vec::new();
    let lines: Vec<&str> = fib_trie.lines().collect();
    for pair in lines.windows(2).filter(|p| p[1].trim_start().starts_with("/32 host LOCAL")) {
        let Some(ip) = pair[0].trim_start().strip_prefix("|-- ").and_then(|a| a.parse::<Ipv4Addr>().ok()) else {
            continue;
        };
        let holds = |(_, network, mask): &&(&str, u32, u32)| u32::from(ip) & mask == *network;
        if let Some((name, _, _)) = networks.iter().filter(holds).max_by_key(|(_, _, mask)| *mask) {
            out.push(((*name).to_owned(), ip.into()));
        }
    }
    for line in if_inet6.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [hex, _, _, _, _, name] = words[..]
            && let Ok(bits) = u128::from_str_radix(hex, 16)
            && !Ipv6Addr::from(bits).is_unicast_link_local()
        {
            out.push((name.to_owned(), Ipv6Addr::from(bits).into()));
        }
    }
    out.sort();
    out.dedup();
    out
}

fn nic(root: &SysRoot, name: &str) -> Nic {
    let dir = format!("/sys/class/net/{name}");
    Nic {
        name: name.to_owned(),
        driver: root.link_name(format!("{dir}/device/driver")),
        state: root.read(format!("{dir}/operstate")),
        // The kernel answers -1 or EINVAL for a port that is down.
        speed_mbps: root
            .parse::<i64>(format!("{dir}/speed"))
            .and_then(|s| u64::try_from(s).ok())
            .filter(|s| *s > 0 && *s < 10_000_000),
        mtu: root.parse(format!("{dir}/mtu")),
        carrier_changes: root.parse(format!("{dir}/carrier_changes")),
        errors: root
            .parse::<u64>(format!("{dir}/statistics/rx_errors"))
            .zip(root.parse::<u64>(format!("{dir}/statistics/tx_errors")))
            .map(|(r, s)| r.saturating_add(s)),
        numa: root.parse::<i64>(format!("{dir}/device/numa_node")).and_then(|n| u32::try_from(n).ok()),
        pci: root.link_name(format!("{dir}/device")),
        addresses: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.79.0.3\n        /32 host LOCAL\n     |-- 10.79.0.0\n        /24 link UNICAST\n     |-- 10.80.0.3\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
    const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\neth0\t00000000\tFE004F0A\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth0\t00004F0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\neth1\t0000500A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    const SIX: &str =
        "fd000000000000000000000000000003 02 40 00 80     ib0\nfe80000000000000020c29fffe000001 02 40 20 80     eth0\n";

    #[test]
    fn an_address_belongs_to_the_interface_of_its_network() {
        let found: Vec<String> = addresses(TRIE, ROUTE, SIX).iter().map(|(n, a)| format!("{n} {a}")).collect();
        assert_eq!(found, ["eth0 10.79.0.3", "eth1 10.80.0.3", "ib0 fd00::3"]);
    }

    proptest::proptest! {
        #[test]
        fn nonsense_is_no_address(a in "(\\|-- |/32 host LOCAL|[0-9.]|\n){0,60}", b in "([0-9A-F]|\t|\n|e){0,80}", c in "\\PC{0,80}") {
            let _ = addresses(&a, &b, &c);
        }
    }
}
