//! Where a probe's thread runs. Best effort: in a container it may be refused, and the figures then say what an unpinned job
//! gets.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::topology::{SysRoot, parse_cpu_list};

/// This thread on one hardware thread.
pub(super) fn pin(cpu: Option<u32>) {
    if let Some(cpu) = cpu.filter(|c| (*c as usize) < CpuSet::MAX_CPU) {
        let mut set = CpuSet::new();
        set.set(cpu as usize);
        let _ = sched_setaffinity(None, &set);
    }
}

/// Where this thread may run now.
pub(super) fn allowed() -> Option<CpuSet> {
    sched_getaffinity(None).ok()
}

/// This thread, and so the memory that it touches first, on a NUMA node, as far as it may run there. Says what became of it.
pub(super) fn near(root: &SysRoot, numa: Option<u32>) -> Option<String> {
    near_within(root, numa, &allowed()?)
}

/// As [`near`], for a thread that is moved more than once: `allowed` is where it might run at first.
pub(super) fn near_within(root: &SysRoot, numa: Option<u32>, allowed: &CpuSet) -> Option<String> {
    let numa = numa?;
    let there = parse_cpu_list(&root.read(format!("/sys/devices/system/node/node{numa}/cpulist"))?);
    let mut set = CpuSet::new();
    for cpu in there.iter().map(|c| *c as usize).filter(|c| *c < CpuSet::MAX_CPU && allowed.is_set(*c)) {
        set.set(cpu);
    }
    if set.count() == 0 {
        return Some(format!("this process may not run on NUMA node {numa}, where the device is"));
    }
    sched_setaffinity(None, &set).ok()?;
    Some(format!("on NUMA node {numa}"))
}
