//! What the GPUs' driver says -> findings; and what moved between the beginning and the end of a check.

use std::collections::BTreeMap;

use crate::id::{NodeName, clean};
use crate::judge::finding::{Finding, Severity, Subject, doc};
use crate::judge::rules::{Facts, facts, gpu_of};
use crate::measure::{self, GpuLoad, Measured, stats};
use crate::record::{OutcomeLine, Record};
use crate::topology::{Gpu, Machine, Nvidia, PcieLink, Xid, gpu_spec};

/// Xids after which a GPU or a node is not to be trusted, with what they mean (NVIDIA, "Xid Errors", r570).
const FATAL: &[(u32, &str)] = &[
    (48, "double-bit ECC error"),
    (62, "internal microcontroller halt"),
    (64, "a page or row could not be retired"),
    (74, "NVLink error"),
    (79, "fallen off the bus"),
    (92, "high rate of single-bit errors"),
    (95, "uncontained ECC error"),
    (110, "security fault"),
    (119, "GSP does not answer"),
    (120, "GSP error"),
    (121, "C2C link error"),
    (136, "link training failed"),
    (140, "unrecovered ECC error"),
    (143, "GPU initialisation failed"),
    (149, "NVLink netir error"),
    (154, "GPU recovery is needed"),
];
/// Corrected errors of the memory since the driver was loaded: more than this is a part that fails.
const MANY_CORRECTED: u64 = 10_000;
/// This near to the temperature at which the hardware slows down.
const NEAR_C: u32 = 3;

/// GPUs of a model that hold each other to account; fewer are held against nothing.
const ENOUGH: usize = 4;

pub(super) fn findings(record: &Record, findings: &mut Vec<Finding>) {
    other_bits(record, findings);
    without_datasheet(record, findings);
    // The end of the check, where a node told it.
    let mut ends: BTreeMap<&NodeName, &Nvidia> = BTreeMap::new();
    for (line, f) in facts(record) {
        if let measure::Facts::Nvidia(n) = f {
            ends.entry(&line.node).or_insert(n);
        }
    }
    for (node, machine) in Facts::machines(record) {
        let mut add = |code: &str, severity: Option<Severity>, evidence: String| {
            let f = Finding::new(doc(code), Subject::Node(node.clone()), evidence);
            findings.push(severity.map_or(f.clone(), |s| f.severity(s)));
        };
        of_machine(machine, &mut add);
        let later = ends.get(node).copied();
        if let Some((before, after)) = machine.nvidia.as_ref().zip(later) {
            moved(before, after, &mut add);
        }
    }
    under_load(record, findings);
}

fn of_machine(m: &Machine, add: &mut dyn FnMut(&str, Option<Severity>, String)) {
    let on_bus = m.gpus.iter().filter(|g| g.is_nvidia()).count();
    let Some(n) = &m.nvidia else { return };
    if let Some(error) = &n.error {
        add("GPU-001", None, format!("{on_bus} NVIDIA GPU(s) on the PCI bus; {}", clean(error)));
        return;
    }
    for lost in &n.lost {
        add("GPU-002", None, clean(lost).into_owned());
    }
    let gone: Vec<&str> = m
        .gpus
        .iter()
        .filter(|g| g.is_nvidia() && !n.gpus.iter().any(|x| x.pci == g.pci))
        .map(|g| g.pci.as_str())
        .collect();
    if !gone.is_empty() && n.lost.is_empty() {
        add("GPU-002", None, format!("{} on the PCI bus, and the driver does not know it", clean(&gone.join(", "))));
    }
    for g in &n.gpus {
        of_gpu(g, add);
    }
    let xids: Vec<&Xid> = n.xids.iter().flatten().collect();
    tell_xids(&xids, "since boot", add);
    let cliques: std::collections::BTreeSet<u32> =
        n.gpus.iter().filter_map(|g| g.fabric.as_ref()).map(|f| f.clique).collect();
    if cliques.len() > 1 {
        add("GPU-010", None, format!("the node's GPUs are in {} NVLink cliques", cliques.len()));
    }
}

