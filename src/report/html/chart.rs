//! Line charts and histograms by plotters. Colours are placeholders there and classes here, so that the page's style decides.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::forecast::Runway;
use crate::measure::stats;
use crate::report::html::Drawing;
use crate::report::html::matrix::escaped;
use crate::report::picture::{Curve, Spread};
use crate::unit::{Bytes, Unit};
use crate::work::Better;

/// Pixels of the drawing's own coordinates; the page scales it.
const SIZE: (u32, u32) = (480, 300);
/// Lines in one chart: more cannot be told apart.
const LINES: usize = 8;
/// Placeholders: no other colour of a drawing is as dark.
const INK: RGBColor = RGBColor(2, 2, 2);
const GRID: RGBColor = RGBColor(3, 3, 3);
const LIMIT: RGBColor = RGBColor(4, 4, 4);
const BAR: RGBColor = RGBColor(5, 5, 5);

const fn line_colour(i: usize) -> RGBColor {
    RGBColor(1, 1, 16 + i as u8)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Name, points, and whether it is what is expected.
type Line = (String, Vec<(f64, f64)>, bool);
type Failed = Box<dyn std::error::Error>;

fn svg(label: &str, draw: impl FnOnce(&Area<'_>) -> Result<(), Failed>) -> String {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        // Drawing to memory fails only on ranges that are no ranges: the caption then stands alone.
        if draw(&area).and_then(|()| Ok(area.present()?)).is_err() {
            return String::new();
        }
    }
    let mut text = text.replace(
        &format!("<svg width=\"{}\" height=\"{}\"", SIZE.0, SIZE.1),
        &format!("<svg role=\"img\" aria-label=\"{}\"", escaped(label)),
    );
    for (i, class) in (0..LINES).map(|i| (i, format!("l{i}"))) {
        let c = line_colour(i);
        let hex = format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2);
        text = text.replace(&format!("stroke=\"{hex}\""), &format!("class=\"{class}\""));
        text = text.replace(&format!("fill=\"{hex}\""), &format!("style=\"fill:var(--s{i})\""));
    }
    for (attribute, hex, class) in [
        ("fill", "#020202", "ink"),
        ("stroke", "#020202", "grid"),
        ("stroke", "#030303", "grid"),
        ("stroke", "#040404", "limit"),
        ("fill", "#050505", "bar"),
    ] {
        text = text.replace(&format!("{attribute}=\"{hex}\""), &format!("class=\"{class}\""));
    }
    text
}

/// A logarithmic range whose ticks are whole powers: of two for sizes, of ten for what is measured.
struct Log {
    range: Range<f64>,
    base: f64,
    show: fn(f64) -> String,
}

impl Log {
    fn of(values: impl Iterator<Item = f64>, base: f64, show: fn(f64) -> String) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for v in values.filter(|v| v.is_finite() && *v > 0.0) {
            (low, high) = (low.min(v), high.max(v));
        }
        if low > high {
            (low, high) = (1.0, base);
        }
        Log { range: low * 0.8..high * 1.25, base, show }
    }
}

