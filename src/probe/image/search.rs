//! Where libraries lie, in the loader's order, and what keeps one from being loaded.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::probe::image::load::ask;
use crate::sys::dl;
use crate::topology::{Elf, elf};
use crate::work::Software;

/// Folders that are looked into, at most.
const MAX_FOLDERS: usize = 2000;
/// How deep `include` of ld.so.conf and needed libraries are followed.
const MAX_DEPTH: usize = 4;
/// Libraries of NVIDIA's driver: the host brings them.
const DRIVER: &[&str] = &["libcuda.so", "libnvidia-", "libnvoptix.so", "libnvcuvid.so"];
/// Folders in which packages put libraries without telling the loader: `*` is any name.
const APART: &[&str] = &[
    "/opt/*/lib",
    "/opt/*/lib64",
    "/opt/*/*/lib",
    "/opt/*/*/lib64",
    "/usr/local/*/lib",
    "/usr/local/*/lib64",
    "/usr/local/*/compat",
    "/usr/lib/*/openmpi/lib",
    "/usr/lib64/*/lib",
];
/// Where the loader looks when nothing is set.
const DEFAULT: &[&str] = &["/lib", "/usr/lib", "/lib64", "/usr/lib64"];
const MULTIARCH: &[&str] =
    &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];

/// Folders with libraries.
pub(super) struct Folders {
    /// Where the loader looks, in its order.
    loader: Vec<PathBuf>,
    apart: Vec<PathBuf>,
}

impl Folders {
    pub(super) fn find() -> Self {
        let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let mut loader: Vec<PathBuf> = std::env::split_paths(&path).filter(|p| p.is_absolute()).collect();
        conf(Path::new("/etc/ld.so.conf"), 0, &mut loader);
        loader.extend(MULTIARCH.iter().chain(DEFAULT).map(PathBuf::from));
        let mut apart = dl::folders();
        apart.extend(APART.iter().flat_map(|p| expand(Path::new(p))));
        let mut seen = HashSet::new();
        let mut real = |dirs: Vec<PathBuf>| -> Vec<PathBuf> {
            let dirs = dirs.into_iter().filter_map(|d| d.canonicalize().ok()).filter(|d| d.is_dir());
            dirs.filter(|d| seen.insert(d.clone())).take(MAX_FOLDERS).collect()
        };
        let loader = real(loader);
        Folders { apart: real(apart), loader }
    }

    /// Files whose names `wanted` takes, each with whether the loader looks there. `beside`: in that folder of each.
    pub(super) fn files(&self, beside: Option<&str>, wanted: impl Fn(&str) -> bool) -> Vec<(PathBuf, bool)> {
        let known = self.loader.iter().map(|d| (d, true)).chain(self.apart.iter().map(|d| (d, false)));
        let mut out = Vec::new();
        for (dir, known) in known {
            let dir = beside.map_or_else(|| dir.clone(), |b| dir.join(b));
            // Programs ask with the version: `libx.so` alone, for linking, comes after `libx.so.1` and is mostly a link to it.
            let mut names: Vec<(bool, String)> = fs::read_dir(&dir)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|e| e.file_name().into_string().ok())
                .filter(|n| wanted(n))
                .map(|n| (n.ends_with(".so"), n))
                .collect();
            names.sort();
            out.extend(names.into_iter().map(|(_, n)| (dir.join(n), known)));
        }
        out
    }

    /// A library that another file needs, as the loader would look: in that file's own folders, then in the loader's.
    fn locate(&self, name: &str, file: &Path, head: &Elf) -> Option<PathBuf> {
        let origin = file.parent().unwrap_or(file);
        let own = head
            .paths
            .iter()
            .map(|p| PathBuf::from(p.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", &origin.to_string_lossy())));
        own.chain(self.loader.iter().cloned()).map(|d| d.join(name)).find(|p| p.is_file())
    }
}

/// The folders of a file like ld.so.conf, with those that it includes.
fn conf(path: &Path, depth: usize, out: &mut Vec<PathBuf>) {
    let text = fs::read_to_string(path).unwrap_or_default();
    for line in text.lines().map(|l| l.split('#').next().unwrap_or_default().trim()) {
        match line.strip_prefix("include ") {
            Some(pattern) if depth < MAX_DEPTH => {
                for file in expand(Path::new(pattern.trim())) {
                    conf(&file, depth + 1, out);
                }
            }
            Some(_) => {}
            None if line.starts_with('/') => out.push(PathBuf::from(line)),
            None => {}
        }
    }
}

/// Paths that fit a pattern, sorted: a part of it may be `*` or have one `*` in it.
fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut out = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str().to_string_lossy().into_owned();
        if !part.contains('*') {
            out.iter_mut().for_each(|p| p.push(&part));
            continue;
        }
        let mut next: Vec<PathBuf> = Vec::new();
        for dir in &out {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            next.extend(entries.filter(|e| e.file_name().to_str().is_some_and(|n| fits(&part, n))).map(|e| e.path()));
        }
        next.sort();
        next.truncate(MAX_FOLDERS);
        out = next;
    }
    out
}

/// `*` stands for anything, once.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((head, tail)) => name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail),
        None => pattern == name,
    }
}

