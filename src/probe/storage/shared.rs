//! The checkpoint directory seen by all nodes together: the same file system everywhere, one node's file soon seen by
//! the others, and each node's bytes read back by another.
//!
//! A node that cannot take part says so in the exchange and goes on: the others must not wait for it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::scratch::is_scratch;
use crate::cluster::{Child, Step};
use crate::files;
use crate::measure::{Facts, Outcome, SharedView};
use crate::plan::CheckPlan;
use crate::probe::storage::{Storage, failure, filesystem, folder_at};
use crate::probe::{ProbeError, step};
use crate::work::{Case, Fact};

pub(super) const CASE: Case = Case::Fact(Fact::Shared);
/// NFS keeps attributes for up to a minute and looks again after 3 s by default; a file that is not there after this is
/// not there when a run restarts, either.
pub(in crate::probe) const VISIBLE: Duration = Duration::from_secs(10);
/// Kept of the step's time for saying what was seen.
const SPARE: Duration = Duration::from_secs(2);
const BYTES: usize = 256 << 10;

/// The step over all nodes; the caller sets its groups. `None` when nobody named a directory.
pub fn shared_step(plan: &CheckPlan) -> Option<Step> {
    let path = plan.storage_path.clone()?;
    let mut step = step(&Storage, plan, vec![CASE], (), 3000);
    step.scratch = Some(path);
    step.name = "storage-shared".to_owned();
    step.exclusive = false;
    Some(step)
}

/// Where a node wrote: its scratch folder, whose name nobody knows before, and the file system that it is on.
#[derive(Serialize, Deserialize)]
struct Wrote {
    mount: String,
    folder: String,
}

/// What a node says of itself.
#[derive(Serialize, Deserialize, Default)]
struct NodeReport {
    mount: String,
    visible_ms: Option<f64>,
    read_back: Option<bool>,
    error: Option<String>,
}

fn content(seed: u64, rank: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; BYTES];
    fastrand::Rng::with_seed(seed ^ (rank as u64) << 40).fill(&mut bytes);
    bytes
}

/// The file in a node's folder.
const FILE: &str = "shared";

fn write(own: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = own.with_extension("tmp");
    let mut file = files::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, own)
}

pub(super) fn run(child: &mut Child) -> Result<(), ProbeError> {
    let broken = || ProbeError::Broken("no directory was named".to_owned());
    let scratch = child.step.scratch.clone().ok_or_else(broken)?;
    let path = scratch.parent().ok_or_else(broken)?.to_owned();
    let (rank, ranks, seed) = (child.rank as usize, child.ranks as usize, child.step.seed);
    let mut reports = NodeReport::default();
    let ready = filesystem(&path).and_then(|fs| {
        reports.mount = format!("{} {}", fs.mount.source, fs.mount.fstype);
        let held = folder_at(&scratch)?;
        let own = scratch.join(FILE);
        let wrote = write(&own, &content(seed, rank));
        wrote.map(|()| held).map_err(|e| failure(&e, &format!("cannot write {}", own.display())))
    });
    let _held = match ready {
        Ok(held) => Some(held),
        Err(outcome) => {
            reports.error =
                Some(if let Outcome::Failed { error, .. } = outcome { error } else { "refused".to_owned() });
            None
        }
    };
    let wrote = reports.error.is_none();
    let folder = scratch.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let told = Wrote { mount: reports.mount.clone(), folder };
    // Nothing when it could not.
    let all: Vec<Option<Wrote>> = child.exchange(&wrote.then_some(told))?.all(child)?;
    // A name is a place in this folder, whoever said it.
    let file = |r: usize| {
        let told = all.get(r)?.as_ref().filter(|w| is_scratch(&w.folder))?;
        Some(path.join(&told.folder).join(FILE))
    };
    let mount = |r: usize| all.get(r).and_then(|w| Some(w.as_ref()?.mount.as_str()));
    let until = Instant::now() + VISIBLE.min(child.time_left().saturating_sub(SPARE));
    // One node's file is looked for by all, then each reads its neighbour's. The one is on the file system that most
    // have: a node that has another must not make all the others look blind.
    let on = |r: usize| (0..ranks).filter(|other| mount(*other) == mount(r)).count();
    let first = (0..ranks).rev().filter(|r| file(*r).is_some()).max_by_key(|r| on(*r));
    if let (Some(first), true) = (first.and_then(file), wrote) {
        reports.visible_ms = wait_for(&first, until).map(|t| t.as_secs_f64() * 1e3);
    }
    let neighbour = (rank + 1) % ranks;
    if let (Some(of), true) = (file(neighbour), reports.visible_ms.is_some()) {
        let read = |_| files::open(&of).and_then(|f| files::read(f, BYTES as u64));
        reports.read_back = match wait_for(&of, until).map(read) {
            Some(Ok(bytes)) => Some(bytes == content(seed, neighbour)),
            Some(Err(e)) => {
                reports.error.get_or_insert(format!("cannot read {}: {e}", of.display()));
                None
            }
            None => None,
        };
    }
    let told = child.exchange(&reports);
    if wrote {
        let _ = fs::remove_dir_all(&scratch);
    }
    let told = told?;
    if child.rank != 0 {
        return Ok(());
    }
    let views = child.members.iter().zip(told.all(child)?).map(|(node, s)| SharedView {
        node: node.clone(),
        mount: s.mount,
        visible_ms: s.visible_ms,
        read_back: s.read_back,
        error: s.error,
    });
    let facts = Facts::Shared(views.collect());
    Ok(child.outcome(&CASE, Outcome::facts(facts))?)
}

/// Looks for a file until it is there; opening it makes a network file system ask its server.
pub(in crate::probe) fn wait_for(path: &Path, until: Instant) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if files::open(path).is_ok() {
            return Some(start.elapsed());
        }
        if Instant::now() > until {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
