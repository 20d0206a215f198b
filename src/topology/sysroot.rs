//! Every file of /proc and /sys is read through a [`SysRoot`]: the live machine, the live machine while recording, or a
//! recorded folder. A recording holds exactly what was read, so a folder is a machine in a test.
//!
//! Layout of a recording: the files under their own paths, `links.json` for where links point, `errors.json` for what
//! could not be read (path to errno), `environment.json` for the allow-listed variables.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::files;
use crate::id::clean;
use crate::topology::secret::mask;

/// Largest file that is read: a broken driver may answer without end.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Most entries that are taken from one directory.
const MAX_ENTRIES: usize = 65_536;

const ERRORS: &str = "errors.json";
const LINKS: &str = "links.json";
/// What the kernel was started with: installers leave passwords there.
const COMMAND_LINE: &str = "/proc/cmdline";

/// Environment variables that may be read: tuning of the communication stack and the launcher, never secrets.
const ENV_PREFIXES: &[&str] = &[
    "NCCL_",
    "UCX_",
    "SLURM_JOB_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_NNODES",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "GLOO_SOCKET_IFNAME",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_REQUIRE_CUDA",
    "NVIDIA_DISABLE_REQUIRE",
    "TORCH_NCCL_",
];
const ENV_FORBIDDEN: &[&str] = &["TOKEN", "SECRET", "KEY", "PASSWORD", "CREDENTIAL", "AUTH"];

/// Why a recording cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SysRootError {
    #[error("{0} is not a recorded machine: it has no proc folder; make one with `gonogo discover --record DIR`")]
    NotARecording(PathBuf),
    #[error("cannot write the recording at {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{0} is not empty; record into a new folder")]
    NotEmpty(PathBuf),
    #[error("{path} is damaged: {message}")]
    Damaged { path: PathBuf, message: String },
}

enum Mode {
    Live,
    Record(PathBuf),
    Replay { dir: PathBuf, errors: BTreeMap<PathBuf, i32>, links: BTreeMap<PathBuf, String> },
}

/// A root to read a machine from.
pub struct SysRoot {
    mode: Mode,
    denied: RefCell<Vec<PathBuf>>,
    failed_writes: RefCell<Option<SysRootError>>,
    errors: RefCell<BTreeMap<PathBuf, i32>>,
    links: RefCell<BTreeMap<PathBuf, String>>,
}

impl SysRoot {
    fn with(mode: Mode) -> Self {
        SysRoot {
            mode,
            denied: RefCell::default(),
            failed_writes: RefCell::default(),
            errors: RefCell::default(),
            links: RefCell::default(),
        }
    }

    /// The machine itself.
    pub fn live() -> Self {
        Self::with(Mode::Live)
    }

    /// The machine itself; all that is read is also written under `dir`, which must be new or empty.
    pub fn record(dir: &Path) -> Result<Self, SysRootError> {
        let fail = |source| SysRootError::Write { path: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(fail)?;
        if fs::read_dir(dir).map_err(fail)?.next().is_some() {
            return Err(SysRootError::NotEmpty(dir.to_owned()));
        }
        Ok(Self::with(Mode::Record(dir.to_owned())))
    }

    /// A folder that `record` made, or that a person wrote.
    pub fn replay(dir: &Path) -> Result<Self, SysRootError> {
        if !dir.join("proc").is_dir() {
            return Err(SysRootError::NotARecording(dir.to_owned()));
        }
        let errors = sidecar(dir, ERRORS)?;
        let links = sidecar(dir, LINKS)?;
        let dir = dir.canonicalize().map_err(|_| SysRootError::NotARecording(dir.to_owned()))?;
        Ok(Self::with(Mode::Replay { dir, errors, links }))
    }

    /// Ends a recording: writes the errors met, and says if a file could not be written.
    pub fn finish(self) -> Result<(), SysRootError> {
        if let Some(error) = self.failed_writes.borrow_mut().take() {
            return Err(error);
        }
        if let Mode::Record(dir) = &self.mode {
            let write = |name: &str, text: Vec<u8>| {
                let path = dir.join(name);
                fs::write(&path, text).map_err(|source| SysRootError::Write { path, source })
            };
            write(ERRORS, serde_json::to_vec_pretty(&*self.errors.borrow()).unwrap_or_default())?;
            write(LINKS, serde_json::to_vec_pretty(&*self.links.borrow()).unwrap_or_default())?;
        }
        Ok(())
    }

    fn is_live(&self) -> bool {
        !matches!(self.mode, Mode::Replay { .. })
    }

    /// Paths that exist and may not be read by this user.
    pub fn denied(&self) -> Vec<PathBuf> {
        self.denied.borrow().clone()
    }

    /// Where a path is looked at. A recorded machine is all in its folder: what leads out of it is not there.
    fn real(&self, path: &Path) -> io::Result<PathBuf> {
        let Mode::Replay { dir, .. } = &self.mode else { return Ok(path.to_owned()) };
        let real = dir.join(path.strip_prefix("/").unwrap_or(path)).canonicalize()?;
        if real.starts_with(dir) { Ok(real) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Runs one look at the machine; what a recording remembers as an error is that error again.
    fn look<T>(&self, path: &Path, look: impl FnOnce(&Path) -> io::Result<T>) -> Option<T> {
        let result = match &self.mode {
            Mode::Replay { errors, .. } if errors.contains_key(path) => Err(io::Error::from_raw_os_error(errors[path])),
            _ => self.real(path).and_then(|real| look(&real)),
        };
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.denied.borrow_mut().push(path.to_owned());
                }
                if error.kind() != io::ErrorKind::NotFound
                    && let Some(number) = error.raw_os_error()
                {
                    self.errors.borrow_mut().insert(path.to_owned(), number);
                }
                None
            }
        }
    }

