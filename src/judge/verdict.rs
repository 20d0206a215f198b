//! Pass, warn, fail, or inconclusive with a reason: by the interval of the median against a limit and a margin.

use std::fmt;

use serde::Serialize;

use crate::baseline::Weight;
use crate::measure::stats::{self, Summary};
use crate::work::Better;

/// Why a verdict is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    TooFewSamples,
    VarianceTooHigh,
    /// Others used the machine.
    Busy,
    /// Slower than its peers, once.
    Unconfirmed,
    /// Measured again it was well, or the other way round.
    Unsteady,
    /// Above what physics allows, or not a number.
    Invalid,
    /// Near the resolution of the clock.
    NearYardstick,
}

impl Reason {
    /// Whether measuring again may help.
    pub const fn curable(self) -> bool {
        matches!(
            self,
            Reason::TooFewSamples | Reason::VarianceTooHigh | Reason::Busy | Reason::Unconfirmed | Reason::Unsteady
        )
    }

    pub const fn name(self) -> &'static str {
        match self {
            Reason::TooFewSamples => "too few samples",
            Reason::VarianceTooHigh => "varies too much",
            Reason::Busy => "machine busy",
            Reason::Unconfirmed => "slower than its peers, once",
            Reason::Unsteady => "unsteady",
            Reason::Invalid => "invalid",
            Reason::NearYardstick => "near the clock's resolution",
        }
    }
}

/// An opinion on one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Measured, and nothing to hold it against.
    NoLimit,
    Pass,
    Warn,
    Inconclusive(Reason),
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::NoLimit => "-",
            Verdict::Pass => "pass",
            Verdict::Warn => "WARN",
            Verdict::Inconclusive(reason) => reason.name(),
            Verdict::Fail => "FAIL",
        })
    }
}

/// Relative spread (1.4826 MAD / median) from which more samples are no cure.
const WILD: f64 = 0.10;

/// Slowdown of a summary against a limit: its interval `[low, high]`; 0.03 is 3 % slower than the limit.
pub fn slowdown(summary: &Summary, limit: f64, better: Better) -> Option<(f64, f64)> {
    let (lo, hi) = summary.interval?;
    match better {
        Better::Higher => Some((1.0 - hi / limit, 1.0 - lo / limit)),
        Better::Lower => Some((lo / limit - 1.0, hi / limit - 1.0)),
    }
}

/// Fail if the interval of the slowdown lies beyond the margin, pass if within, open if it straddles. A limit that only warns is not
/// worth holding a launch for: there the median decides, and what is said to be below a limit is.
pub fn verdict(summary: &Summary, limit: f64, margin: f64, better: Better, weight: Weight) -> Verdict {
    if weight == Weight::Warn {
        let slowdown = match better {
            Better::Higher => 1.0 - summary.median / limit,
            Better::Lower => summary.median / limit - 1.0,
        };
        return if slowdown > margin { Verdict::Warn } else { Verdict::Pass };
    }
    let Some((low, high)) = slowdown(summary, limit, better) else {
        // Without an interval only what is far from the limit on every sample is clear enough to pass.
        let worst = if better == Better::Higher { summary.min } else { summary.max };
        let clear = if better == Better::Higher { worst > 2.0 * limit } else { worst < limit / 2.0 };
        return if clear { Verdict::Pass } else { Verdict::Inconclusive(Reason::TooFewSamples) };
    };
    if low > margin {
        Verdict::Fail
    } else if high < margin || (margin == 0.0 && high <= 0.0) {
        Verdict::Pass
    } else {
        let spread = stats::MAD_SCALE * summary.mad / summary.median.abs();
        Verdict::Inconclusive(if spread > WILD { Reason::VarianceTooHigh } else { Reason::TooFewSamples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(interval: (f64, f64)) -> Verdict {
        let summary = Summary {
            n: 20,
            median: 100.0,
            min: 0.0,
            max: 0.0,
            mad: 0.1,
            interval: Some((100.0 - interval.1, 100.0 - interval.0)),
        };
        verdict(&summary, 100.0, 0.03, Better::Higher, Weight::Fail)
    }

    /// Known answers: margin 3 %.
    #[test]
    fn the_interval_decides() {
        assert_eq!(slow((3.4, 5.6)), Verdict::Fail);
        assert_eq!(slow((0.4, 2.1)), Verdict::Pass);
        assert_eq!(slow((1.8, 4.2)), Verdict::Inconclusive(Reason::TooFewSamples));
    }

    #[test]
    fn lower_is_better_turns_it_round() {
        let at = |v: f64| stats::summary(&[v; 10]).map(|s| verdict(&s, 1e-3, 0.05, Better::Lower, Weight::Fail));
        assert_eq!(at(0.9e-3), Some(Verdict::Pass));
        assert_eq!(at(1.2e-3), Some(Verdict::Fail));
    }

    #[test]
    fn few_samples_are_no_verdict_and_wild_ones_say_so() {
        let few = stats::summary(&[101.0, 99.0, 100.0]).map(|s| verdict(&s, 100.0, 0.03, Better::Higher, Weight::Fail));
        assert_eq!(few, Some(Verdict::Inconclusive(Reason::TooFewSamples)));
        let wild = stats::summary(&[50.0, 60.0, 70.0, 130.0, 140.0, 150.0, 160.0, 40.0])
            .map(|s| verdict(&s, 100.0, 0.03, Better::Higher, Weight::Fail));
        assert_eq!(wild, Some(Verdict::Inconclusive(Reason::VarianceTooHigh)));
    }

    /// What a machine with an H100 measured: 26.1 of at least 16.8, between 13.2 and 30.0, is not below its limit.
    #[test]
    fn a_limit_that_only_warns_goes_by_the_median() {
        let warned =
            |samples: &[f64]| stats::summary(samples).map(|s| verdict(&s, 16.8, 0.03, Better::Higher, Weight::Warn));
        assert_eq!(warned(&[13.2, 14.0, 26.0, 26.1, 26.2, 28.0, 29.0, 30.0]), Some(Verdict::Pass));
        assert_eq!(warned(&[18.0, 19.0]), Some(Verdict::Pass));
        assert_eq!(warned(&[16.5, 16.6]), Some(Verdict::Pass));
        assert_eq!(warned(&[13.0, 14.0, 15.0, 16.0, 16.2, 18.0, 29.0, 30.0]), Some(Verdict::Warn));
        assert_eq!(warned(&[11.0, 12.0]), Some(Verdict::Warn));
    }

    #[test]
    fn exactly_the_owners_number_passes() {
        let s = stats::summary(&[40.0; 8]).map(|s| verdict(&s, 40.0, 0.0, Better::Higher, Weight::Fail));
        assert_eq!(s, Some(Verdict::Pass));
    }
}
