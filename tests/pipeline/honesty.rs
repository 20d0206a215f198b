//! Where the peers fail: each known failure of another tool, as a test of this one. The sources are in the comments.

use crate::common::*;
use gonogo::judge;
use gonogo::measure::{FailKind, Load, Measured, Outcome, WaiveKind};
use gonogo::plan::RunPlan;

/// NVCRE#5, gpu-fryer#10: a measurement that is missing or zero was reported healthy.
#[test]
fn what_was_not_measured_and_what_is_zero_are_never_healthy() {
    let mut none = healthy(RunPlan::default());
    none.outcomes[1].outcome = Outcome::Measured(Measured::default());
    assert_eq!(verdict(&none).0, "HOLD");
    let mut zero = healthy(RunPlan::default());
    let mut s = series("gemm", "flops", 1.0);
    s.samples = vec![0.0; 12].into();
    zero.outcomes[1].outcome = measured(s);
    assert_eq!(verdict(&zero), ("HOLD".into(), vec!["VAL-001 hold".into()]));
}

/// Meta GCM: UNKNOWN ranks below OK; OCI: a crash of the SDC check counts as passed; soperator: set-up failure exits 0.
#[test]
fn a_probe_that_broke_holds_the_gate() {
    for outcome in [
        Outcome::error(FailKind::Crashed, "x"),
        Outcome::TimedOut { after_ms: 1, missing: Vec::new() },
        Outcome::error(FailKind::Error, "x"),
    ] {
        let mut record = healthy(RunPlan::default());
        add(&mut record, "tcp", "loopback 1 stream", outcome);
        assert_eq!(verdict(&record).0, "HOLD");
    }
}

/// DCGM#55, #139: tests silently skipped. NVCRE#57: passed after dropping nodes.
#[test]
fn what_was_planned_and_is_not_in_the_record_is_told() {
    let mut record = healthy(RunPlan::default());
    add(&mut record, "tcp", "loopback 1 stream", good_gemm());
    record.outcomes.pop();
    let run = RunPlan::default();
    let j = judge::judge(&record, &run, &[]);
    assert_eq!((j.coverage.planned, j.coverage.measured, j.coverage.missing), (4, 3, 1));
    assert_eq!(verdict(&record).0, "HOLD");
    assert!(j.coverage.sentence().contains("1 missing"), "{}", j.coverage.sentence());
}

/// A record whose steps were taken out would otherwise be a GO of what is left.
#[test]
fn a_chosen_probe_without_a_step_holds_the_gate() {
    let mut record = healthy(RunPlan::default());
    record.steps.retain(|s| s.probe.as_str() != "storage");
    assert_eq!(verdict(&record), ("HOLD".into(), vec!["COV-002 hold".into()]));
}

/// A failure in one attempt was masked by a retry in several peers.
#[test]
fn a_later_success_does_not_hide_a_failure() {
    let mut record = healthy(RunPlan::default());
    let i = add(&mut record, "gemm", "f64 1 core", checked(series("gemm", "flops", 90e9), "repeat", false));
    let mut again = record.outcomes[i].clone();
    again.attempt = 2;
    again.outcome = good_gemm();
    record.outcomes.push(again);
    assert_eq!(verdict(&record).0, "NO-GO");
}

/// SuperBench#369, DCGM's H200 row: unit slips of a thousand went unnoticed.
#[test]
fn a_unit_slip_is_invalid_and_not_excellent() {
    let mut record = healthy(RunPlan::default());
    add(
        &mut record,
        "gemm",
        "f64 1 core",
        measured(series("gemm", "flops", 90e12).bounded(400e9, "64 FLOP x 6.25 GHz")),
    );
    assert_eq!(verdict(&record), ("HOLD".into(), vec!["VAL-001 hold".into()]));
    // A time below what light and silicon allow, likewise.
    let mut record = healthy(RunPlan::default());
    add(
        &mut record,
        "tcp",
        "loopback ping 1 B",
        measured(series("tcp", "rtt_p50", 5e-9).bounded(100e-9, "two cache lines")),
    );
    assert!(verdict(&record).1.contains(&"VAL-001 hold".to_owned()));
}

/// DCGM#272, soperator#480: a busy device was reported as broken hardware.
#[test]
fn slow_on_a_busy_machine_is_open_and_a_quiet_attempt_settles_it() {
    let busy = Some(Load { window_ms: 900, others_cores: 1.0, steal_cores: 0.0, ..Load::default() });
    let slow = || measured(series("tcp", "bandwidth", 0.2e9));
    let mut record = healthy(RunPlan::default());
    let i = add_loaded(&mut record, "tcp", "loopback 1 stream", slow(), busy);
    assert_eq!(verdict(&record), ("HOLD".into(), vec!["VAL-002 hold".into()]));
    let run = RunPlan::default();
    let limits = gonogo::baseline::builtin();
    assert_eq!(judge::judge(&record, &run, &limits).open_cases().len(), 1);
    let mut quiet = record.outcomes[i].clone();
    (quiet.attempt, quiet.load, quiet.outcome) = (2, None, measured(series("tcp", "bandwidth", 4e9)));
    record.outcomes.push(quiet);
    assert_eq!(verdict(&record).0, "GO");
    // Stolen time counts as well, and a good result on a busy machine is good.
    let stolen = Some(Load { window_ms: 900, others_cores: 0.0, steal_cores: 0.8, ..Load::default() });
    let mut record = healthy(RunPlan::default());
    add_loaded(&mut record, "tcp", "loopback 1 stream", slow(), stolen);
    assert_eq!(verdict(&record).0, "HOLD");
    let mut record = healthy(RunPlan::default());
    add_loaded(&mut record, "tcp", "loopback 1 stream", measured(series("tcp", "bandwidth", 4e9)), busy);
    assert_eq!(verdict(&record).0, "GO");
}

