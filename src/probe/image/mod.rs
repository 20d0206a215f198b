//! `image`: the software that a container image brings for a training run, each library really loaded, without a GPU.

mod load;
mod search;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::cluster::{Child, Step};
use crate::id::ProbeName;
use crate::measure::{Facts, Outcome, WaiveKind};
use crate::plan::CheckPlan;
use crate::probe::{Priority, Probe, ProbeError, step};
use crate::sys::software::Ask;
use crate::topology::{Component, Elf, LibraryFile, Machine, Reach, SysRoot, elf, start};
use crate::work::{Case, Declared, Fact, Software};

use search::{Folders, matches};

pub use load::load_library;

pub struct Image;

/// The case that tells how the container was started.
const START: Case = Case::Fact(Fact::ContainerStart);
/// Files of one kind that are looked at: an image with more of them has other worries.
const MAX_FILES: usize = 48;
/// The newest version of the net plugin's interface that is looked for.
const NEWEST_PLUGIN: u32 = 32;

/// One kind of software: how its files are called and what they are asked.
struct Kind {
    what: Software,
    /// Beginnings of file names, up to `.so`.
    stems: &'static [&'static str],
    /// Files lie in this folder beside the libraries.
    beside: Option<&'static str>,
    /// Programs ask for it by the name in the library, not by the file's: that of a plugin is the file's.
    by_soname: bool,
    version: Ask,
    cuda: Ask,
    /// Whether it has code for GPUs.
    code: bool,
}

const PLAIN: Kind = Kind {
    what: Software::Driver,
    stems: &[],
    beside: None,
    by_soname: true,
    version: Ask::Nothing,
    cuda: Ask::Nothing,
    code: false,
};

const KINDS: &[Kind] = &[
    Kind { what: Software::Driver, stems: &["libcuda", "libnvidia-ml"], by_soname: false, ..PLAIN },
    Kind { what: Software::Cuda, stems: &["libcudart"], version: Ask::Cuda("cudaRuntimeGetVersion"), ..PLAIN },
    Kind {
        what: Software::CublasLt,
        stems: &["libcublasLt"],
        version: Ask::Blas("cublasLtGetVersion"),
        // Of the runtime that is linked into it, which decides what driver it needs.
        cuda: Ask::BlasCuda("cublasLtGetCudartVersion"),
        code: true,
        ..PLAIN
    },
    Kind { what: Software::Nccl, stems: &["libnccl"], version: Ask::Nccl("ncclGetVersion"), code: true, ..PLAIN },
    Kind { what: Software::NcclNet, stems: &["libnccl-net*"], by_soname: false, ..PLAIN },
    Kind { what: Software::Ibverbs, stems: &["libibverbs"], ..PLAIN },
    Kind { what: Software::Providers, stems: &["lib*-rdmav*"], beside: Some("libibverbs"), by_soname: false, ..PLAIN },
    Kind { what: Software::Ucx, stems: &["libucp"], version: Ask::Three("ucp_get_version"), ..PLAIN },
    Kind { what: Software::UcxModules, stems: &["libuct_*"], beside: Some("ucx"), by_soname: false, ..PLAIN },
    Kind {
        what: Software::Mpi,
        stems: &["libmpi", "libmpich"],
        version: Ask::Text("MPI_Get_library_version"),
        ..PLAIN
    },
    Kind { what: Software::Gdrcopy, stems: &["libgdrapi"], version: Ask::Two("gdr_runtime_get_version"), ..PLAIN },
];

/// The kinds of software that are looked for, by name.
pub fn image_parts() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|k| k.what.name())
}

impl Probe for Image {
    fn name(&self) -> ProbeName {
        ProbeName::new("image")
    }

    fn about(&self) -> &'static str {
        "what an image brings: CUDA, cuBLASLt, NCCL, plugins, verbs, UCX, MPI, GDRCopy, loaded; how it must be started"
    }

    fn needs(&self) -> &'static str {
        "--tier image"
    }

    fn metrics(&self) -> &'static [Declared] {
        &[]
    }

    fn priority(&self, _on_gpus: bool) -> Priority {
        Priority::new(4, 11)
    }

    fn steps(&self, plan: &CheckPlan, _: &Machine) -> Vec<Step> {
        // A process each: a library may crash or hang in its constructor, and the others are to be known all the same.
        let parts = KINDS.iter().map(|k| Case::Software(k.what));
        std::iter::once(START)
            .chain(parts)
            .map(|part| {
                let name = format!("image-{part}");
                let mut step = step(self, plan, vec![part], (), 150);
                step.name = name;
                step.exclusive = false;
                step
            })
            .collect()
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        let Some(case) = child.step.cases.first().cloned() else { return Ok(()) };
        let outcome = match KINDS.iter().find(|k| case == Case::Software(k.what)) {
            Some(kind) => {
                let files = inventory(kind, &Folders::find());
                if files.is_empty() {
                    let names: Vec<String> = kind.stems.iter().map(|s| format!("{s}.so")).collect();
                    Outcome::waived(WaiveKind::Absent, format!("not in this image: {}", names.join(", ")))
                } else {
                    Outcome::facts(Facts::Software(Box::new(Component { files })))
                }
            }
            None => Outcome::facts(Facts::Start(Box::new(start(&SysRoot::live())))),
        };
        Ok(child.outcome(&case, outcome)?)
    }
}

/// A file that may be one of a kind.
struct Candidate {
    /// What a program asks for.
    name: String,
    path: PathBuf,
    /// The loader looks there.
    known: bool,
    size: u64,
    head: Elf,
    error: Option<String>,
}

