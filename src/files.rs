//! Files on shared machines: opened only if they are files, created only where nothing is, trusted only if nobody else can change them.
//!
//! Whoever may write into a folder can lay a link, a FIFO or a device where a file is expected: a link makes root write elsewhere,
//! a FIFO makes a reader wait for ever, a device is read without end.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// The first bytes of what zstd packed (RFC 8878, 3.1.1).
pub const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why a path is not opened, or not written.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it is {0}, not a file")]
    Kind(&'static str),
    #[error("it is a link that leads out of its folder, to {0}; give that path itself")]
    LeadsOut(PathBuf),
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    #[error("it belongs to user {0}, and is not written over")]
    Foreign(u32),
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, refused)
    }
}

/// Who else may have a hand in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Nobody else may read it: a secret.
    Secret,
    /// Nobody else may write it: what trust rests on.
    Trust,
}

/// Why a file is not trusted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Untrusted {
    #[error("others may read {path} (mode {mode:03o}); run: chmod 600 {path}")]
    Readable { path: PathBuf, mode: u32 },
    #[error("others may write {path} (mode {mode:03o}); run: chmod go-w {path}")]
    Writable { path: PathBuf, mode: u32 },
    #[error(
        "{path} belongs to user {owner}, neither to root nor to the user who runs this; copy it to a folder of your own"
    )]
    Owner { path: PathBuf, owner: u32 },
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn kind(of: FileType) -> Option<&'static str> {
    Some(match of {
        t if t.is_file() => return None,
        t if t.is_dir() => "a folder",
        t if t.is_fifo() => "a pipe",
        t if t.is_socket() => "a socket",
        t if t.is_symlink() => "a link",
        _ => "a device",
    })
}

/// Opens a file for reading, wherever it is linked from. Anything but a file is refused at once.
pub fn open(path: &Path) -> io::Result<File> {
    regular(&path.canonicalize()?)
}

/// Opens a file on which trust rests: it may be a link within its own folder, as Kubernetes lays out secrets, not out of it.
pub fn open_in_place(path: &Path) -> io::Result<File> {
    let real = path.canonicalize()?;
    if !real.starts_with(parent(path).canonicalize()?) {
        return Err(Refused::LeadsOut(real).into());
    }
    regular(&real)
}

fn regular(real: &Path) -> io::Result<File> {
    // To open a device may do something: it is looked at before.
    let refuse = |of: FileType| kind(of).map_or(Ok(()), |what| Err(io::Error::from(Refused::Kind(what))));
    refuse(real.symlink_metadata()?.file_type())?;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(real)?;
    refuse(file.metadata()?.file_type())?;
    Ok(file)
}

/// A whole file of at most `most` bytes.
pub fn read(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Refused::TooLarge(most).into());
    }
    Ok(bytes)
}

