//! Flags + `run.toml` + tier -> [`CheckPlan`]: everything decided, nothing left to default later.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{ProbeName, nearest};
use crate::plan::{RunPlan, Tier, Time};

/// SHA-256 of a run plan's meaning: comments, order of keys and spelling of units do not change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanHash(pub String);

impl PlanHash {
    pub fn of(plan: &RunPlan) -> Self {
        // The serialisation of a RunPlan cannot fail: no map with non-text keys, no fallible Serialize.
        let canonical = serde_json::to_vec(plan).unwrap_or_default();
        PlanHash(hex(&Sha256::digest(canonical)))
    }

    /// Enough of it for people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for PlanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::id::clean(&self.0))
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of exactly so many hexadecimal digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    let mut out = [0u8; N];
    if text.len() != 2 * N || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (o, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *o = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// What was asked on the command line, as typed.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub tier: Option<Tier>,
    pub budget: Option<Time>,
    pub only: Vec<String>,
    pub skip: Vec<String>,
    pub path: Option<PathBuf>,
    pub seed: Option<u64>,
    /// Several nodes take part.
    pub cluster: bool,
    /// GPUs of this node, as far as a look at its bus tells: what a budget that nobody states depends on.
    pub gpus: usize,
}

/// The probes that exist: the registry lies right of this stage and hands its names in.
pub type ProbeTable<'a> = &'a [ProbeName];

/// What will be done: resolved, total, printable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckPlan {
    pub tier: Tier,
    /// From start to verdict.
    pub budget: Time,
    /// Probes to run, in this order.
    pub probes: Vec<ProbeName>,
    /// Probes left out because `--skip` or `--only` said so.
    pub skipped: Vec<ProbeName>,
    /// Probes that were asked for by name: they are tried where nothing suggests that they could run, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<ProbeName>,
    /// Where storage is measured; the plan's checkpoint directory unless `--path` says otherwise.
    pub storage_path: Option<PathBuf>,
    /// Seed of every random input of this run.
    pub seed: u64,
    /// The run that wants to launch, whole.
    pub run: RunPlan,
    pub run_hash: PlanHash,
}

impl CheckPlan {
    /// Whether somebody asks for a probe that the tier would leave to a longer one: by its name, or by a demand on what it measures
    /// on the host.
    pub fn asks_for(&self, probe: &str) -> bool {
        let require = &self.run.require;
        self.named.iter().any(|p| p.as_str() == probe)
            || match probe {
                "tcp" => require.min_tcp.is_some(),
                "collective" => require.min_busbw.is_some() || require.max_allreduce_latency.is_some(),
                _ => false,
            }
    }

    /// Whether a probe was chosen.
    pub fn wants(&self, probe: &str) -> bool {
        self.probes.iter().any(|p| p.as_str() == probe)
    }
}

/// Why a selection is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectionError {
    #[error("no probe is called `{typed}`{}", did_you_mean(.meant))]
    UnknownProbe { typed: String, meant: Option<String> },
    #[error(
        "`{probe}` is not of the {} tier: an image is looked at by --tier image, what nodes do together by quick, standard and soak",
        .tier.name()
    )]
    OtherTier { probe: String, tier: Tier },
    #[error("nothing is left to measure: --only and --skip exclude every probe")]
    Nothing,
    #[error("a budget of {0} is too short to measure anything; give at least 1s")]
    Budget(Time),
}

fn did_you_mean(meant: &Option<String>) -> String {
    match meant {
        Some(m) => format!("; did you mean `{m}`?"),
        None => "; `gonogo list probes` names them".to_owned(),
    }
}

