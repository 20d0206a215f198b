//! From go to the last save: looks at a run's checkpoints, and moves those that are complete to a cold place when the space runs out.
//!
//! A look tells facts ([`Watched`]); what they mean is `judge`'s. `survey` sees what lies there, `state` says whether it is complete,
//! `mover` chooses what goes, `moving` and `copy` take it away, `journal` keeps what was done.

mod command;
mod copy;
mod journal;
mod lock;
mod mover;
mod moving;
mod node;
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::id::NodeName;
use crate::judge::{Code, Finding, Severity};
use crate::measure::{Cold, Save, SaveState, Space, Trouble, Watched};
use crate::plan::{RunPlan, WatchPlan};
use crate::unit::Bytes;
use crate::work::Layout;
use jiff::Timestamp;

use journal::{Event, Journal};
use mover::{Mover, Seen, identity};
use moving::Place;
use state::Known;
use survey::{Entry, Pointer, Tree, Unreadable};

pub use journal::{Journalled, NAME as JOURNAL, Told, read as read_journal};
pub use mover::Progress;
pub use node::AtGate;

/// What settled is walked again every so many looks: whoever writes into it leaves traces in its files.
const SETTLED: u64 = 30;
/// A pointer is written anew in a moment: at so many looks it is no such moment.
const UNCLEAR: u64 = 3;
/// How long the command for the alarm may take, and at the end of the watch.
const HOOK: Duration = Duration::from_secs(60);
const LAST_HOOK: Duration = Duration::from_secs(5);
/// How long a look at the node may be waited for: NVML takes 7 s where a driver hangs.
const NODE: Duration = Duration::from_secs(10);

/// Why a watch cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("cannot look at the checkpoint directory {path}: {source}")]
    Dir { path: PathBuf, source: io::Error },
    #[error("another gonogo watches {0} already; one is enough, and two would move the same checkpoint")]
    Locked(PathBuf),
    #[error("without the lock {path} two watches could move the same checkpoint: {source}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("cannot use the cold place {path}: {source}")]
    Cold { path: PathBuf, source: io::Error },
    #[error("the cold place {0} is the checkpoint directory itself, or lies in it")]
    Same(PathBuf),
    #[error("cannot keep a journal in {path}, give another --out: {source}")]
    Journal { path: PathBuf, source: io::Error },
}

/// What is remembered of a checkpoint between looks.
struct Remembered {
    tree: Tree,
    state: SaveState,
    /// See [`Save::used`].
    used: Option<Bytes>,
    /// When its folder itself last changed, and at which look it was walked.
    folder: (i64, i64),
    walked: u64,
}

/// A finding that was told.
struct ToldOf {
    code: Code,
    severity: Severity,
    text: String,
}

/// The command for the alarm, under way.
struct Hook {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Option<String>>,
}

/// Follows one checkpoint directory.
pub struct Watcher {
    dir: PathBuf,
    plan: WatchPlan,
    place: Option<Place>,
    since: Timestamp,
    identity: Option<(u64, u64)>,
    mount: String,
    known: HashMap<OsString, Remembered>,
    mover: Option<Mover>,
    journal: Option<Journal>,
    journal_error: Option<String>,
    hook: Option<Hook>,
    hook_error: Option<String>,
    /// At the look before.
    told: Vec<ToldOf>,
    unreadable: Vec<Trouble>,
    /// Looks at which a pointer could not be understood, up to now.
    unclear: u64,
    looks: u64,
    lock: Option<(PathBuf, File)>,
    /// The node that this runs on, where it is looked at.
    node: Option<node::Node>,
    /// Held, and not used.
    cold_lock: Option<File>,
    linked: Vec<OsString>,
}

impl Watcher {
    /// Looks once and touches nothing: no lock, no journal, nothing is moved.
    ///
    /// # Errors
    /// A directory that cannot be looked at.
    pub fn glance(dir: &Path, run: &RunPlan) -> Result<Self, WatchError> {
        fs::read_dir(dir).map_err(|source| WatchError::Dir { path: dir.to_owned(), source })?;
        let plan = run.watch.clone().unwrap_or_default();
        let place = match (&plan.cold, plan.cold_command.is_empty()) {
            (Some(cold), _) => Some(Place::Directory(cold.clone())),
            (None, false) => {
                Some(Place::Commands { copy: plan.cold_command.clone(), verify: plan.verify_command.clone() })
            }
            (None, true) => None,
        };
        Ok(Watcher {
            dir: dir.to_owned(),
            plan,
            place,
            since: Timestamp::now(),
            identity: identity(dir),
            mount: space::mount(dir),
            known: HashMap::new(),
            mover: None,
            journal: None,
            journal_error: None,
            hook: None,
            hook_error: None,
            told: Vec::new(),
            unreadable: Vec::new(),
            unclear: 0,
            looks: 0,
            lock: None,
            node: None,
            cold_lock: None,
            linked: Vec::new(),
        })
    }

