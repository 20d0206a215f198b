//! A step: one probe, its cases, its ranks, its deadline.

use std::path::PathBuf;
use std::slice;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{NodeName, ProbeName};
use crate::work::{Case, RoundKind};

/// Whose steps say what became of the nodes themselves: no probe, the coordinator.
pub const PRESENCE: ProbeName = ProbeName::new("cluster");

/// Whose processes run a step on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Processes {
    /// Its own, which end with it.
    #[default]
    Own,
    /// The node's GPU processes: one a GPU, started by the first step that needs it and kept for the steps that follow, with its
    /// context and its libraries. One that fails is replaced.
    Gpus,
    /// Its own, after the GPU processes have ended: what they hold would be seen.
    AfterGpus,
}

impl Processes {
    fn is_own(&self) -> bool {
        *self == Processes::Own
    }
}

/// One piece of work, planned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Unique in a plan: the probe's name, and more where a probe has several steps.
    pub name: String,
    pub probe: ProbeName,
    /// Child processes on each node.
    pub ranks: u32,
    /// Who does it, and together with whom.
    #[serde(flatten)]
    pub shape: Shape,
    /// Nodes that share one machine take turns: the step wants all of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
    /// What will be measured, in order.
    pub cases: Vec<Case>,
    /// The probe's own parameters.
    pub args: serde_json::Value,
    pub seed: u64,
    /// How long it should take.
    pub estimate_ms: u64,
    /// Of the estimate, what passes before anything is measured, however little there is to measure: contexts and libraries.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_ms: u64,
    #[serde(default, skip_serializing_if = "Processes::is_own")]
    pub processes: Processes,
    /// The directory in which each node gets a folder of its own for files; removed when the step ends, however it
    /// ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<PathBuf>,
    /// The network interface that carries it, where that is not the one of the control channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rail: Option<String>,
    /// 1 at first, 2 and more when measured again with more samples.
    pub attempt: u32,
}

/// A round of pairs, all at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairRound {
    pub kind: RoundKind,
    /// The first nodes of the pairs that are there for reference.
    #[serde(default)]
    pub controls: Vec<NodeName>,
    /// Whether it came after collectives that were slow or did not end, to see what changed since the pairs before them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

/// Who does a step, and together with whom. In a record: `groups`, none for [`Shape::Each`], and the `round` of pairs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "ShapeLine", into = "ShapeLine")]
pub enum Shape {
    /// Every node of the check, each alone.
    #[default]
    Each,
    /// These nodes, each alone.
    Alone(Vec<NodeName>),
    /// A round of pairs, all at one time.
    Pairs(PairRound, Vec<[NodeName; 2]>),
    /// Disjoint groups, all at one time; rank order within a group.
    Groups(Vec<Vec<NodeName>>),
}

/// A [`Shape`] as records have it.
#[derive(Serialize, Deserialize, JsonSchema)]
struct ShapeLine {
    /// Disjoint groups of nodes, all at once, rank order within a group. Empty means every node alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Vec<NodeName>>,
    /// Of a step of pairs, what its round is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    round: Option<PairRound>,
}

impl From<Shape> for ShapeLine {
    fn from(shape: Shape) -> Self {
        let (round, groups) = match shape {
            Shape::Each => (None, Vec::new()),
            Shape::Alone(nodes) => (None, nodes.into_iter().map(|n| vec![n]).collect()),
            Shape::Pairs(round, pairs) => (Some(round), pairs.into_iter().map(Vec::from).collect()),
            Shape::Groups(groups) => (None, groups),
        };
        ShapeLine { groups, round }
    }
}

/// A step whose groups are none.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    #[error("a group of no nodes")]
    Empty,
    #[error("a round of pairs with a group of {0} nodes")]
    NoPair(usize),
}

impl TryFrom<ShapeLine> for Shape {
    type Error = ShapeError;

    fn try_from(line: ShapeLine) -> Result<Self, ShapeError> {
        if line.groups.iter().any(Vec::is_empty) {
            return Err(ShapeError::Empty);
        }
        match line.round {
            Some(round) => Shape::round(round, line.groups),
            None => Ok(Shape::groups(line.groups)),
        }
    }
}

impl Shape {
    /// Groups of any size, of which none is empty.
    pub fn groups(groups: Vec<Vec<NodeName>>) -> Self {
        match groups {
            none if none.is_empty() => Shape::Each,
            alone if alone.iter().all(|g| g.len() == 1) => Shape::Alone(alone.into_iter().flatten().collect()),
            several => Shape::Groups(several),
        }
    }

    /// Nodes two by two; who is left over takes no part.
    pub fn two_by_two(nodes: &[NodeName]) -> Self {
        Shape::Groups(nodes.chunks_exact(2).map(<[NodeName]>::to_vec).collect())
    }

    /// # Errors
    /// A group that is no pair.
    fn round(round: PairRound, groups: Vec<Vec<NodeName>>) -> Result<Self, ShapeError> {
        let pair = |g: Vec<NodeName>| <[NodeName; 2]>::try_from(g).map_err(|g| ShapeError::NoPair(g.len()));
        Ok(Shape::Pairs(round, groups.into_iter().map(pair).collect::<Result<_, _>>()?))
    }
}

impl Step {
    /// A step of one process on each node by itself, with nodes that share a machine side by side; callers set what differs.
    pub fn new(name: impl Into<String>, probe: ProbeName, cases: Vec<Case>) -> Self {
        Step {
            name: name.into(),
            probe,
            ranks: 1,
            shape: Shape::Each,
            exclusive: false,
            cases,
            args: serde_json::Value::Null,
            seed: 0,
            estimate_ms: 1,
            start_ms: 0,
            processes: Processes::Own,
            scratch: None,
            rail: None,
            attempt: 1,
        }
    }

