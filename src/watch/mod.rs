//! From go to the last save: looks at a run's checkpoints, and moves those that are complete to a cold place when the space runs out.
//!
//! A look tells facts ([`Watched`]); what they mean is `judge`'s. `survey` sees what lies there, `state` says whether it is complete,
//! `moving` and `copy` take one away, `journal` keeps what was done.

mod copy;
mod journal;
mod moving;
mod space;
mod state;
mod survey;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use crate::judge::{Finding, Severity};
use crate::measure::{Cold, Save, SaveState, Space, Trouble, Watched};
use crate::plan::{RunPlan, WatchPlan};
use crate::unit::Bytes;
use crate::work::Layout;

use copy::{CopyError, Sum};
use journal::{Event, Journal};
use moving::{Job, Manifest, MoveError, Place};
use state::Known;
use survey::{Entry, Tree};

/// What settled is walked again every so many looks: whoever writes into it leaves traces in its files.
const SETTLED: u64 = 30;
/// Attempts to move one checkpoint before the next is tried.
const ATTEMPTS: u32 = 3;
/// After a failure the next attempt waits; each time longer.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);
/// How long the command for the alarm may take.
const HOOK: Duration = Duration::from_secs(60);
/// What is said of all.
const ALL: &str = "every checkpoint";
/// Moves whose times are kept.
const KEPT: usize = 8;

/// Why a watch cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("cannot look at the checkpoint directory {path}: {source}")]
    Dir { path: PathBuf, source: io::Error },
    #[error("another gonogo watches {0} already; one is enough, and two would move the same checkpoint")]
    Locked(PathBuf),
    #[error("cannot lock {path}: {source}; without a lock two watches could move the same checkpoint")]
    Lock { path: PathBuf, source: io::Error },
    #[error("cannot use the cold place {path}: {source}; make the directory first")]
    Cold { path: PathBuf, source: io::Error },
    #[error("cannot keep a journal in {path}: {source}; give another --out")]
    Journal { path: PathBuf, source: io::Error },
}

/// What is remembered of a checkpoint between looks.
struct Remembered {
    tree: Tree,
    state: SaveState,
    /// See [`Save::used`].
    used: Option<Bytes>,
    /// When its folder itself last changed, and how many looks ago it was walked.
    folder: (i64, i64),
    walked: u64,
}

/// A move under way.
struct Moving {
    name: OsString,
    bytes: u64,
    began: Instant,
    moved: Arc<AtomicU64>,
    thread: JoinHandle<(Result<Sum, MoveError>, Duration)>,
}

/// What is being moved, for a line on a terminal.
pub struct Progress {
    pub name: String,
    /// Of the checkpoint's bytes, written and read back.
    pub share: f64,
    pub bytes_per_second: f64,
}

/// Follows one checkpoint directory.
pub struct Watcher {
    dir: PathBuf,
    plan: WatchPlan,
    keep: usize,
    place: Option<Place>,
    since: Timestamp,
    device: u64,
    mount: String,
    cold_device: Option<u64>,
    known: HashMap<OsString, Remembered>,
    /// Those that are in the cold place, and bytes that were moved since the watch began.
    moved: Vec<Manifest>,
    moved_bytes: u64,
    moves_s: Vec<f64>,
    moving: Option<Moving>,
    failed: HashMap<OsString, (u32, Trouble)>,
    retry: Instant,
    /// The high mark was passed, and the low one is not reached yet.
    emptying: bool,
    journal: Option<Journal>,
    journal_error: Option<String>,
    hook_error: Option<String>,
    told: Vec<(&'static str, Severity)>,
    stop: Arc<AtomicBool>,
    looks: u64,
    _lock: Option<File>,
}

impl Watcher {
    /// Looks once and touches nothing: no lock, no journal, nothing is moved.
    ///
    /// # Errors
    /// A directory that cannot be looked at.
    pub fn glance(dir: &Path, run: &RunPlan) -> Result<Self, WatchError> {
        let meta = fs::metadata(dir).map_err(|source| WatchError::Dir { path: dir.to_owned(), source })?;
        let plan = run.watch.clone().unwrap_or_default();
        let place = match (&plan.cold, plan.cold_command.is_empty()) {
            (Some(cold), _) => Some(Place::Directory(cold.clone())),
            (None, false) => {
                Some(Place::Commands { copy: plan.cold_command.clone(), verify: plan.verify_command.clone() })
            }
            (None, true) => None,
        };
        let cold = match &place {
            Some(Place::Directory(cold)) => Some(cold.clone()),
            _ => None,
        };
        let keep = run.checkpoint.as_ref().and_then(|c| c.keep).unwrap_or(WatchPlan::KEEP).max(1);
        Ok(Watcher {
            dir: dir.to_owned(),
            keep: keep as usize,
            place,
            since: Timestamp::now(),
            device: meta.dev(),
            mount: space::mount(dir),
            cold_device: cold.as_ref().and_then(|c| fs::metadata(c).ok()).map(|m| m.dev()),
            known: HashMap::new(),
            moved: cold.as_deref().map(moving::manifests).unwrap_or_default(),
            moved_bytes: 0,
            moves_s: Vec::new(),
            moving: None,
            failed: HashMap::new(),
            retry: Instant::now(),
            emptying: false,
            journal: None,
            journal_error: None,
            hook_error: None,
            told: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            looks: 0,
            plan,
            _lock: None,
        })
    }

