//! A record's pair steps as tests for the localiser.

use std::collections::HashMap;

use crate::cluster::Step;
use crate::hostlist;
use crate::id::NodeName;
use crate::localise::{GroupTest, Level, Pairs, Reading, Scale, Test};
use crate::measure::{Outcome, stats};
use crate::record::Record;
use crate::topology::Leaf;

/// What the steps of pair rounds are called, before their number.
pub const PAIR_STEP: &str = "tcp-pairs-";

/// What the steps that halve a slow group are called, before their number.
pub const NARROW_STEP: &str = "collective-narrow-";

/// Which nodes the numbers in [`Pairs`] stand for: those that took part in any pair.
pub struct Network<'r> {
    pub nodes: Vec<&'r NodeName>,
    pub pairs: Pairs,
}

/// Each node's leaf number; nodes that no leaf names share one more. One leaf for all when nothing is known.
pub fn leaf_numbers(nodes: &[&NodeName], leaves: &[Leaf]) -> Vec<u32> {
    let at: HashMap<&str, u32> = leaves
        .iter()
        .enumerate()
        .flat_map(|(i, l)| l.nodes.iter().map(move |n| (hostlist::short(&n.0), i as u32)))
        .collect();
    let found: Vec<u32> =
        nodes.iter().map(|n| at.get(hostlist::short(&n.0)).copied().unwrap_or(leaves.len() as u32)).collect();
    // Numbers without gaps, in order of appearance.
    let mut seen: HashMap<u32, u32> = HashMap::new();
    found
        .into_iter()
        .map(|l| {
            let next = seen.len() as u32;
            *seen.entry(l).or_insert(next)
        })
        .collect()
}

/// How a pair step's arguments say what its round is for.
pub fn round_args(kind: &str, controls: &[NodeName]) -> serde_json::Value {
    serde_json::json!({ "round": kind, "controls": controls })
}

/// Collects every pair test of a record. `rate` names the case and metric of each direction.
pub fn network(record: &Record) -> Network<'_> {
    let steps: Vec<_> = record.steps.iter().filter(|s| s.name.starts_with(PAIR_STEP)).collect();
    let mut nodes: Vec<&NodeName> = steps.iter().flat_map(|s| s.groups.iter().flatten()).collect();
    nodes.sort();
    nodes.dedup();
    let number: HashMap<&NodeName, u32> = nodes.iter().enumerate().map(|(i, n)| (*n, i as u32)).collect();
    let mut pairs = Pairs::new(leaf_numbers(&nodes, &record.header.leaves));
    type Ends<'r> = (Option<&'r Outcome>, Option<&'r Outcome>, bool);
    let mut got: HashMap<(&str, &NodeName), Ends<'_>> = HashMap::new();
    for line in record.outcomes.iter().filter(|l| l.step.starts_with(PAIR_STEP)) {
        let ends = got.entry((line.step.as_str(), &line.node)).or_default();
        match line.case.as_str() {
            "pair out" => ends.0 = Some(&line.outcome),
            "pair back" => ends.1 = Some(&line.outcome),
            _ => {}
        }
        // Whose own fault it is has its own finding: such a test says nothing about the network.
        ends.2 |= line.blame.is_some();
    }
    let reading = |o: Option<&Outcome>| match o? {
        Outcome::Measured(m) => {
            let s = m.series.iter().find(|s| s.metric == "bandwidth").filter(|s| !s.samples.is_empty())?;
            Some(Reading::Rate(stats::median(&s.samples)))
        }
        Outcome::Failed { .. } | Outcome::TimedOut { .. } => Some(Reading::Failed),
        Outcome::Waived { .. } => None,
    };
    for (i, step) in steps.iter().enumerate() {
        let kind = step.args.get("round").and_then(|r| r.as_str()).unwrap_or("");
        let quiet = matches!(kind, "confirm" | "again");
        let controls: Vec<&str> = step
            .args
            .get("controls")
            .and_then(|c| c.as_array())
            .into_iter()
            .flatten()
            .filter_map(|c| c.as_str())
            .collect();
        for group in step.groups.iter().filter(|g| g.len() == 2) {
            let Some((out, back, blamed)) = got.get(&(step.name.as_str(), &group[0])) else { continue };
            if *blamed {
                continue;
            }
            let (out, back) = match (reading(*out), reading(*back)) {
                (Some(out), Some(back)) => (out, back),
                // A first direction that failed takes the second with it: one failure, told once for both.
                (Some(Reading::Failed), None) => (Reading::Failed, Reading::Failed),
                _ => continue,
            };
            let (a, b) = (number[&group[0]], number[&group[1]]);
            let control = controls.contains(&group[0].0.as_str());
            pairs.tests.push(Test { round: i as u32, quiet, control, a, b, out, back });
        }
    }
    Network { nodes, pairs }
}

/// Which nodes the numbers in [`Scale`] stand for.
pub struct Groups<'r> {
    pub nodes: Vec<&'r NodeName>,
    pub scale: Scale,
}

/// Collects every collective over groups of nodes: the last all-reduce of each, which is the largest.
pub fn groups(record: &Record) -> Groups<'_> {
    let several = |s: &&Step| s.probe.as_str() == "collective" && s.groups.iter().any(|g| g.len() > 1);
    let steps: Vec<(&Step, &str)> = record
        .steps
        .iter()
        .filter(several)
        .filter_map(|s| Some((s, s.cases.iter().rfind(|c| c.starts_with("all-reduce"))?.as_str())))
        .collect();
    let mut nodes: Vec<&NodeName> = steps.iter().flat_map(|(s, _)| s.groups.iter().flatten()).collect();
    nodes.sort();
    nodes.dedup();
    let number: HashMap<&NodeName, u32> = nodes.iter().enumerate().map(|(i, n)| (*n, i as u32)).collect();
    let case: HashMap<&str, &str> = steps.iter().map(|(s, case)| (s.name.as_str(), *case)).collect();
    let mut busbw: HashMap<(&str, &NodeName), f64> = HashMap::new();
    for line in record.outcomes.iter().filter(|l| case.get(l.step.as_str()).is_some_and(|c| *c == l.case)) {
        let Some(m) = line.outcome.measured() else { continue };
        if let Some(series) = m.series.iter().find(|s| s.metric == "busbw") {
            busbw.insert((&line.step, &line.node), stats::median(&series.samples));
        }
    }
    let level = |(step, _): &(&Step, &str)| Level {
        size: step.groups.iter().map(Vec::len).max().unwrap_or(0) as u32,
        narrowing: step.name.starts_with(NARROW_STEP),
        groups: step
            .groups
            .iter()
            .filter(|g| !g.is_empty())
            .map(|g| GroupTest {
                nodes: g.iter().map(|n| number[n]).collect(),
                busbw: busbw.get(&(step.name.as_str(), &g[0])).copied().filter(|b| *b > 0.0),
            })
            .collect(),
    };
    let levels = steps.iter().map(level).collect();
    Groups { nodes, scale: Scale { levels } }
}
