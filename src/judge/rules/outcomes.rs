//! Coverage, failures of probes, and wrong answers.

use std::collections::{BTreeMap, HashSet};

use rustc_hash::FxHashMap;

use crate::cluster::{PRESENCE, Shape, Step};
use crate::id::NodeName;
use crate::judge::Coverage;
use crate::judge::cell::Row;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Proof, Rule, Subject};
use crate::judge::rules::{Cases, standing};
use crate::judge::severity::Severity;
use crate::localise::is_pairs;
use crate::measure::{Check, Facts, FailKind, Measured, Outcome, WaiveKind};
use crate::plan::RunPlan;
use crate::record::{OutcomeLine, Record};
use crate::work::{Case, CheckName};

/// Holds every planned case of every node against the record.
pub(super) fn coverage<'r>(record: &'r Record, run: &RunPlan, cases: &Cases<'r>) -> (Coverage, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut coverage = Coverage {
        skipped_probes: record.header.plan.skipped.iter().map(|p| p.to_string()).collect(),
        ..Coverage::default()
    };
    let mut tally = Tally::default();
    for step in &record.steps {
        let alone: Vec<&NodeName> = record.header.nodes.iter().collect();
        let first: Vec<&NodeName> = step.groups().map(|g| &g[0]).collect();
        for node in if step.shape == Shape::Each { &alone } else { &first } {
            let group = step.group_of(node);
            for case in &step.cases {
                let together = group.unwrap_or(&[]);
                let row = Row { node, probe: step.probe.as_str(), step: &step.name, case, group: together };
                let line = standing(cases.find(&row));
                coverage.count(line.map(|l| &l.outcome));
                tally.one(run, step, &row, line, &mut findings);
            }
        }
    }
    tally.tell(&mut findings);
    planned(record, run, &mut findings);
    ended(record, &coverage, &mut findings);
    (coverage, findings)
}

/// What is told once for many cases.
#[derive(Default)]
struct Tally<'r> {
    /// Cases without a result, by subject, step and reason.
    lost: BTreeMap<(Subject, String, String), Vec<&'r Case>>,
    /// The same error of the same GPU or node: the first case, with how many others.
    broken: Vec<(Row<'r>, FailKind, &'r str, usize)>,
    /// Where it stands in `broken`.
    told: FxHashMap<(&'r NodeName, &'r str, Option<u32>, &'r str), usize>,
}

