//! The GPU probes without a GPU: a driver and libraries that stand in (tests/labs/fake-gpu) show that calls are as the headers have
//! them, and what gonogo does when a GPU fails. Nothing is measured here: figures of a stand-in mean nothing.

mod port;
mod skip;

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
    for name in ["libcublasLt.so.12", "libnvidia-ml.so.1", "libnccl.so.2"] {
        // Links, not copies: the loader then opens the same library, with one state.
        std::os::unix::fs::symlink(&one, dir.path().join(name))?;
    }
    Ok(Some(dir))
}

/// The stand-in itself: what it copies and counts is right, what is not waited for has not come, and ranks meet.
#[test]
fn the_stand_in_does_what_its_guide_says() -> Result {
    let Some(dir) = libraries()? else {
        skip::skip(true, "no C compiler (cc) for the stand-in");
        return Ok(());
    };
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/labs/fake-gpu/selftest.c");
    let program = dir.path().join("selftest");
    let library = dir.path().join("libcuda.so.1");
    let compiled = Command::new("cc").args(["-w", "-o"]).arg(&program).arg(source).arg(library).status()?;
    assert!(compiled.success());
    let run = Command::new(program).env("LD_LIBRARY_PATH", dir.path()).env_remove("CUDA_VISIBLE_DEVICES").output()?;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Ok(())
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

    /// What weighs and names a GPU or NCCL. What the host's own cores do is for other tests: this machine may be busy.
    fn of_gpus(&self) -> Vec<String> {
        let held = self.findings(&["fail", "hold"]);
        assert!(self.code == 0 || !held.is_empty(), "{}", self.code);
        held.into_iter().filter(|f| ["gpu", "GPU", "nccl", "NCCL"].iter().any(|word| f.contains(word))).collect()
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
        skip::skip(true, "no C compiler (cc) for the stand-in");
        return Ok(());
    };
    let lib = dir.path();

    let well = check(lib, "environment,gemm,memory,copy", &[])?;
    assert_eq!(well.of_gpus(), [""; 0]);
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
    assert!(named.iter().any(|f| f.contains("GPU 0 (") && f.contains("it hangs")), "{named:?}");
    assert!(hang.cases().iter().any(|c| c == "f64 1 core"), "{:?}", hang.cases());
    assert!(started.elapsed() < Duration::from_secs(100), "{:?}", started.elapsed());

    // CUDA shows fewer than the driver has: told, with the variable's name.
    let hidden = check(lib, "environment,memory", &[("FAKE_GPUS", "0")])?;
    assert!(!hidden.cases().iter().any(|c| c.contains("gpu")), "{:?}", hidden.cases());
    Ok(())
}

const LOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/nccl/two-nodes.log");

/// NCCL among processes, each with a GPU of the stand-in: what is right is right, and who hangs, dies or lies is named in time.
#[test]
fn nccl_that_is_well_and_nccl_that_fails() -> Result {
    let Some(dir) = libraries()? else {
        skip::skip(true, "no C compiler (cc) for the stand-in");
        return Ok(());
    };
    let lib = dir.path();
    let only = "environment,collective";

    let well = check(lib, only, &[("FAKE_GPUS", "3"), ("FAKE_NCCL_LOG", LOG)])?;
    assert_eq!(well.of_gpus(), [""; 0]);
    for case in ["start nccl node n=3", "all-reduce nccl node n=3 8 B", "all-reduce nccl node n=3 1 MiB"] {
        assert!(well.cases().iter().any(|c| c == case), "no {case} in {:?}", well.cases());
    }
    let warned = well.findings(&["warn"]);
    for code in ["NCL-002", "NCL-011"] {
        assert!(warned.iter().any(|f| f.starts_with(code)), "{code}: {warned:?}");
    }

    let wrong = check(lib, only, &[("FAKE_FAULT", "nccl-wrong")])?;
    let named = wrong.findings(&["fail"]);
    assert!(wrong.code == 1 && !named.is_empty(), "{named:?}");
    assert!(named.iter().all(|f| f.starts_with("COL-001") && f.contains("wrong elements on rank 1")), "{named:?}");

    // In time: a minute, where waiting for ever is what must not be. How fast this machine is does not matter.
    for (fault, said) in [
        ("nccl-die", "rank 1 of step collective-gpu ended early with exit status 9"),
        ("nccl-init-die", "rank 1 of step collective-gpu ended early with exit status 9"),
        ("nccl-hang", "did not end within 10 s; 2 of 2 ranks alike"),
        ("nccl-stop", "the others waited for rank 1"),
        ("nccl-init-hang", "ncclCommInitRankConfig did not end within 10 s"),
    ] {
        let begin = Instant::now();
        let run = check(lib, only, &[("FAKE_FAULT", fault)])?;
        let named = run.findings(&["fail", "hold"]);
        assert!(named.iter().any(|f| f.contains(said)), "{fault}: {named:?}");
        assert!(begin.elapsed() < Duration::from_secs(60), "{fault}: {:?}", begin.elapsed());
        assert!(!left_behind(lib)?, "{fault}: a process is left");
    }

    // What is not there, or is not as the driver has it.
    for (name, value, said) in [
        ("CUDA_VISIBLE_DEVICES", "nonsense", "CUDA_VISIBLE_DEVICES hides all GPUs"),
        ("CUDA_VISIBLE_DEVICES", "", "CUDA_VISIBLE_DEVICES hides all GPUs"),
        ("CUDA_VISIBLE_DEVICES", "0,0", "CUDA_VISIBLE_DEVICES hides all GPUs"),
    ] {
        let run = check(lib, "environment,memory,collective", &[(name, value)])?;
        let named = run.findings(&["fail", "hold"]);
        assert!(named.iter().any(|f| f.contains(said)), "{name}={value}: {named:?}");
    }
    std::fs::remove_file(lib.join("libnccl.so.2"))?;
    let without = check(lib, only, &[])?;
    let waived = without.report["coverage"].to_string();
    assert!(waived.contains("waived"), "{waived}");
    assert!(!without.cases().iter().any(|c| c.contains("nccl")), "{:?}", without.cases());
    Ok(())
}

