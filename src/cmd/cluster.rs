//! `gonogo check` on many nodes: rank 0 gathers and leads, every node's agent does what it says.

use std::io::Read;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};

use crate::cli;
use crate::cluster::message::{Join, PROTOCOL};
use crate::cluster::{
    Agent, AgentError, Asked, Coordinator, Expected, Hub, Interrupt, Launcher, Meeting, Permit, Supervisor,
    TOKEN_VARIABLE, Token, World, WorldError, remove_meeting, wait_for_verdict, write_meeting,
};
use crate::cmd::Failure;
use crate::cmd::measure::{Progress, header, hostname, is_interrupted, measure};
use crate::exit::Exit;
use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::measure::Interfaces;
use crate::plan::{CheckPlan, hex};
use crate::record::Header;
use crate::topology::{Leaf, SysRoot, boot_id, read_topology, who_listens};

/// What rank 0 needs from closing its connections to its end.
const AFTER_RANK_0: Duration = Duration::from_millis(300);

/// The world that flags and environment describe.
pub(super) fn world(args: &cli::Check) -> Result<Option<World>, WorldError> {
    let asked = Asked { rank: args.rank, size: args.nodes, rendezvous: args.rendezvous.clone(), alone: args.alone };
    let world = World::read(&asked, &|name| std::env::var(name).ok(), &hostname())?;
    let set = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    if world.is_none()
        && !args.alone
        && set("SLURM_JOB_NUM_NODES").max(set("SLURM_NNODES")) > 1
        && std::env::var_os("SLURM_STEP_ID").is_none()
    {
        eprintln!(
            "gonogo: this is the batch script of a job of several nodes: only this node is checked; start it with srun to check them all"
        );
    }
    Ok(world)
}

pub(super) fn run(
    args: &cli::Check,
    world: World,
    plan: CheckPlan,
    supervisor: Supervisor,
    interrupt: Interrupt,
    key: Option<&SigningKey>,
) -> Result<Exit, Failure> {
    let token = token(args)?;
    let join = join(&world, &plan).map_err(Failure::internal)?;
    let node = Node {
        join,
        token,
        bind: args.bind.as_deref().map(bind).transpose()?,
        permit: Permit::new(plan.probes.clone(), plan.storage_path.clone()),
        supervisor: Arc::new(supervisor),
    };
    if world.rank != 0 {
        return follow(&world.meeting, &node, args.join_timeout.0);
    }
    lead(args, &world, plan, node, interrupt, key)
}

/// What an agent needs.
#[derive(Clone)]
struct Node {
    join: Join,
    token: Token,
    bind: Option<IpAddr>,
    permit: Permit,
    supervisor: Arc<Supervisor>,
}

impl Node {
    /// Joins, and works until it is told to stop; returns the code to end with.
    fn work(&self, meeting: &Meeting, patience: Duration) -> Result<u8, AgentError> {
        let mut agent = Agent::join(meeting, &self.token, &self.join, patience)?;
        agent.address = self.bind.unwrap_or(agent.address);
        agent.serve(&self.supervisor, &self.permit)
    }
}

/// The address that `--bind` means here: itself, or that of an interface.
fn bind(text: &str) -> Result<IpAddr, Failure> {
    let at = text.parse().ok().or_else(|| Interfaces::address(text));
    at.ok_or_else(|| Failure::usage(anyhow!("--bind {}: no such interface with an address on this node", clean(text))))
}

fn token(args: &cli::Check) -> Result<Token, Failure> {
    Token::find(args.token_file.as_deref(), std::env::var(TOKEN_VARIABLE).ok()).map_err(Failure::usage)
}

/// A task that is no agent: it ends as the run does, so that what stands behind `gonogo check &&` starts nowhere on a NO-GO.
pub(super) fn wait(args: &cli::Check, world: &World, interrupt: &Interrupt) -> Result<Exit, Failure> {
    let token = token(args)?;
    last(wait_for_verdict(&world.meeting, &token, &world.job, args.join_timeout.0 * 2, interrupt))
}

/// What this node says of itself when it joins.
fn join(world: &World, plan: &CheckPlan) -> anyhow::Result<Join> {
    let exe = std::env::current_exe().context("cannot find gonogo's own binary")?;
    let bytes = std::fs::read(&exe).with_context(|| format!("cannot read {}", exe.display()))?;
    let digest = hex(&Sha256::digest(bytes));
    // The seed is rank 0's to choose; everything else that was asked for must be the same everywhere.
    let asked = serde_json::to_vec(&(plan.tier, plan.budget, &plan.probes, &plan.storage_path, &plan.run_hash))?;
    Ok(Join {
        protocol: PROTOCOL,
        build: format!("{} ({}, {})", env!("CARGO_PKG_VERSION"), env!("GONOGO_GIT"), &digest[..12]),
        job: world.job.clone(),
        rank: world.rank,
        size: world.size,
        local_size: world.local_size,
        host: hostname(),
        name: world.name.clone(),
        boot: boot_id(&SysRoot::live()).unwrap_or_default(),
        plan: hex(&Sha256::digest(asked)),
    })
}

