//! Leaves from latencies, where nobody says which node hangs at which leaf.
//!
//! Noise only ever adds to a round trip, so the smallest of many is close to what the hops cost. Nodes are joined along
//! the shortest of all round trips (a minimum spanning tree): within a leaf its edges cost the same, between leaves they
//! cost the switches in between. One clear gap among the edges tells leaves apart; without it nothing is inferred, for a
//! wrong leaf is worse than none.

/// The gap must be this share of the round trip, and this many times the spread of the edges below it.
const GAP_SHARE: f64 = 0.04;
const GAP_SPREADS: f64 = 3.0;
/// Share of a leaf's own pairs whose round trips lie below the gap.
const COHERENT: f64 = 0.8;
/// Fewer nodes than this have no leaves worth a name.
pub const FEWEST: usize = 6;

/// Each node's leaf by the smallest round trips between them, `rtt[i][j]` in any unit; `None` where a pair was not
/// measured. Leaves are numbered by their first node. `None` when the latencies show no leaves.
pub fn leaves(rtt: &[Vec<Option<f64>>]) -> Option<Vec<u32>> {
    let n = rtt.len();
    if n < FEWEST || rtt.iter().any(|row| row.len() != n) {
        return None;
    }
    let one_way = |i: usize, j: usize| rtt[i][j].filter(|t| t.is_finite() && *t > 0.0);
    // Either side may have been disturbed; the better reading stands.
    let between = |i: usize, j: usize| match (one_way(i, j), one_way(j, i)) {
        (Some(a), Some(b)) => a.min(b),
        (a, b) => a.or(b).unwrap_or(f64::INFINITY),
    };
    let edges = spanning_tree(n, &between)?;
    let mut costs: Vec<f64> = edges.iter().map(|(_, _, c)| *c).collect();
    costs.sort_by(f64::total_cmp);
    // At least half of the edges lie within leaves: smaller leaves than two nodes do not exist.
    let below = n / 2;
    let (at, gap) =
        (below.max(1)..costs.len()).map(|i| (i, costs[i] - costs[i - 1])).max_by(|a, b| a.1.total_cmp(&b.1))?;
    let (low, high) = (costs[at - 1], costs[at]);
    let median = costs[at / 2];
    let spread = costs[at - 1] - costs[0];
    if gap < GAP_SHARE * low || gap < GAP_SPREADS * spread.min(low - median).max(0.0) {
        return None;
    }
    let limit = (low + high) / 2.0;
    let mut leaf: Vec<usize> = (0..n).collect();
    for (a, b, cost) in &edges {
        if *cost < limit {
            let (from, to) = (leaf[*a], leaf[*b]);
            leaf.iter_mut().filter(|l| **l == from).for_each(|l| *l = to);
        }
    }
    let size = |l: usize| leaf.iter().filter(|x| **x == l).count();
    let groups: std::collections::BTreeSet<usize> = leaf.iter().copied().collect();
    // A node far from everybody is slow itself; it says that "near" was not measured well.
    if groups.len() < 2 || groups.iter().any(|l| size(*l) < 2) {
        return None;
    }
    let (mut near, mut all) = (0usize, 0usize);
    for i in 0..n {
        for j in (0..i).filter(|j| leaf[*j] == leaf[i]) {
            all += 1;
            near += usize::from(between(i, j) < limit);
        }
    }
    if (near as f64) < COHERENT * all as f64 {
        return None;
    }
    let mut seen: Vec<usize> = Vec::new();
    let number = |l: &usize| {
        let at = seen.iter().position(|s| s == l);
        at.unwrap_or_else(|| {
            seen.push(*l);
            seen.len() - 1
        }) as u32
    };
    Some(leaf.iter().map(number).collect())
}

/// Prim's algorithm. `None` when some node was not reached by any.
fn spanning_tree(n: usize, between: &dyn Fn(usize, usize) -> f64) -> Option<Vec<(usize, usize, f64)>> {
    let mut best: Vec<(f64, usize)> = (0..n).map(|j| (between(0, j), 0)).collect();
    let mut inside = vec![false; n];
    inside[0] = true;
    let mut out = Vec::with_capacity(n - 1);
    for _ in 1..n {
        let next = (0..n).filter(|j| !inside[*j]).min_by(|a, b| best[*a].0.total_cmp(&best[*b].0))?;
        let (cost, from) = best[next];
        if !cost.is_finite() {
            return None;
        }
        inside[next] = true;
        out.push((from, next, cost));
        for j in (0..n).filter(|j| !inside[*j]) {
            let cost = between(next, j);
            if cost < best[j].0 {
                best[j] = (cost, next);
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Smallest of `pings` round trips: hops cost `hop`, and everything adds an exponential of `noise`.
    fn matrix(leaf: &[u32], base: f64, hop: f64, noise: f64, pings: u32, seed: u64) -> Vec<Vec<Option<f64>>> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut one = |a: u32, b: u32| {
            let least = (0..pings).map(|_| -noise * (1.0 - rng.f64()).ln()).fold(f64::INFINITY, f64::min);
            base + if a == b { 0.0 } else { hop } + least
        };
        leaf.iter().map(|a| leaf.iter().map(|b| Some(one(*a, *b))).collect()).collect()
    }

    #[test]
    fn leaves_show_where_hops_cost_more_than_noise() {
        for (per_leaf, n) in [(2, 8), (4, 16), (32, 128)] {
            let truth: Vec<u32> = (0..n).map(|i| i / per_leaf).collect();
            for seed in 0..20 {
                let rtt = matrix(&truth, 15.0, 1.2, 2.0, 20, seed);
                assert_eq!(leaves(&rtt), Some(truth.clone()), "{per_leaf} {n} {seed}");
            }
        }
        // Ranks that hop from leaf to leaf.
        let truth: Vec<u32> = (0..40).map(|i| i % 5).collect();
        assert_eq!(leaves(&matrix(&truth, 15.0, 1.5, 2.0, 20, 1)), Some(truth));
    }

    #[test]
    fn nothing_is_inferred_from_noise_a_slow_node_or_a_hole() {
        for seed in 0..300 {
            for noise in [0.0, 0.5, 5.0, 50.0] {
                let flat = matrix(&[0; 16], 15.0, 0.0, noise, 20, seed);
                assert_eq!(leaves(&flat), None, "{seed} {noise}");
            }
        }
        let mut slow = matrix(&[0; 12], 15.0, 0.0, 0.5, 20, 3);
        slow.iter_mut().for_each(|row| row[4] = Some(40.0));
        slow[4] = vec![Some(40.0); 12];
        assert_eq!(leaves(&slow), None);
        assert_eq!(leaves(&vec![vec![None; 8]; 8]), None);
        assert_eq!(leaves(&vec![vec![Some(f64::NAN); 8]; 8]), None);
        assert_eq!(leaves(&vec![vec![Some(1.0); 7]; 8]), None);
    }
}
