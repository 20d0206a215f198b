//! What a watcher saw of a run's checkpoints -> findings.

use crate::forecast::{Full, Outlook, Place, outlook};
use crate::id::NodeName;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::judge::severity::Severity;
use crate::measure::{self, Save, SaveState, Trouble, Watched};
use crate::plan::{RunPlan, Time, WatchPlan};
use crate::record::Record;
use crate::unit::Bytes;
use crate::work::{Case, Fact};

/// So many intervals without a save are no jitter.
const SILENT: f64 = 2.0;
/// So many saves are a long run.
const FAR: u64 = 1000;
/// Seconds of a move that is none to speak of.
const SLOW_MOVE: f64 = 60.0;
/// Seconds of silence that are none, however often saves come.
const LEAST_SILENT: f64 = 300.0;
/// A save that takes or weighs so many times what the plan says is told.
const MORE: f64 = 1.25;
/// As many names as a line holds.
const SHOWN: usize = 4;

/// What was seen last, and where.
pub fn latest(record: &Record) -> Option<(&NodeName, &Watched)> {
    // A check has a million lines, and none of them is a watch's.
    record.steps.iter().find(|s| s.cases.contains(&Case::Fact(Fact::Checkpoints)))?;
    let mut seen = record.outcomes.facts().filter_map(|(line, f)| match f {
        measure::Facts::Watched(w) => Some((&*line.node, &**w)),
        _ => None,
    });
    seen.next_back()
}

pub(super) fn findings(node: &NodeName, w: &Watched, run: &RunPlan, findings: &mut Vec<Finding>) {
    let subject = || Subject::Path(node.clone(), w.dir.clone());
    // Where nothing is moved, whether a save is complete matters to nobody but its reader.
    let moves = run.watch.as_ref().is_some_and(WatchPlan::moves);
    let weight = |code: Code| if code == Code::STO_056 && !moves { Severity::Info } else { code.doc().severity };
    let mut add = |code: Code, evidence: String| {
        findings.push(Finding::new(code, subject(), evidence).severity(weight(code)));
    };
    for trouble in &w.troubles {
        told(trouble, w, &mut add);
    }
    let named = |state: SaveState| -> Vec<&Save> { w.saves.iter().filter(|s| s.state == state).collect() };
    let partial = named(SaveState::Partial);
    if !partial.is_empty() {
        let bytes = Bytes(partial.iter().fold(0, |sum, s| sum.saturating_add(s.bytes.0)));
        add(Code::STO_052, format!("{}: {bytes} of the space; later ones are complete", list(&partial)));
    }
    let unclear = named(SaveState::Unclear);
    if !unclear.is_empty() {
        let why = match w.layout {
            Some(layout) => format!("they stopped growing, and what {layout} writes last does not name them"),
            None => "they stopped growing, and their layout is not known".to_owned(),
        };
        add(Code::STO_056, format!("{}: {why}; none of them is moved", list(&unclear)));
    }
    if let Some(o) = outlook(w, run) {
        space(w, &o, &mut add);
        planned(w, run, &o, &mut add);
    }
}

fn list(saves: &[&Save]) -> String {
    let names: Vec<&str> = saves.iter().take(SHOWN).map(|s| s.name.as_str()).collect();
    let more = if saves.len() > SHOWN { format!(" and {} more", saves.len() - SHOWN) } else { String::new() };
    format!("{}{more}", names.join(", "))
}

fn told(trouble: &Trouble, w: &Watched, add: &mut dyn FnMut(Code, String)) {
    let cold = w.cold.as_ref().map_or("the cold place", |c| &c.place);
    match trouble {
        Trouble::CopyDiffers { save, path } => {
            add(Code::STO_053, format!("{path} of {save}, read back from {cold}, is not what was written there"));
        }
        Trouble::ColdFull { save, needed, available } => {
            add(Code::STO_054, format!("{cold} has {available} free, and {save} needs {needed}"));
        }
        Trouble::MoveFails { save, error, times } => {
            add(Code::STO_054, format!("{save} could not be moved to {cold}, {times} times: {error}"));
        }
        Trouble::OtherMount { was, now } => {
            add(Code::STO_055, format!("it was {was} when the watch began and is {now} now"));
        }
        Trouble::Gone { error } => add(Code::STO_055, error.clone()),
        Trouble::Unmovable { save, path, why } => add(Code::STO_057, format!("{path} of {save} {why}")),
        Trouble::Unreadable { save, error } => add(Code::STO_057, format!("{save} cannot be read: {error}")),
        Trouble::Leftover { path, error } => add(Code::STO_054, format!("{path} {error}")),
        Trouble::SameFilesystem => {
            add(Code::STO_054, format!("{cold} is on the same file system: what is moved there frees nothing here"));
        }
        Trouble::Journal { error } => add(Code::STO_059, format!("the journal cannot be written: {error}")),
        Trouble::Hook { error } => add(Code::STO_059, format!("the command for the alarm: {error}")),
    }
}

