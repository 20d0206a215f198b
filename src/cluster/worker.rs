//! The parent's side of a step: it starts the ranks, serves their exchanges, and ends on time whatever they do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cluster::message::{Failure, Seat};
use crate::cluster::step::SCRATCH;
use crate::cluster::wire::{MAX_LINE, MAX_TOTAL, ToChild, ToParent};
use crate::cluster::{Step, scratch_prefix};
use crate::measure::{FailKind, Load, LoadMeter, Outcome, WaiveKind};

/// How much of a child's stderr is kept: its last words.
const STDERR_KEPT: usize = 2048;
/// How long a rank that has said `Done` may take to leave.
const LEAVE: Duration = Duration::from_secs(2);

/// Set when the user or the scheduler wants gonogo to end.
pub type Interrupt = Arc<AtomicBool>;

/// Runs steps.
pub struct Supervisor {
    /// The program to start for a rank, and its first arguments.
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub interrupt: Interrupt,
}

enum Event {
    Frame(u32, ToParent),
    Junk(u32, String),
    Closed(u32),
    /// From the coordinator: what the whole group published.
    All(Vec<String>),
    /// From the coordinator: end at once.
    Stop,
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
    pub fn all(&self, blobs: Vec<String>) {
        let _ = self.0.send(Event::All(blobs));
    }

    pub fn stop(&self) {
        let _ = self.0.send(Event::Stop);
    }
}

/// A group's exchange that goes through the coordinator.
type Publish<'a> = &'a dyn Fn(Vec<String>);

struct Rank {
    process: std::process::Child,
    input: Option<ChildStdin>,
    stderr: Option<JoinHandle<String>>,
    published: Option<String>,
    done: bool,
}

/// Why a step did not end as it should.
enum End {
    Done,
    Deadline,
    Interrupted,
    Failed(FailKind, String),
}

impl Supervisor {
    /// Runs a step whose ranks are all on this node. `each` gets every case exactly once: those measured as they come,
    /// the rest with the reason why not. Never takes longer than the step's deadline or `at_most`, and a little.
    pub fn run(&self, step: &Step, at_most: Duration, each: impl FnMut(&str, Outcome, Option<Load>)) {
        let seat = Seat { base: 0, total: step.ranks, members: Vec::new() };
        self.work(step, &seat, Ipv4Addr::LOCALHOST.into(), Channel::new(), at_most, None, each);
    }

    /// Runs this node's part of a group's step. Returns why it ended badly, if it did.
    #[expect(clippy::too_many_arguments, reason = "each is another thing that only the agent knows")]
    pub fn run_seated(
        &self,
        step: &Step,
        seat: &Seat,
        address: IpAddr,
        channel: Channel,
        at_most: Duration,
        publish: Publish<'_>,
        each: impl FnMut(&str, Outcome, Option<Load>),
    ) -> Option<Failure> {
        if seat.members.len() < 2 {
            let seat = Seat { base: 0, total: step.ranks, members: Vec::new() };
            return self.work(step, &seat, Ipv4Addr::LOCALHOST.into(), channel, at_most, None, each);
        }
        let publish = Some(publish);
        self.work(step, seat, address, channel, at_most, publish, each)
    }

