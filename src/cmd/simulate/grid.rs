//! A table of settings, and what was measured of each.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use toml::Spanned;

use crate::cmd::simulate::setting::Setting;
use crate::cmd::simulate::{Found, one};
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::files;
use crate::id::clean;
use crate::judge::Decision;
use crate::plan;

/// Largest table that is read.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grid {
    #[serde(default)]
    setting: Vec<Spanned<Setting>>,
}

/// Simulates every setting of a table and prints a row of each as soon as it is done.
pub fn run(path: &Path) -> Result<Exit, Failure> {
    let settings = read(path).map_err(Failure::usage)?;
    shell::print(HEADER).map_err(Failure::internal)?;
    for s in &settings {
        let mut all = Vec::new();
        for run in 0..s.runs.max(1) {
            all.push(one(s, None, s.seed.wrapping_add(u64::from(run)))?);
        }
        shell::print(&row(s, &all)).map_err(Failure::internal)?;
    }
    Ok(Exit::Go)
}

fn read(path: &Path) -> anyhow::Result<Vec<Setting>> {
    let file = files::open(path).with_context(|| format!("cannot read the table {}", path.display()))?;
    let text =
        files::read_text(file, MAX_BYTES).with_context(|| format!("cannot read the table {}", path.display()))?;
    parse(&text).map_err(|(line, column, message)| anyhow!("{}:{line}:{column}: {message}", path.display()))
}

/// The settings of a table, or where and why it is none.
fn parse(text: &str) -> Result<Vec<Setting>, (usize, usize, String)> {
    let grid: Grid = toml::from_str(text).map_err(|e| plan::toml_error(text, &e))?;
    let mut names = HashSet::new();
    let mut out = Vec::new();
    for s in grid.setting {
        let from = s.span().start;
        let setting = s.into_inner();
        let within = |key: &str| text.get(from..).and_then(|t| t.find(key)).map_or(from, |at| from + at);
        let fail = |key: &str, message: String| {
            let (line, column) = plan::place(text, within(key));
            Err((line, column, message))
        };
        if setting.name.is_empty() || setting.name.contains([',', '"', '\n']) {
            return fail("[[setting]]", "a setting needs a name without commas and quotes".to_owned());
        }
        if !names.insert(setting.name.clone()) {
            return fail("name", format!("`{}` is named twice", clean(&setting.name)));
        }
        if let Err((key, message)) = setting.check() {
            return fail(key, format!("{key} = {message}"));
        }
        let mut rng = fastrand::Rng::with_seed(setting.seed);
        for f in &setting.fault {
            if let Err(message) = super::fault::read(f, &setting, &[], &mut rng) {
                return fail("fault", message);
            }
        }
        out.push(setting);
    }
    if out.is_empty() {
        return Err((1, 1, "no [[setting]] in it".to_owned()));
    }
    Ok(out)
}

const HEADER: &str = "setting,runs,exact_percent,precision_percent,recall_percent,decision_right_percent,wrong_go,held,innocent_runs,least_missed,rounds_median,rounds_p99,localiser_s,goal\n";

fn row(s: &Setting, all: &[Found]) -> String {
    let runs = all.len();
    let count = |f: &dyn Fn(&Found) -> bool| all.iter().filter(|x| f(x)).count();
    let percent = |part: usize, whole: usize| {
        if whole == 0 { String::new() } else { format!("{:.2}", 100.0 * part as f64 / whole as f64) }
    };
    let sum = |f: &dyn Fn(&Found) -> usize| all.iter().map(f).sum::<usize>();
    let (hits, called, truth) = (sum(&|f| f.hits), sum(&|f| f.called), sum(&|f| f.true_nodes));
    let mut rounds: Vec<u32> = all.iter().map(|f| f.rounds).collect();
    rounds.sort_unstable();
    let rank = |share: f64| rounds[((share * runs as f64).ceil() as usize).clamp(1, runs) - 1];
    let missed = all.iter().filter_map(|f| f.least_missed).fold(f64::INFINITY, f64::min);
    [
        s.name.clone(),
        runs.to_string(),
        percent(count(&|f| f.right), runs),
        percent(hits, called),
        percent(hits, truth),
        percent(count(&|f| f.decided_right()), runs),
        count(&|f| f.wrong_go()).to_string(),
        count(&|f| f.decision == Decision::Hold).to_string(),
        count(&|f| f.called > f.hits).to_string(),
        if missed.is_finite() { format!("{missed:.3}") } else { String::new() },
        rank(0.5).to_string(),
        rank(0.99).to_string(),
        format!("{:.4}", all.iter().map(|f| f.localiser).fold(0.0, f64::max)),
        format!("\"{}\"", s.goal.replace('"', "'")),
    ]
    .join(",")
        + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_strictly_and_says_where_it_is_wrong() {
        let good = parse("[[setting]]\nname = \"a\"\nnodes = 8\nbad = 3\nseverity-to = 0.9\n");
        assert!(good.is_ok_and(|s| s.len() == 1 && s[0].nodes == 8 && s[0].severity_to == Some(0.9)));
        for (text, line, says) in [
            ("[[setting]]\nname = \"a\"\nnoodes = 8\n", 3, "did you mean `nodes`"),
            ("[[setting]]\nname = \"a\"\n\nnodes = 1\n", 4, "2 to 100000"),
            ("[[setting]]\nname = \"a\"\nnoise = 2.0\n", 3, "a share from 0 to 1"),
            ("[[setting]]\nname = \"a\"\n[[setting]]\nname = \"a\"\n", 4, "named twice"),
            ("[[setting]]\nnodes = 8\n", 1, "needs a name"),
            ("[[setting]]\nname = \"a\"\nfault = [\"knee:7\"]\n", 3, "is not a fault"),
            ("", 1, "no [[setting]]"),
            ("x = 1\n", 1, "unknown key"),
            ("[[setting]\n", 1, ""),
        ] {
            let Err((at, _, message)) = parse(text) else { panic!("{text}") };
            assert!(at == line && message.contains(says), "{text} {at} {message}");
        }
    }

    #[test]
    fn the_committed_table_is_one() {
        let committed = parse(include_str!("../../../benches/grid.toml"));
        assert!(committed.is_ok_and(|s| s.len() > 20), "benches/grid.toml");
    }
}
