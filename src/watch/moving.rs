//! One checkpoint from the hot place to the cold: copied, proven, published under its name, and only then removed here.
//!
//! Whatever ends this process, the next one finds its way by what lies on the disks alone:
//!
//! | in the cold place | in the hot place | what it means |
//! |---|---|---|
//! | `.gonogo-part.NAME` | `NAME` | the copy is under way, and goes on |
//! | `NAME`, and its manifest | `NAME` | published; it is held against the hot one again before that goes |
//! | `NAME`, and its manifest | `.gonogo-moved.NAME` | it is looked at once more; nothing of it is gone: it gets its name again |
//! | `NAME`, and its manifest | `.gonogo-removing.NAME` | it is being removed, and that is ended |

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::files::{self, Readers};
use crate::id::clean;
use crate::unit::Bytes;
use crate::watch::copy::{Control, Copier, CopyError, Sum, is_there, list_of, sum_of};
use crate::watch::survey::{self, Entry, OWN, Tree};
use crate::work::Layout;

/// Manifests of what was moved, a file each.
const MANIFESTS: &str = ".gonogo";
/// A manifest is a line.
const LARGEST: u64 = 64 << 10;
/// A command that moves less than this in a second hangs.
const SLOWEST: f64 = 1e6;
/// However little it moves.
const LEAST: Duration = Duration::from_secs(600);

/// What was moved: written before its copy gets its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub name: String,
    pub step: Option<u64>,
    pub files: u64,
    pub bytes: u64,
    /// Over names, sizes and contents.
    pub digest: String,
    pub began: Timestamp,
    pub ended: Timestamp,
    pub moved: Timestamp,
}

/// Where checkpoints go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Directory(PathBuf),
    Commands { copy: Vec<String>, verify: Vec<String> },
}

impl Place {
    pub(super) fn shown(&self) -> String {
        match self {
            Place::Directory(dir) => dir.to_string_lossy().into_owned(),
            Place::Commands { copy, .. } => format!("`{}`", copy.join(" ")),
        }
    }
}

/// Why a checkpoint was not moved.
#[derive(Debug, thiserror::Error)]
pub(super) enum MoveError {
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error("{available} free, {needed} needed")]
    Full { needed: Bytes, available: Bytes },
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("`{command}` {how}")]
    Command { command: String, how: String },
    #[error("{} was published with other content than it has", .0.display())]
    NotAsPublished(PathBuf),
}

impl MoveError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MoveError {
        let path = path.to_owned();
        move |source| MoveError::Io { what, path, source }
    }
}

/// One move.
pub(super) struct Job {
    pub hot: PathBuf,
    pub place: Place,
    pub entry: Entry,
    /// As it was when it was chosen: whatever differs later was written by its trainer.
    pub tree: Tree,
    pub complete_file: Option<String>,
    pub rate: Option<f64>,
}

/// The names on the way.
fn part_of(cold: &Path, name: &OsStr) -> PathBuf {
    cold.join(own("part.", name))
}

fn leaving(hot: &Path, name: &OsStr) -> PathBuf {
    hot.join(own("moved.", name))
}

fn own(kind: &str, name: &OsStr) -> OsString {
    let mut out = OsString::from(format!("{OWN}{kind}"));
    out.push(name);
    out
}

fn manifest_of(cold: &Path, name: &OsStr) -> PathBuf {
    let mut file = name.to_owned();
    file.push(".json");
    cold.join(MANIFESTS).join(file)
}

pub(super) fn read_manifest(cold: &Path, name: &OsStr) -> Option<Manifest> {
    let file = files::open(&manifest_of(cold, name)).ok()?;
    serde_json::from_slice(&files::read(file, LARGEST).ok()?).ok()
}

/// All manifests of a cold place whose checkpoints are still there.
pub(super) fn manifests(cold: &Path) -> Vec<Manifest> {
    let Ok(entries) = fs::read_dir(cold.join(MANIFESTS)) else { return Vec::new() };
    let name = |e: fs::DirEntry| e.path().file_stem().map(OsStr::to_owned);
    let there = |name: &OsString| cold.join(name).is_dir();
    entries.flatten().filter_map(name).filter(there).filter_map(|n| read_manifest(cold, &n)).collect()
}

impl Job {
    /// Moves it. `moved` counts the bytes, `stop` ends it early: what is proven stays proven.
    pub(super) fn run(&self, stop: &AtomicBool, moved: &AtomicU64) -> Result<Sum, MoveError> {
        let control = Control { stop, moved, rate: self.rate, started: Instant::now() };
        let source = self.hot.join(&self.entry.name);
        let sum = match &self.place {
            Place::Directory(cold) => self.copy_to(cold, &source, &control)?,
            Place::Commands { copy, verify } => {
                self.command(copy, &source, stop)?;
                self.command(verify, &source, stop)?;
                Sum { files: self.tree.files, bytes: self.tree.bytes, ..Sum::default() }
            }
        };
        self.remove(&source)?;
        Ok(sum)
    }

