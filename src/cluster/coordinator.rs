//! Hands steps to agents and serves their exchanges; survives any agent's death, hang or lies, and ends on time.
//!
//! All decisions are here, in one thread and without sockets: [`Hub`] brings events and takes messages. A node is
//! blamed only for what is its own: its agent died, fell silent, or its process crashed. Who merely waited for it is
//! not.

mod gathering;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cluster::hub::{Event, Hub, Lost, Peer};
use crate::cluster::message::{Down, Failure, Group, Up};
use crate::cluster::wire::{Blob, Blobs};
use crate::cluster::{Interrupt, Shape, Step, StepKey};
use crate::id::NodeName;
use crate::measure::{FailKind, Load, Outcome, WaiveKind};
use crate::work::Case;

pub use gathering::Expected;
use gathering::other_run;

/// How long others are waited for.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// An agent kills its processes at the step's deadline; after so much more it is hung itself.
    grace: Duration,
    /// When one member failed, the others' errors are waited for so long: the first to complain is not always the cause.
    echo: Duration,
    /// Whoever ends within so much of the step's deadline ended for it: members' clocks for a step differ by what a message takes.
    over: Duration,
}

const PATIENCE: Patience =
    Patience { grace: Duration::from_secs(5), echo: Duration::from_millis(400), over: Duration::from_millis(250) };
/// At the end the last are waited for so long: longer than a task that nobody answered waits before it calls again.
const FAREWELL: Duration = Duration::from_secs(2);
/// Most blobs of an exchange together.
const MAX_EXCHANGE: usize = 48 << 20;

/// A node that joined.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub node: NodeName,
    /// What its own kernel calls it.
    pub host: String,
    pub rank: u32,
    /// Members with one boot id share a machine.
    pub boot: String,
    peer: Peer,
    alive: bool,
}

/// What is wrong with a node as the coordinator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFault {
    pub node: NodeName,
    pub kind: FailKind,
    pub error: String,
}

/// A case of a group ended.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupOutcome {
    /// The group's first node.
    pub node: NodeName,
    pub case: Case,
    pub outcome: Outcome,
    pub load: Option<Load>,
    /// The node whose own fault it is that there is no better outcome.
    pub blame: Option<NodeName>,
}

pub struct Coordinator {
    hub: Hub,
    job: String,
    members: Vec<Member>,
    by_peer: HashMap<Peer, usize>,
    /// Tasks that are no agents: those that called, and how many there are on the members' nodes.
    waiting: Vec<Peer>,
    to_wait: usize,
    node_faults: Vec<NodeFault>,
    /// Who held the token and asked for a place that is not theirs.
    outsiders: Vec<String>,
    interrupt: Interrupt,
    patience: Patience,
    next_task: u64,
}

/// A group at work.
struct Task {
    members: Vec<usize>,
    ranks: usize,
    /// Places of cases without an outcome.
    waiting: Vec<u32>,
    /// Bad outcomes of the first member, kept until it is known whose fault they are.
    kept: Vec<(u32, Outcome)>,
    published: Vec<Option<Vec<Blob>>>,
    ended: Vec<bool>,
    failure: Option<(usize, Failure)>,
    deadline: Instant,
}

impl Coordinator {
    fn node_fault(&mut self, node: NodeName, kind: FailKind, error: String) {
        if !self.node_faults.iter().any(|t| t.node == node && t.kind == kind) {
            self.node_faults.push(NodeFault { node, kind, error });
        }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What is wrong with nodes so far.
    pub fn node_faults(&self) -> &[NodeFault] {
        &self.node_faults
    }

    pub fn unauthenticated(&self) -> Vec<(std::net::IpAddr, u64)> {
        self.hub.unauthenticated()
    }

    /// Names of those who held the token and asked for a place that is not theirs.
    pub fn outsiders(&self) -> &[String] {
        &self.outsiders
    }

    /// Members whose agents still answer.
    pub fn alive(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.alive)
    }

