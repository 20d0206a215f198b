//! What may still be written below a directory.

use std::io;
use std::path::Path;

/// A file system's space, in bytes, and its inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub total: u64,
    /// Free for this user: without the blocks reserved for root.
    pub available: u64,
    /// Zero where inodes are allotted as they are needed.
    pub inodes_total: u64,
    pub inodes_free: u64,
}

/// Asks the file system that holds a path.
///
/// # Errors
/// As `statvfs` has them.
pub fn space(path: &Path) -> io::Result<Capacity> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Capacity {
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
        available: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes_total: stat.f_files,
        inodes_free: stat.f_favail,
    })
}
