//! What the machine is -> findings.

use std::collections::{HashMap, HashSet};

use crate::id::{NodeName, clean};
use crate::judge::cell::is_busy;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::rules::{configuration, on_gpu};
use crate::judge::severity::Severity;
use crate::plan::RunPlan;
use crate::record::{OutcomeLine, Record};
use crate::topology::{Machine, Standing};
use crate::unit::Bytes;

/// Fewer descriptors than this are used up by a few hundred ranks.
const FEW_FILES: u64 = 4096;
/// Docker's default for /dev/shm is 64 MiB; NCCL alone may want more.
const SMALL_SHM: Bytes = Bytes(Bytes::GIB);

pub(super) fn findings(record: &Record, run: &RunPlan, findings: &mut Vec<Finding>) {
    let measured = |l: &&OutcomeLine| l.outcome.measured().is_some_and(|m| !m.series.is_empty());
    let mut by_gpu: HashMap<&NodeName, HashSet<Option<u32>>> = HashMap::new();
    for l in record.outcomes.iter().filter(|l| on_gpu(&l.case)).filter(measured) {
        by_gpu.entry(&*l.node).or_default().insert(l.case.gpu());
    }
    some_gpus(record, run, &by_gpu, findings);
    for (node, machine) in record.machines() {
        let mut add = |code: Code, severity: Option<Severity>, evidence: String| {
            let f = Finding::new(code, Subject::Node(node.clone()), evidence);
            findings.push(match severity {
                Some(s) => f.severity(s),
                None => f,
            });
        };
        of_machine(machine, run, by_gpu.contains_key(node), &mut add);
        configuration::of_machine(machine, &mut |code, evidence| add(code, None, evidence));
    }
    for line in record.outcomes.iter().filter(|l| l.probe.as_str() == "environment") {
        if let Some(load) = line.load.as_deref().filter(|l| is_busy(l)) {
            let evidence = format!(
                "over {} ms before measuring, others took {:.1} cores and the hypervisor {:.1}",
                load.window_ms, load.others_cores, load.steal_cores
            );
            findings.push(Finding::new(Code::VAL_004, Subject::Node((*line.node).clone()), evidence));
        }
    }
}

/// Nodes of which fewer GPUs were measured than the plan says that each has. Where none was, the machine tells of it, if it is known.
fn some_gpus(
    record: &Record,
    run: &RunPlan,
    by_gpu: &HashMap<&NodeName, HashSet<Option<u32>>>,
    findings: &mut Vec<Finding>,
) {
    let wanted = run.nodes.as_ref().map_or(0, |n| n.gpus_per_node) as usize;
    let known: HashSet<&NodeName> = record.machines().map(|(node, _)| node).collect();
    for node in record.header.nodes.iter().filter(|_| wanted > 0) {
        let numbered = by_gpu.get(node).map(|of| of.iter().flatten().count());
        if numbered.is_some_and(|n| n > 0 && n < wanted) || (numbered.is_none() && !known.contains(node)) {
            let evidence = format!("{} of {wanted} GPUs were measured", numbered.unwrap_or(0));
            let finding = Finding::new(Code::COV_003, Subject::Node(node.clone()), evidence).severity(Severity::Hold);
            findings.push(finding.limit("[nodes] gpus_per_node of the plan"));
        }
    }
}

fn of_machine(m: &Machine, run: &RunPlan, measured: bool, add: &mut dyn FnMut(Code, Option<Severity>, String)) {
    let wanted_gpus = run.nodes.as_ref().map_or(0, |n| n.gpus_per_node) as usize;
    if m.gpus.len() < wanted_gpus {
        add(Code::ENV_006, None, format!("{} GPU(s) on the PCI bus, {wanted_gpus} needed", m.gpus.len()));
    }
    // What the job's own variable hides is there, and nothing is said of it.
    let visible = m.environment.get("CUDA_VISIBLE_DEVICES");
    if let (Some(n), Some(visible)) = (m.driver(), visible) {
        let shown = n.shown(Some(visible)).len();
        let text = format!("CUDA_VISIBLE_DEVICES={} shows {shown} of {} GPUs", clean(visible), n.gpus.len());
        if shown < wanted_gpus && wanted_gpus <= n.gpus.len() {
            add(Code::ENV_006, Some(Severity::Hold), format!("{text}; {wanted_gpus} needed"));
        } else if shown < n.gpus.len() {
            add(Code::COV_003, None, format!("{text}; nothing is said of the others"));
        }
    }
    // What a container or control group was not granted is there, and no use to the run.
    let withheld = m.gpus_hidden().iter().filter(|(_, s)| matches!(s, Standing::Withheld)).count();
    if let Some(granted) = m.gpus_granted().filter(|_| withheld > 0) {
        let text = format!(
            "{granted} of {} GPU(s) on the PCI bus are granted to this container, control group or user",
            m.gpus_present()
        );
        if granted < wanted_gpus && wanted_gpus <= m.gpus.len() {
            add(Code::ENV_006, Some(Severity::Hold), format!("{text}; {wanted_gpus} needed"));
        } else {
            add(Code::COV_003, Some(Severity::Info), format!("{text}; nothing is said of the others"));
        }
    }
    if !m.gpus.is_empty() && !measured {
        let severity = (wanted_gpus > 0).then_some(Severity::Hold);
        add(Code::COV_003, severity, format!("{} GPU(s) seen, none measured", m.gpus.len()));
    }
    if let (false, Some(limit)) = (m.infiniband.is_empty(), m.limits.memlock) {
        add(Code::ENV_001, None, format!("memlock is {limit}, {} InfiniBand device(s) are there", m.infiniband.len()));
    }
    let nvidia = m.gpus.iter().any(|g| g.is_nvidia());
    if nvidia && !m.infiniband.is_empty() && !m.modules.iter().any(|x| x == "nvidia_peermem" || x == "nv_peer_mem") {
        add(
            Code::ENV_007,
            None,
            format!("{} GPU(s), {} InfiniBand device(s), module not loaded", m.gpus.len(), m.infiniband.len()),
        );
    }
    if let Some(n) = m.limits.nofile.filter(|n| *n < FEW_FILES) {
        add(Code::ENV_002, None, format!("nofile is {n}, below {FEW_FILES}"));
    }
    if let Some(quota) = m.cgroup.cpus.filter(|q| *q < f64::from(m.cpu.threads)) {
        add(Code::ENV_003, None, format!("quota of {quota:.2} CPUs on {} hardware threads", m.cpu.threads));
    }
    if let Some(governor) = m.cpu.governor.as_deref().filter(|g| ["powersave", "ondemand", "conservative"].contains(g))
    {
        add(Code::ENV_004, None, format!("governor is {governor}"));
    }
    if let Some(shm) = m.memory.shm.filter(|s| *s < SMALL_SHM) {
        add(Code::ENV_008, None, format!("/dev/shm holds {shm}"));
    }
    if !m.missing.is_empty() {
        let shown: Vec<String> = m
            .missing
            .iter()
            .take(4)
            .map(|x| format!("{} ({})", x.path.display(), if x.denied { "permission denied" } else { "absent" }))
            .collect();
        let more = m.missing.len().saturating_sub(4);
        let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
        add(Code::ENV_005, None, format!("{}{tail}", shown.join(", ")));
    }
}
