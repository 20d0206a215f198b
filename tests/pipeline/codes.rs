//! The registry of findings: every code is explained, and provoked by a record that must bring it up.

use std::collections::BTreeSet;

use crate::common::*;
use gonogo::id::FindingCode;
use gonogo::judge::{CODES, Severity};
use gonogo::measure::{FailKind, Load, Outcome, WaiveKind};
use gonogo::plan::RunPlan;
use gonogo::record::{Damage, Record};
use gonogo::topology::{IbDevice, Machine, Missing, PciGpu};
use gonogo::unit::Bytes;

/// The smallest record that brings a code up; `None` for a code nobody wrote a test for.
fn provoke(code: &str) -> Option<Record> {
    let with = |run: &str, edit: &dyn Fn(&mut Record)| {
        let mut record = healthy(run_plan(run));
        edit(&mut record);
        Some(record)
    };
    let case = |probe: &'static str, case: &'static str, outcome: Outcome| {
        with("", &|r| {
            add(r, probe, case, outcome.clone());
        })
    };
    let node = |edit: &dyn Fn(&mut Machine)| {
        let mut m = good_machine();
        edit(&mut m);
        let mut record = empty(RunPlan::default());
        add(&mut record, "environment", "machine", machine(m));
        add(&mut record, "gemm", "f32 1 core", good_gemm());
        Some(record)
    };
    let failed = |kind| case("storage", "write", Outcome::error(kind, "as the test has it"));
    let wrong = |probe: &'static str, metric: &str, check: &str| {
        case(probe, "x", checked(series(probe, metric, 1e12), check, false))
    };
    let slow = |probe: &'static str, name: &'static str, metric: &str, value| {
        case(probe, name, measured(series(probe, metric, value)))
    };
    let load = Some(Load { window_ms: 500, others_cores: 1.5, steal_cores: 0.0 });
    let gpu = PciGpu { vendor: "0x10de".into(), ..PciGpu::default() };
    let plan = "[model]\nparameters = 20.55e9\n[checkpoint]\ndir = \"/ckpt\"\n";
    let storage = |extra: &str, available: u64| {
        let mut record = empty(run_plan(&format!("{plan}{extra}")));
        add(&mut record, "gemm", "f32 1 core", good_gemm());
        add(&mut record, "storage", "capacity", filesystem("ext4", available));
        Some(record)
    };
    match code {
        "COV-001" => Some(empty(RunPlan::default())),
        "COV-002" => case("tcp", "x", Outcome::waived(WaiveKind::NoTime, "cut")),
        "COV-003" => node(&|m| m.gpus = vec![gpu.clone()]),
        "COV-004" => with("", &|r| r.end = None),
        "COV-005" => with("", &|r| r.damage = Some(Damage { line: 9, bytes: 40 })),
        "COV-006" => case("storage", "capacity", Outcome::waived(WaiveKind::NotAsked, "no directory")),
        "RUN-001" => failed(FailKind::Crashed),
        "RUN-002" => case("gemm", "x", Outcome::TimedOut { after_ms: 9000 }),
        "RUN-003" => failed(FailKind::Junk),
        "RUN-004" => failed(FailKind::Error),
        "VAL-001" => case("gemm", "x", measured(series("gemm", "flops", 500e9).bounded(400e9, "the test's CPU"))),
        "VAL-002" => with("", &|r| {
            add_loaded(r, "tcp", "loopback 1 stream", measured(series("tcp", "bandwidth", 0.1e9)), load);
        }),
        "VAL-003" => case("tcp", "loopback 1 stream", {
            let mut s = series("tcp", "bandwidth", 0.5e9);
            s.samples = vec![0.45e9, 0.55e9, 0.5e9];
            measured(s)
        }),
        "VAL-004" => with("", &|r| r.outcomes[0].load = load),
        "VAL-005" => case("tcp", "loopback ping 1 B", {
            let mut s = series("tcp", "rtt_p50", 300e-9);
            s.block = 1;
            measured(s)
        }),
        "ENV-001" => node(&|m| {
            m.infiniband = vec![IbDevice::default()];
            m.limits.memlock = Some(Bytes(65_536));
        }),
        "ENV-002" => node(&|m| m.limits.nofile = Some(1024)),
        "ENV-003" => node(&|m| m.cgroup.cpus = Some(2.0)),
        "ENV-004" => node(&|m| m.cpu.governor = Some("powersave".into())),
        "ENV-005" => node(&|m| m.missing = vec![Missing { path: "/sys/class/net".into(), denied: false }]),
        "ENV-006" => {
            let mut record = empty(run_plan("[nodes]\nneeded = 1\ngpus_per_node = 8\n"));
            add(&mut record, "environment", "machine", machine(good_machine()));
            Some(record)
        }
        "ENV-007" => node(&|m| (m.gpus, m.infiniband) = (vec![gpu.clone()], vec![IbDevice::default()])),
        "ENV-008" => node(&|m| m.memory.shm = Some(Bytes(64 << 20))),
        "GEM-001" => wrong("gemm", "flops", "residual"),
        "GEM-002" => wrong("gemm", "flops", "repeat"),
        "GEM-010" => {
            case("gemm", "f32 9 cores", measured(series("gemm", "flops", 10e9).nominally(100e9, "the test's CPU")))
        }
        "MEM-001" => wrong("memory", "bandwidth", "pattern"),
        "MEM-010" => slow("memory", "read 1 core", "bandwidth", 1e9),
        "NET-001" => wrong("tcp", "bandwidth", "payload"),
        "NET-010" => slow("tcp", "loopback 1 stream", "bandwidth", 0.2e9),
        "NET-011" => slow("tcp", "loopback ping 1 B", "rtt_p50", 5e-3),
        "COL-001" => wrong("collective", "busbw", "sum"),
        "COL-010" => slow("collective", "all-reduce node n=2 64 MiB", "busbw", 1e6),
        "COL-011" => slow("collective", "all-reduce node n=2 8 B", "latency", 8e-3),
        "STO-001" => wrong("storage", "read", "checksum"),
        "STO-010" => slow("storage", "write", "write", 1e6),
        "STO-011" => slow("storage", "read", "read", 1e6),
        "STO-012" => slow("storage", "metadata", "metadata", 3.0),
        "STO-020" => storage("keep = 3\n", 1 << 40),
        "STO-021" => storage("keep = 3\nfiles = 1_000_000\n", 1 << 50),
        "STO-022" => failed(FailKind::PathMissing),
        "STO-023" => failed(FailKind::NotADirectory),
        "STO-024" => failed(FailKind::ReadOnly),
        "STO-025" => {
            let mut record = empty(run_plan(plan));
            add(&mut record, "storage", "capacity", filesystem("tmpfs", 1 << 50));
            Some(record)
        }
        "STO-026" => failed(FailKind::DiskFull),
        "STO-027" => wrong("storage", "publish", "atomic"),
        "STO-028" => storage("interval = \"1h\"\n", 1 << 50),
        "STO-029" => {
            let mut record = storage("interval = \"10m\"\nkeep = 2\nstall_budget = 0.01\n", 1 << 50)?;
            add(&mut record, "storage", "write", measured(series("storage", "write", 1e9)));
            Some(record)
        }
        "STO-030" => {
            let mut record = storage("keep = 1\n", 1 << 50)?;
            record.header.plan.storage_path = Some("/elsewhere".into());
            Some(record)
        }
        "PLN-001" => with("[[waive]]\ncode = \"STO-025\"\nreason = \"x\"\nuntil = \"2020-01-01\"\n", &|_| {}),
        _ => None,
    }
}

