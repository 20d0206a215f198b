//! Strangers at every port, and somebody with the token who is not who they say: no innocent node pays for it.

#[path = "world/record.rs"]
mod record;
mod world;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gonogo::cluster::message::{Down, Group, Join, PROTOCOL, Up};
use gonogo::cluster::{Event, Hub, Meeting, Step, StepKey, Token, join};
use gonogo::id::ProbeName;
use record::wait_for_lines;
use world::{Result, TOKEN, World, against, end};

/// What goes on in the background until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Flood {
    fn start(work: impl FnOnce(&AtomicBool) -> usize + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let own = stop.clone();
        Flood { stop, thread: Some(thread::spawn(move || work(&own))) }
    }

    /// How often it struck.
    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|t| t.join().ok()).unwrap_or(0)
    }
}

/// This process, too, holds thousands of sockets.
fn raise_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limit.maximum, ..limit };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, most);
}

fn wait_for_port(port: u16) {
    let until = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(("127.0.0.1", port)).is_err() && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Two nodes of which the second comes late, to a door that strangers crowd: it gets in, and nothing is said against it.
fn gets_in(w: &World, flood: Flood, least: usize) -> Result {
    thread::sleep(Duration::from_millis(1500));
    let one = w.start(1, &["--join-timeout", "20s"])?;
    let (code, _, err) = end(one)?;
    assert!(code <= 2 && !err.contains("cannot reach"), "{code} {err}");
    let struck = flood.end();
    assert!(struck >= least, "only {struck} calls of strangers");
    Ok(())
}

fn crowded(flood: impl FnOnce(u16, &AtomicBool) -> usize + Send + 'static, least: usize) -> Result {
    let w = World::new(2)?;
    let zero = w.start(0, &["--join-timeout", "20s"])?;
    wait_for_port(w.port);
    let port = w.port;
    let flood = Flood::start(move |stop| flood(port, stop));
    gets_in(&w, flood, least)?;
    let (code, report, err) = end(zero)?;
    assert!(code <= 2 && report["nodes"].as_array().map(Vec::len) == Some(2), "{code} {err}");
    assert!(against(&report).iter().all(|f| !f.starts_with("CLU")), "{:?}", against(&report));
    Ok(())
}

#[test]
fn four_thousand_idle_connections_cost_nobody_a_place() -> Result {
    raise_limit();
    crowded(
        |port, stop| {
            let mut held = Vec::new();
            while held.len() < 4000 && !stop.load(Ordering::Relaxed) {
                match TcpStream::connect(("127.0.0.1", port)) {
                    Ok(s) => held.push(s),
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
            }
            held.len()
        },
        1000,
    )
}

#[test]
fn six_hundred_wrong_greetings_a_second_cost_nobody_a_place() -> Result {
    raise_limit();
    crowded(
        |port, stop| {
            let start = Instant::now();
            let mut struck = 0;
            while !stop.load(Ordering::Relaxed) {
                if let Ok(mut s) = TcpStream::connect(("127.0.0.1", port)) {
                    let _ = s.write_all(&[7; 48]);
                    struck += 1;
                }
                let due = Duration::from_secs_f64(struck as f64 / 600.0);
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            struck
        },
        600,
    )
}

/// As many nodes start at once, from one place as far as the door can tell: they wait for their turn, and nobody is sent away.
#[test]
fn a_thousand_agents_at_once_take_their_turns() -> Result {
    raise_limit();
    let hub = Hub::open(None, 0, token())?;
    let meeting = Meeting::At { host: "127.0.0.1".into(), port: hub.address.port(), spares: 0 };
    let agents = thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 0 };
        runtime.block_on(async {
            let (one, token) = (build(0, "n"), token());
            let call = |rank| {
                let (meeting, token, who) = (meeting.clone(), token.clone(), Join { rank, ..one.clone() });
                async move { join(&meeting, &token, &who, Duration::from_secs(20)).await.is_ok() }
            };
            let all: Vec<_> = (0..1000).map(|rank| tokio::spawn(call(rank))).collect();
            let mut joined = 0;
            for one in all {
                joined += usize::from(one.await.unwrap_or(false));
            }
            joined
        })
    });
    let mut came = 0;
    while came < 1000 {
        let event = hub
            .events
            .recv_timeout(Duration::from_secs(20))
            .map_err(|e| format!("{e} after {came}: {:?}", hub.unauthenticated()))?;
        let Event::Joined(peer, join) = event else { continue };
        hub.send([peer], &Down::Welcome { node: gonogo::id::NodeName(format!("n{}", join.rank)) });
        came += 1;
    }
    assert_eq!(agents.join().unwrap_or(0), 1000);
    assert!(!hub.was_crowded() && hub.unauthenticated().is_empty(), "{:?}", hub.unauthenticated());
    Ok(())
}

