//! `gonogo forecast`: what the run will take.

use anyhow::anyhow;

use crate::cli::{self, Plain};
use crate::cmd::judge::Case;
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::forecast::Measured;
use crate::plan;
use crate::report;

pub(super) fn run(args: &cli::Forecast) -> Result<Exit, Failure> {
    let given = args.plan.as_ref().map(|path| plan::read(path)).transpose().map_err(Failure::usage)?;
    let (run, seen) = match &args.record {
        Some(path) => {
            let case = Case::read(path, args.plan.as_deref(), None)?;
            let run = given.unwrap_or_else(|| case.record.header.plan.run.clone());
            let seen = report::measured(&case.judge());
            (run, seen)
        }
        None => (
            given.ok_or_else(|| Failure::usage(anyhow!("give a RECORD, or --plan RUN.TOML, or both")))?,
            Measured::default(),
        ),
    };
    let shown = report::course(&run, &seen).map_err(Failure::usage)?;
    let text = match args.format {
        Plain::Terminal => report::course_whole(&shown, shell::style()),
        Plain::Json => serde_json::to_string_pretty(&shown).map_err(Failure::internal)? + "\n",
    };
    shell::print(&text).map_err(Failure::internal)?;
    Ok(Exit::Go)
}