/// Whether the next save fits, and which will not.
fn space(w: &Watched, o: &Outlook, add: &mut dyn FnMut(Code, String)) {
    let free = format!("{} free of {} by {}", w.space.available, w.space.total, w.space.bound.text());
    if o.fit == 0 {
        add(Code::STO_050, format!("{free}, and a save takes {}", o.size));
        return;
    }
    // Where the plan does not say how long the run is, what lies far ahead is nobody's matter.
    let ahead = |f: &Full| f.after_the_run.map_or(f.save <= FAR, |after| !after);
    let Some(full) = o.full.filter(ahead) else { return };
    let where_ = match full.place {
        Place::Hot => free,
        Place::Cold => {
            let cold = w.cold.as_ref().and_then(|c| c.available).map_or(String::new(), |a| format!("{a} free in "));
            format!("{cold}{}", w.cold.as_ref().map_or("the cold place", |c| &c.place))
        }
    };
    add(Code::STO_051, format!("{where_}: {}", ending(&full, o)));
}

/// `the 4th save from now fails, in 24.4 h (21.0 to 27.9)`
fn ending(full: &Full, o: &Outlook) -> String {
    let when = match full.seconds {
        Some((low, middle, high)) => {
            let hours = |s: f64| crate::unit::three_digits(s / 3600.0);
            let range = if high > low { format!(" ({} to {})", hours(low), hours(high)) } else { String::new() };
            format!(", in {} h{range}", hours(middle))
        }
        None => String::new(),
    };
    let left = o.left.map_or(String::new(), |l| format!("; {l} are left of the plan's"));
    format!("save number {} from now, of {}, does not fit{when}{left}", full.save, o.size)
}

/// What is seen against what the plan says.
fn planned(w: &Watched, run: &RunPlan, o: &Outlook, add: &mut dyn FnMut(Code, String)) {
    let Some(c) = &run.checkpoint else { return };
    let time = |s: f64| Time(std::time::Duration::try_from_secs_f64(s.max(0.0)).unwrap_or_default()).to_string();
    let mut more = Vec::new();
    if let Some(planned) = run.checkpoint_size().filter(|p| o.learned && o.size.as_f64() > MORE * p.as_f64()) {
        more.push(format!("a save takes {}, the plan says {planned}", o.size));
    }
    if let (Some(took), Some(budget), Some(interval)) = (o.save_s, c.stall_budget, c.interval()) {
        let allowed = budget * interval.period.as_secs_f64();
        if o.learned && took > MORE * allowed {
            more.push(format!("a save takes {}, the plan allows {}", time(took), time(allowed)));
        }
    }
    if !more.is_empty() {
        add(Code::STO_058, more.join("; "));
    }
    // A run of which all is saved says nothing more.
    let last = w.saves.iter().filter(|s| s.state != SaveState::Partial).map(|s| s.ended).max();
    let since = w.at.duration_since(last.map_or(w.since, |l| l.max(w.since))).as_secs_f64();
    if let Some((mean, deviation)) = o.interval_s.filter(|_| o.left != Some(0))
        && since > (SILENT * mean + 3.0 * deviation).max(LEAST_SILENT)
    {
        add(Code::STO_060, format!("nothing was saved for {}; saves come every {}", time(since), time(mean)));
    }
    let cold = w.cold.as_ref().and_then(|cold| cold.moves_s.last());
    if let (Some(took), Some((mean, _))) = (cold, o.interval_s)
        && *took > mean.max(SLOW_MOVE)
    {
        let evidence = format!("moving a save away took {}, and one comes every {}", time(*took), time(mean));
        add(Code::STO_061, evidence);
    }
}
