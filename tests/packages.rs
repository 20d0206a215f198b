//! Packages: what is in them, that the same input gives the same bytes, and that everything linked in is known and named.

mod skip;
mod tool;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tool::tool;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const GONOGO: &str = env!("CARGO_BIN_EXE_gonogo");
/// A program of some kilobytes, where it does not matter which.
const SMALL: &str = "/bin/true";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Packages a binary, with the completions and man pages that `runs` prints.
fn package(formats: &str, dir: &Path, binary: &str, runs: &str) -> Result<Output> {
    let script = format!("{ROOT}/packaging/package");
    let mut command = Command::new(script);
    command.arg(dir).arg(binary).env("FORMATS", formats).env("SOURCE_DATE_EPOCH", "1700000000");
    Ok(command.env("GONOGO", runs).output()?)
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success())
}

/// What a command prints; its end must be a good one.
fn said(command: &mut Command) -> Result<String> {
    let out = command.output()?;
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?)
}

/// Every file below a folder, by its path in it, with its bytes.
fn files(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let (mut out, mut left) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else {
                out.push((path.strip_prefix(dir)?.to_owned(), std::fs::read(&path)?));
            }
        }
    }
    out.sort();
    Ok(out)
}

/// The tree below the prefix, of whatever package it came from: it runs, shells take it, its licences are there.
fn is_whole(prefix: &Path, zsh: &str) -> Result {
    let version = said(Command::new(prefix.join("bin/gonogo")).arg("--version"))?;
    assert_eq!(version.trim(), format!("gonogo {VERSION}"));
    for path in [
        "bash-completion/completions/gonogo",
        zsh,
        "fish/vendor_completions.d/gonogo.fish",
        "man/man1/gonogo.1.gz",
        "man/man1/gonogo-check.1.gz",
        "doc/gonogo/LICENSE-MIT",
        "doc/gonogo/THIRD-PARTY.md",
        "doc/gonogo/slurm/check-and-launch.sbatch",
        "doc/gonogo/monitoring/alerts.yml",
    ] {
        let size = std::fs::metadata(prefix.join("share").join(path)).map_or(0, |m| m.len());
        assert!(size > 100, "{path}");
    }
    let completions = prefix.join("share/bash-completion/completions/gonogo");
    said(Command::new("bash").arg("-c").arg(format!(". {} && complete -p gonogo", completions.display())))?;
    Ok(())
}

