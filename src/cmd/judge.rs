//! `gonogo judge` and `gonogo report`: a record, judged by today's rules.

use std::path::Path;

use crate::baseline::{self, Expectation};
use crate::cli::Format;
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::judge::{self, Judgement};
use crate::plan::{self, RunPlan};
use crate::record::{self, Record};
use crate::report;

/// A record as read, and what it is held against.
pub(super) struct Case {
    pub(super) record: Record,
    run: RunPlan,
    limits: Vec<Expectation>,
}

impl Case {
    /// Reads a record, to be judged by `plan` instead of its own if one is given.
    pub(super) fn read(path: &Path, plan: Option<&Path>) -> Result<Self, Failure> {
        let record = record::read(path).map_err(Failure::usage)?;
        let run = match plan {
            Some(p) => plan::read(p).map_err(Failure::usage)?,
            None => record.header.plan.run.clone(),
        };
        let limits = limits(&run);
        Ok(Case { record, run, limits })
    }

    pub(super) fn judge(&self) -> Judgement<'_> {
        judge::judge(&self.record, &self.run, &self.limits)
    }
}

pub(super) fn run(path: &Path, plan: Option<&Path>, format: Format) -> Result<Exit, Failure> {
    let case = Case::read(path, plan)?;
    let judgement = case.judge();
    show(&judgement, path, format)?;
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

/// Prints a report.
pub(super) fn show(judgement: &Judgement<'_>, path: &Path, format: Format) -> Result<(), Failure> {
    let path = path.to_string_lossy();
    let text = match format {
        Format::Terminal => report::terminal(&report::view(judgement, &path), shell::style()),
        Format::Json => report::json(judgement, &path).map_err(Failure::internal)?,
    };
    shell::print(&text).map_err(Failure::internal)
}
