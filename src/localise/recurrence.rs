//! Nodes that come and go: how well a node's slow tests fit a fault that shows now and then, beside others' traffic.

use crate::localise::chance::{Lost, among, no_fault};
use crate::localise::observed::Observed;

/// Share of nodes that come and go before anything is known, by the share of directions in which they are slow then; among more nodes
/// than so many there are no more of them: of ten thousand, chance makes any pattern once.
const GOES: [(f64, f64); 2] = [(0.5, 1.5e-3), (0.2, 5e-4)];
const FEW: usize = 64;
/// How often the two directions of a test, which follow on each other, are hit or spared together; else each has its own luck.
const TOGETHER: f64 = 0.5;
/// Share of disturbed tests of which others' traffic slows one direction only.
const ONE_WAY: f64 = 0.2;

/// A node's test, as far as nobody else explains what is slow in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub quiet: bool,
    /// How often others' traffic disturbs such a test.
    disturbed: f64,
    lost: Lost,
    /// How many of its directions are slow, and whether a slow node would have been seen in it at all.
    slow: usize,
    seen: bool,
}

impl Shown {
    pub fn new(o: &Observed) -> Self {
        Shown { quiet: o.quiet, disturbed: o.disturbed, lost: o.lost(), slow: 0, seen: false }
    }

    /// One of its directions: whether it is slow beyond what others explain, and whether a slow node would have been seen in it.
    pub fn add(&mut self, slow: bool, seen: bool) {
        self.slow += usize::from(slow);
        self.seen |= slow || seen;
    }

    pub fn is_slow(&self) -> bool {
        self.slow > 0
    }

    /// How likely a node makes it that is slow in `duty` of its directions.
    fn by_fault(&self, duty: f64) -> f64 {
        let idle = 1.0 - duty;
        let mixed = |together: f64, apart: f64| TOGETHER * together + (1.0 - TOGETHER) * apart;
        match self.slow {
            0 if !self.seen => 1.0,
            0 => mixed(idle, idle * idle),
            1 => mixed(0.0, 2.0 * duty * idle),
            _ => mixed(duty, duty * duty),
        }
    }

    /// How likely others' traffic makes it, and how likely noise does.
    fn by_chance(&self) -> (f64, f64) {
        let noise = self.lost.by_noise();
        match self.slow {
            0 if !self.seen => (1.0, 0.0),
            0 => (1.0 - self.disturbed, 0.0),
            1 => (ONE_WAY * self.disturbed, 2.0 * noise),
            _ => ((1.0 - ONE_WAY) * self.disturbed, noise * noise),
        }
    }
}

/// How likely others' traffic and noise make a node's slow tests, for the likeliest of so many nodes.
pub(super) fn coincidence<'t>(slow: impl Iterator<Item = &'t Shown>, nodes: usize) -> f64 {
    slow.map(|t| t.disturbed + 2.0 * t.lost.by_noise()).product::<f64>() / among(FEW, nodes)
}

/// How likely a node with these tests comes and goes, of so many nodes.
pub(super) fn probability<'t>(tests: impl Iterator<Item = &'t Shown> + Clone, nodes: usize) -> f64 {
    let lost: Vec<Lost> = tests.clone().filter(|t| t.is_slow()).map(|t| t.lost).collect();
    if lost.is_empty() {
        return 0.0;
    }
    let goes = |(duty, share): (f64, f64)| share * tests.clone().map(|t| t.by_fault(duty)).product::<f64>();
    // All of a node's tests are looked at, not those that noise made the slowest.
    let chance = no_fault(tests.clone().map(Shown::by_chance), &lost, nodes, nodes);
    let odds = GOES.into_iter().map(goes).sum::<f64>() / chance * among(FEW, nodes);
    odds / (1.0 + odds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(slow: usize, lost: f64, quiet: bool) -> Shown {
        let (disturbed, lost) = (if quiet { 0.005 } else { 0.03 }, Lost { by: lost, deviation: 0.02 });
        Shown { quiet, disturbed, lost, slow, seen: true }
    }

    fn likely(tests: &[Shown], nodes: usize) -> f64 {
        probability(tests.iter(), nodes)
    }

    #[test]
    fn what_is_slow_again_by_the_same_comes_and_goes() {
        let well = [shown(0, 0.0, false), shown(0, 0.0, true), shown(0, 0.0, true)];
        let slow = |losses: [f64; 3]| {
            let again = [shown(2, losses[0], false), shown(2, losses[1], false), shown(1, losses[2], true)];
            [&again[..], &well].concat()
        };
        assert!(likely(&slow([0.69, 0.7, 0.71]), 64) > 0.8);
        // Others' traffic takes something else each time.
        assert!(likely(&slow([0.3, 0.9, 0.6]), 64) < 0.3);
        // And chance makes any pattern once among very many.
        assert!(likely(&slow([0.69, 0.7, 0.71]), 64) > 2.0 * likely(&slow([0.69, 0.7, 0.71]), 10_000));
        assert!(likely(&[&[shown(2, 0.7, false)], &well[..]].concat(), 64) < 0.05);
        assert_eq!(likely(&well, 64), 0.0);
    }

    #[test]
    fn a_test_in_which_nobody_would_be_seen_says_nothing() {
        let slow = [shown(2, 0.7, false), shown(1, 0.7, true)];
        let hidden = Shown { seen: false, ..shown(0, 0.0, true) };
        assert_eq!(likely(&[&slow[..], &[hidden; 3]].concat(), 8), likely(&slow, 8));
        assert!(likely(&[&slow[..], &[shown(0, 0.0, true); 3]].concat(), 8) < likely(&slow, 8));
    }
}
