//! `gonogo explain`: what a code means, and what a finding of a record rests on.

use std::path::Path;

use anyhow::anyhow;

use crate::cli;
use crate::cmd::judge::Case;
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::id::{clean, is_code, nearest};
use crate::judge::{self, CODES, codes};
use crate::record;
use crate::report;

pub(super) fn run(args: &cli::Explain) -> Result<Exit, Failure> {
    let code = args.what.to_ascii_uppercase();
    let path = Path::new(&args.what);
    // A code stays a code, whatever files lie here.
    let text = if is_code(&code) || !(path.exists() || args.finding.is_some()) {
        if args.finding.is_some() {
            return Err(Failure::usage(anyhow!("--finding wants a record: gonogo explain RECORD --finding N")));
        }
        meaning(&code, &args.what)?
    } else {
        reasons(path, args)?
    };
    shell::print(&text).map_err(Failure::internal)?;
    Ok(Exit::Go)
}

fn meaning(code: &str, typed: &str) -> Result<String, Failure> {
    let Some(doc) = codes::find(code) else {
        let meant = nearest(code, CODES.iter().map(|c| c.code));
        let hint = meant.map_or("`gonogo list codes` names them".to_owned(), |m| format!("did you mean {m}?"));
        return Err(Failure::usage(anyhow!(
            "`{}` is neither a record nor the code of a finding; {hint}",
            clean(typed)
        )));
    };
    Ok(format!(
        "{} ({}): {}\n\nWhy: {}\nSuspect: {}\nDo: {}\n\nTo accept it for a while, in the plan:\n\n[[waive]]\ncode = \"{}\"\nreason = \"...\"\nuntil = \"YYYY-MM-DD\"\n",
        doc.code,
        doc.severity.name(),
        doc.title,
        doc.cause,
        doc.suspect,
        doc.remedy_on(None),
        doc.code
    ))
}

/// The findings of a record with their numbers, or one of them with what it rests on.
fn reasons(path: &Path, args: &cli::Explain) -> Result<String, Failure> {
    let case = Case::read(path, args.plan.as_deref(), args.baseline.as_ref())?;
    let judgement = case.judge();
    let (all, style) = (&judgement.findings, shell::style());
    let shown = clean(&args.what).into_owned();
    match args.finding {
        _ if all.is_empty() => Ok(format!("{}: nothing was found\n", judgement.decision)),
        None => {
            let list = report::numbered(all, style);
            Ok(format!("{list}\nWhy one of them: gonogo explain {shown} --finding N\n"))
        }
        Some(n) => match n.checked_sub(1).and_then(|i| all.get(i)) {
            Some(finding) => {
                let sources = judge::sources(&case.record, finding);
                Ok(report::proof(finding, n, &sources, &record::file_of(path), style))
            }
            None => Err(Failure::usage(anyhow!(
                "{shown} has findings 1 to {}, and no {n}: `gonogo explain {shown}` lists them",
                all.len()
            ))),
        },
    }
}
