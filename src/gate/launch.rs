//! The command behind the gate: what it is told, and what it becomes.

use std::os::unix::process::CommandExt;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::hostlist;
use crate::plan::PlanHash;
use crate::topology::Machine;

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
    pub fn new(decision: &'static str, nodes: &[String], exclude: &[String], command: &[String]) -> Self {
        let kept: Vec<String> = nodes.iter().filter(|n| !exclude.contains(n)).cloned().collect();
        let (exclude, nodelist, count) =
            (hostlist::compress(exclude), hostlist::compress(&kept), kept.len().to_string());
        let fill =
            |a: &String| a.replace("{exclude}", &exclude).replace("{nodelist}", &nodelist).replace("{count}", &count);
        let command = command.iter().map(fill).collect();
        Launch { decision, exclude, nodelist, command }
    }

    /// Becomes the command; returns only when that fails.
    pub fn exec(&self) -> std::io::Error {
        let Some((program, arguments)) = self.command.split_first() else {
            return std::io::ErrorKind::InvalidInput.into();
        };
        Command::new(program)
            .args(arguments)
            .env("GONOGO_DECISION", self.decision)
            .env("GONOGO_EXCLUDE", &self.exclude)
            .env("GONOGO_NODELIST", &self.nodelist)
            .exec()
    }
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

    #[test]
    fn placeholders_are_filled_and_excluded_nodes_leave_the_list() {
        let own = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let l = Launch::new(
            "GO-WITHOUT",
            &own(&["n1", "n2", "n3"]),
            &own(&["n2"]),
            &own(&["srun", "--exclude={exclude}", "-w", "{nodelist}", "-N{count}", "x"]),
        );
        assert_eq!(l.command, ["srun", "--exclude=n2", "-w", "n[1,3]", "-N2", "x"]);
    }
}
