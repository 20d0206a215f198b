//! Heat maps as SVG: a unit square a cell, so that the page's width is the only scale.

use crate::report::html::{Heat, bucket};
use crate::report::picture::{Cell, Matrix};

/// Rows up to which they bear names.
const NAMED: usize = 40;
/// Cells up to which each says its own value.
const TOLD: usize = 2500;
/// Pairs that are named below.
const WORST: usize = 5;

pub(super) fn draw(m: &Matrix) -> Heat {
    let n = m.labels.len().max(1);
    let named = n <= NAMED;
    // Room for names, in cells: as much as eight letters take.
    let margin = if named { 4.0 } else { 0.5 };
    let side = n as f64 + margin;
    let title = escaped(&format!("{}: {} nodes or GPUs", m.title, n));
    let mut out = format!(
        "<svg style=\"max-width:{:.0}px\" viewBox=\"{:.2} {:.2} {side:.2} {side:.2}\" role=\"img\" aria-label=\"{title}\"><rect class=\"frame\" width=\"{n}\" height=\"{n}\"/>",
        side * 26.0,
        -margin,
        -margin
    );
    let share = |c: &Cell| Some(c.value.map_or(0.0, |v| v / m.median.max(1e-9)));
    let show = |c: &Cell| c.value.map_or_else(|| "failed".to_owned(), |v| m.unit.show(v));
    let name = |i: u32| m.labels.get(i as usize).map_or("?", String::as_str);
    if m.cells.len() <= TOLD {
        for c in &m.cells {
            let text = escaped(&format!("{} to {}: {}", name(c.from), name(c.to), show(c)));
            out.push_str(&format!(
                "<rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"1\" height=\"1\"><title>{text}</title></rect>",
                bucket(&share(c)),
                c.to,
                c.from
            ));
        }
    } else {
        // One path a colour: a large cluster has thousands of cells.
        for class in ["h0", "h1", "h2", "h3", "h4", "h5"] {
            let cells = m.cells.iter().filter(|c| bucket(&share(c)) == class);
            let path: String = cells.map(|c| format!("M{} {}h1v1h-1z", c.to, c.from)).collect();
            if !path.is_empty() {
                out.push_str(&format!("<path class=\"{class}\" d=\"{path}\"/>"));
            }
        }
    }
    if named {
        for (i, label) in m.labels.iter().enumerate() {
            let short: String = label.chars().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect();
            let (short, y) = (escaped(&short), i as f64 + 0.7);
            out.push_str(&format!(
                "<text class=\"cellname\" x=\"-.3\" y=\"{y:.1}\" text-anchor=\"end\">{short}</text>"
            ));
            out.push_str(&format!(
                "<text class=\"cellname\" transform=\"translate({y:.1} -.3) rotate(-90)\">{short}</text>"
            ));
        }
    }
    out.push_str("</svg>");
    let mut slow: Vec<&Cell> = m.cells.iter().collect();
    slow.sort_by(|a, b| a.value.unwrap_or(0.0).total_cmp(&b.value.unwrap_or(0.0)));
    let worst: Vec<String> = slow
        .into_iter()
        .filter(|c| c.value.is_none_or(|v| v < 0.95 * m.median))
        .take(WORST)
        .map(|c| format!("{} to {} {}", name(c.from), name(c.to), show(c)))
        .collect();
    let worst = if worst.is_empty() {
        "no pair is slower than usual".to_owned()
    } else {
        format!("slowest: {}", worst.join(", "))
    };
    Heat { title: m.title.clone(), median: m.unit.show(m.median), svg: out, worst }
}

/// Text that is no markup.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
