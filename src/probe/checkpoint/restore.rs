//! Reading back: each node what another wrote, another one's each round.
//!
//! The first round compares every byte and is not timed: where cores are few, comparing would take them from reading. The rounds that
//! are timed compare what tells each page from all others.

use std::io::{self, Read};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::Child;
use crate::measure::{Check, FailKind, Measured, Outcome};
use crate::probe::ProbeError;
use crate::probe::checkpoint::files::{self, Which};
use crate::probe::checkpoint::save::Saved;
use crate::probe::checkpoint::{Job, Trouble, enough, first_trouble, rates, slowest};
use crate::probe::storage::content::{Content, PAGE};
use crate::probe::storage::{VISIBLE, failure, wait_for};
use crate::work::{CheckName, Metric};

/// How a node fared in a round.
#[derive(Serialize, Deserialize)]
struct Fared {
    seconds: f64,
    /// Pages that came back different, and pages.
    wrong: u64,
    pages: u64,
    direct: bool,
    trouble: Option<Trouble>,
}

/// What one reader found.
struct Found {
    seconds: f64,
    wrong: u64,
    pages: u64,
    direct: bool,
}

/// Reads until there are enough rounds; the same on all nodes.
pub(super) fn run(child: &mut Child, job: &Job<'_>, saved: &Saved) -> Result<Outcome, ProbeError> {
    let folders = job.folders;
    let (rank, nodes) = (child.rank as usize, folders.len());
    // Of those that wrote, never that which this node wrote, unless no other did.
    let others: Vec<usize> = (1..nodes).map(|i| (rank + i) % nodes).filter(|node| *node < job.active).collect();
    let others = if others.is_empty() { vec![0] } else { others };
    let budget = child.share(2);
    let spare = Duration::from_secs(2);
    // A file system may take its time to show what others wrote.
    let until = Instant::now() + VISIBLE.min(child.time_left().saturating_sub(spare));
    let unseen = others.iter().copied().find(|node| {
        let last =
            Which { round: saved.round, node: *node, writer: saved.part.writers - 1, file: saved.part.files - 1 };
        wait_for(&last.path(&folders[*node]), until).is_none()
    });
    let unseen: Vec<Option<usize>> = child.exchange(&unseen)?.all(child)?;
    if let Some((blind, of)) = unseen.iter().enumerate().find_map(|(rank, of)| Some((rank, (*of)?))) {
        let why = format!("what {} saved is not seen on {}", child.name(of), child.name(blind));
        return Ok(Outcome::error(FailKind::Unseen, why));
    }
    let mut contents: Vec<(Content, Content)> =
        (0..saved.part.writers).map(|_| (Content::new(child.step.seed), Content::new(0))).collect();
    let (mut seconds, mut last, mut worst) = (Vec::new(), Vec::new(), Vec::new());
    let (mut wrong, mut pages, mut direct) = (0, 0, true);
    for round in 0.. {
        child.barrier()?;
        let node = others[round % others.len()];
        let read = read(&folders[node], saved, node, nodes, (round == 0).then_some(until), &mut contents);
        let own = match read {
            Ok(f) => Fared { seconds: f.seconds, wrong: f.wrong, pages: f.pages, direct: f.direct, trouble: None },
            Err(e) => {
                let what = if nodes == 1 {
                    "reading back".to_owned()
                } else {
                    format!("reading what {} saved", child.name(node))
                };
                let trouble = Trouble::of(failure(&e, &what));
                Fared { seconds: 0.0, wrong: 0, pages: 0, direct: true, trouble: Some(trouble) }
            }
        };
        let all: Vec<Fared> = child.exchange(&own)?.all(child)?;
        if let Some(outcome) = first_trouble(child, all.iter().map(|f| f.trouble.as_ref())) {
            return Ok(outcome);
        }
        for (reader, f) in all.iter().enumerate() {
            wrong += f.wrong;
            pages += f.pages;
            direct &= f.direct;
            if f.wrong > 0 && nodes > 1 {
                worst.push(child.name(reader));
            }
        }
        let (slow, longest) = slowest(&all.iter().map(|f| f.seconds).collect::<Vec<_>>());
        if round == 0 {
            continue;
        }
        seconds.push(longest);
        last.push(slow);
        if enough(&seconds, budget) {
            break;
        }
    }
    worst.sort();
    worst.dedup();
    let by = if worst.is_empty() { String::new() } else { format!(", read by {}", worst.join(", ")) };
    let check =
        Check::new(CheckName::Checksum, wrong == 0, format!("{wrong} of {pages} pages came back different{by}"));
    let bytes = (saved.part.of_node() * nodes as u64) as f64;
    let series = rates(Metric::Read, bytes, &seconds, &last, job, direct);
    let notes = vec![how(nodes, direct)];
    Ok(Outcome::Measured(Measured {
        series: vec![series],
        checks: [check].into(),
        notes: notes.into(),
        ..Measured::default()
    }))
}

