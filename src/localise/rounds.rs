//! Which pairs to measure next. Rounds cost time, tests do not: every round is as full as its purpose allows.

use std::collections::{BTreeMap, HashSet};

use crate::localise::{Hop, Pairs};
use crate::work::RoundKind;

/// Disjoint pairs, measured at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    pub kind: RoundKind,
    /// Each pair, and whether it is a control.
    pub pairs: Vec<(u32, u32, bool)>,
}

/// Rounds that look closer, at most.
const QUIET: u32 = 3;
/// Log-odds from which a node is looked at again.
const SUSPECT: f64 = -12.0;
/// Log-odds from which nothing more is to be found out.
const CERTAIN: f64 = 14.0;
/// Control pairs in a quiet round.
const CONTROLS: usize = 3;

/// The next round, or `None` when nothing is left to find out. `done` are the kinds measured so far; `seed` makes the
/// choice repeatable.
pub fn next(pairs: &Pairs, done: &[RoundKind], seed: u64) -> Option<Round> {
    let n = pairs.nodes as usize;
    if n < 2 {
        return None;
    }
    let mut rng = fastrand::Rng::with_seed(seed ^ (done.len() as u64) << 32);
    let met: HashSet<(u32, u32)> = pairs.tests.iter().map(|t| key(t.a, t.b)).collect();
    let count = |kinds: &[RoundKind]| done.iter().filter(|k| kinds.contains(k)).count() as u32;
    let full = count(&[RoundKind::Intra, RoundKind::Inter]);
    if full < pairs.full {
        // One round within leaves where leaves are known, then across.
        let leaves = pairs.leaves() > 1 && (pairs.leaves() as usize) < n;
        let kind = if full == 0 && leaves { RoundKind::Intra } else { RoundKind::Inter };
        let chosen = matching(pairs, kind, &met, &mut rng);
        if !chosen.is_empty() {
            return Some(Round { kind, pairs: chosen });
        }
    }
    let beliefs = pairs.beliefs();
    let node = |i: u32| beliefs[i as usize].log_odds.max(beliefs[(pairs.nodes + i) as usize].log_odds);
    if count(&[RoundKind::Confirm, RoundKind::Again]) < QUIET && n >= 3 {
        let looked_at: HashSet<u32> =
            pairs.tests.iter().filter(|t| t.quiet && !t.control).flat_map(|t| [t.a, t.b]).collect();
        let mut suspects: Vec<u32> = (0..pairs.nodes)
            .filter(|i| {
                let (s, r) = (&beliefs[*i as usize], &beliefs[(pairs.nodes + i) as usize]);
                // Sure enough after one quiet test is sure enough.
                let quiet = looked_at.contains(i);
                s.bad + r.bad > 0 && node(*i) > SUSPECT && !(quiet && node(*i) > CERTAIN)
            })
            .collect();
        suspects.sort_by(|a, b| node(*b).total_cmp(&node(*a)));
        suspects.truncate((n / 3).max(1));
        let mut used = HashSet::new();
        let mut chosen = Vec::new();
        let mut cleared = Vec::new();
        if !suspects.is_empty() {
            (chosen, cleared) = confirm(pairs, &suspects, &node, &met, &mut used, &mut rng);
        }
        // Pairs whose ends are cleared by now take part in the same rounds: rounds cost time, tests do not.
        let kind = if suspects.is_empty() { RoundKind::Again } else { RoundKind::Confirm };
        again(pairs, &node, &mut used, &mut chosen);
        if !chosen.is_empty() {
            if cleared.is_empty() {
                cleared = (0..pairs.nodes).filter(|i| !used.contains(i) && node(*i) < 0.0).collect();
                rng.shuffle(&mut cleared);
            }
            controls(pairs, &mut chosen, &mut used, &cleared);
            return Some(Round { kind, pairs: chosen });
        }
    }
    None
}

fn key(a: u32, b: u32) -> (u32, u32) {
    (a.min(b), a.max(b))
}

