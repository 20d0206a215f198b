//! What NCCL says of itself: every finding provoked, and none brought up by a healthy node.

use crate::common::*;
use gonogo::id::NodeName;
use gonogo::measure::{Bits, Bound, Facts, Measured, Outcome};
use gonogo::plan::RunPlan;
use gonogo::record::Record;
use gonogo::topology::{
    FabricState, Gpu, IbDevice, IbPort, Machine, Nccl, NcclTopology, NetDevice, NvLink, Nvidia, PciGpu, TopologyCpu,
    TopologyGpu, TopologyNet,
};

fn gpu(bus: u32) -> Gpu {
    Gpu {
        name: "NVIDIA H100 80GB HBM3".into(),
        uuid: format!("GPU-{bus}"),
        pci: format!("0000:{bus:02x}:00.0"),
        capability: Some((9, 0)),
        ..Gpu::default()
    }
}

fn node() -> Machine {
    let port = IbPort {
        port: 1,
        state: Some("ACTIVE".into()),
        rate: Some("400 Gb/sec (4X NDR)".into()),
        sm_lid: Some(1),
        lid: Some(2),
        ..IbPort::default()
    };
    let device = |name: &str| IbDevice { name: name.into(), ports: vec![port.clone()], ..IbDevice::default() };
    let gpus: Vec<Gpu> = (0..4).map(|i| gpu(16 + i)).collect();
    let mut m = good_machine();
    m.infiniband = vec![device("mlx5_0"), device("mlx5_1")];
    m.uverbs = Some(true);
    m.gpus = gpus.iter().map(|g| PciGpu { pci: g.pci.clone(), vendor: "0x10de".into(), ..PciGpu::default() }).collect();
    m.nvidia = Some(Nvidia { gpus, ..Nvidia::default() });
    m
}

/// Four GPUs, two on each of two CPUs, each with an adapter.
fn said() -> Nccl {
    let gpu = |i: i64| TopologyGpu { dev: Some(i), rank: Some(i), ..TopologyGpu::default() };
    let net = |i: i64| TopologyNet {
        name: format!("mlx5_{i}"),
        bus: Some(format!("0000:{i}a:00.0")),
        ..TopologyNet::default()
    };
    let cpu = |n: i64| TopologyCpu { numa: Some(n), gpus: vec![gpu(2 * n), gpu(2 * n + 1)], nets: vec![net(n)] };
    let device = |i: i64| NetDevice { name: format!("mlx5_{i}"), gdr: Some(true) };
    Nccl {
        version: "2.27.3".into(),
        ranks: 4,
        nodes: 1,
        network: Some("IB".into()),
        devices: vec![device(0), device(1)],
        transports: [("P2P/CUMEM".into(), 8)].into(),
        ring: vec![0, 1, 2, 3],
        topology: Some(NcclTopology { cpus: vec![cpu(0), cpu(1)] }),
        ..Nccl::default()
    }
}

fn facts(nccl: Nccl) -> Outcome {
    Outcome::Measured(Measured { facts: Some(Facts::Nccl(Box::new(nccl))), ..Measured::default() })
}

fn record(machine_: Machine, nccl: Nccl) -> Record {
    let mut record = empty(RunPlan::default());
    add(&mut record, "environment", "machine", machine(machine_));
    add(&mut record, "gemm", "f32 1 core", good_gemm());
    add(&mut record, "collective", "start nccl node n=4", facts(nccl));
    record
}

/// Two nodes, each with what it said of itself, and what it computed.
fn two(versions: [&str; 2]) -> Record {
    let mut record = record(node(), said());
    record.header.nodes = vec![NodeName("n1".into()), NodeName("n2".into())];
    for (name, version) in record.header.nodes.clone().iter().zip(versions) {
        let nccl = Nccl { version: version.into(), ..said() };
        add_line(&mut record, name, "collective-gpu", "collective", "start nccl node n=4", facts(nccl));
    }
    record.outcomes.retain(|l| l.step != "collective" || l.probe.as_str() != "collective");
    record
}

