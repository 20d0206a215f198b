//! Kernel, limits, cgroup, container, modules, sysctls, memory.

use std::collections::BTreeMap;

use crate::topology::cpu::parse_kib;
use crate::topology::{Cgroup, Kernel, Limits, Memory, SysRoot};
use crate::unit::Bytes;

/// Modules whose presence decides whether a fast path exists.
const MODULES: &[&str] = &[
    "nvidia",
    "nvidia_peermem",
    "nv_peer_mem",
    "gdrdrv",
    "ib_uverbs",
    "ib_umad",
    "ib_ipoib",
    "mlx5_core",
    "mlx5_ib",
    "rdma_cm",
    "rdma_rxe",
    "amdgpu",
    "efa",
    "irdma",
    "bnxt_re",
];

/// Kernel settings that decide what the network and the memory can do.
const SYSCTLS: &[&str] = &[
    "kernel.numa_balancing",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_congestion_control",
    "vm.max_map_count",
    "vm.overcommit_memory",
    "vm.swappiness",
    "vm.zone_reclaim_mode",
];

pub(super) fn kernel(root: &SysRoot) -> Kernel {
    let os = root.read("/etc/os-release").unwrap_or_default();
    Kernel {
        release: root.read("/proc/sys/kernel/osrelease"),
        command_line: root.read("/proc/cmdline"),
        os: os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|v| v.trim_matches('"').to_owned()),
    }
}

/// Where the firmware's tables are.
pub(super) const DMI: &str = "/sys/class/dmi/id";

/// The machine's serial number, its board's, or its UUID: what the maker filled in.
pub(super) fn serial(root: &SysRoot) -> Option<String> {
    let filled = |text: &String| {
        let lower = text.to_ascii_lowercase();
        let empty = ["", "none", "default string", "system serial number", "not specified", "0", "0123456789"];
        !empty.contains(&lower.as_str()) && !lower.starts_with("to be filled") && text.len() <= 64
    };
    ["product_serial", "board_serial", "product_uuid"]
        .into_iter()
        .filter_map(|name| root.read(format!("{DMI}/{name}")))
        .map(|text| text.trim().to_owned())
        .find(filled)
}

pub(super) fn memory(root: &SysRoot) -> Memory {
    let info = root.read("/proc/meminfo").unwrap_or_default();
    let value = |key: &str| info.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    let size = |key: &str| value(key).and_then(parse_kib);
    let thp = root.read("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    Memory {
        total: size("MemTotal"),
        available: size("MemAvailable"),
        swap: size("SwapTotal"),
        huge_pages: value("HugePages_Total").and_then(|v| v.trim().parse().ok()).unwrap_or(0),
        huge_page_size: size("Hugepagesize"),
        transparent_huge_pages: thp.split(['[', ']']).nth(1).map(str::to_owned),
        shm: shm_size(root),
    }
}

/// The size option of /dev/shm; absent when the kernel's default (half of memory) holds.
fn shm_size(root: &SysRoot) -> Option<Bytes> {
    let info = root.read("/proc/self/mountinfo")?;
    let line = info.lines().find(|l| l.split(' ').nth(4) == Some("/dev/shm"))?;
    line.rsplit(' ')
        .next()?
        .split(',')
        .find_map(|o| o.strip_prefix("size="))
        .and_then(|s| parse_kib(&s.replace('k', "K")))
}

pub(super) fn limits(root: &SysRoot) -> Limits {
    let Some(text) = root.read("/proc/self/limits") else { return Limits::default() };
    let soft = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Limits {
        known: true,
        memlock: soft("Max locked memory").map(Bytes),
        nofile: soft("Max open files"),
        stack: soft("Max stack size").map(Bytes),
    }
}

/// cgroup v2 first, v1 second. The tightest of the process's own group and its parents counts; inside a container the
/// namespace's root is the group.
pub(super) fn cgroup(root: &SysRoot) -> Cgroup {
    let own = root.read("/proc/self/cgroup").unwrap_or_default();
    let path_of = |controller: &str| {
        own.lines().find_map(|l| {
            let mut parts = l.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            controllers.split(',').any(|c| c == controller).then(|| path.to_owned())
        })
    };
    let mut out = Cgroup::default();
    let mut tighten = |cpus: Option<f64>, memory: Option<u64>| {
        out.cpus = [out.cpus, cpus].into_iter().flatten().reduce(f64::min);
        // v1 writes a huge number for "no limit".
        let memory = memory.filter(|m| *m < 1 << 60).map(Bytes);
        out.memory = [out.memory, memory].into_iter().flatten().min();
    };
    for dir in ancestors("/sys/fs/cgroup", path_of("").as_deref().unwrap_or("/")) {
        let cpus = root.read(format!("{dir}/cpu.max")).and_then(|t| {
            let (quota, period) = t.split_once(' ')?;
            Some(quota.parse::<f64>().ok()? / period.trim().parse::<f64>().ok().filter(|p| *p > 0.0)?)
        });
        tighten(cpus, root.parse(format!("{dir}/memory.max")));
    }
    for dir in ancestors("/sys/fs/cgroup/cpu", path_of("cpu").as_deref().unwrap_or("/")) {
        let quota = root.parse::<f64>(format!("{dir}/cpu.cfs_quota_us")).filter(|q| *q > 0.0);
        let period = root.parse::<f64>(format!("{dir}/cpu.cfs_period_us")).filter(|p| *p > 0.0);
        tighten(quota.zip(period).map(|(q, p)| q / p), None);
    }
    for dir in ancestors("/sys/fs/cgroup/memory", path_of("memory").as_deref().unwrap_or("/")) {
        tighten(None, root.parse(format!("{dir}/memory.limit_in_bytes")));
    }
    out
}

/// The group's folder and those above it, at most 16.
fn ancestors(base: &str, path: &str) -> Vec<String> {
    let mut out = vec![base.to_owned()];
    let mut dir = base.to_owned();
    for part in path.split('/').filter(|p| !p.is_empty() && *p != "..").take(16) {
        dir = format!("{dir}/{part}");
        out.push(dir.clone());
    }
    out
}

pub(super) fn container(root: &SysRoot) -> Option<String> {
    for (path, name) in [("/.dockerenv", "docker"), ("/run/.containerenv", "podman"), ("/.singularity.d", "apptainer")]
    {
        if root.exists(path) {
            return Some(name.to_owned());
        }
    }
    let cgroup = root.read("/proc/self/cgroup").unwrap_or_default();
    ["kubepods", "docker", "libpod", "containerd", "lxc"].into_iter().find(|w| cgroup.contains(w)).map(str::to_owned)
}

pub(super) fn modules(root: &SysRoot) -> Vec<String> {
    let loaded = root.read("/proc/modules").unwrap_or_default();
    let names: Vec<&str> = loaded.lines().filter_map(|l| l.split(' ').next()).collect();
    MODULES.iter().filter(|m| names.contains(m)).map(|m| (*m).to_owned()).collect()
}

pub(super) fn sysctls(root: &SysRoot) -> BTreeMap<String, String> {
    let path = |name: &str| format!("/proc/sys/{}", name.replace('.', "/"));
    SYSCTLS.iter().filter_map(|name| Some(((*name).to_owned(), root.read(path(name))?.replace('\t', " ")))).collect()
}
