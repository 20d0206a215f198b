//! What links run at -> findings, from a topology: against the others of their kind, against what was expected, and against what no
//! link is built for. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::judge::codes::Code;
use crate::judge::fabric::like::{ALIKE, FEW, UNIFORM, listed, most};
use crate::judge::fabric::names::{cable, cable_name};
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::topology::ib::{Cable, End, Kind, Rate, Speed, Subnet, fastest};

/// The models at both ends.
type Ends = [Option<(Kind, Option<u32>)>; 2];

/// What a link should run at, who says so, and whether that is certain.
struct Reference {
    rate: String,
    source: String,
    certain: bool,
}

/// A link that runs at less than it should.
struct Slow<'c> {
    cable: &'c Cable,
    code: Code,
    reference: Reference,
}

/// Links slower than the others of their kind, or than they were; links at one lane or at SDR, however many.
pub(super) fn rates(subnet: &Subnet, expected: Option<&Subnet>, out: &mut Vec<Finding>) {
    // What joins a switch with the node inside it is no cable, and is as wide as its makers made it.
    let is_inside =
        |c: &Cable| [c.a, c.b].iter().any(|e| subnet.nodes.get(&e.guid).is_some_and(|n| n.is_aggregation()));
    let cables: Vec<Cable> = subnet.cables().into_iter().filter(|c| !is_inside(c)).collect();
    let was: HashMap<(End, End), Rate> =
        expected.map(|e| e.cables().into_iter().map(|c| ((c.a, c.b), c.rate)).collect()).unwrap_or_default();
    let usual = usual(subnet, &cables);
    let slow: Vec<Slow<'_>> = cables
        .iter()
        .filter_map(|c| {
            let expected = was
                .get(&(c.a, c.b))
                .and_then(|rate| below(c, rate, "the expected topology", true).map(|found| found.unless_one_lane(c)));
            let like = || {
                let kind = kind(subnet, c);
                let (rate, source) = usual.get(&kind)?;
                // Nobody builds SDR among links that are ten times as fast, either.
                let is_left = c.rate.speed == Speed::Sdr && rate.speed.lane_gbps() >= Speed::Edr.lane_gbps();
                below(c, rate, source, is_known(&kind) || is_left)
            };
            let other = || below(c, c.other.as_ref()?, "the other end of this cable", false);
            // How a link was expected to be outweighs all else: who gave it knows of the link.
            let found = match was.contains_key(&(c.a, c.b)) {
                true => expected,
                false => like().map(|found| found.unless_one_lane(c)).or_else(|| fallen_back(subnet, c)),
            };
            found.or_else(other)
        })
        .collect();
    told(subnet, &slow, out);
}

/// Of a kind: the same models at both ends.
fn kind(subnet: &Subnet, c: &Cable) -> Ends {
    let model = |guid: u64| subnet.nodes.get(&guid).map(|n| (n.kind, n.device));
    let mut ends = [model(c.a.guid), model(c.b.guid)];
    ends.sort();
    ends
}

/// Nodes whose models nobody told may be meant to differ.
fn is_known(ends: &Ends) -> bool {
    ends.iter().all(|end| end.is_some_and(|(_, device)| device.is_some()))
}

/// The rate that nearly all links of a kind have, and how many.
fn usual(subnet: &Subnet, cables: &[Cable]) -> BTreeMap<Ends, (Rate, String)> {
    let mut kinds: BTreeMap<Ends, Vec<&Rate>> = BTreeMap::new();
    for c in cables {
        kinds.entry(kind(subnet, c)).or_default().push(&c.rate);
    }
    kinds
        .into_iter()
        .filter_map(|(kind, rates)| {
            let (usual, n) = most(rates.iter().copied())?;
            let clear = rates.len() >= FEW && n as f64 >= UNIFORM * rates.len() as f64;
            let like =
                if is_known(&kind) { "the same models" } else { "nodes of the same kind, whose models were not told" };
            clear.then(|| (kind, (usual.clone(), format!("{n} of {} links between {like}", rates.len()))))
        })
        .collect()
}

impl Slow<'_> {
    /// What one lane runs at is no design, whatever the models are.
    fn unless_one_lane(mut self, c: &Cable) -> Self {
        self.reference.certain |= c.rate.width == 1;
        self
    }
}

