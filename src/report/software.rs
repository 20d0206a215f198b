//! What an image brings, a line a library.

use serde::Serialize;

use crate::id::clean;
use crate::judge::Judgement;
use crate::measure::Facts;
use crate::topology::{LibraryFile, Reach};

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

/// Parts of which there are many: told in one line, but for those that do not load.
const MANY: &[&str] = &["providers", "ucx-modules"];

pub fn software(j: &Judgement<'_>) -> Vec<Software> {
    let mut out = Vec::new();
    for line in &j.record.outcomes {
        let Some(Facts::Software(component)) = line.outcome.measured().and_then(|m| m.facts.as_ref()) else { continue };
        let (many, single): (Vec<&LibraryFile>, Vec<&LibraryFile>) =
            component.files.iter().partition(|f| MANY.contains(&line.case.as_str()) && f.works());
        if let Some(first) = many.first() {
            let names: Vec<&str> = many.iter().map(|f| short(&f.name)).collect();
            out.push(Software {
                part: clean(&line.case).into_owned(),
                name: clean(&names.join(" ")).into_owned(),
                version: String::new(),
                note: note(first),
                path: clean(&first.path.parent().unwrap_or(&first.path).to_string_lossy()).into_owned(),
                loads: true,
            });
        }
        out.extend(single.into_iter().map(|f| Software {
            part: clean(&line.case).into_owned(),
            name: clean(&f.name).into_owned(),
            version: clean(f.version.as_deref().unwrap_or("")).into_owned(),
            note: note(f),
            path: clean(&f.path.to_string_lossy()).into_owned(),
            loads: f.works() && !f.stub,
        }));
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
