//! One checkpoint from the hot place to the cold: copied, proven, published under its name, and only then removed here.
//!
//! Whatever ends this process, the next one finds its way by what lies on the disks alone:
//!
//! | in the cold place | in the hot place | what it means |
//! |---|---|---|
//! | `.gonogo-part.NAME` | `NAME` | the copy is under way: what lies there is compared, and the rest copied |
//! | `NAME`, and its manifest | `NAME` | published; it is held against the hot one again before that goes |
//! | `NAME`, and its manifest | `.gonogo-moved.N.NAME` | it is looked at once more; nothing of it is gone: it gets its name again |
//! | `NAME`, and its manifest | `.gonogo-removing.N.NAME` | it is being removed, and that is ended |

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::files::{self, Readers};
use crate::id::clean;
use crate::plan::fill;
use crate::sys::space;
use crate::unit::Bytes;
use crate::watch::command;
use crate::watch::copy::{Control, CopyError, Sum, copy, is_there, sum_of};
use crate::watch::lock;
use crate::watch::survey::{self, Entry, OWN, Tree};
use crate::work::Layout;

/// Manifests of what was moved, a file each, and whose place it is.
const MANIFESTS: &str = ".gonogo";
const OWNER: &str = "owner";
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
    #[error("{} is not what was published there; it is kept as {}", .0.display(), .1.display())]
    NotAsPublished(PathBuf, PathBuf),
    #[error("{} is in the way: {why}", path.display())]
    InTheWay { path: PathBuf, why: &'static str },
}

impl MoveError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MoveError {
        let path = path.to_owned();
        move |source| MoveError::Io { what, path, source }
    }
}

/// One move.
#[derive(Clone)]
pub(super) struct Job {
    pub hot: PathBuf,
    pub place: Place,
    pub entry: Entry,
    /// As it was when it was chosen: whatever differs later was written by its trainer.
    pub tree: Tree,
    pub complete_file: Option<String>,
    pub rate: Option<f64>,
}

fn part_of(cold: &Path, name: &OsStr) -> PathBuf {
    cold.join(own("part.", name))
}

fn own(kind: &str, name: &OsStr) -> OsString {
    let mut out = OsString::from(format!("{OWN}{kind}"));
    out.push(name);
    out
}

/// A name on the way out that nothing else has: two may leave under one name, one after the other.
fn leaving(kind: &str, name: &OsStr) -> OsString {
    own(&format!("{kind}.{:x}.", Timestamp::now().as_nanosecond()), name)
}

/// The checkpoint's name behind `.gonogo-KIND.N.`.
fn left(kind: &str, file: &OsStr) -> Option<OsString> {
    let rest = file.as_bytes().strip_prefix(format!("{OWN}{kind}.").as_bytes())?;
    let dot = rest.iter().position(|b| *b == b'.')?;
    Some(OsStr::from_bytes(&rest[dot + 1..]).to_owned())
}

fn manifest_of(cold: &Path, name: &OsStr) -> PathBuf {
    let mut file = name.to_owned();
    file.push(".json");
    cold.join(MANIFESTS).join(file)
}

pub(super) fn read_manifest(cold: &Path, name: &OsStr) -> Option<Manifest> {
    let file = files::open_in_place(&manifest_of(cold, name)).ok()?;
    serde_json::from_slice(&files::read(file, LARGEST).ok()?).ok()
}

/// Which file or folder a path is, a link being itself.
fn own_identity(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|m| (m.dev(), m.ino()))
}

/// A folder itself, and no link to one.
fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|m| m.is_dir())
}

/// All manifests of a cold place whose checkpoints are still there.
pub(super) fn manifests(cold: &Path) -> Vec<Manifest> {
    let Ok(entries) = fs::read_dir(cold.join(MANIFESTS)) else { return Vec::new() };
    let name = |e: fs::DirEntry| e.path().file_stem().map(OsStr::to_owned);
    let there = |name: &OsString| is_folder(&cold.join(name));
    // What was put aside bears another name than its manifest says.
    let own = |name: OsString| read_manifest(cold, &name).filter(|m| *m.name == *name.to_string_lossy());
    entries.flatten().filter_map(name).filter(there).filter_map(own).collect()
}

