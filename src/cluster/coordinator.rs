//! Hands steps to agents and serves their exchanges; survives any agent's death, hang or lies, and ends on time.
//!
//! All decisions are here, in one thread and without sockets: [`Hub`] brings events and takes messages. A node is
//! blamed only for what is its own: its agent died, fell silent, or its process crashed. Who merely waited for it is
//! not.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cluster::hub::{Event, Hub, Peer};
use crate::cluster::message::{Down, Failure, Join, PROTOCOL, Seat, Up};
use crate::cluster::{Interrupt, Step, StepKey};
use crate::id::{NodeName, clean};
use crate::measure::{FailKind, Load, Outcome, WaiveKind};
use crate::roster::Roster;

/// How long others are waited for.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// An agent kills its processes at the step's deadline; after so much more it is hung itself.
    grace: Duration,
    /// When one member failed, the others' errors are waited for so long: the first to complain is not always the cause.
    echo: Duration,
}

const PATIENCE: Patience = Patience { grace: Duration::from_secs(5), echo: Duration::from_millis(400) };
/// Outsiders that are remembered.
const MAX_OUTSIDERS: usize = 64;
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

/// The nodes that should come, as the launcher names them; none where it names nobody.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    pub hosts: Vec<NodeName>,
    /// Rank r is the task of `hosts[r]`, and of no other.
    pub bound: bool,
}

/// Why an agent is not let in.
enum Refuse {
    /// It belongs to another run, which may call here by a stale address: it may call again.
    OtherRun(String),
    /// It is nobody of this run, whatever it says of itself: no node is to blame.
    Outsider(String),
    /// A node of this run is wrong.
    Node(FailKind, String),
}

/// What is wrong with a node as the coordinator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    pub node: NodeName,
    pub kind: FailKind,
    pub error: String,
}

/// A case of a group ended.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupOutcome {
    /// The group's first node.
    pub node: NodeName,
    pub case: String,
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
    /// Tasks that are no agents.
    waiting: Vec<Peer>,
    troubles: Vec<Trouble>,
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
    /// Cases without an outcome.
    waiting: Vec<String>,
    /// Bad outcomes of the first member, kept until it is known whose fault they are.
    kept: Vec<(String, Outcome)>,
    published: Vec<Option<Vec<String>>>,
    ended: Vec<bool>,
    failure: Option<(usize, Failure)>,
    deadline: Instant,
}

/// The list of those who should come, to look names up in.
struct Guests<'a> {
    expected: &'a Expected,
    roster: Roster<'a>,
}

impl<'a> Guests<'a> {
    /// The node that an agent is of: by the launcher's name for it, else by its kernel's.
    fn find(&self, join: &Join) -> Option<&'a NodeName> {
        self.roster.find(join.name.as_deref().unwrap_or(&join.host))
    }
}

/// What an agent is called where nobody names it: by its launcher, else by its kernel.
fn called(join: &Join) -> String {
    clean(join.name.as_deref().unwrap_or(&join.host)).into_owned()
}

fn other_run(own: &str, theirs: &str) -> String {
    format!(
        "this is the run `{}`, not `{}`: two runs use one port; give one another --rendezvous",
        clean(own),
        clean(theirs)
    )
}

/// Who has come so far.
#[derive(Default)]
struct Gathering {
    joined: BTreeMap<u32, (Peer, Join, NodeName)>,
    /// Nodes, or where nobody names them tasks, that were refused for what is wrong with them.
    refused: HashSet<NodeName>,
    refused_tasks: u32,
}

impl Gathering {
    fn tasks(&self) -> u32 {
        self.joined.values().map(|(_, j, _)| j.local_size.max(1)).sum()
    }

    /// Nobody else is to come.
    fn is_whole(&self, size: u32, expected: &Expected) -> bool {
        if expected.hosts.is_empty() {
            return self.tasks() + self.refused_tasks >= size;
        }
        self.joined.len() + self.refused.len() >= expected.hosts.len()
    }
}