    pub fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// How many turns a step takes because its nodes share machines.
    pub fn turns(&self, step: &Step) -> u32 {
        if !step.exclusive {
            return 1;
        }
        let boot: HashMap<&NodeName, &str> = self.members.iter().map(|m| (&m.node, m.boot.as_str())).collect();
        let mut uses: HashMap<&str, u32> = HashMap::new();
        for group in step.groups() {
            for machine in group.iter().filter_map(|n| boot.get(n)).collect::<HashSet<_>>() {
                *uses.entry(machine).or_default() += 1;
            }
        }
        uses.values().copied().max().unwrap_or(1)
    }

    /// Tells every task that all is done, and the code to end with. Returns the nodes whose agents hang: their processes may still
    /// be there.
    pub fn dismiss(&mut self, exit: u8) -> Vec<NodeName> {
        self.listen();
        let agents = self.members.iter().filter(|m| m.alive).map(|m| m.peer);
        self.hub.send(agents, &Down::Bye { exit });
        let mut told = 0;
        let deadline = Instant::now() + FAREWELL;
        // The last agents close within milliseconds; a hung one is not waited for. A task that is no agent calls now and then until it
        // is answered, and a short run may be over before.
        loop {
            self.hub.send(self.waiting[told..].iter().copied(), &Down::Bye { exit });
            told = self.waiting.len();
            let all = !self.members.iter().any(|m| m.alive) && told >= self.to_wait;
            if all || Instant::now() >= deadline {
                break;
            }
            match self.hub.events.recv_timeout(Duration::from_millis(50)) {
                Ok(Event::Gone(peer, _) | Event::Received(peer, Up::Leaving)) => {
                    if let Some(m) = self.by_peer.get(&peer).and_then(|i| self.members.get_mut(*i)) {
                        m.alive = false;
                    }
                }
                Ok(event @ (Event::Waits(..) | Event::Joined(..))) => self.between(event),
                Ok(Event::Received(..)) | Err(_) => {}
            }
        }
        let silent = |m: &Member| self.node_faults.iter().any(|t| t.node == m.node && t.kind == FailKind::NodeSilent);
        self.members.iter().filter(|m| m.alive || silent(m)).map(|m| m.node.clone()).collect()
    }

    /// Takes note of what happened between steps.
    pub fn listen(&mut self) {
        while let Ok(event) = self.hub.events.try_recv() {
            self.between(event);
        }
    }

    fn between(&mut self, event: Event) {
        match event {
            Event::Joined(peer, join) => {
                let down = if join.job == self.job {
                    Down::Refused { why: "the run has begun without it".to_owned() }
                } else {
                    Down::NotHere { why: other_run(&self.job, &join.job) }
                };
                self.hub.send([peer], &down);
                self.hub.close(peer);
            }
            Event::Waits(peer, job) => self.wait(peer, &job),
            Event::Gone(peer, why) => self.lose(peer, &why, "between two steps"),
            Event::Received(..) => {}
        }
    }

    fn lose(&mut self, peer: Peer, why: &Lost, when: &str) {
        let Some(member) = self.by_peer.get(&peer).and_then(|i| self.members.get_mut(*i)).filter(|m| m.alive) else {
            return;
        };
        member.alive = false;
        let node = member.node.clone();
        let kind = if matches!(why, Lost::Silent(_)) { FailKind::NodeSilent } else { FailKind::NodeLost };
        self.node_fault(node, kind, format!("{why}, {when}"));
    }

