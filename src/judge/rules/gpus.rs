//! What the GPUs' driver says -> findings; and what moved between the beginning and the end of a check.

use std::collections::BTreeMap;

use crate::id::{NodeName, clean};
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::rules::stretch::Stretch;
use crate::judge::rules::xids;
use crate::judge::severity::Severity;
use crate::measure::{self, GpuLoad, Measured, stats};
use crate::plan::RunPlan;
use crate::record::{OutcomeLine, Record};
use crate::topology::{FabricHealth, Gpu, Machine, NvLink, Nvidia, PcieLink, Recovery, Standing, gpu_spec};
use crate::unit::Bytes;
use crate::work::{Case, CheckName, Metric};

/// Corrected errors of the memory since the driver was loaded: more than this is a part that fails.
const MANY_CORRECTED: u64 = 10_000;
/// This near to the temperature at which the hardware slows down.
const NEAR_C: u32 = 3;
/// Memory in use on an idle GPU, without what the driver keeps back, is some tens of MiB of daemons; a CUDA context takes half a
/// GiB. More than this is somebody's data.
const SOMEBODYS: Bytes = Bytes(Bytes::GIB);
/// Of a GPU's memory, what a run can do without: training jobs are sized to 90 % and more of it.
const SPARE: f64 = 0.05;
/// All questions to one GPU take some tens of milliseconds; a single call that its system processor does not answer is given up by
/// the driver after 6 s (Xid 119), and it is slow before it hangs.
const SLOW_MS: u64 = 1000;
/// To start, NVML reads every GPU, which is a second at most where persistence mode has kept them initialised.
const SLOW_START_MS: u64 = 3000;

/// GPUs of a model that hold each other to account; fewer are held against nothing.
const ENOUGH: usize = 4;

pub(super) fn findings(record: &Record, run: &RunPlan, findings: &mut Vec<Finding>) {
    other_bits(record, findings);
    without_datasheet(record, findings);
    // The end of the check, where a node told it.
    let mut ends: BTreeMap<&NodeName, &Nvidia> = BTreeMap::new();
    for (line, f) in record.outcomes.facts() {
        if let measure::Facts::Nvidia(n) = f {
            ends.entry(&line.node).or_insert(n);
        }
    }
    for (node, machine) in record.machines() {
        let mut add = |code: Code, severity: Option<Severity>, evidence: String| {
            let f = Finding::new(code, Subject::Node(node.clone()), evidence);
            findings.push(severity.map_or(f.clone(), |s| f.severity(s)));
        };
        of_machine(machine, run.nodes.as_ref().is_some_and(|n| n.mig), &mut add);
        let later = ends.get(node).copied();
        if let Some((before, after)) = machine.nvidia.as_ref().zip(later) {
            since(machine, before, after, Stretch::Check, &mut add);
        }
    }
    under_load(record, findings);
}

fn of_machine(m: &Machine, sliced: bool, add: Add<'_>) {
    let Some(n) = &m.nvidia else { return };
    if let Some(error) = &n.error {
        add(Code::GPU_001, None, format!("{} NVIDIA GPU(s) on the PCI bus; {}", m.gpus_present(), clean(error)));
    } else {
        lost(m, n, add);
    }
    for g in &n.gpus {
        of_gpu(g, add);
        of_use(g, add);
        slices(g, sliced, add);
    }
    slow_driver(n, add);
    xids::before(n, &not_granted(m), add);
}

type Add<'a> = &'a mut dyn FnMut(Code, Option<Severity>, String);

/// Addresses of GPUs that are not this run's.
fn not_granted(m: &Machine) -> Vec<&str> {
    let hidden = m.gpus_hidden().into_iter();
    hidden
        .filter(|(_, s)| matches!(s, Standing::Withheld | Standing::GivenAway(_)))
        .map(|(g, _)| g.pci.as_str())
        .collect()
}

