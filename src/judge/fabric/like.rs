//! What nearly all of a kind are.

use std::collections::HashMap;

/// A kind of link is uniform when this share of it has one rate.
pub(super) const UNIFORM: f64 = 0.75;
/// Fewer of a kind tell nothing.
pub(super) const FEW: usize = 4;

/// The most frequent value, and how often.
pub(super) fn most<'a, T: Eq + std::hash::Hash + 'a>(values: impl Iterator<Item = &'a T>) -> Option<(&'a T, usize)> {
    let mut counts: HashMap<&T, usize> = HashMap::new();
    for v in values {
        *counts.entry(v).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, n)| *n)
}

/// More links than this that are slow in the same way are told in one.
pub(super) const ALIKE: usize = 32;
/// So many are named of many: evidence is a line.
const NAMED: usize = 4;

/// The first of many names.
pub(super) fn listed(names: &[String]) -> String {
    match names.len() {
        0..=NAMED => names.join("; "),
        _ => format!("the first are {}", names[..NAMED].join("; ")),
    }
}
