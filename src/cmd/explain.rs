//! `gonogo explain CODE`.

use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::id::{clean, nearest};
use crate::judge::{CODES, codes};

pub(super) fn run(typed: &str) -> Result<Exit, Failure> {
    let code = typed.to_ascii_uppercase();
    let Some(doc) = codes::find(&code) else {
        let meant = nearest(&code, CODES.iter().map(|c| c.code));
        let hint = meant.map_or("`gonogo list codes` names them".to_owned(), |m| format!("did you mean {m}?"));
        return Err(Failure::usage(anyhow::anyhow!("no finding has the code `{}`; {hint}", clean(typed))));
    };
    let text = format!(
        "{} ({}): {}\n\nWhy: {}\nSuspect: {}\nDo: {}\n\nTo accept it for a while, in the plan:\n\n[[waive]]\ncode = \"{}\"\nreason = \"...\"\nuntil = \"YYYY-MM-DD\"\n",
        doc.code,
        doc.severity.name(),
        doc.title,
        doc.cause,
        doc.suspect,
        doc.remedy_on(None),
        doc.code
    );
    shell::print(&text).map_err(Failure::internal)?;
    Ok(Exit::Go)
}
