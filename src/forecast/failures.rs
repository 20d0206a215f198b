//! How often a cluster fails.

use statrs::distribution::{ContinuousCDF, DiscreteCDF, Gamma, Poisson};

use crate::plan::ForecastPlan;

/// Failures a node-day that end a run, as published: the least is that of Meta's RSC-2, the middle that of Llama 3 405B (419 in 54 days on
/// 2048 nodes), the most that of OPT-175B on a new cluster (about 90 restarts in two months on 124 nodes, two machines a day).
const PUBLISHED: Rate = Rate { mean: 3.79e-3, low: 2.34e-3, high: 1.6e-2 };
/// What was published is worth so many failures of one's own.
const PRIOR_FAILURES: f64 = 2.0;
/// A band that holds nine of ten.
const BAND: (f64, f64) = (0.05, 0.95);

/// Failures a node-day, with a band of 90 %.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// Where a rate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateSource {
    Stated,
    /// From the cluster's own history, by a gamma prior around what is published.
    History,
    Published,
}

impl RateSource {
    pub const fn text(self) -> &'static str {
        match self {
            RateSource::Stated => "as the plan states",
            RateSource::History => "from the cluster's own history",
            RateSource::Published => "as published of other clusters (Meta RSC-2, Llama 3 405B, OPT-175B)",
        }
    }
}

/// The rate of a plan.
pub fn rate(plan: &ForecastPlan) -> (Rate, RateSource) {
    if let Some(mean) = plan.failures_per_node_day {
        return (Rate { mean, low: mean, high: mean }, RateSource::Stated);
    }
    match (plan.failures, plan.node_days) {
        (Some(failures), Some(days)) => (learned(failures, days), RateSource::History),
        _ => (PUBLISHED, RateSource::Published),
    }
}

/// The posterior of a gamma prior: no failures in a short time are no proof of none.
fn learned(failures: u32, node_days: f64) -> Rate {
    let shape = PRIOR_FAILURES + f64::from(failures);
    let days = PRIOR_FAILURES / PUBLISHED.mean + node_days;
    let mean = shape / days;
    match Gamma::new(shape, days) {
        Ok(gamma) => Rate { mean, low: gamma.inverse_cdf(BAND.0), high: gamma.inverse_cdf(BAND.1) },
        Err(_) => Rate { mean, low: mean, high: mean },
    }
}

/// The band of a number of failures of which `mean` are expected.
pub fn band(mean: f64) -> (u64, u64) {
    (quantile(mean, BAND.0), quantile(mean, BAND.1))
}

/// Spare nodes with which, in 99 of 100 moments, no more nodes are being repaired than there are spares.
pub fn spares(nodes: u32, rate: f64, repair_days: f64) -> u64 {
    quantile(f64::from(nodes) * rate * repair_days, 0.99)
}

fn quantile(mean: f64, share: f64) -> u64 {
    // Far beyond a million the distribution is as narrow as a number.
    if !(0.0..1e6).contains(&mean) {
        return mean.max(0.0) as u64;
    }
    Poisson::new(mean.max(1e-12)).map_or(0, |p| p.inverse_cdf(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers: repair in 24 h.
    #[test]
    fn spares_for_99_percent() {
        assert_eq!(spares(512, 3.79e-3, 1.0), 6);
        assert_eq!(spares(2048, 3.79e-3, 1.0), 15);
        assert_eq!(spares(124, 1.61e-2, 1.0), 6);
        assert_eq!(spares(1, 1e-9, 1.0), 0);
    }

    #[test]
    fn published_runs_lie_inside_the_default_band() {
        // Llama 3 405B: 419 in 54 days on 2048 nodes. OPT-175B: 90 restarts in 60 days on 124. BLOOM: one a week in 105 days on 48.
        for (nodes, days, failures) in [(2048.0, 54.0, 419), (124.0, 60.0, 90), (48.0, 105.0, 15)] {
            let (low, _) = band(nodes * days * PUBLISHED.low);
            let (_, high) = band(nodes * days * PUBLISHED.high);
            assert!((low..=high).contains(&failures), "{failures} in {low}..{high}");
        }
    }

    #[test]
    fn a_clean_soak_proves_almost_nothing_and_a_history_speaks() {
        let of = |failures, days| {
            rate(&ForecastPlan { failures: Some(failures), node_days: Some(days), ..ForecastPlan::default() }).0
        };
        // Three days of twelve nodes.
        let soak = of(0, 36.0);
        assert!((soak.mean / PUBLISHED.mean - 0.936).abs() < 0.01, "{soak:?}");
        let years = of(2000, 200_000.0);
        assert!((years.mean / 0.01 - 1.0).abs() < 0.01 && years.high / years.low < 1.1, "{years:?}");
    }
}
