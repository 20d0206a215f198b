//! The real binary, end to end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

mod run;
mod skip;

use run::{Dir, Done, Result, done};

impl Dir {
    /// A record of a short real run; no floors of this machine matter to the tests that use it.
    fn record(&self, extra: &[&str]) -> Result<Done> {
        let mut args = vec!["check", "--only", "environment,storage", "--path", ".", "--quiet", "--out", "rec"];
        args.extend(extra);
        self.run(&args)
    }
}

fn leftovers(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| n.starts_with(".gonogo-scratch")).collect()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// One machine rehearses its part of a step by itself, and what does not divide is told with what would.
#[test]
fn a_step_of_the_plan_is_rehearsed() -> Result {
    let dir = Dir::new()?;
    let plan = "[model]\nlayers = 3\nhidden = 128\nffn = 512\nheads = 4\nvocab = 1000\nsequence = 64\ntokens = 1e9\n";
    std::fs::write(dir.0.path().join("run.toml"), plan)?;
    let only = ["--only", "environment,rehearsal", "--budget", "8s"];
    let check = dir.run(&[&["check", "--plan", "run.toml"][..], &only].concat())?;
    assert!(check.code != 1 && check.out.contains("compute n=1") && check.out.contains("step n=1"), "{}", check.out);
    let report = dir.run(&["report", "gonogo-out/latest", "--format", "markdown"])?;
    assert!(report.out.contains("by 3 of 3 layers on 1 rank, without optimiser, norms and data"), "{}", report.out);
    let forecast = dir.run(&["forecast", "gonogo-out/latest", "--plan", "run.toml"])?;
    assert!(forecast.out.contains("a step of 64 tokens"), "{} {}", forecast.out, forecast.err);
    std::fs::write(dir.0.path().join("run.toml"), format!("{plan}[parallel]\ntp = 3\n"))?;
    let refused = dir.run(&["check", "--plan", "run.toml"])?;
    let says = "run.toml:10:1: `tp` 3 does not divide `heads` 4; 2 or 4 would";
    assert!(refused.code == 3 && refused.err.contains(says), "{} {}", refused.code, refused.err);
    std::fs::write(dir.0.path().join("run.toml"), format!("{plan}[parallel]\ntp = 2\n"))?;
    let undivided = dir.run(&[&["check", "--plan", "run.toml", "--format", "markdown"][..], &only].concat())?;
    assert!(
        undivided.out.contains("1 rank is no multiple of tp x cp x pp = 2 x 1 x 1 = 2; 2 would be"),
        "{}",
        undivided.out
    );
    let models = dir.run(&["list", "models"])?;
    assert!(
        models.out.contains("llama-3-405b      405.9B") && models.out.contains("arXiv:2407.21783"),
        "{}",
        models.out
    );
    Ok(())
}

#[test]
fn a_dry_run_prints_the_plan_and_measures_nothing() -> Result {
    let dir = Dir::new()?;
    let d = dir.run(&["check", "--dry-run", "--skip", "memory", "--seed", "5", "--path", "."])?;
    assert_eq!(d.code, 0, "{}", d.err);
    for part in [
        "quick tier",
        "seed 5",
        "collective-node-2",
        "memory               left out on request",
        "Nothing was measured",
    ] {
        assert!(d.out.contains(part), "{part} is not in\n{}", d.out);
    }
    assert!(!dir.path("gonogo-out").exists());
    Ok(())
}

#[test]
fn a_budget_is_kept_and_what_it_cut_is_told() -> Result {
    let dir = Dir::new()?;
    let started = Instant::now();
    let d = dir.run(&["check", "--budget", "3s", "--path", ".", "--quiet", "--out", "rec"])?;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(d.code, 2, "{}", d.out);
    assert!(d.out.contains("cut for time") && d.out.contains("cut to fit the budget of 3.00 s"), "{}", d.out);
    Ok(())
}

#[test]
fn bad_usage_is_refused_with_3_and_what_was_meant() -> Result {
    let dir = Dir::new()?;
    fs::write(dir.path("bad.toml"), "[checkpoint]\nintervall = \"6h\"\n")?;
    fs::write(dir.path("not-utf8.toml"), [0xff, 0xfe, 0x00])?;
    for (args, want) in [
        (&["check", "--only", "gem"][..], "did you mean `gemm`?"),
        (&["check", "--tier", "quik"], "quick"),
        (&["check", "--budget", "soon"], "write it like `90s`"),
        (&["check", "--budget", "1ms"], "too short"),
        (&["check", "--plan", "bad.toml"], "bad.toml:2:1: unknown key `intervall`; did you mean `interval`?"),
        (&["check", "--plan", "none.toml"], "cannot read the plan none.toml"),
        (&["check", "--plan", "not-utf8.toml"], "cannot read the plan not-utf8.toml"),
        (&["check", "--plan", "."], "cannot read the plan ."),
        (&["explain", "STO-999"], "did you mean STO-"),
        (&["judge", "none"], "cannot read the record none"),
        (&["discover", "--replay", "."], "not a recorded machine"),
        (&["frobnicate"], "unrecognized subcommand"),
    ] {
        let d = dir.run(args)?;
        assert_eq!(d.code, 3, "{args:?}: {}{}", d.out, d.err);
        assert!(d.err.contains(want), "{args:?}: {}", d.err);
    }
    Ok(())
}