#[test]
fn the_debian_package_and_the_archive_are_whole() -> Result {
    if !has("dpkg-deb") {
        skip::skip(false, "no dpkg-deb: this is no Debian");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    // With what only a debugger reads it would be five times as large.
    let binary = dir.path().join("gonogo");
    said(Command::new("strip").arg("-o").arg(&binary).arg(GONOGO))?;
    let made = package("deb tar", dir.path(), &binary.to_string_lossy(), GONOGO)?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let named = String::from_utf8(made.stdout)?;
    let of = |ending: &str| named.lines().find(|l| l.ends_with(ending)).map(str::to_owned).ok_or("not made");
    let tree = dir.path().join("tree");
    said(Command::new("dpkg-deb").arg("--extract").arg(of(".deb")?).arg(&tree))?;
    is_whole(&tree.join("usr"), "zsh/vendor-completions/_gonogo")?;
    let depends = said(Command::new("dpkg-deb").arg("--field").arg(of(".deb")?).arg("Depends"))?;
    assert!(depends.starts_with("libc6 (>= 2."), "{depends}");
    // Below a prefix, as people unpack it into a folder that all nodes see.
    let prefix = dir.path().join("tools");
    std::fs::create_dir(&prefix)?;
    said(Command::new("tar").args(["--strip-components=1", "-xzf"]).arg(of(".tar.gz")?).arg("-C").arg(&prefix))?;
    is_whole(&prefix, "zsh/site-functions/_gonogo")?;
    said(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(dir.path()))?;
    // The recipes install exactly that archive.
    let sums = std::fs::read_to_string(dir.path().join("SHA256SUMS"))?;
    let sum =
        sums.lines().find(|l| l.ends_with(".tar.gz")).and_then(|l| l.split_whitespace().next()).ok_or("no sum")?;
    for recipe in [&format!("gonogo-{VERSION}.eb"), "spack_repo/gonogo/packages/gonogo/package.py"] {
        let text = std::fs::read_to_string(dir.path().join(recipe))?;
        assert!(text.contains(sum) && !text.contains('@'), "{recipe}: {text}");
        said(
            Command::new("python3")
                .args(["-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())"])
                .arg(dir.path().join(recipe)),
        )?;
    }
    Ok(())
}

#[test]
fn the_rpm_asks_for_the_symbols_that_it_uses() -> Result {
    if !has("rpmbuild") {
        skip::skip(true, "no rpmbuild: apt-get install rpm");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let made = package("rpm", dir.path(), SMALL, GONOGO)?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = dir.path().join(format!("gonogo-{VERSION}-1.{}.rpm", std::env::consts::ARCH));
    let query = |what: &str| said(Command::new("rpm").args(["-qp", what]).arg(&file));
    assert!(query("--requires")?.contains("libc.so.6(GLIBC_2."), "{}", query("--requires")?);
    let held = query("-l")?;
    for path in ["/usr/bin/gonogo", "/usr/share/man/man1/gonogo.1.gz", "/usr/share/zsh/site-functions/_gonogo"] {
        assert!(held.lines().any(|l| l == path), "{path}: {held}");
    }
    Ok(())
}

#[test]
fn the_same_input_gives_the_same_bytes() -> Result {
    let formats = if has("rpmbuild") { "deb rpm tar" } else { "deb tar" };
    let (one, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    for dir in [&one, &other] {
        let made = package(formats, dir.path(), SMALL, GONOGO)?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    for (a, b) in files(one.path())?.iter().zip(&files(other.path())?) {
        assert_eq!(a.0, b.0);
        assert!(a.1 == b.1, "{} differs", a.0.display());
    }
    Ok(())
}

#[test]
fn what_cannot_be_packaged_is_said() -> Result {
    let dir = tempfile::tempdir()?;
    for (formats, binary, why) in [
        ("deb", "/nowhere/gonogo", "/nowhere/gonogo is not there"),
        ("zip", GONOGO, "zip is none of deb, rpm, tar, sbom"),
        ("tar", "/bin/false", "this machine runs none of the binaries"),
    ] {
        let out = package(formats, &dir.path().join("out"), binary, binary)?;
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(2) && err.contains(why), "{err}");
    }
    Ok(())
}

/// `name version` of each crate that is linked into the binary, or runs while it is compiled into it.
fn linked() -> Result<BTreeSet<String>> {
    let mut out = BTreeSet::new();
    for arch in ["x86_64", "aarch64"] {
        let target = format!("{arch}-unknown-linux-gnu");
        let args =
            ["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--target", &target];
        let tree = said(Command::new(env!("CARGO")).args(args).current_dir(ROOT))?;
        out.extend(tree.lines().filter(|l| !l.starts_with("gonogo ")).filter_map(|l| {
            let mut words = l.split_whitespace();
            Some(format!("| {} | {} |", words.next()?, words.next()?.strip_prefix('v')?))
        }));
    }
    Ok(out)
}

#[test]
fn the_notices_name_everything_that_is_linked_in() -> Result {
    let text = std::fs::read_to_string(format!("{ROOT}/THIRD-PARTY.md"))?;
    let crates = linked()?;
    assert!(crates.len() > 50, "{crates:?}");
    let missing: Vec<&String> = crates.iter().filter(|c| !text.contains(c.as_str())).collect();
    assert!(missing.is_empty(), "make third-party: THIRD-PARTY.md lacks {missing:?}");
    let notices = text.matches("\n```text\n").count();
    assert!(notices > 20 && text.contains("Permission is hereby granted"), "{notices}");
    Ok(())
}

/// Licences, sources and duplicates; advisories are a database that changes by itself, and would make an old commit red.
#[test]
fn what_is_linked_in_is_allowed() -> Result {
    let program = tool("bin/cargo-deny", "cargo-deny");
    let deny = |config: &Path| {
        let args = ["--locked", "--exclude-dev", "--config"];
        Command::new(&program)
            .args(args)
            .arg(config)
            .args(["check", "bans", "licenses", "sources"])
            .current_dir(ROOT)
            .output()
    };
    let config = PathBuf::from(ROOT).join("deny.toml");
    let Ok(out) = deny(&config) else {
        skip::skip(true, "no cargo-deny: cargo install --locked cargo-deny");
        return Ok(());
    };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // A check that cannot fail is none.
    let strict = tempfile::Builder::new().suffix(".toml").tempfile()?;
    std::fs::write(&strict, std::fs::read_to_string(&config)?.replace("\"ISC\", ", ""))?;
    assert!(!deny(strict.path())?.status.success());
    Ok(())
}
