//! JUnit XML: a suite a probe, a case a metric of a node or group; findings that belong to no metric stand in a suite of their own.
//!
//! A verdict that is open is a failure here: CI systems know no third way, and an open gate must not look green.

use std::collections::HashMap;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::id::clean;
use crate::judge::{Cell, Finding, Judgement, Severity, Verdict};
use crate::measure::Outcome;
use crate::report::software::software;
use crate::report::view::groups;

/// Cases of a suite; a cluster's worth of passes is of no use in a viewer, and failures are never cut.
const PASSES: usize = 2000;

pub fn render(j: &Judgement<'_>) -> Result<String, quick_junit::SerializeError> {
    let mut suites = Suites::default();
    // The gate itself comes first: it is what a pipeline turns red for.
    let go = j.decision.exit() == crate::exit::Exit::Go;
    let mut gate = TestCase::new("decision", status(go, "decision", j.decision.name(), &reasons(j)));
    gate.set_classname("gonogo");
    suites.add("gonogo", gate);
    findings(j, &mut suites);
    measurements(j, &mut suites);
    let header = &j.record.header;
    let took = j.record.end.as_ref().map(|e| e.ended.duration_since(header.started).as_secs_f64().max(0.0));
    if let Some((_, first)) = suites.0.first_mut() {
        first.set_time(Duration::from_secs_f64(took.unwrap_or(0.0)));
        for (name, value) in [("version", &header.version), ("commit", &header.commit)] {
            first.add_property((name, &*clean(value)));
        }
        first.add_property(("tier", header.plan.tier.name()));
        first.add_property(("started", header.started.to_string().as_str()));
        first.add_property(("decision", j.decision.name()));
    }
    let mut report = Report::new("gonogo");
    report.add_test_suites(suites.0.into_iter().map(|(_, s)| s));
    report.to_string()
}

/// Suites by name, in the order of their first case.
#[derive(Default)]
struct Suites(Vec<(String, TestSuite)>);

impl Suites {
    fn add(&mut self, name: &str, case: TestCase) {
        let name = &*clean(name);
        let at = self.0.iter().position(|(n, _)| n == name).unwrap_or_else(|| {
            self.0.push((name.to_owned(), TestSuite::new(name.to_owned())));
            self.0.len() - 1
        });
        self.0[at].1.add_test_case(case);
    }
}

fn findings(j: &Judgement<'_>, suites: &mut Suites) {
    for group in groups(&j.findings) {
        let first = group.first();
        let bad = first.weighs() && first.severity >= Severity::Hold;
        let text = group.findings.iter().map(|f| told(f)).collect::<Vec<_>>().join("\n\n");
        let mut case = TestCase::new(
            format!("{} {}", first.code, first.title()),
            status(!bad, first.code.as_str(), first.title(), &text),
        );
        case.set_classname("findings");
        if !bad {
            case.set_system_out(text);
        }
        suites.add("findings", case);
    }
}

/// What was measured, what an image brings, and what was waived.
fn measurements(j: &Judgement<'_>, suites: &mut Suites) {
    let mut passes: HashMap<&str, usize> = HashMap::new();
    for c in &j.cells {
        let good = !matches!(c.verdict, Verdict::Fail | Verdict::Inconclusive(_));
        let count = passes.entry(c.row().probe).or_default();
        if good && *count >= PASSES {
            continue;
        }
        *count += usize::from(good);
        let kind = c.verdict.to_string();
        let text = measured(c);
        let mut case = TestCase::new(name(c), status(good, &kind, &text, &text));
        case.set_classname(format!("{}.{}", clean(c.row().probe), who(c)));
        if good {
            case.set_system_out(text);
        }
        suites.add(c.row().probe, case);
    }
    for s in software(j) {
        let text = format!("{} {} {}", s.path, s.version, s.note);
        let mut case =
            TestCase::new(format!("{}: {}", s.part, s.name), status(s.loads, "does not load", &s.note, &text));
        case.set_classname("image");
        if s.loads {
            case.set_system_out(text);
        }
        suites.add("image", case);
    }
    for line in &j.record.outcomes {
        if let Outcome::Waived { why, .. } = &line.outcome {
            let count = passes.entry(line.probe.as_str()).or_default();
            if *count < PASSES {
                *count += 1;
                let mut skipped = TestCaseStatus::skipped();
                skipped.set_message(&*clean(why));
                let mut case = TestCase::new(line.case.to_string(), skipped);
                case.set_classname(format!("{}.{}", line.probe, line.node));
                suites.add(line.probe.as_str(), case);
            }
        }
    }
}

fn status(good: bool, kind: &str, message: &str, text: &str) -> TestCaseStatus {
    if good {
        return TestCaseStatus::success();
    }
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_type(kind.to_owned()).set_message(message.to_owned()).set_description(text.to_owned());
    status
}

fn reasons(j: &Judgement<'_>) -> String {
    let bad = j.findings.iter().filter(|f| f.weighs() && f.severity >= Severity::Hold);
    let lines: Vec<String> = bad.take(50).map(|f| format!("{} {}: {}", f.code, f.subject, f.evidence)).collect();
    lines.join("\n")
}

fn told(f: &Finding) -> String {
    let limit = if f.limit.is_empty() { String::new() } else { format!("\nlimit: {}", f.limit) };
    let waived = f.waived.as_ref().map_or(String::new(), |w| format!("\nwaived: {w}"));
    format!("{}: {}{limit}{waived}\nsuspect: {}\ndo: {}", f.subject, f.evidence, f.suspect(), f.remedy())
}

fn who(c: &Cell<'_>) -> String {
    c.row().subject().to_string().trim_start_matches("node ").to_owned()
}

fn name(c: &Cell<'_>) -> String {
    format!("{}: {} [{}]", c.row().case, c.series.metric, who(c))
}

fn measured(c: &Cell<'_>) -> String {
    let show = |v| c.series.unit.show(v);
    let value = c.summary.map_or("not a number".to_owned(), |s| show(s.median));
    let limit = c.limit().map_or(String::new(), |l| format!("; limit {} ({})", show(l.value), clean(&l.provenance)));
    format!("{value}{limit}")
}
