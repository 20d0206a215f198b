//! Locks: files of gonogo's own, held as long as the process lives.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};

/// Who else holds it.
#[derive(Debug, thiserror::Error)]
#[error("another gonogo holds {0}")]
pub(super) struct Held(String);

/// Takes a lock, made where it is not there.
///
/// # Errors
/// [`Held`] inside when another process has it.
pub(super) fn take(path: &Path) -> io::Result<File> {
    // Neither through a link nor into a pipe that would be waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits() as i32);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is no file", path.display())));
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::other(Held(path.display().to_string()))),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn is_held(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Held>())
}

/// What tells the directory of a lock from others of the same path: written into it when it is made.
pub(super) fn id(mut lock: &File) -> io::Result<String> {
    let mut text = String::new();
    lock.take(64).read_to_string(&mut text)?;
    let text = text.trim();
    if text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text.to_owned());
    }
    let id = format!("{:016x}", fastrand::u64(..));
    lock.set_len(0)?;
    io::Seek::rewind(&mut lock)?;
    lock.write_all(format!("{id}\n").as_bytes())?;
    lock.sync_all()?;
    Ok(id)
}