/// A link below a rate.
fn below<'c>(c: &'c Cable, rate: &Rate, source: &str, certain: bool) -> Option<Slow<'c>> {
    let is_slower = match (c.rate.speed.lane_gbps(), rate.speed.lane_gbps()) {
        (Some(ours), Some(theirs)) => ours < 0.99 * theirs,
        _ => false,
    };
    let code = match c.rate.width > 0 && c.rate.width < rate.width {
        true => Code::FAB_001,
        false if is_slower => Code::FAB_002,
        false => return None,
    };
    let reference = Reference { rate: rate.to_string(), source: source.to_owned(), certain };
    Some(Slow { cable: c, code, reference })
}

/// A link at one lane or at SDR: what is left when a link cannot have more. Nobody builds either, so that all the others may be so, too.
fn fallen_back<'c>(subnet: &Subnet, c: &'c Cable) -> Option<Slow<'c>> {
    if c.rate.width == 1 {
        let source = "one lane is what is left of a link".to_owned();
        let reference = Reference { rate: format!("4x{}", c.rate.speed), source, certain: true };
        return Some(Slow { cable: c, code: Code::FAB_001, reference });
    }
    if c.rate.speed != Speed::Sdr {
        return None;
    }
    let device = |end: End| subnet.nodes.get(&end.guid).and_then(|n| n.device);
    let (a, b) = (device(c.a), device(c.b));
    // A device that is told and not known here may be as old as SDR.
    if [a, b].iter().flatten().any(|device| fastest(*device).is_none()) {
        return None;
    }
    let (rate, source, certain) = match (a.and_then(fastest), b.and_then(fastest)) {
        (Some(a), Some(b)) => {
            let best = if a.lane_gbps() < b.lane_gbps() { a } else { b };
            (format!("up to {best}"), "what the models at both ends can do", true)
        }
        _ => ("more than SDR".to_owned(), "the models were not told, and hardly any is as old", false),
    };
    let reference = Reference { rate, source: source.to_owned(), certain };
    Some(Slow { cable: c, code: Code::FAB_002, reference })
}

/// Each slow link, or those that are slow in the same way in one.
fn told(subnet: &Subnet, slow: &[Slow<'_>], out: &mut Vec<Finding>) {
    let mut groups: BTreeMap<(Code, Ends, String), Vec<&Slow<'_>>> = BTreeMap::new();
    for found in slow {
        let key = (found.code, kind(subnet, found.cable), found.cable.rate.to_string());
        groups.entry(key).or_default().push(found);
    }
    for ((code, _, rate), group) in groups {
        let Some(first) = group.first() else { continue };
        let limit = format!("{}: {}", first.reference.rate, first.reference.source);
        let names: Vec<String> = group.iter().map(|s| cable_name(subnet, s.cable.a, s.cable.b)).collect();
        // Two lanes of four at several hosts are splitter cables, which were bought so.
        let is_splitter = group.len() >= FEW && first.cable.rate.width == 2 && first.is_host_link(subnet);
        if is_splitter && first.reference.source != "the expected topology" {
            let evidence = format!("{} run at {rate}, as splitter cables do: {}", links(group.len()), listed(&names));
            out.push(Finding::new(code, Subject::Run, evidence).limit(limit).severity(Severity::Warn));
        } else if group.len() > ALIKE {
            let evidence = format!("{} run at {rate}: {}", links(group.len()), listed(&names));
            let certain = group.iter().any(|s| s.reference.certain);
            let finding = Finding::new(code, Subject::Run, evidence).limit(limit);
            out.push(if certain { finding } else { finding.severity(Severity::Warn) });
        } else {
            out.extend(group.iter().map(|s| s.finding(subnet)));
        }
    }
}

fn links(n: usize) -> String {
    crate::unit::several(n, "link")
}

impl Slow<'_> {
    fn is_host_link(&self, subnet: &Subnet) -> bool {
        [self.cable.a, self.cable.b].iter().any(|e| subnet.nodes.get(&e.guid).is_some_and(|n| n.kind == Kind::Ca))
    }

    fn finding(&self, subnet: &Subnet) -> Finding {
        let c = self.cable;
        let other = c.other.as_ref().map_or_else(String::new, |rate| format!("; its other end says {rate}"));
        let limit = format!("{}: {}", self.reference.rate, self.reference.source);
        let finding = Finding::new(self.code, cable(subnet, c.a, c.b), format!("it runs at {}{other}", c.rate));
        let finding = finding.limit(limit);
        if self.reference.certain { finding } else { finding.severity(Severity::Warn) }
    }
}
