//! `run.toml` -> [`RunPlan`], with errors that point at the place and name the nearest known key.

use std::path::{Path, PathBuf};

use crate::files;
use crate::id::{clean, is_code, nearest};
use crate::plan::{Model, Require, RunPlan, SaveMode};
use crate::unit::{ByteRate, Bytes};

/// Largest plan file that is read: a plan is a page, not a data set.
const MAX_PLAN_BYTES: u64 = 1 << 20;

/// Why a plan is refused.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("cannot read the plan {path}: {source}; give --plan the path of a run.toml")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the plan {path} is {bytes} bytes long; a plan is at most {MAX_PLAN_BYTES}")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{path}:{line}:{column}: {message}")]
    Parse { path: PathBuf, line: usize, column: usize, message: String },
}

/// Reads and parses a plan file.
pub fn read(path: &Path) -> Result<RunPlan, PlanError> {
    let fail = |source| PlanError::Read { path: path.to_owned(), source };
    let file = files::open(path).map_err(fail)?;
    let bytes = file.metadata().map_err(fail)?.len();
    if bytes > MAX_PLAN_BYTES {
        return Err(PlanError::TooLarge { path: path.to_owned(), bytes });
    }
    parse(path, &files::read_text(file, MAX_PLAN_BYTES).map_err(fail)?)
}

/// Parses the text of a plan; `path` is for the messages only.
pub fn parse(path: &Path, text: &str) -> Result<RunPlan, PlanError> {
    let plan: RunPlan = toml::from_str(text).map_err(|error| {
        let (line, column, message) = toml_error(text, &error);
        PlanError::Parse { path: path.to_owned(), line, column, message }
    })?;
    check_meaning(&plan).map_err(|(needle, message)| {
        let (line, column) = place(text, text.find(&needle).unwrap_or(0));
        PlanError::Parse { path: path.to_owned(), line, column, message }
    })?;
    Ok(plan)
}

/// Line, column and message of a TOML error; nothing of the file reaches a terminal as it is.
pub fn toml_error(text: &str, error: &toml::de::Error) -> (usize, usize, String) {
    let (line, column) = place(text, error.span().map_or(0, |s| s.start));
    (line, column, explain(error.message()))
}

/// Byte offset -> line and column, both from 1.
pub fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// serde names the unknown key and the known ones in back-quotes; the nearest of them is what was meant.
fn explain(message: &str) -> String {
    let message = message.trim();
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return clean(message).into_owned();
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let typed = quoted.next().unwrap_or("").to_owned();
    let known: Vec<&str> = quoted.collect();
    let what = if message.starts_with("unknown field") { "key" } else { "value" };
    let shown = clean(&typed);
    match nearest(&typed, known.iter().copied()) {
        Some(meant) => format!("unknown {what} `{shown}`; did you mean `{}`?", clean(meant)),
        None => format!("unknown {what} `{shown}`; known here: {}", clean(&known.join(", "))),
    }
}

