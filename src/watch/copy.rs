//! A checkpoint's files into a folder of the cold place, each flushed, read again past the cache, and compared.
//!
//! The folder bears a name of gonogo's own until all of it is proven. What was proven is listed beside it, file by file, so that a
//! copy that was killed goes on where it stopped.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps, fadvise, openat, openat2};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::plan::{hex, unhex};
use crate::watch::survey::stays_inside;

/// Bytes in a read or write; O_DIRECT wants whole pages at whole pages.
const PIECE: usize = 1 << 20;
const PAGE: usize = 4096;

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error("it was told to stop")]
    Stopped,
    #[error("{} changed while it was copied", .0.display())]
    Changed(PathBuf),
    #[error("{} read back differs from what was written", .0.display())]
    Differs(PathBuf),
    #[error("{} {why}", path.display())]
    Unmovable { path: PathBuf, why: &'static str },
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl CopyError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CopyError {
        let path = path.to_owned();
        move |source| CopyError::Io { what, path, source }
    }
}

/// What all that copies together obeys.
#[derive(Debug)]
pub(super) struct Control<'a> {
    pub stop: &'a AtomicBool,
    /// Bytes that were read or written so far.
    pub moved: &'a AtomicU64,
    /// Bytes a second, at the most.
    pub rate: Option<f64>,
    pub started: Instant,
}

impl Control<'_> {
    /// Counts, waits where that was too fast, and says whether to go on.
    fn pace(&self, bytes: usize) -> Result<(), CopyError> {
        let total = self.moved.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if let Some(rate) = self.rate {
            let due = Duration::try_from_secs_f64(total as f64 / rate).unwrap_or(Duration::MAX);
            while let Some(early) = due.checked_sub(self.started.elapsed()).filter(|e| !e.is_zero()) {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(CopyError::Stopped);
                }
                thread::sleep(early.min(Duration::from_millis(100)));
            }
        }
        if self.stop.load(Ordering::Relaxed) { Err(CopyError::Stopped) } else { Ok(()) }
    }
}

/// A file that was copied and proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    path: String,
    bytes: u64,
    changed_ns: i128,
    sha256: String,
}

/// What was copied, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    pub files: u64,
    pub bytes: u64,
    /// The files' digests added up, so that it is the same in whatever order a directory tells its names.
    pub digest: [u64; 4],
}

impl Sum {
    fn add(&mut self, path: &Path, bytes: u64, sha: &[u8; 32]) {
        let mut line = Sha256::new();
        line.update(path.as_os_str().as_encoded_bytes());
        line.update([0]);
        line.update(bytes.to_le_bytes());
        line.update(sha);
        let line: [u8; 32] = line.finalize().into();
        for (sum, part) in self.digest.iter_mut().zip(line.chunks_exact(8)) {
            *sum = sum.wrapping_add(u64::from_le_bytes(part.try_into().unwrap_or_default()));
        }
        (self.files, self.bytes) = (self.files + 1, self.bytes + bytes);
    }

    pub(super) fn hex(&self) -> String {
        let bytes: Vec<u8> = self.digest.iter().flat_map(|w| w.to_le_bytes()).collect();
        hex(&bytes)
    }
}

/// A page-aligned buffer, for O_DIRECT.
struct Buffer {
    bytes: Vec<u8>,
    offset: usize,
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0u8; PIECE + PAGE];
        let offset = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        Buffer { bytes, offset }
    }

    fn piece(&mut self) -> &mut [u8] {
        &mut self.bytes[self.offset..self.offset + PIECE]
    }
}

/// One copy under way.
pub(super) struct Copier<'a> {
    source: &'a Path,
    target: PathBuf,
    roots: (File, File),
    list: File,
    done: HashMap<String, Done>,
    buffer: Buffer,
    control: &'a Control<'a>,
    sum: Sum,
}

