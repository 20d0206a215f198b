//! After a failure: what a run left behind in logs, in PyTorch's flight recorder and in NCCL's RAS, gathered as facts ([`Remains`]). What
//! they mean is `judge`'s. `signs` says which lines count, `line` and `stamp` take them apart, `logs` finds them in files of any size;
//! `recorder` and `ras` tell who waits for whom.
//!
//! Everything read here is hostile: it is bounded, masked, and never run.

mod journal;
mod known;
mod line;
mod logs;
mod parts;
mod pickle;
mod ras;
mod recorder;
mod signs;
mod slurm;
mod stamp;
mod zones;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use thiserror::Error;

use crate::measure::{Place, Remains, Source, SourceKind, Stall};
use crate::unit::Bytes;

pub use known::Known;

/// Files of one run: 16,000 ranks with a log and an error log each.
const MOST_FILES: usize = 100_000;
/// How deep logs lie under a folder that was given.
const DEEPEST: usize = 8;

/// What was asked for is not there.
#[derive(Debug, Error)]
pub enum AutopsyError {
    #[error("{path}: {source}", path = path.display())]
    Path { path: PathBuf, source: io::Error },
    #[error("{}: more than {MOST_FILES} files; name the folder of one run", .0.display())]
    ManyFiles(PathBuf),
    #[error("{}: no file in it", .0.display())]
    Empty(PathBuf),
    #[error("{0}")]
    Search(#[from] aho_corasick::BuildError),
}

/// What to read.
#[derive(Debug, Default)]
pub struct Sources {
    /// Files, or folders of them.
    pub logs: Vec<PathBuf>,
    /// The flight recorder's folder, or one of its files.
    pub recorder: Option<PathBuf>,
    /// `host:port` to ask, or a file with a saved answer.
    pub ras: Option<String>,
    /// The number of a job of Slurm's.
    pub slurm: Option<String>,
    /// Folders of watches that ran beside the job, or their journals.
    pub watches: Vec<PathBuf>,
}

/// Reads all of it. A file that is there and cannot be read is said among the sources.
///
/// # Errors
/// A path that was given does not exist, or is a folder without files or with too many.
pub fn read(
    asked: &Sources,
    mut known: Known,
    now: Timestamp,
    progress: &mut dyn FnMut(&str),
) -> Result<Remains, AutopsyError> {
    let mut out = Remains::default();
    let searcher = logs::Searcher::new(now)?;
    // A rank's place, with the size of the communicator that told it.
    let mut ranks: BTreeMap<u32, (u32, Place)> = BTreeMap::new();
    let (mut lasts, mut local) = (Vec::new(), Vec::new());
    for path in asked.logs.iter().map(|p| files(p)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        progress(&path.to_string_lossy());
        let found = searcher.read(&path, out.sources.len());
        out.sources.push(found.source);
        out.traces.extend(found.traces);
        lasts.push(found.last);
        local.extend(found.local);
        found.addresses.into_iter().for_each(|(address, node)| known.at(address, node));
        for (rank, (of, place)) in found.ranks {
            if ranks.get(&rank).is_none_or(|(known, _)| of > *known) {
                ranks.insert(rank, (of, place));
            }
        }
    }
    out.zones = zones::zones(&lasts);
    for (trace, _) in out.traces.iter_mut().zip(local).filter(|(_, local)| *local) {
        if let Some(minutes) = out.zones.get(&trace.source) {
            trace.at = trace.at.map(|at| zones::utc(at, *minutes));
        }
    }
    // Ranks of a part of the job are not the job's.
    let size = ranks.values().map(|(of, _)| *of).max();
    out.ranks = ranks.into_iter().filter(|(_, (of, _))| Some(*of) == size).map(|(r, (_, p))| (r, p)).collect();
    if let Some(path) = &asked.recorder {
        let mut recorder = recorder::Recorder::default();
        for file in files(path)? {
            progress(&file.to_string_lossy());
            out.sources.push(recorder.read(&file, out.sources.len()));
        }
        out.stalls.extend(recorder.stalls());
    }
    if let Some(place) = &asked.ras {
        progress(place);
        ras_of(place, &mut out);
    }
    if let Some(job) = &asked.slurm {
        let (source, traces) = slurm::ask(job, out.sources.len(), now);
        out.sources.push(source);
        out.traces.extend(traces);
    }
    for path in &asked.watches {
        fs::metadata(path).map_err(|source| AutopsyError::Path { path: path.clone(), source })?;
        let found = journal::read(path, out.sources.len());
        out.sources.push(found.source);
        out.traces.extend(found.traces);
        out.changes.extend(found.changes);
    }
    known.settle(&mut out);
    Ok(out)
}

/// Looks at a saved answer once, at a live one twice.
fn ras_of(place: &str, out: &mut Remains) {
    let index = out.sources.len();
    let mut source = Source { name: place.to_owned(), kind: SourceKind::Ras, bytes: Bytes(0), lines: 0, trouble: None };
    let saved = Path::new(place);
    let first = if saved.exists() { whole(saved) } else { ras::ask(place) };
    let look = first.map_err(|e| e.to_string()).and_then(|said| {
        source.bytes = Bytes(said.len() as u64);
        source.lines = said.iter().filter(|b| **b == b'\n').count() as u64;
        ras::read(&said, index)
    });
    match look {
        Ok(look) => {
            let again = (!saved.exists() && !look.stalls.is_empty()).then(|| {
                std::thread::sleep(ras::BETWEEN);
                ras::ask(place).ok().and_then(|said| ras::read(&said, index).ok())
            });
            let (places, stalls) = (look.places.clone(), stalls(look, again.flatten()));
            out.stalls.extend(stalls);
            for (rank, place) in places {
                out.ranks.entry(rank).or_insert(place);
            }
        }
        Err(error) => source.trouble = Some(error),
    }
    out.sources.push(source);
}

/// Of two looks, what stood still between them is hanging, and what moved is at work.
fn stalls(first: ras::Look, second: Option<ras::Look>) -> Vec<Stall> {
    let Some(second) = second else { return first.stalls };
    let moved = |s: &Stall| {
        let of = |look: &ras::Look| -> Vec<u64> {
            look.counts.iter().filter(|((hash, ..), _)| *hash == s.group).map(|(_, n)| *n).collect()
        };
        of(&first) != of(&second)
    };
    second.stalls.iter().map(|s| Stall { still: Some(!moved(s)), ..s.clone() }).collect()
}

fn whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(256 << 20).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The files of a path in the order of their names: itself, or those of a folder. Links and what is no file are left out.
fn files(path: &Path) -> Result<Vec<PathBuf>, AutopsyError> {
    let fail = |source| AutopsyError::Path { path: path.to_owned(), source };
    let kind = fs::metadata(path).map_err(fail)?;
    if kind.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    if !kind.is_dir() {
        return Err(fail(io::Error::other("it is neither a file nor a folder")));
    }
    let mut out = Vec::new();
    let mut folders = vec![(path.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(fail)?.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_file() => out.push(entry.path()),
                Ok(kind) if kind.is_dir() && depth < DEEPEST => folders.push((entry.path(), depth + 1)),
                _ => {}
            }
            if out.len() > MOST_FILES {
                return Err(AutopsyError::ManyFiles(path.to_owned()));
            }
        }
    }
    out.sort();
    if out.is_empty() { Err(AutopsyError::Empty(path.to_owned())) } else { Ok(out) }
}