impl Coordinator {
    /// Waits until every node of the world has joined, or `patience` is over. `progress` gets tasks joined and
    /// expected.
    pub fn gather(
        hub: Hub,
        own: &Join,
        expected: &Expected,
        patience: Duration,
        interrupt: Interrupt,
        mut progress: impl FnMut(u32, u32),
    ) -> Self {
        let mut this = Coordinator {
            hub,
            job: own.job.clone(),
            members: Vec::new(),
            by_peer: HashMap::new(),
            waiting: Vec::new(),
            troubles: Vec::new(),
            outsiders: Vec::new(),
            interrupt,
            patience: PATIENCE,
            next_task: 0,
        };
        let deadline = Instant::now() + patience;
        let (mut all, nobody) = (Gathering::default(), BTreeMap::new());
        let guests = Guests { expected, roster: Roster::new(&expected.hosts, &nobody) };
        while !all.is_whole(own.size, expected) && Instant::now() < deadline && !this.interrupted() {
            let Ok(event) = this.hub.events.recv_timeout(Duration::from_millis(50)) else { continue };
            match event {
                Event::Joined(peer, join) => this.join(peer, *join, own, &guests, &mut all),
                Event::Waits(peer, job) => this.wait(peer, &job),
                Event::Gone(peer, why) => {
                    let rank = all.joined.iter().find(|(_, (p, ..))| *p == peer).map(|(r, _)| *r);
                    if let Some((_, _, node)) = rank.and_then(|r| all.joined.remove(&r)) {
                        this.troubles.retain(|t| t.node != node);
                        this.trouble(node, FailKind::NodeLost, format!("left before the run began: {why}"));
                    }
                }
                Event::Said(..) => {}
            }
            progress(all.tasks(), own.size);
        }
        this.seat(all.joined, own);
        this.absent(own, expected, patience);
        this
    }

    fn join(&mut self, peer: Peer, join: Join, own: &Join, guests: &Guests<'_>, all: &mut Gathering) {
        let why = match self.admit(own, &join, guests, all) {
            Ok(node) => {
                self.hub.send([peer], &Down::Welcome { node: node.clone() });
                all.joined.insert(join.rank, (peer, join, node));
                return;
            }
            Err(Refuse::OtherRun(why)) => {
                self.hub.send([peer], &Down::NotHere { why });
                return self.hub.close(peer);
            }
            Err(Refuse::Outsider(why)) => {
                let who = format!("{} (rank {})", called(&join), join.rank);
                if self.outsiders.len() < MAX_OUTSIDERS && !self.outsiders.contains(&who) {
                    self.outsiders.push(who);
                }
                why
            }
            Err(Refuse::Node(kind, why)) => {
                let node = guests.find(&join).cloned().unwrap_or_else(|| NodeName(called(&join)));
                all.refused_tasks += join.local_size.clamp(1, own.size);
                all.refused.insert(node.clone());
                self.trouble(node, kind, why.clone());
                why
            }
        };
        self.hub.send([peer], &Down::Refused { why });
        self.hub.close(peer);
    }

    /// A task that is no agent waits for the verdict.
    fn wait(&mut self, peer: Peer, job: &str) {
        if job == self.job {
            self.hub.send([peer], &Down::Wait);
            self.waiting.push(peer);
        } else {
            self.hub.send([peer], &Down::NotHere { why: other_run(&self.job, job) });
            self.hub.close(peer);
        }
    }

