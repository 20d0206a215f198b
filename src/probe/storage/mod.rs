//! `storage`: the checkpoint directory. How much fits, how fast it is written and read back, what it does with many
//! small files, whether a rename is atomic, and whether the bytes come back.
//!
//! The data file is unlinked as soon as it is open: however the probe ends, its space comes back. What needs names
//! lives in one scratch directory, which the probe, its parent, or the next run's [`sweep`] removes.

mod data;
mod names;
mod shared;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Step, scratch_prefix};
use crate::id::ProbeName;
use crate::measure::{Better, Facts, FailKind, Measured, Metric, Outcome, WaiveKind};
use crate::plan::CheckPlan;
use crate::probe::{Probe, ProbeError, step};
use crate::topology::{Filesystem, Machine, SysRoot, discover, mount_of};
use crate::unit::{Bytes, Unit};

pub use shared::shared_step;

pub struct Storage;

const WRITE: Metric = Metric {
    name: "write",
    unit: Unit::BytePerSecond,
    better: Better::Higher,
    about: "sequential write in 1 MiB pieces, fdatasync after every block",
};
const READ: Metric = Metric {
    name: "read",
    unit: Unit::BytePerSecond,
    better: Better::Higher,
    about: "sequential read of what was written, the page cache bypassed or dropped",
};
const METADATA: Metric = Metric {
    name: "metadata",
    unit: Unit::OperationPerSecond,
    better: Better::Higher,
    about: "create, rename and unlink of small files, one after the other",
};
const PUBLISH: Metric = Metric {
    name: "publish",
    unit: Unit::Second,
    better: Better::Lower,
    about: "write 64 KiB to a temporary name, fsync, rename over the old one, fsync the directory",
};

/// Cases in the order measured.
const CAPACITY: &str = "capacity";
const CASES: [&str; 5] = [CAPACITY, "write", "read", "metadata", "rename"];

#[derive(Serialize, Deserialize)]
struct Args {
    /// The checkpoint directory; absent when nobody named one.
    path: Option<PathBuf>,
    /// Bytes in a block, blocks at most.
    block: u64,
    blocks: usize,
    copy_ceiling: f64,
}

impl Probe for Storage {
    fn name(&self) -> ProbeName {
        ProbeName::new("storage")
    }

    fn about(&self) -> &'static str {
        "the checkpoint directory: capacity, write with fsync, uncached read, small files, atomic rename, checksums"
    }

    fn needs(&self) -> &'static str {
        "--path DIR or the plan's [checkpoint] dir, writable"
    }

    fn metrics(&self) -> &'static [Metric] {
        &[WRITE, READ, METADATA, PUBLISH]
    }

    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        let args = Args {
            path: plan.storage_path.clone(),
            block: plan.tier.pick(32, 128, 512) * Bytes::MIB,
            blocks: plan.tier.pick(12, 32, 64),
            copy_ceiling: machine.copy_ceiling(machine.usable_cores()),
        };
        let estimate = if args.path.is_some() { plan.tier.pick(4000, 40_000, 240_000) } else { 50 };
        let mut step = step(self, plan, CASES.map(str::to_owned).to_vec(), &args, estimate);
        step.scratch = args.path;
        // Every node at once: that is what the run will do.
        step.exclusive = false;
        vec![step]
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        if child.wants(shared::CASE) {
            return shared::run(child);
        }
        let args: Args = child.args()?;
        let (Some(path), Some(scratch)) = (&args.path, child.step.scratch.clone()) else {
            for case in CASES.into_iter().filter(|c| child.wants(c)).collect::<Vec<_>>() {
                child.outcome(
                    case,
                    Outcome::waived(
                        WaiveKind::NotAsked,
                        "no directory named: give --path DIR, or [checkpoint] dir in the plan",
                    ),
                )?;
            }
            return Ok(());
        };
        let ready = filesystem(path).and_then(|fs| {
            sweep(path, &rustix::system::uname().nodename().to_string_lossy());
            let what = format!("cannot create {}", scratch.display());
            fs::create_dir(&scratch).map_err(|e| match e.kind() {
                // The directory is there and takes no files, as those of /proc.
                ErrorKind::NotFound => Outcome::error(FailKind::NoPermission, format!("{what}: {e}")),
                _ => failure(&e, &what),
            })?;
            Ok(fs)
        });
        let fs = match ready {
            Ok(fs) => fs,
            Err(outcome) => return first_fails(child, outcome),
        };
        if child.wants(CAPACITY) {
            let facts = Some(Facts::Filesystem(Box::new(fs.clone())));
            child.outcome(CAPACITY, Outcome::Measured(Measured { facts, ..Measured::default() }))?;
        }
        let result = measure(child, &args, &scratch, &fs);
        let _ = fs::remove_dir_all(&scratch);
        result
    }
}

