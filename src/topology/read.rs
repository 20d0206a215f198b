//! One look at a whole machine.

use std::path::PathBuf;

use crate::topology::filesystem::parse_mountinfo;
use crate::topology::{Machine, Missing, Nvidia, SysRoot, cpu, net, nvidia, os, pci, rdma};

/// What the kernel calls this boot: machines that share a kernel share it, whatever names they bear.
pub fn boot_id(root: &SysRoot) -> Option<String> {
    root.read("/proc/sys/kernel/random/boot_id")
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
        mounts: root.read("/proc/self/mountinfo").map(|t| parse_mountinfo(&t)).unwrap_or_default(),
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
    if let Some(told) = machine.nvidia.take() {
        machine.nvidia = Some(beside_nvml(root, &machine, told));
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
fn beside_nvml(root: &SysRoot, machine: &Machine, mut told: Nvidia) -> Nvidia {
    let present: Vec<&str> = machine.gpus.iter().filter(|g| g.is_nvidia()).map(|g| g.pci.as_str()).collect();
    let shown: Vec<&str> = told.gpus.iter().map(|g| g.pci.as_str()).collect();
    let seats = nvidia::seats(root, &present, &shown);
    let in_domain = told.gpus.iter().any(|g| g.fabric.as_ref().is_some_and(|f| f.cluster.is_some()));
    told.imex = in_domain.then(|| nvidia::imex(root, machine.container.is_some()));
    told.masked = nvidia::is_masked(&machine.mounts);
    told.seats = seats;
    told
}
