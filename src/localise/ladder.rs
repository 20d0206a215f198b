//! What shows only at scale: collectives over groups of a doubling size, those of one size held against each other.

use crate::measure::stats;

/// A group's collective.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub nodes: Vec<u32>,
    /// Bytes per second; `None` where it failed.
    pub busbw: Option<f64>,
}

/// Groups of one size that are much slower than the others of that size, and their share of the median.
pub fn scale_suspects(level: &[Group], margin: f64) -> Vec<(usize, f64)> {
    let rates: Vec<f64> = level.iter().filter_map(|g| g.busbw).collect();
    if rates.len() < 3 {
        return Vec::new();
    }
    let reference = stats::median(&rates);
    let deviations: Vec<f64> = rates.iter().map(|v| (v - reference).abs()).collect();
    let spread = 1.4826 * stats::median(&deviations) / reference;
    let least = (1.0 - (5.0 * spread).max(margin)).max(0.4);
    level
        .iter()
        .enumerate()
        .filter_map(|(i, g)| {
            let share = g.busbw.unwrap_or(0.0) / reference;
            (share < least).then_some((i, share))
        })
        .collect()
}
