//! What opens the gate, of one form: a record that was judged here, or a ticket that carries a verdict from elsewhere.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::Job;
use crate::hostlist;
use crate::id::NodeName;
use crate::judge::{Decision, Placement};
use crate::plan::{PlanHash, RunPlan};
use crate::roster::Roster;

/// A verdict and all that it was given for. Also what a ticket carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    pub verdict: Decision,
    pub placement: Placement,
    /// All nodes that were measured.
    pub nodes: Vec<NodeName>,
    /// See [`crate::record::Header::kernel_names`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kernel_names: BTreeMap<NodeName, String>,
    /// The job that measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
    /// The run that it was given for, with the waivers that counted.
    pub plan: RunPlan,
    /// SHA-256 of the record, in hexadecimal.
    pub record: String,
    /// See [`crate::gate::software_digest`].
    pub software: Option<PlanHash>,
    pub measured: Timestamp,
}

impl Verdict {
    pub fn roster(&self) -> Roster<'_> {
        Roster::new(&self.nodes, &self.kernel_names)
    }

    /// The first name in it that is none of a host: names go to schedulers and into commands.
    pub fn no_host(&self) -> Option<&str> {
        let placed = [&self.placement.exclude, &self.placement.run_on, &self.placement.spares];
        let all = self.nodes.iter().chain(placed.into_iter().flatten()).map(|n| n.0.as_str());
        all.chain(self.kernel_names.values().map(String::as_str)).find(|n| !hostlist::is_host(n))
    }
}
