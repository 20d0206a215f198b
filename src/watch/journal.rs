//! What the watch did, a line of JSON each, flushed before the next thing is done.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::id::NodeName;
use crate::judge::{Code, Severity, codes};
use crate::measure::SaveState;
use crate::watch::moving::Recovered;

/// Of a watch's folder.
pub const NAME: &str = "journal.jsonl";

/// A line of the journal.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(super) enum Event<'a> {
    Began {
        node: &'a NodeName,
        dir: &'a Path,
        cold: Option<String>,
        pid: u32,
    },
    /// What an earlier watch left.
    Recovered {
        what: &'a Recovered,
    },
    Save {
        name: &'a str,
        step: Option<u64>,
        bytes: u64,
        files: u64,
        state: SaveState,
        available: u64,
    },
    MoveBegan {
        name: &'a str,
        bytes: u64,
    },
    Moved {
        name: &'a str,
        files: u64,
        bytes: u64,
        digest: &'a str,
        seconds: f64,
    },
    MoveFailed {
        name: &'a str,
        error: &'a str,
    },
    /// A finding came up.
    Finding {
        code: &'a str,
        severity: Severity,
        text: &'a str,
    },
    /// It is no more.
    Cleared {
        code: &'a str,
    },
    Ended {
        why: &'a str,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    at: Timestamp,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Goes on with the journal that is there.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(NAME);
        let file = match files::create(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // As `create` makes it: a file of this user's, and no link.
                files::open_in_place(&path)?;
                fs::OpenOptions::new().append(true).open(&path)?
            }
            made => made?,
        };
        Ok(Journal { path, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn note(&mut self, event: &Event<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line { at: Timestamp::now(), event })?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()
    }
}

/// A journal longer than this is read to here, and no line of one is as long.
const MOST: u64 = 64 << 20;
const LONGEST: usize = 1 << 20;
/// More findings than a watch tells in a year.
const MANY: usize = 10_000;

/// A finding that came up under a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub at: Timestamp,
    pub node: Option<NodeName>,
    pub code: Code,
    pub severity: Severity,
    pub text: String,
    /// Whether it went away again before the watch ended.
    pub cleared: bool,
    /// From 1.
    pub line: u64,
}

/// What a journal tells, and how much of it there was.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Journalled {
    pub told: Vec<Told>,
    pub bytes: u64,
    pub lines: u64,
    /// Lines that are none of a journal's.
    pub strange: u64,
}

/// What is read again of an [`Event`].
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Known {
    Began {
        node: Option<NodeName>,
    },
    Finding {
        code: String,
        severity: Severity,
        text: String,
    },
    Cleared {
        code: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct KnownLine {
    at: Timestamp,
    #[serde(flatten)]
    event: Known,
}

/// The findings of a journal. The last line may be cut: its watch was killed.
///
/// # Errors
/// A file that cannot be read.
pub fn read(path: &Path) -> io::Result<Journalled> {
    let mut out = Journalled::default();
    let mut node = None;
    // Of each code, its findings that stand.
    let mut open: HashMap<&'static str, Vec<usize>> = HashMap::new();
    let mut lines = BufReader::new(File::open(path)?.take(MOST));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        (out.bytes, out.lines) = (out.bytes + line.len() as u64, out.lines + 1);
        let known = if line.len() > LONGEST { None } else { serde_json::from_slice(&line).ok() };
        match known {
            Some(KnownLine { event: Known::Began { node: on }, .. }) => node = on,
            Some(KnownLine { event: Known::Cleared { code }, .. }) => {
                for i in open.remove(code.as_str()).into_iter().flatten() {
                    out.told[i].cleared = true;
                }
            }
            Some(KnownLine { at, event: Known::Finding { code, severity, text } }) => match codes::find(&code) {
                Some(doc) if out.told.len() < MANY => {
                    open.entry(doc.code).or_default().push(out.told.len());
                    let (node, line) = (node.clone(), out.lines);
                    out.told.push(Told { at, node, code: doc.id, severity, text, cleared: false, line });
                }
                _ => out.strange += 1,
            },
            Some(KnownLine { event: Known::Other, .. }) => {}
            None => out.strange += 1,
        }
        line.clear();
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(64))]
        #[test]
        fn no_journal_makes_it_panic(
            text in "(\\{\"at\":\"2026-11-27T09:00:00Z\",|\"event\":|\"began\"|\"finding\",|\"code\":\"GPU-003\",|\"severity\":\"fail\"|\"text\":|\\}|\n|,|\\PC){0,60}"
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(NAME);
            fs::write(&path, &text).unwrap();
            let read = read(&path).unwrap();
            assert_eq!((read.bytes, read.strange <= read.lines), (text.len() as u64, true));
        }
    }
}
