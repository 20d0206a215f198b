//! What the watch did, a line of JSON each, flushed before the next thing is done.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use crate::files;
use crate::measure::SaveState;
use crate::watch::moving::Recovered;

/// A line of the journal.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(super) enum Event<'a> {
    Began {
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
        severity: &'a str,
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
        let path = folder.join("journal.jsonl");
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
