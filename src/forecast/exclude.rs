//! Is a slow node worth leaving out? A synchronous run goes as fast as its slowest node: leaving k of N out costs
//! k/(N-k) of the time and saves what the slowest of them cost.

/// The slowdown (0.04: 4 % slower than the rest) from which a node is worth leaving out, by the k that minimises
/// `(1 + slowdown of the worst kept) / (N - k)`. `spares` nodes are left out for free. Infinite when none is worth it.
pub fn worth_excluding(slowdowns: &[f64], nodes: u32, spares: u32) -> f64 {
    let mut worst_first: Vec<f64> = slowdowns.to_vec();
    worst_first.sort_by(|a, b| b.total_cmp(a));
    let n = f64::from(nodes);
    let working = |k: usize| n - (k as f64 - f64::from(spares)).max(0.0);
    let time = |k: usize| (1.0 + worst_first.get(k).copied().unwrap_or(0.0)) / working(k).max(1.0);
    let best = (0..=worst_first.len().min(nodes.saturating_sub(1) as usize))
        .min_by(|a, b| time(*a).total_cmp(&time(*b)))
        .unwrap_or(0);
    if best == 0 { f64::INFINITY } else { worst_first[best - 1] }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answer: 3 of 512 break even at 0.59 %.
    #[test]
    fn three_of_512_break_even_at_0_59_percent() {
        assert!(worth_excluding(&[0.04; 3], 512, 0) <= 0.04);
        assert!(worth_excluding(&[0.0060; 3], 512, 0).is_finite());
        assert!(worth_excluding(&[0.0058; 3], 512, 0).is_infinite());
    }

    #[test]
    fn spares_are_free_and_a_small_cluster_keeps_what_it_has() {
        assert!(worth_excluding(&[0.10], 8, 0).is_infinite());
        assert!(worth_excluding(&[0.20], 8, 0).is_finite());
        assert!(worth_excluding(&[0.01], 8, 1).is_finite());
        assert!(worth_excluding(&[], 8, 1).is_infinite());
    }
}
