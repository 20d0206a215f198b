//! What a package of gonogo holds beside the binary: completions of shells, and man pages.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::Cli;
use crate::cmd::{Failure, shell};
use crate::exit::Exit;

pub(super) fn completions(of: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(of, &mut Cli::command(), "gonogo", &mut text);
    shell::print(&String::from_utf8_lossy(&text)).map_err(Failure::internal)?;
    Ok(Exit::Go)
}

/// `gonogo.1`, and one for each verb.
pub(super) fn man(dir: &Path) -> Result<Exit, Failure> {
    let write = || std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    write().with_context(|| format!("cannot write man pages into {}", dir.display())).map_err(Failure::internal)?;
    Ok(Exit::Go)
}
