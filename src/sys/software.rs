//! Libraries loaded only to ask what they are. Loading runs their constructors: a process of its own does it.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::path::{Path, PathBuf};

use libloading::Library;
use libloading::os::unix::{Library as Unix, RTLD_LOCAL, RTLD_NOW};

use crate::sys::dl;

/// How a library tells its version. Each is a function of its public header that needs neither a device nor a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// `int f(int *version)`, 12040 being 12.4: `cudaRuntimeGetVersion`.
    Cuda(&'static str),
    /// `int f(int *version)`, 22105 being 2.21.5, 2806 being 2.8.6: `ncclGetVersion`.
    Nccl(&'static str),
    /// `size_t f(void)`, 120900 being 12.9.0: `cublasLtGetVersion`.
    Blas(&'static str),
    /// `size_t f(void)`, 12090 being 12.9: `cublasLtGetCudartVersion`.
    BlasCuda(&'static str),
    /// `void f(unsigned *major, unsigned *minor, unsigned *release)`: `ucp_get_version`.
    Three(&'static str),
    /// `void f(int *major, int *minor)`: `gdr_runtime_get_version`.
    Two(&'static str),
    /// `int f(char *text, int *length)`: `MPI_Get_library_version`.
    Text(&'static str),
    /// Nothing to ask.
    Nothing,
}

/// A library that is open.
pub struct Loaded {
    library: Library,
    /// The file that the loader took, links followed.
    pub file: Option<PathBuf>,
}

/// Opens a library by name, as a program would, or by its path; else tells what the loader said. Every symbol is resolved at
/// once: what is missing shows now.
pub fn load(library: &Path) -> Result<Loaded, String> {
    // SAFETY: the libraries that are asked for set up their own state in their constructors and nothing of ours, and this
    // process does nothing but load them.
    let opened = unsafe { Unix::open(Some(library), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| dl::reason(&e, library))?;
    let (library, file) = dl::file_of(opened.into());
    Ok(Loaded { library, file })
}

impl Loaded {
    /// The version that the library tells; `None` where it lacks the function or fails.
    pub fn version(&self, ask: Ask) -> Option<String> {
        match ask {
            Ask::Cuda(name) => {
                let v = self.number(name)?;
                Some(format!("{}.{}", v / 1000, v % 1000 / 10))
            }
            Ask::Nccl(name) => {
                let v = self.number(name)?;
                // `NCCL_VERSION` of nccl.h: three digits up to 2.8, four from 2.9 on.
                Some(match v {
                    ..10_000 => format!("{}.{}.{}", v / 1000, v % 1000 / 100, v % 100),
                    _ => format!("{}.{}.{}", v / 10_000, v % 10_000 / 100, v % 100),
                })
            }
            Ask::BlasCuda(name) => {
                let v = self.size(name)?;
                Some(format!("{}.{}", v / 1000, v % 1000 / 10))
            }
            Ask::Blas(name) => {
                let v = self.size(name)?;
                // CUBLAS_VERSION of cublas_api.h: 1000 or 10000 a major version, 100 a minor.
                let major = if v >= 100_000 { 10_000 } else { 1000 };
                Some(format!("{}.{}.{}", v / major, v % major / 100, v % 100))
            }
            Ask::Three(name) => {
                let (mut a, mut b, mut c) = (0, 0, 0);
                // SAFETY: `void f(unsigned *, unsigned *, unsigned *)` by ucp.h; the three outlive the call.
                unsafe {
                    let f: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_uint, *mut c_uint, *mut c_uint)> =
                        self.library.get(name.as_bytes()).ok()?;
                    f(&mut a, &mut b, &mut c);
                }
                Some(format!("{a}.{b}.{c}"))
            }
            Ask::Two(name) => {
                let (mut a, mut b) = (0, 0);
                // SAFETY: `void f(int *, int *)` by gdrapi.h; both outlive the call.
                unsafe {
                    let f: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_int, *mut c_int)> =
                        self.library.get(name.as_bytes()).ok()?;
                    f(&mut a, &mut b);
                }
                Some(format!("{a}.{b}"))
            }
            Ask::Text(name) => self.text(name),
            Ask::Nothing => None,
        }
    }

    /// The driver's library says by this error that it is no driver (cuda.h).
    pub fn is_stub(&self) -> bool {
        const CUDA_ERROR_STUB_LIBRARY: c_int = 34;
        // SAFETY: `CUresult cuInit(unsigned flags)` by cuda.h; flags must be 0.
        let code = unsafe { self.library.get::<unsafe extern "C" fn(c_uint) -> c_int>(b"cuInit\0").ok().map(|f| f(0)) };
        code == Some(CUDA_ERROR_STUB_LIBRARY)
    }

    pub fn has(&self, symbol: &str) -> bool {
        // SAFETY: the symbol is looked up and not used.
        unsafe { self.library.get::<*const ()>(symbol.as_bytes()).is_ok() }
    }

    fn number(&self, name: &str) -> Option<u32> {
        let mut v: c_int = 0;
        // SAFETY: `int f(int *)` by cuda_runtime_api.h and nccl.h; the integer outlives the call.
        let code =
            unsafe { self.library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(name.as_bytes()).ok()?(&mut v) };
        if code == 0 { u32::try_from(v).ok() } else { None }
    }

    fn size(&self, name: &str) -> Option<usize> {
        // SAFETY: `size_t f(void)` by cublasLt.h.
        unsafe { self.library.get::<unsafe extern "C" fn() -> usize>(name.as_bytes()).ok().map(|f| f()) }
    }

    /// MPI's own text, the first part of its first line: `Open MPI v4.1.4, package: ...`.
    fn text(&self, name: &str) -> Option<String> {
        // MPI_MAX_LIBRARY_VERSION_STRING is 8192 in MPICH, the largest known.
        let mut text: Vec<c_char> = vec![0; 16_384];
        let mut length: c_int = 0;
        // SAFETY: `int f(char *, int *)` by mpi.h; the buffer is larger than any library's text, and it ends with a zero.
        let code = unsafe {
            let f: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int> =
                self.library.get(name.as_bytes()).ok()?;
            f(text.as_mut_ptr(), &mut length)
        };
        *text.last_mut()? = 0;
        // SAFETY: the last byte is zero.
        let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
        let line = text.lines().next().unwrap_or_default();
        let line = line.split(',').next().unwrap_or_default().trim().to_owned();
        if code == 0 && !line.is_empty() { Some(line) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_loaded_asked_and_its_absence_told() {
        let c = load(Path::new("libc.so.6")).unwrap();
        assert!(c.has("getpid") && !c.has("surely_not_there") && !c.is_stub());
        assert_eq!(c.version(Ask::Nccl("ncclGetVersion")), None);
        assert!(c.file.as_ref().is_some_and(|f| f.is_absolute() && f.is_file()), "{:?}", c.file);
        let absent = load(Path::new("libnowhere.so.9")).err().unwrap_or_default();
        assert!(absent.starts_with("cannot open shared object file"), "{absent}");
    }
}
