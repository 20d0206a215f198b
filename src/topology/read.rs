//! One look at a whole machine.

use std::path::PathBuf;

use crate::topology::filesystem::parse_mountinfo;
use crate::topology::{Machine, Missing, SysRoot, cpu, net, nvidia, os, pci, rdma};

/// What the kernel calls this boot: machines that share a kernel share it, whatever names they bear.
pub fn boot_id(root: &SysRoot) -> Option<String> {
    root.read("/proc/sys/kernel/random/boot_id")
}

/// How many NVIDIA GPUs and RDMA adapters are here: a look at the bus, which asks no driver.
pub fn devices(root: &SysRoot) -> usize {
    pci::gpus(root).iter().filter(|g| g.is_nvidia()).count() + root.list("/sys/class/infiniband").len()
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
