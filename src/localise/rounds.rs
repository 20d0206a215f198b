//! Which pairs to measure next. Rounds cost time, tests do not: every round is as full as its purpose allows.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::localise::decode::Decoded;
use crate::localise::verdict::{self, PARTNERS, pair_faults, pair_tests};
use crate::localise::{Hop, Open, Pairs};
use crate::work::RoundKind;

/// Disjoint pairs, measured at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    pub kind: RoundKind,
    /// Each pair, and whether it is a control.
    pub pairs: Vec<(u32, u32, bool)>,
}

/// Rounds that look closer, at most; and so many more while somebody is neither cleared nor named: who comes and goes takes more looks.
const QUIET: u32 = 3;
const UNDECIDED: u32 = 3;
/// Log-odds from which a node with slow readings is looked at again: below, one more slow test changes nothing; and from
/// which one without any is.
const SUSPECT: f64 = -12.0;
const LAGS: f64 = -4.0;
/// Log-odds from which nothing more is to be found out.
const CERTAIN: f64 = 12.0;
/// Quiet pairs across leaves that an interval needs: two readings each.
const ACROSS: usize = 3;
/// Control pairs in a quiet round.
const CONTROLS: usize = 3;
/// Pairs over the uplinks of a leaf that is suspected.
const OVER_LEAF: usize = 4;
/// Probability from which a pair is measured again. After the tests that tell it is one more, so many in all, while it may yet be named.
const PAIR: f64 = 0.002;
const DOUBTED: f64 = 0.5;
const DOUBTED_FROM: usize = 3;
const DOUBTED_TESTS: usize = 6;
/// Probability that a pair reaches with its first test only where both its ends are well with all others.
const ALONE: f64 = 0.05;
/// So few pairs at a time need no control: there is little to disturb them.
const FEW: usize = 8;
/// Difference (of logarithms) between the slowest and the fastest of three pairs that is looked into.
const DIFFER: f64 = 0.1;
/// Across leaves, less than this share of what pairs within them reach is looked at with few pairs at a time.
const SLOW_ACROSS: f64 = 0.9;

/// The next round, or `None` when nothing is left to find out. `there` says who can be measured, `done` are the kinds
/// measured so far; `seed` makes the choice repeatable.
pub fn next(pairs: &Pairs, there: &dyn Fn(u32) -> bool, done: &[RoundKind], seed: u64) -> Option<Round> {
    let among: Vec<u32> = (0..pairs.nodes).filter(|i| there(*i)).collect();
    let n = among.len();
    if n < 2 {
        return None;
    }
    let mut rng = fastrand::Rng::with_seed(seed ^ (done.len() as u64) << 32);
    let met: HashSet<(u32, u32)> = pairs.tests.iter().map(|t| key(t.a, t.b)).collect();
    let count = |kinds: &[RoundKind]| done.iter().filter(|k| kinds.contains(k)).count() as u32;
    let full = count(&[RoundKind::Intra, RoundKind::Inter]);
    let lead = Lead::new(pairs);
    if full < pairs.full {
        // One round within leaves where leaves are known, then across.
        let leaves = pairs.leaves() > 1 && pairs.leaves() < pairs.nodes;
        let kind = if full == 0 && leaves { RoundKind::Intra } else { RoundKind::Inter };
        let chosen = matching(pairs, &among, kind, &met, &mut rng);
        if !chosen.is_empty() {
            return Some(Round { kind, pairs: lead.in_turn(chosen) });
        }
    }
    let quiet = count(&[RoundKind::Confirm, RoundKind::Again]);
    if n < 3 || quiet >= QUIET + UNDECIDED {
        return None;
    }
    let decoded = pairs.decode();
    let open = (quiet >= QUIET).then(|| undecided(pairs, &decoded));
    let mut closer = Closer { pairs, among: &among, met: &met, rng, used: HashSet::new(), chosen: Vec::new() };
    let doubted = |(pair, tests): &((u32, u32), usize)| decoded.pairs[pair] > DOUBTED && *tests >= DOUBTED_FROM;
    if open.as_ref().is_some_and(HashSet::is_empty) && !closer.unsure(&decoded).iter().any(doubted) {
        return None;
    }
    let kind = closer.look(&decoded, open.as_ref())?;
    Some(Round { kind, pairs: lead.in_turn(closer.chosen) })
}

/// Who is neither cleared nor named.
fn undecided(pairs: &Pairs, decoded: &Decoded) -> HashSet<u32> {
    let of = |why: &Open| matches!(why, Open::Suspected { .. } | Open::Recurring { .. });
    pairs.verdict_of(decoded).open.iter().filter(|(_, why)| of(why)).map(|(node, _)| *node).collect()
}

/// How often each node led a test: the first of a pair listens, the second connects, and each does both in turn.
struct Lead(Vec<i32>);