impl<'r> Tally<'r> {
    /// A planned case, and the outcome that stands for it.
    fn one(
        &mut self,
        run: &RunPlan,
        step: &Step,
        row: &Row<'r>,
        line: Option<&'r OutcomeLine>,
        findings: &mut Vec<Finding>,
    ) {
        let case = row.case;
        let group = Some(row.group).filter(|g| !g.is_empty());
        // Whose fault it is has a finding of its own; the others of its group are not blamed.
        let blamed = line.is_some_and(|l| l.blame.is_some());
        match line.map(|l| &l.outcome) {
            Some(Outcome::Waived { .. }) if blamed => {}
            Some(Outcome::Failed { kind: FailKind::NodeLost | FailKind::NodeSilent, .. }) if step.probe != PRESENCE => {
            }
            // What a file system refuses all nodes together, it is asked about as if one had met it.
            Some(Outcome::Failed { kind, error }) if group.is_some() && !blamed && is_save(case) => {
                self.fail(row, *kind, error);
            }
            Some(Outcome::TimedOut { after_ms, missing }) if group.is_some() && !blamed && is_save(case) => {
                let evidence = format!("{}, case `{case}`: {}", step.name, killed(*after_ms, missing));
                findings.push(Finding::new(Code::RUN_002, row.subject(), evidence));
            }
            Some(Outcome::Failed { kind, error }) if group.is_some() => {
                of_group(step, row.group, line, *kind, &format!("case `{case}`: {error}"), findings);
            }
            Some(Outcome::TimedOut { after_ms, missing }) if group.is_some() => {
                let error = format!("case `{case}`: {}", killed(*after_ms, missing));
                of_group(step, row.group, line, FailKind::Error, &error, findings);
            }
            // A pair whose first direction failed does not try the second.
            Some(Outcome::Waived { kind: WaiveKind::NotReached, .. }) if group.is_some() && !is_save(case) => {}
            None => self.lose(row, "not in the record: the run ended before it"),
            Some(Outcome::Waived { kind: WaiveKind::NoTime | WaiveKind::Interrupted | WaiveKind::NotReached, why }) => {
                self.lose(row, why)
            }
            Some(Outcome::Waived { why, .. }) if run.require.probes.iter().any(|p| p == row.probe) => {
                self.lose(row, why);
            }
            Some(Outcome::Waived { kind: WaiveKind::NotAsked, .. })
                if row.probe == "storage" && *case == step.cases[0] =>
            {
                let evidence = "the storage probe was given no directory";
                findings.push(Finding::new(Code::COV_006, row.subject(), evidence));
            }
            // Who loads such a library dies or hangs with it.
            Some(Outcome::Failed { kind: FailKind::Crashed, error }) if row.probe == "image" => {
                findings.push(Finding::new(Code::IMG_001, Subject::Image, format!("{case}: {error}")));
            }
            Some(Outcome::TimedOut { after_ms, missing }) if row.probe == "image" => {
                let evidence = format!("{case}: loading it did not end, {}", killed(*after_ms, missing));
                findings.push(Finding::new(Code::IMG_001, Subject::Image, evidence));
            }
            Some(Outcome::Failed { kind, error }) => self.fail(row, *kind, error),
            Some(Outcome::TimedOut { after_ms, missing }) => {
                let evidence = format!("{}, case `{case}`: {}", step.name, killed(*after_ms, missing));
                findings.push(Finding::new(Code::RUN_002, row.subject(), evidence));
            }
            Some(Outcome::Measured(_) | Outcome::Waived { .. }) => {}
        }
    }

    fn lose(&mut self, row: &Row<'r>, why: &str) {
        // A step of several nodes that did not run says nothing against its first one.
        let place = if row.group.is_empty() { row.subject() } else { Subject::Run };
        self.lost.entry((place, row.step.to_owned(), why.to_owned())).or_default().push(row.case);
    }

    fn fail(&mut self, row: &Row<'r>, kind: FailKind, error: &'r str) {
        let broken = &mut self.broken;
        let place = *self.told.entry((row.node, row.step, row.gpu(), error)).or_insert_with(|| {
            broken.push((*row, kind, error, 0));
            broken.len() - 1
        });
        broken[place].3 += 1;
    }

    fn tell(self, findings: &mut Vec<Finding>) {
        findings.extend(self.broken.into_iter().map(|(row, kind, error, cases)| failure(&row, kind, error, cases)));
        for ((subject, step, why), cases) in self.lost {
            let what = if cases.len() == 1 { format!("case `{}`", cases[0]) } else { format!("{} cases", cases.len()) };
            findings.push(Finding::new(Code::COV_002, subject, format!("{step}, {what}: {why}")));
        }
    }
}

/// Probes that were chosen, or that the plan requires, and have no step.
fn planned(record: &Record, run: &RunPlan, findings: &mut Vec<Finding>) {
    // The header says which probes were chosen: a record without their steps is not whole, whoever shortened it.
    for probe in record.header.plan.probes.iter().filter(|p| !record.steps.iter().any(|s| s.probe == **p)) {
        let evidence = format!("{probe} was chosen and has no step in the record");
        findings.push(Finding::new(Code::COV_002, Subject::Run, evidence));
    }
    for probe in &run.require.probes {
        if !record.steps.iter().any(|s| s.probe.as_str() == probe) {
            findings.push(
                Finding::new(Code::COV_002, Subject::Run, format!("{probe} was not planned"))
                    .limit("[require] probes of the plan"),
            );
        }
    }
}

