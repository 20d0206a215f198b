//! CPUs, NUMA nodes and caches from /proc/cpuinfo and /sys/devices/system.

use std::collections::{BTreeMap, BTreeSet};

use crate::topology::{CoreKind, Cpu, NumaNode, SysRoot};
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
    let ids: Vec<u32> = if online.is_empty() { (0..threads).collect() } else { online };
    let all: Vec<Thread> = ids.iter().map(|id| Thread::read(root, *id)).collect();
    let packages: BTreeSet<i64> = all.iter().map(|t| t.package).collect();
    let cores = cores_of(all.iter());
    let cores = if cores == 0 { threads } else { cores };
    let flags = first("flags").or_else(|| first("Features")).unwrap_or_default();
    let has = |f: &str| flags.split_whitespace().any(|x| x == f);
    let status = root.read("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).map(parse_list).unwrap_or_default();
    Cpu {
        model: first("model name")
            .or_else(|| arm_model(&first("CPU implementer")?, &first("CPU part")?))
            .unwrap_or_default(),
        vendor: first("vendor_id").or_else(|| first("CPU implementer")).unwrap_or_default(),
        sockets: packages.len() as u32,
        cores,
        threads,
        allowed,
        smt: threads > cores,
        kinds: kinds(&all),
        numa: numa(root),
        governor: root.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        max_hz: all.iter().filter_map(|t| t.max_hz).max().map(|hz| hz as f64),
        seen_hz: first("cpu MHz").and_then(|m| m.parse::<f64>().ok()).filter(|m| *m > 0.0).map(|mhz| mhz * 1e6),
        simd: ["avx512f", "avx2", "asimd"].into_iter().find(|f| has(f)).map(str::to_owned),
        last_level_cache: last_level_cache(root, &ids),
        virtualised: has("hypervisor") || is_guest(root),
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

/// All last-level caches together: a buffer that is to miss the caches must miss all of them, and they need not be alike. Of each
/// hardware thread the largest that it reaches counts, once for all that share it.
fn last_level_cache(root: &SysRoot, ids: &[u32]) -> Option<Bytes> {
    let mut by_sharers: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut known: BTreeSet<u32> = BTreeSet::new();
    for id in ids {
        if known.contains(id) {
            continue;
        }
        let dir = format!("/sys/devices/system/cpu/cpu{id}/cache");
        let sized = |n: &String| {
            let size = parse_kib(&root.read(format!("{dir}/{n}/size"))?)?;
            Some((size, root.read(format!("{dir}/{n}/shared_cpu_list")).unwrap_or_else(|| id.to_string())))
        };
        let Some((size, sharers)) = root.list(&dir).iter().filter(|n| n.starts_with("index")).filter_map(sized).max()
        else {
            continue;
        };
        // Who shares it reaches the same.
        known.extend(parse_list(&sharers));
        by_sharers.insert(sharers, size);
    }
    let all: u64 = by_sharers.values().fold(0, |sum, size| sum.saturating_add(size.0));
    (all > 0).then_some(Bytes(all))
}

/// A hardware thread, and what tells its core from others.
struct Thread {
    id: u32,
    package: i64,
    /// The threads of its core as the kernel lists them. Ids alone do not tell: on Arm each cluster counts its cores from 0.
    core: Option<String>,
    max_hz: Option<u64>,
    /// How much it does beside the largest core, by the kernel: 1024 is all.
    capacity: Option<u32>,
}

impl Thread {
    fn read(root: &SysRoot, id: u32) -> Self {
        let cpu = format!("/sys/devices/system/cpu/cpu{id}");
        let of = |file: &str| root.parse::<i64>(format!("{cpu}/topology/{file}"));
        let listed = ["core_cpus_list", "thread_siblings_list"];
        let listed = listed.iter().find_map(|f| root.read(format!("{cpu}/topology/{f}")));
        let package = of("physical_package_id").unwrap_or(0);
        let by_id = || Some(format!("{package}/{}/{}", of("die_id").unwrap_or(0), of("core_id")?));
        let khz = root.parse::<u64>(format!("{cpu}/cpufreq/cpuinfo_max_freq"));
        Thread {
            id,
            package,
            core: listed.filter(|l| !l.trim().is_empty()).or_else(by_id),
            max_hz: khz.and_then(|khz| khz.checked_mul(1000)),
            capacity: root.parse(format!("{cpu}/cpu_capacity")),
        }
    }
}

fn cores_of<'t>(threads: impl Iterator<Item = &'t Thread>) -> u32 {
    threads.filter_map(|t| t.core.as_ref()).collect::<BTreeSet<_>>().len() as u32
}

/// Clocks of one kind of core differ by less: favoured cores boost a few percent higher.
const ALIKE: f64 = 0.85;

/// The kinds of cores, by what the kernel says each can do, else by the highest clock; none where all are alike.
fn kinds(all: &[Thread]) -> Vec<CoreKind> {
    let able = |t: &Thread| t.capacity.map(u64::from).or(t.max_hz).unwrap_or(0);
    let mut sorted: Vec<&Thread> = all.iter().collect();
    sorted.sort_by_key(|t| (std::cmp::Reverse(able(t)), t.id));
    let mut out: Vec<Vec<&Thread>> = Vec::new();
    for t in sorted {
        match out.last_mut() {
            Some(kind) if able(t) as f64 >= ALIKE * able(kind[0]) as f64 => kind.push(t),
            _ => out.push(vec![t]),
        }
    }
    if out.len() < 2 {
        return Vec::new();
    }
    let kind = |threads: Vec<&Thread>| {
        let mut cpus: Vec<u32> = threads.iter().map(|t| t.id).collect();
        cpus.sort_unstable();
        let cores = match cores_of(threads.iter().copied()) {
            0 => cpus.len() as u32,
            known => known,
        };
        CoreKind { cpus, cores, max_hz: threads.iter().filter_map(|t| t.max_hz).max().map(|hz| hz as f64) }
    };
    out.into_iter().map(kind).collect()
}

/// What /proc/cpuinfo calls by numbers on Arm: implementer and part (MIDR_EL1; arch/arm64/include/asm/cputype.h and the data of lscpu).
fn arm_model(implementer: &str, part: &str) -> Option<String> {
    let number = |text: &str| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    let (maker, part) = (number(implementer)?, number(part)?);
    let known = ARM.iter().find(|(m, p, _)| (*m, *p) == (maker, part)).map(|(.., name)| (*name).to_owned());
    known.or_else(|| Some(format!("Arm implementer 0x{maker:02x} part 0x{part:03x}")))
}

const ARM: &[(u32, u32, &str)] = &[
    (0x41, 0xd03, "Arm Cortex-A53"),
    (0x41, 0xd07, "Arm Cortex-A57"),
    (0x41, 0xd08, "Arm Cortex-A72"),
    (0x41, 0xd0c, "Arm Neoverse-N1"),
    (0x41, 0xd40, "Arm Neoverse-V1"),
    (0x41, 0xd49, "Arm Neoverse-N2"),
    (0x41, 0xd4f, "Arm Neoverse-V2"),
    (0x41, 0xd83, "Arm Neoverse-V3AE"),
    (0x41, 0xd84, "Arm Neoverse-V3"),
    (0x41, 0xd8e, "Arm Neoverse-N3"),
    (0x43, 0x0af, "Cavium ThunderX2"),
    (0x46, 0x001, "Fujitsu A64FX"),
    (0x48, 0xd01, "HiSilicon TaiShan v110"),
    (0x4e, 0x004, "NVIDIA Carmel"),
    (0x51, 0xc00, "Qualcomm Falkor"),
    (0xc0, 0xac3, "Ampere-1"),
    (0xc0, 0xac4, "Ampere-1a"),
];

/// Whether the firmware is a hypervisor's: processors other than x86 have no flag for it.
fn is_guest(root: &SysRoot) -> bool {
    let dmi = |file: &str| root.read(format!("/sys/class/dmi/id/{file}")).unwrap_or_default();
    let (vendor, product) = (dmi("sys_vendor"), dmi("product_name"));
    let by_vendor = ["QEMU", "Xen", "VMware, Inc.", "innotek GmbH", "Parallels"].iter().any(|v| vendor.starts_with(v));
    let by_product = ["KVM", "Virtual Machine", "Google Compute Engine"].contains(&product.trim());
    // A whole machine of this cloud says so in its name.
    let rented = vendor == "Amazon EC2" && !product.contains(".metal");
    by_vendor || by_product || rented
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

    /// A machine made of the files that tell its CPUs: for each thread, its topology, clock and last cache.
    struct Made(tempfile::TempDir);

    impl Made {
        fn new(cpuinfo: &str, threads: u32) -> Self {
            let made = Made(tempfile::tempdir().unwrap_or_else(|e| panic!("{e}")));
            made.put("proc/cpuinfo", cpuinfo);
            made.put("sys/devices/system/cpu/online", &format!("0-{}", threads - 1));
            made
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            let made = path.parent().map(std::fs::create_dir_all);
            assert!(made.is_some_and(|m| m.is_ok()) && std::fs::write(path, text).is_ok());
        }

        fn thread(&self, id: u32, core_id: u32, siblings: &str, mhz: u32, cache: (&str, &str)) {
            let cpu = format!("sys/devices/system/cpu/cpu{id}");
            self.put(&format!("{cpu}/topology/physical_package_id"), "0");
            self.put(&format!("{cpu}/topology/core_id"), &core_id.to_string());
            self.put(&format!("{cpu}/topology/core_cpus_list"), siblings);
            self.put(&format!("{cpu}/cpufreq/cpuinfo_max_freq"), &(mhz * 1000).to_string());
            self.put(&format!("{cpu}/cache/index3/size"), cache.0);
            self.put(&format!("{cpu}/cache/index3/shared_cpu_list"), cache.1);
        }

        fn cpu(&self) -> Cpu {
            read(&SysRoot::replay(self.0.path()).unwrap_or_else(|e| panic!("{e}")))
        }
    }

    #[test]
    fn cores_that_share_an_id_across_clusters_are_several() {
        // Two clusters of two: each counts from 0, as Arm servers do.
        let made = Made::new("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\nFeatures\t: fp asimd\n", 4);
        for id in 0..4 {
            made.thread(id, id % 2, &id.to_string(), 3000, ("32768K", "0-3"));
        }
        let cpu = made.cpu();
        assert_eq!((cpu.cores, cpu.threads, cpu.smt, cpu.kinds.len()), (4, 4, false, 0));
        assert_eq!((cpu.model.as_str(), cpu.simd.as_deref()), ("Arm Neoverse-N1", Some("asimd")));
        assert_eq!(cpu.last_level_cache, Some(Bytes(32 << 20)));
        assert_eq!(arm_model("0x41", "0xfff").as_deref(), Some("Arm implementer 0x41 part 0xfff"));
        assert_eq!(arm_model("x", "0xd0c"), None);
    }

    #[test]
    fn hybrid_cores_and_unequal_caches_are_counted_each() {
        // Two fast cores with two threads each, four slow ones with one.
        let made = Made::new("processor\t: 0\nmodel name\t: made\nflags\t: avx2\n", 8);
        for id in 0..4 {
            let core = id / 2;
            made.thread(id, core, &format!("{}-{}", 2 * core, 2 * core + 1), 5200, ("98304K", "0-3"));
        }
        for id in 4..8 {
            made.thread(id, id, &id.to_string(), 3900, ("32768K", "4-7"));
        }
        let cpu = made.cpu();
        assert_eq!((cpu.cores, cpu.threads, cpu.smt), (6, 8, true));
        let kinds: Vec<(u32, usize)> = cpu.kinds.iter().map(|k| (k.cores, k.cpus.len())).collect();
        assert_eq!(kinds, [(2, 4), (4, 4)]);
        assert_eq!(cpu.last_level_cache, Some(Bytes(128 << 20)));
        assert_eq!(cpu.max_hz, Some(5.2e9));
        let mut machine = crate::topology::Machine { cpu, ..Default::default() };
        assert_eq!(machine.usable_cores(), 6);
        machine.cpu.allowed = vec![0, 1, 4, 5];
        assert_eq!(machine.usable_cores(), 3);
    }

    #[test]
    fn favoured_cores_are_no_kind_of_their_own() {
        let made = Made::new("processor\t: 0\nmodel name\t: made\n", 4);
        for (id, mhz) in [4400, 4500, 4600, 4400].into_iter().enumerate() {
            made.thread(id as u32, id as u32, &id.to_string(), mhz, ("16M", "0-3"));
        }
        assert_eq!(made.cpu().kinds, []);
    }

    proptest::proptest! {
        #[test]
        fn nonsense_in_sysfs_is_absence(text in "\\PC{0,60}") {
            let _ = parse_list(&text);
            let _ = parse_kib(&text);
        }
    }
}
