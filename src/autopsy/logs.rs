//! Logs of any size, read once from front to back: most lines say nothing, and are passed over at the speed of a search for words.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError, MatchKind};
use jiff::Timestamp;
use rustc_hash::{FxHashMap, FxHasher};

use crate::autopsy::line;
use crate::autopsy::signs::{PATTERNS, PLACES};
use crate::autopsy::stamp::{Stamp, stamp};
use crate::id::NodeName;
use crate::measure::{Place, Sign, Source, SourceKind, Trace};
use crate::topology::secret;
use crate::unit::Bytes;

/// Read at once; a line longer than this is cut.
const BLOCK: usize = 4 << 20;
/// Of a longer file the first and the last so many bytes are read: what ended a run stands at its end, who ran where at its beginning.
const FIRST: u64 = 1 << 30;
const LAST: u64 = 7 << 30;
/// Different lines kept of one source.
const MOST: usize = 20_000;
/// Bytes of a line that are kept.
const SHOWN: usize = 240;
/// Seconds after which the same is told again.
const AGAIN: i64 = 300;
/// Lines for which a time above them holds.
const NEAR: u64 = 50;
/// How far a time that stands above a line may be from it.
const ABOVE: usize = 64 << 10;
/// Lines above that may tell of the same.
const CONTEXT: usize = 5;

/// Looks for all signs at once.
pub(super) struct Searcher {
    words: AhoCorasick,
    now: Timestamp,
}

/// What one log had.
pub(super) struct Found {
    pub source: Source,
    pub traces: Vec<Trace>,
    /// Where ranks of the largest communicator ran, with its size.
    pub ranks: BTreeMap<u32, (u32, Place)>,
    /// Addresses that hosts say they use.
    pub addresses: BTreeMap<String, NodeName>,
    /// Of each trace, whether its time has no zone.
    pub local: Vec<bool>,
    /// The last time in it, where that has no zone, and when the file was written last.
    pub last: Option<(Timestamp, Timestamp)>,
}

/// A log while it is read.
struct Reading<'s> {
    searcher: &'s Searcher,
    index: usize,
    traces: Vec<Trace>,
    /// By what is the same in lines that say the same.
    known: FxHashMap<u64, usize>,
    ranks: BTreeMap<u32, (u32, Place)>,
    addresses: BTreeMap<String, NodeName>,
    /// Traces whose rank is a launcher's label, and whether the launcher's tasks may be agents of several ranks.
    labelled: Vec<usize>,
    elastic: bool,
    dropped: u64,
    lines: u64,
    last: Option<Stamp>,
    /// The time that was found above a line, and that line.
    above: Option<(Option<Stamp>, u64)>,
    /// Of each trace, whether its time has no zone.
    local: Vec<bool>,
}

impl Searcher {
    /// # Errors
    /// The table of words is too large for the search, which no table here is.
    pub(super) fn new(now: Timestamp) -> Result<Self, BuildError> {
        let words = PATTERNS.iter().map(|p| p.needle).chain(PLACES.iter().copied());
        let words =
            AhoCorasick::builder().match_kind(MatchKind::Standard).kind(Some(AhoCorasickKind::DFA)).build(words)?;
        Ok(Searcher { words, now })
    }

    /// Reads a log; what cannot be read of it is said in its source.
    pub(super) fn read(&self, path: &Path, index: usize) -> Found {
        let mut reading = Reading {
            searcher: self,
            index,
            traces: Vec::new(),
            known: FxHashMap::default(),
            ranks: BTreeMap::new(),
            addresses: BTreeMap::new(),
            labelled: Vec::new(),
            elastic: false,
            dropped: 0,
            lines: 0,
            last: None,
            above: None,
            local: Vec::new(),
        };
        let mut bytes = 0;
        let mut trouble = reading.whole(path, &mut bytes).err().map(|e| e.to_string());
        if reading.dropped > 0 {
            trouble.get_or_insert_with(|| format!("{} further lines with signs are not kept", reading.dropped));
        }
        if reading.elastic {
            for i in &reading.labelled {
                reading.traces[*i].place.rank = None;
            }
        }
        let name = path.to_string_lossy().into_owned();
        let source = Source { name, kind: SourceKind::Log, bytes: Bytes(bytes), lines: reading.lines, trouble };
        let written = path.metadata().and_then(|m| m.modified()).ok().and_then(|at| Timestamp::try_from(at).ok());
        Found {
            source,
            traces: reading.traces,
            ranks: reading.ranks,
            addresses: reading.addresses,
            local: reading.local,
            last: reading.last.filter(|s| s.local).map(|s| s.at).zip(written),
        }
    }
}

