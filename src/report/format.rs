//! What a report is written as: each format's name, its ending, and who renders it.

use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;

use crate::judge::Judgement;
use crate::report::{Style, csv, html, json, junit, markdown, prometheus, terminal, view};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Terminal,
    Json,
    /// JUnit XML, for CI.
    Junit,
    /// For a comment or an issue.
    Markdown,
    /// One self-contained page.
    Html,
    /// OpenMetrics text, for node_exporter's textfile collector.
    Prometheus,
    /// Every sample.
    Csv,
}

impl Format {
    /// How a file of this format ends, without the dot.
    pub fn ending(self) -> &'static str {
        match self {
            Format::Terminal => "txt",
            Format::Json => "json",
            Format::Junit => "xml",
            Format::Markdown => "md",
            Format::Html => "html",
            Format::Prometheus => "prom",
            Format::Csv => "csv",
        }
    }

    /// By a file's ending.
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?;
        Self::value_variants().iter().copied().find(|f| f.ending() == ending)
    }
}

/// Writes a report. `record` is the record's path, as it is shown; `style` counts on a terminal only.
pub fn write(
    format: Format,
    judgement: &Judgement<'_>,
    record: &str,
    style: Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    let view = || view(judgement, record);
    let text = match format {
        Format::Terminal => terminal(&view(), style),
        Format::Markdown => markdown(&view()),
        Format::Json => json(judgement, record).map_err(io::Error::other)?,
        Format::Junit => junit(judgement).map_err(io::Error::other)?,
        Format::Html => html(judgement, record).map_err(io::Error::other)?,
        Format::Prometheus => prometheus(judgement).map_err(io::Error::other)?,
        // A line a sample: not held in memory.
        Format::Csv => return Ok(csv(judgement, out)?),
    };
    out.write_all(text.as_bytes())
}