    fn copy_to(&self, cold: &Path, source: &Path, control: &Control<'_>) -> Result<Sum, MoveError> {
        let (part, published) = (part_of(cold, &self.entry.name), cold.join(&self.entry.name));
        if let Some(manifest) = read_manifest(cold, &self.entry.name).filter(|_| published.is_dir()) {
            // It was killed after the copy had its name, or a restart wrote the same step again.
            let here = sum_of(source, control)?;
            if here.hex() == manifest.digest {
                throw_away(&part);
                let there = sum_of(&published, control)?;
                return if there == here { Ok(here) } else { Err(MoveError::NotAsPublished(published)) };
            }
        }
        let available = rustix::fs::statvfs(cold)
            .map(|s| s.f_bavail.saturating_mul(s.f_frsize))
            .map_err(|e| MoveError::io("cannot look at", cold)(e.into()))?;
        let there = survey::tree(&part, self.entry.layout, None).map_or(0, |t| t.bytes);
        let needed = self.tree.bytes.saturating_sub(there);
        if available < needed {
            return Err(MoveError::Full { needed: Bytes(needed), available: Bytes(available) });
        }
        let sum = Copier::new(source, &part, control)?.run().inspect_err(|e| {
            if matches!(e, CopyError::Differs(_) | CopyError::Changed(_)) {
                throw_away(&part);
            }
        })?;
        // Files of an earlier copy, whose source is no more.
        let copied = survey::tree(&part, self.entry.layout, None).map_err(MoveError::io("cannot look at", &part))?;
        if (copied.files, self.look(source)?) != (sum.files, self.tree.print) {
            throw_away(&part);
            return Err(CopyError::Changed(source.to_owned()).into());
        }
        self.publish(cold, &part, &published, &sum)?;
        Ok(sum)
    }

    fn look(&self, at: &Path) -> Result<u64, MoveError> {
        let tree = survey::tree(at, self.entry.layout, self.complete_file.as_deref());
        Ok(tree.map_err(MoveError::io("cannot look at", at))?.print)
    }

    /// The manifest first: a copy with its name and without one would be nobody's.
    fn publish(&self, cold: &Path, part: &Path, published: &Path, sum: &Sum) -> Result<(), MoveError> {
        let time = |ns: Option<i128>| ns.and_then(|ns| Timestamp::from_nanosecond(ns).ok()).unwrap_or_default();
        let replaced = is_there(published).then(|| {
            let mut name = self.entry.name.clone();
            name.push(format!(".replaced-{}", Timestamp::now().as_second()));
            cold.join(name)
        });
        let manifest = Manifest {
            name: self.entry.name.to_string_lossy().into_owned(),
            step: self.entry.step,
            files: sum.files,
            bytes: sum.bytes,
            digest: sum.hex(),
            began: time(self.tree.oldest),
            ended: time(self.tree.newest),
            moved: Timestamp::now(),
        };
        let path = manifest_of(cold, &self.entry.name);
        let folder = cold.join(MANIFESTS);
        fs::create_dir_all(&folder).map_err(MoveError::io("cannot create", &folder))?;
        let text = serde_json::to_vec(&manifest).unwrap_or_default();
        files::replace(&path, Readers::Others, |f| f.write_all(&text).and_then(|()| f.sync_all()))
            .map_err(MoveError::io("cannot write", &path))?;
        flush(&folder)?;
        match &replaced {
            // An older one of that name, of a run that was rewound: it is kept beside, and at no time is there none.
            Some(aside) => {
                renameat_with(CWD, part, CWD, published, RenameFlags::EXCHANGE)
                    .or_else(|_| fs::rename(published, aside).and_then(|()| fs::rename(part, published)).map_err(of_io))
                    .map_err(|e| MoveError::io("cannot publish", published)(e.into()))?;
                if is_there(part) {
                    fs::rename(part, aside).map_err(MoveError::io("cannot put aside", part))?;
                }
            }
            None => fs::rename(part, published).map_err(MoveError::io("cannot publish", published))?,
        }
        flush(cold)?;
        let _ = fs::remove_file(list_of(part));
        Ok(())
    }

    /// Takes the hot one away: first its name, at once, then its files, if they are still those that were copied.
    fn remove(&self, source: &Path) -> Result<(), MoveError> {
        let away = leaving(&self.hot, &self.entry.name);
        if self.look(source)? != self.tree.print {
            return Err(CopyError::Changed(source.to_owned()).into());
        }
        rename_new(source, &away).map_err(MoveError::io("cannot rename", source))?;
        flush(&self.hot)?;
        // Whoever wrote between the look and the rename keeps what he wrote.
        if self.look(&away)? != self.tree.print {
            rename_new(&away, source).map_err(MoveError::io("cannot give its name back to", &away))?;
            return Err(CopyError::Changed(source.to_owned()).into());
        }
        // From here on it is no checkpoint any more, and by its name nobody takes it for one.
        let removing = self.hot.join(own("removing.", &self.entry.name));
        rename_new(&away, &removing).map_err(MoveError::io("cannot rename", &away))?;
        flush(&self.hot)?;
        fs::remove_dir_all(&removing).map_err(MoveError::io("cannot remove", &removing))?;
        flush(&self.hot)
    }