    #[expect(clippy::too_many_arguments, reason = "the sum of what its two callers know")]
    fn work(
        &self,
        step: &Step,
        seat: &Seat,
        address: IpAddr,
        channel: Channel,
        at_most: Duration,
        publish: Option<Publish<'_>>,
        mut each: impl FnMut(&str, Outcome, Option<Load>),
    ) -> Option<Failure> {
        let started = Instant::now();
        let mut waiting: Vec<&str> = step.cases.iter().map(String::as_str).collect();
        let deadline = step.deadline().min(at_most);
        let mut own = step.clone();
        own.scratch = step.scratch.as_ref().map(|dir| own_scratch(dir));
        let mut ranks = Vec::new();
        let end = match self.start(&own, seat, address, &channel.sender, &mut ranks) {
            Err(error) => End::Failed(FailKind::Error, error),
            Ok(()) => serve(
                step,
                &mut ranks,
                &channel.events,
                started + deadline,
                &self.interrupt,
                publish,
                |case, outcome, load| {
                    if let Some(i) = waiting.iter().position(|w| *w == case) {
                        waiting.remove(i);
                        each(case, outcome, load);
                    }
                },
            ),
        };
        drop(channel);
        let missing = missing(&ranks, seat.base);
        let last_words = stop(&mut ranks);
        if let Some(scratch) = &own.scratch {
            remove_scratch(scratch);
        }
        let mut failure = None;
        let (mut reached, (kind, why)) = match end {
            End::Done => (None, (WaiveKind::NotReached, "the probe ended without it")),
            End::Interrupted => (None, (WaiveKind::Interrupted, "interrupted")),
            // Cut short by the budget, not by its own deadline, and not long enough under way to be suspect.
            End::Deadline
                if started.elapsed() < Duration::from_millis(step.estimate_ms * 2) + Duration::from_secs(1) =>
            {
                (None, (WaiveKind::NoTime, "the budget ended before it"))
            }
            End::Deadline => (
                Some(Outcome::TimedOut { after_ms: started.elapsed().as_millis() as u64, missing }),
                (WaiveKind::NotReached, "the step ran out of time before it"),
            ),
            End::Failed(kind, error) => {
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
        seat: &Seat,
        address: IpAddr,
        sender: &Sender<Event>,
        ranks: &mut Vec<Rank>,
    ) -> Result<(), String> {
        for rank in 0..step.ranks {
            let mut process = Command::new(&self.program)
                .args(&self.arguments)
                // GPUs are counted in the order of the bus, as nvidia-smi does: not the fastest first.
                .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                // Its own group: an interrupt from the terminal comes to the parent alone, and a kill takes all of it.
                .process_group(0)
                .spawn()
                .map_err(|e| {
                    format!("cannot start {} for rank {rank} of step {}: {e}", self.program.display(), step.name)
                })?;
            let (input, output, stderr) = (process.stdin.take(), process.stdout.take(), process.stderr.take());
            if let Some(output) = output {
                let sender = sender.clone();
                thread::spawn(move || read_frames(rank, output, &sender));
            }
            let stderr = stderr.map(|s| thread::spawn(move || keep_tail(s)));
            ranks.push(Rank { process, input, stderr, published: None, done: false });
        }
        for (rank, r) in ranks.iter_mut().enumerate() {
            let rank = seat.base + rank as u32;
            let (step, members) = (Box::new(step.clone()), seat.members.clone());
            tell(r, &ToChild::Job { step, rank, ranks: seat.total, address, members });
        }
        Ok(())
    }
}

/// Ranks that are still at work while others wait for them in an exchange.
fn missing(ranks: &[Rank], base: u32) -> Vec<u32> {
    let waited_for = ranks.iter().any(|r| r.published.is_some());
    let late = |(_, r): &(u32, &Rank)| waited_for && !r.done && r.published.is_none();
    (base..).zip(ranks).filter(late).map(|(n, _)| n).collect()
}

/// This node's and this process's own folder in `dir`.
fn own_scratch(dir: &Path) -> PathBuf {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    dir.join(format!("{}{}", scratch_prefix(&host), std::process::id()))
}

/// A rank that no longer listens is found out by its closed output: the error of the write says no more.
fn tell(rank: &mut Rank, frame: &ToChild) {
    let Ok(mut line) = serde_json::to_vec(frame) else { return };
    line.push(b'\n');
    if let Some(input) = &mut rank.input {
        let _ = input.write_all(&line).and_then(|()| input.flush());
    }
}

fn serve(
    step: &Step,
    ranks: &mut [Rank],
    events: &Receiver<Event>,
    deadline: Instant,
    interrupt: &Interrupt,
    publish: Option<Publish<'_>>,
    mut outcome_of: impl FnMut(&str, Outcome, Option<Load>),
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
                return End::Failed(FailKind::Crashed, "every rank closed its channel".to_owned());
            }
        };
        match event {
            Event::Frame(_, ToParent::Outcome { case, outcome }) => {
                let seen = load.read(&pids);
                if seen.is_some() {
                    load = LoadMeter::open(&pids);
                }
                outcome_of(&case, outcome, seen);
            }
            Event::Frame(rank, ToParent::Publish { blob }) => {
                ranks[rank as usize].published = Some(blob);
                if ranks.iter().all(|r| r.published.is_some()) {
                    let blobs: Vec<String> = ranks.iter_mut().filter_map(|r| r.published.take()).collect();
                    match publish {
                        Some(publish) => publish(blobs),
                        None => ranks.iter_mut().for_each(|r| tell(r, &ToChild::All { blobs: blobs.clone() })),
                    }
                }
            }
            Event::All(blobs) => ranks.iter_mut().for_each(|r| tell(r, &ToChild::All { blobs: blobs.clone() })),
            Event::Stop => return End::Interrupted,
            Event::Frame(rank, ToParent::Done) => {
                ranks[rank as usize].done = true;
                if ranks.iter().all(|r| r.done) {
                    return End::Done;
                }
            }
            Event::Junk(rank, what) => {
                return End::Failed(FailKind::Junk, format!("rank {rank} of step {} {what}", step.name));
            }
            Event::Closed(rank) => {
                let r = &mut ranks[rank as usize];
                if !r.done {
                    let (kind, how) = how_it_died(&mut r.process);
                    return End::Failed(kind, format!("rank {rank} of step {} {how}", step.name));
                }
            }
        }
    }
}

