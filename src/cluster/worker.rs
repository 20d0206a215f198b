//! The parent's side of a step: it starts the ranks, serves their exchanges, and ends on time whatever they do.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::cluster::message::{Failure, Group, Placement};
use crate::cluster::pool::Pool;
use crate::cluster::process::{Event, LEAVE, Process};
use crate::cluster::scratch;
use crate::cluster::wire::{Blob, Blobs, ToChild, ToParent};
use crate::cluster::{Processes, Step, StepKey};
use crate::measure::{FailKind, Load, LoadMeter, Outcome, WaiveKind};

/// Set when the user or the scheduler wants gonogo to end.
pub type Interrupt = Arc<AtomicBool>;

/// Runs steps.
pub struct Supervisor {
    /// The program to start for a rank, and its first arguments.
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub interrupt: Interrupt,
    gpus: Mutex<Pool>,
}

/// Where a step's events come together: those of its processes, and the coordinator's.
pub struct Channel {
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Channel {
    pub fn new() -> Self {
        let (sender, events) = mpsc::channel();
        Channel { sender, events }
    }

    /// The coordinator's end.
    pub fn remote(&self) -> Remote {
        Remote(self.sender.clone())
    }
}

impl Default for Channel {
    fn default() -> Self {
        Channel::new()
    }
}

/// Tells a running step what the coordinator says.
#[derive(Clone)]
pub struct Remote(Sender<Event>);

impl Remote {
    pub fn all(&self, blobs: Blobs) {
        let _ = self.0.send(Event::All(blobs));
    }

