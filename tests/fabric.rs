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

/// What `discover fabric` says of saved captures: the exit code, and `CODE severity subject: evidence` of every finding.
fn saved(args: &[&str]) -> Result<(i32, Vec<String>)> {
    let out = Command::new(env!("CARGO_BIN_EXE_gonogo"))
        .args(["discover", "fabric", "--format", "json"])
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fabric"))
        .output()?;
    let report: serde_json::Value = serde_json::from_slice(&out.stdout)
        .map_err(|e| format!("{args:?}: {e}: {}", String::from_utf8_lossy(&out.stderr)))?;
    let word = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let show = |f: &serde_json::Value| {
        let ends: Vec<String> = f["subject"]["cable"].as_array().into_iter().flatten().map(word).collect();
        format!("{} {} {}: {}", word(&f["code"]), word(&f["severity"]), ends.join(" - "), word(&f["evidence"]))
    };
    Ok((out.status.code().unwrap_or(-1), report["findings"].as_array().into_iter().flatten().map(show).collect()))
}

#[test]
fn a_ports_report_is_a_topology() -> Result {
    let lane = "FAB-001 fail node03 HCA-1 port 1 - leaf0 port 3: it runs at 1xFDR";
    let open = "FAB-003 warn node05 HCA-1 port 2 - nothing: no cable, or nothing at its other end";
    let report = "ports.ibnetdiscover";
    assert_eq!(saved(&["--from", report])?, (1, vec![lane.into(), open.into()]));
    // It can be what is expected, and be held against what is.
    assert_eq!(saved(&["--from", report, "--expect", report])?, (0, vec![open.into()]));
    let dir = tempfile::tempdir()?;
    let text =
        std::fs::read_to_string(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fabric")).join(report))?;
    let cut = dir.path().join("cut");
    std::fs::write(
        &cut,
        text.replace("CA    28  1 0x0002c90300a10021 4x FDR - SW", "CA    28  1 0x0002c90300a10021 SW"),
    )?;
    let (_, found) = saved(&["--from", &cut.to_string_lossy(), "--expect", report])?;
    assert!(found.iter().any(|f| f.starts_with("FAB-015") && f.contains("cut:23: CA    28  1")), "{found:?}");
    Ok(())
}

#[test]
fn counters_of_any_query_are_told_by_lid() -> Result {
    // Of LID 23, the extended counter counts on where the old one stops, and the details stand beside it.
    let wire = "SymbolErrorCounter 65535, LinkDownedCounter 255, PortRcvErrors 4294967301, PortLocalPhysicalErrors 65535 (at its end), since the counters were last cleared";
    let file = "extended.perfquery";
    let unnamed = [
        format!("FAB-005 warn LID 23 port 1 - unknown: LID 23 port 1: {wire}"),
        "FAB-005 warn LID 700 port 2 - unknown: LID 700 port 2: SymbolErrorCounter 12, since the counters were last cleared".to_owned(),
    ];
    assert_eq!(saved(&["--from", file])?, (0, unnamed.to_vec()));
    let (_, found) = saved(&["--from", file, "--from", "ports.ibnetdiscover"])?;
    let named = format!("FAB-005 warn node03 HCA-1 port 1 - leaf0 port 3: node03 HCA-1 port 1: {wire}");
    assert!(found.contains(&named), "{found:?}");
    // Nothing moved; what cannot move any more is said.
    let (code, found) = saved(&["--from", file, "--since", file])?;
    assert!(code == 0 && found.len() == 1 && found[0].contains("PortLocalPhysicalErrors 65535"), "{found:?}");
    Ok(())
}

#[test]
fn the_adapters_of_nodes_are_read() -> Result {
    let port = |n: u32| format!("node.ibstat: mlx5_{n} port 1 - unknown");
    let (code, found) = saved(&["--from", "node.ibstat"])?;
    let expected = [
        format!("FAB-003 fail {}: Initializing / LinkUp", port(4)),
        format!("FAB-002 warn {}: its rate is 200 Gb/s", port(1)),
        format!("FAB-003 warn {}: Down / Polling: no cable, or nothing at its other end", port(3)),
    ];
    assert_eq!((code, found), (1, expected.to_vec()));
    // On five nodes, the one that is slower and the one that is Ethernet where the others are not.
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fabric/node.ibstat"))?;
    let first = text.split("CA 'mlx5_1'").next().unwrap_or_default();
    let dir = tempfile::tempdir()?;
    for n in 0..10 {
        let text = match n {
            3 => first.replace("Rate: 400", "Rate: 200"),
            4 => first.replace("InfiniBand", "Ethernet"),
            _ => first.to_owned(),
        };
        std::fs::write(dir.path().join(format!("n{n}.ibstat")), text)?;
    }
    let (code, found) = saved(&["--from", &dir.path().to_string_lossy()])?;
    let seen: Vec<String> = found.iter().map(|f| f.replace(&*dir.path().to_string_lossy(), "")).collect();
    let expected = [
        "FAB-002 fail /n3.ibstat: mlx5_0 port 1 - unknown: its rate is 200 Gb/s",
        "FAB-017 warn /n4.ibstat: mlx5_0 port 1 - unknown: mlx5_0 port 1 is Ethernet",
    ];
    assert_eq!((code, seen), (1, expected.map(str::to_owned).to_vec()));
    let bad = dir.path().join("bad");
    std::fs::write(&bad, first.replace("Rate: 400", "Rate: fast"))?;
    let (_, found) = saved(&["--from", &bad.to_string_lossy()])?;
    assert!(found.len() == 1 && found[0].contains("bad:11: Rate: fast"), "{found:?}");
    Ok(())
}

/// `check --topology FILE` on rank 0 of two, whose other rank never comes: the leaves that the record names, or why not.
fn leaves(dir: &Path, file: &Path) -> Result<std::result::Result<Vec<String>, String>> {
    let out = Command::new(env!("CARGO_BIN_EXE_gonogo"))
        .args(["check", "--rank", "0", "--nodes", "2", "--join-timeout", "1s", "--only", "environment", "--quiet"])
        .args(["--rendezvous", "file:meeting", "--out", "record", "--topology"])
        .arg(file)
        .env("GONOGO_TOKEN", "0f1e5a3c9b7d2846e1c0a9f83b6d5247")
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()?;
    if out.status.code() == Some(3) {
        return Ok(Err(String::from_utf8_lossy(&out.stderr).trim().to_owned()));
    }
    let record = std::fs::read_to_string(dir.join("record/record.jsonl"))
        .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&out.stderr)))?;
    let header: serde_json::Value = serde_json::from_str(record.lines().next().unwrap_or_default())?;
    let show = |leaf: &serde_json::Value| {
        let nodes: Vec<&str> = leaf["nodes"].as_array().into_iter().flatten().filter_map(|n| n.as_str()).collect();
        format!("{}: {}", leaf["name"].as_str().unwrap_or("?"), nodes.join(" "))
    };
    Ok(Ok(header["header"]["leaves"].as_array().into_iter().flatten().map(show).collect()))
}