impl Reading<'_> {
    fn whole(&mut self, path: &Path, bytes: &mut u64) -> io::Result<()> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        if size <= FIRST + LAST {
            // What is written meanwhile is not waited for.
            return self.part(&file, 0..size, bytes);
        }
        self.part(&file, 0..FIRST, bytes)?;
        self.last = None;
        self.part(&file, size - LAST..size, bytes)?;
        let middle = Bytes(size - FIRST - LAST);
        Err(io::Error::other(format!("{middle} in its middle were not read; line numbers after it count without them")))
    }

    /// Reads a part of a file; holes are passed over.
    fn part(&mut self, file: &File, part: Range<u64>, bytes: &mut u64) -> io::Result<()> {
        let mut buffer = vec![0u8; BLOCK];
        let (mut held, mut at) = (0, part.start);
        loop {
            // A file system that knows of no holes says that all is data.
            match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) => at = data,
                Err(rustix::io::Errno::NXIO) => at = part.end,
                Err(_) => {}
            }
            let room = usize::try_from(part.end.saturating_sub(at)).unwrap_or(BLOCK).min(BLOCK - held);
            let n = match file.read_at(&mut buffer[held..held + room], at) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    self.block(&buffer[..held]);
                    return Err(e);
                }
            };
            at += n as u64;
            *bytes += n as u64;
            held += n;
            if n == 0 {
                self.block(&buffer[..held]);
                return Ok(());
            }
            // Whole lines; where a block is one line, it is cut.
            let end = match memchr::memrchr(b'\n', &buffer[..held]) {
                Some(at) => at + 1,
                None if held == BLOCK => held,
                None => continue,
            };
            self.block(&buffer[..end]);
            buffer.copy_within(end..held, 0);
            held -= end;
        }
    }

    /// Looks at whole lines.
    fn block(&mut self, block: &[u8]) {
        let searcher = self.searcher;
        let (mut counted, mut number, mut done) = (0, self.lines, 0);
        let mut at = 0;
        while let Some(found) = searcher.words.find(&block[at..]) {
            let hit = at + found.start();
            let start = memchr::memrchr(b'\n', &block[done..hit]).map_or(done, |p| done + p + 1);
            let end = memchr::memchr(b'\n', &block[hit..]).map_or(block.len(), |p| hit + p);
            number += memchr::memchr_iter(b'\n', &block[counted..start]).count() as u64;
            counted = start;
            self.line(block, start, end, number + 1);
            at = (end + 1).min(block.len());
            done = at;
        }
        self.lines = number + memchr::memchr_iter(b'\n', &block[counted..]).count() as u64;
        if block.last().is_some_and(|b| *b != b'\n') {
            self.lines += 1;
        }
        self.last = above(block, block.len(), searcher.now).or(self.last);
    }

    fn line(&mut self, block: &[u8], start: usize, end: usize, number: u64) {
        // What a line says stands at its beginning: the rest of a long one is data.
        let bytes = &block[start..end.min(start + 4096)];
        let shown = line::text(bytes.trim_ascii_end());
        let Some(mut sign) = self.sign(bytes, &shown) else { return };
        let before = lines_above(block, start);
        let before: Vec<_> = before.iter().map(|l| line::text(l)).collect();
        let before: Vec<&str> = before.iter().map(AsRef::as_ref).collect();
        let mut place = line::place(&shown, &before);
        let (count, names) = line::details(sign, &shown, &before);
        sign = meant(ended(sign, count), &before);
        if sign == Sign::Absent && names.is_none() {
            // A task's name stands in many lines.
            if shown.contains("/task:") {
                return;
            }
            if shown.contains("[ready ranks: ") {
                sign = Sign::SizeMismatch;
            }
        }
        let labelled = place.rank.is_none().then(|| line::label(&shown)).flatten();
        place.rank = place.rank.or(labelled);
        let own = stamp(bytes, self.searcher.now);
        let at = own.or_else(|| self.since(block, start, number)).or(self.last);
        // What comes again much later is told again: the last time may be the one that counts.
        let when = at.map(|s| s.at.as_second().div_euclid(AGAIN));
        let mut same = FxHasher::default();
        (sign, &place.node, place.rank, place.gpu, count, &names, when).hash(&mut same);
        shown.bytes().filter(|b| !b.is_ascii_digit()).for_each(|b| same.write_u8(b));
        let same = same.finish();
        if let Some(known) = self.known.get(&same) {
            self.traces[*known].times += 1;
            return;
        }
        if self.traces.len() >= MOST {
            self.dropped += 1;
            return;
        }
        self.known.insert(same, self.traces.len());
        if labelled.is_some() {
            self.labelled.push(self.traces.len());
        }
        self.local.push(at.is_some_and(|s| s.local));
        let text = kept(&shown);
        self.traces.push(Trace {
            sign,
            at: at.map(|s| s.at),
            inherited: own.is_none() && at.is_some(),
            place,
            number: count,
            names,
            source: self.index,
            line: number,
            text,
            times: 1,
        });
    }

    /// The time above a line. It is looked for anew only some lines on: an error of many lines is told at one time.
    fn since(&mut self, block: &[u8], start: usize, number: u64) -> Option<Stamp> {
        if let Some((at, line)) = self.above
            && number - line < NEAR
        {
            return at;
        }
        let at = above(block, start, self.searcher.now);
        self.above = Some((at, number));
        at
    }

    /// The first of the table that the line is a sign of. Lines that only say where a rank runs are read here.
    fn sign(&mut self, bytes: &[u8], shown: &str) -> Option<Sign> {
        let mut best: Option<usize> = None;
        for found in self.searcher.words.find_overlapping_iter(bytes) {
            let pattern = found.pattern().as_usize();
            let Some(p) = PATTERNS.get(pattern) else {
                if let Some((rank, of, place)) = line::member(shown)
                    && self.ranks.get(&rank).is_none_or(|(known, _)| of > *known)
                {
                    self.ranks.insert(rank, (of, place));
                }
                self.addresses.extend(line::address(shown));
                continue;
            };
            let fits = p.also.iter().all(|a| shown.contains(a))
                && p.not.iter().all(|n| !shown.contains(n))
                && (!p.whole || shown.trim() == p.needle)
                && (p.sign != Sign::Exception || line::exception(shown).is_some())
                && (p.sign != Sign::Xid || line::details(Sign::Xid, shown, &[]).0.is_some());
            if fits && best.is_none_or(|b| pattern < b) {
                best = Some(pattern);
            }
        }
        self.elastic |= shown.contains("torch/distributed/elastic") || shown.contains("torch.distributed.elastic");
        best.map(|b| PATTERNS[b].sign)
    }
}

