//! What shows only at scale: collectives over groups of a doubling size, those of one size held against each other.
//!
//! A group that is slow though all smaller ones in it were well has a member that fails only in company. It is found by
//! halving at the size that shows it: each half of the suspects is filled up with cleared nodes, both halves are measured
//! at once, and the slow one goes on. log2 of the group's size rounds, for all suspicious groups together.

use std::collections::HashSet;

use crate::measure::stats;

/// A collective over a group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupTest {
    pub nodes: Vec<u32>,
    /// Bytes per second; `None` where it failed or was not measured.
    pub busbw: Option<f64>,
}

/// Groups of one size, measured at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    pub size: u32,
    /// Halves of suspects among cleared nodes, not groups of neighbours.
    pub narrowing: bool,
    pub groups: Vec<GroupTest>,
}

/// Nodes of which at least one is slow in groups of `size` and more.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspects {
    pub nodes: Vec<u32>,
    pub size: u32,
    /// Of the busbw of the others of this size.
    pub share: f64,
    /// How many others there were.
    pub others: usize,
    /// Rounds of halving that showed it again.
    pub halvings: u32,
    /// Neither half showed it again.
    pub vanished: bool,
}

/// All groups measured, in the order of the record.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scale {
    pub levels: Vec<Level>,
}

/// How much slower than others of its size a group may be.
const MARGIN: f64 = 0.3;
/// However much groups differ, this share of the others is slow.
const SURELY_SLOW: f64 = 0.4;
/// Groups of cleared nodes only, beside the halves.
const CONTROLS: usize = 2;
/// Rounds of halving at most: twice what 4096 nodes need.
const ROUNDS: usize = 24;

/// What is ordinary at a level, and the least share of it that is.
fn ordinary(level: &Level) -> Option<(f64, f64)> {
    let rates: Vec<f64> = level.groups.iter().filter_map(|g| g.busbw).collect();
    match rates[..] {
        [] | [_] => None,
        // Of two groups the better shows what can be reached.
        [a, b] => Some((a.max(b), 1.0 - MARGIN)),
        _ => {
            let (reference, deviation) = stats::robust(&rates)?;
            Some((reference, (1.0 - (4.0 * deviation / reference).max(MARGIN)).max(SURELY_SLOW)))
        }
    }
}

impl Level {
    /// What groups of it usually reach; `None` where there are no others to tell by.
    pub fn usual(&self) -> Option<f64> {
        ordinary(self).map(|(reference, _)| reference)
    }
}

/// Shares of the reference of those groups of a level that are slow, by place.
fn slow(level: &Level) -> Vec<(usize, f64)> {
    let Some((reference, least)) = ordinary(level) else { return Vec::new() };
    let share = |g: &GroupTest| g.busbw.map(|b| b / reference);
    level.groups.iter().enumerate().filter_map(|(i, g)| Some((i, share(g)?))).filter(|(_, s)| *s < least).collect()
}

impl Scale {
    /// What is suspected after everything that was measured.
    pub fn suspects(&self) -> Vec<Suspects> {
        let mut out: Vec<Suspects> = Vec::new();
        for level in &self.levels {
            if level.narrowing {
                out = out.into_iter().flat_map(|s| halved(s, level)).collect();
                continue;
            }
            for (i, share) in slow(level) {
                let nodes = &level.groups[i].nodes;
                // A larger group is slow because of the smaller one in it.
                if !out.iter().any(|s| s.nodes.iter().all(|n| nodes.contains(n))) {
                    let others = level.groups.len() - 1;
                    let (nodes, size) = (nodes.clone(), level.size);
                    out.push(Suspects { nodes, size, share, others, halvings: 0, vanished: false });
                }
            }
        }
        out
    }

    /// The next round of halving: a size, and disjoint groups of it. `None` when nothing is left to find out, or too few
    /// cleared nodes are left to find it out with. `there` says who can still be measured.
    pub fn next(&self, there: &dyn Fn(u32) -> bool, seed: u64) -> Option<(u32, Vec<Vec<u32>>)> {
        let done = self.levels.iter().filter(|l| l.narrowing).count();
        let all = self.suspects();
        let open: Vec<&Suspects> =
            all.iter().filter(|s| s.nodes.len() > 1 && !s.vanished && s.nodes.iter().all(|n| there(*n))).collect();
        let size = open.iter().map(|s| s.size).min().filter(|_| done < ROUNDS)?;
        let mut pool = self.cleared(size, &all);
        pool.retain(|n| there(*n));
        fastrand::Rng::with_seed(seed ^ (done as u64) << 40).shuffle(&mut pool);
        let mut groups = Vec::new();
        let whole = size as usize;
        for s in open.iter().filter(|s| s.size == size) {
            let halves = s.nodes.split_at(s.nodes.len() / 2);
            if pool.len() < 2 * whole - s.nodes.len() {
                continue;
            }
            for half in [halves.0, halves.1] {
                let fill = pool.split_off(pool.len() + half.len() - whole);
                groups.push([half, &fill].concat());
            }
        }
        if groups.is_empty() {
            return None;
        }
        for _ in 0..CONTROLS {
            if pool.len() >= whole {
                groups.push(pool.split_off(pool.len() - whole));
            }
        }
        Some((size, groups))
    }

    /// Nodes that did well in groups of `size` or more and are suspected of nothing.
    fn cleared(&self, size: u32, suspects: &[Suspects]) -> Vec<u32> {
        let suspected: HashSet<u32> = suspects.iter().flat_map(|s| s.nodes.iter().copied()).collect();
        let mut out: Vec<u32> = Vec::new();
        for level in self.levels.iter().filter(|l| l.size >= size) {
            let slow: HashSet<usize> = slow(level).into_iter().map(|(i, _)| i).collect();
            let well = level.groups.iter().enumerate().filter(|(i, g)| g.busbw.is_some() && !slow.contains(i));
            out.extend(well.flat_map(|(_, g)| g.nodes.iter().copied()).filter(|n| !suspected.contains(n)));
        }
        out.sort_unstable();
        out.dedup();
        out
    }
}