    /// Runs a step by its groups, all at once (or in turns, where nodes share a machine and the step wants it whole).
    /// `args` gives a node's own parameters; `each` gets every case of every group exactly once.
    pub fn run(
        &mut self,
        step: &Step,
        args: &dyn Fn(&NodeName) -> Option<serde_json::Value>,
        at_most: Duration,
        each: &mut dyn FnMut(GroupOutcome),
    ) {
        let end = Instant::now() + at_most;
        // What an agent is told: who else works is none of its business, and much where there are many.
        let bare = Step { shape: Shape::Each, ..step.clone() };
        let index: HashMap<NodeName, usize> =
            self.members.iter().enumerate().map(|(i, m)| (m.node.clone(), i)).collect();
        let mut queue: VecDeque<(&[NodeName], Vec<usize>)> =
            step.groups().map(|g| (g, g.iter().filter_map(|n| index.get(n).copied()).collect())).collect();
        let mut tasks: HashMap<u64, Task> = HashMap::new();
        let mut busy: HashSet<String> = HashSet::new();
        loop {
            if self.interrupted() {
                break;
            }
            // Start what can start.
            let mut later = VecDeque::new();
            while let Some((group, members)) = queue.pop_front() {
                let gone = group.iter().find(|n| index.get(*n).is_none_or(|i| !self.members[*i].alive));
                if let Some(gone) = gone {
                    let why = format!("{gone} was lost before it");
                    self.skip(group, step, WaiveKind::NotReached, &why, Some(gone), each);
                } else if Instant::now() >= end {
                    self.skip(group, step, WaiveKind::NoTime, "the budget ended before it", None, each);
                } else if step.exclusive && members.iter().any(|i| busy.contains(&self.members[*i].boot)) {
                    later.push_back((group, members));
                } else {
                    if step.exclusive {
                        busy.extend(members.iter().map(|i| self.members[*i].boot.clone()));
                    }
                    let left = end.saturating_duration_since(Instant::now());
                    let task = self.start(&bare, members, args, left);
                    tasks.insert(self.next_task, task);
                }
            }
            queue = later;
            if tasks.is_empty() && queue.is_empty() {
                return;
            }
            let next = tasks.values().map(|t| t.deadline).min().unwrap_or(end);
            let wait = next.saturating_duration_since(Instant::now()).min(Duration::from_millis(50));
            if let Ok(event) = self.hub.events.recv_timeout(wait) {
                self.take(event, step, &mut tasks, each);
                while let Ok(event) = self.hub.events.try_recv() {
                    self.take(event, step, &mut tasks, each);
                }
            }
            let now = Instant::now();
            let over: Vec<u64> = tasks
                .iter()
                .filter(|(_, t)| t.deadline <= now || t.ended.iter().all(|e| *e))
                .map(|(id, _)| *id)
                .collect();
            for id in over {
                if let Some(task) = tasks.remove(&id) {
                    for i in &task.members {
                        busy.remove(&self.members[*i].boot);
                    }
                    self.finish(id, task, step, each);
                }
            }
        }
        for (id, task) in tasks {
            self.hub.send(task.members.iter().map(|i| self.members[*i].peer), &Down::Stop { task: id });
            let node = self.members[task.members[0]].node.clone();
            for at in task.waiting {
                let (case, outcome) =
                    (step.cases[at as usize].clone(), Outcome::waived(WaiveKind::Interrupted, "interrupted"));
                each(GroupOutcome { node: node.clone(), case, outcome, load: None, blame: None });
            }
        }
        for (group, _) in queue {
            self.skip(group, step, WaiveKind::Interrupted, "interrupted", None, each);
        }
    }

    fn skip(
        &self,
        group: &[NodeName],
        step: &Step,
        kind: WaiveKind,
        why: &str,
        blame: Option<&NodeName>,
        each: &mut dyn FnMut(GroupOutcome),
    ) {
        for case in &step.cases {
            let (node, case, outcome) = (group[0].clone(), case.clone(), Outcome::waived(kind, why));
            each(GroupOutcome { node, case, outcome, load: None, blame: blame.cloned() });
        }
    }

    fn start(
        &mut self,
        step: &Step,
        members: Vec<usize>,
        args: &dyn Fn(&NodeName) -> Option<serde_json::Value>,
        left: Duration,
    ) -> Task {
        self.next_task += 1;
        let group =
            Group { members: members.iter().map(|i| self.members[*i].node.clone()).collect(), key: StepKey::new() };
        let run = |step: Step| Down::Run {
            task: self.next_task,
            step: Box::new(step),
            group: group.clone(),
            at_most_ms: left.as_millis() as u64,
        };
        let mut alike = Vec::new();
        for member in members.iter().map(|i| &self.members[*i]) {
            match args(&member.node) {
                Some(args) => self.hub.send([member.peer], &run(Step { args, ..step.clone() })),
                None => alike.push(member.peer),
            }
        }
        if !alike.is_empty() {
            self.hub.send(alike, &run(step.clone()));
        }
        Task {
            ranks: step.ranks as usize,
            waiting: (0..step.cases.len() as u32).collect(),
            kept: Vec::new(),
            published: vec![None; members.len()],
            ended: vec![false; members.len()],
            failure: None,
            deadline: Instant::now() + step.deadline().min(left) + self.patience.grace,
            members,
        }
    }

