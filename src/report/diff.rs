//! Two records against each other, in a terminal: what got worse first.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::judge::{Change, Diff, codes};
use crate::report::Style;
use crate::unit::several;

/// Lines of what is alike and of lists: the rest is in `--format json`.
const SHOWN: usize = 12;

pub fn render(d: &Diff, names: (&str, &str), style: Style) -> String {
    let count = |c: Change| d.metrics.iter().filter(|m| m.change == c).count();
    let worse = count(Change::Worse);
    let failing: usize = d.failing.iter().map(|(_, n)| n).sum();
    let verdict = match (d.compared, worse, failing) {
        (0, ..) => "NOTHING IN COMMON".to_owned(),
        (_, 0, 0) => "NOT WORSE".to_owned(),
        (_, 0, f) => format!("WORSE  {}", several(f, "new failure")),
        (_, n, 0) => format!("WORSE  {n} of {}", several(d.compared, "metric")),
        (_, n, f) => format!("WORSE  {n} of {}, {}", several(d.compared, "metric"), several(f, "new failure")),
    };
    let colour = if d.compared == 0 {
        "33"
    } else if d.is_worse() {
        "31;1"
    } else {
        "32"
    };
    let mut out = format!("{}\n", style.paint(colour, &verdict));
    out.push_str(&format!("  before  {} ({})\n  after   {} ({})\n", names.0, d.decisions.0, names.1, d.decisions.1));
    if d.metrics.is_empty() {
        out.push_str(&format!("  {} compared\n", several(d.compared, "part")));
    } else {
        out.push_str(&format!(
            "  {} compared: {worse} worse, {} better, {} alike; {} only before, {} only after\n",
            d.compared,
            count(Change::Better),
            count(Change::Alike),
            count(Change::Vanished),
            count(Change::Appeared)
        ));
    }
    out.push_str(&table(d));
    let mut list = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            out.push_str(&format!("\n{title}\n"));
            for line in lines.iter().take(SHOWN) {
                out.push_str(&format!("  {line}\n"));
            }
            if lines.len() > SHOWN {
                out.push_str(&format!("  and {} more; `--format json` has all\n", lines.len() - SHOWN));
            }
        }
    };
    let failing = |(code, n): &(String, usize)| {
        format!(
            "{code} {}{}",
            codes::find(code).map_or("", |c| c.title),
            if *n > 1 { format!(" ({n})") } else { String::new() }
        )
    };
    list("failures that are new", d.failing.iter().map(failing).collect());
    list("findings that are new", d.findings_new.clone());
    list("findings that are gone", d.findings_gone.clone());
    list("what changed", d.software.iter().map(|(what, a, b)| format!("{what}: {a} -> {b}")).collect());
    list("nodes that are new", d.nodes_new.clone());
    list("nodes that are gone", d.nodes_gone.clone());
    out
}

/// What moved, a row each; empty where nothing did.
fn table(d: &Diff) -> String {
    let mut out = String::new();
    let moved: Vec<_> = d.metrics.iter().filter(|m| matches!(m.change, Change::Worse | Change::Better)).collect();
    if !moved.is_empty() {
        let mut grid = Table::new();
        grid.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        grid.set_header(["case", "metric", "before", "after", "ratio", "95 % interval", "change"]);
        for m in &moved {
            let show = |v: Option<f64>| v.map_or(String::new(), |v| m.unit.show(v));
            let ratio = m.ratio.map_or(String::new(), |r| format!("{r:.3}"));
            let interval = m.interval.map_or(String::new(), |(l, h)| format!("{l:.3} .. {h:.3}"));
            let worst = m.worst.as_ref().filter(|_| m.change == Change::Worse);
            let change = worst.map_or(m.change.name().to_owned(), |(n, r)| format!("{} {n} {r:.2}", m.change.name()));
            let case = format!("{}: {}", m.probe, m.case);
            grid.add_row([case, m.metric.to_string(), show(m.before), show(m.after), ratio, interval, change]);
        }
        for i in 0..7 {
            if let Some(column) = grid.column_mut(i) {
                column.set_padding((0, 2));
                let right = (2..5).contains(&i);
                column.set_cell_alignment(if right { CellAlignment::Right } else { CellAlignment::Left });
            }
        }
        out.push('\n');
        for line in grid.to_string().lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out
}
