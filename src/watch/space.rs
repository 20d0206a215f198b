//! What may still be written below a directory.

use std::io;
use std::path::Path;

use crate::measure::{Space, SpaceBound};
use crate::topology::{SysRoot, mount_of, mounts};
use crate::unit::Bytes;

/// The file system's free space, for this user.
pub(super) fn space(dir: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(Space {
        total: Bytes(stat.f_blocks.saturating_mul(stat.f_frsize)),
        available: Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)),
        bound: SpaceBound::FileSystem,
        inodes_free: (stat.f_files > 0).then_some(stat.f_favail),
    })
}

/// Source and type of what is mounted there: `srv:/x nfs4`.
pub(super) fn mount(dir: &Path) -> String {
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = mounts(&SysRoot::live());
    mount_of(&mounts, &real).map_or_else(|| "not known".to_owned(), |m| format!("{} {}", m.source, m.fstype))
}
