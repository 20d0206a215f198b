//! RDMA devices and their ports from /sys/class/infiniband: InfiniBand, RoCE, and software.

use crate::topology::{Congestion, Gid, IbDevice, IbPort, SysRoot, pci};

/// Entries of a table of addresses or partitions that are looked at: RoCE has 256, a few of them in use.
const MAX_ENTRIES: usize = 256;

pub(super) fn devices(root: &SysRoot) -> Vec<IbDevice> {
    let providers = providers(root);
    root.list("/sys/class/infiniband").into_iter().map(|name| device(root, name, providers.as_deref())).collect()
}

fn device(root: &SysRoot, name: String, providers: Option<&[String]>) -> IbDevice {
    let dir = format!("/sys/class/infiniband/{name}");
    let numbers = root.list(format!("{dir}/ports"));
    let driver = root.link_name(format!("{dir}/device/driver"));
    let provider = provider(driver.as_deref(), &name).zip(providers);
    IbDevice {
        firmware: root.read(format!("{dir}/fw_ver")).filter(|v| !v.is_empty()),
        model: root.read(format!("{dir}/hca_type")).filter(|v| !v.is_empty()),
        board: root.read(format!("{dir}/board_id")).filter(|v| !v.is_empty()),
        provider: provider.map(|(own, all)| all.iter().any(|p| p == own)),
        numa: root.parse::<i64>(format!("{dir}/device/numa_node")).and_then(|n| u32::try_from(n).ok()),
        pcie: root.link_name(format!("{dir}/device")).and_then(|address| pci::pcie(root, &address)),
        congestion: congestion(root, &dir),
        ports: numbers.iter().filter_map(|p| p.parse::<u32>().ok()).map(|p| port(root, &dir, p)).collect(),
        driver,
        name,
    }
}

/// sysfs writes `4: ACTIVE` and `5: LinkUp`; the number is the kernel's own business.
fn port(root: &SysRoot, device: &str, port: u32) -> IbPort {
    let at = format!("{device}/ports/{port}");
    let word = |file: &str| {
        let text = root.read(format!("{at}/{file}"))?;
        Some(text.split_once(": ").map_or(text.as_str(), |(_, w)| w).to_owned())
    };
    let hex = |file: String| {
        let text = root.read(file)?;
        u16::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    let mut partitions: Vec<u16> = root.list(format!("{at}/pkeys")).iter().filter_map(|n| n.parse().ok()).collect();
    partitions.sort_unstable();
    let pkeys = partitions.into_iter().take(MAX_ENTRIES).filter_map(|n| hex(format!("{at}/pkeys/{n}")));
    IbPort {
        port,
        state: word("state"),
        phys_state: word("phys_state"),
        rate: word("rate"),
        link_layer: word("link_layer"),
        lid: hex(format!("{at}/lid")),
        sm_lid: hex(format!("{at}/sm_lid")),
        gids: gids(root, &at),
        pkeys: pkeys.filter(|k| *k != 0).collect(),
    }
}

/// The entries of a port's table of addresses that are in use, by index. The kernel answers EINVAL for the kind of an
/// empty one.
pub fn gids(root: &SysRoot, port: &str) -> Vec<Gid> {
    let mut numbers: Vec<u8> = root.list(format!("{port}/gids")).iter().filter_map(|n| n.parse().ok()).collect();
    numbers.sort_unstable();
    let one = |index: u8| {
        let address = root.read(format!("{port}/gids/{index}"))?;
        let used = address.chars().any(|c| c != '0' && c != ':');
        let kind = || root.read(format!("{port}/gid_attrs/types/{index}")).unwrap_or_default();
        used.then(|| Gid { index, kind: kind(), address })
    };
    numbers.into_iter().take(MAX_ENTRIES).filter_map(one).collect()
}

/// The providers that libibverbs is configured with: `driver mlx5` in a file of its folder. `None` without the folder, for
/// there are builds that have theirs inside.
fn providers(root: &SysRoot) -> Option<Vec<String>> {
    let files = root.list("/etc/libibverbs.d");
    let of = |file: &String| root.read(format!("/etc/libibverbs.d/{file}"));
    let names = |text: String| -> Vec<String> {
        text.lines()
            .filter_map(|l| l.trim().strip_prefix("driver "))
            .map(|path| path.trim().rsplit('/').next().unwrap_or(path).trim_start_matches("lib").to_owned())
            .collect()
    };
    (!files.is_empty()).then(|| files.iter().filter_map(of).flat_map(names).collect())
}

/// The provider that serves a kernel driver's devices.
fn provider<'a>(driver: Option<&'a str>, device: &str) -> Option<&'a str> {
    match driver {
        Some("mlx5_core") => Some("mlx5"),
        Some("mlx4_core") => Some("mlx4"),
        Some("bnxt_en") => Some("bnxt_re"),
        Some("ice" | "i40e" | "idpf") => Some("irdma"),
        Some("efa") => Some("efa"),
        Some("hns3" | "hns_roce_hw_v2") => Some("hns"),
        Some("erdma") => Some("erdma"),
        Some("mana") => Some("mana"),
        None if device.starts_with("rxe") => Some("rxe"),
        None if device.starts_with("siw") => Some("siw"),
        _ => None,
    }
}