/// Who read, and past which caches.
fn how(nodes: usize, direct: bool) -> String {
    let whose = if nodes == 1 { "read by the node that wrote it" } else { "each read by another node" };
    let how =
        if direct { "O_DIRECT" } else { "page cache dropped (no O_DIRECT here): this may be the speed of memory" };
    format!("{whose}, {how}; a server's own cache may have given it")
}

/// All that one node saved in the last round, by as many readers as there were writers; the time is the slowest reader's,
/// without what comparing takes. The first time every byte is compared, and a file may be `seen` late; after it the number that each page
/// bears.
fn read(
    folder: &Path,
    saved: &Saved,
    node: usize,
    nodes: usize,
    seen: Option<Instant>,
    contents: &mut [(Content, Content)],
) -> io::Result<Found> {
    let part = saved.part;
    let one = |(writer, (want, got)): (usize, &mut (Content, Content))| -> io::Result<Found> {
        let mut found = Found { seconds: 0.0, wrong: 0, pages: 0, direct: true };
        for file in 0..part.files {
            let which = Which { round: saved.round, node, writer, file };
            let first = which.first(&part, nodes);
            let path = which.path(folder);
            if let Some(until) = seen {
                wait_for(&path, until);
            }
            let began = Instant::now();
            let (mut from, mut direct) = files::open(&path)?;
            found.seconds += began.elapsed().as_secs_f64();
            found.direct &= direct;
            for (i, len) in part.pieces().enumerate() {
                let into = &mut got.bytes()[..len];
                let began = Instant::now();
                match from.read_exact(into) {
                    // It opens past the cache and does not read so: larger blocks than ours, or a file system in user space.
                    Err(e) if e.kind() == io::ErrorKind::InvalidInput && direct && i == 0 => {
                        (from, direct) = (files::open_cached(&path)?, false);
                        found.direct = false;
                        from.read_exact(into)?;
                    }
                    other => other?,
                }
                found.seconds += began.elapsed().as_secs_f64();
                found.wrong += if seen.is_some() {
                    let pages = into.chunks(PAGE).zip(want.piece(first + i)[..len].chunks(PAGE));
                    pages.filter(|(got, want)| got != want).count() as u64
                } else {
                    Content::misnumbered(into, first + i)
                };
                found.pages += len.div_ceil(PAGE) as u64;
            }
        }
        Ok(found)
    };
    thread::scope(|scope| {
        let all: Vec<_> = contents.iter_mut().enumerate().map(|w| scope.spawn(|| one(w))).collect();
        let mut sum = Found { seconds: 0.0, wrong: 0, pages: 0, direct: true };
        for reader in all {
            let f = reader.join().unwrap_or_else(|_| Err(io::Error::other("a reader broke off")))?;
            sum.seconds = sum.seconds.max(f.seconds);
            (sum.wrong, sum.pages, sum.direct) = (sum.wrong + f.wrong, sum.pages + f.pages, sum.direct && f.direct);
        }
        Ok(sum)
    })
}
