//! Statistics for gating: medians and rank-based intervals, no assumption of normality.

use std::sync::LazyLock;

use statrs::distribution::{Binomial, DiscreteCDF};

/// Confidence of every interval that gonogo reports.
pub const CONFIDENCE: f64 = 0.95;

/// Median absolute deviations in a standard deviation of a normal distribution, inverted.
pub const MAD_SCALE: f64 = 1.4826;

/// A summary of samples. All values in the samples' own unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    pub n: usize,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Median absolute deviation from the median, unscaled.
    pub mad: f64,
    /// Rank-based interval of the median; absent when n is too small for [`CONFIDENCE`].
    pub interval: Option<(f64, f64)>,
}

/// Summarises finite samples; `None` without any, or when one is not finite.
pub fn summary(samples: &[f64]) -> Option<Summary> {
    if samples.is_empty() || samples.iter().any(|s| !s.is_finite()) {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let median = median_sorted(&sorted);
    let ranks = RANKS.get(sorted.len()).copied().unwrap_or_else(|| median_ranks(sorted.len(), CONFIDENCE));
    let interval = ranks.map(|(lo, hi)| (sorted[lo - 1], sorted[hi - 1]));
    Some(Summary {
        n: sorted.len(),
        median,
        min: sorted[0],
        max: sorted[sorted.len() - 1],
        mad: median_deviation(&sorted, median),
        interval,
    })
}

fn median_sorted(sorted: &[f64]) -> f64 {
    let mid = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[mid] } else { sorted[mid - 1] / 2.0 + sorted[mid] / 2.0 }
}

/// The median absolute deviation: from the median outwards deviations grow on both sides, so that nothing needs to be sorted again.
fn median_deviation(sorted: &[f64], median: f64) -> f64 {
    let (below, above) = sorted.split_at(sorted.partition_point(|s| *s < median));
    let (mut below, mut above) =
        (below.iter().rev().map(|s| median - s).peekable(), above.iter().map(|s| s - median).peekable());
    let mut next = || match (below.peek(), above.peek()) {
        (Some(b), Some(a)) if b <= a => below.next(),
        (Some(_), None) => below.next(),
        _ => above.next(),
    };
    let mid = sorted.len() / 2;
    let before = (0..mid).filter_map(|_| next()).last().unwrap_or(0.0);
    let at = next().unwrap_or(0.0);
    if sorted.len() % 2 == 1 { at } else { before / 2.0 + at / 2.0 }
}

/// The median of unsorted samples; 0 of none.
pub fn median(samples: &[f64]) -> f64 {
    summary(samples).map_or(0.0, |s| s.median)
}

/// The median, and the median absolute deviation from it scaled to the standard deviation of a normal distribution. The
/// deviation of few values is itself uncertain: it is widened by `1 + 4/n`. `None` without any value.
pub fn robust(samples: &[f64]) -> Option<(f64, f64)> {
    let s = summary(samples)?;
    Some((s.median, MAD_SCALE * s.mad * (1.0 + 4.0 / s.n as f64)))
}

/// [`median_ranks`] at [`CONFIDENCE`] for the numbers of samples that occur; a large record asks a million times.
static RANKS: LazyLock<[Option<(usize, usize)>; 257]> =
    LazyLock::new(|| std::array::from_fn(|n| median_ranks(n, CONFIDENCE)));

/// Ranks (from 1) of the order statistics that enclose the median with at least `confidence`, by the binomial
/// distribution: the largest k with `1 - 2 P(B(n, 1/2) <= k - 1) >= confidence`. `None` when even the extremes do not.
pub fn median_ranks(n: usize, confidence: f64) -> Option<(usize, usize)> {
    // Blocks number in the tens; beyond this the interval is as narrow as anyone needs and the search must stay short.
    let m = n.min(100_000);
    let binomial = Binomial::new(0.5, m as u64).ok()?;
    let coverage = |k: usize| 1.0 - 2.0 * binomial.cdf(k as u64 - 1);
    if m == 0 || coverage(1) < confidence {
        return None;
    }
    let (mut lo, mut hi) = (1, m / 2);
    while lo < hi {
        let mid = (lo + hi).div_ceil(2);
        if coverage(mid) >= confidence { lo = mid } else { hi = mid - 1 }
    }
    Some((lo, n - lo + 1))
}

/// Fewest samples from which quantile `p` has a one-sided upper bound with `confidence`: `ln(1-C)/ln(p)`.
pub fn samples_for_quantile(p: f64, confidence: f64) -> usize {
    ((1.0 - confidence).ln() / p.ln()).ceil() as usize
}

/// The quantile `p` of unsorted samples by the nearest rank; `None` when there are too few to claim it.
pub fn quantile(samples: &[f64], p: f64) -> Option<f64> {
    if samples.len() < samples_for_quantile(p, CONFIDENCE) {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len()) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers: exact binomial ranks.
    #[test]
    fn median_ranks_match_the_tables() {
        for (n, want) in
            [(8, (1, 8)), (10, (1, 10)), (15, (3, 13)), (20, (4, 17)), (30, (8, 23)), (50, (16, 35)), (100, (37, 64))]
        {
            assert_eq!(median_ranks(n, 0.99), Some(want), "n={n} at 99 %");
        }
        assert_eq!(median_ranks(7, 0.99), None);
        assert_eq!(median_ranks(20, 0.95), Some((6, 15)));
        assert_eq!(median_ranks(100, 0.95), Some((40, 61)));
        assert_eq!((median_ranks(5, 0.95), median_ranks(6, 0.95)), (None, Some((1, 6))));
        assert_eq!(median_ranks(0, 0.95), None);
    }

    #[test]
    fn tail_quantiles_need_their_samples() {
        assert_eq!([0.5, 0.95, 0.99].map(|p| samples_for_quantile(p, 0.99)), [7, 90, 459]);
        assert_eq!([0.95, 0.99].map(|p| samples_for_quantile(p, 0.95)), [59, 299]);
        assert_eq!(quantile(&vec![1.0; 298], 0.99), None);
        let ramp: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(quantile(&ramp, 0.99), Some(990.0));
    }

    #[test]
    fn mad_is_robust() {
        let s = summary(&[700., 702., 698., 701., 699., 703., 697., 700., 701., 660.]);
        assert_eq!(s.map(|s| (s.median, s.mad)), Some((700.0, 1.5)));
        assert_eq!(summary(&[1.0, f64::NAN]), None);
        assert_eq!(summary(&[]), None);
    }

    proptest::proptest! {
        #[test]
        fn the_interval_encloses_the_median(samples in proptest::collection::vec(-1e12f64..1e12, 6..200)) {
            let s = summary(&samples);
            proptest::prop_assert!(s.is_some_and(|s| s.interval.is_some_and(|(lo, hi)| lo <= s.median && s.median <= hi)));
        }

        #[test]
        fn the_deviation_is_the_median_of_all(samples in proptest::collection::vec(-20i32..20, 1..40)) {
            let samples: Vec<f64> = samples.into_iter().map(|s| f64::from(s) / 8.0).collect();
            let s = summary(&samples);
            let mut all: Vec<f64> = samples.iter().map(|x| (x - s.map_or(0.0, |s| s.median)).abs()).collect();
            all.sort_unstable_by(f64::total_cmp);
            proptest::prop_assert_eq!(s.map(|s| s.mad), Some(median_sorted(&all)));
        }
    }
}
