//! Own times of ranks that do the same at the same time -> who stays behind, and by how much.
//!
//! A rank's time for its own products does not depend on others, so that no belief has to travel: it is held against the upper mode of
//! all. Each rank gives two readings, the middles of its odd and of its even rounds: what the two differ by is noise, whoever is slow.

use statrs::distribution::{Binomial, DiscreteCDF};

use crate::localise::reference::{self, Mode};
use crate::localise::verdict::{Deficit, share};
use crate::measure::stats;

/// Rounds that make two halves of three.
const ROUNDS: usize = 6;
/// The least deficit that is told, in the logarithm (2.5 %), and that in deviations of a half: five of a whole, whose middle scatters
/// by 1.4 times less. Of 32 ranks one is accused by chance once in 100,000 runs.
const LEAST: f64 = 0.0253;
const DEVIATIONS: f64 = 3.3;
/// The same of few ranks, which show little of how much healthy ones differ (7 %).
const LEAST_FEW: f64 = 0.0726;
const FEW: usize = 8;
/// The same where ranks share a machine, whose cores the scheduler gives out as it likes: five on one core and three on the other, and
/// each of the five stays 40 % behind (a half).
const LEAST_SHARED: f64 = std::f64::consts::LN_2;
/// A rank is slow in more rounds than the others by chance less likely than this.
const CHANCE: f64 = 1e-7;
/// Of a normal distribution, both sides.
const SURE: f64 = 1.96;

/// A rank that stays behind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Late {
    pub rank: usize,
    /// Of its speed.
    pub deficit: Deficit,
    /// Seconds: its own median, and what it is held against.
    pub seconds: f64,
    pub usual: f64,
    /// Where it comes and goes: rounds in which it shows, of all. Its deficit is then that of its mean, as others wait for that.
    pub comes: Option<(usize, usize)>,
}

/// What all ranks' times show.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ranks {
    /// The worst first.
    pub late: Vec<Late>,
    /// Ranks that were slow in one half of their rounds.
    pub open: Vec<Late>,
}

/// Who of the ranks is late, by `seconds[rank][round]`; `None` where rounds or ranks are too few to say, or times are no times.
pub fn late(seconds: &[&[f64]], one_machine: bool) -> Option<Ranks> {
    let rounds = seconds.iter().map(|s| s.len()).min()?;
    let is_time = |s: &f64| s.is_finite() && *s > 0.0;
    if seconds.len() < 2 || rounds < ROUNDS || !seconds.iter().all(|s| s.iter().all(is_time)) {
        return None;
    }
    // What slows all for a round slows none of them beside the others.
    let of_round: Vec<f64> =
        (0..rounds).map(|i| stats::median(&seconds.iter().map(|s| s[i]).collect::<Vec<f64>>()).ln()).collect();
    let half = |s: &[f64], odd: usize| {
        let speeds: Vec<f64> = (odd..rounds).step_by(2).map(|i| of_round[i] - s[i].ln()).collect();
        middle(speeds)
    };
    let halves: Vec<[f64; 2]> = seconds.iter().map(|s| [half(s, 0), half(s, 1)]).collect();
    let noise = reference::deviation(&halves.iter().map(|[a, b]| a - b).collect::<Vec<f64>>())?;
    let noise = if seconds.len() < FEW { noise.max(scatter(seconds, &of_round)) } else { noise };
    let tests: Vec<[Option<f64>; 2]> = halves.iter().map(|h| h.map(Some)).collect();
    let Mode { at, deviation, .. } = reference::upper_mode(&tests, noise)?;
    let least = match seconds.len() {
        _ if one_machine => LEAST_SHARED,
        n if n < FEW => LEAST_FEW,
        _ => LEAST,
    };
    let least = least.max(DEVIATIONS * deviation);
    let usual = (stats::median(&of_round) - at).exp();
    let mut out = Ranks::default();
    // Rounds in which each stays behind by as much, whatever it does in the others.
    let behind = |s: &[f64]| (0..rounds).map(|i| at - (of_round[i] - s[i].ln())).collect::<Vec<f64>>();
    let slow_rounds: Vec<usize> = seconds.iter().map(|s| behind(s).iter().filter(|l| **l > least).count()).collect();
    for (rank, [odd, even]) in halves.iter().enumerate() {
        let [a, b] = [at - odd, at - even];
        let around = SURE * deviation / std::f64::consts::SQRT_2;
        let of = |loss: f64, around: f64, comes| {
            let deficit = Deficit { share: share(loss), low: share(loss - around), high: share(loss + around) };
            Late { rank, deficit, seconds: usual * loss.exp(), usual, comes }
        };
        let steady = of((a + b) / 2.0, around, None);
        // Slow in both halves, and early as well as late, or there is nothing that another look would show again.
        let own = behind(seconds[rank]);
        let (early, late) = own.split_at(rounds / 2);
        let lasts = [early, late].iter().all(|part| stats::median(part) > least / 2.0);
        if a.min(b) > least / 2.0 && a + b >= 2.0 * least && lasts {
            out.late.push(steady);
            continue;
        }
        let lost: Vec<f64> = own.iter().map(|l| l.exp()).collect();
        let mean = lost.iter().sum::<f64>() / rounds as f64;
        let scatter = (lost.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (rounds * rounds) as f64).sqrt();
        let others = slow_rounds.iter().sum::<usize>() - slow_rounds[rank];
        let often = (others as f64 + 1.0) / ((seconds.len() - 1) * rounds + 1) as f64;
        if mean.ln() >= least && by_chance(slow_rounds[rank], rounds, often) < CHANCE {
            out.late.push(of(mean.ln(), SURE * scatter / mean, Some((slow_rounds[rank], rounds))));
        } else if a.max(b) > 2.0 * least || a + b >= 2.0 * least {
            out.open.push(steady);
        }
    }
    out.late.sort_by(|a, b| b.deficit.share.total_cmp(&a.deficit.share));
    Some(out)
}

