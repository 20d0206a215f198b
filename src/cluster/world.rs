//! Who am I among how many, and where do we meet: read from what the launcher left in the environment.
//!
//! The innermost launcher speaks: flags, then torchrun, Open MPI, a Slurm step, another MPI (PMI), plain
//! `RANK`/`WORLD_SIZE`, an indexed Kubernetes Job. What contradicts itself is refused with what was seen.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hostlist;
use crate::id::clean;

/// Port where nobody says: not registered with IANA, below Linux's ephemeral range.
pub const DEFAULT_PORT: u16 = 17_917;

/// Ports after the first that rank 0 may take where another program holds it.
const SPARES: u16 = 3;

/// Who placed the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    Flags,
    Torchrun,
    OpenMpi,
    Slurm,
    Pmi,
    Environment,
    Kubernetes,
}

impl Launcher {
    pub const fn name(self) -> &'static str {
        match self {
            Launcher::Flags => "flags",
            Launcher::Torchrun => "torchrun",
            Launcher::OpenMpi => "Open MPI",
            Launcher::Slurm => "Slurm",
            Launcher::Pmi => "MPI (PMI)",
            Launcher::Environment => "RANK and WORLD_SIZE",
            Launcher::Kubernetes => "Kubernetes",
        }
    }
}

/// Where rank 0 listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meeting {
    /// Everybody knows the host. Where the port is of our own choice, rank 0 may be at one of `spares` that follow, if another holds it.
    At { host: String, port: u16, spares: u16 },
    /// Rank 0 writes its address into this file, which every node sees.
    File(PathBuf),
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Meeting::At { host, port, .. } => write!(f, "{}:{port}", clean(host)),
            Meeting::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

/// One task's place in the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    pub launcher: Launcher,
    /// Of the task, among all tasks.
    pub rank: u32,
    pub size: u32,
    /// Of the task, among those of its node. 0 is the agent.
    pub local_rank: u32,
    /// Tasks on this node.
    pub local_size: u32,
    /// What the launcher calls this node, where it has names of its own.
    pub name: Option<String>,
    /// The nodes that should take part, when the launcher names them.
    pub hosts: Vec<String>,
    /// Rank r is the task of `hosts[r]`, and of no other node.
    pub bound: bool,
    pub meeting: Meeting,
    /// What distinguishes this world from another on the same machines.
    pub job: String,
}

impl World {
    /// How many nodes take part, as far as the launcher tells.
    pub fn nodes(&self) -> u32 {
        if self.hosts.is_empty() { (self.size / self.local_size.max(1)).max(1) } else { self.hosts.len() as u32 }
    }
}

/// The scheduler's job that a process is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    pub id: String,
    /// How often it was started anew: what was measured before says nothing of the nodes that it has now.
    #[serde(default)]
    pub restarts: u32,
}

impl Job {
    /// Slurm's, where this process is in one.
    pub fn read(get: Variables<'_>) -> Option<Job> {
        let id = get("SLURM_JOB_ID").filter(|id| !id.is_empty())?;
        let restarts = get("SLURM_RESTART_COUNT").and_then(|n| n.trim().parse().ok()).unwrap_or(0);
        Some(Job { id: clean(&id).into_owned(), restarts })
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.restarts {
            0 => write!(f, "job {}", clean(&self.id)),
            n => write!(f, "job {} (restart {n})", clean(&self.id)),
        }
    }
}

/// Flags that say what no launcher says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    pub rank: Option<u32>,
    pub size: Option<u32>,
    pub rendezvous: Option<String>,
    /// Do not look for a cluster at all.
    pub alone: bool,
}

/// Why the environment makes no world.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WorldError {
    #[error("{name}={value} is not {want}; the launcher ({launcher}) should set it", launcher = .launcher.name())]
    NotANumber { launcher: Launcher, name: &'static str, value: String, want: &'static str },
    #[error("{launcher} sets {seen}, which contradict each other: {why}", launcher = .launcher.name())]
    Contradiction { launcher: Launcher, seen: String, why: String },
    #[error(
        "{seen}: two launchers disagree; unset the one that is not meant, or give --rank, --nodes and --rendezvous"
    )]
    Disagree { seen: String },
    #[error("{launcher} says rank {rank} of {size} and not where rank 0 is; give --rendezvous HOST:PORT", launcher = .launcher.name())]
    NoMeeting { launcher: Launcher, rank: u32, size: u32 },
    #[error("`{0}` is not a rendezvous; write it like node001:17917 or [fd00::1]:17917")]
    BadMeeting(String),
    #[error("--rank and --nodes belong together: both or neither")]
    HalfAsked,
    #[error("{name}: {source}")]
    Hosts { name: &'static str, source: hostlist::HostlistError },
}

