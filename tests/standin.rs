//! Machines that are not here (tests/labs/fake-gpu/enter): the binary as it is finds their GPUs and adapters in /sys, opens libibverbs,
//! and measures what stands in. Rates mean nothing, and no test's outcome hangs on one.

mod port;
mod skip;
mod stand;

use std::process::{Command, Stdio};

use stand::{Json, Result, can, list, text};

fn enter(machine: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = stand::enter(machine);
    command.envs(environment.iter().copied());
    command
}

/// What a command says in JSON.
fn json(command: &mut Command) -> Result<Json> {
    let out = command.output()?;
    serde_json::from_slice(&out.stdout).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&out.stderr)).into())
}

fn discover(machine: &str, environment: &[(&str, &str)]) -> Result<Json> {
    json(enter(machine, environment).args(["discover", "--format", "json"]))
}

/// The adapters' part of a check on one node.
fn check(machine: &str, fault: &str) -> Result<Json> {
    let dir = tempfile::tempdir()?;
    let mut command = enter(machine, &[("FAKE_FAULT", fault)]);
    command.args(["check", "--alone", "--quiet", "--format", "json", "--only", "environment,rdma", "--budget", "60s"]);
    json(command.arg("--out").arg(dir.path().join("record")))
}

/// `CODE evidence` of findings about adapters and steps.
fn findings(report: &Json) -> Vec<String> {
    let all = list(&report["findings"]).into_iter();
    let line = |f: Json| format!("{} {}", text(&f["code"]), text(&f["evidence"]));
    let of_adapters = |line: &String| ["RDM-", "RUN-", "VAL-001"].iter().any(|c| line.starts_with(c));
    all.map(line).filter(of_adapters).collect()
}

/// A check in which only what was asked for is wrong. A machine that others use may keep a step from its end; that is told, as it must
/// be, and is no failure of the test unless it is there three times.
fn undisturbed(machine: &str, fault: &str, expected: &dyn Fn(&[String]) -> bool) -> Result<Json> {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let report = check(machine, fault)?;
        let found = findings(&report);
        if expected(&found) {
            return Ok(report);
        }
        seen.push(found);
    }
    Err(format!("{machine} with `{fault}`, three times: {seen:#?}").into())
}

fn bridges(device: &Json) -> Vec<String> {
    list(&device["pcie"]["bridges"]).iter().map(text).collect()
}

/// Every machine's GPUs and adapters, where they are, and that nobody takes them for real ones.
#[test]
fn machines_are_discovered() -> Result {
    if !can()? {
        return Ok(());
    }
    for (machine, gpus, adapters, rate, switched) in [
        ("h100", 1, 1, "400 Gb/sec (4X NDR)", true),
        ("hgx-h100", 8, 8, "400 Gb/sec (4X NDR)", true),
        ("a100-pcie-pairs", 4, 2, "200 Gb/sec (4X HDR)", false),
        ("gb200", 4, 4, "400 Gb/sec (4X NDR)", false),
    ] {
        let node = discover(machine, &[])?;
        let (g, a) = (list(&node["gpus"]), list(&node["infiniband"]));
        assert_eq!((g.len(), a.len()), (gpus, adapters), "{machine}");
        assert!(g.iter().all(|g| g["vendor"] == "0x10de" && g["driver"] == "nvidia"), "{machine}: {g:?}");
        for (i, device) in a.iter().enumerate() {
            assert_eq!(text(&device["name"]), format!("mlx5_{i}"));
            assert!(text(&device["board"]).ends_with(" stand-in"), "{machine}: {device}");
            let port = &device["ports"][0];
            assert!(port["state"] == "ACTIVE" && port["rate"] == rate && port["sm_lid"] == 1, "{machine}: {port}");
            assert_eq!(device["pcie"]["redirecting"], serde_json::json!([]), "{machine}");
            // Root port, the switch's upstream port, and a downstream port for each: where there is a switch, it has both.
            let (above, gpus) = (bridges(device), bridges(&g[i]));
            let shared = above.iter().zip(&gpus).take_while(|(x, y)| x == y).count();
            assert!(!switched || (above.len(), gpus.len(), shared) == (3, 3, 2), "{machine}: {above:?} {gpus:?}");
        }
        let numa = |of: &[Json]| of.iter().filter(|d| d["numa"] == 1).count();
        assert_eq!((numa(&g), numa(&a)), (gpus / 2, adapters / 2), "{machine}");
        assert_eq!(node["uverbs"], true, "{machine}");
        // The rest is this machine's own.
        assert!(node["cpu"]["threads"].as_u64() > Some(0) && !list(&node["cpu"]["numa"]).is_empty(), "{machine}");
    }
    Ok(())
}