#[test]
fn who_is_missing_at_a_crowded_door_is_not_blamed_and_not_drained() -> Result {
    raise_limit();
    let w = World::new(2)?;
    let zero = w.start(0, &["--join-timeout", "3s"])?;
    wait_for_port(w.port);
    let port = w.port;
    let flood = Flood::start(move |stop| {
        let mut held = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if held.len() < 2000 {
                held.extend(TcpStream::connect(("127.0.0.1", port)));
            } else {
                thread::sleep(Duration::from_millis(20));
            }
        }
        held.len()
    });
    let (code, report, err) = end(zero)?;
    flood.end();
    assert_eq!(code, 2, "{err} {:?}", against(&report));
    assert!(
        against(&report).iter().any(|f| f.starts_with("CLU-011") && f.contains("rank-1")),
        "{:?}",
        against(&report)
    );
    let out = Command::new(env!("CARGO_BIN_EXE_gonogo")).args(["drain", "rec-0"]).current_dir(w.dir.path()).output()?;
    assert!(String::from_utf8_lossy(&out.stdout).contains("nothing to drain"), "{out:?}");
    Ok(())
}

/// Sockets of this machine that listen now. A door is open for a moment: there is no time to ask whose it is.
fn listening() -> Vec<SocketAddr> {
    let row = |line: &str| {
        let f: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, "0A", ..] = f[..] else { return None };
        let (host, port) = local.split_once(':')?;
        // Words of four bytes, each in the order of the machine.
        let words: Vec<u8> = (0..host.len() / 8)
            .filter_map(|i| Some(u32::from_str_radix(host.get(i * 8..i * 8 + 8)?, 16).ok()?.to_le_bytes()))
            .flatten()
            .collect();
        let ip = match words.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(words).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(words).ok()?),
        };
        Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
    };
    let table = |name: &str| std::fs::read_to_string(name).unwrap_or_default();
    (table("/proc/net/tcp") + &table("/proc/net/tcp6")).lines().filter_map(row).collect()
}

#[test]
fn data_ports_admit_their_own_and_wait_for_nobody_else() -> Result {
    let w = World::new(3)?;
    let args = ["--only", "environment,tcp,collective"];
    let agents = [w.start(1, &args)?, w.start(2, &args)?, w.start(0, &args)?];
    let struck = Arc::new(AtomicUsize::new(0));
    let count = struck.clone();
    // At every port that opens: callers that are silent, that talk junk, and that say what looks like a greeting.
    let before = listening();
    let flood = Flood::start(move |stop| {
        let mut held = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            for at in listening().into_iter().filter(|l| !before.contains(l)) {
                for junk in [&b""[..], &[0xff; 300], &[0; 64]] {
                    if let Ok(mut s) = TcpStream::connect(at) {
                        let _ = s.write_all(junk);
                        count.fetch_add(1, Ordering::Relaxed);
                        held.push(s);
                    }
                }
            }
            if held.len() > 500 {
                held.drain(..250);
            }
        }
        0
    });
    let [one, two, zero] = agents;
    let (code, report, err) = end(zero)?;
    flood.end();
    assert!(struck.load(Ordering::Relaxed) > 5, "no data port was struck");
    assert!(code <= 2 && report["nodes"].as_array().map(Vec::len) == Some(3), "{code} {err}");
    // Nothing failed: neither a connection nor a wait. What strangers do to rates on one machine is another matter.
    let broken = |f: &String| ["RUN-", "CLU-", "NET-00", "COL-00"].iter().any(|c| f.starts_with(c));
    assert!(!against(&report).iter().any(broken), "{:?}", against(&report));
    end(one)?;
    end(two)?;
    Ok(())
}

fn token() -> Token {
    Token::of(TOKEN, "test").unwrap_or_else(|e| panic!("{e}"))
}