/// GPUs that are there and do not work. One that was only not granted to this process is well.
fn lost(m: &Machine, n: &Nvidia, add: Add<'_>) {
    for lost in &n.lost {
        add(Code::GPU_002, None, clean(lost).into_owned());
    }
    let mut unknown: Vec<&str> = Vec::new();
    for (gpu, standing) in m.gpus_hidden() {
        match standing {
            Standing::Lost(why) => add(Code::GPU_002, None, format!("{}: {}", clean(&gpu.pci), clean(&why))),
            Standing::Unknown => unknown.push(&gpu.pci),
            Standing::Withheld | Standing::GivenAway(_) => {}
        }
    }
    // Those that NVML counted and lost, or refused, are among them.
    if unknown.len() > n.lost.len() + n.denied.len() {
        let list = clean(&unknown.join(", ")).into_owned();
        add(Code::GPU_002, None, format!("{list} on the PCI bus, and the driver does not show it"));
    }
}

/// NVML that takes long to answer.
fn slow_driver(n: &Nvidia, add: Add<'_>) {
    let kept = n.gpus.iter().all(|g| g.persistence != Some(false));
    if let Some(ms) = n.nvml_ms.filter(|ms| kept && *ms > SLOW_START_MS) {
        add(Code::GPU_018, None, format!("NVML took {:.1} s to start", ms as f64 / 1e3));
    }
    for g in &n.gpus {
        if let Some(ms) = g.nvml_ms.filter(|ms| *ms > SLOW_MS) {
            add(Code::GPU_018, None, format!("{}: NVML took {:.1} s to answer", name(g), ms as f64 / 1e3));
        }
    }
}

/// Memory that is gone before anything ran, beyond what the processes that are to be seen hold (they are GPU-014).
fn of_use(g: &Gpu, add: Add<'_>) {
    let (Some(used), Some(all)) = (g.memory_used, g.memory) else { return };
    let held: u64 = g.processes.iter().filter_map(|p| p.memory).map(|m| m.0).fold(0, u64::saturating_add);
    let unaccounted = Bytes(used.0.saturating_sub(held));
    // A slice's owner may be at work on it; the whole is not this run's.
    if g.is_slice() || unaccounted <= SOMEBODYS || all.0 == 0 {
        return;
    }
    let share = unaccounted.0 as f64 / all.0 as f64;
    // Memory that is a NUMA node of the host's (Grace) is used by the kernel's page cache, which gives it back.
    let heavy = share > SPARE && g.numa.is_none();
    let whose = match (g.processes.is_empty(), g.numa) {
        (_, Some(node)) => format!("some of it may be the page cache of NUMA node {node}"),
        (true, None) => "no process of it is to be seen: another container's, or left by a job that died".to_owned(),
        (false, None) => "beyond what the processes hold that are to be seen".to_owned(),
    };
    let text =
        format!("{}: {unaccounted} of {all} ({:.0} %) in use before anything ran; {whose}", name(g), 100.0 * share);
    add(Code::GPU_017, (!heavy).then_some(Severity::Warn), text);
}

/// What MIG makes of a GPU, against what the plan says.
fn slices(g: &Gpu, sliced: bool, add: Add<'_>) {
    let who = name(g);
    match (g.is_slice(), sliced) {
        (true, false) => add(Code::GPU_011, None, format!("{who}: MIG mode is on")),
        (true, true) if g.slices.is_empty() => {
            add(Code::GPU_011, None, format!("{who}: MIG mode is on, and there is no instance that may be used"));
        }
        (true, true) => {
            let list: Vec<&str> = g.slices.iter().map(|s| s.profile.as_str()).collect();
            let text = format!("{who}: {} MIG instance(s) as planned: {}", list.len(), clean(&list.join(", ")));
            add(Code::GPU_011, Some(Severity::Info), text);
        }
        (false, true) => add(Code::GPU_011, None, format!("{who}: the plan is for MIG instances, and MIG mode is off")),
        (false, false) => {}
    }
}

