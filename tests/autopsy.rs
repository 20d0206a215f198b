//! `gonogo autopsy`, as it is typed: on failures that were made (tests/labs/failures) and on those that others met and settled in public
//! (tests/fixtures/failures), on what is hostile, and on what is not there.

mod run;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use run::{Dir, Result};
use serde_json::Value;

const FAILURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/failures");

/// The report of an autopsy, and its exit code.
fn autopsy(dir: &Dir, args: &[&str]) -> Result<(Value, i32)> {
    let done = dir.run(&[&["autopsy", "--quiet", "--format", "json"], args].concat())?;
    let report = serde_json::from_str(&done.out).map_err(|e| format!("{e}: {} {}", done.out, done.err))?;
    Ok((report, done.code))
}

/// `CODE node` of what weighs, and of a run that was ended from outside.
fn found(report: &Value) -> Vec<String> {
    let all = report["findings"].as_array().cloned().unwrap_or_default();
    let weighs =
        |f: &&Value| ["fail", "hold"].contains(&f["severity"].as_str().unwrap_or("")) || f["code"] == "MOR-008";
    let on =
        |f: &Value| f["subject"]["node"].as_str().or_else(|| f["subject"]["gpu"][0].as_str()).unwrap_or("-").to_owned();
    all.iter().filter(weighs).map(|f| format!("{} {}", f["code"].as_str().unwrap_or("?"), on(f))).collect()
}

fn excluded(report: &Value) -> Vec<String> {
    let nodes = report["placement"]["exclude"].as_array().cloned().unwrap_or_default();
    nodes.iter().filter_map(|n| Some(n.as_str()?.to_owned())).collect()
}

fn truth(folder: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(format!("{FAILURES}/{folder}/truth.jsonl"))?;
    Ok(text.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?)
}

/// What was done to a real trainer is named, and nobody else is.
#[test]
fn failures_that_were_made_are_named() -> Result {
    let dir = Dir::new()?;
    let before = format!("{FAILURES}/lab/before.jsonl");
    let (mut exact, mut accused, mut wrong) = (0, 0, Vec::new());
    let all = truth("lab")?;
    for case in &all {
        let (fault, node) = (case["fault"].as_str().unwrap_or(""), case["node"].as_str().unwrap_or(""));
        let log = format!("{FAILURES}/lab/{}", case["log"].as_str().unwrap_or(""));
        let (report, _) = autopsy(&dir, &["--before", &before, "--log", &log])?;
        // What it may be called, and whether the node is to be left out.
        let (codes, on): (&[&str], Option<bool>) = match fault {
            "kill" => (&["MOR-009", "MOR-015"], Some(true)),
            "stop" | "exit" => (&["MOR-010", "MOR-015"], Some(true)),
            "link-down" => (&["MOR-002", "MOR-003", "MOR-010", "MOR-015"], Some(true)),
            "exception" | "assertion" | "crash" | "abort" => (&["MOR-007"], Some(false)),
            "shape" => (&["MOR-011"], Some(false)),
            "memory" => (&["MOR-005"], Some(true)),
            "full-disk" => (&["MOR-004"], Some(false)),
            "read-only" => (&["MOR-004"], None),
            "cancel" => (&["MOR-008"], Some(false)),
            other => return Err(format!("{other} is no fault").into()),
        };
        let (found, excluded) = (found(&report), excluded(&report));
        accused += usize::from(excluded.iter().any(|n| n != node));
        let named = found.iter().any(|f| codes.iter().any(|c| f.starts_with(c)));
        if named && on.is_none_or(|on| excluded.contains(&node.to_owned()) == on) {
            exact += 1;
        } else {
            wrong.push(format!("{fault} on {node}: {found:?}, without {excluded:?}"));
        }
    }
    assert!(
        all.len() >= 20 && exact * 100 >= all.len() * 95 && accused * 100 <= all.len(),
        "{exact} of {}, {accused} accused: {wrong:#?}",
        all.len()
    );
    Ok(())
}