/// `ecn/roce_rp/enable/0..7` and `qos/pfc` of the network interface, which NVIDIA's own driver has and the kernel's has not.
fn congestion(root: &SysRoot, dir: &str) -> Option<Congestion> {
    let interface = root.list(format!("{dir}/device/net")).into_iter().next()?;
    let net = format!("/sys/class/net/{interface}");
    let classes = root.list(format!("{net}/ecn/roce_rp/enable"));
    let on = |class: &&String| root.parse::<u32>(format!("{net}/ecn/roce_rp/enable/{class}")) == Some(1);
    let ecn = (!classes.is_empty()).then(|| classes.iter().filter(on).count() as u32);
    // A mask of eight bits, `0` to `255`, or eight numbers.
    let pfc = root.read(format!("{net}/qos/pfc")).and_then(|text| {
        let numbers: Vec<u32> =
            text.split([' ', ',']).filter(|w| !w.is_empty()).map_while(|w| w.parse().ok()).collect();
        match numbers[..] {
            [] => None,
            [mask] => Some(mask.count_ones()),
            _ => Some(numbers.iter().filter(|n| **n == 1).count() as u32),
        }
    });
    (ecn.is_some() || pfc.is_some()).then_some(Congestion { ecn, pfc })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Connectionless, Machine, Nic};
    use std::fs;

    type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

    /// A machine of files.
    fn tree(files: &[(&str, &str)], links: &[(&str, &str)]) -> Result<(tempfile::TempDir, SysRoot)> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("proc"))?;
        for (path, text) in files {
            let path = dir.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().ok_or("no parent")?)?;
            fs::write(path, text)?;
        }
        let links: std::collections::BTreeMap<&str, &str> = links.iter().copied().collect();
        fs::write(dir.path().join("links.json"), serde_json::to_vec(&links)?)?;
        let root = SysRoot::replay(dir.path())?;
        Ok((dir, root))
    }

    const MLX: &str = "/sys/class/infiniband/mlx5_0";

    #[test]
    fn a_port_is_read_whole() -> Result {
        let at = |f: &str| format!("{MLX}/{f}");
        let files = [
            (at("fw_ver"), "28.39.1002\n"),
            (at("hca_type"), "MT4129\n"),
            (at("board_id"), "MT_0000000838\n"),
            (at("ports/1/state"), "4: ACTIVE\n"),
            (at("ports/1/phys_state"), "5: LinkUp\n"),
            (at("ports/1/rate"), "400 Gb/sec (4X NDR)\n"),
            (at("ports/1/link_layer"), "InfiniBand\n"),
            (at("ports/1/lid"), "0x1a\n"),
            (at("ports/1/sm_lid"), "0x1\n"),
            (at("ports/1/gids/0"), "fe80:0000:0000:0000:b83f:d203:0016:7f3e\n"),
            (at("ports/1/gids/1"), "0000:0000:0000:0000:0000:0000:0000:0000\n"),
            (at("ports/1/gid_attrs/types/0"), "IB/RoCE v1\n"),
            (at("ports/1/pkeys/0"), "0xffff\n"),
            (at("ports/1/pkeys/1"), "0x0000\n"),
            (at("device/current_link_speed"), "16.0 GT/s PCIe\n"),
            (at("device/current_link_width"), "8\n"),
            ("/sys/bus/pci/devices/0000:18:00.0/current_link_speed".into(), "16.0 GT/s PCIe\n"),
            ("/sys/bus/pci/devices/0000:18:00.0/current_link_width".into(), "8\n"),
            ("/sys/bus/pci/devices/0000:18:00.0/max_link_speed".into(), "32.0 GT/s PCIe\n"),
            ("/sys/bus/pci/devices/0000:18:00.0/max_link_width".into(), "16\n"),
            ("/sys/bus/pci/devices/0000:17:01.0/max_link_speed".into(), "Unknown\n"),
            ("/sys/bus/pci/devices/0000:17:01.0/max_link_width".into(), "255\n"),
            ("/etc/libibverbs.d/rxe.driver".into(), "driver rxe\n"),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (a.as_str(), *b)).collect();
        let links = [
            ("/sys/class/infiniband/mlx5_0/device", "../../../0000:18:00.0"),
            ("/sys/class/infiniband/mlx5_0/device/driver", "../../../../bus/pci/drivers/mlx5_core"),
            ("/sys/bus/pci/devices/0000:18:00.0", "../../../devices/pci0000:16/0000:16:01.0/0000:17:01.0/0000:18:00.0"),
        ];
        let (_dir, root) = tree(&files, &links)?;
        let found = devices(&root);
        let d = found.first().ok_or("no device")?;
        assert_eq!(
            (d.model.as_deref(), d.driver.as_deref(), d.provider),
            (Some("MT4129"), Some("mlx5_core"), Some(false))
        );
        let p = &d.ports[0];
        assert_eq!((p.lid, p.sm_lid, &p.pkeys[..], p.gids.len()), (Some(26), Some(1), &[0xffff][..], 1));
        let pcie = d.pcie.as_ref().ok_or("no PCI")?;
        assert_eq!(pcie.bridges, ["0000:16:01.0", "0000:17:01.0"]);
        assert_eq!(pcie.link.map(|l| l.to_string()), Some("16 GT/s x8".into()));
        assert_eq!((pcie.most.map(|l| l.to_string()), pcie.slot), (Some("32 GT/s x16".into()), None));
        assert_eq!(pcie.redirecting, None);
        Ok(())
    }

    /// By the driver behind each device: what has reliable connections, and what NCCL reaches by a plugin only.
    #[test]
    fn adapters_without_reliable_connections_are_known_by_their_driver() -> Result {
        let names = ["rdmap79s0", "mlx5_0", "usnic_0", "rdmap80s0"];
        let states: Vec<(String, &str)> = names
            .iter()
            .map(|n| {
                (
                    format!("/sys/class/infiniband/{n}/ports/1/state"),
                    if *n == "rdmap80s0" { "1: DOWN" } else { "4: ACTIVE" },
                )
            })
            .collect();
        let files: Vec<(&str, &str)> = states.iter().map(|(a, b)| (a.as_str(), *b)).collect();
        let links = [
            ("/sys/class/infiniband/rdmap79s0/device/driver", "../../../../../../bus/pci/drivers/efa"),
            ("/sys/class/infiniband/rdmap80s0/device/driver", "../../../../../../bus/pci/drivers/efa"),
            ("/sys/class/infiniband/mlx5_0/device/driver", "../../../../bus/pci/drivers/mlx5_core"),
            ("/sys/class/infiniband/usnic_0/device/driver", "../../../../bus/pci/drivers/enic"),
        ];
        let (_dir, root) = tree(&files, &links)?;
        let nic = |name: &str, state: &str| Nic {
            name: name.into(),
            driver: Some("cxi_ss1".into()),
            state: Some(state.into()),
            ..Nic::default()
        };
        let mut machine = Machine {
            infiniband: devices(&root),
            nics: vec![nic("hsn0", "up"), nic("hsn1", "down")],
            ..Machine::default()
        };
        assert_eq!(machine.active_rdma().collect::<Vec<_>>(), ["mlx5_0", "rdmap79s0", "usnic_0"]);
        assert_eq!(machine.connected_rdma().collect::<Vec<_>>(), ["mlx5_0"]);
        let kinds = [
            ("rdmap79s0", Connectionless::Efa),
            ("usnic_0", Connectionless::Usnic),
            ("hsn0", Connectionless::Slingshot),
        ];
        assert_eq!(machine.connectionless().collect::<Vec<_>>(), kinds);
        // A driver that nobody knows is tried.
        machine.infiniband.iter_mut().for_each(|d| d.driver = Some("pigeon".into()));
        assert_eq!(machine.connected_rdma().count(), 3);
        Ok(())
    }

    #[test]
    fn congestion_is_told_where_the_driver_shows_it() -> Result {
        let files = [
            ("/sys/class/infiniband/mlx5_0/device/net/eth0/mtu", "9000"),
            ("/sys/class/net/eth0/ecn/roce_rp/enable/0", "0"),
            ("/sys/class/net/eth0/ecn/roce_rp/enable/3", "1"),
            ("/sys/class/net/eth0/qos/pfc", "8"),
        ];
        let (_dir, root) = tree(&files, &[])?;
        assert_eq!(congestion(&root, MLX), Some(Congestion { ecn: Some(1), pfc: Some(1) }));
        let (_dir, root) = tree(&[("/sys/class/infiniband/mlx5_0/device/net/eth0/mtu", "9000")], &[])?;
        assert_eq!(congestion(&root, MLX), None);
        Ok(())
    }

    proptest::proptest! {
        #[test]
        fn nonsense_in_files_is_absence(text in "(0x|ffff|N/A|[0-9]|: |ACTIVE|GT/s|\\PC){0,12}") {
            let at = |f: &str| format!("{MLX}/ports/1/{f}");
            let files = [at("state"), at("lid"), at("gids/0"), at("pkeys/0"), at("rate")];
            let files: Vec<(&str, &str)> = files.iter().map(|f| (f.as_str(), text.as_str())).collect();
            let (_dir, root) = tree(&files, &[]).map_err(|e| proptest::test_runner::TestCaseError::fail(e.to_string()))?;
            proptest::prop_assert_eq!(devices(&root).len(), 1);
        }
    }
}
