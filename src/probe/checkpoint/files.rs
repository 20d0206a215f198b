//! The files of a rehearsed save: how many, how large, and what is in them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags, fadvise};

use crate::probe::checkpoint::Args;
use crate::probe::storage::content::{Content, PIECE};
use crate::unit::{Bytes, several};

/// What each writer of each node writes in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub writers: usize,
    pub files: usize,
    /// Of one file; whole pages.
    pub bytes: u64,
}

impl Part {
    /// A page: what is read past the cache comes in pages.
    pub const LEAST: u64 = 4096;

    /// Of `block` bytes of a node by so many writers, of whose files there are at most `most`.
    pub fn of(file: Option<u64>, writers: usize, block: u64, most: usize) -> Self {
        let each = block / writers.max(1) as u64;
        // Files as large as those of the plan, as long as one fits.
        let bytes = file.unwrap_or(each).clamp(1, each.max(1)).next_multiple_of(Self::LEAST).min(each);
        let bytes = (bytes / Self::LEAST * Self::LEAST).max(Self::LEAST);
        Part { writers: writers.max(1), files: ((each / bytes) as usize).clamp(1, most.max(1)), bytes }
    }

    pub fn of_node(&self) -> u64 {
        self.writers as u64 * self.files as u64 * self.bytes
    }

    /// What was done, for people.
    pub fn describe(&self, args: &Args, nodes: u32) -> String {
        let all = self.of_node() * u64::from(nodes);
        let of =
            if all >= args.whole { String::new() } else { format!(", one {:.0}th", args.whole as f64 / all as f64) };
        format!(
            "{} of {}{of}: {}, each {} of {} of {}, fsync after each",
            Bytes(all),
            Bytes(args.whole),
            several(nodes as usize, "node"),
            several(self.writers, "writer"),
            several(self.files, "file"),
            Bytes(self.bytes)
        )
    }

    /// The lengths of the pieces of a file.
    pub fn pieces(&self) -> impl Iterator<Item = usize> {
        let bytes = self.bytes;
        (0..bytes.div_ceil(PIECE as u64)).map(move |i| (bytes - i * PIECE as u64).min(PIECE as u64) as usize)
    }
}

/// Which file it is of all that are written: no two have a page in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Which {
    pub round: usize,
    pub node: usize,
    pub writer: usize,
    pub file: usize,
}

impl Which {
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("save{}-{}-{}", self.round, self.writer, self.file))
    }

    /// The number of its first piece.
    pub fn first(&self, part: &Part, nodes: usize) -> usize {
        let pieces = part.bytes.div_ceil(PIECE as u64) as usize;
        (((self.round * nodes + self.node) * part.writers + self.writer) * part.files + self.file) * pieces
    }
}

/// Creates a file, writes it and makes it durable.
pub(super) fn write(path: &Path, part: &Part, first: usize, content: &mut Content) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    for (i, len) in part.pieces().enumerate() {
        file.write_all(&content.piece(first + i)[..len])?;
    }
    file.sync_all()?;
    // What this node keeps of it serves nobody: another will read it.
    let _ = fadvise(&file, 0, None, Advice::DontNeed);
    Ok(())
}

/// Opens a file for reading, past the page cache where that is possible; and whether it is.
pub(super) fn open(path: &Path) -> io::Result<(File, bool)> {
    if let Ok(file) = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path) {
        return Ok((file, true));
    }
    // tmpfs and some network file systems refuse O_DIRECT.
    Ok((open_cached(path)?, false))
}

/// Opens a file for reading through the page cache, of which it is dropped.
pub(super) fn open_cached(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let _ = fadvise(&file, 0, None, Advice::DontNeed);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_are_those_of_the_plan_as_long_as_one_fits() {
        // 8 writers, 64 MiB each: eight files of 8 MiB, or one part of a large one, or one where nobody tells.
        let of = |file| Part::of(file, 8, 512 << 20, usize::MAX);
        assert_eq!((of(Some(8 << 20)).files, of(Some(8 << 20)).bytes), (8, 8 << 20));
        assert_eq!((of(Some(1 << 33)).files, of(Some(1 << 33)).bytes), (1, 64 << 20));
        assert_eq!((of(None).files, of(None).bytes), (1, 64 << 20));
        // At first few of many small ones.
        let few = Part::of(Some(4096), 8, 512 << 20, 8);
        assert_eq!((few.files, few.bytes), (8, 4096));
    }

    proptest! {
        #[test]
        fn a_part_fits_its_block_and_no_two_files_share_a_piece(
            writers in 1usize..17, file in proptest::option::of(0u64..1 << 34), block in 0u64..1 << 33
        ) {
            let least = writers as u64 * Part::LEAST;
            let part = Part::of(file, writers, block.max(least), usize::MAX);
            prop_assert!(part.files > 0 && part.bytes.is_multiple_of(Part::LEAST) && part.bytes > 0);
            prop_assert!(part.of_node() <= block.max(least));
            prop_assert_eq!(part.pieces().map(|l| l as u64).sum::<u64>(), part.bytes);
            let pieces = part.pieces().count();
            let at = |round, node, writer, file| Which { round, node, writer, file }.first(&part, 3);
            prop_assert_eq!(at(0, 0, 0, 1), pieces);
            prop_assert_eq!(at(0, 0, 1, 0), at(0, 0, 0, part.files - 1) + pieces);
            prop_assert_eq!(at(0, 1, 0, 0), at(0, 0, part.writers - 1, part.files - 1) + pieces);
            prop_assert_eq!(at(1, 0, 0, 0), at(0, 2, part.writers - 1, part.files - 1) + pieces);
        }
    }
}
