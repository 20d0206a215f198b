//! One verb a file. Here the stages meet: files, clocks and the terminal are read here and handed in.

mod autopsy;
mod baseline;
mod check;
mod cluster;
mod diff;
mod discover;
mod drain;
mod explain;
mod fabric;
mod forecast;
mod gate;
mod judge;
mod list;
mod measure;
mod package;
mod shell;
mod simulate;
mod watch;
mod worker;

use crate::cli::{Cli, Command};
use crate::exit::Exit;

/// An error with the exit code that it ends with.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
}

impl Failure {
    /// The user's to mend: flags, plan, record.
    fn usage(error: impl Into<anyhow::Error>) -> Self {
        Failure { exit: Exit::Usage, error: error.into() }
    }

    /// gonogo's own, or the machine's.
    fn internal(error: impl Into<anyhow::Error>) -> Self {
        Failure { exit: Exit::Internal, error: error.into() }
    }
}

/// Runs a command to its exit code.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Check(args) => check::run(args),
        Command::Baseline { what } => baseline::run(&what),
        Command::Judge(args) => judge::run(&args.record, args.plan.as_deref(), &args.shown),
        Command::Report(args) => judge::report(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Gate(args) => gate::run(args),
        Command::Forecast(args) => forecast::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Autopsy(args) => autopsy::run(&args),
        Command::Drain(args) => drain::run(&args),
        Command::Discover(args) => discover::run(args),
        Command::Explain(args) => explain::run(&args),
        Command::List { what } => list::run(what),
        Command::Simulate(args) => simulate::run(&args),
        Command::Completions { shell } => package::completions(shell),
        Command::Man { dir } => package::man(&dir),
        Command::Worker => worker::run(),
        Command::Guard { port, path } => Ok(cluster::guard(&path, port)),
        Command::Load { part, library } => worker::load(&part, &library),
    }
}