#[test]
fn bad_records_are_refused_or_used_as_far_as_they_go() -> Result {
    let dir = Dir::new()?;
    let made = dir.record(&[])?;
    assert!([0, 1, 2].contains(&made.code), "{}", made.err);
    let text = fs::read_to_string(dir.path("rec/record.jsonl"))?;
    let header = text.lines().next().unwrap_or("");
    for (name, content, want) in [
        ("empty", String::new(), "is empty"),
        ("junk", "hello\n".to_owned(), "is not a gonogo record"),
        (
            "other",
            "{\"end\":{\"ended\":\"2026-01-01T00:00:00Z\",\"interrupted\":false}}\n".to_owned(),
            "is not a gonogo record",
        ),
        (
            "newer",
            header.replace(&format!("\"schema\":{}", gonogo::record::SCHEMA), "\"schema\":99") + "\n",
            "is a record of schema 99",
        ),
        ("newer2", "{\"header\":{\"schema\":7,\"unheard\":1}}\n".to_owned(), "is a record of schema 7"),
        ("middle", format!("{header}\n{{\"outcome\":\n{header}\n"), "middle:2:"),
        ("twice", format!("{header}\n{header}\n"), "twice:2: a second header"),
        // A number that nobody can judge is no number to pass over.
        ("metric", text.replace("\"metric\":\"write\"", "\"metric\":\"wrote\""), "`wrote` is none of flops, "),
        ("check", text.replace("\"name\":\"checksum\"", "\"name\":\"vibes\""), "`vibes` is none of residual, "),
    ] {
        fs::write(dir.path(name), content)?;
        let d = dir.run(&["judge", name])?;
        assert_eq!(d.code, 3, "{name}: {}{}", d.out, d.err);
        assert!(d.err.contains(want), "{name}: {}", d.err);
    }
    // Cut off in the middle of the last line: everything before it counts, and the cut is told.
    fs::write(dir.path("cut"), &text[..text.len() - 20])?;
    let cut = dir.run(&["judge", "cut"])?;
    assert_eq!(cut.code, 2, "{}", cut.out);
    assert!(cut.out.contains("COV-005") && cut.out.contains("STO") | cut.out.contains("storage"), "{}", cut.out);
    // Cut off anywhere else: never a panic, never a GO.
    for share in [3, 5, 7] {
        fs::write(dir.path("cut"), &text[..text.len() * share / 10])?;
        assert!([1, 2, 3].contains(&dir.run(&["judge", "cut"])?.code), "{share}/10");
    }
    Ok(())
}

#[test]
fn unusable_checkpoint_paths_have_their_codes() -> Result {
    let dir = Dir::new()?;
    fs::write(dir.path("file"), "x")?;
    for (path, code) in [("no/such/dir", "STO-022"), ("file", "STO-023"), ("/proc", "STO-024")] {
        let d = dir.run(&["check", "--only", "storage", "--path", path, "--quiet", "--out", &format!("rec-{code}")])?;
        assert_eq!(d.code, 1, "{path}: {}{}", d.out, d.err);
        assert!(d.out.contains(code), "{path}: {}", d.out);
    }
    Ok(())
}

#[test]
fn a_read_only_directory_is_named() -> Result {
    if is_root() {
        // Root writes where modes forbid it: a read-only mount shows the same.
        let dir = Dir::new()?;
        let Some(mount) = Mounted::tmpfs(&dir.path("ro"), "size=8m,ro")? else { return Ok(()) };
        let d = dir.run(&["check", "--only", "storage", "--path", "ro", "--quiet", "--out", "rec"])?;
        drop(mount);
        assert!(d.code == 1 && d.out.contains("STO-024"), "{}", d.out);
        return Ok(());
    }
    let dir = Dir::new()?;
    fs::create_dir(dir.path("ro"))?;
    fs::set_permissions(dir.path("ro"), fs::Permissions::from_mode(0o555))?;
    let d = dir.run(&["check", "--only", "storage", "--path", "ro", "--quiet", "--out", "rec"])?;
    assert!(d.code == 1 && d.out.contains("STO-024"), "{}", d.out);
    Ok(())
}