/// What a round of halving leaves of a set of suspects: its slow half, both, or the set, vanished.
fn halved(s: Suspects, level: &Level) -> Vec<Suspects> {
    let parts: Vec<(Vec<u32>, Option<f64>)> = level
        .groups
        .iter()
        .map(|g| (g.nodes.iter().copied().filter(|n| s.nodes.contains(n)).collect::<Vec<u32>>(), g.busbw))
        .filter(|(part, _)| !part.is_empty())
        .collect();
    let whole = parts.iter().map(|(p, _)| p.len()).sum::<usize>() == s.nodes.len() && parts.len() == 2;
    if level.size != s.size || s.vanished || !whole || parts.iter().any(|(_, b)| b.is_none()) {
        return vec![s];
    }
    // Between two halves the better one is the measure; control groups are one more chance for it to be right.
    let reference = level.groups.iter().filter_map(|g| g.busbw).fold(0.0, f64::max);
    let share = |b: Option<f64>| b.unwrap_or(0.0) / reference;
    let (others, halvings) = (level.groups.len() - 1, s.halvings + 1);
    let slow: Vec<Suspects> = parts
        .into_iter()
        .filter(|(_, b)| share(*b) < 1.0 - MARGIN)
        .map(|(nodes, b)| Suspects { nodes, share: share(b), others, halvings, ..s.clone() })
        .collect();
    if slow.is_empty() { vec![Suspects { vanished: true, ..s }] } else { slow }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole schedule on `n` nodes, where `bad` are slow in groups of `from` nodes and more.
    fn found(n: u32, bad: &[u32], from: u32, noise: f64, seed: u64) -> (Vec<Suspects>, usize) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut measure = |nodes: Vec<u32>| {
            let hit = nodes.len() as u32 >= from && nodes.iter().any(|x| bad.contains(x));
            let busbw = (1.0 + noise * (rng.f64() - 0.5)) * if hit { 0.4 } else { 1.0 };
            GroupTest { nodes, busbw: Some(busbw) }
        };
        let mut scale = Scale::default();
        let names: Vec<u32> = (0..n).collect();
        let mut size = 2;
        while size < n {
            let groups = names.chunks_exact(size as usize).map(|c| measure(c.to_vec())).collect();
            scale.levels.push(Level { size, narrowing: false, groups });
            size *= 2;
        }
        let mut rounds = 0;
        while let Some((size, groups)) = scale.next(&|_| true, seed) {
            let distinct: HashSet<u32> = groups.iter().flatten().copied().collect();
            assert_eq!(distinct.len(), groups.len() * size as usize, "groups of a round are disjoint and whole");
            let groups = groups.into_iter().map(&mut measure).collect();
            scale.levels.push(Level { size, narrowing: true, groups });
            rounds += 1;
        }
        (scale.suspects(), rounds)
    }

    #[test]
    fn the_node_is_found_in_as_many_rounds_as_its_group_halves() {
        for (n, bad, from, most) in
            [(8, 3, 4, 2), (32, 17, 16, 4), (64, 0, 2, 1), (256, 255, 64, 6), (2048, 1000, 512, 9)]
        {
            let (suspects, rounds) = found(n, &[bad], from, 0.1, 7);
            let named: Vec<&Vec<u32>> = suspects.iter().map(|s| &s.nodes).collect();
            assert_eq!(named, [&vec![bad]], "{n} {bad} {from}");
            assert!(rounds <= most, "{rounds} rounds for a group of {from}");
        }
    }

    #[test]
    fn several_are_found_side_by_side() {
        let (suspects, rounds) = found(256, &[3, 77, 200], 16, 0.1, 3);
        let mut named: Vec<u32> = suspects.iter().flat_map(|s| s.nodes.clone()).collect();
        named.sort_unstable();
        assert_eq!((named, rounds <= 8), (vec![3, 77, 200], true), "{rounds} rounds");
    }

    #[test]
    fn a_group_that_is_slow_once_vanishes_and_the_healthy_are_left_alone() {
        let mut scale = Scale::default();
        let group = |at: u32, busbw: f64| GroupTest { nodes: (at..at + 4).collect(), busbw: Some(busbw) };
        let groups = (0..8).map(|i| group(4 * i, if i == 2 { 0.5 } else { 1.0 })).collect();
        scale.levels.push(Level { size: 4, narrowing: false, groups });
        let Some((size, groups)) = scale.next(&|_| true, 1) else { panic!("a suspect is looked at") };
        let groups = groups.into_iter().map(|nodes| GroupTest { nodes, busbw: Some(1.0) }).collect();
        scale.levels.push(Level { size, narrowing: true, groups });
        assert_eq!(scale.next(&|_| true, 1), None);
        assert!(scale.suspects().iter().all(|s| s.vanished));
        for seed in 0..50 {
            assert_eq!(found(512, &[], 2, 0.1, seed), (vec![], 0));
        }
    }

    proptest::proptest! {
        #[test]
        fn never_an_innocent_one(n in 4u32..200, at in 0u32..200, from in 0u32..7, seed in 0u64..1000) {
            let (bad, from) = (at % n, 1 << from);
            let (suspects, rounds) = found(n, &[bad], from, 0.2, seed);
            proptest::prop_assert!(rounds <= 8);
            for s in suspects.iter().filter(|s| !s.vanished) {
                proptest::prop_assert!(s.nodes.contains(&bad), "{:?} without {}", s, bad);
            }
        }
    }
}
