//! Which of many like parts are slow: parts of one make, measured the same way.
//!
//! Faults only slow things down, so the healthy ones are the fast end, not the middle: half may be slow and the other half still
//! says so. Of few parts the spread is known badly (of seven it may come out half of what it is), so it is held together with
//! what is known beforehand of healthy parts, as if that were [`PRIOR_WEIGHT`] further parts; what is left unknown widens
//! the tails (Student's distribution).

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::measure::stats::{self, MAD_SCALE, Summary};
use crate::work::Better;

/// Standard deviation between healthy parts of one model: eight of a node lie within 1 to 3 %, the expected range of eight normal
/// values is 2.85 standard deviations (Tippett 1925), and readings repeat to some tenths of a percent.
const PRIOR: f64 = 0.008;
/// As so many parts' worth of knowledge: the spread may as well be two thirds or twice of it.
const PRIOR_WEIGHT: f64 = 10.0;
/// A value so many deviations above the middle is not a healthy part, but something else; it must not hide the slow.
const WILD: f64 = 3.0;
/// The middle of normal samples varies by so much more than their mean.
const MEDIAN_ERROR: f64 = 1.2533;

/// Of one part: more is better, with its relative standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    pub value: f64,
    pub error: f64,
}

impl Speed {
    /// Of a rate's samples, or of a time's: the speed is its inverse.
    pub fn of(summary: &Summary, better: Better) -> Self {
        let error = MEDIAN_ERROR * MAD_SCALE * summary.mad / summary.median / (summary.n as f64).sqrt();
        let value = match better {
            Better::Higher => summary.median,
            Better::Lower => 1.0 / summary.median,
        };
        Speed { value, error }
    }
}

/// The slow among many.
#[derive(Debug, Clone, PartialEq)]
pub struct Slow {
    /// The middle of the others.
    pub usual: f64,
    /// Places of the slow.
    pub who: Vec<usize>,
}

impl Slow {
    /// How much slower than usual: 0.06 is 6 %.
    pub fn loss(&self, speed: f64) -> f64 {
        1.0 - speed / self.usual
    }
}

/// So few may be well, of all: one in so many.
const FEW_WELL: usize = 8;
/// Where more than half are slow by less than this, the fast ones may be what differs.
const APART: f64 = 0.10;
/// A gap is no accident of readings when it is so many times their error.
const ERRORS: f64 = 6.0;

/// The speeds of the fast end, the fastest first, where the slow are more than half: the fast stand apart from the rest by more than `margin`, which is more
/// than twice what they differ by. `speeds` in any order, all positive; more is better. `None` where no such end is.
pub fn fast_end(speeds: &[f64], margin: f64) -> Option<Vec<f64>> {
    let mut logs: Vec<f64> = speeds.iter().map(|s| s.ln()).collect();
    logs.sort_by(|a, b| b.total_cmp(a));
    let least = 2.max(logs.len().div_ceil(FEW_WELL));
    let gap = |kept: usize| logs[kept - 1] - logs[kept];
    let kept = (least..=logs.len().saturating_sub(1) / 2).max_by(|a, b| gap(*a).total_cmp(&gap(*b)))?;
    let apart = gap(kept) > -(1.0 - margin).ln() && logs[0] - logs[kept - 1] < gap(kept) / 2.0;
    apart.then(|| logs[..kept].iter().map(|l| l.exp()).collect())
}

