//! Appends to a record, line by line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cluster::Step;
use crate::files;
use crate::record::format::Line;
use crate::record::packed::Sink;
use crate::record::{End, Header, OutcomeLine, Record};

/// A record being written. Each call is one write of one whole line.
pub struct Writer {
    path: PathBuf,
    sink: Sink,
}

impl Writer {
    /// Creates the record, for its owner alone; refuses to write over another. Where `path` ends with `.zst` it is packed by zstd.
    pub fn create(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let sink = Sink::new(path, files::create(path)?)?;
        Ok(Writer { path: path.to_owned(), sink })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn header(&mut self, header: &Header) -> io::Result<()> {
        self.line(&Line::Header(Box::new(header.clone())))
    }

    pub fn steps(&mut self, steps: &[Step]) -> io::Result<()> {
        self.line(&Line::Steps(steps.to_vec()))
    }

    pub fn outcome(&mut self, outcome: &OutcomeLine) -> io::Result<()> {
        self.line(&Line::Outcome(Box::new(outcome.clone())))
    }

    pub fn end(&mut self, end: &End) -> io::Result<()> {
        self.line(&Line::End(end.clone()))?;
        self.sink.end()
    }

    /// All of a record.
    pub fn whole(&mut self, record: &Record) -> io::Result<()> {
        self.header(&record.header)?;
        self.steps(&record.steps)?;
        for line in &record.outcomes {
            self.outcome(line)?;
        }
        record.end.as_ref().map_or(Ok(()), |end| self.end(end))
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.sink.line(&bytes)
    }
}
