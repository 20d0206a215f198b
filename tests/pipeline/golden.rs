//! What a person reads: every record of the fixtures by every renderer, as golden files. Bless with
//! INSTA_UPDATE=always.

use std::path::{Path, PathBuf};

use gonogo::id::NodeName;
use gonogo::work::Case;
use gonogo::{baseline, judge, record, report};

fn records() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/records");
    let mut out: Vec<PathBuf> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    out.sort();
    assert!(out.len() >= 3, "the fixtures are not there");
    out
}

/// The record's name, its renderings by name.
fn renderings(path: &Path) -> Vec<(String, String)> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let record = record::read(path).unwrap_or_else(|e| panic!("{e}"));
    let run = record.header.plan.run.clone();
    let mut limits = baseline::required(&run);
    limits.extend(baseline::builtin());
    let j = judge::judge(&record, &run, &limits);
    let shown = format!("{name}.jsonl");
    let terminal = |width, colour| report::terminal(&report::view(&j, &shown), report::Style { width, colour });
    vec![
        (format!("{name}-80"), terminal(80, false)),
        (format!("{name}-120"), terminal(120, false)),
        (format!("{name}-colour"), terminal(100, true)),
        (format!("{name}-json"), report::json(&j, &shown).unwrap_or_else(|e| panic!("{e}"))),
    ]
}

#[test]
fn reports_read_as_they_should() {
    for path in records() {
        for (name, text) in renderings(&path) {
            insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
                insta::assert_snapshot!(name, text);
            });
        }
    }
}

#[test]
fn no_report_is_wider_than_its_terminal() {
    for path in records() {
        for (name, text) in renderings(&path).into_iter().filter(|(n, _)| n.ends_with("-80")) {
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{name}: {} columns: {line}", line.chars().count());
            }
        }
    }
}

#[test]
fn without_colour_there_is_no_escape_and_with_it_every_one_is_closed() {
    for path in records() {
        for (name, text) in renderings(&path) {
            let escapes = text.matches('\x1b').count();
            if name.ends_with("-colour") {
                assert!(escapes > 4 && escapes == 2 * text.matches("\x1b[0m").count(), "{name}");
            } else {
                assert_eq!(escapes, 0, "{name}");
            }
        }
    }
}

/// Names out of a record reach a terminal harmless.
#[test]
fn foreign_names_do_not_drive_the_terminal() {
    use crate::common::*;
    let mut record = healthy(run_plan("name = \"\\u001b[2Jx\"\n"));
    let evil = format!("n\x1b]0;title\x07\u{202e}{}", "long".repeat(3000));
    record.header.nodes[0].0 = evil.clone();
    for line in &mut record.outcomes {
        line.node = NodeName(evil.clone()).into();
        line.case = Case::read(&format!("{}\r\n\x1b[31m", line.case));
    }
    let run = record.header.plan.run.clone();
    let limits = baseline::builtin();
    let j = judge::judge(&record, &run, &limits);
    let text = report::terminal(&report::view(&j, "r\x1b"), report::Style { width: 80, colour: false });
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    assert!(!text.contains('\u{202e}') && text.len() < 20_000, "{}", text.len());
}
