//! Coverage, failures of probes, and wrong answers.

use std::collections::BTreeMap;

use crate::judge::Coverage;
use crate::judge::finding::{Finding, Severity, Subject, doc};
use crate::judge::rules::{Cases, Row, standing};
use crate::measure::{FailKind, Load, Measured, Outcome, WaiveKind};
use crate::plan::RunPlan;
use crate::record::Record;

/// Holds every planned case of every node against the record.
pub(super) fn coverage(
    record: &Record,
    run: &RunPlan,
    cases: &Cases<'_>,
    coverage: &mut Coverage,
    findings: &mut Vec<Finding>,
) {
    // Cases without a result are told once a step and reason, not once each.
    let mut lost: BTreeMap<(String, String, String), Vec<&str>> = BTreeMap::new();
    for node in &record.header.nodes {
        for step in &record.steps {
            for case in &step.cases {
                let row = Row { node, probe: step.probe.as_str(), step: &step.name, case };
                let outcome = cases.index.get(&row).and_then(|i| standing(&cases.rows[*i].1));
                coverage.count(outcome);
                let mut lose =
                    |why: &str| lost.entry((node.0.clone(), step.name.clone(), why.to_owned())).or_default().push(case);
                match outcome {
                    None => lose("not in the record: the run ended before it"),
                    Some(Outcome::Waived {
                        kind: WaiveKind::NoTime | WaiveKind::Interrupted | WaiveKind::NotReached,
                        why,
                    }) => lose(why),
                    Some(Outcome::Waived { why, .. })
                        if run.require.probes.iter().any(|p| p == step.probe.as_str()) =>
                    {
                        lose(why)
                    }
                    Some(Outcome::Waived { kind: WaiveKind::NotAsked, .. })
                        if row.probe == "storage" && *case == step.cases[0] =>
                    {
                        findings.push(Finding::new(
                            doc("COV-006"),
                            row.subject(),
                            "the storage probe was given no directory",
                        ));
                    }
                    Some(Outcome::Failed { kind, error }) => findings.push(failure(&row, *kind, error)),
                    Some(Outcome::TimedOut { after_ms }) => {
                        let evidence =
                            format!("{}, case `{case}`: killed after {:.1} s", step.name, *after_ms as f64 / 1e3);
                        findings.push(Finding::new(doc("RUN-002"), row.subject(), evidence));
                    }
                    Some(Outcome::Measured(_) | Outcome::Waived { .. }) => {}
                }
            }
        }
    }
    for ((node, step, why), cases) in lost {
        let what = if cases.len() == 1 { format!("case `{}`", cases[0]) } else { format!("{} cases", cases.len()) };
        findings.push(Finding::new(
            doc("COV-002"),
            Subject::Node(crate::id::NodeName(node)),
            format!("{step}, {what}: {why}"),
        ));
    }
    // The header says which probes were chosen: a record without their steps is not whole, whoever shortened it.
    for probe in record.header.plan.probes.iter().filter(|p| !record.steps.iter().any(|s| s.probe == **p)) {
        let evidence = format!("{probe} was chosen and has no step in the record");
        findings.push(Finding::new(doc("COV-002"), Subject::Run, evidence));
    }
    for probe in &run.require.probes {
        if !record.steps.iter().any(|s| s.probe.as_str() == probe) {
            findings.push(
                Finding::new(doc("COV-002"), Subject::Run, format!("{probe} was not planned"))
                    .limit("[require] probes of the plan"),
            );
        }
    }
    if coverage.measured == 0
        || !record.outcomes.iter().any(|l| l.outcome.measured().is_some_and(|m| !m.series.is_empty()))
    {
        findings.push(Finding::new(
            doc("COV-001"),
            Subject::Run,
            format!("no series of samples in the record; {}", coverage.sentence()),
        ));
    }
    if let Some(damage) = &record.damage {
        findings.push(Finding::new(doc("COV-005"), Subject::Run, damage.to_string()));
    }
    match &record.end {
        Some(end) if end.interrupted => findings.push(Finding::new(doc("COV-004"), Subject::Run, "a signal ended it")),
        Some(_) => {}
        None => {
            findings.push(Finding::new(doc("COV-004"), Subject::Run, "the record has no end: gonogo died before it"))
        }
    }
}

fn failure(row: &Row<'_>, kind: FailKind, error: &str) -> Finding {
    let code = match kind {
        FailKind::Error => "RUN-004",
        FailKind::Crashed => "RUN-001",
        FailKind::Junk => "RUN-003",
        FailKind::PathMissing => "STO-022",
        FailKind::NotADirectory => "STO-023",
        FailKind::ReadOnly | FailKind::NoPermission => "STO-024",
        FailKind::DiskFull => "STO-026",
        FailKind::NeverJoined => "CLU-001",
        FailKind::NodeLost => "CLU-002",
        FailKind::NodeSilent => "CLU-003",
        FailKind::OtherBuild => "CLU-004",
        FailKind::OtherPlan => "CLU-005",
        FailKind::OtherWorld => "CLU-006",
    };
    Finding::new(doc(code), row.subject(), format!("{}, case `{}`: {error}", row.step, row.case))
}

/// Wrong answers fail at any speed.
pub(super) fn checks(row: &Row<'_>, attempts: &[(&Measured, Option<Load>)], findings: &mut Vec<Finding>) {
    for check in attempts.iter().flat_map(|(m, _)| &m.checks).filter(|c| !c.ok) {
        let code = match (row.probe, check.name.as_str()) {
            ("gemm", "repeat") => "GEM-002",
            ("gemm", _) => "GEM-001",
            ("memory", _) => "MEM-001",
            ("tcp", _) => "NET-001",
            ("collective", _) => "COL-001",
            ("storage", "atomic") => "STO-027",
            ("storage", _) => "STO-001",
            // A probe of another version: wrong is wrong, whatever it is called.
            _ => "RUN-004",
        };
        let evidence = format!("{}, case `{}`, {}: {}", row.step, row.case, check.name, check.detail);
        findings.push(Finding::new(doc(code), row.subject(), evidence).severity(Severity::Fail));
    }
}