/// A record that must bring a code up.
pub fn provoke(code: &str) -> Option<Record> {
    let (mut m, mut n) = (node(), said());
    match code {
        "NCL-001" => (n.nodes, n.network) = (2, Some("Socket".into())),
        "NCL-002" => (n.nodes, n.devices[1].gdr) = (2, Some(false)),
        "NCL-003" => n.devices.truncate(1),
        "NCL-004" => {
            (n.ranks, n.nodes) = (8, 2);
            n.sends_by = (0..8).map(|r| (r, vec![0])).collect();
        }
        "NCL-005" => n.transports = [("SHM/direct".into(), 2)].into(),
        "NCL-006" => n.ring = vec![0, 2, 1, 3],
        "NCL-007" => {
            n.settings = vec![("NCCL_NET_PLUGIN".into(), "aws-ofi".into())];
            n.plugins = vec![("libnccl-net-aws-ofi.so".into(), false)];
        }
        "NCL-008" => return Some(two(["2.27.3", "2.26.2"])),
        "NCL-009" => m.environment = [("NCCL_ALGO".to_owned(), "Ring".to_owned())].into(),
        "NCL-010" => {
            let up = FabricState { state: "completed".into(), ..FabricState::default() };
            m.nvidia.iter_mut().flat_map(|n| &mut n.gpus).for_each(|g| g.fabric = Some(up.clone()));
            n.nvls = Some(false);
        }
        "NCL-011" => n.warnings = vec!["Call to ibv_create_qp failed".into()],
        "NCL-012" => n.topology.iter_mut().for_each(|t| t.cpus[1].nets.clear()),
        "NCL-013" => {
            let mut series = series("collective", "latency", 30e-3);
            series.nominal = Some(Bound { claimed: true, ..Bound::new(5e-3, "NCCL's own model of RING SIMPLE") });
            let mut record = record(m, n);
            add(&mut record, "collective", "all-reduce nccl node n=4 1 GiB", measured(series));
            return Some(record);
        }
        _ => return None,
    }
    Some(record(m, n))
}

fn against(record: &Record) -> Vec<String> {
    let limits = gonogo::baseline::builtin();
    let judgement = gonogo::judge::judge(record, &record.header.plan.run, &limits);
    judgement.findings.iter().map(|f| format!("{} {}", f.code, f.evidence)).collect()
}

#[test]
fn a_healthy_node_brings_nothing_up() {
    let found: Vec<String> = against(&record(node(), said())).into_iter().filter(|f| f.starts_with("NCL")).collect();
    assert_eq!(found, [""; 0]);
    let found: Vec<String> = against(&two(["2.27.3", "2.27.3"])).into_iter().filter(|f| f.starts_with("NCL")).collect();
    assert_eq!(found, [""; 0]);
}

#[test]
fn the_node_whose_version_differs_is_named() {
    let mut record = two(["2.27.3", "2.27.3"]);
    let third = NodeName("n3".into());
    record.header.nodes.push(third.clone());
    let other = Nccl { version: "2.26.2".into(), ..said() };
    add_line(&mut record, &third, "collective-gpu", "collective", "start nccl node n=4", facts(other));
    let found: Vec<String> = against(&record).into_iter().filter(|f| f.starts_with("NCL-008")).collect();
    assert_eq!(found, ["NCL-008 NCCL 2.26.2 here, 2.27.3 on 2 other node(s)"]);
}

/// NVLinks make the order of the ring cheap, and shared memory a fault.
#[test]
fn nvlinks_change_what_a_ring_and_shared_memory_mean() {
    let mut m = node();
    let links = vec![NvLink { link: 0, active: true, ..NvLink::default() }];
    m.nvidia.iter_mut().flat_map(|n| &mut n.gpus).for_each(|g| g.nvlinks.clone_from(&links));
    let mut n = said();
    n.ring = vec![0, 2, 1, 3];
    n.transports = [("SHM/direct".into(), 2)].into();
    let found: Vec<String> = against(&record(m, n)).into_iter().filter(|f| f.starts_with("NCL")).collect();
    assert_eq!(found, ["NCL-005 collective-2: 2 channels by SHM, though the GPUs have NVLinks"]);
}

/// A GPU that computes other bits than its likes on other nodes is named, though on its own node all agree.
#[test]
fn gpus_are_compared_across_nodes() {
    let mut record = two(["2.27.3", "2.27.3"]);
    record.header.nodes.push(NodeName("n3".into()));
    for (node, digest) in record.header.nodes.clone().iter().zip(["aa", "bb", "aa"]) {
        for gpu in 0..2 {
            let bits = Bits { of: "NVIDIA H100, cuBLASLt 120803".into(), digest: digest.into() };
            let outcome = Outcome::Measured(Measured { bits: Some(Box::new(bits)), ..Measured::default() });
            add_line(&mut record, node, "gemm-gpu", "gemm", &format!("bf16 8192 burst gpu{gpu}"), outcome);
        }
    }
    let found: Vec<String> = against(&record).into_iter().filter(|f| f.starts_with("GEM-003")).collect();
    assert!(found.len() == 2 && found.iter().all(|f| f.contains("digest bb, and 4 of 6 GPUs")), "{found:?}");
}