fn how_it_died(process: &mut std::process::Child) -> (FailKind, String) {
    let since = Instant::now();
    let status = loop {
        match process.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if since.elapsed() < LEAVE => thread::sleep(Duration::from_millis(5)),
            _ => break None,
        }
    };
    match status {
        // A probe that gives up in good order says why on stderr and ends with 1.
        Some(s) if s.code() == Some(1) => (FailKind::Error, "gave up".to_owned()),
        Some(s) => (FailKind::Crashed, describe(s)),
        None => (FailKind::Crashed, "closed its output and lives on".to_owned()),
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended early with exit status {code}"),
        (None, Some(9)) => {
            "was killed by signal 9 (the kernel's out-of-memory killer sends it, `dmesg` tells)".to_owned()
        }
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended for an unknown reason".to_owned(),
    }
}

/// Ends every rank and all they started. Returns what the first that said something on stderr said last.
fn stop(ranks: &mut [Rank]) -> String {
    for r in ranks.iter_mut() {
        r.input = None;
    }
    let since = Instant::now();
    for r in ranks.iter_mut() {
        while r.done && since.elapsed() < LEAVE && matches!(r.process.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(2));
        }
        if let Some(pid) = rustix::process::Pid::from_raw(r.process.id() as i32) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _ = r.process.kill();
    }
    let mut words = String::new();
    for r in ranks.iter_mut() {
        // A process in uninterruptible sleep (a dead NFS server) does not die of a kill: it is left behind, not waited
        // for.
        let since = Instant::now();
        while matches!(r.process.try_wait(), Ok(None)) && since.elapsed() < LEAVE {
            thread::sleep(Duration::from_millis(2));
        }
        let finished = r.stderr.take().filter(|t| {
            let since = Instant::now();
            while !t.is_finished() && since.elapsed() < Duration::from_millis(200) {
                thread::sleep(Duration::from_millis(2));
            }
            t.is_finished()
        });
        let said = finished.and_then(|t| t.join().ok()).unwrap_or_default();
        if words.is_empty() {
            words = said.trim().replace('\n', " | ");
        }
    }
    words
}

fn read_frames(rank: u32, output: ChildStdout, sender: &Sender<Event>) {
    let mut reader = BufReader::new(output);
    let mut total = 0;
    loop {
        let mut line = Vec::new();
        let n = reader.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line).unwrap_or(0);
        total += n;
        let event = if n == 0 {
            Event::Closed(rank)
        } else if total > MAX_TOTAL || n >= MAX_LINE {
            Event::Junk(rank, format!("wrote more than {} MiB", if n >= MAX_LINE { MAX_LINE } else { MAX_TOTAL } >> 20))
        } else {
            match serde_json::from_slice(&line) {
                Ok(frame) => Event::Frame(rank, frame),
                // Cut off in the middle: the process died while it wrote, which the closed channel says better.
                Err(_) if line.last() != Some(&b'\n') => Event::Closed(rank),
                Err(_) => Event::Junk(
                    rank,
                    format!(
                        "wrote what is not gonogo's protocol: `{}`",
                        crate::id::clean(&String::from_utf8_lossy(&line[..n.min(80)])).trim_end()
                    ),
                ),
            }
        };
        let last = !matches!(event, Event::Frame(..));
        if sender.send(event).is_err() || last {
            return;
        }
    }
}

fn keep_tail(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0u8; 4096];
    while let Ok(n) = stderr.read(&mut buffer) {
        if n == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..n]);
        if kept.len() > STDERR_KEPT * 2 {
            kept.drain(..kept.len() - STDERR_KEPT);
        }
    }
    let start = kept.len().saturating_sub(STDERR_KEPT);
    String::from_utf8_lossy(&kept[start..]).into_owned()
}

/// Removes a step's folder, best effort: a file system that hangs or is full must not stop the report.
fn remove_scratch(path: &Path) {
    // Beside the folder lie somebody's checkpoints: nothing without our own mark is ever removed.
    if !path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(SCRATCH)) {
        return;
    }
    for _ in 0..3 {
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => thread::sleep(Duration::from_millis(20)),
            _ => return,
        }
    }
}
