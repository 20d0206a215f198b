//! What all readings over a leaf's uplinks lose: in every round (the leaf), or in one of them (others' traffic).

use std::collections::{BTreeMap, HashSet};

use crate::localise::Hop;
use crate::localise::observed::Observed;
use crate::measure::stats;

/// Shares that an uplink is looked at for, as logarithms: 3 % to 95 %.
const SEVERITIES: [f64; 11] = [0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.45, 0.69, 1.0, 1.6, 3.0];
/// Log-odds that a leaf's uplinks are bad, and that others disturb them for a round, before anything is known.
const PRIOR: f64 = -7.0;
const EPISODE_PRIOR: f64 = -5.0;
/// What one reading may weigh: between two leaves or in a moment it may have its own reasons.
const MOST: f64 = 4.0;
/// Deviations below which a reading counts as slow when leaves are picked for a closer look.
const SLOW: f64 = 2.0;
/// Readings over one way of a leaf that say something about it.
const FEWEST: usize = 3;
/// The same where it is one round's.
const EPISODE: usize = 6;
const QUIET_EPISODE: usize = 4;

/// A leaf whose traffic is slow one way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Uplink {
    pub leaf: u32,
    /// Out of the leaf; else into it.
    pub up: bool,
    /// In the logarithm.
    pub deficit: f64,
    pub low: f64,
    pub high: f64,
    pub readings: usize,
    pub rounds: usize,
    pub nodes: usize,
    /// Leaves at the other end: with one alone nobody can tell which of the two is slow.
    pub others: usize,
    pub log_odds: f64,
}

/// A reading over a leaf's uplink: its test and its way.
type At = (usize, usize);

/// Readings that may be slow together: over a leaf one way, in all rounds or in one.
struct Candidate {
    /// Of them that are slow.
    share: f64,
    leaf: u32,
    up: bool,
    round: Option<u32>,
    of: Vec<At>,
}

/// Finds uplinks that lose `least` or more (in the logarithm), and lays what they lose under the readings that cross them. Also the share
/// of looks at a leaf, one a round, in which others filled its uplinks.
pub(super) fn find(tests: &mut [Observed], leaf: &[u32], least: f64) -> (Vec<Uplink>, f64) {
    let mut over: BTreeMap<(u32, bool), Vec<At>> = BTreeMap::new();
    let mut within: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for (k, o) in tests.iter().enumerate() {
        let [a, b] = o.ends.map(|n| leaf[n as usize]);
        for way in 0..2 {
            let (from, to) = if way == 0 { (a, b) } else { (b, a) };
            match o.hop {
                Hop::Inter => {
                    over.entry((from, true)).or_default().push((k, way));
                    over.entry((to, false)).or_default().push((k, way));
                }
                Hop::Intra => within.entry(a).or_default().extend(o.residual[way]),
            }
        }
    }
    let (mut candidates, looks) = candidates(tests, leaf, &over);
    let mut filled: HashSet<(u32, u32)> = HashSet::new();
    // Of as bad ones a whole leaf explains more than a round of it.
    candidates.sort_by(|a, b| a.round.is_some().cmp(&b.round.is_some()).then(b.share.total_cmp(&a.share)));
    let mut found: Vec<(Uplink, Vec<At>)> = Vec::new();
    for Candidate { leaf: l, up, round, of, .. } in candidates {
        let prior = if round.is_some() { EPISODE_PRIOR } else { PRIOR };
        if found.iter().any(|(u, _)| (u.leaf, u.up) == (l, up) && round.is_some()) {
            continue;
        }
        let Some((deficit, log_odds)) = best(tests, &of, prior).filter(|(d, _)| *d >= least) else { continue };
        // Where its nodes do no better among each other it is they who are slow.
        let inside = within.get(&l).map(|y| stats::median(y));
        if inside.is_some_and(|y| y < -deficit / 2.0) || (inside.is_none() && round.is_some()) {
            continue;
        }
        of.iter().for_each(|(k, way)| tests[*k].floor[*way] = tests[*k].floor[*way].max(deficit));
        match round {
            Some(round) => _ = looks.contains(&(l, round)) && filled.insert((l, round)),
            None => found.push((uplink(tests, leaf, l, up, &of, deficit, log_odds), of)),
        }
    }
    // What a leaf that was found later explains is not held against an earlier one.
    let mut out: Vec<Uplink> = Vec::new();
    for i in 0..found.len() {
        let (u, of) = &found[i];
        for (k, way) in of {
            let others = found.iter().enumerate().filter(|(j, (_, of))| *j != i && of.contains(&(*k, *way)));
            tests[*k].floor[*way] = others.map(|(_, (u, _))| u.deficit).fold(0.0, f64::max);
        }
        // Of what crosses no other slow leaf most must be slow as well.
        let own = || of.iter().filter(|(k, way)| tests[*k].floor[*way] < u.deficit / 2.0);
        let slow = own().filter(|(k, way)| tests[*k].is_slow(*way, 0.0)).count();
        if let Some((deficit, log_odds)) = best(tests, of, PRIOR).filter(|_| slow >= FEWEST && 2 * slow > own().count())
        {
            out.push(uplink(tests, leaf, u.leaf, u.up, of, deficit, log_odds));
        }
        of.iter().for_each(|(k, way)| tests[*k].floor[*way] = tests[*k].floor[*way].max(u.deficit));
    }
    (out, filled.len() as f64 / looks.len().max(1) as f64)
}

