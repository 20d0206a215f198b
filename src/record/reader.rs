//! Reads a record back, also one that was cut off; nothing in it is trusted.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::id::clean;
use crate::record::format::{Line, Record, SCHEMA};

/// Longest line that is read.
const MAX_LINE: u64 = 64 << 20;

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

/// A record that ends too early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub line: usize,
    pub bytes: usize,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} is cut off after {} bytes; everything before it is used", self.line, self.bytes)
    }
}

/// Reads `path`, or `record.jsonl` in it when it is a directory.
pub fn read(path: &Path) -> Result<Record, RecordError> {
    let path = if path.is_dir() { path.join("record.jsonl") } else { path.to_owned() };
    let file = File::open(&path).map_err(|source| RecordError::Io { path: path.clone(), source })?;
    parse(&path, BufReader::with_capacity(1 << 20, file))
}

/// Reads a record; `path` is for the messages only.
pub fn parse(path: &Path, mut input: impl BufRead) -> Result<Record, RecordError> {
    let mut record: Option<Record> = None;
    let mut buffer = Vec::new();
    for number in 1.. {
        buffer.clear();
        let n = input
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut buffer)
            .map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
        if n == 0 {
            break;
        }
        let whole = buffer.last() == Some(&b'\n');
        match (serde_json::from_slice::<Line>(&buffer), &mut record) {
            (Ok(Line::Header(header)), None) if header.schema > SCHEMA => {
                return Err(RecordError::Newer { path: path.to_owned(), found: header.schema });
            }
            (Ok(Line::Header(header)), None) => record = Some(Record::new(*header)),
            (Ok(Line::Steps(steps)), Some(r)) => r.steps.extend(steps),
            (Ok(Line::Outcome(outcome)), Some(r)) => r.outcomes.push(*outcome),
            (Ok(Line::End(end)), Some(r)) => r.end = Some(end),
            (Ok(Line::Header(_)), Some(_)) => {
                return Err(RecordError::Line {
                    path: path.to_owned(),
                    line: number,
                    why: "a second header".to_owned(),
                });
            }
            (Ok(_), None) => {
                return Err(RecordError::NotARecord {
                    path: path.to_owned(),
                    why: "it is another kind of line".to_owned(),
                });
            }
            (Err(_), Some(r)) if !whole => {
                r.damage = Some(Damage { line: number, bytes: n });
                break;
            }
            (Err(error), Some(_)) => {
                return Err(RecordError::Line {
                    path: path.to_owned(),
                    line: number,
                    why: clean(&error.to_string()).into_owned(),
                });
            }
            (Err(error), None) => return Err(first_line(path, &buffer, &error)),
        }
    }
    record.ok_or_else(|| RecordError::Empty(path.to_owned()))
}

/// A first line that is no header of ours: of a newer schema, whose header may look otherwise, or no record at all.
fn first_line(path: &Path, line: &[u8], error: &serde_json::Error) -> RecordError {
    let value: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    let schema = value.get("header").and_then(|h| h.get("schema")?.as_u64()).and_then(|s| u32::try_from(s).ok());
    match schema {
        Some(found) if found > SCHEMA => RecordError::Newer { path: path.to_owned(), found },
        _ => RecordError::NotARecord { path: path.to_owned(), why: clean(&error.to_string()).into_owned() },
    }
}
