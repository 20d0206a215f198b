//! The folder list is the pipeline: a stage imports from those before it only.

use std::fs;
use std::path::Path;

/// The modules in flow order. `cli` parses into words of `plan`, so it stands beside `cmd`.
const ORDER: &[&str] = &[
    "exit", "id", "hostlist", "roster", "files", "unit", "work", "sys", "plan", "topology", "measure", "cluster",
    "probe", "record", "forecast", "baseline", "localise", "judge", "schedule", "report", "gate", "cli", "cmd",
];

/// Stages that get no clock, no file, no environment.
const PURE: &[&str] = &["forecast", "localise", "judge", "report"];

fn sources(path: &Path, out: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let relative = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap_or(&path);
            out.push((relative.to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap_or_default()));
        }
    }
}

fn all() -> Vec<(String, String)> {
    let mut out = Vec::new();
    sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut out);
    assert!(out.len() > 40, "only {} sources found", out.len());
    out
}

fn stage(file: &str) -> &str {
    file.split('/').next().unwrap_or("").trim_end_matches(".rs")
}

/// The code outside tests: test modules may look anywhere.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or("")
}

#[test]
fn every_stage_imports_from_its_left_only() {
    let rank = |name: &str| ORDER.iter().position(|s| *s == name);
    let mut wrong = Vec::new();
    for (file, text) in all() {
        let own = stage(&file);
        if matches!(own, "lib" | "main") {
            continue;
        }
        let Some(at) = rank(own) else {
            panic!("{file} belongs to no stage: add `{own}` to ORDER and to the map in lib.rs")
        };
        for (i, _) in without_tests(&text).match_indices("crate::") {
            let target: String = text[i + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            match rank(&target) {
                Some(r) if r <= at => {}
                Some(_) => wrong.push(format!("{file} uses {target}, which lies to its right")),
                None if target.is_empty() => wrong.push(format!("{file} uses crate::{{...}}: name one stage a line")),
                None => wrong.push(format!("{file} uses {target}, which is no stage")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn opinions_have_no_clock_no_file_no_environment() {
    for (file, text) in all().into_iter().filter(|(f, _)| PURE.contains(&stage(f))) {
        for word in [
            "std::fs",
            "std::env::",
            "std::time::Instant",
            "SystemTime",
            "Timestamp::now",
            "std::net",
            "std::process::Command",
        ] {
            assert!(!without_tests(&text).contains(word), "{file} uses {word}");
        }
    }
}

#[test]
fn unsafe_lives_in_sys_only() {
    for (file, text) in all().into_iter().filter(|(f, _)| stage(f) != "sys") {
        assert!(
            !text.contains(concat!("unsafe", " {")) && !text.contains(concat!("unsafe", " fn")),
            "{file} has unsafe code"
        );
    }
}

#[test]
fn main_is_short() {
    let (_, main) = all().into_iter().find(|(f, _)| f == "main.rs").unwrap_or_default();
    assert!(main.lines().count() <= 20, "{} lines", main.lines().count());
}