    /// The node that this agent speaks for; if it is not let in, why. What it says of itself is believed as far as the launcher
    /// bears it out: a token is no name.
    fn admit(&mut self, own: &Join, join: &Join, guests: &Guests<'_>, all: &Gathering) -> Result<NodeName, Refuse> {
        if join.job != own.job {
            return Err(Refuse::OtherRun(other_run(&own.job, &join.job)));
        }
        let (place, expected) = (guests.find(join), guests.expected);
        if !expected.hosts.is_empty() {
            let Some(node) = place else {
                let why = format!("{} is none of the nodes that the launcher named", called(join));
                return Err(Refuse::Outsider(why));
            };
            let bound = expected.hosts.get(join.rank as usize).filter(|_| expected.bound);
            if let Some(of) = bound.filter(|of| *of != node) {
                return Err(Refuse::Outsider(format!("rank {} is the task of {of}, not of {node}", join.rank)));
            }
            // Who has joined keeps its place, whoever claims it after.
            if let Some((_, other, _)) = all.joined.values().find(|(_, _, n)| n == node) {
                return Err(Refuse::Outsider(format!("{node} has joined already, as rank {}", other.rank)));
            }
        }
        if join.protocol != PROTOCOL || join.build != own.build {
            let why = format!("it runs gonogo {}, rank 0 runs {}", clean(&join.build), clean(&own.build));
            return Err(Refuse::Node(FailKind::OtherBuild, why));
        }
        let room = own.size.saturating_sub(all.tasks());
        if join.size != own.size || join.rank >= own.size || join.local_size > room {
            let why = format!(
                "it is rank {} of {} tasks, {} of them on its node; rank 0 is in a world of {}, of which {room} are to come",
                join.rank, join.size, join.local_size, own.size
            );
            return Err(Refuse::Node(FailKind::OtherWorld, why));
        }
        if let Some((_, other, _)) = all.joined.get(&join.rank) {
            let why = format!("it says that it is rank {}, and so does {}", join.rank, called(other));
            return Err(Refuse::Node(FailKind::OtherWorld, why));
        }
        let node = place.cloned().unwrap_or_else(|| {
            let name = called(join);
            let taken = all.joined.values().any(|(_, _, n)| n.0 == name);
            NodeName(if taken { format!("{name}#{}", join.rank) } else { name })
        });
        if join.plan != own.plan {
            self.trouble(
                node.clone(),
                FailKind::OtherPlan,
                format!("its plan and flags have the hash {:.12}, those of rank 0 {:.12}", clean(&join.plan), own.plan),
            );
        }
        Ok(node)
    }

    fn seat(&mut self, joined: BTreeMap<u32, (Peer, Join, NodeName)>, own: &Join) {
        for (rank, (peer, join, node)) in joined {
            self.by_peer.insert(peer, self.members.len());
            let host = clean(&join.host).into_owned();
            self.members.push(Member { node, host, rank, boot: join.boot, peer, alive: true });
        }
        // When most nodes agree with each other and not with rank 0, it is rank 0 that is wrong.
        let others: Vec<&Trouble> = self.troubles.iter().filter(|t| t.kind == FailKind::OtherBuild).collect();
        if others.len() > self.members.len() && !others.is_empty() {
            let error = format!("rank 0 runs gonogo {}, and {} other nodes do not", clean(&own.build), others.len());
            let first = self.members.first().map_or_else(|| NodeName(own.host.clone()), |m| m.node.clone());
            self.trouble(first, FailKind::OtherBuild, error);
        }
    }

    /// Names those who did not come, as well as they can be named.
    fn absent(&mut self, own: &Join, expected: &Expected, patience: Duration) {
        // Whoever was sent away from a crowded door may have been one of them.
        let (kind, more) = if self.hub.was_crowded() {
            (FailKind::KeptOut, ", while strangers crowded the door")
        } else {
            (FailKind::NeverJoined, "")
        };
        let error = format!("no agent came from it within {} s{more}", patience.as_secs());
        let known: HashSet<&NodeName> =
            self.members.iter().map(|m| &m.node).chain(self.troubles.iter().map(|t| &t.node)).collect();
        let missing: Vec<NodeName> = if !expected.hosts.is_empty() {
            expected.hosts.iter().filter(|h| !known.contains(h)).cloned().collect()
        } else if own.local_size == 1 {
            // One task a node: the absent ranks are known; else only how many.
            let ranks: HashSet<u32> = self.members.iter().map(|m| m.rank).collect();
            let refused = self.troubles.iter().filter(|t| t.kind != FailKind::OtherPlan).count();
            let missing = (own.size as usize).saturating_sub(ranks.len() + refused);
            let absent = (0..own.size).filter(|r| !ranks.contains(r)).take(missing);
            absent.map(|rank| NodeName(format!("rank-{rank}"))).collect()
        } else {
            Vec::new()
        };
        for node in missing {
            self.trouble(node, kind, error.clone());
        }
    }

