//! What the driver says of GPUs, against what follows from it: Xids by their age, granted GPUs, memory, MIG, NVLink domains.

use crate::common::*;
use gonogo::id::NodeName;
use gonogo::measure::{Facts, Outcome};
use gonogo::plan::RunPlan;
use gonogo::record::Record;
use gonogo::topology::{
    DeviceNode, DriverView, FabricHealth, FabricState, Gpu, GpuProcess, Imex, Machine, Nccl, Nvidia, PciGpu, Recovery,
    Slice, Xid, XidDetail,
};
use gonogo::unit::Bytes;

const PCI: &str = "0000:19:00.0";
const HOUR: u64 = 3600;
/// When the log was read: the node has been up for three days.
const NOW: u64 = 72 * HOUR;

fn gpu() -> Gpu {
    Gpu {
        name: "NVIDIA H100 80GB HBM3".into(),
        uuid: "GPU-1".into(),
        pci: PCI.into(),
        memory: Some(Bytes(80 << 30)),
        memory_used: Some(Bytes(10 << 20)),
        persistence: Some(true),
        ..Gpu::default()
    }
}

fn driver() -> Nvidia {
    Nvidia {
        driver: Some("570.86.15".into()),
        gpus: vec![gpu()],
        xids: Some(Vec::new()),
        log_read_at: Some(NOW),
        driver_loaded_at: Some(60),
        ..Nvidia::default()
    }
}

fn node(n: Nvidia) -> Machine {
    let on_bus = |pci: &str| PciGpu { pci: pci.into(), vendor: "0x10de".into(), ..PciGpu::default() };
    Machine { gpus: n.gpus.iter().map(|g| on_bus(&g.pci)).collect(), nvidia: Some(n), ..good_machine() }
}

fn record(m: Machine, run: RunPlan) -> Record {
    let mut record = empty(run);
    add(&mut record, "environment", "machine", machine(m));
    record
}

/// `CODE severity: evidence` of the findings with these beginnings.
fn found(record: &Record, codes: &[&str]) -> Vec<String> {
    let limits = gonogo::baseline::builtin();
    let j = gonogo::judge::judge(record, &record.header.plan.run, &limits);
    let told = j.findings.iter().filter(|f| codes.iter().any(|c| f.code.to_string().starts_with(c)));
    let mut out: Vec<String> = told.map(|f| format!("{} {}: {}", f.code, f.severity.name(), f.evidence)).collect();
    out.sort();
    out
}

fn of(n: Nvidia) -> Vec<String> {
    found(&record(node(n), RunPlan::default()), &["GPU-"])
}

fn xid(code: u32, at: u64) -> Xid {
    Xid { at, pci: PCI.into(), code, text: "as the driver has it".into(), detail: None }
}

fn xids(edit: &dyn Fn(&mut Nvidia), xids: &[Xid]) -> Vec<String> {
    let mut n = Nvidia { xids: Some(xids.to_vec()), ..driver() };
    edit(&mut n);
    of(n)
}

#[test]
fn a_healthy_gpu_brings_nothing_up() {
    assert_eq!(of(driver()), [""; 0]);
}

