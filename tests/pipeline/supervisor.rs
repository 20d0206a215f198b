//! A step ends on time and tells the truth, whatever its processes do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gonogo::cluster::{Step, Supervisor};
use gonogo::id::ProbeName;
use gonogo::measure::{FailKind, Outcome, WaiveKind};

/// Runs `script` as the one rank of a step with two cases; returns the outcomes and the time it took.
fn run(script: &str, interrupt: Option<Duration>) -> (Vec<(String, Outcome)>, Duration) {
    let flag = Arc::new(AtomicBool::new(false));
    if let Some(after) = interrupt {
        let flag = flag.clone();
        std::thread::spawn(move || {
            std::thread::sleep(after);
            flag.store(true, Ordering::Relaxed);
        });
    }
    let supervisor =
        Supervisor { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()], interrupt: flag };
    let step = Step {
        name: "s".into(),
        probe: ProbeName::new("gemm"),
        ranks: 1,
        groups: Vec::new(),
        exclusive: false,
        cases: vec!["a".into(), "b".into()],
        args: serde_json::Value::Null,
        seed: 1,
        estimate_ms: 1,
        scratch: None,
        rail: None,
        attempt: 1,
    };
    let started = Instant::now();
    let mut out = Vec::new();
    supervisor.run(&step, Duration::from_millis(1500), |case, outcome, _| out.push((case.to_owned(), outcome)));
    (out, started.elapsed())
}

const CASE_A: &str = r#"echo '{"outcome":{"case":"a","outcome":{"measured":{"series":[],"checks":[]}}}}'; "#;
const DONE: &str = r#"echo '"done"'"#;

fn failed(outcome: &Outcome) -> Option<(FailKind, String)> {
    match outcome {
        Outcome::Failed { kind, error } => Some((*kind, error.clone())),
        _ => None,
    }
}

#[test]
fn a_case_that_ended_is_kept_and_the_one_that_broke_is_named() {
    let (out, _) = run(&format!("{CASE_A} echo oh no >&2; kill -9 $$"), None);
    assert!(out[0].1.measured().is_some(), "{out:?}");
    let (kind, error) = failed(&out[1].1).unwrap_or((FailKind::Junk, String::new()));
    assert_eq!((out[1].0.as_str(), kind), ("b", FailKind::Crashed));
    assert!(error.contains("signal 9") && error.contains("oh no"), "{error}");
}

#[test]
fn a_hang_is_killed_at_the_deadline() {
    let (out, took) = run("sleep 60 & sleep 60", None);
    assert!(matches!(out[0].1, Outcome::TimedOut { after_ms: 1400..2500, .. }), "{out:?}");
    assert!(matches!(out[1].1, Outcome::Waived { kind: WaiveKind::NotReached, .. }), "{out:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn junk_is_no_result() {
    let (out, took) = run("echo Segmentation fault; sleep 60", None);
    let (kind, error) = failed(&out[0].1).unwrap_or((FailKind::Error, String::new()));
    assert_eq!(kind, FailKind::Junk);
    assert!(error.contains("Segmentation fault"), "{error}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_gigabyte_without_a_line_feed_is_cut_off() {
    let (out, took) = run("yes | tr -d '\\n' | head -c 1000000000", None);
    assert_eq!(failed(&out[0].1).map(|f| f.0), Some(FailKind::Junk), "{out:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_gigabyte_of_good_frames_is_cut_off() {
    let (out, _) = run(r#"yes '{"publish":{"blob":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}}'"#, None);
    assert!(matches!(out[0].1, Outcome::Failed { kind: FailKind::Junk, .. } | Outcome::TimedOut { .. }), "{out:?}");
}

#[test]
fn an_interrupt_ends_it_at_once() {
    let (out, took) = run(&format!("{CASE_A} sleep 60"), Some(Duration::from_millis(200)));
    assert!(matches!(out[1].1, Outcome::Waived { kind: WaiveKind::Interrupted, .. }), "{out:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn giving_up_in_good_order_keeps_the_message() {
    let (out, _) = run("echo 'cannot open /dev/x: no such device' >&2; exit 1", None);
    let (kind, error) = failed(&out[0].1).unwrap_or((FailKind::Junk, String::new()));
    assert_eq!(kind, FailKind::Error);
    assert!(error.contains("cannot open /dev/x"), "{error}");
}

#[test]
fn a_case_that_the_probe_forgot_is_told() {
    let (out, _) = run(&format!("{CASE_A} {DONE}"), None);
    assert!(matches!(out[1].1, Outcome::Waived { kind: WaiveKind::NotReached, .. }), "{out:?}");
}

#[test]
fn a_case_that_nobody_planned_is_not_taken() {
    let (out, _) = run(
        &format!(r#"echo '{{"outcome":{{"case":"z","outcome":{{"measured":{{"series":[],"checks":[]}}}}}}}}'; {DONE}"#),
        None,
    );
    assert_eq!(out.iter().map(|o| o.0.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_program_that_is_not_there_is_an_error_of_the_step() {
    let supervisor = Supervisor { program: "/no/such/program".into(), arguments: vec![], interrupt: Arc::default() };
    let mut record = crate::common::empty(Default::default());
    crate::common::add(&mut record, "gemm", "a", crate::common::good_gemm());
    let mut out = Vec::new();
    supervisor.run(&record.steps[0], Duration::from_secs(1), |_, o, _| out.push(o));
    assert!(failed(&out[0]).is_some_and(|f| f.1.contains("/no/such/program")), "{out:?}");
}
