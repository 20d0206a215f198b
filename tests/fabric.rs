//! A simulated InfiniBand fabric under a real subnet manager, read by the real infiniband-diags (tests/labs/fabric-lab): the
//! exact cable that was made bad is named, and no other.

mod skip;

use std::path::Path;
use std::process::{Command, Stdio};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/labs/fabric-lab");

/// Exit code, and `CODE subject` of every finding.
fn discover(net: &Path, before_net: &[&str], faults: Option<&Path>, extra: &[&str]) -> Result<(i32, Vec<String>)> {
    let mut c = Command::new(LAB);
    c.arg("run").args(before_net).arg(net).args(faults);
    c.args(["--", env!("CARGO_BIN_EXE_gonogo"), "discover", "fabric", "--format", "json"]).args(extra);
    let out = c.stdin(Stdio::null()).output()?;
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(|e| {
        format!("{e}: {} {}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    })?;
    let show = |f: &serde_json::Value| {
        let ends: Vec<&str> =
            f["subject"]["cable"].as_array().into_iter().flatten().filter_map(|e| e.as_str()).collect();
        let switch = f["subject"]["switch"].as_str().unwrap_or("");
        format!("{} {}{switch}", f["code"].as_str().unwrap_or("?"), ends.join(" - ")).trim().to_owned()
    };
    Ok((out.status.code().unwrap_or(-1), report["findings"].as_array().into_iter().flatten().map(show).collect()))
}

#[test]
fn the_exact_cable_is_named() -> Result {
    let can = Command::new(LAB).arg("check").output()?;
    if !can.status.success() {
        skip::skip(true, format_args!("{}", String::from_utf8_lossy(&can.stdout).trim()));
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let net = String::from_utf8(Command::new(LAB).arg("net").output()?.stdout)?;
    let write = |name: &str, text: &str| -> Result<std::path::PathBuf> {
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let good = write("good.net", &net)?;
    assert_eq!(discover(&good, &[], None, &[])?, (0, vec![]), "healthy");

    // Both ends of node02's cable and of one uplink of leaf3.
    let change = |ends: [&str; 2], rate: &str| -> String {
        let of = |line: &str| {
            if ends.iter().any(|e| line.contains(e)) { line.replace("4xHDR", rate) } else { line.to_owned() }
        };
        net.lines().map(of).collect::<Vec<_>>().join("\n") + "\n"
    };
    let node02 = ["\"H-0000000000000102\"[1]", "[1](1002)"];
    let narrow = write("narrow.net", &change(node02, "1xHDR"))?;
    assert_eq!(discover(&narrow, &[], None, &[])?, (1, vec!["FAB-001 node02 mlx5_0 port 1 - leaf1 port 2".into()]));
    let slow = write("slow.net", &change(node02, "4xFDR"))?;
    assert_eq!(discover(&slow, &[], None, &[])?, (1, vec!["FAB-002 node02 mlx5_0 port 1 - leaf1 port 2".into()]));

    // The cables leaf3 - spine2 (one of two) and node06 - leaf2 pulled; errors at both ends of node03's.
    let pulled = write("pulled", "Unlink \"S-0000000000000203\"[8]\nUnlink \"H-0000000000000106\"[1]\n")?;
    let expect = good.to_string_lossy().into_owned();
    let (code, found) = discover(&good, &[], Some(&pulled), &["--expect", &expect])?;
    let missing: Vec<&String> = found.iter().filter(|f| f.starts_with("FAB-007")).collect();
    assert_eq!(
        missing,
        ["FAB-007 leaf3 port 8 - spine2 port 6", "FAB-007 node06 mlx5_0 port 1 - leaf2 port 2"],
        "{found:?}"
    );
    assert!(code == 1 && found.contains(&"FAB-004 leaf3".to_owned()), "{found:?}");

    let errors = write(
        "errors",
        "PerformanceSet \"H-0000000000000103\"[1] PortCounters.SymbolErrorCounter=4211\nPerformanceSet \"S-0000000000000201\"[3] PortCounters.PortRcvErrors=97\n",
    )?;
    assert_eq!(
        discover(&good, &[], Some(&errors), &[])?,
        (0, vec!["FAB-005 node03 mlx5_0 port 1 - leaf1 port 3".into()])
    );

    // Nobody manages it: no LIDs, no master.
    let (code, found) = discover(&good, &["--no-sm"], None, &[])?;
    assert!(code == 1 && found.contains(&"FAB-010".to_owned()), "{found:?}");
    Ok(())
}

/// Findings of the fabric in a whole check, as `CODE severity subject: evidence`.
fn check(net: &Path, meanwhile: &str) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let record = dir.path().join("record");
    // The console's command goes in once the counters have been read for the first time.
    let script = format!(
        "{} check --only environment,fabric,gemm --format json --quiet --out {record} >{dir}/out & \
         [ -z '{meanwhile}' ] || {{ for i in $(seq 100); do \
           grep -q '\"case\":\"saquery SMIR before\"' {record}/record.jsonl 2>/dev/null && break; sleep 0.05; done; \
           echo '{meanwhile}' >$LAB_CONSOLE; }}; wait",
        env!("CARGO_BIN_EXE_gonogo"),
        record = record.display(),
        dir = dir.path().display(),
    );
    let out =
        Command::new(LAB).arg("run").arg(net).args(["--", "bash", "-c", &script]).stdin(Stdio::null()).output()?;
    let text = std::fs::read(dir.path().join("out"))?;
    let report: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&out.stderr)))?;
    let show = |f: &serde_json::Value| format!("{} {} {}: {}", f["code"], f["severity"], f["subject"], f["evidence"]);
    let all: Vec<String> = report["findings"].as_array().into_iter().flatten().map(show).collect();
    Ok(all.into_iter().filter(|f| f.starts_with("\"FAB-")).collect())
}

#[test]
fn a_check_reads_the_fabric_and_counts_around_its_own_traffic() -> Result {
    if !Command::new(LAB).arg("check").output()?.status.success() {
        skip::skip(true, "the fabric lab's packages are missing: tests/labs/fabric-lab install");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let net = String::from_utf8(Command::new(LAB).arg("net").output()?.stdout)?;
    let good = dir.path().join("good.net");
    std::fs::write(&good, &net)?;
    assert_eq!(check(&good, "")?, [""; 0], "healthy");
    // 4 errors are those of plugging a cable in; 4 during a check are not.
    let errors = "PerformanceSet \"H-0000000000000103\"[1] PortCounters.SymbolErrorCounter=4";
    let found = check(&good, errors)?;
    assert!(found.len() == 1 && found[0].contains("FAB-005") && found[0].contains("node03 mlx5_0 port 1"), "{found:?}");
    let slow = |l: &str| {
        let both = l.contains("\"H-0000000000000102\"[1]") || l.contains("[1](1002)");
        if both { l.replace("4xHDR", "4xFDR") } else { l.to_owned() }
    };
    let bad = dir.path().join("bad.net");
    std::fs::write(&bad, net.lines().map(slow).collect::<Vec<_>>().join("\n") + "\n")?;
    let found = check(&bad, "")?;
    assert!(
        found.len() == 1
            && found[0].starts_with("\"FAB-002\" \"fail\"")
            && found[0].contains("node02 mlx5_0 port 1\",\"leaf1 port 2"),
        "{found:?}"
    );
    Ok(())
}

#[test]
fn what_cannot_be_read_is_said() -> Result {
    let run = |args: &[&str]| -> Result<(i32, String)> {
        let out = Command::new(env!("CARGO_BIN_EXE_gonogo"))
            .args(["discover", "fabric"])
            .args(args)
            .env("PATH", "/nowhere")
            .output()?;
        Ok((out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned()))
    };
    let (code, err) = run(&[])?;
    assert!(code == 3 && err.contains("ibnetdiscover: not installed (apt: infiniband-diags)"), "{code} {err}");
    let (code, err) = run(&["--from", "/nowhere/at/all"])?;
    assert!(code == 3 && err.contains("cannot read /nowhere/at/all"), "{code} {err}");
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("x");
    std::fs::write(&file, "hello\n")?;
    let (code, err) = run(&["--from", &file.to_string_lossy()])?;
    assert!(code == 3 && err.contains("no output of ibnetdiscover"), "{code} {err}");
    std::fs::write(&file, "sminfo: sm lid 1 sm guid 0x1, activity count 86 priority 0 state 3 SMINFO_MASTER\n")?;
    let (code, err) = run(&["--from", &file.to_string_lossy(), "--expect", &file.to_string_lossy()])?;
    assert!(code == 3 && err.contains("not ibnetdiscover's output"), "{code} {err}");
    Ok(())
}
