//! What somebody who means harm puts in the gate's way: records, names, tickets, keys and files. The real binary, through its front door.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod run;

use run::{Dir, Done, Result, done};

impl Dir {
    /// The record of eight nodes, of which the third is slow, as Slurm would have placed them; `change` edits its header, `name` the
    /// nodes' names everywhere.
    fn eight(&self, file: &str, change: impl Fn(&mut Value), name: impl Fn(&str) -> String) -> Result {
        let made = self.path("simulated");
        if !made.exists() {
            let args = ["simulate", "--nodes", "8", "--per-leaf", "4", "--fault", "node:2", "--record", "simulated"];
            let d = self.run(&args)?;
            assert!(d.out.contains("NO-GO without sim3"), "{}{}", d.out, d.err);
        }
        let mut text = fs::read_to_string(made)?;
        for k in 1..=8 {
            let old = format!("sim{k}");
            text = text.replace(&format!("\"{old}\""), &serde_json::to_string(&name(&old))?);
        }
        let (first, rest) = text.split_once('\n').ok_or("no header")?;
        let mut header: Value = serde_json::from_str(first)?;
        header["header"]["launcher"] = "Slurm".into();
        header["header"]["plan"]["run"]["nodes"] = json!({"needed": 7, "spares": 1, "gpus_per_node": 0});
        change(&mut header["header"]);
        fs::write(self.path(file), format!("{header}\n{rest}"))?;
        Ok(())
    }
}

const AS_IS: fn(&mut Value) = |_| {};

fn same(name: &str) -> String {
    name.to_owned()
}

#[test]
fn nothing_starts_on_a_node_that_is_left_out_or_on_too_few() -> Result {
    let dir = Dir::new()?;
    dir.eight("rec", AS_IS, same)?;
    let gate = |args: &[&str]| dir.run(&[&["gate", "rec"], args].concat());
    for (args, want) in [
        (&["--nodes", "sim3", "--", "touch", "started{nodelist}"][..], "none of sim3 may be used, and the run needs 7"),
        (
            &["--nodes", "sim[1-4]", "--", "touch", "started{nodelist}"],
            "3 of sim[1-4] may be used, and the run needs 7: sim[5-8]",
        ),
        (&["--nodes", "sim[1-8]", "--", "touch", "started"], "would start on sim3, which the verdict leaves out"),
        (&["--nodes", "sim[1-9]", "--", "touch", "started{nodelist}"], "says nothing about sim9"),
        (&["--nodes", "sim[1-2,1-2,4-7,7]", "--", "touch", "started"], "6 of"),
    ] {
        let d = gate(args)?;
        assert_eq!(d.code, 2, "{args:?}: {}", d.err);
        assert!(d.err.contains(want), "{args:?}: {}", d.err);
    }
    let bare = gate(&["--nodes", "sim[1-8]", "--", "srun", "-n7", "train.sh"])?.err;
    assert!(
        bare.contains("type: gonogo gate rec -- srun --nodelist={nodelist} --nodes={count} -n7 train.sh"),
        "{bare}"
    );
    assert!(!fs::read_dir(dir.0.path())?.flatten().any(|e| e.file_name().to_string_lossy().starts_with("started")));
    // On those that are left it starts, by list or by file; what let the agents in is not handed on.
    let show =
        ["sh", "-c", "echo {count} {nodelist} [{exclude}] $GONOGO_NODELIST ${GONOGO_TOKEN-none}; cat {hostfile}"];
    let mut command = dir.command(&[&["gate", "rec", "--nodes", "sim[1-8]", "--"], &show[..]].concat());
    let d = done(command.env("GONOGO_TOKEN", "secret").output()?);
    let listed = "7 sim[1-2,4-8] [sim3] sim[1-2,4-8] none\nsim1\nsim2\nsim4\nsim5\nsim6\nsim7\nsim8\n";
    assert_eq!((d.code, d.out.as_str()), (0, listed), "{}", d.err);
    let hostfile =
        fs::read_dir(dir.0.path())?.flatten().find(|e| e.file_name().to_string_lossy().starts_with("hostfile-"));
    assert_eq!(hostfile.ok_or("no hostfile")?.metadata()?.permissions().mode() & 0o777, 0o600);
    // Where the launcher has no node that is left out, a plain command will do.
    assert_eq!(gate(&["--nodes", "sim[1-2,4-8]", "--", "true"])?.code, 0);
    let env = done(dir.command(&["gate", "rec", "--", "true"]).env("SLURM_JOB_NODELIST", "sim[1-8]").output()?);
    assert!(env.code == 2 && env.err.contains("would start on sim3"), "{}", env.err);
    Ok(())
}