    fn trouble(&mut self, node: NodeName, kind: FailKind, error: String) {
        if !self.troubles.iter().any(|t| t.node == node && t.kind == kind) {
            self.troubles.push(Trouble { node, kind, error });
        }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What is wrong with nodes so far.
    pub fn troubles(&self) -> &[Trouble] {
        &self.troubles
    }

    pub fn strangers(&self) -> Vec<(std::net::IpAddr, u64)> {
        self.hub.strangers()
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
        for group in &step.groups {
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
        self.hub.send(agents.chain(self.waiting.iter().copied()), &Down::Bye { exit });
        let deadline = Instant::now() + Duration::from_secs(2);
        // The last agents close within milliseconds; a hung one is not waited for.
        while self.members.iter().any(|m| m.alive) && Instant::now() < deadline {
            if let Ok(Event::Gone(peer, _) | Event::Said(peer, Up::Leaving)) =
                self.hub.events.recv_timeout(Duration::from_millis(50))
                && let Some(m) = self.by_peer.get(&peer).and_then(|i| self.members.get_mut(*i))
            {
                m.alive = false;
            }
        }
        let silent = |m: &Member| self.troubles.iter().any(|t| t.node == m.node && t.kind == FailKind::NodeSilent);
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
            Event::Said(..) => {}
        }
    }

    fn lose(&mut self, peer: Peer, why: &str, when: &str) {
        let Some(member) = self.by_peer.get(&peer).and_then(|i| self.members.get_mut(*i)).filter(|m| m.alive) else {
            return;
        };
        member.alive = false;
        let node = member.node.clone();
        let kind = if why.starts_with("silent") { FailKind::NodeSilent } else { FailKind::NodeLost };
        self.trouble(node, kind, format!("{why}, {when}"));
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
        let index: HashMap<NodeName, usize> =
            self.members.iter().enumerate().map(|(i, m)| (m.node.clone(), i)).collect();
        let mut queue: VecDeque<(&Vec<NodeName>, Vec<usize>)> =
            step.groups.iter().map(|g| (g, g.iter().filter_map(|n| index.get(n).copied()).collect())).collect();
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
                    let task = self.start(step, members, args, left);
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
            for case in task.waiting {
                let outcome = Outcome::waived(WaiveKind::Interrupted, "interrupted");
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
        let names: Vec<NodeName> = members.iter().map(|i| self.members[*i].node.clone()).collect();
        let (total, key) = (step.ranks * members.len() as u32, StepKey::new());
        for (place, i) in members.iter().enumerate() {
            let mut step = Step { groups: Vec::new(), ..step.clone() };
            if let Some(own) = args(&self.members[*i].node) {
                step.args = own;
            }
            let seat = Seat { base: place as u32 * step.ranks, total, members: names.clone(), key: key.clone() };
            let message =
                Down::Run { task: self.next_task, step: Box::new(step), seat, at_most_ms: left.as_millis() as u64 };
            self.hub.send([self.members[*i].peer], &message);
        }
        Task {
            ranks: step.ranks as usize,
            waiting: step.cases.clone(),
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
            Event::Said(peer, up) => {
                let Some(member) = self.by_peer.get(&peer).copied() else { return };
                let (Up::Publish { task, .. } | Up::Outcome { task, .. } | Up::Ended { task, .. }) = &up else {
                    return;
                };
                // A task that is over, or was never this agent's: late or lying, and nothing depends on it.
                let Some((id, t)) = tasks.get_mut(task).map(|t| (*task, t)) else { return };
                let Some(place) = t.members.iter().position(|m| *m == member) else { return };
                self.said(id, place, up, t, each);
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

    fn said(&mut self, id: u64, place: usize, up: Up, t: &mut Task, each: &mut dyn FnMut(GroupOutcome)) {
        match up {
            Up::Publish { blobs, .. } => {
                let size = |b: &Vec<String>| b.iter().map(String::len).sum::<usize>();
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
                    let blobs: Vec<String> = t.published.iter_mut().filter_map(Option::take).flatten().collect();
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
                let node = self.members[t.members[0]].node.clone();
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
        // An exchange that a member has left can never be complete.
        let left = (0..t.members.len()).find(|p| t.ended[*p] && t.published[*p].is_none());
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
                    self.trouble(node, FailKind::NodeSilent, format!("its agent did not end {} in time", step.name));
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
        for case in std::mem::take(&mut t.waiting) {
            let kept = t.kept.iter().find(|(c, _)| *c == case).map(|(_, o)| o.clone());
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