impl Lead {
    fn new(pairs: &Pairs) -> Self {
        let mut lead = vec![0; pairs.nodes as usize];
        for t in &pairs.tests {
            lead[t.a as usize] += 1;
            lead[t.b as usize] -= 1;
        }
        Lead(lead)
    }

    fn in_turn(&self, pairs: Vec<(u32, u32, bool)>) -> Vec<(u32, u32, bool)> {
        let of = |n: u32| self.0[n as usize];
        pairs.into_iter().map(|(a, b, control)| if of(a) > of(b) { (b, a, control) } else { (a, b, control) }).collect()
    }
}

/// A quiet round in the making.
struct Closer<'p> {
    pairs: &'p Pairs,
    among: &'p [u32],
    met: &'p HashSet<(u32, u32)>,
    rng: fastrand::Rng,
    used: HashSet<u32>,
    chosen: Vec<(u32, u32, bool)>,
}

impl Closer<'_> {
    /// Chooses pairs; `None` when nothing is left to find out. Where `only` says who is open, nobody else is suspected: every test of many
    /// more is one that others' traffic may hit.
    fn look(&mut self, decoded: &Decoded, only: Option<&HashSet<u32>>) -> Option<RoundKind> {
        let standings = decoded.standings(&pair_faults(decoded));
        let odds = |i: u32| decoded.nodes[i as usize].log_odds;
        let mut quiet: HashMap<u32, u32> = HashMap::new();
        for t in self.pairs.tests.iter().filter(|t| t.quiet && !t.control) {
            [t.a, t.b].iter().for_each(|n| *quiet.entry(*n).or_default() += 1);
        }
        let others = self.among.len() - 1;
        let mut suspects: Vec<u32> = Vec::new();
        for i in self.among {
            let (belief, standing) = (&decoded.nodes[*i as usize], &standings[*i as usize]);
            // Sure enough after one quiet test is sure enough.
            let certain = belief.log_odds > CERTAIN && quiet.contains_key(i) && decoded.is_proven(belief, standing);
            let suspected = belief.log_odds > if standing.slow > 0 { SUSPECT } else { LAGS }
                || standing.recurs(decoded.nodes.len()).is_some();
            let wanted = match only {
                Some(open) => open.contains(i),
                None => !certain && (suspected || standing.partners() < PARTNERS.min(others)),
            };
            if wanted {
                suspects.push(*i);
            }
        }
        // Those first who were looked at least, then those of whom most is believed.
        let looks = |i: &u32| quiet.get(i).copied().unwrap_or(0);
        suspects.sort_by(|a, b| looks(a).cmp(&looks(b)).then(odds(*b).total_cmp(&odds(*a))));
        // Two are left for a control, unless few nodes are few tests anyway.
        // A pair whose ends did well with others meanwhile is measured again; that is a test of its ends as well.
        let looked = |i: u32| quiet.contains_key(&i);
        let both = |a: u32, b: u32| {
            let of = decoded.tests.iter().filter(|o| key(o.ends[0], o.ends[1]) == key(a, b));
            of.filter(|o| o.is_slow(0, 0.0) && o.is_slow(1, 0.0)).count() > 0
        };
        let likely = |a: u32, b: u32, p: f64| decoded.pairs.get(&key(a, b)).is_some_and(|of| *of > p);
        let many = self.among.len() > FEW;
        // Who is still open meets others in turn, unless the pair is the likelier reason.
        let last = self.pairs.tests.iter().map(|t| t.round).max();
        let just = |a, b| self.pairs.tests.iter().any(|t| Some(t.round) == last && key(t.a, t.b) == key(a, b));
        let open = |a, b| only.is_some_and(|open| open.contains(&a) || open.contains(&b));
        let others_turn = |a, b| open(a, b) && just(a, b) && !likely(a, b, DOUBTED);
        let again = |a, b| both(a, b) && (looked(a) && looked(b) || likely(a, b, ALONE)) && !others_turn(a, b);
        self.again(decoded, &|a, b| many && again(a, b));
        suspects.retain(|i| !self.used.contains(i));
        let half = self.among.len() / 2;
        suspects.truncate(if half > FEW { half - 1 } else { half });
        let mut cleared = self.confirm(&suspects, &odds, &|i| standings[i as usize].well);
        self.leaves(decoded, &cleared);
        // Pairs whose ends are cleared by now take part in the same rounds: rounds cost time, tests do not.
        self.again(decoded, &|_, _| true);
        self.alike(decoded);
        let again = suspects.is_empty() && !self.chosen.is_empty();
        self.across(&cleared);
        if self.chosen.is_empty() {
            return None;
        }
        let kind = if again { RoundKind::Again } else { RoundKind::Confirm };
        cleared.retain(|i| odds(*i) < 0.0);
        controls(self.pairs, &mut self.chosen, &mut self.used, &cleared);
        Some(kind)
    }

    /// Each suspect with a cleared node that it has not met, of its own leaf if there is one; where nobody is cleared,
    /// suspects among themselves. Returns the cleared nodes, the surest first.
    fn confirm(&mut self, suspects: &[u32], odds: &dyn Fn(u32) -> f64, well: &dyn Fn(u32) -> bool) -> Vec<u32> {
        self.used.extend(suspects);
        let mut cleared: Vec<u32> = self.among.iter().copied().filter(|i| !self.used.contains(i)).collect();
        self.rng.shuffle(&mut cleared);
        let order = |i: u32| odds(i).max(SUSPECT);
        cleared.sort_by(|a, b| well(*b).cmp(&well(*a)).then(order(*a).total_cmp(&order(*b))));
        let mut by_leaf: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for c in &cleared {
            by_leaf.entry(self.pairs.leaf[*c as usize]).or_default().push(*c);
        }
        let (mut anywhere, mut alone) = (0, Vec::new());
        for s in suspects {
            let free = |c: &&u32| !self.used.contains(*c);
            let fits = |c: &&u32| free(c) && !self.met.contains(&key(*s, **c));
            let near = by_leaf.get(&self.pairs.leaf[*s as usize]).into_iter().flatten().find(fits).copied();
            while anywhere < cleared.len() && self.used.contains(&cleared[anywhere]) {
                anywhere += 1;
            }
            let partner = near
                .or_else(|| cleared[anywhere..].iter().find(fits).copied())
                .or_else(|| cleared[anywhere..].iter().find(free).copied());
            match partner {
                Some(p) => {
                    self.used.insert(p);
                    self.chosen.push((*s, p, false));
                }
                None => alone.push(*s),
            }
        }
        while let Some(a) = alone.pop() {
            let fresh = alone.iter().position(|b| !self.met.contains(&key(a, *b)));
            if let Some(i) = fresh.or_else(|| (!alone.is_empty()).then_some(0)) {
                self.chosen.push((a, alone.swap_remove(i), false));
            }
        }
        cleared
    }

    /// Pairs over the uplinks of leaves that may be slow and were not looked at enough to say so.
    fn leaves(&mut self, decoded: &Decoded, cleared: &[u32]) {
        let leaf = |i: u32| self.pairs.leaf[i as usize];
        let unsure: HashSet<u32> =
            decoded.uplinks.iter().filter(|u| !super::verdict::is_sure(u)).map(|u| u.leaf).collect();
        for l in &unsure {
            let own: Vec<u32> = cleared.iter().copied().filter(|i| leaf(*i) == *l).take(4 * OVER_LEAF).collect();
            let mut made = 0;
            for a in own {
                if made == OVER_LEAF || self.used.contains(&a) {
                    continue;
                }
                let other = |b: &&u32| !self.used.contains(*b) && !unsure.contains(&leaf(**b));
                if let Some(b) = cleared.iter().find(other).copied() {
                    self.used.extend([a, b]);
                    self.chosen.push((a, b, false));
                    made += 1;
                }
            }
        }
    }

    /// Pairs that may be bad by themselves and were not tested enough to tell, with how often they were; the likeliest first.
    fn unsure(&self, decoded: &Decoded) -> Vec<((u32, u32), usize)> {
        let mut tests: HashMap<(u32, u32), usize> = HashMap::new();
        for t in self.pairs.tests.iter().filter(|t| decoded.pairs.contains_key(&key(t.a, t.b))) {
            *tests.entry(key(t.a, t.b)).or_default() += 1;
        }
        let open = |(a, b): (u32, u32), n: usize, p: f64| match n {
            DOUBTED_TESTS.. => false,
            n if n >= pair_tests(self.pairs.hop(a, b)) => (DOUBTED..verdict::PAIR).contains(&p),
            DOUBTED_FROM.. => p > DOUBTED,
            _ => p > PAIR,
        };
        // In ascending order.
        let there = |(a, b): (u32, u32)| [a, b].iter().all(|n| self.among.binary_search(n).is_ok());
        let all = decoded.pairs.iter().map(|(pair, p)| (*pair, tests.get(pair).copied().unwrap_or(0), *p));
        let mut likely: Vec<_> = all.filter(|(pair, n, p)| open(*pair, *n, *p) && there(*pair)).collect();
        likely.sort_by(|a, b| b.2.total_cmp(&a.2));
        likely.into_iter().map(|(pair, n, _)| (pair, n)).collect()
    }

    /// Those of them again that fit.
    fn again(&mut self, decoded: &Decoded, fits: &dyn Fn(u32, u32) -> bool) {
        for ((a, b), _) in self.unsure(decoded) {
            if fits(a, b) && !self.used.contains(&a) && !self.used.contains(&b) {
                self.used.extend([a, b]);
                self.chosen.push((a, b, false));
            }
        }
    }

    /// Three nodes have three pairs: where they differ at all, each is measured once more.
    fn alike(&mut self, decoded: &Decoded) {
        if self.among.len() > 3 || !self.chosen.is_empty() {
            return;
        }
        let all = || decoded.tests.iter().flat_map(|o| o.residual).flatten();
        let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), y| (l.min(y), h.max(y)));
        let times = |a: u32, b: u32| self.pairs.tests.iter().filter(|t| key(t.a, t.b) == key(a, b)).count();
        let pairs = self.among.iter().flat_map(|a| self.among.iter().map(move |b| (*a, *b))).filter(|(a, b)| a < b);
        if high - low > DIFFER
            && let Some((a, b)) = pairs.filter(|(a, b)| times(*a, *b) < 2).min_by_key(|(a, b)| times(*a, *b))
        {
            self.used.extend([a, b]);
            self.chosen.push((a, b, false));
        }
    }

    /// A few pairs across leaves, where all of them together are slow: are they so alone as well?
    fn across(&mut self, cleared: &[u32]) {
        let fabric = self.pairs.fabric();
        let slow = matches!((fabric.intra, fabric.inter), (Some(i), Some(x)) if x.high < SLOW_ACROSS * i.low);
        let hop = |a: u32, b: u32| self.pairs.hop(a, b) == Hop::Inter;
        let sure = self.pairs.tests.iter().filter(|t| t.quiet && t.control && hop(t.a, t.b)).count();
        if slow && sure < ACROSS {
            let before = self.chosen.len();
            for a in cleared {
                if self.chosen.len() == before + CONTROLS {
                    break;
                }
                let fits = |b: &&u32| **b != *a && !self.used.contains(*b) && hop(*a, **b);
                if !self.used.contains(a)
                    && let Some(b) = cleared.iter().find(fits).copied()
                {
                    self.used.extend([*a, b]);
                    self.chosen.push((*a, b, true));
                }
            }
        }
    }
}

