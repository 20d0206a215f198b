//! `gonogo judge` and `gonogo report`: a record, judged by today's rules.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::ValueEnum;

use crate::baseline::{self, Expectation, Offender};
use crate::cli::{self, Shown};
use crate::cmd::{Failure, baseline as learned, shell};
use crate::exit::Exit;
use crate::files::{self, Readers};
use crate::judge::{self, Judgement};
use crate::plan::{self, RunPlan};
use crate::record::{self, Record};
use crate::report::{self, Format};

/// A record as read, and what it is held against.
pub(super) struct Case {
    pub(super) record: Record,
    run: RunPlan,
    limits: Vec<Expectation>,
    offenders: Vec<Offender>,
}

impl Case {
    /// Reads a record, to be judged by `plan` instead of its own if one is given, and against a baseline.
    pub(super) fn read(path: &Path, plan: Option<&Path>, usual: Option<&PathBuf>) -> Result<Self, Failure> {
        let record = record::read(path).map_err(Failure::usage)?;
        let run = match plan {
            Some(p) => plan::read(p).map_err(Failure::usage)?,
            None => record.header.plan.run.clone(),
        };
        let mut case = Case::of(record, run);
        if let (Some(b), Some(path)) = (learned::read(usual)?, usual) {
            b.fits_record(&case.record).map_err(|e| learned::refused(path, e))?;
            case.limits.extend(b.limits());
            case.offenders = b.offender;
        }
        Ok(case)
    }

    /// A record, to be judged by `run`.
    pub(super) fn of(record: Record, run: RunPlan) -> Self {
        Case { limits: limits(&run), record, run, offenders: Vec::new() }
    }

    pub(super) fn judge(&self) -> Judgement<'_> {
        judge::judge_knowing(&self.record, &self.run, &self.limits, &self.offenders)
    }
}

/// `report` shows, and ends with 0 when it has; the verdict's code is that of `judge`, and of `gate`.
pub(super) fn report(args: &cli::Report) -> Result<Exit, Failure> {
    let exit = run(&args.record, None, &args.shown)?;
    Ok(if args.exit_code { exit } else { Exit::Go })
}

pub(super) fn run(path: &Path, plan: Option<&Path>, shown: &Shown) -> Result<Exit, Failure> {
    let files = files(&shown.reports)?;
    let case = Case::read(path, plan, shown.baseline.as_ref())?;
    let judgement = case.judge();
    show(&judgement, path, shown.format, &files)?;
    let exit = judgement.decision.exit();
    // The process ends here: giving back the millions of pieces of a large record one by one takes a tenth of its time.
    std::mem::forget(judgement);
    std::mem::forget(case);
    Ok(exit)
}

/// What a run is held against: its own requirements and the built-in floors.
pub(super) fn limits(run: &RunPlan) -> Vec<Expectation> {
    let mut limits = baseline::required(run);
    limits.extend(baseline::builtin());
    limits
}

/// Where a report goes beside the terminal, checked before anything is measured.
pub(super) fn files(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Format)>, Failure> {
    let of = |path: &PathBuf| {
        let format = Format::of(path).ok_or_else(|| {
            let shown = crate::id::clean(&path.to_string_lossy()).into_owned();
            let endings: Vec<_> = Format::value_variants().iter().map(|f| f.ending()).collect();
            Failure::usage(anyhow!("--report {shown}: the name must end with .{}", endings.join(", .")))
        })?;
        Ok((path.clone(), format))
    };
    paths.iter().map(of).collect()
}

/// Prints a report, and writes it to files. A file that cannot be written is told after the report was printed.
pub(super) fn show(
    judgement: &Judgement<'_>,
    record: &Path,
    format: Format,
    files: &[(PathBuf, Format)],
) -> Result<(), Failure> {
    let shown = record.to_string_lossy();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let printed = report::write(format, judgement, &shown, shell::style(), &mut out).and_then(|()| out.flush());
    match printed {
        // A reader that closed the pipe (`| head`) is no error.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
        result => result.context("cannot print the report").map_err(Failure::internal)?,
    }
    drop(out);
    write_files(judgement, record, files)
}

/// Writes a report to each file, in the form that its ending says.
pub(super) fn write_files(
    judgement: &Judgement<'_>,
    record: &Path,
    files: &[(PathBuf, Format)],
) -> Result<(), Failure> {
    let shown = record.to_string_lossy();
    let style = report::Style { width: 100, colour: false };
    for (path, format) in files {
        let written = files::replace(path, Readers::Others, |file| {
            let mut out = io::BufWriter::new(file);
            report::write(*format, judgement, &shown, style, &mut out)?;
            out.flush()
        });
        written.with_context(|| format!("cannot write the report {}", path.display())).map_err(Failure::internal)?;
    }
    Ok(())
}
