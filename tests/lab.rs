//! Slurm and mpirun for real, over network namespaces (tests/labs/slurm-lab): each fault names exactly the guilty node.

mod skip;

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/labs/slurm-lab");
const GONOGO: &str = env!("CARGO_BIN_EXE_gonogo");

fn lab(args: &[&str]) -> Result<Output> {
    Ok(Command::new(LAB).args(args).stdin(Stdio::null()).output()?)
}

/// Takes the lab down whatever happens.
struct Up;

impl Drop for Up {
    fn drop(&mut self) {
        let _ = lab(&["down"]);
    }
}

struct Seen {
    code: i32,
    report: serde_json::Value,
    err: String,
    seconds: f64,
}

impl Seen {
    fn findings(&self, severities: &[&str]) -> Vec<String> {
        let all = self.report["findings"].as_array().cloned().unwrap_or_default();
        let heavy = |f: &&serde_json::Value| f["severity"].as_str().is_some_and(|s| severities.contains(&s));
        let node = |f: &serde_json::Value| {
            let subject = &f["subject"];
            let node = subject["node"].as_str().or_else(|| subject["path"][0].as_str());
            node.unwrap_or("-").to_owned()
        };
        all.iter().filter(heavy).map(|f| format!("{} {}", f["code"].as_str().unwrap_or("?"), node(f))).collect()
    }

    /// `CODE node` of everything from `hold` up.
    fn against(&self) -> Vec<String> {
        self.findings(&["fail", "hold"])
    }

    fn excluded(&self) -> String {
        self.report["placement"]["exclude"].to_string()
    }

    /// Exactly these are named, each at least once, and the verdict came in time.
    fn names(&self, code: i32, wanted: &[&str]) {
        let mut named = self.against();
        named.sort();
        named.dedup();
        assert_eq!((named, self.code), (wanted.iter().map(|w| (*w).to_owned()).collect(), code), "{}", self.err);
        self.in_time();
    }

    /// Exactly these fail. Twice as many readings on cores that all share leave somebody open now and then: that accuses nobody.
    fn fails(&self, wanted: &[&str]) {
        let mut named = self.findings(&["fail"]);
        named.sort();
        named.dedup();
        let open = |f: &String| wanted.contains(&f.as_str()) || f.starts_with("NET-028") || f.starts_with("NET-036");
        assert_eq!(
            (&named[..], self.code),
            (&wanted.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()[..], 1),
            "{}",
            self.err
        );
        assert!(self.against().iter().all(open), "{:?} {}", self.against(), self.err);
        self.in_time();
    }

    /// Every finding is one of `codes` on `node`, and there is one.
    fn blames(&self, node: &str, codes: &[&str]) {
        let named = self.against();
        let fits = |f: &String| codes.iter().any(|c| f.starts_with(c)) && f.ends_with(&format!(" {node}"));
        assert!(!named.is_empty() && named.iter().all(fits), "{named:?} {}", self.err);
        self.in_time();
    }

    fn in_time(&self) {
        assert!(self.seconds < 60.0, "a verdict after {:.0} s", self.seconds);
    }
}

/// A check by srun or mpirun; `meanwhile` runs after some seconds.
fn check(launch: &[&str], extra: &[&str], meanwhile: Option<(u64, &[&str])>) -> Result<Seen> {
    let dir = tempfile::tempdir()?;
    let (out, said) = (dir.path().join("record"), dir.path().join("said"));
    let out = out.to_string_lossy();
    let start = Instant::now();
    let mut child = Command::new(LAB)
        .args(launch)
        .args([GONOGO, "check", "--quiet", "--format", "json", "--out", &out])
        .args(extra)
        .env("GONOGO_TOKEN", TOKEN)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&said)?)
        .spawn()?;
    if let Some((seconds, args)) = meanwhile {
        std::thread::sleep(Duration::from_secs(seconds));
        lab(args)?;
    }
    // The report is whole before the launcher ends: a stopped process may keep the launcher for ever.
    let (mut report, mut piece) = (Vec::new(), [0u8; 4096]);
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    let parsed = loop {
        match stdout.read(&mut piece)? {
            0 => break serde_json::Value::Null,
            n => report.extend_from_slice(&piece[..n]),
        }
        if let Ok(parsed) = serde_json::from_slice(&report) {
            break parsed;
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    if let Some((_, ["stop-agent", node])) = meanwhile {
        // What the lead says last is on its way through srun, which drops it when it ends the step for the killed task.
        let patience = Instant::now() + Duration::from_secs(20);
        while !std::fs::read_to_string(&said)?.contains("scancel") && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(50));
        }
        lab(&["exec", node, "pkill", "-KILL", "-x", "gonogo"])?;
    }
    let status = child.wait()?;
    let err = String::from_utf8_lossy(&std::fs::read(&said)?).into_owned();
    Ok(Seen { code: status.code().unwrap_or(-1), report: parsed, err, seconds })
}