/// Whether the record proves anything, is whole, and has an end.
fn ended(record: &Record, coverage: &Coverage, findings: &mut Vec<Finding>) {
    if coverage.measured == 0 || !record.outcomes.iter().any(|l| l.outcome.measured().is_some_and(proves)) {
        let evidence = format!("no series of samples in the record; {}", coverage.sentence());
        findings.push(Finding::new(Code::COV_001, Subject::Run, evidence));
    }
    if let Some(damage) = &record.damage {
        findings.push(Finding::new(Code::COV_005, Subject::Run, damage.to_string()));
    }
    let evidence = match &record.end {
        Some(end) if end.interrupted => "a signal ended it",
        Some(_) => return,
        None => "the record has no end: gonogo died before it",
    };
    findings.push(Finding::new(Code::COV_004, Subject::Run, evidence));
}

/// A group's failure: of the node that is to blame, of nobody when the localiser will tell, else of the group.
fn of_group(
    step: &Step,
    group: &[NodeName],
    line: Option<&OutcomeLine>,
    kind: FailKind,
    error: &str,
    findings: &mut Vec<Finding>,
) {
    let Some(line) = line else { return };
    let evidence = format!("{}, {error}", step.name);
    if let Some(node) = line.blame.as_deref() {
        let code = if kind == FailKind::Junk { Code::RUN_003 } else { Code::RUN_001 };
        findings.push(Finding::new(code, Subject::Node(node.clone()), evidence));
    } else if !is_pairs(step) {
        findings.push(Finding::new(Code::COL_021, Subject::Group(group.to_vec()), evidence));
    }
}

fn is_save(case: &Case) -> bool {
    matches!(case, Case::Checkpoint { .. })
}

/// What pairs and ladders found of a node.
fn of_network(code: Code) -> bool {
    matches!(
        code,
        Code::NET_020
            | Code::NET_021
            | Code::NET_022
            | Code::NET_023
            | Code::NET_024
            | Code::NET_025
            | Code::NET_026
            | Code::NET_027
            | Code::NET_028
            | Code::NET_029
    )
}

/// A wrong answer. Whatever else is wrong with one of those who made it: slowness and crashes corrupt nothing.
fn is_wrong(code: Code) -> bool {
    matches!(code, Code::NET_001 | Code::RDM_011 | Code::COL_001)
}

/// What a group suffered from a node that is found guilty otherwise is that node's, not the group's. What is waived excuses nothing: the
/// node stays in the run.
pub(super) fn excuse(findings: &mut [Finding]) {
    let weighs = |f: &&Finding| f.weighs() && f.severity >= Severity::Hold;
    let guilty: HashSet<NodeName> = findings.iter().filter(weighs).filter_map(|f| f.subject.node().cloned()).collect();
    // A node that computes slowly moves bytes slowly: the network is not the place to look first.
    let slow: HashSet<NodeName> = findings
        .iter()
        .filter(|f| f.code == Code::PER_001 && f.severity == Severity::Fail)
        .filter_map(|f| f.subject.node().cloned())
        .collect();
    for f in findings {
        if of_network(f.code) && f.subject.node().is_some_and(|n| slow.contains(n)) {
            f.evidence.push_str("; the node itself is slow (PER-001): look there first");
        }
        let by = match &f.subject {
            _ if is_wrong(f.code) => None,
            // Where all are suspected, nobody of them explains the others.
            Subject::Group(nodes) if nodes.iter().all(|n| guilty.contains(n)) => None,
            Subject::Group(nodes) => nodes.iter().find(|n| guilty.contains(n)),
            Subject::Link(a, b) => [a, b].into_iter().find(|n| guilty.contains(n)),
            _ => None,
        };
        if let Some(node) = by.cloned() {
            f.severity = Severity::Info;
            f.evidence.push_str(&format!("; {node} is in it"));
        }
    }
}

