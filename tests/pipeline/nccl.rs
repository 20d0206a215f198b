//! What NCCL says of itself: every finding provoked, and none brought up by a healthy node.

use crate::common::*;
use gonogo::id::NodeName;
use gonogo::measure::{Bits, Bound, Facts, Measured, Outcome};
use gonogo::plan::RunPlan;
use gonogo::record::Record;
use gonogo::topology::{
    FabricState, Far, Gpu, IbDevice, IbPort, Machine, Nccl, NcclTopology, NetDevice, NvLink, Nvidia, PciGpu, Refusal,
    Refused, TopologyCpu, TopologyGpu, TopologyNet, parse_log,
};
use gonogo::work::{Case, Fact};

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

/// What the log of a fixture tells, as a record has it.
fn of_log(name: &str, nodes: u32, ranks: u32) -> Nccl {
    let path = format!("{}/tests/fixtures/nccl/{name}.log", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let log = parse_log(&text);
    Nccl {
        version: "2.27.3".into(),
        ranks,
        nodes,
        network: log.network,
        devices: log.devices,
        transports: log.transports,
        plugins: log.plugins,
        refused: log.refused,
        far: log.far,
        ..Nccl::default()
    }
}

fn facts(nccl: Nccl) -> Outcome {
    Outcome::facts(Facts::Nccl(Box::new(nccl)))
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
    record.outcomes.retain(|l| *l.step != *"collective" || l.probe.as_str() != "collective");
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
        "NCL-015" => {
            n.diagnoses = vec![diagnosis(false, "NCCL environment", "1 NCCL_* env var(s) differ across ranks")]
        }
        "NCL-012" => n.topology.iter_mut().for_each(|t| t.cpus[1].nets.clear()),
        "NCL-013" => {
            let mut series = series("collective", "latency", 30e-3);
            series.nominal =
                Some(Box::new(Bound { claimed: true, ..Bound::new(5e-3, "NCCL's own model of RING SIMPLE") }));
            let mut record = record(m, n);
            add(&mut record, "collective", "all-reduce nccl node n=4 1 GiB", measured(series));
            return Some(record);
        }
        _ => return None,
    }
    Some(record(m, n))
}

fn diagnosis(ok: bool, check: &str, text: &str) -> gonogo::topology::Diagnosis {
    gonogo::topology::Diagnosis { ok, check: check.into(), text: text.into() }
}

/// What NCCL's own diagnostics find well is told nowhere as a fault; a path between GPUs that failed holds, a difference warns.
#[test]
fn what_nccl_finds_of_itself_counts() {
    let of = |diagnoses: Vec<gonogo::topology::Diagnosis>| {
        let record = record(node(), Nccl { diagnoses, ..said() });
        let limits = gonogo::baseline::builtin();
        let judgement = gonogo::judge::judge(&record, &record.header.plan.run, &limits);
        let own = judgement.findings.iter().filter(|f| f.code.to_string() == "NCL-015");
        own.map(|f| format!("{} {}", f.severity.name(), f.evidence)).collect::<Vec<String>>()
    };
    assert_eq!(of(vec![diagnosis(true, "p2p", "verified"), diagnosis(true, "ECC", "none")]), Vec::<String>::new());
    let all = of(vec![
        diagnosis(false, "p2p", "only 52/56 GPU-to-GPU peer accesses passed verification"),
        diagnosis(false, "NCCL environment", "\u{1b}[31mNCCL_ALGO=Ring on rank(s) {0}"),
    ]);
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all[0].starts_with("hold ") && all[0].contains("only 52/56"), "{all:#?}");
    assert!(all[1].starts_with("warn ") && !all[1].contains('\u{1b}'), "{all:#?}");
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
    assert_eq!(found, ["NCL-005 collective-2: 2 channels by SHM, though NVLinks join the GPUs"]);
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

/// The findings on the network, without the step that they come from.
fn of_network(m: &Machine, n: &Nccl) -> Vec<String> {
    let found = against(&record(m.clone(), n.clone()));
    let of = |f: &String| ["NCL-001", "NCL-002", "NCL-003", "NCL-007"].iter().any(|c| f.starts_with(c));
    found.into_iter().filter(of).map(|f| f.replace("collective-2: ", "")).collect()
}

