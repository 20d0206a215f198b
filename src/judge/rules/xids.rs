//! Xids in the kernel's log -> findings: which of them leave a GPU unfit, and for how long.
//!
//! What a number means and what is to be done at once are NVIDIA's ("Xid Catalog" of r580, columns "Description" and "Immediate
//! Action", <https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>, read 2026-11-26; 144 to 176 also by nverror.h
//! of the open kernel modules 580). Numbers that are not here are a program's fault, or need nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::clean;
use crate::judge::codes::Code;
use crate::judge::rules::stretch::Stretch;
use crate::judge::severity::Severity;
use crate::topology::{Nvidia, Recovery, Xid, XidDetail};

/// For how long an Xid speaks against its GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasts {
    /// The GPU is not to be used until it is reset, or the driver is loaded again.
    UntilReset,
    /// It failed, and went on by itself: what happens again happens soon.
    ForAWhile,
}
use Lasts::{ForAWhile, UntilReset};

const KINDS: &[(u32, Lasts, &str)] = &[
    (46, UntilReset, "the GPU stopped processing"),
    (48, UntilReset, "double-bit ECC error"),
    (54, UntilReset, "auxiliary power is not connected"),
    (62, UntilReset, "internal microcontroller halt"),
    (64, UntilReset, "a page or row could not be retired"),
    (74, UntilReset, "NVLink error"),
    (79, UntilReset, "fallen off the bus"),
    (92, ForAWhile, "high rate of single-bit errors"),
    (95, UntilReset, "uncontained ECC error"),
    (109, UntilReset, "context switch timed out"),
    (110, UntilReset, "security fault"),
    (119, UntilReset, "GSP does not answer"),
    (120, UntilReset, "GSP error"),
    (121, ForAWhile, "C2C link error"),
    (136, UntilReset, "link training failed"),
    (140, UntilReset, "unrecovered ECC error"),
    (143, UntilReset, "GPU initialisation failed"),
    (144, ForAWhile, "NVLink SAW error"),
    (145, ForAWhile, "NVLink RLW error"),
    (146, ForAWhile, "NVLink TLW error"),
    (147, ForAWhile, "NVLink TREX error"),
    (148, ForAWhile, "NVLink NVLPW_CTRL error"),
    (149, ForAWhile, "NVLink NETIR error"),
    (150, ForAWhile, "NVLink MSE error"),
    (151, UntilReset, "key rotation error"),
    (154, UntilReset, "GPU recovery is needed"),
    (155, UntilReset, "NVLink error found by software"),
    (156, UntilReset, "a resource is to be retired at the next reset"),
    (157, ForAWhile, "a resource could not be retired"),
    (158, UntilReset, "fatal timeout"),
    (161, ForAWhile, "a channel could not be retired"),
    (167, UntilReset, "fatal timeout of PCIe"),
    (168, ForAWhile, "reduced memory capacity"),
    (169, UntilReset, "security processor halt"),
    (171, ForAWhile, "uncorrectable error of the DRAM"),
    (172, ForAWhile, "uncorrectable error of the SRAM"),
    (173, UntilReset, "C2C link failed"),
    (175, ForAWhile, "memory subsystem error"),
];

/// Before a check, this long counts as shortly before: the job that ended last may have had it. AzNHC (Azure's node health
/// checks) looks back as long.
const SHORTLY: Duration = Duration::from_secs(2 * 60 * 60);

type Add<'a> = &'a mut dyn FnMut(Code, Option<Severity>, String);

/// What an Xid of hardware means by its number alone.
pub(super) fn meaning(code: u32) -> Option<&'static str> {
    KINDS.iter().find(|(known, ..)| *known == code).map(|(.., meaning)| *meaning)
}

/// What the number and the driver's own words make of it: `None` for a program's fault, or a word that all is well.
fn kind(x: &Xid) -> Option<(Lasts, &'static str)> {
    let (_, lasts, meaning) = KINDS.iter().find(|(code, ..)| *code == x.code)?;
    match x.detail {
        Some(XidDetail::Fatal) => Some((UntilReset, meaning)),
        Some(XidDetail::Nonfatal | XidDetail::Recovery(Recovery::Nothing)) => None,
        Some(XidDetail::Recovery(_)) | None => Some((*lasts, meaning)),
    }
}