/// What a reader of the log alone can tell, as the public thread settled it.
#[test]
fn failures_that_others_met_are_classified() -> Result {
    let dir = Dir::new()?;
    let (mut right, mut all, mut wrong) = (0, 0, Vec::new());
    for case in truth("public")? {
        if case["evidence_in_log"] == false {
            continue;
        }
        let log = format!("{FAILURES}/public/{}", case["file"].as_str().unwrap_or(""));
        let (report, _) = autopsy(&dir, &["--log", &log])?;
        let codes: &[&str] = match case["class"].as_str().unwrap_or("") {
            "gpu" => &["MOR-001"],
            "node" => &["MOR-002"],
            "link" => &["MOR-003", "MOR-015"],
            "storage" => &["MOR-004"],
            "host_memory" => &["MOR-005"],
            "gpu_memory" => &["MOR-006"],
            "program" => &["MOR-007"],
            "outside" => &["MOR-008"],
            "killed" => &["MOR-009"],
            "absent" => &["MOR-010"],
            "disagreement" => &["MOR-011"],
            "setup" => &["MOR-012", "MOR-020"],
            _ => &["MOR-013", "MOR-014", "MOR-015", "MOR-010"],
        };
        all += 1;
        let found = found(&report);
        if found.first().is_some_and(|f| codes.iter().any(|c| f.starts_with(c))) {
            right += 1;
        } else {
            wrong.push(format!("{}: {found:?} for {} ({})", case["file"], case["class"], case["why"]));
        }
    }
    assert!(all >= 20 && right * 100 >= all * 85, "{right} of {all}: {wrong:#?}");
    Ok(())
}

/// What PyTorch's recorder dumps of four ranks, of which one did not come to the last collective.
fn dumps(dir: &Dir, late: u64) -> Result<PathBuf> {
    let dumps = dir.path("dumps");
    fs::create_dir(&dumps)?;
    for rank in 0..4u64 {
        let called = if rank == late { 6 } else { 7 };
        let entry = |seq: u64| {
            let state = if seq <= 6 { "completed" } else { "started" };
            serde_json::json!({"process_group": ["0", "default_pg"], "collective_seq_id": seq, "state": state,
                "profiling_name": "nccl:all_reduce", "input_sizes": [[64]], "input_dtypes": ["Float"], "is_p2p": false})
        };
        let dump = serde_json::json!({"version": "2.10", "entries": (1..=called).map(entry).collect::<Vec<_>>(),
            "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2, 3]"}}});
        fs::write(dumps.join(format!("nccl_trace_rank_{rank}")), dump.to_string())?;
    }
    Ok(dumps)
}

/// Dumps of PyTorch's recorder: who did not come; a pickle that wants to run something is not run.
#[test]
fn the_recorder_names_who_did_not_come() -> Result {
    let dir = Dir::new()?;
    let dumps = dumps(&dir, 2)?;
    fs::write(dumps.join("nccl_trace_rank_9"), b"\x80\x02cposix\nsystem\n(X\x05\0\0\0touchtR.")?;
    let (report, code) = autopsy(&dir, &["--recorder", "dumps"])?;
    let text = report["findings"].to_string();
    assert!(found(&report).contains(&"MOR-010 -".to_owned()) && text.contains("rank 2 did not come"), "{text}");
    assert!(text.contains("MOR-016") && text.contains("is not run"), "{text}");
    assert_eq!(code, 2);
    // Real dumps, as PyTorch 2.11 wrote them, as pickle and as JSON: all had ended well.
    for real in ["recorder_0.pickle", "recorder_0.json"] {
        let (report, _) = autopsy(&dir, &["--recorder", &format!("{FAILURES}/recorder/{real}")])?;
        assert_eq!(found(&report), ["MOR-014 -"], "{real}");
        assert!(!report["findings"].to_string().contains("MOR-016"), "{real}: {}", report["findings"]);
    }
    // One that was taken in the middle of a collective.
    let (report, _) = autopsy(&dir, &["--recorder", &format!("{FAILURES}/recorder/recorder_0_busy.pickle")])?;
    assert_eq!(found(&report), ["MOR-013 -"]);
    Ok(())
}