/// Makes a cold place that of a hot one, for as long as what is returned is kept: two runs, and two nodes with local disks, have the same
/// names for their checkpoints. `id` tells the hot place from others of the same path.
pub(super) fn claim(cold: &Path, hot: &Path, id: &str) -> io::Result<File> {
    let folder = cold.join(MANIFESTS);
    match fs::create_dir(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ if !is_folder(&folder) => return Err(io::Error::other(format!("{} is no folder", folder.display()))),
        _ => {}
    }
    let lock = lock::take(&folder.join("lock"))?;
    let path = folder.join(OWNER);
    let mut own = hot.canonicalize()?.into_os_string().into_vec();
    own.extend(format!("\n{id}\n").bytes());
    let owner = match files::open_in_place(&path) {
        Ok(file) => files::read(file, LARGEST)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e),
    };
    // One that was killed while it was written is nobody's.
    if !owner.ends_with(b"\n") {
        files::replace(&path, Readers::Others, |f| f.write_all(&own).and_then(|()| f.sync_all()))?;
        File::open(&folder)?.sync_all()?;
        return Ok(lock);
    }
    if owner == own {
        return Ok(lock);
    }
    let line = owner.split(|b| *b == b'\n').next().unwrap_or_default();
    Err(io::Error::other(format!(
        "it holds the checkpoints of {}{}; give each run a cold place of its own, or remove {} if that run is this one",
        String::from_utf8_lossy(line),
        if own.starts_with(line) { " on another node, or of another time" } else { "" },
        path.display()
    )))
}

impl Job {
    /// Copies it to the cold place and proves the copy; nothing is removed. `moved` counts the bytes, `stop` ends it early.
    pub(super) fn copy(&self, stop: &AtomicBool, moved: &AtomicU64) -> Result<Sum, MoveError> {
        let control = Control { stop, moved, rate: self.rate, started: Instant::now() };
        let source = self.hot.join(&self.entry.name);
        match &self.place {
            Place::Directory(cold) => self.copy_to(cold, &source, &control),
            Place::Commands { copy, verify } => {
                self.command(copy, &source, stop)?;
                self.command(verify, &source, stop)?;
                Ok(Sum { files: self.tree.files, bytes: self.tree.bytes, ..Sum::default() })
            }
        }
    }