    pub fn stop(&self) {
        let _ = self.0.send(Event::Stop);
    }
}

/// A group's exchange that goes through the coordinator.
type Publish<'a> = &'a dyn Fn(Vec<Blob>);

struct Rank {
    process: Process,
    published: Option<Blob>,
    done: bool,
    /// Done, and it waits for another step.
    ready: bool,
}

/// Why a step did not end as it should.
enum End {
    Done,
    Deadline,
    Interrupted,
    /// The place of the rank that failed, where it was one.
    Failed(FailKind, String, Option<usize>),
}

impl Supervisor {
    pub fn new(program: PathBuf, arguments: Vec<String>, interrupt: Interrupt) -> Self {
        Supervisor { program, arguments, interrupt, gpus: Mutex::default() }
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.gpus.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Runs a step whose ranks are all on this node. `each` gets the place of every case exactly once: those measured as they come,
    /// the rest with the reason why not. Never takes longer than the step's deadline or `at_most`, and a little.
    pub fn run(&self, step: &Step, at_most: Duration, each: impl FnMut(u32, Outcome, Option<Load>)) {
        self.work(step, &alone(step), Ipv4Addr::LOCALHOST.into(), Channel::new(), at_most, None, each);
    }

    /// Runs this node's part of a group's step. Returns why it ended badly, if it did.
    #[expect(clippy::too_many_arguments, reason = "each is another thing that only the agent knows")]
    pub fn run_seated(
        &self,
        step: &Step,
        placement: &Placement,
        address: IpAddr,
        channel: Channel,
        at_most: Duration,
        publish: Publish<'_>,
        each: impl FnMut(u32, Outcome, Option<Load>),
    ) -> Option<Failure> {
        if placement.group.members.len() < 2 {
            return self.work(step, &alone(step), Ipv4Addr::LOCALHOST.into(), channel, at_most, None, each);
        }
        let publish = Some(publish);
        self.work(step, placement, address, channel, at_most, publish, each)
    }

    #[expect(clippy::too_many_arguments, reason = "the sum of what its two callers know")]
    fn work(
        &self,
        step: &Step,
        placement: &Placement,
        address: IpAddr,
        channel: Channel,
        at_most: Duration,
        publish: Option<Publish<'_>>,
        mut each: impl FnMut(u32, Outcome, Option<Load>),
    ) -> Option<Failure> {
        // Before the clock starts: a GPU that hangs takes its time to end.
        if step.processes == Processes::AfterGpus {
            self.pool().end();
        }
        let started = Instant::now();
        let mut heard = started;
        let mut waiting: Vec<u32> = (0..step.cases.len() as u32).collect();
        let deadline = started + step.deadline().min(at_most);
        let mut own = step.clone();
        own.scratch = step.scratch.as_deref().map(scratch::own);
        let mut ranks = Vec::new();
        let end = match self.start(&own, placement, address, &channel.sender, deadline, &mut ranks) {
            Err(error) => End::Failed(FailKind::Error, error, None),
            Ok(()) => {
                serve(step, &mut ranks, &channel.events, deadline, &self.interrupt, publish, |case, outcome, load| {
                    heard = Instant::now();
                    if let Some(i) = waiting.iter().position(|w| *w == case) {
                        waiting.remove(i);
                        each(case, outcome, load);
                    }
                })
            }
        };
        let under_way = heard.elapsed();
        // Between nodes it is a slow link that lets a step overrun: there all of the step counts.
        let silent = if placement.group.members.len() > 1 { started.elapsed() } else { under_way };
        drop(channel);
        let missing = missing(&ranks, placement.base);
        if matches!(end, End::Done) {
            ranks = self.keep(ranks);
        }
        let guilty = if let End::Failed(_, _, place) = end { place } else { None };
        let last_words = stop(ranks, guilty);
        if let Some(scratch) = &own.scratch {
            scratch::remove(scratch);
        }
        let mut failure = None;
        let (mut reached, (kind, why)) = match end {
            End::Done => (None, (WaiveKind::NotReached, "the probe ended without it")),
            End::Interrupted => (None, (WaiveKind::Interrupted, "interrupted")),
            // Cut short by the budget, not by its own deadline, and no case was under way for so long that it is suspect.
            End::Deadline if silent < Duration::from_millis(step.estimate_ms * 2) + Duration::from_secs(1) => {
                let why = format!("the budget ended {:.1} s after it began", under_way.as_secs_f64());
                (Some(Outcome::waived(WaiveKind::NoTime, why)), (WaiveKind::NoTime, "the budget ended before it"))
            }
            End::Deadline => (
                Some(Outcome::TimedOut { after_ms: started.elapsed().as_millis() as u64, missing }),
                (WaiveKind::NotReached, "the step ran out of time before it"),
            ),
            End::Failed(kind, error, _) => {
                let error =
                    if last_words.is_empty() { error } else { format!("{error}; its last words: {last_words}") };
                failure = Some(Failure { kind, error: error.clone() });
                (Some(Outcome::error(kind, error)), (WaiveKind::NotReached, "the step failed before it"))
            }
        };
        for case in waiting {
            each(case, reached.take().unwrap_or_else(|| Outcome::waived(kind, why)), None);
        }
        failure
    }

    fn start(
        &self,
        step: &Step,
        placement: &Placement,
        address: IpAddr,
        sender: &Sender<Event>,
        deadline: Instant,
        ranks: &mut Vec<Rank>,
    ) -> Result<(), String> {
        for rank in 0..step.ranks {
            let process = self.process(step.processes, rank, sender).map_err(|e| {
                format!("cannot start {} for rank {rank} of step {}: {e}", self.program.display(), step.name)
            })?;
            ranks.push(Rank { process, published: None, done: false, ready: false });
        }
        for (rank, r) in ranks.iter_mut().enumerate() {
            let rank = placement.base + rank as u32;
            let (step, members, key) =
                (Box::new(step.clone()), placement.group.members.clone(), placement.group.key.clone());
            let deadline_ms = deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
            r.process.tell(&ToChild::Job { step, rank, ranks: placement.total, address, members, key, deadline_ms });
        }
        Ok(())
    }

    /// A process for the rank of that place on this node; what it says goes to `sender`.
    fn process(&self, whose: Processes, place: u32, sender: &Sender<Event>) -> std::io::Result<Process> {
        match whose {
            Processes::Gpus => self.pool().take(place, sender, &self.program, &self.arguments),
            Processes::Own | Processes::AfterGpus => {
                Process::start(&self.program, &self.arguments, place, sender.clone())
            }
        }
    }

    /// Gives the processes that wait for another step to the pool; returns the others.
    fn keep(&self, ranks: Vec<Rank>) -> Vec<Rank> {
        let mut pool = self.pool();
        let mut others = Vec::new();
        for (place, rank) in ranks.into_iter().enumerate() {
            if rank.ready {
                pool.give_back(place, rank.process);
            } else {
                others.push(rank);
            }
        }
        others
    }
}

/// The placement of a step whose ranks are all on this node.
fn alone(step: &Step) -> Placement {
    Placement { base: 0, total: step.ranks, group: Group { members: Vec::new(), key: StepKey::new() } }
}

/// Ranks that are still at work while others wait for them in an exchange.
fn missing(ranks: &[Rank], base: u32) -> Vec<u32> {
    let waited_for = ranks.iter().any(|r| r.published.is_some());
    let late = |(_, r): &(u32, &Rank)| waited_for && !r.done && r.published.is_none();
    (base..).zip(ranks).filter(late).map(|(n, _)| n).collect()
}

fn tell_all(ranks: &mut [Rank], blobs: Blobs) {
    let all = ToChild::All { blobs };
    ranks.iter_mut().for_each(|r| r.process.tell(&all));
}

fn serve(
    step: &Step,
    ranks: &mut [Rank],
    events: &Receiver<Event>,
    deadline: Instant,
    interrupt: &Interrupt,
    publish: Option<Publish<'_>>,
    mut outcome_of: impl FnMut(u32, Outcome, Option<Load>),
) -> End {
    let pids: Vec<u32> = ranks.iter().map(|r| r.process.id()).collect();
    let mut load = LoadMeter::open(&pids);
    loop {
        if interrupt.load(Ordering::Relaxed) {
            return End::Interrupted;
        }
        let now = Instant::now();
        if now >= deadline {
            return End::Deadline;
        }
        // Short waits: an interrupt is noticed within a twentieth of a second.
        let event = match events.recv_timeout((deadline - now).min(Duration::from_millis(50))) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                return End::Failed(FailKind::Crashed, "every rank closed its channel".to_owned(), None);
            }
        };
        match event {
            Event::Frame(_, ToParent::Outcome { case, outcome }) => {
                let seen = load.read(&pids);
                if seen.is_some() {
                    load = LoadMeter::open(&pids);
                }
                outcome_of(case, outcome, seen);
            }
            Event::Frame(rank, ToParent::Publish { blob }) => {
                ranks[rank as usize].published = Some(blob);
                if ranks.iter().all(|r| r.published.is_some()) {
                    let blobs: Vec<Blob> = ranks.iter_mut().filter_map(|r| r.published.take()).collect();
                    match publish {
                        Some(publish) => publish(blobs),
                        None => match Blobs::of(&blobs) {
                            Ok(blobs) => tell_all(ranks, blobs),
                            Err(e) => return End::Failed(FailKind::Junk, e.to_string(), None),
                        },
                    }
                }
            }
            Event::All(blobs) => tell_all(ranks, blobs),
            Event::Stop => return End::Interrupted,
            Event::Frame(rank, frame @ (ToParent::Done | ToParent::Ready)) => {
                let r = &mut ranks[rank as usize];
                r.ready = matches!(frame, ToParent::Ready);
                r.done = true;
                if ranks.iter().all(|r| r.done) {
                    return End::Done;
                }
            }
            Event::Junk(rank, what) => {
                let what = format!("rank {rank} of step {} {what}", step.name);
                return End::Failed(FailKind::Junk, what, Some(rank as usize));
            }
            Event::Closed(rank) => {
                let r = &mut ranks[rank as usize];
                if !r.done {
                    let (kind, how) = r.process.how_it_died();
                    let what = format!("rank {rank} of step {} {how}", step.name);
                    return End::Failed(kind, what, Some(rank as usize));
                }
            }
        }
    }
}

