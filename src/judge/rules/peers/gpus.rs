//! GPUs beside GPUs: all of one model in the run, whatever node and slot they are in.
//!
//! Slots and nodes are looked at as well: what most nodes have in the same slot is the slot's (cooling, power, riser), and what most
//! GPUs of a node have is the node's.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::id::{NodeName, clean};
use crate::judge::cell::{Cell, Straggler};
use crate::judge::rules::peers::{Behind, FEW, mark, swings};
use crate::judge::verdict::{Reason, Verdict};
use crate::measure::{Speed, slow};
use crate::record::Record;
use crate::topology::Machine;
use crate::work::{Better, Case, Metric};

/// Healthy GPUs of a node differ by 1 to 3 %.
pub(super) const MARGIN: f64 = 0.04;
/// False alarms that a whole check may have. Silicon stays what it is when it is measured again, so no second look mends them.
const ALPHA: f64 = 1e-3;
/// As many tests as eight GPUs make in the quick tier: a check with fewer is not asked for less.
const TESTS: usize = 100;

/// One GPU that was measured.
struct Member<'r> {
    cell: usize,
    node: &'r NodeName,
    slot: u32,
    speed: Speed,
}

/// What is compared: probe, test and metric of GPUs of one model; where placement matters, of one kind of link, or of one slot.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'r> {
    probe: &'r str,
    test: Case,
    metric: Metric,
    model: String,
    place: Place,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Any,
    Link(String),
    Slot(u32),
}

pub(super) fn judge(record: &Record, margin: f64, cells: &mut [Cell<'_>]) {
    let machines: FxHashMap<&NodeName, &Machine> = record.machines().collect();
    let kinds = kinds(&machines, cells);
    let tests: usize = kinds.values().filter(|m| m.len() >= FEW).map(Vec::len).sum();
    let level = ALPHA / tests.max(TESTS) as f64;
    for (kind, members) in kinds.iter().filter(|(_, m)| m.len() >= FEW) {
        compare(kind, members, level, margin, cells);
    }
}

fn kinds<'r>(machines: &FxHashMap<&NodeName, &Machine>, cells: &[Cell<'r>]) -> BTreeMap<Kind<'r>, Vec<Member<'r>>> {
    let mut out: BTreeMap<Kind<'r>, Vec<Member<'r>>> = BTreeMap::new();
    for (cell, c) in cells.iter().enumerate() {
        // What cannot be true must not be what the others are held against.
        let valid = c.verdict != Verdict::Inconclusive(Reason::Invalid) && c.group().is_empty();
        let (Some(slot), Some(summary), true) = (c.row().gpu(), c.summary.as_ref(), valid) else { continue };
        let machine = machines.get(c.row().node).copied();
        let speed = Speed::of(summary, c.series.better);
        let mut add = |place: Place| {
            let (probe, metric) = (c.row().probe, c.series.metric);
            let test = c.row().case.any_part();
            let kind = Kind { probe, test, metric, model: machine.map_or_else(String::new, |m| model(m, slot)), place };
            out.entry(kind).or_default().push(Member { cell, node: c.row().node, slot, speed });
        };
        if c.row().probe == "copy" {
            // What a copy reaches depends on the way to the host and to the others: on one node only where that is known to be the
            // same, on several with the same slot of the others.
            if let Some(link) = machine.and_then(|m| link(m, slot)) {
                add(Place::Link(link));
            }
            add(Place::Slot(slot));
        } else {
            add(Place::Any);
        }
    }
    out
}

/// What the GPU is: its driver's name for it, else its number on PCI.
pub(in crate::judge::rules) fn model(m: &Machine, slot: u32) -> String {
    let told = m.nvidia.as_ref().and_then(|n| n.numbered(slot)).map(|g| clean(&g.name).into_owned());
    let seen = || {
        let g = m.gpus.iter().filter(|g| g.is_nvidia()).nth(slot as usize)?;
        Some(format!("{}:{}", clean(&g.vendor), clean(&g.device)))
    };
    told.or_else(seen).unwrap_or_default()
}

/// How the GPU hangs at the host and at the others: what its PCIe link and its NVLinks could do, behind how many bridges, with how
/// many others behind the first of them.
fn link(m: &Machine, slot: u32) -> Option<String> {
    let gpu = m.nvidia.as_ref().and_then(|n| n.numbered(slot))?;
    let (generation, lanes) = (gpu.pcie.generation_max?, gpu.pcie.lanes_max?);
    let nvlinks = gpu.nvlinks.iter().filter(|l| l.active).count();
    let bridges = |pci: &str| m.gpus.iter().find(|g| g.pci == pci)?.pcie.as_ref().map(|p| p.bridges.as_slice());
    let own = bridges(&gpu.pci)?;
    let beside = m.gpus.iter().filter_map(|g| g.pcie.as_ref()).filter(|p| p.bridges.first() == own.first()).count();
    Some(format!("{generation} x{lanes}, {nvlinks} NVLinks, {} bridges, {beside} GPUs", own.len()))
}