/// A random perfect matching (or one short of it) of pairs that have not met, of the round's hop class as far as
/// possible.
fn matching(
    pairs: &Pairs,
    kind: RoundKind,
    met: &HashSet<(u32, u32)>,
    rng: &mut fastrand::Rng,
) -> Vec<(u32, u32, bool)> {
    let n = pairs.nodes;
    let mut out = Vec::with_capacity(n as usize / 2);
    let mut take = |left: &mut Vec<u32>, fits: &dyn Fn(u32, u32) -> bool| {
        while let Some(a) = left.pop() {
            match left.iter().rposition(|b| fits(a, *b)) {
                Some(i) => {
                    let b = left.swap_remove(i);
                    out.push((a, b, false));
                }
                None => {
                    left.insert(0, a);
                    break;
                }
            }
        }
    };
    let mut rest: Vec<u32> = Vec::new();
    if kind == RoundKind::Intra {
        let mut leaves: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for i in 0..n {
            leaves.entry(pairs.leaf[i as usize]).or_default().push(i);
        }
        for (_, mut nodes) in leaves {
            rng.shuffle(&mut nodes);
            take(&mut nodes, &|_, _| true);
            rest.extend(nodes);
        }
        // Who has no neighbour is paired across.
        take(&mut rest, &|_, _| true);
    } else {
        rest.extend(0..n);
        rng.shuffle(&mut rest);
        let several = pairs.leaves() > 1;
        let fresh = |a: u32, b: u32| !met.contains(&key(a, b));
        let across = |a: u32, b: u32| fresh(a, b) && (!several || pairs.hop(a, b) == Hop::Inter);
        // A node that finds nobody is set aside, and tries once more among those set aside, with fewer wishes.
        for fits in [&across as &dyn Fn(u32, u32) -> bool, &fresh, &|_, _| true] {
            for _ in 0..3 {
                let before = rest.len();
                take(&mut rest, fits);
                if rest.len() < 2 || rest.len() == before {
                    break;
                }
            }
            // Only what is new is worth a test, but for the very last two nodes.
            if rest.len() < 2 || (n > 4 && rest.len() as u32 == n) {
                break;
            }
        }
        if n <= 4 {
            out.retain(|(a, b, _)| !met.contains(&key(*a, *b)));
        }
    }
    out
}

/// Each suspect with a cleared node that it has not met, of its own leaf if there is one. Returns the tests and the
/// cleared nodes.
fn confirm(
    pairs: &Pairs,
    suspects: &[u32],
    node: &dyn Fn(u32) -> f64,
    met: &HashSet<(u32, u32)>,
    used: &mut HashSet<u32>,
    rng: &mut fastrand::Rng,
) -> (Vec<(u32, u32, bool)>, Vec<u32>) {
    used.extend(suspects);
    let mut cleared: Vec<u32> = (0..pairs.nodes).filter(|i| !used.contains(i)).collect();
    rng.shuffle(&mut cleared);
    cleared.sort_by(|a, b| node(*a).total_cmp(&node(*b)));
    let mut by_leaf: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for c in &cleared {
        by_leaf.entry(pairs.leaf[*c as usize]).or_default().push(*c);
    }
    let mut out = Vec::new();
    let mut anywhere = 0;
    for s in suspects {
        let fits = |c: &&u32| !used.contains(*c) && !met.contains(&key(*s, **c));
        let near = by_leaf.get(&pairs.leaf[*s as usize]).into_iter().flatten().find(fits).copied();
        while anywhere < cleared.len() && used.contains(&cleared[anywhere]) {
            anywhere += 1;
        }
        let partner = near
            .or_else(|| cleared[anywhere..].iter().find(fits).copied())
            .or_else(|| cleared[anywhere..].iter().find(|c| !used.contains(*c)).copied());
        if let Some(p) = partner {
            used.insert(p);
            // The first of a pair listens to the second: let each side lead in turn.
            out.push(if rng.bool() { (*s, p, false) } else { (p, *s, false) });
        }
    }
    (out, cleared)
}