const TOKEN: &str = "0f1e5a3c9b7d2846e1c0a9f83b6d5247";
const SRUN: &[&str] = &["srun", "--no-kill", "-N8", "--ntasks-per-node=1"];
const NETWORK: &[&str] = &["--only", "environment,tcp"];
/// Port of the rendezvous where a test must know it.
const PORT: &str = "23456";

/// One after the other: they share the lab, and the machine.
#[test]
fn the_guilty_node_is_named_and_no_other() -> Result {
    let can = lab(&["check"])?;
    if !can.status.success() {
        skip::skip(true, format_args!("{}", String::from_utf8_lossy(&can.stdout).trim()));
        return Ok(());
    }
    let up = lab(&["up", "-n", "8"])?;
    let _down = Up;
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let shared = String::from_utf8(lab(&["shared"])?.stdout)?.trim().to_owned();

    type Step = fn(&str) -> Result;
    let steps: &[(&str, Step)] = &[
        ("slurmd dies before and during", slurmd_dies_before_and_during),
        ("healthy, and a slow link", |_| healthy_and_a_slow_link()),
        ("what the plan asks of the network", |_| what_the_plan_asks_of_the_network()),
        ("a lossy link", |_| a_lossy_link()),
        ("a node that is far, and one that refuses", |_| a_node_that_is_far_and_one_that_refuses_its_peers()),
        ("a link that flaps, and one that others use", |_| a_link_that_flaps_and_one_that_others_use()),
        ("a bad rail and a wrong route", |_| a_bad_rail_and_a_wrong_route()),
        ("a step of the run", |_| a_step_of_the_run()),
        ("the checkpoint directory", the_checkpoint_directory),
        ("a starved CPU", |_| a_starved_cpu()),
        ("another build", |_| another_build()),
        ("a NO-GO trains nowhere", |_| a_no_go_trains_nowhere()),
        ("a requeued job", a_requeued_job_is_checked_again),
        ("large packets that are lost", |_| large_packets_that_are_lost()),
        ("a stranger at the door", |_| a_stranger_at_the_door()),
        ("an agent that hangs", |_| an_agent_that_hangs()),
        ("a node that loses power", |_| a_node_that_loses_power()),
    ];
    for (name, step) in steps {
        let start = Instant::now();
        step(&shared)?;
        println!("{name}: {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

fn healthy_and_a_slow_link() -> Result {
    let healthy = check(SRUN, NETWORK, None)?;
    healthy.names(0, &[]);
    assert_eq!(healthy.report["nodes"].as_array().map(Vec::len), Some(8), "{}", healthy.err);

    lab(&["degrade", "node3", "--rate", "200mbit"])?;
    let slow = check(SRUN, NETWORK, None)?;
    slow.names(1, &["NET-020 node3"]);
    // What it prints is what a second run uses to go.
    assert_eq!(slow.excluded(), "[\"node3\"]");
    check(&["srun", "--exclude=node3", "-N7", "--ntasks-per-node=1"], NETWORK, None)?.names(0, &[]);
    check(&["mpirun", "-np", "8", "--map-by", "ppr:1:node", "--bind-to", "none", "-x", "GONOGO_TOKEN"], NETWORK, None)?
        .names(1, &["NET-020 node3"]);
    lab(&["heal", "node3"])?;
    Ok(())
}

/// The demands of a plan open the gate and hold it, over TCP.
fn what_the_plan_asks_of_the_network() -> Result {
    let dir = tempfile::tempdir()?;
    let plan = dir.path().join("run.toml").to_string_lossy().into_owned();
    let asks = |busbw: &str| -> Result<Seen> {
        std::fs::write(
            &plan,
            format!("[require]\nmin_busbw = \"{busbw}\"\nmax_allreduce_latency = \"5s\"\nmin_tcp = \"1 kB/s\"\n"),
        )?;
        check(SRUN, &["--only", "environment,tcp,collective", "--budget", "55s", "--plan", &plan], None)
    };
    let of_plan = |seen: &Seen, case: &str| -> Option<String> {
        let metrics = seen.report["metrics"].as_array()?;
        let m = metrics.iter().find(|m| m["case"] == case && m["limit_source"] == "plan")?;
        Some(m["verdict"].as_str()?.to_owned())
    };
    // Eight hosts share a machine that others use: what disturbs them once is told by the check, as it must be.
    let mut seen = Vec::new();
    let opened = (0..3).any(|_| {
        let met = asks("1 kB/s").ok();
        let cases = ["all-reduce world n=8 16 MiB", "all-reduce world n=8 8 B", "pair out", "pair back"];
        let pass = |met: &Seen| cases.iter().all(|c| of_plan(met, c).as_deref() == Some("pass"));
        let good = met.as_ref().is_some_and(|met| met.code == 0 && pass(met));
        seen.extend(met.map(|met| (met.code, met.against())));
        good
    });
    assert!(opened, "{seen:?}");
    let missed = asks("900 GB/s")?;
    assert!([1, 2].contains(&missed.code), "{:?} {}", missed.against(), missed.err);
    let verdict = of_plan(&missed, "all-reduce world n=8 16 MiB");
    assert!(verdict.as_deref().is_none_or(|v| v != "pass"), "{:?}", missed.against());
    Ok(())
}

fn a_lossy_link() -> Result {
    lab(&["degrade", "node5", "--loss", "5%"])?;
    check(SRUN, NETWORK, None)?.blames("node5", &["NET-02"]);
    lab(&["heal", "node5"])?;
    // Too little to be slow by within one machine: what the kernels sent again tells.
    lab(&["degrade", "node3", "--loss", "0.5%"])?;
    check(SRUN, NETWORK, None)?.blames("node3", &["NET-034"]);
    lab(&["heal", "node3"])?;
    Ok(())
}

/// A link that comes and goes is its node's; one that others fill is busy, and nobody's fault.
fn a_link_that_flaps_and_one_that_others_use() -> Result {
    let seen = check(SRUN, NETWORK, Some((1, &["flap", "node4", "20"])))?;
    seen.blames("node4", &["NET-0", "CLU-003", "RUN-"]);
    assert!(seen.against().iter().any(|f| f == "NET-035 node4"), "{:?}", seen.against());
    // From before the check until after it.
    let mut traffic = Command::new(LAB).args(["traffic", "node7", "node6", "100"]).stdin(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_secs(1));
    let busy = check(SRUN, NETWORK, None);
    lab(&["exec", "node7", "pkill", "-f", "create_connection"])?;
    traffic.wait()?;
    let busy = busy?;
    let used = |f: &String| ["NET-036 node6", "NET-036 node7"].contains(&f.as_str());
    assert!(busy.findings(&["hold", "warn"]).iter().any(used), "{:?} {}", busy.findings(&["hold", "warn"]), busy.err);
    // Who fills the link takes the cores that all share, too: somebody may be left open, and nobody is blamed.
    let open = |f: &String| used(f) || f.starts_with("NET-028");
    assert!(busy.findings(&["fail"]).is_empty(), "{:?} {}", busy.findings(&["fail"]), busy.err);
    assert!(busy.against().iter().all(open), "{:?} {}", busy.against(), busy.err);
    Ok(())
}

/// Two milliseconds more to and fro cost little bandwidth, and a firewall none to whoever calls out.
fn a_node_that_is_far_and_one_that_refuses_its_peers() -> Result {
    let far = lab(&["degrade", "node3", "--delay", "2ms"])?;
    if far.status.success() {
        check(SRUN, NETWORK, None)?.blames("node3", &["NET-0"]);
    } else {
        skip::skip(false, format_args!("a delay: {}", String::from_utf8_lossy(&far.stderr).trim()));
    }
    lab(&["heal", "node3"])?;
    let deaf = lab(&["refuse", "node6"])?;
    assert!(deaf.status.success(), "{}", String::from_utf8_lossy(&deaf.stderr));
    check(SRUN, NETWORK, None)?.blames("node6", &["NET-0"]);
    lab(&["heal", "node6"])?;
    Ok(())
}

fn a_bad_rail_and_a_wrong_route() -> Result {
    lab(&["rails", "on"])?;
    lab(&["degrade", "node5", "--rail", "--rate", "200mbit"])?;
    let rail = check(SRUN, NETWORK, None)?;
    rail.fails(&["NET-020 node5"]);
    assert!(rail.report["findings"].to_string().contains("eth1: in both directions"), "{}", rail.report["findings"]);
    lab(&["heal", "node5"])?;
    lab(&["rails", "off"])?;
    // The address is eth0's, the bytes leave by eth1.
    lab(&["reroute", "node4"])?;
    // Somebody else's work on the cores that all nodes share may slow another for the length of a check: not of two.
    let exact = |s: &Seen| s.code == 1 && s.against() == ["NET-026 node4"];
    let mut seen: Vec<Seen> = Vec::new();
    while seen.len() < 2 && !seen.iter().any(exact) {
        seen.push(check(SRUN, NETWORK, None)?);
    }
    let named: Vec<Vec<String>> = seen.iter().map(Seen::against).collect();
    assert!(named.iter().all(|n| n.contains(&"NET-026 node4".to_owned())), "{named:?}");
    assert!(seen.iter().any(exact), "{named:?} {}", seen[0].err);
    seen.iter().for_each(Seen::in_time);
    lab(&["heal", "node4"])?;
    Ok(())
}

/// A rank that is starved computes slowly in the step that all rehearse; messages of both dimensions go between the nodes.
fn a_step_of_the_run() -> Result {
    let dir = tempfile::tempdir()?;
    let plan = dir.path().join("run.toml");
    let shape = "layers = 4\nhidden = 256\nffn = 1024\nheads = 4\nvocab = 4096\nsequence = 128\n";
    std::fs::write(
        &plan,
        format!("[model]\n{shape}[parallel]\ntp = 2\npp = 2\nglobal_batch = 8\n[nodes]\nneeded = 8\n"),
    )?;
    let plan = plan.to_string_lossy();
    let step = ["--only", "environment,rehearsal", "--plan", &plan];
    let well = check(SRUN, &step, None)?;
    well.names(0, &[]);
    let metrics = well.report["metrics"].as_array().cloned().unwrap_or_default();
    let mut cases: Vec<&str> = metrics.iter().filter_map(|m| m["case"].as_str()).collect();
    cases.dedup();
    assert_eq!(cases, ["compute n=8", "communication n=8", "step n=8"]);
    if !lab(&["degrade", "node6", "--cpu", "6%"])?.status.success() {
        skip::skip(false, format_args!("a starved CPU: no quota of CPU time here"));
        return Ok(());
    }
    let starved = check(SRUN, &step, None)?;
    lab(&["heal", "node6"])?;
    assert!(starved.against().iter().all(|f| f == "REH-001 node6"), "{:?} {}", starved.against(), starved.err);
    // Its quota may be spent while it waits for the others: then it comes and goes, and that is told.
    let told = starved.findings(&["fail", "hold", "warn", "info"]);
    assert!(told.iter().any(|f| f == "REH-001 node6" || f == "REH-003 node6"), "{told:?} {}", starved.err);
    starved.in_time();
    Ok(())
}

fn the_checkpoint_directory(shared: &str) -> Result {
    let storage = ["--only", "environment,storage", "--path", shared];
    check(SRUN, &storage, None)?.names(0, &[]);
    lab(&["disk", "node3", "full"])?;
    check(SRUN, &storage, None)?.blames("node3", &["STO-026", "COV-002"]);
    lab(&["heal", "node3"])?;
    lab(&["disk", "node6", "read-only"])?;
    check(SRUN, &storage, None)?.names(1, &["COV-002 node6", "STO-024 node6"]);
    lab(&["heal", "node6"])?;
    Ok(())
}

fn a_starved_cpu() -> Result {
    let limited = lab(&["degrade", "node6", "--cpu", "25%"])?;
    if limited.status.success() {
        let starved = check(SRUN, &["--only", "environment,gemm"], None)?;
        // The cores are one machine's, which others use: what was disturbed, varied, or was well at one time and not at another, is
        // told of whoever it befell, and held. Proven is it of the starved node alone.
        let open = |f: &String| ["VAL-002", "VAL-003", "VAL-006"].iter().any(|c| f.starts_with(c));
        let (disturbed, named): (Vec<String>, Vec<String>) = starved.against().into_iter().partition(open);
        let of_node6 = |f: &String| f.ends_with(" node6");
        let proven = |f: &String| (f.starts_with("PER-001") || f.starts_with("GEM-010")) && of_node6(f);
        assert!(named.iter().all(of_node6), "{named:?} {}", starved.err);
        if named.iter().any(proven) {
            starved.in_time();
        } else {
            assert!(!disturbed.is_empty(), "{named:?} {}", starved.err);
            skip::skip(
                false,
                format_args!("a starved CPU: others use this machine, nothing is said of any CPU: {disturbed:?}"),
            );
        }
        lab(&["heal", "node6"])?;
    } else {
        skip::skip(false, format_args!("a starved CPU: {}", String::from_utf8_lossy(&limited.stderr).trim()));
    }
    Ok(())
}

fn another_build() -> Result {
    let dir = tempfile::tempdir()?;
    let (other, pick) = (dir.path().join("gonogo"), dir.path().join("pick"));
    let mut bytes = std::fs::read(GONOGO)?;
    bytes.push(b'\n');
    std::fs::write(&other, bytes)?;
    let script =
        format!("#!/bin/sh\n[ \"$SLURM_PROCID\" = 6 ] && shift && exec {} \"$@\"\nexec \"$@\"\n", other.display());
    std::fs::write(&pick, script)?;
    for file in [&other, &pick] {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let pick = pick.to_string_lossy();
    check(&[SRUN, &[&pick]].concat(), NETWORK, None)?.names(2, &["CLU-004 node7"]);
    Ok(())
}

/// What stands behind `gonogo check &&` on every node starts on none of them.
fn a_no_go_trains_nowhere() -> Result {
    let dir = tempfile::tempdir()?;
    lab(&["degrade", "node3", "--rate", "200mbit"])?;
    let run = |tasks: u32| {
        let script =
            format!("{GONOGO} check --quiet --only environment,tcp --out record-{tasks} >/dev/null && echo trains");
        Command::new(LAB)
            .args(["srun", "--no-kill", "-N8", &format!("--ntasks-per-node={tasks}"), "sh", "-c", &script])
            .env("GONOGO_TOKEN", TOKEN)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .output()
    };
    let no = run(2)?;
    let said = String::from_utf8_lossy(&no.stdout).into_owned();
    assert_eq!((said.as_str(), no.status.code()), ("", Some(1)), "{}", String::from_utf8_lossy(&no.stderr));
    lab(&["heal", "node3"])?;
    let go = run(1)?;
    assert_eq!(
        String::from_utf8_lossy(&go.stdout).matches("trains").count(),
        8,
        "{}",
        String::from_utf8_lossy(&go.stderr)
    );
    Ok(())
}

/// A node goes bad between a job's first start and its second: the second launches without it.
fn a_requeued_job_is_checked_again(shared: &str) -> Result {
    let dir = tempfile::tempdir()?;
    let (plan, said) = (dir.path().join("run.toml"), dir.path().join("said"));
    std::fs::write(&plan, format!("[nodes]\nneeded = 7\n[checkpoint]\ndir = \"{shared}\"\n"))?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/containers/slurm/check-and-launch.sbatch");
    let train = "echo start${SLURM_RESTART_COUNT:-0}-$(hostname); [ -n \"$SLURM_RESTART_COUNT\" ] || sleep 300";
    let output = format!("--output={}", said.display());
    let job = Command::new(LAB)
        .args([
            "sbatch",
            "--parsable",
            "--requeue",
            "-N8",
            "--no-kill",
            "--open-mode=append",
            &output,
            script,
            "sh",
            "-c",
            train,
        ])
        .env("GONOGO", GONOGO)
        .env("PLAN", &plan)
        .env("CHECK_FLAGS", "--only environment,tcp")
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()?;
    let id = String::from_utf8(job.stdout)?.trim().to_owned();
    let started = |mark: &str, patience: u64| -> Result<Vec<String>> {
        let until = Instant::now() + Duration::from_secs(patience);
        loop {
            let text = std::fs::read_to_string(&said).unwrap_or_default();
            let on: Vec<String> = text.lines().filter_map(|l| Some(l.strip_prefix(mark)?.to_owned())).collect();
            if on.len() == 7 {
                return Ok(on);
            }
            if Instant::now() > until {
                lab(&["scancel", &id])?;
                return Err(format!("job {id}: {mark} on {on:?}: {text}").into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    let first = started("start0-", 90)?;
    let bad = first[0].clone();
    lab(&["degrade", &bad, "--rate", "200mbit"])?;
    lab(&["scontrol", "requeue", &id])?;
    let second = started("start1-", 150)?;
    let text = std::fs::read_to_string(&said)?;
    assert!(!second.contains(&bad) && text.contains("GO-WITHOUT"), "{bad}: {second:?}\n{text}");
    lab(&["heal", &bad])?;
    Ok(())
}

/// On the second network both ends have jumbo frames, and the switch's port of one node has none.
fn large_packets_that_are_lost() -> Result {
    let mtu = |host: &str, device: &str, size: &str| lab(&["exec", host, "ip", "link", "set", device, "mtu", size]);
    let all = |size: &str| -> Result {
        for k in 1..=8 {
            mtu("head", &format!("w{k}"), size)?;
            mtu(&format!("node{k}"), "eth1", size)?;
            // Packets as they would be on a wire: no frames of 64 KiB that only a virtual one takes.
            let one = if size == "9000" { "1" } else { "65535" };
            lab(&["exec", &format!("node{k}"), "ip", "link", "set", "eth1", "gso_max_segs", one])?;
        }
        mtu("head", "br1", size)?;
        Ok(())
    };
    lab(&["rails", "on"])?;
    all("9000")?;
    mtu("head", "w5", "1500")?;
    let seen = check(SRUN, NETWORK, None)?;
    all("1500")?;
    lab(&["rails", "off"])?;
    seen.names(1, &["NET-031 node5"]);
    // It says on which interface to look.
    assert!(seen.report["findings"].to_string().contains("ip link show eth1"), "{}", seen.report["findings"]);
    Ok(())
}

fn a_stranger_at_the_door() -> Result {
    let flood = format!("for i in $(seq 400); do head -c 700 /dev/urandom >/dev/tcp/node1/{PORT}; sleep 0.02; done");
    let mut stranger = Command::new(LAB)
        .args(["exec", "head", "bash", "-c", &flood])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let at = format!("node1:{PORT}");
    let seen = check(SRUN, &[NETWORK, &["--rendezvous", &at]].concat(), None)?;
    stranger.kill()?;
    stranger.wait()?;
    seen.names(0, &[]);
    assert!(seen.findings(&["warn"]).contains(&"CLU-007 -".to_owned()), "{}", seen.report["findings"]);
    Ok(())
}

fn an_agent_that_hangs() -> Result {
    let hung = check(SRUN, NETWORK, Some((4, &["stop-agent", "node6"])))?;
    hung.blames("node6", &["CLU-003"]);
    assert!(hung.err.contains("scancel"), "{}", hung.err);
    Ok(())
}

fn slurmd_dies_before_and_during(shared: &str) -> Result {
    let during = check(SRUN, NETWORK, Some((3, &["kill-slurmd", "node2"])))?;
    during.names(1, &["CLU-009 node2"]);
    // Dead before it, and the allocation does not know yet: one step for all does not start, and the job script does it
    // node by node.
    lab(&["heal", "node2"])?;
    let all = Command::new("timeout").args(["60", LAB, "srun", "-N8", "true"]).stdin(Stdio::null()).output()?;
    assert!(all.status.success(), "{}", String::from_utf8_lossy(&all.stderr));
    lab(&["kill-slurmd", "node2"])?;
    let dir = tempfile::tempdir()?;
    let (plan, said) = (dir.path().join("run.toml"), dir.path().join("said"));
    std::fs::write(&plan, format!("[nodes]\nneeded = 7\n[checkpoint]\ndir = \"{shared}\"\n"))?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/containers/slurm/check-and-launch.sbatch");
    let output = format!("--output={}", said.display());
    let job = Command::new("timeout")
        .args(["150", LAB, "sbatch", "-N8", "--no-kill", "--wait", &output, script, "hostname"])
        .env("GONOGO", GONOGO)
        .env("PLAN", &plan)
        .env("CHECK_FLAGS", "--only environment,tcp --join-timeout 12s")
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()?;
    let said = std::fs::read_to_string(&said)?;
    let launched = said.lines().filter(|l| l.starts_with("node") && l.len() == 5).count();
    assert!(job.status.success() && said.contains("GO-WITHOUT") && said.contains("CLU-001"), "{said}");
    assert!(said.contains("exclude   node2") && launched == 7, "{said}");
    lab(&["heal", "node2"])?;
    Ok(())
}

fn a_node_that_loses_power() -> Result {
    check(SRUN, NETWORK, Some((4, &["kill-node", "node4"])))?.blames("node4", &["CLU-003", "CLU-002"]);
    Ok(())
}
