//! Who failed before: found in one record, known again in the next.

use crate::common::*;
use gonogo::baseline::{Offender, merge};
use gonogo::id::NodeName;
use gonogo::judge::{Judgement, judge, judge_knowing, offenders};
use gonogo::measure::{Measured, Outcome};
use gonogo::record::Record;
use gonogo::topology::{Gpu, Machine, Nvidia, PciGpu};

fn with_gpus(serial: Option<&str>, uuids: &[&str]) -> Machine {
    let gpu = |(i, u): (usize, &&str)| Gpu {
        index: i as u32,
        uuid: (*u).into(),
        pci: format!("0000:{i:02x}:00.0"),
        name: "NVIDIA H200".into(),
        ..Gpu::default()
    };
    let gpus: Vec<Gpu> = uuids.iter().enumerate().map(gpu).collect();
    Machine {
        serial: serial.map(str::to_owned),
        gpus: gpus
            .iter()
            .map(|g| PciGpu { pci: g.pci.clone(), vendor: "0x10de".into(), ..PciGpu::default() })
            .collect(),
        nvidia: Some(Nvidia { gpus, ..Nvidia::default() }),
        ..good_machine()
    }
}

/// Four nodes of two GPUs each; `edit` makes one of them fail.
fn cluster(names: [&str; 4], edit: &dyn Fn(&mut Record)) -> Record {
    let mut record = empty(run_plan("[nodes]\nneeded = 3\nspares = 1\n"));
    record.header.launcher = Some("Slurm".into());
    record.header.nodes = names.iter().map(|n| NodeName((*n).into())).collect();
    for (i, name) in names.iter().enumerate() {
        let uuids = [format!("GPU-{i}a"), format!("GPU-{i}b")];
        let m = with_gpus(Some(&format!("S{i}")), &[&uuids[0], &uuids[1]]);
        add_on(&mut record, name, "environment", "machine", machine(m));
        add_on(&mut record, name, "gemm", "f32 1 core", good_gemm());
    }
    edit(&mut record);
    record
}

const NAMES: [&str; 4] = ["n1", "n2", "n3", "n4"];

/// A wrong product of GPU 1 of n3.
fn wrong_gpu(r: &mut Record) {
    let checks = vec![check_named("residual", false)];
    let outcome = Outcome::Measured(Measured { checks: checks.into(), ..Measured::default() });
    add_on(r, "n3", "gemm", "bf16 8192 burst gpu1", outcome);
    for s in r.steps.iter_mut().filter(|s| s.cases.iter().any(|c| c.gpu() == Some(1))) {
        s.name = "gemm-gpu".into();
    }
    for l in r.outcomes.iter_mut().filter(|l| l.case.gpu() == Some(1)) {
        l.step = "gemm-gpu".into();
    }
}

fn told(j: &Judgement<'_>) -> Vec<String> {
    let all = j.findings.iter().filter(|f| f.code.as_str() == "LEM-001");
    all.map(|f| format!("{}: {}", f.subject, f.evidence)).collect()
}

pub fn found() -> Vec<String> {
    let bad = cluster(NAMES, &wrong_gpu);
    let list = offenders(&judge(&bad, &bad.header.plan.run, &[]));
    let again = cluster(NAMES, &|_| {});
    told(&judge_knowing(&again, &again.header.plan.run, &[], &list))
}

#[test]
fn a_gpu_that_failed_is_known_by_its_uuid_and_its_node_goes_to_the_spares() {
    let bad = cluster(NAMES, &wrong_gpu);
    let list = offenders(&judge(&bad, &bad.header.plan.run, &[]));
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!((list[0].node.as_str(), &list[0].gpus[..]), ("n3", &["GPU-2b".to_owned()][..]));
    // The same place, and the GPU in another node under another name.
    assert_eq!(found(), ["node n3: GPU 1 (GPU-2b) failed 1 time, last on 2026-11-24: GEM-004"]);
    let moved = cluster(["n5", "n6", "n7", "n8"], &|_| {});
    let j = judge_knowing(&moved, &moved.header.plan.run, &[], &list);
    assert_eq!(told(&j), ["node n7: GPU 1 (GPU-2b) failed as n3 1 time, last on 2026-11-24: GEM-004"]);
    // It warns, and where there is a choice the node is the spare.
    assert_eq!((j.decision.name(), &j.placement.spares), ("GO", &vec![NodeName("n7".into())]));
    assert_eq!(judge(&moved, &moved.header.plan.run, &[]).placement.spares, [NodeName("n8".into())]);
}

#[test]
fn a_node_is_known_by_its_serial_number_else_by_its_name() {
    let offender = |serial: Option<&str>| Offender {
        node: "n2".into(),
        serial: serial.map(str::to_owned),
        gpus: vec![],
        codes: ["PER-001".to_owned()].into(),
        on: ["2026-10-01T00:00:00Z".to_owned(), "2026-11-01T00:00:00Z".to_owned()].into(),
    };
    let record = cluster(NAMES, &|_| {});
    let named = |l: Offender| told(&judge_knowing(&record, &record.header.plan.run, &[], &[l]));
    assert_eq!(named(offender(Some("S3"))), ["node n4: it failed as n2 2 times, last on 2026-11-01: PER-001"]);
    assert_eq!(named(offender(None)), ["node n2: it failed 2 times, last on 2026-11-01: PER-001"]);
    assert_eq!(named(offender(Some("another"))), [""; 0]);
}

#[test]
fn what_is_configured_wrongly_is_no_offender() {
    let record = cluster(NAMES, &|r| {
        let kind = gonogo::measure::FailKind::ReadOnly;
        add_on(r, "n2", "storage", "write", Outcome::error(kind, "read-only"));
    });
    let j = judge(&record, &record.header.plan.run, &[]);
    assert!(j.findings.iter().any(|f| f.code.as_str() == "STO-024"));
    let mut list = offenders(&j);
    merge(&mut list, []);
    assert_eq!(list, []);
}
