//! gonogo: go or no-go? The program is in the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // clap's own exit code for bad usage is 2, which is a verdict here.
    let cli = match gonogo::cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return gonogo::usage(&error).into(),
    };
    gonogo::main(cli).into()
}