/// After a fatal Xid a GPU stays out however long ago it was, until the driver is loaded again or the GPU reset.
#[test]
fn a_fatal_xid_counts_until_the_gpu_is_reset() {
    let keep = &|_: &mut Nvidia| {};
    assert_eq!(
        xids(keep, &[xid(79, NOW - 30)]),
        ["GPU-006 fail: GPU 0000:19:00.0: Xid 79 30 s before the check: fallen off the bus"]
    );
    assert_eq!(
        xids(keep, &[xid(119, NOW - 48 * HOUR)]),
        [
            "GPU-006 fail: GPU 0000:19:00.0: Xid 119 2 days before the check, and nothing shows that the driver was loaded or the \
         GPU reset since: GSP does not answer"
        ]
    );
    let loaded = &|n: &mut Nvidia| n.driver_loaded_at = Some(NOW - 60);
    assert_eq!(
        xids(loaded, &[xid(79, NOW - 120)]),
        [
            "GPU-006 warn: GPU 0000:19:00.0: Xid 79 2 min before the check, before the driver was loaded: fallen off the bus"
        ]
    );
    // The driver asked for a reset and asks no more.
    let asked = |r, at| Xid { detail: Some(XidDetail::Recovery(r)), ..xid(154, at) };
    let reset = [xid(119, NOW - 600), asked(Recovery::Reset, NOW - 599), asked(Recovery::Nothing, NOW - 60)];
    let told = xids(keep, &reset);
    assert!(
        told.len() == 2 && told.iter().all(|t| t.contains("warn") && t.contains("has recovered since")),
        "{told:?}"
    );
    let by_nvml = &|n: &mut Nvidia| n.gpus[0].recovery = Some(Recovery::Nothing);
    let told = xids(by_nvml, &reset[..2]);
    assert!(told.len() == 2 && told.iter().all(|t| t.contains("warn")), "{told:?}");
    let told = xids(keep, &reset[..2]);
    assert!(told.len() == 2 && told.iter().all(|t| t.contains("fail")), "{told:?}");
    // What happened after it recovered counts again.
    let again = [reset.as_slice(), &[xid(95, NOW - 30)]].concat();
    assert!(xids(keep, &again).iter().any(|t| t.contains("fail") && t.contains("Xid 95 30 s before")), "{again:?}");
    // One of days ago, of which the driver says that nothing is to be done.
    let told = xids(by_nvml, &[xid(74, NOW - 48 * HOUR)]);
    assert!(told[0].contains("warn") && told[0].contains("the driver wants nothing done"), "{told:?}");
}

/// What is no lasting damage counts for a while, and a program's own fault never.
#[test]
fn other_xids_grow_old() {
    let keep = &|_: &mut Nvidia| {};
    let severity = |x: Xid| xids(keep, &[x])[0].split([' ', ':']).nth(1).unwrap_or_default().to_owned();
    assert_eq!((severity(xid(92, NOW - HOUR)), severity(xid(92, NOW - 3 * HOUR))), ("fail".into(), "warn".into()));
    for program in [13, 31, 43, 45, 63, 94] {
        let when = (severity(xid(program, NOW - HOUR)), severity(xid(program, NOW - 3 * HOUR)));
        assert_eq!(when, ("warn".into(), "note".into()), "{program}");
    }
    let link = |detail, at| Xid { detail: Some(detail), ..xid(149, at) };
    assert_eq!(severity(link(XidDetail::Fatal, NOW - 48 * HOUR)), "fail");
    assert_eq!(severity(link(XidDetail::Nonfatal, NOW - 60)), "warn");
    // Records from before the time was kept are judged as they were.
    let old = &|n: &mut Nvidia| (n.log_read_at, n.driver_loaded_at) = (None, None);
    assert_eq!(xids(old, &[xid(79, 1)]), ["GPU-006 fail: GPU 0000:19:00.0: Xid 79 since boot: fallen off the bus"]);
    // Many of one kind are one finding.
    let many: Vec<Xid> = (0..5).map(|i| xid(31, NOW - 100 + i)).collect();
    assert_eq!(
        xids(keep, &many),
        ["GPU-006 warn: GPU 0000:19:00.0: Xid 31, 5 times, last 96 s before the check: as the driver has it"]
    );
}

#[test]
fn what_comes_during_the_check_is_told_apart() {
    let before = Nvidia { xids: Some(vec![xid(31, NOW - 5 * HOUR)]), ..driver() };
    let mut after = before.clone();
    after.xids.get_or_insert_default().extend([xid(119, NOW + 20), xid(13, NOW + 21)]);
    after.gpus[0].recovery = Some(Recovery::Reset);
    let end = |after: Nvidia| {
        let mut r = record(node(before.clone()), RunPlan::default());
        let facts = Facts::Nvidia(Box::new(after));
        add(&mut r, "environment", "gpus at the end", Outcome::facts(facts));
        found(&r, &["GPU-0"])
    };
    assert_eq!(
        end(after.clone()),
        [
            "GPU-006 fail: GPU 0000:19:00.0: Xid 119 during the check: GSP does not answer",
            "GPU-006 note: GPU 0000:19:00.0: Xid 31 5 h before the check: as the driver has it",
            "GPU-006 warn: GPU 0000:19:00.0: Xid 13 during the check: as the driver has it",
            "GPU-020 fail: GPU 0 (0000:19:00.0, NVIDIA H100 80GB HBM3): since the check began, the GPU is to be reset",
        ]
    );
    // A driver that hung meanwhile is not a GPU that is gone.
    let hung = Nvidia { error: Some("the driver did not answer".into()), gpus: Vec::new(), ..before.clone() };
    let told = end(hung);
    assert!(told[0].starts_with("GPU-001 fail") && !told.iter().any(|t| t.starts_with("GPU-002")), "{told:?}");
}

