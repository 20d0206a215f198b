//! The rehearsed save, end to end, and what a file system does wrong under it: faults by a library that stands between the binary and
//! the kernel.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

mod run;

use run::{Dir, Done, Result, done};

/// 64 MiB in eight files, every ten minutes.
const PLAN: &str = "size = \"64 MiB\"\nfiles = 8\ninterval = \"10m\"\nrun_time = \"1d\"\nkeep = 1\n";

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
        let plan = ["check", "--plan", "run.toml", "--only", "checkpoint,storage", "--quiet", "--out", "rec"];
        let mut gonogo = self.dir.command(&plan);
        if let Some(fault) = fault {
            gonogo.env("LD_PRELOAD", self.library()?).env("FAULT", fault);
        }
        let mut end = done(gonogo.output()?);
        // Lines are broken for people.
        end.out = end.out.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(end)
    }

    /// The faults, compiled where the C compiler is that links this test.
    fn library(&self) -> Result<PathBuf> {
        let (source, library) = (self.dir.path("faults.c"), self.dir.path("faults.so"));
        fs::write(&source, include_str!("fixtures/faults.c"))?;
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status()?;
        assert!(built.success());
        Ok(library)
    }
}

#[test]
fn a_save_is_rehearsed_read_back_and_leaves_nothing() -> Result {
    let saving = Saving::new("stall_budget = 0.5\nrestore_budget = \"5m\"\n")?;
    let check = saving.check(None)?;
    for part in ["save n=1", "restore n=1", "7 cases planned, 7 measured"] {
        assert!(check.out.contains(part), "{part} is not in\n{}", check.out);
    }
    assert!(!check.out.contains("FAIL") && check.code != 4, "{}\n{}", check.out, check.err);
    assert_eq!(fs::read_dir(&saving.ckpt)?.count(), 0);
    let record = fs::read_to_string(saving.dir.path("rec/record.jsonl"))?;
    // Files as large as those of the plan.
    assert!(record.contains("2 files of 8 MiB, fsync after each"), "{record}");
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
    assert_eq!(check.code, 1, "{}\n{}", check.out, check.err);
    assert!(check.out.contains("STO-029"), "{}", check.out);
    Ok(())
}

#[test]
fn a_quota_is_told_by_whose_it_is() -> Result {
    let saving = Saving::new("")?;
    let check = saving.check(Some("quota"))?;
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
