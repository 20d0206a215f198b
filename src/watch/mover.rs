//! Which checkpoint goes next, and how far the one is that goes: copied, looked at once more, renamed, removed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::measure::{Save, SaveState, Space, Trouble};
use crate::plan::WatchPlan;
use crate::watch::copy::{CopyError, Sum};
use crate::watch::journal::Event;
use crate::watch::moving::{self, Job, Manifest, MoveError, Place, Recovered, read_manifest};
use crate::watch::survey::{self, Entry, Tree};

/// Attempts to move one checkpoint before the next is tried.
const ATTEMPTS: u32 = 3;
/// After a failure the next attempt waits; each time longer.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);
/// At the end a copy or a removal is waited for, unless its file system hangs.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// What is left of copies is looked for every so many looks.
const TIDY: u64 = 60;
/// Moves whose times are kept.
const KEPT: usize = 8;

/// What a look saw.
pub(super) struct Seen<'s> {
    /// As they were written.
    pub hot: &'s [(Entry, Save, Tree)],
    /// Names that links in the directory lead to.
    pub linked: &'s [OsString],
    pub space: &'s Space,
}

/// What is being moved, for a line on a terminal.
pub struct Progress {
    pub name: String,
    /// Of the checkpoint's bytes, written and read back.
    pub share: f64,
    pub bytes_per_second: f64,
}

struct Copying {
    job: Job,
    began: Instant,
    moved: Arc<AtomicU64>,
    thread: JoinHandle<(Result<Sum, MoveError>, Duration)>,
}

enum Phase {
    Idle,
    Copying(Box<Copying>),
    /// Its copy is proven and has its name; whether it may go is asked again, with what is known then.
    Published(Box<Job>, Sum, Duration),
}

/// What waits for its removal: no checkpoint any more.
struct Leaving {
    path: PathBuf,
    /// Of another watch: its copy, which is read again before.
    copy: Option<PathBuf>,
    error: Option<String>,
    retry: Instant,
}

/// Moves one checkpoint after the other.
pub(super) struct Mover {
    hot: PathBuf,
    place: Place,
    cold: Option<(u64, u64)>,
    plan: WatchPlan,
    keep: usize,
    stop: Arc<AtomicBool>,
    phase: Phase,
    removing: Option<(Leaving, JoinHandle<Result<(), String>>)>,
    leaving: Vec<Leaving>,
    /// What an earlier watch left and nobody may take away unasked: its path, and why.
    stuck: Vec<(PathBuf, String)>,
    looks: u64,
    failed: BTreeMap<OsString, (u32, Trouble)>,
    retry: Instant,
    /// The high mark was passed, and the low one is not reached yet.
    emptying: bool,
    /// Those in the cold place.
    pub moved: Vec<Manifest>,
    /// Since the watch began.
    pub moved_bytes: u64,
    pub moves_s: Vec<f64>,
}

impl Mover {
    pub(super) fn new(hot: &Path, place: Place, plan: WatchPlan, keep: usize) -> Self {
        let cold = match &place {
            Place::Directory(cold) => identity(cold),
            Place::Commands { .. } => None,
        };
        Mover {
            hot: hot.to_owned(),
            place,
            cold,
            plan,
            keep,
            stop: Arc::new(AtomicBool::new(false)),
            phase: Phase::Idle,
            removing: None,
            leaving: Vec::new(),
            stuck: Vec::new(),
            looks: 0,
            failed: BTreeMap::new(),
            retry: Instant::now(),
            emptying: false,
            moved: Vec::new(),
            moved_bytes: 0,
            moves_s: Vec::new(),
        }
    }

    /// Takes over what an earlier watch left.
    pub(super) fn inherit(&mut self, what: &Recovered) {
        match what {
            Recovered::Removing { path, copy } => self.leaving.push(Leaving {
                path: path.clone(),
                copy: Some(copy.clone()),
                error: None,
                retry: Instant::now(),
            }),
            Recovered::Stuck(path, why) => self.stuck.push((path.clone(), why.clone())),
            Recovered::Restored(_) => {}
        }
    }

