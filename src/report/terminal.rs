//! The report in a terminal: the verdict in the first line, the next command in the last.

use comfy_table::{CellAlignment, ContentArrangement, Row as ComfyRow, Table as Grid, presets};

use crate::judge::{Finding, Severity, Verdict};
use crate::report::{CourseShown, FindingGroup, Row, SaveRow, Saves, Software, Table, TimelineRow, View};

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
pub(super) const BOLD: &str = "1";
pub(super) const DIM: &str = "2";

impl Style {
    pub(super) fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// `text` wrapped with `label` before the first line and as much room before the others.
    pub(super) fn labelled(self, label: &str, text: &str, out: &mut String) {
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
    if let Some(all) = view.saves.as_ref().filter(|s| !s.rows.is_empty()) {
        out.push('\n');
        saves(all, style, &mut out);
    }
    if let Some(all) = view.timeline.as_ref().filter(|t| !t.rows.is_empty()) {
        out.push('\n');
        let rows = all.rows.iter().map(|r| r.cells().to_vec());
        lines(&table(TimelineRow::TITLES.into_iter(), rows, &|_| false), style, &mut out);
    }
    for table in &view.tables {
        out.push('\n');
        draw(table, style, &mut out);
    }
    if !view.software.is_empty() {
        out.push('\n');
        software(&view.software, style, &mut out);
    }
    out.push('\n');
    style.labelled("coverage  ", &view.coverage, &mut out);
    if let Some(time) = &view.time {
        style.labelled("time      ", time, &mut out);
    }
    for (i, line) in view.waived.iter().enumerate() {
        style.labelled(if i == 0 { "waived    " } else { "          " }, line, &mut out);
    }
    for (label, text) in &view.placement {
        // Not wrapped: it is there to be copied.
        out.push_str(&format!("{}{text}\n", style.paint(DIM, &format!("{label:<10}"))));
    }
    let record = if view.record_path.is_empty() { "none is kept" } else { &view.record_path };
    if let Some(step) = &view.step {
        style.labelled("step      ", step, &mut out);
    }
    if let Some(course) = &view.course {
        style.labelled("forecast  ", &course.sentence, &mut out);
    }
    style.labelled("record    ", record, &mut out);
    style.labelled("next      ", &view.next, &mut out);
    out
}

/// Findings alone, each code once, without the report around them.
pub fn findings(all: &[crate::judge::Finding], style: Style) -> String {
    let mut out = String::new();
    for group in &super::view::groups(all) {
        finding(group, style, &mut out);
        out.push('\n');
    }
    out
}

/// How a finding weighs, as the word that begins its line.
pub(super) fn severity(f: &Finding, style: Style) -> String {
    let (word, colour) = match (f.weighs(), f.severity) {
        (false, _) => ("WAIVED", DIM),
        (_, Severity::Fail) => ("FAIL", RED),
        (_, Severity::Hold) => ("HOLD", YELLOW),
        (_, Severity::Warn) => ("WARN", YELLOW),
        (_, Severity::Info) => ("NOTE", DIM),
    };
    style.paint(colour, &format!("{word:<6}"))
}

fn finding(group: &FindingGroup<'_>, style: Style, out: &mut String) {
    let f = group.first();
    out.push_str(&format!("{}  {}  {}\n", severity(f, style), f.code, style.paint(BOLD, f.title())));
    let mut limits: Vec<&str> = Vec::new();
    let seen = group.seen();
    for s in seen.iter().take(SHOWN) {
        style.labelled("  seen     ", &format!("{}: {}", s.subject, s.evidence), out);
        // Cases that share a limit share its line.
        if !s.limit.is_empty() && !limits.contains(&s.limit) {
            limits.push(s.limit);
            style.labelled("  limit    ", s.limit, out);
        }
    }
    if seen.len() > SHOWN {
        let more = seen.len() - SHOWN;
        style.labelled("           ", &format!("and {more} more of this code; `--format json` lists all"), out);
    }
    if let Some(waived) = &f.waived {
        style.labelled("  waived   ", waived, out);
    } else {
        style.labelled("  suspect  ", f.suspect(), out);
        style.labelled("  do       ", &f.remedy(), out);
    }
}

/// The lines of a table without rules, the titles first; columns that `right` says end at one edge.
pub(super) fn table<R: Into<ComfyRow>>(
    titles: impl Into<ComfyRow>,
    rows: impl IntoIterator<Item = R>,
    right: &dyn Fn(usize) -> bool,
) -> Vec<String> {
    let mut grid = Grid::new();
    grid.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    grid.set_header(titles);
    grid.add_rows(rows);
    for (i, column) in grid.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        column.set_cell_alignment(if right(i) { CellAlignment::Right } else { CellAlignment::Left });
    }
    grid.to_string().lines().map(|line| line.trim_end().to_owned()).collect()
}