#[test]
fn every_code_has_its_texts_and_a_record_that_provokes_it() {
    let mut seen = BTreeSet::new();
    for doc in CODES {
        assert!(seen.insert(doc.code), "{} is there twice", doc.code);
        assert!(FindingCode::is_well_formed(doc.code), "{}", doc.code);
        for (name, text) in
            [("title", doc.title), ("cause", doc.cause), ("suspect", doc.suspect), ("remedy", doc.remedy)]
        {
            assert!(text.len() > 4 && text.is_ascii(), "{} has no good {name}", doc.code);
        }
        assert!(doc.cause.ends_with('.'), "{}", doc.code);
        let Some(record) = provoke(doc.code) else { panic!("no test provokes {}", doc.code) };
        let (decision, findings) = verdict(&record);
        assert!(
            findings.iter().any(|f| f.starts_with(doc.code)),
            "{} was provoked and not found: {decision} {findings:?}",
            doc.code
        );
        let holds = matches!(doc.severity, Severity::Hold | Severity::Fail);
        assert!(
            !holds || decision != "GO",
            "{} holds the gate by its registry and the decision was {decision}",
            doc.code
        );
    }
}

#[test]
fn the_healthy_record_is_a_go_without_findings() {
    assert_eq!(verdict(&healthy(RunPlan::default())), ("GO".into(), vec![]));
}
