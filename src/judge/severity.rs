//! How much a finding weighs.

use serde::{Deserialize, Serialize};

/// How a finding weighs on the decision. Ordered: worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warn,
    /// Nothing is proven: holds the gate.
    Hold,
    /// Proven bad.
    Fail,
}

impl Severity {
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Info => "note",
            Severity::Warn => "warn",
            Severity::Hold => "hold",
            Severity::Fail => "fail",
        }
    }
}