/// Resolves flags over plan over tier. `fresh_seed` is used when nobody gave one.
pub fn resolve(
    asked: Selection,
    run: RunPlan,
    known: ProbeTable<'_>,
    fresh_seed: u64,
) -> Result<CheckPlan, SelectionError> {
    for typed in asked.only.iter().chain(&asked.skip).chain(&run.require.probes) {
        if !known.iter().any(|k| k.as_str() == typed) {
            let meant = nearest(typed, known.iter().map(ProbeName::as_str)).map(str::to_owned);
            return Err(SelectionError::UnknownProbe { typed: crate::id::clean(typed).into_owned(), meant });
        }
    }
    let wanted = |p: &ProbeName| {
        let named = |list: &[String]| list.iter().any(|n| n == p.as_str());
        (asked.only.is_empty() || named(&asked.only)) && !named(&asked.skip)
    };
    let tier = asked.tier.or(run.tier).unwrap_or_default();
    if let Some(typed) = asked.only.iter().find(|o| !tier.includes(o)) {
        return Err(SelectionError::OtherTier { probe: typed.clone(), tier });
    }
    let known: Vec<ProbeName> = known.iter().filter(|k| tier.includes(k.as_str())).cloned().collect();
    let named = known
        .iter()
        .filter(|k| asked.only.iter().chain(&run.require.probes).any(|n| n == k.as_str()))
        .cloned()
        .collect();
    let (probes, skipped): (Vec<_>, Vec<_>) = known.iter().cloned().partition(wanted);
    if probes.is_empty() {
        return Err(SelectionError::Nothing);
    }
    let budget = asked.budget.or(run.budget).unwrap_or(Time(tier.budget(asked.cluster, asked.gpus)));
    if budget.0 < Duration::from_secs(1) {
        return Err(SelectionError::Budget(budget));
    }
    let storage_path = asked.path.or_else(|| run.checkpoint.as_ref().and_then(|c| c.dir.clone()));
    let run_hash = PlanHash::of(&run);
    let run = if tier == Tier::Node { run.of_one_node() } else { run };
    Ok(CheckPlan {
        tier,
        budget,
        probes,
        skipped,
        named,
        storage_path,
        seed: asked.seed.unwrap_or(fresh_seed),
        run,
        run_hash,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[ProbeName] = &[ProbeName::new("environment"), ProbeName::new("gemm"), ProbeName::new("storage")];

    #[test]
    fn flags_win_over_the_plan_and_the_plan_over_the_tier() {
        let run = RunPlan { tier: Some(Tier::Standard), ..RunPlan::default() };
        let p = resolve(Selection::default(), run.clone(), KNOWN, 7);
        assert_eq!(p.map(|p| (p.tier, p.budget.0, p.seed)), Ok((Tier::Standard, Duration::from_secs(180), 7)));
        let asked = Selection { tier: Some(Tier::Quick), seed: Some(1), ..Selection::default() };
        assert_eq!(resolve(asked, run, KNOWN, 7).map(|p| (p.tier, p.seed)), Ok((Tier::Quick, 1)));
    }

    #[test]
    fn a_misspelt_probe_is_refused_with_its_neighbour() {
        let asked = Selection { skip: vec!["storge".into()], ..Selection::default() };
        let error = resolve(asked, RunPlan::default(), KNOWN, 0).map_err(|e| e.to_string());
        assert_eq!(error.err().as_deref(), Some("no probe is called `storge`; did you mean `storage`?"));
    }

    #[test]
    fn an_image_and_a_machine_are_not_mixed() {
        let known = [ProbeName::new("gemm"), ProbeName::new("image")];
        let ask = |tier, only: &[&str]| {
            let only = only.iter().map(|o| (*o).to_owned()).collect();
            let asked = Selection { tier: Some(tier), only, ..Selection::default() };
            resolve(asked, RunPlan::default(), &known, 0).map(|p| p.probes.iter().map(|p| p.to_string()).collect())
        };
        assert_eq!(ask(Tier::Image, &[]), Ok(vec!["image".to_owned()]));
        assert_eq!(ask(Tier::Quick, &[]), Ok(vec!["gemm".to_owned()]));
        for (tier, probe) in [(Tier::Image, "gemm"), (Tier::Quick, "image")] {
            assert_eq!(ask(tier, &[probe]), Err(SelectionError::OtherTier { probe: probe.into(), tier }));
        }
    }

    #[test]
    fn excluding_everything_is_refused() {
        let asked = Selection { only: vec!["gemm".into()], skip: vec!["gemm".into()], ..Selection::default() };
        assert_eq!(resolve(asked, RunPlan::default(), KNOWN, 0), Err(SelectionError::Nothing));
    }

    #[test]
    fn the_hash_follows_the_meaning_and_not_the_spelling() {
        let parse = |t: &str| {
            crate::plan::parse(std::path::Path::new("p"), t).map(|p| PlanHash::of(&p)).map_err(|e| e.to_string())
        };
        let a = parse("[checkpoint]\nsize = \"1 KiB\"\nkeep = 3\n");
        assert_eq!(a, parse("# comment\n[checkpoint]\nkeep = 3\nsize = 1024\n"));
        assert_ne!(a, parse("[checkpoint]\nkeep = 4\nsize = 1024\n"));
    }
}