/// What a process ended by, where its end has a number: a shell's code or a negative signal.
fn ended(sign: Sign, code: Option<i64>) -> Sign {
    match (sign, code) {
        (Sign::RankExit, Some(-9 | 137)) => Sign::Killed,
        (Sign::RankExit, Some(-11 | -7 | 139 | 135)) => Sign::Crash,
        (Sign::RankExit, Some(-6 | 134)) => Sign::Aborted,
        (Sign::RankExit, Some(-15 | 143 | -2 | 130)) => Sign::Teardown,
        (sign, _) => sign,
    }
}

/// What semaphores and tensors between processes are in is full: the lines above tell that it is no disk.
fn meant(sign: Sign, before: &[&str]) -> Sign {
    let shared =
        ["SemLock", "/multiprocessing/", "shared_memory", "/dev/shm", "Memory file system", "memory file system"];
    let shm = sign == Sign::DiskFull && before.iter().any(|l| shared.iter().any(|s| l.contains(s)));
    if shm { Sign::SharedMemory } else { sign }
}

/// What is kept of a text that somebody else wrote: cut, and without secrets.
pub(super) fn kept(text: &str) -> String {
    let cut = text.char_indices().nth(SHOWN).map_or(text.len(), |(i, _)| i);
    secret::mask(&text[..cut])
}

/// The time that stands nearest above a place in a block.
fn above(block: &[u8], end: usize, now: Timestamp) -> Option<Stamp> {
    let from = end.saturating_sub(ABOVE);
    let mut upto = end;
    while upto > from {
        let start = memchr::memrchr(b'\n', &block[from..upto - 1]).map_or(from, |p| from + p + 1);
        if let Some(at) = stamp(&block[start..upto], now) {
            return Some(at);
        }
        upto = start;
    }
    None
}

/// The nearest first.
fn lines_above(block: &[u8], start: usize) -> Vec<&[u8]> {
    let mut out = Vec::new();
    let mut upto = start;
    while upto > 0 && out.len() < CONTEXT {
        let from = memchr::memrchr(b'\n', &block[..upto - 1]).map_or(0, |p| p + 1);
        out.push(&block[from..(upto - 1).min(from + 512)]);
        upto = from;
    }
    out
}