/// A driver that hangs: what was found without it is told beside it.
#[test]
fn a_driver_that_does_not_answer_holds_and_its_log_is_read() {
    let n = Nvidia {
        error: Some("the driver did not answer within 7 s: waited for GPU 1".into()),
        xids: Some(vec![xid(119, NOW - 60)]),
        ..driver()
    };
    let told = of(n);
    assert!(told.iter().any(|t| t.starts_with("GPU-001 hold") && t.contains("waited for GPU 1")), "{told:?}");
    assert!(told.iter().any(|t| t.starts_with("GPU-006 fail") && t.contains("Xid 119")), "{told:?}");
}

/// Eight GPUs on the bus of which two are shown, each of the others in this seat.
fn granted(seat: &dyn Fn(usize, &mut DriverView), masked: bool, wanted: u32) -> Vec<String> {
    let pci = |i: usize| format!("0000:{:02x}:00.0", 0x10 + i);
    let gpus = (0..2).map(|i| Gpu { pci: pci(i), uuid: format!("GPU-{i}"), ..gpu() }).collect();
    let driver_views = (0..8).map(|i| {
        let mut s = DriverView { pci: pci(i), bound: true, minor: Some(i as u32), file: None, answers: Some(true) };
        if i > 1 {
            seat(i, &mut s);
        }
        s
    });
    let n = Nvidia { gpus, driver_views: driver_views.collect(), masked, ..driver() };
    let on_bus =
        |i| PciGpu { pci: pci(i), vendor: "0x10de".into(), driver: Some("nvidia".into()), ..PciGpu::default() };
    let m = Machine { gpus: (0..8).map(on_bus).collect(), ..node(n) };
    let run = run_plan(&format!("[nodes]\nneeded = 1\ngpus_per_node = {wanted}\n"));
    found(&record(m, run), &["GPU-002", "ENV-006", "COV-003 note", "COV-003"])
        .into_iter()
        .filter(|f| !f.contains("none measured"))
        .collect()
}

#[test]
fn a_gpu_that_was_not_granted_is_not_lost() {
    let denied = |_: usize, s: &mut DriverView| s.file = Some(DeviceNode::Denied);
    let absent = |_: usize, s: &mut DriverView| s.file = Some(DeviceNode::Absent);
    let unlisted = |_: usize, s: &mut DriverView| (s.bound, s.minor) = (false, None);
    let note = "COV-003 note: 2 of 8 GPU(s) on the PCI bus are granted to this container, control group or user; nothing is \
                said of the others";
    assert_eq!(granted(&denied, false, 2), [note]);
    assert_eq!(granted(&absent, false, 0), [note]);
    assert_eq!(granted(&unlisted, true, 2), [note]);
    // A plan that needs more holds.
    assert_eq!(
        granted(&denied, false, 8),
        ["ENV-006 hold: 2 of 8 GPU(s) on the PCI bus are granted to this container, control group or user; 8 needed"]
    );
    // Without a runtime's own /proc, what the kernel's driver does not hold is lost.
    assert_eq!(granted(&unlisted, false, 2).len(), 6);
    let one = |i: usize, s: &mut DriverView| {
        s.file = Some(if i == 5 { DeviceNode::Fails(5) } else { DeviceNode::Denied });
    };
    let told = granted(&one, false, 2);
    assert!(
        told.iter().any(|t| t.starts_with("GPU-002 fail: 0000:15:00.0: /dev/nvidia5 cannot be opened")),
        "{told:?}"
    );
    assert_eq!(told.iter().filter(|t| t.starts_with("GPU-002")).count(), 1, "{told:?}");
}

