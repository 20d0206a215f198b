//! Network interfaces and InfiniBand devices from /sys/class.

use crate::topology::{IbDevice, IbPort, Nic, SysRoot};

pub(super) fn nics(root: &SysRoot) -> Vec<Nic> {
    let names = root.list("/sys/class/net");
    names.iter().filter(|n| *n != "lo" && *n != "bonding_masters").map(|name| nic(root, name)).collect()
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
        numa: root.parse::<i64>(format!("{dir}/device/numa_node")).and_then(|n| u32::try_from(n).ok()),
        pci: root.link_name(format!("{dir}/device")),
    }
}

pub(super) fn infiniband(root: &SysRoot) -> Vec<IbDevice> {
    root.list("/sys/class/infiniband")
        .into_iter()
        .map(|name| {
            let dir = format!("/sys/class/infiniband/{name}");
            let ports = root
                .list(format!("{dir}/ports"))
                .iter()
                .filter_map(|p| p.parse::<u32>().ok())
                .map(|p| port(root, &dir, p))
                .collect();
            IbDevice {
                firmware: root.read(format!("{dir}/fw_ver")),
                numa: root.parse::<i64>(format!("{dir}/device/numa_node")).and_then(|n| u32::try_from(n).ok()),
                ports,
                name,
            }
        })
        .collect()
}

/// sysfs writes `4: ACTIVE` and `5: LinkUp`; the number is the kernel's own business.
fn port(root: &SysRoot, device: &str, port: u32) -> IbPort {
    let word = |file: &str| {
        let text = root.read(format!("{device}/ports/{port}/{file}"))?;
        Some(text.split_once(": ").map_or(text.as_str(), |(_, w)| w).to_owned())
    };
    IbPort {
        port,
        state: word("state"),
        phys_state: word("phys_state"),
        rate: word("rate"),
        link_layer: word("link_layer"),
    }
}