    /// Begins a watch on `node`: alone at this directory, with a journal in `out`, and with what an earlier watch left brought to its end.
    ///
    /// # Errors
    /// A place that cannot be used, another watch, no journal.
    pub fn begin(dir: &Path, run: &RunPlan, out: &Path, node: &NodeName) -> Result<Self, WatchError> {
        let mut watcher = Watcher::glance(dir, run)?;
        let path = dir.join(format!("{}watch.lock", survey::OWN));
        let of_lock = |source| WatchError::Lock { path: path.clone(), source };
        let taken = lock::take(&path);
        if taken.as_ref().is_err_and(lock::is_held) {
            return Err(WatchError::Locked(dir.to_owned()));
        }
        let taken = taken.map_err(of_lock)?;
        let id = lock::id(&taken).map_err(of_lock)?;
        watcher.lock = Some((path.clone(), taken));
        let of_dir = |source| WatchError::Dir { path: dir.to_owned(), source };
        if let Some(Place::Directory(cold)) = &watcher.place {
            let of_cold = |source| WatchError::Cold { path: cold.clone(), source };
            let (here, there) = (dir.canonicalize().map_err(of_dir)?, cold.canonicalize().map_err(of_cold)?);
            // Also where it is the same by a bind mount.
            let within = |inner: &Path, outer: &Path| inner.ancestors().any(|a| identity(a) == identity(outer));
            if within(&there, &here) || within(&here, &there) {
                return Err(WatchError::Same(cold.clone()));
            }
            watcher.cold_lock = Some(moving::claim(cold, dir, &id).map_err(of_cold)?);
        }
        let journal = Journal::open(out).map_err(|source| WatchError::Journal { path: out.to_owned(), source })?;
        watcher.journal = Some(journal);
        let cold = watcher.place.as_ref().map(Place::shown);
        watcher.note(&Event::Began { node, dir, cold, pid: std::process::id() });
        let Some(place) = watcher.place.clone() else { return Ok(watcher) };
        let keep = run.checkpoint.as_ref().and_then(|c| c.keep).unwrap_or(WatchPlan::KEEP).max(1) as usize;
        let recovered = moving::recover(dir, &place).map_err(of_dir)?;
        let mut mover = Mover::new(dir, place.clone(), watcher.plan.clone(), keep);
        if let Place::Directory(cold) = &place {
            mover.moved = moving::manifests(cold);
        }
        for what in &recovered {
            watcher.note(&Event::Recovered { what });
            mover.inherit(what);
        }
        watcher.mover = Some(mover);
        Ok(watcher)
    }

    /// Looks at the node as well: against what a check kept of it, else against the first look.
    pub fn follow_node(&mut self, gate: Option<AtGate>, every: Duration) {
        self.node = Some(node::Node::new(gate, every));
    }

    /// Looks at the node, where it is followed, and waits for what that shows, but not for long.
    pub fn look_at_node(&mut self) {
        if let Some(node) = &mut self.node {
            node.look_now(NODE);
        }
    }

    /// Where the journal is.
    pub fn journal(&self) -> Option<&Path> {
        self.journal.as_ref().map(Journal::path)
    }

    fn note(&mut self, event: &Event<'_>) {
        write(&mut self.journal, &mut self.journal_error, event);
    }

    /// Looks at everything once, begins a move where one is due, and takes note of one that ended.
    pub fn look(&mut self) -> Watched {
        self.looks += 1;
        self.reap_hook();
        self.unreadable.clear();
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
        if let Some(mover) = self.mover.as_mut().filter(|_| troubles.is_empty()) {
            let (journal, error) = (&mut self.journal, &mut self.journal_error);
            let seen = Seen { hot: &hot, linked: &self.linked, space: &space };
            mover.advance(&seen, &mut |event| write(journal, error, event));
        }
        self.watched(space, hot, troubles)
    }