/// GPUs that compute other bits than most of their model on all nodes. Who differs on its own node was named by its check.
fn other_bits(record: &Record, findings: &mut Vec<Finding>) {
    type Likes<'r> = BTreeMap<(&'r str, &'r str), Vec<(&'r OutcomeLine, &'r Measured, &'r str)>>;
    let mut likes: Likes<'_> = BTreeMap::new();
    for line in &record.outcomes {
        let Some((m, bits)) = line.outcome.measured().and_then(|m| Some((m, m.bits.as_ref()?))) else { continue };
        // `bf16 8192 burst gpu3`: all GPUs have the same inputs.
        let test = gpu_of(&line.case).map_or(line.case.as_str(), |(test, _)| test);
        likes.entry((test, &bits.of)).or_default().push((line, m, &bits.digest));
    }
    for ((test, of), all) in &likes {
        let count = |digest: &str| all.iter().filter(|(_, _, d)| *d == digest).count();
        let Some(usual) = all.iter().map(|(_, _, d)| count(d)).max().filter(|most| most * 2 > all.len()) else {
            continue;
        };
        for (line, m, digest) in all.iter().filter(|(_, _, d)| count(d) < usual) {
            if m.checks.iter().all(|c| c.name != "same bits" || c.ok) {
                let evidence = format!(
                    "{}, case `{}`: digest {}, and {usual} of {} GPUs ({}) have another for {test}",
                    line.step,
                    line.case,
                    clean(digest),
                    all.len(),
                    clean(of)
                );
                findings.push(Finding::new(doc("GEM-003"), Subject::Node(line.node.clone()), evidence));
            }
        }
    }
}

/// GPUs of which no datasheet is known: a verdict on them says less.
fn without_datasheet(record: &Record, findings: &mut Vec<Finding>) {
    let mut models: BTreeMap<&str, usize> = BTreeMap::new();
    for g in Facts::machines(record).flat_map(|(_, m)| m.nvidia.iter().flat_map(|n| &n.gpus)) {
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
        findings.push(Finding::new(doc("GPU-016"), Subject::Run, evidence).severity(severity));
    }
}

fn name(g: &Gpu) -> String {
    format!("GPU {} ({}, {})", g.index, clean(&g.pci), clean(&g.name))
}

