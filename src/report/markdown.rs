//! Markdown for a comment or an issue: the verdict, what to do, the tables folded away. Short enough for a comment of GitHub or GitLab.

use crate::judge::Severity;
use crate::report::{FindingGroup, SaveRow, TimelineRow, View};

/// GitHub takes 65 536 characters of a comment.
const LONGEST: usize = 60_000;
/// Findings of one code that are shown in full.
const SHOWN: usize = 5;

pub fn render(view: &View<'_>) -> String {
    let sign = match view.decision.exit() {
        crate::exit::Exit::Go => "\u{2705}",
        crate::exit::Exit::Hold => "\u{26a0}\u{fe0f}",
        _ => "\u{274c}",
    };
    let mut out = format!("## {sign} {}: {}\n\n", view.decision.name(), text(&view.headline));
    for line in &view.provenance {
        out.push_str(&format!("{}  \n", text(line)));
    }
    for group in &view.findings {
        out.push('\n');
        finding(group, &mut out);
    }
    if let Some(saves) = view.saves.as_ref().filter(|s| !s.rows.is_empty()) {
        out.push_str(&format!("\n| {} |\n|---|---:|---:|---:|---|---|\n", SaveRow::TITLES.join(" | ")));
        for row in &saves.rows {
            out.push_str(&format!("| {} |\n", row.cells().map(text).join(" | ")));
        }
    }
    if let Some(timeline) = view.timeline.as_ref().filter(|t| !t.rows.is_empty()) {
        out.push_str(&format!("\n| {} |\n|---|---|---|---|\n", TimelineRow::TITLES.join(" | ")));
        for row in &timeline.rows {
            out.push_str(&format!("| {} |\n", row.cells().map(text).join(" | ")));
        }
    }
    if !view.software.is_empty() {
        out.push_str("\n| part | library | version | note | path |\n|---|---|---|---|---|\n");
        for s in &view.software {
            let cells = [&s.part, &s.name, &s.version, &s.note, &s.path].map(|c| text(c));
            out.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
    }
    let mut left_out = 0;
    for table in &view.tables {
        let mut part = format!("\n<details><summary>{}: {} rows</summary>\n\n", text(&table.probe), table.rows.len());
        part.push_str("| case | metric | measured | worst | expected | verdict |\n|---|---|---:|---|---:|---|\n");
        for r in &table.rows {
            let cells = [&r.case, r.metric.name(), &r.measured, &r.worst, &r.limit, &r.verdict_text];
            let line: Vec<String> = cells.iter().map(|c| text(c)).collect();
            part.push_str(&format!("| {} |\n", line.join(" | ")));
        }
        part.push_str("\n</details>\n");
        // A table that is cut in the middle breaks the page.
        if out.len() + part.len() < LONGEST {
            out.push_str(&part);
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        out.push_str(&format!("\n{left_out} tables do not fit a comment: `gonogo report` shows them.\n"));
    }
    out.push_str(&format!("\n{}\n", text(&view.coverage)));
    if let Some(time) = &view.time {
        out.push_str(&format!("- time: {}\n", text(time)));
    }
    for line in view.waived.iter().take(10) {
        out.push_str(&format!("- waived: {}\n", text(line)));
    }
    if let Some(step) = &view.step {
        out.push_str(&format!("- step: {}\n", text(step)));
    }
    if let Some(course) = &view.course {
        out.push_str(&format!("- forecast: {}\n", text(&course.sentence)));
    }
    for (label, list) in &view.placement {
        out.push_str(&format!("- {label}: {}\n", code(list)));
    }
    out.push_str(&format!("\nNext: {}\n", code(&view.next)));
    if out.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|i| out.is_char_boundary(*i)).unwrap_or(0);
        out.truncate(end);
        out.push_str("\n\n(cut)\n");
    }
    out
}

fn finding(group: &FindingGroup<'_>, out: &mut String) {
    let f = group.first();
    let word = match (f.weighs(), f.severity) {
        (false, _) => "waived",
        (_, Severity::Fail) => "FAIL",
        (_, Severity::Hold) => "HOLD",
        (_, Severity::Warn) => "warning",
        (_, Severity::Info) => "note",
    };
    out.push_str(&format!("### {word} `{}` {}\n\n", f.code, text(f.title())));
    let seen = group.seen();
    for s in seen.iter().take(SHOWN) {
        out.push_str(&format!("- **{}**: {}", text(&s.subject), text(s.evidence)));
        if !s.limit.is_empty() {
            out.push_str(&format!(" (limit: {})", text(s.limit)));
        }
        out.push('\n');
    }
    if seen.len() > SHOWN {
        out.push_str(&format!("- and {} more\n", seen.len() - SHOWN));
    }
    match &f.waived {
        Some(waived) => out.push_str(&format!("\nWaived: {}\n", text(waived))),
        None => out.push_str(&format!("\nSuspect: {}. **Do**: {}\n", text(f.suspect()), text(&f.remedy()))),
    }
}

/// Foreign text in which nothing is markup, on one line. A mention would call people: `@` is broken, too.
fn text(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 8);
    for c in value.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '~' | '!' | '$' => {
                out.push('\\');
                out.push(c);
            }
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '@' => out.push_str("&#64;"),
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Text to be copied, in a fence that it cannot close.
fn code(value: &str) -> String {
    let longest = value.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let gap = if longest > 0 { " " } else { "" };
    format!("{fence}{gap}{}{gap}{fence}", value.replace(['\n', '\r'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_no_markup() {
        assert_eq!(text("a|b <b>x</b> @all `c`"), "a\\|b &lt;b&gt;x&lt;/b&gt; &#64;all \\`c\\`");
        assert_eq!(code("a`b``c"), "``` a`b``c ```");
        assert_eq!(code("srun x"), "`srun x`");
    }
}