/// GPUs that compute other bits than most of their model on all nodes. Who differs on its own node was named by its check.
fn other_bits(record: &Record, findings: &mut Vec<Finding>) {
    type Likes<'r> = BTreeMap<(Case, &'r str), Vec<(&'r OutcomeLine, &'r Measured, &'r str)>>;
    let mut likes: Likes<'_> = BTreeMap::new();
    for (line, m) in record.outcomes.beyond_samples() {
        let Some(bits) = &m.bits else { continue };
        // `bf16 8192 burst gpu3`: all GPUs have the same inputs.
        likes.entry((line.case.any_part(), &bits.of)).or_default().push((line, m, &bits.digest));
    }
    for ((test, of), all) in &likes {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, _, digest) in all {
            *counts.entry(digest).or_default() += 1;
        }
        let count = |digest: &str| counts.get(digest).copied().unwrap_or(0);
        let Some(usual) = counts.values().copied().max().filter(|most| most * 2 > all.len()) else {
            continue;
        };
        for (line, m, digest) in all.iter().filter(|(_, _, d)| count(d) < usual) {
            if m.checks.iter().all(|c| c.name != CheckName::SameBits || c.ok) {
                let evidence = format!(
                    "{}, case `{}`: digest {}, and {usual} of {} GPUs ({}) have another for {}",
                    line.step,
                    line.case,
                    clean(digest),
                    all.len(),
                    clean(of),
                    test.test()
                );
                findings.push(Finding::new(Code::GEM_003, Subject::Node((*line.node).clone()), evidence));
            }
        }
    }
}

/// GPUs of which no datasheet is known: a verdict on them says less.
fn without_datasheet(record: &Record, findings: &mut Vec<Finding>) {
    let mut models: BTreeMap<&str, usize> = BTreeMap::new();
    for g in record.machines().flat_map(|(_, m)| m.nvidia.iter().flat_map(|n| &n.gpus)) {
        if !g.name.is_empty() && gpu_spec(&g.name).is_none() {
            *models.entry(&g.name).or_default() += 1;
        }
    }
    for (model, gpus) in models {
        let (severity, against) = if gpus < ENOUGH {
            (Severity::Warn, format!("and {gpus} of it are too few to be held against each other"))
        } else {
            (Severity::Info, format!("{gpus} of it are held against each other only"))
        };
        let evidence = format!("`{}` has no row in the table of datasheets, {against}", clean(model));
        findings.push(Finding::new(Code::GPU_016, Subject::Run, evidence).severity(severity));
    }
}

fn name(g: &Gpu) -> String {
    format!("GPU {} ({}, {})", g.index, clean(&g.pci), clean(&g.name))
}

fn of_gpu(g: &Gpu, add: Add<'_>) {
    let who = name(g);
    of_memory(g, &who, add);
    of_clocks(g, &who, add);
    of_links(g, &who, add);
    of_state(g, &who, add);
}

/// Errors of its memory, and what the driver did against them.
fn of_memory(g: &Gpu, who: &str, add: Add<'_>) {
    if let Some(n) = g.ecc_uncorrected.filter(|n| *n > 0) {
        add(Code::GPU_003, None, format!("{who}: {n} uncorrected ECC errors since the driver was loaded"));
    }
    if let Some(n) = g.ecc_corrected.filter(|n| *n > MANY_CORRECTED) {
        add(
            Code::GPU_003,
            Some(Severity::Warn),
            format!("{who}: {n} corrected ECC errors since the driver was loaded"),
        );
    }
    if g.ecc == Some(false) {
        add(Code::GPU_004, None, format!("{who}: ECC is off"));
    }
    if let Some(r) = g.remapped {
        if r.failed {
            add(
                Code::GPU_005,
                None,
                format!("{who}: a remapping failed ({} rows remapped)", r.corrected.saturating_add(r.uncorrected)),
            );
        } else if r.pending {
            add(Code::GPU_005, Some(Severity::Hold), format!("{who}: rows wait to be remapped"));
        }
    }
    if g.retirement_pending == Some(true) {
        add(Code::GPU_005, Some(Severity::Hold), format!("{who}: pages wait to be retired"));
    }
}

/// What holds its clocks down, or soon will.
fn of_clocks(g: &Gpu, who: &str, add: Add<'_>) {
    of_heat(g, who, "before anything ran", add);
    if let (Some(limit), Some(default)) = (g.power_limit_w, g.power_default_w)
        && limit < 0.99 * default
    {
        add(Code::GPU_015, None, format!("{who}: power limit {limit:.0} W, {default:.0} W from the factory"));
    }
    if let Some((set, most)) = set_low(g).filter(|_| g.throttled.iter().any(|t| t == SET)) {
        add(Code::GPU_015, None, format!("{who}: application clocks at {set} MHz of {most} MHz"));
    }
}