    fn take(&mut self, event: Event, step: &Step, tasks: &mut HashMap<u64, Task>, each: &mut dyn FnMut(GroupOutcome)) {
        match event {
            Event::Received(peer, up) => {
                let Some(member) = self.by_peer.get(&peer).copied() else { return };
                let (Up::Publish { task, .. } | Up::Outcome { task, .. } | Up::Ended { task, .. }) = &up else {
                    return;
                };
                // A task that is over, or was never this agent's: late or lying, and nothing depends on it.
                let Some((id, t)) = tasks.get_mut(task).map(|t| (*task, t)) else { return };
                let Some(place) = t.members.iter().position(|m| *m == member) else { return };
                self.said(id, place, up, step, t, each);
            }
            Event::Gone(peer, why) => {
                self.lose(peer, &why, &format!("during {}", step.name));
                let Some(member) = self.by_peer.get(&peer).copied() else { return };
                for t in tasks.values_mut() {
                    if let Some(place) = t.members.iter().position(|m| *m == member).filter(|p| !t.ended[*p]) {
                        t.ended[place] = true;
                        let error = format!("{} was lost: {why}", self.members[member].node);
                        t.failure = Some((place, Failure { kind: FailKind::NodeLost, error }));
                        t.deadline = t.deadline.min(Instant::now() + self.patience.echo);
                    }
                }
            }
            other => self.between(other),
        }
    }

    fn said(&mut self, id: u64, place: usize, up: Up, step: &Step, t: &mut Task, each: &mut dyn FnMut(GroupOutcome)) {
        match up {
            Up::Publish { blobs, .. } => {
                let size = |b: &Vec<Blob>| b.iter().map(Blob::bytes).sum::<usize>();
                if blobs.len() != t.ranks
                    || t.published[place].is_some()
                    || size(&blobs) > MAX_EXCHANGE / t.members.len()
                {
                    let error = format!("it published {} texts of {} bytes out of turn", blobs.len(), size(&blobs));
                    t.failure = Some((place, Failure { kind: FailKind::Junk, error }));
                    t.deadline = t.deadline.min(Instant::now() + self.patience.echo);
                    return;
                }
                t.published[place] = Some(blobs);
                if t.published.iter().all(Option::is_some) {
                    let blobs: Vec<Blob> = t.published.iter_mut().filter_map(Option::take).flatten().collect();
                    let Ok(blobs) = Blobs::of(&blobs) else { return };
                    self.hub.send(t.members.iter().map(|i| self.members[*i].peer), &Down::All { task: id, blobs });
                }
            }
            // The first member speaks for the group; of the others only failures are heard, by their `Ended`.
            Up::Outcome { case, outcome, load, .. } if place == 0 => {
                let Some(i) = t.waiting.iter().position(|w| *w == case) else { return };
                if outcome.measured().is_none() {
                    t.kept.push((case, *outcome));
                    return;
                }
                t.waiting.remove(i);
                // On a shared machine the others' time is that of the group itself.
                let load = load.filter(|_| !self.shares(&t.members));
                let (node, case) = (self.members[t.members[0]].node.clone(), step.cases[case as usize].clone());
                each(GroupOutcome { node, case, outcome: *outcome, load, blame: None });
            }
            Up::Ended { failure, .. } => {
                t.ended[place] = true;
                if let Some(failure) = failure {
                    let own = |k: FailKind| matches!(k, FailKind::Crashed | FailKind::Junk);
                    let better = t
                        .failure
                        .as_ref()
                        .is_none_or(|(_, f)| !own(f.kind) && f.kind != FailKind::NodeLost && own(failure.kind));
                    if better {
                        t.failure = Some((place, failure));
                    }
                    t.deadline = t.deadline.min(Instant::now() + self.patience.echo);
                }
            }
            _ => {}
        }
        // An exchange that a member has left can never be complete. Whoever leaves at the step's own deadline ran out of time like the
        // others, whose clocks end a moment later: that is nobody's fault.
        let over = Instant::now() + self.patience.grace + self.patience.over >= t.deadline;
        let left = (0..t.members.len()).find(|p| !over && t.ended[*p] && t.published[*p].is_none());
        if let (Some(place), None, true) = (left, &t.failure, t.published.iter().any(Option::is_some)) {
            let error = "it ended before an exchange that the others wait in".to_owned();
            t.failure = Some((place, Failure { kind: FailKind::Junk, error }));
            t.deadline = t.deadline.min(Instant::now() + self.patience.echo);
        }
    }

