//! What was typed. Nothing here is resolved or checked against the machine.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::plan::{Tier, Time};
use crate::report::Format;

/// Go or no-go? Proves a machine before a large training run is launched on it.
#[derive(Debug, Parser)]
#[command(
    name = "gonogo",
    version,
    about,
    after_help = "Exit codes: 0 go, 1 no-go, 2 hold (nothing proven), 3 bad usage or plan, 4 gonogo failed"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure this machine, judge it, print the report.
    Check(Check),
    /// Judge a record again, offline.
    Judge(Judge),
    /// Print the report of a record.
    Report(Report),
    /// What is usual on this cluster: learned from healthy records.
    Baseline {
        #[command(subcommand)]
        what: Learning,
    },
    /// Hold two records against each other; 1 when something got worse.
    Diff(Diff),
    /// Start a command only if the record says go.
    Gate(Gate),
    /// What the run will take: days, interruptions, what to save how often, what slow nodes cost.
    Forecast(Forecast),
    /// Follow a run's checkpoints: say when the space ends, move finished ones to a cold place, and raise the alarm in time.
    Watch(Watch),
    /// Tell why a run died or hangs, where, and what to do before it starts again: from logs, PyTorch's flight recorder, NCCL's RAS.
    Autopsy(Autopsy),
    /// Tell Slurm to give the nodes that a record proved bad to nobody; prints the commands unless --yes.
    Drain(Drain),
    /// Show what gonogo sees of the machine; record it, or replay a recording.
    Discover(Discover),
    /// Tell what a finding's code means, or why a record has a finding: its readings, the reference, the rule.
    Explain(Explain),
    /// List what there is.
    List { what: Listed },
    /// Try the schedule and the localiser on a cluster that is not there.
    Simulate(Simulate),
    /// Print the completions of a shell, such as `source <(gonogo completions bash)`.
    Completions { shell: clap_complete::Shell },
    /// Write the man pages into a folder.
    Man { dir: PathBuf },
    /// A probe's process; gonogo starts it itself.
    #[command(hide = true)]
    Worker,
    /// Takes the rendezvous file away when rank 0 is gone; gonogo starts it itself.
    #[command(hide = true)]
    Guard {
        #[arg(long)]
        port: u16,
        path: PathBuf,
    },
    /// Loads a library of an image and says what it is; gonogo starts it itself.
    #[command(hide = true)]
    Load { part: String, library: PathBuf },
}

/// What can be shown in a terminal or read by a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Plain {
    Terminal,
    Json,
}

/// The tiers that measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measuring {
    Quick,
    Standard,
    Soak,
}