/// A virtual machine whose host takes its cores reads a third of its products, with nothing in `steal`: no fault of the node, whatever
/// attempt it was. What the node's own quota takes is not looked at, and stays a fault.
#[test]
fn a_host_that_takes_cores_unsaid_is_no_fault_of_its_guest() {
    use gonogo::measure::Pace;
    let slow = |hz: Option<f64>| {
        let series = series("gemm", "flops", 8e9).nominally(41.6e9, "16 operations a cycle at 2.6 GHz");
        let pace = hz.map(|hz| Pace { cores: 1, hz, base_hz: 2.6e9 });
        Outcome::Measured(Measured { series: vec![series], pace: pace.map(Box::new), ..Default::default() })
    };
    let attempts = |paces: &[Option<f64>]| {
        let mut record = healthy(RunPlan::default());
        let i = add(&mut record, "gemm", "f64 1 core", slow(paces[0]));
        for (k, hz) in paces.iter().enumerate().skip(1) {
            let again =
                gonogo::record::OutcomeLine { attempt: k as u32 + 1, outcome: slow(*hz), ..record.outcomes[i].clone() };
            record.outcomes.push(again);
        }
        verdict(&record)
    };
    let busy = || ("HOLD".to_owned(), vec!["VAL-002 hold".to_owned()]);
    assert_eq!(attempts(&[Some(1.2e9)]), busy());
    // Quiet once, taken when it was to be confirmed: nothing is confirmed.
    assert_eq!(attempts(&[Some(3.6e9), Some(1.2e9)]), busy());
    for paces in [[Some(3.6e9), Some(3.5e9)], [None, None]] {
        assert_eq!(attempts(&paces), ("NO-GO".to_owned(), vec!["GEM-010 fail".to_owned()]));
    }
    // The kernel's threads took it: others' time for what only computes, and our own for what sends and writes.
    let kernel = Some(Load { window_ms: 900, others_system_cores: 0.8, ..Load::default() });
    let mut record = healthy(RunPlan::default());
    add_loaded(&mut record, "gemm", "f64 1 core", slow(None), kernel);
    assert_eq!(verdict(&record), busy());
    let mut record = healthy(RunPlan::default());
    add_loaded(&mut record, "tcp", "loopback 1 stream", measured(series("tcp", "bandwidth", 0.2e9)), kernel);
    assert_eq!(verdict(&record).0, "NO-GO");
}

/// aicr#1858: 7 of 8 GPUs gave an opaque failure; AzNHC: an unsupported SKU exits 0.
#[test]
fn fewer_gpus_than_planned_are_named_and_unmeasured_ones_hold_the_gate() {
    let plan = run_plan("[nodes]\nneeded = 1\ngpus_per_node = 2\n");
    let gpu = gonogo::topology::PciGpu { vendor: "0x10de".into(), ..Default::default() };
    let with = |n: usize| {
        let mut m = good_machine();
        m.gpus = vec![gpu.clone(); n];
        let mut record = empty(plan.clone());
        add(&mut record, "environment", "machine", machine(m));
        add(&mut record, "gemm", "f32 1 core", good_gemm());
        verdict(&record)
    };
    assert_eq!(with(1).0, "NO-GO");
    assert!(with(1).1.contains(&"ENV-006 fail".to_owned()));
    assert_eq!(with(2), ("HOLD".into(), vec!["COV-003 hold".into()]));
}

/// aicr#2784, AWS p5: thresholds without a source drifted or were copied wrong. Here every limit says where it is from.
#[test]
fn every_limit_that_decides_says_where_it_is_from() {
    let mut record = healthy(run_plan("[require]\nmin_tcp = \"9 GB/s\"\n"));
    add(&mut record, "tcp", "loopback 1 stream", measured(series("tcp", "bandwidth", 4e9)));
    add(&mut record, "memory", "read 1 core", measured(series("memory", "bandwidth", 1e9)));
    let run = record.header.plan.run.clone();
    let mut limits = gonogo::baseline::required(&run);
    limits.extend(gonogo::baseline::builtin());
    let j = judge::judge(&record, &run, &limits);
    let limit =
        |code: &str| j.findings.iter().find(|f| f.code.as_str() == code).map(|f| f.limit.clone()).unwrap_or_default();
    assert_eq!(limit("NET-010"), "at least 9.00 GB/s, from [require] min_tcp");
    assert!(limit("MEM-010").contains("JESD79-4") && limit("MEM-010").contains("2026-11-24"), "{}", limit("MEM-010"));
}

