//! What a watch saw, judged: every code of it, and what is no finding.

use std::path::PathBuf;

use crate::common::*;
use gonogo::judge;
use gonogo::measure::{Cold, Facts, Outcome, OwnNode, Save, SaveState, Space, Trouble, Watched};
use gonogo::record::Record;
use gonogo::unit::Bytes;
use gonogo::work::Layout;
use jiff::SignedDuration;

const GIB: u64 = 1 << 30;
const HOUR: i64 = 3600;

/// Five saves of 10 GiB, one an hour, on a place of a TiB; the last a minute ago.
fn well() -> Watched {
    let at = |seconds: i64| noon() + SignedDuration::from_secs(seconds);
    let save = |i: i64| Save {
        name: format!("global_step{}", 500 * i),
        step: Some(500 * i as u64),
        bytes: Bytes(10 * GIB),
        files: 8,
        began: at(HOUR * i - 30),
        ended: at(HOUR * i),
        state: SaveState::Complete,
        used: Some(Bytes(10 * GIB * i as u64)),
    };
    Watched {
        dir: PathBuf::from("/ckpt"),
        since: noon(),
        at: at(HOUR * 5 + 60),
        mount: "srv:/x nfs4".into(),
        layout: Some(Layout::DeepSpeed),
        space: Space { total: Bytes(1 << 40), available: Bytes((1 << 40) - 50 * GIB), ..Space::default() },
        saves: (1..=5).map(save).collect(),
        cold: None,
        troubles: Vec::new(),
        node: None,
    }
}

const PLAN: &str = "[checkpoint]\nsize = \"10 GiB\"\ninterval = \"1h\"\nrun_time = \"50h\"\nstall_budget = 0.02\n";

fn record(plan: &str, w: Watched) -> Record {
    let mut r = empty(run_plan(plan));
    add(&mut r, "watch", "checkpoints", Outcome::facts(Facts::Watched(Box::new(w))));
    r
}

/// A run that saves as planned, on a node of which this is known.
pub fn with_node(own: OwnNode) -> Record {
    record(PLAN, Watched { node: Some(own), ..well() })
}

/// The smallest watch that brings a code up.
pub fn provoke(code: &str) -> Option<Record> {
    let with = |edit: &dyn Fn(&mut Watched)| {
        let mut w = well();
        edit(&mut w);
        Some(record(PLAN, w))
    };
    let trouble = |t: Trouble| with(&|w| w.troubles = vec![t.clone()]);
    let save = || "global_step500".to_owned();
    match code {
        "STO-050" => with(&|w| w.space.available = Bytes(9 * GIB)),
        "STO-051" => with(&|w| w.space.available = Bytes(35 * GIB)),
        "STO-052" => with(&|w| w.saves[2].state = SaveState::Partial),
        "STO-053" => trouble(Trouble::CopyDiffers { save: save(), path: "a.pt".into() }),
        "STO-054" => trouble(Trouble::ColdFull { save: save(), needed: Bytes(GIB), available: Bytes(0) }),
        "STO-055" => trouble(Trouble::OtherMount { was: "srv:/x nfs4".into(), now: "/dev/sda1 ext4".into() }),
        "STO-056" => {
            let mut w = well();
            w.saves[3].state = SaveState::Unclear;
            Some(record(&format!("{PLAN}[watch]\ncold = \"/cold\"\n"), w))
        }
        "STO-057" => trouble(Trouble::Unmovable { save: save(), path: "x".into(), why: "is no file".into() }),
        "STO-058" => with(&|w| w.saves.iter_mut().for_each(|s| s.bytes = Bytes(14 * GIB))),
        "STO-059" => trouble(Trouble::Journal { error: "No space left on device".into() }),
        "STO-060" => with(&|w| w.at += SignedDuration::from_secs(3 * HOUR)),
        "STO-061" => {
            let cold = Cold { place: "/cold".into(), available: Some(Bytes(1 << 45)), moves_s: vec![4000.0] };
            with(&|w| w.cold = Some(cold.clone()))
        }
        _ => None,
    }
}

#[test]
fn a_run_that_saves_as_planned_is_a_go() {
    assert_eq!(verdict(&record(PLAN, well())), ("GO".into(), vec![]));
}

#[test]
fn the_alarm_is_a_no_go_and_what_is_to_come_a_warning() {
    let of = |code: &str| provoke(code).map(|r| verdict(&r));
    assert_eq!(of("STO-050"), Some(("NO-GO".into(), vec!["STO-050 fail".into()])));
    assert_eq!(of("STO-051"), Some(("GO".into(), vec!["STO-051 warn".into()])));
}

#[test]
fn every_form_shows_the_saves() {
    let r = provoke("STO-051").unwrap_or_else(|| panic!("no record"));
    let j = judge::judge(&r, &r.header.plan.run, &[]);
    let view = gonogo::report::view(&j, "out");
    let style = gonogo::report::Style { width: 80, colour: false };
    let terminal = gonogo::report::terminal(&view, style);
    assert!(terminal.starts_with("GO  room for 3 more saves of 10 GiB, full in 3.98 h\n"), "{terminal}");
    assert!(terminal.lines().all(|l| l.chars().count() <= 80), "{terminal}");
    // A long run's names, moved: what is least needed gives way.
    let long = Save {
        name: "global_step150000".into(),
        bytes: Bytes(27 * GIB / 1000),
        state: SaveState::Moved,
        ..well().saves[0].clone()
    };
    let wide = record(PLAN, Watched { saves: vec![long], ..well() });
    let of_wide = judge::judge(&wide, &wide.header.plan.run, &[]);
    let narrow = gonogo::report::terminal(&gonogo::report::view(&of_wide, "out"), style);
    assert!(narrow.contains("global_step150000") && narrow.lines().all(|l| l.chars().count() <= 80), "{narrow}");
    let page = gonogo::report::html(&j, "out").unwrap_or_default();
    let markdown = gonogo::report::markdown(&view);
    for text in [&terminal, &page, &markdown] {
        assert!(text.contains("global") && text.contains("complete"), "{text}");
    }
    let numbers = gonogo::report::prometheus(&j).unwrap_or_default();
    for line in [
        "gonogo_checkpoint_saves_that_fit 3.0",
        "gonogo_checkpoints_complete 5.0",
        "gonogo_checkpoint_full_seconds 14340.0",
    ] {
        assert!(numbers.contains(line), "{line} in {numbers}");
    }
}
