//! Waiting for a process, and not for ever.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a killed process may take to die.
const DYING: Duration = Duration::from_secs(1);

/// How a child ended; `None` where it had not by its deadline, or when `stop` said so: it runs still.
///
/// # Errors
/// A child that cannot be waited for.
pub fn wait(
    child: &mut Child,
    deadline: Instant,
    look: Duration,
    stop: &dyn Fn() -> bool,
) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if stop() || Instant::now() > deadline {
            return Ok(None);
        }
        thread::sleep(look);
    }
}

/// Runs a program to its end; what it wrote to its output and to its error output, of each the first `most` bytes. `None` where it had
/// not ended by then: it is killed. In the C locale, so that its words are those of its documentation, and in UTC.
///
/// # Errors
/// A program that cannot be started.
pub fn ask(command: &[&str], most: u64, patience: Duration) -> io::Result<Option<(String, String)>> {
    let (program, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let collect = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.map(|p| p.take(most).read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = collect(child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    let err = collect(child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    if !matches!(wait(&mut child, Instant::now() + patience, Duration::from_millis(10), &|| false), Ok(Some(_))) {
        end(&mut child);
        return Ok(None);
    }
    Ok(Some((out.join().unwrap_or_default(), err.join().unwrap_or_default())))
}

/// Kills a child. One that the kernel holds (a driver, a file system that does not answer) dies when it is let go, and is not waited
/// for.
pub fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = wait(child, Instant::now() + DYING, Duration::from_millis(10), &|| false);
}