    /// Everything that is known, as facts.
    fn watched(&mut self, space: Space, hot: Vec<(Entry, Save, Tree)>, mut troubles: Vec<Trouble>) -> Watched {
        let layout = hot.last().map(|(e, ..)| e.layout);
        let mut saves: Vec<Save> = hot.into_iter().map(|(_, s, _)| s).collect();
        let here: Vec<String> = saves.iter().map(|s| s.name.clone()).collect();
        let moved = self.mover.as_ref().map_or(&[][..], |m| &m.moved);
        saves.extend(moved.iter().filter(|m| !here.contains(&m.name)).map(|m| Save {
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
        troubles.extend(self.unreadable.iter().cloned());
        troubles.extend(self.mover.as_ref().map(Mover::troubles).unwrap_or_default());
        if let Some(Place::Directory(cold)) = &self.place
            && identity(cold).zip(self.identity).is_some_and(|(cold, hot)| cold.0 == hot.0)
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
                moves_s: self.mover.as_ref().map(|m| m.moves_s.clone()).unwrap_or_default(),
            }),
            troubles,
            node: self.node.as_mut().and_then(node::Node::look),
        }
    }

    /// Whether the directory, and the lock in it, are still those that the watch began with.
    fn there(&self) -> Result<(), Trouble> {
        let gone = |e: io::Error| Trouble::Gone { error: format!("cannot look at {}: {e}", self.dir.display()) };
        let meta = fs::metadata(&self.dir).map_err(gone)?;
        if Some((meta.dev(), meta.ino())) != self.identity {
            let now = space::mount(&self.dir);
            let now = if now == self.mount { format!("another directory on {now}") } else { now };
            return Err(Trouble::OtherMount { was: self.mount.clone(), now });
        }
        if let Some((path, lock)) = &self.lock {
            let held = lock.metadata().map(|m| (m.dev(), m.ino())).ok();
            if identity(path) != held {
                return Err(Trouble::Gone {
                    error: format!("the lock {} is gone, and another watch may be there", path.display()),
                });
            }
        }
        Ok(())
    }

    /// The checkpoints in the hot place, as they were written.
    fn survey(&mut self, space: &Space) -> io::Result<Vec<(Entry, Save, Tree)>> {
        let survey::Listing { entries, unfinished, linked } = survey::list(&self.dir, self.plan.layout)?;
        self.linked = linked;
        let mut trees: Vec<(Entry, Tree, bool)> = Vec::with_capacity(entries.len());
        for mut entry in entries {
            let Some((tree, still)) = self.tree(&entry) else { continue };
            // A name without a word of its own is torch's when it holds what torch writes last.
            if entry.layout == Layout::Plain && tree.committed.is_some() && self.plan.complete_file.is_none() {
                entry.layout = Layout::Dcp;
            }
            trees.push((entry, tree, still));
        }
        // As they were written: a run that was rewound writes earlier steps again.
        trees.sort_by(|(a, s, _), (b, t, _)| (s.newest, a.step, &a.name).cmp(&(t.newest, b.step, &b.name)));
        let pointers = self.pointers(&trees);
        let files: Vec<Option<u64>> =
            trees.iter().map(|(_, t, still)| (*still && !t.unfinished).then_some(t.files)).collect();
        // What went before the oldest that is here is in the cold place.
        let moved = self.mover.as_ref();
        let gone = moved.and_then(|m| m.moved.iter().max_by_key(|m| m.ended)).map(|m| m.files);
        let taken = moved.map_or(0, |m| m.moved_bytes);
        let used = space.total.0.saturating_sub(space.available.0).saturating_add(taken);
        let mut out: Vec<(Entry, Save, Tree)> = Vec::with_capacity(trees.len());
        // From the newest on, so that each knows whether a later one is complete, and of which step.
        let mut furthest: Option<u64> = None;
        for (i, (entry, tree, still)) in trees.iter().enumerate().rev() {
            let known = Known {
                layout: entry.layout,
                step: entry.step,
                tree,
                marked_unfinished: unfinished.contains(&entry.name),
                still: *still,
                was_complete: self.before(entry, tree).is_some_and(|k| k.state == SaveState::Complete),
                pointer: pointers.get(&entry.layout).copied().flatten(),
                before: files[..i].iter().rev().flatten().next().copied().or(gone),
                after: files[i + 1..].iter().flatten().next().copied(),
                passed: furthest.zip(entry.step).is_some_and(|(f, step)| f > step),
            };
            let state = state::state(&known);
            if state == SaveState::Complete {
                furthest = furthest.max(entry.step);
            }
            let save = self.remember(entry, tree, state, space, Bytes(used));
            out.push((entry.clone(), save, tree.clone()));
        }
        out.reverse();
        Ok(out)
    }