impl<'a> Copier<'a> {
    /// `target` is made or gone on with; beside it lies the list of what is proven, `target` with `.done` after it.
    pub(super) fn new(source: &'a Path, target: &Path, control: &'a Control<'a>) -> Result<Self, CopyError> {
        match fs::create_dir(target) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(CopyError::io("cannot create", target)(e)),
            _ => {}
        }
        // Not through a link that somebody else put there.
        if !target.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            return Err(CopyError::Unmovable { path: target.to_owned(), why: "is in the way and no folder" });
        }
        let path = list_of(target);
        let done = read_list(&path);
        let opened = File::options().append(true).create(true).custom_flags_nofollow().open(&path);
        let list = opened.map_err(CopyError::io("cannot open", &path))?;
        let root = |at: &Path| File::open(at).map_err(CopyError::io("cannot open", at));
        let roots = (root(source)?, root(target)?);
        let buffer = Buffer::new();
        Ok(Copier { source, target: target.to_owned(), roots, list, done, buffer, control, sum: Sum::default() })
    }

    /// Copies and proves everything.
    pub(super) fn run(mut self) -> Result<Sum, CopyError> {
        self.folder(Path::new(""))?;
        Ok(self.sum)
    }

    fn folder(&mut self, below: &Path) -> Result<(), CopyError> {
        let from = self.source.join(below);
        let entries = fs::read_dir(&from).map_err(CopyError::io("cannot read", &from))?;
        for entry in entries {
            let entry = entry.map_err(CopyError::io("cannot read", &from))?;
            let path = below.join(entry.file_name());
            let kind = entry.file_type().map_err(CopyError::io("cannot look at", &entry.path()))?;
            if kind.is_dir() {
                let to = self.target.join(&path);
                match fs::create_dir(&to) {
                    Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                        return Err(CopyError::io("cannot create", &to)(e));
                    }
                    _ => self.folder(&path)?,
                }
            } else if kind.is_symlink() {
                self.link(&path)?;
            } else if kind.is_file() {
                self.file(&path)?;
            } else {
                return Err(CopyError::Unmovable { path, why: "is no file" });
            }
        }
        let to = self.target.join(below);
        File::open(&to).and_then(|d| d.sync_all()).map_err(CopyError::io("cannot flush", &to))
    }

    fn link(&mut self, path: &Path) -> Result<(), CopyError> {
        let (from, to) = (self.source.join(path), self.target.join(path));
        let leads = fs::read_link(&from).map_err(CopyError::io("cannot read", &from))?;
        if !stays_inside(path.parent().unwrap_or(Path::new("")), &leads) {
            return Err(CopyError::Unmovable { path: path.to_owned(), why: "leads out of the checkpoint" });
        }
        if fs::read_link(&to).is_ok_and(|there| there == leads) {
            self.sum.add(path, 0, &Sha256::digest(leads.as_os_str().as_encoded_bytes()).into());
            return Ok(());
        }
        std::os::unix::fs::symlink(&leads, &to).map_err(CopyError::io("cannot create", &to))?;
        self.sum.add(path, 0, &Sha256::digest(leads.as_os_str().as_encoded_bytes()).into());
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), CopyError> {
        let (from, to) = (self.source.join(path), self.target.join(path));
        let source = beneath(&self.roots.0, path, OFlags::RDONLY).map_err(CopyError::io("cannot open", &from))?;
        let meta = source.metadata().map_err(CopyError::io("cannot look at", &from))?;
        let changed_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        if let Some((bytes, sha)) = self.proven(path, meta.len(), changed_ns) {
            self.sum.add(path, bytes, &sha);
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let target = beneath(&self.roots.1, path, flags).map_err(CopyError::io("cannot create", &to))?;
        let (bytes, sha) = self.pour(&source, &target, &from, &to)?;
        if bytes != meta.len() {
            return Err(CopyError::Changed(from));
        }
        target.sync_all().map_err(CopyError::io("cannot flush", &to))?;
        let _ = fadvise(&source, 0, None, Advice::DontNeed);
        let _ = fadvise(&target, 0, None, Advice::DontNeed);
        if self.digest_of(&self.roots.1.try_clone().map_err(CopyError::io("cannot open", &to))?, path, &to)? != sha {
            return Err(CopyError::Differs(path.to_owned()));
        }
        let _ = rustix::fs::fchmod(&target, Mode::from_raw_mode(meta.mode() & 0o777));
        let time = |s: i64, ns: i64| Timespec { tv_sec: s, tv_nsec: ns as _ };
        let times = Timestamps {
            last_access: time(meta.atime(), meta.atime_nsec()),
            last_modification: time(meta.mtime(), meta.mtime_nsec()),
        };
        let _ = rustix::fs::futimens(&target, &times);
        self.sum.add(path, bytes, &sha);
        if let Some(text) = path.to_str() {
            let line = Done { path: text.to_owned(), bytes, changed_ns, sha256: hex(&sha) };
            let mut line = serde_json::to_vec(&line).unwrap_or_default();
            line.push(b'\n');
            // That it cannot be listed costs a second copy at the most.
            let _ = self.list.write_all(&line);
        }
        Ok(())
    }

    /// The digest of a file that an earlier copy has proven, if neither it nor its copy changed since.
    fn proven(&self, path: &Path, bytes: u64, changed_ns: i128) -> Option<(u64, [u8; 32])> {
        let done = self.done.get(path.to_str()?).filter(|d| d.bytes == bytes && d.changed_ns == changed_ns)?;
        let there = self.target.join(path).symlink_metadata().ok()?;
        let sha: [u8; 32] = unhex(&done.sha256)?;
        (there.is_file() && there.len() == bytes).then_some((bytes, sha))
    }

    /// Copies what is left of `source` and tells its digest.
    fn pour(
        &mut self,
        mut source: &File,
        mut target: &File,
        from: &Path,
        to: &Path,
    ) -> Result<(u64, [u8; 32]), CopyError> {
        let (mut hash, mut bytes) = (Sha256::new(), 0u64);
        loop {
            let piece = self.buffer.piece();
            let n = source.read(piece).map_err(CopyError::io("cannot read", from))?;
            if n == 0 {
                return Ok((bytes, hash.finalize().into()));
            }
            hash.update(&piece[..n]);
            target.write_all(&piece[..n]).map_err(CopyError::io("cannot write", to))?;
            bytes += n as u64;
            self.control.pace(n)?;
        }
    }

    /// The digest of a file, read from where it lies and not from the cache.
    fn digest_of(&mut self, root: &File, path: &Path, shown: &Path) -> Result<[u8; 32], CopyError> {
        let direct = beneath(root, path, OFlags::RDONLY | OFlags::DIRECT);
        // tmpfs and some network file systems refuse O_DIRECT.
        let opened = direct.or_else(|_| beneath(root, path, OFlags::RDONLY));
        let mut file = opened.map_err(CopyError::io("cannot open", shown))?;
        let mut hash = Sha256::new();
        loop {
            let piece = self.buffer.piece();
            let n = file.read(piece).map_err(CopyError::io("cannot read back", shown))?;
            if n == 0 {
                return Ok(hash.finalize().into());
            }
            hash.update(&piece[..n]);
            self.control.pace(n)?;
        }
    }
}

