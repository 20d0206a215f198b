//! What is set wrongly for RDMA and NCCL: mistakes that cost people weeks, for nothing breaks, it is only slow.

use crate::id::clean;
use crate::judge::codes::Code;
use crate::topology::{Congestion, Machine, Nic};

/// `^mlx5_0:1,mlx5_1`, `=eth0`: NCCL's lists of interfaces and devices.
struct Listed<'a> {
    /// What is named is left out.
    excluded: bool,
    /// Names are whole names, not beginnings.
    exact: bool,
    names: Vec<&'a str>,
}

impl<'a> Listed<'a> {
    fn of(text: &'a str) -> Self {
        let excluded = text.starts_with('^');
        let rest = text.trim_start_matches('^');
        let exact = rest.starts_with('=');
        let names = rest.trim_start_matches('=').split(',').map(|n| n.split(':').next().unwrap_or(n).trim());
        Listed { excluded, exact, names: names.filter(|n| !n.is_empty()).collect() }
    }

    fn matches(&self, name: &str, device: &str) -> bool {
        if self.exact { device == name } else { device.starts_with(name) }
    }
}

/// Each as `add(code, evidence)`.
pub(super) fn of_machine(m: &Machine, add: &mut dyn FnMut(Code, String)) {
    adapters_listed(m, add);
    interfaces_listed(m, add);
    switched(m, add);
    adapters(m, add);
    peer_to_peer(m, add);
}

/// A variable of the environment that is set to something.
fn set<'m>(m: &'m Machine, name: &str) -> Option<&'m str> {
    m.environment.get(name).map(String::as_str).filter(|v| !v.is_empty())
}

/// NCCL_IB_HCA names adapters, by the beginnings of their names unless it says otherwise.
fn adapters_listed(m: &Machine, add: &mut dyn FnMut(Code, String)) {
    let devices: Vec<&str> = m.infiniband.iter().map(|d| d.name.as_str()).collect();
    if let (Some(text), false) = (set(m, "NCCL_IB_HCA"), devices.is_empty()) {
        let listed = Listed::of(text);
        for name in &listed.names {
            let all: Vec<&str> = devices.iter().copied().filter(|d| listed.matches(name, d)).collect();
            if all.is_empty() {
                add(
                    Code::ENV_010,
                    format!("NCCL_IB_HCA={} names {}, and there is {}", clean(text), clean(name), devices.join(", ")),
                );
            } else if all.len() > 1 && all.contains(name) {
                let more: Vec<&str> = all.into_iter().filter(|d| d != name).collect();
                let what = if listed.excluded { "leaves out" } else { "takes" };
                add(Code::ENV_009, format!("NCCL_IB_HCA={} also {what} {}", clean(text), more.join(", ")));
            }
        }
    }
}

/// The variables that name interfaces of IP.
fn interfaces_listed(m: &Machine, add: &mut dyn FnMut(Code, String)) {
    let up = |n: &&Nic| n.state.as_deref() != Some("down");
    let interfaces: Vec<&str> = m.nics.iter().filter(up).map(|n| n.name.as_str()).collect();
    for variable in ["NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"] {
        let Some(text) = set(m, variable).filter(|_| !interfaces.is_empty()) else { continue };
        let listed = Listed::of(text);
        let some = listed.names.iter().any(|n| interfaces.iter().any(|i| listed.matches(n, i)));
        if !listed.excluded && !some {
            add(Code::ENV_011, format!("{variable}={}; up are {}", clean(text), clean(&interfaces.join(", "))));
        }
    }
}

/// What a variable fixes or takes away, and what the container lacks.
fn switched(m: &Machine, add: &mut dyn FnMut(Code, String)) {
    if let Some(text) = set(m, "NCCL_IB_GID_INDEX") {
        let roce = m.infiniband.iter().flat_map(|d| &d.ports).any(|p| p.link_layer.as_deref() == Some("Ethernet"));
        if roce {
            add(Code::ENV_012, format!("NCCL_IB_GID_INDEX={}", clean(text)));
        }
    }
    if let (Some("1"), Some(device)) = (set(m, "NCCL_IB_DISABLE"), m.connected_rdma().next()) {
        add(Code::ENV_013, format!("NCCL_IB_DISABLE=1, and {device} has an active port"));
    }
    if let (false, Some(false)) = (m.infiniband.is_empty(), m.uverbs) {
        let devices: Vec<&str> = m.infiniband.iter().map(|d| d.name.as_str()).collect();
        add(Code::ENV_014, format!("{} in /sys/class/infiniband, no /dev/infiniband", devices.join(", ")));
    }
}

/// Each adapter's place, provider and congestion control.
fn adapters(m: &Machine, add: &mut dyn FnMut(Code, String)) {
    for d in &m.infiniband {
        let there = d.numa.and_then(|n| m.cpu.numa.iter().find(|x| x.id == n));
        if let Some(node) = there.filter(|n| m.cpu.numa.len() > 1 && !n.cpus.is_empty())
            && !m.cpu.allowed.is_empty()
            && !node.cpus.iter().any(|c| m.cpu.allowed.contains(c))
        {
            add(Code::ENV_016, format!("{} is at NUMA node {}, and no CPU of it is allowed here", d.name, node.id));
        }
        if let (Some(false), Some(driver)) = (d.provider, d.driver.as_deref().or(Some("software"))) {
            add(Code::ENV_018, format!("{} ({}): none in /etc/libibverbs.d", d.name, clean(driver)));
        }
        let roce = d.ports.iter().any(|p| p.link_layer.as_deref() == Some("Ethernet"));
        if let (true, Some(Congestion { ecn, pfc })) = (roce, d.congestion)
            && ecn.unwrap_or(0) == 0
            && pfc.unwrap_or(0) == 0
        {
            let what = match (ecn, pfc) {
                (Some(_), Some(_)) => "ECN and PFC are off in all classes",
                (Some(_), None) => "ECN is off in all classes, and PFC cannot be seen",
                _ => "PFC is off in all classes, and ECN cannot be seen",
            };
            add(Code::ENV_019, format!("{}: {what}", d.name));
        }
    }
}

