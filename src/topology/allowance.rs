//! What a file system allows this user, beyond what it has free: quotas, and the fill of its parts. The kernel is asked where it
//! counts, else the command of the file system.

use std::path::Path;
use std::time::Duration;

use crate::sys;
use crate::topology::filesystem::{Mount, Quota, QuotaOf, Target};
use crate::topology::lustre;
use crate::unit::Bytes;

/// A command that takes longer waits for a server that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
const MOST: u64 = 4 << 20;

fn said(command: &[&str]) -> Option<String> {
    Some(sys::ask(command, MOST, PATIENCE).ok()??.0)
}

/// The quotas of this user, its group and the directory's project.
pub fn quotas(dir: &Path, mount: &Mount) -> Vec<Quota> {
    let of = |q: sys::quota::Of| match q {
        sys::quota::Of::User => QuotaOf::User,
        sys::quota::Of::Group => QuotaOf::Group,
        sys::quota::Of::Project => QuotaOf::Project,
    };
    let ids = sys::quota::ids(dir);
    match mount.fstype.as_str() {
        "lustre" => {
            let flag = |of| match of {
                QuotaOf::User => "-u",
                QuotaOf::Group => "-g",
                QuotaOf::Project => "-p",
            };
            let point = mount.point.to_string_lossy();
            let ask = |(kind, id): (sys::quota::Of, u32)| {
                let (kind, number) = (of(kind), id.to_string());
                lustre::quota(&said(&["lfs", "quota", flag(kind), &number, &point])?, &point, kind, id)
            };
            ids.into_iter().filter_map(ask).collect()
        }
        "nfs" | "nfs4" => {
            let ask = |(kind, id): (sys::quota::Of, u32)| {
                let flag = if kind == sys::quota::Of::User { "-u" } else { "-g" };
                lustre::quota(&said(&["quota", "-wpv", flag, &id.to_string()])?, &mount.source, of(kind), id)
            };
            ids.into_iter().filter(|(kind, _)| *kind != sys::quota::Of::Project).filter_map(ask).collect()
        }
        _ => {
            let quota = |q: sys::quota::Limits| Quota {
                of: of(q.of),
                id: q.id,
                limit: q.limit.map(Bytes),
                used: Bytes(q.used),
                files_limit: q.files_limit,
                files: q.files,
            };
            sys::quota::quotas(dir).unwrap_or_default().into_iter().map(quota).collect()
        }
    }
}

/// The parts that hold a file system's data, where it has such.
pub fn targets(mount: &Mount) -> Vec<Target> {
    if mount.fstype != "lustre" {
        return Vec::new();
    }
    said(&["lfs", "df", "-lv", &mount.point.to_string_lossy()]).map_or_else(Vec::new, |text| lustre::targets(&text))
}
