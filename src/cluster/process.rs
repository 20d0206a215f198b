//! A rank's process as its parent holds it: its channel, its last words, its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cluster::TOKEN_VARIABLE;
use crate::cluster::wire::{Blobs, MAX_LINE, MAX_TOTAL, ToChild, ToParent};
use crate::measure::FailKind;
use crate::sys::signal;

/// How much of a child's stderr is kept: its last words.
const STDERR_KEPT: usize = 2048;
/// How long a rank that has said that it ends may take to leave.
pub(super) const LEAVE: Duration = Duration::from_secs(2);

/// What happens in a step: to one of its processes, by its place, or at the coordinator's word.
pub(super) enum Event {
    Frame(u32, ToParent),
    Junk(u32, String),
    Closed(u32),
    /// From the coordinator: what the whole group published.
    All(Blobs),
    /// From the coordinator: end at once.
    Stop,
}

/// Where a process's frames go: to the step that it works for.
enum Sink {
    /// It waits for work.
    Idle,
    Step {
        /// Place among the step's processes on this node.
        place: u32,
        events: Sender<Event>,
        /// Bytes that it said in this step.
        said: usize,
    },
    /// It closed its channel.
    Closed,
}

/// A process that runs steps.
pub(super) struct Process {
    child: std::process::Child,
    input: Option<ChildStdin>,
    stderr: Option<JoinHandle<()>>,
    /// The tail of what it said on stderr in this step.
    words: Arc<Mutex<Vec<u8>>>,
    sink: Arc<Mutex<Sink>>,
}

