//! Whole checks of nodes with GPUs that are not here (tests/labs/fake-gpu/enter): the commands of the README as they are typed, with one
//! GPU and with eight, in all tiers; and one fault after another, each on the right GPU. Nothing is measured here, and no outcome
//! hangs on how fast this machine is: what its own cores do is for other tests.

mod skip;
mod stand;

use std::process::Command;

use stand::{Json, Result, can, list, text};

struct Run {
    code: i32,
    report: Json,
    /// Every line of the record.
    record: Vec<Json>,
    /// The report as a person sees it.
    shown: String,
}

fn check(machine: &str, fault: &str, args: &[&str]) -> Result<Run> {
    check_in(&[], machine, fault, args)
}

/// With these variables in the job's environment.
fn check_in(environment: &[(&str, &str)], machine: &str, fault: &str, args: &[&str]) -> Result<Run> {
    let dir = tempfile::tempdir()?;
    let enter = |args: &[&str]| {
        let mut command = stand::enter(machine);
        command
            .args(args)
            .current_dir(dir.path())
            .env("FAKE_FAULT", fault)
            .env_remove("CUDA_VISIBLE_DEVICES")
            .envs(environment.iter().copied());
        command
    };
    let run =
        enter(&[&["check", "--alone", "--quiet", "--format", "json", "--path", ".", "--out", "r"], args].concat())
            .output()?;
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    let report = serde_json::from_slice(&run.stdout).map_err(|e| format!("{machine} {fault}: {e}: {said}"))?;
    let lines = std::fs::read_to_string(dir.path().join("r/record.jsonl"))?;
    let record = lines.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
    let shown = Command::new(env!("CARGO_BIN_EXE_gonogo")).args(["report", "r"]).current_dir(dir.path()).output()?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    Ok(Run { code: run.status.code().unwrap_or(-1), report, record, shown })
}

impl Run {
    /// `CODE severity subject: evidence` of what weighs.
    fn findings(&self) -> Vec<String> {
        let line = |f: &Json| {
            format!("{} {} {}: {}", text(&f["code"]), text(&f["severity"]), f["subject"], text(&f["evidence"]))
        };
        let weighs = |f: &&Json| ["fail", "hold"].contains(&f["severity"].as_str().unwrap_or_default());
        list(&self.report["findings"]).iter().filter(weighs).map(line).collect()
    }

    /// Without what a machine that others use does to the host's own cores, its adapters' latencies and its disk.
    fn of_gpus(&self) -> Vec<String> {
        let hosts = |line: &String| {
            let of_host = ["gemm, ", "memory, ", "storage", "loopback", "rdma-mlx5", "tcp", "collective-node"];
            let gpu = line.contains("gpu") || line.contains("GPU") || line.contains("nccl");
            !gpu && of_host.iter().any(|h| line.contains(h))
        };
        self.findings().into_iter().filter(|f| !hosts(f)).collect()
    }

    /// How each case of a step ended: its name and the kind of outcome.
    fn outcomes(&self, step: &str) -> Vec<(String, String)> {
        let of_step = self.record.iter().filter_map(|l| l.get("outcome")).filter(|o| text(&o["step"]) == step);
        let kind = |o: &Json| o["outcome"].as_object().and_then(|o| o.keys().next().cloned()).unwrap_or_default();
        of_step.map(|o| (text(&o["case"]), kind(o))).collect()
    }
}