fn of_gpu(g: &Gpu, add: &mut dyn FnMut(&str, Option<Severity>, String)) {
    let who = name(g);
    if let Some(n) = g.ecc_uncorrected.filter(|n| *n > 0) {
        add("GPU-003", None, format!("{who}: {n} uncorrected ECC errors since the driver was loaded"));
    }
    if let Some(n) = g.ecc_corrected.filter(|n| *n > MANY_CORRECTED) {
        add("GPU-003", Some(Severity::Warn), format!("{who}: {n} corrected ECC errors since the driver was loaded"));
    }
    if g.ecc == Some(false) {
        add("GPU-004", None, format!("{who}: ECC is off"));
    }
    if let Some(r) = g.remapped {
        if r.failed {
            add("GPU-005", None, format!("{who}: a remapping failed ({} rows remapped)", r.corrected + r.uncorrected));
        } else if r.pending {
            add("GPU-005", Some(Severity::Hold), format!("{who}: rows wait to be remapped"));
        }
    }
    if g.retirement_pending == Some(true) {
        add("GPU-005", Some(Severity::Hold), format!("{who}: pages wait to be retired"));
    }
    let hard: Vec<&str> = g.throttled.iter().map(String::as_str).filter(|t| hardware(t)).collect();
    if !hard.is_empty() {
        add("GPU-007", None, format!("{who}: {} before anything ran", clean(&hard.join(", "))));
    }
    if let (Some(now), Some(slow)) = (g.temperature_c, g.slowdown_c)
        && now + NEAR_C >= slow
    {
        add("GPU-007", Some(Severity::Warn), format!("{who}: {now} C, and it slows down at {slow} C"));
    }
    let p = &g.pcie;
    if let (Some(now), Some(most)) = (p.lanes, p.lanes_max)
        && now < most
    {
        add("GPU-008", None, format!("{who}: PCIe x{now} of x{most}"));
    }
    let (up, down): (Vec<_>, Vec<_>) = g.nvlinks.iter().partition(|l| l.active);
    // A GPU on which no link is up may have no bridge; one on which some are has lost the others.
    if !up.is_empty() && !down.is_empty() {
        let list: Vec<String> = down.iter().map(|l| l.link.to_string()).collect();
        add(
            "GPU-009",
            None,
            format!("{who}: {} of {} NVLinks are down: {}", down.len(), g.nvlinks.len(), list.join(", ")),
        );
    }
    if let Some(f) = &g.fabric {
        if f.state != "completed" {
            add("GPU-010", None, format!("{who}: registration with the fabric manager: {}", clean(&f.state)));
        } else if f.status != 0 {
            add("GPU-010", None, format!("{who}: registration with the fabric manager ended with error {}", f.status));
        }
    }
    if g.mig == Some(true) {
        add("GPU-011", None, format!("{who}: MIG mode is on"));
    }
    if let Some(mode) = g.compute_mode.as_deref().filter(|m| *m != "default") {
        let severity = (mode == "prohibited").then_some(Severity::Fail);
        add("GPU-012", severity, format!("{who}: compute mode is {}", clean(mode)));
    }
    if g.persistence == Some(false) {
        add("GPU-013", None, format!("{who}: persistence mode is off"));
    }
    if !g.processes.is_empty() {
        let of = |p: &crate::topology::GpuProcess| {
            let memory = p.memory.map_or(String::new(), |m| format!(", {m}"));
            format!("{} (pid {}{memory})", clean(p.name.as_deref().unwrap_or("of another container")), p.pid)
        };
        let list: Vec<String> = g.processes.iter().take(4).map(of).collect();
        add("GPU-014", None, format!("{who}: {}", list.join(", ")));
    }
    if let (Some(limit), Some(default)) = (g.power_limit_w, g.power_default_w)
        && limit < 0.99 * default
    {
        add("GPU-015", None, format!("{who}: power limit {limit:.0} W, {default:.0} W from the factory"));
    }
    if let (Some(set), Some(most)) = (g.clocks.sm_set_mhz, g.clocks.sm_max_mhz)
        && f64::from(set) < 0.8 * f64::from(most)
        && g.throttled.iter().any(|t| t == "application clocks")
    {
        add("GPU-015", None, format!("{who}: application clocks at {set} MHz of {most} MHz"));
    }
}

/// Held down in fewer looks than this is a moment, not a state.
const OFTEN: f64 = 0.1;

/// What the hardware does to save itself; a power cap is how a GPU works.
fn hardware(reason: &str) -> bool {
    ["hardware slowdown", "hardware thermal slowdown", "software thermal slowdown", "power brake"].contains(&reason)
}

fn tell_xids(xids: &[&Xid], when: &str, add: &mut dyn FnMut(&str, Option<Severity>, String)) {
    let mut kinds: std::collections::BTreeMap<(String, u32), (usize, &Xid)> = Default::default();
    for x in xids {
        kinds.entry((x.pci.clone(), x.code)).or_insert((0, x)).0 += 1;
    }
    for ((pci, code), (times, last)) in kinds {
        let meaning = FATAL.iter().find(|(c, _)| *c == code).map(|(_, m)| *m);
        let severity = if meaning.is_some() { None } else { Some(Severity::Warn) };
        let text = meaning.map_or_else(|| clean(&last.text).into_owned(), str::to_owned);
        let many = if times > 1 { format!(", {times} times") } else { String::new() };
        add("GPU-006", severity, format!("GPU {}: Xid {code} {when}{many}: {text}", clean(&pci)));
    }
}

