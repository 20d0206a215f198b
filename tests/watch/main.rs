//! `gonogo watch`: saves of a trainer, small and real, on real file systems.

mod interleave;
mod lab;
#[path = "../run/mod.rs"]
mod run;
#[path = "../skip/mod.rs"]
mod skip;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{Lab, Watching, until};
use run::{Result, done};

#[test]
fn finished_checkpoints_move_and_the_newest_stay() -> Result {
    let lab = Lab::new("milestone_steps = 2000")?;
    let trainer = lab.trainer(3, 50_000);
    let watch = lab.start()?;
    for step in [500, 1000, 1500, 2000, 2500, 3000] {
        trainer.save(step)?;
        std::thread::sleep(Duration::from_millis(60));
    }
    until("three moved", || ["500", "1000", "1500"].iter().all(|s| !lab.hot.join(format!("global_step{s}")).exists()));
    let done = watch.end()?;
    for step in [500, 1000, 1500] {
        assert!(trainer.is_whole(&lab.cold, &format!("global_step{step}"), step), "{step}");
    }
    // The milestone, and the newest two.
    for step in [2000, 2500, 3000] {
        assert!(trainer.is_whole(&lab.hot, &format!("global_step{step}"), step), "{step}");
    }
    let json = lab.report()?;
    assert!(done.out.contains("moved to cold"), "{}{}", done.out, done.err);
    assert_eq!(json["decision"], "go", "{json}");
    let journal = lab.journal();
    for event in ["\"began\"", "\"save\"", "\"move_began\"", "\"moved\"", "\"ended\""] {
        assert!(journal.contains(event), "{event} in {journal}");
    }
    Ok(())
}

