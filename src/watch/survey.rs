//! What lies in a checkpoint directory: which of it are checkpoints, how large, and what their trainer says of them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustc_hash::FxHasher;

use crate::files;
use crate::work::Layout;

/// Names that begin so are gonogo's own, in the hot place and in the cold.
pub(super) const OWN: &str = ".gonogo-";
/// A pointer is a line.
const POINTER: u64 = 4096;
/// Of a name, so many bytes: what is added to it must stay a name.
const LONGEST: usize = 200;

/// A directory that looks like a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: OsString,
    pub layout: Layout,
    pub step: Option<u64>,
}

/// A checkpoint's files, taken together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tree {
    pub bytes: u64,
    pub files: u64,
    /// Nanoseconds since 1970, of its oldest and newest file.
    pub oldest: Option<i128>,
    pub newest: Option<i128>,
    /// Differs when a file came, went, grew or was written again.
    pub print: u64,
    /// Something in it is still being written, by its name.
    pub unfinished: bool,
    /// When what its layout writes last was written, as `newest`.
    pub committed: Option<i128>,
    /// What cannot be copied as it is, and why.
    pub unmovable: Option<(PathBuf, &'static str)>,
}

/// Names of files that are being written.
fn is_temporary(name: &[u8]) -> bool {
    const ENDINGS: [&[u8]; 7] =
        [b".tmp", b".temp", b".partial", b".part", b".incomplete", b".inprogress", b"-unfinished"];
    ENDINGS.iter().any(|e| name.ends_with(e)) || name.starts_with(b".tmp") || name.starts_with(b"tmp.")
}

/// The step at the end of a name, after one of the words that trainers use.
fn step_at_end(name: &str) -> Option<u64> {
    let head = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let step = name[head.len()..].parse().ok()?;
    let word = head.trim_end_matches(['_', '-', '=', '.']).to_ascii_lowercase();
    let known = ["step", "iter", "iteration", "ckpt", "checkpoint", "epoch", "save"];
    (word.is_empty() || known.iter().any(|k| word.ends_with(k))).then_some(step)
}

/// What a directory's name says; `stated` is the layout that the plan names.
fn recognise(name: &str, stated: Option<Layout>) -> Option<(Layout, Option<u64>)> {
    let numbered = |prefix: &str| name.strip_prefix(prefix)?.parse::<u64>().ok();
    let nemo = || {
        let rest = name.split("step=").nth(1)?;
        rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
    };
    let seen = numbered("global_step")
        .map(|s| (Layout::DeepSpeed, Some(s)))
        .or_else(|| numbered("iter_").map(|s| (Layout::Megatron, Some(s))))
        .or_else(|| numbered("checkpoint-").map(|s| (Layout::HuggingFace, Some(s))))
        .or_else(|| nemo().map(|s| (Layout::Nemo, Some(s))))
        .or_else(|| step_at_end(name).map(|s| (Layout::Plain, Some(s))));
    let (by_name, step) = seen?;
    Some((stated.unwrap_or(by_name), step))
}

/// The step that a name tells.
pub(super) fn step_of(name: &str) -> Option<u64> {
    recognise(name, None)?.1
}

/// What lies in a checkpoint directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Checkpoints by their names.
    pub entries: Vec<Entry>,
    /// Names beside which a marker says that they are unfinished.
    pub unfinished: Vec<OsString>,
    /// Names that links lead to: somebody means them.
    pub linked: Vec<OsString>,
}

pub(super) fn list(dir: &Path, stated: Option<Layout>) -> io::Result<Listing> {
    let mut out = Listing::default();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b".") || name.len() > LONGEST {
            continue;
        }
        if let Some(of) = name.as_bytes().strip_suffix(b"-unfinished") {
            out.unfinished.push(OsStr::from_bytes(of).to_owned());
            continue;
        }
        if entry.file_type().is_ok_and(|t| t.is_symlink()) {
            out.linked.extend(fs::read_link(entry.path()).ok().and_then(|to| Some(to.file_name()?.to_owned())));
            continue;
        }
        // Not `metadata`: a link leads elsewhere.
        if !entry.file_type().is_ok_and(|t| t.is_dir()) || is_temporary(name.as_bytes()) {
            continue;
        }
        if let Some((layout, step)) = recognise(&name.to_string_lossy(), stated) {
            out.entries.push(Entry { name, layout, step });
        }
    }
    Ok(out)
}

/// What a trainer calls complete: this step, since then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pointer {
    pub step: u64,
    /// Nanoseconds since 1970.
    pub changed: i128,
}

/// A pointer is there, and what it names cannot be told: it may be being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