/// How an Xid stands when the check begins.
enum Stands {
    /// It counts.
    Now(&'static str),
    /// It counted once.
    Past(&'static str),
}

fn stands(x: &Xid, lasts: Option<Lasts>, n: &Nvidia, age: Option<Duration>) -> Stands {
    let recent = age.is_none_or(|age| age <= SHORTLY);
    if n.driver_loaded_at.is_some_and(|loaded| loaded > x.at) {
        return Stands::Past(", before the driver was loaded");
    }
    match lasts {
        // A driver that says so itself is believed: it asked for something to be done, and asks no more.
        Some(UntilReset) if recovered(x, n) => Stands::Past(", and the GPU has recovered since"),
        Some(UntilReset) if recent => Stands::Now(""),
        Some(UntilReset) if no_need(x, n) => Stands::Past(", and the driver wants nothing done"),
        Some(UntilReset) => Stands::Now(", and nothing shows that the driver was loaded or the GPU reset since"),
        Some(ForAWhile) | None if recent => Stands::Now(""),
        Some(ForAWhile) | None => Stands::Past(""),
    }
}

/// Whether the driver wanted something done about this GPU when or after it happened, and later wanted nothing any more.
fn recovered(x: &Xid, n: &Nvidia) -> bool {
    let since = n.xids.iter().flatten().rev().filter(|o| o.pci == x.pci && o.at >= x.at);
    let wanted = |o: &Xid| match o.detail {
        Some(XidDetail::Recovery(r)) => Some(r),
        _ => None,
    };
    match since.filter_map(wanted).next() {
        Some(Recovery::Nothing) => true,
        Some(_) => no_need(x, n),
        None => false,
    }
}

/// Whether the driver says that nothing needs to be done about this GPU.
fn no_need(x: &Xid, n: &Nvidia) -> bool {
    n.gpus.iter().any(|g| g.pci == x.pci && g.recovery == Some(Recovery::Nothing))
}

/// In whole units: a log's clock is not better than that.
fn ago(age: Duration) -> String {
    match age.as_secs() {
        s if s < 120 => format!("{s} s"),
        s if s < 2 * 3600 => format!("{} min", s / 60),
        s if s < 48 * 3600 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

/// Those in the log when the check began; `others` are GPUs of the machine that this run was not granted.
pub(super) fn before(n: &Nvidia, others: &[&str], add: Add<'_>) {
    let mut told: BTreeMap<(&str, u32, &str), Told<'_>> = BTreeMap::new();
    for x in n.xids.iter().flatten() {
        let age = n.log_read_at.map(|read| Duration::from_secs(read.saturating_sub(x.at)));
        let kind = kind(x);
        let (severity, since) = match (stands(x, kind.map(|k| k.0), n, age), kind) {
            (Stands::Now(since), Some(_)) => (None, since),
            (Stands::Now(since), None) => (Some(Severity::Warn), since),
            (Stands::Past(since), Some(_)) => (Some(Severity::Warn), since),
            // A program's fault of long ago is history.
            (Stands::Past(since), None) => (Some(Severity::Info), since),
        };
        if x.detail == Some(XidDetail::Recovery(Recovery::Nothing)) {
            continue;
        }
        let severity = lighter_for_others(x, others, severity);
        let when = age.map_or("since boot".to_owned(), |age| format!("{} before the check", ago(age)));
        let one = told.entry((&x.pci, x.code, since)).or_insert_with(|| Told::of(x, severity));
        (one.times, one.last, one.when) = (one.times + 1, x, when);
        one.severity = heavier(one.severity, severity);
    }
    tell(told, add);
}

/// Those that came between two looks.
pub(super) fn during(before: &Nvidia, after: &Nvidia, others: &[&str], over: Stretch, add: Add<'_>) {
    let (Some(was), Some(now)) = (&before.xids, &after.xids) else { return };
    let mut told: BTreeMap<(&str, u32, &str), Told<'_>> = BTreeMap::new();
    for x in now.iter().filter(|x| !was.contains(x)) {
        let severity = lighter_for_others(x, others, kind(x).is_none().then_some(Severity::Warn));
        if x.detail == Some(XidDetail::Recovery(Recovery::Nothing)) {
            continue;
        }
        let one = told.entry((&x.pci, x.code, "")).or_insert_with(|| Told::of(x, severity));
        (one.times, one.last, one.when) = (one.times + 1, x, over.during().to_owned());
        one.severity = heavier(one.severity, severity);
    }
    tell(told, add);
}

/// One number of one GPU, and how it stands.
struct Told<'a> {
    times: usize,
    last: &'a Xid,
    /// Of the last.
    when: String,
    /// `None` is as heavy as the code is.
    severity: Option<Severity>,
}

impl<'a> Told<'a> {
    fn of(x: &'a Xid, severity: Option<Severity>) -> Self {
        Told { times: 0, last: x, when: String::new(), severity }
    }
}

/// The kernel's log is the whole machine's: what befell a GPU that the run was not granted is told, and does not fail it.
fn lighter_for_others(x: &Xid, others: &[&str], severity: Option<Severity>) -> Option<Severity> {
    if others.contains(&x.pci.as_str()) {
        Some(severity.unwrap_or(Severity::Warn).min(Severity::Warn))
    } else {
        severity
    }
}

fn heavier(a: Option<Severity>, b: Option<Severity>) -> Option<Severity> {
    a.zip(b).map(|(a, b)| a.max(b))
}

fn tell(told: BTreeMap<(&str, u32, &str), Told<'_>>, add: Add<'_>) {
    for ((pci, code, since), t) in told {
        let meaning = match t.last.detail {
            Some(XidDetail::Recovery(_)) | None => kind(t.last).map(|(_, m)| m.to_owned()),
            // Which link, and what of it, is in the driver's own words.
            Some(_) => None,
        };
        let text = meaning.unwrap_or_else(|| clean(&t.last.text).into_owned());
        let action = match t.last.detail {
            Some(XidDetail::Recovery(r)) => format!(": {}", wants(r)),
            _ => String::new(),
        };
        let many = if t.times > 1 { format!(", {} times, last", t.times) } else { String::new() };
        let evidence = format!("GPU {}: Xid {code}{many} {}{since}: {text}{action}", clean(pci), t.when);
        add(Code::GPU_006, t.severity, evidence);
    }
}

/// What the driver asks for, in words.
pub(super) fn wants(r: Recovery) -> String {
    match r {
        Recovery::Nothing => "nothing is to be done".to_owned(),
        Recovery::Reset => "the GPU is to be reset".to_owned(),
        Recovery::Reboot => "the node is to be rebooted".to_owned(),
        Recovery::DrainPeers => "programs that use peers' memory are to be ended".to_owned(),
        Recovery::DrainPeersAndReset => {
            "programs that use peers' memory are to be ended and the GPU is to be reset".to_owned()
        }
        Recovery::Other(n) => format!("recovery action {n}"),
    }
}