/// The kernel's log is the whole machine's: another's GPU does not fail this run.
#[test]
fn an_xid_of_a_gpu_that_was_not_granted_is_only_told() {
    let other = "0000:3b:00.0";
    let seat =
        DriverView { pci: other.into(), bound: true, minor: Some(1), file: Some(DeviceNode::Denied), answers: None };
    let lost = Xid { pci: other.into(), ..xid(79, NOW - 60) };
    let mut m = node(Nvidia { driver_views: vec![seat], xids: Some(vec![lost]), ..driver() });
    m.gpus.push(PciGpu { pci: other.into(), vendor: "0x10de".into(), ..PciGpu::default() });
    let told = found(&record(m.clone(), RunPlan::default()), &["GPU-0"]);
    assert_eq!(told, ["GPU-006 warn: GPU 0000:3b:00.0: Xid 79 60 s before the check: fallen off the bus"]);
    m.nvidia.iter_mut().for_each(|n| n.driver_views[0].file = Some(DeviceNode::Fails(5)));
    assert!(found(&record(m, RunPlan::default()), &["GPU-006"])[0].starts_with("GPU-006 fail"));
}

/// NVML counts what a control group withholds, and says that there is no permission for it.
#[test]
fn what_nvml_may_not_open_is_not_lost() {
    let mut m = node(Nvidia { denied: vec![1], ..driver() });
    m.gpus.push(PciGpu { pci: "0000:3b:00.0".into(), vendor: "0x10de".into(), ..PciGpu::default() });
    assert_eq!(found(&record(m.clone(), RunPlan::default()), &["GPU-002"]), [""; 0]);
    m.nvidia.iter_mut().for_each(|n| n.denied.clear());
    assert_eq!(found(&record(m, RunPlan::default()), &["GPU-002"]).len(), 1);
}

#[test]
fn memory_that_nobody_holds_is_told() {
    let with = |used: u64, edit: &dyn Fn(&mut Gpu)| {
        let mut n = driver();
        n.gpus[0].memory_used = Some(Bytes(used));
        edit(&mut n.gpus[0]);
        of(n)
    };
    let gib = 1 << 30;
    assert_eq!(with(gib, &|_| {}), [""; 0]);
    assert_eq!(
        with(60 * gib, &|_| {}),
        [
            "GPU-017 fail: GPU 0 (0000:19:00.0, NVIDIA H100 80GB HBM3): 60 GiB of 80 GiB (75 %) in use before anything ran; no \
         process of it is to be seen: another container's, or left by a job that died"
        ]
    );
    assert!(with(2 * gib, &|_| {})[0].starts_with("GPU-017 warn"));
    // Held by a process that is to be seen, it is that process's finding.
    let process = GpuProcess { pid: 7, name: Some("python".into()), memory: Some(Bytes(60 * gib)) };
    let told = with(60 * gib, &|g| g.processes = vec![process.clone()]);
    assert!(told.len() == 1 && told[0].starts_with("GPU-014"), "{told:?}");
    // Grace's kernel keeps files there.
    assert!(with(60 * gib, &|g| g.numa = Some(2))[0].starts_with("GPU-017 warn"));
}

#[test]
fn a_driver_that_is_slow_to_answer_is_told() {
    let mut n = Nvidia { nvml_ms: Some(4200), ..driver() };
    n.gpus[0].nvml_ms = Some(1500);
    assert_eq!(
        of(n.clone()),
        [
            "GPU-018 warn: GPU 0 (0000:19:00.0, NVIDIA H100 80GB HBM3): NVML took 1.5 s to answer",
            "GPU-018 warn: NVML took 4.2 s to start",
        ]
    );
    // Without persistence mode the start initialises the GPUs.
    n.gpus[0].persistence = Some(false);
    n.gpus[0].nvml_ms = Some(40);
    assert!(!of(n).iter().any(|t| t.starts_with("GPU-018")));
}

#[test]
fn mig_is_a_fault_or_the_plan() {
    let mut n = driver();
    n.gpus[0].mig = Some(true);
    let slice = Slice { profile: "3g.40gb".into(), uuid: "MIG-1".into(), memory: Some(Bytes(40 << 30)) };
    n.gpus[0].slices = vec![slice.clone(), slice];
    assert!(n.gpus[0].is_slice());
    let planned = run_plan("[nodes]\nneeded = 1\nmig = true\n");
    let told = |n: &Nvidia, run: &RunPlan| found(&record(node(n.clone()), run.clone()), &["GPU-011"]);
    assert!(told(&n, &RunPlan::default())[0].starts_with("GPU-011 hold"));
    let as_planned = told(&n, &planned);
    assert!(as_planned[0].starts_with("GPU-011 note") && as_planned[0].contains("3g.40gb, 3g.40gb"), "{as_planned:?}");
    n.gpus[0].slices.clear();
    assert!(told(&n, &planned)[0].starts_with("GPU-011 hold"));
    assert!(told(&driver(), &planned)[0].contains("MIG mode is off"));
    assert_eq!(told(&driver(), &RunPlan::default()), [""; 0]);
}