/// Nothing is left behind, a name that is none is told, and another node is another.
#[test]
fn a_machine_is_seen_inside_only() -> Result {
    if !can()? {
        return Ok(());
    }
    let before = std::fs::read_to_string("/proc/self/mountinfo")?;
    let (one, two) = (discover("h100", &[("FAKE_NODE", "n1")])?, discover("h100", &[("FAKE_NODE", "n2")])?);
    let port = |node: &Json| node["infiniband"][0]["ports"][0].clone();
    assert!(port(&one)["lid"] != port(&two)["lid"] && port(&one)["gids"] != port(&two)["gids"], "{one} {two}");
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo")?, before);
    let down = discover("hgx-h100", &[("FAKE_FAULT", "slow:1,rdma-down:mlx5_3")])?;
    let states: Vec<String> = list(&down["infiniband"]).iter().map(|d| text(&d["ports"][0]["state"])).collect();
    assert!(states.iter().enumerate().all(|(i, s)| s == if i == 3 { "DOWN" } else { "ACTIVE" }), "{states:?}");
    let none = enter("h200", &[]).arg("discover").output()?;
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(none.status.code() == Some(2) && said.contains("no machine h200; there are: a100-pcie-pairs"), "{said}");
    Ok(())
}

/// Adapters that are well are measured whole; one that is not is named, and no other. One after the other, for the machine's few cores.
#[test]
fn adapters_that_are_well_and_adapters_that_fail() -> Result {
    if !can()? {
        return Ok(());
    }
    let well = undisturbed("a100-pcie-pairs", "", &|found| found.is_empty())?;
    let metrics = list(&well["metrics"]);
    for device in ["mlx5_0", "mlx5_1"] {
        for op in ["write", "read", "send"] {
            for (what, metric) in [("64 KiB", "bandwidth"), ("latency 2 B", "latency")] {
                let case = format!("loopback {op} {what} {device}");
                let one = metrics.iter().find(|m| m["case"] == case.as_str() && m["metric"] == metric);
                let one = one.ok_or_else(|| format!("no {metric} of `{case}` in {metrics:#?}"))?;
                // HDR is 25 GB/s: nothing completes before the timeline says so.
                let value = one["median"].as_f64().unwrap_or(-1.0);
                assert!(if metric == "bandwidth" { value > 0.0 && value < 50e9 } else { value > 0.5e-6 }, "{one}");
            }
        }
    }

    let wrong = |found: &[String]| {
        let all = found.iter().all(|f| f.starts_with("RDM-011") && f.contains("mlx5_1`"));
        let each = |op: &str| found.iter().any(|f| f.contains(&format!("loopback {op} 64 KiB mlx5_1`")));
        all && ["write", "read", "send"].into_iter().all(each)
    };
    undisturbed("a100-pcie-pairs", "rdma-wrong:mlx5_1", &wrong)?;

    let said = |what: &'static str| {
        move |found: &[String]| found.iter().any(|f| f.contains(what)) && found.iter().all(|f| f.contains("mlx5_1"))
    };
    undisturbed("a100-pcie-pairs", "rdma-error:mlx5_1", &said("status 12, transport retry counter exceeded"))?;
    undisturbed("a100-pcie-pairs", "rdma-hang:mlx5_1", &said("did not come in time"))?;
    undisturbed("a100-pcie-pairs", "rdma-down:mlx5_1", &said("mlx5_1 port 1: DOWN, physically Polling"))?;
    Ok(())
}

/// Two nodes whose adapters reach each other.
#[test]
fn nodes_reach_each_other() -> Result {
    if !can()? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let fabric = dir.path().to_string_lossy().into_owned();
    let port = port::free()?;
    let start = |rank: &'static str| {
        let mut command = enter("h100", &[("FAKE_FABRIC", &fabric), ("FAKE_NODE", rank)]);
        command
            .args([
                "check",
                "--quiet",
                "--format",
                "json",
                "--only",
                "environment,rdma",
                "--nodes",
                "2",
                "--rank",
                rank,
            ])
            .args(["--rendezvous", &format!("127.0.0.1:{port}"), "--join-timeout", "60s", "--budget", "60s", "--out"])
            .arg(dir.path().join(format!("record{rank}")))
            .env("GONOGO_TOKEN", "0f1e5a3c9b7d2846e1c0a9f83b6d5247")
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command.spawn()
    };
    let mut other = start("1")?;
    let report: Json = serde_json::from_slice(&start("0")?.wait_with_output()?.stdout)?;
    other.wait()?;
    assert!(!findings(&report).iter().any(|f| f.starts_with("RDM-011")), "{:?}", findings(&report));
    let measured = |case: &str| list(&report["metrics"]).iter().any(|m| m["case"] == case);
    let told = list(&report["findings"]);
    assert!(measured("pair out mlx5_0") && measured("pair back mlx5_0"), "{told:#?}");
    Ok(())
}