    /// Goes on as far as can be without waiting.
    pub(super) fn advance(&mut self, seen: &Seen<'_>, note: &mut dyn FnMut(&Event<'_>)) {
        self.failed.retain(|name, _| seen.hot.iter().any(|(e, ..)| e.name == *name) || name == ALL);
        self.looks += 1;
        self.reap(note);
        if let (Place::Directory(cold), true) = (&self.place, self.looks.is_multiple_of(TIDY)) {
            let under_way = match &self.phase {
                Phase::Copying(c) => Some(c.job.entry.name.as_os_str()),
                _ => None,
            };
            moving::forget_copies(&self.hot, cold, under_way);
        }
        if let Phase::Published(..) = self.phase {
            self.retire(seen, note);
        }
        self.remove();
        if self.removing.is_none()
            && matches!(self.phase, Phase::Idle)
            && Instant::now() >= self.retry
            && self.is_due(seen)
        {
            self.begin(seen, note);
        }
    }

    /// What stands in the way, as facts.
    pub(super) fn troubles(&self) -> Vec<Trouble> {
        let left = self.leaving.iter().filter_map(|l| {
            let error = l.error.clone()?;
            Some(Trouble::Leftover { path: l.path.to_string_lossy().into_owned(), error })
        });
        let stuck = self
            .stuck
            .iter()
            .map(|(path, error)| Trouble::Leftover { path: path.to_string_lossy().into_owned(), error: error.clone() });
        self.failed.values().map(|(_, t)| t.clone()).chain(left).chain(stuck).collect()
    }

    /// Takes note of a copy or a removal that ended.
    fn reap(&mut self, note: &mut dyn FnMut(&Event<'_>)) {
        if let Some((mut left, thread)) = self.removing.take_if(|(_, thread)| thread.is_finished()) {
            let ended = thread.join().unwrap_or_else(|_| Err("cannot be removed: the thread panicked".to_owned()));
            if let Err(error) = ended {
                (left.error, left.retry) = (Some(error), Instant::now() + 12 * PATIENCE);
                self.leaving.push(left);
            }
        }
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Copying(c) if c.thread.is_finished() => {
                let Copying { job, thread, .. } = *c;
                let name = job.entry.name.to_string_lossy().into_owned();
                match thread.join() {
                    Ok((Ok(sum), took)) => self.phase = Phase::Published(Box::new(job), sum, took),
                    Ok((Err(error), _)) => self.failed_copy(&job, &name, &error, note),
                    Err(_) => self.refused(&job.entry.name, &name, "the copying thread panicked", note),
                }
            }
            other => self.phase = other,
        }
    }

    /// What was copied loses its name, if it still may.
    fn retire(&mut self, seen: &Seen<'_>, note: &mut dyn FnMut(&Event<'_>)) {
        let Phase::Published(job, sum, took) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        let name = job.entry.name.to_string_lossy().into_owned();
        let here = seen.hot.iter().find(|(e, ..)| e.name == job.entry.name);
        let same = here.is_some_and(|(_, s, t)| s.state == SaveState::Complete && t.print == job.tree.print);
        if !same || !self.may_go(seen).any(|(e, _)| e.name == job.entry.name) {
            return note(&Event::MoveFailed { name: &name, error: "it is copied, and may not be removed any more" });
        }
        if !self.is_place_there() {
            return self.place_changed(note);
        }
        match job.retire(&sum) {
            Ok(path) => {
                self.moved_bytes = self.moved_bytes.saturating_add(sum.bytes);
                let seconds = took.as_secs_f64();
                self.moves_s.push(seconds);
                let spare = self.moves_s.len().saturating_sub(KEPT);
                self.moves_s.drain(..spare);
                self.failed.remove(&job.entry.name);
                self.failed.remove(OsStr::new(ALL));
                if let Place::Directory(cold) = &self.place {
                    self.moved.retain(|known| known.name != name);
                    self.moved.extend(read_manifest(cold, &job.entry.name));
                }
                let (files, bytes, digest) = (sum.files, sum.bytes, sum.hex());
                note(&Event::Moved { name: &name, files, bytes, digest: &digest, seconds });
                self.leaving.push(Leaving { path, copy: None, error: None, retry: Instant::now() });
            }
            Err(error) => self.failed_copy(&job, &name, &error, note),
        }
    }

    /// Removes the next of what leaves, in a thread: a million files take a while.
    fn remove(&mut self) {
        if self.removing.is_some() {
            return;
        }
        let now = Instant::now();
        let Some(i) = self.leaving.iter().position(|l| l.retry <= now) else { return };
        let mut next = self.leaving.swap_remove(i);
        let (path, copy, hot, stop) = (next.path.clone(), next.copy.clone(), self.hot.clone(), self.stop.clone());
        let spawned = thread::Builder::new().name("remove".into()).spawn(move || {
            if let Some(copy) = copy {
                match moving::is_as_published(&copy, &stop) {
                    Ok(true) => {}
                    Ok(false) => return Err("was about to be removed, and its copy is another now".to_owned()),
                    Err(e) => return Err(format!("was about to be removed, and its copy cannot be read: {e}")),
                }
            }
            let removed = moving::remove(&path).and_then(|()| fs::File::open(&hot)?.sync_all());
            removed.map_err(|e| format!("cannot be removed: {e}"))
        });
        match spawned {
            Ok(thread) => self.removing = Some((next, thread)),
            Err(e) => {
                (next.error, next.retry) = (Some(format!("cannot start a thread: {e}")), now + PATIENCE);
                self.leaving.push(next);
            }
        }
    }

    /// Begins to copy the oldest that may go.
    fn begin(&mut self, seen: &Seen<'_>, note: &mut dyn FnMut(&Event<'_>)) {
        if !self.is_place_there() {
            return self.place_changed(note);
        }
        // Those that failed come last: they are tried again when there is nothing else.
        let gave_up = |e: &Entry| self.failed.get(&e.name).is_some_and(|(times, _)| *times >= ATTEMPTS);
        let all: Vec<(&Entry, &Tree)> = self.may_go(seen).collect();
        let Some((entry, tree)) = all.iter().find(|(e, _)| !gave_up(e)).or_else(|| all.first()).copied() else {
            return;
        };
        let name = entry.name.to_string_lossy().into_owned();
        if let Some((path, why)) = &tree.unmovable {
            let (save, path) = (name, path.to_string_lossy().into_owned());
            let trouble = Trouble::Unmovable { save, path, why: (*why).to_owned() };
            self.failed.insert(entry.name.clone(), (ATTEMPTS, trouble));
            self.wait(1);
            return;
        }
        let job = Job {
            hot: self.hot.clone(),
            place: self.place.clone(),
            entry: entry.clone(),
            tree: tree.clone(),
            complete_file: self.plan.complete_file.clone(),
            rate: self.plan.rate.map(|r| r.0),
        };
        note(&Event::MoveBegan { name: &name, bytes: tree.bytes });
        let (stop, moved, of_thread) = (self.stop.clone(), Arc::new(AtomicU64::new(0)), job.clone());
        let counted = moved.clone();
        let spawned = thread::Builder::new().name("move".into()).spawn(move || {
            let began = Instant::now();
            (of_thread.copy(&stop, &counted), began.elapsed())
        });
        match spawned {
            Ok(thread) => self.phase = Phase::Copying(Box::new(Copying { job, began: Instant::now(), moved, thread })),
            Err(e) => self.refused(&job.entry.name, &name, &format!("cannot start a thread: {e}"), note),
        }
    }

    /// Whether the space asks for a move: at the high mark until the low one, or with too little room for the next saves.
    fn is_due(&mut self, seen: &Seen<'_>) -> bool {
        let space = seen.space;
        let used = 1.0 - space.available.as_f64() / space.total.as_f64().max(1.0);
        if used > self.plan.high() {
            self.emptying = true;
        } else if used <= self.plan.low() {
            self.emptying = false;
        }
        let whole = || seen.hot.iter().rev().filter(|(_, s, _)| s.state != SaveState::Writing).take(3);
        let writing = seen.hot.iter().filter(|(_, s, _)| s.state == SaveState::Writing);
        let room = writing.fold(space.available.0, |sum, (_, s, _)| sum.saturating_add(s.bytes.0));
        let needs = |each: u64| each.saturating_mul(self.plan.reserve());
        let bytes = whole().map(|(_, s, _)| s.bytes.0).max().is_some_and(|size| room < needs(size));
        let files = whole().map(|(_, s, _)| s.files).max().zip(space.inodes_free);
        bytes || files.is_some_and(|(files, free)| free < needs(files)) || self.emptying
    }

    /// Those that are complete and may go, the oldest first. The newest stay, by the time of their files and by their step, as a clock may
    /// jump and a run may be rewound; the milestones; and what the trainer's pointer names.
    fn may_go<'s>(&self, seen: &'s Seen<'_>) -> impl Iterator<Item = (&'s Entry, &'s Tree)> {
        let complete: Vec<&(Entry, Save, Tree)> =
            seen.hot.iter().filter(|(_, s, _)| s.state == SaveState::Complete).collect();
        let mut steps: Vec<u64> = complete.iter().filter_map(|(e, ..)| e.step).collect();
        steps.sort_unstable();
        let highest = steps.len().checked_sub(self.keep).map_or(0, |i| steps[i]);
        let pointers: Vec<Result<Option<survey::Pointer>, survey::Unreadable>> =
            seen.hot.iter().map(|(e, ..)| survey::pointer(&self.hot, e.layout)).collect();
        // A pointer that cannot be read now may name any of them.
        let sure = pointers.iter().all(Result::is_ok);
        let pointed: Vec<u64> = pointers.into_iter().flatten().flatten().map(|p| p.step).collect();
        let milestone = self.plan.milestone_steps.filter(|m| *m > 0);
        let stays = move |e: &Entry| {
            if seen.linked.contains(&e.name) {
                return true;
            }
            e.step.is_some_and(|s| s >= highest || pointed.contains(&s) || milestone.is_some_and(|m| s % m == 0))
        };
        let older = if sure { complete.len().saturating_sub(self.keep) } else { 0 };
        complete.into_iter().take(older).map(|(e, _, t)| (e, t)).filter(move |(e, _)| !stays(e))
    }

    fn failed_copy(&mut self, job: &Job, name: &str, error: &MoveError, note: &mut dyn FnMut(&Event<'_>)) {
        let save = name.to_owned();
        let text = |p: &Path| p.to_string_lossy().into_owned();
        let times = self.failed.get(&job.entry.name).map_or(0, |(n, _)| *n) + 1;
        let trouble = match error {
            MoveError::Copy(CopyError::Stopped) => return,
            // Its trainer writes it again: it is a save under way, and no failure.
            MoveError::Copy(CopyError::Changed(_)) => {
                return note(&Event::MoveFailed { name, error: "it changed meanwhile" });
            }
            MoveError::Copy(CopyError::Differs(path)) => Trouble::CopyDiffers { save, path: text(path) },
            MoveError::NotAsPublished(path, _) => Trouble::CopyDiffers { save, path: text(path) },
            MoveError::Copy(CopyError::Unmovable { path, why }) => {
                Trouble::Unmovable { save, path: text(path), why: (*why).to_owned() }
            }
            MoveError::Full { needed, available } => Trouble::ColdFull { save, needed: *needed, available: *available },
            other => Trouble::MoveFails { save, error: other.to_string(), times },
        };
        self.wait(times);
        note(&Event::MoveFailed { name, error: &error.to_string() });
        self.failed.insert(job.entry.name.clone(), (times, trouble));
    }

    /// Whether the cold place is the one that the watch began with.
    fn is_place_there(&self) -> bool {
        match &self.place {
            Place::Directory(cold) => identity(cold) == self.cold,
            Place::Commands { .. } => true,
        }
    }

    fn place_changed(&mut self, note: &mut dyn FnMut(&Event<'_>)) {
        let error = format!("{} is not the directory that it was when the watch began", self.place.shown());
        self.refused(OsStr::new(ALL), ALL, &error, note);
    }

    fn refused(&mut self, key: &OsStr, name: &str, error: &str, note: &mut dyn FnMut(&Event<'_>)) {
        let times = self.failed.get(key).map_or(0, |(n, _)| *n) + 1;
        self.wait(times);
        note(&Event::MoveFailed { name, error });
        let trouble = Trouble::MoveFails { save: name.to_owned(), error: error.to_owned(), times };
        self.failed.insert(key.to_owned(), (times, trouble));
    }

    fn wait(&mut self, times: u32) {
        let longer = PATIENCE.saturating_mul(1u32 << times.min(8).saturating_sub(1));
        self.retry = Instant::now() + longer.min(LONGEST_PATIENCE);
    }

    pub(super) fn progress(&self) -> Option<Progress> {
        let Phase::Copying(c) = &self.phase else { return None };
        // Each byte is written once and read back once.
        let done = c.moved.load(Ordering::Relaxed) as f64;
        Some(Progress {
            name: c.job.entry.name.to_string_lossy().into_owned(),
            share: (done / 2.0 / c.job.tree.bytes.max(1) as f64).min(1.0),
            bytes_per_second: done / c.began.elapsed().as_secs_f64().max(1e-3),
        })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.removing.is_some() || !matches!(self.phase, Phase::Idle)
    }

    /// Ends a copy where it stands: what lies there is gone on with by the next watch.
    pub(super) fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + LAST_WAIT;
        let busy = |m: &Mover| {
            let copies = matches!(&m.phase, Phase::Copying(c) if !c.thread.is_finished());
            copies || m.removing.as_ref().is_some_and(|(_, t)| !t.is_finished())
        };
        while busy(self) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What is said of all.
const ALL: &str = "every checkpoint";

/// Which directory a path is.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}
