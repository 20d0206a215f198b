//! What should be the same on all nodes, and on all GPUs of a node, and is not.
//!
//! A difference warns: it has broken nothing yet, and what it may break is measured beside it. It is told because mixed clusters fail
//! in ways that no single node shows, and because nobody looks for it.

use std::collections::BTreeMap;

use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::rules::majority;
use crate::record::Record;
use crate::topology::{Gpu, Machine, Nvidia};
use crate::unit::Bytes;

/// Memory of one model differs by this share when parts of it are reserved.
const RESERVED: f64 = 0.02;
/// More groups of nodes than this are not listed.
const SHOWN: usize = 4;

/// A thing, and what each node has of it, sorted; `None` where it is not known.
struct Look {
    what: String,
    values: Vec<Option<Vec<String>>>,
}

pub(super) fn findings(record: &Record, findings: &mut Vec<Finding>) {
    let machines: Vec<(&NodeName, &Machine)> = record.machines().collect();
    for (node, machine) in &machines {
        of_gpus(node, machine, findings);
    }
    if record.header.launcher.is_none() || machines.len() < 2 {
        return;
    }
    let nodes: Vec<&NodeName> = machines.iter().map(|(n, _)| *n).collect();
    let machines: Vec<&Machine> = machines.iter().map(|(_, m)| *m).collect();
    for look in general(&machines).into_iter().chain(nvidia(&machines)) {
        compare(&nodes, &look, findings);
    }
}

fn general(machines: &[&Machine]) -> Vec<Look> {
    type One = fn(&Machine) -> String;
    type Many = fn(&Machine) -> Vec<String>;
    let one: &[(&str, One)] = &[
        ("kernel", |m| m.kernel.release.clone().unwrap_or_default()),
        ("system", |m| m.kernel.os.clone().unwrap_or_default()),
        ("CPU", |m| format!("{} x {}", m.cpu.threads, m.cpu.model)),
        ("memory", |m| {
            m.memory
                .total
                .map_or(String::new(), |t| format!("{} GiB", (t.as_f64() / (8u64 << 30) as f64).round() * 8.0))
        }),
        ("huge pages", |m| m.memory.transparent_huge_pages.clone().unwrap_or_default()),
        ("container", |m| m.container.clone().unwrap_or_else(|| "none".to_owned())),
        ("governor", |m| m.cpu.governor.clone().unwrap_or_default()),
    ];
    let many: &[(&str, Many)] = &[
        ("GPUs", |m| {
            m.gpus
                .iter()
                .map(|g| format!("{}:{} {}", g.vendor, g.device, g.driver.as_deref().unwrap_or("no driver")))
                .collect()
        }),
        ("InfiniBand", |m| {
            m.infiniband
                .iter()
                .map(|d| {
                    let rates: Vec<&str> = d.ports.iter().filter_map(|p| p.rate.as_deref()).collect();
                    format!("{} {} {}", d.name, d.firmware.as_deref().unwrap_or("?"), rates.join("+"))
                })
                .collect()
        }),
        ("adapter boards", |m| {
            let board = |d: &crate::topology::IbDevice| Some(format!("{} {}", d.model.as_ref()?, d.board.as_ref()?));
            m.infiniband.iter().filter_map(board).collect()
        }),
        ("NICs", |m| {
            m.nics
                .iter()
                .filter(|n| n.state.as_deref() == Some("up"))
                .map(|n| {
                    format!(
                        "{} {} Mb/s MTU {}",
                        n.driver.as_deref().unwrap_or("virtual"),
                        n.speed_mbps.unwrap_or(0),
                        n.mtu.unwrap_or(0)
                    )
                })
                .collect()
        }),
        ("kernel modules", |m| m.modules.clone()),
        ("kernel settings", |m| m.sysctls.iter().map(|(k, v)| format!("{k}={v}")).collect()),
        ("variables", |m| {
            // What a launcher sets for each node differs by design.
            let of_job =
                |k: &str| ["SLURM", "OMPI", "PMI", "RANK", "LOCAL_", "MASTER_"].iter().any(|p| k.starts_with(p));
            m.environment.iter().filter(|(k, _)| !of_job(k)).map(|(k, v)| format!("{k}={v}")).collect()
        }),
    ];
    let filled = |t: String| if t.is_empty() { Vec::new() } else { vec![t] };
    let sorted = |mut v: Vec<String>| {
        v.sort();
        v
    };
    let one = one.iter().map(|(what, look)| Look {
        what: (*what).to_owned(),
        values: machines.iter().map(|m| Some(filled(look(m)))).collect(),
    });
    let many = many.iter().map(|(what, look)| Look {
        what: (*what).to_owned(),
        values: machines.iter().map(|m| Some(sorted(look(m)))).collect(),
    });
    one.chain(many).collect()
}