impl Ranged for Log {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let (low, high) = (self.range.start.ln(), self.range.end.ln());
        let share = (value.max(f64::MIN_POSITIVE).ln() - low) / (high - low).max(1e-9);
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let most = hint.max_num_points().clamp(2, 8);
        let (low, high) = (self.range.start.log(self.base).floor() as i32, self.range.end.log(self.base).ceil() as i32);
        let inside = |v: &f64| *v >= self.range.start && *v <= self.range.end;
        let step = (high - low) as usize / most + 1;
        let powers: Vec<f64> = (low..=high).step_by(step).map(|p| self.base.powi(p)).filter(inside).collect();
        // Within a decade there is no power, or one: 1, 2 and 5 times it.
        if powers.len() > 2 || self.base < 10.0 {
            return powers;
        }
        (low..=high).flat_map(|p| [1.0, 2.0, 5.0].map(|m| m * self.base.powi(p))).filter(inside).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Log {
    fn format_ext(&self, value: &f64) -> String {
        (self.show)(*value)
    }
}

fn bytes(v: f64) -> String {
    Bytes::from_f64(v).to_string()
}

fn seconds(v: f64) -> String {
    Unit::Second.show(v)
}

fn rate(v: f64) -> String {
    Unit::BytePerSecond.show(v)
}

/// Latency and bus bandwidth over message sizes, a chart for each carrier and as many lines as it has topologies.
pub(super) fn curves(all: &[Curve]) -> Vec<Drawing> {
    let mut out = Vec::new();
    for group in all.chunks(LINES) {
        for (what, show, points) in [
            ("latency", seconds as fn(f64) -> String, (|c: &Curve| c.latency.clone()) as fn(&Curve) -> Vec<(f64, f64)>),
            ("bus bandwidth", rate, |c: &Curve| c.busbw.clone()),
        ] {
            let mut lines: Vec<Line> = group.iter().map(|c| (c.name.clone(), points(c), false)).collect();
            let expected = group.iter().filter(|c| what == "bus bandwidth" && !c.expected.is_empty());
            lines.extend(expected.map(|c| (String::new(), c.expected.clone(), true)));
            if lines.iter().all(|(_, p, _)| p.is_empty()) {
                continue;
            }
            let keys = group.iter().map(|c| c.name.clone()).collect();
            let title = format!("{what} of all-reduce");
            let drawn = svg(&title, |area| log_lines(area, &lines, show));
            out.push(Drawing { title: format!("{title}; dashed is what is expected"), svg: drawn, keys });
        }
    }
    for d in &mut out {
        if !d.svg.contains("class=\"limit\"") {
            d.title = d.title.replace("; dashed is what is expected", "");
        }
    }
    out
}

fn log_lines(area: &Area<'_>, lines: &[Line], show: fn(f64) -> String) -> Result<(), Failed> {
    let all = || lines.iter().flat_map(|(_, p, _)| p.iter());
    let x = Log::of(all().map(|p| p.0), 2.0, bytes);
    let y = Log::of(all().map(|p| p.1), 10.0, show);
    let mut chart =
        ChartBuilder::on(area).margin(8).x_label_area_size(28).y_label_area_size(78).build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .axis_style(GRID)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .x_labels(6)
        .y_labels(6)
        .draw()?;
    for (i, (_, points, expected)) in lines.iter().enumerate() {
        let colour = if *expected { LIMIT } else { line_colour(i % LINES) };
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        if !expected {
            chart.draw_series(points.iter().map(|p| Circle::new(*p, 3, colour.filled())))?;
        }
    }
    Ok(())
}

/// One metric over nodes or GPUs, as a histogram; the limit as a line.
pub(super) fn spread(s: &Spread) -> Drawing {
    let values: Vec<f64> = s.values.iter().map(|(_, v)| *v).filter(|v| v.is_finite()).collect();
    let (low, high) = values.iter().fold((f64::INFINITY, 0.0f64), |(l, h), v| (l.min(*v), h.max(*v)));
    // A limit far away would press all values into one bar.
    let near = |l: &f64| *l > low * 0.7 && *l < high * 1.4;
    let limit = s.limit.filter(near);
    let (low, high) = (limit.map_or(low, |l| l.min(low)), limit.map_or(high, |l| l.max(high)));
    let pad = ((high - low) * 0.05).max(high.abs() * 0.005).max(1e-12);
    let range = low - pad..high + pad;
    let bins = ((values.len() as f64).sqrt() * 2.0).clamp(8.0, 40.0) as usize;
    let width = (range.end - range.start) / bins as f64;
    let mut counts = vec![0u32; bins];
    for v in &values {
        counts[(((v - range.start) / width) as usize).min(bins - 1)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(1);
    let unit = s.unit;
    let drawn = svg(&s.title, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(40)
            .build_cartesian_2d(range.clone(), 0f64..f64::from(most) * 1.05)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(GRID)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", 14).into_font().color(&INK))
            .x_labels(4)
            .y_labels(4)
            .x_label_formatter(&|v| unit.show(*v))
            .y_label_formatter(&|v| format!("{v:.0}"))
            .draw()?;
        chart.draw_series(counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, n)| {
            let x = range.start + width * i as f64;
            Rectangle::new([(x + width * 0.06, 0.0), (x + width * 0.94, f64::from(*n))], BAR.filled())
        }))?;
        if let Some(l) = limit {
            let line = [(l, 0.0), (l, f64::from(most) * 1.05)];
            chart.draw_series(LineSeries::new(line, LIMIT.stroke_width(2)))?;
        }
        Ok(())
    });
    let mut order: Vec<&(String, f64)> = s.values.iter().collect();
    order.sort_by(|a, b| if s.better == Better::Higher { a.1.total_cmp(&b.1) } else { b.1.total_cmp(&a.1) });
    let worst: Vec<String> = order.iter().take(3).map(|(who, v)| format!("{who} {}", unit.show(*v))).collect();
    let mut keys = vec![
        format!("{} values, median {}", values.len(), unit.show(stats::median(&values))),
        format!("worst {}", worst.join(", ")),
    ];
    keys.extend(s.limit.map(|l| format!("limit {}", unit.show(l))));
    Drawing { title: s.title.clone(), svg: drawn, keys }
}

/// What checkpoints take over the hours of the run, and what there is.
pub(super) fn runway(r: &Runway, interval_hours: Option<f64>) -> Drawing {
    let size = r.size.as_f64();
    let until = r.hours_until_failure.map_or(String::new(), |h| format!("; full after {h:.1} h"));
    let verdict = if r.fits { "fits" } else { "does not fit" };
    let title =
        format!("{} a checkpoint, {} kept: needs {} of {} free, {verdict}{until}", r.size, r.kept, r.need, r.available);
    let saves = r.kept.saturating_add(2).min(r.saves_that_fit.saturating_mul(2).max(8)).clamp(2, 2000);
    let every = interval_hours.unwrap_or(1.0);
    let ceiling = r.available.as_f64().max(1.0);
    let keep = r.kept.saturating_add(2) as f64;
    let points: Vec<(f64, f64)> = (0..=saves)
        .flat_map(|k| {
            let used = (k as f64).min(keep) * size;
            [(k as f64 * every, used), ((k + 1) as f64 * every, used)]
        })
        .collect();
    let last = points.last().map_or(1.0, |p| p.0);
    let top = points.iter().map(|p| p.1).fold(ceiling, f64::max) * 1.08;
    let hours = interval_hours.is_some();
    let drawn = svg(&title, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(78)
            .build_cartesian_2d(0f64..last, 0f64..top)?;
        chart
            .configure_mesh()
            .axis_style(GRID)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", 14).into_font().color(&INK))
            .x_labels(5)
            .y_labels(5)
            .x_label_formatter(&|v| if hours { format!("{v:.0} h") } else { format!("save {v:.0}") })
            .y_label_formatter(&|v| bytes(*v))
            .draw()?;
        chart.draw_series(LineSeries::new(points.iter().copied(), line_colour(0).stroke_width(2)))?;
        chart.draw_series(LineSeries::new([(0.0, ceiling), (last, ceiling)], LIMIT.stroke_width(2)))?;
        Ok(())
    });
    Drawing { title, svg: drawn, keys: Vec::new() }
}
