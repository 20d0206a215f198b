//! What was planned and what became of it: the statement that every report makes.

use serde::Serialize;

use crate::measure::{Outcome, WaiveKind};

/// Counts of cases. `planned` is the sum of the others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Coverage {
    pub planned: usize,
    pub measured: usize,
    /// Absent hardware, or nobody asked.
    pub waived: usize,
    pub cut_for_time: usize,
    pub interrupted: usize,
    pub not_reached: usize,
    pub failed: usize,
    pub timed_out: usize,
    /// Planned, and not in the record at all.
    pub missing: usize,
    /// Probes that the command line left out.
    pub skipped_probes: Vec<String>,
    /// Series with nothing to hold them against.
    pub without_limit: usize,
}

impl Coverage {
    pub(super) fn count(&mut self, outcome: Option<&Outcome>) {
        self.planned += 1;
        *match outcome {
            None => &mut self.missing,
            Some(Outcome::Measured(_)) => &mut self.measured,
            Some(Outcome::Failed { .. }) => &mut self.failed,
            Some(Outcome::TimedOut { .. }) => &mut self.timed_out,
            Some(Outcome::Waived { kind, .. }) => match kind {
                WaiveKind::Absent | WaiveKind::NotAsked => &mut self.waived,
                WaiveKind::NoTime => &mut self.cut_for_time,
                WaiveKind::Interrupted => &mut self.interrupted,
                WaiveKind::NotReached => &mut self.not_reached,
            },
        } += 1;
    }

    /// `planned 40, measured 38, waived 2`: parts that are zero are left out.
    pub fn sentence(&self) -> String {
        let parts = [
            ("measured", self.measured),
            ("waived", self.waived),
            ("cut for time", self.cut_for_time),
            ("interrupted", self.interrupted),
            ("not reached", self.not_reached),
            ("failed", self.failed),
            ("timed out", self.timed_out),
            ("missing", self.missing),
        ];
        let mut out = format!("{} cases planned", self.planned);
        for (name, n) in parts.into_iter().filter(|(name, n)| *n > 0 || *name == "measured") {
            out.push_str(&format!(", {n} {name}"));
        }
        if !self.skipped_probes.is_empty() {
            out.push_str(&format!("; left out on request: {}", self.skipped_probes.join(", ")));
        }
        out
    }
}
