//! What befell the node under the run: a real interface that comes and goes in a network of its own, and GPUs that stand in.

mod run;
mod skip;
mod stand;

use std::fs;
use std::process::Command;

use run::{Dir, Done, Result, done};

/// `train0` in a network namespace, then the words after it.
const NETWORK: &str = "mount -t sysfs sysfs /sys && ip link add train0 type veth peer name peer0 && ip link set peer0 up && \
                       ip address add 10.9.0.1/24 dev train0 && ip link set train0 up && exec \"$@\"";
const FLAP: &str = "sleep 1; for i in 1 2; do ip link set train0 down; ip link set train0 up; done";

/// A network of its own, for whoever may make one, or in a user namespace.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg(if rustix::process::geteuid().is_root() { "-nm" } else { "-Urnm" });
    command.args(["sh", "-c", NETWORK, "sh"]);
    command
}

/// Why no such network can be made here, if none can.
fn unable() -> Option<String> {
    let tried = unshare().arg("true").output();
    match tried {
        Ok(o) if o.status.success() => None,
        Ok(o) => Some(format!("no network of its own: {}", String::from_utf8_lossy(&o.stderr).trim())),
        Err(e) => Some(format!("no unshare: {e}")),
    }
}

fn in_network(dir: &Dir, script: &str) -> Result<Done> {
    let mut command = unshare();
    command.args(["sh", "-c", script]).current_dir(dir.0.path());
    command.env("G", env!("CARGO_BIN_EXE_gonogo")).env("COLUMNS", "100");
    Ok(done(command.output()?))
}

#[test]
fn a_link_that_goes_under_the_run_is_told_by_the_gate_and_by_once() -> Result {
    if let Some(why) = unable() {
        skip::skip(true, format_args!("{why}"));
        return Ok(());
    }
    let dir = Dir::new()?;
    fs::create_dir(dir.path("ckpt"))?;
    fs::write(dir.path("run.toml"), format!("[checkpoint]\ndir = {:?}\nsize = \"1 MB\"\n", dir.path("ckpt")))?;
    let script = format!(
        "$G check --plan run.toml --only environment,storage --path ckpt --quiet --out rec >/dev/null; \
         $G watch ckpt --once --since rec >well; echo $? >code-well; \
         $G gate rec --plan run.toml --watch -- sh -c '{FLAP}; exit 9' 2>said; echo $? >code; \
         $G watch ckpt --once --since rec >ill; echo $? >code-ill; $G watch ckpt --once >alone"
    );
    let done = in_network(&dir, &script)?;
    let file = |name: &str| fs::read_to_string(dir.path(name)).unwrap_or_default();
    let said = file("said");
    assert_eq!(file("code").trim(), "9", "{said}{}", done.err);
    assert!(said.contains("FAIL NET-035") && said.contains("train0 came or went 4 times since the check"), "{said}");
    // What the gate says to type next finds it again.
    fs::write(dir.path("train.log"), "RuntimeError: [pair.cc:553] Connection closed by peer [10.9.0.2]:4321\n")?;
    let autopsy = dir.run(&["autopsy", "--watch", "rec/watch", "--log", "train.log"])?;
    assert!(said.contains("gonogo autopsy") && said.contains("--watch rec/watch"), "{said}");
    assert!(autopsy.out.contains("MOR-003") && autopsy.out.contains("train0"), "{} {}", autopsy.out, autopsy.err);
    let (well, ill, alone) = (file("well"), file("ill"), file("alone"));
    assert!(!well.contains("NET-035") && well.contains("this node beside the check"), "{well}");
    assert!(file("code-ill").trim() == "1" && ill.contains("NET-035"), "{ill}");
    // Who asks before a save whether it fits is answered that, and waits for nothing else.
    assert!(!alone.contains("NET-035") && !alone.contains("this node"), "{alone}");
    Ok(())
}

#[test]
fn a_gpu_that_failed_since_the_check_is_named() -> Result {
    if !stand::can()? {
        return Ok(());
    }
    let dir = Dir::new()?;
    fs::create_dir(dir.path("ckpt"))?;
    let on = |fault: &str, args: &[&str]| -> Result<Done> {
        let mut command = stand::enter("hgx-h100");
        Ok(done(command.args(args).current_dir(dir.0.path()).env("FAKE_FAULT", fault).output()?))
    };
    let check =
        on("", &["check", "--alone", "--quiet", "--only", "environment,storage", "--path", "ckpt", "--out", "rec"])?;
    assert_eq!(check.code, 0, "{}{}", check.out, check.err);
    let look = ["watch", "ckpt", "--once", "--since", "rec", "--format", "json"];
    let findings = |d: &Done| -> Result<Vec<String>> {
        let report: stand::Json = serde_json::from_str(&d.out).map_err(|e| format!("{e}: {} {}", d.out, d.err))?;
        let line = |f: &stand::Json| format!("{} {}", stand::text(&f["code"]), stand::text(&f["evidence"]));
        Ok(stand::list(&report["findings"]).iter().map(line).collect())
    };
    let well = on("", &look)?;
    assert_eq!(findings(&well)?, [""; 0]);
    let ill = on("hbm-ecc:2", &look)?;
    let found = findings(&ill)?;
    assert!(ill.code == 1 && found.iter().any(|f| f.starts_with("GPU-003 GPU 2 ")), "{found:?}");
    assert!(found.iter().all(|f| f.contains("GPU 2 ") && f.contains("since the check")), "{found:?}");
    // A driver that hangs is told in time.
    let hang = on("nvml-hang", &look)?;
    let found = findings(&hang)?;
    assert!(found.iter().any(|f| f.starts_with("GPU-001") || f.starts_with("COV-008")), "{found:?}");
    Ok(())
}

#[test]
fn a_record_of_other_nodes_is_refused() -> Result {
    let dir = Dir::new()?;
    fs::create_dir(dir.path("ckpt"))?;
    let record = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/records/go.jsonl");
    fs::write(dir.path("others.jsonl"), fs::read_to_string(record)?.replace("\"vm\"", "\"elsewhere\""))?;
    let done = dir.run(&["watch", "ckpt", "--once", "--since", "others.jsonl"])?;
    assert!(done.code == 3 && done.err.contains("knows nothing of this node"), "{} {}", done.code, done.err);
    Ok(())
}
