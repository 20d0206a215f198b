//! The main command as it is typed: a whole check of this machine within its time, what is kept of it, and the gate.

mod run;

use std::time::{Duration, Instant};

use run::{Dir, Result};

#[test]
fn a_whole_check_measures_records_reports_and_gates() -> Result {
    let dir = Dir::new()?;
    let started = Instant::now();
    let check = dir.run(&["check", "--path", ".", "--quiet"])?;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(22), "the quick tier took {took:?}");
    assert!([0, 1, 2].contains(&check.code), "{}\n{}", check.code, check.err);
    let word = check.out.split_whitespace().next().unwrap_or("").to_owned();
    assert_eq!(word, ["GO", "NO-GO", "HOLD"][check.code as usize]);
    // 40 cases of every host; of RDMA, the fabric, copies, the checkpoint and the rehearsal one each that says why there is none, or those of
    // the devices.
    let adapters = std::fs::read_dir("/sys/class/infiniband").map_or(0, Iterator::count);
    let planned = |n: u64| if adapters == 0 { n == 45 } else { n >= 42 };
    for part in ["gemm", "memory", "tcp", "collective", "storage", "coverage  ", "time      ", "next      gonogo "] {
        assert!(check.out.contains(part), "{part} is not in\n{}", check.out);
    }
    assert_eq!(check.out.contains("no RDMA device in /sys/class/infiniband"), adapters == 0, "{}", check.out);
    assert!(!check.out.contains("has no step in the record"), "{}", check.out);
    let left: Vec<_> = std::fs::read_dir(dir.path("."))?.flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["gonogo-out"]);
    // No answer of this machine may be wrong, whatever its speed.
    for code in ["GEM-00", "MEM-00", "NET-00", "COL-00", "STO-00", "RUN-00", "VAL-001"] {
        assert!(!check.out.contains(code), "{}", check.out);
    }
    // Judged again offline: the same report, the same code.
    let judged = dir.run(&["judge", "gonogo-out/latest"])?;
    assert_eq!(judged.code, check.code);
    let findings = |text: &str| text.split("coverage").next().unwrap_or("").to_owned();
    assert_eq!(findings(&judged.out), findings(&check.out));
    let json: serde_json::Value =
        serde_json::from_str(&dir.run(&["report", "gonogo-out/latest", "--format", "json"])?.out)?;
    assert_eq!(json["exit_code"], check.code);
    assert!(json["coverage"]["planned"].as_u64().is_some_and(planned), "{}", json["coverage"]);
    // Whoever takes this machine's cores meanwhile takes cases, never what is told of those that were measured.
    let cases = |how: &str| json["coverage"][how].as_u64().unwrap_or_default();
    let metrics = json["metrics"].as_array().map_or(0, Vec::len) as u64;
    let least = if cases("cut_for_time") == 0 { 51 } else { cases("measured") };
    assert!(metrics >= least && cases("measured") > 10, "{metrics} {}", json["coverage"]);
    Ok(())
}