/// Whether a file is a library of this stem: `libnccl` takes `libnccl.so.2`, and `lib*-rdmav*` takes `libmlx5-rdmav34.so`.
pub(super) fn matches(stem: &str, file: &str) -> bool {
    let Some((base, tail)) = file.split_once(".so") else { return false };
    let version =
        tail.is_empty() || tail.strip_prefix('.').is_some_and(|v| v.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    let mut parts = stem.split('*');
    let head = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.filter(|p| !p.is_empty()).collect();
    version
        && if stem.contains('*') {
            base.starts_with(head) && rest.iter().all(|p| base[head.len()..].contains(p))
        } else {
            base == stem
        }
}

/// What a library cannot be loaded for.
#[derive(Debug, Default)]
pub(super) struct Lack {
    pub(super) driver: Vec<String>,
    pub(super) others: Vec<String>,
}

/// The libraries that a file needs, itself or through others, and that cannot be had.
pub(super) fn lacking(part: Software, path: &Path, head: &Elf, folders: &Folders) -> Lack {
    let mut search = Search { part, folders, seen: HashSet::new(), out: Lack::default() };
    search.lack(path, head, 0);
    search.out
}

struct Search<'a> {
    part: Software,
    folders: &'a Folders,
    seen: HashSet<String>,
    out: Lack,
}

impl Search<'_> {
    fn lack(&mut self, path: &Path, head: &Elf, depth: usize) {
        for need in head.needs.iter().filter(|n| !n.starts_with("ld-linux")) {
            if !self.seen.insert(need.clone()) {
                continue;
            }
            match self.folders.locate(need, path, head) {
                Some(place) if depth < MAX_DEPTH => match elf(&place) {
                    Ok(head) => self.lack(&place, &head, depth + 1),
                    Err(e) => self.out.others.push(e.to_string()),
                },
                Some(_) => {}
                // The loader may know a place that is not looked into.
                None if ask(self.part, Path::new(need)).is_ok() => {}
                None if DRIVER.iter().any(|d| need.starts_with(d)) => self.out.driver.push(need.clone()),
                None => self.out.others.push(need.clone()),
            }
        }
    }
}

/// `libcuda.so.550.54.15` -> `550.54.15`.
pub(super) fn version_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let version = name.split_once(".so.")?.1;
    version.contains('.').then(|| version.to_owned())
}

/// Providers that libibverbs is told to load, each with the file that says so: lines `driver mlx5`.
pub(super) fn providers(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut out = Vec::new();
    for file in expand(&dir.join("*.driver")) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        for name in text.lines().filter_map(|l| l.trim().strip_prefix("driver")) {
            let name = name.trim().rsplit('/').next().unwrap_or_default();
            if !name.is_empty() {
                out.push((name.split("-rdmav").next().unwrap_or(name).to_owned(), file.clone()));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_take_their_own_files_only() {
        for (stem, file, is) in [
            ("libnccl", "libnccl.so.2", true),
            ("libnccl", "libnccl.so.2.21.5", true),
            ("libnccl", "libnccl-net.so", false),
            ("libnccl", "libnccl.so.2.bak", false),
            ("libnccl-net*", "libnccl-net.so", true),
            ("libnccl-net*", "libnccl-net-ofi.so.0", true),
            ("lib*-rdmav*", "libmlx5-rdmav34.so", true),
            ("lib*-rdmav*", "libmlx5.so.1", false),
            ("libuct_*", "libuct_ib.so.0.0.0", true),
            ("libuct_*", "libuct.so.0", false),
        ] {
            assert_eq!(matches(stem, file), is, "{stem} {file}");
        }
    }

    #[test]
    fn configuration_is_followed_and_does_not_go_round() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("conf.d")).unwrap();
        fs::write(
            at("ld.so.conf"),
            format!("include {}/conf.d/*.conf\n# a comment\n/z # and this\nrelative\n", dir.path().display()),
        )
        .unwrap();
        fs::write(at("conf.d/b.conf"), "/b\n").unwrap();
        fs::write(at("conf.d/a.conf"), format!("/a\ninclude {}/ld.so.conf\n", dir.path().display())).unwrap();
        let mut out = Vec::new();
        conf(&at("ld.so.conf"), 0, &mut out);
        assert_eq!((out.first(), out.last()), (Some(&PathBuf::from("/a")), Some(&PathBuf::from("/z"))));
        assert!(out.len() < 20 && out.contains(&PathBuf::from("/b")));
        fs::write(at("x.driver"), "driver mlx5\n\njunk\ndriver /usr/lib/efa-rdmav34\ndriver\n").unwrap();
        let named: Vec<String> = providers(dir.path()).into_iter().map(|(n, _)| n).collect();
        assert_eq!(named, ["mlx5", "efa"]);
        assert_eq!(version_of(Path::new("/x/libcuda.so.550.54.15")).as_deref(), Some("550.54.15"));
        assert_eq!(version_of(Path::new("/x/libcuda.so.1")), None);
    }

    proptest::proptest! {
        #[test]
        fn names_never_panic(stem in "(lib|\\*|-|x){0,5}", file in "(lib|\\.so|\\.|[0-9]|é|x){0,8}") {
            let _ = (matches(&stem, &file), fits(&stem, &file), version_of(Path::new(&file)));
        }
    }
}
