//! Every parser of what comes from outside, under libFuzzer: `GONOGO_FUZZ=TARGET fuzz CORPUS`; run.sh runs them all.
//!
//! A target may refuse its input and must not panic, overflow, hang or grow without bound.

#![no_main]

use std::io::Cursor;
use std::path::Path;
use std::sync::OnceLock;

use gonogo::baseline::{self, Baseline};
use gonogo::cluster::message::{Down, Up};
use gonogo::cluster::wire::{ToChild, ToParent};
use gonogo::cluster::{Asked, Token, World};
use gonogo::gate::Ticket;
use gonogo::topology::{self, SysRoot, ib};
use gonogo::{autopsy, files, hostlist, judge, plan, record, report, roster, unit};
use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

const TARGETS: &[(&str, Target)] = &[
    ("record", record_),
    ("plan", |b| drop(plan::parse(Path::new("p"), &text(b)))),
    ("baseline", |b| drop(Baseline::parse(&text(b)))),
    ("hostlist", hostlist_),
    ("topology", leaves),
    ("fabric", fabric),
    ("nccl", nccl),
    ("elf", elf),
    ("words", words),
    ("frames", frames),
    ("world", world),
    ("ticket", ticket),
    ("machine", machine),
    ("autopsy", remains),
];

/// The first byte says what the rest is: a log, a recorder's dump, an answer of RAS.
fn remains(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let folder = std::path::PathBuf::from(format!("/dev/shm/gonogo-fuzz-{}", std::process::id()));
    let file = folder.join("rank_3");
    if std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, rest)).is_err() {
        return;
    }
    let mut asked = autopsy::Sources::default();
    match kind % 3 {
        0 => asked.logs.push(file),
        1 => asked.recorder = Some(file),
        _ => asked.ras = Some(file.to_string_lossy().into_owned()),
    }
    let Ok(found) = autopsy::read(&asked, autopsy::Known::default(), jiff::Timestamp::UNIX_EPOCH, &mut |_| {}) else {
        return;
    };
    let line = serde_json::json!({"outcome": {"node": "n", "step": "autopsy", "probe": "autopsy", "case": "remains", "attempt": 1,
        "outcome": {"measured": {"facts": {"remains": found}}}}});
    drop(serde_json::from_value::<gonogo::record::OutcomeLine>(line["outcome"].clone()));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn record_(bytes: &[u8]) {
    let Ok(record) = record::parse(Path::new("r"), Cursor::new(bytes)) else { return };
    let limits = baseline::builtin();
    let j = judge::judge(&record, &record.header.plan.run, &limits);
    let view = report::view(&j, "r");
    drop(report::terminal(&view, report::Style { width: 80, colour: true }));
    drop(report::markdown(&view));
    drop((report::json(&j, "r"), report::junit(&j), report::html(&j, "r"), report::prometheus(&j)));
    drop(report::csv(&j, &mut Vec::new()));
    drop(judge::diff(&j, &j, 0.05));
    drop(Baseline::learn(std::slice::from_ref(&record), "2026-01-01"));
}

fn hostlist_(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(names) = hostlist::expand(&text) {
        let again = hostlist::expand(&hostlist::compress(&names));
        let is_list = names.iter().all(|n| hostlist::is_host(n));
        let set = |names: &[String]| names.iter().cloned().collect::<std::collections::HashSet<_>>();
        assert!(!is_list || again.is_ok_and(|a| set(&a) == set(&names)));
    }
    let names: Vec<String> = text.split(' ').map(str::to_owned).collect();
    drop(hostlist::compress(&names));
    let nodes: Vec<_> = names.iter().cloned().map(gonogo::id::NodeName).collect();
    let same = std::collections::BTreeMap::new();
    let roster = roster::Roster::new(&nodes, &same);
    // A node is found by its own name.
    nodes.iter().for_each(|n| assert_eq!(roster.find(&n.0), Some(n)));
}

/// A topology file of any kind, and after a zero what it includes.
fn leaves(bytes: &[u8]) {
    let text = text(bytes);
    let (file, included) = text.split_once('\u{0}').unwrap_or((&text, ""));
    drop(topology::leaves_of(Path::new("d/t"), file, &|_| Ok(included.to_owned())));
}

