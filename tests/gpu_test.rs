//! tests/labs/gpu-test and benches/peers/gpu.py against the stand-in: that they need no Rust, keep what they have when they are cut, and
//! see what is measured and what is not. Nothing is measured here.

mod skip;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// A machine with one GPU of the stand-in: its driver, an nvidia-smi, and a virtual environment with PyTorch, cuBLASLt and NCCL.
struct Stand {
    dir: tempfile::TempDir,
    python: PathBuf,
    /// Its site-packages.
    packages: PathBuf,
}

fn program(path: &Path, text: &str) -> Result {
    fs::create_dir_all(path.parent().ok_or("no folder")?)?;
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

impl Stand {
    /// `None`, with the reason on stderr, without what it takes.
    fn new() -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let at = |path: &str| dir.path().join(path);
        for path in ["driver", "venv/bin"] {
            fs::create_dir_all(at(path))?;
        }
        let library = at("driver/libcuda.so.1");
        let compile = |source: &str, to: &Path| {
            let compiled =
                Command::new("cc").args(["-shared", "-fPIC", "-O2", "-w", "-o"]).arg(to).arg(source).status();
            compiled.is_ok_and(|s| s.success())
        };
        if !compile(&format!("{HERE}/tests/labs/fake-gpu/cuda.c"), &library) {
            skip::skip(true, "no C compiler (cc) for the stand-in");
            return Ok(None);
        }
        symlink("libcuda.so.1", at("driver/libnvidia-ml.so.1"))?;
        let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        let Some(asked) = asked.ok().filter(|o| o.status.success()) else {
            skip::skip(true, "no python3");
            return Ok(None);
        };
        let real = PathBuf::from(String::from_utf8(asked.stdout)?.trim());
        symlink(&real, at("venv/bin/python3"))?;
        let home = real.parent().ok_or("python3 lies nowhere")?;
        fs::write(at("venv/pyvenv.cfg"), format!("home = {}\n", home.display()))?;
        let asked = Command::new(at("venv/bin/python3"))
            .args(["-c", "import site; print(site.getsitepackages()[0])"])
            .output()?;
        let packages = PathBuf::from(String::from_utf8(asked.stdout)?.trim());
        // One wheel of CUDA 12 and one of CUDA 13 side by side; the driver's CUDA is 12.8.
        for (wheel, library) in
            [("cublas", "libcublasLt.so.12"), ("cu13", "libcublasLt.so.13"), ("nccl", "libnccl.so.2")]
        {
            let lib = packages.join("nvidia").join(wheel).join("lib");
            fs::create_dir_all(&lib)?;
            symlink(at("driver/libcuda.so.1"), lib.join(library))?;
        }
        fs::copy(format!("{HERE}/tests/labs/fake-gpu/torch.py"), packages.join("torch.py"))?;
        // And one for another processor, where the loader would look first: the same library, said to be a SPARC's.
        let mut foreign = fs::read(&library)?;
        foreign[18] = 43;
        fs::write(at("driver/libcublasLt.so.12"), foreign)?;
        let smi = "#!/bin/sh\necho 'GPU 0: NVIDIA Fake 1 (UUID: GPU-01010101-0101-0101-0101-010101010101)'\n";
        program(&at("bin/nvidia-smi"), smi)?;
        // Where a program is that must not be needed.
        program(&at("bin/cargo"), "#!/bin/sh\necho no cargo here >&2; exit 9\n")?;
        let python = at("venv/bin/python3");
        Ok(Some(Stand { dir, python, packages }))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn gpu_test(&self, parts: &str) -> Command {
        let mut path = vec![self.at("bin"), self.at("venv/bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let mut c = Command::new("make");
        c.args(["--no-print-directory", "-C", HERE, "gpu-test"])
            .arg(format!("OUT={}", self.at("out").display()))
            .arg(format!("BIN={}", env!("CARGO_BIN_EXE_gonogo")))
            .env("GONOGO", env!("CARGO_BIN_EXE_gonogo"))
            .env("PATH", std::env::join_paths(path).unwrap_or_default())
            .env("PYTHON", &self.python)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("LD_LIBRARY_PATH", self.at("driver"))
            .envs([("PARTS", parts), ("BUDGET", "60"), ("SECONDS_IN_ALL", "600"), ("FAKE_GPUS", "1")])
            .env_remove("CUDA_VISIBLE_DEVICES")
            .env_remove("MAKEFLAGS")
            .stdin(Stdio::null());
        c
    }

    fn summary(&self) -> String {
        fs::read_to_string(self.at("out/summary.txt")).unwrap_or_default()
    }

    fn archived(&self) -> Result<Vec<String>> {
        let listed = Command::new("tar").arg("-tzf").arg(self.at("out/gpu-test.tar.gz")).output()?;
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        Ok(String::from_utf8(listed.stdout)?.lines().map(str::to_owned).collect())
    }
}

#[test]
fn parts_are_kept_in_one_archive_with_a_page_beside_it() -> Result {
    let Some(stand) = Stand::new()? else { return Ok(()) };
    let done = stand.gpu_test("smi machine two-ranks python-only").output()?;
    let summary = stand.summary();
    let said = format!("{}{}\n{summary}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    for line in [
        "ok      nvidia-smi lists GPUs",
        "ok      discover records the machine",
        "ok      a replay is the machine",
        "ok      two ranks on one GPU are right",
        "ok      libraries of the Python environment serve",
    ] {
        assert!(summary.lines().any(|l| l == line), "{line}: {said}");
    }
    // The record says which library was taken, and why.
    let record = fs::read_to_string(stand.at("out/python-only/record.jsonl"))?;
    for said in [
        ": the newest that a driver of CUDA 12.8 runs, of the Python on PATH (",
        "libcublasLt.so.13: built for CUDA 13, and this driver runs up to 12.8",
        "driver/libcublasLt.so.12: a library for processor 43",
        "NCCL 2.27.3 is ",
    ] {
        assert!(record.contains(said), "{said} in {record}");
    }
    assert!(done.status.success() && summary.lines().count() <= 60, "{said}");
    let archived = stand.archived()?;
    for file in
        ["./summary.txt", "./machine.json", "./gpus.txt", "./two-ranks/record.jsonl", "./python-only/record.jsonl"]
    {
        assert!(archived.iter().any(|f| f == file), "{file} in {archived:?}");
    }
    Ok(())
}

/// What NCCL makes of a step is told where its communicator starts.
fn start_of_nccl(stand: &Stand, environment: &[(&str, &str)]) -> Result<String> {
    let out = tempfile::tempdir()?;
    let mut path = vec![stand.at("venv/bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let done = Command::new(env!("CARGO_BIN_EXE_gonogo"))
        .args(["check", "--alone", "--quiet", "--budget", "100s", "--only", "environment,collective", "--out"])
        .arg(out.path().join("r"))
        .env("PATH", std::env::join_paths(path)?)
        .env("LD_LIBRARY_PATH", stand.at("driver"))
        .env("FAKE_GPUS", "1")
        .env_remove("CUDA_VISIBLE_DEVICES")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()?;
    let record = fs::read_to_string(out.path().join("r/record.jsonl"))?;
    let start = record.lines().find(|l| l.contains("\"case\":\"start nccl")).map(str::to_owned);
    Ok(start.ok_or_else(|| format!("{record}{}", String::from_utf8_lossy(&done.stderr)))?)
}

#[test]
fn what_is_set_for_nccl_and_what_is_broken_is_told() -> Result {
    let Some(stand) = Stand::new()? else { return Ok(()) };
    // The user's own log is neither used nor written over.
    let (own, log) = (stand.at("mine.log"), format!("{HERE}/tests/fixtures/nccl/two-nodes.log"));
    fs::write(&own, "mine\n")?;
    let file = own.display().to_string();
    let settings = [("NCCL_DEBUG", "WARN"), ("NCCL_DEBUG_FILE", file.as_str()), ("FAKE_NCCL_LOG", log.as_str())];
    let start = start_of_nccl(&stand, &settings)?;
    assert!(start.contains("NCCL_DEBUG=WARN, NCCL_DEBUG_FILE=") && start.contains("not used here"), "{start}");
    assert!(start.contains(": of the Python on PATH ("), "{start}");
    assert_eq!(fs::read_to_string(&own)?, "mine\n");

    // A wheel that was deleted by half, and nothing else: no missing NCCL, but a broken one.
    let nccl = stand.packages.join("nvidia/nccl/lib/libnccl.so.2");
    let whole = fs::read(&nccl)?;
    fs::remove_file(&nccl)?;
    fs::write(&nccl, &whole[..whole.len() / 3])?;
    let start = start_of_nccl(&stand, &[])?;
    assert!(start.contains("\"failed\"") && start.contains("NCCL: no libnccl.so.2 can be used: "), "{start}");
    fs::remove_file(&nccl)?;
    symlink("libnccl.so.2.27.3", &nccl)?;
    let start = start_of_nccl(&stand, &[])?;
    assert!(start.contains("a link to libnccl.so.2.27.3, which is not there"), "{start}");

    // NVML without CUDA's driver, as in a container without the `compute` capability.
    fs::rename(stand.at("driver/libcuda.so.1"), stand.at("driver/libnvidia-ml.so.2"))?;
    fs::remove_file(stand.at("driver/libnvidia-ml.so.1"))?;
    fs::rename(stand.at("driver/libnvidia-ml.so.2"), stand.at("driver/libnvidia-ml.so.1"))?;
    let start = start_of_nccl(&stand, &[])?;
    let told = "libcuda.so.1 is not to be found: cannot open shared object file: No such file or directory";
    // Where this machine has a driver of its own, that one is found.
    let found = Path::new("/proc/driver/nvidia/version").exists();
    assert!(found || (start.contains("\"waived\"") && start.contains(told)), "{start}");
    Ok(())
}

#[test]
fn a_cut_leaves_what_was_there() -> Result {
    let Some(stand) = Stand::new()? else { return Ok(()) };
    // `timeout` sends its signal to the whole group, as it does when the time for `make gpu-test` is up.
    let mut running = Command::new("timeout");
    let make = stand.gpu_test("smi quick");
    running.arg("600").arg(make.get_program()).args(make.get_args()).stdin(Stdio::null()).stdout(Stdio::null());
    for (name, value) in make.get_envs() {
        match value {
            Some(value) => running.env(name, value),
            None => running.env_remove(name),
        };
    }
    let mut running = running.spawn()?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while !stand.at("out/quick.txt").exists() {
        assert!(Instant::now() < deadline && running.try_wait()?.is_none(), "{}", stand.summary());
        std::thread::sleep(Duration::from_millis(10));
    }
    Command::new("kill").arg(running.id().to_string()).status()?;
    running.wait()?;
    while !stand.summary().contains("cut by a signal") {
        assert!(Instant::now() < deadline, "{}", stand.summary());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(stand.summary().starts_with("gonogo on a GPU: cut short"), "{}", stand.summary());
    // The archive is written after the summary.
    while !stand.archived().is_ok_and(|all| all.iter().any(|f| f == "./quick.txt")) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A gonogo that writes a record with these cases, each 1e30 a second.
fn recorder(path: &Path, cases: &[&str]) -> Result {
    let line = |case: &&str| {
        format!(
            r#"{{"outcome":{{"case":"{case} gpu0","outcome":{{"measured":{{"series":[{{"metric":"flops","samples":[1e30,1e30]}}]}}}}}}}}"#
        )
    };
    let lines: Vec<String> = cases.iter().map(line).collect();
    // The last line of a record may be cut.
    let record = format!("{}\n{{\"outcome\":{{\"case\"", lines.join("\n"));
    program(
        path,
        &format!(
            "#!/bin/sh\nwhile [ $# -gt 1 ]; do [ \"$1\" != --out ] || out=$2; shift; done\nmkdir -p \"$out\"\ncat >\"$out/record.jsonl\" <<'E'\n{record}\nE\n"
        ),
    )
}

#[test]
fn the_comparison_takes_what_there_is_and_misses_what_is_not() -> Result {
    let Some(stand) = Stand::new()? else { return Ok(()) };
    let compare = |gonogo: &Path| -> Result<Output> {
        let json = stand.at("peers.json");
        let mut c = Command::new(&stand.python);
        c.arg(format!("{HERE}/benches/peers/gpu.py")).args(["--seconds", "0", "--json"]).arg(&json).arg(gonogo);
        Ok(c.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).output()?)
    };
    let core = ["bf16 8192 burst", "driver copy", "h2d", "d2h"];
    recorder(&stand.at("all"), &core)?;
    let all = compare(&stand.at("all"))?;
    let text = String::from_utf8(all.stdout)?;
    assert!(all.status.success(), "{text}{}", String::from_utf8_lossy(&all.stderr));
    let json: serde_json::Value = serde_json::from_slice(&fs::read(stand.at("peers.json"))?)?;
    for case in core {
        let row =
            json["rows"].as_array().and_then(|r| r.iter().find(|r| r["case"] == case)).cloned().unwrap_or_default();
        let (ours, theirs) = (row["gonogo"].as_f64().unwrap_or(0.0), row["pytorch"].as_f64().unwrap_or(0.0));
        assert!(ours == 1e30 && theirs > 0.0 && row["met"] == true, "{case}: {json}");
    }
    assert!(text.contains("PyTorch: no products: RuntimeError: the stand-in multiplies no fp8"), "{text}");

    recorder(&stand.at("some"), &core[..2])?;
    let some = compare(&stand.at("some"))?;
    let text = String::from_utf8(some.stdout)?;
    assert!(some.status.code() == Some(1) && text.matches("not measured on both sides").count() == 2, "{text}");
    let none = compare(&stand.at("nowhere"))?;
    let text = String::from_utf8(none.stdout)?;
    assert!(none.status.code() == Some(1) && text.contains("No such file"), "{text}");
    Ok(())
}
