//! What a path reaches when nothing on it is bad, and how far readings scatter there: both from the readings themselves.
//!
//! The reference of a class (hop, and how many pairs are measured at once) is its upper mode. Faults only slow things
//! down, so what is ordinary is the fastest group that holds together, however few belong to it: with seven of eight
//! nodes sick one pair in 64 is well.

use crate::measure::stats::{self, MAD_SCALE};

/// Deviations by which two groups of readings stand apart. Of thousands of readings even the tails lie closer together.
const GAP: f64 = 5.0;
/// And at least this in the logarithm: less is a difference between healthy nodes.
const LEAST_GAP: f64 = 0.07;
/// Smallest share of a class that may be its upper mode: a little under the (1/8)^2 of pairs that are well where seven
/// of eight nodes are sick, for the number of such pairs in a round varies.
const LEAST_SHARE: f64 = 0.006;
/// The least deviation that is believed, in the logarithm: a counter's resolution and the clock's are no better.
pub(super) const LEAST_DEVIATION: f64 = 0.004;
/// Fewer differences than this have no quartile of their own.
const FEW: usize = 8;
/// More differences than this say no more about their scatter.
const ENOUGH: usize = 400;
/// Of Qn, for a normal distribution.
const QN: f64 = 2.2219;

/// The upper mode of a class, and the standard deviation of one reading around it; both in the logarithm of the rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mode {
    pub at: f64,
    pub deviation: f64,
    /// Readings that belong to it, and of how many.
    pub members: usize,
    pub of: usize,
}

/// The deviation of a reading from what the two directions of a test differ by: whatever share of the nodes is sick, the
/// same parts lie on both. `differences` are of logarithms. Qn (Rousseeuw and Croux 1993): it holds while fewer than half
/// of the tests are slow one way only.
pub(super) fn deviation(differences: &[f64]) -> Option<f64> {
    let n = differences.len();
    if n == 0 {
        return None;
    }
    let of_difference = if n < FEW {
        // Few differences are themselves uncertain; their median is taken to be larger than it looks.
        let sizes: Vec<f64> = differences.iter().map(|d| d.abs()).collect();
        MAD_SCALE * stats::median(&sizes) * (1.0 + 2.0 / n as f64)
    } else {
        let some: Vec<f64> = differences.iter().copied().step_by(n.div_ceil(ENOUGH)).collect();
        let (m, half) = (some.len(), some.len() / 2 + 1);
        let mut apart: Vec<f64> =
            (0..m).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| (some[i] - some[j]).abs()).collect();
        let at = half * (half - 1) / 2 - 1;
        let (_, quartile, _) = apart.select_nth_unstable_by(at, f64::total_cmp);
        let few = m as f64 / (m as f64 + if m.is_multiple_of(2) { 3.8 } else { 1.4 });
        QN * *quartile * few
    };
    Some((of_difference / std::f64::consts::SQRT_2).max(LEAST_DEVIATION))
}

/// The upper mode of tests (logarithms of the rates out and back), of which one scatters by `deviation` at least.
pub(super) fn upper_mode(tests: &[[Option<f64>; 2]], deviation: f64) -> Option<Mode> {
    let all = tests.iter().enumerate().flat_map(|(i, t)| t.iter().flatten().map(move |v| (*v, i)));
    let mut sorted: Vec<(f64, usize)> = all.filter(|(v, _)| v.is_finite()).collect();
    sorted.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let n = sorted.len();
    let gap = (GAP * deviation).max(LEAST_GAP);
    let mut from = 0;
    for at in 1..=n {
        if at == n || sorted[at - 1].0 - sorted[at].0 > gap {
            // The first group from above that is more than chance; the last one is all there is.
            if at == n || holds(&sorted[from..at], tests.len()) {
                let group: Vec<f64> = sorted[from..at].iter().map(|(v, _)| *v).collect();
                return Some(within(&group, deviation, n));
            }
            from = at;
        }
    }
    None
}

/// Whether a group above the others is more than a few readings that noise lifted: some test is in it with both its
/// directions, or it is a good part of all.
fn holds(group: &[(f64, usize)], tests: usize) -> bool {
    let mut of: Vec<usize> = group.iter().map(|(_, test)| *test).collect();
    of.sort_unstable();
    let whole = of.windows(2).filter(|w| w[0] == w[1]).count();
    let distinct = of.len() - whole;
    let least = ((LEAST_SHARE * tests as f64).ceil() as usize).max(1);
    whole >= least || (distinct >= 3 && 5 * of.len() >= 2 * tests)
}