    fn shares(&self, members: &[usize]) -> bool {
        members.iter().any(|i| {
            let boot = &self.members[*i].boot;
            !boot.is_empty() && self.members.iter().filter(|m| m.boot == *boot).count() > 1
        }) && members.len() > 1
    }

    /// A group is over: what has no outcome gets one, and a culprit if there is one.
    fn finish(&mut self, id: u64, mut t: Task, step: &Step, each: &mut dyn FnMut(GroupOutcome)) {
        let late: Vec<usize> = (0..t.members.len()).filter(|p| !t.ended[*p]).collect();
        if !late.is_empty() {
            self.hub.send(late.iter().map(|p| self.members[t.members[*p]].peer), &Down::Stop { task: id });
            // Nobody failed, and the agent's own deadline is long gone: it hangs, though it beats.
            if t.failure.is_none() {
                // Who came to an exchange waits for those who did not.
                let absent: Vec<usize> = late.iter().copied().filter(|p| t.published[*p].is_none()).collect();
                let late = if absent.is_empty() { late } else { absent };
                for p in &late {
                    let node = self.members[t.members[*p]].node.clone();
                    self.node_fault(node, FailKind::NodeSilent, format!("its agent did not end {} in time", step.name));
                }
                t.failure = late.first().map(|p| {
                    let error = format!("{} did not end in time", self.members[t.members[*p]].node);
                    (*p, Failure { kind: FailKind::NodeSilent, error })
                });
            }
        }
        let name = |place: usize| self.members[t.members[place]].node.clone();
        // In a hang those who did not come to the exchange are the ones that the others wait for.
        let (came, stalled): (Vec<usize>, Vec<usize>) = (0..t.members.len()).partition(|p| t.published[*p].is_some());
        let hung = t.kept.iter().any(|(_, o)| matches!(o, Outcome::TimedOut { .. }));
        let blame = match &t.failure {
            Some((place, f)) => (t.members.len() == 1 || !matches!(f.kind, FailKind::Error)).then(|| name(*place)),
            None if t.members.len() == 1 => None,
            // Of two, either may be stuck in what it sends to the other: the path between them is no node's fault.
            None if hung && t.members.len() > 2 && !came.is_empty() && stalled.len() == 1 => Some(name(stalled[0])),
            None => None,
        };
        let node = name(0);
        let mut first = true;
        for at in std::mem::take(&mut t.waiting) {
            let case = step.cases[at as usize].clone();
            let kept = t.kept.iter().find(|(kept, _)| *kept == at).map(|(_, o)| o.clone());
            let outcome = match (&t.failure, kept) {
                // What the first member says of itself is the best account of its own failure.
                (Some((0, _)), Some(kept)) | (None, Some(kept)) => kept,
                (Some((place, f)), _) if first => {
                    let error =
                        if t.members.len() > 1 { format!("{}: {}", name(*place), f.error) } else { f.error.clone() };
                    Outcome::error(f.kind, error)
                }
                (Some(_), _) => Outcome::waived(WaiveKind::NotReached, "the step failed before it"),
                (None, None) => Outcome::waived(WaiveKind::NotReached, "the probe ended without it"),
            };
            let bad = matches!(outcome, Outcome::Failed { .. } | Outcome::TimedOut { .. });
            first = first && !bad;
            let blame = if bad || t.failure.is_some() { blame.clone() } else { None };
            each(GroupOutcome { node: node.clone(), case, outcome, load: None, blame });
        }
    }
}

#[cfg(test)]
mod tests;