/// Reads variables by name; a closure, so that tests bring their own.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The numbers that every launcher gives in its own words.
struct Assignment {
    rank: u32,
    size: u32,
    local_rank: u32,
    local_size: u32,
}

struct Source<'a> {
    launcher: Launcher,
    get: Variables<'a>,
}

impl Source<'_> {
    fn number(&self, name: &'static str) -> Result<Option<u32>, WorldError> {
        let Some(text) = (self.get)(name) else { return Ok(None) };
        let value = text.trim().parse().map_err(|_| WorldError::NotANumber {
            launcher: self.launcher,
            name,
            value: clean(&text).into_owned(),
            want: "a whole number",
        })?;
        Ok(Some(value))
    }

    /// The first of `names` that is set.
    fn first(&self, names: &[&'static str]) -> Result<Option<u32>, WorldError> {
        for name in names {
            if let Some(n) = self.number(name)? {
                return Ok(Some(n));
            }
        }
        Ok(None)
    }

    fn assignment(
        &self,
        rank: &[&'static str],
        size: &[&'static str],
        local: &[&'static str],
        local_tasks: &[&'static str],
    ) -> Result<Option<Assignment>, WorldError> {
        let (Some(r), Some(n)) = (self.first(rank)?, self.first(size)?) else { return Ok(None) };
        let local_rank = self.first(local)?.unwrap_or(0);
        let local_size = self.first(local_tasks)?.unwrap_or(local_rank + 1);
        let seen = || {
            let names = [rank, size, local, local_tasks].concat();
            let shown: Vec<String> =
                names.into_iter().filter_map(|name| Some(format!("{name}={}", clean(&(self.get)(name)?)))).collect();
            shown.join(" ")
        };
        let wrong = |why: String| WorldError::Contradiction { launcher: self.launcher, seen: seen(), why };
        if n == 0 {
            return Err(wrong("a world of no tasks".to_owned()));
        }
        if r >= n {
            return Err(wrong(format!("rank {r} of {n}")));
        }
        if local_rank >= local_size.max(1) {
            return Err(wrong(format!("local rank {local_rank} of {local_size}")));
        }
        if local_rank > r {
            return Err(wrong(format!("local rank {local_rank} of rank {r}")));
        }
        if local_size > n {
            return Err(wrong(format!("{local_size} tasks on this node of {n} in all")));
        }
        Ok(Some(Assignment { rank: r, size: n, local_rank, local_size }))
    }
}

/// Where --rank and --nodes say who this is.
fn flags(rank: u32, size: u32, rendezvous: Option<Meeting>, get: Variables<'_>) -> Result<Option<World>, WorldError> {
    let assignment = Assignment { rank, size, local_rank: 0, local_size: 1 };
    if rank >= size {
        let why = format!("rank {rank} of {size}");
        let seen = format!("--rank={rank} --nodes={size}");
        return Err(WorldError::Contradiction { launcher: Launcher::Flags, seen, why });
    }
    // A Slurm step for each node, where one for all cannot start: the allocation knows the names.
    let hosts = allocation(get)?;
    if hosts.len() == size as usize {
        let job = get("SLURM_JOB_ID").unwrap_or_default();
        let first = Meeting::At { host: hosts[0].clone(), port: slurm_port(&job, ""), spares: SPARES };
        let world = world(Launcher::Slurm, assignment, hosts, rendezvous.or(Some(first)), job)?;
        return Ok(world.map(|w| World { name: node_name(get), ..w }));
    }
    world(Launcher::Flags, assignment, Vec::new(), rendezvous, "flags".to_owned())
}

impl World {
    /// The world of this task; `None` when no launcher placed it, or when it is the only task.
    pub fn read(asked: &Asked, get: Variables<'_>, hostname: &str) -> Result<Option<World>, WorldError> {
        if asked.alone {
            return Ok(None);
        }
        let set = |name: &str| get(name).is_some();
        let source = |launcher| Source { launcher, get };
        let rendezvous = match asked.rendezvous.clone().or_else(|| get("GONOGO_RENDEZVOUS").filter(|r| !r.is_empty())) {
            Some(text) => Some(parse_meeting(&text)?),
            None => None,
        };
        if let (Some(rank), Some(size)) = (asked.rank, asked.size) {
            return flags(rank, size, rendezvous, get);
        }
        if asked.rank.is_some() || asked.size.is_some() {
            return Err(WorldError::HalfAsked);
        }
        if set("TORCHELASTIC_RUN_ID") || (set("GROUP_RANK") && set("WORLD_SIZE")) {
            let s = source(Launcher::Torchrun);
            if let Some(assignment) =
                s.assignment(&["RANK"], &["WORLD_SIZE"], &["LOCAL_RANK"], &["LOCAL_WORLD_SIZE"])?
            {
                let job = get("TORCHELASTIC_RUN_ID").unwrap_or_default();
                return world(s.launcher, assignment, Vec::new(), rendezvous.or(master(&s)?), job);
            }
        }
        if set("OMPI_COMM_WORLD_RANK") {
            let s = source(Launcher::OpenMpi);
            let assignment = s.assignment(
                &["OMPI_COMM_WORLD_RANK"],
                &["OMPI_COMM_WORLD_SIZE"],
                &["OMPI_COMM_WORLD_LOCAL_RANK"],
                &["OMPI_COMM_WORLD_LOCAL_SIZE"],
            )?;
            if let Some(assignment) = assignment {
                let job = ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid"];
                let job = job.into_iter().find_map(get).unwrap_or_default();
                // mpirun tells nobody where rank 0 is; a file in the folder that all started in does.
                let file = (!job.is_empty()).then(|| Meeting::File(meeting_file(&job)));
                return world(s.launcher, assignment, Vec::new(), rendezvous.or(master(&s)?).or(file), job);
            }
        }
        if set("SLURM_STEP_ID") || set("SLURM_STEPID") {
            return slurm(&source(Launcher::Slurm), rendezvous, hostname);
        }
        if set("PMI_RANK") || set("PMIX_RANK") {
            let s = source(Launcher::Pmi);
            let assignment = s.assignment(
                &["PMI_RANK", "PMIX_RANK"],
                &["PMI_SIZE", "PMIX_SIZE"],
                &["MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
                &["MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"],
            )?;
            if let Some(assignment) = assignment {
                return world(
                    s.launcher,
                    assignment,
                    Vec::new(),
                    rendezvous.or(master(&s)?),
                    get("PMI_JOBID").unwrap_or_default(),
                );
            }
        }
        if set("RANK") && set("WORLD_SIZE") {
            let s = source(Launcher::Environment);
            if let Some(assignment) =
                s.assignment(&["RANK"], &["WORLD_SIZE"], &["LOCAL_RANK"], &["LOCAL_WORLD_SIZE"])?
            {
                return world(s.launcher, assignment, Vec::new(), rendezvous.or(master(&s)?), String::new());
            }
        }
        if set("JOB_COMPLETION_INDEX") {
            return kubernetes(&source(Launcher::Kubernetes), rendezvous, hostname);
        }
        Ok(None)
    }

    /// Whether this task is its node's agent.
    pub fn is_agent(&self) -> bool {
        self.local_rank == 0
    }
}

fn world(
    launcher: Launcher,
    assignment: Assignment,
    hosts: Vec<String>,
    meeting: Option<Meeting>,
    job: String,
) -> Result<Option<World>, WorldError> {
    let Assignment { rank, size, local_rank, local_size } = assignment;
    if size == 1 {
        return Ok(None);
    }
    let meeting = meeting.ok_or(WorldError::NoMeeting { launcher, rank, size })?;
    let job = format!("{} {}", launcher.name(), clean(&job));
    Ok(Some(World { launcher, rank, size, local_rank, local_size, name: None, hosts, bound: false, meeting, job }))
}

/// MASTER_ADDR and MASTER_PORT. torchrun's own store holds the port: then the next one is ours.
fn master(s: &Source<'_>) -> Result<Option<Meeting>, WorldError> {
    let Some(host) = (s.get)("MASTER_ADDR").filter(|h| !h.is_empty()) else { return Ok(None) };
    let port = s.number("MASTER_PORT")?.map_or(Ok(DEFAULT_PORT), |p| {
        u16::try_from(p).map_err(|_| WorldError::NotANumber {
            launcher: s.launcher,
            name: "MASTER_PORT",
            value: p.to_string(),
            want: "a port",
        })
    })?;
    let held = (s.get)("TORCHELASTIC_USE_AGENT_STORE").is_some();
    Ok(Some(Meeting::At { host, port: if held { port.saturating_add(1) } else { port }, spares: 0 }))
}

fn slurm(s: &Source<'_>, rendezvous: Option<Meeting>, hostname: &str) -> Result<Option<World>, WorldError> {
    let assignment = s.assignment(
        &["SLURM_PROCID"],
        &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"],
        &["SLURM_LOCALID"],
        &[],
    )?;
    let Some(mut assignment) = assignment else { return Ok(None) };
    let list = "SLURM_STEP_NODELIST";
    let hosts = match (s.get)(list).filter(|h| !h.is_empty()) {
        Some(hosts) => hostlist::expand(&hosts).map_err(|source| WorldError::Hosts { name: list, source })?,
        None => allocation(s.get)?,
    };
    if let (Some(id), false) = (s.number("SLURM_NODEID")?, hosts.is_empty())
        && id as usize >= hosts.len()
    {
        let seen = format!("SLURM_NODEID={id} {list}={}", clean(&hostlist::compress(&hosts)));
        let why = format!("node {id} of {}", hosts.len());
        return Err(WorldError::Contradiction { launcher: s.launcher, seen, why });
    }
    let id = s.number("SLURM_NODEID")?.unwrap_or(0) as usize;
    if let Some(tasks) = (s.get)("SLURM_STEP_TASKS_PER_NODE").and_then(|t| tasks_of(&t, id)) {
        assignment.local_size = tasks.max(assignment.local_rank + 1);
    }
    // A wrapper that sets RANK and WORLD_SIZE from other numbers means another world.
    if let (Some(rank), Some(size)) = (s.number("RANK")?, s.number("WORLD_SIZE")?)
        && (rank, size) != (assignment.rank, assignment.size)
    {
        let seen =
            format!("SLURM_PROCID={} SLURM_NTASKS={} RANK={rank} WORLD_SIZE={size}", assignment.rank, assignment.size);
        return Err(WorldError::Disagree { seen });
    }
    let job = (s.get)("SLURM_JOB_ID").or_else(|| (s.get)("SLURM_JOBID")).unwrap_or_default();
    let step = (s.get)("SLURM_STEP_ID").or_else(|| (s.get)("SLURM_STEPID")).unwrap_or_default();
    let port = slurm_port(&job, &step);
    // Rank 0 runs on the first node of the step, whichever its list begins with: Slurm sorts both the same way.
    let host = hosts.first().cloned().unwrap_or_else(|| hostname.to_owned());
    let name = node_name(s.get).or_else(|| hosts.get(id).cloned());
    // A task a node, and the nodes in their order: then Slurm has said whose a rank is.
    let arbitrary = (s.get)("SLURM_DISTRIBUTION").is_some_and(|d| d.contains("arbitrary"));
    let bound = hosts.len() == assignment.size as usize && !arbitrary;
    let meeting = rendezvous.or(Some(Meeting::At { host, port, spares: SPARES }));
    let world = world(s.launcher, assignment, hosts, meeting, format!("{job}.{step}"))?;
    Ok(world.map(|w| World { name, bound, ..w }))
}

/// Slurm's own name for the node that a process of a job is on: not always what its kernel calls it.
pub fn node_name(get: Variables<'_>) -> Option<String> {
    get("SLURMD_NODENAME").filter(|n| hostlist::is_host(n))
}

/// The nodes of the Slurm allocation that this process is in; none outside of one.
fn allocation(get: Variables<'_>) -> Result<Vec<String>, WorldError> {
    let name = "SLURM_JOB_NODELIST";
    match get(name).filter(|h| !h.is_empty()) {
        Some(hosts) => hostlist::expand(&hosts).map_err(|source| WorldError::Hosts { name, source }),
        None => Ok(Vec::new()),
    }
}

/// Two checks on one machine at once have two ports.
fn slurm_port(job: &str, step: &str) -> u16 {
    let number = |t: &str| t.parse::<u32>().unwrap_or(0);
    20_000 + ((number(job).wrapping_mul(7)).wrapping_add(number(step)) % 10_000) as u16
}

/// Tasks on node `id` from Slurm's `2(x3),1`.
fn tasks_of(text: &str, id: usize) -> Option<u32> {
    let mut first = 0usize;
    for part in text.split(',') {
        let (tasks, times) = match part.split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')')?.parse::<usize>().ok()?),
            None => (part, 1),
        };
        first = first.checked_add(times)?;
        if id < first {
            return tasks.trim().parse().ok();
        }
    }
    None
}

/// An indexed Job's pods are called `NAME-INDEX`; with a headless service and `subdomain`, rank 0 is `NAME-0.SERVICE`.
fn kubernetes(s: &Source<'_>, rendezvous: Option<Meeting>, hostname: &str) -> Result<Option<World>, WorldError> {
    let Some(rank) = s.number("JOB_COMPLETION_INDEX")? else { return Ok(None) };
    let Some(size) = s.number("GONOGO_NODES")? else { return Ok(None) };
    if rank >= size {
        let seen = format!("JOB_COMPLETION_INDEX={rank} GONOGO_NODES={size}");
        let why = format!("index {rank} of {size}");
        return Err(WorldError::Contradiction { launcher: s.launcher, seen, why });
    }
    let service = (s.get)("GONOGO_SERVICE").filter(|v| !v.is_empty());
    let pod = hostname.split('.').next().unwrap_or("").strip_suffix(&format!("-{rank}")).map(str::to_owned);
    let guess = pod.clone().zip(service).map(|(p, service)| Meeting::At {
        host: format!("{p}-0.{service}"),
        port: DEFAULT_PORT,
        spares: SPARES,
    });
    let assignment = Assignment { rank, size, local_rank: 0, local_size: 1 };
    world(s.launcher, assignment, Vec::new(), rendezvous.or(guess), pod.unwrap_or_default())
}

/// In the folder that every task started in: a launcher keeps that the same on every node.
fn meeting_file(job: &str) -> PathBuf {
    let name: String = job.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(80).collect();
    PathBuf::from(format!(".gonogo-rendezvous-{name}"))
}

fn parse_meeting(text: &str) -> Result<Meeting, WorldError> {
    let bad = || WorldError::BadMeeting(clean(text).into_owned());
    if let Some(path) = text.strip_prefix("file:") {
        return if path.is_empty() { Err(bad()) } else { Ok(Meeting::File(PathBuf::from(path))) };
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
            (host, rest.strip_prefix(':').map(str::to_owned))
        }
        // A bare IPv6 address has many colons and no port.
        None if text.matches(':').count() > 1 => (text, None),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port.to_owned())),
            None => (text, None),
        },
    };
    let port = match port {
        Some(p) => p.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(bad)?,
        None => DEFAULT_PORT,
    };
    if host.is_empty() || host.len() > 255 || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(bad());
    }
    Ok(Meeting::At { host: host.to_owned(), port, spares: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)], hostname: &str) -> Result<Option<World>, String> {
        let vars: Vec<(String, String)> = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let get = move |name: &str| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
        World::read(&Asked::default(), &get, hostname).map_err(|e| e.to_string())
    }

    const SLURM: &[(&str, &str)] = &[
        ("SLURM_JOB_ID", "17"),
        ("SLURM_STEP_ID", "2"),
        ("SLURM_PROCID", "5"),
        ("SLURM_NTASKS", "8"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_NODEID", "2"),
        ("SLURM_STEP_NODELIST", "node[1-4]"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x4)"),
    ];

    #[test]
    fn a_slurm_step_is_a_world() {
        let w = read(SLURM, "node3").ok().flatten();
        let w = w.as_ref().map(|w| {
            (w.rank, w.size, w.local_rank, w.local_size, w.hosts.len(), w.meeting.to_string(), w.job.as_str())
        });
        assert_eq!(w, Some((5, 8, 1, 2, 4, "node1:20121".to_owned(), "Slurm 17.2")));
    }

    #[test]
    fn a_batch_script_is_no_step_and_one_task_is_no_cluster() {
        assert_eq!(read(&[("SLURM_JOB_ID", "1"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")], "n"), Ok(None));
        assert_eq!(read(&[("RANK", "0"), ("WORLD_SIZE", "1")], "n"), Ok(None));
        assert_eq!(read(&[], "n"), Ok(None));
    }

    #[test]
    fn a_step_a_node_knows_the_allocation() {
        let vars = [("SLURM_JOB_ID", "17"), ("SLURM_STEP_ID", "4"), ("SLURM_JOB_NODELIST", "node[1-4]")];
        let get = move |name: &str| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
        let assignment = |rank, size| {
            let asked = Asked { rank: Some(rank), size: Some(size), ..Asked::default() };
            let w = World::read(&asked, &get, "node3").ok().flatten()?;
            Some((w.launcher, w.rank, w.hosts.len(), w.meeting.to_string()))
        };
        assert_eq!(assignment(2, 4), Some((Launcher::Slurm, 2, 4, "node1:20119".to_owned())));
        // Another number of nodes is not this allocation: then somebody must say where rank 0 is.
        assert_eq!(assignment(2, 3), None);
    }

    #[test]
    fn mpi_inside_slurm_is_mpi() {
        let mut vars = SLURM.to_vec();
        vars.extend([
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "1"),
            ("PMIX_NAMESPACE", "12345.1"),
        ]);
        let w = read(&vars, "n").ok().flatten();
        assert_eq!(
            w.map(|w| (w.launcher, w.rank, w.meeting)),
            Some((Launcher::OpenMpi, 3, Meeting::File(".gonogo-rendezvous-12345-1".into())))
        );
    }

    #[test]
    fn torchrun_keeps_its_own_port() {
        let vars = [
            ("TORCHELASTIC_RUN_ID", "x"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("RANK", "9"),
            ("WORLD_SIZE", "16"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "8"),
            ("MASTER_ADDR", "10.0.0.1"),
            ("MASTER_PORT", "29500"),
        ];
        let w = read(&vars, "n").ok().flatten();
        assert_eq!(w.map(|w| (w.is_agent(), w.meeting.to_string())), Some((false, "10.0.0.1:29501".to_owned())));
    }

    #[test]
    fn an_indexed_job_finds_its_first_pod() {
        let vars = [("JOB_COMPLETION_INDEX", "3"), ("GONOGO_NODES", "4"), ("GONOGO_SERVICE", "gonogo")];
        let w = read(&vars, "check-3.gonogo.ns.svc.cluster.local").ok().flatten();
        assert_eq!(w.map(|w| w.meeting.to_string()), Some("check-0.gonogo:17917".to_owned()));
    }

    #[test]
    fn contradictions_are_refused_with_what_was_seen() {
        let wrong = |vars: &[(&str, &str)]| read(vars, "n").err().unwrap_or_default();
        let e = wrong(&[("RANK", "4"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "a")]);
        assert!(e.contains("RANK=4 WORLD_SIZE=4") && e.contains("rank 4 of 4"), "{e}");
        let e = wrong(&[("RANK", "x"), ("WORLD_SIZE", "4")]);
        assert!(e.contains("RANK=x is not a whole number"), "{e}");
        let e = wrong(&[("RANK", "1"), ("WORLD_SIZE", "4")]);
        assert!(e.contains("give --rendezvous"), "{e}");
        let mut vars = SLURM.to_vec();
        vars.extend([("RANK", "0"), ("WORLD_SIZE", "64")]);
        assert!(wrong(&vars).contains("two launchers disagree"), "{}", wrong(&vars));
        let mut vars = SLURM.to_vec();
        vars.retain(|(k, _)| *k != "SLURM_STEP_NODELIST");
        vars.push(("SLURM_STEP_NODELIST", "node[1-2]"));
        assert!(wrong(&vars).contains("node 2 of 2"), "{}", wrong(&vars));
    }

    #[test]
    fn a_rendezvous_is_a_host_and_a_port() {
        let show = |t: &str| parse_meeting(t).map(|m| m.to_string()).ok();
        assert_eq!(show("n1:9").as_deref(), Some("n1:9"));
        assert_eq!(show("[fd00::1]:9").as_deref(), Some("fd00::1:9"));
        assert_eq!(show("fd00::1").as_deref(), Some("fd00::1:17917"));
        for bad in ["", ":9", "n1:0", "n1:70000", "n1:x", "a b", "[::1", "file:"] {
            assert_eq!(show(bad), None, "{bad}");
        }
    }

    #[test]
    fn slurms_task_counts_are_read() {
        assert_eq!(tasks_of("2(x3),1", 2), Some(2));
        assert_eq!(tasks_of("2(x3),1", 3), Some(1));
        assert_eq!(tasks_of("2(x3),1", 4), None);
        assert_eq!(tasks_of("(x", 0), None);
    }

    proptest::proptest! {
        #[test]
        fn no_environment_makes_it_panic(values in proptest::collection::vec("\\PC{0,12}|[0-9]{1,11}", 12)) {
            let names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID",
                "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "MASTER_ADDR", "MASTER_PORT", "GONOGO_RENDEZVOUS"];
            let get = |name: &str| names.iter().position(|n| *n == name).map(|i| values[i].clone());
            let _ = World::read(&Asked::default(), &get, "h");
        }
    }
}
