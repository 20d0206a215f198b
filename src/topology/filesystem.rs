//! Mounts, and the file system under one path.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::unit::Bytes;

/// One line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Mount {
    pub point: PathBuf,
    pub fstype: String,
    pub source: String,
    pub options: String,
}

/// The file system that holds the checkpoint directory, as measured on the node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Filesystem {
    /// The directory asked for.
    pub path: PathBuf,
    pub mount: Mount,
    pub total: Bytes,
    /// Free for this user: without the blocks reserved for root.
    pub available: Bytes,
    pub inodes_total: u64,
    pub inodes_free: u64,
    /// What bounds it further for this user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quotas: Vec<Quota>,
    /// The parts that it is made of, each of which can be full by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
}

/// Whose a quota is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuotaOf {
    User,
    Group,
    Project,
}

impl QuotaOf {
    pub const fn name(self) -> &'static str {
        match self {
            QuotaOf::User => "user",
            QuotaOf::Group => "group",
            QuotaOf::Project => "project",
        }
    }
}

/// A quota that limits what is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quota {
    pub of: QuotaOf,
    pub id: u32,
    /// The lower of the soft and the hard limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Bytes>,
    pub used: Bytes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_limit: Option<u64>,
    pub files: u64,
}

impl Quota {
    /// What it leaves.
    pub fn left(&self) -> Option<Bytes> {
        self.limit.map(|l| Bytes(l.0.saturating_sub(self.used.0)))
    }

    pub fn files_left(&self) -> Option<u64> {
        self.files_limit.map(|l| l.saturating_sub(self.files))
    }
}

/// A part of a file system that holds whole files or stripes of them: of Lustre an OST.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    pub name: String,
    pub total: Bytes,
    pub available: Bytes,
    /// Whether it answers.
    pub active: bool,
}

impl Filesystem {
    /// The quota that leaves the least, where it leaves less than the file system has.
    pub fn tightest(&self) -> Option<(&Quota, Bytes)> {
        let all = self.quotas.iter().filter_map(|q| Some((q, q.left()?)));
        all.min_by_key(|(_, left)| *left).filter(|(_, left)| *left < self.available)
    }

    /// What may be written: what is free, and no more than quotas leave.
    pub fn room(&self) -> Bytes {
        self.tightest().map_or(self.available, |(_, left)| left)
    }
}

/// Parses mountinfo; lines that are not of its form are left out. Octal escapes are resolved.
pub(super) fn parse_mountinfo(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let left: Vec<&str> = left.split(' ').collect();
            let mut right = right.split(' ');
            let (fstype, source) = (right.next()?.to_owned(), unescape(right.next()?));
            // Those of the mount, then those of the file system: `soft` and `nobarrier` are among the latter.
            let mut options = (*left.get(5)?).to_owned();
            let own = options.clone();
            for more in
                right.next().into_iter().flat_map(|o| o.split(',')).filter(|o| own.split(',').all(|own| own != *o))
            {
                options.push(',');
                options.push_str(more);
            }
            Some(Mount { point: PathBuf::from(unescape(left.get(4)?)), options, fstype, source })
        })
        .collect()
}

/// `\040` -> space, as the kernel writes blanks in mount points.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = bytes.get(i + 1..i + 4).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match (bytes[i], octal) {
            (b'\\', Some(c)) => {
                out.push(c);
                i += 4;
            }
            (c, _) => {
                out.push(c);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The mount that holds `path`: the longest mount point that is a prefix, the last of equals (it hides the others).
pub fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().filter(|m| path.starts_with(&m.point)).max_by_key(|m| m.point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_and_last_mount_wins() {
        let text = "1 0 8:1 / / rw - ext4 /dev/vda rw\n2 1 0:5 / /ckpt rw,noatime shared:1 - nfs4 srv:/x rw\n\
                    3 1 0:6 / /ckpt ro - tmpfs none rw\n4 1 0:7 / /a\\040b rw,noatime - xfs /dev/sdb rw,nobarrier\nnonsense\n";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mount_of(&mounts, Path::new("/ckpt/run1")).map(|m| m.fstype.as_str()), Some("tmpfs"));
        assert_eq!(mount_of(&mounts, Path::new("/ckpts")).map(|m| m.fstype.as_str()), Some("ext4"));
        assert_eq!(mount_of(&mounts, Path::new("/a b/c")).map(|m| m.source.as_str()), Some("/dev/sdb"));
        assert_eq!(mounts[3].options, "rw,noatime,nobarrier");
    }

    proptest::proptest! {
        #[test]
        fn no_mountinfo_makes_the_parser_panic(text in "[ -~\\n\\\\0-9]{0,200}") {
            let _ = parse_mountinfo(&text);
        }
    }
}