/// What the types cannot say. Returns a text to look for, for the place, and the message.
fn check_meaning(plan: &RunPlan) -> Result<(), (String, String)> {
    if let Some(nodes) = &plan.nodes
        && nodes.needed == 0
    {
        return Err(("needed".into(), "`needed` must be at least 1 node".into()));
    }
    if let Some((key, why)) = training(plan) {
        return Err((if key.starts_with('[') { key.into() } else { format!("{key} = ") }, why));
    }
    for waiver in &plan.waive {
        let place = waiver.code.clone();
        if !is_code(&waiver.code) {
            return Err((place, format!("`{}` is not a finding code; they look like STO-020", clean(&waiver.code))));
        }
        if waiver.reason.trim().is_empty() {
            return Err((place, format!("the waiver of {} needs a reason", waiver.code)));
        }
    }
    if let Some(c) = &plan.checkpoint {
        if c.interval_steps.is_some() && c.interval.is_none() && c.step_time.is_none() {
            return Err(("interval_steps".into(), "`interval_steps` needs `step_time` beside it".into()));
        }
        if c.interval_steps.zip(c.total_steps).is_some_and(|(every, total)| every > total) {
            return Err((
                "interval_steps".into(),
                "`interval_steps` is larger than `total_steps`: the run would never save".into(),
            ));
        }
        if c.dir.as_deref().is_some_and(|d| !d.is_absolute()) {
            return Err(("dir".into(), "`dir` must be an absolute path: every node must mean the same place".into()));
        }
        let sized = c.size.is_some() || plan.model.is_some();
        if c.restore_budget.is_some() && !sized {
            let why = "`restore_budget` needs the size of a checkpoint: give `size` here, or [model] parameters";
            return Err(("restore_budget = ".into(), why.into()));
        }
        if c.stall_budget.is_some() && c.interval().is_none() {
            let why = "`stall_budget` is a share of the time between saves: give `interval`, or `interval_steps` and `step_time`";
            return Err(("stall_budget = ".into(), why.into()));
        }
        if c.size == Some(Bytes(0)) {
            return Err(("size = ".into(), "`size` must be above zero".into()));
        }
        for (key, value) in [("staging_copies", c.staging_copies), ("restore_reads", c.restore_reads)] {
            if value == Some(0) {
                return Err((format!("{key} = "), format!("`{key}` must be at least 1")));
            }
        }
        if c.staging_copies.is_some() && c.mode() == SaveMode::Sync {
            let why = "`staging_copies` is of asynchronous saves: add mode = \"async\", or leave it out";
            return Err(("staging_copies = ".into(), why.into()));
        }
        if c.restore_budget.is_some_and(|b| b.0.is_zero()) {
            return Err(("restore_budget = ".into(), "`restore_budget` must be above zero".into()));
        }
        if let (Some(interval), Some(run)) = (c.interval(), c.run_time)
            && interval.period > run.0
        {
            return Err(("interval".into(), "the interval is longer than `run_time`: the run would never save".into()));
        }
    }
    if let Some(empty) = empty_demand(&plan.require) {
        return Err(empty);
    }
    if let Some((key, why)) = plan.forecast.as_ref().and_then(|f| f.contradiction()) {
        return Err((format!("{key} = "), why));
    }
    if let Some(w) = &plan.watch {
        let dir = plan.checkpoint.as_ref().and_then(|c| c.dir.as_deref());
        if let Some((key, why)) = w.contradiction(dir) {
            // A key by that name may stand elsewhere, too.
            return Err((format!("{key} = "), why));
        }
    }
    Ok(())
}

/// A demand that anything meets.
fn empty_demand(r: &Require) -> Option<(String, String)> {
    let zero = |rate: Option<ByteRate>| rate.is_some_and(|rate| rate.0 <= 0.0);
    let rates = [
        ("min_busbw", zero(r.min_busbw)),
        ("min_memory_copy", zero(r.min_memory_copy)),
        ("min_tcp", zero(r.min_tcp)),
        ("min_storage_write", zero(r.min_storage_write)),
        ("min_storage_read", zero(r.min_storage_read)),
        ("min_busbw", r.collective.iter().any(|c| zero(c.min_busbw))),
        ("min_bandwidth", r.link.iter().any(|l| zero(Some(l.min_bandwidth)))),
    ];
    if let Some((key, _)) = rates.into_iter().find(|(_, zero)| *zero) {
        return Some((format!("{key} = "), format!("`{key}` of zero demands nothing: give a rate, or leave it out")));
    }
    let empty = r.collective.iter().any(|c| c.min_busbw.is_none() && c.max_latency.is_none());
    let why = "`[[require.collective]]` demands nothing: give min_busbw or max_latency";
    empty.then(|| ("[[require.collective]]".to_owned(), why.to_owned()))
}

