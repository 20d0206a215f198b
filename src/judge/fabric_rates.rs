//! What links run at -> findings, from a topology: against the others of their kind, or what was expected. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::judge::codes::Code;
use crate::judge::fabric_like::{FEW, UNIFORM, most};
use crate::judge::fabric_names::cable;
use crate::judge::finding::Finding;
use crate::judge::severity::Severity;
use crate::topology::ib::{Cable, End, Kind, Rate, Subnet};

/// Links slower than the others of their kind, or than they were.
pub(super) fn rates(subnet: &Subnet, expected: Option<&Subnet>, out: &mut Vec<Finding>) {
    let cables = subnet.cables();
    let was: HashMap<(End, End), Rate> =
        expected.map(|e| e.cables().into_iter().map(|c| ((c.a, c.b), c.rate)).collect()).unwrap_or_default();
    // Of a kind: the same models at both ends.
    let model = |guid: u64| subnet.nodes.get(&guid).map(|n| (n.kind, n.device));
    let kind = |c: &Cable| {
        let mut ends = [model(c.a.guid), model(c.b.guid)];
        ends.sort();
        ends
    };
    let known = |ends: &[Option<(Kind, Option<u32>)>; 2]| ends.iter().all(|end| end.is_some_and(|(_, d)| d.is_some()));
    let mut kinds: BTreeMap<_, Vec<&Rate>> = BTreeMap::new();
    for c in &cables {
        kinds.entry(kind(c)).or_default().push(&c.rate);
    }
    let usual: BTreeMap<_, (Rate, String)> = kinds
        .into_iter()
        .filter_map(|(kind, rates)| {
            let (usual, n) = most(rates.iter().copied())?;
            let clear = rates.len() >= FEW && n as f64 >= UNIFORM * rates.len() as f64;
            let like =
                if known(&kind) { "the same models" } else { "nodes of the same kind, whose models were not told" };
            clear.then(|| (kind, (usual.clone(), format!("{n} of {} links between {like}", rates.len()))))
        })
        .collect();
    // One lane is what is left of a link: nobody builds one. However few links there are, one wider shows what its kind can do.
    let mut widest: BTreeMap<_, &Rate> = BTreeMap::new();
    for c in &cables {
        let best = widest.entry(kind(c)).or_insert(&c.rate);
        if c.rate.width > best.width {
            *best = &c.rate;
        }
    }
    let lanes_lost = |c: &Cable| {
        let best = widest.get(&kind(c)).filter(|best| c.rate.width == 1 && best.width > 1)?;
        Some(((*best).clone(), "the widest link between the same models".to_owned()))
    };
    for c in &cables {
        let expected = was.get(&(c.a, c.b)).map(|rate| (rate.clone(), "the expected topology".to_owned()));
        // Nodes whose models nobody told may be meant to differ; what one lane runs at is no design.
        let certain = expected.is_some() || c.rate.width == 1 || known(&kind(c));
        let like = expected.or_else(|| usual.get(&kind(c)).cloned()).or_else(|| lanes_lost(c));
        let Some((reference, source)) = like else { continue };
        let is_slower = match (c.rate.speed.lane_gbps(), reference.speed.lane_gbps()) {
            (Some(ours), Some(theirs)) => ours < 0.99 * theirs,
            _ => false,
        };
        let code = match c.rate.width > 0 && c.rate.width < reference.width {
            true => Code::FAB_001,
            false if is_slower => Code::FAB_002,
            false => continue,
        };
        let finding = Finding::new(code, cable(subnet, c.a, c.b), format!("it runs at {}", c.rate));
        let finding = finding.limit(format!("{reference}: {source}"));
        out.push(if certain { finding } else { finding.severity(Severity::Warn) });
    }
}