/// Two nodes of which one would say this.
fn over(ways: &[&str]) -> Nccl {
    Nccl { nodes: 2, ranks: 8, transports: ways.iter().map(|w| ((*w).into(), 4)).collect(), ..said() }
}

#[test]
fn channels_through_the_hosts_memory_are_told_whatever_the_adapters_say() {
    let staged = over(&["P2P/CUMEM", "NET/IB/0/GDRDMA", "NET/IB/1"]);
    assert_eq!(of_network(&node(), &staged), ["NCL-002 4 channels without it, by NET/IB/1"]);
    let plugin =
        Nccl { network: Some("AWS Libfabric".into()), ..over(&["NET/AWS Libfabric/0", "NET/AWS Libfabric/1"]) };
    let found = of_network(&node(), &plugin);
    assert_eq!(found, ["NCL-002 8 channels without it, by NET/AWS Libfabric/0, NET/AWS Libfabric/1"]);
    assert_eq!(of_network(&node(), &over(&["P2P/CUMEM", "NET/IB/0/GDRDMA", "NET/IB/1/GDRDMA(PCI)"])), [""; 0]);
    // Adapters do not read GPUs before 8.0: NCCL sends through the host's memory on purpose.
    let mut old = node();
    old.nvidia.iter_mut().flat_map(|n| &mut n.gpus).for_each(|g| g.capability = Some((7, 0)));
    assert_eq!(of_network(&old, &staged), [""; 0]);
}

#[test]
fn distances_are_evidence_where_channels_do_not_say_otherwise() {
    let far = Far { gpu: "ca000".into(), device: "mlx5_1".into(), distance: 7, allowed: 4 };
    let said_far = "GPU ca000 and mlx5_1 are too far from each other (distance 7 > 4)";
    let one = Nccl { far: vec![far.clone()], ..said() };
    assert_eq!(of_network(&node(), &one), [format!("NCL-002 {said_far}")]);
    let staged = Nccl { far: vec![far.clone()], ..over(&["NET/IB/1"]) };
    assert_eq!(of_network(&node(), &staged), [format!("NCL-002 4 channels without it, by NET/IB/1; {said_far}")]);
    // Another GPU sends for it.
    let relayed = Nccl { far: vec![far; 9], ..over(&["NET/IB/1/GDRDMA"]) };
    assert_eq!(of_network(&node(), &relayed), [""; 0]);
    // On one node it is a warning, between nodes a fault.
    let severity = |n: &Nccl| {
        let record = record(node(), n.clone());
        let limits = gonogo::baseline::builtin();
        let judgement = gonogo::judge::judge(&record, &record.header.plan.run, &limits);
        judgement.findings.iter().find(|f| f.code.to_string() == "NCL-002").map(|f| f.severity)
    };
    use gonogo::judge::Severity;
    assert_eq!((severity(&one), severity(&staged)), (Some(Severity::Warn), Some(Severity::Fail)));
}

#[test]
fn plugins_that_do_not_serve_are_told_though_nobody_named_them() {
    let refused = |how| Refused { name: "libnccl-net.so".into(), how, why: "reason".into() };
    let alone = |how| Nccl { refused: vec![refused(how)], ..said() };
    let told = ["NCL-007 libnccl-net.so was found and does not serve: reason; it uses IB"];
    for how in [Refusal::NotOpened, Refusal::Unsupported, Refusal::NotInitialised] {
        assert_eq!(of_network(&node(), &alone(how)), told, "{how:?}");
    }
    // Without an adapter and on one node there is nothing that it could have driven.
    let mut bare = node();
    bare.infiniband.clear();
    let sockets = |n: Nccl| Nccl { network: Some("Socket".into()), ..n };
    assert_eq!(of_network(&bare, &sockets(alone(Refusal::NotInitialised))), [""; 0]);
    assert_eq!(of_network(&bare, &sockets(alone(Refusal::Unsupported))).len(), 1);
    // Loaded, and sockets after it; unless sockets were chosen.
    let mut left = sockets(Nccl { plugins: vec![("AWS Libfabric".into(), true)], nodes: 2, ..said() });
    assert_eq!(of_network(&bare, &left), ["NCL-007 AWS Libfabric was loaded and is not used; it uses Socket"]);
    left.settings = vec![("NCCL_NET".into(), "Socket".into())];
    assert_eq!(of_network(&bare, &left), [""; 0]);
    // Another of a list serves.
    let listed = Nccl {
        settings: vec![("NCCL_NET_PLUGIN".into(), "ofi,ucx".into())],
        plugins: vec![("libnccl-net-ofi.so".into(), false), ("UCX".into(), true)],
        network: Some("UCX".into()),
        ..said()
    };
    assert_eq!(of_network(&node(), &listed), [""; 0]);
    let none = Nccl {
        settings: vec![("NCCL_NET_PLUGIN".into(), "NONE".into())],
        plugins: vec![("libnccl-net-NONE.so".into(), false)],
        ..said()
    };
    assert_eq!(of_network(&node(), &none), [""; 0]);
}