    /// What the trainer calls complete, by layout. A word that cannot be understood at several looks is told: nothing goes by it.
    fn pointers(&mut self, trees: &[(Entry, Tree, bool)]) -> HashMap<Layout, Option<Pointer>> {
        let all: HashMap<Layout, Result<Option<Pointer>, Unreadable>> =
            trees.iter().map(|(e, ..)| (e.layout, survey::pointer(&self.dir, e.layout))).collect();
        let unclear = all.iter().find(|(_, p)| p.is_err()).map(|(layout, _)| *layout);
        self.unclear = if unclear.is_some() { self.unclear + 1 } else { 0 };
        if let Some(layout) = unclear.filter(|_| self.unclear >= UNCLEAR) {
            let save = format!("what {layout} keeps to name the latest");
            self.unreadable.push(Trouble::Unreadable { save, error: "it names no step".to_owned() });
        }
        all.into_iter().map(|(layout, p)| (layout, p.unwrap_or(None))).collect()
    }

    /// What is remembered of a checkpoint whose files have not changed since.
    fn before(&self, entry: &Entry, tree: &Tree) -> Option<&Remembered> {
        self.known.get(&entry.name).filter(|k| k.tree.print == tree.print)
    }

    fn remember(&mut self, entry: &Entry, tree: &Tree, state: SaveState, space: &Space, used: Bytes) -> Save {
        let (was, mut kept) = self.before(entry, tree).map_or((None, None), |k| (Some(k.state), k.used));
        let whole = matches!(state, SaveState::Complete | SaveState::Unclear);
        // Of those that were there before, when each came is not known.
        if whole && kept.is_none() && self.looks > 2 {
            kept = Some(used);
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
            self.note(&Event::Save { name: &save.name, step: entry.step, bytes, files, state, available });
        }
        let folder = folder_time(&self.dir.join(&entry.name));
        let walked = self.known.get(&entry.name).filter(|k| k.tree == *tree).map_or(self.looks, |k| k.walked);
        let remembered = Remembered { tree: tree.clone(), state, used: kept, folder, walked };
        self.known.insert(entry.name.clone(), remembered);
        save
    }

    /// The files of a checkpoint, and whether they are as they were at the look before. `None` where it vanished, or cannot be read.
    fn tree(&mut self, entry: &Entry) -> Option<(Tree, bool)> {
        let path = self.dir.join(&entry.name);
        if let Some(k) = self.known.get(&entry.name) {
            let settled = k.state != SaveState::Writing && self.looks - k.walked < SETTLED;
            if settled && k.folder == folder_time(&path) {
                return Some((k.tree.clone(), true));
            }
        }
        let tree = match survey::tree(&path, entry.layout, self.plan.complete_file.as_deref()) {
            Ok(tree) => tree,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => {
                let save = entry.name.to_string_lossy().into_owned();
                self.unreadable.push(Trouble::Unreadable { save, error: e.to_string() });
                return None;
            }
        };
        let still = self.known.get_mut(&entry.name).is_some_and(|k| {
            k.walked = self.looks;
            k.tree.print == tree.print
        });
        Some((tree, still))
    }

    /// Tells what came up and what is no more since the last time: in the journal, and by the plan's command where it is an alarm.
    /// Returns the lines for the job's log.
    pub fn tell(&mut self, findings: &[Finding]) -> Vec<String> {
        let weighing = findings.iter().filter(|f| f.weighs() && f.severity >= Severity::Warn);
        let now: Vec<&Finding> = weighing.collect();
        let mut lines = Vec::new();
        for f in self.fresh(&now) {
            let (code, severity) = (f.code.as_str(), f.severity);
            self.note(&Event::Finding { code, severity, text: &f.evidence });
            let weight = severity.name().to_uppercase();
            lines.push(format!("{weight} {code} {}: {}; {}", f.title(), f.evidence, f.remedy()));
            if severity >= Severity::Fail && !self.plan.on_alarm.is_empty() {
                self.alarm(code, &f.evidence);
            }
        }
        let mut gone: Vec<Code> =
            self.told.iter().map(|t| t.code).filter(|code| now.iter().all(|f| f.code != *code)).collect();
        gone.dedup();
        for code in gone.iter().map(|code| code.as_str()) {
            self.note(&Event::Cleared { code });
            lines.push(format!("cleared {code}"));
        }
        let told = |f: &&Finding| ToldOf { code: f.code, severity: f.severity, text: f.evidence.clone() };
        self.told = now.iter().map(told).collect();
        lines
    }