/// Adds pairs of good nodes that read bad every time so far and are not yet sure.
fn again(pairs: &Pairs, node: &dyn Fn(u32) -> f64, used: &mut HashSet<u32>, out: &mut Vec<(u32, u32, bool)>) {
    let readings = pairs.readings();
    let mut bad: BTreeMap<(u32, u32), (u32, u32)> = BTreeMap::new();
    for r in &readings {
        let entry = bad.entry((r.from, r.to)).or_default();
        entry.0 += 1;
        entry.1 += u32::from(r.bad);
    }
    for ((a, b), (tests, bad)) in &bad {
        let unsure = *bad > 0 && bad == tests && *tests < 3;
        if unsure && node(*a) < 0.0 && node(*b) < 0.0 && !used.contains(a) && !used.contains(b) {
            used.extend([*a, *b]);
            out.push((*a, *b, false));
        }
    }
}

/// Adds control pairs of each hop class in the round: as many as there are tests, at most a few.
fn controls(pairs: &Pairs, out: &mut Vec<(u32, u32, bool)>, used: &mut HashSet<u32>, cleared: &[u32]) {
    let tests: Vec<(u32, u32, bool)> = out.clone();
    for hop in [Hop::Intra, Hop::Inter] {
        let wanted = tests.iter().filter(|(a, b, _)| pairs.hop(*a, *b) == hop).count().min(CONTROLS);
        let mut made = 0;
        for (i, a) in cleared.iter().enumerate() {
            if made == wanted {
                break;
            }
            if used.contains(a) {
                continue;
            }
            let partner = cleared[i + 1..].iter().find(|b| !used.contains(*b) && pairs.hop(*a, **b) == hop).copied();
            if let Some(b) = partner {
                used.extend([*a, b]);
                out.push((*a, b, true));
                made += 1;
            }
        }
    }
}

/// All pairs in rounds of disjoint ones, by the circle method: participant 0 stays, the rest go round. `n` odd: each
/// sits out once.
pub fn circle(n: u32) -> Vec<Vec<(u32, u32)>> {
    let m = n + n % 2;
    let mut ring: Vec<u32> = (1..m).collect();
    let mut out = Vec::new();
    for _ in 1..m {
        let seats: Vec<u32> = std::iter::once(0).chain(ring.iter().copied()).collect();
        let pair = |i: usize| (seats[i], seats[m as usize - 1 - i]);
        out.push((0..m as usize / 2).map(pair).filter(|(a, b)| *a < n && *b < n).collect());
        ring.rotate_left(1);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_circle_covers_all_pairs_once_in_disjoint_rounds() {
        assert_eq!(circle(4), [vec![(0, 3), (1, 2)], vec![(0, 1), (2, 3)], vec![(0, 2), (3, 1)]]);
        for (n, rounds, pairs) in [(32, 31, 496), (33, 33, 528), (2, 1, 1)] {
            let all = circle(n);
            let distinct: HashSet<_> = all.iter().flatten().map(|(a, b)| key(*a, *b)).collect();
            assert_eq!((all.len(), distinct.len()), (rounds, pairs), "{n}");
            for round in all {
                let nodes: HashSet<u32> = round.iter().flat_map(|(a, b)| [*a, *b]).collect();
                assert_eq!(nodes.len(), 2 * round.len());
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn rounds_are_disjoint_and_new(n in 2u32..70, per_leaf in 1u32..20, seed in 0u64..1000) {
            let mut pairs = Pairs::new((0..n).map(|i| i / per_leaf).collect());
            let mut done = Vec::new();
            while let Some(round) = next(&pairs, &done, seed) {
                let nodes: HashSet<u32> = round.pairs.iter().flat_map(|(a, b, _)| [*a, *b]).collect();
                proptest::prop_assert_eq!(nodes.len(), 2 * round.pairs.len());
                proptest::prop_assert!(done.len() < 3, "a healthy cluster needs three rounds");
                if n > 8 && round.kind == RoundKind::Inter {
                    proptest::prop_assert!(round.pairs.len() as u32 >= n / 2 - 1, "{} of {} nodes", round.pairs.len() * 2, n);
                }
                for (a, b, control) in round.pairs {
                    let rate = crate::localise::Reading::Rate(1.0);
                    pairs.tests.push(crate::localise::Test { round: done.len() as u32, quiet: false, control, a, b, out: rate, back: rate });
                }
                done.push(round.kind);
            }
        }
    }
}
