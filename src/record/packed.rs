//! Records that zstd has packed: told by their first bytes when they are read, by the ending of their name when they are written.
//!
//! Each line is flushed as it is written, so that a killed run's record can be read up to its last line, packed or not.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use crate::files::ZSTD_MAGIC;

/// The ending that zstd itself gives a file.
pub(super) const ENDING: &str = "zst";
/// What zstd itself takes unless told otherwise.
const LEVEL: i32 = 3;

/// What a small file may unpack to, and how many times its size a larger one: no record of a real run is packed better.
const ALWAYS: u64 = 1 << 30;
const TIMES: u64 = 200;

/// Where the lines of a record go.
pub(super) enum Sink {
    Plain(File),
    Packed(Box<zstd::stream::write::Encoder<'static, File>>),
}

impl Sink {
    /// Packed where the path ends with `.zst`.
    pub(super) fn new(path: &Path, file: File) -> io::Result<Self> {
        if path.extension().is_some_and(|e| e == ENDING) {
            let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL)?;
            encoder.include_checksum(true)?;
            Ok(Sink::Packed(Box::new(encoder)))
        } else {
            Ok(Sink::Plain(file))
        }
    }

    /// Writes a whole line; when this returns the file has it.
    pub(super) fn line(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Plain(file) => file.write_all(bytes),
            Sink::Packed(encoder) => encoder.write_all(bytes).and_then(|()| encoder.flush()),
        }
    }

    /// Ends the record; when this returns the disk has it.
    pub(super) fn end(&mut self) -> io::Result<()> {
        match self {
            Sink::Plain(file) => file.sync_all(),
            Sink::Packed(encoder) => encoder.do_finish().and_then(|()| encoder.get_ref().sync_all()),
        }
    }
}

/// The lines of a record whose file has `size` bytes, packed or not.
pub(super) fn lines<'i>(mut input: impl BufRead + Send + 'i, size: u64) -> io::Result<Box<dyn BufRead + Send + 'i>> {
    if !input.fill_buf()?.starts_with(&ZSTD_MAGIC) {
        return Ok(Box::new(input));
    }
    let left = ALWAYS.max(size.saturating_mul(TIMES));
    let unpacked = Unpacked { inner: zstd::stream::read::Decoder::with_buffer(input)?, left };
    Ok(Box::new(BufReader::with_capacity(1 << 20, unpacked)))
}

/// What comes out of a frame: cut off where the frame is, and no more than a record of its size can have.
struct Unpacked<'i, R: BufRead> {
    inner: zstd::stream::read::Decoder<'i, R>,
    left: u64,
}

impl<R: BufRead> Read for Unpacked<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = match self.inner.read(into) {
            // The frame was never ended: what was flushed before is the record, which lacks its end.
            Err(cut) if cut.kind() == io::ErrorKind::UnexpectedEof => 0,
            other => other?,
        };
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::other(format!("it unpacks to more than {TIMES} times its size, which no record does"))
        })?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::record::{NAME_PACKED, Record, Writer, read, read_digested};

    fn fixture() -> Record {
        read(&PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/records/go.jsonl"))).unwrap()
    }

    /// The record, packed as it is while it is being written, without its end.
    fn unended(record: &Record, path: &Path) {
        let mut writer = Writer::create(path).unwrap();
        writer.whole(&Record { end: None, ..record.clone() }).unwrap();
        // As `kill -9` leaves it: nothing more is written.
        std::mem::forget(writer);
    }

    #[test]
    fn a_packed_record_is_the_record() {
        let (dir, record) = (tempfile::tempdir().unwrap(), fixture());
        let path = dir.path().join(NAME_PACKED);
        Writer::create(&path).unwrap().whole(&record).unwrap();
        // By its folder, as reports and gates name it.
        let (again, digest) = read_digested(dir.path()).unwrap();
        assert_eq!((&again, digest), (&record, crate::record::digest(&path).unwrap()));
        let plain = dir.path().join("plain.jsonl");
        Writer::create(&plain).unwrap().whole(&record).unwrap();
        let size = |p: &Path| p.metadata().unwrap().len();
        assert!(2 * size(&path) < size(&plain), "{} {}", size(&path), size(&plain));
        // Whatever its name, and after another frame, as `cat a.zst b.zst` makes them.
        let renamed = dir.path().join("renamed.jsonl");
        std::fs::copy(&path, &renamed).unwrap();
        assert_eq!(read(&renamed).unwrap(), record);
    }

    #[test]
    fn a_killed_run_keeps_every_line_that_was_written() {
        let (dir, record) = (tempfile::tempdir().unwrap(), fixture());
        let path = dir.path().join(NAME_PACKED);
        unended(&record, &path);
        assert_eq!(read(&path).unwrap(), Record { end: None, ..record });
    }

    #[test]
    fn what_unpacks_without_end_is_refused() {
        let packed = zstd::encode_all(&vec![b'x'; 5000][..], 3).unwrap();
        let of = |left| {
            let inner = zstd::stream::read::Decoder::with_buffer(&packed[..]).unwrap();
            Unpacked { inner, left }.read_to_end(&mut Vec::new())
        };
        assert_eq!(of(5000).unwrap(), 5000);
        assert!(of(4999).unwrap_err().to_string().contains("200 times"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// A full disk, a lost connection: everything before the cut, or that it is no record; never something else.
        #[test]
        fn a_cut_anywhere_gives_what_was_before(at in 0.0..1.0) {
            let (dir, record) = (tempfile::tempdir().unwrap(), fixture());
            let path = dir.path().join(NAME_PACKED);
            Writer::create(&path).unwrap().whole(&record).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..(at * bytes.len() as f64) as usize]).unwrap();
            if let Ok(cut) = read(&path) {
                prop_assert_eq!(&cut.header, &record.header);
                prop_assert_eq!(&cut.outcomes[..], &record.outcomes[..cut.outcomes.len()]);
            }
        }

        #[test]
        fn junk_in_a_frame_is_an_error_and_no_panic(at in 0usize..2000, bit in 0u8..8) {
            let (dir, record) = (tempfile::tempdir().unwrap(), fixture());
            let path = dir.path().join(NAME_PACKED);
            Writer::create(&path).unwrap().whole(&record).unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).unwrap();
            // The frame's checksum is read last: what was changed is never taken for the record.
            if let Ok(read) = read(&path) {
                prop_assert_eq!(read, record);
            }
        }
    }
}