/// Whoever did not come is told by its GPU, by the adapter nearest to that, and by where its cable ends, as the check before saw them.
#[test]
fn the_late_rank_is_told_by_its_gpu_and_its_cable() -> Result {
    let dir = Dir::new()?;
    let own = ["0000:00:01.0", "0000:10:00.0"];
    let device =
        |name: &str, bridges: &[&str]| serde_json::json!({"name": name, "pcie": {"bridges": bridges}, "ports": []});
    let mut before = String::new();
    for line in fs::read_to_string(format!("{FAILURES}/lab/before.jsonl"))?.lines() {
        let mut line: Value = serde_json::from_str(line)?;
        if line["header"].is_object() {
            line["header"]["plan"]["run"]["nodes"] = serde_json::json!({"needed": 3, "gpus_per_node": 1});
        }
        let of_node3 = line["outcome"]["node"] == "node3" && line["outcome"]["case"] == "machine";
        if of_node3 {
            let machine = &mut line["outcome"]["outcome"]["measured"]["facts"]["machine"];
            machine["nvidia"] = serde_json::json!({"gpus": [{"index": 0, "uuid": "GPU-5fc3", "pci": "0000:1b:00.0"}]});
            machine["gpus"] = serde_json::json!([{"pci": "0000:1b:00.0", "pcie": {"bridges": own}}]);
            machine["infiniband"] = serde_json::json!([device("mlx5_0", &own), device("mlx5_1", &["0000:00:02.0"])]);
        }
        before += &format!("{line}\n");
        if of_node3 {
            let text = "Switch\t40 \"S-0000000000000001\"\t\t# \"leaf07\" enhanced port 0 lid 1 lmc 0\n\
                        [12]\t\"H-0000000000000002\"[1](2) \t\t# \"node3 mlx5_0\" lid 2 4xNDR\n\n\
                        Ca\t1 \"H-0000000000000002\"\t\t# \"node3 mlx5_0\"\n\
                        [1](3) \t\"S-0000000000000001\"[12]\t\t# lid 2 lmc 0 \"leaf07\" lid 1 4xNDR\n";
            let facts = serde_json::json!({"fabric": {"tool": "ibnetdiscover", "text": text}});
            let read = serde_json::json!({"outcome": {"node": "node1", "step": "fabric-before", "probe": "fabric",
                "case": "ibnetdiscover before", "attempt": 1,
                "outcome": {"measured": {"series": [], "checks": [], "facts": facts}}}});
            before += &format!("{read}\n");
        }
    }
    fs::write(dir.path("before.jsonl"), before)?;
    dumps(&dir, 2)?;
    let (report, _) = autopsy(&dir, &["--recorder", "dumps", "--before", "before.jsonl"])?;
    let text = report["findings"].to_string();
    assert!(found(&report).contains(&"MOR-010 node3".to_owned()), "{text}");
    assert!(text.contains("GPU 0 is GPU-5fc3, at mlx5_0, whose cable ends at leaf07 port 12"), "{text}");
    Ok(())
}

/// What NCCL 2.31 finds out when it starts explains the collective that never ends; variables that differ explain nothing by themselves.
#[test]
fn nccls_own_diagnostics_name_the_node_whose_gpus_do_not_reach_each_other() -> Result {
    let dir = Dir::new()?;
    let member = |node: u32, pid: u32, rank: u32| {
        format!(
            "node{node}:{pid}:{pid} [0] NCCL INFO comm 0x55d0 rank {rank} nranks 16 cudaDev 0 nvmlDev 0 busId 1b000 commId 0x77 - Init START\n"
        )
    };
    let well =
        "NCCL DIAG [OK]   p2p: verified P2P access in both directions between every GPU pair (56 peer accesses)\n";
    let other = "NCCL DIAG [INFO] NCCL environment: NCCL_DEBUG=INFO on rank(s) {0,1,2,3}\n";
    let timeout = "[rank3]:[E1128 10:11:12.001002 ProcessGroupNCCL.cpp:616] [Rank 3] Watchdog caught collective operation timeout: \
                   WorkNCCL(SeqNum=1, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600021 milliseconds before timing out.\n";
    let start = member(41, 9921, 0) + &member(42, 9930, 8);
    let log = |of_42: &str| format!("{start}node41:9921 {well}node42:9930 {of_42}node42:9930 {other}{timeout}");
    fs::write(
        dir.path("bad.log"),
        log("NCCL DIAG [INFO] p2p: only 52/56 GPU-to-GPU peer accesses passed verification\n"),
    )?;
    let (report, code) = autopsy(&dir, &["--log", "bad.log"])?;
    assert_eq!((found(&report), code), (vec!["MOR-012 node42".to_owned()], 1));
    assert!(report.to_string().contains("only 52/56 GPU-to-GPU"), "{report}");
    fs::write(dir.path("good.log"), log(well))?;
    let (report, _) = autopsy(&dir, &["--log", "good.log"])?;
    assert!(!found(&report).iter().any(|f| f.starts_with("MOR-012")), "{:?}", found(&report));
    Ok(())
}