/// Why a clock is held down, as the driver puts it, where somebody set it so.
const SET: &str = "application clocks";

/// Application clocks that are set well below what the GPU can do, and what it can, in MHz.
fn set_low(g: &Gpu) -> Option<(u32, u32)> {
    let (set, most) = g.clocks.sm_set_mhz.zip(g.clocks.sm_max_mhz)?;
    (f64::from(set) < 0.8 * f64::from(most)).then_some((set, most))
}

/// The same of a GPU at work: an idle one runs below them, and its driver does not tell of them.
fn set_low_at_work(machine: Option<&Machine>, load: &GpuLoad) -> Option<(u32, u32)> {
    load.throttled.iter().find(|(reason, share)| reason == SET && *share >= OFTEN)?;
    let g = machine?.nvidia.as_ref()?.gpus.iter().find(|g| g.pci == load.pci)?;
    set_low(g).filter(|_| !g.throttled.iter().any(|t| t == SET))
}

fn of_heat(g: &Gpu, who: &str, when: &str, add: Add<'_>) {
    let hard: Vec<&str> = g.throttled.iter().map(String::as_str).filter(|t| hardware(t)).collect();
    if !hard.is_empty() {
        add(Code::GPU_007, None, format!("{who}: {} {when}", clean(&hard.join(", "))));
    }
    if let (Some(now), Some(slow)) = (g.temperature_c, g.slowdown_c)
        && now.saturating_add(NEAR_C) >= slow
    {
        add(Code::GPU_007, Some(Severity::Warn), format!("{who}: {now} C, and it slows down at {slow} C"));
    }
}

/// PCIe, NVLink, and the fabric manager.
fn of_links(g: &Gpu, who: &str, add: Add<'_>) {
    let p = &g.pcie;
    if let (Some(now), Some(most)) = (p.lanes, p.lanes_max)
        && now < most
    {
        add(Code::GPU_008, None, format!("{who}: PCIe x{now} of x{most}"));
    }
    let (up, down): (Vec<_>, Vec<_>) = g.nvlinks.iter().partition(|l| l.active);
    // A GPU on which no link is up may have no bridge; one on which some are has lost the others.
    if !up.is_empty() && !down.is_empty() {
        let list: Vec<String> = down.iter().map(|l| l.link.to_string()).collect();
        add(
            Code::GPU_009,
            None,
            format!("{who}: {} of {} NVLinks are down: {}", down.len(), g.nvlinks.len(), list.join(", ")),
        );
    }
    if let Some(f) = &g.fabric {
        if !f.is_completed() {
            add(Code::GPU_010, None, format!("{who}: registration with the fabric manager: {}", clean(&f.state)));
        } else if f.status != 0 {
            add(
                Code::GPU_010,
                None,
                format!("{who}: registration with the fabric manager ended with error {}", f.status),
            );
        }
    }
    if let Some(health) = g.fabric.as_ref().and_then(|f| f.health.as_ref()) {
        of_fabric(who, health, add);
    }
}

/// What the driver wants done, how it may be used, and who uses it.
fn of_state(g: &Gpu, who: &str, add: Add<'_>) {
    match g.recovery {
        None | Some(Recovery::Nothing) => {}
        // One that is new may ask for little.
        Some(r @ Recovery::Other(_)) => add(Code::GPU_020, Some(Severity::Hold), format!("{who}: {}", xids::wants(r))),
        Some(r) => add(Code::GPU_020, None, format!("{who}: {}", xids::wants(r))),
    }
    if let Some(mode) = g.compute_mode.as_deref().filter(|m| *m != "default") {
        let severity = (mode == "prohibited").then_some(Severity::Fail);
        add(Code::GPU_012, severity, format!("{who}: compute mode is {}", clean(mode)));
    }
    if g.persistence == Some(false) {
        add(Code::GPU_013, None, format!("{who}: persistence mode is off"));
    }
    if !g.processes.is_empty() {
        let of = |p: &crate::topology::GpuProcess| {
            let memory = p.memory.map_or(String::new(), |m| format!(", {m}"));
            format!("{} (pid {}{memory})", clean(p.name.as_deref().unwrap_or("of another container")), p.pid)
        };
        let list: Vec<String> = g.processes.iter().take(4).map(of).collect();
        add(Code::GPU_014, None, format!("{who}: {}", list.join(", ")));
    }
}

