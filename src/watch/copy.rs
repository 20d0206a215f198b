//! A checkpoint's files into a folder of the cold place, each flushed, read again past the cache, and compared.
//!
//! Folders are opened one below the other and no link is followed on the way, so that nobody leads the reading or the writing elsewhere.
//! A copy that was killed goes on: what lies there already is read and compared, and only what differs is written again.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{
    Advice, AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, fadvise, fchmod, fchown,
    futimens, mkdirat, openat, readlinkat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::plan::hex;
use crate::sys::pages::Pages;
use crate::watch::survey::stays_inside;

/// Bytes in a read or write; O_DIRECT wants whole pages at whole pages.
const PIECE: usize = 1 << 20;

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

/// Names what was being done to what.
fn io<T, E: Into<io::Error>>(what: &'static str, path: &Path, result: Result<T, E>) -> Result<T, CopyError> {
    result.map_err(|e| CopyError::Io { what, path: path.to_owned(), source: e.into() })
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
        let total = self.moved.fetch_add(bytes as u64, Ordering::Relaxed).saturating_add(bytes as u64);
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
        line.update(path.as_os_str().as_bytes());
        line.update([0]);
        line.update(bytes.to_le_bytes());
        line.update(sha);
        let line: [u8; 32] = line.finalize().into();
        for (sum, part) in self.digest.iter_mut().zip(line.chunks_exact(8)) {
            *sum = sum.wrapping_add(u64::from_le_bytes(part.try_into().unwrap_or_default()));
        }
        (self.files, self.bytes) = (self.files + 1, self.bytes.saturating_add(bytes));
    }

    /// A link counts by where it leads; its size is that of the name, as a file system tells it.
    fn add_link(&mut self, path: &Path, leads: &CStr) {
        let leads = leads.to_bytes();
        self.add(path, leads.len() as u64, &Sha256::digest(leads).into());
    }

    pub(super) fn hex(&self) -> String {
        let bytes: Vec<u8> = self.digest.iter().flat_map(|w| w.to_le_bytes()).collect();
        hex(&bytes)
    }
}

/// One reading or copying under way.
struct Copier<'a> {
    control: &'a Control<'a>,
    /// Begins at a page, for O_DIRECT.
    buffer: Pages,
    sum: Sum,
}

/// A folder on the way: opened, and its path for words.
struct Folder {
    fd: File,
    shown: PathBuf,
}

impl Folder {
    fn root(path: &Path) -> Result<Self, CopyError> {
        let fd = openat(CWD, path, FOLDER, Mode::empty());
        Ok(Folder { fd: File::from(io("cannot open", path, fd)?), shown: path.to_owned() })
    }

    fn below(&self, name: &CStr) -> Result<Self, CopyError> {
        let shown = self.at(name);
        let fd = openat(&self.fd, name, FOLDER, Mode::empty());
        Ok(Folder { fd: File::from(io("cannot open", &shown, fd)?), shown })
    }

    fn at(&self, name: &CStr) -> PathBuf {
        self.shown.join(OsStr::from_bytes(name.to_bytes()))
    }