/// A host that writes local time beside a container that writes UTC: the times of their files say so, and the order is right.
#[test]
fn logs_of_two_zones_are_put_in_order() -> Result {
    let dir = Dir::new()?;
    let write = |name: &str, text: &str, written: &str| -> Result {
        fs::write(dir.path(name), text)?;
        let written: jiff::Timestamp = written.parse()?;
        let since = std::time::Duration::from_secs(written.as_second().unsigned_abs());
        let file = fs::File::options().append(true).open(dir.path(name))?;
        Ok(file.set_modified(std::time::SystemTime::UNIX_EPOCH + since)?)
    };
    fs::create_dir(dir.path("logs"))?;
    let failed = "2026-11-27 10:59:50 [rank1]: Traceback (most recent call last):\n\
                  2026-11-27 10:59:50 [rank1]: ValueError: a sample of the wrong length\n";
    write("logs/rank1.log", failed, "2026-11-27T09:59:51Z")?;
    let lost = "2026-11-27 10:00:00 [rank0]: RuntimeError: [pair.cc:553] Connection closed by peer [10.79.0.3]:4321\n";
    write("logs/rank0.log", lost, "2026-11-27T10:00:00Z")?;
    let (report, _) = autopsy(&dir, &["--log", "logs"])?;
    let text = report["findings"].to_string();
    assert!(found(&report).iter().any(|f| f.starts_with("MOR-007")), "{text}");
    assert!(text.contains("2026-11-27 09:59:50 UTC"), "{text}");
    let shown = dir.run(&["autopsy", "--quiet", "--log", "logs"])?.out;
    assert!(shown.contains("1 log taken for UTC+01:00"), "{shown}");
    // Copied, their times tell nothing: UTC is as good as any.
    write("logs/rank1.log", failed, "2026-11-27T17:12:21Z")?;
    write("logs/rank0.log", lost, "2026-11-27T17:12:21Z")?;
    let shown = dir.run(&["autopsy", "--quiet", "--log", "logs"])?.out;
    assert!(!shown.contains("UTC+") && shown.contains("10:59:50"), "{shown}");
    Ok(())
}

