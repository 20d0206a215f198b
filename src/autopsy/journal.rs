//! The journal of a watch: what came up under the run, at its time, as signs beside those of the logs.

use std::path::Path;

use crate::autopsy::logs::kept;
use crate::judge::{Code, Severity};
use crate::measure::{Change, Place, Sign, Source, SourceKind, Trace};
use crate::unit::Bytes;
use crate::watch::{self, Journalled, Told};

/// What a journal told.
#[derive(Debug)]
pub(super) struct Found {
    pub source: Source,
    pub traces: Vec<Trace>,
    /// What befell the node, and ends no run by itself.
    pub changes: Vec<Change>,
}

/// `path` is the journal, or the folder that a watch kept it in.
pub(super) fn read(path: &Path, index: usize) -> Found {
    let file = if path.is_dir() { path.join(watch::JOURNAL) } else { path.to_owned() };
    let (journal, trouble) = match watch::read_journal(&file) {
        Ok(journal) => (journal, None),
        Err(e) => (Journalled::default(), Some(e.to_string())),
    };
    let strange = (journal.strange > 0).then(|| format!("{} of its lines are no watch's", journal.strange));
    let source = Source {
        name: file.to_string_lossy().into_owned(),
        kind: SourceKind::Journal,
        bytes: Bytes(journal.bytes),
        lines: journal.lines,
        trouble: trouble.or(strange),
    };
    let (mut traces, mut changes) = (Vec::new(), Vec::new());
    // What went away again was no end of anything.
    for t in journal.told.iter().filter(|t| !t.cleared) {
        match sign(t.code).filter(|_| t.severity >= Severity::Hold) {
            Some(sign) => traces.push(trace(t, sign, index)),
            None => changes.push(Change { node: t.node.clone(), what: text(t), weighs: false }),
        }
    }
    Found { source, traces, changes }
}

fn trace(t: &Told, sign: Sign, source: usize) -> Trace {
    Trace {
        sign,
        at: Some(t.at),
        inherited: false,
        place: Place { node: t.node.clone(), ..Place::default() },
        number: None,
        names: None,
        source,
        line: t.line,
        text: text(t),
        times: 1,
    }
}

/// As hostile as a log's: cut, and without secrets.
fn text(t: &Told) -> String {
    format!("{} {}: {}", t.code, t.code.doc().title, kept(&t.text))
}

/// What of a watch's findings ends a run.
fn sign(code: Code) -> Option<Sign> {
    Some(match code {
        Code::GPU_001 | Code::GPU_002 => Sign::GpuLost,
        Code::GPU_003 | Code::GPU_005 => Sign::GpuEcc,
        Code::GPU_006 | Code::GPU_020 => Sign::GpuFailed,
        Code::GPU_009 | Code::GPU_019 => Sign::NvlinkFailed,
        Code::NET_035 | Code::RDM_002 => Sign::LinkDown,
        Code::CLU_012 => Sign::NodeFailed,
        Code::STO_050 => Sign::DiskFull,
        Code::STO_055 => Sign::StaleHandle,
        _ => return None,
    })
}
