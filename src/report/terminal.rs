//! The report in a terminal: the verdict in the first line, the next command in the last.

use comfy_table::{CellAlignment, ContentArrangement, Table as Grid, presets};

use crate::judge::{Severity, Verdict};
use crate::report::{FindingGroup, Row, Table, View};

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns; text wraps here.
    pub width: usize,
    pub colour: bool,
}

/// Findings of one code that are shown in full.
const SHOWN: usize = 5;

const RED: &str = "31;1";
const YELLOW: &str = "33";
const GREEN: &str = "32";
const BOLD: &str = "1";
const DIM: &str = "2";

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// `text` wrapped with `label` before the first line and as much room before the others.
    fn labelled(self, label: &str, text: &str, out: &mut String) {
        let room = self.width.saturating_sub(label.chars().count()).max(20);
        for (i, line) in wrap(text, room).into_iter().enumerate() {
            let head = if i == 0 { self.paint(DIM, label) } else { " ".repeat(label.chars().count()) };
            out.push_str(&head);
            out.push_str(&line);
            out.push('\n');
        }
    }
}

/// Breaks at blanks; a word that is longer than the room stands alone and is cut.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        let mut rest: Vec<char> = word.chars().collect();
        loop {
            let last = lines.len() - 1;
            let used = lines[last].chars().count();
            let gap = usize::from(used > 0);
            if used + gap + rest.len() <= room {
                if gap > 0 {
                    lines[last].push(' ');
                }
                lines[last].extend(rest.iter());
                break;
            }
            if used > 0 {
                lines.push(String::new());
                continue;
            }
            lines[last].extend(rest.drain(..room));
            lines.push(String::new());
        }
    }
    lines
}

/// The whole report.
pub fn render(view: &View<'_>, style: Style) -> String {
    let mut out = String::new();
    let (word, colour) = match view.decision.exit() {
        crate::exit::Exit::Go => (view.decision.name(), "30;42;1"),
        crate::exit::Exit::Hold => (view.decision.name(), "30;43;1"),
        _ => (view.decision.name(), "37;41;1"),
    };
    let badge = if style.colour { style.paint(colour, &format!(" {word} ")) } else { word.to_owned() };
    out.push_str(&format!("{badge}  {}\n", style.paint(BOLD, &view.headline)));
    for line in &view.provenance {
        style.labelled("  ", line, &mut out);
    }
    for group in &view.findings {
        out.push('\n');
        finding(group, style, &mut out);
    }
    for table in &view.tables {
        out.push('\n');
        draw(table, style, &mut out);
    }
    out.push('\n');
    style.labelled("coverage  ", &view.coverage, &mut out);
    for (i, line) in view.waived.iter().enumerate() {
        style.labelled(if i == 0 { "waived    " } else { "          " }, line, &mut out);
    }
    style.labelled("record    ", &view.record_path, &mut out);
    style.labelled("next      ", &view.next, &mut out);
    out
}

fn finding(group: &FindingGroup<'_>, style: Style, out: &mut String) {
    let f = group.first();
    let (word, colour) = match (f.weighs(), f.severity) {
        (false, _) => ("WAIVED", DIM),
        (_, Severity::Fail) => ("FAIL", RED),
        (_, Severity::Hold) => ("HOLD", YELLOW),
        (_, Severity::Warn) => ("WARN", YELLOW),
        (_, Severity::Info) => ("NOTE", DIM),
    };
    out.push_str(&format!("{}  {}  {}\n", style.paint(colour, &format!("{word:<6}")), f.code, style.paint(BOLD, f.title())));
    let mut limits: Vec<&str> = Vec::new();
    for f in group.findings.iter().take(SHOWN) {
        style.labelled("  seen     ", &format!("{}: {}", f.subject, f.evidence), out);
        // Cases that share a limit share its line.
        if !f.limit.is_empty() && !limits.contains(&f.limit.as_str()) {
            limits.push(&f.limit);
            style.labelled("  limit    ", &f.limit, out);
        }
    }
    if group.findings.len() > SHOWN {
        style.labelled("           ", &format!("and {} more of this code; `--format json` lists all", group.findings.len() - SHOWN), out);
    }
    if let Some(waived) = &f.waived {
        style.labelled("  waived   ", waived, out);
    } else {
        style.labelled("  suspect  ", f.suspect(), out);
        style.labelled("  do       ", f.remedy(), out);
    }
}

/// Columns that are empty in every row are left out; when the table is too wide, the least needed go first.
fn draw(table: &Table, style: Style, out: &mut String) {
    let one_metric = table.rows.iter().all(|r| r.metric == table.rows[0].metric);
    type Column = (&'static str, fn(&Row) -> &str, CellAlignment);
    let columns: [Column; 8] = [
        ("case", |r| &r.case, CellAlignment::Left),
        ("metric", |r| &r.metric, CellAlignment::Left),
        ("measured", |r| &r.measured, CellAlignment::Right),
        ("95 % interval", |r| &r.spread, CellAlignment::Left),
        ("worst", |r| &r.worst, CellAlignment::Left),
        ("expected", |r| &r.limit, CellAlignment::Right),
        ("share", |r| &r.share, CellAlignment::Right),
        ("verdict", |r| &r.verdict_text, CellAlignment::Left),
    ];
    let width_of = |c: &Column| table.rows.iter().map(|r| c.1(r).chars().count()).max().unwrap_or(0).max(c.0.len()) + 2;
    let mut kept: Vec<&Column> =
        columns.iter().filter(|c| table.rows.iter().any(|r| !c.1(r).is_empty()) && !(c.0 == "metric" && one_metric)).collect();
    for dispensable in ["95 % interval", "share"] {
        if kept.iter().map(|c| width_of(c)).sum::<usize>() > style.width {
            kept.retain(|c| c.0 != dispensable);
        }
    }
    let mut grid = Grid::new();
    grid.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let title = if one_metric { format!("{}: {}", table.probe, table.rows[0].metric) } else { table.probe.clone() };
    grid.set_header(kept.iter().map(|c| if c.0 == "case" { title.as_str() } else { c.0 }));
    for row in &table.rows {
        grid.add_row(kept.iter().map(|c| c.1(row)));
    }
    for (i, c) in kept.iter().enumerate() {
        if let Some(column) = grid.column_mut(i) {
            column.set_padding((0, 2));
            column.set_cell_alignment(c.2);
        }
    }
    let text = grid.to_string();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim_end();
        let verdict = i.checked_sub(1).and_then(|i| table.rows.get(i)).map(|r| (r.verdict, r.verdict_text.as_str()));
        match verdict.and_then(|(v, text)| Some((v, line.strip_suffix(text)?, text))) {
            Some((v, head, text)) => {
                let colour = match v {
                    Verdict::Pass => GREEN,
                    Verdict::Fail => RED,
                    Verdict::Warn | Verdict::Inconclusive(_) => YELLOW,
                    Verdict::NoLimit => DIM,
                };
                out.push_str(&format!("{head}{}\n", style.paint(colour, text)));
            }
            None => out.push_str(&format!("{}\n", if i == 0 { style.paint(BOLD, line) } else { line.to_owned() })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_keeps_every_character_within_the_room() {
        assert_eq!(wrap("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrap("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrap("", 4), [""]);
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_wider_than_its_room(text in "\\PC{0,200}", room in 20usize..100) {
            for line in wrap(&text, room) {
                proptest::prop_assert!(line.chars().count() <= room);
            }
        }
    }
}