    fn copy_to(&self, cold: &Path, source: &Path, control: &Control<'_>) -> Result<Sum, MoveError> {
        let (part, published) = (part_of(cold, &self.entry.name), cold.join(&self.entry.name));
        if is_there(&published) && (!is_folder(&published) || own_identity(&published) == own_identity(source)) {
            return Err(MoveError::InTheWay { path: published, why: "it is no copy" });
        }
        if is_there(&part) && !is_folder(&part) {
            throw_away(&part);
        }
        let manifest = read_manifest(cold, &self.entry.name).filter(|_| is_there(&published));
        if let Some(manifest) = manifest {
            // It was killed after the copy had its name, or a restart wrote the same step again.
            let here = sum_of(source, control)?;
            if here.hex() == manifest.digest {
                throw_away(&part);
                if sum_of(&published, control)? == here {
                    flush(cold)?;
                    return Ok(here);
                }
                let aside = self.aside(cold, "damaged")?;
                return Err(MoveError::NotAsPublished(published, aside));
            }
        }
        let available = space(cold).map_err(MoveError::io("cannot look at", cold))?.available;
        let there = survey::tree(&part, self.entry.layout, None).map_or(0, |t| t.bytes);
        let needed = self.tree.bytes.saturating_sub(there);
        if available < needed {
            return Err(MoveError::Full { needed: Bytes(needed), available: Bytes(available) });
        }
        let sum = copy(source, &part, control).inspect_err(|e| {
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

    /// Gives what is published under this name another, with its manifest: it is kept, and nobody takes it for the checkpoint.
    fn aside(&self, cold: &Path, why: &str) -> Result<PathBuf, MoveError> {
        let mut name = self.entry.name.clone();
        name.push(format!(".{why}-{}", Timestamp::now().as_nanosecond()));
        let (published, aside) = (cold.join(&self.entry.name), cold.join(&name));
        rename_new(&published, &aside).map_err(MoveError::io("cannot put aside", &published))?;
        let _ = fs::rename(manifest_of(cold, &self.entry.name), manifest_of(cold, &name));
        flush(cold)?;
        Ok(aside)
    }

    /// The manifest first: a copy with its name and without one would be nobody's.
    fn publish(&self, cold: &Path, part: &Path, published: &Path, sum: &Sum) -> Result<(), MoveError> {
        let time = |ns: Option<i128>| ns.and_then(|ns| Timestamp::from_nanosecond(ns).ok()).unwrap_or_default();
        if is_there(published) {
            // An older one of that name, of a run that was rewound.
            self.aside(cold, "replaced")?;
        }
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
        let (path, folder) = (manifest_of(cold, &self.entry.name), cold.join(MANIFESTS));
        let text = serde_json::to_vec(&manifest).unwrap_or_default();
        files::replace(&path, Readers::Others, |f| f.write_all(&text).and_then(|()| f.sync_all()))
            .map_err(MoveError::io("cannot write", &path))?;
        flush(&folder)?;
        rename_new(part, published).map_err(MoveError::io("cannot publish", published))?;
        flush(cold)
    }

    /// Takes the name away from the hot one, at once, if its files are still those that were copied; what is returned is to be removed.
    pub(super) fn retire(&self, proven: &Sum) -> Result<PathBuf, MoveError> {
        let source = self.hot.join(&self.entry.name);
        if let Place::Directory(cold) = &self.place {
            // The copy may have been taken away since, or its whole place.
            let published = cold.join(&self.entry.name);
            let digest = read_manifest(cold, &self.entry.name).map(|m| m.digest);
            if digest != Some(proven.hex())
                || !is_whole(cold, &self.entry.name)
                || own_identity(&published) == own_identity(&source)
            {
                return Err(MoveError::InTheWay { path: published, why: "it is not the copy that was made" });
            }
        }
        if self.look(&source)? != self.tree.print {
            return Err(CopyError::Changed(source).into());
        }
        let away = self.hot.join(leaving("moved", &self.entry.name));
        rename_new(&source, &away).map_err(MoveError::io("cannot rename", &source))?;
        // Whoever wrote between the look and the rename keeps what he wrote.
        let unchanged = flush(&self.hot).and_then(|()| self.look(&away)).map(|print| print == self.tree.print);
        // From here on it is no checkpoint any more, and by its name nobody takes it for one.
        let removing = self.hot.join(leaving("removing", &self.entry.name));
        let renamed = match unchanged {
            Ok(true) => rename_new(&away, &removing).map_err(MoveError::io("cannot rename", &away)),
            Ok(false) => Err(CopyError::Changed(source.clone()).into()),
            Err(e) => Err(e),
        };
        if let Err(e) = renamed {
            rename_new(&away, &source).map_err(MoveError::io("cannot give its name back to", &away))?;
            return Err(e);
        }
        flush(&self.hot)?;
        Ok(removing)
    }

    fn command(&self, words: &[String], source: &Path, stop: &AtomicBool) -> Result<(), MoveError> {
        let values = [("{name}", self.entry.name.as_os_str()), ("{source}", source.as_os_str())];
        let filled: Vec<OsString> = words.iter().map(|w| fill(w, &values)).collect();
        let limit = Duration::try_from_secs_f64(self.tree.bytes as f64 / SLOWEST).unwrap_or(LEAST).max(LEAST);
        command::run(&filled, &[], limit, stop).map_err(|error| match error {
            command::Failed::Stopped => CopyError::Stopped.into(),
            other => {
                let shown: Vec<_> = filled.iter().map(|w| w.to_string_lossy()).collect();
                MoveError::Command { command: clean(&shown.join(" ")).into_owned(), how: other.to_string() }
            }
        })
    }
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
    let _ = if is_folder(part) { remove(part) } else { fs::remove_file(part) };
}

/// What became of a move that a death cut short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Recovered {
    /// Its copy is in the cold place: it is to be removed here, once that is read again.
    Removing { path: PathBuf, copy: PathBuf },
    /// It has its name again.
    Restored(String),
    /// It can neither get its name again nor be removed.
    Stuck(PathBuf, String),
}

/// What lies there of watches that are no more: some gets its name again, some is to be removed.
pub(super) fn recover(hot: &Path, place: &Place) -> io::Result<Vec<Recovered>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(hot)? {
        let entry = entry?;
        let (file, path) = (entry.file_name(), entry.path());
        if let Some(name) = left("moved", &file) {
            match rename_new(&path, &hot.join(&name)) {
                Ok(()) => out.push(Recovered::Restored(name.to_string_lossy().into_owned())),
                Err(e) => {
                    let why = format!("cannot get the name {} again: {e}", name.to_string_lossy());
                    out.push(Recovered::Stuck(path, why));
                }
            }
        } else if let Some(name) = left("removing", &file) {
            match place {
                Place::Directory(cold) if is_whole(cold, &name) => {
                    out.push(Recovered::Removing { path, copy: cold.join(&name) });
                }
                Place::Directory(_) => {
                    let why = "was about to be removed, and its copy is not in the cold place";
                    out.push(Recovered::Stuck(path, why.to_owned()));
                }
                // What is left of it cannot be held against anything.
                Place::Commands { .. } => {
                    let why = "was verified and about to be removed when the watch ended; look, and remove it";
                    out.push(Recovered::Stuck(path, why.to_owned()));
                }
            }
        }
    }
    if let Place::Directory(cold) = place {
        forget_copies(hot, cold, None);
        // Manifests that were being written.
        for entry in fs::read_dir(cold.join(MANIFESTS)).into_iter().flatten().flatten() {
            if entry.file_name().as_bytes().starts_with(b".") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    Ok(out)
}

/// Takes away what is left of copies whose checkpoints are no more: removed by their trainer, or moved by a watch that was killed
/// before it had cleared up.
pub(super) fn forget_copies(hot: &Path, cold: &Path, but: Option<&OsStr>) {
    for entry in fs::read_dir(cold).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let Some(name) = file.as_bytes().strip_prefix(format!("{OWN}part.").as_bytes()) else { continue };
        let name = OsStr::from_bytes(name);
        if !is_there(&hot.join(name)) && but != Some(name) {
            throw_away(&entry.path());
        }
    }
}

/// Removes a folder and what is in it, also folders that their owner may not write.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        done => done,
    }
}