/// Ends every rank and all they started. Returns what the guilty one said last on stderr: what the others say is that they were
/// ended with it.
fn stop(mut ranks: Vec<Rank>, guilty: Option<usize>) -> String {
    for r in &mut ranks {
        if r.done {
            r.process.dismiss();
        } else {
            r.process.kill();
        }
    }
    let until = Instant::now() + LEAVE;
    for r in ranks.iter_mut().filter(|r| r.done) {
        r.process.wait(until);
        r.process.kill();
    }
    // All of them are waited for, so that none is left behind as a zombie.
    let mut words: Vec<String> = ranks.into_iter().map(|r| r.process.last_words()).collect();
    guilty.filter(|&place| place < words.len()).map(|place| words.swap_remove(place)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ProbeName;
    use crate::measure::Measured;
    use crate::work::Case;

    /// What becomes of twenty cases of a step that was to take half a second and gets 3.5 s. `script` is its process, with the frames that
    /// tell of the cases as its input.
    fn outcomes(script: &str) -> Vec<Outcome> {
        let frame = |case: u32| ToParent::Outcome { case, outcome: Outcome::Measured(Measured::default()) };
        let frames: Vec<String> =
            (0..20).map(|i| serde_json::to_string(&frame(i)).unwrap_or_else(|e| panic!("{e}"))).collect();
        let script = format!("read -r job\n{script} <<'END'\n{}\nEND\nsleep 60", frames.join("\n"));
        let supervisor = Supervisor::new("/bin/sh".into(), vec!["-c".to_owned(), script], Interrupt::default());
        let cases = (0..20).map(|i| Case::read(&format!("case {i}"))).collect();
        let step = Step { estimate_ms: 500, ..Step::new("told", ProbeName::new("gemm"), cases) };
        let mut all: Vec<Option<Outcome>> = vec![None; 20];
        supervisor.run(&step, Duration::from_millis(3500), |case, outcome, _| {
            assert!(all[case as usize].replace(outcome).is_none(), "case {case} has two outcomes");
        });
        all.into_iter().map(|o| o.unwrap_or_else(|| panic!("a case has no outcome"))).collect()
    }

    fn waived(of: &Outcome) -> Option<WaiveKind> {
        if let Outcome::Waived { kind, .. } = of { Some(*kind) } else { None }
    }

    /// The budget ends: whoever told of case after case, however late, is no suspect.
    #[test]
    fn who_tells_of_its_cases_is_cut_for_time() {
        let all = outcomes("while read -r line; do sleep 0.3; echo \"$line\"; done");
        let told = all.iter().take_while(|o| o.measured().is_some()).count();
        assert!((1..20).contains(&told), "{told}");
        assert!(all[told..].iter().all(|o| waived(o) == Some(WaiveKind::NoTime)), "{:?}", &all[told..]);
    }

    /// Whoever was silent for far longer than all of it was to take hangs, and what came after was not reached.
    #[test]
    fn who_is_silent_hangs() {
        let all = outcomes("{ read -r line; echo \"$line\"; sleep 60; }");
        assert!(all[0].measured().is_some());
        assert!(matches!(&all[1], Outcome::TimedOut { after_ms, .. } if *after_ms >= 3400), "{:?}", all[1]);
        assert!(all[2..].iter().all(|o| waived(o) == Some(WaiveKind::NotReached)), "{:?}", &all[2..]);
    }
}
