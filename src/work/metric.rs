//! What is counted of a case.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::unit::Unit;
use crate::work::named::named;

/// Which direction is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Higher,
    Lower,
}

/// A quantity that probes measure. Its code where it misses a limit is `judge/rules/metrics.rs`'s to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    Flops,
    Bandwidth,
    /// Of a GPU's ways to the others the middle one.
    BandwidthMedian,
    AlgBw,
    BusBw,
    Latency,
    LatencyP99,
    LatencyP999,
    RttP50,
    RttP99,
    /// From the start of a rank's process until its communicator stands.
    Start,
    Write,
    Read,
    Metadata,
    Publish,
    /// Of a checkpoint that is saved while the run goes on: into the hosts' memory, while the run waits.
    Stage,
    /// Of the same: from there until it is durable.
    Drain,
    /// Of a training step, or of what of it was rehearsed.
    Step,
}

named!(Metric {
    Metric::Flops => "flops", Metric::Bandwidth => "bandwidth", Metric::BandwidthMedian => "bandwidth_median",
    Metric::AlgBw => "algbw", Metric::BusBw => "busbw", Metric::Latency => "latency", Metric::LatencyP99 => "latency_p99",
    Metric::LatencyP999 => "latency_p999", Metric::RttP50 => "rtt_p50", Metric::RttP99 => "rtt_p99", Metric::Start => "start",
    Metric::Write => "write", Metric::Read => "read", Metric::Metadata => "metadata", Metric::Publish => "publish",
    Metric::Stage => "stage", Metric::Drain => "drain", Metric::Step => "step",
} [
    Metric::Flops, Metric::Bandwidth, Metric::BandwidthMedian, Metric::AlgBw, Metric::BusBw, Metric::Latency,
    Metric::LatencyP99, Metric::LatencyP999, Metric::RttP50, Metric::RttP99, Metric::Start, Metric::Write, Metric::Read,
    Metric::Metadata, Metric::Publish, Metric::Stage, Metric::Drain, Metric::Step,
]);

impl Metric {
    pub const fn unit(self) -> Unit {
        use Metric as M;
        match self {
            M::Flops => Unit::FlopPerSecond,
            M::Bandwidth | M::BandwidthMedian | M::AlgBw | M::BusBw | M::Write | M::Read | M::Stage | M::Drain => {
                Unit::BytePerSecond
            }
            M::Latency | M::LatencyP99 | M::LatencyP999 | M::RttP50 | M::RttP99 | M::Start | M::Publish | M::Step => {
                Unit::Second
            }
            M::Metadata => Unit::OperationPerSecond,
        }
    }

    /// Times are better when lower, rates when higher.
    pub const fn better(self) -> Better {
        if matches!(self.unit(), Unit::Second) { Better::Lower } else { Better::Higher }
    }
}

/// How an answer is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckName {
    /// A product against sums of more digits.
    Residual,
    /// The last product against the first, to the bit.
    Repeat,
    /// A GPU's bits against those of its model.
    SameBits,
    /// What arrived against what was sent.
    Payload,
    /// Memory against what was written to it.
    Pattern,
    /// A collective's elements against their known results.
    Sum,
    /// A file's pages against what was written.
    Checksum,
    /// A renamed file, looked at while it is replaced: never torn.
    Atomic,
}

named!(CheckName {
    CheckName::Residual => "residual", CheckName::Repeat => "repeat", CheckName::SameBits => "same bits",
    CheckName::Payload => "payload", CheckName::Pattern => "pattern", CheckName::Sum => "sum",
    CheckName::Checksum => "checksum", CheckName::Atomic => "atomic",
} [
    CheckName::Residual, CheckName::Repeat, CheckName::SameBits, CheckName::Payload, CheckName::Pattern, CheckName::Sum,
    CheckName::Checksum, CheckName::Atomic,
]);

/// A metric as a probe declares it: what it is of that probe's cases.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Declared {
    pub metric: Metric,
    pub about: &'static str,
}

impl Metric {
    pub const fn of(self, about: &'static str) -> Declared {
        Declared { metric: self, about }
    }
}
