//! `gonogo drain`: marks the nodes that a record found bad, so that Slurm gives them to nobody.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, anyhow};

use crate::cli;
use crate::cmd::judge::Case;
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::judge::{Finding, Severity};
use crate::record;
use crate::roster::Roster;

pub(super) fn run(args: &cli::Drain) -> Result<Exit, Failure> {
    let case = Case::read(&args.record, None, None)?;
    let judgement = case.judge();
    let header = &case.record.header;
    // Proven bad only: a node about which nothing is known keeps its place.
    let proven = |node| {
        let of_node = |f: &&Finding| f.weighs() && f.severity == Severity::Fail && f.subject.node() == Some(node);
        Some((node, judgement.findings.iter().find(of_node)?))
    };
    let bad: Vec<(&NodeName, &Finding)> = judgement.placement.exclude.iter().filter_map(proven).collect();
    if bad.is_empty() {
        shell::print("no node is proven bad by this record: nothing to drain\n").map_err(Failure::internal)?;
        return Ok(Exit::Go);
    }
    let (slurm, same) = (slurms_names(), BTreeMap::new());
    let known = Roster::new(&slurm, &same);
    let mut commands: Vec<[String; 5]> = Vec::new();
    for (node, finding) in bad {
        // By Slurm's name for it, whichever of its names the record has.
        let kernel = header.kernel_names.get(node).map(String::as_str);
        let name = known.find(&node.0).or_else(|| known.find(kernel?)).unwrap_or(node);
        // A name from a record goes to Slurm as one argument, and only if it can be a host's.
        if !hostlist::is_host(&name.0) {
            return Err(Failure::usage(anyhow!(
                "{}:1: `{name}` cannot be the name of a Slurm node; nothing was drained",
                record::file_of(&args.record).display()
            )));
        }
        let reason = format!("reason=gonogo {} {}", finding.code, finding.title());
        let nodename = format!("nodename={}", name.0);
        commands.push(["scontrol".to_owned(), "update".to_owned(), nodename, "state=drain".to_owned(), reason]);
    }
    for command in &commands {
        let shown: Vec<String> =
            command.iter().map(|a| if a.contains(' ') { format!("'{a}'") } else { a.clone() }).collect();
        shell::print(&format!("{}\n", shown.join(" "))).map_err(Failure::internal)?;
        if args.yes {
            let output = Command::new(&command[0])
                .args(&command[1..])
                .env_remove(crate::cluster::TOKEN_VARIABLE)
                .output()
                .context("cannot start scontrol; run this where Slurm's commands are")
                .map_err(Failure::usage)?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Failure::usage(anyhow!("scontrol refused ({}): {}", output.status, clean(&said))));
            }
        }
    }
    if !args.yes {
        shell::print("Nothing was done. With --yes these commands are run.\n").map_err(Failure::internal)?;
    }
    Ok(Exit::Go)
}

/// The nodes that Slurm knows; none where it is not to be asked.
fn slurms_names() -> Vec<NodeName> {
    // `timeout` ends it where the controller is down and sinfo waits.
    let asked = Command::new("timeout").args(["5", "sinfo", "-h", "-N", "-o", "%N"]).output();
    let text = asked.ok().filter(|o| o.status.success()).map(|o| o.stdout).unwrap_or_default();
    let mut names: Vec<NodeName> =
        String::from_utf8_lossy(&text).split_whitespace().map(|n| NodeName(n.to_owned())).collect();
    names.sort();
    names.dedup();
    names
}
