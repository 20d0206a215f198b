//! Who is far from everybody: by round trips, of which noise and load only ever make more.

/// Times the nearest of the others' nearest partners, and microseconds more, beyond which no fabric puts a node: across three tiers of
/// switches a round trip takes some tens of microseconds, between halls some hundred.
const TIMES: f64 = 10.0;
const MORE_US: f64 = 500.0;
/// Of two nodes one cannot be told from the other.
const FEWEST: usize = 3;

/// A node that even its nearest partner is far from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Far {
    /// Its place in the matrix.
    pub node: usize,
    /// The round trip with its nearest partner, microseconds.
    pub nearest_us: f64,
    /// The same of the node that stands best.
    pub usual_us: f64,
}

/// The nodes that are far from all others, by the smallest round trips between each two, in microseconds; `None` where none was measured.
/// A slow node makes every round trip with it long, so each node's shortest is its own as long as one partner is well.
pub fn far(rtt_us: &[Vec<Option<f64>>]) -> Vec<Far> {
    let n = rtt_us.len();
    if n < FEWEST || rtt_us.iter().any(|row| row.len() != n) {
        return Vec::new();
    }
    let nearest = |i: usize| {
        let with = |j: usize| [rtt_us[i][j], rtt_us[j][i]].into_iter().flatten();
        let all = (0..n).filter(|j| *j != i).flat_map(with).filter(|t| t.is_finite() && *t > 0.0);
        all.min_by(f64::total_cmp)
    };
    let each: Vec<Option<f64>> = (0..n).map(nearest).collect();
    let Some(usual_us) = each.iter().flatten().copied().min_by(f64::total_cmp) else { return Vec::new() };
    let is_far = |us: f64| us > TIMES * usual_us && us > usual_us + MORE_US;
    let far = |(node, nearest): (usize, &Option<f64>)| {
        nearest.filter(|us| is_far(*us)).map(|nearest_us| Far { node, nearest_us, usual_us })
    };
    each.iter().enumerate().filter_map(far).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes of which `slow` add so much to each of their round trips.
    fn matrix(n: usize, slow: &[(usize, f64)]) -> Vec<Vec<Option<f64>>> {
        let own = |i: usize| slow.iter().find(|(s, _)| *s == i).map_or(0.0, |(_, us)| *us);
        let us = |i: usize, j: usize| (i != j).then(|| 19.0 + own(i) + own(j) + ((i * 7 + j * 3) % 5) as f64);
        (0..n).map(|i| (0..n).map(|j| us(i, j)).collect()).collect()
    }

    fn named(rtt: &[Vec<Option<f64>>]) -> Vec<usize> {
        far(rtt).iter().map(|f| f.node).collect()
    }

    #[test]
    fn a_node_behind_two_milliseconds_is_named_and_nobody_else() {
        for n in [3, 8, 100] {
            assert_eq!(named(&matrix(n, &[(1, 2000.0)])), [1], "{n}");
        }
        assert_eq!(named(&matrix(8, &[(1, 2000.0), (6, 900.0), (7, 5000.0)])), [1, 6, 7]);
        assert!(named(&matrix(8, &[])).is_empty());
        // Another tier of switches, another hall: near enough.
        assert!(named(&matrix(8, &[(2, 120.0)])).is_empty());
    }

    #[test]
    fn too_few_and_nonsense_name_nobody() {
        assert!(named(&matrix(2, &[(1, 9e9)])).is_empty());
        assert!(named(&[]).is_empty());
        assert!(named(&[vec![None; 3], vec![None; 2], vec![None; 3]]).is_empty());
        assert!(named(&vec![vec![None; 4]; 4]).is_empty());
        let bad = [f64::NAN, f64::INFINITY, 0.0, -1.0].map(|v| vec![Some(v); 4]).to_vec();
        assert!(named(&bad).is_empty());
    }
}
