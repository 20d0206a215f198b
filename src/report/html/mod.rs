//! One self-contained page: no network, readable on a phone, in the dark, on paper and by a screen reader.

mod chart;
mod matrix;

use askama::Template;

use crate::exit::Exit;
use crate::judge::{Finding, Judgement, Severity, Verdict};
use crate::report::picture::{Picture, picture};
use crate::report::{CourseShown, Row, SaveRow, TimelineRow, View, view};

/// Findings of one code that are listed.
const SHOWN: usize = 50;
/// More nodes than this are boxes without a name.
const NAMED: usize = 160;

/// A drawing with its caption and the names of its lines.
struct Drawing {
    title: String,
    svg: String,
    keys: Vec<String>,
}

/// A heat map with what stands around it.
struct Heat {
    title: String,
    median: String,
    svg: String,
    worst: String,
}

#[derive(Template)]
#[template(path = "page.html", config = "src/report/html/askama.toml")]
struct Page<'j> {
    view: View<'j>,
    picture: Picture,
    mood: &'static str,
    many: bool,
    dense: bool,
    planes: String,
    matrices: Vec<Heat>,
    charts: Vec<Drawing>,
    spreads: Vec<Drawing>,
    runway: Option<Drawing>,
    style: &'static str,
    script: &'static str,
}

/// The page.
///
/// # Errors
/// None that writing to memory has.
pub fn render(j: &Judgement<'_>, record_path: &str) -> Result<String, askama::Error> {
    let picture = picture(j);
    let page = Page {
        view: view(j, record_path),
        mood: match j.decision.exit() {
            Exit::Go => "go",
            Exit::Hold => "hold",
            _ => "nogo",
        },
        many: j.record.header.nodes.len() > 1,
        dense: j.record.header.nodes.len() > NAMED,
        planes: picture.planes.join(", "),
        matrices: picture.matrices.iter().map(matrix::draw).collect(),
        charts: chart::curves(&picture.curves),
        spreads: picture.spreads.iter().map(chart::spread).collect(),
        runway: picture.runway.as_ref().map(|r| chart::runway(r, picture.interval_hours)),
        style: include_str!("page.css"),
        script: include_str!("page.js"),
        picture,
    };
    page.render()
}

fn severity(f: &Finding) -> &'static str {
    if f.weighs() { f.severity.name() } else { "waived" }
}

fn verdict(row: &Row) -> &'static str {
    match row.verdict {
        Verdict::NoLimit => "",
        Verdict::Pass => "good",
        Verdict::Warn => "warned",
        Verdict::Inconclusive(_) => "open",
        Verdict::Fail => "bad",
    }
}

/// A number for sorting; empty where there is none.
fn number(value: &Option<f64>) -> String {
    value.filter(|v| v.is_finite()).map_or(String::new(), |v| v.to_string())
}

/// The colour of a share of what is usual.
fn bucket(share: &Option<f64>) -> &'static str {
    match share {
        None => "hn",
        Some(s) if *s <= 0.0 => "h0",
        Some(s) if *s < 0.5 => "h1",
        Some(s) if *s < 0.8 => "h2",
        Some(s) if *s < 0.95 => "h3",
        Some(s) if *s <= 1.05 => "h4",
        Some(_) => "h5",
    }
}
