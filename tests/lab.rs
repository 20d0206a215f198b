//! Slurm and mpirun for real, over network namespaces (tests/labs/slurm-lab): each fault names exactly the guilty node.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/labs/slurm-lab");
const GONOGO: &str = env!("CARGO_BIN_EXE_gonogo");

fn lab(args: &[&str]) -> Result<Output> {
    Ok(Command::new(LAB).args(args).stdin(Stdio::null()).output()?)
}

/// Takes the lab down whatever happens.
struct Up;

impl Drop for Up {
    fn drop(&mut self) {
        let _ = lab(&["down"]);
    }
}

struct Seen {
    code: i32,
    report: serde_json::Value,
    err: String,
}

impl Seen {
    /// `CODE node` of everything from `hold` up.
    fn against(&self) -> Vec<String> {
        let findings = self.report["findings"].as_array().cloned().unwrap_or_default();
        let heavy = |f: &&serde_json::Value| matches!(f["severity"].as_str(), Some("fail" | "hold"));
        let node = |f: &serde_json::Value| f["subject"]["node"].as_str().unwrap_or("-").to_owned();
        findings.iter().filter(heavy).map(|f| format!("{} {}", f["code"].as_str().unwrap_or("?"), node(f))).collect()
    }

    fn excluded(&self) -> String {
        self.report["placement"]["exclude"].to_string()
    }
}

/// A check by srun or mpirun; `meanwhile` runs after some seconds.
fn check(launch: &[&str], extra: &[&str], meanwhile: Option<(u64, &[&str])>) -> Result<Seen> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("record");
    let out = out.to_string_lossy();
    let child = Command::new(LAB)
        .args(launch)
        .args([GONOGO, "check", "--quiet", "--format", "json", "--out", &out])
        .args(extra)
        .env("GONOGO_TOKEN", "a token of the lab, long enough")
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some((seconds, args)) = meanwhile {
        std::thread::sleep(Duration::from_secs(seconds));
        lab(args)?;
    }
    let output = child.wait_with_output()?;
    Ok(Seen {
        code: output.status.code().unwrap_or(-1),
        report: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

const SRUN: &[&str] = &["srun", "--no-kill", "-N8", "--ntasks-per-node=1"];
const NETWORK: &[&str] = &["--only", "environment,tcp"];

#[test]
fn the_guilty_node_is_named_and_no_other() -> Result {
    let can = lab(&["check"])?;
    if !can.status.success() {
        eprintln!("skipped: {}", String::from_utf8_lossy(&can.stdout).trim());
        return Ok(());
    }
    let up = lab(&["up", "-n", "8"])?;
    let _down = Up;
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));

    let healthy = check(SRUN, NETWORK, None)?;
    assert_eq!(healthy.against(), [""; 0], "healthy: {}", healthy.err);
    assert_eq!((healthy.code, healthy.report["nodes"].as_array().map(Vec::len)), (0, Some(8)), "{}", healthy.err);

    lab(&["degrade", "node3", "--rate", "200mbit"])?;
    let slow = check(SRUN, NETWORK, None)?;
    assert_eq!((slow.against(), slow.code), (vec!["NET-020 node3".to_owned()], 1), "{}", slow.err);
    // What it prints is what a second run uses to go.
    assert_eq!(slow.excluded(), "[\"node3\"]");
    let without = check(&["srun", "--exclude=node3", "-N7", "--ntasks-per-node=1"], NETWORK, None)?;
    assert_eq!((without.against(), without.code), (vec![], 0), "{}", without.err);
    let mpi = check(&["mpirun", "-np", "8", "--map-by", "ppr:1:node", "-x", "GONOGO_TOKEN"], NETWORK, None)?;
    assert_eq!((mpi.against(), mpi.code), (vec!["NET-020 node3".to_owned()], 1), "{}", mpi.err);
    lab(&["heal", "node3"])?;

    lab(&["degrade", "node5", "--loss", "5%"])?;
    let lossy = check(SRUN, NETWORK, None)?;
    let named = lossy.against();
    assert!(
        !named.is_empty() && named.iter().all(|f| f.starts_with("NET-02") && f.ends_with(" node5")),
        "{named:?} {}",
        lossy.err
    );
    lab(&["heal", "node5"])?;

    let limited = lab(&["degrade", "node6", "--cpu", "25%"])?;
    if limited.status.success() {
        let starved = check(SRUN, &["--only", "environment,gemm"], None)?;
        let named = starved.against();
        if named.iter().any(|f| f.starts_with("VAL-002")) {
            eprintln!("skipped: a starved CPU: others use this machine, so that nothing is said of any CPU");
        } else {
            let own = |f: &String| f == "PER-001 node6" || f == "GEM-010 node6";
            assert!(!named.is_empty() && named.iter().all(own), "{named:?} {}", starved.err);
        }
        lab(&["heal", "node6"])?;
    } else {
        eprintln!("skipped: a starved CPU: {}", String::from_utf8_lossy(&limited.stderr).trim());
    }

    let killed = check(SRUN, NETWORK, Some((4, &["kill-node", "node4"])))?;
    let named = killed.against();
    assert!(
        !named.is_empty() && named.iter().all(|f| f == "CLU-003 node4" || f == "CLU-002 node4"),
        "{named:?} {}",
        killed.err
    );
    Ok(())
}
