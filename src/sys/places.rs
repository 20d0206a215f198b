//! Where a library may lie that no loader finds by itself: in the Python environment that a job runs with, in CUDA toolkits, in the
//! folders of container runtimes. Python is followed by its links and files, and is not run.

use std::cell::Cell;
use std::cmp::Reverse;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Looks at files and folders that one search may take: on a network file system each may be slow.
const MAX_LOOKS: u32 = 2000;
/// Folders of PATH that are looked into.
const MAX_PATH: usize = 64;

/// How a folder came to be looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    LibraryPath,
    /// Of the `python3` that PATH leads to.
    Python(PathBuf),
    /// A variable names it.
    Variable(&'static str),
    /// Packages, toolkits and container runtimes put libraries there.
    Usual,
}

impl Origin {
    /// The environment of this job names it: it goes before what the loader finds by itself.
    pub fn is_of_the_job(&self) -> bool {
        !matches!(self, Origin::Usual)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::LibraryPath => f.write_str("named by LD_LIBRARY_PATH"),
            Origin::Python(path) => write!(f, "of the Python on PATH ({})", path.display()),
            Origin::Variable(name) => write!(f, "named by {name}"),
            Origin::Usual => f.write_str("in a usual place"),
        }
    }
}

/// A folder that may have libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub dir: PathBuf,
    pub origin: Origin,
}

/// The folders of this process's surroundings, those of the job first.
pub fn places() -> Vec<Place> {
    Search::new(Path::new("/"), &|name| std::env::var_os(name)).places()
}

/// A search, with the environment and the root directory that it is for.
struct Search<'a> {
    root: &'a Path,
    variable: &'a dyn Fn(&str) -> Option<OsString>,
    looks: Cell<u32>,
}

impl<'a> Search<'a> {
    fn new(root: &'a Path, variable: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Search { root, variable, looks: Cell::new(MAX_LOOKS) }
    }

