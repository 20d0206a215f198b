//! The yardstick: what the monotonic clock can tell apart.

use std::time::Instant;

/// The smallest step seen between two readings of the clock, in seconds: an interval near it says nothing.
pub fn resolution() -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..1000 {
        let start = Instant::now();
        let mut step = start.elapsed();
        while step.is_zero() {
            step = start.elapsed();
        }
        best = best.min(step.as_secs_f64());
    }
    best
}