fn measure(child: &mut Child, args: &Args, scratch: &Path, fs: &Filesystem) -> Result<(), ProbeError> {
    if child.wants("write") || child.wants("read") {
        let (write, read) = data::measure(child, args, scratch, fs);
        for (case, outcome) in [("write", write), ("read", read)] {
            if child.wants(case) {
                child.outcome(case, outcome)?;
            }
        }
    }
    for (case, run) in
        [("metadata", names::storm as fn(&Child, &Path) -> Result<Measured, Outcome>), ("rename", names::rename)]
    {
        if child.wants(case) {
            let outcome = run(child, scratch).map_or_else(|failed| failed, Outcome::Measured);
            child.outcome(case, outcome)?;
        }
    }
    Ok(())
}

/// The first case bears the failure, the others say that they were not reached.
fn first_fails(child: &mut Child, outcome: Outcome) -> Result<(), ProbeError> {
    let cases: Vec<String> = child.step.cases.clone();
    let mut outcome = Some(outcome);
    for case in cases {
        let why = || Outcome::waived(WaiveKind::NotReached, "the directory cannot be used");
        let o = outcome.take().unwrap_or_else(why);
        child.outcome(&case, o)?;
    }
    Ok(())
}

/// Classifies a file system's refusal.
fn failure(error: &std::io::Error, what: &str) -> Outcome {
    let kind = match error.kind() {
        ErrorKind::NotFound => FailKind::PathMissing,
        ErrorKind::NotADirectory => FailKind::NotADirectory,
        ErrorKind::ReadOnlyFilesystem => FailKind::ReadOnly,
        ErrorKind::PermissionDenied => FailKind::NoPermission,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => FailKind::DiskFull,
        _ => FailKind::Error,
    };
    Outcome::error(kind, format!("{what}: {error}"))
}

fn filesystem(path: &Path) -> Result<Filesystem, Outcome> {
    let shown = path.display();
    let meta = fs::metadata(path).map_err(|e| failure(&e, &format!("cannot look at {shown}")))?;
    if !meta.is_dir() {
        return Err(Outcome::error(FailKind::NotADirectory, format!("{shown} is not a directory")));
    }
    let real = fs::canonicalize(path).map_err(|e| failure(&e, &format!("cannot resolve {shown}")))?;
    let stat = rustix::fs::statvfs(&real)
        .map_err(|e| failure(&e.into(), &format!("cannot ask for the capacity of {shown}")))?;
    let mounts = discover(&SysRoot::live()).mounts;
    Ok(Filesystem {
        path: path.to_owned(),
        mount: mount_of(&mounts, &real).cloned().unwrap_or_default(),
        total: Bytes(stat.f_blocks.saturating_mul(stat.f_frsize)),
        available: Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)),
        inodes_total: stat.f_files,
        inodes_free: stat.f_favail,
    })
}

/// Removes scratch directories that dead processes of this host left in `path`.
pub fn sweep(path: &Path, host: &str) {
    let prefix = scratch_prefix(host);
    for entry in fs::read_dir(path).into_iter().flatten().take(100_000).flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| n.strip_prefix(&prefix)).and_then(|p| p.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_their_kinds() {
        let kind = |path: &Path| match filesystem(path) {
            Err(Outcome::Failed { kind, .. }) => Some(kind),
            _ => None,
        };
        assert_eq!(kind(Path::new("/no/such/directory")), Some(FailKind::PathMissing));
        assert_eq!(kind(Path::new("/proc/self/status")), Some(FailKind::NotADirectory));
        assert_eq!(kind(Path::new("/tmp")), None);
    }

    #[test]
    fn only_what_dead_processes_left_is_swept() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let make = |name: String| {
            let path = dir.path().join(name);
            fs::create_dir(&path).map(|()| path)
        };
        let dead = make(format!("{}4194304", scratch_prefix("h")))?;
        let alive = make(format!("{}{}", scratch_prefix("h"), std::process::id()))?;
        let other_host = make(format!("{}4194304", scratch_prefix("h2")))?;
        let foreign = make("checkpoints".to_owned())?;
        sweep(dir.path(), "h");
        assert!(!dead.exists() && alive.exists() && other_host.exists() && foreign.exists());
        Ok(())
    }
}
