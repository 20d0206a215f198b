//! A probe's side of a step: it runs inside a child process and talks to its parent.

use std::any::Any;
use std::io::{BufRead, Read, Write};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::wire::{Blob, MAX_LINE, ToChild, ToParent};
use crate::cluster::{Processes, Step, StepKey};
use crate::id::{NodeName, clean};
use crate::measure::{Interfaces, Outcome};
use crate::work::Case;

/// Kept back of what is left for measuring, where a quarter of it is more.
const TO_END: Duration = Duration::from_millis(500);

/// Why a child gives up.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("the parent process closed the channel")]
    Closed,
    #[error("the parent process sent a frame that is not of gonogo's protocol: {0}")]
    Junk(String),
    #[error("cannot write to the parent process: {0}")]
    Write(std::io::Error),
    #[error("this node has no interface {0} with an address")]
    Rail(String),
    #[error("{0} published what is not of this step")]
    Unlike(String),
    #[error("step {step} was given parameters it does not understand: {message}")]
    Args { step: String, message: String },
}

/// One rank of a running step.
pub struct Child {
    pub step: Step,
    pub rank: u32,
    /// Of the whole group, over all its nodes.
    pub ranks: u32,
    /// Where the peers reach this process.
    pub address: IpAddr,
    /// The group's nodes by place; empty for a step on one node.
    pub members: Vec<NodeName>,
    /// What the group's processes prove themselves to each other with.
    pub key: StepKey,
    /// What the ranks of one node are called, where the probe knows better than by number.
    names: Vec<String>,
    /// Places of the cases whose end was reported.
    told: Vec<u32>,
    started: Instant,
    /// When the parent kills this process.
    deadline: Instant,
    /// Never given back piece by piece, which may hang where a GPU does: the kernel takes it with the process.
    kept: ManuallyDrop<Vec<Rc<dyn Any>>>,
    retired: bool,
    input: Box<dyn BufRead + Send>,
    output: Box<dyn Write + Send>,
}

impl Child {
    /// Reads the job from the parent.
    pub fn accept(input: Box<dyn BufRead + Send>, output: Box<dyn Write + Send>) -> Result<Self, ChildError> {
        Self::accept_keeping(ManuallyDrop::default(), input, output)
    }

    fn accept_keeping(
        kept: ManuallyDrop<Vec<Rc<dyn Any>>>,
        mut input: Box<dyn BufRead + Send>,
        output: Box<dyn Write + Send>,
    ) -> Result<Self, ChildError> {
        match receive(&mut *input)? {
            ToChild::Job { step, rank, ranks, address, members, key, deadline_ms } => {
                let (names, told, retired) = (Vec::new(), Vec::new(), false);
                let started = Instant::now();
                let deadline = started + Duration::from_millis(deadline_ms);
                Ok(Child {
                    step: *step,
                    rank,
                    ranks,
                    address,
                    members,
                    key,
                    names,
                    told,
                    started,
                    deadline,
                    kept,
                    retired,
                    input,
                    output,
                })
            }
            ToChild::All { .. } => Err(ChildError::Junk("an exchange before the job".to_owned())),
        }
    }

    /// Tells the parent that all is said. A process that serves several steps waits for the next one and returns it; `None`
    /// when the process is to end.
    pub fn finish(mut self) -> Result<Option<Child>, ChildError> {
        if self.step.processes != Processes::Gpus || self.retired {
            self.send(&ToParent::Done)?;
            return Ok(None);
        }
        self.send(&ToParent::Ready)?;
        match Self::accept_keeping(self.kept, self.input, self.output) {
            // The parent has no more work.
            Err(ChildError::Closed) => Ok(None),
            next => next.map(Some),
        }
    }

