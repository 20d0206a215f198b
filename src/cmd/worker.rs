//! A probe's process: it runs a step, or, for a GPU, one after another. It ends with its parent, and takes its scratch directory with it.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, anyhow};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cluster::Child;
use crate::cmd::Failure;
use crate::exit::Exit;
use crate::probe;

pub(super) fn run() -> Result<Exit, Failure> {
    let scratch: Arc<Mutex<Option<PathBuf>>> = Arc::default();
    end_with_parent(scratch.clone()).map_err(Failure::internal)?;
    match work(&scratch) {
        Ok(()) => Ok(Exit::Go),
        // The parent reads the message and status 1 as a probe that gave up in good order.
        Err(error) => Err(Failure { exit: Exit::NoGo, error }),
    }
}

/// Loads one library and says what it is; the process that asked reads the line.
pub(super) fn load(part: &str, library: &Path) -> Result<Exit, Failure> {
    // A constructor that hangs is not to outlive who asked.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).map_err(Failure::internal)?;
    println!("{}", probe::load_library(part, library));
    Ok(Exit::Go)
}

/// The channel to the parent, which was the standard output. What libraries print must not come between its frames: it goes to a file in
/// memory, where a probe may read it.
fn channel() -> anyhow::Result<File> {
    let channel = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3).context("cannot keep the channel to the parent")?;
    match rustix::fs::memfd_create("stdout", rustix::fs::MemfdFlags::CLOEXEC) {
        Ok(said) => rustix::stdio::dup2_stdout(said),
        Err(_) => rustix::stdio::dup2_stdout(io::stderr()),
    }
    .context("cannot set the standard output apart")?;
    Ok(File::from(channel))
}

fn work(scratch: &Mutex<Option<PathBuf>>) -> anyhow::Result<()> {
    let mut next = Some(Child::accept(Box::new(BufReader::new(io::stdin())), Box::new(channel()?))?);
    while let Some(mut child) = next {
        *scratch.lock().unwrap_or_else(|e| e.into_inner()) = child.step.scratch.clone();
        let name = child.step.probe.clone();
        let probe = probe::find(name.as_str()).ok_or_else(|| anyhow!("no probe is called {name}"))?;
        probe::begin(&mut child);
        probe.run(&mut child)?;
        next = child.finish()?;
    }
    Ok(())
}

/// The kernel sends SIGTERM when the parent dies, however it dies.
fn end_with_parent(scratch: Arc<Mutex<Option<PathBuf>>>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot listen for signals")?;
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            // A probe that goes on creating files meanwhile loses the race within a few rounds, or the next run sweeps.
            if let Some(dir) = scratch.lock().ok().and_then(|s| s.clone()) {
                for _ in 0..10 {
                    if !dir.exists() {
                        break;
                    }
                    let _ = std::fs::remove_dir_all(&dir);
                }
            }
            std::process::exit(1);
        }
    });
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .context("cannot bind to the parent")?;
    Ok(())
}
