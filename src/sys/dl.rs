//! Libraries that are looked for at run time: one binary starts on machines with and without them, and with several of them.

use std::collections::HashSet;
use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::sys::elf;
use crate::sys::places::{Place, places};

/// Why a library is not used.
#[derive(Debug, thiserror::Error)]
pub enum DlError {
    #[error("{name} is not to be found: {reason}")]
    Absent { name: String, reason: String },
    #[error("no {name} can be used: {tried}")]
    Unusable { name: String, tried: String },
    #[error("{path} lacks {symbol}: it is older than what is asked of it")]
    Symbol { path: String, symbol: &'static str },
}

impl DlError {
    /// Nothing of that name is here, as against what is here and broken.
    pub fn is_absent(&self) -> bool {
        matches!(self, DlError::Absent { .. })
    }
}

/// A library that was opened: the file, and why that one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Links followed: the name of the file tells its version where the name that was asked for does not.
    pub path: String,
    pub why: String,
}

/// How a library shows for which CUDA it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Built {
    /// Its major version is CUDA's: `libcublasLt.so.12`.
    Name,
    /// Its constants have the version behind this mark: `+cuda` for NCCL.
    Mark(&'static [u8]),
    /// It is of no CUDA.
    Not,
}

/// A library that is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// As programs ask for it, the most wanted first.
    pub names: &'a [&'a str],
    pub built: Built,
    /// The newest CUDA that the driver runs, 12080 being 12.8.
    pub driver: Option<i32>,
}

/// How glibc's loader begins and ends when it says that there is no such file (dl-load.c, and strerror of ENOENT).
const NOT_OPENED: &str = "cannot open shared object file";
const NO_SUCH_FILE: &str = "No such file or directory";
/// Skipped files that are told of.
const MOST_TOLD: usize = 4;

/// Opens a library of the system: the one that the loader finds by itself, else one of the places that it does not know.
pub fn open(names: &[&str]) -> Result<(Library, Found), DlError> {
    let wanted = Wanted { names, built: Built::Not, driver: None };
    search(&wanted, &places(), false, load)
}

/// Opens a library of the job's software: one that the driver can run, from the job's own environment (LD_LIBRARY_PATH, Python),
/// else the one that the loader finds by itself, else one of the usual places.
pub fn open_for_job(wanted: &Wanted<'_>) -> Result<(Library, Found), DlError> {
    search(wanted, &places(), true, load)
}

/// Folders that no loader looks in by itself.
pub fn folders() -> Vec<PathBuf> {
    places().into_iter().map(|p| p.dir).collect()
}

/// Loads a library by its path, or by name where it has no slash; also says which file that is, or what the loader said.
fn load(path: &Path) -> Result<(Library, PathBuf), String> {
    // SAFETY: the constructors of the libraries that are asked for (CUDA's, NCCL, libibverbs) set up their own state
    // and nothing of ours.
    let library = unsafe { Library::new(path) }.map_err(|e| reason(&e, path))?;
    let (library, file) = file_of(library);
    Ok((library, file.unwrap_or_else(|| path.to_owned())))
}

/// What the loader said, which libloading keeps as the source, without the file's name in front.
pub(in crate::sys) fn reason(error: &libloading::Error, path: &Path) -> String {
    let said = std::error::Error::source(error).map_or_else(|| error.to_string(), |s| s.to_string());
    said.strip_prefix(&format!("{}: ", path.display())).map_or_else(|| said.clone(), str::to_owned)
}

unsafe extern "C" {
    /// `int dlinfo(void *handle, int request, void *info)` of dlfcn.h, in every libc for Linux.
    fn dlinfo(handle: *mut c_void, request: c_int, info: *mut c_void) -> c_int;
}

/// `RTLD_DI_LINKMAP` of dlfcn.h, in glibc and musl alike.
const LINK_MAP: c_int = 2;

/// The part of `struct link_map` (link.h) that debuggers and everybody else may read.
#[repr(C)]
struct LinkMap {
    address: usize,
    name: *const c_char,
}

