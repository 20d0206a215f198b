//! Who joins a run before it begins: whom the launcher named, whom it did not, and who never came.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::{Coordinator, Member, NodeFault, PATIENCE};
use crate::cluster::Interrupt;
use crate::cluster::hub::{Event, Hub, Peer};
use crate::cluster::message::{Down, Join, PROTOCOL};
use crate::id::{NodeName, clean};
use crate::measure::FailKind;
use crate::roster::Roster;

/// Outsiders that are remembered.
const MAX_OUTSIDERS: usize = 64;

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

pub(super) fn other_run(own: &str, theirs: &str) -> String {
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
    /// Tasks on the nodes that joined, and the rank by which each joined.
    tasks: u32,
    ranks: HashMap<NodeName, u32>,
}

impl Gathering {
    /// Nobody else is to come.
    fn is_whole(&self, size: u32, expected: &Expected) -> bool {
        if expected.hosts.is_empty() {
            return self.tasks + self.refused_tasks >= size;
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
            to_wait: 0,
            node_faults: Vec::new(),
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
                    if let Some((_, join, node)) = rank.and_then(|r| all.joined.remove(&r)) {
                        all.tasks -= join.local_size.max(1);
                        all.ranks.remove(&node);
                        this.node_faults.retain(|t| t.node != node);
                        this.node_fault(node, FailKind::NodeLost, format!("left before the run began: {why}"));
                    }
                }
                Event::Received(..) => {}
            }
            progress(all.tasks, own.size);
        }
        this.to_wait = all.tasks as usize - all.joined.len();
        this.placement(all.joined, own);
        this.absent(own, expected, patience);
        this
    }

    fn join(&mut self, peer: Peer, join: Join, own: &Join, guests: &Guests<'_>, all: &mut Gathering) {
        let why = match self.admit(own, &join, guests, all) {
            Ok(node) => {
                self.hub.send([peer], &Down::Welcome { node: node.clone() });
                all.tasks += join.local_size.max(1);
                all.ranks.insert(node.clone(), join.rank);
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
                self.node_fault(node, kind, why.clone());
                why
            }
        };
        self.hub.send([peer], &Down::Refused { why });
        self.hub.close(peer);
    }

    /// A task that is no agent waits for the verdict.
    pub(super) fn wait(&mut self, peer: Peer, job: &str) {
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
            if let Some(rank) = all.ranks.get(node) {
                return Err(Refuse::Outsider(format!("{node} has joined already, as rank {rank}")));
            }
        }
        if join.protocol != PROTOCOL || join.build != own.build {
            let why = format!("it runs gonogo {}, rank 0 runs {}", clean(&join.build), clean(&own.build));
            return Err(Refuse::Node(FailKind::OtherBuild, why));
        }
        let room = own.size.saturating_sub(all.tasks);
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
            let name = NodeName(called(join));
            if all.ranks.contains_key(&name) { NodeName(format!("{name}#{}", join.rank)) } else { name }
        });
        if join.plan != own.plan {
            self.node_fault(
                node.clone(),
                FailKind::OtherPlan,
                format!("its plan and flags have the hash {:.12}, those of rank 0 {:.12}", clean(&join.plan), own.plan),
            );
        }
        Ok(node)
    }

    fn placement(&mut self, joined: BTreeMap<u32, (Peer, Join, NodeName)>, own: &Join) {
        for (rank, (peer, join, node)) in joined {
            self.by_peer.insert(peer, self.members.len());
            let host = clean(&join.host).into_owned();
            self.members.push(Member { node, host, rank, boot: join.boot, peer, alive: true });
        }
        // When most nodes agree with each other and not with rank 0, it is rank 0 that is wrong.
        let others: Vec<&NodeFault> = self.node_faults.iter().filter(|t| t.kind == FailKind::OtherBuild).collect();
        if others.len() > self.members.len() && !others.is_empty() {
            let error = format!("rank 0 runs gonogo {}, and {} other nodes do not", clean(&own.build), others.len());
            let first = self.members.first().map_or_else(|| NodeName(own.host.clone()), |m| m.node.clone());
            self.node_fault(first, FailKind::OtherBuild, error);
        }
    }

    /// Names those who did not come, as well as they can be named.
    fn absent(&mut self, own: &Join, expected: &Expected, patience: Duration) {
        // Whoever was sent away from a crowded door may have been one of them.
        let (kind, more) = if self.hub.was_crowded() {
            (FailKind::KeptOut, ", while callers without the token filled the port")
        } else {
            (FailKind::NeverJoined, "")
        };
        let error = format!("no agent came from it within {} s{more}", patience.as_secs());
        let known: HashSet<&NodeName> =
            self.members.iter().map(|m| &m.node).chain(self.node_faults.iter().map(|t| &t.node)).collect();
        let missing: Vec<NodeName> = if !expected.hosts.is_empty() {
            expected.hosts.iter().filter(|h| !known.contains(h)).cloned().collect()
        } else if own.local_size == 1 {
            // One task a node: the absent ranks are known; else only how many.
            let ranks: HashSet<u32> = self.members.iter().map(|m| m.rank).collect();
            let refused = self.node_faults.iter().filter(|t| t.kind != FailKind::OtherPlan).count();
            let missing = (own.size as usize).saturating_sub(ranks.len() + refused);
            let absent = (0..own.size).filter(|r| !ranks.contains(r)).take(missing);
            absent.map(|rank| NodeName(format!("rank-{rank}"))).collect()
        } else {
            Vec::new()
        };
        for node in missing {
            self.node_fault(node, kind, error.clone());
        }
    }
}
