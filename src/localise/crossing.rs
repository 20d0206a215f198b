//! Which uplinks were busy when: others' traffic slows whatever crosses a leaf's uplinks at that moment.

use std::collections::HashMap;

use crate::localise::Hop;
use crate::localise::observed::Observed;

/// A leaf's uplinks are somebody else's while at least so many of the other tests over them are slow: one in so many.
const ONE_IN: u32 = 4;

/// Tests across leaves, by round and leaf: how many there are, and how many of them are slow.
pub(super) struct Crossing<'l> {
    leaf: &'l [u32],
    tests: HashMap<(u32, u32), (u32, u32)>,
}

impl<'l> Crossing<'l> {
    /// `slow` says which tests are, beyond what a node explains.
    pub fn new(leaf: &'l [u32], tests: &[Observed], slow: impl Fn(&Observed) -> bool) -> Self {
        let mut out = Crossing { leaf, tests: HashMap::new() };
        for o in tests.iter().filter(|o| o.hop == Hop::Inter) {
            for n in o.ends {
                let (all, bad) = out.tests.entry((o.round, leaf[n as usize])).or_default();
                (*all, *bad) = (*all + 1, *bad + u32::from(slow(o)));
            }
        }
        out
    }

    /// Whether a slow test may be slow by its way: other tests of its round over the same uplinks are slow, too, or there is none.
    pub fn may_be_why(&self, o: &Observed) -> bool {
        let busy = |n: &u32| {
            let (all, bad) = self.tests.get(&(o.round, self.leaf[*n as usize])).copied().unwrap_or_default();
            let (all, bad) = (all.saturating_sub(1), bad.saturating_sub(1));
            all == 0 || bad > 0 && ONE_IN * bad >= all
        };
        o.hop == Hop::Inter && o.ends.iter().any(busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(round: u32, ends: [u32; 2], hop: Hop, lost: f64) -> Observed {
        Observed {
            ends,
            round,
            quiet: false,
            hop,
            reference: 0.0,
            residual: [Some(-lost); 2],
            excused: [0.0; 2],
            deviation: [0.02; 2],
            floor: [0.0; 2],
            hidden: 0.0,
            disturbed: 0.03,
            explained: 0.0,
        }
    }

    #[test]
    fn a_leaf_whose_other_tests_are_slow_may_be_why() {
        // Leaves of four: in round 0 two tests of leaf 0 are slow, in round 1 one is.
        let leaf: Vec<u32> = (0..12).map(|n| n / 4).collect();
        let inter = |round, a, b, lost| test(round, [a, b], Hop::Inter, lost);
        let tests = [
            inter(0, 0, 4, 0.5),
            inter(0, 1, 8, 0.5),
            inter(0, 5, 9, 0.0),
            inter(1, 0, 5, 0.5),
            inter(1, 1, 8, 0.0),
            inter(1, 6, 9, 0.0),
            test(2, [0, 1], Hop::Intra, 0.5),
            inter(3, 0, 8, 0.5),
        ];
        let crossing = Crossing::new(&leaf, &tests, |o| o.is_slow(0, 0.0));
        let why: Vec<bool> = tests.iter().map(|o| crossing.may_be_why(o)).collect();
        assert_eq!((why[0], why[1], why[3]), (true, true, false));
        assert_eq!((why[6], why[7]), (false, true), "no uplink is in it; and nobody else crossed");
    }
}
