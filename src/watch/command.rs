//! The plan's own commands, with an end to every wait.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::sys::{end, wait};

/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(50);

/// How a command did not do what it was for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("cannot be started: {0}")]
    Start(io::Error),
    #[error("ended with {0}")]
    Ended(ExitStatus),
    #[error("cannot be waited for: {0}")]
    Wait(io::Error),
    #[error("did not end in {} s", .0.as_secs())]
    Late(Duration),
    #[error("was stopped")]
    Stopped,
}

/// Runs a command to its end; its words go where this process's go.
pub(super) fn run(
    words: &[OsString],
    environment: &[(&str, &str)],
    limit: Duration,
    stop: &AtomicBool,
) -> Result<(), Failed> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().copied()).env_remove(crate::cluster::TOKEN_VARIABLE);
    command.stdin(Stdio::null()).stdout(io::stderr()).process_group(0);
    let mut child = command.spawn().map_err(Failed::Start)?;
    let stopped = || stop.load(Ordering::Relaxed);
    match wait(&mut child, Instant::now() + limit, LOOK, &stopped).map_err(Failed::Wait)? {
        Some(status) if status.success() => return Ok(()),
        Some(status) => return Err(Failed::Ended(status)),
        None => {}
    }
    if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    end(&mut child);
    Err(if stopped() { Failed::Stopped } else { Failed::Late(limit) })
}