    /// Begins a watch: alone at this directory, with a journal in `out`, and with what an earlier watch left brought to its end.
    ///
    /// # Errors
    /// A place that cannot be used, another watch, no journal.
    pub fn begin(dir: &Path, run: &RunPlan, out: &Path) -> Result<Self, WatchError> {
        let mut watcher = Watcher::glance(dir, run)?;
        let path = dir.join(format!("{}watch.lock", survey::OWN));
        let opened = File::options().write(true).create(true).truncate(false).open(&path);
        let lock = opened.map_err(|source| WatchError::Lock { path: path.clone(), source })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(WatchError::Locked(dir.to_owned())),
            Err(e) => return Err(WatchError::Lock { path, source: e.into() }),
        }
        watcher._lock = Some(lock);
        if let Some(Place::Directory(cold)) = &watcher.place {
            let usable = fs::read_dir(cold).map(|_| ());
            usable.map_err(|source| WatchError::Cold { path: cold.clone(), source })?;
        }
        let journal = Journal::open(out).map_err(|source| WatchError::Journal { path: out.to_owned(), source })?;
        watcher.journal = Some(journal);
        let cold = watcher.place.as_ref().map(Place::shown);
        watcher.note(&Event::Began { dir, cold, pid: std::process::id() });
        let recovered = moving::recover(dir, watcher.place.as_ref());
        for what in &recovered.map_err(|source| WatchError::Dir { path: dir.to_owned(), source })? {
            watcher.note(&Event::Recovered { what });
        }
        Ok(watcher)
    }

    /// Where the journal is.
    pub fn journal(&self) -> Option<&Path> {
        self.journal.as_ref().map(Journal::path)
    }

    fn note(&mut self, event: &Event<'_>) {
        if let Some(journal) = &mut self.journal {
            self.journal_error = journal.note(event).err().map(|e| e.to_string());
        }
    }

    /// Looks at everything once, begins a move where one is due, and takes note of one that ended.
    pub fn look(&mut self) -> Watched {
        self.looks += 1;
        self.reap();
        let mut troubles = Vec::new();
        let space = match self.there() {
            Ok(()) => space::space(&self.dir).map_err(|e| Trouble::Gone { error: e.to_string() }),
            Err(trouble) => Err(trouble),
        };
        let looked = space.and_then(|space| match self.survey(&space) {
            Ok(saves) => Ok((space, saves)),
            Err(e) => Err(Trouble::Gone { error: format!("cannot read {}: {e}", self.dir.display()) }),
        });
        let (space, hot) = looked.unwrap_or_else(|trouble| {
            troubles.push(trouble);
            Default::default()
        });
        if troubles.is_empty() {
            self.move_one(&space, &hot);
        }
        self.watched(space, hot, troubles)
    }