/// Who is slower than the rest by more than `margin`, and by more than chance makes one part in `1 / level` be. More than half
/// can be where the others stand apart ([`fast_end`]).
/// `None` without a positive speed and an error for each.
pub fn slow(readings: &[Speed], level: f64, margin: f64) -> Option<Slow> {
    let known = |r: &Speed| r.value > 0.0 && r.value.is_finite() && r.error.is_finite();
    if readings.is_empty() || !readings.iter().all(known) {
        return None;
    }
    let speeds: Vec<f64> = readings.iter().map(|r| r.value).collect();
    let errors: Vec<f64> = readings.iter().map(|r| r.error).collect();
    if let Some(fast) = fast_end(&speeds, margin.max(APART).max(ERRORS * stats::median(&errors))) {
        let last = fast.iter().copied().fold(f64::INFINITY, f64::min);
        let who = (0..speeds.len()).filter(|i| speeds[*i] < last * (1.0 - margin)).collect();
        return Some(Slow { usual: stats::median(&fast), who });
    }
    let mut order: Vec<usize> = (0..readings.len()).collect();
    order.sort_by(|a, b| readings[*b].value.total_cmp(&readings[*a].value));
    let all: Vec<f64> = readings.iter().map(|r| r.value.ln()).collect();
    let whole = stats::summary(&all)?;
    let top = whole.median + WILD * (MAD_SCALE * whole.mad).max(PRIOR);
    // From the middle of all: sums of squares of small numbers lose nothing.
    let logs: Vec<f64> = order.iter().map(|i| all[*i].min(top) - whole.median).collect();
    let (mut sums, mut squares) = (vec![0.0; logs.len() + 1], vec![0.0; logs.len() + 1]);
    for (i, x) in logs.iter().enumerate() {
        sums[i + 1] = sums[i] + x;
        squares[i + 1] = squares[i] + x * x;
    }
    let middle = |kept: usize| (logs[(kept - 1) / 2] + logs[kept / 2]) / 2.0;
    let beyond = -(1.0 - margin).ln();
    for count in (1..=logs.len() / 2).rev() {
        let kept = logs.len() - count;
        let centre = middle(kept);
        if centre - logs[kept] <= beyond {
            continue;
        }
        let around = (squares[kept] - 2.0 * centre * sums[kept] + kept as f64 * centre * centre).max(0.0);
        let freedom = PRIOR_WEIGHT + kept as f64 - 1.0;
        let variance = (PRIOR_WEIGHT * PRIOR * PRIOR + around) / freedom;
        let Ok(student) = StudentsT::new(0.0, 1.0, freedom) else { continue };
        // That many are slow at once is likely the less the more they are.
        let level = level * 0.5f64.powi(count.min(7) as i32 - 1);
        let sure = |place: usize| {
            let error = readings[order[place]].error;
            let t = (centre - logs[place]) / (variance * (1.0 + 1.0 / kept as f64) + error * error).sqrt();
            student.sf(t) < level
        };
        if sure(kept) {
            let who = (kept..logs.len()).filter(|p| sure(*p)).map(|p| order[p]).collect();
            return Some(Slow { usual: (centre + whole.median).exp(), who });
        }
    }
    Some(Slow { usual: (middle(logs.len()) + whole.median).exp(), who: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One false alarm in a thousand nodes of eight with twelve metrics.
    const LEVEL: f64 = 1e-5;
    const MARGIN: f64 = 0.04;

    fn who(speeds: &[f64]) -> Vec<usize> {
        let readings: Vec<Speed> = speeds.iter().map(|s| Speed { value: *s, error: 0.003 }).collect();
        let mut who = slow(&readings, LEVEL, MARGIN).map(|s| s.who).unwrap_or_default();
        who.sort_unstable();
        who
    }

    fn gauss(rng: &mut fastrand::Rng) -> f64 {
        (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
    }

    /// `count` parts whose range of eight is `spread` on average, the first `slow` of them at `left`.
    fn parts(rng: &mut fastrand::Rng, count: usize, spread: f64, slow: usize, left: f64) -> Vec<f64> {
        let one = |i: usize, rng: &mut fastrand::Rng| {
            let healthy = 1.0 + spread / 2.85 * gauss(rng) + 0.003 * gauss(rng);
            750.0 * healthy * if i < slow { left } else { 1.0 }
        };
        (0..count).map(|i| one(i, rng)).collect()
    }

    #[test]
    fn the_slow_one_is_named_among_few_and_many() {
        assert_eq!(who(&[700., 702., 698., 701., 699., 703., 697., 659.]), [7]);
        assert_eq!(who(&[700., 702., 698., 701., 699., 703., 697., 680.]), [0; 0]);
        assert_eq!(who(&[700., 702., 698., 600.]), [3]);
        let mut many = vec![700.0; 63];
        many.push(658.0);
        assert_eq!(who(&many), [63]);
    }

    #[test]
    fn several_do_not_hide_each_other_and_half_may_be_slow() {
        assert_eq!(who(&[700., 702., 698., 701., 699., 703., 640., 590.]), [6, 7]);
        assert_eq!(who(&[700., 702., 590., 588., 699., 703., 592., 590.]), [2, 3, 6, 7]);
    }

    #[test]
    fn one_that_is_much_faster_hides_nobody() {
        assert_eq!(who(&[700., 702., 698., 701., 699., 1400., 697., 640.]), [7]);
    }

    #[test]
    fn a_reading_that_is_itself_unsure_names_nobody() {
        let mut readings = vec![Speed { value: 700.0, error: 0.002 }; 7];
        readings.push(Speed { value: 640.0, error: 0.05 });
        assert_eq!(slow(&readings, LEVEL, MARGIN).map(|s| s.who), Some(vec![]));
        readings[7].error = 0.002;
        assert_eq!(slow(&readings, LEVEL, MARGIN).map(|s| s.who), Some(vec![7]));
    }

    #[test]
    fn nothing_and_no_numbers_have_no_answer() {
        let with = |value| slow(&[Speed { value, error: 0.0 }; 4], LEVEL, MARGIN);
        assert_eq!(slow(&[], LEVEL, MARGIN), None);
        assert_eq!((with(0.0), with(f64::NAN), with(f64::INFINITY)), (None, None, None));
        assert_eq!(with(5.0).map(|s| (s.usual.round(), s.who)), Some((5.0, vec![])));
    }

    /// Twelve thousand healthy nodes of eight whose GPUs lie within 1 to 3 % of each other: one thousand nodes with twelve metrics.
    #[test]
    fn healthy_parts_are_not_accused() {
        let mut rng = fastrand::Rng::with_seed(20);
        for i in 0..12_000 {
            let spread = 0.01 + 0.02 * f64::from(i % 21) / 20.0;
            let speeds = parts(&mut rng, 8, spread, 0, 1.0);
            assert_eq!(who(&speeds), [0; 0], "{spread} {speeds:?}");
        }
        for _ in 0..1_000 {
            assert_eq!(who(&parts(&mut rng, 64, 0.03, 0, 1.0)), [0; 0]);
        }
    }

    #[test]
    fn six_percent_among_eight_and_among_64_is_named() {
        let mut rng = fastrand::Rng::with_seed(6);
        let mut share = |count, spread, slow: usize, left| {
            let expected: Vec<usize> = (0..slow).collect();
            (0..500).filter(|_| who(&parts(&mut rng, count, spread, slow, left)) == expected).count() as f64 / 500.0
        };
        // Where the GPUs lie within 1 % of each other; where they lie within 3 %, it takes more of them, or more of a fault.
        assert!(share(8, 0.01, 1, 0.94) > 0.98);
        assert!(share(64, 0.01, 1, 0.94) > 0.99);
        assert!(share(64, 0.03, 1, 0.94) > 0.75);
        assert!(share(8, 0.03, 1, 0.90) > 0.98);
        assert!(share(8, 0.03, 2, 0.84) > 0.98);
        assert!(share(8, 0.03, 4, 0.84) > 0.98);
    }

    #[test]
    fn more_than_half_may_be_slow_where_the_others_stand_apart() {
        assert_eq!(who(&[700., 702., 590., 588., 589., 591., 592., 590.]), [2, 3, 4, 5, 6, 7]);
        let (mut most, mut one) = (vec![420.0; 14], vec![420.0; 15]);
        most.extend([700.0, 704.0]);
        one.push(700.0);
        assert_eq!(who(&most), (0..14).collect::<Vec<_>>());
        // One that is faster is something else; so are two that are a little so, or that are not alike.
        assert_eq!(who(&one), [0; 0]);
        assert_eq!(who(&[640., 642., 590., 588., 589., 591., 592., 590.]), [0; 0]);
        assert_eq!(fast_end(&[900., 702., 590., 588., 589., 591., 592., 590.], 0.1), None);
        assert_eq!(fast_end(&[], 0.1), None);
        assert_eq!(fast_end(&[1.0, 2.0], 0.1), None);
    }

    proptest::proptest! {
        #[test]
        fn who_is_slow_is_beyond_the_margin_and_some_are_not(speeds in proptest::collection::vec(1e-3f64..1e3, 1..80)) {
            let readings: Vec<Speed> = speeds.iter().map(|s| Speed { value: *s, error: 0.0 }).collect();
            let found = slow(&readings, LEVEL, MARGIN);
            let holds = found.is_some_and(|f| {
                f.who.len() <= speeds.len() - speeds.len().div_ceil(FEW_WELL) && f.who.iter().all(|i| f.loss(speeds[*i]) > MARGIN * 0.999)
            });
            proptest::prop_assert!(holds);
        }
    }
}