/// Whether a process still has the stand-in's libraries open.
fn left_behind(lib: &std::path::Path) -> Result<bool> {
    let wanted = lib.to_string_lossy().into_owned();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let maps = std::fs::read_to_string(entry.path().join("maps")).unwrap_or_default();
        if maps.contains(&wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Two nodes with two GPUs each: the world by NCCL, and what happens when they are not alike.
#[test]
fn nccl_over_two_nodes() -> Result {
    let Some(dir) = libraries()? else {
        skip::skip(true, "no C compiler (cc) for the stand-in");
        return Ok(());
    };
    let run = |other: &[(&str, &str)], tier: &str| -> Result<Run> {
        let home = tempfile::tempdir()?;
        let port = port::free()?;
        let mut nodes = Vec::new();
        for rank in ["0", "1"] {
            let mut c = Command::new(env!("CARGO_BIN_EXE_gonogo"));
            c.args(["check", "--quiet", "--format", "json", "--budget", "100s", "--only", "environment,collective"])
                .args(["--tier", tier, "--rank", rank, "--nodes", "2", "--rendezvous", &format!("127.0.0.1:{port}")])
                .args(["--out", &format!("record-{rank}")])
                .current_dir(home.path())
                .env("GONOGO_TOKEN", "0f1e5a3c9b7d2846e1c0a9f83b6d5247")
                .env("LD_LIBRARY_PATH", dir.path())
                .env_remove("CUDA_VISIBLE_DEVICES")
                .envs(if rank == "1" { other } else { &[] }.iter().copied())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            nodes.push(c.spawn()?);
        }
        let mut outputs = Vec::new();
        for node in nodes {
            outputs.push(node.wait_with_output()?);
        }
        let first = &outputs[0];
        let said = String::from_utf8_lossy(&first.stderr);
        let report = serde_json::from_slice(&first.stdout).map_err(|e| format!("{e}: {said}"))?;
        Ok(Run { code: first.status.code().unwrap_or(-1), report })
    };
    let well = run(&[], "quick")?;
    let cases = well.cases();
    assert!(cases.iter().any(|c| c == "all-reduce nccl world n=4 1 MiB"), "{cases:?}");
    assert_eq!(well.findings(&["fail"]), [""; 0]);

    // One node whose job may use one GPU less than its driver has.
    let fewer = run(&[("CUDA_VISIBLE_DEVICES", "0")], "quick")?;
    let held = fewer.findings(&["hold", "fail"]);
    let named = |f: &String| f.contains("a program sees 1 GPU(s) here and 2 on other nodes");
    assert!(held.iter().any(named), "{held:?}");

    let mixed = run(&[("FAKE_NCCL_VERSION", "22602")], "quick")?;
    let named = mixed.findings(&["fail"]);
    assert!(named.iter().any(|f| f.starts_with("NCL-008")), "{named:?}");
    let held = mixed.findings(&["hold", "fail"]);
    assert!(held.iter().any(|f| f.contains("all ranks need one version")), "{held:?}");
    Ok(())
}
