//! The GPU probes without a GPU: a driver and libraries that stand in (tests/labs/fake-gpu) show that calls are as the headers have
//! them, and what gonogo does when a GPU fails. Nothing is measured here: figures of a stand-in mean nothing.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The stand-in's folder for LD_LIBRARY_PATH; `None` without a C compiler.
fn libraries() -> Result<Option<tempfile::TempDir>> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/labs/fake-gpu/cuda.c");
    let dir = tempfile::tempdir()?;
    let one = dir.path().join("libcuda.so.1");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-w", "-o"]).arg(&one).arg(source).status();
    if !compiled.is_ok_and(|s| s.success()) {
        return Ok(None);
    }
    for name in ["libcublasLt.so.12", "libnvidia-ml.so.1"] {
        // Links, not copies: the loader then opens the same library, with one state.
        std::os::unix::fs::symlink(&one, dir.path().join(name))?;
    }
    Ok(Some(dir))
}

struct Run {
    code: i32,
    report: serde_json::Value,
}

impl Run {
    fn findings(&self, severities: &[&str]) -> Vec<String> {
        let all = self.report["findings"].as_array().cloned().unwrap_or_default();
        let heavy = |f: &&serde_json::Value| f["severity"].as_str().is_some_and(|s| severities.contains(&s));
        let code = |f: &serde_json::Value| format!("{} {}", f["code"].as_str().unwrap_or("?"), f["evidence"]);
        all.iter().filter(heavy).map(code).collect()
    }

    fn cases(&self) -> Vec<String> {
        let all = self.report["metrics"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|m| m["case"].as_str().map(str::to_owned)).collect()
    }
}

fn check(libraries: &std::path::Path, only: &str, environment: &[(&str, &str)]) -> Result<Run> {
    let dir = tempfile::tempdir()?;
    let out: PathBuf = dir.path().join("record");
    let run = Command::new(env!("CARGO_BIN_EXE_gonogo"))
        .args(["check", "--alone", "--quiet", "--format", "json", "--budget", "100s", "--only", only, "--out"])
        .arg(&out)
        .env("LD_LIBRARY_PATH", libraries)
        .env_remove("CUDA_VISIBLE_DEVICES")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()?;
    let report =
        serde_json::from_slice(&run.stdout).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&run.stderr)))?;
    Ok(Run { code: run.status.code().unwrap_or(-1), report })
}

/// One after the other: each run works through gigabytes.
#[test]
fn gpus_that_are_well_and_gpus_that_fail() -> Result {
    let Some(dir) = libraries()? else {
        eprintln!("skipped: no C compiler (cc) for the stand-in");
        return Ok(());
    };
    let lib = dir.path();

    let well = check(lib, "environment,gemm,memory,copy", &[])?;
    assert_eq!((well.code, well.findings(&["fail", "hold"])), (0, vec![]));
    for case in [
        "bf16 8192 burst gpu0",
        "bf16 8192 sustained gpu1",
        "fp8 8192 burst gpu1",
        "f64 4096 burst gpu0",
        "device triad gpu1",
        "driver copy gpu0",
        "h2d alone gpu1",
        "both ways gpu0",
        "peer gpu1",
    ] {
        assert!(well.cases().iter().any(|c| c == case), "no {case} in {:?}", well.cases());
    }

    // Of three, one computes other bits: that one, and no other.
    let bits = check(lib, "environment,gemm", &[("FAKE_GPUS", "3"), ("FAKE_FAULT", "bits")])?;
    let named = bits.findings(&["fail"]);
    assert!(bits.code == 1 && !named.is_empty(), "{named:?}");
    assert!(named.iter().all(|f| f.starts_with("GEM-003") && f.contains("gpu1`")), "{named:?}");

    // A copy that loses a word.
    let wrong = check(lib, "environment,copy", &[("FAKE_FAULT", "wrong")])?;
    let named = wrong.findings(&["fail"]);
    assert!(wrong.code == 1 && named.iter().all(|f| f.starts_with("CPY-001") && f.contains("gpu1`")), "{named:?}");

    // Errors of the driver say what they are and what to do, and nothing hangs.
    for (fault, said) in [
        ("oom", "out of memory (CUDA_ERROR_OUT_OF_MEMORY, 2); something else fills this GPU's memory"),
        ("exclusive", "another process holds this GPU alone"),
        ("lost", "the GPU may have fallen off the bus"),
    ] {
        let run = check(lib, "environment,gemm", &[("FAKE_FAULT", fault)])?;
        let named = run.findings(&["fail", "hold"]);
        assert!((1..=2).contains(&run.code) && named.iter().any(|f| f.contains(said)), "{fault}: {named:?}");
    }

    // A driver that never answers ends with its step's deadline, and the rest of the check goes on.
    let started = Instant::now();
    let hang = check(lib, "environment,copy,gemm", &[("FAKE_FAULT", "hang"), ("FAKE_GPUS", "1")])?;
    let named = hang.findings(&["hold", "fail"]);
    assert!(named.iter().any(|f| f.starts_with("RUN-002")), "{named:?}");
    assert!(hang.cases().iter().any(|c| c == "f64 1 core"), "{:?}", hang.cases());
    assert!(started.elapsed() < Duration::from_secs(100), "{:?}", started.elapsed());

    // CUDA shows fewer than the driver has: told, with the variable's name.
    let hidden = check(lib, "environment,memory", &[("FAKE_GPUS", "0")])?;
    assert!(!hidden.cases().iter().any(|c| c.contains("gpu")), "{:?}", hidden.cases());
    Ok(())
}
