//! `gonogo watch`: from go to the last save.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;

use crate::cli;
use crate::cluster::Interrupt;
use crate::cmd::judge as judging;
use crate::cmd::measure::{header, hostname, own_name};
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::forecast;
use crate::gate::Launch;
use crate::id::clean;
use crate::judge::{self, Judgement};
use crate::measure::{Facts, Watched};
use crate::plan::{self, RunPlan, Selection, Time};
use crate::probe;
use crate::record::{self, Header, Record, Writer};
use crate::report::{self, Format};
use crate::sys::signal::describe;
use crate::watch::{AtGate, WatchError, Watcher};
use crate::work::Fact;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// Reports are written anew at least so often: their age says that the watch is alive.
const ALIVE: Duration = Duration::from_secs(60);
/// Between the two looks of `--once`.
const GLANCE: Duration = Duration::from_millis(300);
/// Looks are no closer than this.
const CLOSEST: Duration = Duration::from_millis(10);
/// Between two looks whether a watch has ended.
const SOON: Duration = Duration::from_millis(20);
/// How long the end of a watch may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// A signal is heard within this.
const TICK: Duration = Duration::from_millis(100);

/// What a watch is of, and where it says so.
struct Watch {
    dir: PathBuf,
    run: RunPlan,
    every: Duration,
    out: PathBuf,
    /// What a check kept of this node.
    gate: Option<AtGate>,
    files: Vec<(PathBuf, Format)>,
    quiet: bool,
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Failure {
        Failure::usage(error)
    }
}

pub(super) fn run(args: &cli::Watch) -> Result<Exit, Failure> {
    let interrupt = shell::listen().map_err(Failure::internal)?;
    let run = args.plan.as_ref().map(|path| plan::read(path)).transpose().map_err(Failure::usage)?.unwrap_or_default();
    let planned = run.checkpoint.as_ref().and_then(|c| c.dir.clone());
    let dir = args
        .dir
        .clone()
        .or(planned)
        .ok_or_else(|| Failure::usage(anyhow!("give a DIR to watch, or a --plan with [checkpoint] dir")))?;
    let dir = std::path::absolute(&dir).with_context(|| format!("{}", dir.display())).map_err(Failure::usage)?;
    let every = every(args.every, &run);
    let out = args.out.clone().unwrap_or_else(|| folder(&dir));
    let files = judging::files(&args.reports)?;
    let gate = args.since.as_deref().map(at_gate).transpose()?;
    let watch = Watch { dir, run, every, out, gate, files, quiet: args.quiet };
    if args.once { watch.glance(args.format) } else { watch.follow(&interrupt, args.format) }
}

/// What a check kept of the node that this is.
fn at_gate(path: &Path) -> Result<AtGate, Failure> {
    let record = record::read(path).map_err(Failure::usage)?;
    let known = of_this_node(&record);
    known.ok_or_else(|| {
        let (path, own) = (path.display(), own_name());
        Failure::usage(anyhow!(
            "--since {path} knows nothing of this node, {own}: give the record of a check that it took part in"
        ))
    })
}

fn of_this_node(record: &Record) -> Option<AtGate> {
    let at = record.end.as_ref().map_or(record.header.started, |e| e.ended);
    Some(AtGate { machine: record.machine_at_end(&own_name())?, at })
}

/// Time between two looks: as asked, else as planned.
fn every(asked: Option<Time>, run: &RunPlan) -> Duration {
    asked.or(run.watch.as_ref().and_then(|w| w.every)).map_or(EVERY, |t| t.0).max(CLOSEST)
}

/// Of each directory its own, and the same each time: a watch that is started again goes on with its journal.
fn folder(dir: &Path) -> PathBuf {
    let name = dir.to_string_lossy();
    let name: String =
        name.trim_matches('/').chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    Path::new("gonogo-out").join(format!("watch-{name}"))
}

impl Watch {
    /// What `--once` answers.
    fn glance(&self, format: Format) -> Result<Exit, Failure> {
        let header = self.header()?;
        let mut watcher = Watcher::glance(&self.dir, &self.run)?;
        if self.gate.is_some() {
            watcher.follow_node(self.gate.clone(), self.every);
        }
        // Whether something is being written shows in two looks.
        watcher.look();
        std::thread::sleep(GLANCE);
        watcher.look_at_node();
        let record = record(&header, watcher.look());
        let judgement = judge::judge(&record, &self.run, &[]);
        judging::show(&judgement, Path::new(""), format, &self.files)?;
        let known = judge::watched(&record).is_some_and(|(_, w)| forecast::outlook(w, &self.run).is_some());
        Ok(match judgement.decision.exit() {
            Exit::Go if !known => Exit::Hold,
            exit => exit,
        })
    }

    /// Watches until a signal, or until the run has made its last save; then shows what became of it.
    fn follow(self, interrupt: &Interrupt, format: Format) -> Result<Exit, Failure> {
        let (run, files) = (self.run.clone(), self.files.clone());
        let end = End::default();
        let mut looking = self.begin()?.start(end.clone(), true)?;
        while !interrupt.load(Ordering::Relaxed) && !looking.is_over() {
            std::thread::sleep(TICK);
        }
        let (record, path) = looking.end(&end, "told to end")?;
        let judgement = judge::judge(&record, &run, &[]);
        judging::show(&judgement, &path, format, &files)?;
        Ok(judgement.decision.exit())
    }