#[test]
fn every_kind_of_topology_file_gives_its_leaves() -> Result {
    let fixtures = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"));
    let halves = |a: &str, b: &str| {
        vec![format!("{a}: node01 node02 node03 node04"), format!("{b}: node05 node06 node07 node08")]
    };
    for (file, expected) in [
        (
            "topology/topology.conf",
            ["leaf0: node01 node02 node03", "leaf1: node04 node05", "leaf2: node06"].map(str::to_owned).to_vec(),
        ),
        ("topology/block.conf", halves("block1", "block2")),
        ("topology/topology.yaml", halves("leaf0", "leaf1")),
        ("fabric/ports.ibnetdiscover", halves("leaf0", "leaf1")),
    ] {
        let dir = tempfile::tempdir()?;
        assert_eq!(leaves(dir.path(), &fixtures.join(file))?, Ok(expected), "{file}");
    }
    Ok(())
}

#[test]
fn a_topology_file_that_cannot_be_used_is_said_with_its_line() -> Result {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("rows"), "SwitchName=a Nodes=n1\nSwitchName=b Node=n2\n")?;
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("away"))?;
    let file = dir.path().join("t");
    for (text, says) in [
        ("SwitchName=a Nodes=n1\nInclude none\n", "t:2: Include none: No such file"),
        ("\nInclude rows\n", "rows:2: `node` is no key of this line"),
        ("Include /etc/passwd\n", "t:1: Include /etc/passwd: it lies outside the folder"),
        ("Include away\n", "leads out of its folder"),
        ("Include t\n", "does it include itself?"),
        ("BlockName=b Nodes=n[1-\n", "t:1: `n[1-` is not a list of hosts"),
        ("SwitchName=a Nodes=n1 \\", "t:1: the last line ends with"),
        ("- topology: a\n  flat: true\n", "t:1: topology a, the cluster's default, is flat"),
        (
            "- topology: a\n  tree:\n    switches:\n    - switch: s\n      hosts: n1\n",
            "t:5: `hosts` is no key of a switch",
        ),
        ("- topology: a\n  tree: [\n", "t:3: "),
        ("- topology: &a a\n", "t:1: an anchor"),
    ] {
        std::fs::write(&file, text)?;
        let said = leaves(dir.path(), &file)?;
        assert!(said.as_ref().is_err_and(|e| e.contains(says)), "{text}: {said:?}");
    }
    Ok(())
}