/// A mount of this test, gone with it.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, with the reason on stderr, where mounting is not permitted.
    fn tmpfs(at: &Path, options: &str) -> Result<Option<Self>> {
        fs::create_dir_all(at)?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at).output();
        match mounted {
            Ok(o) if o.status.success() => Ok(Some(Mounted(at.to_owned()))),
            other => {
                skip::skip(false, format_args!("cannot mount a tmpfs here ({other:?})"));
                Ok(None)
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_disk_that_fills_up_while_it_is_measured_is_named() -> Result {
    let dir = Dir::new()?;
    let Some(_mount) = Mounted::tmpfs(&dir.path("small"), "size=200m,nr_inodes=20")? else { return Ok(()) };
    // The storm of names needs more inodes than there are.
    let d = dir.run(&["check", "--only", "storage", "--path", "small", "--quiet", "--out", "rec"])?;
    assert_eq!(d.code, 1, "{}", d.out);
    assert!(d.out.contains("STO-026") && d.out.contains("STO-025"), "{}", d.out);
    assert!(leftovers(&dir.path("small")).is_empty());
    Ok(())
}

#[test]
fn a_full_disk_under_the_record_loses_no_report() -> Result {
    let dir = Dir::new()?;
    let Some(_mount) = Mounted::tmpfs(&dir.path("tiny"), "size=8k")? else { return Ok(()) };
    let d = dir.run(&["check", "--only", "environment,tcp", "--quiet", "--out", "tiny/rec"])?;
    assert_eq!(d.code, 4, "{}{}", d.out, d.err);
    assert!(d.out.contains("loopback 1 stream") && d.err.contains("is not complete"), "{}{}", d.out, d.err);
    Ok(())
}

#[test]
fn signals_end_in_a_report_and_leave_nothing_behind() -> Result {
    for (signal, after) in [("-INT", 900), ("-TERM", 1800), ("-INT", 3000)] {
        let dir = Dir::new()?;
        let child = dir
            .command(&["check", "--path", ".", "--quiet", "--out", "rec"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(after));
        Command::new("kill").args([signal, &child.id().to_string()]).status()?;
        let asked = Instant::now();
        let d = done(child.wait_with_output()?);
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        assert!([1, 2].contains(&d.code), "{} {}", d.code, d.err);
        assert!(d.out.contains("COV-004") && d.out.contains("interrupted"), "{}", d.out);
        assert!(leftovers(dir.0.path()).is_empty());
        assert_eq!(dir.run(&["judge", "rec"])?.code, d.code);
    }
    Ok(())
}

#[test]
fn a_killed_run_keeps_every_outcome_and_cleans_up_after_itself() -> Result {
    for (out, file, more) in [("plain", "record.jsonl", None), ("packed", "record.jsonl.zst", Some("--compress"))] {
        let dir = Dir::new()?;
        let args =
            ["check", "--only", "environment,storage", "--tier", "standard", "--path", ".", "--quiet", "--out", out];
        let mut child = dir.command(&args).args(more).stdout(Stdio::null()).spawn()?;
        let started = Instant::now();
        while leftovers(dir.0.path()).is_empty() && started.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!leftovers(dir.0.path()).is_empty(), "no scratch directory was made");
        child.kill()?;
        child.wait()?;
        let started = Instant::now();
        while !leftovers(dir.0.path()).is_empty() && started.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(leftovers(dir.0.path()), Vec::<String>::new(), "the worker did not clean up");
        assert!(dir.path(out).join(file).exists(), "{file}");
        let d = dir.run(&["judge", out])?;
        assert_eq!(d.code, 2, "{}", d.out);
        assert!(d.out.contains("the record has no end") && d.out.contains("not in the record"), "{}", d.out);
        // What was measured before is there.
        assert!(d.out.contains(" cores, "), "{}", d.out);
    }
    Ok(())
}

/// A packed record opens the gate as a plain one does, signed as it stands.
#[test]
fn a_packed_record_is_signed_judged_and_opens_the_gate() -> Result {
    let dir = Dir::new()?;
    fs::write(dir.path("run.toml"), "name = \"t\"\n[nodes]\nneeded = 1\n")?;
    assert_eq!(dir.run(&["gate", "--new-key", "key"])?.code, 0);
    let check = dir.record(&["--plan", "run.toml", "--compress", "--sign", "key"])?;
    assert_eq!(check.code, 0, "this machine is no GO for the gate's test:\n{}", check.out);
    assert!(check.out.contains("rec/record.jsonl.zst"), "{}", check.out);
    assert_eq!(dir.run(&["gate", "rec", "--trust", "key.pub", "--", "sh", "-c", "exit 7"])?.code, 7);
    assert_eq!(dir.run(&["report", "rec/record.jsonl.zst", "--format", "json"])?.code, 0);
    // One byte more, which zstd itself would pass over: another file.
    let mut bytes = fs::read(dir.path("rec/record.jsonl.zst"))?;
    bytes.extend([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
    fs::write(dir.path("rec/record.jsonl.zst"), bytes)?;
    let held = dir.run(&["gate", "rec", "--trust", "key.pub", "--", "true"])?;
    assert_eq!(held.code, 2, "{}", held.err);
    Ok(())
}

/// Makes the record of a real run a GO by giving every limit and reason to hold away: what is tested is the gate.
fn go_record(dir: &Dir) -> Result<String> {
    let plan = "name = \"t\"\n[nodes]\nneeded = 1\n";
    fs::write(dir.path("run.toml"), plan)?;
    let d = dir.record(&["--plan", "run.toml"])?;
    if d.code != 0 {
        return Err(format!("this machine is no GO for the gate's test:\n{}", d.out).into());
    }
    Ok("rec".to_owned())
}

#[test]
fn the_gate_starts_the_command_or_holds_it() -> Result {
    let dir = Dir::new()?;
    let rec = go_record(&dir)?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    let show =
        ["--", "sh", "-c", "echo $GONOGO_DECISION $GONOGO_NODELIST [$GONOGO_EXCLUDE] {nodelist} [{exclude}]; exit 7"];
    let with = |args: &[&str]| {
        let mut all = vec!["gate", rec.as_str()];
        all.extend(args);
        dir.run(&all)
    };
    let go = with(&show)?;
    assert_eq!((go.code, go.out.trim()), (7, format!("GO {host} [] {host} []").as_str()), "{}", go.err);
    assert_eq!(with(&["--plan", "run.toml", "--", "true"])?.code, 0);
    // Not accepted silently: age, plan, nodes.
    fs::write(dir.path("other.toml"), "name = \"other\"\n")?;
    for (args, want) in [
        (&["--max-age", "1ms", "--", "touch", "started"][..], "more than --max-age"),
        (&["--plan", "other.toml", "--", "touch", "started"], "made for another plan"),
        (&["--nodes", "x[1-2]", "--", "touch", "started"], "says nothing about x[1-2]"),
    ] {
        let d = with(args)?;
        assert_eq!(d.code, 2, "{args:?}: {}", d.err);
        assert!(d.err.contains(want), "{args:?}: {}", d.err);
    }
    assert_eq!(with(&["--nodes", "x[1-", "--", "touch", "started"])?.code, 3);
    assert_eq!(with(&["--", "/no/such/command"])?.code, 3);
    // A NO-GO says why, and nothing starts.
    fs::write(dir.path("big.toml"), "[checkpoint]\nsize = \"1 PB\"\nkeep = 9\n")?;
    let no = dir.run(&[
        "check",
        "--only",
        "environment,storage",
        "--path",
        ".",
        "--plan",
        "big.toml",
        "--quiet",
        "--out",
        "no",
    ])?;
    assert_eq!(no.code, 1, "{}", no.out);
    let held = dir.run(&["gate", "no", "--", "touch", "started"])?;
    assert_eq!(held.code, 1);
    assert!(held.err.contains("STO-020") && held.err.contains("the gate stays closed: NO-GO"), "{}", held.err);
    assert!(!dir.path("started").exists(), "the gate let a command through");
    Ok(())
}

#[test]
fn tickets_carry_a_go_and_cannot_be_forged() -> Result {
    let dir = Dir::new()?;
    let rec = go_record(&dir)?;
    assert_eq!(dir.run(&["gate", "--new-key", "key"])?.code, 0);
    assert_eq!(dir.run(&["gate", "--new-key", "other"])?.code, 0);
    assert_eq!(dir.run(&["gate", &rec, "--ticket", "t", "--key", "key", "--image", "sha256:1"])?.code, 0);
    let use_ticket = |extra: &[&str]| {
        let mut all = vec!["gate", "--require-ticket", "t", "--trust", "key.pub", "--image", "sha256:1"];
        all.extend(extra);
        all.extend(["--", "sh", "-c", "exit 7"]);
        dir.run(&all)
    };
    let ok = use_ticket(&[])?;
    assert_eq!(ok.code, 7, "{}", ok.err);
    assert_eq!(use_ticket(&["--plan", "run.toml"])?.code, 7);
    assert_eq!(use_ticket(&["--nodes", "elsewhere"])?.code, 2);
    let image =
        dir.run(&["gate", "--require-ticket", "t", "--trust", "key.pub", "--image", "sha256:2", "--", "true"])?;
    assert!(image.code == 2 && image.err.contains("sha256:1"), "{}", image.err);
    let other = dir.run(&["gate", "--require-ticket", "t", "--trust", "other.pub", "--", "true"])?;
    assert!(other.code == 2 && other.err.contains("does not fit the trusted key"), "{}", other.err);
    let forged = fs::read_to_string(dir.path("t"))?.replace("sha256:1", "sha256:2");
    fs::write(dir.path("t"), forged)?;
    assert_eq!(use_ticket(&[])?.code, 2);
    assert_eq!(dir.run(&["gate", "--require-ticket", "t", "--", "true"])?.code, 3, "a ticket without a trusted key");
    // The secret key is for its owner alone.
    fs::set_permissions(dir.path("key"), fs::Permissions::from_mode(0o644))?;
    assert_eq!(dir.run(&["gate", &rec, "--ticket", "t2", "--key", "key"])?.code, 3);
    Ok(())
}

#[test]
fn a_recorded_machine_replays_the_same() -> Result {
    let dir = Dir::new()?;
    let recorded = dir.run(&["discover", "--record", "machine", "--format", "json"])?;
    assert_eq!(recorded.code, 0, "{}", recorded.err);
    let replayed = dir.run(&["discover", "--replay", "machine", "--format", "json"])?;
    let (mut a, mut b): (serde_json::Value, serde_json::Value) =
        (serde_json::from_str(&recorded.out)?, serde_json::from_str(&replayed.out)?);
    for v in [&mut a, &mut b] {
        assert!(v["cpu"]["threads"].as_u64().is_some_and(|t| t > 0));
        // Read live from the moment; everything else is a file.
        v["memory"]["available"] = serde_json::Value::Null;
    }
    assert_eq!(a, b);
    assert_eq!(dir.run(&["discover", "--record", "machine"])?.code, 3, "a recording was written over");
    Ok(())
}

/// Virtual machines with one H100 and one H200, as `make gpu-test` recorded them; fixtures/machines/README.md says what was taken out.
#[test]
fn real_gpu_machines_read_as_they_did() -> Result {
    let dir = Dir::new()?;
    for machine in ["h100-sxm-vm", "h200-sxm-vm"] {
        let archive = format!("{}/tests/fixtures/machines/{machine}.tar.gz", env!("CARGO_MANIFEST_DIR"));
        let unpacked = Command::new("tar").args(["-xzf", &archive, "-C"]).arg(dir.path(".")).status()?;
        assert!(unpacked.success());
        let replayed = dir.run(&["discover", "--replay", machine])?;
        assert_eq!(replayed.code, 0, "{}", replayed.err);
        assert_committed(&format!("tests/golden/{machine}.txt"), &replayed.out)?;
    }
    Ok(())
}

#[test]
fn a_machine_without_proc_and_sys_is_unknown_and_not_a_crash() -> Result {
    let dir = Dir::new()?;
    fs::create_dir(dir.path("proc"))?;
    let d = dir.run(&["discover", "--replay", "."])?;
    assert_eq!(d.code, 0, "{}", d.err);
    assert!(d.out.contains("/proc/cpuinfo (absent)") && d.out.contains("/sys/class/net (absent)"), "{}", d.out);
    Ok(())
}

#[test]
fn no_secret_of_the_environment_reaches_a_record() -> Result {
    let dir = Dir::new()?;
    let run = |c: &mut Command| {
        c.env("GONOGO_TOKEN", "hunter2").env("NCCL_SECRET_KEY", "hunter2").env("NCCL_DEBUG", "INFO").output()
    };
    run(&mut dir.command(&["check", "--only", "environment,tcp", "--quiet", "--out", "rec"]))?;
    let text = fs::read_to_string(dir.path("rec/record.jsonl"))?;
    assert!(text.contains("NCCL_DEBUG") && !text.contains("hunter2"));
    Ok(())
}

/// That the committed file `path` (from the repository's root) holds `text`; with BLESS set, makes it so first.
fn assert_committed(path: &str, text: &str) -> Result {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, text)?;
    }
    // Not assert_eq: nobody wants to read forty kilobytes twice.
    let same = fs::read_to_string(&file).unwrap_or_default() == text;
    assert!(same, "{path} changed: run BLESS=1 cargo test --test cli and look at git diff");
    Ok(())
}

#[test]
fn the_schema_that_is_committed_is_the_one_that_is_generated() -> Result {
    let dir = Dir::new()?;
    let generated = dir.run(&["list", "schema"])?.out;
    assert_committed("tests/golden/record.schema.json", &generated)
}

/// The page of every finding is made of the registry.
#[test]
fn the_page_of_findings_is_the_registry() -> Result {
    use gonogo::judge::CODES;
    let mut page = "# Every finding\n\nMade of the registry (`src/judge/codes.rs`); `gonogo explain CODE` says the same. A code is never reused.\n".to_owned();
    let mut family = "";
    for c in CODES {
        if c.code[..3] != *family {
            family = &c.code[..3];
            page.push_str(&format!("\n## {family}\n"));
        }
        let remedy = c.remedy_on(None);
        page.push_str(&format!(
            "\n### {}: {}\n\n{} unless the evidence makes it lighter or heavier. {}\n\n- Suspect: {}\n- Do: {}\n",
            c.code,
            c.title,
            c.severity.name().to_uppercase(),
            c.cause,
            c.suspect,
            remedy
        ));
    }
    assert_committed("docs/findings.md", &page)
}

/// Every plan that the documents show is one; the first of them is checked whole on this machine.
#[test]
fn the_plans_of_the_documents_are_plans() -> Result {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/plan.md"))?;
    let plans: Vec<&str> = page.split("```toml\n").skip(1).filter_map(|p| p.split("```").next()).collect();
    assert!(plans.len() >= 2, "{page}");
    let dir = Dir::new()?;
    fs::create_dir(dir.path("ckpt"))?;
    let here = dir.path("ckpt").to_string_lossy().into_owned();
    // Two nodes: what some demands are about.
    for plan in &plans {
        let plan = plan.replace("/mnt/checkpoints", &here);
        let whole =
            if plan.contains("[checkpoint]") { plan } else { format!("[checkpoint]\ndir = \"{here}\"\n{plan}") };
        fs::write(dir.path("run.toml"), whole)?;
        let tried = dir.run(&[
            "judge",
            &format!("{}/tests/fixtures/records/go.jsonl", env!("CARGO_MANIFEST_DIR")),
            "--plan",
            "run.toml",
        ])?;
        assert!(tried.code <= 2, "{}", tried.err);
    }
    fs::write(dir.path("run.toml"), plans[0].replace("/mnt/checkpoints", &here))?;
    // A machine that others use may not get through all of it in its time; what nothing can be held against is there each time.
    let (mut report, mut unmeasured) = (serde_json::Value::Null, None);
    for tried in ["first", "second", "third"] {
        let checked = dir.run(&["check", "--alone", "--plan", "run.toml", "--format", "json", "--out", tried])?;
        assert!(checked.code <= 2, "{}", checked.err);
        report = serde_json::from_str(&checked.out)?;
        let of_require = |f: &&serde_json::Value| {
            f["code"] == "COV-002" && f["limit"].as_str().is_some_and(|l| l.contains("[require]"))
        };
        unmeasured = report["findings"].as_array().and_then(|all| all.iter().find(of_require).cloned());
        if unmeasured.is_none() {
            break;
        }
    }
    assert!(unmeasured.is_none(), "{unmeasured:?}");
    let metrics = report["metrics"].as_array().cloned().unwrap_or_default();
    let copies: Vec<String> = metrics
        .iter()
        .filter(|m| m["limit_source"] == "plan" && m["probe"] == "memory")
        .map(|m| m["case"].as_str().unwrap_or("?").to_owned())
        .collect();
    let cores = std::thread::available_parallelism()?.get();
    // Of all cores, and not of one.
    assert!(copies.len() == 1 && (cores == 1 || copies[0] != "copy 1 core"), "{copies:?}");
    Ok(())
}

#[test]
fn it_starts_at_once_and_lists_what_there_is() -> Result {
    let dir = Dir::new()?;
    assert!(dir.run(&["list", "probes"])?.out.contains("all-reduce"));
    assert!(dir.run(&["list", "codes"])?.out.lines().count() > 40);
    assert!(dir.run(&["explain", "sto-020"])?.out.contains("[[waive]]"));
    assert_eq!(dir.run(&["--version"])?.code, 0);
    assert_eq!(dir.run(&["--help"])?.code, 0);
    Ok(())
}

/// What people keep of a record, two records against each other, and a baseline learned from three.
/// Why a finding: its readings, what they were held against, the rule.
#[test]
fn a_finding_of_a_record_is_explained_with_its_readings() -> Result {
    let dir = Dir::new()?;
    let made = dir.run(&["simulate", "--nodes", "8", "--fault", "sends:3", "--record", "r.jsonl"])?;
    assert!(made.err.is_empty(), "{}", made.err);
    let all = dir.run(&["explain", "r.jsonl"])?;
    assert!(all.code == 0 && all.out.contains("  1  FAIL    NET-021  node sim4: sending"), "{}", all.out);
    let one = dir.run(&["explain", "r.jsonl", "--finding", "1"])?.out;
    // Both directions with each partner, and those that it sends are the slow ones.
    let readings: Vec<&str> = one.lines().filter(|l| l.contains(" -> ")).collect();
    assert!(readings.len() >= 6, "{one}");
    for line in readings {
        assert_eq!(line.trim_start().starts_with("sim4 ->"), line.ends_with("slow"), "{one}");
        assert!(line.contains("GB/s") && line.contains(" %"), "{one}");
    }
    assert!(one.contains("rule") && one.contains("held against"), "{one}");
    let json: serde_json::Value = serde_json::from_str(&dir.run(&["report", "r.jsonl", "--format", "json"])?.out)?;
    assert!(json["findings"][0]["proof"].as_array().is_some_and(|p| p.len() >= 6), "{json}");
    // Arithmetic on a fact: where it stands in the record, and what prints it.
    let measured = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/records/no-go-storage.jsonl");
    let fact = dir.run(&["explain", measured, "--finding", "1"])?;
    assert!(fact.out.contains("STO-020") && fact.out.contains("facts    `capacity` of vm"), "{}", fact.out);
    let look = fact.out.lines().find_map(|l| l.trim().strip_prefix("look")).ok_or("nothing to type")?;
    assert!(look.trim().starts_with("jq '.outcome | select(.node == \"vm\" and"), "{look}");
    if Command::new("jq").arg("--version").output().is_ok_and(|o| o.status.success()) {
        let printed = Command::new("sh").args(["-c", look]).output()?;
        assert!(String::from_utf8_lossy(&printed.stdout).contains("filesystem"), "{look}: {printed:?}");
    }
    for (args, said) in [
        (&["explain", "r.jsonl", "--finding", "0"][..], "has findings 1 to"),
        (&["explain", "r.jsonl", "--finding", "99"], "has findings 1 to"),
        (&["explain", "STO-020", "--finding", "1"], "wants a record"),
        (&["explain", "nowhere"], "neither a record nor the code"),
        (
            &["explain", "nowhere", "--finding", "1"],
            "cannot read the record nowhere: No such file or directory (os error 2)\n",
        ),
    ] {
        let run = dir.run(args)?;
        assert!(run.code == 3 && run.err.contains(said), "{args:?}: {} {}", run.code, run.err);
    }
    Ok(())
}

#[test]
fn reports_are_kept_records_compared_and_baselines_learned() -> Result {
    let dir = Dir::new()?;
    for out in ["a", "b", "c"] {
        let args = ["check", "--only", "environment,memory", "--budget", "12s", "--quiet", "--out", out];
        let check = dir.run(&args)?;
        assert!((0..=2).contains(&check.code), "{}", check.err);
    }
    let files = ["r.html", "r.xml", "r.md", "r.prom", "r.csv", "r.json", "r.txt"];
    let mut args = vec!["report", "a"];
    files.iter().for_each(|f| args.extend(["--report", f]));
    let report = dir.run(&args)?;
    for (file, holds) in
        files.iter().zip(["<!doctype html>", "<testsuites", "## ", "# EOF", "node,group,", "\"findings\"", "memory"])
    {
        let text = std::fs::read_to_string(dir.0.path().join(file))?;
        assert!(text.contains(holds), "{file}: {}", &text[..text.len().min(200)]);
    }
    assert_eq!(std::fs::read_to_string(dir.0.path().join("r.txt"))?, report.out);
    for (args, said) in [
        (&["report", "a", "--report", "r.pdf"][..], "must end with .txt, .json, .xml, .md, .html, .prom, .csv"),
        (&["report", "a", "--report", "no/such/r.html"], "cannot write the report no/such/r.html"),
        (&["diff", "a", "nowhere"], "nowhere"),
        (&["diff", "a", "b", "--margin", "7"], "--margin 7"),
        (&["baseline", "learn", "nowhere", "-o", "x.toml"], "nowhere"),
        (&["judge", "a", "--baseline", "a/record.jsonl"], "--baseline a/record.jsonl"),
    ] {
        let run = dir.run(args)?;
        assert!((3..=4).contains(&run.code) && run.err.contains(said), "{args:?}: {} {}", run.code, run.err);
    }
    let same = dir.run(&["diff", "a", "a"])?;
    assert!(same.code == 0 && same.out.starts_with("NOT WORSE"), "{}", same.out);
    let json: serde_json::Value = serde_json::from_str(&dir.run(&["diff", "a", "b", "--format", "json"])?.out)?;
    assert!(json["compared"].as_u64() > Some(4), "{json}");

    let learned = dir.run(&["baseline", "learn", "a", "b", "c", "-o", "base.toml"])?;
    assert!(learned.code == 0 && learned.out.contains("learned "), "{} {}", learned.out, learned.err);
    // What is learned of a record that is no GO is told.
    let whole = std::fs::read_to_string(dir.0.path().join("a/record.jsonl"))?;
    let cut = whole.trim_end().rsplit_once('\n').map_or("", |(head, _)| head);
    std::fs::write(dir.0.path().join("cut.jsonl"), format!("{cut}\n"))?;
    let doubtful = dir.run(&["baseline", "learn", "a", "cut.jsonl", "c", "-o", "doubtful.toml"])?;
    assert!(doubtful.code == 0 && doubtful.out.contains("cut.jsonl was HOLD"), "{} {}", doubtful.out, doubtful.err);
    let judged = dir.run(&["judge", "a", "--baseline", "base.toml", "--format", "json"])?;
    assert!(judged.out.contains("\"baseline\""), "no limit came from the baseline: {}", judged.err);
    let text = std::fs::read_to_string(dir.0.path().join("base.toml"))?;
    let other = replace_line(&text, "cores = ", "cores = 99");
    std::fs::write(dir.0.path().join("other.toml"), other)?;
    for args in
        [&["judge", "a", "--baseline", "other.toml"][..], &["check", "--only", "memory", "--baseline", "other.toml"]]
    {
        let refused = dir.run(args)?;
        assert!(refused.code == 3 && refused.err.contains("other hardware: cores 99, here "), "{}", refused.err);
    }
    // Who failed before: named while it passes, and kept when the baseline is learned anew.
    let record = std::fs::read_to_string(dir.0.path().join("a/record.jsonl"))?;
    let header: serde_json::Value = serde_json::from_str(record.lines().next().unwrap_or_default())?;
    let node = header.pointer("/header/nodes/0").or_else(|| header.pointer("/nodes/0")).cloned().unwrap_or_default();
    let offender = format!("\n[[offender]]\nnode = {node}\ncodes = [\"MEM-001\"]\non = [\"2026-01-02T03:04:05Z\"]\n");
    std::fs::write(dir.0.path().join("base.toml"), format!("{text}{offender}"))?;
    let judged = dir.run(&["judge", "a", "--baseline", "base.toml"])?;
    assert!(judged.out.contains("LEM-001") && judged.out.contains("last on 2026-01-02: MEM-001"), "{}", judged.out);
    let again = dir.run(&["baseline", "learn", "a", "b", "c", "-o", "base.toml"])?;
    assert!(again.code == 0 && again.out.contains("who failed, now or before: "), "{} {}", again.out, again.err);
    assert!(std::fs::read_to_string(dir.0.path().join("base.toml"))?.contains("2026-01-02T03:04:05Z"));
    // A file that is no baseline is not written over.
    std::fs::write(dir.0.path().join("notes.toml"), "[my]\nnotes = 1\n")?;
    let refused = dir.run(&["baseline", "learn", "a", "b", "c", "-o", "notes.toml"])?;
    assert_eq!(
        (refused.code, std::fs::read_to_string(dir.0.path().join("notes.toml"))?.as_str()),
        (3, "[my]\nnotes = 1\n")
    );
    Ok(())
}

#[test]
fn completions_and_man_pages_are_made() -> Result {
    let dir = Dir::new()?;
    for (shell, holds) in [("bash", "complete -F _gonogo"), ("zsh", "#compdef gonogo"), ("fish", "complete -c gonogo")]
    {
        let made = dir.run(&["completions", shell])?;
        assert!(made.code == 0 && made.out.contains(holds), "{shell}: {}", made.err);
    }
    assert_eq!(dir.run(&["man", "man1"])?.code, 0);
    let page = std::fs::read_to_string(dir.0.path().join("man1/gonogo-check.1"))?;
    assert!(page.contains(".TH") && page.contains("budget"), "{page}");
    Ok(())
}

/// The line that begins so, replaced.
fn replace_line(text: &str, begins: &str, with: &str) -> String {
    text.lines().map(|l| if l.starts_with(begins) { with } else { l }).map(|l| format!("{l}\n")).collect()
}

/// Libraries that do what libraries must not, where the loader finds them first: each is named, and the promise of five seconds holds.
#[test]
fn a_library_that_hangs_crashes_or_is_junk_is_named() -> Result {
    let dir = Dir::new()?;
    let path = |name: &str| dir.0.path().join(name);
    for (name, body) in [
        ("libmpi.so.40", "for (;;) pause();"),
        ("libucp.so.0", "*(volatile int *)0 = 1;"),
        // It prints what looks like an answer, and more than a pipe holds.
        (
            "libgdrapi.so.2",
            "puts(\"gonogo-loaded {}\"); for (int i = 0; i < 100000; i++) puts(\"noise\"); fflush(stdout);",
        ),
    ] {
        let source = format!(
            "#include <stdio.h>\n#include <unistd.h>\n__attribute__((constructor)) static void start(void) {{ {body} }}\n\
             void gdr_runtime_get_version(int *a, int *b) {{ *a = 2; *b = 4; }}\n"
        );
        std::fs::write(path("x.c"), source)?;
        let soname = format!("-Wl,-soname,{name}");
        let made =
            Command::new("cc").args(["-shared", "-fPIC", &soname, "-o"]).arg(path(name)).arg(path("x.c")).status();
        if !made.is_ok_and(|s| s.success()) {
            skip::skip(true, "no C compiler");
            return Ok(());
        }
    }
    std::fs::write(path("libnccl.so.2"), "this is no library\n")?;
    assert!(Command::new("mkfifo").arg(path("libcudart.so.12")).status()?.success());
    let start = std::time::Instant::now();
    let run = done(
        dir.command(&["check", "--tier", "image", "--format", "json", "--quiet"])
            .env("LD_LIBRARY_PATH", dir.0.path())
            .output()?,
    );
    assert!(start.elapsed().as_secs_f64() < 8.0, "{:?}", start.elapsed());
    let report: serde_json::Value = serde_json::from_str(&run.out)?;
    let findings = report["findings"].to_string();
    assert_eq!(run.code, 1, "{findings}");
    for said in [
        "libmpi.so.40: loading it did not end in 2 s",
        "libucp.so.0: the process that loads it is killed by SIGSEGV",
        "libnccl.so.2: no shared library",
    ] {
        assert!(findings.contains(said), "{said}: {findings}");
    }
    let software = report["software"].to_string();
    assert!(software.contains("\"version\":\"2.4\"") && !software.contains("libcudart"), "{software}");
    Ok(())
}

#[test]
fn a_forecast_tells_days_interruptions_and_how_often_to_save() -> Result {
    let dir = Dir::new()?;
    fs::write(dir.path("run.toml"), include_str!("fixtures/plans/worked-70b.toml"))?;
    let d = dir.run(&["forecast", "--plan", "run.toml"])?;
    assert_eq!(d.code, 0, "{}", d.err);
    let text = d.out.split_whitespace().collect::<Vec<_>>().join(" ");
    for want in [
        "48.9 days (46.4 to 78.7 days) for 42.5 days of computing; 95 interruptions are to be expected (79 to 111)",
        "saving every 26.9 min instead of 3.00 h takes 4.21 days less",
        "6 spare nodes are enough in 99 of 100 moments",
        "none of this says that there will be none",
    ] {
        assert!(text.contains(want), "{want} in\n{}", d.out);
    }
    assert!(d.out.lines().all(|l| l.chars().count() <= 100), "{}", d.out);
    let json = dir.run(&["forecast", "--plan", "run.toml", "--format", "json"])?;
    assert!(serde_json::from_str::<serde_json::Value>(&json.out)?["rows"].is_array());
    // What is missing is named, and where to put it.
    for (plan, want) in [
        ("", "total_steps and step_time"),
        ("[model]\nparameters = 1e9\ntokens = 1e12\n[nodes]\nneeded = 4\ngpus_per_node = 8\n", "[forecast] tflops"),
        ("[forecast]\nfailures = 3\n", "run.toml:2:1: `failures` needs `node_days`"),
        ("[forecast]\nfailures = 3\nnode_days = 1\nfailures_per_node_day = 1\n", "two rates"),
    ] {
        fs::write(dir.path("run.toml"), format!("{plan}\n"))?;
        let d = dir.run(&["forecast", "--plan", "run.toml"])?;
        assert!(d.code == 3 && (d.err.contains(want) || plan.is_empty()), "{plan}: {}", d.err);
    }
    assert_eq!(dir.run(&["forecast"])?.code, 3);
    // The sentence stands in every report with a plan that says enough.
    fs::write(dir.path("run.toml"), "[nodes]\nneeded = 1\n[checkpoint]\nrun_time = \"30d\"\n")?;
    let check = dir.run(&["check", "--only", "environment", "--plan", "run.toml", "--quiet", "--out", "rec"])?;
    assert!(check.out.contains("forecast  30.0 days"), "{}", check.out);
    assert_eq!(dir.run(&["forecast", "rec"])?.code, 0);
    Ok(())
}