    fn keep(&self, path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) {
        let Mode::Record(dir) = &self.mode else { return };
        let target = dir.join(path.strip_prefix("/").unwrap_or(path));
        let made = target.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| write(&target));
        if let Err(source) = made {
            self.failed_writes.borrow_mut().get_or_insert(SysRootError::Write { path: target, source });
        }
    }

    /// A text file, without its last line feed. `None` when absent, unreadable (sysfs answers EINVAL for what a device
    /// lacks) or not text.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = self.read_bytes(path)?;
        let text = String::from_utf8_lossy(&bytes);
        Some(text.trim_end_matches(['\n', '\0']).to_owned())
    }

    /// A file as it is. `None` when absent or unreadable.
    pub fn read_bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let path = path.as_ref();
        let bytes = self.look(path, |real| {
            let mut bytes = Vec::new();
            // The kernel's own files may be of any kind; a folder that somebody made holds files.
            let file = if self.is_live() { fs::File::open(real)? } else { files::open(real)? };
            file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        })?;
        let bytes =
            if path == Path::new(COMMAND_LINE) { mask(&String::from_utf8_lossy(&bytes)).into_bytes() } else { bytes };
        self.keep(path, |target| {
            // A name that `list` kept as an empty folder turns out to be a file.
            if target.is_dir() {
                fs::remove_dir(target)?;
            }
            fs::write(target, &bytes)
        });
        Some(bytes)
    }

    /// A text file parsed; nonsense in it is absence.
    pub fn parse<T: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.read(path)?.trim().parse().ok()
    }

    /// Names in a directory, sorted. Empty when absent.
    pub fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let path = path.as_ref();
        let names = self.look(path, |real| {
            let mut names: Vec<String> =
                fs::read_dir(real)?.take(MAX_ENTRIES).filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
            names.sort_unstable();
            Ok(names)
        });
        let names = names.unwrap_or_default();
        for name in &names {
            self.keep(&path.join(name), |target| {
                if target.symlink_metadata().is_ok() { Ok(()) } else { fs::create_dir(target) }
            });
        }
        names
    }

    /// The last part of where a link points: `driver -> ../../bus/pci/drivers/mlx5_core` gives `mlx5_core`.
    pub fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = self.link(path)?;
        target.rsplit('/').next().filter(|n| !n.is_empty()).map(str::to_owned)
    }

    /// Where a link points, as it is written.
    pub fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        let path = path.as_ref();
        if let Mode::Replay { links, .. } = &self.mode
            && let Some(target) = links.get(path)
        {
            return Some(target.clone());
        }
        if !self.is_live() {
            // A plain copy of /sys has links of its own. What one says is text: it is not followed.
            let parent = self.real(path.parent()?).ok()?;
            return fs::read_link(parent.join(path.file_name()?)).ok()?.into_os_string().into_string().ok();
        }
        let target = self.look(path, |p| fs::read_link(p))?.into_os_string().into_string().ok()?;
        self.links.borrow_mut().insert(path.to_owned(), target.clone());
        Some(target)
    }

    /// Whether a path exists.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        let found = self.look(path, |real| real.symlink_metadata().map(|_| ())).is_some();
        if found {
            self.keep(path, |target| if target.symlink_metadata().is_ok() { Ok(()) } else { fs::create_dir(target) });
        }
        found
    }

    /// What is no file, such as a driver's answer: a recording keeps it as JSON beside the files, and a replay reads it there.
    pub fn reading<T>(&self, name: &str, live: impl FnOnce() -> T) -> Option<T>
    where
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        if let Mode::Replay { dir, .. } = &self.mode {
            return serde_json::from_slice(&beside(dir, name)?).ok();
        }
        let value = live();
        self.keep(&Path::new("/").join(name), |target| {
            fs::write(target, serde_json::to_vec_pretty(&value).unwrap_or_default())
        });
        Some(value)
    }

    /// The allow-listed environment variables.
    pub fn environment(&self) -> BTreeMap<String, String> {
        if let Mode::Replay { dir, .. } = &self.mode {
            let bytes = beside(dir, "environment.json").unwrap_or_default();
            return serde_json::from_slice(&bytes).unwrap_or_default();
        }
        let allowed: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .filter(|(k, _)| is_allowed(k))
            // Of the others, values decide what is measured, and none of them is a secret.
            .map(|(k, v)| if k.starts_with("NCCL_") || k.starts_with("UCX_") { (k, mask(&v)) } else { (k, v) })
            .collect();
        self.keep(Path::new("/environment.json"), |target| {
            fs::write(target, serde_json::to_vec_pretty(&allowed).unwrap_or_default())
        });
        allowed
    }
}

