//! What a GPU's link to its host, and a GPU without a datasheet, bring up.

use crate::common::*;
use gonogo::id::NodeName;
use gonogo::judge::Severity;
use gonogo::measure::{Facts, GpuLoad, Outcome};
use gonogo::plan::RunPlan;
use gonogo::record::Record;
use gonogo::topology::{Gpu, Machine, Nvidia};

fn found(record: &Record, code: &str) -> Vec<(Severity, String)> {
    let limits = gonogo::baseline::builtin();
    let judgement = gonogo::judge::judge(record, &record.header.plan.run, &limits);
    let those = judgement.findings.iter().filter(|f| f.code.to_string() == code);
    those.map(|f| (f.severity, f.evidence.clone())).collect()
}

/// A copy on a link that the driver saw at a generation of five.
fn copied(generation: u32, case: &str, rate: f64) -> Record {
    let mut record = healthy(RunPlan::default());
    let mut outcome = measured(series("copy", "bandwidth", rate).nominally(63e9, "PCIe 32 GT/s x16"));
    if let Outcome::Measured(m) = &mut outcome {
        m.facts = Some(Box::new(Facts::GpuLoad(Box::new(GpuLoad {
            pci: "0000:19:00.0".into(),
            pcie_generation: Some(generation),
            pcie_generation_max: Some(5),
            pcie_lanes: Some(16),
            pcie_lanes_max: Some(16),
            ..GpuLoad::default()
        }))));
    }
    add(&mut record, "copy", case, outcome);
    record
}

#[test]
fn a_link_that_stays_below_both_ends_under_load_fails() {
    let slow = found(&copied(4, "h2d gpu0", 26e9), "GPU-008");
    assert_eq!(slow.iter().map(|f| f.0).collect::<Vec<_>>(), [Severity::Fail], "{slow:?}");
    assert!(slow[0].1.contains("generation 4 under load") && slow[0].1.contains("can do 5"), "{slow:?}");
    // Trained to the full: nothing. Nor where the copies were faster than the generation that was seen: the look came when it idled.
    assert_eq!(found(&copied(5, "h2d gpu0", 55e9), "GPU-008"), []);
    assert_eq!(found(&copied(1, "h2d gpu0", 55e9), "GPU-008"), []);
}

/// An idle GPU runs below its application clocks, and its driver does not tell of them.
#[test]
fn application_clocks_that_hold_a_gpu_down_at_work_are_told() {
    let of = |set: u32, share: f64, idle: &[&str]| {
        let mut record = gpus(&["NVIDIA H200"]);
        for line in &mut record.outcomes {
            if let Outcome::Measured(m) = &mut line.outcome
                && let Some(Facts::Machine(machine)) = m.facts.as_deref_mut()
                && let Some(g) = machine.nvidia.as_mut().and_then(|n| n.gpus.first_mut())
            {
                g.pci = "0000:19:00.0".into();
                (g.clocks.sm_set_mhz, g.clocks.sm_max_mhz) = (Some(set), Some(1980));
                g.throttled = idle.iter().map(|t| (*t).to_owned()).collect();
            }
        }
        let throttled = vec![("application clocks".to_owned(), share)];
        let load = GpuLoad { pci: "0000:19:00.0".into(), throttled, ..GpuLoad::default() };
        let mut outcome = measured(series("gemm", "flops", 700e12));
        if let Outcome::Measured(m) = &mut outcome {
            m.facts = Some(Box::new(Facts::GpuLoad(Box::new(load))));
        }
        add_on(&mut record, "n1", "gemm", "bf16 8192 sustained gpu0", outcome);
        found(&record, "GPU-015").into_iter().map(|(_, text)| text).collect::<Vec<_>>()
    };
    let told = of(1400, 1.0, &[]);
    assert!(told.len() == 1 && told[0].contains("1400 MHz of 1980 MHz hold it down"), "{told:?}");
    assert_eq!(of(1400, 1.0, &["application clocks"]).len(), 1);
    // Set as high as it goes, or held down for a moment only.
    assert_eq!(of(1980, 1.0, &[]).len() + of(1400, 0.01, &[]).len(), 0);
}

fn gpus(names: &[&str]) -> Record {
    let gpu = |(i, name): (usize, &&str)| Gpu {
        index: i as u32,
        name: (*name).into(),
        uuid: format!("GPU-{i}"),
        ..Gpu::default()
    };
    let nvidia = Nvidia { gpus: names.iter().enumerate().map(gpu).collect(), ..Nvidia::default() };
    let mut record = empty(RunPlan::default());
    add_on(&mut record, "n1", "environment", "machine", machine(Machine { nvidia: Some(nvidia), ..good_machine() }));
    record.header.nodes = vec![NodeName("n1".into())];
    record
}

#[test]
fn a_gpu_without_a_datasheet_says_what_it_is_held_against() {
    let one = found(&gpus(&["NVIDIA L20"]), "GPU-016");
    assert!(one.len() == 1 && one[0].0 == Severity::Warn && one[0].1.contains("too few"), "{one:?}");
    let many = found(&gpus(&["NVIDIA L20"; 8]), "GPU-016");
    assert!(many.len() == 1 && many[0].0 == Severity::Info && many[0].1.contains("8 of it"), "{many:?}");
    assert_eq!(found(&gpus(&["NVIDIA H200", "NVIDIA L4", ""]), "GPU-016"), []);
}