    fn begin(self) -> Result<Following, Failure> {
        let header = self.header()?;
        let mut watcher = Watcher::begin(&self.dir, &self.run, &self.out, &header.nodes[0])?;
        watcher.follow_node(self.gate.clone(), self.every);
        if let Some(journal) = watcher.journal() {
            eprintln!("watching {}; journal {}", clean(&self.dir.to_string_lossy()), clean(&journal.to_string_lossy()));
        }
        let hidden = self.quiet || !io::stderr().is_terminal();
        let bar = if hidden { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        let style = ProgressStyle::with_template("{spinner} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(250));
        Ok(Following { of: self, header, watcher, bar, line: String::new(), last: None, shown: None, file_error: None })
    }

    fn header(&self) -> Result<Header, Failure> {
        let asked = Selection { path: Some(self.dir.clone()), ..Selection::default() };
        let plan = plan::resolve(asked, self.run.clone(), &probe::names(), 1).map_err(Failure::usage)?;
        Ok(header(plan, &[(own_name(), hostname())], None, Vec::new()))
    }
}

/// Why a watch is to end, once it is.
type End = Arc<OnceLock<String>>;

/// A watch in a thread of its own: a file system that hangs holds that thread, and neither a signal nor the command beside it.
struct Looking(Option<JoinHandle<Result<(Record, PathBuf), Failure>>>);

impl Looking {
    fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it, and waits for what it saw, but not for ever.
    fn end(&mut self, end: &End, why: &str) -> Result<(Record, PathBuf), Failure> {
        let _ = end.set(why.to_owned());
        let deadline = Instant::now() + PATIENCE;
        while !self.is_over() {
            if Instant::now() > deadline {
                let why = "the watch is left where it is: its file systems do not answer; the journal has what it saw";
                return Err(Failure { exit: Exit::Hold, error: anyhow!(why) });
            }
            std::thread::sleep(SOON);
        }
        let joined = self.0.take().map(JoinHandle::join);
        joined
            .unwrap_or_else(|| Ok(Err(Failure::internal(anyhow!("the watch is over")))))
            .unwrap_or_else(|_| Err(Failure::internal(anyhow!("the watch failed; the journal has what it saw"))))
    }
}

/// A watch that goes on.
struct Following {
    of: Watch,
    header: Header,
    watcher: Watcher,
    bar: ProgressBar,
    line: String,
    last: Option<Record>,
    /// When reports were written, and of what.
    shown: Option<(Instant, Watched)>,
    file_error: Option<String>,
}

impl Following {
    /// Goes on in a thread, until it is told to end or, where that is asked for, the run has made its last save.
    fn start(self, end: End, until_the_last: bool) -> Result<Looking, Failure> {
        let thread = std::thread::Builder::new().name("watch".into()).spawn(move || self.go(&end, until_the_last));
        Ok(Looking(Some(thread.context("cannot start a thread").map_err(Failure::internal)?)))
    }

    fn go(mut self, end: &End, until_the_last: bool) -> Result<(Record, PathBuf), Failure> {
        loop {
            self.look();
            if until_the_last && self.watcher.is_over(&self.of.run) {
                return self.end("the run made its last save");
            }
            self.wait(end);
            if let Some(why) = end.get() {
                // As things are now.
                self.watcher.look_at_node();
                self.look();
                return self.end(why);
            }
        }
    }

    /// Looks, tells what came up, and writes the reports where something changed.
    fn look(&mut self) {
        let seen = self.watcher.look();
        let outlook = forecast::outlook(&seen, &self.of.run);
        self.line = report::watch_headline(&seen, outlook.as_ref());
        let due = self.shown.as_ref().is_none_or(|(at, was)| at.elapsed() > ALIVE || !alike(was, &seen));
        if due {
            self.shown = Some((Instant::now(), seen.clone()));
        }
        let record = record(&self.header, seen);
        let judgement = judge::judge(&record, &self.of.run, &[]);
        for line in self.watcher.tell(&judgement.findings) {
            // Whole lines, each with its time: they stand in the job's log.
            let line = format!("gonogo watch {}  {}", Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ"), clean(&line));
            self.bar.suspend(|| eprintln!("{line}"));
        }
        if due {
            self.write(&judgement);
        }
        self.last = Some(record);
    }

    fn write(&mut self, judgement: &Judgement<'_>) {
        let error = judging::write_files(judgement, &self.of.out.join(record::NAME), &self.of.files).err();
        let error = error.map(|f| format!("{:#}", f.error));
        if let Some(error) = error.as_ref().filter(|_| self.file_error.is_none()) {
            self.bar.suspend(|| eprintln!("gonogo watch: {error}; it is tried again"));
        }
        self.file_error = error;
    }

    /// Waits for the next look, or for the end.
    fn wait(&mut self, end: &End) {
        let until = Instant::now() + self.of.every;
        while Instant::now() < until && end.get().is_none() {
            let moving = self.watcher.moving().map_or(String::new(), |m| {
                let rate = crate::unit::Unit::BytePerSecond.show(m.bytes_per_second);
                format!("; moving {} {:.0} % at {rate}", clean(&m.name), 100.0 * m.share)
            });
            self.bar.set_message(format!("{}{moving}", self.line));
            std::thread::sleep(TICK.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Ends the watch and keeps what it saw as a record.
    fn end(mut self, why: &str) -> Result<(Record, PathBuf), Failure> {
        self.bar.finish_and_clear();
        let last = self.last.take();
        self.watcher.end(why);
        let mut record = last.unwrap_or_else(|| Record::new(self.header));
        record.end = Some(record::End { ended: Timestamp::now(), interrupted: false, spent: Vec::new() });
        let path = self.of.out.join(record::NAME);
        keep(&record, &path)
            .with_context(|| format!("cannot keep the record {}", path.display()))
            .map_err(Failure::internal)?;
        Ok((record, path))
    }
}

/// Runs a command behind the gate with a watch beside it, and ends as the command does. What is known of a run that failed is left in
/// one folder: what the gate went by, the journal, and the checkpoints as they were last.
pub(super) fn beside(launch: &Launch, run: &RunPlan, folder: &Path, record: Option<&Path>) -> Result<Exit, Failure> {
    let dir = run.checkpoint.as_ref().and_then(|c| c.dir.clone()).ok_or_else(|| {
        Failure::usage(anyhow!("--watch needs [checkpoint] dir in the plan that the record was made for, or in --plan"))
    })?;
    let interrupt = shell::listen().map_err(Failure::internal)?;
    let every = every(None, run);
    let out = folder.join("watch");
    // The terminal is the command's.
    let gate = record.and_then(|path| of_this_node(&record::read(path).ok()?));
    let watch = Watch { dir, run: run.clone(), every, out: out.clone(), gate, files: Vec::new(), quiet: true };
    let following = watch.begin()?;
    let end = End::default();
    eprintln!("{}  starting {} under the watch", launch.decision, clean(&launch.command[0]));
    let mut looking = following.start(end.clone(), false)?;
    let mut child = match launch.spawn() {
        Ok(child) => child,
        Err(e) => {
            let _ = looking.end(&end, "the command did not start");
            return Err(not_started(launch, e));
        }
    };
    let mut asked = false;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for the command").map_err(Failure::internal)? {
            break status;
        }
        if interrupt.load(Ordering::Relaxed) && !asked {
            // The command is told what this process was told, and is waited for.
            asked = true;
            if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        std::thread::sleep(TICK);
    };
    let how = match status.signal() {
        Some(signal) => format!("the command was ended by {}", describe(signal)),
        None => format!("the command ended with {}", status.code().unwrap_or_default()),
    };
    // Whatever became of the watch, the code is the command's.
    let ended = looking.end(&end, &how).map_err(|f| eprintln!("gonogo: {:#}", f.error));
    if let (false, Ok((kept, path))) = (status.success(), ended) {
        if let Some(record) = record {
            let _ = fs::copy(record::file_of(record), out.join("before.jsonl"));
        }
        let judgement = judge::judge(&kept, run, &[]);
        eprint!("{}", report::findings(&judgement.findings, shell::style()));
        eprintln!("{how}; what was seen of its checkpoints: gonogo report {}", clean(&path.to_string_lossy()));
        eprintln!(
            "why it ended: gonogo autopsy --before {} --watch {} --log LOGS",
            clean(&out.join("before.jsonl").to_string_lossy()),
            clean(&out.to_string_lossy())
        );
        eprintln!(
            "what changed since the gate: gonogo check --plan RUN.TOML --out after, then gonogo diff {} after",
            clean(&out.join("before.jsonl").to_string_lossy())
        );
    }
    // A number that is the command's own, and none of gonogo's.
    std::process::exit(code(status))
}

/// As a shell tells how a command ended.
fn code(status: std::process::ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

pub(super) fn not_started(launch: &Launch, error: io::Error) -> Failure {
    let exit = if error.kind() == io::ErrorKind::NotFound { Exit::Usage } else { Exit::Internal };
    Failure { exit, error: anyhow!(error).context(format!("cannot start {}", clean(&launch.command[0]))) }
}

/// Whether nothing is different but the time.
fn alike(a: &Watched, b: &Watched) -> bool {
    a.saves == b.saves && a.troubles == b.troubles && a.space == b.space && a.node == b.node
}

/// What was seen, as a record that is judged and shown as any other.
fn record(header: &Header, seen: Watched) -> Record {
    Record::of_fact(header.clone(), "watch", Fact::Checkpoints, Facts::Watched(Box::new(seen)))
}

/// Whole or not at all, over that of an earlier watch.
fn keep(record: &Record, path: &Path) -> io::Result<()> {
    let temporary = path.with_file_name(format!(".record.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    Writer::create(&temporary)?.whole(record)?;
    fs::rename(&temporary, path)
}
