//! The outcomes of a record, and where among them more than samples stands.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{self, NodeName, ProbeName};
use crate::measure::{Facts, Load, Measured, Outcome};
use crate::work::Case;

/// A case ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutcomeLine {
    // A reader shares one name between the lines of a node.
    #[serde(deserialize_with = "id::shared_name")]
    pub node: Arc<NodeName>,
    /// A reader shares one text between the lines of a step.
    #[serde(deserialize_with = "id::shared")]
    pub step: Arc<str>,
    pub probe: ProbeName,
    pub case: Case,
    /// 1 at first, more when measured again.
    pub attempt: u32,
    /// The node whose own fault it is that there is no better outcome, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blame: Option<Box<NodeName>>,
    /// Who else used the node meanwhile, when that could be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Box<Load>>,
    pub outcome: Outcome,
}

/// In the order of the file. Most lines of a large record are samples, and most rules ask for something else: which lines have that is
/// found out once, and again after the lines were touched.
#[derive(Debug, Clone, Default)]
pub struct Outcomes {
    lines: Vec<OutcomeLine>,
    beyond: OnceLock<Box<[u32]>>,
}

impl Outcomes {
    /// Lines that measured more than samples: facts, what interfaces and ports counted meanwhile, what was computed.
    pub fn beyond_samples(&self) -> impl DoubleEndedIterator<Item = (&OutcomeLine, &Measured)> {
        let has =
            |m: &Measured| m.facts.is_some() || !m.transport.is_empty() || !m.counters.is_empty() || m.bits.is_some();
        let of = |line: &OutcomeLine| line.outcome.measured().is_some_and(has);
        let all = self.beyond.get_or_init(|| (0..).zip(&self.lines).filter(|(_, l)| of(l)).map(|(i, _)| i).collect());
        all.iter().map(|i| &self.lines[*i as usize]).filter_map(|line| Some((line, line.outcome.measured()?)))
    }

    /// What is no sample and no count, with the line that tells it.
    pub fn facts(&self) -> impl DoubleEndedIterator<Item = (&OutcomeLine, &Facts)> {
        self.beyond_samples().filter_map(|(line, m)| Some((line, m.facts.as_deref()?)))
    }
}

impl Deref for Outcomes {
    type Target = Vec<OutcomeLine>;

    fn deref(&self) -> &Self::Target {
        &self.lines
    }
}

impl DerefMut for Outcomes {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.beyond.take();
        &mut self.lines
    }
}

impl PartialEq for Outcomes {
    fn eq(&self, other: &Self) -> bool {
        self.lines == other.lines
    }
}

impl From<Vec<OutcomeLine>> for Outcomes {
    fn from(lines: Vec<OutcomeLine>) -> Self {
        Outcomes { lines, beyond: OnceLock::new() }
    }
}

impl<'o> IntoIterator for &'o Outcomes {
    type Item = &'o OutcomeLine;
    type IntoIter = std::slice::Iter<'o, OutcomeLine>;

    fn into_iter(self) -> Self::IntoIter {
        self.lines.iter()
    }
}

impl<'o> IntoIterator for &'o mut Outcomes {
    type Item = &'o mut OutcomeLine;
    type IntoIter = std::slice::IterMut<'o, OutcomeLine>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Fact;

    #[test]
    fn facts_that_come_later_are_found() {
        let line = |outcome: Outcome| OutcomeLine {
            node: NodeName("n1".to_owned()).into(),
            step: "environment".into(),
            probe: ProbeName::new("environment"),
            case: Case::Fact(Fact::Machine),
            attempt: 1,
            blame: None,
            load: None,
            outcome,
        };
        let strangers = |n: u64| Outcome::facts(Facts::Unauthenticated(vec![("10.0.0.1".to_owned(), n)]));
        let mut all = Outcomes::from(vec![line(Outcome::Measured(Measured::default())), line(strangers(1))]);
        assert_eq!((all.len(), all.facts().count()), (2, 1));
        all.push(line(strangers(2)));
        assert_eq!(all.facts().count(), 2);
        all[1].outcome = Outcome::Measured(Measured::default());
        assert!(all.facts().eq([(&all[2], all[2].outcome.measured().and_then(|m| m.facts.as_deref()).unwrap())]));
        for line in &mut all {
            line.outcome = strangers(3);
        }
        assert_eq!(all.facts().next_back().map(|(line, _)| line), all.last());
        assert_eq!(all.beyond_samples().count(), 3);
    }
}