    /// Does something with everything in it, one by one: there may be a million.
    fn each(&self, what: &mut dyn FnMut(&CStr, FileType) -> Result<(), CopyError>) -> Result<(), CopyError> {
        for entry in io("cannot read", &self.shown, Dir::read_from(&self.fd))? {
            let entry = io("cannot read", &self.shown, entry)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
                    FileType::from_raw_mode(io("cannot look at", &self.at(name), stat)?.st_mode)
                }
                known => known,
            };
            what(name, kind)?;
        }
        Ok(())
    }

    fn link(&self, name: &CStr) -> Result<CString, CopyError> {
        io("cannot read the link", &self.at(name), readlinkat(&self.fd, name, Vec::new()))
    }

    /// Opens the folder of this name, made where it is not there; what else bears the name gives way.
    fn make(&self, name: &CStr) -> Result<Self, CopyError> {
        match mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return io("cannot create", &self.at(name), Err(e)),
        }
        match openat(&self.fd, name, FOLDER, Mode::empty()) {
            Ok(fd) => Ok(Folder { fd: File::from(fd), shown: self.at(name) }),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                io("cannot remove", &self.at(name), unlinkat(&self.fd, name, AtFlags::empty()))?;
                io("cannot create", &self.at(name), mkdirat(&self.fd, name, Mode::RWXU))?;
                self.below(name)
            }
            Err(e) => io("cannot open", &self.at(name), Err(e)),
        }
    }

    /// Takes away what bears a name, whatever it is.
    fn clear(&self, name: &CStr) -> Result<(), CopyError> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return io("cannot remove", &self.at(name), Err(e)),
        }
        let inner = self.below(name)?;
        let mut children: Vec<CString> = Vec::new();
        inner.each(&mut |child, _| {
            children.push(child.to_owned());
            Ok(())
        })?;
        for child in children {
            inner.clear(&child)?;
        }
        io("cannot remove", &self.at(name), unlinkat(&self.fd, name, AtFlags::REMOVEDIR))
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A file, and neither a link nor a pipe that would be waited for.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Copies and proves every file of `source`, into `target`, which is made or gone on with.
pub(super) fn copy(source: &Path, target: &Path, control: &Control<'_>) -> Result<Sum, CopyError> {
    let from = Folder::root(source)?;
    match mkdirat(CWD, target, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return io("cannot create", target, Err(e)),
    }
    let mut copier = Copier { control, buffer: Pages::new(PIECE), sum: Sum::default() };
    copier.folder(Path::new(""), &from, &Folder::root(target)?)?;
    Ok(copier.sum)
}

/// The sum over a folder's files as they lie there: what a copy of the same files has.
pub(super) fn sum_of(dir: &Path, control: &Control<'_>) -> Result<Sum, CopyError> {
    let mut reader = Copier { control, buffer: Pages::new(PIECE), sum: Sum::default() };
    reader.add_up(Path::new(""), &Folder::root(dir)?)?;
    Ok(reader.sum)
}

