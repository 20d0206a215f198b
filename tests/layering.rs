//! The folder list is the pipeline: a stage imports from those before it only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The modules in flow order. `cli` parses into words of `plan`, so it stands beside `cmd`.
const ORDER: &[&str] = &[
    "exit", "id", "hostlist", "roster", "files", "unit", "work", "sys", "plan", "topology", "measure", "cluster",
    "probe", "record", "forecast", "baseline", "localise", "judge", "schedule", "report", "gate", "watch", "autopsy",
    "cli", "cmd",
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

/// The files of a room, by the path of their module in it; `""` is the room's own `mod.rs`.
fn modules(room: &str) -> BTreeMap<String, String> {
    let inside = |(file, text): (String, String)| {
        let path = file.strip_prefix(room)?.strip_prefix('/')?.strip_suffix(".rs")?;
        let path = if path == "mod" { "" } else { path.strip_suffix("/mod").unwrap_or(path) };
        // What a comment names is no import.
        let code = without_tests(&text).lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>();
        let tests = path.ends_with("tests");
        (!tests).then(|| (path.replace('/', "::"), code.join("\n")))
    };
    all().into_iter().filter_map(inside).collect()
}

/// `a::b::{C, D}` as the path and the names after it.
fn imported(text: &str) -> Option<(String, Vec<String>)> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || "_:".contains(c))).unwrap_or(text.len());
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let names = |list: &str| list.split(|c| !word(c)).filter(|n| !n.is_empty()).map(str::to_owned).collect();
    match text[end..].strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        Some((list, _)) if text[..end].ends_with("::") || end == 0 => {
            Some((text[..end].trim_end_matches("::").to_owned(), names(list)))
        }
        _ => {
            let (path, name) = text[..end].rsplit_once("::").unwrap_or(("", &text[..end]));
            (!name.is_empty()).then(|| (path.to_owned(), vec![name.to_owned()]))
        }
    }
}

/// Which modules of a room each of them imports from, names that a `mod.rs` hands on traced to where they come from. What a `mod.rs`
/// itself defines for its own modules is no edge.
fn edges(room: &str, modules: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let join = |a: &str, b: &str| [a, b].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("::");
    let mut handed: BTreeMap<(String, String), String> = BTreeMap::new();
    for (module, text) in modules {
        for (i, _) in text.match_indices("use ") {
            let Some((path, names)) = imported(text[i + 4..].trim_start_matches("self::")) else { continue };
            let from = join(module, &path);
            if !path.is_empty() && modules.contains_key(&from) {
                names.into_iter().for_each(|n| drop(handed.insert((module.clone(), n), from.clone())));
            }
        }
    }
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, text) in modules {
        let above = module.rsplit_once("::").map_or("", |(a, _)| a);
        let own = format!("crate::{room}::");
        let absolute = text.match_indices(&own).map(|(i, m)| ("", &text[i + m.len()..]));
        let relative = text.match_indices("super::").map(|(i, m)| (above, &text[i + m.len()..]));
        for (base, rest) in absolute.chain(relative.filter(|_| !module.is_empty())) {
            let Some((path, names)) = imported(rest) else { continue };
            for name in names {
                let (mut at, mut left) = (join(base, &path), name);
                while !modules.contains_key(&at) {
                    let Some((up, last)) = at.rsplit_once("::") else {
                        (left, at) = (at.clone(), String::new());
                        break;
                    };
                    (left, at) = (last.to_owned(), up.to_owned());
                }
                let child = join(&at, &left);
                if modules.contains_key(&child) {
                    at = child;
                }
                while let Some(from) = handed.get(&(at.clone(), left.clone())) {
                    at = from.clone();
                }
                let own_room = module.starts_with(&format!("{at}::")) || at.is_empty();
                if at != *module && !own_room {
                    out.entry(module.clone()).or_default().insert(at);
                }
            }
        }
    }
    out
}

#[test]
fn no_circles_within_a_room() {
    fn reach(from: &str, edges: &BTreeMap<String, BTreeSet<String>>, seen: &mut BTreeSet<String>) {
        for to in edges.get(from).into_iter().flatten() {
            if seen.insert(to.clone()) {
                reach(to, edges, seen);
            }
        }
    }
    let mut circles = Vec::new();
    let mut found = 0;
    for room in ORDER {
        let modules = modules(room);
        let edges = edges(room, &modules);
        found += edges.values().map(BTreeSet::len).sum::<usize>();
        for module in modules.keys() {
            let mut seen = BTreeSet::new();
            reach(module, &edges, &mut seen);
            if seen.contains(module) {
                let to: Vec<&str> = edges[module].iter().filter(|t| seen.contains(*t)).map(String::as_str).collect();
                circles.push(format!("{room}: {module} imports {} and is reached from there", to.join(", ")));
            }
        }
    }
    assert!(found > 100, "only {found} imports within rooms were seen");
    assert!(circles.is_empty(), "{}", circles.join("\n"));
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
