//! What an image brings, a line a library.

use serde::Serialize;

use crate::id::clean;
use crate::judge::{Facts, Judgement};
use crate::topology::{LibraryFile, Reach};
use crate::work;

/// A library of an image, or many plugins of one kind together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Software {
    pub part: String,
    pub name: String,
    pub version: String,
    /// What it was built with and for, who gets it, why it does not load.
    pub note: String,
    pub path: String,
    pub loads: bool,
}

/// Parts of which there are many: those of one folder that are alike share a line.
const MANY: &[work::Software] = &[work::Software::Providers, work::Software::UcxModules];

pub fn software(j: &Judgement<'_>) -> Vec<Software> {
    let mut out: Vec<Software> = Vec::new();
    for (part, component) in Facts::software(j.record) {
        let many = MANY.contains(&part);
        for f in &component.files {
            let place = f.path.parent().filter(|_| many).unwrap_or(&f.path);
            let row = Software {
                part: part.name().to_owned(),
                name: clean(if many { short(&f.name) } else { &f.name }).into_owned(),
                version: clean(f.version.as_deref().filter(|_| !many).unwrap_or("")).into_owned(),
                note: note(f),
                path: clean(&place.to_string_lossy()).into_owned(),
                loads: f.works() && !f.stub,
            };
            let alike = |o: &&mut Software| o.part == row.part && o.note == row.note && o.path == row.path;
            match out.iter_mut().find(alike).filter(|_| many) {
                Some(before) => {
                    before.name.push(' ');
                    before.name.push_str(&row.name);
                }
                None => out.push(row),
            }
        }
    }
    out
}

/// `libuct_cuda.so` -> `cuda`.
fn short(name: &str) -> &str {
    name.trim_start_matches("libuct_").split(".so").next().unwrap_or(name)
}

fn note(f: &LibraryFile) -> String {
    let mut parts: Vec<String> = Vec::new();
    if f.stub {
        parts.push("a stub".to_owned());
    }
    parts.extend(f.error.clone());
    parts.extend(f.cuda.as_ref().map(|c| format!("CUDA {c}")));
    if let (Some(first), Some(last)) = (f.code.first(), f.code.last()) {
        let count = f.code.len();
        parts.push(if count > 1 { format!("sm_{first} to sm_{last} ({count})") } else { format!("sm_{first}") });
    }
    if !f.offers.is_empty() {
        parts.push(f.offers.iter().map(|v| format!("v{v}")).collect::<Vec<_>>().join(" "));
    }
    if !f.waits_for.is_empty() {
        parts.push(format!("waits for {}", f.waits_for.join(", ")));
    }
    match f.reach {
        Reach::Loaded => {}
        Reach::Hidden => parts.push("hidden by another".to_owned()),
        Reach::Apart => parts.push("by its path only".to_owned()),
    }
    clean(&parts.join("; ")).into_owned()
}
