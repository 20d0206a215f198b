//! `storage`: the checkpoint directory. How much fits, how fast it is written and read back, what it does with many
//! small files, whether a rename is atomic, and whether the bytes come back.
//!
//! The data file is unlinked as soon as it is open: however the probe ends, its space comes back. What needs names
//! lives in one scratch directory, which the probe, its parent, or the next run's sweep removes.

pub(in crate::probe) mod content;
mod data;
mod names;
mod shared;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cluster::scratch::{self, Scratch};
use crate::cluster::{Child, Step};
use crate::id::ProbeName;
use crate::measure::{Facts, FailKind, Measured, Outcome, WaiveKind};
use crate::plan::CheckPlan;
use crate::probe::{Priority, Probe, ProbeError, step};
use crate::sys::space;
use crate::topology::{Filesystem, Machine, SysRoot, mount_of, mounts, quotas, targets};
use crate::unit::Bytes;
use crate::work::{Case, Declared, Fact, Metric, StorageOp};

pub use shared::shared_step;
pub(in crate::probe) use shared::{VISIBLE, wait_for};

pub struct Storage;

/// Cases in the order measured.
const CAPACITY: Case = Case::Fact(Fact::Capacity);
const CASES: [Case; 5] = [
    CAPACITY,
    Case::Storage(StorageOp::Write),
    Case::Storage(StorageOp::Read),
    Case::Storage(StorageOp::Metadata),
    Case::Storage(StorageOp::Rename),
];

#[derive(Serialize, Deserialize)]
struct Args {
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

    fn metrics(&self) -> &'static [Declared] {
        const METRICS: &[Declared] = &[
            Metric::Write.of("sequential write in 1 MiB pieces, fdatasync after every block"),
            Metric::Read.of("sequential read of what was written, the page cache bypassed or dropped"),
            Metric::Metadata.of("create, rename and unlink of small files, one after the other"),
            Metric::Publish.of("write 64 KiB to a temporary name, fsync, rename over the old one, fsync the directory"),
        ];
        METRICS
    }

    fn priority(&self, _on_gpus: bool) -> Priority {
        Priority::new(3, 1).beside_gpus([1, 2, 1])
    }

    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        let args = Args {
            block: plan.tier.pick(32, 128, 512) * Bytes::MIB,
            blocks: plan.tier.pick(12, 32, 64),
            copy_ceiling: machine.copy_ceiling(machine.usable_cores()),
        };
        let estimate = if plan.storage_path.is_some() { plan.tier.pick(4000, 40_000, 240_000) } else { 50 };
        let mut step = step(self, plan, CASES.to_vec(), &args, estimate);
        step.scratch = plan.storage_path.clone();
        // Every node at once: that is what the run will do.
        step.exclusive = false;
        vec![step]
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        if child.wants(&shared::CASE) {
            return shared::run(child);
        }
        let args: Args = child.args()?;
        let folder = child.step.scratch.clone();
        let (Some(scratch), Some(path)) = (&folder, folder.as_deref().and_then(Path::parent)) else {
            for case in CASES.into_iter().filter(|c| child.wants(c)).collect::<Vec<_>>() {
                child.outcome(
                    &case,
                    Outcome::waived(
                        WaiveKind::NotAsked,
                        "no directory named: give --path DIR, or [checkpoint] dir in the plan",
                    ),
                )?;
            }
            return Ok(());
        };
        let ready = filesystem(path).and_then(|fs| {
            scratch::sweep(path);
            Ok((fs, folder_at(scratch)?))
        });
        let (fs, _held) = match ready {
            Ok(fs) => fs,
            Err(outcome) => return first_fails(child, outcome),
        };
        if child.wants(&CAPACITY) {
            let facts = Facts::Filesystem(Box::new(Filesystem { targets: targets(&fs.mount), ..fs.clone() }));
            child.outcome(&CAPACITY, Outcome::facts(facts))?;
        }
        let result = measure(child, &args, scratch, &fs);
        let _ = fs::remove_dir_all(scratch);
        result
    }
}

fn measure(child: &mut Child, args: &Args, scratch: &Path, fs: &Filesystem) -> Result<(), ProbeError> {
    let [write, read, metadata, rename] =
        [StorageOp::Write, StorageOp::Read, StorageOp::Metadata, StorageOp::Rename].map(Case::Storage);
    if child.wants(&write) || child.wants(&read) {
        let (written, found) = data::measure(child, args, scratch, fs);
        child.outcome(&write, written)?;
        child.outcome(&read, found)?;
    }
    for (case, run) in
        [(metadata, names::storm as fn(&Child, &Path) -> Result<Measured, Outcome>), (rename, names::rename)]
    {
        if child.wants(&case) {
            let outcome = run(child, scratch).map_or_else(|failed| failed, Outcome::Measured);
            child.outcome(&case, outcome)?;
        }
    }
    Ok(())
}

/// Makes the scratch directory; it is in use until what is returned goes.
pub(in crate::probe) fn folder_at(scratch: &Path) -> Result<Scratch, Outcome> {
    let what = format!("cannot create {}", scratch.display());
    scratch::create(scratch).map_err(|e| match e.kind() {
        // The directory is there and takes no files, as those of /proc.
        ErrorKind::NotFound => Outcome::error(FailKind::NoPermission, format!("{what}: {e}")),
        _ => failure(&e, &what),
    })
}

/// The first case bears the failure, the others say that they were not reached.
fn first_fails(child: &mut Child, outcome: Outcome) -> Result<(), ProbeError> {
    let cases = child.step.cases.clone();
    let mut outcome = Some(outcome);
    for case in cases {
        let why = || Outcome::waived(WaiveKind::NotReached, "the directory cannot be used");
        let o = outcome.take().unwrap_or_else(why);
        child.outcome(&case, o)?;
    }
    Ok(())
}

/// Classifies a file system's refusal.
pub(in crate::probe) fn failure(error: &std::io::Error, what: &str) -> Outcome {
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

pub(in crate::probe) fn filesystem(path: &Path) -> Result<Filesystem, Outcome> {
    let shown = path.display();
    let meta = fs::metadata(path).map_err(|e| failure(&e, &format!("cannot look at {shown}")))?;
    if !meta.is_dir() {
        return Err(Outcome::error(FailKind::NotADirectory, format!("{shown} is not a directory")));
    }
    let real = fs::canonicalize(path).map_err(|e| failure(&e, &format!("cannot resolve {shown}")))?;
    let of = space(&real).map_err(|e| failure(&e, &format!("cannot ask for the capacity of {shown}")))?;
    let mounts = mounts(&SysRoot::live());
    let mount = mount_of(&mounts, &real).cloned().unwrap_or_default();
    Ok(Filesystem {
        path: path.to_owned(),
        quotas: quotas(&real, &mount),
        targets: Vec::new(),
        mount,
        total: Bytes(of.total),
        available: Bytes(of.available),
        inodes_total: of.inodes_total,
        inodes_free: of.inodes_free,
    })
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
}
