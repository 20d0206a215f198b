//! Who runs steps.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cluster::{Coordinator, GroupOutcome, NodeFault, Step, Supervisor};
use crate::id::NodeName;

/// Parameters of a step that differ from node to node.
pub type ArgsOf<'a> = &'a dyn Fn(&NodeName) -> Option<serde_json::Value>;

/// Nodes that run steps.
pub trait Fleet {
    /// The nodes that can be given work now.
    fn nodes(&self) -> Vec<NodeName>;
    /// Runs a step by its groups, all at once; `each` gets every case of every group exactly once.
    fn run(&mut self, step: &Step, args: ArgsOf<'_>, at_most: Duration, each: &mut dyn FnMut(GroupOutcome));
    /// How many turns a step takes because nodes share machines.
    fn turns(&self, step: &Step) -> u32;
    fn interrupted(&self) -> bool;
    /// What is wrong with nodes, apart from what they measured.
    fn node_faults(&self) -> Vec<NodeFault> {
        Vec::new()
    }
    /// Addresses that called without the token, with how often.
    fn unauthenticated(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
    /// Names that were given by who held the token and is not of this run.
    fn outsiders(&self) -> Vec<String> {
        Vec::new()
    }
    /// Whether the wall clock says what its work takes.
    fn takes_time(&self) -> bool {
        true
    }
    /// Takes note of what happened between steps.
    fn listen(&mut self) {}
}

/// This machine alone.
pub struct Solo {
    pub node: NodeName,
    pub supervisor: Supervisor,
}

impl Fleet for Solo {
    fn nodes(&self) -> Vec<NodeName> {
        vec![self.node.clone()]
    }

    fn run(&mut self, step: &Step, _: ArgsOf<'_>, at_most: Duration, each: &mut dyn FnMut(GroupOutcome)) {
        self.supervisor.run(step, at_most, |at, outcome, load| {
            let case = step.cases[at as usize].clone();
            each(GroupOutcome { node: self.node.clone(), case, outcome, load, blame: None });
        });
    }

    fn turns(&self, _: &Step) -> u32 {
        1
    }

    fn interrupted(&self) -> bool {
        self.supervisor.interrupt.load(Ordering::Relaxed)
    }
}

impl Fleet for Coordinator {
    fn nodes(&self) -> Vec<NodeName> {
        self.alive().map(|m| m.node.clone()).collect()
    }

    fn run(&mut self, step: &Step, args: ArgsOf<'_>, at_most: Duration, each: &mut dyn FnMut(GroupOutcome)) {
        Coordinator::run(self, step, args, at_most, each);
    }

    fn turns(&self, step: &Step) -> u32 {
        Coordinator::turns(self, step)
    }

    fn interrupted(&self) -> bool {
        Coordinator::interrupted(self)
    }

    fn node_faults(&self) -> Vec<NodeFault> {
        Coordinator::node_faults(self).to_vec()
    }

    fn unauthenticated(&self) -> Vec<(String, u64)> {
        Coordinator::unauthenticated(self).into_iter().map(|(a, n)| (a.to_canonical().to_string(), n)).collect()
    }

    fn outsiders(&self) -> Vec<String> {
        Coordinator::outsiders(self).to_vec()
    }

    fn listen(&mut self) {
        Coordinator::listen(self);
    }
}
