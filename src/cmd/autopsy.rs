//! `gonogo autopsy`: why a run died or hangs, where, and what to do before it starts again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use indicatif::ProgressBar;
use jiff::Timestamp;

use crate::autopsy::{self, Known, Sources};
use crate::cli;
use crate::cmd::Failure;
use crate::cmd::judge::{self as judging, Case as Judged};
use crate::cmd::measure::{header, own_name};
use crate::exit::Exit;
use crate::id::NodeName;
use crate::judge::{self, Code, Finding, Judgement, Severity, Subject, diff};
use crate::measure::{Change, Facts, Remains};
use crate::plan::{self, RunPlan, Selection};
use crate::probe;
use crate::record::{self, Record, Writer};
use crate::work::Fact;

pub(super) fn run(args: &cli::Autopsy) -> Result<Exit, Failure> {
    let given = [args.recorder.is_some(), args.ras.is_some(), args.slurm.is_some()];
    if args.logs.is_empty() && args.watches.is_empty() && !given.contains(&true) {
        return Err(Failure::usage(anyhow!(
            "give what the run left: --log FILE|DIR, --recorder DIR, --ras HOST:PORT|FILE, --slurm JOBID, --watch DIR"
        )));
    }
    let files = judging::files(&args.reports)?;
    let read = |path: &Option<PathBuf>| path.as_ref().map(|p| Judged::read(p, None, None)).transpose();
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let given = args.plan.as_ref().map(|path| plan::read(path)).transpose().map_err(Failure::usage)?;
    let run = given.or_else(|| before.as_ref().map(|b| b.record.header.plan.run.clone())).unwrap_or_default();
    let known = before.as_ref().map_or_else(Known::default, |b| Known::of(&b.record));
    let sources = Sources {
        logs: args.logs.clone(),
        recorder: args.recorder.clone(),
        ras: args.ras.clone(),
        slurm: args.slurm.clone(),
        watches: args.watches.clone(),
    };
    let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let progress = &mut |name: &str| bar.set_message(format!("reading {}", crate::id::clean(name)));
    let mut remains = autopsy::read(&sources, known, Timestamp::now(), progress).map_err(Failure::usage)?;
    bar.finish_and_clear();
    if let (Some(before), Some(after)) = (&before, &after) {
        remains.changes.extend(changes(&before.judge(), &after.judge()));
    }
    let record = record(remains, before.as_ref().map(|b| &b.record), run.clone())?;
    let judgement = judge::judge(&record, &run, &[]);
    let kept = args.out.as_ref().map(|out| keep(&record, out)).transpose()?;
    judging::show(&judgement, kept.as_deref().unwrap_or(Path::new("")), args.format, &files)?;
    Ok(judgement.decision.exit())
}

/// What speaks against somebody or something.
fn against<'j>(j: &'j Judgement<'_>) -> impl Iterator<Item = &'j Finding> {
    j.findings.iter().filter(|f| f.weighs() && f.severity >= Severity::Warn)
}

/// What the second check found and the first did not, and what else is not the same.
fn changes(before: &Judgement<'_>, after: &Judgement<'_>) -> Vec<Change> {
    let known: HashSet<(Code, &Subject)> = against(before).map(|f| (f.code, &f.subject)).collect();
    let new = against(after).filter(|f| !known.contains(&(f.code, &f.subject)));
    let change = |f: &Finding| Change {
        node: f.subject.node().cloned(),
        what: format!("{} {}: {}", f.code, f.title(), f.evidence),
        weighs: f.severity == Severity::Fail,
    };
    let mut out: Vec<Change> = new.map(change).collect();
    let boots: HashMap<&NodeName, _> = before.record.machines().map(|(node, m)| (node, &m.boot)).collect();
    for (node, machine) in after.record.machines() {
        if boots.get(node).is_some_and(|boot| **boot != machine.boot) {
            let what = "it was started anew between the two checks".to_owned();
            out.push(Change { node: Some(node.clone()), what, weighs: false });
        }
    }
    for (what, was, is) in diff(before, after, MARGIN).software {
        out.push(Change { node: None, what: format!("{what} was {was} and is {is}"), weighs: false });
    }
    out
}

/// Less than this is no change of a measurement.
const MARGIN: f64 = 0.05;

/// What was found, as a record that is judged and shown as any other: of the nodes of the check before it, or of those that the logs name.
fn record(remains: Remains, before: Option<&Record>, run: RunPlan) -> Result<Record, Failure> {
    let plan = plan::resolve(Selection::default(), run, &probe::names(), 1).map_err(Failure::usage)?;
    let named = || -> Vec<NodeName> {
        let of_ranks = remains.ranks.values().filter_map(|p| p.node.clone());
        let of_traces = remains.traces.iter().filter_map(|t| t.place.node.clone());
        of_ranks.chain(of_traces).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let mut nodes = before.map_or_else(named, |b| b.header.nodes.clone());
    if nodes.is_empty() {
        nodes.push(own_name());
    }
    let nodes: Vec<(NodeName, String)> = nodes.into_iter().map(|n| (n, String::new())).collect();
    let launcher = before.and_then(|b| b.header.launcher.clone());
    let mut header = header(plan, &nodes, launcher, before.map_or_else(Vec::new, |b| b.header.leaves.clone()));
    header.job = before.and_then(|b| b.header.job.clone());
    Ok(Record::of_fact(header, "autopsy", Fact::Remains, Facts::Remains(Box::new(remains))))
}

/// Into a new file of that folder.
fn keep(record: &Record, out: &Path) -> Result<PathBuf, Failure> {
    let path = out.join(record::NAME);
    let written = Writer::create(&path).and_then(|mut writer| writer.whole(record));
    written.with_context(|| format!("{}", out.display())).map_err(Failure::internal)?;
    Ok(path)
}
