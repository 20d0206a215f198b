//! The folder that a step's processes on a node keep files in, on a file system that others share.
//!
//! Its name says whose it is, and a lock in it is held while its owner lives: what a killed run left is removed by a later one, and
//! nothing that is in use ever is. Two containers may bear one host name, and see nothing of each other's processes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::files;
use crate::topology::{SysRoot, boot_id};

/// What the name of every scratch folder begins with.
const SCRATCH: &str = ".gonogo-scratch-";
const LOCK: &str = "owner.lock";
/// Seconds in which a folder that was just made gets its lock.
const YOUNG: i64 = 10;
/// Entries of a folder that are looked at.
const MAX_ENTRIES: usize = 100_000;

/// Whose folder it is: what the kernel that its owner runs under, and the processes that it sees, are known by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    host: String,
    boot: String,
    /// Inode of the PID namespace: a process number means something in one alone.
    processes: u64,
    pid: u32,
}

impl Owner {
    fn own() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(64).collect();
        let boot = boot_id(&SysRoot::live()).unwrap_or_default();
        let boot = boot.chars().filter(char::is_ascii_hexdigit).take(12).collect();
        let processes = fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino());
        Owner { host, boot, processes, pid: std::process::id() }
    }

    /// Random at its end: nobody knows the name before it is made.
    fn name(&self) -> String {
        let Owner { host, boot, processes, pid } = self;
        format!("{SCRATCH}{host}-{boot}-{processes}-{pid}-{:016x}", fastrand::u64(..))
    }

    fn of(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.strip_prefix(SCRATCH)?.split('-').collect();
        let [host, boot, processes, pid, _] = parts[..] else { return None };
        let (processes, pid) = (processes.parse().ok()?, pid.parse().ok()?);
        Some(Owner { host: host.to_owned(), boot: boot.to_owned(), processes, pid })
    }
}

/// The name of this process's folder in `dir`.
pub(super) fn own(dir: &Path) -> PathBuf {
    dir.join(Owner::own().name())
}

/// Whether a name that came from another node is that of a scratch folder, and of nothing else.
pub fn is_scratch(name: &str) -> bool {
    Owner::of(name).is_some() && !name.contains('/')
}

/// A scratch folder that is in use. The lock is the kernel's: it is gone with the process, however it ends.
pub struct Scratch {
    _lock: File,
}

/// Makes the folder, for its owner alone, and locks it.
pub fn create(path: &Path) -> io::Result<Scratch> {
    DirBuilder::new().mode(0o700).create(path)?;
    let lock = files::create(&path.join(LOCK))?;
    // Where locks are not to be had, the name must do.
    let _ = flock(&lock, FlockOperation::NonBlockingLockExclusive);
    Ok(Scratch { _lock: lock })
}

/// Removes what dead owners under this host name left in `dir`.
pub fn sweep(dir: &Path) {
    let own = Owner::own();
    for entry in fs::read_dir(dir).into_iter().flatten().take(MAX_ENTRIES).flatten() {
        let owner = entry.file_name().to_str().and_then(Owner::of).filter(|o| o.host == own.host);
        let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
        if let (Some(owner), true) = (owner, is_folder)
            && is_dead(&entry.path(), &owner, &own)
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes a step's folder, best effort: a file system that hangs or is full must not stop the report.
pub(super) fn remove(path: &Path) {
    // Beside the folder lie somebody's checkpoints: nothing without our own mark is ever removed.
    if !path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(SCRATCH)) {
        return;
    }
    for _ in 0..3 {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => thread::sleep(Duration::from_millis(20)),
            _ => return,
        }
    }
}

/// What is known of the lock in a folder.
enum Lock {
    Held,
    Free,
    /// There is none, or the file system has no locks.
    Unknown,
}

fn lock_in(folder: &Path) -> Lock {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(folder.join(LOCK));
    let Ok(file) = file else { return Lock::Unknown };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Lock::Free,
        Err(rustix::io::Errno::WOULDBLOCK) => Lock::Held,
        Err(_) => Lock::Unknown,
    }
}

/// Whether that owner is certainly dead.
fn is_dead(folder: &Path, owner: &Owner, own: &Owner) -> bool {
    let lock = lock_in(folder);
    if matches!(lock, Lock::Held) {
        return false;
    }
    let same_kernel = owner.boot == own.boot;
    if same_kernel && owner.processes == own.processes {
        return !Path::new(&format!("/proc/{}", owner.pid)).exists();
    }
    // Processes that are not to be seen from here: a lock that nobody holds is the proof, but for the moment before it is taken.
    // Under another kernel, which may be another machine on whose locks a network file system says nothing, only what was made before
    // this one started.
    let made = fs::metadata(folder).map(|m| m.mtime()).unwrap_or(i64::MAX);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let since = if same_kernel { Some(now - YOUNG) } else { booted() };
    matches!(lock, Lock::Free) && since.is_some_and(|at| made < at)
}

/// When this kernel started, in seconds since 1970.
fn booted() -> Option<i64> {
    let stat = SysRoot::live().read("/proc/stat")?;
    stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_dead_left_is_swept() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let own = Owner::own();
        let make = |owner: &Owner| {
            let path = dir.path().join(owner.name());
            create(&path).map(|lock| (path, lock))
        };
        let nobody = Owner { pid: 4_194_304, ..own.clone() };
        let unseen = Owner { processes: own.processes + 1, ..own.clone() };
        let (dead, lock) = make(&nobody)?;
        drop(lock);
        let (alive, _alive) = make(&own)?;
        let (container, _container) = make(&unseen)?;
        let (ended, lock) = make(&unseen)?;
        drop(lock);
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        for path in [&container, &ended] {
            File::open(path)?.set_modified(long_ago)?;
        }
        let (elsewhere, lock) = make(&Owner { host: "h2".into(), ..nobody.clone() })?;
        drop(lock);
        // Another kernel, just now: another machine of that name.
        let (other, lock) = make(&Owner { boot: "0".into(), ..nobody.clone() })?;
        drop(lock);
        // Made, and not yet locked.
        let young = dir.path().join(unseen.name());
        fs::create_dir(&young)?;
        let foreign = dir.path().join("checkpoints");
        fs::create_dir(&foreign)?;
        std::os::unix::fs::symlink(&foreign, dir.path().join(nobody.name()))?;
        sweep(dir.path());
        assert!(!dead.exists() && !ended.exists());
        for stays in [&alive, &container, &elsewhere, &other, &young, &foreign] {
            assert!(stays.exists(), "{}", stays.display());
        }
        Ok(())
    }

    #[test]
    fn names_are_whose_they_are_and_nothing_else() {
        let own = Owner::own();
        assert_eq!(Owner::of(&own.name()), Some(own.clone()));
        assert!(is_scratch(&own.name()));
        for bad in
            ["", "checkpoints", ".gonogo-scratch-h-1", "../.gonogo-scratch-h-b-1-2-3", ".gonogo-scratch-h/x-b-1-2-3"]
        {
            assert!(!is_scratch(bad), "{bad}");
        }
    }
}