/// Where the list of what is proven lies.
pub(super) fn list_of(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".done");
    target.with_file_name(name)
}

/// A line that was cut off, or is none, is a file that is copied again.
fn read_list(path: &Path) -> HashMap<String, Done> {
    let Ok(file) = File::open(path) else { return HashMap::new() };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    lines.filter_map(|l| serde_json::from_str::<Done>(&l).ok()).map(|d| (d.path.clone(), d)).collect()
}

trait NoFollow {
    fn custom_flags_nofollow(&mut self) -> &mut Self;
}

impl NoFollow for fs::OpenOptions {
    fn custom_flags_nofollow(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt;
        self.custom_flags(OFlags::NOFOLLOW.bits() as i32)
    }
}

/// Opens a file below a folder; no link on the way is followed, so that nobody leads the reading or writing elsewhere.
fn beneath(root: &File, path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(if flags.contains(OFlags::CREATE) { 0o600 } else { 0 });
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags, mode, how) {
        Ok(fd) => Ok(File::from(fd)),
        // Kernels before 5.6, and filters of containers that do not know the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => Ok(File::from(openat(root, path, flags, mode)?)),
        Err(e) => Err(e.into()),
    }
}

/// Whether a path is there, whatever it is.
pub(super) fn is_there(path: &Path) -> bool {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// The sum over a folder's files as they lie there: what a copy of the same files has.
pub(super) fn sum_of(dir: &Path, control: &Control<'_>) -> Result<Sum, CopyError> {
    let root = File::open(dir).map_err(CopyError::io("cannot open", dir))?;
    let spare = root.try_clone().map_err(CopyError::io("cannot open", dir))?;
    let list = File::open("/dev/null").map_err(CopyError::io("cannot open", Path::new("/dev/null")))?;
    let mut reader = Copier {
        source: dir,
        target: dir.to_owned(),
        roots: (root, spare),
        list,
        done: HashMap::new(),
        buffer: Buffer::new(),
        control,
        sum: Sum::default(),
    };
    reader.add_up(Path::new(""))?;
    Ok(reader.sum)
}

impl Copier<'_> {
    fn add_up(&mut self, below: &Path) -> Result<(), CopyError> {
        let at = self.source.join(below);
        for entry in fs::read_dir(&at).map_err(CopyError::io("cannot read", &at))? {
            let entry = entry.map_err(CopyError::io("cannot read", &at))?;
            let path = below.join(entry.file_name());
            let kind = entry.file_type().map_err(CopyError::io("cannot look at", &entry.path()))?;
            if kind.is_dir() {
                self.add_up(&path)?;
            } else if kind.is_symlink() {
                let leads = fs::read_link(entry.path()).map_err(CopyError::io("cannot read", &entry.path()))?;
                self.sum.add(&path, 0, &Sha256::digest(leads.as_os_str().as_encoded_bytes()).into());
            } else {
                let bytes = entry.metadata().map_err(CopyError::io("cannot look at", &entry.path()))?.len();
                let root = self.roots.0.try_clone().map_err(CopyError::io("cannot open", &at))?;
                let sha = self.digest_of(&root, &path, &entry.path())?;
                self.sum.add(&path, bytes, &sha);
            }
        }
        Ok(())
    }
}