fn failure(row: &Row<'_>, kind: FailKind, error: &str, cases: usize) -> Finding {
    let code = match kind {
        FailKind::Error => Code::RUN_004,
        FailKind::Gpu => Code::GPU_023,
        FailKind::Stalled => Code::NET_031,
        FailKind::Crashed => Code::RUN_001,
        FailKind::Junk => Code::RUN_003,
        FailKind::PathMissing => Code::STO_022,
        FailKind::NotADirectory => Code::STO_023,
        FailKind::ReadOnly | FailKind::NoPermission => Code::STO_024,
        FailKind::DiskFull => Code::STO_026,
        FailKind::Unseen => Code::STO_041,
        FailKind::NeverJoined => Code::CLU_001,
        FailKind::KeptOut => Code::CLU_011,
        FailKind::NodeLost => Code::CLU_002,
        FailKind::NodeSilent => Code::CLU_003,
        FailKind::OtherBuild => Code::CLU_004,
        FailKind::OtherPlan => Code::CLU_005,
        FailKind::OtherWorld => Code::CLU_006,
    };
    // What a GPU did is the GPU's.
    let subject = match row.gpu().filter(|_| row.on_gpu()) {
        Some(gpu) => Subject::Gpu(row.node.clone(), gpu),
        None => row.subject(),
    };
    let others = if cases > 1 { format!(" and {} more", cases - 1) } else { String::new() };
    let finding = Finding::new(code, subject, format!("{}, case `{}`{others}: {error}", row.step, row.case));
    finding.proven(Rule::Outcome, vec![proof(row)])
}

/// An outcome as what a finding rests on.
fn proof(row: &Row<'_>) -> Proof {
    let to = row.group.get(1).filter(|_| row.group.len() == 2).cloned();
    Proof { to, ..Proof::new(row.node, row.step, row.case) }
}

/// Samples say something of a machine, a library that was loaded something of an image.
fn proves(m: &Measured) -> bool {
    !m.series.is_empty() || matches!(m.facts.as_deref(), Some(Facts::Software(_)))
}

/// Wrong answers fail at any speed.
pub(super) fn checks<'r>(row: &Row<'_>, all: impl Iterator<Item = &'r Check>, findings: &mut Vec<Finding>) {
    for check in all.filter(|c| !c.ok) {
        let code = match check.name {
            CheckName::Residual | CheckName::Repeat if row.on_gpu() => Code::GEM_004,
            CheckName::Residual => Code::GEM_001,
            CheckName::Repeat => Code::GEM_002,
            CheckName::SameBits => Code::GEM_003,
            CheckName::Pattern if row.on_gpu() => Code::MEM_002,
            CheckName::Pattern => Code::MEM_001,
            CheckName::Payload if matches!(row.case, Case::Copy { .. }) => Code::CPY_001,
            CheckName::Payload if row.probe == "rdma" => Code::RDM_011,
            CheckName::Payload => Code::NET_001,
            CheckName::Sum => Code::COL_001,
            CheckName::Checksum => Code::STO_001,
            CheckName::Atomic => Code::STO_027,
        };
        let evidence = format!("{}, case `{}`, {}: {}", row.step, row.case, check.name, check.detail);
        let finding = Finding::new(code, row.subject(), evidence).severity(Severity::Fail);
        findings.push(finding.proven(Rule::Outcome, vec![proof(row)]));
    }
}

/// How a step that ran out of time is told, and who held it up.
fn killed(after_ms: u64, missing: &[u32]) -> String {
    let seconds = after_ms as f64 / 1e3;
    let names: Vec<String> = missing.iter().take(8).map(|r| format!("rank {r}")).collect();
    match names.len() {
        0 => format!("killed after {seconds:.1} s"),
        _ => format!("killed after {seconds:.1} s; the others waited for {}", names.join(", ")),
    }
}
