//! The checkpoint directory seen by all nodes together: the same file system everywhere, one node's file soon seen by
//! the others, and each node's bytes read back by another.
//!
//! A node that cannot take part says so in the exchange and goes on: the others must not wait for it.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Step, scratch_prefix};
use crate::measure::{Facts, Measured, Outcome, SharedView};
use crate::plan::CheckPlan;
use crate::probe::storage::{Storage, filesystem};
use crate::probe::{ProbeError, step};

pub(super) const CASE: &str = "shared";
/// NFS keeps attributes for up to a minute and looks again after 3 s by default; a file that is not there after this is
/// not there when a run restarts, either.
const VISIBLE: Duration = Duration::from_secs(10);
/// Kept of the step's time for saying what was seen.
const SPARE: Duration = Duration::from_secs(2);
const BYTES: usize = 256 << 10;

#[derive(Serialize, Deserialize)]
struct Args {
    path: std::path::PathBuf,
}

/// The step over all nodes; the caller sets its groups. `None` when nobody named a directory.
pub fn shared_step(plan: &CheckPlan) -> Option<Step> {
    let path = plan.storage_path.clone()?;
    let mut step = step(&Storage, plan, vec![CASE.to_owned()], Args { path }, 3000);
    step.name = "storage-shared".to_owned();
    step.exclusive = false;
    Some(step)
}

/// What a node says of itself.
#[derive(Serialize, Deserialize, Default)]
struct Said {
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

pub(super) fn run(child: &mut Child) -> Result<(), ProbeError> {
    let args: Args = child.args()?;
    let (rank, ranks, seed) = (child.rank as usize, child.ranks as usize, child.step.seed);
    let name = |r: usize| args.path.join(format!("{}shared-{seed:016x}-{r}", scratch_prefix("all")));
    let mut said = Said::default();
    let own = name(rank);
    let write = || {
        let temporary = own.with_extension("tmp");
        fs::write(&temporary, content(seed, rank))?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, &own)
    };
    match filesystem(&args.path) {
        Ok(fs) => said.mount = format!("{} {}", fs.mount.source, fs.mount.fstype),
        Err(Outcome::Failed { error, .. }) => said.error = Some(error),
        Err(_) => {}
    }
    if said.error.is_none()
        && let Err(e) = write()
    {
        let _ = fs::remove_file(own.with_extension("tmp"));
        said.error = Some(format!("cannot write {}: {e}", own.display()));
    }
    let wrote = said.error.is_none();
    // Where a node wrote; nothing when it could not.
    let all = child.exchange(if wrote { said.mount.clone() } else { String::new() })?;
    let there = |r: usize| all.get(r).is_some_and(|t| !t.is_empty());
    let until = Instant::now() + VISIBLE.min(child.time_left().saturating_sub(SPARE));
    // One node's file is looked for by all, then each reads its neighbour's. The one is on the file system that most
    // have: a node that has another must not make all the others look blind.
    let on = |r: usize| (0..ranks).filter(|other| all[*other] == all[r]).count();
    let first = (0..ranks).rev().filter(|r| there(*r)).max_by_key(|r| on(*r));
    if let (Some(first), true) = (first, wrote) {
        said.visible_ms = wait_for(&name(first), until).map(|t| t.as_secs_f64() * 1e3);
    }
    let neighbour = (rank + 1) % ranks;
    if there(neighbour) && said.visible_ms.is_some() {
        said.read_back = match wait_for(&name(neighbour), until).map(|_| fs::read(name(neighbour))) {
            Some(Ok(bytes)) => Some(bytes == content(seed, neighbour)),
            Some(Err(e)) => {
                said.error.get_or_insert(format!("cannot read {}: {e}", name(neighbour).display()));
                None
            }
            None => None,
        };
    }
    let told = child.exchange(serde_json::to_string(&said).unwrap_or_default());
    if wrote {
        let _ = fs::remove_file(&own);
    }
    let told = told?;
    if child.rank != 0 {
        return Ok(());
    }
    let views = child.members.iter().zip(&told).map(|(node, text)| {
        let s: Said = serde_json::from_str(text).unwrap_or_default();
        SharedView {
            node: node.clone(),
            mount: s.mount,
            visible_ms: s.visible_ms,
            read_back: s.read_back,
            error: s.error,
        }
    });
    let facts = Some(Facts::Shared(views.collect()));
    Ok(child.outcome(CASE, Outcome::Measured(Measured { facts, ..Measured::default() }))?)
}

/// Looks for a file until it is there; opening it makes a network file system ask its server.
fn wait_for(path: &Path, until: Instant) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if fs::File::open(path).is_ok() {
            return Some(start.elapsed());
        }
        if Instant::now() > until {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
