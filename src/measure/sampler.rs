//! Warm-up, blocks, a stop rule and a budget: the one loop that every probe times with.

use std::time::{Duration, Instant};

use crate::measure::stats;

/// How to sample.
#[derive(Debug, Clone, Copy)]
pub struct Sampler {
    /// Iterations before the first that counts.
    pub warmup: u32,
    pub min_blocks: usize,
    pub max_blocks: usize,
    /// Stop when this much time has gone, once `min_blocks` are there.
    pub budget: Duration,
    /// Stop when the interval of the median is narrower than this share of it.
    pub precision: f64,
}

/// Time that went by, and time that this process spent on cores meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub fn start() -> Self {
        Stopwatch { wall: Instant::now(), cpu: on_cores() }
    }

    /// Seconds since the start, and the cores that all threads together were on.
    pub fn read(&self) -> (f64, f64) {
        let (wall, cpu) = (self.wall.elapsed().as_secs_f64(), on_cores().saturating_sub(self.cpu).as_secs_f64());
        (wall, cpu / wall.max(1e-9))
    }
}

fn on_cores() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec as u32)
}

/// Blocks of one metric.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// Seconds per iteration, one value a block.
    pub seconds: Vec<f64>,
    /// Cores that this process was on in each block: a block whose threads waited for one has less than their number.
    pub cores: Vec<f64>,
    /// Iterations in a block.
    pub block: u64,
}

impl Samples {
    /// Work per iteration -> work per second.
    pub fn rates(&self, work: f64) -> Vec<f64> {
        self.seconds.iter().map(|s| work / s).collect()
    }
}

impl Sampler {
    /// Enough blocks for an interval, and about `budget` of time.
    pub fn new(budget: Duration) -> Self {
        Sampler { warmup: 1, min_blocks: 8, max_blocks: 64, budget, precision: 0.01 }
    }

    /// Whether to stop with these blocks.
    pub fn enough(&self, seconds: &[f64], started: Instant) -> bool {
        if seconds.len() < self.min_blocks {
            // A budget overdrawn threefold ends it also with too few blocks: the judge will say so.
            return started.elapsed() > self.budget * 3 && !seconds.is_empty();
        }
        if seconds.len() >= self.max_blocks || started.elapsed() > self.budget {
            return true;
        }
        let narrow = |s: stats::Summary| s.interval.is_some_and(|(lo, hi)| hi - lo <= self.precision * s.median);
        seconds.len() >= self.min_blocks * 2 && stats::summary(seconds).is_some_and(narrow)
    }

    /// Times `run` in blocks of as many iterations as make about a thirtieth of the budget, at least one.
    pub fn run<E>(&self, mut run: impl FnMut() -> Result<(), E>) -> Result<Samples, E> {
        let mut longest = Duration::ZERO;
        for _ in 0..self.warmup.max(1) {
            let start = Instant::now();
            run()?;
            longest = start.elapsed();
        }
        let target = self.budget.as_secs_f64() / 30.0;
        let block = (target / longest.as_secs_f64().max(1e-9)).floor().clamp(1.0, 1e6) as u64;
        let mut out = Samples { block, ..Samples::default() };
        let started = Instant::now();
        while !self.enough(&out.seconds, started) {
            let start = Stopwatch::start();
            for _ in 0..block {
                run()?;
            }
            let (seconds, cores) = start.read();
            out.seconds.push(seconds / block as f64);
            out.cores.push(cores);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_at_the_budget_with_enough_blocks() {
        let sampler = Sampler { max_blocks: 1000, precision: 0.0, ..Sampler::new(Duration::from_millis(30)) };
        let samples = sampler.run(|| {
            std::thread::sleep(Duration::from_millis(1));
            Ok::<(), ()>(())
        });
        let n = samples.map(|s| s.seconds.len()).unwrap_or(0);
        assert!((8..=30).contains(&n), "{n}");
    }

    #[test]
    fn an_error_ends_it() {
        let mut left = 5;
        let result = Sampler::new(Duration::from_secs(9)).run(|| {
            left -= 1;
            if left == 0 { Err("broken") } else { Ok(()) }
        });
        assert_eq!(result, Err("broken"));
    }
}
