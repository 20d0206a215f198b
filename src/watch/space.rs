//! What may still be written below a directory.

use std::io;
use std::path::Path;

use crate::measure::{Space, SpaceBound};
use crate::sys;
use crate::topology::{QuotaOf, SysRoot, mount_of, mounts, quotas};
use crate::unit::Bytes;

/// The file system's free space, for this user, and no more than quotas leave.
pub(super) fn space(dir: &Path) -> io::Result<Space> {
    let of = sys::space(dir)?;
    let mut space = Space {
        total: Bytes(of.total),
        available: Bytes(of.available),
        bound: SpaceBound::FileSystem,
        inodes_free: (of.inodes_total > 0).then_some(of.inodes_free),
    };
    let real = dir.canonicalize()?;
    let mounts = mounts(&SysRoot::live());
    for quota in mount_of(&mounts, &real).map_or_else(Vec::new, |mount| quotas(&real, mount)) {
        if let Some((limit, left)) = quota.limit.zip(quota.left()).filter(|(_, left)| *left < space.available) {
            let bound = match quota.of {
                QuotaOf::User => SpaceBound::UserQuota,
                QuotaOf::Group => SpaceBound::GroupQuota,
                QuotaOf::Project => SpaceBound::ProjectQuota,
            };
            (space.total, space.available, space.bound) = (limit, left, bound);
        }
        let files = quota.files_left();
        space.inodes_free = space.inodes_free.into_iter().chain(files).min();
    }
    Ok(space)
}

/// Source and type of what is mounted there: `srv:/x nfs4`.
pub(super) fn mount(dir: &Path) -> String {
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = mounts(&SysRoot::live());
    mount_of(&mounts, &real).map_or_else(|| "not known".to_owned(), |m| format!("{} {}", m.source, m.fstype))
}