fn open_up(path: &Path) -> io::Result<()> {
    if !is_folder(path) {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        open_up(&entry?.path())?;
    }
    Ok(())
}

/// Whether a copy in the cold place is, byte by byte, what its manifest says.
pub(super) fn is_as_published(copy: &Path, stop: &AtomicBool) -> Result<bool, MoveError> {
    let (Some(cold), Some(name)) = (copy.parent(), copy.file_name()) else { return Ok(false) };
    let counted = AtomicU64::new(0);
    let control = Control { stop, moved: &counted, rate: None, started: Instant::now() };
    let sum = sum_of(copy, &control)?;
    Ok(read_manifest(cold, name).is_some_and(|m| m.digest == sum.hex()))
}

/// Whether a checkpoint is in the cold place with all its files.
fn is_whole(cold: &Path, name: &OsStr) -> bool {
    read_manifest(cold, name).filter(|_| is_folder(&cold.join(name))).is_some_and(|m| {
        let there = survey::tree(&cold.join(name), Layout::Plain, None);
        there.is_ok_and(|t| (t.files, t.bytes) == (m.files, m.bytes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_way_out_are_read_back() {
        let name = OsStr::new("global.step=5");
        let file = leaving("removing", name);
        assert_eq!(left("removing", &file).as_deref(), Some(name));
        assert_eq!((left("moved", &file), left("removing", OsStr::new("removing.1.x"))), (None, None));
    }
}
