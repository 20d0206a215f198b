//! `gonogo diff A B`: two records against each other. 1 when something got worse, so that CI can use it.

use anyhow::anyhow;

use crate::cli::{self, Plain};
use crate::cmd::judge::Case;
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::judge::diff;
use crate::report;

pub(super) fn run(args: &cli::Diff) -> Result<Exit, Failure> {
    if !(0.0..0.9).contains(&args.margin) {
        return Err(Failure::usage(anyhow!("--margin {}: a share from 0 to 0.9, such as 0.05", args.margin)));
    }
    let (a, b) = (Case::read(&args.before, None, None)?, Case::read(&args.after, None, None)?);
    let (a, b) = (a.judge(), b.judge());
    let d = diff(&a, &b, args.margin);
    let text = match args.format {
        Plain::Terminal => {
            let show = |p: &std::path::Path| crate::id::clean(&p.to_string_lossy()).into_owned();
            report::diff(&d, (&show(&args.before), &show(&args.after)), shell::style())
        }
        Plain::Json => serde_json::to_string_pretty(&d).map_err(Failure::internal)? + "\n",
    };
    shell::print(&text).map_err(Failure::internal)?;
    Ok(match (d.compared, d.is_worse()) {
        // Nothing was compared: nothing is proven.
        (0, _) => Exit::Hold,
        (_, true) => Exit::NoGo,
        (_, false) => Exit::Go,
    })
}