fn key(a: u32, b: u32) -> (u32, u32) {
    (a.min(b), a.max(b))
}

/// A random perfect matching (or one short of it) of pairs that have not met, of the round's hop class as far as
/// possible.
fn matching(
    pairs: &Pairs,
    among: &[u32],
    kind: RoundKind,
    met: &HashSet<(u32, u32)>,
    rng: &mut fastrand::Rng,
) -> Vec<(u32, u32, bool)> {
    let n = among.len() as u32;
    let mut out = Vec::with_capacity(n as usize / 2);
    let mut tested = vec![0u32; pairs.nodes as usize];
    for t in &pairs.tests {
        tested[t.a as usize] += 1;
        tested[t.b as usize] += 1;
    }
    // Pairs are taken from the end: who sat out comes first.
    let sorted = |nodes: &mut Vec<u32>, rng: &mut fastrand::Rng| {
        rng.shuffle(nodes);
        nodes.sort_by_key(|i| std::cmp::Reverse(tested[*i as usize]));
    };
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
        for i in among {
            leaves.entry(pairs.leaf[*i as usize]).or_default().push(*i);
        }
        for (_, mut nodes) in leaves {
            sorted(&mut nodes, rng);
            take(&mut nodes, &|_, _| true);
            rest.extend(nodes);
        }
        // Who has no neighbour is paired across.
        take(&mut rest, &|_, _| true);
    } else {
        rest.extend(among);
        sorted(&mut rest, rng);
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
        let places: Vec<u32> = std::iter::once(0).chain(ring.iter().copied()).collect();
        let pair = |i: usize| (places[i], places[m as usize - 1 - i]);
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
            while let Some(round) = next(&pairs, &|_| true, &done, seed) {
                let nodes: HashSet<u32> = round.pairs.iter().flat_map(|(a, b, _)| [*a, *b]).collect();
                proptest::prop_assert_eq!(nodes.len(), 2 * round.pairs.len());
                proptest::prop_assert!(done.len() < 4, "three rounds, and one for who sat out twice");
                if n > 8 && round.kind == RoundKind::Inter {
                    proptest::prop_assert!(round.pairs.len() as u32 >= n / 2 - 1, "{} of {} nodes", round.pairs.len() * 2, n);
                }
                for (a, b, control) in round.pairs {
                    let rate = crate::localise::Reading::Rate(1.0);
                    pairs.tests.push(crate::localise::Test { round: done.len() as u32, quiet: false, control, a, b, out: rate, back: rate, excused: [0.0; 2] });
                }
                done.push(round.kind);
            }
        }
    }
}