/// What held a GPU down while it worked, and its link then; each once.
fn under_load(record: &Record, findings: &mut Vec<Finding>) {
    let mut told: std::collections::BTreeSet<(String, String, String)> = Default::default();
    for line in &record.outcomes {
        let Some(measure::Facts::GpuLoad(load)) = line.outcome.measured().and_then(|m| m.facts.as_ref()) else {
            continue;
        };
        let mut add = |code: &str, severity: Option<Severity>, what: &str, evidence: String| {
            if told.insert((line.node.0.clone(), load.pci.clone(), what.to_owned())) {
                let f = Finding::new(doc(code), Subject::Node(line.node.clone()), evidence);
                findings.push(severity.map_or(f.clone(), |s| f.severity(s)));
            }
        };
        let who = format!("GPU {} in `{}`", clean(&load.pci), clean(&line.case));
        for (reason, share) in load.throttled.iter().filter(|(r, s)| hardware(r) && *s >= OFTEN) {
            let temperature = load.temperature_c.map_or(String::new(), |c| format!(", {c} C"));
            let text = format!("{who}: {} in {:.0} % of the looks{temperature}", clean(reason), 100.0 * share);
            add("GPU-007", None, reason, text);
        }
        if let (Some(now), Some(most)) = (load.pcie_lanes, load.pcie_lanes_max)
            && now < most
        {
            add("GPU-008", None, "lanes", format!("{who}: PCIe x{now} of x{most} under load"));
        }
        if let Some(measured) = line.outcome.measured().filter(|_| line.probe.as_str() == "copy")
            && let Some((now, most)) = held_back(load, measured)
        {
            let text = format!("{who}: PCIe generation {now} under load, and GPU and slot can do {most}");
            add("GPU-008", None, "generation", text);
        }
    }
}

/// The generation of a link that stayed below what both of its ends can do while it carried copies, and what they can. An idle link
/// saves power at a low generation: it counts only where the copies were no faster than that generation allows.
fn held_back(load: &GpuLoad, measured: &Measured) -> Option<(u32, u32)> {
    let (now, most) = load.pcie_generation.zip(load.pcie_generation_max).filter(|(now, most)| now < most)?;
    let can = PcieLink::of(now, load.pcie_lanes.or(load.pcie_lanes_max)?).rate();
    let series = measured.series.iter().find(|s| s.metric == "bandwidth").filter(|s| !s.samples.is_empty())?;
    (stats::median(&series.samples) <= can).then_some((now, most))
}

/// What happened while the check ran.
fn moved(before: &Nvidia, after: &Nvidia, add: &mut dyn FnMut(&str, Option<Severity>, String)) {
    if let (Some(was), Some(now)) = (&before.xids, &after.xids) {
        let new: Vec<&Xid> = now.iter().filter(|x| !was.contains(x)).collect();
        tell_xids(&new, "during the check", add);
    }
    for b in &before.gpus {
        let who = name(b);
        let Some(a) = after.gpus.iter().find(|a| a.uuid == b.uuid) else {
            add("GPU-002", None, format!("{who}: there at the beginning of the check, gone at its end"));
            continue;
        };
        let grew =
            |was: Option<u64>, now: Option<u64>| now.zip(was).and_then(|(n, w)| n.checked_sub(w)).filter(|d| *d > 0);
        if let Some(d) = grew(b.ecc_uncorrected, a.ecc_uncorrected) {
            add("GPU-003", None, format!("{who}: {d} uncorrected ECC errors during the check"));
        }
        if let Some(d) = grew(b.ecc_corrected, a.ecc_corrected) {
            add("GPU-003", Some(Severity::Warn), format!("{who}: {d} corrected ECC errors during the check"));
        }
        if let Some(d) = grew(b.pcie.replays.map(u64::from), a.pcie.replays.map(u64::from)) {
            add("GPU-008", Some(Severity::Warn), format!("{who}: {d} PCIe replays during the check"));
        }
        for link in &a.nvlinks {
            let was = b.nvlinks.iter().find(|l| l.link == link.link);
            if was.is_some_and(|w| w.active) && !link.active {
                add("GPU-009", None, format!("{who}: NVLink {} went down during the check", link.link));
            }
            for (what, n) in &link.errors {
                let was = was.and_then(|w| w.errors.iter().find(|(w, _)| w == what)).map_or(0, |(_, n)| *n);
                if *n > was {
                    let text =
                        format!("{who}: NVLink {}: {} {} errors during the check", link.link, n - was, clean(what));
                    add("GPU-009", Some(Severity::Warn), text);
                }
            }
        }
        if let (Some(was), Some(now)) = (b.remapped, a.remapped)
            && (now.corrected, now.uncorrected) != (was.corrected, was.uncorrected)
        {
            add("GPU-005", None, format!("{who}: rows were remapped during the check"));
        }
    }
}
