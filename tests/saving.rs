//! The rehearsed save, end to end, and what a file system does wrong under it: faults by a library that stands between the binary and
//! the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

mod run;
mod world;

use run::{Dir, Done, Result, done};
use world::{World, against, end};

/// 16 MiB in eight files, every ten minutes.
const PLAN: &str = "size = \"16 MiB\"\nfiles = 8\ninterval = \"10m\"\nrun_time = \"1d\"\n";

struct Saving {
    dir: Dir,
    ckpt: PathBuf,
}

impl Saving {
    fn new(plan: &str) -> Result<Self> {
        let dir = Dir::new()?;
        let ckpt = dir.path("ckpt");
        fs::create_dir(&ckpt)?;
        fs::write(dir.path("run.toml"), format!("[checkpoint]\ndir = {:?}\n{PLAN}{plan}", ckpt.display()))?;
        Ok(Saving { dir, ckpt })
    }

    /// A check of the probe, under a fault if one is named.
    fn check(&self, fault: Option<&str>) -> Result<Done> {
        let plan = ["check", "--plan", "run.toml", "--only", "checkpoint", "--quiet", "--budget", "8s", "--out", "rec"];
        let mut gonogo = self.dir.command(&plan);
        if let Some(fault) = fault {
            gonogo.env("LD_PRELOAD", library(self.dir.0.path())?).env("FAULT", fault);
        }
        let mut end = done(gonogo.output()?);
        // Lines are broken for people.
        end.out = end.out.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(end)
    }
}

/// The faults, compiled by the C compiler that links this test.
fn library(dir: &Path) -> Result<PathBuf> {
    let (source, library) = (dir.join("faults.c"), dir.join("faults.so"));
    fs::write(&source, include_str!("fixtures/faults.c"))?;
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status()?;
    assert!(built.success());
    Ok(library)
}

#[test]
fn a_save_is_rehearsed_read_back_and_leaves_nothing() -> Result {
    let saving = Saving::new("stall_budget = 0.5\nrestore_budget = \"5m\"\n")?;
    let check = saving.check(None)?;
    for part in ["save n=1", "restore n=1", "2 cases planned, 2 measured"] {
        assert!(check.out.contains(part), "{part} is not in\n{}", check.out);
    }
    assert!(!check.out.contains("FAIL") && check.code != 4, "{}\n{}", check.out, check.err);
    assert_eq!(fs::read_dir(&saving.ckpt)?.count(), 0);
    let record = fs::read_to_string(saving.dir.path("rec/record.jsonl"))?;
    // Files as large as those of the plan.
    assert!(record.contains("2 files of 2 MiB, fsync after each"), "{record}");
    assert!(record.contains("\"detail\":\"0 of "), "{record}");
    Ok(())
}

#[test]
fn an_asynchronous_save_stages_and_drains() -> Result {
    let saving = Saving::new("mode = \"async\"\nstall_budget = 0.5\n")?;
    let check = saving.check(None)?;
    assert!(check.out.contains("stage") && check.out.contains("drain"), "{}", check.out);
    assert!(!check.out.contains("STO-029") && !check.out.contains("STO-033"), "{}", check.out);
    Ok(())
}

#[test]
fn bytes_that_come_back_different_are_wrong_at_any_speed() -> Result {
    let saving = Saving::new("")?;
    let check = saving.check(Some("flip"))?;
    assert_eq!(check.code, 1, "{}\n{}", check.out, check.err);
    assert!(check.out.contains("STO-001") && check.out.contains("pages came back different"), "{}", check.out);
    Ok(())
}

#[test]
fn a_disk_that_syncs_slowly_is_held_against_the_budget() -> Result {
    let saving = Saving::new("stall_budget = 0.0001\n")?;
    let check = saving.check(Some("slow"))?;
    // What is slow on a machine that others use is open.
    let told = if check.out.contains("STO-029") { 1 } else { 2 };
    assert!(told == 1 || check.out.contains("VAL-002"), "{}", check.out);
    assert_eq!(check.code, told, "{}\n{}", check.out, check.err);
    Ok(())
}

#[test]
fn a_plan_that_contradicts_itself_is_refused_at_the_door() -> Result {
    let saving = Saving::new("staging_copies = 2\n")?;
    let check = saving.dir.run(&["check", "--plan", "run.toml"])?;
    assert!(check.code == 3 && check.err.contains("run.toml:7:1: `staging_copies` is of"), "{}", check.err);
    Ok(())
}

#[test]
fn a_quota_is_told_by_whose_it_is() -> Result {
    let saving = Saving::new("keep = 8\n")?;
    let mut gonogo = saving.dir.command(&["check", "--plan", "run.toml", "--only", "storage", "--quiet"]);
    gonogo.env("LD_PRELOAD", library(saving.dir.0.path())?).env("FAULT", "quota");
    let check = done(gonogo.output()?);
    assert_eq!(check.code, 1, "{}\n{}", check.out, check.err);
    assert!(check.out.contains("STO-031") && check.out.contains("the quota of user"), "{}", check.out);
    assert!(check.out.contains("leaves 100 MiB of 200 MiB"), "{}", check.out);
    Ok(())
}

