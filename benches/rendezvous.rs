//! Rendezvous, one exchange and one barrier of many agents with one coordinator: real sockets, real handshakes, two
//! processes. `cargo bench --bench rendezvous -- 2048`.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use gonogo::cluster::message::{Down, Join, PROTOCOL, Up};
use gonogo::cluster::secure::MAX_MESSAGE;
use gonogo::cluster::wire::Blob;
use gonogo::cluster::{Coordinator, Expected, Hub, Meeting, Shape, Step, Token, join};
use gonogo::id::ProbeName;
use gonogo::measure::{Measured, Outcome};
use gonogo::work::Case;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let size: u32 = std::env::args().filter_map(|a| a.parse().ok()).next_back().unwrap_or(2048);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    let Ok(token) = Token::of("0f1e5a3c9b7d2846e1c0a9f83b6d5247", "benchmark") else { return };
    match std::env::var("GONOGO_BENCH_PORT").ok().and_then(|p| p.parse().ok()) {
        Some(port) => agents(port, size, &token),
        None => coordinate(size, token),
    }
}

fn blob(text: &str) -> Blob {
    Blob::of(text).unwrap_or_else(|e| panic!("{e}"))
}

fn who(rank: u32, size: u32) -> Join {
    Join {
        protocol: PROTOCOL,
        build: "benchmark".into(),
        job: "benchmark".into(),
        rank,
        size,
        local_size: 1,
        name: None,
        host: format!("node{rank:05}"),
        boot: format!("boot{rank}"),
        plan: "same".into(),
    }
}

/// Most resident memory that this process ever had, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn coordinate(size: u32, token: Token) {
    let hub = match Hub::open(None, 0, token) {
        Ok(hub) => hub,
        Err(e) => return eprintln!("cannot listen: {e}"),
    };
    let before = resident();
    let agents = std::env::current_exe().and_then(|exe| {
        Command::new(exe)
            .arg(size.to_string())
            .env("GONOGO_BENCH_PORT", hub.address.port().to_string())
            .stdin(Stdio::null())
            .spawn()
    });
    let mut agents = match agents {
        Ok(agents) => agents,
        Err(e) => return eprintln!("cannot start the agents: {e}"),
    };
    let start = Instant::now();
    let interrupt = Arc::new(AtomicBool::new(false));
    let mut c = Coordinator::gather(hub, &who(0, size), &Expected::default(), PATIENCE, interrupt, |_, _| {});
    let joined = start.elapsed();
    let step = Step {
        shape: Shape::Groups(vec![c.members().iter().map(|m| m.node.clone()).collect()]),
        estimate_ms: 30_000,
        ..Step::new("exchange and barrier", ProbeName::new("benchmark"), vec![Case::read("done")])
    };
    let mut good = 0;
    let then = Instant::now();
    c.run(&step, &|_| None, PATIENCE, &mut |o| match o.outcome {
        Outcome::Measured(_) => good += 1,
        bad => println!("failed       {bad:?}"),
    });
    let exchanged = then.elapsed();
    let memory = resident().saturating_sub(before);
    println!("agents       {} of {size} joined, {} group done", c.members().len(), good);
    println!("rendezvous   {:.3} s", joined.as_secs_f64());
    println!("exchange of 32 B an agent, then a barrier   {:.3} s", exchanged.as_secs_f64());
    println!("together     {:.3} s", (joined + exchanged).as_secs_f64());
    println!("memory       {memory} KiB, {:.1} KiB an agent", memory as f64 / f64::from(size));
    c.dismiss(0);
    let _ = agents.kill();
    let _ = agents.wait();
}

fn agents(port: u16, size: u32, token: &Token) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let meeting = Meeting::At { host: "127.0.0.1".into(), port, spares: 0 };
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for rank in 0..size {
            let (meeting, token) = (meeting.clone(), token.clone());
            tasks.push(tokio::spawn(async move { agent(&meeting, &token, who(rank, size)).await }));
        }
        for t in tasks {
            if let Ok(Some(error)) = t.await {
                eprintln!("agent: {error}");
            }
        }
    });
}

/// Of more agents than `ALL_READ` every so many reads what the coordinator says, the others count its messages: on a cluster each has a
/// machine of its own to read with, here one process plays them all.
const ALL_READ: u32 = 2048;
const READS: u32 = 512;
/// The coordinator's only task.
const TASK: u64 = 1;

/// Joins, publishes 32 bytes, then nothing (the barrier), reports, and waits for the end.
async fn agent(meeting: &Meeting, token: &Token, who: Join) -> Option<String> {
    let (mut sender, mut receiver, node, _) = match join(meeting, token, &who, PATIENCE).await {
        Ok(joined) => joined,
        Err(e) => return Some(e.to_string()),
    };
    let (say, mut queue) = tokio::sync::mpsc::unbounded_channel::<Up>();
    tokio::spawn(async move {
        loop {
            let up = match tokio::time::timeout(Duration::from_secs(1), queue.recv()).await {
                Ok(Some(up)) => up,
                Ok(None) => return,
                Err(_) => Up::Alive,
            };
            let bytes = serde_json::to_vec(&up).unwrap_or_default();
            if sender.send(&bytes, PATIENCE).await.is_err() {
                return;
            }
        }
    });
    let reads = who.size <= ALL_READ || who.rank.is_multiple_of(READS);
    // After its work come the answers to the exchange and to the barrier.
    let mut long = 0;
    while let Ok(message) = receiver.receive(MAX_MESSAGE, PATIENCE).await {
        let said = if reads || message.len() < 100 {
            match Down::of(&message) {
                Ok(Down::Bye { .. }) => return None,
                Ok(Down::All { blobs, .. }) => Some(blobs),
                Ok(Down::Run { task, .. }) if task == TASK => None,
                _ => continue,
            }
        } else {
            None
        };
        long += 1;
        match long {
            1 => drop(say.send(Up::Publish { task: TASK, blobs: vec![blob(&format!("{:032}", who.rank))] })),
            2 if reads && !said.and_then(|b| b.split().ok()).is_some_and(|b| is_whole(&b, who.size)) => {
                return Some(format!("{node} got a wrong exchange"));
            }
            2 => drop(say.send(Up::Publish { task: TASK, blobs: vec![blob("")] })),
            _ => {
                if who.rank == 0 {
                    let outcome = Box::new(Outcome::Measured(Measured::default()));
                    let _ = say.send(Up::Outcome { task: TASK, case: 0, outcome, load: None });
                }
                let _ = say.send(Up::Ended { task: TASK, failure: None });
            }
        }
    }
    None
}

/// Whether an exchange has what each of so many published.
fn is_whole(blobs: &[Blob], size: u32) -> bool {
    let of = |rank: u32| blob(&format!("{rank:032}"));
    blobs.len() == size as usize && blobs.first() == Some(&of(0)) && blobs.last() == Some(&of(size - 1))
}