impl From<Measuring> for Tier {
    fn from(tier: Measuring) -> Tier {
        match tier {
            Measuring::Quick => Tier::Quick,
            Measuring::Standard => Tier::Standard,
            Measuring::Soak => Tier::Soak,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Listed {
    Probes,
    Codes,
    /// GPUs whose datasheet is known, with its rates and source.
    Gpus,
    /// Shapes of published models that a plan may name
    Models,
    /// The JSON schema of a record's lines.
    Schema,
}

#[derive(Debug, Args)]
pub struct Check {
    /// How thorough: quick takes at most 20 s (30 s with several GPUs), standard minutes, soak longer; node is one node by itself in 15 s, for
    /// restarts; image looks at the software of a container image, without a GPU, in seconds.
    #[arg(long, value_enum)]
    pub tier: Option<Tier>,
    /// Time from start to verdict, such as 90s or 3m; the schedule is cut to fit.
    #[arg(long, value_name = "TIME")]
    pub budget: Option<Time>,
    /// The run that wants to launch.
    #[arg(long, value_name = "RUN.TOML")]
    pub plan: Option<PathBuf>,
    /// Measure only these probes (repeat, or separate by commas).
    #[arg(long, value_name = "PROBE", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Leave these probes out.
    #[arg(long, value_name = "PROBE", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// Hold measurements also against this baseline, which `gonogo baseline learn` made on the same hardware.
    #[arg(long, value_name = "BASELINE.TOML")]
    pub baseline: Option<PathBuf>,
    /// The checkpoint directory to measure; else the plan's.
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// Where to keep the record; a new folder under gonogo-out unless given.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Keep the record packed by zstd, as record.jsonl.zst. Everything reads both.
    #[arg(long)]
    pub compress: bool,
    #[arg(long, value_enum, default_value = "terminal")]
    pub format: Format,
    /// Also write the report here; its kind by the extension: txt json xml (JUnit) md html prom csv (repeat).
    #[arg(long = "report", value_name = "FILE")]
    pub reports: Vec<PathBuf>,
    /// Sign the record with this secret key (`gonogo gate --new-key`), for `gonogo gate --trust`.
    #[arg(long, value_name = "KEY")]
    pub sign: Option<PathBuf>,
    /// Print what would be done, and how long each step would take.
    #[arg(long)]
    pub dry_run: bool,
    /// No progress.
    #[arg(long, short)]
    pub quiet: bool,
    /// Seed of the random inputs; the clock's unless given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The machines' NVIDIA driver, such as 550.54.14 (else the plan's `[image]`).
    #[arg(long, value_name = "VERSION", help_heading = "Image (--tier image)")]
    pub for_driver: Option<String>,
    /// The machines' GPU, such as H100 or sm_90.
    #[arg(long, value_name = "GPU", help_heading = "Image (--tier image)")]
    pub for_gpu: Option<String>,
    /// The machines' kernel, such as 5.15.
    #[arg(long, value_name = "VERSION", help_heading = "Image (--tier image)")]
    pub for_kernel: Option<String>,
    /// What must be there and load: cuda cublaslt nccl nccl-net ibverbs ucx mpi gdrcopy, or a provider of verbs such as mlx5
    /// (repeat, or separate by commas).
    #[arg(long, value_name = "PART", value_delimiter = ',', help_heading = "Image (--tier image)")]
    pub needs: Vec<String>,
    /// Check this machine only, whatever launcher started it.
    #[arg(long, help_heading = "Cluster", conflicts_with_all = ["rank", "nodes"])]
    pub alone: bool,
    /// This node's rank, where no launcher says it.
    #[arg(long, value_name = "N", help_heading = "Cluster")]
    pub rank: Option<u32>,
    /// How many nodes take part, where no launcher says it.
    #[arg(long, value_name = "N", help_heading = "Cluster")]
    pub nodes: Option<u32>,
    /// Where rank 0 listens: HOST:PORT, or file:PATH in a shared folder.
    #[arg(long, value_name = "WHERE", help_heading = "Cluster")]
    pub rendezvous: Option<String>,
    /// The interface, or the address, at which rank 0 and the probes open their ports; else rank 0 listens at all, and the probes at
    /// the address from which this node reaches it.
    #[arg(long, value_name = "INTERFACE", help_heading = "Cluster")]
    pub bind: Option<String>,
    /// The token that every node knows, in a file with mode 0600; else GONOGO_TOKEN.
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub token_file: Option<PathBuf>,
    /// How long to wait for the last node; those that do not come are findings.
    #[arg(long, value_name = "TIME", default_value = "30s", help_heading = "Cluster")]
    pub join_timeout: Time,
    /// Which node hangs at which leaf: a topology.conf or topology.yaml of Slurm, or the output of ibnetdiscover.
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub topology: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Simulate {
    /// Virtual nodes, 2 to 100000; 1 with --gpus.
    #[arg(long, default_value_t = 512)]
    pub nodes: u32,
    /// Nodes at a leaf switch.
    #[arg(long, default_value_t = 32)]
    pub per_leaf: u32,
    /// Do not tell which node hangs at which leaf: up to 256 nodes, it is inferred from latencies.
    #[arg(long)]
    pub no_topology: bool,
    /// Slow nodes, picked by the seed.
    #[arg(long, default_value_t = 0)]
    pub bad: u32,
    /// Simulate also what each node measures alone: CPU, memory, loopback.
    #[arg(long)]
    pub alone: bool,
    #[arg(long, value_enum, default_value = "quick")]
    pub tier: Measuring,
    /// GPUs of a node; then also what each node measures alone is simulated, and collectives are not.
    #[arg(long, default_value_t = 0)]
    pub gpus: u32,
    /// Relative standard deviation between healthy GPUs.
    #[arg(long, default_value_t = 0.007)]
    pub silicon: f64,
    /// A fault: node:N sends:N receives:N cpu:N flapping:N leaf:N pair:A-B scale:N@SIZE gpu:N:SLOT slot:SLOT; ? picks one, and
    /// pair:? one that is measured. With =LEFT after it what it leaves of a rate, with ~DUTY in which share of tests: node:7=0.9~0.5
    /// (repeat).
    #[arg(long, value_name = "FAULT")]
    pub fault: Vec<String>,
    /// Relative standard deviation of a reading.
    #[arg(long, default_value_t = 0.02)]
    pub noise: f64,
    /// Noise with heavy tails, of the same deviation.
    #[arg(long)]
    pub tails: bool,
    /// Share of tests that others' traffic disturbs under full load; a sixth of it when few pairs are measured.
    #[arg(long, default_value_t = 0.03)]
    pub false_bad: f64,
    /// Share of tests that a fault misses.
    #[arg(long, default_value_t = 0.01)]
    pub miss: f64,
    /// What a fault leaves of a rate.
    #[arg(long, default_value_t = 0.5)]
    pub severity: f64,
    /// The most that a fault of --bad leaves; each has its own severity between --severity and this.
    #[arg(long, value_name = "SHARE")]
    pub severity_to: Option<f64>,
    /// Share of tests in which faults of --bad show.
    #[arg(long, default_value_t = 1.0)]
    pub duty: f64,
    /// Share of pairs whose flows are hashed onto one uplink.
    #[arg(long, default_value_t = 0.0)]
    pub hash: f64,
    /// Share of leaves whose uplinks others' jobs use in a round.
    #[arg(long, default_value_t = 0.0)]
    pub jobs: f64,
    /// Simulate each setting of this table (TOML) and print a row of CSV for it; other flags are not read.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["record", "runs"])]
    pub grid: Option<PathBuf>,
    /// Uplink capacity of a leaf over that of its nodes: 0.5 is 2:1 oversubscribed.
    #[arg(long, default_value_t = 1.0)]
    pub uplinks: f64,
    /// Keep the record here, to be reported; its header says that it is simulated.
    #[arg(long, value_name = "FILE", conflicts_with = "runs")]
    pub record: Option<PathBuf>,
    /// Repeat with the seeds that follow.
    #[arg(long, default_value_t = 1)]
    pub runs: u32,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct Judge {
    /// A record, or the folder that holds it.
    pub record: PathBuf,
    /// Judge by this plan instead of the record's own.
    #[arg(long, value_name = "RUN.TOML")]
    pub plan: Option<PathBuf>,
    #[command(flatten)]
    pub shown: Shown,
}

#[derive(Debug, Args)]
pub struct Report {
    /// A record, or the folder that holds it.
    pub record: PathBuf,
    /// End with the verdict's code, as `gonogo judge` does, and not with 0 once it is shown.
    #[arg(long)]
    pub exit_code: bool,
    #[command(flatten)]
    pub shown: Shown,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// A code such as STO-020, or a record.
    #[arg(value_name = "CODE|RECORD")]
    pub what: String,
    /// Of a record, the finding with this number; without it the findings are listed with theirs.
    #[arg(long, value_name = "N")]
    pub finding: Option<usize>,
    /// Judge by this plan instead of the record's own.
    #[arg(long, value_name = "RUN.TOML")]
    pub plan: Option<PathBuf>,
    /// What is usual on this cluster, as `gonogo baseline learn` wrote it.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
}

/// How a record is judged and shown.
#[derive(Debug, Args)]
pub struct Shown {
    /// Hold measurements also against this baseline, which `gonogo baseline learn` made on the same hardware.
    #[arg(long, value_name = "BASELINE.TOML")]
    pub baseline: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "terminal")]
    pub format: Format,
    /// Also write the report here; its kind by the extension: txt json xml (JUnit) md html prom csv (repeat).
    #[arg(long = "report", value_name = "FILE")]
    pub reports: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Learning {
    /// Learn from records; a few bad nodes among them do not matter.
    Learn {
        /// Records, or the folders that hold them.
        #[arg(required = true)]
        records: Vec<PathBuf>,
        /// Where to write it.
        #[arg(long, short, value_name = "BASELINE.TOML")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Diff {
    /// The record of before, or the folder that holds it.
    pub before: PathBuf,
    /// The record of after.
    pub after: PathBuf,
    /// A loss up to this share is alike.
    #[arg(long, default_value_t = 0.05)]
    pub margin: f64,
    #[arg(long, value_enum, default_value = "terminal")]
    pub format: Plain,
}

#[derive(Debug, Args)]
pub struct Gate {
    /// A record, or the folder that holds it.
    #[arg(required_unless_present_any = ["require_ticket", "new_key"])]
    pub record: Option<PathBuf>,
    /// The run that wants to launch; the record must have been made for it.
    #[arg(long, value_name = "RUN.TOML")]
    pub plan: Option<PathBuf>,
    /// Oldest verdict that opens the gate.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub max_age: Time,
    /// Nodes that the command will run on, such as node[001-064]; else Slurm's list, else this host.
    #[arg(long, value_name = "HOSTLIST")]
    pub nodes: Option<String>,
    /// Digest of the image that the command will run in; goes into a ticket and is held against one.
    #[arg(long, value_name = "DIGEST")]
    pub image: Option<String>,
    /// Hold where the ticket names no image.
    #[arg(long, requires = "require_ticket")]
    pub require_image: bool,
    /// Take the verdict of another Slurm job than this, or of this one before it was requeued.
    #[arg(long)]
    pub any_job: bool,
    /// On GO, write a signed ticket here.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub ticket: Option<PathBuf>,
    /// Secret key that signs tickets.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// How long a ticket is good for.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub valid_for: Time,
    /// Open the gate by this ticket instead of a record.
    #[arg(long, value_name = "FILE", requires = "trust", conflicts_with = "record")]
    pub require_ticket: Option<PathBuf>,
    /// Public key that the record (`check --sign`) or the ticket must be signed by.
    #[arg(long, value_name = "FILE.pub")]
    pub trust: Option<PathBuf>,
    /// Make a key pair FILE and FILE.pub, and end.
    #[arg(long, value_name = "FILE")]
    pub new_key: Option<PathBuf>,
    /// Watch the plan's checkpoint directory while the command runs, and end with the command's own code.
    #[arg(long, requires = "command")]
    pub watch: bool,
    /// The command; {nodelist}, {count} (of its nodes), {hostfile} (a file of them) and {exclude} in it are filled in.
    #[arg(last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Forecast {
    /// A record, or the folder that holds it: how fast the nodes are, and which are slow.
    pub record: Option<PathBuf>,
    /// The run; the record's own unless given.
    #[arg(long, value_name = "RUN.TOML")]
    pub plan: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "terminal")]
    pub format: Plain,
}

#[derive(Debug, Args)]
pub struct Autopsy {
    /// A log, or a folder of logs: of the trainer, its launcher, NCCL, the kernel, Slurm (repeat).
    #[arg(long = "log", value_name = "FILE|DIR")]
    pub logs: Vec<PathBuf>,
    /// The dumps of PyTorch's flight recorder, one a rank.
    #[arg(long, value_name = "DIR")]
    pub recorder: Option<PathBuf>,
    /// NCCL's RAS: asked while the job hangs, or its saved answer.
    #[arg(long, value_name = "HOST:PORT|FILE")]
    pub ras: Option<String>,
    /// What Slurm knows of this job (sacct, scontrol).
    #[arg(long, value_name = "JOBID")]
    pub slurm: Option<String>,
    /// The folder of a watch that ran beside the job (`gate --watch` keeps it beside the record): what befell its node and the
    /// checkpoints, and when (repeat).
    #[arg(long = "watch", value_name = "DIR")]
    pub watches: Vec<PathBuf>,
    /// The check before the run: names, addresses and clocks of the nodes.
    #[arg(long, value_name = "RECORD")]
    pub before: Option<PathBuf>,
    /// A check after it: what changed is told.
    #[arg(long, value_name = "RECORD", requires = "before")]
    pub after: Option<PathBuf>,
    /// The run: how many nodes it needs; that of --before unless given.
    #[arg(long, value_name = "RUN.TOML")]
    pub plan: Option<PathBuf>,
    /// Keep the record of it here.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "terminal")]
    pub format: Format,
    /// Also write the report here; its kind by the extension: txt json xml (JUnit) md html prom csv (repeat).
    #[arg(long = "report", value_name = "FILE")]
    pub reports: Vec<PathBuf>,
    /// No progress.
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// The checkpoint directory; else the plan's `[checkpoint] dir`.
    pub dir: Option<PathBuf>,
    /// The run: how large a save is, how often, what to keep, and where checkpoints go (`[watch]`).
    #[arg(long, value_name = "RUN.TOML")]
    pub plan: Option<PathBuf>,
    /// Look once, move nothing, and end: 0 the next save fits, 1 it does not, 2 it cannot be known.
    #[arg(long)]
    pub once: bool,
    /// A check of this node: tell what befell the node since (GPUs, Xids, links). Without it a watch goes by its own first look, and
    /// --once looks at the checkpoints alone.
    #[arg(long, value_name = "RECORD")]
    pub since: Option<PathBuf>,
    /// Where to keep the journal and the record; under gonogo-out unless given.
    #[arg(long, value_name = "DIR", conflicts_with = "once")]
    pub out: Option<PathBuf>,
    /// Time between two looks; else the plan's, else 10s.
    #[arg(long, value_name = "TIME")]
    pub every: Option<Time>,
    /// Keep a report here, written anew when something changed; its kind by the extension: txt json xml (JUnit) md html prom csv
    /// (repeat).
    #[arg(long = "report", value_name = "FILE")]
    pub reports: Vec<PathBuf>,
    #[arg(long, value_enum, default_value = "terminal")]
    pub format: Format,
    /// No live line; what comes up is told all the same.
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Drain {
    /// A record, or the folder that holds it.
    pub record: PathBuf,
    /// Do it; without this the commands are printed and nothing is done.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Discover {
    #[command(subcommand)]
    pub what: Option<Discovered>,
    /// Also write everything that was read into this new folder.
    #[arg(long, value_name = "DIR", conflicts_with = "replay")]
    pub record: Option<PathBuf>,
    /// Read a recorded folder instead of this machine.
    #[arg(long, value_name = "DIR")]
    pub replay: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "terminal")]
    pub format: Plain,
}

#[derive(Debug, Subcommand)]
pub enum Discovered {
    /// An InfiniBand fabric, by infiniband-diags or their saved output: what is wrong with which cable.
    Fabric(DiscoverFabric),
}

#[derive(Debug, Args)]
pub struct DiscoverFabric {
    /// Saved output of ibnetdiscover, iblinkinfo, ibqueryerrors, perfquery, ibstat, sminfo or saquery, or a folder of
    /// such; the tools are run unless given (repeat).
    #[arg(long, value_name = "PATH")]
    pub from: Vec<PathBuf>,
    /// Keep what the tools said in this folder.
    #[arg(long, value_name = "DIR", conflicts_with = "from")]
    pub save: Option<PathBuf>,
    /// The topology as it should be: ibnetdiscover's output of a good day, also with -p.
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// Counters of an earlier time: only what moved since is blamed.
    #[arg(long, value_name = "FILE")]
    pub since: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "terminal")]
    pub format: Plain,
}