/// The lines of a table with its titles in bold.
fn lines(table: &[String], style: Style, out: &mut String) {
    for (i, line) in table.iter().enumerate() {
        out.push_str(&format!("{}\n", if i == 0 { style.paint(BOLD, line) } else { line.clone() }));
    }
}

/// A line a checkpoint, the latest last; when it is too wide, the least needed columns go first.
fn saves(all: &Saves, style: Style, out: &mut String) {
    let mut kept: Vec<usize> = (0..SaveRow::TITLES.len()).collect();
    let drawn = |kept: &[usize]| {
        let rows = all.rows.iter().map(|r| kept.iter().map(|i| r.cells()[*i]).collect::<Vec<_>>());
        let right = |i: usize| kept.get(i).is_some_and(|c| (1..4).contains(c));
        table(kept.iter().map(|i| SaveRow::TITLES[*i]), rows, &right)
    };
    let mut shown = drawn(&kept);
    for dispensable in ["files", "took"] {
        if shown.iter().any(|l| l.chars().count() > style.width) {
            kept.retain(|i| SaveRow::TITLES[*i] != dispensable);
            shown = drawn(&kept);
        }
    }
    lines(&shown, style, out);
}

/// A line a library; its path goes last and wraps the least.
fn software(all: &[Software], style: Style, out: &mut String) {
    let width = |title: &str, get: fn(&Software) -> &str| {
        let most = all.iter().map(|s| get(s).chars().count()).max().unwrap_or(0);
        most.max(title.len()).min(style.width / 4)
    };
    let part = width("image", |s| &s.part);
    let version = width("version", |s| &s.version);
    let head = format!("{:<part$}  {:<version$}  what", "image", "version");
    out.push_str(&format!("{}\n", style.paint(BOLD, &head)));
    for s in all {
        let version_text: String = s.version.chars().take(version).collect();
        let note = if s.note.is_empty() { String::new() } else { format!(": {}", s.note) };
        // A file's path says its name.
        let name = if !s.path.contains(".so") { format!("{} in ", s.name) } else { String::new() };
        let label = format!("{:<part$}  {version_text:<version$}  ", s.part);
        let room = style.width.saturating_sub(label.chars().count()).max(20);
        for (i, line) in wrap(&format!("{name}{}{note}", s.path), room).into_iter().enumerate() {
            let lead = if i == 0 { label.clone() } else { " ".repeat(label.chars().count()) };
            let text = format!("{lead}{line}");
            out.push_str(&format!("{}\n", if s.loads { text } else { style.paint(RED, &text) }));
        }
    }
}

/// A column: its title, what stands in it, how it is aligned.
struct Column {
    title: String,
    cells: Vec<String>,
    align: CellAlignment,
}

impl Column {
    fn width(&self) -> usize {
        self.cells.iter().map(|c| c.chars().count()).max().unwrap_or(0).max(self.title.chars().count()) + 2
    }
}