#[test]
fn a_disk_that_is_full_in_the_middle_is_said_and_nothing_stays() -> Result {
    for fault in ["full", "broken"] {
        let saving = Saving::new("")?;
        let check = saving.check(Some(fault))?;
        let (exit, code) = if fault == "full" { (1, "STO-026") } else { (2, "RUN-004") };
        assert_eq!(check.code, exit, "{}\n{}", check.out, check.err);
        assert!(check.out.contains(code) && check.out.contains("saving to"), "{fault}: {}", check.out);
        assert_eq!(fs::read_dir(&saving.ckpt)?.count(), 0, "{fault}");
    }
    Ok(())
}

/// Three agents with a plan and a directory of their own.
fn three(plan: &str) -> Result<(World, PathBuf)> {
    let w = World::new(3)?;
    let ckpt = w.dir.path().join("ckpt");
    fs::create_dir(&ckpt)?;
    fs::write(w.dir.path().join("run.toml"), format!("[checkpoint]\ndir = {:?}\n{PLAN}{plan}", ckpt.display()))?;
    Ok((w, ckpt))
}

/// What three agents on one machine say of each other's network is no matter of this.
const ALL: [&str; 6] = ["--only", "checkpoint", "--skip", "tcp", "--plan", "run.toml"];

#[test]
fn nodes_save_together_and_read_what_others_wrote() -> Result {
    let (w, ckpt) = three("")?;
    // What one of them reads comes to it with a bit turned.
    let faulty = || -> Result<_> {
        let mut c = w.command(1, &ALL);
        Ok(c.env("LD_PRELOAD", library(w.dir.path())?).env("FAULT", "flip").spawn()?)
    };
    for wrong in [false, true] {
        let others = [if wrong { faulty()? } else { w.start(1, &ALL)? }, w.start(2, &ALL)?];
        let (code, report, err) = end(w.start(0, &ALL)?)?;
        let metrics = report["metrics"].as_array().cloned().unwrap_or_default();
        let rate = |case: &str| metrics.iter().any(|m| m["case"] == case && m["median"].as_f64() > Some(0.0));
        assert!(rate("save n=3") && rate("restore n=3"), "{err} {report}");
        let told = report.to_string();
        assert_eq!(told.contains("STO-001"), wrong, "{told}");
        assert!(!wrong || code == 1 && told.contains("came back different, read by"), "{code} {told}");
        for other in others {
            assert_eq!(end(other)?.0, code);
        }
        assert_eq!(fs::read_dir(&ckpt)?.count(), 0);
        fs::remove_dir_all(w.dir.path().join("rec-0"))?;
    }
    Ok(())
}

/// What one node meets, the gate holds against all, by the code that it has on one machine.
#[test]
fn what_a_node_cannot_write_or_see_is_told_of_all() -> Result {
    for (fault, exit, code, says) in [("full", 1, "STO-026", "saving to"), ("blind", 1, "STO-041", "is not seen on")] {
        let (w, ckpt) = three("restore_budget = \"5m\"\n")?;
        let mut c = w.command(1, &ALL);
        let one = c.env("LD_PRELOAD", library(w.dir.path())?).env("FAULT", fault).spawn()?;
        let others = [one, w.start(2, &ALL)?];
        let (got, report, err) = end(w.start(0, &ALL)?)?;
        let told = against(&report);
        assert!(told.iter().any(|f| f.starts_with(code)), "{fault}: {told:?} {err}");
        assert!(got == exit && report.to_string().contains(says), "{fault}: {got} {report}");
        for other in others {
            assert_eq!(end(other)?.0, got, "{fault}");
        }
        assert_eq!(fs::read_dir(&ckpt)?.count(), 0, "{fault}");
    }
    Ok(())
}

#[test]
fn a_node_that_dies_while_it_saves_is_named_and_nothing_hangs() -> Result {
    let (w, ckpt) = three("")?;
    let long: Vec<&str> = ALL.into_iter().chain(["--tier", "standard", "--budget", "16s"]).collect();
    let (one, mut two) = (w.start(1, &long)?, w.start(2, &long)?);
    let zero = w.start(0, &long)?;
    // Its folder says that it is about to save.
    let until = Instant::now() + Duration::from_secs(20);
    while fs::read_dir(&ckpt)?.count() < 3 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(fs::read_dir(&ckpt)?.count(), 3);
    two.kill()?;
    two.wait()?;
    let (code, report, err) = end(zero)?;
    assert_eq!(code, 1, "{err}");
    let told = against(&report);
    assert!(told.iter().any(|f| f.starts_with("CLU-002") && f.contains("#2")), "{told:?}");
    assert_eq!(end(one)?.0, code);
    Ok(())
}