/// An agent: works until it is told to stop, and ends with the verdict's code.
fn follow(meeting: &Meeting, node: &Node, patience: Duration) -> Result<Exit, Failure> {
    // Rank 0 waits for the last node that long; it may itself have started that much later.
    let exit = node.work(meeting, patience * 2);
    // Rank 0 was killed: the file that told where it was leads nowhere.
    if let (Err(AgentError::Lost { address, .. }), Meeting::File(path)) = (&exit, meeting) {
        remove_meeting(path, address.port());
    }
    last(exit)
}

/// The end of a task that is not rank 0, which ends first: a launcher may end the run with the first task that fails, and with it what
/// rank 0 said last.
fn last(exit: Result<u8, AgentError>) -> Result<Exit, Failure> {
    thread::sleep(AFTER_RANK_0);
    exit.map(Exit::of).map_err(agent_failure)
}

fn agent_failure(error: AgentError) -> Failure {
    let exit = match error {
        AgentError::Start(_) => Exit::Internal,
        _ => Exit::Hold,
    };
    Failure { exit, error: anyhow!(error).context(format!("node {}", clean(&hostname()))) }
}

fn lead(
    args: &cli::Check,
    world: &World,
    plan: CheckPlan,
    node: Node,
    interrupt: Interrupt,
    key: Option<&SigningKey>,
) -> Result<Exit, Failure> {
    // Thousands of connections need as many descriptors.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, ..limit },
    );
    let hub = open(&world.meeting, node.bind, &node.token)?;
    let file = match &world.meeting {
        Meeting::File(path) => Some(MeetingFile::write(path, hub.address.port())?),
        Meeting::At { .. } => None,
    };
    let port = hub.address.port();
    let address = Meeting::At { host: loopback(hub.address.ip()).to_string(), port, spares: 0 };
    let leaves = leaves(args, world, &plan)?;
    let own = {
        let (node, patience) = (node.clone(), args.join_timeout.0);
        thread::spawn(move || node.work(&address, patience))
    };
    let progress = Progress::new(args);
    let expected =
        Expected { hosts: world.hosts.iter().map(|h| NodeName(clean(h).into_owned())).collect(), bound: world.bound };
    let waits = Instant::now();
    let mut fleet =
        Coordinator::gather(hub, &node.join, &expected, args.join_timeout.0, interrupt.clone(), |joined, size| {
            crate::schedule::Watch::step(&progress, &format!("{joined} of {size} tasks joined"));
        });
    // Nobody is to come any more.
    drop(file);
    if fleet.members().is_empty() && !is_interrupted(&interrupt) {
        let why = own.join().ok().and_then(Result::err).map_or("nobody joined".to_owned(), |e| e.to_string());
        return Err(Failure { exit: Exit::Hold, error: anyhow!("no node joined, not even this one: {why}") });
    }
    // Those that should be there stand in the header, whether they came or not.
    let mut nodes: Vec<(NodeName, String)> = fleet.members().iter().map(|m| (m.node.clone(), m.host.clone())).collect();
    for t in fleet.node_faults() {
        if !nodes.iter().any(|(n, _)| *n == t.node) {
            nodes.push((t.node.clone(), String::new()));
        }
    }
    let joining_ms = Some(waits.elapsed().as_millis() as u64);
    let header = Header { joining_ms, ..header(plan, &nodes, Some(world.launcher.name().to_owned()), leaves) };
    // The budget runs from the last join: who waits for a node that does not come has not been measuring.
    let result = measure(args, header, &mut fleet, Instant::now(), progress, key);
    let exit = result.as_ref().map_or_else(|failure| failure.exit, |exit| *exit);
    let hung = fleet.dismiss(exit.code());
    if !hung.is_empty() {
        let names: Vec<String> = hung.iter().map(|n| n.0.clone()).collect();
        let var = |name: &str| std::env::var(name).ok();
        let how = match (world.launcher, var("SLURM_JOB_ID"), var("SLURM_STEP_ID")) {
            (Launcher::Slurm, Some(job), Some(step)) => {
                format!("; srun waits for it until you say: scancel {}.{}", clean(&job), clean(&step))
            }
            _ => "; the launcher may wait for it".to_owned(),
        };
        eprintln!("gonogo: the agent of {} hangs{how}", clean(&hostlist::compress(&names)));
    }
    // Closes the connections, for which the agents wait: this process ends first.
    drop(fleet);
    let _ = own.join();
    result
}