    /// Everything that is known, as facts.
    fn watched(&self, space: Space, hot: Vec<(Entry, Save)>, mut troubles: Vec<Trouble>) -> Watched {
        let layout = hot.last().map(|(e, _)| e.layout);
        let mut saves: Vec<Save> = hot.into_iter().map(|(_, s)| s).collect();
        let here: Vec<String> = saves.iter().map(|s| s.name.clone()).collect();
        saves.extend(self.moved.iter().filter(|m| !here.contains(&m.name)).map(|m| Save {
            name: m.name.clone(),
            step: m.step,
            bytes: Bytes(m.bytes),
            files: m.files,
            began: m.began,
            ended: m.ended,
            state: SaveState::Moved,
            used: self.known.get(OsStr::new(&m.name)).and_then(|k| k.used),
        }));
        saves.sort_by_key(|s| (s.ended, s.step));
        troubles.extend(self.failed.values().map(|(_, t)| t.clone()));
        if let Some(Place::Directory(_)) = &self.place
            && self.cold_device == Some(self.device)
        {
            troubles.push(Trouble::SameFilesystem);
        }
        troubles.extend(self.journal_error.iter().map(|e| Trouble::Journal { error: e.clone() }));
        troubles.extend(self.hook_error.iter().map(|e| Trouble::Hook { error: e.clone() }));
        let available = |place: &Place| match place {
            Place::Directory(dir) => space::space(dir).ok().map(|s| s.available),
            Place::Commands { .. } => None,
        };
        Watched {
            dir: self.dir.clone(),
            since: self.since,
            at: Timestamp::now(),
            mount: self.mount.clone(),
            layout,
            space,
            saves,
            cold: self.place.as_ref().map(|p| Cold {
                place: p.shown(),
                available: available(p),
                moves_s: self.moves_s.clone(),
            }),
            troubles,
        }
    }

    /// Whether the directory is still the one that the watch began with.
    fn there(&self) -> Result<(), Trouble> {
        let gone = |e: io::Error| Trouble::Gone { error: format!("cannot look at {}: {e}", self.dir.display()) };
        let meta = fs::metadata(&self.dir).map_err(gone)?;
        if meta.dev() == self.device {
            return Ok(());
        }
        Err(Trouble::OtherMount { was: self.mount.clone(), now: space::mount(&self.dir) })
    }

    /// The checkpoints in the hot place, the oldest first.
    fn survey(&mut self, space: &Space) -> io::Result<Vec<(Entry, Save)>> {
        let (entries, unfinished) = survey::entries(&self.dir, self.plan.layout)?;
        self.failed.retain(|name, _| entries.iter().any(|e| e.name == *name) || name == ALL);
        let mut trees: Vec<(Entry, Tree, bool)> = Vec::with_capacity(entries.len());
        for mut entry in entries {
            // A name without a word of its own is torch's when it holds what torch writes last.
            let Some((tree, still)) = self.tree(&entry) else { continue };
            if entry.layout == Layout::Plain && tree.committed && self.plan.complete_file.is_none() {
                entry.layout = Layout::Dcp;
            }
            trees.push((entry, tree, still));
        }
        // As they were written: a run that was rewound writes earlier steps again.
        trees.sort_by(|(a, s, _), (b, t, _)| (s.newest, a.step, &a.name).cmp(&(t.newest, b.step, &b.name)));
        let pointers: HashMap<Layout, Option<u64>> =
            trees.iter().map(|(e, ..)| (e.layout, survey::pointer(&self.dir, e.layout))).collect();
        let files: Vec<Option<u64>> =
            trees.iter().map(|(_, t, still)| (*still && !t.unfinished).then_some(t.files)).collect();
        // What went before the oldest that is here is in the cold place.
        let gone = self.moved.iter().max_by_key(|m| m.ended).map(|m| m.files);
        let used = space.total.0.saturating_sub(space.available.0) + self.moved_bytes;
        let mut out: Vec<(Entry, Save)> = Vec::with_capacity(trees.len());
        // From the newest on, so that each knows whether a later one is complete.
        let mut passed = false;
        for (i, (entry, tree, still)) in trees.iter().enumerate().rev() {
            let before = self.known.get(&entry.name).filter(|k| k.tree.print == tree.print);
            let known = Known {
                layout: entry.layout,
                step: entry.step,
                tree,
                marked_unfinished: unfinished.contains(&entry.name),
                still: *still,
                was_complete: before.is_some_and(|k| k.state == SaveState::Complete),
                pointer: pointers.get(&entry.layout).copied().flatten(),
                before: files[..i].iter().rev().flatten().next().copied().or(gone),
                after: files[i + 1..].iter().flatten().next().copied(),
                passed,
            };
            let state = state::state(&known);
            passed |= state == SaveState::Complete;
            let (was, mut kept) = before.map_or((None, None), |k| (Some(k.state), k.used));
            let whole = matches!(state, SaveState::Complete | SaveState::Unclear);
            // Of those that were there before, when each came is not known.
            if whole && kept.is_none() && self.looks > 2 {
                kept = Some(Bytes(used));
            }
            let time = |ns: Option<i128>| ns.and_then(|ns| Timestamp::from_nanosecond(ns).ok()).unwrap_or(self.since);
            let save = Save {
                name: entry.name.to_string_lossy().into_owned(),
                step: entry.step,
                bytes: Bytes(tree.bytes),
                files: tree.files,
                began: time(tree.oldest),
                ended: time(tree.newest),
                state,
                used: kept,
            };
            if was != Some(state) && state != SaveState::Writing {
                let (available, files, bytes) = (space.available.0, tree.files, tree.bytes);
                let name = save.name.clone();
                self.note(&Event::Save { name: &name, step: entry.step, bytes, files, state, available });
            }
            let folder = folder_time(&self.dir.join(&entry.name));
            let walked = self.known.get(&entry.name).filter(|k| k.tree == *tree).map_or(self.looks, |k| k.walked);
            self.known.insert(entry.name.clone(), Remembered { tree: tree.clone(), state, used: kept, folder, walked });
            out.push((entry.clone(), save));
        }
        out.reverse();
        Ok(out)
    }

