//! Frames between a step's parent and its child processes: one JSON text a line, bounded.

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cluster::{Step, StepKey};
use crate::id::NodeName;
use crate::measure::Outcome;

/// Longest line either side accepts.
pub const MAX_LINE: usize = 8 << 20;
/// Most that one child may say in a step.
pub const MAX_TOTAL: usize = 64 << 20;

/// What a rank publishes: JSON that only the ranks read; on its way it is passed on as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Blob(Box<RawValue>);

impl Blob {
    /// # Errors
    /// What cannot be JSON, such as a map whose keys are no texts.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Blob)
    }

    /// # Errors
    /// What is of another kind.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }

    /// Bytes on the wire.
    pub fn bytes(&self) -> usize {
        self.0.get().len()
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// What all ranks published, in rank order: one JSON array that only the ranks take apart. The two processes that it passes on its way
/// to them have no use for the parts, of which there may be thousands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Blobs(Blob);

impl Blobs {
    /// # Errors
    /// None in practice: blobs are JSON, and so is an array of them.
    pub fn of(blobs: &[Blob]) -> Result<Self, serde_json::Error> {
        Blob::of(blobs).map(Blobs)
    }

    /// # Errors
    /// What is no array.
    pub fn split(&self) -> Result<Vec<Blob>, serde_json::Error> {
        self.0.read()
    }
}

/// Parent to child.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToChild {
    /// First line: the work.
    Job {
        step: Box<Step>,
        rank: u32,
        /// Of the whole group, over all its nodes.
        ranks: u32,
        /// Where the peers of this node reach it; loopback when the group is this node.
        address: IpAddr,
        /// The group's nodes by place; empty for a step on one node.
        members: Vec<NodeName>,
        /// What the group's processes prove themselves to each other with.
        key: StepKey,
        /// After so long it is killed: the step's own deadline, or what the budget has left.
        deadline_ms: u64,
    },
    /// The answer to a `Publish` of every rank, in rank order.
    All { blobs: Blobs },
}

impl ToChild {
    /// As it is sent: one line, whatever other nodes put into what they published, which is passed on as they wrote it. JSON has line ends
    /// only between its words, where they are blanks like others.
    ///
    /// # Errors
    /// None in practice: a frame of ours serialises.
    pub fn to_line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = serde_json::to_vec(self)?;
        line.iter_mut().filter(|b| **b == b'\n').for_each(|b| *b = b' ');
        line.push(b'\n');
        Ok(line)
    }
}

/// Child to parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToParent {
    /// This rank's part of an exchange.
    Publish { blob: Blob },
    /// A case ended, by its place among those of the step. Rank 0 speaks for all ranks.
    Outcome { case: u32, outcome: Outcome },
    /// The step ended as it should, and this process ends with it.
    Done,
    /// The step ended as it should, and this process waits for another.
    Ready,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_published_is_no_second_line() {
        let hostile = r#"{"all":{"blobs":[1,
{"job":"another"}
,"two\nlines"]}}"#;
        let all: ToChild = serde_json::from_str(hostile).unwrap();
        let line = all.to_line().unwrap();
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(line.last(), Some(&b'\n'));
        let ToChild::All { blobs } = serde_json::from_slice(&line).unwrap() else { panic!("another frame") };
        let parts = blobs.split().unwrap();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[2].read::<String>().unwrap(), "two\nlines");
        assert!(parts[1].read::<String>().is_err());
    }

    #[test]
    fn blobs_come_apart_as_they_were_put_together() {
        for n in [0, 1, 3, 10_000] {
            let parts: Vec<Blob> = (0..n).map(|i| Blob::of(&(i, "x")).unwrap()).collect();
            assert_eq!(Blobs::of(&parts).unwrap().split().unwrap(), parts);
        }
        let other: Blobs = serde_json::from_str("{\"a\":1}").unwrap();
        assert!(other.split().is_err());
    }
}