    fn command(&self, command: &[String], source: &Path, stop: &AtomicBool) -> Result<(), MoveError> {
        let name = self.entry.name.to_string_lossy();
        let filled: Vec<String> =
            command.iter().map(|a| a.replace("{name}", &name).replace("{source}", &source.to_string_lossy())).collect();
        let limit = Duration::try_from_secs_f64(self.tree.bytes as f64 / SLOWEST).unwrap_or(LEAST).max(LEAST);
        run(&filled, &[], limit, stop).map_err(|how| {
            if stop.load(Ordering::Relaxed) {
                return CopyError::Stopped.into();
            }
            MoveError::Command { command: clean(&filled.join(" ")).into_owned(), how }
        })
    }
}

fn of_io(e: io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO)
}

/// A rename that replaces nothing.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // Network file systems do not know the flag.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !is_there(to) => fs::rename(from, to),
        Err(e) => Err(e.into()),
    }
}

fn flush(dir: &Path) -> Result<(), MoveError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(MoveError::io("cannot flush", dir))
}

fn throw_away(part: &Path) {
    let _ = fs::remove_dir_all(part);
    let _ = fs::remove_file(list_of(part));
}

/// What became of a move that a death cut short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Recovered {
    /// Its copy is in the cold place: its removal was ended.
    Removed(String),
    /// No proven copy: it has its name again.
    Restored(String),
}

/// Ends or undoes what a watcher began that is no more.
pub(super) fn recover(hot: &Path, place: Option<&Place>) -> io::Result<Vec<Recovered>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(hot)? {
        let entry = entry?;
        let file = entry.file_name();
        let named = |kind: &str| {
            let name = file.as_bytes().strip_prefix(format!("{OWN}{kind}").as_bytes())?;
            Some(OsStr::from_bytes(name).to_owned())
        };
        if let Some(name) = named("moved.").filter(|n| !is_there(&hot.join(n))) {
            rename_new(&entry.path(), &hot.join(&name))?;
            out.push(Recovered::Restored(name.to_string_lossy().into_owned()));
        } else if let Some(name) = named("removing.") {
            let proven = match place {
                Some(Place::Directory(cold)) => is_whole(cold, &name),
                // What verified it said so before its removal began.
                Some(Place::Commands { .. }) => true,
                None => false,
            };
            if proven {
                fs::remove_dir_all(entry.path())?;
                out.push(Recovered::Removed(name.to_string_lossy().into_owned()));
            }
        }
    }
    if let Some(Place::Directory(cold)) = place {
        forget_copies(hot, cold)?;
    }
    Ok(out)
}

/// Takes away what is left of copies whose checkpoints are no more: removed by their trainer, or moved by a watch that was killed
/// before it had cleared up.
fn forget_copies(hot: &Path, cold: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cold)? {
        let file = entry?.file_name();
        let Some(name) = file.as_bytes().strip_prefix(format!("{OWN}part.").as_bytes()) else { continue };
        let name = OsStr::from_bytes(name.strip_suffix(b".done").unwrap_or(name));
        if !is_there(&hot.join(name)) {
            throw_away(&part_of(cold, name));
        }
    }
    Ok(())
}

/// Whether a checkpoint is in the cold place with all its files.
fn is_whole(cold: &Path, name: &OsStr) -> bool {
    read_manifest(cold, name).is_some_and(|m| {
        let there = survey::tree(&cold.join(name), Layout::Plain, None);
        there.is_ok_and(|t| (t.files, t.bytes) == (m.files, m.bytes))
    })
}

/// Runs a command to its end; its words go where this process's go. An error says how it ended.
pub(super) fn run(
    command: &[String],
    environment: &[(&str, &str)],
    limit: Duration,
    stop: &AtomicBool,
) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let spawned = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .env_remove(crate::cluster::TOKEN_VARIABLE)
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .process_group(0)
        .spawn();
    let mut child = spawned.map_err(|e| format!("cannot be started: {e}"))?;
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("ended with {status}")),
            Ok(None) => {}
            Err(e) => return Err(format!("cannot be waited for: {e}")),
        }
        let stopped = stop.load(Ordering::Relaxed);
        if stopped || Instant::now() > deadline {
            if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            }
            let _ = child.wait();
            return Err(if stopped {
                "was stopped".to_owned()
            } else {
                format!("did not end in {} s", limit.as_secs())
            });
        }
        thread::sleep(Duration::from_millis(50));
    }
}
