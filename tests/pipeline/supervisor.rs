//! A step ends on time and tells the truth, whatever its processes do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gonogo::cluster::{Processes, Step, Supervisor};
use gonogo::id::ProbeName;
use gonogo::measure::{FailKind, Outcome, WaiveKind};
use gonogo::probe::find;
use gonogo::topology::Machine;
use gonogo::work::Case;

use crate::common::check_plan;

fn step(estimate_ms: u64) -> Step {
    let cases = vec![Case::read("a"), Case::read("b")];
    Step { estimate_ms, ..Step::new("s", ProbeName::new("gemm"), cases) }
}

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
    let supervisor = Supervisor::new("/bin/sh".into(), vec!["-c".into(), script.into()], flag);
    let step = step(1);
    let started = Instant::now();
    let mut out = Vec::new();
    supervisor.run(&step, Duration::from_millis(1500), |case, outcome, _| {
        out.push((step.cases[case as usize].to_string(), outcome))
    });
    (out, started.elapsed())
}

const CASE_A: &str = r#"echo '{"outcome":{"case":0,"outcome":{"measured":{"series":[],"checks":[]}}}}'; "#;
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
    assert!(error.contains("SIGKILL") && error.contains("oh no"), "{error}");
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
fn the_last_words_are_those_of_the_rank_that_failed() {
    let script = r#"read -r job
        case "$job" in *'"rank":1,'*) echo GPU 1 hangs >&2; exit 1;; esac
        echo the peer is gone >&2; read -r end; echo the channel is closed >&2"#;
    let supervisor = Supervisor::new("/bin/sh".into(), vec!["-c".into(), script.into()], Arc::default());
    let mut out = Vec::new();
    let step = Step { ranks: 2, ..step(1) };
    supervisor.run(&step, Duration::from_millis(1500), |_, outcome, _| out.push(outcome));
    let (_, error) = failed(&out[0]).unwrap_or((FailKind::Junk, String::new()));
    assert!(error.contains("rank 1 of step s gave up") && error.ends_with("its last words: GPU 1 hangs"), "{error}");
}

#[test]
fn a_case_that_the_probe_forgot_is_told() {
    let (out, _) = run(&format!("{CASE_A} {DONE}"), None);
    assert!(matches!(out[1].1, Outcome::Waived { kind: WaiveKind::NotReached, .. }), "{out:?}");
}

#[test]
fn a_case_that_nobody_planned_is_not_taken() {
    let (out, _) = run(
        &format!(r#"echo '{{"outcome":{{"case":7,"outcome":{{"measured":{{"series":[],"checks":[]}}}}}}}}'; {DONE}"#),
        None,
    );
    assert_eq!(out.iter().map(|o| o.0.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_program_that_is_not_there_is_an_error_of_the_step() {
    let supervisor = Supervisor::new("/no/such/program".into(), vec![], Arc::default());
    let mut record = crate::common::empty(Default::default());
    crate::common::add(&mut record, "gemm", "a", crate::common::good_gemm());
    let mut out = Vec::new();
    supervisor.run(&record.steps[0], Duration::from_secs(1), |_, o, _| out.push(o));
    assert!(failed(&out[0]).is_some_and(|f| f.1.contains("/no/such/program")), "{out:?}");
}

/// What a GPU's process does, as a script: it serves one step after another and says who it is.
const SERVES: &str = r#"while read -r job; do
  echo '{"outcome":{"case":0,"outcome":{"measured":{"notes":["'$$'"]}}}}'; echo '"ready"'
done"#;

/// Runs a step on GPU processes (or after them); returns the notes of its cases or its error.
fn on_gpus(supervisor: &Supervisor, processes: Processes) -> String {
    let step = Step { processes, cases: vec![Case::read("a")], ..step(1) };
    let mut out = String::new();
    supervisor.run(&step, Duration::from_millis(1500), |_, outcome, _| {
        out = match outcome {
            Outcome::Measured(m) => m.notes.join(" "),
            other => format!("{other:?}"),
        }
    });
    out
}

fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

#[test]
fn a_gpus_process_serves_the_next_step_and_ends_before_what_must_not_see_it() {
    let supervisor = Supervisor::new("/bin/sh".into(), vec!["-c".into(), SERVES.into()], Arc::default());
    // Each step in a thread of its own that ends, as an agent runs them: the process must outlive it.
    let step = |processes| std::thread::scope(|s| s.spawn(|| on_gpus(&supervisor, processes)).join().unwrap());
    let first = step(Processes::Gpus);
    assert!(first.parse::<u32>().is_ok(), "{first}");
    assert_eq!(step(Processes::Gpus), first);
    // One that died meanwhile is replaced, and nobody waits for it.
    let killed = std::process::Command::new("kill").args(["-9", &first]).status();
    assert!(killed.is_ok_and(|s| s.success()));
    while lives(&first) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = step(Processes::Gpus);
    assert!(second != first && second.parse::<u32>().is_ok(), "{second}");
    assert!(lives(&second));
    step(Processes::AfterGpus);
    assert!(!lives(&second), "it holds its GPU still");
    let third = step(Processes::Gpus);
    drop(supervisor);
    assert!(!lives(&third), "it outlives the supervisor");
}

#[test]
fn a_gpus_process_that_fails_serves_no_other_step() {
    for (fault, said) in [("echo junk", "Junk"), ("exit 9", "exit status 9"), ("sleep 60", "TimedOut")] {
        let script = format!("read -r job; {fault}");
        let supervisor = Supervisor::new("/bin/sh".into(), vec!["-c".into(), script], Arc::default());
        for _ in 0..2 {
            let error = on_gpus(&supervisor, Processes::Gpus);
            assert!(error.contains(said), "{fault}: {error}");
        }
    }
}

/// Whenever the budget ends, inside a warm-up or between two samples: a collective was measured in full or not at all, and its sums were right.
#[test]
fn a_collective_that_the_budget_ends_is_no_wrong_sum_and_no_hang() {
    let plan = check_plan(Default::default());
    let steps = find("collective").map(|p| p.steps(&plan, &Machine::default())).unwrap_or_default();
    let step = steps.iter().find(|s| s.ranks == 2).expect("two ranks");
    let supervisor = Supervisor::new(env!("CARGO_BIN_EXE_gonogo").into(), vec!["worker".to_owned()], Arc::default());
    let (mut measured, mut cut) = (0, 0);
    for at_most in [40, 100, 200, 300, 400, 600, 800, 1000] {
        let started = Instant::now();
        supervisor.run(step, Duration::from_millis(at_most), |case, outcome, _| match outcome {
            Outcome::Measured(m) => {
                assert!(
                    m.checks.iter().all(|c| c.ok) && m.series.iter().all(|s| s.samples.len() >= 3),
                    "{case}: {m:?}"
                );
                measured += 1;
            }
            Outcome::Waived { kind: WaiveKind::NoTime, .. } => cut += 1,
            other => panic!("{at_most} ms, case {case}: {other:?}"),
        });
        assert!(started.elapsed() < Duration::from_millis(at_most + 3000), "{at_most} ms took {:?}", started.elapsed());
    }
    assert_eq!(measured + cut, 8 * step.cases.len());
    assert!(cut > 0);
}
