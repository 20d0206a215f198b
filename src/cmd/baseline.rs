//! `gonogo baseline learn`, and reading what it wrote.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use jiff::Timestamp;

use crate::baseline::{self, Baseline, Offender};
use crate::cli::Learning;
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::files::{self, Readers};
use crate::judge;
use crate::record::{self, Record};

/// Larger than this is no baseline.
const LARGEST: u64 = 64 << 20;

pub(super) fn run(what: &Learning) -> Result<Exit, Failure> {
    let Learning::Learn { records, out } = what;
    let mut read: Vec<Record> = Vec::new();
    for path in records {
        read.push(record::read(path).map_err(Failure::usage)?);
    }
    let when = Timestamp::now().strftime("%Y-%m-%d").to_string();
    let mut baseline = Baseline::learn(&read, &when).map_err(Failure::usage)?;
    // Who failed once is not forgotten when the baseline is learned anew.
    if out.exists() {
        let old = self::read(Some(out))?.map(|b| b.offender).unwrap_or_default();
        baseline::merge(&mut baseline.offender, old);
    }
    let floors = baseline::builtin();
    let mut doubtful: Vec<String> = Vec::new();
    for (record, path) in read.iter().zip(records) {
        let judgement = judge::judge(record, &record.header.plan.run, &floors);
        if judgement.decision.exit() != Exit::Go {
            doubtful.push(format!("{} was {}", path.display(), judgement.decision));
        }
        baseline::merge(&mut baseline.offender, judge::offenders(&judgement));
    }
    let text = baseline.text().map_err(Failure::internal)?;
    let written = files::replace(out, Readers::Others, |file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", out.display())).map_err(Failure::internal)?;
    let left_out: usize = baseline.expect.iter().map(|e| e.left_out).sum();
    let values: usize = baseline.expect.iter().map(|e| e.values).sum();
    let said = format!(
        "learned {} metrics from {values} values of {} record(s); {left_out} values were left out as bad\nwho failed, now or before: {}\nnext      gonogo check --baseline {}\n",
        baseline.expect.len(),
        read.len(),
        offenders(&baseline.offender),
        crate::id::clean(&out.to_string_lossy())
    );
    shell::print(&(careful(&doubtful, read.len()) + &said)).map_err(Failure::internal)?;
    Ok(Exit::Go)
}

/// Records of which the baseline may have learned what is usual of a sick cluster.
fn careful(doubtful: &[String], of: usize) -> String {
    if doubtful.is_empty() {
        return String::new();
    }
    let more = if doubtful.len() > 4 { format!(" and {} more", doubtful.len() - 4) } else { String::new() };
    let shown = crate::id::clean(&(doubtful[..doubtful.len().min(4)].join(", ") + &more)).into_owned();
    let (n, what) =
        (doubtful.len(), "a few bad nodes move no median, a sick cluster does: learn from records that are GO");
    format!("careful   {n} of {of} record(s) are no GO ({shown}); {what}\n")
}

/// The worst few of them.
fn offenders(all: &[Offender]) -> String {
    let one = |l: &Offender| {
        let gpus = if l.gpus.is_empty() { String::new() } else { format!(" ({})", l.gpus.join(", ")) };
        format!("{}{gpus} {}x", l.node, l.on.len())
    };
    let shown: Vec<String> = all.iter().take(8).map(one).collect();
    let more = if all.len() > 8 { format!(" and {} more", all.len() - 8) } else { String::new() };
    if all.is_empty() { "none".to_owned() } else { crate::id::clean(&(shown.join(", ") + &more)).into_owned() }
}

/// The baseline of a path, if there is one.
pub(super) fn read(path: Option<&PathBuf>) -> Result<Option<Baseline>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let text = text(path).with_context(|| format!("--baseline {}", path.display())).map_err(Failure::usage)?;
    Baseline::parse(&text).map(Some).map_err(|e| refused(path, e))
}

/// A baseline that cannot be used, and why.
pub(super) fn refused(path: &Path, error: crate::baseline::BaselineError) -> Failure {
    Failure::usage(anyhow!(error).context(format!("--baseline {}", path.display())))
}

fn text(path: &Path) -> anyhow::Result<String> {
    Ok(files::read_text(files::open(path)?, LARGEST)?)
}