/// The file that the loader took for a library, links followed.
pub(in crate::sys) fn file_of(library: Library) -> (Library, Option<PathBuf>) {
    let handle = libloading::os::unix::Library::from(library).into_raw();
    let mut map: *const LinkMap = std::ptr::null();
    // SAFETY: the handle is open; for this request dlinfo writes a pointer to a struct that lives as long as the library, whose
    // name is null or ends with a zero.
    let file = unsafe {
        let failed = dlinfo(handle, LINK_MAP, (&raw mut map).cast()) != 0 || map.is_null() || (*map).name.is_null();
        (!failed).then(|| PathBuf::from(OsStr::from_bytes(CStr::from_ptr((*map).name).to_bytes())))
    };
    // SAFETY: the handle is that of the library which was given up above.
    let library = unsafe { libloading::os::unix::Library::from_raw(handle) };
    (library.into(), file.and_then(|f| f.canonicalize().ok()))
}

/// What was tried and not taken.
#[derive(Default)]
struct Tried {
    skipped: Vec<(PathBuf, String)>,
    /// Names that were looked at, each with its file, links followed.
    seen: HashSet<(OsString, PathBuf)>,
    /// What the loader said of the first name that it was asked for.
    loader: Option<String>,
}

impl Tried {
    fn told(&self) -> String {
        let all = self.skipped.iter().map(|(path, why)| format!("{}: {why}", path.display()));
        let mut told: Vec<String> = all.take(MOST_TOLD).collect();
        if self.skipped.len() > MOST_TOLD {
            told.push(format!("and {} more", self.skipped.len() - MOST_TOLD));
        }
        told.join("; ")
    }

    /// It is one thing that the loader knows no file of that name, and another that it cannot load what it knows.
    fn loader_said(&mut self, name: &str, said: String) {
        if !said.contains(NO_SUCH_FILE) || !said.starts_with(NOT_OPENED) {
            self.skip(Path::new(name), said.clone());
        }
        self.loader.get_or_insert(said);
    }

    fn skip(&mut self, path: &Path, why: String) {
        self.skipped.push((path.to_owned(), why));
    }
}

/// Tries each name in each place until one opens.
fn search<T>(
    wanted: &Wanted<'_>,
    places: &[Place],
    job_first: bool,
    mut open: impl FnMut(&Path) -> Result<(T, PathBuf), String>,
) -> Result<(T, Found), DlError> {
    // `None` is the loader's own search.
    let (first, last): (Vec<_>, Vec<_>) = places.iter().partition(|p| job_first && p.origin.is_of_the_job());
    let order: Vec<Option<&Place>> =
        first.into_iter().map(Some).chain([None]).chain(last.into_iter().map(Some)).collect();
    let mut tried = Tried::default();
    for name in wanted.names {
        let unfit = wanted.unfit_by_name(name);
        for place in &order {
            let opened = match (place, &unfit) {
                (None, Some(_)) => continue,
                (None, None) => open(Path::new(name)).map_err(|said| tried.loader_said(name, said)),
                (Some(place), _) => {
                    let path = place.dir.join(name);
                    match wanted.look(&path, &unfit, &mut tried) {
                        Some(path) => open(&path).map_err(|said| tried.skip(&path, said)),
                        None => continue,
                    }
                }
            };
            let Ok((library, path)) = opened else { continue };
            // What the loader chose could not be looked at before.
            if place.is_none()
                && let Some(why) = wanted.unfit(&path)
            {
                tried.skip(&path, why);
                // Open is open: its constructors may have started threads.
                std::mem::forget(library);
                continue;
            }
            let why = wanted.why(*place, &path, places, &tried);
            return Ok((library, Found { path: path.display().to_string(), why }));
        }
    }
    let fits = |name: &&&str| wanted.unfit_by_name(name).is_none();
    let name = wanted.names.iter().find(fits).or(wanted.names.first()).map_or_else(String::new, |n| (*n).to_owned());
    let reason = tried.loader.clone().unwrap_or_else(|| "nothing of that name is anywhere".to_owned());
    if tried.skipped.is_empty() {
        return Err(DlError::Absent { name, reason });
    }
    Err(DlError::Unusable { name, tried: format!("{}; the loader by itself: {reason}", tried.told()) })
}