#[test]
fn what_was_simulated_opens_no_gate() -> Result {
    let dir = Dir::new()?;
    let made = dir.run(&["simulate", "--nodes", "4", "--record", "sim"])?;
    assert!(made.out.contains("GO"), "{}", made.out);
    let d = dir.run(&["gate", "sim", "--nodes", "sim[1-4]", "--", "true"])?;
    assert!(d.code == 2 && d.err.contains("simulated"), "{} {}", d.code, d.err);
    Ok(())
}

#[test]
fn long_names_and_short_ones_are_one_node() -> Result {
    let dir = Dir::new()?;
    dir.eight("long", AS_IS, |n| format!("{n}.cluster.local"))?;
    dir.eight("kernel", |h| h["kernel_names"] = json!({"sim3": "ip-10-0-0-3.eu"}), same)?;
    let show = ["--", "echo", "{nodelist}", "[{exclude}]"];
    for (record, nodes, shown) in [
        ("long", "sim[1-8]", "sim[1-2,4-8] [sim3]\n"),
        ("kernel", "sim[1-2],ip-10-0-0-3,sim[4-8]", "sim[1-2,4-8] [ip-10-0-0-3]\n"),
    ] {
        let d = dir.run(&[&["gate", record, "--nodes", nodes], &show[..]].concat())?;
        assert_eq!((d.code, d.out.as_str()), (0, shown), "{record}: {}", d.err);
    }
    // Slurm is told its own name for the node.
    let bin = dir.path("bin");
    fs::create_dir(&bin)?;
    fs::write(bin.join("sinfo"), "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do echo sim$i; done\n")?;
    fs::set_permissions(bin.join("sinfo"), fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let d = done(dir.command(&["drain", "long"]).env("PATH", path).output()?);
    assert!(d.out.contains("nodename=sim3 state=drain"), "{}{}", d.out, d.err);
    Ok(())
}

#[test]
fn a_name_is_handed_on_only_if_it_is_a_hosts() -> Result {
    let dir = Dir::new()?;
    for bad in [
        "sim3;touch started",
        "$(touch started)",
        "{nodelist}",
        "sim3,sim4",
        "--uid=0",
        "sim3\nsim4",
        "-w",
        "sim[3-4]",
        "",
    ] {
        let rename = |n: &str| if n == "sim3" { bad.to_owned() } else { n.to_owned() };
        dir.eight("rec", AS_IS, rename)?;
        let d = dir.run(&["gate", "rec", "--nodes", "sim[1-2,4-8]", "--", "sh", "-c", "echo {exclude} {nodelist}"])?;
        assert_eq!(d.code, 3, "{bad}: {}{}", d.out, d.err);
        assert!(d.err.contains("rec:1: `") && d.err.contains("is no host name"), "{bad}: {}", d.err);
        let d = dir.run(&["drain", "rec"])?;
        assert!(d.code == 3 && d.err.contains("rec:1: `") && d.out.is_empty(), "{bad}: {} {}{}", d.code, d.out, d.err);
    }
    assert!(!dir.path("started").exists());
    Ok(())
}

#[test]
fn a_waiver_that_was_written_into_a_record_counts_for_nothing() -> Result {
    let dir = Dir::new()?;
    let waiver = json!({"code": "NET-020", "reason": "it is fine", "until": "2099-01-01"});
    let change = |h: &mut Value| {
        h["plan"]["run"]["nodes"] = Value::Null;
        h["plan"]["run"]["waive"] = json!([waiver]);
    };
    dir.eight("rec", change, same)?;
    let nodes = ["--nodes", "sim[1-8]", "--", "true"];
    let d = dir.run(&[&["gate", "rec"], &nodes[..]].concat())?;
    assert!(d.code == 1 && d.err.contains("1 waiver in the record counts for nothing"), "{} {}", d.code, d.err);
    // The plan that the gate is given is its owner's word.
    fs::write(
        dir.path("run.toml"),
        "[[waive]]\ncode = \"NET-020\"\nreason = \"it is fine\"\nuntil = \"2099-01-01\"\n",
    )?;
    let d = dir.run(&[&["gate", "rec", "--plan", "run.toml"], &nodes[..]].concat())?;
    assert_eq!(d.code, 0, "{}", d.err);
    fs::write(dir.path("none.toml"), "")?;
    assert_eq!(dir.run(&[&["gate", "rec", "--plan", "none.toml"], &nodes[..]].concat())?.code, 1);
    Ok(())
}

/// A real check of this machine's storage that is a GO, with `extra` flags and variables.
fn go(dir: &Dir, out: &str, extra: &[&str], variables: &[(&str, &str)]) -> Result {
    let args = ["check", "--only", "environment,storage", "--path", ".", "--quiet", "--out", out];
    let d = done(dir.command(&[&args[..], extra].concat()).envs(variables.iter().copied()).output()?);
    if d.code != 0 {
        return Err(format!("this machine is no GO for the test: {}\n{}{}", d.code, d.out, d.err).into());
    }
    Ok(())
}

#[test]
fn a_trusted_key_takes_what_it_signed_and_nothing_else() -> Result {
    let dir = Dir::new()?;
    for key in ["key", "other"] {
        assert_eq!(dir.run(&["gate", "--new-key", key])?.code, 0);
    }
    go(&dir, "rec", &["--sign", "key"], &[])?;
    let gate = |record: &str, key: &str| dir.run(&["gate", record, "--trust", key, "--", "true"]);
    assert_eq!(gate("rec", "key.pub")?.code, 0);
    let d = gate("rec", "other.pub")?;
    assert!(d.code == 2 && d.err.contains("does not fit the trusted key"), "{} {}", d.code, d.err);
    // Changed by a byte; not signed; the signature of another.
    let (record, signature) = (dir.path("rec/record.jsonl"), dir.path("rec/record.sig"));
    let text = fs::read_to_string(&record)?;
    fs::write(&record, text.replacen("\"quick\"", "\"soak\"", 1))?;
    assert_eq!(gate("rec", "key.pub")?.code, 2);
    fs::write(&record, format!("{text}\n"))?;
    assert_ne!(gate("rec", "key.pub")?.code, 0);
    fs::write(&record, &text)?;
    let signed = fs::read_to_string(&signature)?;
    fs::remove_file(&signature)?;
    let d = gate("rec", "key.pub")?;
    assert!(d.code == 2 && d.err.contains("--trust takes signed records only"), "{} {}", d.code, d.err);
    fs::create_dir(dir.path("copy"))?;
    fs::copy(&record, dir.path("copy/record.jsonl"))?;
    assert_eq!(dir.run(&["gate", "copy", "--ticket", "copy/record.sig", "--key", "key"])?.code, 0);
    assert_eq!(gate("copy", "key.pub")?.code, 2, "a ticket passed for a record's signature");
    fs::write(&signature, signed)?;
    // A key that others may put there is nobody's.
    for (file, mode, want) in [("key.pub", 0o666, "others may write"), ("key.pub", 0o664, "others may write")] {
        fs::set_permissions(dir.path(file), fs::Permissions::from_mode(mode))?;
        let d = gate("rec", "key.pub")?;
        assert!(d.code == 3 && d.err.contains(want), "{mode:o}: {}", d.err);
    }
    fs::set_permissions(dir.path("key.pub"), fs::Permissions::from_mode(0o644))?;
    fs::create_dir(dir.path("open"))?;
    fs::copy(dir.path("key.pub"), dir.path("open/key.pub"))?;
    fs::set_permissions(dir.path("open"), fs::Permissions::from_mode(0o777))?;
    assert!(gate("rec", "open/key.pub")?.err.contains("others may write"));
    assert_eq!(gate("rec", "key.pub")?.code, 0);
    // Before anything is measured.
    let d = dir.run(&["check", "--only", "environment", "--sign", "none", "--out", "unsigned"])?;
    assert!(d.code == 3 && !dir.path("unsigned").exists(), "{}", d.err);
    Ok(())
}

#[test]
fn a_ticket_is_for_its_image_and_says_what_it_rests_on() -> Result {
    let dir = Dir::new()?;
    assert_eq!(dir.run(&["gate", "--new-key", "key"])?.code, 0);
    go(&dir, "rec", &[], &[])?;
    for (ticket, image) in [("plain", &[][..]), ("imaged", &["--image", "sha256:1"])] {
        let args = [&["gate", "rec", "--ticket", ticket, "--key", "key"], image].concat();
        assert_eq!(dir.run(&args)?.code, 0);
    }
    let with = |ticket: &str, extra: &[&str]| {
        dir.run(&[&["gate", "--require-ticket", ticket, "--trust", "key.pub"], extra, &["--", "true"]].concat())
    };
    for (ticket, extra, code, want) in [
        ("plain", &[][..], 0, ""),
        ("plain", &["--image", "sha256:1"], 2, "made for no image"),
        ("plain", &["--require-image"], 2, "made for no image"),
        ("imaged", &[], 2, "sha256:1"),
        ("imaged", &["--image", "sha256:2"], 2, "sha256:1"),
        ("imaged", &["--image", "sha256:1", "--require-image"], 0, ""),
    ] {
        let d = with(ticket, extra)?;
        assert!(d.code == code && d.err.contains(want), "{ticket} {extra:?}: {} {}", d.code, d.err);
    }
    let envelope: Value = serde_json::from_str(&fs::read_to_string(dir.path("plain"))?)?;
    let payload: Value = serde_json::from_str(envelope["payload"].as_str().unwrap_or_default())?;
    let sum = Command::new("sha256sum").arg(dir.path("rec/record.jsonl")).output()?;
    let sum = String::from_utf8_lossy(&sum.stdout).split_whitespace().next().unwrap_or("").to_owned();
    assert_eq!(payload["verdict"]["record"], sum.as_str());
    assert!(payload["verdict"]["plan"].is_object());
    Ok(())
}

#[test]
fn a_job_that_was_requeued_is_checked_again() -> Result {
    let dir = Dir::new()?;
    go(&dir, "rec", &[], &[("SLURM_JOB_ID", "7")])?;
    let gate = |extra: &[&str], variables: &[(&str, &str)]| -> Result<Done> {
        let args = [&["gate", "rec"], extra, &["--", "true"]].concat();
        Ok(done(dir.command(&args).envs(variables.iter().copied()).output()?))
    };
    assert_eq!(gate(&[], &[("SLURM_JOB_ID", "7")])?.code, 0);
    let again = [("SLURM_JOB_ID", "7"), ("SLURM_RESTART_COUNT", "1")];
    let d = gate(&[], &again)?;
    assert!(d.code == 2 && d.err.contains("made in job 7, and this is job 7 (restart 1)"), "{} {}", d.code, d.err);
    assert_eq!(gate(&[], &[("SLURM_JOB_ID", "8")])?.code, 2);
    assert_eq!(gate(&["--any-job"], &again)?.code, 0);
    Ok(())
}

fn fifo(path: &Path) -> Result {
    assert!(Command::new("mkfifo").arg(path).status()?.success());
    Ok(())
}

#[test]
fn what_is_no_file_is_refused_at_once() -> Result {
    let dir = Dir::new()?;
    fifo(&dir.path("fifo"))?;
    fs::create_dir_all(dir.path("machine/proc/sys/kernel"))?;
    fifo(&dir.path("machine/proc/cpuinfo"))?;
    fs::write(dir.path("machine/proc/sys/kernel/hostname"), "h\n")?;
    std::os::unix::fs::symlink("/etc/passwd", dir.path("machine/proc/meminfo"))?;
    std::os::unix::fs::symlink("/etc", dir.path("machine/proc/self"))?;
    std::os::unix::fs::symlink("/etc/passwd", dir.path("far"))?;
    fs::write(dir.path("baseline.toml"), "")?;
    assert_eq!(dir.run(&["gate", "--new-key", "key"])?.code, 0);
    go(&dir, "rec", &[], &[])?;
    for what in ["fifo", "/dev/zero", "far"] {
        for args in [
            &["judge", what][..],
            &["report", what],
            &["gate", what, "--", "true"],
            &["drain", what],
            &["diff", what, what],
            &["baseline", "learn", what, "--out", "b"],
            &["check", "--plan", what, "--dry-run"],
            &["judge", "rec", "--plan", what],
            &["judge", "rec", "--baseline", what],
            &["gate", "--require-ticket", what, "--trust", "key.pub", "--", "true"],
            &["gate", "rec", "--trust", what, "--", "true"],
            &["gate", "rec", "--ticket", "t", "--key", what],
            &["check", "--rank", "0", "--nodes", "2", "--rendezvous", "127.0.0.1:1", "--token-file", what],
            &["check", "--rank", "0", "--nodes", "2", "--rendezvous", "127.0.0.1:1", "--topology", what],
            &["discover", "fabric", "--from", what],
            &["discover", "fabric", "--from", "rec", "--expect", what],
        ] {
            let start = Instant::now();
            let mut child = dir
                .command(args)
                .env("GONOGO_TOKEN", "0f1e5a3c9b7d2846e1c0a9f83b6d5247")
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            while child.try_wait()?.is_none() {
                if start.elapsed() > Duration::from_secs(10) {
                    child.kill()?;
                    return Err(format!("{args:?} waits for {what}").into());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let d = done(child.wait_with_output()?);
            assert!([2, 3].contains(&d.code), "{args:?}: {} {}", d.code, d.err);
            // What trust rests on is no link to elsewhere; another text is a wrong one.
            let refused = ["not a file", "leads out of its folder"].iter().any(|w| d.err.contains(w));
            assert!(refused || what == "far", "{args:?}: {}", d.err);
            // What a text file of the user's own choice has in its first line may be said.
            assert!(!d.err.contains("root:") || args.contains(&"--topology"), "{args:?}: {}", d.err);
        }
    }
    // A recorded machine leads nowhere but into its own folder.
    let d = dir.run(&["discover", "--replay", "machine", "--format", "json"])?;
    assert!(d.code == 0 && !d.out.contains("root:"), "{} {}{}", d.code, d.out, d.err);
    Ok(())
}

#[test]
fn nothing_is_written_through_a_link_that_somebody_laid() -> Result {
    let dir = Dir::new()?;
    fs::write(dir.path("victim"), "precious")?;
    let lay = |at: &str| std::os::unix::fs::symlink(dir.path("victim"), dir.path(at));
    fs::create_dir(dir.path("out"))?;
    lay("out/record.jsonl")?;
    lay("ticket")?;
    lay("key")?;
    lay("report.json")?;
    assert_eq!(dir.run(&["check", "--only", "environment", "--quiet", "--out", "out"])?.code, 3);
    assert_eq!(dir.run(&["gate", "--new-key", "key"])?.code, 3);
    assert_eq!(dir.run(&["gate", "--new-key", "good"])?.code, 0);
    go(&dir, "rec", &[], &[])?;
    assert_ne!(dir.run(&["gate", "rec", "--ticket", "ticket", "--key", "good"])?.code, 0);
    assert_ne!(dir.run(&["judge", "rec", "--report", "report.json"])?.code, 0);
    assert_eq!(fs::read_to_string(dir.path("victim"))?, "precious");
    for made in ["rec/record.jsonl", "good", "good.pub"] {
        assert_eq!(fs::metadata(dir.path(made))?.permissions().mode() & 0o077, 0, "{made}");
    }
    Ok(())
}

#[test]
fn a_report_is_no_verdict() -> Result {
    let dir = Dir::new()?;
    dir.eight("rec", |h| h["plan"]["run"]["nodes"] = Value::Null, same)?;
    assert_eq!(dir.run(&["report", "rec"])?.code, 0);
    assert_eq!(dir.run(&["report", "rec", "--exit-code"])?.code, 1);
    assert_eq!(dir.run(&["judge", "rec"])?.code, 1);
    assert_eq!(dir.run(&["report", "none"])?.code, 3);
    Ok(())
}