fn fabric(bytes: &[u8]) {
    let text = text(bytes);
    let mut fabric = ib::Fabric::default();
    // As the command line takes them: any number of captures, each of some tool.
    for part in text.split('\u{0}') {
        fabric.take("tool", part);
    }
    drop(judge::fabric::findings(&fabric));
    drop(ib::parse_netdiscover(&text).value.leaves());
    drop(ib::parse_netdiscover(&text).value.split_by_port());
    drop((ib::parse_linkinfo(&text), ib::parse_queryerrors(&text), ib::parse_sm(&text), ib::parse_ibstat("t", &text)));
}

fn nccl(bytes: &[u8]) {
    let text = text(bytes);
    drop(topology::parse_log(&text));
    drop(topology::parse_topology(&text));
}

fn elf(bytes: &[u8]) {
    let path = scratch().join("elf");
    if std::fs::write(&path, bytes).is_ok() {
        drop(topology::elf(&path));
    }
}

/// Small things that stand alone on a command line, in a plan or in a file of the kernel.
fn words(bytes: &[u8]) {
    let text = text(bytes);
    drop(topology::parse_cpu_list(&text));
    drop(topology::Version::parse(&text));
    let _ = topology::architecture(&text);
    drop((text.parse::<unit::Bytes>(), text.parse::<unit::ByteRate>(), text.parse::<plan::Time>()));
    drop(Token::of(&text, "t"));
    assert!(!gonogo::id::clean(&text).contains(|c: char| c.is_control()));
}

fn frames(bytes: &[u8]) {
    drop(serde_json::from_slice::<Up>(bytes));
    drop(serde_json::from_slice::<Down>(bytes));
    drop(serde_json::from_slice::<ToParent>(bytes));
    drop(serde_json::from_slice::<ToChild>(bytes));
}

fn world(bytes: &[u8]) {
    let text = text(bytes);
    let pairs: Vec<(&str, &str)> = text.lines().filter_map(|l| l.split_once('=')).collect();
    let get = |name: &str| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
    drop(World::read(&Asked::default(), &get, "h"));
    let asked = Asked { rendezvous: Some(text.clone()), ..Asked::default() };
    drop(World::read(&asked, &get, "h"));
}

fn ticket(bytes: &[u8]) {
    let path = scratch().join("ticket");
    if std::fs::write(&path, bytes).is_ok() {
        let key = scratch().join("key.pub");
        let trusted = gonogo::gate::read_trusted(&key);
        if let Ok(trusted) = trusted {
            assert!(Ticket::open(&path, &trusted, Default::default()).is_err());
            assert!(gonogo::gate::check_record(&path.with_extension("jsonl"), "", &trusted).is_err());
        }
        drop(gonogo::gate::read_trusted(&path));
        drop(files::check(&path, files::Guard::Trust));
    }
}

/// Files of /proc and /sys with anything in them: `PATH\nCONTENT`, parted by zeros.
fn machine(bytes: &[u8]) {
    let root = scratch().join("machine");
    drop(std::fs::remove_dir_all(&root));
    drop(std::fs::create_dir_all(root.join("proc")));
    for part in bytes.split(|b| *b == 0) {
        let Some(end) = part.iter().position(|b| *b == b'\n') else { continue };
        let name = text(&part[..end]);
        if name.contains("..") || name.starts_with('/') {
            continue;
        }
        let path = root.join(name);
        drop(path.parent().map(std::fs::create_dir_all));
        drop(std::fs::write(path, &part[end + 1..]));
    }
    if let Ok(root) = SysRoot::replay(&root) {
        let machine = topology::discover(&root);
        drop(serde_json::to_vec(&machine));
    }
}

/// A folder of this process.
fn scratch() -> &'static Path {
    static FOLDER: OnceLock<std::path::PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let path = std::path::PathBuf::from(format!("/dev/shm/gonogo-fuzz-{}", std::process::id()));
        drop(std::fs::create_dir_all(&path));
        drop(gonogo::gate::new_key(&path.join("key")));
        path
    })
}

fn chosen() -> Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    *TARGET.get_or_init(|| {
        let name = std::env::var("GONOGO_FUZZ").unwrap_or_default();
        let names: Vec<&str> = TARGETS.iter().map(|(n, _)| *n).collect();
        let found = TARGETS.iter().find(|(n, _)| *n == name);
        found.unwrap_or_else(|| panic!("GONOGO_FUZZ={name}: one of {names:?}")).1
    })
}

fuzz_target!(|bytes: &[u8]| chosen()(bytes));