/// EFA has no reliable connections: its tests are waived by name, and sockets beside it are a fault none the less.
#[test]
fn efa_is_left_to_nccl_and_sockets_beside_it_are_a_fault() {
    let mut m = node();
    for (d, name) in m.infiniband.iter_mut().zip(["rdmap79s0", "rdmap80s0"]) {
        (d.name, d.driver) = (name.into(), Some("efa".into()));
    }
    let plan = check_plan(RunPlan::default());
    let steps = |m: &Machine| gonogo::probe::find("rdma").unwrap().steps(&plan, m);
    let why = "rdmap79s0, rdmap80s0 (EFA) have no reliable-connected queue pairs: NCCL through its plugin (aws-ofi-nccl) is what proves them";
    let waived = steps(&m);
    assert_eq!(
        (waived.len(), waived[0].args.as_str(), &waived[0].cases[..]),
        (1, Some(why), &[Case::Fact(Fact::Device)][..])
    );
    let efa = Nccl { network: Some("Socket".into()), nodes: 2, ..said() };
    let found = of_network(&m, &efa);
    assert_eq!(found, ["NCL-001 it uses sockets, and rdmap79s0 (EFA, by the plugin aws-ofi-nccl) has an active port"]);
    // Beside InfiniBand, that is measured, and NCCL's own network does well to leave EFA alone.
    m.infiniband.push(IbDevice { name: "mlx5_9".into(), ports: m.infiniband[0].ports.clone(), ..IbDevice::default() });
    let names: Vec<String> = steps(&m).into_iter().map(|s| s.name).collect();
    assert!(names.contains(&"rdma".to_owned()) && names.contains(&"rdma-mlx5_9".to_owned()), "{names:?}");
    assert!(names.iter().all(|n| !n.contains("rdmap")), "{names:?}");
    let verbs = Nccl { devices: vec![NetDevice { name: "mlx5_9".into(), gdr: Some(true) }], ..said() };
    assert_eq!(of_network(&m, &verbs), [""; 0]);
}

/// From what NCCL wrote to what is found.
#[test]
fn logs_of_every_version_lead_to_what_is_wrong() {
    let codes = |name: &str, nodes, ranks| -> Vec<String> {
        let mut m = node();
        m.infiniband.clear();
        let found = of_network(&m, &of_log(name, nodes, ranks));
        found.iter().map(|f| f.chars().take(7).collect()).collect()
    };
    for (name, nodes, ranks) in [
        ("2.18-node-nvls", 1, 8),
        ("2.18-two-nodes-gdr", 2, 8),
        ("2.22-node-nvls", 1, 8),
        ("2.27-node-nvls", 1, 8),
        ("2.27-two-nodes-gdr", 2, 16),
        ("2.30-two-nodes-efa", 2, 4),
    ] {
        assert_eq!(codes(name, nodes, ranks), [""; 0], "{name}");
    }
    assert_eq!(codes("2.22-two-nodes-far", 2, 4), ["NCL-002"]);
    assert_eq!(codes("2.27-two-nodes-plugin-refused", 2, 4), ["NCL-007"]);
    assert_eq!(codes("2.30-two-nodes-sockets", 2, 2), ["NCL-007"]);
}
