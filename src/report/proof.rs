//! What a finding rests on, for somebody who asks why: the readings, what each was held against, and the rule.

use std::path::Path;

use comfy_table::CellAlignment;

use crate::id::clean;
use crate::judge::{Finding, Proof};
use crate::record::OutcomeLine;
use crate::report::Style;
use crate::report::terminal::{self, BOLD, DIM, severity};

/// Readings that are shown of one finding, those that speak for it first.
const SHOWN: usize = 60;

/// All findings, a line each, with the number to ask for.
pub fn numbered(all: &[Finding], style: Style) -> String {
    let mut out = String::new();
    for (i, f) in all.iter().enumerate() {
        let head = format!("{:>3}  {:<6}  {}  ", i + 1, "", f.code).chars().count();
        let text: Vec<char> = format!("{}: {}", f.subject, f.evidence).chars().collect();
        let room = style.width.saturating_sub(head).max(20);
        let cut = if text.len() > room { room - 1 } else { text.len() };
        let end = if cut < text.len() { "…" } else { "" };
        let shown: String = text[..cut].iter().collect();
        out.push_str(&format!("{:>3}  {}  {}  {shown}{end}\n", i + 1, severity(f, style), f.code));
    }
    out
}

/// Outcomes that a finding is traced to.
const SOURCES: usize = 8;

/// What prints an outcome of a record whole; `path` is the record's file.
fn look(l: &OutcomeLine, path: &Path) -> String {
    let path = clean(&path.to_string_lossy()).replace('\'', "'\\''");
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let one = format!(
        ".outcome | select(.node == {} and .step == {} and .case == {})",
        quoted(&l.node.0),
        quoted(&l.step),
        quoted(&l.case.to_string())
    );
    let one = one.replace('\'', "'\\''");
    match path.ends_with(".zst") {
        true => format!("zstdcat '{path}' | jq '{one}'"),
        false => format!("jq '{one}' '{path}'"),
    }
}

/// Where in the record a finding comes from that no reading proves.
fn facts(sources: &[&OutcomeLine], path: &Path, style: Style, out: &mut String) {
    let told: Vec<String> = sources
        .iter()
        .take(SOURCES)
        .map(|l| format!("`{}` of {} (step {})", clean(&l.case.to_string()), l.node, clean(&l.step)))
        .collect();
    let more = sources.len().saturating_sub(SOURCES);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    style.labelled("  facts    ", &format!("{}{more}", told.join(", ")), out);
    if let Some(first) = sources.first() {
        out.push_str(&format!("  look     {}\n", clean(&look(first, path))));
    }
}

/// One finding, and why. `sources` are the outcomes that it goes by where no reading proves it, `path` the record's file.
pub fn proof(f: &Finding, number: usize, sources: &[&OutcomeLine], path: &Path, style: Style) -> String {
    let mut out =
        format!("{number:>3}  {}  {}  {}: {}\n", severity(f, style), f.code, f.subject, style.paint(BOLD, f.title()));
    style.labelled("  seen     ", &f.evidence, &mut out);
    if !f.limit.is_empty() {
        style.labelled("  limit    ", &f.limit, &mut out);
    }
    style.labelled("  why      ", f.code.doc().cause, &mut out);
    if let Some(rule) = f.rule {
        style.labelled("  rule     ", rule.text(), &mut out);
    }
    if let Some(waived) = &f.waived {
        style.labelled("  waived   ", waived, &mut out);
    }
    if f.proof.is_empty() && !sources.is_empty() {
        facts(sources, path, style, &mut out);
    } else if f.proof.is_empty() {
        style.labelled("  readings ", "none: it rests on what the evidence says", &mut out);
    } else {
        let speaking = f.proof.iter().filter(|p| p.speaks).count();
        let quiet = f.proof.len() - speaking;
        let said = if quiet > 0 { format!(", {speaking} of them speak for it") } else { String::new() };
        style.labelled("  readings ", &format!("{}{said}", f.proof.len()), &mut out);
        out.push('\n');
        table(f, style, &mut out);
    }
    out.push('\n');
    style.labelled("  do       ", &f.remedy(), &mut out);
    out
}

fn table(f: &Finding, style: Style, out: &mut String) {
    let mut all: Vec<&Proof> = f.proof.iter().collect();
    // The order measured, except that a long list begins with what counts.
    if all.len() > SHOWN {
        all.sort_by_key(|p| !p.speaks);
    }
    let shown = &all[..all.len().min(SHOWN)];
    let who = |p: &Proof| match &p.to {
        Some(to) => format!("{} -> {to}", p.node),
        None => p.node.to_string(),
    };
    let amount = |p: &Proof, value: Option<f64>| match (p.metric, value) {
        (Some(metric), Some(value)) => metric.unit().show(value),
        _ => String::new(),
    };
    let difference = |p: &Proof| match (p.metric, p.measured, p.expected) {
        (Some(_), Some(measured), Some(expected)) if expected > 0.0 => {
            format!("{:+.1} %", 100.0 * (measured / expected - 1.0))
        }
        (Some(_), None, Some(_)) => "nothing arrived".to_owned(),
        _ => String::new(),
    };
    let interval = |p: &Proof| match (p.interval, p.n) {
        (Some((low, high)), Some(n)) => {
            format!("{} to {}, n = {n}", amount(p, Some(low)), amount(p, Some(high)))
        }
        (None, Some(n)) => format!("n = {n}"),
        _ => String::new(),
    };
    type Cell<'a> = &'a dyn Fn(&Proof) -> String;
    let (left, right) = (CellAlignment::Left, CellAlignment::Right);
    let columns: [(&str, CellAlignment, Cell<'_>); 9] = [
        ("node", left, &who),
        ("step", left, &|p| clean(&p.step).into_owned()),
        ("case", left, &|p| clean(&p.case.to_string()).into_owned()),
        ("metric", left, &|p| p.metric.map_or(String::new(), |m| m.name().to_owned())),
        ("measured", right, &|p| amount(p, p.measured)),
        ("95 % interval", left, &interval),
        ("held against", right, &|p| amount(p, p.expected)),
        ("difference", right, &difference),
        ("sent again", right, &|p| p.sent_again.map_or(String::new(), |s| format!("{:.3} %", 100.0 * s))),
    ];
    let kept: Vec<_> = columns.iter().filter(|(.., get)| shown.iter().any(|p| !get(p).is_empty())).collect();
    let marked = shown.iter().any(|p| !p.speaks);
    let titles = kept.iter().map(|(title, ..)| *title).chain(marked.then_some(""));
    let rows = shown.iter().map(|p| {
        let mark = match p.sent_again {
            _ if !p.speaks => "",
            Some(_) => " loses",
            None => " slow",
        };
        kept.iter().map(|(.., get)| get(p)).chain(marked.then(|| mark.to_owned())).collect::<Vec<String>>()
    });
    let right = |i: usize| kept.get(i).is_some_and(|(_, align, _)| *align == CellAlignment::Right);
    for (i, line) in terminal::table(titles, rows, &right).iter().enumerate() {
        out.push_str(&format!("  {}\n", if i == 0 { style.paint(BOLD, line) } else { line.clone() }));
    }
    if all.len() > shown.len() {
        let more = format!("  and {} more; `gonogo report RECORD --format json` has all", all.len() - shown.len());
        out.push_str(&format!("{}\n", style.paint(DIM, &more)));
    }
}
