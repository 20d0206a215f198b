//! Reads a record back, also one that was cut off; nothing in it is trusted.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustc_hash::FxHashSet;
use sha2::{Digest, Sha256};

use crate::cluster::Step;
use crate::files;
use crate::id::{NodeName, clean};
use crate::plan::hex;
use crate::record::format::{Damage, Line, Record, SCHEMA};
use crate::record::packed;

/// Longest line that is read.
const MAX_LINE: u64 = 64 << 20;
/// About so many bytes of lines are parsed at once, while as many are read.
const BLOCK: u64 = 1 << 20;
/// So many lines are worth handing to another core.
const LINES: usize = 64;

/// Why a file is not used as a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot read the record {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} is empty: nothing was recorded in it; run `gonogo check` again")]
    Empty(PathBuf),
    #[error("{path} is not a gonogo record: its first line is not a header ({why})")]
    NotARecord { path: PathBuf, why: String },
    #[error("{path} is a record of schema {found}; this gonogo reads up to {SCHEMA}: use a newer one")]
    Newer { path: PathBuf, found: u32 },
    #[error("{path}:{line}: {why}; the record was changed after it was written")]
    Line { path: PathBuf, line: usize, why: String },
}

/// A record's file in its folder, plain and packed by zstd.
pub const NAME: &str = "record.jsonl";
pub const NAME_PACKED: &str = "record.jsonl.zst";

/// The record that `path` names: itself, or the one in it when it is a directory.
pub fn file_of(path: &Path) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    let packed = path.join(NAME_PACKED);
    if packed.exists() && !path.join(NAME).exists() { packed } else { path.join(NAME) }
}

/// Reads `path`, or the record in it when it is a directory; packed by zstd or not.
pub fn read(path: &Path) -> Result<Record, RecordError> {
    let path = file_of(path);
    let (file, size) = open(&path)?;
    of_file(&path, file, size)
}

fn of_file(path: &Path, file: impl BufRead + Send, size: u64) -> Result<Record, RecordError> {
    let lines = packed::lines(file, size).map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
    parse(path, lines)
}

/// Reads a record and the SHA-256 of exactly the bytes that it was read from, in hexadecimal.
pub fn read_digested(path: &Path) -> Result<(Record, String), RecordError> {
    let path = file_of(path);
    let (file, size) = open(&path)?;
    let mut input = Digested { inner: file, digest: Sha256::new() };
    let record = of_file(&path, &mut input, size)?;
    // What follows the last frame is no part of the record, and of the file.
    io::copy(&mut input, &mut io::sink()).map_err(|source| RecordError::Io { path: path.clone(), source })?;
    Ok((record, hex(&input.digest.finalize())))
}

/// The SHA-256 of a record's file, in hexadecimal.
pub fn digest(path: &Path) -> Result<String, RecordError> {
    let mut input = Digested { inner: open(path)?.0, digest: Sha256::new() };
    io::copy(&mut input, &mut io::sink()).map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
    Ok(hex(&input.digest.finalize()))
}

/// A record's file, and its size.
fn open(path: &Path) -> Result<(BufReader<File>, u64), RecordError> {
    let opened = files::open_in_place(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (size, file) = opened.map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
    Ok((BufReader::with_capacity(1 << 20, file), size))
}

/// Counts what is read into a digest.
struct Digested<R> {
    inner: R,
    digest: Sha256,
}

impl<R: BufRead> Read for Digested<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(into)?;
        self.digest.update(&into[..n]);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Digested<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        // What is consumed lies in the buffer: nothing is read here.
        if let Ok(buffer) = self.inner.fill_buf() {
            self.digest.update(&buffer[..n.min(buffer.len())]);
        }
        self.inner.consume(n);
    }
}

/// Reads a record; `path` is for the messages only. While a block of lines is parsed by all cores, the next is read and the one before is
/// taken, in order.
pub fn parse(path: &Path, mut input: impl BufRead + Send) -> Result<Record, RecordError> {
    let io = |source| RecordError::Io { path: path.to_owned(), source };
    let mut taken = Taken { path, number: 0, record: None };
    let mut bytes = block(&mut input).map_err(io)?;
    let mut before = Vec::new();
    while !bytes.is_empty() {
        let ((next, parsed), done) = rayon::join(
            || rayon::join(|| block(&mut input), || parsed(&bytes)),
            || taken.all(std::mem::take(&mut before)),
        );
        done?;
        before = parsed;
        bytes = next.map_err(io)?;
    }
    taken.all(before)?;
    let mut record = taken.record.ok_or_else(|| RecordError::Empty(path.to_owned()))?;
    record.outcomes.shrink_to_fit();
    Ok(record)
}