/// How the middle of half of the rounds scatters, by how the rounds of each rank do.
fn scatter(seconds: &[&[f64]], of_round: &[f64]) -> f64 {
    let own = |s: &&[f64]| {
        let speeds: Vec<f64> = of_round.iter().zip(s.iter()).map(|(r, s)| r - s.ln()).collect();
        stats::robust(&speeds).map_or(0.0, |(_, deviation)| deviation)
    };
    // A median scatters 1.25 times as much as a mean.
    let all: Vec<f64> = seconds.iter().map(own).collect();
    1.25 * stats::median(&all) / (of_round.len() as f64 / 2.0).sqrt()
}

/// How likely `slow` rounds or more of `rounds` are, where each is slow with a probability of `often`.
fn by_chance(slow: usize, rounds: usize, often: f64) -> f64 {
    let Ok(chance) = Binomial::new(often.min(1.0), rounds as u64) else { return 1.0 };
    if slow == 0 { 1.0 } else { chance.sf(slow as u64 - 1) }
}

/// The mean of the middle quarter: as deaf to a few odd rounds as the median, and it scatters less.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let cut = values.len() * 3 / 8;
    let of = &values[cut..values.len() - cut];
    of.iter().sum::<f64>() / of.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauss(rng: &mut fastrand::Rng) -> f64 {
        (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
    }

    /// `slow[rank]` is the share of its speed that a rank loses; one round in twenty takes up to a fifth longer by what the system does.
    fn rounds(slow: &[f64], noise: f64, rounds: usize, seed: u64) -> Vec<Vec<f64>> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let one = |lost: &f64| {
            let mut time = || {
                let stolen = if rng.f64() < 0.05 { 0.2 * rng.f64() } else { 0.0 };
                0.1 / (1.0 - lost) * (1.0 + noise * gauss(&mut rng)) * (1.0 + stolen)
            };
            (0..rounds).map(|_| time()).collect()
        };
        slow.iter().map(one).collect()
    }

    fn named(times: &[Vec<f64>]) -> Vec<usize> {
        let times: Vec<&[f64]> = times.iter().map(Vec::as_slice).collect();
        late(&times, false).map(|r| r.late.iter().map(|l| l.rank).collect()).unwrap_or_default()
    }

    /// Megatron-LM's rule (`gpu_sniff_test.py`): slower than the mean by one deviation and by a tenth.
    fn by_megatron(times: &[Vec<f64>]) -> Vec<usize> {
        let means: Vec<f64> = times.iter().map(|t| t.iter().sum::<f64>() / t.len() as f64).collect();
        let n = means.len() as f64;
        let mean = means.iter().sum::<f64>() / n;
        let deviation = (means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / n).sqrt();
        (0..means.len()).filter(|r| means[*r] > mean + deviation && means[*r] > 1.1 * mean).collect()
    }

    /// The rule, and Megatron-LM's on the same samples: one rank of 32 that computes 4 % more slowly, and nobody.
    #[test]
    fn one_rank_of_32_that_computes_4_percent_more_slowly_is_named() {
        for (noise, of) in [(0.005, 12), (0.01, 12), (0.02, 24)] {
            let (mut found, mut peer, mut wrong) = (0, 0, 0);
            for seed in 0..1000 {
                let mut slow = [0.0; 32];
                slow[seed as usize % 32] = 0.04;
                let times = rounds(&slow, noise, of, seed);
                found += usize::from(named(&times) == [seed as usize % 32]);
                peer += usize::from(by_megatron(&times) == [seed as usize % 32]);
                wrong += named(&rounds(&[0.0; 32], noise, of, seed + 5000)).len();
            }
            println!(
                "noise {noise}: {found} of 1000 named, by Megatron-LM's rule {peer}; {wrong} of 32,000 healthy ranks accused"
            );
            assert!(found >= 990 && wrong == 0, "{noise}: {found} named, {wrong} accused");
        }
    }

    #[test]
    fn two_slow_ranks_do_not_hide_each_other_and_most_may_be_slow() {
        for seed in 0..50 {
            let mut slow = [0.0; 16];
            (slow[3], slow[9]) = (0.3, 0.05);
            assert_eq!(named(&rounds(&slow, 0.01, 12, seed)), [3, 9], "{seed}");
            let mut most = [0.2; 8];
            (most[1], most[6]) = (0.0, 0.0);
            let mut all = named(&rounds(&most, 0.01, 12, seed));
            all.sort_unstable();
            assert_eq!(all, [0, 2, 3, 4, 5, 7], "{seed}");
            assert_eq!(named(&rounds(&[0.0, 0.2], 0.01, 12, seed)), [1], "{seed}");
            assert_eq!(named(&rounds(&[0.0, 0.0], 0.03, 12, seed)), [0usize; 0], "{seed}");
        }
    }

    /// A quota lets a rank run and stops it: what others wait for is its mean.
    #[test]
    fn a_rank_that_is_stopped_now_and_then_is_named() {
        let mut named = 0;
        for seed in 0..200 {
            let mut times = rounds(&[0.0; 8], 0.02, 48, seed);
            let mut rng = fastrand::Rng::with_seed(seed);
            times[5].iter_mut().filter(|_| rng.f64() < 0.35).for_each(|t| *t *= 8.0);
            let times: Vec<&[f64]> = times.iter().map(Vec::as_slice).collect();
            let found = late(&times, true).map(|r| r.late).unwrap_or_default();
            named += usize::from(found.len() == 1 && found[0].rank == 5);
        }
        assert!(named >= 198, "{named}");
    }

    /// What passes in the middle of the rounds is open.
    #[test]
    fn a_rank_that_is_slow_for_a_while_is_not_named() {
        let mut times = rounds(&[0.0; 16], 0.01, 24, 3);
        times[4][..15].iter_mut().for_each(|t| *t *= 1.08);
        let times: Vec<&[f64]> = times.iter().map(Vec::as_slice).collect();
        let found = late(&times, false).unwrap_or_default();
        assert!(found.late.iter().all(|l| l.comes.is_some()), "{found:?}");
        assert!(found.late.iter().chain(&found.open).any(|l| l.rank == 4), "{found:?}");
    }

    #[test]
    fn what_one_machine_shares_out_is_nobodys_fault() {
        let times = rounds(&[0.0, 0.1, 0.15, 0.02, 0.9], 0.03, 12, 1);
        let times: Vec<&[f64]> = times.iter().map(Vec::as_slice).collect();
        let shared = late(&times, true).map(|r| r.late.iter().map(|l| l.rank).collect::<Vec<usize>>());
        assert_eq!(shared, Some(vec![4]));
    }

    #[test]
    fn times_that_are_none_say_nothing() {
        assert_eq!(late(&[], false), None);
        assert_eq!(late(&[&[1.0; 12]], false), None);
        assert_eq!(late(&[&[1.0; 3], &[1.0; 3]], false), None);
        assert_eq!(late(&[&[f64::NAN; 12], &[1.0; 12]], false), None);
        assert_eq!(late(&[&[0.0; 12], &[1.0; 12]], false), None);
        assert!(late(&[&[1.0; 12], &[1.0; 12]], false).is_some_and(|r| r.late.is_empty() && r.open.is_empty()));
    }
}