impl Process {
    /// Starts one, as the step's process of that place: what it says goes to `events`.
    pub fn start(program: &Path, arguments: &[String], place: u32, events: Sender<Event>) -> std::io::Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            // GPUs are counted in the order of the bus, as nvidia-smi does: not the fastest first.
            .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
            // A probe loads libraries that are not ours: what lets agents in is none of their business.
            .env_remove(TOKEN_VARIABLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its own group: an interrupt from the terminal comes to the parent alone, and a kill takes all of it.
            .process_group(0)
            .spawn()?;
        let (input, output, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let sink = Arc::new(Mutex::new(Sink::Step { place, events, said: 0 }));
        if let Some(output) = output {
            let sink = sink.clone();
            thread::spawn(move || read_frames(output, &sink));
        }
        let words = Arc::new(Mutex::new(Vec::new()));
        let tail = words.clone();
        let stderr = stderr.map(|s| thread::spawn(move || keep_tail(s, &tail)));
        Ok(Process { child, input, stderr, words, sink })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// After a rest: from here on what it says goes to `events`. False when it died meanwhile, and will say nothing.
    pub fn work_for(&mut self, place: u32, events: &Sender<Event>) -> bool {
        let mut sink = self.sink.lock().unwrap_or_else(|e| e.into_inner());
        if matches!(*sink, Sink::Closed) {
            return false;
        }
        *sink = Sink::Step { place, events: events.clone(), said: 0 };
        // What it said in another step says nothing of this one.
        self.words.lock().unwrap_or_else(|e| e.into_inner()).clear();
        true
    }

    /// It works for nobody until it is given work again.
    pub fn rest(&mut self) {
        let mut sink = self.sink.lock().unwrap_or_else(|e| e.into_inner());
        if !matches!(*sink, Sink::Closed) {
            *sink = Sink::Idle;
        }
    }

    /// A rank that no longer listens is found out by its closed output: the error of the write says no more.
    pub fn tell(&mut self, frame: &ToChild) {
        let Ok(line) = frame.to_line() else { return };
        if let Some(input) = &mut self.input {
            let _ = input.write_all(&line).and_then(|()| input.flush());
        }
    }

    /// How a process ended that closed its channel before it was done.
    pub fn how_it_died(&mut self) -> (FailKind, String) {
        let since = Instant::now();
        let status = loop {
            match self.child.try_wait() {
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

    /// No more work comes: it may leave by itself.
    pub fn dismiss(&mut self) {
        self.input = None;
    }

    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has left, but not beyond `until`.
    pub fn wait(&mut self, until: Instant) {
        while Instant::now() < until && self.lives() {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it and all that it started.
    pub fn kill(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
    }

    /// Takes note of its death, so that no zombie stays. One in uninterruptible sleep is left behind.
    pub fn reap(mut self, until: Instant) {
        self.wait(until);
    }

    /// What it said last on stderr, once it is dead. A process in uninterruptible sleep (a dead NFS server) does not die of a
    /// kill: it is left behind, not waited for.
    pub fn last_words(mut self) -> String {
        self.wait(Instant::now() + LEAVE);
        let since = Instant::now();
        while self.stderr.as_ref().is_some_and(|t| !t.is_finished()) && since.elapsed() < Duration::from_millis(200) {
            thread::sleep(Duration::from_millis(2));
        }
        let words = self.words.lock().unwrap_or_else(|e| e.into_inner());
        let start = words.len().saturating_sub(STDERR_KEPT);
        String::from_utf8_lossy(&words[start..]).trim().replace('\n', " | ")
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended early with exit status {code}"),
        (None, Some(number)) => format!("was killed by {}", signal::describe(number)),
        (None, None) => "ended for an unknown reason".to_owned(),
    }
}

/// Reads frames until the channel closes or something else than frames comes.
fn read_frames(output: ChildStdout, sink: &Mutex<Sink>) {
    let mut reader = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        let n = reader.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line).unwrap_or(0);
        let mut sink = sink.lock().unwrap_or_else(|e| e.into_inner());
        let (event, last) = match &mut *sink {
            Sink::Step { place, said, .. } => {
                *said += n;
                let event = frame(*place, &line, *said);
                let last = !matches!(event, Event::Frame(..));
                (Some(event), last)
            }
            // Who says something unasked is not in step with us any more.
            Sink::Idle | Sink::Closed => (None, true),
        };
        if let (Some(event), Sink::Step { events, .. }) = (event, &*sink)
            && events.send(event).is_err()
        {
            // The step is over, and with it this process.
            *sink = Sink::Closed;
            return;
        }
        if last {
            *sink = Sink::Closed;
            return;
        }
    }
}

/// What a line of `place`'s process means; `said` is how much it said in this step.
fn frame(place: u32, line: &[u8], said: usize) -> Event {
    let n = line.len();
    if n == 0 {
        return Event::Closed(place);
    }
    if said > MAX_TOTAL || n >= MAX_LINE {
        let most = if n >= MAX_LINE { MAX_LINE } else { MAX_TOTAL };
        return Event::Junk(place, format!("wrote more than {} MiB", most >> 20));
    }
    match serde_json::from_slice::<ToParent>(line) {
        Ok(frame) => Event::Frame(place, frame),
        // Cut off in the middle: the process died while it wrote, which the closed channel says better.
        Err(_) if line.last() != Some(&b'\n') => Event::Closed(place),
        Err(_) => Event::Junk(
            place,
            format!(
                "wrote what is not gonogo's protocol: `{}`",
                crate::id::clean(&String::from_utf8_lossy(&line[..n.min(80)])).trim_end()
            ),
        ),
    }
}

fn keep_tail(mut stderr: ChildStderr, words: &Mutex<Vec<u8>>) {
    let mut buffer = [0u8; 4096];
    while let Ok(n) = stderr.read(&mut buffer) {
        if n == 0 {
            break;
        }
        let mut kept = words.lock().unwrap_or_else(|e| e.into_inner());
        kept.extend_from_slice(&buffer[..n]);
        if kept.len() > STDERR_KEPT * 2 {
            let cut = kept.len() - STDERR_KEPT;
            kept.drain(..cut);
        }
    }
}