impl Wanted<'_> {
    /// A file that is worth opening; what is there and is not worth it is noted.
    fn look(&self, path: &Path, unfit: &Option<String>, tried: &mut Tried) -> Option<PathBuf> {
        let Ok(real) = path.canonicalize() else {
            if path.is_symlink() {
                let to = path.read_link().unwrap_or_default();
                tried.skip(path, format!("a link to {}, which is not there", to.display()));
            }
            return None;
        };
        // A stand-in has the names of several libraries.
        let name = path.file_name().unwrap_or_default().to_owned();
        if !real.is_file() || !tried.seen.insert((name, real)) {
            return None;
        }
        match unfit.clone().or_else(|| self.unfit(path)) {
            Some(why) => tried.skip(path, why),
            None => return Some(path.to_owned()),
        }
        None
    }

    /// Why a file cannot be used here, by what its headers and constants say.
    fn unfit(&self, path: &Path) -> Option<String> {
        let head = match elf::head(path) {
            Ok(head) => head,
            Err(e) => return Some(e.reason()),
        };
        if head.foreign {
            return Some(format!("a library for {}", head.processor));
        }
        let Built::Mark(mark) = self.built else { return None };
        // Reading constants takes a while, and without a driver nothing follows from them.
        self.driver?;
        let built = head.number_after(path, mark)?;
        self.unfit_of(built.split('.').next()?.parse().ok()?, &built)
    }

    fn unfit_by_name(&self, name: &str) -> Option<String> {
        let major = (self.built == Built::Name).then(|| major(name)).flatten()?;
        self.unfit_of(major, &major.to_string())
    }

    fn unfit_of(&self, major: i32, built: &str) -> Option<String> {
        let driver = self.driver.filter(|driver| major > driver / 1000)?;
        Some(format!("built for CUDA {built}, and this driver runs up to {}", show_cuda(driver)))
    }

    /// Why this file: by the driver, by its place, of how many, and what was passed over.
    fn why(&self, place: Option<&Place>, taken: &Path, places: &[Place], tried: &Tried) -> String {
        let mut files: HashSet<PathBuf> = tried.seen.iter().map(|(_, file)| file.clone()).collect();
        let mut names: HashSet<&str> = HashSet::new();
        for name in self.names {
            for place in places {
                if let Ok(real) = place.dir.join(name).canonicalize() {
                    files.insert(real);
                    names.insert(name);
                }
            }
        }
        files.insert(taken.to_owned());
        let mut out = Vec::new();
        if let (Built::Name, Some(driver), true) = (self.built, self.driver, names.len() > 1) {
            out.push(format!("the newest that a driver of CUDA {} runs", show_cuda(driver)));
        }
        out.push(place.map_or_else(|| "found by the loader itself".to_owned(), |p| p.origin.to_string()));
        if files.len() > 1 {
            out.push(format!("of {} found", files.len()));
        }
        let why = out.join(", ");
        if tried.skipped.is_empty() { why } else { format!("{why}; skipped {}", tried.told()) }
    }
}

/// 12 of `libcublasLt.so.12`.
fn major(name: &str) -> Option<i32> {
    name.split_once(".so.")?.1.split('.').next()?.parse().ok()
}

/// `12.8` of 12080.
pub fn show_cuda(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// A struct of a library's functions: those that must be there, and those that may be. `load(library, path)` resolves them.
///
/// The library is never closed. CUDA's driver and NCCL start threads of their own and leave destructors for threads and for the
/// end of the process, all of which run the library's code after the last call into it: unmapped code would end the process.
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
            _library: std::mem::ManuallyDrop<libloading::Library>,
        }

        impl $name {
            /// Resolves the functions in a library that is open.
            pub fn load(library: libloading::Library, path: &str) -> Result<Self, $crate::sys::dl::DlError> {
                let library = std::mem::ManuallyDrop::new(library);
                // SAFETY: the types are those of the library's header for these symbols; the library is never closed.
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

        #[cfg(test)]
        impl $crate::sys::signature::Bound for $name {
            fn signatures() -> Vec<(&'static str, Vec<String>)> {
                use $crate::sys::signature::Signature;
                vec![
                    $((stringify!($symbol), <unsafe extern "C" fn($($arg),*) -> $ret as Signature>::types()),)*
                    $((stringify!($maybe), <unsafe extern "C" fn($($marg),*) -> $mret as Signature>::types()),)*
                ]
            }
        }
    };
}