impl Copier<'_> {
    fn folder(&mut self, below: &Path, from: &Folder, to: &Folder) -> Result<(), CopyError> {
        from.each(&mut |name, kind| {
            let path = below.join(OsStr::from_bytes(name.to_bytes()));
            match kind {
                FileType::Directory => self.folder(&path, &from.below(name)?, &to.make(name)?),
                FileType::Symlink => self.link(&path, name, from, to),
                FileType::RegularFile => self.file(&path, name, from, to),
                _ => Err(CopyError::Unmovable { path, why: "is no file" }),
            }
        })?;
        dress(&from.fd, &to.fd);
        io("cannot flush", &to.shown, to.fd.sync_all())
    }

    fn link(&mut self, path: &Path, name: &CStr, from: &Folder, to: &Folder) -> Result<(), CopyError> {
        let leads = from.link(name)?;
        if !stays_inside(path.parent().unwrap_or(Path::new("")), Path::new(OsStr::from_bytes(leads.to_bytes()))) {
            return Err(CopyError::Unmovable { path: path.to_owned(), why: "leads out of the checkpoint" });
        }
        if to.link(name).ok().as_ref() != Some(&leads) {
            to.clear(name)?;
            io("cannot create", &to.at(name), symlinkat(&leads, &to.fd, name))?;
        }
        self.sum.add_link(path, &leads);
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &CStr, from: &Folder, to: &Folder) -> Result<(), CopyError> {
        let (here, there) = (from.at(name), to.at(name));
        let source = open(from, name)?;
        let meta = io("cannot look at", &here, source.metadata())?;
        if !meta.is_file() {
            return Err(CopyError::Changed(here));
        }
        // Of an earlier copy: it counts when it is the same, byte by byte, whatever anybody says of it.
        let before = statat(&to.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let like =
            before.is_some_and(|s| FileType::from_raw_mode(s.st_mode).is_file() && s.st_size as u64 == meta.len());
        if like {
            let sha = self.digest(&source, &here)?;
            if self.read_back(name, to)? == sha {
                self.sum.add(path, meta.len(), &sha);
                return Ok(());
            }
            io("cannot read", &here, (&source).rewind())?;
        }
        to.clear(name)?;
        let flags = FILE | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let target = File::from(io("cannot create", &there, openat(&to.fd, name, flags, Mode::RUSR | Mode::WUSR))?);
        let (bytes, sha) = self.pour(&source, &target, &here, &there)?;
        if bytes != meta.len() {
            return Err(CopyError::Changed(here));
        }
        dress(&source, &target);
        io("cannot flush", &there, target.sync_all())?;
        let _ = fadvise(&source, 0, None, Advice::DontNeed);
        let _ = fadvise(&target, 0, None, Advice::DontNeed);
        if self.read_back(name, to)? != sha {
            return Err(CopyError::Differs(path.to_owned()));
        }
        self.sum.add(path, bytes, &sha);
        Ok(())
    }

    /// Copies a file and tells its digest. Where there are only zeros, nothing is written: a hole stays one.
    fn pour(
        &mut self,
        mut source: &File,
        mut target: &File,
        from: &Path,
        to: &Path,
    ) -> Result<(u64, [u8; 32]), CopyError> {
        let (mut hash, mut bytes) = (Sha256::new(), 0u64);
        loop {
            let piece = &mut *self.buffer;
            let n = io("cannot read", from, source.read(piece))?;
            if n == 0 {
                io("cannot write", to, target.set_len(bytes))?;
                return Ok((bytes, hash.finalize().into()));
            }
            hash.update(&piece[..n]);
            if piece[..n].iter().all(|b| *b == 0) {
                io("cannot write", to, target.seek(SeekFrom::Current(n as i64)))?;
            } else {
                io("cannot write", to, target.write_all(&piece[..n]))?;
            }
            bytes = bytes.saturating_add(n as u64);
            self.control.pace(n)?;
        }
    }

    /// The digest of a file in a folder, read from where it lies and not from the cache.
    fn read_back(&mut self, name: &CStr, folder: &Folder) -> Result<[u8; 32], CopyError> {
        let shown = folder.at(name);
        let direct = openat(&folder.fd, name, FILE | OFlags::RDONLY | OFlags::DIRECT, Mode::empty());
        // tmpfs and some network file systems refuse O_DIRECT.
        let file = match direct {
            Ok(fd) => File::from(fd),
            Err(_) => open(folder, name)?,
        };
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        self.digest(&file, &shown)
    }

    fn digest(&mut self, mut file: &File, shown: &Path) -> Result<[u8; 32], CopyError> {
        let mut hash = Sha256::new();
        loop {
            let piece = &mut *self.buffer;
            let n = io("cannot read back", shown, file.read(piece))?;
            if n == 0 {
                return Ok(hash.finalize().into());
            }
            hash.update(&piece[..n]);
            self.control.pace(n)?;
        }
    }

    fn add_up(&mut self, below: &Path, at: &Folder) -> Result<(), CopyError> {
        at.each(&mut |name, kind| {
            let path = below.join(OsStr::from_bytes(name.to_bytes()));
            match kind {
                FileType::Directory => self.add_up(&path, &at.below(name)?)?,
                FileType::Symlink => self.sum.add_link(&path, &at.link(name)?),
                FileType::RegularFile => {
                    let stat = io("cannot look at", &at.at(name), statat(&at.fd, name, AtFlags::SYMLINK_NOFOLLOW))?;
                    let sha = self.read_back(name, at)?;
                    self.sum.add(&path, stat.st_size as u64, &sha);
                }
                _ => return Err(CopyError::Unmovable { path, why: "is no file" }),
            }
            Ok(())
        })
    }
}

fn open(folder: &Folder, name: &CStr) -> Result<File, CopyError> {
    let fd = openat(&folder.fd, name, FILE | OFlags::RDONLY, Mode::empty());
    Ok(File::from(io("cannot open", &folder.at(name), fd)?))
}

/// Gives a copy its original's owner, mode and times, as far as this user may.
fn dress(source: &File, target: &File) {
    let Ok(meta) = source.metadata() else { return };
    let time = |s: i64, ns: i64| Timespec { tv_sec: s, tv_nsec: ns as _ };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    let own = rustix::process::geteuid().as_raw();
    if own == 0 {
        let _ = fchown(target, Some(Uid::from_raw(meta.uid())), Some(Gid::from_raw(meta.gid())));
    }
    let _ = fchmod(target, Mode::from_raw_mode(meta.mode() & 0o777));
    let _ = futimens(target, &times);
}

/// Whether a path is there, whatever it is.
pub(super) fn is_there(path: &Path) -> bool {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}
