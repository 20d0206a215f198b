//! The judged report as one JSON document, for scripts. The facts themselves are in the record.

use std::borrow::Cow;

use serde::Serialize;

use crate::baseline::Source;
use crate::id::NodeName;
use crate::judge::{Cell, Coverage, Decision, Finding, Judgement, Placement, Verdict};
use crate::plan::PlanHash;
use crate::record::Spent;
use crate::report::software::{Software, software};
use crate::unit::Unit;
use crate::work::{Case, Metric};

/// Version of this document's form.
const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Document<'j> {
    format: u32,
    #[serde(flatten)]
    decision: &'j Decision,
    exit_code: u8,
    nodes: &'j [NodeName],
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    joining_ms: Option<u64>,
    version: &'j str,
    run_hash: &'j PlanHash,
    record: &'j str,
    launcher: Option<&'j str>,
    placement: &'j Placement,
    coverage: &'j Coverage,
    #[serde(skip_serializing_if = "<[Spent]>::is_empty")]
    spent: &'j [Spent],
    findings: Vec<FindingOut<'j>>,
    metrics: Vec<MetricOut<'j>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    software: Vec<Software>,
}

#[derive(Serialize)]
struct FindingOut<'j> {
    #[serde(flatten)]
    finding: &'j Finding,
    title: &'static str,
    suspect: &'static str,
    remedy: Cow<'static, str>,
}

#[derive(Serialize)]
struct MetricOut<'j> {
    node: &'j NodeName,
    probe: &'j str,
    case: &'j Case,
    metric: Metric,
    unit: Unit,
    median: Option<f64>,
    interval: Option<(f64, f64)>,
    samples: usize,
    limit: Option<f64>,
    limit_source: Option<Source>,
    verdict: Verdict,
}

impl<'j> MetricOut<'j> {
    fn of(c: &'j Cell<'_>) -> Self {
        MetricOut {
            node: c.row().node,
            probe: c.row().probe,
            case: c.row().case,
            metric: c.series.metric,
            unit: c.series.unit,
            median: c.summary.map(|s| s.median),
            interval: c.summary.and_then(|s| s.interval),
            samples: c.summary.map_or(0, |s| s.n),
            limit: c.limit().map(|l| l.value),
            limit_source: c.limit().map(|l| l.source),
            verdict: c.verdict,
        }
    }
}

/// The document, with a line feed at its end.
pub fn render(j: &Judgement<'_>, record_path: &str) -> Result<String, serde_json::Error> {
    let header = &j.record.header;
    let document = Document {
        format: FORMAT,
        decision: &j.decision,
        exit_code: j.decision.exit().code(),
        nodes: &header.nodes,
        started: header.started.to_string(),
        joining_ms: header.joining_ms,
        version: &header.version,
        run_hash: &header.plan.run_hash,
        record: record_path,
        launcher: header.launcher.as_deref(),
        placement: &j.placement,
        coverage: &j.coverage,
        spent: j.record.end.as_ref().map_or(&[], |e| &e.spent),
        findings: j
            .findings
            .iter()
            .map(|f| FindingOut { finding: f, title: f.title(), suspect: f.suspect(), remedy: f.remedy() })
            .collect(),
        metrics: j.cells.iter().map(MetricOut::of).collect(),
        software: software(j),
    };
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}
