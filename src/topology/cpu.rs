//! CPUs, NUMA nodes and caches from /proc/cpuinfo and /sys/devices/system.

use crate::topology::{Cpu, NumaNode, SysRoot};
use crate::unit::Bytes;

/// `0-3,8,10-11` -> the numbers. Nonsense parts are left out; at most 8192 numbers are taken.
pub fn parse_list(text: &str) -> Vec<u32> {
    let mut out = Vec::new();
    for part in text.trim().split(',') {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(a), Ok(b)) = (a.trim().parse::<u32>(), b.trim().parse::<u32>()) {
            out.extend((a..=b).take(8192usize.saturating_sub(out.len())));
        }
    }
    out
}

/// `32768K` -> bytes, as sysfs caches and /proc/meminfo have it.
pub(super) fn parse_kib(text: &str) -> Option<Bytes> {
    let text = text.trim();
    let (digits, factor) = match text.strip_suffix('M') {
        Some(d) => (d, Bytes::MIB),
        None => (text.trim_end_matches("kB").trim_end_matches('K'), Bytes::KIB),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(factor).map(Bytes)
}

pub(super) fn read(root: &SysRoot) -> Cpu {
    let info = root.read("/proc/cpuinfo").unwrap_or_default();
    let first = |key: &str| {
        info.lines().filter_map(|l| l.split_once(':')).find(|(k, _)| k.trim() == key).map(|(_, v)| v.trim().to_owned())
    };
    let listed =
        info.lines().filter(|l| l.split_once(':').is_some_and(|(k, _)| k.trim() == "processor")).count() as u32;
    let online = root.read("/sys/devices/system/cpu/online").map(|t| parse_list(&t)).unwrap_or_default();
    let threads = if online.is_empty() { listed } else { online.len() as u32 };
    let mut packages = std::collections::BTreeSet::new();
    let mut cores = std::collections::BTreeSet::new();
    let ids = if online.is_empty() { (0..threads).collect() } else { online };
    for id in &ids {
        let dir = format!("/sys/devices/system/cpu/cpu{id}/topology");
        let package = root.parse::<i64>(format!("{dir}/physical_package_id")).unwrap_or(0);
        let die = root.parse::<i64>(format!("{dir}/die_id")).unwrap_or(0);
        if let Some(core) = root.parse::<i64>(format!("{dir}/core_id")) {
            cores.insert((package, die, core));
        }
        packages.insert(package);
    }
    let cores = if cores.is_empty() { threads } else { cores.len() as u32 };
    let flags = first("flags").or_else(|| first("Features")).unwrap_or_default();
    let has = |f: &str| flags.split_whitespace().any(|x| x == f);
    let status = root.read("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).map(parse_list).unwrap_or_default();
    Cpu {
        model: first("model name").unwrap_or_default(),
        vendor: first("vendor_id").or_else(|| first("CPU implementer")).unwrap_or_default(),
        sockets: packages.len() as u32,
        cores,
        threads,
        allowed,
        smt: threads > cores,
        numa: numa(root),
        governor: root.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        max_hz: root.parse::<f64>("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").map(|khz| khz * 1e3),
        seen_hz: first("cpu MHz").and_then(|m| m.parse::<f64>().ok()).filter(|m| *m > 0.0).map(|mhz| mhz * 1e6),
        simd: ["avx512f", "avx2", "asimd"].into_iter().find(|f| has(f)).map(str::to_owned),
        last_level_cache: last_level_cache(root, threads),
        virtualised: has("hypervisor"),
    }
}

fn numa(root: &SysRoot) -> Vec<NumaNode> {
    let mut nodes: Vec<NumaNode> = root
        .list("/sys/devices/system/node")
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse::<u32>().ok())
        .map(|id| {
            let dir = format!("/sys/devices/system/node/node{id}");
            let meminfo = root.read(format!("{dir}/meminfo")).unwrap_or_default();
            let total = meminfo.lines().find_map(|l| l.split_once("MemTotal:")).and_then(|(_, v)| parse_kib(v));
            let cpus = root.read(format!("{dir}/cpulist")).map(|t| parse_list(&t)).unwrap_or_default();
            NumaNode { id, cpus, memory: total }
        })
        .collect();
    nodes.sort_by_key(|n| n.id);
    nodes
}

/// The largest cache that cpu0 reaches, times as many as the machine has of it: a buffer that is to miss the caches
/// must miss all of them.
fn last_level_cache(root: &SysRoot, threads: u32) -> Option<Bytes> {
    let dir = "/sys/devices/system/cpu/cpu0/cache";
    let sized = |n: &String| {
        let size = parse_kib(&root.read(format!("{dir}/{n}/size"))?)?;
        let sharing = root.read(format!("{dir}/{n}/shared_cpu_list")).map_or(0, |l| parse_list(&l).len()).max(1) as u64;
        Some((size, sharing))
    };
    let (size, sharing) = root.list(dir).iter().filter(|n| n.starts_with("index")).filter_map(sized).max()?;
    size.0.checked_mul(u64::from(threads).div_ceil(sharing).max(1)).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_parse() {
        assert_eq!(parse_list("0-3,8,10-11"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_list("x,3-,5"), [5]);
        assert_eq!(parse_list("0-4294967295").len(), 8192);
    }

    proptest::proptest! {
        #[test]
        fn nonsense_in_sysfs_is_absence(text in "\\PC{0,60}") {
            let _ = parse_list(&text);
            let _ = parse_kib(&text);
        }
    }
}