/// The quick tier as it is typed, with time enough for a machine that others use: all that a GPU node can tell is measured, nothing is
/// lost between plan and record, and nobody is blamed.
#[test]
fn the_quick_tier_of_a_healthy_node() -> Result {
    if !can()? {
        return Ok(());
    }
    // What the plan asks of the run's own all-reduce is asked of NCCL.
    let plans = tempfile::tempdir()?;
    let plan = plans.path().join("run.toml");
    std::fs::write(&plan, "[require]\nmin_busbw = \"430 GB/s\"\n")?;
    let plan = plan.to_string_lossy().into_owned();
    for (machine, gpus) in [("h100", 1), ("hgx-h100", 8)] {
        let demands: &[&str] = if gpus > 1 { &["--plan", &plan] } else { &[] };
        let run = check(machine, "", &[&["--budget", "150s"], demands].concat())?;
        assert_eq!(run.of_gpus(), [""; 0], "{machine}: {}", run.shown);
        // What is left is of the host's own cores, which this machine shares.
        let hosts = run.findings().iter().any(|f| f.contains(" fail "));
        assert!([0, 2].contains(&run.code) || hosts, "{machine}: {}", run.shown);
        for (step, tests) in [("gemm-gpu", 4), ("memory-gpu", 5), ("copy-gpu", if gpus > 1 { 6 } else { 5 })] {
            let outcomes = run.outcomes(step);
            assert!(outcomes.len() >= tests * gpus, "{machine} {step}: {outcomes:?}");
            assert!(outcomes.iter().all(|(_, kind)| kind == "measured"), "{machine} {step}: {outcomes:?}");
        }
        let nccl = run.outcomes("collective-gpu");
        assert!(nccl.len() > 8 && nccl.iter().all(|(_, kind)| kind == "measured"), "{machine}: {nccl:?}");
        // What the quick tier leaves out on a GPU node stands in the record with its reason.
        assert!(run.outcomes("tcp").iter().all(|(_, kind)| kind == "waived") && !run.outcomes("tcp").is_empty());
        assert!(run.shown.contains("left to the standard tier") && !run.shown.contains("has no step"), "{}", run.shown);
        // NCCL connects in the first collectives (2.22 and later), and is held against what its ways can do.
        let facts = run.record.iter().find_map(|l| l["outcome"]["outcome"]["measured"]["facts"].get("nccl").cloned());
        let facts = facts.ok_or("no facts of NCCL")?;
        let ways = facts["transports"].as_object().cloned().unwrap_or_default();
        assert!(gpus == 1 || ways.keys().any(|w| w.starts_with("P2P/")), "{machine}: {facts}");
        let large = list(&run.report["metrics"]).into_iter().find(|m| {
            text(&m["case"]) == format!("all-reduce nccl node n={gpus} 1 GiB") && text(&m["metric"]) == "busbw"
        });
        assert!(gpus == 1 || large.as_ref().is_some_and(|m| !m["limit"].is_null()), "{machine}: {large:?}");
        let by_plan: Vec<String> = list(&run.report["metrics"])
            .iter()
            .filter(|m| text(&m["limit_source"]) == "plan" && text(&m["metric"]) == "busbw")
            .map(|m| format!("{}: {}", text(&m["case"]), text(&m["verdict"])))
            .collect();
        let asked = "all-reduce nccl node n=8 1 GiB";
        let want = if gpus > 1 { vec![format!("{asked}: pass"), format!("{asked} in place: pass")] } else { vec![] };
        assert_eq!(by_plan, want, "{machine}");
        // It is clear to a reader that this was no GPU.
        assert!(run.shown.contains("stand-in"), "{}", run.shown);
    }
    Ok(())
}

/// Longer tiers in less time than they want: what cannot get blocks enough says so, and no figure is made of two.
#[test]
fn the_longer_tiers_when_time_is_short() -> Result {
    if !can()? {
        return Ok(());
    }
    for (machine, tier, budget) in
        [("h100", "standard", "40s"), ("hgx-h100", "standard", "60s"), ("h100", "soak", "60s")]
    {
        let run = check(machine, "", &["--tier", tier, "--budget", budget, "--skip", "gemm,memory,rdma,tcp"])?;
        let lost = |f: &String| f.starts_with("COV-") || f.starts_with("RUN-002");
        let wrong: Vec<String> = run.of_gpus().into_iter().filter(|f| !lost(f)).collect();
        assert_eq!(wrong, [""; 0], "{machine} {tier}: {}", run.shown);
        assert!([0, 2].contains(&run.code) && !run.shown.contains("has no step"), "{machine} {tier}: {}", run.shown);
        for line in run.record.iter().filter(|l| text(&l["outcome"]["step"]).ends_with("-gpu")) {
            let series = list(&line["outcome"]["outcome"]["measured"]["series"]);
            let case = text(&line["outcome"]["case"]);
            for s in series.iter().filter(|s| s["metric"] != "start" && !case.starts_with("pattern")) {
                assert!(list(&s["samples"]).len() >= 8, "{machine} {tier} {case}: {s}");
            }
        }
    }
    Ok(())
}

/// Whether a finding is of a code and names what it must. What is measured while others use this machine's cores proves no failure: then
/// a GPU that is slower than its peers stands as open, and is named all the same.
fn is_named(finding: &str, code: &str, text: &str) -> bool {
    let open = code == "PER-002" && finding.starts_with("VAL-003");
    (finding.starts_with(code) || open) && finding.contains(text)
}

