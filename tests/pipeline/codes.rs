//! The registry of findings: every code is explained, and provoked by a record that must bring it up.

use std::collections::BTreeSet;

use crate::common::*;
use gonogo::cluster::Shape;
use gonogo::id::NodeName;
use gonogo::id::is_code;
use gonogo::judge::{CODES, Severity};
use gonogo::measure::{
    ClockOffset, CountersMoved, Facts, FailKind, LinkEnd, LinkState, Load, Measured, Outcome, RdmaEnd, Segments,
    SharedView, Transport, WaiveKind,
};
use gonogo::plan::RunPlan;
use gonogo::record::{Damage, Record};
use gonogo::topology::{
    Congestion, FabricState, Gpu, GpuProcess, IbDevice, IbPort, Machine, Missing, NumaNode, NvLink, Nvidia, PciGpu,
    Pcie, PcieLink, Remapped, Xid,
};
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
    let load = Some(Load { window_ms: 500, others_cores: 1.5, steal_cores: 0.0, ..Load::default() });
    let gpu = PciGpu { vendor: "0x10de".into(), ..PciGpu::default() };
    let plan = "[model]\nparameters = 20.55e9\n[checkpoint]\ndir = \"/ckpt\"\n";
    let storage = |extra: &str, available: u64| {
        let mut record = empty(run_plan(&format!("{plan}{extra}")));
        add(&mut record, "gemm", "f32 1 core", good_gemm());
        add(&mut record, "storage", "capacity", filesystem("ext4", available));
        Some(record)
    };
    let cluster = |edit: &dyn Fn(&mut Record)| {
        let mut record = healthy(RunPlan::default());
        record.header.launcher = Some("Slurm".into());
        record.header.nodes = (1..=8).map(|i| NodeName(format!("n{i}"))).collect();
        let first = Shape::Alone(vec![record.header.nodes[0].clone()]);
        record.steps.iter_mut().for_each(|s| s.shape = first.clone());
        edit(&mut record);
        Some(record)
    };
    let gone = |kind| {
        cluster(&|r| {
            add_on(r, "n2", "cluster", "join", Outcome::error(kind, "as the test has it"));
        })
    };
    let fact = |facts: Facts| {
        cluster(&|r| {
            let o = Outcome::facts(facts.clone());
            add_on(r, "n1", "environment", "clocks", o);
        })
    };
    let shared = |edit: &dyn Fn(&mut SharedView)| {
        let view = |n: &str| SharedView {
            node: NodeName(n.into()),
            mount: "srv:/x nfs4".into(),
            visible_ms: Some(3.0),
            read_back: Some(true),
            error: None,
        };
        let mut views: Vec<SharedView> = ["n1", "n2", "n3"].into_iter().map(view).collect();
        edit(&mut views[1]);
        fact(Facts::Shared(views))
    };
    let pairs = |rate: &dyn Fn(u32, u32) -> f64, leaves: u32| {
        let mut r = network(if leaves > 1 { 4 * leaves } else { 8 }, leaves);
        let n = r.header.nodes.len() as u32;
        for (round, groups) in gonogo::localise::circle(n).into_iter().enumerate() {
            add_round(&mut r, round, "inter-leaf", &groups, rate);
        }
        // A pair, a node or a leaf is told from chance by a quiet test.
        for round in 0..2 {
            let base: Vec<(u32, u32)> =
                if leaves > 1 { (0..n / 2).map(|i| (i, i + n / 2)).collect() } else { vec![(1, 6), (3, 4), (0, 2)] };
            add_round(&mut r, 100 + round, "confirm", &base, rate);
        }
        Some(r)
    };
    match code {
        "COV-001" => Some(empty(RunPlan::default())),
        "COV-002" => case("tcp", "x", Outcome::waived(WaiveKind::NoTime, "cut")),
        "COV-003" => node(&|m| m.gpus = vec![gpu.clone()]),
        "COV-004" => with("", &|r| r.end = None),
        "COV-005" => with("", &|r| r.damage = Some(Damage { line: 9, bytes: 40 })),
        "COV-006" => case("storage", "capacity", Outcome::waived(WaiveKind::NotAsked, "no directory")),
        "COV-007" => pairs(&|_, _| 45e9, 2),
        "RUN-001" => failed(FailKind::Crashed),
        "RUN-002" => case("gemm", "x", Outcome::TimedOut { after_ms: 9000, missing: vec![1] }),
        "RUN-003" => failed(FailKind::Junk),
        "RUN-004" => failed(FailKind::Error),
        "VAL-001" => case("gemm", "x", measured(series("gemm", "flops", 500e9).bounded(400e9, "the test's CPU"))),
        "VAL-002" => with("", &|r| {
            add_loaded(r, "tcp", "loopback 1 stream", measured(series("tcp", "bandwidth", 0.1e9)), load);
        }),
        "VAL-003" => case("tcp", "loopback 1 stream", {
            let mut s = series("tcp", "bandwidth", 0.5e9);
            s.samples = vec![0.45e9, 0.55e9, 0.5e9].into();
            measured(s)
        }),
        "VAL-004" => with("", &|r| r.outcomes[0].load = load.map(Box::new)),
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
        code @ ("ENV-009" | "ENV-010" | "ENV-011" | "ENV-012" | "ENV-013" | "ENV-014" | "ENV-015") => node(&|m| {
            let port = gonogo::topology::IbPort {
                port: 1,
                state: Some("ACTIVE".into()),
                link_layer: Some("Ethernet".into()),
                ..Default::default()
            };
            let device = |n: &str| IbDevice { name: n.into(), ports: vec![port.clone()], ..IbDevice::default() };
            m.infiniband = ["mlx5_1", "mlx5_10"].map(device).to_vec();
            m.nics =
                vec![gonogo::topology::Nic { name: "eth0".into(), state: Some("up".into()), ..Default::default() }];
            let (name, value) = match code {
                "ENV-009" => ("NCCL_IB_HCA", "mlx5_1"),
                "ENV-010" => ("NCCL_IB_HCA", "=mlx5_7"),
                "ENV-011" => ("NCCL_SOCKET_IFNAME", "bond0"),
                "ENV-012" => ("NCCL_IB_GID_INDEX", "3"),
                _ => ("NCCL_IB_DISABLE", if code == "ENV-013" { "1" } else { "0" }),
            };
            m.environment.insert(name.into(), value.into());
            m.uverbs = Some(code != "ENV-014");
            m.cpu.virtualised = false;
            m.kernel.command_line = (code == "ENV-015").then(|| "intel_iommu=on".into());
        }),
        code @ ("ENV-016" | "ENV-017" | "ENV-018" | "ENV-019" | "RDM-005" | "RDM-006" | "RDM-007" | "RDM-008"
        | "RDM-009" | "RDM-010") => node(&|m| {
            let link = |gigatransfers, lanes| Some(PcieLink { gigatransfers, lanes });
            let port = |rate: &str| IbPort {
                port: 1,
                state: Some("ACTIVE".into()),
                rate: Some(rate.into()),
                link_layer: Some("InfiniBand".into()),
                lid: Some(7),
                sm_lid: Some(1),
                pkeys: vec![0xffff],
                ..Default::default()
            };
            let device = |n: &str, rate: &str| IbDevice {
                name: n.into(),
                model: Some("MT4129".into()),
                driver: Some("mlx5_core".into()),
                ports: vec![port(rate)],
                ..IbDevice::default()
            };
            let full = "400 Gb/sec (4X NDR)";
            m.infiniband = ["mlx5_0", "mlx5_1", "mlx5_2"].map(|n| device(n, full)).to_vec();
            m.cpu.virtualised = false;
            let d = &mut m.infiniband[2];
            let place = Pcie { bridges: vec!["0000:16:01.0".into()], link: link(16.0, 4), ..Pcie::default() };
            match code {
                "ENV-016" => {
                    d.numa = Some(1);
                    let node = |id, cpus: &[u32]| NumaNode { id, cpus: cpus.to_vec(), memory: None };
                    m.cpu.numa = vec![node(0, &[0, 1]), node(1, &[2, 3])];
                    m.cpu.allowed = vec![0, 1];
                }
                "ENV-017" => {
                    let redirecting = Some(vec!["0000:16:01.0".to_owned()]);
                    d.pcie = Some(Pcie { redirecting, link: link(32.0, 16), ..place });
                    m.gpus = vec![gpu.clone()];
                }
                "ENV-018" => d.provider = Some(false),
                "ENV-019" => {
                    d.ports[0].link_layer = Some("Ethernet".into());
                    d.congestion = Some(Congestion { ecn: Some(0), pfc: Some(0) });
                }
                "RDM-005" => d.ports[0].rate = Some("100 Gb/sec (1X NDR)".into()),
                "RDM-006" => d.ports[0].rate = Some("100 Gb/sec (1X NDR)".into()),
                "RDM-007" => m.infiniband.iter_mut().for_each(|d| d.ports[0].rate = Some("200 Gb/sec (4X HDR)".into())),
                "RDM-008" => d.pcie = Some(Pcie { most: link(32.0, 16), slot: link(32.0, 16), ..place }),
                "RDM-009" => d.ports[0].sm_lid = Some(0),
                _ => d.ports[0].pkeys = vec![0x7fff],
            }
        }),
        "RDM-004" => cluster(&|r| {
            let node = NodeName("n1".into());
            let groups = [vec![node.clone(), NodeName("n2".into())]];
            for (step, case, rate) in [("rdma-alone", "pair out", 48e9), ("rdma-all-rails", "all rails out", 25e9)] {
                let cases = ["mlx5_0", "mlx5_1"].map(|d| format!("{case} {d}"));
                let names: Vec<&str> = cases.iter().map(String::as_str).collect();
                add_groups(r, step, "rdma", &names, serde_json::Value::Null, &groups);
                for case in &cases {
                    add_line(r, &node, step, "rdma", case, measured(series("rdma", "bandwidth", rate)));
                }
            }
        }),
        "VAL-006" => with("", &|r| {
            // A host that took the guest's cores, unseen, and gave them back.
            for (attempt, rate) in [(1, 0.1e9), (2, 4e9)] {
                let line = add(r, "tcp", "loopback 1 stream", measured(series("tcp", "bandwidth", rate)));
                r.outcomes[line].attempt = attempt;
                r.outcomes[line].step = "tcp-1".into();
            }
        }),
        "ENV-008" => node(&|m| m.memory.shm = Some(Bytes(64 << 20))),
        code if code.starts_with("IMG-") => crate::image::provoke(code),
        "GPU-022" | "GPU-017" | "GPU-018" | "GPU-019" | "GPU-020" | "GPU-021" | "NCL-014" => crate::gpus::provoke(code),
        code if code.starts_with("NCL-") => crate::nccl::provoke(code),
        code if code.starts_with("GPU-") => {
            let ours = Gpu { name: "H200".into(), uuid: "GPU-1".into(), pci: "0000:19:00.0".into(), ..Gpu::default() };
            let mut g = ours.clone();
            let mut n = Nvidia { driver: Some("570.86".into()), ..Nvidia::default() };
            match code {
                "GPU-001" => n.error = Some("libnvidia-ml.so.1 is not to be found".into()),
                "GPU-002" => n.lost = vec!["GPU 3: the GPU is lost".into()],
                "GPU-003" => g.ecc_uncorrected = Some(2),
                "GPU-004" => g.ecc = Some(false),
                "GPU-005" => g.remapped = Some(Remapped { failed: true, ..Remapped::default() }),
                "GPU-006" => n.xids = Some(vec![Xid { at: 1, pci: "0000:19:00.0".into(), code: 79, ..Xid::default() }]),
                "GPU-007" => g.throttled = vec!["power brake".into()],
                "GPU-008" => (g.pcie.lanes, g.pcie.lanes_max) = (Some(8), Some(16)),
                "GPU-009" => {
                    let link = |link, active| NvLink { link, active, ..NvLink::default() };
                    g.nvlinks = vec![link(0, true), link(1, false)];
                }
                "GPU-010" => g.fabric = Some(FabricState { state: "in progress".into(), ..FabricState::default() }),
                "GPU-011" => g.mig = Some(true),
                "GPU-012" => g.compute_mode = Some("exclusive process".into()),
                "GPU-013" => g.persistence = Some(false),
                "GPU-023" => return failed(FailKind::Gpu),
                "GPU-016" => g.name = "NVIDIA GB200X".into(),
                "GPU-014" => g.processes = vec![GpuProcess { pid: 7, name: Some("python".into()), memory: None }],
                _ => (g.power_limit_w, g.power_default_w) = (Some(400.0), Some(700.0)),
            }
            n.gpus = vec![g];
            node(&|m| {
                m.gpus = vec![PciGpu { pci: "0000:19:00.0".into(), ..gpu.clone() }];
                m.nvidia = Some(n.clone());
            })
        }
        "GEM-001" => wrong("gemm", "flops", "residual"),
        code @ ("GEM-003" | "GEM-004" | "GEM-011" | "MEM-002" | "MEM-011" | "CPY-001" | "CPY-010" | "RDM-011"
        | "RDM-012") => {
            let (probe, name, metric, check) = match code {
                "GEM-003" => ("gemm", "bf16 8192 burst gpu0", "flops", "same bits"),
                "GEM-004" | "GEM-011" => ("gemm", "bf16 8192 burst gpu0", "flops", "residual"),
                "MEM-002" | "MEM-011" => ("memory", "driver copy gpu0", "bandwidth", "pattern"),
                "CPY-001" | "CPY-010" => ("copy", "h2d gpu0", "bandwidth", "payload"),
                _ => ("rdma", "pair out mlx5_0", "bandwidth", "payload"),
            };
            let mut record = healthy(RunPlan::default());
            let outcome = if code.ends_with("10") || code == "GEM-011" || code == "MEM-011" || code == "RDM-012" {
                measured(series(probe, metric, 1e9).nominally(100e9, "the test's device"))
            } else {
                let checks = vec![check_named(check, false)];
                Outcome::Measured(Measured { checks: checks.into(), ..Measured::default() })
            };
            let at = add(&mut record, probe, name, outcome);
            let step = format!("{probe}-gpu");
            if let Some(s) = record.steps.iter_mut().find(|s| s.cases.contains(&gonogo::work::Case::read(name))) {
                s.name.clone_from(&step);
            }
            record.outcomes[at].step = step.into();
            Some(record)
        }
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
        "CLU-001" => gone(FailKind::NeverJoined),
        "CLU-002" => gone(FailKind::NodeLost),
        "CLU-003" => gone(FailKind::NodeSilent),
        "CLU-004" => gone(FailKind::OtherBuild),
        "CLU-005" => gone(FailKind::OtherPlan),
        "CLU-006" => gone(FailKind::OtherWorld),
        "CLU-007" => fact(Facts::Unauthenticated(vec![("10.0.0.9".into(), 3)])),
        "CLU-010" => fact(Facts::Outsiders(vec!["elsewhere (rank 3)".into()])),
        "CLU-011" => gone(FailKind::KeptOut),
        "NET-029" => {
            let mut r = network(2, 1);
            add_round(&mut r, 1, "inter-leaf", &[(0, 1)], &|_, _| 0.0);
            Some(r)
        }
        "NET-030" => {
            let mut r = network(2, 1);
            add_round(&mut r, 1, "inter-leaf", &[(0, 1)], &|from, _| if from == 0 { 1e9 } else { 1e8 });
            Some(r)
        }
        "RDM-001" => {
            let moved = vec![("symbol_error".to_owned(), 4)];
            let counters = vec![CountersMoved { node: None, device: "mlx5_0".into(), port: 1, moved }];
            case("rdma", "x", Outcome::Measured(Measured { counters: counters.into(), ..Measured::default() }))
        }
        "RDM-003" => {
            let end = |n: &str, mtu| RdmaEnd { node: NodeName(n.into()), address: "mlx5_0 port 1".into(), mtu };
            fact(Facts::RdmaPath(Box::new([end("n1", 4096), end("n2", 1024)])))
        }
        "RDM-002" => node(&|m| {
            let port = gonogo::topology::IbPort { port: 1, state: Some("DOWN".into()), ..Default::default() };
            m.infiniband = vec![IbDevice { name: "mlx5_0".into(), ports: vec![port], ..IbDevice::default() }];
        }),
        "CLU-009" => cluster(&|r| {
            for (case, runs) in [("start", true), ("end", false)] {
                let facts = Facts::Slurmd(runs);
                add_on(r, "n2", "environment", case, Outcome::facts(facts));
            }
        }),
        "CLU-008" => cluster(&|r| {
            for n in ["n1", "n2"] {
                let m = Machine { boot: Some("b".into()), ..good_machine() };
                add_on(r, n, "environment", "machine", machine(m));
            }
        }),
        "CLU-013" => {
            let mut r = network(2, 1);
            r.header.plan.run = run_plan("[nodes]\nneeded = 3\n");
            Some(r)
        }
        "CLK-001" => fact(Facts::Clocks(
            ["n1", "n2", "n3", "n4"]
                .iter()
                .map(|n| {
                    let at = if *n == "n3" { 5_000.0 } else { 0.0 };
                    ClockOffset { node: NodeName((*n).into()), low_ms: at - 1.0, high_ms: at + 1.0 }
                })
                .collect(),
        )),
        "HET-001" => cluster(&|r| {
            for n in ["n1", "n2", "n3", "n4"] {
                let mut m = good_machine();
                m.kernel.release = Some(if n == "n2" { "6.1" } else { "6.8" }.into());
                add_on(r, n, "environment", "machine", machine(m));
            }
        }),
        "PER-001" => cluster(&|r| {
            for attempt in [1, 2] {
                for n in ["n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"] {
                    let flops = if n == "n5" { 60e9 } else { 90e9 };
                    let outcome = measured(series("gemm", "flops", flops).nominally(100e9, "the test's CPU"));
                    let line = add_on(r, n, "gemm", "f32 1 core", outcome);
                    r.outcomes[line].attempt = attempt;
                }
            }
        }),
        "STO-013" => cluster(&|r| {
            for attempt in [1, 2] {
                for n in ["n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"] {
                    let rate = if n == "n5" { 11e6 } else { 209e6 };
                    let line = add_on(r, n, "storage", "write", measured(series("storage", "write", rate)));
                    r.outcomes[line].attempt = attempt;
                }
            }
        }),
        "HET-002" => with("", &|r| {
            let gpu = |index, vbios: &str| Gpu {
                index,
                name: "NVIDIA H100".into(),
                vbios: Some(vbios.into()),
                ..Gpu::default()
            };
            let nvidia = Nvidia { gpus: vec![gpu(0, "96.00.61"), gpu(1, "96.00.74")], ..Nvidia::default() };
            let m = Machine { nvidia: Some(nvidia), ..good_machine() };
            add(r, "environment", "machine again", machine(m));
        }),
        "PER-002" => Some(crate::peers::slow(1, &|_, gpu| if gpu == 3 { 0.84 } else { 1.0 })),
        "PER-003" => Some(crate::peers::slow(4, &|_, gpu| if gpu == 3 { 0.84 } else { 1.0 })),
        "NET-020" => pairs(&|a, b| if a == 3 || b == 3 { 1e9 } else { 10e9 }, 1),
        "NET-021" => pairs(&|a, _| if a == 3 { 1e9 } else { 10e9 }, 1),
        "NET-022" => pairs(&|_, b| if b == 3 { 1e9 } else { 10e9 }, 1),
        "NET-023" => pairs(&|a, b| if (a, b) == (1, 6) { 1e9 } else { 10e9 }, 1),
        "NET-024" => pairs(&|a, b| if a / 4 != b / 4 && (a < 4 || b < 4) { 1e9 } else { 10e9 }, 6),
        "NET-025" => pairs(&|a, b| if a / 4 != b / 4 { 5e9 } else { 10e9 }, 6),
        "NET-026" => with("", &|r| {
            let mut o = measured(series("tcp", "bandwidth", 1e12));
            if let Outcome::Measured(m) = &mut o {
                m.transport = vec![Transport {
                    segments: None,
                    again: None,
                    ends: None,
                    waited: None,
                    node: NodeName("n1".into()),
                    interface: Some("ib0".into()),
                    bytes: 1 << 30,
                    counted: vec![("eth0".into(), 1 << 30), ("ib0".into(), 4096)],
                }]
                .into();
            }
            add(r, "tcp", "x", o);
        }),
        "NET-034" => flows(&|from, to, t| {
            t.segments = Some(Segments {
                sent: 10_000,
                again: if from == 3 || to == 3 { 120 } else { 0 },
                bytes_again: 0,
                needless: None,
            });
        }),
        "NET-035" => flows(&|from, to, t| {
            // Node 3's carrier, from test to test.
            let end = t.ends.as_mut().map(|e| &mut e[usize::from(to == 3)]).filter(|_| from == 3 || to == 3);
            if let Some(end) = end {
                end.state.carrier_changes = Some(2 + 4 * u64::from(from) + 4 * u64::from(to));
            }
        }),
        "NET-036" => flows(&|from, to, t| {
            if let Some(ends) = t.ends.as_mut().filter(|_| from == 3 || to == 3) {
                ends[usize::from(to == 3)].sent += 30 << 30;
                ends[usize::from(to == 3)].received += 30 << 30;
            }
        }),
        "NET-037" => flows(&|from, to, t| {
            if let Some(ends) = t.ends.as_mut().filter(|_| from == 3 || to == 3) {
                ends[usize::from(to == 3)].state.errors = Some(u64::from(from + to));
            }
        }),
        "NET-027" => pairs(&|a, b| if a == 3 || b == 3 { 0.0 } else { 10e9 }, 1),
        "NET-031" => {
            let mut r = pairs(&|a, b| if a == 3 || b == 3 { 0.0 } else { 10e9 }, 1)?;
            for line in &mut r.outcomes {
                if let Outcome::Failed { kind, .. } = &mut line.outcome {
                    *kind = FailKind::Stalled;
                }
            }
            Some(r)
        }
        "NET-033" => {
            let mut r = network(4, 1);
            let us = |i: usize, j: usize| (i != j).then_some(if i == 2 || j == 2 { 2019.0 } else { 19.0 });
            let rtt_us = (0..4).map(|i| (0..4).map(|j| us(i, j)).collect()).collect();
            let facts = Facts::Latencies(gonogo::measure::Latencies { nodes: r.header.nodes.clone(), rtt_us });
            add_on(&mut r, "n0", "tcp", "latencies", Outcome::facts(facts));
            Some(r)
        }
        "NET-032" => cluster(&|r| {
            for (n, last) in [("n1", 1), ("n2", 2), ("n3", 2), ("n4", 4)] {
                let nic = |name: &str, address: [u8; 4]| gonogo::topology::Nic {
                    name: name.into(),
                    addresses: vec![address.into()],
                    ..Default::default()
                };
                let nics = vec![nic("eth0", [10, 0, 0, last]), nic("docker0", [172, 17, 0, 1])];
                let m = Machine { boot: Some(format!("b{n}")), nics, ..good_machine() };
                add_on(r, n, "environment", "machine", machine(m));
            }
        }),
        "NET-028" => {
            // One bad test with one partner, and nothing else of either.
            let mut r = network(8, 2);
            for (round, groups) in [vec![(0, 1), (2, 3), (4, 5), (6, 7)]].into_iter().enumerate() {
                add_round(&mut r, round, "inter-leaf", &groups, &|a, b| if a + b == 1 { 1e9 } else { 10e9 });
            }
            Some(r)
        }
        "COL-020" => {
            let mut r = network(8, 1);
            let names: Vec<NodeName> = (0..8).map(|i| NodeName(format!("n{i}"))).collect();
            let groups: Vec<Vec<NodeName>> = names.chunks(2).map(<[NodeName]>::to_vec).collect();
            let case = "all-reduce ladder n=2 16 MiB";
            add_groups(&mut r, "collective-ladder-2", "collective", &[case], serde_json::Value::Null, &groups);
            for (i, g) in groups.iter().enumerate() {
                let rate = if i == 2 { 1e9 } else { 10e9 };
                add_line(
                    &mut r,
                    &g[0],
                    "collective-ladder-2",
                    "collective",
                    case,
                    measured(series("collective", "busbw", rate)),
                );
            }
            Some(r)
        }
        "COL-022" => {
            // Halving: n4 with a cleared node is well, n5 is not.
            let mut r = provoke("COL-020")?;
            let halves: Vec<Vec<NodeName>> =
                [["n4", "n0"], ["n5", "n1"]].map(|g| g.map(|n| NodeName(n.to_owned())).to_vec()).to_vec();
            let case = "all-reduce narrow n=2 16 MiB";
            add_groups(&mut r, "collective-narrow-1", "collective", &[case], serde_json::Value::Null, &halves);
            for (g, rate) in halves.iter().zip([10e9, 1e9]) {
                let outcome = measured(series("collective", "busbw", rate));
                add_line(&mut r, &g[0], "collective-narrow-1", "collective", case, outcome);
            }
            Some(r)
        }
        "COL-023" => Some(crate::parts::scaled(1.0, &|n, _| if n > 4 { 12.0 } else { 1.0 })),
        "COL-021" => {
            let mut r = network(8, 1);
            let names: Vec<NodeName> = (0..8).map(|i| NodeName(format!("n{i}"))).collect();
            let case = "all-reduce world n=8 16 MiB";
            add_groups(
                &mut r,
                "collective-world-8",
                "collective",
                &[case],
                serde_json::Value::Null,
                std::slice::from_ref(&names),
            );
            let failed = Outcome::error(FailKind::Error, "as the test has it");
            add_line(&mut r, &names[0], "collective-world-8", "collective", case, failed);
            Some(r)
        }
        code if code.starts_with("STO-03") && code != "STO-030" => crate::saving::provoke(code),
        code if code.starts_with("REH-") => crate::rehearsal::provoke(code),
        code if code.starts_with("MOR-") => crate::remains::provoke(code),
        "CLU-012" | "COV-008" => crate::since::provoke(code),
        code if code.starts_with("STO-05") || code.starts_with("STO-06") => crate::watched::provoke(code),
        "STO-040" => shared(&|v| v.mount = "tmpfs tmpfs".into()),
        "STO-041" => shared(&|v| v.visible_ms = None),
        "STO-042" => shared(&|v| v.read_back = Some(false)),
        "PLN-001" => with("[[waive]]\ncode = \"STO-025\"\nreason = \"x\"\nuntil = \"2020-01-01\"\n", &|_| {}),
        _ => None,
    }
}

