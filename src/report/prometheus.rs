//! OpenMetrics text for node_exporter's textfile collector or a push gateway: the decision, findings by code, medians and limits.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit as MetricUnit};

use crate::exit::Exit;
use crate::forecast::outlook;
use crate::judge::{Judgement, watched};
use crate::measure::SaveState;
use crate::unit::Unit;

type Labels = Vec<(String, String)>;

/// Values by their labels, written in that order: two reports of one record are the same, byte for byte. (The library's own family of
/// gauges is a map without an order.)
#[derive(Debug, Default)]
struct Values(BTreeMap<Labels, f64>);

impl Values {
    fn set(&mut self, pairs: &[(&str, &str)], value: f64) {
        self.0.insert(labels(pairs), value);
    }
}

impl EncodeMetric for Values {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.iter().try_for_each(|(labels, value)| encoder.encode_family(labels)?.encode_gauge(value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Series of a metric; a Prometheus that is sent more than this is not helped.
const MOST: usize = 100_000;

pub fn render(j: &Judgement<'_>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("gonogo");
    let header = &j.record.header;
    let mut decision = Values::default();
    for name in ["GO", "GO-WITHOUT", "NO-GO", "HOLD"] {
        let on = if j.decision.name() == name { 1.0 } else { 0.0 };
        decision.set(&[("decision", name)], on);
    }
    registry.register("decision", "1 for the decision that was made", decision);
    let go: Gauge = Gauge::default();
    go.set(i64::from(j.decision.exit() == Exit::Go));
    registry.register("go", "1 when the gate is open", go);
    let time: Gauge<f64, AtomicU64> = Gauge::default();
    time.set(header.started.as_millisecond() as f64 / 1e3);
    registry.register_with_unit("started", "When the check began", MetricUnit::Seconds, time);
    let nodes: Gauge = Gauge::default();
    nodes.set(header.nodes.len() as i64);
    registry.register("nodes", "Nodes that were checked", nodes);
    let mut build = Values::default();
    build.set(&[("version", &header.version), ("commit", &header.commit), ("tier", header.plan.tier.name())], 1.0);
    registry.register("build_info", "What measured", build);
    let mut found = Values::default();
    for f in j.findings.iter().filter(|f| f.weighs()) {
        let subject = f.subject.to_string();
        let of = [("code", f.code.as_str()), ("severity", f.severity.name()), ("subject", &subject)];
        *found.0.entry(labels(&of)).or_default() += 1.0;
    }
    registry.register("findings", "Findings that weigh, by code and severity", found);
    let mut coverage = Values::default();
    let c = &j.coverage;
    let not_done = c.cut_for_time + c.interrupted + c.not_reached + c.missing;
    let of = [("measured", c.measured), ("waived", c.waived), ("failed", c.failed), ("timed_out", c.timed_out)];
    for (state, n) in of.into_iter().chain([("not_done", not_done)]) {
        coverage.set(&[("state", state)], n as f64);
    }
    registry.register("cases", "Cases by what became of them", coverage);
    watch(j, &mut registry);
    metrics(j, &mut registry);
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}

/// Of a watch: room, and how long it lasts.
fn watch(j: &Judgement<'_>, registry: &mut Registry) {
    let Some((_, w)) = watched(j.record) else { return };
    let mut set = |name: &str, help: &str, unit: Option<MetricUnit>, value: f64| {
        let gauge: Gauge<f64, AtomicU64> = Gauge::default();
        gauge.set(value);
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, gauge),
            None => registry.register(name, help, gauge),
        }
    };
    set(
        "looked",
        "When the checkpoint directory was looked at",
        Some(MetricUnit::Seconds),
        w.at.as_millisecond() as f64 / 1e3,
    );
    set("checkpoint_available", "What may still be written", Some(MetricUnit::Bytes), w.space.available.as_f64());
    for state in [SaveState::Complete, SaveState::Writing, SaveState::Unclear, SaveState::Partial, SaveState::Moved] {
        let n = w.saves.iter().filter(|s| s.state == state).count();
        set(&format!("checkpoints_{}", state.name()), "Checkpoints by what is known of them", None, n as f64);
    }
    if let Some(last) = w.saves.iter().filter(|s| s.state != SaveState::Partial).map(|s| s.ended).max() {
        set(
            "checkpoint_saved",
            "When the latest was written",
            Some(MetricUnit::Seconds),
            last.as_millisecond() as f64 / 1e3,
        );
    }
    if let Some(o) = outlook(w, &j.record.header.plan.run) {
        set("checkpoint_size", "Of the next save", Some(MetricUnit::Bytes), o.size.as_f64());
        set("checkpoint_saves_that_fit", "Saves for which there is room", None, o.fit as f64);
        if let Some((_, middle, _)) = o.full.and_then(|f| f.seconds) {
            set("checkpoint_full", "Until the first save that does not fit", Some(MetricUnit::Seconds), middle);
        }
    }
}

fn metrics(j: &Judgement<'_>, registry: &mut Registry) {
    // One family a unit: a name must not mix bytes and seconds.
    let mut families: BTreeMap<&str, (Values, Values)> = BTreeMap::new();
    for cell in j.cells.iter().take(MOST) {
        let Some(summary) = cell.summary.filter(|s| s.median.is_finite()) else { continue };
        let (median, limit) = families.entry(unit_name(cell.series.unit)).or_default();
        let labels = labels(&[
            ("node", &who(&cell.row())),
            ("gpu", &cell.row().gpu().map_or(String::new(), |gpu| gpu.to_string())),
            ("probe", cell.row().probe),
            ("case", &cell.row().case.to_string()),
            ("metric", cell.series.metric.name()),
        ]);
        if let Some(l) = cell.limit().filter(|l| l.value.is_finite()) {
            limit.0.insert(labels.clone(), l.value);
        }
        median.0.insert(labels, summary.median);
    }
    for (unit, (median, limit)) in families {
        registry.register(format!("measured_{unit}"), "Median of a metric", median);
        registry.register(format!("expected_{unit}"), "What the median is held against", limit);
    }
}

/// The node by its name alone, so that it joins what other exporters say of it; or the group.
fn who(row: &crate::judge::Row<'_>) -> String {
    if row.group.is_empty() { row.node.to_string() } else { row.subject().to_string() }
}

const fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::FlopPerSecond => "flops",
        Unit::BytePerSecond => "bytes_per_second",
        Unit::Second => "seconds",
        Unit::OperationPerSecond => "operations_per_second",
        Unit::Byte => "bytes",
        Unit::Ratio => "ratio",
    }
}

/// Label values are foreign text: the library escapes quotes, backslashes and line feeds; nothing else may be in them.
fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), crate::id::clean(v).into_owned())).collect()
}