/// What belongs to the driver, and what each model of GPU is.
fn nvidia(machines: &[&Machine]) -> Vec<Look> {
    type Part = fn(&Nvidia) -> Option<String>;
    let parts: [Part; 4] = [
        |n| n.driver.as_ref().map(|v| format!("driver {v}")),
        |n| n.cuda.as_ref().map(|v| format!("CUDA {v}")),
        |n| n.nvml.as_ref().map(|v| format!("NVML {v}")),
        |n| {
            let mut all: Vec<&str> = n.gpus.iter().filter_map(|g| g.gsp.as_deref()).collect();
            all.sort_unstable();
            all.dedup();
            (!all.is_empty()).then(|| format!("GSP firmware {}", all.join("+")))
        },
    ];
    // One who does not tell a part takes nothing from the comparison of the others: driver, CUDA and NVML come together, and are told
    // together.
    let known: Vec<&Part> =
        parts.iter().filter(|p| machines.iter().filter_map(|m| m.driver()).all(|n| p(n).is_some())).collect();
    let software = |m: &&Machine| {
        let n = m.driver().filter(|_| !known.is_empty())?;
        Some(known.iter().filter_map(|p| p(n)).collect())
    };
    let mut out = vec![Look { what: "NVIDIA".to_owned(), values: machines.iter().map(software).collect() }];
    let models = Models::of(machines.iter().copied());
    for model in models.most.keys() {
        for (what, of) in models.traits() {
            let values = |m: &&Machine| {
                let mut all: Vec<String> =
                    gpus(m).filter(|g| g.name == *model).filter_map(|g| of(&models, g)).collect();
                all.sort();
                all.dedup();
                // Those that differ on one node are told for it.
                (all.len() == 1).then_some(all)
            };
            out.push(Look {
                what: format!("{what} of {}", clean(model)),
                values: machines.iter().map(values).collect(),
            });
        }
    }
    out
}

fn gpus(m: &Machine) -> impl Iterator<Item = &Gpu> {
    m.nvidia.iter().flat_map(|n| &n.gpus)
}

/// The models that there are, each with the most memory that one has.
struct Models<'r> {
    most: BTreeMap<&'r str, u64>,
}

type Trait<'r> = fn(&Models<'r>, &Gpu) -> Option<String>;

impl<'r> Models<'r> {
    fn of(machines: impl Iterator<Item = &'r Machine>) -> Self {
        let mut most: BTreeMap<&str, u64> = BTreeMap::new();
        for g in machines.flat_map(gpus) {
            let of_model = most.entry(&g.name).or_default();
            *of_model = (*of_model).max(g.memory.map_or(0, |b| b.0));
        }
        Models { most }
    }

    /// What is the same on all GPUs of a model.
    fn traits(&self) -> [(&'static str, Trait<'r>); 2] {
        [("VBIOS", |_, g| g.vbios.clone()), ("memory", |models, g| models.memory(g))]
    }

    fn memory(&self, g: &Gpu) -> Option<String> {
        let most = self.most.get(g.name.as_str()).copied().unwrap_or(0);
        // A slice has a slice's memory.
        let own = g.memory.filter(|_| g.mig != Some(true))?.0;
        let same = own as f64 > (1.0 - RESERVED) * most as f64;
        Some(Bytes(if same { most } else { own }).to_string())
    }
}