/// The owner's requirement that nothing could be held against holds the gate (NVCRE's MeasurementNotFound).
#[test]
fn a_requirement_without_a_measurement_holds_the_gate() {
    let record = healthy(run_plan("[require]\nmin_busbw = \"40 GB/s\"\n"));
    assert_eq!(verdict(&record).0, "HOLD");
    let skipped = healthy(run_plan("[require]\nprobes = [\"tcp\"]\n"));
    assert_eq!(verdict(&skipped).0, "HOLD");
}

/// mlcommons/storage#627: a capacity check that failed falsely. The arithmetic is printed, and the known answer holds.
#[test]
fn the_mount_of_gpt_neox_20b_is_refused_with_the_numbers() {
    let mut record = empty(run_plan(include_str!("../fixtures/plans/neox-20b.toml")));
    let mut m = good_machine();
    m.gpus = vec![Default::default(); 8];
    add(&mut record, "environment", "machine", machine(m));
    add(&mut record, "storage", "capacity", filesystem("nfs4", 1 << 40));
    let run = record.header.plan.run.clone();
    let j = judge::judge(&record, &run, &[]);
    let f = j.findings.iter().find(|f| f.code.as_str() == "STO-020");
    let Some(f) = f else { panic!("{:?}", j.findings) };
    assert_eq!(f.evidence, "1 TiB free of 2 TiB; 3 saves fit, the save at hour 24.4 fails");
    assert_eq!(
        f.limit,
        "268 GiB x (all 300 saves (no keep is set) + 1 in flight + 1 partial) / 0.80 = 98.8 TiB needed"
    );
    assert_eq!(j.decision.to_string(), "NO-GO");
}

/// Waivers: by name, with a reason, until a day; an expired one waives nothing.
#[test]
fn waivers_count_until_their_day() {
    let with = |until: &str| {
        let mut record =
            healthy(run_plan(&format!("[[waive]]\ncode = \"COV-002\"\nreason = \"known\"\nuntil = \"{until}\"\n")));
        add(&mut record, "tcp", "x", Outcome::waived(WaiveKind::NoTime, "cut"));
        verdict(&record)
    };
    assert_eq!(with("2026-11-24"), ("GO".into(), vec![]));
    assert_eq!(with("2026-11-23"), ("HOLD".into(), vec!["COV-002 hold".into(), "PLN-001 warn".into()]));
}

/// GO-WITHOUT: a bad node is left out when enough are left, and never when the fault is the run's.
#[test]
fn spares_cover_bad_nodes() {
    let build = |needed: u32| {
        let mut record = healthy(run_plan(&format!("[nodes]\nneeded = {needed}\n")));
        record.header.nodes.push(gonogo::id::NodeName("n2".into()));
        let mut second = record.outcomes.to_vec();
        for line in &mut second {
            line.node = record.header.nodes[1].clone().into();
        }
        second[1].outcome = checked(series("gemm", "flops", 90e9), "repeat", false);
        record.outcomes.extend(second);
        verdict(&record).0
    };
    assert_eq!((build(1).as_str(), build(2).as_str()), ("GO-WITHOUT", "NO-GO"));
}

/// A machine whose host took its cores read a sixth of its GEMM, with nothing in `steal`, and was NO-GO.
#[test]
fn a_failure_stands_when_it_is_confirmed_and_a_contradiction_is_open() {
    let measure = |rates: &[f64]| {
        let mut r = empty(RunPlan::default());
        add(&mut r, "gemm", "f32 1 core", good_gemm());
        for (i, rate) in rates.iter().enumerate() {
            let line = add(&mut r, "tcp", "loopback 1 stream", measured(series("tcp", "bandwidth", *rate)));
            (r.outcomes[line].attempt, r.outcomes[line].step) = (i as u32 + 1, "tcp-1".into());
        }
        r.steps.truncate(2);
        r
    };
    let judged = |rates: &[f64]| {
        let r = measure(rates);
        let open = judge::judge(&r, &RunPlan::default(), &gonogo::baseline::builtin()).open_cases().len();
        (verdict(&r), open)
    };
    let (found, open) = judged(&[0.1e9]);
    assert!(found.1.iter().any(|f| f == "NET-010 fail") && open == 1, "{found:?}, {open} to be measured again");
    let (found, open) = judged(&[0.1e9, 0.11e9]);
    assert!(found.1.iter().any(|f| f == "NET-010 fail") && open == 0, "{found:?}, {open} to be measured again");
    for rates in [&[0.1e9, 4e9][..], &[4e9, 0.1e9], &[0.1e9, 4e9, 4.1e9]] {
        let (found, open) = judged(rates);
        assert!(found.1.iter().any(|f| f == "VAL-006 hold") && open == 1, "{found:?}, {open} to be measured again");
        assert!(found.1.iter().all(|f| !f.ends_with(" fail")), "{found:?}");
    }
}