#[test]
fn every_code_has_its_texts_and_a_record_that_provokes_it() {
    let mut seen = BTreeSet::new();
    for doc in CODES {
        assert!(seen.insert(doc.code), "{} is there twice", doc.code);
        assert!(is_code(doc.code), "{}", doc.code);
        for (name, text) in
            [("title", doc.title), ("cause", doc.cause), ("suspect", doc.suspect), ("remedy", doc.remedy)]
        {
            assert!(text.len() > 4 && text.is_ascii(), "{} has no good {name}", doc.code);
        }
        assert!(doc.cause.ends_with('.'), "{}", doc.code);
        if doc.code.starts_with("FAB-") || doc.code == "LEM-001" {
            // Of a fabric, or of a record and those before it.
            let offender = doc.code == "LEM-001";
            let found = if offender { crate::offenders::found() } else { crate::fabric::provoke(doc.code) };
            assert!(
                found.iter().any(|f| offender || f.starts_with(doc.code)),
                "{} was provoked and not found: {found:?}",
                doc.code
            );
            continue;
        }
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

/// Eight nodes in three rounds of pairs, all as fast, where both ends of a flow counted what it sent, and more where `edit` says so:
/// with the numbers of sender and receiver.
pub fn flows(edit: &dyn Fn(u32, u32, &mut Transport)) -> Option<Record> {
    let mut r = network(8, 1);
    for (round, pairs) in gonogo::localise::circle(8).into_iter().take(3).enumerate() {
        add_round(&mut r, round, "inter-leaf", &pairs, &|_, _| 10e9);
        let mut lines = r.outcomes.iter_mut().rev().take(2 * pairs.len()).collect::<Vec<_>>();
        lines.reverse();
        for ((a, b), both) in pairs.iter().zip(lines.chunks_mut(2)) {
            for (line, (from, to)) in both.iter_mut().zip([(*a, *b), (*b, *a)]) {
                let bytes = 10 << 30;
                let state = LinkState { carrier_changes: Some(2), errors: Some(0) };
                let end = |n: u32, sent, received| LinkEnd {
                    node: NodeName(format!("n{n}")),
                    interface: "eth0".into(),
                    sent,
                    received,
                    state,
                };
                let mut t = Transport {
                    node: NodeName(format!("n{from}")),
                    interface: Some("eth0".into()),
                    bytes,
                    counted: vec![("eth0".into(), bytes + bytes / 20)],
                    segments: Some(Segments { sent: 10_000, again: 0, bytes_again: 0, needless: None }),
                    again: None,
                    ends: Some(Box::new([
                        end(from, bytes + bytes / 20, 1 << 20),
                        end(to, 1 << 20, bytes + bytes / 20),
                    ])),
                    waited: None,
                };
                edit(from, to, &mut t);
                if let Outcome::Measured(m) = &mut line.outcome {
                    m.transport = vec![t].into();
                }
            }
        }
    }
    Some(r)
}
