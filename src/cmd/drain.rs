//! `gonogo drain`: marks the nodes that a record found bad, so that Slurm gives them to nobody.

use std::process::Command;

use anyhow::{Context, anyhow};

use crate::cli;
use crate::cmd::judge::Case;
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::judge::Severity;

pub(super) fn run(args: &cli::Drain) -> Result<Exit, Failure> {
    let case = Case::read(&args.record, None, None)?;
    let judgement = case.judge();
    let mut commands: Vec<Vec<String>> = Vec::new();
    for node in &judgement.placement.exclude {
        // Proven bad only: a node about which nothing is known keeps its place.
        let worst = judgement
            .findings
            .iter()
            .find(|f| f.weighs() && f.severity == Severity::Fail && f.subject.node() == Some(node));
        let Some(finding) = worst else { continue };
        // A name from a record goes to Slurm as one argument, and only if it can be a host's.
        if !node.0.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) || node.0.starts_with('-') {
            return Err(Failure::usage(anyhow!("`{node}` cannot be the name of a Slurm node; nothing was drained")));
        }
        let reason = format!("reason=gonogo {} {}", finding.code, finding.title());
        commands.push(
            [
                "scontrol".to_owned(),
                "update".to_owned(),
                format!("nodename={}", node.0),
                "state=drain".to_owned(),
                reason,
            ]
            .to_vec(),
        );
    }
    if commands.is_empty() {
        shell::print("no node is proven bad by this record: nothing to drain\n").map_err(Failure::internal)?;
        return Ok(Exit::Go);
    }
    for command in &commands {
        let shown: Vec<String> =
            command.iter().map(|a| if a.contains(' ') { format!("'{a}'") } else { a.clone() }).collect();
        shell::print(&format!("{}\n", shown.join(" "))).map_err(Failure::internal)?;
        if args.yes {
            let output = Command::new(&command[0])
                .args(&command[1..])
                .output()
                .context("cannot start scontrol; run this where Slurm's commands are")
                .map_err(Failure::usage)?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Failure::usage(anyhow!(
                    "scontrol refused ({}): {}",
                    output.status,
                    crate::id::clean(&said)
                )));
            }
        }
    }
    if !args.yes {
        shell::print("Nothing was done. With --yes these commands are run.\n").map_err(Failure::internal)?;
    }
    Ok(Exit::Go)
}
