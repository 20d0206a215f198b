//! One look at a whole machine.

use std::path::PathBuf;

use crate::topology::filesystem::{Mount, parse_mountinfo};
use crate::topology::{Machine, Missing, Nvidia, SysRoot, cpu, net, nvidia, os, pci, rdma};

/// What is mounted.
pub fn mounts(root: &SysRoot) -> Vec<Mount> {
    root.read("/proc/self/mountinfo").map(|t| parse_mountinfo(&t)).unwrap_or_default()
}

/// What the kernel calls this boot: machines that share a kernel share it, whatever names they bear.
pub fn boot_id(root: &SysRoot) -> Option<String> {
    root.read("/proc/sys/kernel/random/boot_id")
}

/// How many NVIDIA GPUs are here: a look at the bus, which asks no driver.
pub fn gpus_on_bus(root: &SysRoot) -> usize {
    pci::gpus(root).iter().filter(|g| g.is_nvidia()).count()
}

/// Reads the machine behind `root`. Never fails: what cannot be read is in [`Machine::missing`].
pub fn discover(root: &SysRoot) -> Machine {
    let mut machine = Machine {
        hostname: root.read("/proc/sys/kernel/hostname").unwrap_or_default(),
        boot: boot_id(root),
        serial: os::serial(root),
        cpu: cpu::read(root),
        memory: os::memory(root),
        nics: net::nics(root),
        infiniband: rdma::devices(root),
        uverbs: None,
        gpus: pci::gpus(root),
        nvidia: None,
        disks: pci::disks(root),
        mounts: mounts(root),
        kernel: os::kernel(root),
        cgroup: os::cgroup(root),
        container: os::container(root),
        limits: os::limits(root),
        sysctls: os::sysctls(root),
        modules: os::modules(root),
        environment: root.environment(),
        missing: Vec::new(),
    };
    machine.nvidia = nvidia::nvidia(root, machine.gpus.iter().any(|g| g.is_nvidia()));
    if let Some(view) = machine.nvidia.take() {
        machine.nvidia = Some(beside_nvml(root, &machine, view));
    }
    machine.uverbs = (!machine.infiniband.is_empty()).then(|| root.exists("/dev/infiniband"));
    let roots = ["/proc/cpuinfo", "/proc/meminfo", "/proc/self/mountinfo", "/sys/devices/system/cpu", "/sys/class/net"];
    let absent =
        roots.into_iter().filter(|p| !root.exists(p)).map(|p| Missing { path: PathBuf::from(p), denied: false });
    // Serial numbers are root's, and nobody misses them.
    let denied = root.denied().into_iter().filter(|p| !p.starts_with(os::DMI));
    let denied = denied.map(|path| Missing { path, denied: true });
    machine.missing = absent.chain(denied).collect();
    machine.missing.sort_by(|a, b| a.path.cmp(&b.path));
    machine.missing.dedup_by(|a, b| a.path == b.path);
    machine
}

/// What is to be seen of NVIDIA's GPUs without NVML.
fn beside_nvml(root: &SysRoot, machine: &Machine, mut view: Nvidia) -> Nvidia {
    let present: Vec<&str> = machine.gpus.iter().filter(|g| g.is_nvidia()).map(|g| g.pci.as_str()).collect();
    let shown: Vec<&str> = view.gpus.iter().map(|g| g.pci.as_str()).collect();
    let driver_views = nvidia::driver_views(root, &present, &shown);
    let in_domain = view.gpus.iter().any(|g| g.fabric.as_ref().is_some_and(|f| f.cluster.is_some()));
    view.imex = in_domain.then(|| nvidia::imex(root, machine.container.is_some()));
    view.masked = nvidia::is_masked(&machine.mounts);
    view.driver_views = driver_views;
    view
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{FabricState, Gpu, Imex, Standing};

    /// A container on a machine of four GPUs: one is granted, one is not, one fell off the bus, one is a guest's.
    #[test]
    fn a_recorded_node_tells_granted_from_lost() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let write = |path: &str, bytes: &[u8]| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(dir.path()))?;
            std::fs::write(path, bytes)
        };
        let addresses = ["0000:10:00.0", "0000:11:00.0", "0000:12:00.0", "0000:13:00.0"];
        let mut links = std::collections::BTreeMap::new();
        for (i, pci) in addresses.iter().enumerate() {
            let device = format!("sys/bus/pci/devices/{pci}");
            write(&format!("{device}/class"), b"0x030200")?;
            write(&format!("{device}/vendor"), b"0x10de")?;
            write(&format!("{device}/config"), if i == 2 { &[0xff; 64] } else { &[0xde, 0x10, 0, 0] })?;
            let driver = if i == 3 { "vfio-pci" } else { "nvidia" };
            links.insert(format!("/{device}/driver"), format!("../../bus/pci/drivers/{driver}"));
        }
        write("links.json", &serde_json::to_vec(&links)?)?;
        for (minor, pci) in addresses[..2].iter().enumerate() {
            let text = format!("Device Minor: \t {minor}\n");
            write(&format!("proc/driver/nvidia/gpus/{pci}/information"), text.as_bytes())?;
        }
        write("nvidia-files.json", br#"{"1": "absent"}"#)?;
        let fabric = FabricState { state: "completed".into(), cluster: Some("ab".into()), ..FabricState::default() };
        let gpu = Gpu { pci: addresses[0].into(), fabric: Some(fabric), ..Gpu::default() };
        let view = Nvidia { driver: Some("570.86.15".into()), gpus: vec![gpu], ..Nvidia::default() };
        write("nvidia.json", &serde_json::to_vec(&view)?)?;
        write("dev/nvidia-caps-imex-channels/channel0", b"")?;

        let m = discover(&SysRoot::replay(dir.path())?);
        assert_eq!((m.gpus_present(), m.gpus_granted()), (4, Some(1)));
        let hidden = m.gpus_hidden();
        let stands: Vec<&Standing> = hidden.iter().map(|(_, s)| s).collect();
        assert!(matches!(stands[..], [Standing::Withheld, Standing::Lost(_), Standing::GivenAway(_)]), "{hidden:?}");
        assert_eq!(m.nvlink_domain().map(|d| d.to_string()).as_deref(), Some("ab clique 0"));
        let imex = m.nvidia.and_then(|n| n.imex);
        assert_eq!(imex, Some(Imex { channels: vec![0], ..Imex::default() }));
        Ok(())
    }
}