/// Steps that are killed are each at another place: before, in, and after the copy, its proof, its name and the removal.
#[test]
fn killed_at_any_time_it_loses_nothing() -> Result {
    let kills: u32 = std::env::var("GONOGO_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(80);
    let lab = Lab::new("")?;
    let trainer = lab.trainer(4, 200_000);
    let mut steps = Vec::new();
    let mut rng = fastrand::Rng::with_seed(17);
    for round in 0..kills {
        if lab.hot.read_dir()?.count() < 9 {
            let step = 500 * (steps.len() as u64 + 1);
            trainer.save(step)?;
            steps.push(step);
        }
        let watch = lab.start()?;
        // Moves begin at the third look.
        std::thread::sleep(Duration::from_micros(rng.u64(20_000..110_000)));
        watch.kill()?;
        for step in &steps {
            trainer.assert_kept(&lab.cold, *step, &format!("after kill {round}"));
        }
    }
    let watch = lab.start()?;
    let left = |name: &str| {
        let own = |e: &fs::DirEntry| {
            let name = e.file_name();
            let name = name.to_string_lossy();
            name.starts_with(".gonogo-") && !name.ends_with(".lock")
        };
        fs::read_dir(lab.dir.path(name)).is_ok_and(|d| d.flatten().any(|e| own(&e)))
    };
    let hot = || fs::read_dir(&lab.hot).map_or(0, |d| d.flatten().filter(|e| e.path().is_dir()).count());
    until("all but the newest two are moved", || hot() == 2 && !left("hot") && !left("cold"));
    watch.end()?;
    for step in &steps {
        trainer.assert_kept(&lab.cold, *step, "at the end");
    }
    let moved = lab.journal().matches("\"moved\"").count();
    assert!(steps.len() >= 4 && moved > 0, "{} saves, {moved} moved: nothing was tried", steps.len());
    Ok(())
}

#[test]
fn one_watch_at_a_directory() -> Result {
    let lab = Lab::new("")?;
    let watch = lab.start()?;
    until("it watches", || lab.journal().contains("began"));
    let second = done(lab.command().output()?);
    assert_eq!(second.code, 3, "{}", second.err);
    assert!(second.err.contains("another gonogo watches"), "{}", second.err);
    // A glance disturbs nobody.
    assert_eq!(lab.dir.run(&["watch", "--plan", "run.toml", "--once"])?.code, 2, "nothing is known of the size");
    watch.end()?;
    Ok(())
}

#[test]
fn once_answers_by_its_exit_code() -> Result {
    let lab = Lab::new("")?;
    let answer = |size: &str| {
        lab.plan(&format!("size = \"{size}\""), "")?;
        lab.dir.run(&["watch", "--plan", "run.toml", "--once"])
    };
    let fits = answer("1 KiB")?;
    assert_eq!(fits.code, 0, "{}", fits.out);
    let too_large = answer("4000 TiB")?;
    assert_eq!(too_large.code, 1, "{}", too_large.out);
    assert!(
        too_large.out.contains("STO-050") && too_large.out.starts_with("NO-GO  the next save of 3.91 PiB"),
        "{}",
        too_large.out
    );
    let unknown = lab.dir.run(&["watch", "hot", "--once"])?;
    assert_eq!((unknown.code, unknown.out.contains("not known yet")), (2, true), "{}", unknown.out);
    let nowhere = lab.dir.run(&["watch", "nowhere", "--once"])?;
    assert_eq!((nowhere.code, nowhere.err.contains("nowhere")), (3, true), "{}", nowhere.err);
    Ok(())
}

#[test]
fn the_alarm_is_raised_once_and_runs_the_plans_command() -> Result {
    let lab = Lab::new("")?;
    let hook = "on_alarm = [\"sh\", \"-c\", \"echo $GONOGO_ALARM $GONOGO_TEXT >> told\"]";
    lab.plan("size = \"4000 TiB\"", hook)?;
    let watch = lab.start()?;
    until("the command ran", || lab.dir.path("told").exists());
    std::thread::sleep(Duration::from_millis(200));
    let done = watch.end()?;
    let told = fs::read_to_string(lab.dir.path("told"))?;
    assert!(told.starts_with("STO-050 ") && told.lines().count() == 1, "{told}");
    assert_eq!(done.code, 1, "{}", done.out);
    assert!(done.err.contains("FAIL STO-050") && done.err.matches("STO-050").count() == 1, "{}", done.err);
    Ok(())
}

#[test]
fn what_is_not_known_to_be_complete_stays() -> Result {
    let lab = Lab::new("")?;
    let trainer = lab.trainer(2, 10_000);
    // Two that never completed: the pointer was never written, and a file of one is missing.
    for step in [500, 1000, 1500, 2000, 2500] {
        trainer.save(step)?;
        if step == 1000 {
            fs::remove_file(lab.hot.join("global_step1000/mp_rank_01_model_states.pt"))?;
        }
        if step == 1500 {
            fs::write(lab.hot.join("global_step1500/zero.pt.tmp"), "x")?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // Directories that are no checkpoints, and one whose layout says nothing.
    fs::create_dir(lab.hot.join("tensorboard"))?;
    fs::create_dir(lab.hot.join("step-7"))?;
    fs::write(lab.hot.join("step-7/model.bin"), "weights")?;
    let watch = lab.start()?;
    until("the first moved", || !lab.hot.join("global_step500").exists());
    std::thread::sleep(Duration::from_millis(300));
    watch.end()?;
    for stays in ["global_step1000", "global_step1500", "global_step2000", "global_step2500", "step-7", "tensorboard"] {
        assert!(lab.hot.join(stays).exists(), "{stays} was moved");
    }
    let json = lab.report()?;
    let evidence = |code: &str| {
        let all = json["findings"].as_array().cloned().unwrap_or_default();
        let of = all.iter().find(|f| f["code"] == code);
        of.map_or(String::new(), |f| f["evidence"].as_str().unwrap_or_default().to_owned())
    };
    assert!(evidence("STO-056").contains("step-7"), "{json}");
    assert!(evidence("STO-052").contains("global_step1500"), "{json}");
    Ok(())
}

#[test]
fn a_rewound_run_keeps_both_versions_of_a_step() -> Result {
    let lab = Lab::new("")?;
    let first = lab.trainer(2, 20_000);
    let watch = lab.start()?;
    for step in [500, 1000, 1500, 2000] {
        first.save(step)?;
        std::thread::sleep(Duration::from_millis(60));
    }
    until("two moved", || !lab.hot.join("global_step1000").exists());
    // Resumed from 500, it comes to 1000 again, with other weights.
    let second = lab.trainer(2, 30_000);
    for step in [1000, 1500, 2000, 2500] {
        let _ = fs::remove_dir_all(lab.hot.join(format!("global_step{step}")));
        second.save(step)?;
        std::thread::sleep(Duration::from_millis(60));
    }
    until("the new 1000 is cold", || second.is_whole(&lab.cold, "global_step1000", 1000));
    watch.end()?;
    let replaced = fs::read_dir(&lab.cold)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let replaced: Vec<String> = replaced.filter(|n| n.starts_with("global_step1000.replaced-")).collect();
    assert_eq!(replaced.len(), 1, "{replaced:?}");
    assert!(first.is_whole(&lab.cold, &replaced[0], 1000), "the first version is kept as it was");
    Ok(())
}

#[test]
fn a_copy_that_differs_is_found_and_nothing_is_removed() -> Result {
    let lab = Lab::new("rate = \"4 MB/s\"")?;
    let trainer = lab.trainer(1, 8_000_000);
    trainer.saves(&[500, 1000, 1500])?;
    let watch = lab.start()?;
    // A cold place that does not keep what it was given: the first bytes change while the rest still comes.
    let part = lab.cold.join(".gonogo-part.global_step500/mp_rank_00_model_states.pt");
    until("the copy is under way", || fs::metadata(&part).is_ok_and(|m| m.len() >= 2 << 20));
    use std::os::unix::fs::FileExt;
    fs::OpenOptions::new().write(true).open(&part)?.write_all_at(b"not what was written", 4096)?;
    until("it was noticed", || lab.journal().contains("STO-053"));
    let done = watch.end()?;
    assert!(trainer.is_whole(&lab.hot, "global_step500", 500), "the hot one stays");
    assert!(!lab.cold.join("global_step500").exists(), "a bad copy has no name");
    assert!(done.err.contains("STO-053"), "{}", done.err);
    Ok(())
}

#[test]
fn a_stopped_copy_goes_on_where_it_was() -> Result {
    let lab = Lab::new("rate = \"8 MB/s\"")?;
    let trainer = lab.trainer(12, 500_000);
    trainer.saves(&[500, 1000, 1500])?;
    let part = lab.cold.join(".gonogo-part.global_step500");
    let copied = || -> Vec<String> {
        let names = fs::read_dir(&part).into_iter().flatten().flatten();
        let whole = names.filter(|e| e.metadata().is_ok_and(|m| m.len() == 500_000));
        whole.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    let watch = lab.start()?;
    until("four files are copied", || copied().len() >= 4);
    let stopped = watch.end()?;
    assert_eq!(stopped.code, 0, "{}{}", stopped.out, stopped.err);
    assert!(trainer.is_whole(&lab.hot, "global_step500", 500) && !lab.cold.join("global_step500").exists());
    // One of them is spoilt meanwhile, with its size and times as they were; one is a link now.
    use std::os::unix::fs::{FileExt, MetadataExt};
    let (names, inode) = (copied(), |path: PathBuf| fs::metadata(path).map(|m| m.ino()).ok());
    let kept = inode(part.join(&names[0]));
    let spoilt = part.join(&names[1]);
    let times = fs::metadata(&spoilt)?.modified()?;
    let file = fs::OpenOptions::new().write(true).open(&spoilt)?;
    file.write_all_at(b"CORRUPT!", 100)?;
    file.set_modified(times)?;
    fs::remove_file(part.join(&names[2]))?;
    fs::write(lab.dir.path("victim"), "precious")?;
    std::os::unix::fs::symlink(lab.dir.path("victim"), part.join(&names[2]))?;
    let watch = lab.start()?;
    until("it is moved", || !lab.hot.join("global_step500").exists());
    watch.end()?;
    assert_eq!(kept, inode(lab.cold.join("global_step500").join(&names[0])), "copied again");
    assert!(trainer.is_whole(&lab.cold, "global_step500", 500), "a spoilt part is not taken for a copy");
    assert_eq!(fs::read_to_string(lab.dir.path("victim"))?, "precious");
    Ok(())
}

#[test]
fn the_newest_stay_whatever_happens_while_one_is_copied() -> Result {
    let lab = Lab::new("rate = \"4 MB/s\"")?;
    let trainer = lab.trainer(1, 2_000_000);
    trainer.saves(&[500, 1000, 1500])?;
    let watch = lab.start()?;
    until("the copy is under way", || lab.journal().contains("move_began"));
    // The run is rewound: the later ones go, and the first is what it resumes from.
    fs::write(lab.hot.join("latest"), "global_step500")?;
    fs::remove_dir_all(lab.hot.join("global_step1000"))?;
    fs::remove_dir_all(lab.hot.join("global_step1500"))?;
    until("it was thought over", || lab.journal().contains("may not be removed any more"));
    watch.end()?;
    assert!(trainer.is_whole(&lab.hot, "global_step500", 500), "{}", lab.journal());
    Ok(())
}

#[test]
fn a_clock_that_jumps_does_not_make_old_ones_new() -> Result {
    let lab = Lab::new("")?;
    let save = |step: u64, ahead: u64| -> Result {
        let folder = lab.hot.join(format!("checkpoint-{step}"));
        fs::create_dir(&folder)?;
        for file in ["model.bin", "trainer_state.json"] {
            fs::write(folder.join(file), "x")?;
            let at = std::time::SystemTime::now() + Duration::from_secs(ahead);
            fs::File::options().write(true).open(folder.join(file))?.set_modified(at)?;
        }
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    };
    for step in [500, 1000] {
        save(step, 30 * 86_400)?;
    }
    for step in [1500, 2000, 2500] {
        save(step, 0)?;
    }
    let watch = lab.start()?;
    until("one moved", || !lab.hot.join("checkpoint-1500").exists());
    std::thread::sleep(Duration::from_millis(400));
    watch.end()?;
    for stays in [2000, 2500] {
        assert!(lab.hot.join(format!("checkpoint-{stays}")).exists(), "{stays} is the newest by its step");
    }
    Ok(())
}

#[test]
fn places_that_are_one_or_another_runs_are_refused() -> Result {
    let lab = Lab::new("")?;
    let refused = |want: &str| -> Result {
        let done = done(lab.command().output()?);
        assert!(done.code == 3 && done.err.contains(want), "{want}: {}", done.err);
        Ok(())
    };
    fs::remove_dir(&lab.cold)?;
    std::os::unix::fs::symlink("hot", &lab.cold)?;
    refused("is the checkpoint directory itself")?;
    fs::remove_file(&lab.cold)?;
    refused("cannot use the cold place")?;
    fs::create_dir(&lab.cold)?;
    fs::create_dir(lab.dir.path("outside"))?;
    std::os::unix::fs::symlink("../outside", lab.cold.join(".gonogo"))?;
    refused("is no folder")?;
    fs::remove_file(lab.cold.join(".gonogo"))?;
    // Another run's checkpoints have the same names.
    fs::create_dir_all(lab.cold.join(".gonogo"))?;
    fs::write(lab.cold.join(".gonogo/owner"), "/other/run\n0123456789abcdef\n")?;
    refused("holds the checkpoints of /other/run")?;
    // The same path on another node.
    fs::write(lab.cold.join(".gonogo/owner"), format!("{}\n0123456789abcdef\n", lab.hot.canonicalize()?.display()))?;
    refused("on another node, or of another time")?;
    fs::remove_file(lab.cold.join(".gonogo/owner"))?;
    fs::remove_file(lab.hot.join(".gonogo-watch.lock"))?;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        lab.hot.join(".gonogo-watch.lock"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )?;
    refused("watch.lock is no file")?;
    Ok(())
}

#[test]
fn what_was_left_without_a_copy_is_told_and_never_removed() -> Result {
    let lab = Lab::new("")?;
    let trainer = lab.trainer(1, 1000);
    trainer.saves(&[500, 1000, 1500])?;
    for left in [".gonogo-removing.1.global_step400", ".gonogo-moved.1.global_step1500"] {
        fs::create_dir(lab.hot.join(left))?;
        fs::write(lab.hot.join(left).join("a.pt"), "weights")?;
    }
    fs::create_dir(lab.hot.join(".gonogo-moved.1.global_step300"))?;
    let watch = lab.start()?;
    until("one moved", || !lab.hot.join("global_step500").exists());
    let done = watch.end()?;
    for left in [".gonogo-removing.1.global_step400", ".gonogo-moved.1.global_step1500"] {
        assert!(lab.hot.join(left).join("a.pt").exists() && done.out.contains(left), "{left}: {}", done.out);
    }
    assert!(lab.hot.join("global_step300").exists(), "it has its name again");
    Ok(())
}

#[test]
fn a_pointer_that_is_being_written_protects_all() -> Result {
    let lab = Lab::new("rate = \"4 MB/s\"")?;
    let trainer = lab.trainer(1, 2_000_000);
    trainer.saves(&[500, 1000, 1500])?;
    // Somebody means the second by a link.
    std::os::unix::fs::symlink("global_step1000", lab.hot.join("best"))?;
    let watch = lab.start()?;
    until("the copy is under way", || lab.journal().contains("move_began"));
    fs::write(lab.hot.join("latest"), "")?;
    until("it was thought over", || lab.journal().contains("may not be removed any more"));
    assert!(trainer.is_whole(&lab.hot, "global_step500", 500));
    trainer.save(2000)?;
    until("the first goes", || !lab.hot.join("global_step500").exists());
    trainer.save(2500)?;
    until("the third goes", || !lab.hot.join("global_step1500").exists());
    watch.end()?;
    assert!(trainer.is_whole(&lab.hot, "global_step1000", 1000), "what a link leads to stays");
    Ok(())
}

#[test]
fn a_pointer_that_names_no_step_is_told() -> Result {
    let lab = Lab::new("")?;
    let trainer = lab.trainer(1, 1000);
    for step in [500, 1000, 1500] {
        trainer.save(step)?;
    }
    fs::write(lab.hot.join("latest"), "best-so-far")?;
    let watch = lab.start()?;
    until("it is told", || lab.journal().contains("names no step"));
    let done = watch.end()?;
    assert!(trainer.is_whole(&lab.hot, "global_step500", 500) && done.out.contains("STO-057"), "{}", done.out);
    Ok(())
}

#[test]
fn what_lies_in_the_cold_place_is_no_proof_by_its_name() -> Result {
    let lab = Lab::new("")?;
    let trainer = lab.trainer(2, 10_000);
    trainer.saves(&[500, 1000, 1500])?;
    let watch = lab.start()?;
    until("it is moved", || !lab.hot.join("global_step500").exists());
    watch.end()?;
    // Somebody brings it back and leaves a link: the copy is the original itself.
    fs::rename(lab.cold.join("global_step500"), lab.hot.join("global_step500"))?;
    std::os::unix::fs::symlink(lab.hot.join("global_step500"), lab.cold.join("global_step500"))?;
    let watch = lab.start()?;
    until("it is told", || lab.journal().contains("STO-054") && lab.journal().contains("is in the way"));
    watch.end()?;
    assert!(trainer.is_whole(&lab.hot, "global_step500", 500));
    // A copy that rotted is put aside, and the next is made of what is here.
    fs::remove_file(lab.cold.join("global_step500"))?;
    fs::create_dir(lab.cold.join("global_step500"))?;
    fs::write(lab.cold.join("global_step500/mp_rank_00_model_states.pt"), "rotten")?;
    let watch = lab.start()?;
    until("it is moved again", || !lab.hot.join("global_step500").exists());
    watch.end()?;
    assert!(trainer.is_whole(&lab.cold, "global_step500", 500) && lab.journal().contains("STO-053"));
    Ok(())
}

#[test]
fn names_and_links_of_every_kind() -> Result {
    use std::os::unix::ffi::OsStringExt;
    let lab = Lab::new("")?;
    let trainer = lab.trainer(1, 1000);
    for step in [500, 1000, 1500, 2000] {
        let folder = lab.hot.join(format!("global_step{step}"));
        fs::create_dir_all(folder.join("a b"))?;
        fs::write(folder.join("a b/with\nnewline"), format!("{step}"))?;
        fs::write(folder.join(std::ffi::OsString::from_vec(b"no\xfftext".to_vec())), format!("{step}"))?;
        std::os::unix::fs::symlink("a b/with\nnewline", folder.join("link"))?;
        if step == 1000 {
            std::os::unix::fs::symlink("../../secret", folder.join("a b/out"))?;
        }
        trainer.save(step)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    // Not the watcher's to follow: a link that looks like a checkpoint.
    std::os::unix::fs::symlink("global_step2000", lab.hot.join("global_step2500"))?;
    let watch = lab.start()?;
    until("the first moved", || !lab.hot.join("global_step500").exists());
    until("the second is told", || lab.journal().contains("STO-057"));
    watch.end()?;
    let moved = lab.cold.join("global_step500");
    assert_eq!(fs::read_to_string(moved.join("link"))?, "500");
    assert!(fs::symlink_metadata(moved.join("link"))?.is_symlink());
    assert!(lab.hot.join("global_step1000/a b/out").symlink_metadata().is_ok(), "it stays as it is");
    assert!(!lab.cold.join("global_step1000").exists());
    Ok(())
}

#[test]
fn a_command_takes_them_only_behind_its_proof() -> Result {
    let lab = Lab::new("")?;
    let watch = |verify: &str| {
        let copy = "cold_command = [\"cp\", \"-r\", \"{source}\", \"cold/{name}\"]";
        lab.plan("", &format!("high = 0.000001\nlow = 0.000001\n{copy}\nverify_command = [{verify}, \"{{source}}\", \"cold/{{name}}\"]"))
    };
    let trainer = lab.trainer(2, 10_000);
    trainer.saves(&[500, 1000, 1500])?;
    watch("\"false\"")?;
    let refused = lab.start()?;
    until("the proof failed", || lab.journal().contains("STO-054"));
    refused.end()?;
    assert!(trainer.is_whole(&lab.hot, "global_step500", 500), "what was not proven stays");
    fs::remove_dir_all(lab.cold.join("global_step500"))?;
    watch("\"diff\", \"-r\"")?;
    let proven = lab.start()?;
    until("it is moved", || !lab.hot.join("global_step500").exists());
    proven.end()?;
    assert!(trainer.is_whole(&lab.cold, "global_step500", 500));
    Ok(())
}

#[test]
fn a_directory_that_vanishes_is_told_and_nothing_is_made_up() -> Result {
    let lab = Lab::new("")?;
    lab.trainer(1, 1000).save(500)?;
    let watch = lab.start()?;
    until("it watches", || lab.journal().contains("global_step500"));
    fs::rename(&lab.hot, lab.dir.path("elsewhere"))?;
    until("it is told", || lab.journal().contains("STO-055"));
    fs::rename(lab.dir.path("elsewhere"), &lab.hot)?;
    until("it is over", || lab.journal().contains("\"cleared\",\"code\":\"STO-055\""));
    let done = watch.end()?;
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    Ok(())
}

#[test]
fn plans_that_contradict_themselves_are_refused_at_their_place() -> Result {
    let lab = Lab::new("")?;
    for (watch, want) in [
        ("high = 0.5\nlow = 0.6", "run.toml:7:1: `low` is above `high`"),
        ("cold_command = [\"cp\", \"{source}\"]", "`cold_command` needs `verify_command`"),
        ("cold_command = [\"cp\"]\nverify_command = [\"x\", \"{source}\"]", "does not say {source}"),
        ("cold = \"relative\"", "`cold` must be an absolute path"),
        ("complete_file = \"a/b\"", "without a path"),
        ("high = 1.5", "a share above 0 and up to 1"),
        ("layout = \"neox\"", "`neox`"),
    ] {
        lab.plan("", watch)?;
        let done = lab.dir.run(&["watch", "--plan", "run.toml", "--once"])?;
        assert_eq!(done.code, 3, "{watch}: {}", done.err);
        assert!(done.err.contains(want), "{watch}: {}", done.err);
    }
    lab.plan("", &format!("cold = {:?}", lab.hot.join("cold")))?;
    assert!(lab.dir.run(&["watch", "--plan", "run.toml", "--once"])?.err.contains("lies inside `dir`"));
    Ok(())
}

#[test]
fn the_gate_watches_beside_the_command_and_ends_as_it_does() -> Result {
    let lab = Lab::new("")?;
    lab.plan("size = \"60 KB\"\nkeep = 2", &format!("cold = {:?}\nhigh = 0.000001\nlow = 0.000001", lab.cold))?;
    let rec = "rec";
    let check = ["check", "--plan", "run.toml", "--only", "environment,storage", "--quiet", "--out", rec];
    let check = lab.dir.run(&check)?;
    assert_eq!(check.code, 0, "{}", check.out);
    // A trainer of four saves, which then dies.
    let trainer = "for s in 500 1000 1500 2000; do d=hot/global_step$s; mkdir $d; head -c 60000 /dev/zero > $d/a.pt; \
                   echo global_step$s > hot/latest; sleep 0.4; done; echo $GONOGO_DECISION; exit 7";
    let gate = lab.dir.run(&["gate", rec, "--plan", "run.toml", "--watch", "--", "sh", "-c", trainer])?;
    assert_eq!((gate.code, gate.out.trim()), (7, "GO"), "{}", gate.err);
    assert!(lab.cold.join("global_step500").exists() && lab.hot.join("global_step2000").exists(), "{}", gate.err);
    let folder = lab.dir.path(rec).join("watch");
    for left in ["journal.jsonl", "record.jsonl", "before.jsonl"] {
        assert!(folder.join(left).exists(), "{left}: {}", gate.err);
    }
    assert!(fs::read_to_string(folder.join("journal.jsonl"))?.contains("the command ended with 7"));
    assert!(gate.err.contains("the command ended with 7") && gate.err.contains("gonogo diff"), "{}", gate.err);
    // Told to end, it tells the command and waits for it.
    let command = [
        "gate",
        rec,
        "--plan",
        "run.toml",
        "--watch",
        "--",
        "sh",
        "-c",
        "trap 'exit 5' TERM; touch up; while :; do sleep 0.05; done",
    ];
    let child = lab.dir.command(&command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    until("the command runs", || lab.dir.path("up").exists());
    let done = Watching(Some(child)).end()?;
    assert_eq!(done.code, 5, "{}", done.err);
    // A watch that cannot begin keeps the gate closed.
    fs::rename(&lab.hot, lab.dir.path("elsewhere"))?;
    let closed = lab.dir.run(&["gate", rec, "--plan", "run.toml", "--watch", "--", "touch", "started"])?;
    assert_eq!((closed.code, lab.dir.path("started").exists()), (3, false), "{}", closed.err);
    Ok(())
}

/// A file system of its own, of a size.
struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, size: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at);
        let mounted = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        mounted.is_ok_and(|s| s.success()).then(|| Mount(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The run of GPT-NeoX-20B on a mount that is too small, with everything a ten-thousandth of its size.
#[test]
fn the_neox_run_ends_because_somebody_watched() -> Result {
    let lab = Lab::new("")?;
    let Some(_hot) = Mount::new(&lab.hot, "100m") else {
        skip::skip(false, "mounting a tmpfs needs root");
        return Ok(());
    };
    let saves: u64 = std::env::var("GONOGO_SAVES").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let checkpoint =
        format!("size = \"28770000\"\ninterval_steps = 500\nstep_time = \"0.0003s\"\ntotal_steps = {}", 500 * saves);
    lab.plan(&checkpoint, "")?;
    // Ahead of the run, the arithmetic names the save that fails.
    let check = lab.dir.run(&["check", "--plan", "run.toml", "--only", "storage", "--quiet", "--out", "ahead"])?;
    assert_eq!(check.code, 1, "{}", check.out);
    assert!(check.out.contains("STO-020") && check.out.contains("3 saves fit"), "{}", check.out);
    let trainer = lab.trainer(3, 9_590_000);
    let alone = (1..=saves).find(|i| trainer.save(500 * i).is_err());
    assert_eq!(alone, Some(4), "without a watch the fourth save fails");
    for entry in fs::read_dir(&lab.hot)?.flatten().filter(|e| e.path().is_dir()) {
        fs::remove_dir_all(entry.path())?;
    }
    fs::remove_file(lab.hot.join("latest"))?;
    lab.plan(&format!("{checkpoint}\nkeep = 1"), &format!("cold = {:?}", lab.cold))?;
    let mut watch = lab.start()?;
    until("it watches", || lab.journal().contains("began"));
    for i in 1..=saves {
        trainer.save(500 * i).map_err(|e| format!("save {i} of {saves}: {e}; {}", lab.journal()))?;
        // As long as copying takes here; the real run has six hours.
        let before = i.saturating_sub(1);
        until("the one before is away", || {
            before == 0 || !lab.hot.join(format!("global_step{}", 500 * before)).exists()
        });
    }
    // It ends by itself with the last save.
    let done = watch.wait()?;
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    for i in 1..=saves {
        let name = format!("global_step{}", 500 * i);
        let place = if i == saves { &lab.hot } else { &lab.cold };
        assert!(trainer.is_whole(place, &name, 500 * i), "{name}");
    }
    assert!(lab.journal().contains("the run made its last save"), "{}", lab.journal());
    Ok(())
}