/// GPUs of one node that are not alike.
fn of_gpus(node: &NodeName, machine: &Machine, findings: &mut Vec<Finding>) {
    let models = Models::of([machine].into_iter());
    let mut tell = |what: &str, values: Vec<(u32, String)>| {
        let mut by_value: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (gpu, value) in &values {
            by_value.entry(value).or_default().push(*gpu);
        }
        if by_value.len() > 1 {
            let list = |(value, gpus): (&&str, &Vec<u32>)| {
                let gpus: Vec<String> = gpus.iter().map(u32::to_string).collect();
                format!("{} (GPU {})", clean(value), gpus.join(", "))
            };
            let all: Vec<String> = by_value.iter().map(list).collect();
            let evidence = format!("{what}: {}", all.join("; "));
            findings.push(Finding::new(Code::HET_002, Subject::Node(node.clone()), evidence));
        }
    };
    tell("models", gpus(machine).map(|g| (g.index, g.name.clone())).collect());
    tell("GSP firmware", gpus(machine).filter_map(|g| Some((g.index, g.gsp.clone()?))).collect());
    for model in models.most.keys() {
        for (what, of) in models.traits() {
            let all = gpus(machine).filter(|g| g.name == *model).filter_map(|g| Some((g.index, of(&models, g)?)));
            tell(&format!("{what} of {}", clean(model)), all.collect());
        }
    }
}

/// Nodes that are not as most are; where there is no most, that they differ.
fn compare(nodes: &[&NodeName], look: &Look, findings: &mut Vec<Finding>) {
    let known: Vec<(&NodeName, &Vec<String>)> =
        nodes.iter().zip(&look.values).filter_map(|(n, v)| Some((*n, v.as_ref()?))).collect();
    if known.iter().all(|(_, v)| *v == known[0].1) {
        return;
    }
    let Some((usual, n)) = majority(known.iter().map(|(_, v)| *v)) else {
        findings.push(Finding::new(Code::HET_001, Subject::Run, split(&look.what, &known)));
        return;
    };
    for (node, own) in known.iter().filter(|(_, own)| *own != usual) {
        let (here, there) = (show(&without(own, usual)), show(&without(usual, own)));
        let evidence = format!("{}: {here}; on {n} of {} nodes {there}", look.what, known.len());
        findings.push(Finding::new(Code::HET_001, Subject::Node((*node).clone()), evidence));
    }
}

/// Who has what, without what all have.
fn split(what: &str, known: &[(&NodeName, &Vec<String>)]) -> String {
    let mut common: Vec<String> = known[0].1.clone();
    for (_, v) in known {
        common = without(&common, &without(&common, v));
    }
    let mut by_value: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for (node, v) in known {
        by_value.entry(without(v, &common)).or_default().push(node.0.clone());
    }
    let mut groups: Vec<(Vec<String>, Vec<String>)> = by_value.into_iter().collect();
    groups.sort_by(|(_, a), (_, b)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    let more = groups.len().saturating_sub(SHOWN);
    let list =
        |(v, nodes): &(Vec<String>, Vec<String>)| format!("{} on {}", show(v), clean(&hostlist::compress(nodes)));
    let mut all: Vec<String> = groups.iter().take(SHOWN).map(list).collect();
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    format!("{what}, and no value is that of most nodes: {}", all.join("; "))
}

/// What is left of `a` when each of `b` takes one away.
fn without(a: &[String], b: &[String]) -> Vec<String> {
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    for v in b {
        *taken.entry(v).or_default() += 1;
    }
    let left = |v: &&String| match taken.get_mut(v.as_str()) {
        Some(n) if *n > 0 => {
            *n -= 1;
            false
        }
        _ => true,
    };
    a.iter().filter(left).cloned().collect()
}

fn show(values: &[String]) -> String {
    if values.is_empty() { "nothing else".to_owned() } else { values.join(", ") }
}
