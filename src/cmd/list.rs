//! `gonogo list probes|codes|schema`.

use crate::cli::Listed;
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::judge::CODES;
use crate::probe::PROBES;
use crate::record;

pub(super) fn run(what: Listed) -> Result<Exit, Failure> {
    let text = match what {
        Listed::Probes => probes(),
        Listed::Codes => CODES.iter().map(|c| format!("{}  {:<4}  {}\n", c.code, c.severity.name(), c.title)).collect(),
        Listed::Schema => serde_json::to_string_pretty(&record::schema()).map_err(Failure::internal)? + "\n",
    };
    shell::print(&text).map_err(Failure::internal)?;
    Ok(Exit::Go)
}

fn probes() -> String {
    let mut out = String::new();
    for p in PROBES {
        out.push_str(&format!("{:<12} {}\n{:12} needs {}\n", p.name().as_str(), p.about(), "", p.needs()));
        for m in p.metrics() {
            out.push_str(&format!("{:12}   {:<12} {}\n", "", m.name, m.about));
        }
    }
    out
}