    /// The files of a checkpoint, and whether they are as they were at the look before. `None` where it vanished.
    fn tree(&mut self, entry: &Entry) -> Option<(Tree, bool)> {
        let path = self.dir.join(&entry.name);
        if let Some(k) = self.known.get(&entry.name) {
            let settled = k.state == SaveState::Complete && self.looks - k.walked < SETTLED;
            if settled && k.folder == folder_time(&path) {
                return Some((k.tree.clone(), true));
            }
        }
        let tree = survey::tree(&path, entry.layout, self.plan.complete_file.as_deref()).ok()?;
        let still = self.known.get_mut(&entry.name).is_some_and(|k| {
            k.walked = self.looks;
            k.tree.print == tree.print
        });
        Some((tree, still))
    }

    /// Begins to move the oldest that may go, where the space asks for it.
    fn move_one(&mut self, space: &Space, hot: &[(Entry, Save)]) {
        if self.journal.is_none() || self.moving.is_some() || Instant::now() < self.retry || !self.is_due(space, hot) {
            return;
        }
        let Some(place) = self.place.clone() else { return };
        if let Place::Directory(cold) = &place
            && fs::metadata(cold).ok().map(|m| m.dev()) != self.cold_device
        {
            let error = format!("{} is not the file system that it was when the watch began", cold.display());
            self.refused(OsStr::new(ALL), ALL, &error);
            return;
        }
        let Some(entry) = self.may_go(hot) else { return };
        let Some(tree) = self.known.get(&entry.name).map(|k| k.tree.clone()) else { return };
        let name = entry.name.to_string_lossy().into_owned();
        if let Some((path, why)) = &tree.unmovable {
            let trouble =
                Trouble::Unmovable { save: name, path: path.to_string_lossy().into_owned(), why: (*why).to_owned() };
            self.failed.insert(entry.name.clone(), (ATTEMPTS, trouble));
            return;
        }
        let bytes = tree.bytes;
        let job = Job {
            hot: self.dir.clone(),
            place,
            entry: entry.clone(),
            tree,
            complete_file: self.plan.complete_file.clone(),
            rate: self.plan.rate.map(|r| r.0),
        };
        self.note(&Event::MoveBegan { name: &name, bytes });
        let (stop, moved) = (self.stop.clone(), Arc::new(AtomicU64::new(0)));
        let counted = moved.clone();
        let spawned = std::thread::Builder::new().name("move".into()).spawn(move || {
            let began = Instant::now();
            (job.run(&stop, &counted), began.elapsed())
        });
        match spawned {
            Ok(thread) => {
                self.moving = Some(Moving { name: entry.name.clone(), bytes, began: Instant::now(), moved, thread });
            }
            Err(e) => self.refused(&entry.name, &name, &format!("cannot start a thread: {e}")),
        }
    }

