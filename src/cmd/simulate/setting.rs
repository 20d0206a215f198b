//! What is simulated, from the command line or from a table.

use serde::Deserialize;

use crate::cli;
use crate::plan::Tier;
use crate::schedule::Shape;

/// A setting, with what `gonogo simulate` takes where nothing is said.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Setting {
    /// What its row is called.
    pub name: String,
    /// What is to be reached, for people; the row repeats it.
    pub goal: String,
    pub nodes: u32,
    pub per_leaf: u32,
    pub topology: bool,
    pub bad: u32,
    pub fault: Vec<String>,
    pub noise: f64,
    pub tails: bool,
    pub false_bad: f64,
    pub miss: f64,
    pub severity: f64,
    pub severity_to: Option<f64>,
    pub duty: f64,
    pub uplinks: f64,
    pub hash: f64,
    pub jobs: f64,
    pub runs: u32,
    pub seed: u64,
    #[serde(skip)]
    pub gpus: u32,
    #[serde(skip)]
    pub silicon: f64,
    #[serde(skip)]
    pub alone: bool,
    #[serde(skip)]
    pub tier: Tier,
}

impl Default for Setting {
    fn default() -> Self {
        Setting {
            name: String::new(),
            goal: String::new(),
            nodes: 512,
            per_leaf: 32,
            topology: true,
            bad: 0,
            fault: Vec::new(),
            noise: 0.02,
            tails: false,
            false_bad: 0.03,
            miss: 0.01,
            severity: 0.5,
            severity_to: None,
            duty: 1.0,
            uplinks: 1.0,
            hash: 0.0,
            jobs: 0.0,
            runs: 1,
            seed: 1,
            gpus: 0,
            silicon: 0.0,
            alone: false,
            tier: Tier::Quick,
        }
    }
}

impl Setting {
    pub fn of(args: &cli::Simulate) -> Self {
        Setting {
            name: String::new(),
            goal: String::new(),
            nodes: args.nodes,
            per_leaf: args.per_leaf,
            topology: !args.no_topology,
            bad: args.bad,
            fault: args.fault.clone(),
            noise: args.noise,
            tails: args.tails,
            false_bad: args.false_bad,
            miss: args.miss,
            severity: args.severity,
            severity_to: args.severity_to,
            duty: args.duty,
            uplinks: args.uplinks,
            hash: args.hash,
            jobs: args.jobs,
            runs: args.runs,
            seed: args.seed,
            gpus: args.gpus,
            silicon: args.silicon,
            alone: args.alone,
            tier: args.tier.into(),
        }
    }

    pub fn shape(&self) -> Shape {
        Shape {
            nodes: self.nodes,
            per_leaf: self.per_leaf,
            noise: self.noise,
            tails: self.tails,
            false_bad: self.false_bad,
            miss: self.miss,
            hash: self.hash,
            jobs: self.jobs,
            uplinks: self.uplinks,
            gpus: self.gpus,
            silicon: self.silicon,
        }
    }

    /// What its types cannot say: the name of what is wrong, as it is typed, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let fewest = if self.gpus > 0 { 1 } else { 2 };
        if !(fewest..=100_000).contains(&self.nodes) {
            return Err(("nodes", format!("{}: {fewest} to 100000", self.nodes)));
        }
        if self.gpus > 64 {
            return Err(("gpus", format!("{}: 0 to 64", self.gpus)));
        }
        for (name, value) in [
            ("noise", self.noise),
            ("false-bad", self.false_bad),
            ("miss", self.miss),
            ("severity", self.severity),
            ("severity-to", self.severity_to.unwrap_or(self.severity)),
            ("duty", self.duty),
            ("hash", self.hash),
            ("jobs", self.jobs),
            ("silicon", self.silicon),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err((name, format!("{value}: a share from 0 to 1")));
            }
        }
        if self.uplinks.is_nan() || self.uplinks <= 0.0 {
            return Err(("uplinks", format!("{}: above 0", self.uplinks)));
        }
        Ok(())
    }
}
