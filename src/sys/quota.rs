//! What quotas leave below a directory, as the kernel that serves it counts. Servers keep their own: what NFS and Lustre allow their
//! commands tell.

use std::ffi::{c_int, c_long, c_ulong, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whose a quota is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    User,
    Group,
    Project,
}

/// A quota that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub of: Of,
    pub id: u32,
    /// Bytes: the lower of the two limits that are set; `None` where none is.
    pub limit: Option<u64>,
    pub used: u64,
    pub files_limit: Option<u64>,
    pub files: u64,
}

/// `struct if_dqblk` of linux/quota.h.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Dqblk {
    hard_blocks: u64,
    soft_blocks: u64,
    space: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Fsxattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// The same number on every architecture since Linux 5.14.
const QUOTACTL_FD: c_long = 443;
const GET_QUOTA: u32 = 0x80_0007;
/// `_IOR('X', 31, struct fsxattr)`
const GET_ATTRIBUTES: c_ulong = 0x801c_581f;
const SET_GROUP_ID: u32 = 0o2000;
/// Block limits count these.
const BLOCK: u64 = 1024;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

fn ask(fd: c_int, of: Of, id: u32) -> Option<Dqblk> {
    let kind = match of {
        Of::User => 0,
        Of::Group => 1,
        Of::Project => 2,
    };
    let mut answer = Dqblk::default();
    let out: *mut Dqblk = &mut answer;
    // SAFETY: `quotactl_fd(fd, cmd, id, addr)` with Q_GETQUOTA writes one `struct if_dqblk` at `addr`, which `out` is, and nothing else.
    let done = unsafe {
        syscall(
            QUOTACTL_FD,
            c_long::from(fd),
            c_long::from(GET_QUOTA << 8 | kind),
            c_long::from(id),
            out.cast::<c_void>(),
        )
    };
    (done == 0).then_some(answer)
}

fn project(fd: c_int) -> Option<u32> {
    let mut answer = Fsxattr::default();
    let out: *mut Fsxattr = &mut answer;
    // SAFETY: FS_IOC_FSGETXATTR writes one `struct fsxattr` there and nothing else.
    let done = unsafe { ioctl(fd, GET_ATTRIBUTES, out.cast::<c_void>()) };
    (done == 0 && answer.project != 0).then_some(answer.project)
}

/// The lower of a hard and a soft limit; zero is none.
fn lower(hard: u64, soft: u64) -> Option<u64> {
    [hard, soft].into_iter().filter(|l| *l > 0).min()
}

/// Whose quotas bound what this process writes into a directory: its user's, its group's, and the directory's project's.
pub fn ids(dir: &Path) -> Vec<(Of, u32)> {
    let user = (Of::User, rustix::process::geteuid().as_raw());
    // In a directory with the set-group-id bit files belong to its group.
    let inherited = std::fs::metadata(dir).ok().filter(|m| m.mode() & SET_GROUP_ID != 0).map(|m| m.gid());
    let group = (Of::Group, inherited.unwrap_or_else(|| rustix::process::getegid().as_raw()));
    let project = File::open(dir).ok().and_then(|f| project(f.as_raw_fd())).map(|p| (Of::Project, p));
    [Some(user), Some(group), project].into_iter().flatten().collect()
}

/// Of [`ids`], the quotas that limit anything and may be asked for.
///
/// # Errors
/// The directory cannot be opened.
pub fn quotas(dir: &Path) -> io::Result<Vec<Limits>> {
    let file = File::open(dir)?;
    let limits = |(of, id): (Of, u32)| {
        let q = ask(file.as_raw_fd(), of, id)?;
        let limit = lower(q.hard_blocks, q.soft_blocks).map(|blocks| blocks.saturating_mul(BLOCK));
        let files_limit = lower(q.hard_inodes, q.soft_inodes);
        let found = Limits { of, id, limit, used: q.space, files_limit, files: q.inodes };
        (limit.is_some() || files_limit.is_some()).then_some(found)
    };
    Ok(ids(dir).into_iter().filter_map(limits).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_the_kernels() {
        assert_eq!((size_of::<Dqblk>(), size_of::<Fsxattr>()), (72, 28));
        assert_eq!((lower(0, 0), lower(5, 0), lower(5, 3)), (None, Some(5), Some(3)));
    }

    #[test]
    fn a_file_system_without_quotas_has_none() {
        assert!(quotas(Path::new("/proc")).is_ok_and(|q| q.is_empty()));
        assert!(quotas(Path::new("/no/such/directory")).is_err());
    }
}
