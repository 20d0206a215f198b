//! The command behind the gate: what it is told, and what it becomes.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use sha2::{Digest, Sha256};

use crate::cluster::TOKEN_VARIABLE;
use crate::files;
use crate::hostlist;
use crate::plan::{PlanHash, fill};
use crate::topology::Machine;

/// What is filled in where a command names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    Exclude,
    Nodelist,
    Hostfile,
    Count,
}

impl Placeholder {
    const ALL: [Placeholder; 4] =
        [Placeholder::Exclude, Placeholder::Nodelist, Placeholder::Hostfile, Placeholder::Count];

    const fn text(self) -> &'static str {
        match self {
            Placeholder::Exclude => "{exclude}",
            Placeholder::Nodelist => "{nodelist}",
            Placeholder::Hostfile => "{hostfile}",
            Placeholder::Count => "{count}",
        }
    }

    /// Whether a command says on which nodes it starts.
    pub fn any_names_nodes(command: &[String]) -> bool {
        [Placeholder::Exclude, Placeholder::Nodelist, Placeholder::Hostfile].into_iter().any(|p| p.is_in(command))
    }

    pub fn is_in(self, command: &[String]) -> bool {
        command.iter().any(|a| a.contains(self.text()))
    }
}

/// The nodes that a command starts on and those that it must not, by the launcher's names for them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allocation {
    pub nodes: Vec<String>,
    pub exclude: Vec<String>,
}

/// A command to replace this process with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub decision: &'static str,
    /// Hostlist expressions; empty when there is nobody.
    pub exclude: String,
    pub nodelist: String,
    pub command: Vec<String>,
}

impl Launch {
    /// `hostfile` is the file of the allocation's nodes, where the command names one.
    pub fn new(decision: &'static str, allocation: &Allocation, hostfile: Option<&Path>, command: &[String]) -> Self {
        let (exclude, nodelist) = (hostlist::compress(&allocation.exclude), hostlist::compress(&allocation.nodes));
        let hostfile = hostfile.map_or(String::new(), |p| p.to_string_lossy().into_owned());
        let count = allocation.nodes.len().to_string();
        let values = Placeholder::ALL.map(|p| {
            let value = match p {
                Placeholder::Exclude => &exclude,
                Placeholder::Nodelist => &nodelist,
                Placeholder::Hostfile => &hostfile,
                Placeholder::Count => &count,
            };
            (p.text(), OsStr::new(value))
        });
        let command = command.iter().map(|a| fill(a, &values).to_string_lossy().into_owned()).collect();
        Launch { decision, exclude, nodelist, command }
    }

    /// Becomes the command; returns only when that fails.
    pub fn exec(&self) -> io::Error {
        self.prepared().map_or_else(|| io::ErrorKind::InvalidInput.into(), |mut command| command.exec())
    }

    /// Starts the command beside this process.
    pub fn spawn(&self) -> io::Result<Child> {
        self.prepared().ok_or(io::ErrorKind::InvalidInput)?.spawn()
    }

    fn prepared(&self) -> Option<Command> {
        let (program, arguments) = self.command.split_first()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("GONOGO_DECISION", self.decision)
            .env("GONOGO_EXCLUDE", &self.exclude)
            .env("GONOGO_NODELIST", &self.nodelist)
            // What let the agents in is no secret of the run.
            .env_remove(TOKEN_VARIABLE);
        Some(command)
    }
}

/// The user's command, told on which nodes to start: the line to type where it would start on one that is left out.
pub fn told_where(command: &[String]) -> Vec<String> {
    let name = command.first().and_then(|c| Path::new(c).file_name()).map(|n| n.to_string_lossy().into_owned());
    let flags: &[&str] = match name.as_deref() {
        Some("srun" | "sbatch" | "salloc") => &["--nodelist={nodelist}", "--nodes={count}"],
        Some("mpirun" | "mpiexec" | "orterun" | "prterun") => &["--hostfile", "{hostfile}"],
        _ => &["srun", "--nodelist={nodelist}", "--nodes={count}"],
    };
    let at = usize::from(flags[0] != "srun").min(command.len());
    let mut out = command.to_vec();
    out.splice(at..at, flags.iter().map(|f| (*f).to_owned()));
    out
}

/// Writes the nodes, one a line, into a new file in `dir`, for its owner alone.
pub fn write_hostfile(dir: &Path, nodes: &[String]) -> io::Result<PathBuf> {
    let path = dir.join(format!("hostfile-{:016x}", fastrand::u64(..)));
    let lines: String = nodes.iter().map(|n| format!("{n}\n")).collect();
    files::create(&path)?.write_all(lines.as_bytes())?;
    Ok(path)
}

/// What the software under a run is, as far as discovery sees it: kernel, distribution, container, modules. Two nodes
/// of one image have one digest.
pub fn software_digest(machine: &Machine) -> PlanHash {
    let parts = (&machine.kernel.release, &machine.kernel.os, &machine.container, &machine.modules);
    PlanHash(crate::plan::hex(&Sha256::digest(serde_json::to_vec(&parts).unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(v: &[&str]) -> Vec<String> {
        v.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn placeholders_are_filled_once() {
        let allocation = Allocation { nodes: own(&["n1", "n3"]), exclude: own(&["n2"]) };
        let command =
            own(&["srun", "--exclude={exclude}", "-w", "{nodelist}", "-N{count}", "{hostfile}{x}{", "{{count}}"]);
        let l = Launch::new("GO-WITHOUT", &allocation, Some(Path::new("/tmp/{count}")), &command);
        assert_eq!(l.command, ["srun", "--exclude=n2", "-w", "n[1,3]", "-N2", "/tmp/{count}{x}{", "{2}"]);
    }

    #[test]
    fn the_line_to_type_names_the_nodes() {
        let line = |c: &[&str]| told_where(&own(c)).join(" ");
        assert_eq!(line(&["/usr/bin/srun", "-n8", "x"]), "/usr/bin/srun --nodelist={nodelist} --nodes={count} -n8 x");
        assert_eq!(line(&["mpirun", "x"]), "mpirun --hostfile {hostfile} x");
        assert_eq!(line(&["train.sh", "-v"]), "srun --nodelist={nodelist} --nodes={count} train.sh -v");
    }
}