    /// What of a type this process keeps from one step to the next, made by the first who asks for it.
    pub fn kept<T: 'static>(&mut self, make: impl FnOnce() -> T) -> Rc<T> {
        if let Some(kept) = self.kept.iter().find_map(|k| k.clone().downcast::<T>().ok()) {
            return kept;
        }
        let made = Rc::new(make());
        self.kept.push(made.clone());
        made
    }

    /// This process serves no other step: what it keeps may be broken.
    pub fn retire(&mut self) {
        self.retired = true;
    }

    /// The probe's own parameters.
    pub fn args<T: DeserializeOwned>(&self) -> Result<T, ChildError> {
        serde_json::from_value(self.step.args.clone())
            .map_err(|e| ChildError::Args { step: self.step.name.clone(), message: e.to_string() })
    }

    pub fn wants(&self, case: &Case) -> bool {
        self.step.cases.contains(case)
    }

    /// Measuring time for each of `parts` equal parts of the step: three quarters of what its estimate has for measuring.
    pub fn share(&self, parts: usize) -> Duration {
        Duration::from_millis(self.step.measuring_ms()) * 3 / 4 / (parts.max(1) as u32)
    }

    /// Time left of the step's own deadline. A wait for a peer ends before, and who did not come until then is to blame; where the budget
    /// ends the step earlier, nobody is.
    pub fn time_left(&self) -> Duration {
        self.step.deadline().saturating_sub(self.started.elapsed())
    }

    /// Time left for measuring until the parent kills this process, at the step's own deadline or at the budget's end. What is under way
    /// when it is over needs time to end on cores that others use: that is kept back.
    pub fn measuring_left(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left - (left / 4).min(TO_END).max(left / 10)
    }

    /// What to call a rank in an error: its node, where each node has one.
    pub fn name(&self, rank: usize) -> String {
        let each = (self.ranks as usize).checked_div(self.members.len()).unwrap_or(0);
        match rank.checked_div(each).and_then(|place| self.members.get(place)) {
            Some(node) if each == 1 => node.to_string(),
            Some(node) => format!("{node} (its rank {})", rank % each),
            None => self.names.get(rank).cloned().unwrap_or_else(|| format!("rank {rank}")),
        }
    }

    /// Calls the ranks of a step on one node by these names in errors.
    pub fn call_ranks(&mut self, names: Vec<String>) {
        self.names = names;
    }

    /// Moves to the rail that the step names: from here on [`Child::address`] is this node's address there.
    pub fn on_rail(&mut self) -> Result<(), ChildError> {
        let Some(rail) = &self.step.rail else { return Ok(()) };
        self.address = Interfaces::address(rail).ok_or_else(|| ChildError::Rail(clean(rail).into_owned()))?;
        Ok(())
    }

    /// The seed of this rank's random inputs.
    pub fn seed(&self) -> u64 {
        self.step.seed ^ (u64::from(self.rank) << 48)
    }

    /// Whether a case's end was reported.
    pub fn has_told(&self, case: &Case) -> bool {
        self.step.place(case).is_some_and(|at| self.told.contains(&at))
    }

    /// Reports a case's end. One that the step does not have is nobody's business: when some are measured again, the others are not
    /// told.
    pub fn outcome(&mut self, case: &Case, outcome: Outcome) -> Result<(), ChildError> {
        let Some(at) = self.step.place(case) else { return Ok(()) };
        self.told.push(at);
        self.send(&ToParent::Outcome { case: at, outcome })
    }

    /// Publishes `own` and receives what all ranks published, in rank order. Nothing of it is read before it is asked for.
    pub fn exchange<T: Serialize>(&mut self, own: &T) -> Result<Published<T>, ChildError> {
        let blob = Blob::of(own).map_err(|e| ChildError::Write(e.into()))?;
        self.send(&ToParent::Publish { blob })?;
        match receive(&mut *self.input)? {
            ToChild::All { blobs } => {
                let blobs = blobs.split().map_err(|e| ChildError::Junk(e.to_string()))?;
                if blobs.len() != self.ranks as usize {
                    let error = format!("{} parts of an exchange among {} ranks", blobs.len(), self.ranks);
                    return Err(ChildError::Junk(error));
                }
                Ok(Published { blobs, of: PhantomData })
            }
            ToChild::Job { .. } => Err(ChildError::Junk("a second job".to_owned())),
        }
    }

    /// All ranks come here before any goes on.
    pub fn barrier(&mut self) -> Result<(), ChildError> {
        self.exchange(&()).map(drop)
    }

    fn send(&mut self, frame: &ToParent) -> Result<(), ChildError> {
        let mut line = serde_json::to_vec(frame).map_err(|e| ChildError::Write(e.into()))?;
        line.push(b'\n');
        self.output.write_all(&line).and_then(|()| self.output.flush()).map_err(ChildError::Write)
    }
}

/// What all ranks published.
pub struct Published<T> {
    blobs: Vec<Blob>,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> Published<T> {
    /// What a rank published.
    ///
    /// # Errors
    /// [`ChildError::Unlike`] where it is of another kind, or there is no such rank.
    pub fn of(&self, child: &Child, rank: usize) -> Result<T, ChildError> {
        let read = self.blobs.get(rank).and_then(|b| b.read().ok());
        read.ok_or_else(|| ChildError::Unlike(child.name(rank)))
    }

    /// What each rank published, in rank order.
    ///
    /// # Errors
    /// As [`Published::of`].
    pub fn all(&self, child: &Child) -> Result<Vec<T>, ChildError> {
        (0..self.blobs.len()).map(|rank| self.of(child, rank)).collect()
    }
}

fn receive(input: &mut dyn BufRead) -> Result<ToChild, ChildError> {
    let mut line = Vec::new();
    let n = input.take(MAX_LINE as u64).read_until(b'\n', &mut line).map_err(|_| ChildError::Closed)?;
    if n == 0 {
        return Err(ChildError::Closed);
    }
    serde_json::from_slice(&line).map_err(|e| ChildError::Junk(e.to_string()))
}