/// What of the model and of how it is divided does not fit together.
fn training(plan: &RunPlan) -> Option<(&'static str, String)> {
    if let Some(wrong) = plan.model.as_ref().and_then(Model::contradiction) {
        return Some(wrong);
    }
    let shape = plan.model.as_ref().and_then(|m| m.shape().ok().flatten());
    let ranks = plan.nodes.as_ref().map(|n| n.needed.saturating_mul(n.gpus_per_node.max(1)));
    plan.parallel.as_ref()?.contradiction(shape.as_ref(), ranks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("run.toml"), text).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_full_plan_parses() {
        let text = include_str!("../../tests/fixtures/plans/neox-20b.toml");
        let plan = parse(Path::new("neox-20b.toml"), text).map_err(|e| e.to_string());
        assert_eq!(plan.as_ref().map(|p| p.name.as_deref()), Ok(Some("gpt-neox-20b")));
    }

    #[test]
    fn a_misspelt_key_names_the_nearest_with_its_place() {
        assert_eq!(
            error("[checkpoint]\n  intervall = \"6h\"\n"),
            "run.toml:2:3: unknown key `intervall`; did you mean `interval`?"
        );
        assert!(error("[require]\nzzz = 1\n").starts_with("run.toml:2:1: unknown key `zzz`; known here: min_busbw"));
        assert_eq!(error("tier = \"quik\"\n"), "run.toml:1:8: unknown value `quik`; did you mean `quick`?");
    }

    #[test]
    fn impossible_values_are_refused_where_they_stand() {
        for (text, want) in [
            ("[checkpoint]\nsize = \"-5 GiB\"\n", "run.toml:2:8: `-5 GiB` is negative; a size cannot be"),
            ("[checkpoint]\nsize = -5\n", "run.toml:2:8: `-5` is negative; a size cannot be"),
            ("[model]\nparameters = -1\n", "run.toml:2:14: `-1` must be above zero"),
            ("[model]\nparameters = nan\n", "run.toml:2:14: `NaN` must be above zero"),
            ("budget = \"soon\"\n", "run.toml:1:10: `soon` is not a length of time; write it like `90s` or `6h 30m`"),
            ("[nodes]\nneeded = 0\n", "run.toml:2:1: `needed` must be at least 1 node"),
            ("[checkpoint]\nusable_fraction = 1.5\n", "run.toml:2:19: `1.5` must be a share above 0 and up to 1"),
            (
                "[checkpoint]\ndir = \"ckpt\"\n",
                "run.toml:2:1: `dir` must be an absolute path: every node must mean the same place",
            ),
            ("[require]\nmin_busbw = \"40 GB\"\n", "run.toml:2:13: `40 GB` is not a rate; write it like `40 GB/s`"),
            (
                "[require]\nmin_tcp = \"0 GB/s\"\n",
                "run.toml:2:1: `min_tcp` of zero demands nothing: give a rate, or leave it out",
            ),
            (
                "name = \"x\"\n[[require.collective]]\nop = \"all-gather\"\n",
                "run.toml:2:1: `[[require.collective]]` demands nothing: give min_busbw or max_latency",
            ),
            (
                "[[waive]]\ncode = \"disk\"\nreason = \"x\"\nuntil = \"2026-12-01\"\n",
                "run.toml:2:9: `disk` is not a finding code; they look like STO-020",
            ),
        ] {
            assert_eq!(error(text), want);
        }
    }

    #[test]
    fn broken_toml_is_placed() {
        assert!(error("name = \"x\"\n[nodes\n").starts_with("run.toml:2:"), "{}", error("name = \"x\"\n[nodes\n"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_plan_parser_panic(text in "\\PC{0,200}") {
            let _ = parse(Path::new("p"), &text);
        }

        #[test]
        fn no_value_makes_the_plan_parser_panic(key in "(size|keep|interval|dir|files|usable_fraction)", value in "\\PC{0,30}") {
            let _ = parse(Path::new("p"), &format!("[checkpoint]\n{key} = {value}\n"));
        }
    }
}