/// RAS is asked twice: what moves between the two is at work. What floods, lies or hangs is said.
#[test]
fn ras_is_asked_and_not_trusted() -> Result {
    let dir = Dir::new()?;
    let answer = |counts: [u64; 3]| {
        let ranks: Vec<Value> = (0..3)
            .map(|r| {
                serde_json::json!({"rank": r, "host": format!("10.0.0.{r}"), "pid": r, "nvml_dev": 0,
            "collective_counts": {"AllReduce": counts[r as usize]}})
            })
            .collect();
        format!(
            "OK\n{}\n",
            serde_json::json!({"communicators": [{"hash": "0xa", "size": 3, "ranks": ranks, "missing_ranks": []}]})
        )
    };
    for (answers, wanted) in [
        (vec![answer([7, 6, 7]), answer([7, 6, 7])], "MOR-010 10.0.0.1"),
        (vec![answer([7, 6, 7]), answer([9, 8, 9])], "MOR-014 -"),
        (vec![answer([7, 7, 7])], "MOR-014 -"),
        (vec!["HTTP/1.1 400 Bad Request\r\n\r\n".to_owned()], "MOR-014 -"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let server = std::thread::spawn(move || {
            for answer in answers {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let mut asked = [0u8; 64];
                let _ = stream.read(&mut asked);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let (report, _) = autopsy(&dir, &["--ras", &address])?;
        let _ = server.join();
        assert_eq!(found(&report), [wanted], "{}", report["findings"]);
    }
    // Answers of NCCL 2.28.9, for people and in JSON: one rank, at work.
    for saved in ["ras-verbose.txt", "ras-json.txt"] {
        let (report, _) = autopsy(&dir, &["--ras", &format!("{FAILURES}/ras/{saved}")])?;
        assert!(!report["findings"].to_string().contains("MOR-016"), "{saved}: {}", report["findings"]);
    }
    let (report, _) = autopsy(&dir, &["--ras", "127.0.0.1:1"])?;
    assert!(report["findings"].to_string().contains("MOR-016"), "{}", report["findings"]);
    Ok(())
}

/// Nothing that a log says drives the terminal, becomes markup, or shows a secret.
#[test]
fn a_hostile_log_does_nothing() -> Result {
    let dir = Dir::new()?;
    let log = "2026-11-27 10:00:00 [rank0]: ValueError: \x1b[2J<script>alert(1)</script> HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz0123 | # x\n\
               2026-11-27 10:00:01 [rank1]: RuntimeError: http://me:hunter2@proxy/ AKIAIOSFODNN7EXAMPLEKEY12\n";
    fs::write(dir.path("train.log"), log)?;
    let done = dir.run(&[
        "autopsy",
        "--quiet",
        "--log",
        "train.log",
        "--out",
        "kept",
        "--report",
        "a.html",
        "--report",
        "a.md",
        "--report",
        "a.json",
    ])?;
    assert_eq!(done.code, 1, "{}{}", done.out, done.err);
    let read = |name: &str| fs::read_to_string(dir.path(name));
    let all = [done.out, read("a.html")?, read("a.md")?, read("a.json")?, read("kept/record.jsonl")?];
    for text in &all {
        assert!(
            !text.contains('\x1b') && !text.contains("hunter2") && !text.contains("hf_abc") && !text.contains("AKIA"),
            "{text}"
        );
    }
    assert!(!all[1].contains("<script>alert"), "markup in the page");
    // What was found is kept, says the same again, and opens no gate.
    assert_eq!(dir.run(&["judge", "kept"])?.code, 1);
    let gate = dir.run(&["gate", "kept", "--", "true"])?;
    assert!(gate.code != 0 && gate.err.contains("not of a check"), "{}", gate.err);
    Ok(())
}

/// Logs that are cut, binary, empty, sparse or not there.
#[test]
fn logs_of_every_kind_end_in_an_answer() -> Result {
    let dir = Dir::new()?;
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path(name), bytes);
    write("empty.log", b"")?;
    write("binary.log", &(0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>())?;
    write("cut.log", b"[rank3]: CUDA out of mem")?;
    write("one-line.log", &[b'x'; 6_000_000])?;
    fs::File::create(dir.path("sparse.log"))?.set_len(100 << 30)?;
    for log in ["empty.log", "binary.log", "cut.log", "one-line.log"] {
        assert_eq!(found(&autopsy(&dir, &["--log", log])?.0), ["MOR-014 -"], "{log}");
    }
    let started = std::time::Instant::now();
    let (report, _) = autopsy(&dir, &["--log", "sparse.log"])?;
    assert!(report["findings"].to_string().contains("MOR-016"), "{}", report["findings"]);
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
    fs::create_dir(dir.path("folder"))?;
    for (args, said) in [
        (&["--log", "nowhere.log"][..], "nowhere.log"),
        (&["--log", "folder"], "no file in it"),
        (&["--log", "/dev/zero"], "neither a file nor a folder"),
        (&[], "--recorder"),
        (&["--log", "cut.log", "--before", "cut.log"], "cut.log"),
        (&["--log", "cut.log", "--after", "x"], "--before"),
    ] {
        let done = dir.run(&[&["autopsy", "--quiet"], args].concat())?;
        assert!(done.code == 3 && done.err.contains(said), "{args:?}: {} {}", done.code, done.err);
    }
    Ok(())
}

/// A line that is split at a block's end is read whole, and its number is right.
#[test]
fn a_line_deep_in_a_large_log_has_its_number() -> Result {
    let dir = Dir::new()?;
    let mut file = std::io::BufWriter::new(fs::File::create(dir.path("large.log"))?);
    for step in 1..=300_000 {
        if step == 222_222 {
            writeln!(
                file,
                "2026-11-27 10:00:00 node3 kernel: NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
            )?;
        } else {
            writeln!(file, "2026-11-27 09:59:00,000 INFO step {step} loss 2.31 lr 3e-4 tokens/s 12345.6")?;
        }
    }
    file.into_inner()?.sync_all()?;
    let (report, code) = autopsy(&dir, &["--log", "large.log"])?;
    assert_eq!((found(&report), code), (vec!["MOR-001 node3".to_owned()], 1));
    assert!(report["findings"].to_string().contains("large.log:222222,"), "{}", report["findings"]);
    Ok(())
}

/// A folder of logs by node: whose line it is, the path says.
#[test]
fn a_folder_of_logs_is_read_by_node() -> Result {
    let dir = Dir::new()?;
    let before = format!("{FAILURES}/lab/before.jsonl");
    for node in 1..=4 {
        let folder = dir.path(&format!("logs/node{node}"));
        fs::create_dir_all(&folder)?;
        let text = if node == 2 {
            "[Fri Nov 27 10:00:00 2026] Out of memory: Killed process 77 (python3) total-vm:1kB\n"
        } else {
            "2026-11-27 10:00:05 RuntimeError: [pair.cc:553] Connection closed by peer [10.79.0.3]:4321\n"
        };
        fs::write(folder.join("dmesg.txt"), text)?;
    }
    let (report, _) = autopsy(&dir, &["--before", &before, "--log", "logs"])?;
    assert_eq!(found(&report), ["MOR-005 node2"], "{}", report["findings"]);
    assert_eq!(excluded(&report), ["node2"]);
    assert!(Path::new(&before).exists());
    Ok(())
}

/// A check made afterwards: what it found and the one before did not, and a node that was started anew.
#[test]
fn what_changed_between_two_checks_is_told() -> Result {
    let dir = Dir::new()?;
    let before = fs::read_to_string(format!("{FAILURES}/lab/before.jsonl"))?;
    let mut after = String::new();
    for line in before.lines() {
        let mut line: Value = serde_json::from_str(line)?;
        if line["outcome"]["case"] == "machine" && line["outcome"]["node"] == "node2" {
            let machine = &mut line["outcome"]["outcome"]["measured"]["facts"]["machine"];
            machine["boot"] = "another".into();
            machine["limits"]["nofile"] = 64.into();
        }
        after += &format!("{line}\n");
    }
    fs::write(dir.path("after.jsonl"), after)?;
    fs::write(dir.path("train.log"), "nothing\n")?;
    let args = ["--log", "train.log", "--before", &format!("{FAILURES}/lab/before.jsonl"), "--after"];
    let changes = |after: &str| -> Result<Vec<String>> {
        let (report, _) = autopsy(&dir, &[&args[..], &[after]].concat())?;
        let all = report["findings"].as_array().cloned().unwrap_or_default();
        let told = all.iter().filter(|f| f["code"] == "MOR-017");
        Ok(told.map(|f| format!("{}: {}", f["subject"]["node"].as_str().unwrap_or("-"), f["evidence"])).collect())
    };
    assert_eq!(changes(&format!("{FAILURES}/lab/before.jsonl"))?, [""; 0]);
    let changed = changes("after.jsonl")?;
    assert!(changed.iter().all(|c| c.starts_with("node2: ")), "{changed:?}");
    for what in ["started anew", "ENV-002"] {
        assert!(changed.iter().any(|c| c.contains(what)), "{changed:?}");
    }
    Ok(())
}

/// The journal of a watch: what befell its node shortly before the others lost it is the cause; what went away again is not, what ends no
/// run is told, and lines of somebody else's making are counted.
#[test]
fn the_journal_of_a_watch_names_what_nobody_logged() -> Result {
    let dir = Dir::new()?;
    fs::create_dir(dir.path("watch"))?;
    let began = r#"{"at":"2026-11-27T09:00:00Z","event":"began","node":"node3","dir":"/ckpt","cold":null,"pid":7}"#;
    let finding = |at: &str, code: &str, text: &str| {
        format!(r#"{{"at":"2026-11-27T{at}Z","event":"finding","code":"{code}","severity":"fail","text":"{text}"}}"#)
    };
    let journal = [
        began.to_owned(),
        finding("09:10:00", "STO-050", "the next save does not fit"),
        r#"{"at":"2026-11-27T09:20:00Z","event":"cleared","code":"STO-050"}"#.to_owned(),
        finding("09:58:00", "GPU-007", "GPU 1: hardware thermal slowdown at this moment"),
        finding("09:59:30", "GPU-003", "GPU 2: 3 uncorrected ECC errors since the check"),
        finding("09:59:40", "XYZ-001", "what no gonogo says"),
        r#"{"at":"2026-11-27T10:00:00Z","event":"from a later version","more":[1,2]}"#.to_owned(),
        r#"{"at":"2026-11-27T10:0"#.to_owned(),
    ];
    fs::write(dir.path("watch/journal.jsonl"), journal.join("\n"))?;
    let lost = "2026-11-27 10:00:05 RuntimeError: [pair.cc:553] Connection closed by peer [10.79.0.3]:4321\n";
    fs::write(dir.path("train.log"), lost)?;
    let (report, code) = autopsy(&dir, &["--log", "train.log", "--watch", "watch"])?;
    assert_eq!(found(&report), ["MOR-001 node3"], "{}", report["findings"]);
    assert_eq!((excluded(&report), code), (vec!["node3".to_owned()], 1), "{}", report["findings"]);
    let all = report["findings"].to_string();
    for told in ["journal.jsonl:5", "thermal slowdown", "2 of its lines are no watch's"] {
        assert!(all.contains(told), "{told}: {all}");
    }
    // A part that failed an hour before is none of the cause.
    fs::write(dir.path("train.log"), lost.replace("10:00:05", "11:00:05"))?;
    let (report, _) = autopsy(&dir, &["--log", "train.log", "--watch", "watch/journal.jsonl"])?;
    assert!(!found(&report).iter().any(|f| f.starts_with("MOR-001")), "{}", report["findings"]);
    let missing = dir.run(&["autopsy", "--watch", "nowhere"])?;
    assert!(missing.code == 3 && missing.err.contains("nowhere"), "{} {}", missing.code, missing.err);
    Ok(())
}

/// Slurm is asked by its tools, and by the controller's memory where there is no accounting; a tool that hangs or is not there is said.
#[test]
fn slurm_says_how_a_job_ended() -> Result {
    let dir = Dir::new()?;
    let tool = |name: &str, script: &str| -> Result {
        let path = dir.path(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(())
    };
    let asked = || -> Result<(Vec<String>, i32, String)> {
        let path = format!("{}:/usr/bin:/bin", dir.path("").display());
        let args = ["autopsy", "--quiet", "--format", "json", "--slurm", "4711"];
        let done = run::done(dir.command(&args).env("PATH", path).output()?);
        let report: Value = serde_json::from_str(&done.out)?;
        Ok((found(&report), done.code, report["findings"].to_string()))
    };
    tool("sacct", "echo '4711|NODE_FAIL|0:0|2026-11-27T10:00:00|node3|node[1-8]'")?;
    assert_eq!(asked()?.0, ["MOR-002 node3"]);
    tool("sacct", "echo '4711|NODE_FAIL|0:0|2026-11-27T10:00:00||node[1-8]'")?;
    assert_eq!(asked()?.0, ["MOR-002 -"]);
    tool("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")?;
    tool(
        "scontrol",
        "echo 'JobId=4711 JobName=x JobState=TIMEOUT ExitCode=0:15 EndTime=2026-11-27T10:00:00 NodeList=node[1-8]'",
    )?;
    let (codes, code, _) = asked()?;
    assert_eq!((codes, code), (vec!["MOR-008 -".to_owned()], 0));
    tool("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")?;
    let (codes, _, text) = asked()?;
    assert!(codes == ["MOR-014 -"] && text.contains("Invalid job id") && text.contains("accounting"), "{text}");
    Ok(())
}
