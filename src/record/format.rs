//! What a record says.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::{Job, Step};
use crate::id::{NodeName, ProbeName};
use crate::measure::{Facts, Outcome};
use crate::plan::CheckPlan;
use crate::record::{OutcomeLine, Outcomes};
use crate::roster::Roster;
use crate::topology::{Leaf, Machine};
use crate::work::{Case, Fact};

/// Version of the format. It grows when an old reader would misread a new record.
pub const SCHEMA: u32 = 2;

/// First line: provenance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Header {
    pub schema: u32,
    /// Version and commit of the gonogo that measured.
    pub version: String,
    pub commit: String,
    #[schemars(with = "String")]
    pub started: Timestamp,
    /// How long rank 0 had then waited for the others to join; absent for a single machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joining_ms: Option<u64>,
    /// The nodes that take part.
    pub nodes: Vec<NodeName>,
    /// What a node's own kernel calls it, where that is not its name here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kernel_names: BTreeMap<NodeName, String>,
    /// The scheduler's job that it was measured in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
    /// Who placed the processes; absent for a single machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<String>,
    /// Which node hangs at which leaf, as far as known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaves: Vec<Leaf>,
    pub plan: CheckPlan,
    /// The smallest interval that the node's clock tells apart.
    pub clock_resolution_ns: f64,
}

impl Header {
    /// The nodes by all their names.
    pub fn roster(&self) -> Roster<'_> {
        Roster::new(&self.nodes, &self.kernel_names)
    }
}

/// Last line. A record without it was cut off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct End {
    #[schemars(with = "String")]
    pub ended: Timestamp,
    /// True when a signal ended the run before its time.
    pub interrupted: bool,
    /// Where the time went; absent where nothing was measured on a machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spent: Vec<Spent>,
}

/// Time that all steps of a probe took, as the wall clock of rank 0 has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Spent {
    pub probe: ProbeName,
    pub ms: u64,
}

/// One line of the file: `{"outcome":{...}}`. The kind stands outside, so that a line is parsed in one pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Header(Box<Header>),
    /// What was going to be measured; coverage is counted against it.
    Steps(Vec<Step>),
    Outcome(Box<OutcomeLine>),
    End(End),
}

/// A record that ends too early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub line: usize,
    pub bytes: usize,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} is cut off after {} bytes; everything before it is used", self.line, self.bytes)
    }
}

/// A whole record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub header: Header,
    pub steps: Vec<Step>,
    pub outcomes: Outcomes,
    pub end: Option<End>,
    /// What of the file could not be used.
    pub damage: Option<Damage>,
}

impl Record {
    /// A record that nothing was measured for yet.
    pub fn new(header: Header) -> Self {
        Record { header, steps: Vec::new(), outcomes: Outcomes::default(), end: None, damage: None }
    }

    /// One fact that was gathered by other than a check, on the first node of `header`: a record that is judged and shown as any other.
    pub fn of_fact(header: Header, probe: &'static str, fact: Fact, facts: Facts) -> Self {
        let (case, name) = (Case::Fact(fact), ProbeName::new(probe));
        let step = Step::new(probe, name.clone(), vec![case.clone()]);
        let outcome = Outcome::facts(facts);
        let node = header.nodes[0].clone();
        let line = OutcomeLine {
            node: node.into(),
            step: probe.into(),
            probe: name,
            case,
            attempt: 1,
            blame: None,
            load: None,
            outcome,
        };
        Record { steps: vec![step], outcomes: vec![line].into(), ..Record::new(header) }
    }

    /// Each node's machine, as it saw itself.
    pub fn machines(&self) -> impl Iterator<Item = (&NodeName, &Machine)> {
        self.outcomes.facts().filter_map(|(l, f)| match f {
            Facts::Machine(m) => Some((&*l.node, &**m)),
            _ => None,
        })
    }

    /// A node's machine with what its driver said last, as the check left it.
    pub fn machine_at_end(&self, node: &NodeName) -> Option<Machine> {
        let mut machine = self.machines().find(|(n, _)| *n == node)?.1.clone();
        let last = self.outcomes.facts().rev().filter(|(l, _)| *l.node == *node).find_map(|(_, f)| match f {
            Facts::Nvidia(n) => Some(n),
            _ => None,
        });
        if let Some(n) = last {
            machine.nvidia = Some((**n).clone());
        }
        Some(machine)
    }

    /// Groups of nodes that run under one kernel.
    pub fn sharing(&self) -> impl Iterator<Item = Vec<&NodeName>> {
        let mut by_boot: BTreeMap<&str, Vec<&NodeName>> = BTreeMap::new();
        for (node, machine) in self.machines() {
            if let Some(boot) = machine.boot.as_deref().filter(|b| !b.is_empty()) {
                by_boot.entry(boot).or_default().push(node);
            }
        }
        by_boot.into_values().filter(|nodes| nodes.len() > 1)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outcomes of {} nodes from {}", self.outcomes.len(), self.header.nodes.len(), self.header.started)
    }
}

/// The JSON schema of one line.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Line).to_value()
}