/// What the fabric manager says of a GPU's links.
fn of_fabric(who: &str, h: &FabricHealth, add: Add<'_>) {
    // What is being mended may be well in a minute: the check is not the time to find out.
    let told = [
        (h.degraded_bandwidth, None, "its bandwidth is degraded"),
        (h.route_unhealthy, None, "its routes are unhealthy"),
        (h.route_recovery, Some(Severity::Hold), "its routes are being recovered"),
        (h.access_timeout_recovery, Some(Severity::Hold), "it recovers from an access that timed out"),
    ];
    for (_, severity, what) in told.into_iter().filter(|(is, ..)| *is == Some(true)) {
        add(Code::GPU_019, severity, format!("{who}: the NVLink fabric says: {what}"));
    }
    if let Some(what) = &h.misconfigured {
        add(Code::GPU_019, None, format!("{who}: the NVLink fabric says: incorrect configuration, {}", clean(what)));
    }
}

/// Held down in fewer looks than this is a moment, not a state.
const OFTEN: f64 = 0.1;

/// What the hardware does to save itself; a power cap is how a GPU works.
fn hardware(reason: &str) -> bool {
    ["hardware slowdown", "hardware thermal slowdown", "software thermal slowdown", "power brake"].contains(&reason)
}

/// What held a GPU down while it worked, and its link then; each once.
fn under_load(record: &Record, findings: &mut Vec<Finding>) {
    let mut told: std::collections::BTreeSet<(String, String, String)> = Default::default();
    let machines: BTreeMap<&NodeName, &Machine> = record.machines().collect();
    for (line, fact) in record.outcomes.facts() {
        let measure::Facts::GpuLoad(load) = fact else { continue };
        let mut add = |code: Code, severity: Option<Severity>, what: &str, evidence: String| {
            if told.insert((line.node.0.clone(), load.pci.clone(), what.to_owned())) {
                let f = Finding::new(code, Subject::Node((*line.node).clone()), evidence);
                findings.push(severity.map_or(f.clone(), |s| f.severity(s)));
            }
        };
        let who = format!("GPU {} in `{}`", clean(&load.pci), line.case);
        for (reason, share) in load.throttled.iter().filter(|(r, s)| hardware(r) && *s >= OFTEN) {
            let temperature = load.temperature_c.map_or(String::new(), |c| format!(", {c} C"));
            let text = format!("{who}: {} in {:.0} % of the looks{temperature}", clean(reason), 100.0 * share);
            add(Code::GPU_007, None, reason, text);
        }
        if let Some((set, most)) = set_low_at_work(machines.get(&*line.node).copied(), load) {
            add(Code::GPU_015, None, SET, format!("{who}: application clocks at {set} MHz of {most} MHz hold it down"));
        }
        if let (Some(now), Some(most)) = (load.pcie_lanes, load.pcie_lanes_max)
            && now < most
        {
            add(Code::GPU_008, None, "lanes", format!("{who}: PCIe x{now} of x{most} under load"));
        }
        if let Some(measured) = line.outcome.measured().filter(|_| line.probe.as_str() == "copy")
            && let Some((now, most)) = held_back(load, measured)
        {
            let text = format!("{who}: PCIe generation {now} under load, and GPU and slot can do {most}");
            add(Code::GPU_008, None, "generation", text);
        }
    }
}

