//! How often to save. Times in seconds.
//!
//! J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, FGCS 22 (2006).

/// What a failure and a save cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// Between failures, the mean of an exponential distribution.
    pub mtbf: f64,
    /// What a save blocks.
    pub save: f64,
    /// From a failure until the run computes again.
    pub restart: f64,
}

/// The best time of computing between two saves.
pub fn best_interval(c: Costs) -> f64 {
    if c.save >= 2.0 * c.mtbf {
        return c.mtbf;
    }
    let ratio = c.save / (2.0 * c.mtbf);
    (2.0 * c.save * c.mtbf).sqrt() * (1.0 + ratio.sqrt() / 3.0 + ratio / 9.0) - c.save
}

/// Wall time of `work` seconds of computing with a save after every `interval` of it; endless where failures come faster than saves.
pub fn wall_time(work: f64, interval: f64, c: Costs) -> f64 {
    c.mtbf * (c.restart / c.mtbf).exp() * ((interval + c.save) / c.mtbf).exp_m1() * work / interval
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 3600.0;

    fn young(c: Costs) -> f64 {
        (2.0 * c.save * c.mtbf).sqrt()
    }

    /// Known answers: Daly's own figures, with a save of five minutes.
    #[test]
    fn dalys_own_figures() {
        for (mtbf_h, want) in [(24.0, 116.69), (6.0, 56.71)] {
            let c = Costs { mtbf: mtbf_h * HOUR, save: 5.0 * MINUTE, restart: 0.0 };
            let got = best_interval(c) / MINUTE;
            assert!((got - want).abs() < 0.005, "{got}");
        }
    }

    /// Known answers: a cluster like that of Llama 3, at Young's interval.
    #[test]
    fn effective_time_of_a_run_like_llama_3() {
        for (save, interval, want) in [(30.0, 817.0, 0.8797), (60.0, 1156.0, 0.8525), (300.0, 2585.0, 0.7438)] {
            let c = Costs { mtbf: 3.093 * HOUR, save, restart: 600.0 };
            assert!((young(c) - interval).abs() < 1.0);
            let got = 1.0 / wall_time(1.0, young(c), c);
            assert!((got - want).abs() < 1e-4, "{got}");
            // Daly's is no worse.
            assert!(1.0 / wall_time(1.0, best_interval(c), c) >= got);
        }
    }

    /// Known answers: 42.746 days of work on 509 nodes, a save of 30 s, a restart of 10 min.
    #[test]
    fn the_worked_plan() {
        let days = 86_400.0;
        for (rate, mtbf_h, interval, best, every_3_h) in [
            (2.34e-3, 20.15, 34.8, (0.9635, 44.37), (0.917, 46.6)),
            (3.79e-3, 12.45, 27.3, (0.9510, 44.95), (0.870, 49.1)),
        ] {
            let c = Costs { mtbf: days / (509.0 * rate), save: 30.0, restart: 600.0 };
            assert!((c.mtbf / HOUR - mtbf_h).abs() < 0.011);
            assert!((young(c) / MINUTE - interval).abs() < 0.05);
            for (tau, (share, wall), digits) in [(young(c), best, 5e-5), (3.0 * HOUR, every_3_h, 5e-4)] {
                let got = wall_time(42.746 * days, tau, c) / days;
                assert!((42.746 / got - share).abs() < digits, "{}", 42.746 / got);
                assert!((got - wall).abs() < if tau > HOUR { 0.05 } else { 0.006 }, "{got}");
            }
        }
    }

    /// One run, failure by failure: a segment is computing and a save, and is begun anew after a failure and a restart.
    fn simulated(work: f64, interval: f64, c: Costs, rng: &mut fastrand::Rng) -> f64 {
        let (mut wall, mut done) = (0.0, 0.0);
        let mut failure = -c.mtbf * (1.0 - rng.f64()).ln();
        let mut spend = |seconds: f64, wall: &mut f64, rng: &mut fastrand::Rng| {
            if failure > seconds {
                failure -= seconds;
                *wall += seconds;
                return true;
            }
            *wall += failure;
            failure = -c.mtbf * (1.0 - rng.f64()).ln();
            false
        };
        while done < work {
            let segment = interval.min(work - done) + c.save;
            if spend(segment, &mut wall, rng) {
                done += interval;
                continue;
            }
            while !spend(c.restart, &mut wall, rng) {}
        }
        wall
    }

    /// Over 500 plans the formula is within 1 % of what happens; GONOGO_RUNS=10000 for as many runs of each.
    #[test]
    fn monte_carlo_agrees() {
        let runs: u32 = std::env::var("GONOGO_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
        let mut rng = fastrand::Rng::with_seed(4);
        for plan in 0..500 {
            let mtbf = HOUR * 10f64.powf(rng.f64() * 2.0);
            let save = 5.0 * 10f64.powf(rng.f64() * 1.5);
            let c = Costs { mtbf, save, restart: 60.0 + 1200.0 * rng.f64() };
            let interval = best_interval(c) * 2f64.powf(2.0 * rng.f64() - 1.0);
            // Whole segments: what is left of one is saved as a whole in the formula.
            let work = interval * (40.0 * mtbf / interval).ceil();
            let expected = wall_time(work, interval, c);
            let all: Vec<f64> = (0..runs).map(|_| simulated(work, interval, c, &mut rng)).collect();
            let mean = all.iter().sum::<f64>() / f64::from(runs);
            let variance = all.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / f64::from(runs);
            let error = 4.5 * (variance / f64::from(runs)).sqrt();
            // Each restart that itself fails begins anew: the formula counts it once more.
            assert!((mean - expected).abs() < 0.01 * expected + error, "plan {plan}: {mean} and {expected}, {c:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn more_failures_and_dearer_saves_never_help(
            mtbf in 600f64..1e7, save in 1f64..1000.0, restart in 0f64..3600.0, more in 1f64..4.0,
        ) {
            let c = Costs { mtbf, save, restart };
            let best_wall = |c: Costs| wall_time(1.0, best_interval(c), c);
            let least = best_wall(c) * (1.0 - 1e-3);
            let (frequent, dear) = (Costs { mtbf: mtbf / more, ..c }, Costs { save: save * more, ..c });
            proptest::prop_assert!(best_wall(frequent) >= least && best_wall(dear) >= least);
            proptest::prop_assert!(best_interval(c) > 0.0);
        }
    }
}