/// The densest place of a group without gaps, sorted from above.
fn within(group: &[f64], deviation: f64, of: usize) -> Mode {
    let width = 3.0 * deviation;
    let (mut best, mut most) = (0, 0);
    let mut end = 0;
    for start in 0..group.len() {
        while end < group.len() && group[start] - group[end] <= width {
            end += 1;
        }
        // Of two places as dense as each other the upper one stands.
        if end - start > most {
            (best, most) = (start, end - start);
        }
    }
    let mut at = stats::median(&group[best..best + most]);
    for _ in 0..3 {
        let near: Vec<f64> = group.iter().copied().filter(|v| (v - at).abs() <= 2.0 * deviation).collect();
        if !near.is_empty() {
            at = stats::median(&near);
        }
    }
    // What lies above the mode is noise only: nothing makes a path faster.
    let above: Vec<f64> = group.iter().map(|v| v - at).filter(|d| *d > 0.0).collect();
    let scatter = if above.len() >= 8 { MAD_SCALE * stats::median(&above) } else { 0.0 };
    Mode { at, deviation: deviation.max(scatter), members: group.len(), of }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauss(rng: &mut fastrand::Rng) -> f64 {
        (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
    }

    #[test]
    fn a_mixture_is_found_by_its_gap_whatever_the_share_of_the_sick() {
        for (well, sick) in [(8, 0), (4, 4), (2, 6), (2, 62), (64, 960)] {
            let mut rng = fastrand::Rng::with_seed(well as u64);
            let mut value = |level: f64| level + 0.02 * gauss(&mut rng);
            let mut test = |level: f64| [Some(value(level)), Some(value(level))];
            let mut tests: Vec<[Option<f64>; 2]> = (0..well / 2).map(|_| test(0.0)).collect();
            tests.extend((0..sick / 2).map(|_| test(-0.69)));
            let mode = upper_mode(&tests, 0.02);
            assert!(mode.is_some_and(|m| m.at.abs() < 0.03 && m.members == well as usize), "{well} {sick} {mode:?}");
        }
    }

    #[test]
    fn one_reading_far_above_the_rest_is_no_mode() {
        let tests = [[Some(0.0), Some(0.01)], [Some(-0.01), Some(0.005)], [Some(0.4), Some(-0.005)]];
        assert!(upper_mode(&tests, 0.01).is_some_and(|m| m.at.abs() < 0.011));
        assert_eq!(upper_mode(&[], 0.01), None);
        assert!(upper_mode(&[[Some(1.0), None]], 0.01).is_some_and(|m| m.at == 1.0));
        assert_eq!(upper_mode(&[[Some(f64::NAN), Some(f64::NEG_INFINITY)]], 0.01), None);
        // All that one leaf sends is slow, and there are two: what the other sends shows it.
        let one_way = [[Some(0.0), Some(-0.7)], [Some(-0.7), Some(0.01)], [Some(0.0), Some(-0.69)]];
        assert!(upper_mode(&one_way, 0.01).is_some_and(|m| m.at.abs() < 0.01));
    }

    #[test]
    fn a_tail_without_a_gap_does_not_move_the_mode() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut tests: Vec<[Option<f64>; 2]> =
            (0..300).map(|_| [Some(0.02 * gauss(&mut rng)), Some(0.02 * gauss(&mut rng))]).collect();
        tests.extend((0..100).map(|i| [Some(-0.006 * f64::from(i)), Some(-0.006 * f64::from(i))]));
        let mode = upper_mode(&tests, 0.02);
        assert!(mode.is_some_and(|m| m.at.abs() < 0.006 && (0.017..0.025).contains(&m.deviation)), "{mode:?}");
    }

    #[test]
    fn the_deviation_does_not_see_who_is_sick() {
        let mut rng = fastrand::Rng::with_seed(9);
        let differences: Vec<f64> = (0..200).map(|_| 0.02 * (gauss(&mut rng) - gauss(&mut rng))).collect();
        let found = deviation(&differences);
        assert!(found.is_some_and(|d| (0.017..0.024).contains(&d)), "{found:?}");
        assert_eq!(deviation(&[]), None);
        assert_eq!(deviation(&[0.0; 9]), Some(LEAST_DEVIATION));
    }
}