/// What Slurm tells a task of a step on the nodes `na` and `nb`, `each` tasks on each; all of them are on this machine.
fn step_of_slurm(rank: u32, each: u32) -> [(&'static str, String); 9] {
    let (node, local) = (rank / each, rank % each);
    [
        ("SLURM_JOB_ID", "17".to_owned()),
        ("SLURM_STEP_ID", "0".to_owned()),
        ("SLURM_PROCID", rank.to_string()),
        ("SLURM_NTASKS", (2 * each).to_string()),
        ("SLURM_LOCALID", local.to_string()),
        ("SLURM_NODEID", node.to_string()),
        ("SLURM_STEP_NODELIST", "na,nb".to_owned()),
        ("SLURM_STEP_TASKS_PER_NODE", format!("{each}(x2)")),
        ("SLURMD_NODENAME", ["na", "nb"][node as usize].to_owned()),
    ]
}

/// A task that joins where Slurm's variables say.
fn task(w: &World, rank: u32, each: u32, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_gonogo"));
    c.args(["check", "--quiet", "--out", &format!("rec-{rank}")])
        .args(args)
        .current_dir(w.dir.path())
        .env("GONOGO_TOKEN", TOKEN)
        .envs(step_of_slurm(rank, each))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    c
}

/// A task that joins at the port of this test.
fn slurm(w: &World, rank: u32, each: u32, extra: &[&str]) -> Command {
    let at = format!("127.0.0.1:{}", w.port);
    let args = ["--rendezvous", &at, "--join-timeout", "8s", "--only", "environment", "--format", "json"];
    task(w, rank, each, &[&args[..], extra].concat())
}

#[test]
fn every_task_ends_with_the_verdict() -> Result {
    let w = World::new(4)?;
    // A plan that this machine cannot meet.
    std::fs::write(w.dir.path().join("run.toml"), "[nodes]\nneeded = 2\ngpus_per_node = 64\n")?;
    let tasks: Vec<Child> = [1, 2, 3, 0]
        .into_iter()
        .map(|r| slurm(&w, r, 2, &["--plan", "run.toml"]).spawn())
        .collect::<std::io::Result<_>>()?;
    let mut codes = Vec::new();
    let mut last = serde_json::Value::Null;
    for task in tasks {
        let (code, report, err) = end(task)?;
        assert!(err.is_empty(), "{err}");
        codes.push(code);
        last = report;
    }
    assert!(codes[3] > 0 && codes.iter().all(|c| *c == codes[3]), "{codes:?}");
    assert_eq!(last["nodes"], serde_json::json!(["na", "nb"]));
    // What its kernel calls it is in the record, too.
    let text = std::fs::read_to_string(w.dir.path().join("rec-0/record.jsonl"))?;
    let header: serde_json::Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    assert_eq!(header["header"]["kernel_names"]["nb"], host.as_str());
    assert_eq!(header["header"]["job"]["id"], "17");
    Ok(())
}

#[test]
fn the_image_tier_ends_everywhere_with_its_verdict() -> Result {
    let w = World::new(2)?;
    let mut codes = Vec::new();
    for rank in [0, 1] {
        let o = task(&w, rank, 1, &["--tier", "image", "--needs", "cuda"]).output()?;
        codes.push((o.status.code(), o.stdout.is_empty()));
    }
    assert_eq!(codes[0].0, codes[1].0);
    assert!(codes[0].0 != Some(0) && !codes[0].1 && codes[1].1, "{codes:?}");
    assert!(!w.dir.path().join("rec-1").exists());
    Ok(())
}

fn build(rank: u32, host: &str) -> Join {
    let digest = {
        let out = Command::new("sha256sum").arg(env!("CARGO_BIN_EXE_gonogo")).output().map(|o| o.stdout);
        String::from_utf8_lossy(&out.unwrap_or_default()).get(..12).unwrap_or_default().to_owned()
    };
    Join {
        protocol: PROTOCOL,
        build: format!("{} ({}, {digest})", env!("CARGO_PKG_VERSION"), env!("GONOGO_GIT")),
        job: "Slurm 17.0".into(),
        rank,
        size: 2,
        local_size: 1,
        host: host.into(),
        name: Some(host.into()),
        boot: "b".into(),
        plan: String::new(),
    }
}

/// Calls with the token as `join`; what the coordinator answers.
fn claim(port: u16, join: &Join) -> String {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return String::new() };
    let meeting = Meeting::At { host: "127.0.0.1".into(), port, spares: 0 };
    let answer = runtime.block_on(gonogo::cluster::join(&meeting, &token(), join, Duration::from_secs(1)));
    match answer {
        Ok((_, _, node, _)) => format!("welcome {node}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_token_is_no_name() -> Result {
    let w = World::new(2)?;
    let zero = slurm(&w, 0, 1, &[]).spawn()?;
    wait_for_port(w.port);
    // A node that is not in the job, a place of another node, an absurd world, and the first node a second time.
    let elsewhere = claim(w.port, &build(1, "evil"));
    assert!(elsewhere.contains("is none of the nodes that the launcher named"), "{elsewhere}");
    let place = claim(w.port, &build(0, "nb"));
    assert!(place.contains("rank 0 is the task of na, not of nb"), "{place}");
    let one = slurm(&w, 1, 1, &[]).spawn()?;
    let (code, report, err) = end(zero)?;
    assert!(code <= 2 && report["nodes"] == serde_json::json!(["na", "nb"]), "{code} {err} {}", report["nodes"]);
    assert!(against(&report).iter().all(|f| !f.starts_with("CLU")), "{:?}", against(&report));
    let told = report["findings"].as_array().into_iter().flatten().find(|f| f["code"] == "CLU-010");
    assert!(told.is_some_and(|f| f["evidence"].as_str().is_some_and(|e| e.contains("evil (rank 1)"))), "{report}");
    assert_eq!(end(one)?.0, code);
    Ok(())
}

#[test]
fn a_first_message_that_was_recorded_gets_no_answer() -> Result {
    let w = World::new(2)?;
    let zero = w.start(0, &[])?;
    wait_for_port(w.port);
    // Between the second node and the coordinator sits somebody who records.
    let middle = TcpListener::bind(("127.0.0.1", 0))?;
    let at = format!("127.0.0.1:{}", middle.local_addr()?.port());
    let port = w.port;
    let recorder = thread::spawn(move || -> std::io::Result<[u8; 48]> {
        let (mut agent, _) = middle.accept()?;
        let mut hub = TcpStream::connect(("127.0.0.1", port))?;
        let mut first = [0u8; 48];
        agent.read_exact(&mut first)?;
        hub.write_all(&first)?;
        let (mut a, mut h) = (agent.try_clone()?, hub.try_clone()?);
        thread::spawn(move || std::io::copy(&mut a, &mut h));
        thread::spawn(move || std::io::copy(&mut hub, &mut agent));
        Ok(first)
    });
    let one = w.start(1, &["--rendezvous", &at])?;
    let first = recorder.join().map_err(|_| "a panic")??;
    thread::sleep(Duration::from_millis(300));
    let mut replay = TcpStream::connect(("127.0.0.1", w.port))?;
    replay.set_read_timeout(Some(Duration::from_secs(8)))?;
    replay.write_all(&first)?;
    let mut answer = Vec::new();
    let _ = replay.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{} bytes came back", answer.len());
    let (code, _, err) = end(zero)?;
    assert!(code <= 2, "{err}");
    assert_eq!(end(one)?.0, code);
    Ok(())
}

fn step(name: &str, change: impl FnOnce(&mut Step)) -> Step {
    let mut step = Step {
        estimate_ms: 100,
        ..Step::new(name, ProbeName::new("environment"), vec![gonogo::work::Case::read("a")])
    };
    change(&mut step);
    step
}

#[test]
fn an_agent_does_what_its_own_plan_allows() -> Result {
    let w = World::new(2)?;
    let hub = Hub::open(None, w.port, token())?;
    let mut one = w.start(1, &["--path", ".", "--only", "environment,storage"])?;
    let (peer, host) = loop {
        match hub.events.recv_timeout(Duration::from_secs(10))? {
            Event::Joined(peer, join) => {
                hub.send([peer], &Down::Welcome { node: gonogo::id::NodeName(join.host.clone()) });
                break (peer, join.host);
            }
            _ => continue,
        }
    };
    let elsewhere = w.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    let group = |members: &[&str]| Group {
        members: members.iter().map(|m| gonogo::id::NodeName((*m).to_owned())).collect(),
        key: StepKey::new(),
    };
    let alone = || group(&[&host]);
    let evil = [
        (step("write", |s| (s.probe, s.scratch) = (ProbeName::new("storage"), Some(elsewhere.clone()))), alone()),
        (step("many", |s| s.ranks = 500), alone()),
        (step("none", |s| s.ranks = 0), alone()),
        (step("other", |s| s.probe = ProbeName::new("gemm")), alone()),
        (step("long", |s| s.estimate_ms = u64::MAX), alone()),
        (step("place", |_| ()), group(&["somebody", "else"])),
    ];
    for (task, (step, group)) in evil.into_iter().enumerate() {
        let (task, name) = (task as u64, step.name.clone());
        hub.send([peer], &Down::Run { task, step: Box::new(step), group, at_most_ms: 2000 });
        let refused = loop {
            match hub.events.recv_timeout(Duration::from_secs(10))? {
                Event::Received(_, Up::Ended { task: t, failure }) if t == task => break failure,
                Event::Gone(_, why) => return Err(format!("{name}: the agent is gone: {why}").into()),
                _ => continue,
            }
        };
        assert!(refused.as_ref().is_some_and(|f| f.error.contains("refused the step")), "{name}: {refused:?}");
    }
    assert_eq!(std::fs::read_dir(&elsewhere)?.count(), 0);
    hub.send([peer], &Down::Bye { exit: 1 });
    assert_eq!(one.wait()?.code(), Some(1));
    Ok(())
}

#[test]
fn a_stale_meeting_ends_nobody_and_none_stays_after_a_kill() -> Result {
    let w = World::new(2)?;
    let file = w.dir.path().join("meet");
    let at = format!("file:{}", file.display());
    let args = ["--rendezvous", at.as_str()];
    // It leads to somebody else, who closes at once.
    let other = TcpListener::bind(("127.0.0.1", 0))?;
    std::fs::write(&file, format!("127.0.0.1 {}\n", other.local_addr()?.port()))?;
    thread::spawn(move || other.incoming().for_each(drop));
    let one = w.start(1, &args)?;
    thread::sleep(Duration::from_millis(2500));
    let (code, report, err) = end(w.start(0, &args)?)?;
    assert!(code <= 2 && report["nodes"].as_array().map(Vec::len) == Some(2), "{code} {err}");
    assert_eq!(end(one)?.0, code);
    assert!(!file.exists(), "the file stayed after the run");
    // Killed while it waits for the others, and while it measures.
    let args = [&args[..], &["--tier", "standard", "--budget", "30s"]].concat();
    for measures in [false, true] {
        std::fs::remove_dir_all(w.dir.path().join("rec-0")).ok();
        let mut zero = w.start(0, &args)?;
        let one = if measures { Some(w.start(1, &args)?) } else { None };
        if measures {
            wait_for_lines(&w, 6)?;
        } else {
            let until = Instant::now() + Duration::from_secs(30);
            while !file.exists() && Instant::now() < until {
                thread::sleep(Duration::from_millis(20));
            }
            assert!(file.exists(), "no file says where rank 0 is");
        }
        zero.kill()?;
        zero.wait()?;
        if let Some(one) = one {
            let (code, _, err) = end(one)?;
            assert!(code == 2 && err.contains("ends without a verdict"), "{code} {err}");
        }
        let until = Instant::now() + Duration::from_secs(3);
        while file.exists() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        assert!(!file.exists(), "killed, measuring {measures}: the file stayed");
    }
    Ok(())
}

#[test]
fn a_port_that_is_held_says_by_whom() -> Result {
    let w = World::new(2)?;
    let held = TcpListener::bind(("::", w.port))?;
    let (code, _, err) = end(w.start(0, &[])?)?;
    let own = std::process::id().to_string();
    assert!(code == 3 && err.contains("which strangers") && err.contains(&own), "{code} {err}");
    drop(held);
    // Where the port is of gonogo's own choice, the next one serves, and the others find it.
    let job = 17u32;
    let port = 20_000 + (job * 7 % 10_000) as u16;
    let held = TcpListener::bind(("::", port))?;
    let args = ["--join-timeout", "8s", "--only", "environment", "--format", "json"];
    let own_port = |rank: u32| {
        let mut c = task(&w, rank, 1, &args);
        c.env("SLURM_STEP_NODELIST", "localhost,nb");
        if rank == 0 {
            c.env("SLURMD_NODENAME", "localhost");
        }
        c
    };
    let one = own_port(1).spawn()?;
    let (code, report, err) = end(own_port(0).spawn()?)?;
    assert!(code <= 2 && report["nodes"].as_array().map(Vec::len) == Some(2), "{code} {err}");
    assert_eq!(end(one)?.0, code);
    drop(held);
    Ok(())
}