/// A whole text file of at most `most` bytes.
pub fn read_text(file: File, most: u64) -> io::Result<String> {
    String::from_utf8(read(file, most)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Creates a file for its owner alone; never over anything, and never through a link.
pub fn create(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().append(true).create_new(true).mode(0o600).custom_flags(flags).open(path)
}

/// Who may read what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    Owner,
    /// Whom the user's umask lets.
    Others,
}

/// Writes a file of our own whole, or not at all: what this user left there is replaced, what another made is not, and no link leads
/// the writing elsewhere.
pub fn replace(path: &Path, readers: Readers, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    if let Ok(there) = path.symlink_metadata() {
        if let Some(what) = kind(there.file_type()) {
            return Err(Refused::Kind(what).into());
        }
        if there.uid() != rustix::process::geteuid().as_raw() {
            return Err(Refused::Foreign(there.uid()).into());
        }
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{:016x}", fastrand::u64(..)));
    let made = match readers {
        Readers::Owner => create(&temporary),
        Readers::Others => OpenOptions::new().write(true).create_new(true).open(&temporary),
    };
    let written = made.and_then(|mut file| write(&mut file)).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Whether a file's content can be trusted to be its owner's, as sshd sees it: the file and every folder above it belong to root or to
/// this user, and nobody else may write them.
pub fn check(path: &Path, guard: Guard) -> io::Result<Result<(), Untrusted>> {
    let real = path.canonicalize()?;
    let (own, foreign) = (rustix::process::geteuid().as_raw(), unmapped());
    for (i, at) in real.ancestors().enumerate() {
        let meta = at.symlink_metadata()?;
        let (mode, owner, path) = (meta.permissions().mode() & 0o7777, meta.uid(), at.to_owned());
        if owner != own && owner != 0 && Some(owner) != foreign {
            return Ok(Err(Untrusted::Owner { path, owner }));
        }
        // In a folder with the sticky bit, such as /tmp, nobody replaces what is another's.
        let sticky = i > 0 && mode & 0o1000 != 0;
        if mode & 0o022 != 0 && !sticky {
            return Ok(Err(Untrusted::Writable { path, mode: mode & 0o777 }));
        }
        if i == 0 && guard == Guard::Secret && mode & 0o077 != 0 {
            return Ok(Err(Untrusted::Readable { path, mode: mode & 0o777 }));
        }
    }
    Ok(Ok(()))
}

/// Inside a user namespace: what the kernel shows for users that the namespace does not know, such as the root outside of it.
fn unmapped() -> Option<u32> {
    let all = fs::read_to_string("/proc/self/uid_map").ok()?;
    let whole = all.split_whitespace().eq(["0", "0", "4294967295"]);
    (!whole).then(|| fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?.trim().parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

    fn said<T>(result: io::Result<T>) -> String {
        result.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn only_files_are_opened_and_links_stay_in_their_folder() -> Result {
        let dir = tempfile::tempdir()?;
        let (at, link) = (|name: &str| dir.path().join(name), std::os::unix::fs::symlink::<PathBuf, PathBuf>);
        fs::write(at("file"), "x")?;
        fs::create_dir(at("folder"))?;
        fs::write(at("folder/inner"), "y")?;
        link("file".into(), at("near"))?;
        link("folder/inner".into(), at("below"))?;
        link("/etc/passwd".into(), at("far"))?;
        link("folder".into(), at("latest"))?;
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)?;
        for good in ["file", "near", "below", "latest/inner"] {
            assert!(open_in_place(&at(good)).is_ok(), "{good}");
        }
        assert!(said(open_in_place(&at("far"))).contains("leads out of its folder, to /etc/passwd"));
        assert!(open(&at("far")).is_ok());
        assert_eq!(said(open(&at("fifo"))), "it is a pipe, not a file");
        assert_eq!(said(open(&at("folder"))), "it is a folder, not a file");
        assert_eq!(said(open(Path::new("/dev/zero"))), "it is a device, not a file");
        assert_eq!(read_text(open(&at("near"))?, 1)?, "x");
        assert_eq!(said(read(open(&at("file"))?, 0)), "it is larger than 0 bytes");
        Ok(())
    }

    #[test]
    fn nothing_is_written_through_a_link_or_over_what_is_there() -> Result {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        fs::write(at("victim"), "precious")?;
        std::os::unix::fs::symlink("victim", at("link"))?;
        std::os::unix::fs::symlink("nowhere", at("dangling"))?;
        for name in ["victim", "link", "dangling"] {
            assert!(create(&at(name)).is_err(), "{name}");
        }
        let put = |at: &Path, bytes: &'static [u8]| replace(at, Readers::Owner, |f| f.write_all(bytes));
        assert_eq!(said(put(&at("link"), b"junk")), "it is a link, not a file");
        put(&at("own"), b"one")?;
        put(&at("own"), b"two")?;
        assert_eq!((fs::read(at("own"))?, fs::read(at("victim"))?), (b"two".to_vec(), b"precious".to_vec()));
        assert_eq!(fs::metadata(at("own"))?.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path())?.count(), 4, "a temporary file stayed");
        Ok(())
    }

    #[test]
    fn trust_needs_the_file_and_all_above_it() -> Result {
        let dir = tempfile::tempdir()?;
        let (folder, file) = (dir.path().join("f"), dir.path().join("f/key"));
        fs::create_dir(&folder)?;
        fs::write(&file, "k")?;
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        mode(&file, 0o644)?;
        mode(&folder, 0o755)?;
        assert_eq!(check(&file, Guard::Trust)?, Ok(()));
        assert!(matches!(check(&file, Guard::Secret)?, Err(Untrusted::Readable { mode: 0o644, .. })));
        mode(&file, 0o664)?;
        assert!(matches!(check(&file, Guard::Trust)?, Err(Untrusted::Writable { mode: 0o664, .. })));
        mode(&file, 0o600)?;
        assert_eq!(check(&file, Guard::Secret)?, Ok(()));
        mode(&folder, 0o775)?;
        assert!(matches!(check(&file, Guard::Trust)?, Err(Untrusted::Writable { mode: 0o775, .. })));
        Ok(())
    }
}