pub(crate) use library;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::places::Origin;
    use std::fs;

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
        let (library, found) = open(&["libnowhere.so.9", "libc.so.6"]).unwrap();
        assert!(Path::new(&found.path).is_absolute() && Path::new(&found.path).is_file(), "{found:?}");
        assert!(found.why.starts_with("found by the loader itself"), "{found:?}");
        let some = Some1::load(library, &found.path).unwrap();
        // SAFETY: getpid has no conditions.
        assert_eq!(unsafe { (some.getpid)() } as u32, std::process::id());
        assert!(some.surely_not_there.is_none());
        let (library, _) = open(&["libc.so.6"]).unwrap();
        let loaded = Some2::load(library, "libc.so.6").map(|s| s.surely_not_there);
        let error = loaded.err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some("libc.so.6 lacks surely_not_there: it is older than what is asked of it"));
        let absent = open(&["libnowhere.so.9"]).err().unwrap();
        let told = "libnowhere.so.9 is not to be found: cannot open shared object file: No such file or directory";
        assert!(absent.is_absent() && absent.to_string() == told, "{absent}");
    }

    /// A folder with libraries, as the headers of one without contents.
    struct Tree {
        dir: tempfile::TempDir,
        places: Vec<Place>,
    }

    const HERE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    const THERE: u16 = if cfg!(target_arch = "aarch64") { 62 } else { 183 };

    impl Tree {
        fn new(places: &[(&str, Origin)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().canonicalize().unwrap();
            let all = places.iter().map(|(name, origin)| Place { dir: root.join(name), origin: origin.clone() });
            let places: Vec<Place> = all.collect();
            places.iter().for_each(|p| fs::create_dir_all(&p.dir).unwrap());
            Tree { dir, places }
        }

        /// An ELF64 file with one loaded segment of 4096 bytes, of which `bytes` are there.
        fn library(&self, path: &str, machine: u16, bytes: usize) {
            let mut file = b"\x7fELF\x02\x01\x01".to_vec();
            file.resize(64, 0);
            file[16] = 3; // ET_DYN
            file[18..20].copy_from_slice(&machine.to_le_bytes());
            file[20] = 1;
            file[32] = 64; // e_phoff
            file[52] = 64; // e_ehsize
            file[54] = 56; // e_phentsize
            file[56] = 1; // e_phnum
            let mut segment = vec![0u8; 56];
            segment[0] = 1; // PT_LOAD
            segment[32..40].copy_from_slice(&4096u64.to_le_bytes()); // p_filesz
            file.extend(segment);
            file.resize(bytes, 0);
            fs::write(self.dir.path().join(path), file).unwrap();
        }

        /// What is found, with the tree's own place left out, where the loader by itself finds nothing and `broken` cannot be loaded.
        fn find(&self, names: &[&str], built: Built, driver: Option<i32>, broken: &str) -> Result<String, String> {
            let wanted = Wanted { names, built, driver };
            let open = |path: &Path| match path {
                path if !path.is_absolute() => Err(format!("{NOT_OPENED}: {NO_SUCH_FILE}")),
                path if !broken.is_empty() && path.ends_with(broken) => {
                    Err("libnvrtc.so.12: cannot open shared object file: No such file or directory".to_owned())
                }
                path => Ok(((), path.canonicalize().unwrap())),
            };
            let own = format!("{}/", self.dir.path().canonicalize().unwrap().display());
            match search(&wanted, &self.places, true, open) {
                Ok(((), found)) => Ok(format!("{}: {}", found.path, found.why).replace(&own, "")),
                Err(e) => Err(e.to_string().replace(&own, "")),
            }
        }
    }

    const LT: &[&str] = &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"];

    fn python() -> Origin {
        Origin::Python("/venv/bin/python3".into())
    }

    #[test]
    fn of_two_major_versions_the_drivers_is_taken() {
        let tree = Tree::new(&[("cu13", python()), ("cublas", python()), ("toolkit", Origin::Usual)]);
        tree.library("cu13/libcublasLt.so.13", HERE, 4096);
        tree.library("cublas/libcublasLt.so.12", HERE, 4096);
        tree.library("toolkit/libcublasLt.so.12", HERE, 4096);
        assert_eq!(
            tree.find(LT, Built::Name, Some(12080), "").unwrap(),
            "cublas/libcublasLt.so.12: the newest that a driver of CUDA 12.8 runs, of the Python on PATH \
             (/venv/bin/python3), of 3 found; skipped cu13/libcublasLt.so.13: built for CUDA 13, and this driver runs up to 12.8"
        );
        assert_eq!(
            tree.find(LT, Built::Name, Some(13000), "").unwrap(),
            "cu13/libcublasLt.so.13: the newest that a driver of CUDA 13.0 runs, of the Python on PATH \
             (/venv/bin/python3), of 3 found"
        );
        let none = tree.find(LT, Built::Name, Some(11080), "").unwrap_err();
        assert!(
            none.starts_with("no libcublasLt.so.11 can be used: cu13/libcublasLt.so.13: built for CUDA 13"),
            "{none}"
        );
    }

    #[test]
    fn what_cannot_be_loaded_is_passed_over_and_told() {
        let all = ["a", "b", "c", "d", "e"].map(|name| (name, python()));
        let tree = Tree::new(&all);
        tree.library("a/libcublasLt.so.12", THERE, 4096);
        tree.library("b/libcublasLt.so.12", HERE, 1000);
        std::os::unix::fs::symlink("libcublasLt.so.12.8", tree.dir.path().join("c/libcublasLt.so.12")).unwrap();
        fs::write(tree.dir.path().join("d/libcublasLt.so.12"), "").unwrap();
        let other = if HERE == 62 { "aarch64" } else { "x86_64" };
        let broken = tree.find(LT, Built::Name, Some(12080), "").unwrap_err();
        for said in [
            format!("a/libcublasLt.so.12: a library for {other}"),
            "b/libcublasLt.so.12: cut short: its headers speak of 4096 bytes, and it has 1000".to_owned(),
            "c/libcublasLt.so.12: a link to libcublasLt.so.12.8, which is not there".to_owned(),
            "d/libcublasLt.so.12: no shared library".to_owned(),
        ] {
            assert!(broken.contains(&said), "{said} in {broken}");
        }
        tree.library("e/libcublasLt.so.12", HERE, 4096);
        let found = tree.find(LT, Built::Name, Some(12080), "").unwrap();
        assert!(found.starts_with("e/libcublasLt.so.12: of the Python on PATH"), "{found}");
        // The wheel beside it that this one needs was deleted: the next major version has all of its own.
        tree.library("a/libcublasLt.so.11", HERE, 4096);
        let found = tree.find(LT, Built::Name, Some(12080), "e/libcublasLt.so.12").unwrap();
        assert!(found.starts_with("a/libcublasLt.so.11: the newest that a driver of CUDA 12.8 runs"), "{found}");
        assert!(found.ends_with("; and 1 more"), "{found}");
    }

    #[test]
    fn an_nccl_built_for_a_newer_cuda_is_passed_over() {
        let tree = Tree::new(&[("job", python()), ("usual", Origin::Usual)]);
        let nccl = &["libnccl.so.2"];
        let absent = tree.find(nccl, Built::Not, None, "").unwrap_err();
        assert_eq!(
            absent,
            "libnccl.so.2 is not to be found: cannot open shared object file: No such file or directory"
        );
        tree.library("usual/libnccl.so.2", HERE, 5000);
        assert_eq!(tree.find(nccl, Built::Not, None, "").unwrap(), "usual/libnccl.so.2: in a usual place");
        // A link to it is the same file.
        std::os::unix::fs::symlink("../usual/libnccl.so.2", tree.dir.path().join("job/libnccl.so.2")).unwrap();
        let found = tree.find(nccl, Built::Not, Some(12080), "").unwrap();
        assert_eq!(found, "usual/libnccl.so.2: of the Python on PATH (/venv/bin/python3)");
        let wanted = Wanted { names: nccl, built: Built::Mark(b"+cuda"), driver: Some(12080) };
        assert_eq!(wanted.unfit_of(13, "13.0").unwrap(), "built for CUDA 13.0, and this driver runs up to 12.8");
        assert_eq!(wanted.unfit_of(12, "12.9"), None);
    }

    proptest::proptest! {
        #[test]
        fn major_versions_never_panic(name in "(lib|\\.so|\\.|[0-9]|é|x){0,8}") {
            let _ = major(&name);
        }
    }
}
