//! What should be the same everywhere, and is not.

use crate::common::*;
use gonogo::judge::judge;
use gonogo::plan::RunPlan;
use gonogo::topology::{Gpu, IbDevice, Machine, Nvidia};
use gonogo::unit::Bytes;

fn node(edit: &dyn Fn(&mut Nvidia)) -> Machine {
    let gpu = |index| Gpu {
        index,
        name: "NVIDIA H100 80GB HBM3".into(),
        vbios: Some("96.00.74.00.01".into()),
        gsp: Some("570.86.15".into()),
        memory: Some(Bytes(80 << 30)),
        ..Gpu::default()
    };
    let mut nvidia = Nvidia {
        driver: Some("570.86.15".into()),
        cuda: Some("12.8".into()),
        nvml: Some("12.570.86.15".into()),
        gpus: (0..8).map(gpu).collect(),
        ..Nvidia::default()
    };
    edit(&mut nvidia);
    Machine { nvidia: Some(nvidia), ..good_machine() }
}

/// `subject: evidence` of HET findings.
fn told(machines: &[Machine]) -> Vec<String> {
    let mut record = network(machines.len() as u32, 1);
    if machines.len() == 1 {
        record.header.launcher = None;
    }
    for (i, m) in machines.iter().enumerate() {
        add_on(&mut record, &format!("n{i}"), "environment", "machine", machine(m.clone()));
    }
    let j = judge(&record, &RunPlan::default(), &[]);
    let het = j.findings.iter().filter(|f| f.code.as_str().starts_with("HET-"));
    het.map(|f| format!("{} {}: {}", f.code, f.subject, f.evidence)).collect()
}

fn old(n: &mut Nvidia) {
    (n.driver, n.cuda, n.nvml) = (Some("550.54.15".into()), Some("12.4".into()), Some("12.550.54.15".into()));
    n.gpus.iter_mut().for_each(|g| g.gsp = Some("550.54.15".into()));
}

#[test]
fn the_node_with_another_driver_is_named_and_two_that_differ_are_told() {
    let same = node(&|_| {});
    let mut eight = vec![same.clone(); 8];
    assert_eq!(told(&eight), [""; 0]);
    eight[5] = node(&old);
    assert_eq!(
        told(&eight),
        ["HET-001 node n5: NVIDIA: driver 550.54.15, CUDA 12.4, NVML 12.550.54.15, GSP firmware 550.54.15; \
          on 7 of 8 nodes driver 570.86.15, CUDA 12.8, NVML 12.570.86.15, GSP firmware 570.86.15"]
    );
    let two = [same.clone(), node(&|n| n.driver = Some("550.54.15".into()))];
    assert_eq!(
        told(&two),
        [
            "HET-001 this run: NVIDIA, and no value is that of most nodes: driver 570.86.15 on n0; driver 550.54.15 on n1"
        ]
    );
    // A record from before these were read says nothing of them, and is no difference.
    let older = node(&|n| {
        n.nvml = None;
        n.gpus.iter_mut().for_each(|g| g.gsp = None);
    });
    assert_eq!(told(&[same.clone(), same, older]), [""; 0]);
}

#[test]
fn firmware_and_memory_are_compared_by_model() {
    let same = node(&|_| {});
    let vbios = node(&|n| n.gpus.iter_mut().for_each(|g| g.vbios = Some("96.00.61.00.01".into())));
    assert_eq!(
        told(&[same.clone(), vbios, same.clone()]),
        ["HET-001 node n1: VBIOS of NVIDIA H100 80GB HBM3: 96.00.61.00.01; on 2 of 3 nodes 96.00.74.00.01"]
    );
    // Another model has another VBIOS.
    let other = node(&|n| {
        for g in &mut n.gpus {
            (g.name, g.vbios, g.memory) = ("NVIDIA H200".into(), Some("96.00.A0".into()), Some(Bytes(141 << 30)));
        }
    });
    assert_eq!(told(&[same.clone(), other, same.clone()]), [""; 0]);
    let half = node(&|n| n.gpus.iter_mut().for_each(|g| g.memory = Some(Bytes(64 << 30))));
    assert_eq!(
        told(&[same.clone(), same.clone(), half]),
        ["HET-001 node n2: memory of NVIDIA H100 80GB HBM3: 64 GiB; on 2 of 3 nodes 80 GiB"]
    );
    // What the driver keeps for itself is no difference.
    let reserved = node(&|n| n.gpus[3].memory = Some(Bytes((80 << 30) - (700 << 20))));
    assert_eq!(told(&[same.clone(), same, reserved]), [""; 0]);
}

#[test]
fn gpus_of_one_node_that_differ_are_told_without_a_cluster() {
    assert_eq!(told(&[node(&|_| {})]), [""; 0]);
    let vbios = node(&|n| n.gpus[3].vbios = Some("96.00.61.00.01".into()));
    assert_eq!(
        told(&[vbios]),
        [
            "HET-002 node n0: VBIOS of NVIDIA H100 80GB HBM3: 96.00.61.00.01 (GPU 3); 96.00.74.00.01 (GPU 0, 1, 2, 4, 5, 6, 7)"
        ]
    );
    let model = node(&|n| n.gpus[7].name = "NVIDIA H100 PCIe".into());
    let found = told(&[model]);
    assert!(
        found.len() == 1 && found[0].contains("models: ") && found[0].contains("NVIDIA H100 PCIe (GPU 7)"),
        "{found:?}"
    );
    let memory = node(&|n| n.gpus[0].memory = Some(Bytes(40 << 30)));
    let found = told(&[memory]);
    assert!(found.len() == 1 && found[0].contains("40 GiB (GPU 0)"), "{found:?}");
    let gsp = node(&|n| n.gpus[2].gsp = Some("550.54.15".into()));
    assert!(told(&[gsp])[0].starts_with("HET-002 node n0: GSP firmware: 550.54.15 (GPU 2)"));
}

#[test]
fn adapters_differ_by_firmware_and_by_board() {
    let with = |firmware: &str, board: &str| {
        let device = IbDevice {
            name: "mlx5_0".into(),
            model: Some("MT4129".into()),
            firmware: Some(firmware.into()),
            board: Some(board.into()),
            ..IbDevice::default()
        };
        Machine { infiniband: vec![device], ..good_machine() }
    };
    let same = with("28.39.1002", "MT_0000000838");
    let found = told(&[same.clone(), with("28.36.1010", "MT_0000000838"), same.clone()]);
    assert!(found.len() == 1 && found[0].contains("28.36.1010") && found[0].contains("node n1"), "{found:?}");
    let found = told(&[same.clone(), same, with("28.39.1002", "MT_0000001108")]);
    assert!(found.len() == 1 && found[0].contains("MT4129 MT_0000001108"), "{found:?}");
}
