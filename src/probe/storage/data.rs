//! Bandwidth and content: write with fsync, read back without the page cache, compare every byte.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Advice, OFlags, fadvise};

use crate::cluster::Child;
use crate::measure::{Check, FailKind, Measured, Outcome, Sampler, WaiveKind};
use crate::probe::storage::content::{Content, PAGE, PIECE};
use crate::probe::storage::{Args, failure};
use crate::topology::Filesystem;
use crate::unit::Bytes;
use crate::work::{CheckName, Metric};

/// Never fill more than this share of what is free.
const SHARE_OF_FREE: u64 = 10;

/// Both outcomes, write and read.
pub(super) fn measure(child: &Child, args: &Args, scratch: &Path, fs: &Filesystem) -> (Outcome, Outcome) {
    let not_reached = || Outcome::waived(WaiveKind::NotReached, "nothing was written that could be read back");
    let block = args.block.min(fs.room().0 / SHARE_OF_FREE / 8) / PIECE as u64 * PIECE as u64;
    if block == 0 {
        let error = format!("{} free in {}: not enough to measure with", fs.room(), fs.path.display());
        return (Outcome::error(FailKind::DiskFull, error), not_reached());
    }
    let blocks = args.blocks.min((fs.room().0 / SHARE_OF_FREE / block) as usize).max(1);
    let file = match Scratch::open(&scratch.join("data")) {
        Ok(file) => file,
        Err(outcome) => return (outcome, not_reached()),
    };
    let mut base = Content::new(child.seed());
    let pieces = block as usize / PIECE;
    match write(child, &file, &mut base, pieces, blocks) {
        Err(outcome) => (outcome, not_reached()),
        Ok(seconds) => {
            let rates: Vec<f64> = seconds.iter().map(|s| block as f64 / s).collect();
            let series = Metric::Write
                .series(rates, block / PIECE as u64)
                .bounded(args.copy_ceiling, "every byte is copied by a core, one cache line per cycle");
            let notes = vec![format!(
                "{} in blocks of {}, fdatasync after each",
                Bytes(block * seconds.len() as u64),
                Bytes(block)
            )];
            let written =
                Outcome::Measured(Measured { series: vec![series], notes: notes.into(), ..Measured::default() });
            let read = read(&file, &mut base, pieces, seconds.len(), args).map_or_else(|o| o, Outcome::Measured);
            (written, read)
        }
    }
}

/// The data file: already unlinked, open for writing and, past the page cache where that is possible, for reading.
struct Scratch {
    writer: File,
    reader: File,
    direct: bool,
}

impl Scratch {
    fn open(path: &Path) -> Result<Self, Outcome> {
        let what = |verb: &str| format!("cannot {verb} {}", path.display());
        let writer =
            OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| failure(&e, &what("create")))?;
        let direct = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path);
        let (reader, direct) = match direct {
            Ok(file) => (file, true),
            // tmpfs and some network file systems refuse O_DIRECT.
            Err(_) => (File::open(path).map_err(|e| failure(&e, &what("open")))?, false),
        };
        fs::remove_file(path).map_err(|e| failure(&e, &what("unlink")))?;
        Ok(Scratch { writer, reader, direct })
    }
}

/// Seconds of each block, write and fdatasync together.
fn write(child: &Child, file: &Scratch, base: &mut Content, pieces: usize, blocks: usize) -> Result<Vec<f64>, Outcome> {
    let budget = child.share(3);
    let sampler = Sampler { max_blocks: blocks, precision: 0.0, ..Sampler::new(budget) };
    let started = Instant::now();
    let mut seconds = Vec::new();
    while seconds.len() < blocks && !sampler.enough(&seconds, started) {
        let first = seconds.len() * pieces;
        let start = Instant::now();
        for i in first..first + pieces {
            (&file.writer).write_all(base.piece(i)).map_err(|e| failure(&e, "writing"))?;
        }
        file.writer.sync_data().map_err(|e| failure(&e, "fdatasync"))?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

fn read(file: &Scratch, base: &mut Content, pieces: usize, blocks: usize, args: &Args) -> Result<Measured, Outcome> {
    // Also with O_DIRECT: pages that are still cached would be served from there on some file systems.
    let dropped = fadvise(&file.writer, 0, None, Advice::DontNeed).is_ok();
    let mut reader = &file.reader;
    reader.rewind().map_err(|e| failure(&e, "rewinding"))?;
    let mut got = Content::new(0);
    let (mut rates, mut wrong) = (Vec::new(), 0usize);
    for block in 0..blocks {
        let mut seconds = 0.0;
        for i in block * pieces..(block + 1) * pieces {
            let into = got.bytes();
            let start = Instant::now();
            reader.read_exact(into).map_err(|e| failure(&e, "reading back"))?;
            seconds += start.elapsed().as_secs_f64();
            wrong += into.chunks(PAGE).zip(base.piece(i).chunks(PAGE)).filter(|(got, want)| got != want).count();
        }
        rates.push((pieces * PIECE) as f64 / seconds);
    }
    let how = match (file.direct, dropped) {
        (true, _) => "O_DIRECT",
        (false, true) => "page cache dropped (no O_DIRECT here)",
        (false, false) => "the page cache could not be bypassed: this may be the speed of memory",
    };
    let series = Metric::Read
        .series(rates, pieces as u64)
        .bounded(args.copy_ceiling, "every byte is copied by a core, one cache line per cycle");
    let checks = vec![Check::new(
        CheckName::Checksum,
        wrong == 0,
        format!("{wrong} of {} pages came back different", blocks * pieces * (PIECE / PAGE)),
    )];
    Ok(Measured { series: vec![series], checks: checks.into(), notes: [how.to_owned()].into(), ..Measured::default() })
}