/// What sends traffic between an adapter and a GPU the long way.
fn peer_to_peer(m: &Machine, add: &mut dyn FnMut(Code, String)) {
    let places =
        m.infiniband.iter().filter_map(|d| d.pcie.as_ref()).chain(m.gpus.iter().filter_map(|g| g.pcie.as_ref()));
    let mut redirecting: Vec<&str> =
        places.filter_map(|p| p.redirecting.as_ref()).flatten().map(String::as_str).collect();
    redirecting.sort_unstable();
    redirecting.dedup();
    if !redirecting.is_empty() && !m.infiniband.is_empty() && !m.gpus.is_empty() && !m.cpu.virtualised {
        let more = if redirecting.len() > 4 { format!(" and {} more", redirecting.len() - 4) } else { String::new() };
        let shown = redirecting.iter().take(4).copied().collect::<Vec<_>>().join(", ");
        add(Code::ENV_017, format!("ACS redirects requests at {}{more}", clean(&shown)));
    }
    let line = m.kernel.command_line.as_deref().unwrap_or("");
    let on = ["intel_iommu=on", "amd_iommu=on"].iter().find(|w| line.split_whitespace().any(|x| x == **w));
    if let (Some(on), false) = (on, line.split_whitespace().any(|w| w == "iommu=pt"))
        && !m.infiniband.is_empty()
        && !m.cpu.virtualised
    {
        add(Code::ENV_015, format!("the kernel was booted with {on} and without iommu=pt"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{IbDevice, IbPort};

    fn found(environment: &[(&str, &str)], edit: &dyn Fn(&mut Machine)) -> Vec<String> {
        let port =
            IbPort { port: 1, state: Some("ACTIVE".into()), link_layer: Some("Ethernet".into()), ..IbPort::default() };
        let device = |n: &str| IbDevice { name: n.into(), ports: vec![port.clone()], ..IbDevice::default() };
        let nic = |n: &str| Nic { name: n.into(), state: Some("up".into()), ..Nic::default() };
        let mut m = Machine {
            infiniband: ["mlx5_0", "mlx5_1", "mlx5_10", "mlx5_11"].map(device).to_vec(),
            nics: ["eth0", "ib0"].map(nic).to_vec(),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Machine::default()
        };
        edit(&mut m);
        let mut out = Vec::new();
        of_machine(&m, &mut |code, evidence| out.push(format!("{code} {evidence}")));
        out
    }

    #[test]
    fn a_beginning_takes_more_than_was_meant() {
        let one = |value: &str| found(&[("NCCL_IB_HCA", value)], &|_| {});
        assert_eq!(one("mlx5_1"), ["ENV-009 NCCL_IB_HCA=mlx5_1 also takes mlx5_10, mlx5_11"]);
        assert_eq!(one("^mlx5_1:1"), ["ENV-009 NCCL_IB_HCA=^mlx5_1:1 also leaves out mlx5_10, mlx5_11"]);
        assert_eq!(one("=mlx5_1,mlx5_0"), [""; 0]);
        assert_eq!(one("mlx5"), [""; 0]);
        assert_eq!(
            one("=mlx5_7"),
            ["ENV-010 NCCL_IB_HCA==mlx5_7 names mlx5_7, and there is mlx5_0, mlx5_1, mlx5_10, mlx5_11"]
        );
    }

    #[test]
    fn interfaces_gids_and_switches() {
        let one = |name: &str, value: &str| found(&[(name, value)], &|_| {});
        assert_eq!(one("NCCL_SOCKET_IFNAME", "bond0"), ["ENV-011 NCCL_SOCKET_IFNAME=bond0; up are eth0, ib0"]);
        assert_eq!(one("NCCL_SOCKET_IFNAME", "=eth"), ["ENV-011 NCCL_SOCKET_IFNAME==eth; up are eth0, ib0"]);
        assert_eq!((one("NCCL_SOCKET_IFNAME", "eth"), one("NCCL_SOCKET_IFNAME", "^docker0")), (vec![], vec![]));
        assert_eq!(one("NCCL_IB_GID_INDEX", "3"), ["ENV-012 NCCL_IB_GID_INDEX=3"]);
        assert_eq!(one("NCCL_IB_DISABLE", "1"), ["ENV-013 NCCL_IB_DISABLE=1, and mlx5_0 has an active port"]);
        assert_eq!(found(&[], &|m| m.uverbs = Some(false)).len(), 1);
        let iommu = |line: &str| found(&[], &|m| m.kernel.command_line = Some(line.to_owned())).len();
        assert_eq!((iommu("quiet intel_iommu=on"), iommu("intel_iommu=on iommu=pt"), iommu("quiet")), (1, 0, 0));
    }

    proptest::proptest! {
        #[test]
        fn nonsense_is_survived(value in "(\\^|=|,|:|mlx5_|eth|[0-9]|\\PC){0,20}") {
            for name in ["NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "NCCL_IB_GID_INDEX"] {
                let _ = found(&[(name, value.as_str())], &|_| {});
            }
        }
    }
}