/// One of the JSON maps beside the files; absent is empty.
fn sidecar<T: serde::de::DeserializeOwned + Default>(dir: &Path, name: &str) -> Result<T, SysRootError> {
    match beside(dir, name) {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| SysRootError::Damaged { path: dir.join(name), message: clean(&e.to_string()).into_owned() }),
        None => Ok(T::default()),
    }
}

/// A file of a recording that is none of the machine's.
fn beside(dir: &Path, name: &str) -> Option<Vec<u8>> {
    files::open_in_place(&dir.join(name)).and_then(|f| files::read(f, MAX_FILE_BYTES)).ok()
}

fn is_allowed(name: &str) -> bool {
    ENV_PREFIXES.iter().any(|p| name.starts_with(p)) && !ENV_FORBIDDEN.iter().any(|f| name.contains(f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_on_the_allow_list() {
        for ok in ["NCCL_IB_HCA", "UCX_TLS", "SLURM_JOB_ID", "OMP_NUM_THREADS"] {
            assert!(is_allowed(ok), "{ok}");
        }
        for bad in ["GONOGO_TOKEN", "NCCL_SECRET", "UCX_AUTH", "HOME", "AWS_SECRET_ACCESS_KEY", "SLURM_JWT"] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn a_folder_that_is_no_recording_is_refused() {
        let dir = tempfile::tempdir().map_err(|e| e.to_string()).unwrap_or_else(|e| panic!("{e}"));
        assert!(matches!(SysRoot::replay(dir.path()), Err(SysRootError::NotARecording(_))));
    }

    #[test]
    fn a_plain_copy_has_links_of_its_own() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        fs::create_dir_all(dir.path().join("proc"))?;
        fs::create_dir_all(dir.path().join("sys/class/net/eth0/device"))?;
        std::os::unix::fs::symlink("../../drivers/mlx5_core", dir.path().join("sys/class/net/eth0/device/driver"))?;
        std::os::unix::fs::symlink("/etc", dir.path().join("sys/out"))?;
        let root = SysRoot::replay(dir.path())?;
        assert_eq!(root.link_name("/sys/class/net/eth0/device/driver").as_deref(), Some("mlx5_core"));
        assert_eq!(root.link_name("/sys/class/net/eth0/device/subsystem"), None);
        // Nothing is looked up behind a link that leads out.
        assert_eq!((root.link_name("/sys/out/mtab"), root.read("/sys/out/hostname")), (None, None));
        Ok(())
    }

    #[test]
    fn errors_replay_as_errors() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        fs::create_dir_all(dir.path().join("proc"))?;
        fs::write(dir.path().join("proc/secret"), "x")?;
        fs::write(dir.path().join("errors.json"), "{\"/proc/secret\": 13}")?;
        let root = SysRoot::replay(dir.path())?;
        assert_eq!(root.read("/proc/secret"), None);
        assert_eq!(root.denied(), [PathBuf::from("/proc/secret")]);
        Ok(())
    }
}
