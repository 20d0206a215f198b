//! `gonogo check` on many nodes: rank 0 gathers and leads, every node's agent does what it says.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use sha2::{Digest, Sha256};

use crate::cli;
use crate::cluster::message::{Join, PROTOCOL};
use crate::cluster::{
    Agent, AgentError, Asked, Coordinator, Hub, Interrupt, Launcher, Meeting, Supervisor, Token, World, WorldError,
    write_meeting,
};
use crate::cmd::Failure;
use crate::cmd::check::{Progress, header, hostname, is_interrupted, measure};
use crate::exit::Exit;
use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::plan::{CheckPlan, hex};
use crate::topology::{Leaf, SysRoot, boot_id, read_topology};

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
) -> Result<Exit, Failure> {
    let token = Token::find(args.token_file.as_deref(), std::env::var("GONOGO_TOKEN").ok()).map_err(Failure::usage)?;
    let join = join(&world, &plan).map_err(Failure::internal)?;
    let supervisor = Arc::new(supervisor);
    if world.rank != 0 {
        return follow(&world.meeting, &token, &join, args.join_timeout.0, &supervisor);
    }
    lead(args, &world, plan, &token, join, supervisor, interrupt)
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
        boot: boot_id(&SysRoot::live()).unwrap_or_default(),
        plan: hex(&Sha256::digest(asked)),
    })
}

/// An agent: works until it is told to stop. Its exit code is no verdict: that is rank 0's.
fn follow(
    meeting: &Meeting,
    token: &Token,
    join: &Join,
    patience: Duration,
    supervisor: &Arc<Supervisor>,
) -> Result<Exit, Failure> {
    // Rank 0 waits for the last node that long; it may itself have started that much later.
    let agent = Agent::join(meeting, token, join, patience * 2).map_err(agent_failure)?;
    agent.serve(supervisor).map_err(agent_failure)?;
    Ok(Exit::Go)
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
    token: &Token,
    join: Join,
    supervisor: Arc<Supervisor>,
    interrupt: Interrupt,
) -> Result<Exit, Failure> {
    // Thousands of connections need as many descriptors.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, ..limit },
    );
    let port = match &world.meeting {
        Meeting::At { port, .. } => *port,
        Meeting::File(_) => 0,
    };
    let hub = Hub::open(port, token.clone())
        .with_context(|| {
            format!("cannot listen on port {port}; another check may run here: give another --rendezvous HOST:PORT")
        })
        .map_err(Failure::usage)?;
    let _file = match &world.meeting {
        Meeting::File(path) => Some(MeetingFile::write(path, hub.address.port())?),
        Meeting::At { .. } => None,
    };
    let address = Meeting::At { host: loopback(hub.address.ip()).to_string(), port: hub.address.port() };
    let leaves = leaves(args, world, &plan)?;
    let own = {
        let (token, join, supervisor, patience) =
            (token.clone(), join.clone(), Arc::clone(&supervisor), args.join_timeout.0);
        thread::spawn(move || -> Result<(), AgentError> {
            Agent::join(&address, &token, &join, patience)?.serve(&supervisor)
        })
    };
    let progress = Progress::new(args);
    let mut fleet =
        Coordinator::gather(hub, &join, &world.hosts, args.join_timeout.0, interrupt.clone(), |joined, size| {
            crate::campaign::Watch::step(&progress, &format!("{joined} of {size} tasks joined"));
        });
    if fleet.members().is_empty() && !is_interrupted(&interrupt) {
        let why = own.join().ok().and_then(Result::err).map_or("nobody joined".to_owned(), |e| e.to_string());
        return Err(Failure { exit: Exit::Hold, error: anyhow!("no node joined, not even this one: {why}") });
    }
    // Those that should be there stand in the header, whether they came or not.
    let mut nodes: Vec<NodeName> = fleet.members().iter().map(|m| m.node.clone()).collect();
    for t in fleet.troubles() {
        if !nodes.contains(&t.node) {
            nodes.push(t.node.clone());
        }
    }
    let header = header(plan, nodes, Some(world.launcher.name().to_owned()), leaves);
    // The budget runs from the last join: who waits for a node that does not come has not been measuring.
    let result = measure(args, header, &mut fleet, Instant::now(), progress);
    let hung = fleet.dismiss();
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
    let _ = own.join();
    result
}

/// This machine as it reaches itself.
fn loopback(bound: IpAddr) -> IpAddr {
    if bound.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() }
}

/// The file that tells where rank 0 is; gone when the run is.
struct MeetingFile(PathBuf);

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
        Ok(MeetingFile(path.to_owned()))
    }
}

impl Drop for MeetingFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
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
    let path = dir.unwrap_or_else(|| PathBuf::from("/etc/slurm")).join("topology.conf");
    // Slurm's file was not given to us: where it cannot be used, the run goes on without.
    let mut leaves = read_topology(&path).unwrap_or_default();
    for leaf in &mut leaves {
        leaf.nodes.retain(|n| world.hosts.contains(&n.0));
    }
    leaves.retain(|l| !l.nodes.is_empty());
    Ok(leaves)
}