#[test]
fn an_unhealthy_fabric_and_a_wish_for_recovery_are_told() {
    let with = |health: FabricHealth| {
        let mut n = driver();
        n.gpus[0].fabric = Some(FabricState { health: Some(health), ..joined("a", 1) });
        of(n)
    };
    let well = FabricHealth { degraded_bandwidth: Some(false), ..FabricHealth::default() };
    assert_eq!(with(well.clone()), [""; 0]);
    let told = with(FabricHealth { degraded_bandwidth: Some(true), ..well.clone() });
    assert!(told[0].starts_with("GPU-019 fail") && told[0].contains("bandwidth is degraded"), "{told:?}");
    assert!(with(FabricHealth { route_recovery: Some(true), ..well.clone() })[0].starts_with("GPU-019 hold"));
    let told = with(FabricHealth { misconfigured: Some("no partition".into()), ..well });
    assert!(told[0].contains("no partition"), "{told:?}");
    let mut n = driver();
    n.gpus[0].recovery = Some(Recovery::Reboot);
    assert!(of(n)[0].starts_with("GPU-020 fail"));
}

fn joined(cluster: &str, clique: u32) -> FabricState {
    FabricState { state: "completed".into(), clique, cluster: Some(cluster.into()), ..FabricState::default() }
}

/// Four nodes, each with its fabric, its part in IMEX, and a world over all of them.
fn rack(fabrics: [FabricState; 4], edit: &dyn Fn(usize, &mut Imex), nccl: &Nccl) -> Vec<String> {
    let mut r = network(4, 1);
    let nodes = r.header.nodes.clone();
    for (i, (node_, fabric)) in nodes.iter().zip(fabrics).enumerate() {
        let list = Some(vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()]);
        let mut imex = Imex { channels: vec![0], daemon: Some(true), nodes: list };
        edit(i, &mut imex);
        let n = Nvidia { gpus: vec![Gpu { fabric: Some(fabric), ..gpu() }; 4], imex: Some(imex), ..driver() };
        add_on(&mut r, &node_.0, "environment", "machine", machine(node(n)));
    }
    let case = "start nccl world n=16";
    let step = "collective-gpu-world";
    add_groups(&mut r, step, "collective", &[case], serde_json::Value::Null, std::slice::from_ref(&nodes));
    let facts = Facts::Nccl(Box::new(nccl.clone()));
    add_line(&mut r, &nodes[0], step, "collective", case, Outcome::facts(facts));
    found(&r, &["GPU-01", "GPU-02", "NCL-014"])
}

fn went(by: &[(&str, u32)]) -> Nccl {
    Nccl {
        version: "2.27.3".into(),
        ranks: 16,
        nodes: 4,
        transports: by.iter().map(|(t, n)| (gonogo::topology::Way::of(t), *n)).collect(),
        ..Nccl::default()
    }
}

#[test]
fn a_world_inside_a_domain_must_use_it() {
    let one = || [1, 1, 1, 1].map(|c| joined("a", c));
    let keep = &|_: usize, _: &mut Imex| {};
    let by_nvlink = went(&[("P2P/MNNVL", 64)]);
    let by_network = went(&[("P2P/CUMEM", 48), ("NET/IB/0/GDRDMA", 16)]);
    assert_eq!(rack(one(), keep, &by_nvlink), [""; 0]);
    assert_eq!(
        rack(one(), keep, &by_network),
        [
            "NCL-014 fail: collective-gpu-world: all nodes are in NVLink domain a clique 1, and channels go 16 by NET/IB/0/GDRDMA"
        ]
    );
    let off = Nccl { settings: vec![("NCCL_MNNVL_ENABLE".into(), "0".into())], ..by_network.clone() };
    assert!(rack(one(), keep, &off)[0].ends_with("; NCCL_MNNVL_ENABLE=0"));
    // Cliques of one number in different clusters are strangers, and so are cliques of one cluster.
    for two in [["a", "a", "b", "b"].map(|c| joined(c, 1)), [1, 1, 2, 2].map(|c| joined("a", c))] {
        let mixed = went(&[("P2P/MNNVL", 48), ("NET/IB/0/GDRDMA", 16)]);
        let told = rack(two.clone(), keep, &mixed);
        assert!(told.len() == 1 && told[0].starts_with("GPU-021 note: 2 NVLink domains: n[0-1] in a"), "{told:?}");
        // Of the two nodes that could, none did.
        assert!(rack(two, keep, &by_network)[1].starts_with("NCL-014 warn"));
    }
    // Boards of eight H100: registered, and no fabric beyond the node.
    let boards = || [0; 4].map(|c| FabricState { cluster: None, ..joined("", c) });
    assert_eq!(rack(boards(), keep, &by_network), [""; 0]);
}

