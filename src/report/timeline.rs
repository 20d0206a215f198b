//! How a run ended, in the order of time: what an autopsy found.

use serde::Serialize;

use crate::hostlist;
use crate::id::clean;
use crate::judge::{Decision, Judgement, Severity, Subject, remains};
use crate::measure::{Remains, Sign, SourceKind};
use crate::unit::{Bytes, several};

/// Lines that are shown: who wants all of them has the logs.
const SHOWN: usize = 12;

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TimelineRow {
    pub time: String,
    pub who: String,
    pub sign: &'static str,
    /// File and line.
    pub place: String,
}

impl TimelineRow {
    pub const TITLES: [&'static str; 4] = ["time (UTC)", "who", "what", "where"];

    pub fn cells(&self) -> [&str; 4] {
        [&self.time, &self.who, self.sign, &self.place]
    }
}

/// What an autopsy shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timeline {
    pub headline: String,
    /// What was read.
    pub summary: String,
    pub rows: Vec<TimelineRow>,
}

/// `None` for what is no autopsy.
pub fn timeline(j: &Judgement<'_>) -> Option<Timeline> {
    let (_, r) = remains(j.record)?;
    Some(Timeline { headline: headline(j), summary: summary(r), rows: rows(r) })
}

/// The answer in one line: what it was, and what to do.
fn headline(j: &Judgement<'_>) -> String {
    let Some(worst) = j.findings.iter().find(|f| f.weighs() && f.severity >= Severity::Hold) else {
        let outside = j.findings.iter().find(|f| f.code == crate::judge::Code::MOR_008);
        return match outside {
            Some(f) => format!("{}: start again", f.title()),
            None => "nothing against any node".to_owned(),
        };
    };
    let on = match &worst.subject {
        Subject::Run => String::new(),
        // They are told at once.
        _ if !j.placement.exclude.is_empty() => String::new(),
        subject => format!(", {subject}"),
    };
    let names: Vec<String> = j.placement.exclude.iter().map(|n| n.0.clone()).collect();
    let do_now = match &j.decision {
        _ if !names.is_empty() => format!(": leave out {}", clean(&hostlist::compress(&names))),
        Decision::NoGo => ": mend it before another start".to_owned(),
        _ => String::new(),
    };
    format!("{}{on}{do_now}", worst.title())
}

fn summary(r: &Remains) -> String {
    let of = |kind: SourceKind| r.sources.iter().filter(|s| s.kind == kind).count();
    let bytes = Bytes(r.sources.iter().fold(0, |sum, s| sum.saturating_add(s.bytes.0)));
    let lines: u64 = r.sources.iter().map(|s| s.lines).sum();
    let logs = of(SourceKind::Log);
    let mut out = format!("{}, {lines} lines, {bytes}", several(logs, "log"));
    let dumps = of(SourceKind::Recorder);
    if dumps > 0 {
        out.push_str(&format!(", {dumps} dumps of the flight recorder"));
    }
    if of(SourceKind::Ras) > 0 {
        out.push_str(", NCCL's RAS");
    }
    let mut zones: Vec<i32> = r.zones.values().copied().collect();
    zones.sort_unstable();
    zones.dedup();
    if !zones.is_empty() {
        let shown: Vec<String> = zones.iter().map(|m| zone(*m)).collect();
        let logs = several(r.zones.len(), "log");
        out.push_str(&format!(", {logs} taken for {} by the time of the file", shown.join(", ")));
    }
    if of(SourceKind::Journal) > 0 {
        out.push_str(", a watch's journal");
    }
    out
}

/// `UTC+05:30`
fn zone(minutes: i32) -> String {
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("UTC{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}

fn rows(r: &Remains) -> Vec<TimelineRow> {
    let telling = |s: Sign| !matches!(s, Sign::Teardown | Sign::Terminated | Sign::RankExit | Sign::StepEnded);
    let mut all: Vec<_> = r.traces.iter().filter(|t| telling(t.sign)).collect();
    all.sort_by_key(|t| (t.at.is_none(), t.at, t.source, t.line));
    let row = |t: &&crate::measure::Trace| {
        let file = r.sources.get(t.source).map_or("?", |s| s.name.rsplit('/').next().unwrap_or(&s.name));
        let rank = t.place.rank.map(|r| format!("rank {r}"));
        let gpu = t.place.gpu.map(|g| format!("GPU {g}"));
        let node = t.place.node.as_ref().map(ToString::to_string);
        let who: Vec<String> = [rank, gpu, node].into_iter().flatten().collect();
        TimelineRow {
            time: t.at.map_or("-".to_owned(), |at| {
                let since = if t.inherited { "since " } else { "" };
                format!("{since}{}", at.strftime("%m-%d %H:%M:%S"))
            }),
            who: if who.is_empty() { "-".to_owned() } else { who.join(", ") },
            sign: t.sign.text(),
            place: format!("{}:{}", clean(file), t.line),
        }
    };
    all.iter().take(SHOWN).map(row).collect()
}
