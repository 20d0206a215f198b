//! Container images, built by the project's own Dockerfiles from a Debian base made here: the good ones pass, and one with four
//! mistakes is refused, each of them named.

mod skip;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/labs/image-lab");
const GONOGO: &str = env!("CARGO_BIN_EXE_gonogo");
/// Not those that somebody tries things out with.
const IMAGES: &str = "localhost/gonogo-test";

fn lab(args: &[&str]) -> Result<Output> {
    let mut limit = vec!["300", LAB];
    limit.extend(args);
    Ok(Command::new("timeout").args(limit).env("GONOGO", GONOGO).env("IMAGE_LAB", IMAGES).output()?)
}

struct Images;

impl Drop for Images {
    fn drop(&mut self) {
        let _ = lab(&["down"]);
    }
}

/// A check in a container; what it writes under /out is in `dir`.
fn check(dir: &Path, name: &str, args: &[&str]) -> Result<Output> {
    let run = format!("--user=0 --volume={}:/out", dir.display());
    let mut all = vec!["300", LAB, "run", name];
    // The image of gonogo alone has it as its entry point.
    all.extend(["gonogo"].iter().filter(|_| name != "gonogo"));
    all.extend(["check", "--quiet", "--out", "/out/record"]);
    all.extend(args);
    Ok(Command::new("timeout").args(all).env("RUN", run).env("IMAGE_LAB", IMAGES).output()?)
}

fn codes(report: &serde_json::Value, severity: &str) -> BTreeSet<String> {
    let all = report["findings"].as_array().cloned().unwrap_or_default();
    let heavy = all.iter().filter(|f| f["severity"] == severity);
    heavy.filter_map(|f| f["code"].as_str().map(str::to_owned)).collect()
}

fn set(codes: &[&str]) -> BTreeSet<String> {
    codes.iter().map(|c| (*c).to_owned()).collect()
}

#[test]
fn images_are_built_and_judged() -> Result {
    let can = lab(&["check"])?;
    if !can.status.success() {
        skip::skip(true, format_args!("{}", String::from_utf8_lossy(&can.stdout).trim()));
        return Ok(());
    }
    let _down = Images;
    let built = lab(&["build"])?;
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let dir = tempfile::tempdir()?;
    let out = dir.path();
    let judged = |name: &str, args: &[&str]| -> Result<(Option<i32>, serde_json::Value)> {
        let output = check(out, name, &[&["--tier", "image", "--format", "json"], args].concat())?;
        let report = serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("{name}: {e}: {}", String::from_utf8_lossy(&output.stderr)))?;
        std::fs::remove_dir_all(out.join("record"))?;
        Ok((output.status.code(), report))
    };
    let h100 = &["--for-driver", "550.54.14", "--for-gpu", "H100"];

    // Each that the project ships is GO, and the small one is small: no shell, no package manager.
    let (code, report) = judged("gonogo", &[])?;
    assert_eq!((code, codes(&report, "fail")), (Some(0), set(&[])), "{report}");
    for (name, args) in [("cuda", &h100[..]), ("slurm", &h100[..])] {
        let (code, report) = judged(name, args)?;
        assert_eq!((code, codes(&report, "warn"), codes(&report, "note")), (Some(0), set(&[]), set(&[])), "{report}");
        assert_eq!(codes(&report, "info"), set(&["IMG-017"]), "{report}");
    }
    let (code, report) = judged("cuda", &["--for-driver", "470.57", "--for-gpu", "B200", "--needs", "ucx"])?;
    assert_eq!((code, codes(&report, "fail")), (Some(1), set(&["IMG-002", "IMG-008", "IMG-010"])), "{report}");

    // The one with mistakes: each is named, and CI sees them.
    let args = ["--tier", "image", "--report", "/out/junit.xml", "--report", "/out/page.html", "--format", "json"];
    let output = check(out, "broken", &[&args[..], h100].concat())?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let wrong = ["IMG-003", "IMG-005", "IMG-006", "IMG-010", "IMG-012", "IMG-013"];
    assert_eq!((output.status.code(), codes(&report, "fail")), (Some(1), set(&wrong)), "{report}");
    assert_eq!(codes(&report, "warn"), set(&["IMG-014"]), "{report}");
    let (junit, page) =
        (std::fs::read_to_string(out.join("junit.xml"))?, std::fs::read_to_string(out.join("page.html"))?);
    for code in wrong {
        assert!(junit.contains(&format!(" type=\"{code}\">")), "{code}: {junit}");
        assert!(page.contains(code), "{code} is not in the page");
    }
    // The job of containers/ci/gitlab.yml in this image, as a runner starts it: red, with the reason in its reports.
    let pipeline = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/containers/ci/gitlab.yml"))?;
    let script = pipeline.lines().find_map(|l| l.trim().strip_prefix("- gonogo ")).ok_or("no script")?;
    let run = format!(
        "--user=0 --volume={}:/out --workdir=/out --env=DRIVER=550.54.14 --env=GPU=H100 --env=NEEDS=nccl,ibverbs,mlx5",
        out.display()
    );
    let job = Command::new("timeout")
        .args([
            "300",
            LAB,
            "run",
            "broken",
            "sh",
            "-c",
            &format!("gonogo {} --out job", script.replace("--out record", "")),
        ])
        .env("RUN", run)
        .env("IMAGE_LAB", IMAGES)
        .output()?;
    let junit = std::fs::read_to_string(out.join("junit.xml"))?;
    assert_eq!(job.status.code(), Some(1), "{}", String::from_utf8_lossy(&job.stderr));
    assert!(junit.contains("type=\"IMG-002\">") && junit.contains("mlx5 does not load"), "{junit}");

    // What the GitHub action does, with podman for docker: the verdict is its exit code, its reports are there, the binary is not.
    for (name, code) in [("cuda", 0), ("broken", 1)] {
        let reports = out.join(format!("action-{name}"));
        let judged = Command::new("timeout")
            .args(["300", concat!(env!("CARGO_MANIFEST_DIR"), "/containers/ci/judge-image")])
            .arg(format!("{IMAGES}:{name}"))
            .args(h100)
            .env("ENGINE", format!("{LAB} engine"))
            .envs([("GONOGO", GONOGO), ("OUT", &reports.to_string_lossy())])
            .output()?;
        assert_eq!(judged.status.code(), Some(code), "{name}: {}", String::from_utf8_lossy(&judged.stderr));
        let summary = std::fs::read_to_string(reports.join("summary.md"))?;
        assert_eq!(summary.contains("IMG-006"), code == 1, "{summary}");
        assert!(reports.join("record/record.jsonl").exists() && reports.join("page.html").exists());
        assert!(!reports.join("gonogo").exists(), "{name}");
    }

    // Nothing was made of it that opens a gate.
    let gate = Command::new(GONOGO).arg("gate").arg(out.join("record/record.jsonl")).args(["--", "true"]).output()?;
    assert_eq!(gate.status.code(), Some(2), "{}", String::from_utf8_lossy(&gate.stderr));

    // The quick tier runs in the smallest image.
    std::fs::remove_dir_all(out.join("record"))?;
    let quick = check(out, "gonogo", &["--only", "environment,gemm,memory"])?;
    let text = String::from_utf8_lossy(&quick.stdout).into_owned();
    assert!(quick.status.code().is_some_and(|c| c <= 2) && text.contains("gemm: flops"), "{text}");
    Ok(())
}