/// The leaves that stay behind in most readings, and those that do in a round; and the rounds in which all of a leaf was looked at.
fn candidates(
    tests: &[Observed],
    leaf: &[u32],
    over: &BTreeMap<(u32, bool), Vec<At>>,
) -> (Vec<Candidate>, HashSet<(u32, u32)>) {
    let mut size: BTreeMap<u32, usize> = BTreeMap::new();
    leaf.iter().for_each(|l| *size.entry(*l).or_default() += 1);
    let slow = |at: &At| {
        let o = &tests[at.0];
        o.residual[at.1].is_none_or(|y| y < -SLOW * o.deviation[at.1])
    };
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut looks: HashSet<(u32, u32)> = HashSet::new();
    for ((l, up), all) in over {
        let mut by_round: BTreeMap<u32, Vec<At>> = BTreeMap::new();
        all.iter().for_each(|at| by_round.entry(tests[at.0].round).or_default().push(*at));
        let mut add = |round: Option<u32>, of: &[At], least: f64| {
            let share = of.iter().filter(|at| slow(at)).count() as f64 / of.len() as f64;
            // One node at the other end would be its own reason.
            let far: HashSet<u32> =
                of.iter().flat_map(|(k, _)| tests[*k].ends).filter(|n| leaf[*n as usize] != *l).collect();
            if size[l] > 1 && far.len() > 1 && of.len() >= FEWEST && share > least {
                candidates.push(Candidate { share, leaf: *l, up: *up, round, of: of.to_vec() });
            }
        };
        let (bad, well) = rounds(&by_round, &slow);
        // A leaf that is well in every third round is disturbed, not slow.
        if 3 * well <= bad {
            add(None, all, 0.5);
        }
        // Of few pairs at a time few cross a leaf's uplinks, and were picked because they had been slow.
        for (round, of) in by_round.iter() {
            let quiet = tests[of[0].0].quiet;
            if of.len() >= if quiet { QUIET_EPISODE } else { EPISODE } {
                add(Some(*round), of, 0.7);
                if !quiet {
                    looks.insert((*l, *round));
                }
            }
        }
    }
    (candidates, looks)
}

/// Rounds in which most of a leaf's readings are slow, and in which they are not.
fn rounds(by_round: &BTreeMap<u32, Vec<At>>, slow: &dyn Fn(&At) -> bool) -> (usize, usize) {
    let bad = by_round.values().filter(|of| 2 * of.iter().filter(|at| slow(at)).count() > of.len()).count();
    (bad, by_round.len() - bad)
}

/// The deficit that explains the readings best, with its log-odds; `None` where none does.
fn best(tests: &[Observed], of: &[At], prior: f64) -> Option<(f64, f64)> {
    let weigh = |d: f64| -> f64 {
        let one = |(k, way): &At| {
            let o = &tests[*k];
            // What is known to lie on the way is as uncertain as what is asked for: noise must not speak for a second cause.
            let fits = |deficit: f64| o.fit(*way, deficit, 0.1 * deficit);
            let (with, without) = (fits(d.max(o.floor[*way])), fits(o.floor[*way]));
            (with / without).ln().clamp(-MOST, MOST)
        };
        prior + of.iter().map(one).sum::<f64>()
    };
    let scored = SEVERITIES.iter().map(|d| (*d, weigh(*d)));
    scored.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, odds)| *odds > 0.0)
}

fn uplink(tests: &[Observed], leaf: &[u32], l: u32, up: bool, of: &[At], deficit: f64, log_odds: f64) -> Uplink {
    let losses: Vec<f64> = of.iter().filter_map(|(k, way)| tests[*k].residual[*way].map(|y| -y)).collect();
    let summary = stats::summary(&losses);
    let median = summary.map_or(deficit, |s| s.median);
    let (low, high) = summary.and_then(|s| s.interval).unwrap_or((median, median));
    let rounds: HashSet<u32> = of.iter().map(|(k, _)| tests[*k].round).collect();
    let ends: HashSet<u32> = of.iter().flat_map(|(k, _)| tests[*k].ends).collect();
    let nodes = ends.iter().filter(|n| leaf[**n as usize] == l).count();
    let others: HashSet<u32> = ends.iter().map(|n| leaf[*n as usize]).filter(|other| *other != l).collect();
    let (readings, rounds, others) = (of.len(), rounds.len(), others.len());
    Uplink { leaf: l, up, deficit: median, low, high, readings, rounds, nodes, others, log_odds }
}