/// The newest step that the trainer calls complete, by the file that its layout keeps for that.
pub(super) fn pointer(dir: &Path, layout: Layout) -> Result<Option<Pointer>, Unreadable> {
    let name = match layout {
        Layout::DeepSpeed => "latest",
        Layout::Megatron => "latest_checkpointed_iteration.txt",
        Layout::HuggingFace | Layout::Nemo | Layout::Dcp | Layout::Plain => return Ok(None),
    };
    let file = match files::open_in_place(&dir.join(name)) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(_) => return Err(Unreadable),
    };
    let changed = changed(&file.metadata().map_err(|_| Unreadable)?);
    let text = files::read_text(file, POINTER).map_err(|_| Unreadable)?;
    let text = text.trim();
    // Of a model that is released, Megatron says so and no step.
    if layout == Layout::Megatron && text == "release" {
        return Ok(None);
    }
    let step = text.strip_prefix("global_step").unwrap_or(text).parse().map_err(|_| Unreadable)?;
    Ok(Some(Pointer { step, changed }))
}

/// Looks at every file below `dir`. Files that vanish meanwhile are a change, no error.
pub(super) fn tree(dir: &Path, layout: Layout, complete_file: Option<&str>) -> io::Result<Tree> {
    let mut out = Tree::default();
    walk(dir, Path::new(""), layout, complete_file, &mut out)?;
    Ok(out)
}

fn changed(meta: &fs::Metadata) -> i128 {
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
}

fn walk(root: &Path, below: &Path, layout: Layout, last: Option<&str>, out: &mut Tree) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name();
        let path = below.join(&name);
        let meta = match entry.metadata() {
            Ok(meta) => meta,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                out.unfinished = true;
                continue;
            }
            Err(e) => return Err(e),
        };
        let top = below.as_os_str().is_empty();
        out.unfinished |= is_temporary(name.as_bytes());
        let kind = meta.file_type();
        if kind.is_dir() {
            walk(root, &path, layout, last, out)?;
            continue;
        }
        if kind.is_symlink() {
            if !stays_inside(below, &fs::read_link(entry.path())?) {
                out.unmovable.get_or_insert((path.clone(), "leads out of the checkpoint"));
            }
        } else if !kind.is_file() {
            out.unmovable.get_or_insert((path.clone(), "is no file"));
        }
        let changed = changed(&meta);
        if commits(layout, last, &name, top) {
            out.committed = Some(out.committed.map_or(changed, |c| c.max(changed)));
        }
        out.files += 1;
        out.bytes = out.bytes.saturating_add(meta.len());
        out.oldest = Some(out.oldest.map_or(changed, |o| o.min(changed)));
        out.newest = Some(out.newest.map_or(changed, |n| n.max(changed)));
        let mut hasher = FxHasher::default();
        (path.as_os_str().as_bytes(), meta.len(), changed, meta.ino()).hash(&mut hasher);
        // In whatever order a directory tells its names.
        out.print = out.print.wrapping_add(hasher.finish());
    }
    Ok(())
}

/// Whether this file is what is written last.
fn commits(layout: Layout, last: Option<&str>, name: &OsStr, top: bool) -> bool {
    if let Some(last) = last {
        return top && name == OsStr::new(last);
    }
    match layout {
        Layout::HuggingFace => top && name == OsStr::new("trainer_state.json"),
        // NeMo keeps the weights in a folder of their own.
        Layout::Dcp | Layout::Nemo | Layout::Plain => name == OsStr::new(".metadata"),
        Layout::DeepSpeed | Layout::Megatron => false,
    }
}

/// Whether a link in `below`, a folder of the checkpoint, ends within the checkpoint.
pub(super) fn stays_inside(below: &Path, target: &Path) -> bool {
    let mut depth = below.components().count() as i64;
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return false,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_layout_and_step() {
        for (name, want) in [
            ("global_step1500", Some((Layout::DeepSpeed, Some(1500)))),
            ("iter_0000500", Some((Layout::Megatron, Some(500)))),
            ("checkpoint-42", Some((Layout::HuggingFace, Some(42)))),
            ("gpt--val_loss=2.1-step=1000-consumed_samples=5", Some((Layout::Nemo, Some(1000)))),
            ("step-7", Some((Layout::Plain, Some(7)))),
            ("ckpt_9", Some((Layout::Plain, Some(9)))),
            ("20000", Some((Layout::Plain, Some(20_000)))),
            ("rank0", None),
            ("node12", None),
            ("tensorboard", None),
            ("global_step", None),
        ] {
            assert_eq!(recognise(name, None), want, "{name}");
        }
        assert_eq!(recognise("step-7", Some(Layout::Dcp)), Some((Layout::Dcp, Some(7))));
    }

    #[test]
    fn links_are_followed_on_paper_only() {
        let inside = |below: &str, target: &str| stays_inside(Path::new(below), Path::new(target));
        assert!(inside("", "weights/0") && inside("a/b", "../../c") && inside("a", "./b"));
        assert!(!inside("", "../other") && !inside("a/b", "../../../x") && !inside("", "/etc/passwd"));
        // Out and in again is out.
        assert!(!inside("a", "../../ckpt/a"));
    }

    proptest::proptest! {
        #[test]
        fn no_name_is_too_much(name in "\\PC{0,40}", stated in 0usize..7) {
            let _ = recognise(&name, Layout::ALL.get(stated).copied());
        }
    }
}