/// Every file of a kind, those that programs get first.
fn inventory(kind: &Kind, folders: &Folders) -> Vec<LibraryFile> {
    let (mut found, mut seen): (Vec<Candidate>, HashSet<PathBuf>) = Default::default();
    for (path, known) in folders.files(kind.beside, |name| kind.stems.iter().any(|s| matches(s, name))) {
        // A pipe would be waited for, for ever.
        let Some(real) = path.canonicalize().ok().filter(|p| p.is_file()) else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if found.len() < MAX_FILES && seen.insert(real.clone()) {
            // Plugins are told where they are asked for.
            let path = if kind.beside.is_some() { path } else { real };
            let new = Candidate::read(kind, name, path, known);
            // Packages of Python have copies where others have links.
            let copy = |c: &Candidate| {
                let same = new.head.soname.is_some() && c.head.soname == new.head.soname;
                same && c.size == new.size && c.path.parent() == new.path.parent()
            };
            // The loader passes over libraries of another processor, as of 32 bits.
            if !new.head.foreign && !found.iter().any(copy) {
                found.push(new);
            }
        }
    }
    // What programs get, by the name that they ask for: the loader says, and it may know a place that was not looked into.
    let mut taken: HashMap<String, Option<PathBuf>> = HashMap::new();
    // Once is enough to wait for it.
    let mut hangs: HashMap<String, String> = HashMap::new();
    let names: Vec<String> = found.iter().filter(|c| c.known).map(|c| c.name.clone()).collect();
    for name in names.into_iter().filter(|_| kind.beside.is_none()) {
        if taken.contains_key(&name) {
            continue;
        }
        let answer = load::ask(kind.what, Path::new(&name));
        if let Err(error) = &answer
            && load::is_hang(error)
        {
            hangs.insert(name.clone(), error.clone());
        }
        let path = answer.ok().and_then(|a| a.taken);
        if let Some(path) = path.as_ref().filter(|p| !found.iter().any(|c| c.path == **p)) {
            found.push(Candidate::read(kind, name.clone(), path.clone(), true));
        }
        taken.insert(name, path);
    }
    let mut out: Vec<LibraryFile> = Vec::new();
    for c in found {
        let first = taken.contains_key(&c.name) && !out.iter().any(|f| f.name == c.name);
        let mut file = LibraryFile { name: c.name, path: c.path, error: c.error, ..LibraryFile::default() };
        let hang = hangs.get(&file.name).filter(|_| first);
        let answer = hang.map_or_else(|| load::ask(kind.what, &file.path), |error| Err(error.clone()));
        file.reach = match taken.get(&file.name) {
            _ if !c.known => Reach::Apart,
            // Plugins are asked for by their place.
            None => Reach::Loaded,
            Some(Some(path)) if *path == file.path => Reach::Loaded,
            // The loader ends at the first that it cannot load.
            Some(None) if first && answer.is_err() => Reach::Loaded,
            Some(_) => Reach::Hidden,
        };
        match answer {
            Ok(a) => (file.version, file.cuda, file.stub, file.offers) = (a.version, a.cuda, a.stub, a.offers),
            Err(error) if file.error.is_none() => {
                let lack = search::lacking(kind.what, &file.path, &c.head, folders);
                match lack.others.is_empty() && !lack.driver.is_empty() {
                    true => file.waits_for = lack.driver,
                    false if lack.others.is_empty() => file.error = Some(error),
                    false => file.error = Some(format!("{error} (lacking: {})", lack.others.join(", "))),
                }
            }
            Err(_) => {}
        }
        file.version = file.version.or_else(|| search::version_of(&file.path));
        if kind.what == Software::Nccl {
            file.cuda = c.head.number_after(&file.path, b"+cuda");
        }
        if kind.code {
            (file.code, file.ptx) = (c.head.code, c.head.ptx);
        }
        file.stub |= kind.what == Software::Driver && file.path.components().any(|c| c.as_os_str() == "stubs");
        out.push(file);
    }
    if kind.what == Software::Providers {
        providers(&mut out);
    }
    out.sort_by_key(|f| f.reach as u8);
    out
}

impl Candidate {
    /// Reads the file's headers; `file` is its name as it was found.
    fn read(kind: &Kind, file: String, path: PathBuf, known: bool) -> Self {
        let (head, error) = match elf(&path) {
            Ok(head) => (head, None),
            Err(e) => (Elf::default(), Some(e.reason())),
        };
        let name = head.soname.clone().filter(|_| kind.by_soname).unwrap_or(file);
        let size = path.metadata().map_or(0, |m| m.len());
        Candidate { name, path, known, size, head, error }
    }
}

/// libibverbs loads those providers that a file in its folder names; those that it names and that are not there are told, too.
fn providers(files: &mut Vec<LibraryFile>) {
    let named = search::providers(Path::new("/etc/libibverbs.d"));
    for file in files.iter_mut() {
        let name = file.name.trim_start_matches("lib").split("-rdmav").next().unwrap_or_default().to_owned();
        if !named.iter().any(|(n, _)| *n == name) {
            file.reach = Reach::Apart;
        }
        file.name = name;
    }
    for (name, path) in named {
        if !files.iter().any(|f| f.name == name) {
            let error = Some("named in /etc/libibverbs.d, and not in the image".to_owned());
            files.push(LibraryFile { name, path, error, ..LibraryFile::default() });
        }
    }
}