/// One GPU of eight: what is wrong with it is named, on it and on no other.
#[test]
fn a_fault_is_put_on_its_gpu() -> Result {
    if !can()? {
        return Ok(());
    }
    // A fault, the probe that shows it, the code that must be found, and what its text must hold.
    let faults = [
        ("slow:3:0.84", "gemm", "PER-002", "gpu3"),
        ("bits:5", "gemm", "GEM-003", "gpu5"),
        ("wrong:2", "copy", "CPY-001", "gpu2"),
        ("slow-memory:6:0.8", "memory", "PER-002", "gpu6"),
        ("slow-link:6", "copy", "GPU-008", "GPU 6"),
        ("nvlink-down:1", "copy", "GPU-009", "GPU 1"),
        ("lost:4", "memory", "GPU-002", "GPU 4"),
        ("filled:7", "memory", "GPU-014", "GPU 7"),
        ("hbm-ecc:2", "memory", "GPU-003", "GPU 2"),
        ("no-fabric", "memory", "GPU-010", "registration"),
    ];
    for (fault, probe, code, text) in faults {
        let only = format!("environment,{probe}");
        let run = check("hgx-h100", fault, &["--only", &only, "--budget", "100s"])?;
        let found = run.of_gpus();
        assert!(found.iter().any(|f| is_named(f, code, text)), "{fault}: no {code} in {found:?}");
        // Nobody else is named.
        let gpu = fault.split(':').nth(1).unwrap_or("-");
        let other = |f: &&String| {
            (0..8)
                .map(|g| g.to_string())
                .any(|g| g != gpu && (f.contains(&format!("gpu{g}`")) || f.contains(&format!("GPU {g} "))))
        };
        let others: Vec<&String> = found.iter().filter(other).collect();
        assert!(gpu == "-" || others.is_empty(), "{fault}: {others:?}");
        assert!((1..=2).contains(&run.code), "{fault}: {}", run.shown);
    }
    Ok(())
}

/// NCCL 2.31 checks itself while a communicator is made, and what it prints comes between no frames: its word stands beside gonogo's own.
#[test]
fn what_nccl_finds_of_itself_is_told() -> Result {
    if !can()? {
        return Ok(());
    }
    let of = |version: &str, more: &[(&str, &str)], fault: &str| -> Result<Run> {
        let environment = [&[("FAKE_NCCL_VERSION", version)][..], more].concat();
        check_in(&environment, "hgx-h100", fault, &["--only", "environment,collective", "--budget", "60s"])
    };
    let told = |run: &Run, text: &str| run.record.iter().any(|l| l.to_string().contains(text));
    let well = of("23102", &[], "")?;
    assert_eq!(well.of_gpus(), [""; 0], "{}", well.shown);
    assert!(told(&well, "NCCL's own diagnostics find well: p2p, CUDA driver version"), "{}", well.shown);
    let broken = of("23102", &[("NCCL_RAS_ENABLE", "0")], "nccl-p2p")?;
    let found = broken.of_gpus();
    assert!(found.iter().any(|f| f.starts_with("NCL-015 hold") && f.contains("only 52/56")), "{found:?}");
    assert!(told(&broken, "NCCL_RAS_ENABLE=0: NCCL did not compare its ranks"), "{}", broken.shown);
    let differs = of("23102", &[], "nccl-environment")?;
    assert_eq!(differs.of_gpus(), [""; 0], "{}", differs.shown);
    assert!(differs.shown.contains("NCL-015") && differs.shown.contains("differ across ranks"), "{}", differs.shown);
    let old = of("22703", &[], "")?;
    assert!(told(&old, "NCCL 2.27.3: its own diagnostics came with 2.31"), "{}", old.shown);
    Ok(())
}

/// A step of the plan's training on eight GPUs: products and messages of every dimension, nobody accused; the GPU that computes 5 % more
/// slowly than its seven peers named, and no other; a collective that never ends ends the step with its reason.
#[test]
fn a_step_is_rehearsed_and_the_slow_gpu_named() -> Result {
    if !can()? {
        return Ok(());
    }
    let plans = tempfile::tempdir()?;
    let plan = plans.path().join("run.toml");
    let shape = "[model]\npreset = \"llama-3-8b\"\n[parallel]\ntp = 2\ncp = 2\npp = 2\nglobal_batch = 32\n[nodes]\nneeded = 1\ngpus_per_node = 8\n";
    std::fs::write(&plan, shape)?;
    let plan = plan.to_string_lossy().into_owned();
    let args = ["--plan", &plan, "--only", "environment,rehearsal", "--budget", "60s"];
    let well = check("hgx-h100", "", &args)?;
    assert_eq!(well.of_gpus(), [""; 0], "{}", well.shown);
    let kinds: Vec<(String, String)> = well.outcomes("rehearsal-gpu");
    let cases: Vec<&str> = kinds.iter().filter(|(_, kind)| kind == "measured").map(|(case, _)| case.as_str()).collect();
    assert_eq!(cases, ["compute n=8 GPUs", "communication n=8 GPUs", "step n=8 GPUs"], "{}", well.shown);
    assert!(well.shown.contains("of each rank") && well.shown.contains("stand-in"), "{}", well.shown);
    let slow = check("hgx-h100", "slow:3:0.95", &args)?;
    let named = slow.of_gpus();
    assert!(named.len() == 1 && named[0].starts_with("REH-001 fail"), "{named:?}");
    assert!(named[0].contains("rank 3: its own products"), "{named:?}");
    let hang = check("hgx-h100", "nccl-hang", &args)?;
    let lost = hang.of_gpus();
    assert!(!lost.is_empty() && lost.iter().all(|f| !f.contains("REH-001")), "{lost:?} {}", hang.shown);
    Ok(())
}

