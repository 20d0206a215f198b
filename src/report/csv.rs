//! Every sample as a line, for who wants to count themselves.

use std::io::Write;

use rustc_hash::FxHashMap;

use crate::judge::Judgement;
use crate::work::Better;

const HEAD: [&str; 11] =
    ["node", "group", "probe", "step", "case", "attempt", "metric", "unit", "better", "sample", "value"];

/// Writes the table as it goes: of a large cluster it is larger than its record.
///
/// # Errors
/// Those of `out`.
pub fn render(j: &Judgement<'_>, out: &mut dyn Write) -> Result<(), csv::Error> {
    let steps: FxHashMap<&str, &crate::cluster::Step> = j.record.steps.iter().map(|s| (s.name.as_str(), s)).collect();
    let mut out = csv::Writer::from_writer(out);
    out.write_record(HEAD)?;
    for line in &j.record.outcomes {
        let Some(measured) = line.outcome.measured() else { continue };
        let step = steps.get(&*line.step);
        let group = step.and_then(|s| s.group_of(&line.node));
        let group = group.map_or(String::new(), |g| g.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        let attempt = line.attempt.to_string();
        let (node, group, case) = (plain(&line.node.to_string()), plain(&group), plain(&line.case.to_string()));
        let (probe, step) = (plain(line.probe.as_str()), plain(&line.step));
        for series in &measured.series {
            let unit = serde_json::to_value(series.unit).ok();
            let unit = unit.as_ref().and_then(|u| u.as_str()).unwrap_or("");
            let better = if series.better == Better::Higher { "higher" } else { "lower" };
            let metric = series.metric.name();
            for (i, value) in series.samples.iter().enumerate() {
                let (i, value) = (i.to_string(), value.to_string());
                out.write_record([&node, &group, &probe, &step, &case, &attempt, metric, unit, better, &i, &value])?;
            }
        }
    }
    Ok(out.flush()?)
}

/// Foreign text that no spreadsheet takes for a formula.
fn plain(text: &str) -> String {
    let text = crate::id::clean(text);
    if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.into_owned() }
}