/// Listens where the others call; at one of the ports that follow where another program holds the first, and the port is our choice.
fn open(meeting: &Meeting, bind: Option<IpAddr>, token: &Token) -> Result<Hub, Failure> {
    let (port, spares) = match meeting {
        Meeting::At { port, spares, .. } => (*port, *spares),
        Meeting::File(_) => (0, 0),
    };
    let mut last = None;
    for at in port..=port.saturating_add(spares) {
        match Hub::open(bind, at, token.clone()) {
            Ok(hub) => return Ok(hub),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => last = Some(e),
            Err(e) => return Err(Failure::usage(anyhow!(e).context(format!("cannot listen on port {at}")))),
        }
    }
    let holder = who_listens(&SysRoot::live(), port);
    let who = holder.map_or_else(|| "a process of another user".to_owned(), |h| h.to_string());
    Err(Failure::usage(
        anyhow!(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
            .context(format!("cannot listen on port {port}, which {who} holds; give another --rendezvous HOST:PORT")),
    ))
}

/// This machine as it reaches itself.
fn loopback(bound: IpAddr) -> IpAddr {
    if !bound.is_unspecified() {
        return bound;
    }
    if bound.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() }
}

/// The file that tells where rank 0 is; gone when nobody needs it, and when this process is killed before.
struct MeetingFile {
    path: PathBuf,
    port: u16,
    /// Sees the end of this process by the end of its input.
    guard: Option<std::process::Child>,
}

impl MeetingFile {
    fn write(path: &Path, port: u16) -> Result<Self, Failure> {
        write_meeting(path, &hostname(), port)
            .with_context(|| {
                format!(
                    "cannot write {}; start in a folder that all nodes share, or give --rendezvous HOST:PORT",
                    path.display()
                )
            })
            .map_err(Failure::usage)?;
        let guard = std::env::current_exe().and_then(|own| {
            Command::new(own)
                .args(["guard", "--port", &port.to_string()])
                .arg(path)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .env_remove(TOKEN_VARIABLE)
                .process_group(0)
                .spawn()
        });
        // Without one the file may outlive a kill, which costs the next run nothing.
        Ok(MeetingFile { path: path.to_owned(), port, guard: guard.ok() })
    }
}

impl Drop for MeetingFile {
    fn drop(&mut self) {
        remove_meeting(&self.path, self.port);
        if let Some(guard) = &mut self.guard {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

/// Waits for the end of rank 0, however it ends, and takes its file away.
pub(super) fn guard(path: &Path, port: u16) -> Exit {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    remove_meeting(path, port);
    Exit::Go
}

/// Leaves from the plan, from --topology, or from Slurm's own file, in this order.
fn leaves(args: &cli::Check, world: &World, plan: &CheckPlan) -> Result<Vec<Leaf>, Failure> {
    if !plan.run.leaf.is_empty() {
        let leaf = |l: &crate::plan::LeafPlan| {
            let nodes =
                hostlist::expand(&l.nodes).map_err(|e| anyhow!(e).context(format!("[[leaf]] {}", clean(&l.name))))?;
            Ok(Leaf { name: clean(&l.name).into_owned(), nodes: nodes.into_iter().map(NodeName).collect() })
        };
        return plan.run.leaf.iter().map(leaf).collect::<anyhow::Result<_>>().map_err(Failure::usage);
    }
    if let Some(path) = &args.topology {
        return read_topology(path).map_err(Failure::usage);
    }
    if world.launcher != Launcher::Slurm {
        return Ok(Vec::new());
    }
    let dir = std::env::var_os("SLURM_CONF").map(PathBuf::from).and_then(|p| p.parent().map(Path::to_owned));
    let dir = dir.unwrap_or_else(|| PathBuf::from("/etc/slurm"));
    // Slurm itself takes no notice of topology.conf beside a topology.yaml.
    let Some(path) = ["topology.yaml", "topology.conf"].map(|f| dir.join(f)).into_iter().find(|p| p.exists()) else {
        return Ok(Vec::new());
    };
    // The file was not given to us: where it cannot be used, that is said, and the run goes on without.
    let mut leaves = read_topology(&path).unwrap_or_else(|why| {
        eprintln!("gonogo: no leaves from Slurm's own file: {why}");
        Vec::new()
    });
    for leaf in &mut leaves {
        leaf.nodes.retain(|n| world.hosts.contains(&n.0));
    }
    leaves.retain(|l| !l.nodes.is_empty());
    Ok(leaves)
}