    /// Records of schema 1 have the round of a step of pairs among the probe's parameters.
    ///
    /// # Errors
    /// A group that is no pair.
    pub fn read_schema_1(&mut self) -> Result<(), ShapeError> {
        let Some(kind) = self.args.get("round") else { return Ok(()) };
        let kind = kind.as_str().and_then(RoundKind::named).unwrap_or(RoundKind::Inter);
        let controls = self.args.get("controls").and_then(|c| Vec::deserialize(c).ok()).unwrap_or_default();
        let groups = self.groups().map(<[NodeName]>::to_vec).collect();
        self.shape = Shape::round(PairRound { kind, controls, late: false }, groups)?;
        Ok(())
    }

    /// The round of pairs that it is; `None` for any other step.
    pub fn pair_round(&self) -> Option<&PairRound> {
        match &self.shape {
            Shape::Pairs(round, _) => Some(round),
            Shape::Each | Shape::Alone(_) | Shape::Groups(_) => None,
        }
    }

    /// Its groups, those of one node as well; none where every node does it alone.
    pub fn groups(&self) -> impl Iterator<Item = &[NodeName]> {
        let (alone, pairs, groups): (&[NodeName], &[[NodeName; 2]], &[Vec<NodeName>]) = match &self.shape {
            Shape::Each => (&[], &[], &[]),
            Shape::Alone(nodes) => (nodes, &[], &[]),
            Shape::Pairs(_, pairs) => (&[], pairs, &[]),
            Shape::Groups(groups) => (&[], &[], groups),
        };
        let (alone, pairs) = (alone.iter().map(slice::from_ref), pairs.iter().map(<[NodeName; 2]>::as_slice));
        alone.chain(pairs).chain(groups.iter().map(Vec::as_slice))
    }

    /// Its groups of several nodes.
    pub fn together(&self) -> impl Iterator<Item = &[NodeName]> {
        self.groups().filter(|g| g.len() > 1)
    }

    /// Whether each node does it by itself.
    pub fn is_solo(&self) -> bool {
        self.together().next().is_none()
    }

    /// The group of several nodes that a node speaks for; `None` for a node alone.
    pub fn group_of(&self, first: &NodeName) -> Option<&[NodeName]> {
        self.together().find(|g| g[0] == *first)
    }

    /// The place of a case among its cases.
    pub fn place(&self, case: &Case) -> Option<u32> {
        self.cases.iter().position(|c| c == case).map(|at| at as u32)
    }

    /// Of the estimate, the time for measuring.
    pub fn measuring_ms(&self) -> u64 {
        self.estimate_ms.saturating_sub(self.start_ms)
    }

    /// After this long the step's processes are killed: four times the estimate and some room for a slow start.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.estimate_ms * 4) + Duration::from_secs(3)
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(groups: &[Vec<u8>]) -> Vec<Vec<NodeName>> {
        groups.iter().map(|g| g.iter().map(|n| NodeName(format!("n{n}"))).collect()).collect()
    }

    fn step(shape: Shape) -> Step {
        Step { shape, ..Step::new("s", ProbeName::new("tcp"), vec![Case::read("pair out")]) }
    }

    proptest! {
        #[test]
        fn a_shape_in_a_record_is_read_as_it_was(
            groups in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..4), 0..6),
            late in any::<bool>(),
        ) {
            let pairs: Vec<[NodeName; 2]> = named(&groups).into_iter().filter_map(|g| g.try_into().ok()).collect();
            let round = PairRound { kind: RoundKind::Inter, controls: vec![NodeName("n1".into())], late };
            for shape in [Shape::groups(named(&groups)), Shape::Pairs(round, pairs)] {
                let step = step(shape);
                let text = serde_json::to_string(&step).unwrap_or_else(|e| panic!("{e}"));
                let read: Step = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                prop_assert_eq!(&read, &step);
                prop_assert_eq!(step.is_solo(), step.groups().all(|g| g.len() < 2));
            }
        }
    }

    #[test]
    fn groups_that_are_none_are_refused() {
        let read = |groups: &str| {
            let whole = serde_json::to_value(step(Shape::Each)).unwrap_or_default();
            let (mut whole, more) = (whole, serde_json::from_str::<serde_json::Value>(groups).unwrap_or_default());
            for (key, value) in more.as_object().into_iter().flatten() {
                whole[key] = value.clone();
            }
            serde_json::from_value::<Step>(whole).map_err(|e| e.to_string())
        };
        assert!(read(r#"{"groups": [["a"], ["b", "c"]]}"#).is_ok());
        assert_eq!(read(r#"{"groups": [["a"], []]}"#), Err("a group of no nodes".to_owned()));
        let three = r#"{"groups": [["a", "b", "c"]], "round": {"kind": "inter-leaf"}}"#;
        assert_eq!(read(three), Err("a round of pairs with a group of 3 nodes".to_owned()));
    }

    #[test]
    fn a_round_of_schema_1_is_among_the_parameters() {
        let args = serde_json::json!({ "round": "confirm", "controls": ["n3"], "streams": 4 });
        let mut old = Step { args, ..step(Shape::groups(named(&[vec![1, 2], vec![3, 4]]))) };
        assert!(old.pair_round().is_none() && old.read_schema_1().is_ok());
        let Some(round) = old.pair_round() else { panic!("{old:?}") };
        assert_eq!((round.kind, round.controls.as_slice()), (RoundKind::Confirm, &[NodeName("n3".into())][..]));
        assert_eq!(old.groups().count(), 2);
    }
}