/// One that hangs is named in seconds, and the others are measured all the same by the steps that follow.
#[test]
fn a_gpu_that_hangs_is_named() -> Result {
    if !can()? {
        return Ok(());
    }
    let run = check("hgx-h100", "hang:3", &["--only", "environment,gemm", "--budget", "100s"])?;
    let found = run.of_gpus();
    assert!(found.iter().any(|f| f.contains("GPU 3 (") && f.contains("it hangs")), "{found:?}");
    assert!(run.record.iter().any(|l| text(&l["outcome"]["case"]) == "f64 1 core"), "{}", run.shown);
    Ok(())
}

/// A job that sees some of the GPUs, in an order of its own, is measured on those, by the numbers of nvidia-smi; the others are told.
#[test]
fn a_job_that_sees_some_of_the_gpus() -> Result {
    if !can()? {
        return Ok(());
    }
    let only = ["--only", "environment,gemm,memory", "--budget", "100s"];
    let run = check_in(&[("CUDA_VISIBLE_DEVICES", "7,6,5,4")], "hgx-h100", "slow:5:0.84", &only)?;
    let found = run.of_gpus();
    assert!(found.iter().any(|f| is_named(f, "PER-002", "gpu5")), "{found:?}");
    assert!(!found.iter().any(|f| ["gpu4", "gpu6", "gpu7"].iter().any(|g| f.contains(g))), "{found:?}");
    let cases = run.outcomes("gemm-gpu");
    assert!(
        cases.iter().all(|(case, _)| ["gpu4", "gpu5", "gpu6", "gpu7"].iter().any(|g| case.ends_with(g))),
        "{cases:?}"
    );
    assert!(run.shown.contains("CUDA_VISIBLE_DEVICES=7,6,5,4 shows 4 of 8 GPUs"), "{}", run.shown);
    Ok(())
}

/// A driver that answers slowly, not at all, or is of another version than its library; a rank of NCCL that dies in init and in the
/// first collective.
#[test]
fn a_driver_and_a_peer_that_fail() -> Result {
    if !can()? {
        return Ok(());
    }
    for (fault, probes, code, said) in [
        ("nvml-slow:0.03", "memory", "GPU-018", ""),
        ("nvml-hang", "memory", "GPU-001", "did not answer"),
        ("nvml-version", "memory", "GPU-001", ""),
        ("nccl-init-dead", "collective", "RUN-001", "rank 1 of step collective-gpu"),
        ("nccl-first-dead", "collective", "RUN-001", "rank 1 of step collective-gpu"),
    ] {
        let only = format!("environment,{probes}");
        // One GPU's answers are slow and come; eight GPUs' would be waited for in vain.
        let machine = if fault.starts_with("nvml-slow") { "h100" } else { "hgx-h100" };
        let run = check(machine, fault, &["--only", &only, "--budget", "100s"])?;
        let all = list(&run.report["findings"]);
        let found = all.iter().any(|f| f["code"] == code && text(&f["evidence"]).contains(said));
        assert!(found, "{fault}: {}", run.shown);
    }
    Ok(())
}

/// What cannot be had is not blamed on the GPU: bridges in pairs, a host link that is no PCIe.
#[test]
fn expectations_follow_what_is_connected() -> Result {
    if !can()? {
        return Ok(());
    }
    for machine in ["a100-pcie-pairs", "gb200"] {
        let run = check(machine, "", &["--only", "environment,copy,collective", "--budget", "100s"])?;
        assert_eq!(run.of_gpus(), [""; 0], "{machine}: {}", run.shown);
    }
    Ok(())
}