/// A line that was parsed; where that failed, why and its bytes.
type Parsed = Result<Line, (serde_json::Error, Box<[u8]>)>;

fn parsed(block: &[u8]) -> Vec<Parsed> {
    let unended = (block.last() != Some(&b'\n')).then_some(block.len());
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', block).map(|i| i + 1).chain(unended);
    let lines: Vec<&[u8]> = ends.map(|end| &block[std::mem::replace(&mut start, end)..end]).collect();
    let parsed = |line: &&[u8]| line_of(line).map_err(|error| (error, Box::from(*line)));
    lines.par_iter().with_min_len(LINES).map(parsed).collect()
}

fn line_of(text: &[u8]) -> Result<Line, serde_json::Error> {
    let mut line = serde_json::from_slice::<Line>(text);
    if let Ok(Line::Outcome(outcome)) = &mut line {
        outcome.outcome.shrink();
    }
    line
}

/// The next lines, the last with its line feed unless the file ends without one; empty at the end of the file.
fn block(input: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(BLOCK as usize + (64 << 10));
    input.by_ref().take(BLOCK).read_to_end(&mut out)?;
    if out.last().is_some_and(|b| *b != b'\n') {
        input.by_ref().take(MAX_LINE).read_until(b'\n', &mut out)?;
    }
    Ok(out)
}

/// What was read so far.
struct Taken<'p> {
    path: &'p Path,
    /// Lines.
    number: usize,
    record: Option<Record>,
}

impl Taken<'_> {
    /// Adds lines to the record.
    fn all(&mut self, lines: Vec<Parsed>) -> Result<(), RecordError> {
        lines.into_iter().try_for_each(|line| self.one(line))
    }

    fn one(&mut self, line: Parsed) -> Result<(), RecordError> {
        self.number += 1;
        let (path, number) = (self.path, self.number);
        let broken = |why: String| RecordError::Line { path: path.to_owned(), line: number, why };
        match (line, &mut self.record) {
            (Ok(Line::Header(header)), None) if header.schema > SCHEMA => {
                return Err(RecordError::Newer { path: path.to_owned(), found: header.schema });
            }
            (Ok(Line::Header(header)), record @ None) => {
                if let Some(why) = misnamed(&header.nodes) {
                    return Err(RecordError::NotARecord { path: path.to_owned(), why });
                }
                *record = Some(Record::new(*header));
            }
            (Ok(_), None) => {
                return Err(RecordError::NotARecord {
                    path: path.to_owned(),
                    why: "it is another kind of line".to_owned(),
                });
            }
            (Err((error, bytes)), None) => return Err(first_line(path, &bytes, &error)),
            (Ok(_), Some(r)) if r.end.is_some() => return Err(broken("a line after the end".to_owned())),
            (Ok(Line::Header(_)), Some(_)) => return Err(broken("a second header".to_owned())),
            (Ok(Line::Steps(mut steps)), Some(r)) => {
                if r.header.schema == 1 {
                    steps.iter_mut().try_for_each(Step::read_schema_1).map_err(|e| broken(e.to_string()))?;
                }
                r.steps.extend(steps);
            }
            (Ok(Line::Outcome(outcome)), Some(r)) => r.outcomes.push(*outcome),
            (Ok(Line::End(end)), Some(r)) => r.end = Some(end),
            (Err((_, bytes)), Some(r)) if bytes.last() != Some(&b'\n') => {
                r.damage = Some(Damage { line: number, bytes: bytes.len() })
            }
            (Err((error, _)), Some(_)) => return Err(broken(clean(&error.to_string()).into_owned())),
        }
        Ok(())
    }
}

/// A first line that is no header of ours: of a newer schema, whose header may look otherwise, or no record at all.
/// Why these cannot be the nodes of a record.
fn misnamed(nodes: &[NodeName]) -> Option<String> {
    if nodes.is_empty() {
        return Some("its header names no node".to_owned());
    }
    let mut seen = FxHashSet::default();
    nodes.iter().find(|node| !seen.insert(*node)).map(|node| format!("its header names {node} twice"))
}

fn first_line(path: &Path, line: &[u8], error: &serde_json::Error) -> RecordError {
    let value: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    let schema = value.get("header").and_then(|h| h.get("schema")?.as_u64()).and_then(|s| u32::try_from(s).ok());
    match schema {
        Some(found) if found > SCHEMA => RecordError::Newer { path: path.to_owned(), found },
        _ => RecordError::NotARecord { path: path.to_owned(), why: clean(&error.to_string()).into_owned() },
    }
}
