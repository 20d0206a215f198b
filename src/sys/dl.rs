//! Libraries that are looked for at run time: one binary starts on machines with and without them.

use std::path::{Path, PathBuf};

use libloading::Library;

/// Why a library is not used.
#[derive(Debug, thiserror::Error)]
pub enum DlError {
    #[error("{name} is not to be found: {first}")]
    Absent { name: String, first: String },
    #[error("{path} lacks {symbol}: it is older than what is asked of it")]
    Symbol { path: String, symbol: &'static str },
}

/// Opens the first of `names` that the loader finds by itself, else the first in the folders where packages of Python and of
/// CUDA put their libraries. Also says which it was.
pub fn open(names: &[&str]) -> Result<(Library, String), DlError> {
    let mut first = None;
    for name in names {
        // SAFETY: the constructors of the libraries that are asked for (CUDA's, NCCL, libibverbs) set up their own state
        // and nothing of ours.
        match unsafe { Library::new(*name) } {
            Ok(library) => return Ok((library, (*name).to_owned())),
            Err(e) => first.get_or_insert(e.to_string()),
        };
    }
    let folders = folders();
    for path in names.iter().flat_map(|n| folders.iter().map(move |d| d.join(n))).filter(|p| p.is_file()) {
        // SAFETY: as above.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Ok((library, path.display().to_string())),
            Err(e) => first.get_or_insert(e.to_string()),
        };
    }
    let name = names.first().map_or_else(String::new, |n| (*n).to_owned());
    Err(DlError::Absent { name, first: first.unwrap_or_default() })
}

/// Folders that no loader looks in by itself: pip's `nvidia/*/lib` in every Python that is likely to be the job's, and CUDA's.
pub fn folders() -> Vec<PathBuf> {
    let mut pythons: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .filter_map(std::env::var_os)
        .map(|root| Path::new(&root).join("lib"))
        .collect();
    pythons.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/lib")));
    pythons.extend(["/usr/local/lib", "/opt/conda/lib", "/usr/lib", "/opt/venv/lib"].map(PathBuf::from));
    let mut out = Vec::new();
    for root in pythons {
        for python in entries(&root, "python3") {
            for packages in ["site-packages", "dist-packages"] {
                let nvidia = python.join(packages).join("nvidia");
                out.extend(entries(&nvidia, "").into_iter().map(|p| p.join("lib")).filter(|p| p.is_dir()));
                out.extend(Some(python.join(packages).join("torch/lib")).filter(|p| p.is_dir()));
            }
        }
    }
    let mut cuda = entries(Path::new("/usr/local"), "cuda");
    // `cuda` itself first, then the newest.
    cuda.sort_by_key(|p| (p.file_name().is_some_and(|n| n != "cuda"), std::cmp::Reverse(p.clone())));
    out.extend(
        cuda.iter()
            .flat_map(|c| [c.join("lib64"), c.join("targets/x86_64-linux/lib"), c.join("targets/sbsa-linux/lib")]),
    );
    out.extend(["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"].map(PathBuf::from));
    out.retain(|p| p.is_dir());
    out
}

fn entries(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let mut out: Vec<PathBuf> =
        all.filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(prefix))).collect();
    out.sort();
    out
}

/// A struct of a library's functions: those that must be there, and those that may be. `load(library, path)` resolves them.
macro_rules! library {
    (
        $(#[$meta:meta])* $name:ident
        needs { $($symbol:ident: fn($($arg:ty),* $(,)?) -> $ret:ty;)* }
        may { $($maybe:ident: fn($($marg:ty),* $(,)?) -> $mret:ty;)* }
    ) => {
        $(#[$meta])*
        pub struct $name {
            $(pub $symbol: unsafe extern "C" fn($($arg),*) -> $ret,)*
            $(pub $maybe: Option<unsafe extern "C" fn($($marg),*) -> $mret>,)*
            _library: libloading::Library,
        }

        impl $name {
            /// Resolves the functions in a library that is open.
            pub fn load(library: libloading::Library, path: &str) -> Result<Self, $crate::sys::dl::DlError> {
                // SAFETY: the types are those of the library's header for these symbols; the library lives as long as the
                // pointers, in the same struct.
                unsafe {
                    Ok(Self {
                        $($symbol: match library.get(concat!(stringify!($symbol), "\0").as_bytes()) {
                            Ok(f) => *f,
                            Err(_) => {
                                let symbol = stringify!($symbol);
                                return Err($crate::sys::dl::DlError::Symbol { path: path.to_owned(), symbol });
                            }
                        },)*
                        $($maybe: library.get(concat!(stringify!($maybe), "\0").as_bytes()).ok().map(|f| *f),)*
                        _library: library,
                    })
                }
            }
        }
    };
}

pub(crate) use library;

#[cfg(test)]
mod tests {
    use super::*;

    library! {
        /// Of the C library.
        Some1
        needs { getpid: fn() -> i32; }
        may { surely_not_there: fn() -> i32; }
    }

    library! {
        /// Lacks one.
        Some2
        needs { surely_not_there: fn() -> i32; }
        may {}
    }

    #[test]
    fn a_library_is_opened_resolved_and_its_absence_told() {
        let (library, path) = open(&["libnowhere.so.9", "libc.so.6"]).unwrap();
        assert_eq!(path, "libc.so.6");
        let some = Some1::load(library, &path).unwrap();
        // SAFETY: getpid has no conditions.
        assert_eq!(unsafe { (some.getpid)() } as u32, std::process::id());
        assert!(some.surely_not_there.is_none());
        let (library, path) = open(&["libc.so.6"]).unwrap();
        let loaded = Some2::load(library, &path).map(|s| s.surely_not_there);
        let error = loaded.err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some("libc.so.6 lacks surely_not_there: it is older than what is asked of it"));
        let absent = open(&["libnowhere.so.9"]).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(absent.starts_with("libnowhere.so.9 is not to be found: "), "{absent}");
    }
}
