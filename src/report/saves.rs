//! The checkpoints of a run, as a watcher saw them: a sentence, and a table of the latest.

use std::time::Duration;

use serde::Serialize;

use crate::forecast::{Outlook, Place, outlook};
use crate::id::clean;
use crate::judge::{Judgement, Severity, Subject, watched};
use crate::measure::{OwnNode, SaveState, Trouble, Watched};
use crate::plan::Time;
use crate::unit::{Bytes, several, three_digits};

/// Further saves than any run makes.
const FAR: u64 = 1000;
/// The latest that are shown.
const SHOWN: usize = 12;

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SaveRow {
    pub name: String,
    pub size: String,
    pub files: String,
    pub took: String,
    pub saved: String,
    pub state: &'static str,
}

impl SaveRow {
    pub const TITLES: [&'static str; 6] = ["save", "size", "files", "took", "saved", "state"];

    pub fn cells(&self) -> [&str; 6] {
        [&self.name, &self.size, &self.files, &self.took, &self.saved, self.state]
    }
}

/// What a watch shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Saves {
    /// Whether the next fits, and until when.
    pub headline: String,
    /// What was seen and moved, in one line.
    pub summary: String,
    pub place: Vec<String>,
    /// The latest last.
    pub rows: Vec<SaveRow>,
}

/// `None` for what is no watch.
pub fn saves(j: &Judgement<'_>) -> Option<Saves> {
    let (_, w) = watched(j.record)?;
    let o = outlook(w, &j.record.header.plan.run);
    let latest = &w.saves[w.saves.len().saturating_sub(SHOWN)..];
    let row = |s: &crate::measure::Save| SaveRow {
        name: clean(&s.name).into_owned(),
        size: s.bytes.to_string(),
        files: s.files.to_string(),
        took: time(s.ended.duration_since(s.began).as_secs_f64()),
        saved: s.ended.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        state: s.state.text(),
    };
    Some(Saves {
        headline: format!("{}{}", of_node(j), headline(w, o.as_ref())),
        summary: summary(w),
        place: place(w),
        rows: latest.iter().map(row).collect(),
    })
}

/// What stands before the checkpoints' own headline when the node is worse off than they are.
fn of_node(j: &Judgement<'_>) -> &'static str {
    let broken =
        |f: &crate::judge::Finding| f.weighs() && f.severity >= Severity::Fail && matches!(f.subject, Subject::Node(_));
    if j.findings.iter().any(broken) { "this node is not what it was; " } else { "" }
}

fn time(seconds: f64) -> String {
    Time(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()).to_string()
}

/// `room for 3 more saves of 268 GiB, full in 24.4 h (21.0 to 27.9)`
pub fn headline(w: &Watched, o: Option<&Outlook>) -> String {
    if w.troubles.iter().any(|t| matches!(t, Trouble::Gone { .. } | Trouble::OtherMount { .. })) {
        return "the checkpoint directory is not there any more".to_owned();
    }
    let Some(o) = o else {
        return format!("{} free; how large a save is, is not known yet", w.space.available);
    };
    let room = match o.fit {
        0 => return format!("the next save of {} does not fit: {} free", o.size, w.space.available),
        n => format!("room for {} of {}", several(n as usize, "more save"), o.size),
    };
    let hours = |s: f64| three_digits(s / 3600.0);
    let end = match &o.full {
        None => ", and as much is taken away as is written".to_owned(),
        Some(f) if f.after_the_run == Some(true) => ", enough for the rest of the run".to_owned(),
        // No run is that long.
        Some(f) if f.after_the_run.is_none() && f.save > FAR => String::new(),
        Some(f) => {
            let place = if f.place == Place::Cold { "the cold place is full" } else { "full" };
            match f.seconds {
                Some((low, middle, high)) if high > low => {
                    format!(", {place} in {} h ({} to {})", hours(middle), hours(low), hours(high))
                }
                Some((_, middle, _)) => format!(", {place} in {} h", hours(middle)),
                None => format!(", {place} at save number {} from now", f.save),
            }
        }
    };
    format!("{room}{end}")
}

fn summary(w: &Watched) -> String {
    let count = |state: SaveState| w.saves.iter().filter(|s| s.state == state).count();
    let moved = w.saves.iter().filter(|s| s.state == SaveState::Moved);
    let bytes = Bytes(moved.fold(0, |sum, s| sum.saturating_add(s.bytes.0)));
    let mut out = format!("{} saves seen", w.saves.len());
    let states = [SaveState::Complete, SaveState::Writing, SaveState::Unclear, SaveState::Partial];
    for (state, n) in states.map(|s| (s, count(s))).into_iter().filter(|(_, n)| *n > 0) {
        out.push_str(&format!(", {n} {}", state.text()));
    }
    if count(SaveState::Moved) > 0 {
        out.push_str(&format!(", {} moved to cold ({bytes})", count(SaveState::Moved)));
    }
    out
}

fn place(w: &Watched) -> Vec<String> {
    let layout = w.layout.map_or(String::new(), |l| format!(", laid out as {l} does"));
    let mut out = vec![format!(
        "{} on {}: {} free of {} by {}{layout}",
        clean(&w.dir.to_string_lossy()),
        clean(&w.mount),
        w.space.available,
        w.space.total,
        w.space.bound.text()
    )];
    if let Some(cold) = &w.cold {
        let free = cold.available.map_or(String::new(), |a| format!(": {a} free"));
        out.push(format!("cold {}{free}", clean(&cold.place)));
    }
    out.extend(w.node.as_ref().map(own_node));
    out
}

/// What of the node is looked at, so that nothing found is not taken for nothing there.
fn own_node(own: &OwnNode) -> String {
    let s = match own {
        OwnNode::Looked(s) => s,
        OwnNode::Unseen(why) => return format!("this node could not be looked at: {}", clean(why)),
    };
    let m = &s.after;
    let gpus = m.nvidia.as_ref().map_or(0, |n| n.gpus.len());
    let ports = m.infiniband.iter().map(|d| d.ports.len()).sum();
    let there = [(gpus, "GPU"), (ports, "RDMA port")].into_iter().filter(|(n, _)| *n > 0);
    let mut seen: Vec<String> = there.map(|(n, what)| several(n, what)).collect();
    seen.push("its interfaces".to_owned());
    let whose = if s.of_check { "the check" } else { "the watch's first look" };
    let blind = m.nvidia.as_ref().is_some_and(|n| n.xids.is_none());
    let xids = if blind { "; Xids cannot be read" } else { "" };
    let age = time(s.at.duration_since(s.from).as_secs_f64());
    format!("this node beside {whose} {age} earlier: {}{xids}", seen.join(", "))
}