#[test]
fn nodes_of_a_domain_need_imex_alike() {
    let one = || [1, 1, 1, 1].map(|c| joined("a", c));
    let well = went(&[("P2P/MNNVL", 64)]);
    let told = |edit: &dyn Fn(&mut Imex)| {
        rack(
            one(),
            &|i, x| {
                if i == 2 {
                    edit(x)
                }
            },
            &well,
        )
    };
    assert!(told(&|x| x.channels.clear())[0].contains("no IMEX channel"));
    assert!(told(&|x| x.daemon = Some(false))[0].contains("nvidia-imex does not run"));
    let other = told(&|x| x.nodes = Some(vec!["10.0.0.9".into()]));
    assert_eq!(
        other,
        ["GPU-022 fail: NVLink domain a clique 1: its nodes_config.cfg (1 nodes) is not that of most (2 nodes)"]
    );
    // What a container cannot see says nothing.
    assert_eq!(told(&|x| (x.daemon, x.nodes) = (None, None)), [""; 0]);
    let halves = rack(
        one(),
        &|i, x| {
            if i > 1 {
                x.nodes = Some(Vec::new())
            }
        },
        &well,
    );
    assert!(halves.len() == 1 && halves[0].contains("2 different nodes_config.cfg"), "{halves:?}");
}

#[test]
fn gpus_of_one_node_in_two_domains_are_told() {
    let mut n = driver();
    n.gpus = [joined("a", 1), joined("b", 1)].map(|f| Gpu { fabric: Some(f), ..gpu() }).to_vec();
    let told = of(n);
    assert!(told[0].starts_with("GPU-010 fail: the node's GPUs are in 2 NVLink domains"), "{told:?}");
}

/// The smallest record for each code that the driver's own words do not bring up.
pub fn provoke(code: &str) -> Option<Record> {
    let mut n = driver();
    match code {
        "GPU-022" | "GPU-021" | "NCL-014" => {
            let mut r = network(2, 1);
            let nodes = r.header.nodes.clone();
            for (i, name) in nodes.iter().enumerate() {
                let cluster = if code == "GPU-021" && i > 0 { "b" } else { "a" };
                let imex = Imex { channels: if code == "GPU-022" { vec![] } else { vec![0] }, ..Imex::default() };
                let gpus = vec![Gpu { fabric: Some(joined(cluster, 1)), ..gpu() }];
                let m = node(Nvidia { gpus, imex: Some(imex), ..driver() });
                add_on(&mut r, &name.0, "environment", "machine", machine(m));
            }
            let groups = [nodes.clone()];
            let case = "start nccl world n=2";
            add_groups(&mut r, "collective-gpu-world", "collective", &[case], serde_json::Value::Null, &groups);
            let facts = Facts::Nccl(Box::new(went(&[("NET/IB/0", 8)])));
            let outcome = Outcome::facts(facts);
            add_line(&mut r, &NodeName("n0".into()), "collective-gpu-world", "collective", case, outcome);
            return Some(r);
        }
        "GPU-017" => n.gpus[0].memory_used = Some(Bytes(60 << 30)),
        "GPU-018" => n.nvml_ms = Some(5000),
        "GPU-019" => {
            let health = FabricHealth { route_unhealthy: Some(true), ..FabricHealth::default() };
            n.gpus[0].fabric = Some(FabricState { health: Some(health), ..joined("a", 1) });
        }
        "GPU-020" => n.gpus[0].recovery = Some(Recovery::Reset),
        _ => return None,
    }
    let mut r = record(node(n), RunPlan::default());
    add(&mut r, "gemm", "f32 1 core", good_gemm());
    Some(r)
}