    fn places(&self) -> Vec<Place> {
        let mut out = Vec::new();
        self.add(&mut out, &Origin::LibraryPath, self.paths("LD_LIBRARY_PATH"));
        for dir in self.paths("PYTHONPATH") {
            self.add(&mut out, &Origin::Variable("PYTHONPATH"), self.of_packages(&dir));
        }
        if let Some(python) = self.python() {
            let origin = Origin::Python(python.clone());
            for prefix in self.prefixes(&python) {
                self.add(&mut out, &origin, self.of_prefix(&prefix));
            }
        }
        for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
            if let Some(prefix) = (self.variable)(name).map(PathBuf::from).filter(|p| p.is_absolute()) {
                self.add(&mut out, &Origin::Variable(name), self.of_prefix(&prefix));
            }
        }
        self.add(&mut out, &Origin::Usual, self.usual());
        out
    }

    /// Adds what is a folder and is not there yet.
    fn add(&self, out: &mut Vec<Place>, origin: &Origin, dirs: Vec<PathBuf>) {
        for dir in dirs {
            if !out.iter().any(|p| p.dir == dir) && self.is_dir(&dir) {
                out.push(Place { dir, origin: origin.clone() });
            }
        }
    }

    /// The first `python3` of PATH that is a program, else the first `python`.
    fn python(&self) -> Option<PathBuf> {
        let dirs = self.paths("PATH");
        let found = |name: &str| dirs.iter().take(MAX_PATH).find_map(|dir| self.behind_shim(dir, name));
        found("python3").or_else(|| found("python"))
    }

    /// The program of that name in a folder of PATH; pyenv's folder has scripts in its place, which lead to the version that its
    /// settings name.
    fn behind_shim(&self, dir: &Path, name: &str) -> Option<PathBuf> {
        let path = dir.join(name);
        if !self.is_file(&path) {
            return None;
        }
        if !dir.ends_with("shims") {
            return Some(path);
        }
        let home = dir.parent()?;
        let named = (self.variable)("PYENV_VERSION").and_then(|v| v.into_string().ok());
        let version = named.or_else(|| self.read(&home.join("version")))?;
        let version = version.split([':', '\n']).next().unwrap_or_default().trim();
        // A name with slashes would lead elsewhere.
        if version.is_empty() || version.contains('/') {
            return None;
        }
        Some(home.join("versions").join(version).join("bin").join(name)).filter(|p| self.is_file(p))
    }

    /// The folders that a Python takes packages from, by its place: of the environment that it belongs to, or of its installation.
    fn prefixes(&self, python: &Path) -> Vec<PathBuf> {
        let up = |path: &Path| path.parent().and_then(Path::parent).map(Path::to_path_buf);
        let mut out: Vec<PathBuf> = up(python).into_iter().collect();
        let config = [up(python), python.parent().map(Path::to_path_buf)];
        let config = config.into_iter().flatten().find_map(|dir| self.read(&dir.join("pyvenv.cfg")));
        if let Some(config) = &config {
            let value = |key: &str| {
                let pairs = config.lines().filter_map(|l| l.split_once('='));
                pairs.map(|(k, v)| (k.trim(), v.trim())).find(|(k, _)| *k == key).map(|(_, v)| v)
            };
            // An environment that hides the packages of the Python that it was made by has its own only.
            if !value("include-system-site-packages").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
                return out;
            }
            out.extend(value("home").and_then(|home| Path::new(home).parent()).map(Path::to_path_buf));
        }
        // Packages that the user installed for himself come before those of the installation.
        if config.is_none()
            && let Some(home) = (self.variable)("HOME").map(PathBuf::from).filter(|h| h.is_absolute())
        {
            out.insert(0, home.join(".local"));
        }
        out.extend(python.canonicalize().ok().and_then(|real| up(&real)));
        // Debian keeps what pip installs apart from its own packages.
        if let Some(at) = out.iter().position(|p| *p == self.root.join("usr")) {
            out.insert(at, self.root.join("usr/local"));
        }
        let mut unique: Vec<PathBuf> = Vec::new();
        for prefix in out {
            if !unique.contains(&prefix) {
                unique.push(prefix);
            }
        }
        unique
    }

    /// Folders with libraries in a Python's prefix.
    fn of_prefix(&self, prefix: &Path) -> Vec<PathBuf> {
        let mut out = Vec::new();
        for lib in ["lib", "lib64"] {
            for python in self.newest_first(&prefix.join(lib), "python3") {
                for packages in ["site-packages", "dist-packages"] {
                    out.extend(self.of_packages(&python.join(packages)));
                }
            }
        }
        // Conda has libraries as packages, too.
        if self.is_dir(&prefix.join("conda-meta")) {
            out.push(prefix.join("lib"));
            out.extend(TARGETS.map(|t| prefix.join("targets").join(t).join("lib")));
        }
        out
    }

    /// `nvidia/cublas/lib` and its like of CUDA 11 and 12, `nvidia/cu13/lib` of CUDA 13, and PyTorch's own.
    fn of_packages(&self, packages: &Path) -> Vec<PathBuf> {
        if !self.is_dir(packages) {
            return Vec::new();
        }
        let mut out: Vec<PathBuf> =
            self.newest_first(&packages.join("nvidia"), "").into_iter().map(|p| p.join("lib")).collect();
        out.push(packages.join("torch/lib"));
        out
    }

    fn usual(&self) -> Vec<PathBuf> {
        let at = |path: &str| self.root.join(path);
        let mut out = Vec::new();
        let variable = |name: &str| (self.variable)(name).map(PathBuf::from).filter(|p| p.is_absolute());
        for home in ["NCCL_HOME", "CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable) {
            out.extend(["lib64", "lib"].map(|lib| home.join(lib)));
        }
        let mut toolkits = vec![at("usr/local/cuda")];
        toolkits.extend(self.newest_first(&at("usr/local"), "cuda-"));
        for toolkit in toolkits {
            out.push(toolkit.join("lib64"));
            out.extend(TARGETS.map(|t| toolkit.join("targets").join(t).join("lib")));
        }
        // Where container runtimes mount the driver's libraries.
        out.extend(
            ["usr/local/nvidia/lib64", "usr/local/nvidia/lib", "usr/lib/wsl/lib", "run/opengl-driver/lib"].map(at),
        );
        out.extend(["usr/local", "usr"].into_iter().flat_map(|prefix| self.of_prefix(&at(prefix))));
        for prefix in self.newest_first(&at("opt"), "") {
            for inner in ["", ".venv", "venv"] {
                out.extend(self.of_prefix(&prefix.join(inner)));
            }
        }
        for sdk in self.newest_first(&at("opt/nvidia/hpc_sdk"), "Linux_") {
            for version in self.newest_first(&sdk, "2") {
                out.extend(["cuda/lib64", "math_libs/lib64", "comm_libs/nccl/lib"].map(|lib| version.join(lib)));
            }
        }
        out.extend(["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64"].map(at));
        out
    }

    /// Absolute folders of a variable like PATH.
    fn paths(&self, name: &str) -> Vec<PathBuf> {
        let value = (self.variable)(name).unwrap_or_default();
        std::env::split_paths(&value).filter(|p| p.is_absolute()).collect()
    }

    /// Entries of a folder that begin so, the one with the highest numbers in its name first: 12.10 before 12.9.
    fn newest_first(&self, dir: &Path, prefix: &str) -> Vec<PathBuf> {
        if !self.may_look() {
            return Vec::new();
        }
        let all = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        let name = |p: &PathBuf| p.file_name().and_then(|n| n.to_str()).map(str::to_owned);
        let mut out: Vec<(Reverse<Vec<u32>>, PathBuf)> =
            all.filter_map(|p| name(&p).filter(|n| n.starts_with(prefix)).map(|n| (Reverse(numbers(&n)), p))).collect();
        out.sort();
        out.into_iter().map(|(_, p)| p).collect()
    }

    fn may_look(&self) -> bool {
        let left = self.looks.get();
        self.looks.set(left.saturating_sub(1));
        left > 0
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.may_look() && path.is_dir()
    }

    fn is_file(&self, path: &Path) -> bool {
        self.may_look() && path.is_file()
    }

    /// A small file of text.
    fn read(&self, path: &Path) -> Option<String> {
        use std::io::Read;
        if !self.is_file(path) {
            return None;
        }
        let mut text = String::new();
        std::fs::File::open(path).ok()?.take(1 << 16).read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// Folders of a CUDA toolkit by the machine that they are for.
const TARGETS: [&str; 2] = ["x86_64-linux", "sbsa-linux"];

/// The numbers in a name: `python3.11` has 3 and 11.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(dirs: &[&str], files: &[(&str, &str)], links: &[(&str, &str)]) -> Self {
            let tree = Tree(tempfile::tempdir().unwrap());
            dirs.iter().for_each(|d| fs::create_dir_all(tree.at(d)).unwrap());
            let parent = |path: &PathBuf| fs::create_dir_all(path.parent().unwrap()).unwrap();
            for (path, text) in files {
                parent(&tree.at(path));
                fs::write(tree.at(path), text.replace("ROOT", &tree.0.path().display().to_string())).unwrap();
            }
            for (path, to) in links {
                parent(&tree.at(path));
                let to = if to.starts_with('.') { PathBuf::from(to) } else { tree.at(to) };
                symlink(to, tree.at(path)).unwrap();
            }
            tree
        }

        fn at(&self, path: &str) -> PathBuf {
            // The root itself may lie behind a link.
            self.0.path().canonicalize().unwrap().join(path)
        }

        /// `FOLDER (why)` of each place, with paths from the root on; variables have theirs from the root on, too.
        fn places(&self, variables: &[(&str, &str)]) -> Vec<String> {
            let root = self.at("");
            let all: BTreeMap<&str, String> = variables
                .iter()
                .map(|(n, v)| {
                    (*n, v.split(':').map(|p| self.at(p).display().to_string()).collect::<Vec<_>>().join(":"))
                })
                .collect();
            let variable = |name: &str| all.get(name).map(OsString::from);
            let places = Search::new(&root, &variable).places();
            let own = format!("{}/", self.at("").display().to_string().trim_end_matches('/'));
            places.iter().map(|p| format!("{}: {}", p.dir.display(), p.origin).replace(&own, "")).collect()
        }
    }

    #[test]
    fn a_virtual_environment_is_followed_from_path() {
        let packages = "job/.venv/lib/python3.11/site-packages";
        let tree = Tree::new(
            &[
                &format!("{packages}/nvidia/cublas/lib"),
                &format!("{packages}/nvidia/nccl/lib"),
                &format!("{packages}/nvidia/cu13/lib"),
                &format!("{packages}/nvidia/empty"),
                &format!("{packages}/torch/lib"),
                "usr/lib/python3/dist-packages/nvidia/nccl/lib",
                "empty/bin",
            ],
            &[("usr/bin/python3.11", ""), ("job/.venv/pyvenv.cfg", "home = ROOT/usr/bin\nversion = 3.11.2\n")],
            &[("usr/bin/python3", "./python3.11"), ("job/.venv/bin/python3", "usr/bin/python3")],
        );
        let own = |dir: &str| format!("{packages}/{dir}: of the Python on PATH (job/.venv/bin/python3)");
        let usual = "usr/lib/python3/dist-packages/nvidia/nccl/lib: in a usual place".to_owned();
        let expected =
            vec![own("nvidia/cu13/lib"), own("nvidia/cublas/lib"), own("nvidia/nccl/lib"), own("torch/lib"), usual];
        assert_eq!(tree.places(&[("PATH", "empty/bin:job/.venv/bin:usr/bin")]), expected);
        // The environment that was activated without its PATH is still an environment of the job.
        let places = tree.places(&[("PATH", "empty/bin"), ("VIRTUAL_ENV", "job/.venv")]);
        assert_eq!(places[3], format!("{packages}/torch/lib: named by VIRTUAL_ENV"));
        // One that shares the packages of its Python: its own first.
        let config = format!("home = {}\ninclude-system-site-packages = TRUE\n", tree.at("usr/bin").display());
        fs::write(tree.at("job/.venv/pyvenv.cfg"), config).unwrap();
        let places = tree.places(&[("PATH", "job/.venv/bin")]);
        let shared = "usr/lib/python3/dist-packages/nvidia/nccl/lib: of the Python on PATH (job/.venv/bin/python3)";
        assert_eq!((places.len(), places[4].as_str()), (5, shared));
    }

    #[test]
    fn installations_are_followed_through_links_and_shims() {
        let tree = Tree::new(
            &[
                "opt/conda/conda-meta",
                "opt/conda/lib/python3.12/site-packages/nvidia/nccl/lib",
                "opt/torch/.venv/lib/python3.12/site-packages/torch/lib",
                "pyenv/versions/3.11.9/lib/python3.11/site-packages/nvidia/nccl/lib",
                "home/.local/lib/python3.12/site-packages/nvidia/nccl/lib",
                "usr/local/lib/python3.10/dist-packages/nvidia/nccl/lib",
                "usr/local/lib/python3.9/dist-packages/nvidia/nccl/lib",
                "wheels/nvidia/cublas/lib",
                "lib",
            ],
            &[
                ("opt/conda/bin/python3.12", ""),
                ("pyenv/shims/python3", "#!/bin/bash\nexec pyenv exec python3\n"),
                ("pyenv/version", "3.11.9\n3.10.1\n"),
                ("pyenv/versions/3.11.9/bin/python3", ""),
                ("usr/bin/python3", ""),
            ],
            &[("bin/python3", "opt/conda/bin/python3.12")],
        );
        let first = |variables: &[(&str, &str)]| tree.places(variables).into_iter().next().unwrap();
        let conda = tree.places(&[("PATH", "bin")]);
        assert_eq!(
            conda[..2],
            [
                "opt/conda/lib/python3.12/site-packages/nvidia/nccl/lib: of the Python on PATH (bin/python3)",
                "opt/conda/lib: of the Python on PATH (bin/python3)",
            ]
        );
        let other = "opt/torch/.venv/lib/python3.12/site-packages/torch/lib: in a usual place";
        assert!(conda.iter().any(|p| p == other), "{conda:?}");
        assert_eq!(
            first(&[("PATH", "pyenv/shims")]),
            "pyenv/versions/3.11.9/lib/python3.11/site-packages/nvidia/nccl/lib: of the Python on PATH \
             (pyenv/versions/3.11.9/bin/python3)"
        );
        // Python's own order: the user's packages, then the installation's; the higher version first.
        let debian = tree.places(&[("PATH", "usr/bin"), ("HOME", "home")]);
        let of =
            ["home/.local/lib/python3.12/site-", "usr/local/lib/python3.10/dist-", "usr/local/lib/python3.9/dist-"];
        for (place, dir) in debian.iter().zip(of) {
            assert_eq!(*place, format!("{dir}packages/nvidia/nccl/lib: of the Python on PATH (usr/bin/python3)"));
        }
        let named = tree.places(&[("PATH", "usr/bin"), ("LD_LIBRARY_PATH", "lib:nowhere"), ("PYTHONPATH", "wheels")]);
        let expected = ["lib: named by LD_LIBRARY_PATH", "wheels/nvidia/cublas/lib: named by PYTHONPATH"];
        assert_eq!(named[..2], expected);
    }

    #[test]
    fn toolkits_and_container_runtimes_are_usual_places() {
        let tree = Tree::new(
            &[
                "usr/local/cuda-12.9/lib64",
                "usr/local/cuda-12.10/lib64",
                "usr/local/nvidia/lib64",
                "opt/nvidia/hpc_sdk/Linux_x86_64/25.3/comm_libs/nccl/lib",
            ],
            &[],
            &[("usr/local/cuda", "./cuda-12.9")],
        );
        let dirs = ["usr/local/cuda/lib64", "usr/local/cuda-12.10/lib64", "usr/local/cuda-12.9/lib64"];
        let rest = ["usr/local/nvidia/lib64", "opt/nvidia/hpc_sdk/Linux_x86_64/25.3/comm_libs/nccl/lib"];
        let expected: Vec<String> = dirs.iter().chain(&rest).map(|d| format!("{d}: in a usual place")).collect();
        assert_eq!(tree.places(&[]), expected);
    }

    #[test]
    fn nothing_and_nonsense_end() {
        let tree = Tree::new(
            &["bin/python3", "shims", "crowd"],
            &[
                ("pyvenv.cfg", "home = \ninclude-system-site-packages = true\nno pair\n"),
                ("odd/shims/python3", ""),
                ("odd/version", "../../etc\n"),
            ],
            &[("loop/bin/python3", "loop/bin/python3")],
        );
        for path in ["", "bin", "loop/bin", "odd/shims", "nowhere:bin:loop/bin"] {
            assert_eq!(tree.places(&[("PATH", path)]), [""; 0], "{path}");
        }
        // However many folders there are, the search ends.
        for i in 0..60 {
            fs::create_dir_all(tree.at(&format!("opt/{i}/lib/python3.9/site-packages/nvidia/nccl/lib"))).unwrap();
        }
        let variable = |_: &str| None;
        let root = tree.at("");
        let search = Search { looks: Cell::new(40), ..Search::new(&root, &variable) };
        assert!(search.places().len() < 40);
        assert_eq!(search.looks.get(), 0);
    }
}