    /// What was not told yet: of one code and weight as many as are more than before, so that a count that grows is told once.
    fn fresh<'f>(&self, now: &[&'f Finding]) -> Vec<&'f Finding> {
        let mut left: HashMap<(Code, Severity), usize> = HashMap::new();
        now.iter().for_each(|f| *left.entry((f.code, f.severity)).or_default() += 1);
        for t in &self.told {
            if let Some(n) = left.get_mut(&(t.code, t.severity)) {
                *n = n.saturating_sub(1);
            }
        }
        let unseen = |f: &&&Finding| {
            self.told.iter().all(|t| (t.code, &t.text) != (f.code, &f.evidence) || t.severity != f.severity)
        };
        let mut out = Vec::new();
        for f in now.iter().filter(unseen) {
            if let Some(n) = left.get_mut(&(f.code, f.severity)).filter(|n| **n > 0) {
                *n -= 1;
                out.push(*f);
            }
        }
        out
    }

    /// Starts the command for the alarm beside the watch. One that runs still is not started again.
    fn alarm(&mut self, code: &str, text: &str) {
        if self.hook.is_some() {
            return;
        }
        let words: Vec<OsString> = self.plan.on_alarm.iter().map(OsString::from).collect();
        let (code, text, stop) = (code.to_owned(), text.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let spawned = std::thread::Builder::new().name("alarm".into()).spawn(move || {
            let environment = [("GONOGO_ALARM", code.as_str()), ("GONOGO_TEXT", text.as_str())];
            command::run(&words, &environment, HOOK, &stopped).err().map(|e| e.to_string())
        });
        match spawned {
            Ok(thread) => self.hook = Some(Hook { stop, thread }),
            Err(e) => self.hook_error = Some(format!("cannot start a thread: {e}")),
        }
    }

    fn reap_hook(&mut self) {
        if let Some(hook) = self.hook.take_if(|h| h.thread.is_finished()) {
            self.hook_error = hook.thread.join().unwrap_or_else(|_| Some("its thread panicked".to_owned()));
        }
    }

    /// What is being moved now.
    pub fn moving(&self) -> Option<Progress> {
        self.mover.as_ref()?.progress()
    }

    /// Whether every save of the plan was made, and nothing is under way.
    pub fn is_over(&self, run: &RunPlan) -> bool {
        let total = run.checkpoint.as_ref().and_then(|c| Some(c.total_steps? - c.total_steps? % c.interval_steps?));
        let last = self.known.iter().filter(|(_, k)| k.state == SaveState::Complete);
        let steps = last.filter_map(|(name, _)| survey::step_of(&name.to_string_lossy()));
        let busy = self.mover.as_ref().is_some_and(Mover::is_busy);
        !busy && total.zip(steps.max()).is_some_and(|(total, step)| step as f64 >= total)
    }

    /// Ends a move under way where it stands, and the journal.
    pub fn end(mut self, why: &str) {
        if let Some(mover) = &mut self.mover {
            mover.end();
        }
        if let Some(hook) = self.hook.take() {
            let until = Instant::now() + LAST_HOOK;
            while !hook.thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            hook.stop.store(true, Ordering::Relaxed);
            let _ = hook.thread.join();
        }
        self.note(&Event::Ended { why });
    }
}

fn write(journal: &mut Option<Journal>, error: &mut Option<String>, event: &Event<'_>) {
    if let Some(journal) = journal {
        *error = journal.note(event).err().map(|e| e.to_string());
    }
}

/// When a folder's own entries last changed.
fn folder_time(path: &Path) -> (i64, i64) {
    fs::symlink_metadata(path).map_or((0, 0), |m| (m.mtime(), m.mtime_nsec()))
}