/// The generation of a link that stayed below what both of its ends can do while it carried copies, and what they can. An idle link
/// saves power at a low generation: it counts only where the copies were no faster than that generation allows.
fn held_back(load: &GpuLoad, measured: &Measured) -> Option<(u32, u32)> {
    let (now, most) = load.pcie_generation.zip(load.pcie_generation_max).filter(|(now, most)| now < most)?;
    let can = PcieLink::of(now, load.pcie_lanes.or(load.pcie_lanes_max)?).rate();
    let series = measured.series.iter().find(|s| s.metric == Metric::Bandwidth).filter(|s| !s.samples.is_empty())?;
    (stats::median(&series.samples) <= can).then_some((now, most))
}

/// What holds down the clocks of GPUs that are at work.
pub(super) fn at_work(n: &Nvidia, add: Add<'_>) {
    n.gpus.iter().for_each(|g| of_heat(g, &name(g), "at this moment", add));
}

/// What befell the GPUs of a machine between two looks at its driver.
pub(super) fn since(machine: &Machine, before: &Nvidia, after: &Nvidia, over: Stretch, add: Add<'_>) {
    xids::during(before, after, &not_granted(machine), over, add);
    moved(before, after, over, add);
}

fn moved(before: &Nvidia, after: &Nvidia, over: Stretch, add: Add<'_>) {
    let (during, since, [first, last]) = (over.during(), over.since(), over.ends());
    if let Some(error) = after.error.as_ref().filter(|_| before.error.is_none()) {
        let text = format!("it answered {first}, and not {last}: {}", clean(error));
        add(Code::GPU_001, Some(Severity::Fail), text);
    }
    for b in &before.gpus {
        let who = name(b);
        let Some(a) = after.gpus.iter().find(|a| a.uuid == b.uuid) else {
            // Of a driver that broke off nothing follows for those that it did not come to.
            if after.error.is_some() {
                continue;
            }
            add(Code::GPU_002, None, format!("{who}: there {first}, gone {last}"));
            continue;
        };
        let grew =
            |was: Option<u64>, now: Option<u64>| now.zip(was).and_then(|(n, w)| n.checked_sub(w)).filter(|d| *d > 0);
        if let Some(d) = grew(b.ecc_uncorrected, a.ecc_uncorrected) {
            add(Code::GPU_003, None, format!("{who}: {d} uncorrected ECC errors {during}"));
        }
        if let Some(d) = grew(b.ecc_corrected, a.ecc_corrected) {
            add(Code::GPU_003, Some(Severity::Warn), format!("{who}: {d} corrected ECC errors {during}"));
        }
        if let Some(d) = grew(b.pcie.replays.map(u64::from), a.pcie.replays.map(u64::from)) {
            add(Code::GPU_008, Some(Severity::Warn), format!("{who}: {d} PCIe replays {during}"));
        }
        let was_up = |l: &&NvLink| l.active && a.nvlinks.iter().any(|now| now.link == l.link && !now.active);
        let down: Vec<String> = b.nvlinks.iter().filter(was_up).map(|l| l.link.to_string()).collect();
        if !down.is_empty() {
            add(Code::GPU_009, None, format!("{who}: went down {during}: NVLink {}", down.join(", ")));
        }
        for link in &a.nvlinks {
            let was = b.nvlinks.iter().find(|l| l.link == link.link);
            for (what, n) in &link.errors {
                let was = was.and_then(|w| w.errors.iter().find(|(w, _)| w == what)).map_or(0, |(_, n)| *n);
                if *n > was {
                    let text = format!("{who}: NVLink {}: {} {} errors {during}", link.link, n - was, clean(what));
                    add(Code::GPU_009, Some(Severity::Warn), text);
                }
            }
        }
        let health = |g: &Gpu| g.fabric.as_ref().and_then(|f| f.health.clone());
        if let Some(now) = health(a).filter(|now| health(b).as_ref() != Some(now)) {
            of_fabric(&format!("{who}, {since}"), &now, add);
        }
        if let Some(r) = a.recovery.filter(|r| *r != Recovery::Nothing && b.recovery != Some(*r)) {
            add(Code::GPU_020, None, format!("{who}: {since}, {}", xids::wants(r)));
        }
        if let (Some(was), Some(now)) = (b.remapped, a.remapped)
            && (now.corrected, now.uncorrected) != (was.corrected, was.uncorrected)
        {
            add(Code::GPU_005, None, format!("{who}: rows were remapped {during}"));
        }
    }
}