fn compare(kind: &Kind<'_>, members: &[Member<'_>], level: f64, margin: f64, cells: &mut [Cell<'_>]) {
    let speeds: Vec<Speed> = members.iter().map(|m| m.speed).collect();
    let Some(found) = slow(&speeds, level, margin) else { return };
    let mut is_slow = vec![false; members.len()];
    for i in &found.who {
        is_slow[*i] = true;
    }
    let far: Vec<bool> = members.iter().map(|m| found.loss(m.speed.value) > margin).collect();
    let seen = Seen { members, is_slow: &is_slow, far: &far, level, margin };
    let (mut slots, mut nodes) = (Vec::new(), Vec::new());
    if !matches!(kind.place, Place::Slot(_)) {
        slots = seen.groups(|m| m.slot);
        nodes = seen.groups(|m| m.node);
    }
    for (i, m) in members.iter().enumerate() {
        let cell = &mut cells[m.cell];
        let usual = match cell.series.better {
            Better::Higher => found.usual,
            Better::Lower => 1.0 / found.usual,
        };
        let straggler = match (slots.contains(&m.slot), nodes.contains(&m.node)) {
            (true, _) if far[i] => Straggler::Slot,
            (_, true) if far[i] => Straggler::Node,
            _ if is_slow[i] || swings(cell, usual) => Straggler::Gpu,
            _ => continue,
        };
        let which = match kind.place {
            Place::Slot(slot) => format!("{} GPUs in slot {slot} of this run", members.len()),
            _ => format!("{} GPUs of this run", members.len()),
        };
        let like = if kind.model.is_empty() { String::new() } else { format!(" ({})", kind.model) };
        let peers = format!("the usual of {which}{like}; it is {:.1} % behind", 100.0 * found.loss(m.speed.value));
        mark(cell, Behind { straggler, usual, margin, peers });
    }
}

/// Who of a kind was found slow.
struct Seen<'a, 'r> {
    members: &'a [Member<'r>],
    is_slow: &'a [bool],
    /// Beyond the margin, though maybe by chance.
    far: &'a [bool],
    level: f64,
    margin: f64,
}

impl Seen<'_, '_> {
    /// Groups (slots over nodes, or nodes over slots) of which most members are slow, while most of the others are not: each by itself,
    /// or the group's middle beside those of the other groups, which spread less.
    fn groups<'m, K: Ord + Copy + 'm>(&'m self, key: impl Fn(&'m Member<'m>) -> K) -> Vec<K> {
        let mut groups: BTreeMap<K, Vec<usize>> = BTreeMap::new();
        for (i, m) in self.members.iter().enumerate() {
            groups.entry(key(m)).or_default().push(i);
        }
        groups.retain(|_, g| g.len() > 1);
        if groups.len() < 2 {
            return Vec::new();
        }
        let count = |of: &[bool], g: &[usize]| g.iter().filter(|i| of[**i]).count();
        let slow_ones = self.is_slow.iter().filter(|s| **s).count();
        let middles: Vec<Speed> = groups.values().map(|g| self.middle(g)).collect();
        // There are fewer groups to be wrong about than members.
        let level = self.level * self.members.len() as f64 / groups.len() as f64;
        let behind = if middles.len() >= FEW { slow(&middles, level, self.margin) } else { None };
        let behind: Vec<usize> = behind.map(|f| f.who).unwrap_or_default();
        let one = |(i, (key, g)): (usize, (&K, &Vec<usize>))| {
            let (own, others) = (count(self.is_slow, g), self.members.len() - g.len());
            let by_members = 2 * own > g.len() && 4 * (slow_ones - own) < others;
            let by_middle = behind.contains(&i) && 2 * count(self.far, g) > g.len();
            (by_members || by_middle).then_some(*key)
        };
        groups.iter().enumerate().filter_map(one).collect()
    }

    fn middle(&self, group: &[usize]) -> Speed {
        let values: Vec<f64> = group.iter().map(|i| self.members[*i].speed.value).collect();
        let errors: Vec<f64> = group.iter().map(|i| self.members[*i].speed.error).collect();
        let middle = crate::measure::stats::median;
        Speed { value: middle(&values), error: middle(&errors) / (group.len() as f64).sqrt() }
    }
}
