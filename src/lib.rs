//! gonogo: go or no-go, before a large training run is launched.
//!
//! ```text
//! Config -> Plan -> Topology -> Steps -> Samples -> Record -> Findings -> Report -> Decision
//! ```
//!
//! The modules below stand in that order; each takes types from those above it only, which `tests/layering.rs` holds.
//! Facts (up to [`record`]) never judge; opinions (from [`judge`]) never measure.

// A function is read at one sitting (the threshold is clippy.toml's); a test may be a table.
#![cfg_attr(not(test), warn(clippy::too_many_lines))]

// Words that every stage uses.
pub mod exit;
pub mod files;
pub mod hostlist;
pub mod id;
pub mod roster;
pub mod unit;
// What can be measured.
pub mod work;
// The machine's own library calls.
pub mod sys;
// Facts.
pub mod cluster;
pub mod measure;
pub mod plan;
pub mod probe;
pub mod record;
pub mod topology;
// What is expected.
pub mod autopsy;
pub mod baseline;
pub mod forecast;
pub mod gate;
pub mod judge;
pub mod localise;
pub mod report;
pub mod schedule;
pub mod watch;
// The program.
pub mod cli;
pub mod cmd;

use exit::Exit;

/// Runs a parsed command line; prints the error, if any, with all its causes.
pub fn main(cli: cli::Cli) -> Exit {
    cmd::run(cli).unwrap_or_else(|failure| {
        eprintln!("gonogo: {}", once(&failure.error));
        failure.exit
    })
}

/// An error with its causes; one that its effect has named already is not said again.
fn once(error: &anyhow::Error) -> String {
    let mut out = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !out.ends_with(&cause) {
            out.push_str(": ");
            out.push_str(&cause);
        }
    }
    // Paths and names in it are from outside: none of them drives a terminal.
    out.chars().map(|c| if c != '\n' && id::drives(c) { '?' } else { c }).collect()
}

/// Prints what is wrong with the command line, or the help that was asked for.
pub fn usage(error: &clap::Error) -> Exit {
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Go }
}