    /// Whether the space asks for a move: at the high mark until the low one, or with too little room for the next saves.
    fn is_due(&mut self, space: &Space, hot: &[(Entry, Save)]) -> bool {
        let used = 1.0 - space.available.as_f64() / space.total.as_f64().max(1.0);
        if used > self.plan.high() {
            self.emptying = true;
        } else if used <= self.plan.low() {
            self.emptying = false;
        }
        let size =
            hot.iter().rev().filter(|(_, s)| s.state != SaveState::Writing).take(3).map(|(_, s)| s.bytes.0).max();
        let writing: u64 = hot.iter().filter(|(_, s)| s.state == SaveState::Writing).map(|(_, s)| s.bytes.0).sum();
        let short = size.is_some_and(|size| space.available.0 + writing < self.plan.reserve().saturating_mul(size));
        short || self.emptying
    }

    /// The oldest that is complete and may go: the newest stay, the milestones, and what the trainer's pointer names.
    fn may_go<'h>(&self, hot: &'h [(Entry, Save)]) -> Option<&'h Entry> {
        let complete: Vec<&(Entry, Save)> = hot.iter().filter(|(_, s)| s.state == SaveState::Complete).collect();
        let movable = complete.len().saturating_sub(self.keep);
        let pointed: Vec<Option<u64>> =
            hot.iter().map(|(e, _)| survey::pointer(&self.dir, e.layout)).filter(Option::is_some).collect();
        let stays = |e: &Entry| {
            let milestone = self.plan.milestone_steps.filter(|m| *m > 0).zip(e.step).is_some_and(|(m, s)| s % m == 0);
            milestone || (e.step.is_some() && pointed.contains(&e.step))
        };
        let gave_up = |e: &Entry| self.failed.get(&e.name).is_some_and(|(times, _)| *times >= ATTEMPTS);
        let may = complete[..movable].iter().map(|(e, _)| e).filter(|e| !stays(e));
        let all: Vec<&Entry> = may.collect();
        // Those that failed come last: they are tried again when there is nothing else.
        all.iter().find(|e| !gave_up(e)).or_else(|| all.first()).copied()
    }

    /// Takes note of a move that ended.
    fn reap(&mut self) {
        if !self.moving.as_ref().is_some_and(|m| m.thread.is_finished()) {
            return;
        }
        let Some(m) = self.moving.take() else { return };
        let name = m.name.to_string_lossy().into_owned();
        let Ok((ended, took)) = m.thread.join() else {
            return self.refused(&m.name, &name, "the copying thread panicked");
        };
        match ended {
            Ok(sum) => self.has_moved(&m.name, &name, &sum, took.as_secs_f64()),
            // Its trainer writes it again: it is a save under way, and no failure.
            Err(MoveError::Copy(CopyError::Changed(_))) => {
                self.note(&Event::MoveFailed { name: &name, error: "it changed meanwhile" });
            }
            Err(MoveError::Copy(CopyError::Stopped)) => {}
            Err(error) => self.failed_move(&m.name, &name, &error),
        }
    }

    fn has_moved(&mut self, name: &OsStr, shown: &str, sum: &Sum, seconds: f64) {
        self.moved_bytes += sum.bytes;
        self.moves_s.push(seconds);
        let spare = self.moves_s.len().saturating_sub(KEPT);
        self.moves_s.drain(..spare);
        self.failed.clear();
        self.retry = Instant::now();
        if let Some(Place::Directory(cold)) = &self.place {
            self.moved.retain(|known| known.name != shown);
            self.moved.extend(moving::read_manifest(cold, name));
        }
        let (files, bytes, digest) = (sum.files, sum.bytes, sum.hex());
        self.note(&Event::Moved { name: shown, files, bytes, digest: &digest, seconds });
    }

    fn failed_move(&mut self, name: &OsStr, shown: &str, error: &MoveError) {
        let times = self.failed.get(name).map_or(0, |(n, _)| *n) + 1;
        let save = shown.to_owned();
        let trouble = match error {
            MoveError::Copy(CopyError::Differs(path)) => {
                Trouble::CopyDiffers { save, path: path.to_string_lossy().into_owned() }
            }
            MoveError::NotAsPublished(path) => Trouble::CopyDiffers { save, path: path.to_string_lossy().into_owned() },
            MoveError::Copy(CopyError::Unmovable { path, why }) => {
                Trouble::Unmovable { save, path: path.to_string_lossy().into_owned(), why: (*why).to_owned() }
            }
            MoveError::Full { needed, available } => Trouble::ColdFull { save, needed: *needed, available: *available },
            other => Trouble::MoveFails { save, error: other.to_string(), times },
        };
        self.wait(times);
        let text = error.to_string();
        self.note(&Event::MoveFailed { name: shown, error: &text });
        self.failed.insert(name.to_owned(), (times, trouble));
    }

    fn refused(&mut self, name: &OsStr, shown: &str, error: &str) {
        let times = self.failed.get(name).map_or(0, |(n, _)| *n) + 1;
        self.wait(times);
        self.note(&Event::MoveFailed { name: shown, error });
        let trouble = Trouble::MoveFails { save: shown.to_owned(), error: error.to_owned(), times };
        self.failed.insert(name.to_owned(), (times, trouble));
    }

    fn wait(&mut self, times: u32) {
        let longer = PATIENCE.saturating_mul(1u32 << times.min(8).saturating_sub(1));
        self.retry = Instant::now() + longer.min(LONGEST_PATIENCE);
    }

    /// Tells what came up and what is no more since the last time: in the journal, and by the plan's command where it is an alarm.
    /// Returns the lines for the job's log.
    pub fn tell(&mut self, findings: &[Finding]) -> Vec<String> {
        let weighing = findings.iter().filter(|f| f.weighs() && f.severity >= Severity::Warn);
        let now: Vec<(&'static str, Severity, &Finding)> = weighing.map(|f| (f.code.as_str(), f.severity, f)).collect();
        let mut lines = Vec::new();
        for (code, severity, f) in &now {
            if self.told.contains(&(*code, *severity)) {
                continue;
            }
            self.note(&Event::Finding { code, severity: severity.name(), text: &f.evidence });
            lines.push(format!(
                "{} {code} {}: {}; {}",
                severity.name().to_uppercase(),
                f.title(),
                f.evidence,
                f.remedy()
            ));
            if *severity >= Severity::Fail && !self.plan.on_alarm.is_empty() {
                let environment = [("GONOGO_ALARM", *code), ("GONOGO_TEXT", f.evidence.as_str())];
                self.hook_error = moving::run(&self.plan.on_alarm, &environment, HOOK, &AtomicBool::new(false)).err();
            }
        }
        let gone: Vec<&'static str> =
            self.told.iter().map(|(c, _)| *c).filter(|c| !now.iter().any(|(code, ..)| code == c)).collect();
        for code in gone {
            self.note(&Event::Cleared { code });
            lines.push(format!("cleared {code}"));
        }
        self.told = now.iter().map(|(code, severity, _)| (*code, *severity)).collect();
        lines
    }

    /// What is being moved now.
    pub fn moving(&self) -> Option<Progress> {
        let m = self.moving.as_ref()?;
        // Each byte is written once and read back once.
        let done = m.moved.load(Ordering::Relaxed) as f64;
        Some(Progress {
            name: m.name.to_string_lossy().into_owned(),
            share: (done / (2 * m.bytes.max(1)) as f64).min(1.0),
            bytes_per_second: done / m.began.elapsed().as_secs_f64().max(1e-3),
        })
    }

    /// Whether every save of the plan was made.
    pub fn is_over(&self, run: &RunPlan) -> bool {
        let total = run.checkpoint.as_ref().and_then(|c| Some(c.total_steps? - c.total_steps? % c.interval_steps?));
        let last = self.known.iter().filter(|(_, k)| k.state == SaveState::Complete);
        let steps = last.filter_map(|(name, _)| {
            let name = name.to_string_lossy();
            survey::step_of(&name)
        });
        total.zip(steps.max()).is_some_and(|(total, step)| step as f64 >= total)
    }

    /// Ends a move under way where it stands, and the journal.
    pub fn end(mut self, why: &str) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(m) = self.moving.take() {
            self.moving = Some(m);
            while self.moving.as_ref().is_some_and(|m| !m.thread.is_finished()) {
                std::thread::sleep(Duration::from_millis(20));
            }
            self.reap();
        }
        self.note(&Event::Ended { why });
    }
}

/// When a folder's own entries last changed.
fn folder_time(path: &Path) -> (i64, i64) {
    fs::symlink_metadata(path).map_or((0, 0), |m| (m.mtime(), m.mtime_nsec()))
}