/// Rows of one case, when every case has the same several metrics: they share a line then, a column a metric.
fn pivot(table: &Table) -> Option<Vec<&[Row]>> {
    let cases: Vec<&[Row]> = table.rows.chunk_by(|a, b| a.case == b.case).collect();
    let metrics = |rows: &[Row]| rows.iter().map(|r| r.metric).collect::<Vec<_>>();
    let first = metrics(cases.first()?);
    (first.len() > 1 && cases.len() > 1 && cases.iter().all(|c| metrics(c) == first)).then_some(cases)
}

/// Columns that are empty in every row are left out; when the table is too wide, the least needed go first.
fn draw(table: &Table, style: Style, out: &mut String) {
    let column = |title: &str, align, rows: &[&Row], get: fn(&Row) -> &str| Column {
        title: title.to_owned(),
        cells: rows.iter().map(|r| get(r).to_owned()).collect(),
        align,
    };
    // The row that decides a line: the worst verdict, then the one with a limit.
    let deciding = |rows: &'_ [Row]| rows.iter().max_by_key(|r| (r.verdict, !r.limit.is_empty())).cloned();
    let (lines, measured): (Vec<Row>, Vec<Column>) = match pivot(table) {
        Some(cases) => {
            let metric = |m: usize| Column {
                title: cases[0][m].metric.to_string(),
                cells: cases.iter().map(|c| c[m].measured.clone()).collect(),
                align: CellAlignment::Right,
            };
            (cases.iter().filter_map(|c| deciding(c)).collect(), (0..cases[0].len()).map(metric).collect())
        }
        None => {
            let rows: Vec<&Row> = table.rows.iter().collect();
            let mut columns = vec![column("measured", CellAlignment::Right, &rows, |r| &r.measured)];
            if table.rows.iter().any(|r| r.metric != table.rows[0].metric) {
                columns.insert(0, column("metric", CellAlignment::Left, &rows, |r| r.metric.name()));
            }
            columns.push(column("95 % interval", CellAlignment::Left, &rows, |r| &r.spread));
            (table.rows.clone(), columns)
        }
    };
    let rows: Vec<&Row> = lines.iter().collect();
    let one_metric = measured.first().is_some_and(|c| c.title == "measured");
    let title = if one_metric { format!("{}: {}", table.probe, table.rows[0].metric) } else { table.probe.clone() };
    let mut kept = vec![column(&title, CellAlignment::Left, &rows, |r| &r.case)];
    kept.extend(measured);
    kept.extend([
        column("worst", CellAlignment::Left, &rows, |r| &r.worst),
        column("expected", CellAlignment::Right, &rows, |r| &r.limit),
        column("share", CellAlignment::Right, &rows, |r| &r.share),
        column("note", CellAlignment::Left, &rows, |r| &r.note),
        column("verdict", CellAlignment::Left, &rows, |r| &r.verdict_text),
    ]);
    kept.retain(|c| c.cells.iter().any(|cell| !cell.is_empty()));
    for dispensable in ["95 % interval", "share", "note"] {
        if kept.iter().map(Column::width).sum::<usize>() > style.width + 2 {
            kept.retain(|c| c.title != dispensable);
        }
    }
    let rows = (0..lines.len()).map(|i| kept.iter().map(move |c| c.cells[i].as_str()));
    let titles = kept.iter().map(|c| c.title.as_str());
    let right = |i: usize| kept.get(i).is_some_and(|c| c.align == CellAlignment::Right);
    for (i, line) in self::table(titles, rows, &right).iter().enumerate() {
        let verdict = i.checked_sub(1).and_then(|i| lines.get(i)).map(|r| (r.verdict, r.verdict_text.as_str()));
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
            None => out.push_str(&format!("{}\n", if i == 0 { style.paint(BOLD, line) } else { line.clone() })),
        }
    }
}

/// A forecast by itself, whole.
pub fn course(shown: &CourseShown, style: Style) -> String {
    let mut out = String::new();
    style.labelled("", &shown.sentence, &mut out);
    out.push('\n');
    lines(&table(CourseShown::TITLES, &shown.rows, &|i| i > 0), style, &mut out);
    out.push('\n');
    for note in &shown.notes {
        style.labelled(&style.paint(DIM, "- "), note, &mut out);
    }
    out
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
