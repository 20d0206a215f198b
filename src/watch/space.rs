//! What may still be written below a directory.

use std::io;
use std::path::Path;

use crate::measure::{Space, SpaceBound};
use crate::sys;
use crate::topology::{SysRoot, mount_of, mounts};
use crate::unit::Bytes;

/// The file system's free space, for this user.
pub(super) fn space(dir: &Path) -> io::Result<Space> {
    let of = sys::space(dir)?;
    Ok(Space {
        total: Bytes(of.total),
        available: Bytes(of.available),
        bound: SpaceBound::FileSystem,
        inodes_free: (of.inodes_total > 0).then_some(of.inodes_free),
    })
}

/// Source and type of what is mounted there: `srv:/x nfs4`.
pub(super) fn mount(dir: &Path) -> String {
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = mounts(&SysRoot::live());
    mount_of(&mounts, &real).map_or_else(|| "not known".to_owned(), |m| format!("{} {}", m.source, m.fstype))
}
