//! Waiting for a process, and not for ever.

use std::io;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

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
