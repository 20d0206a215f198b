//! Flows that lose segments -> whose links lose them.

use std::collections::BTreeMap;

use crate::localise::Side;
use crate::measure::stats;

/// One way of one test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossTest {
    pub from: u32,
    pub to: u32,
    /// Share of its segments that were sent again.
    pub share: f64,
}

/// A node whose flows lose segments, whoever the partner is.
#[derive(Debug, Clone, PartialEq)]
pub struct Lossy {
    pub node: u32,
    pub side: Side,
    /// The middle of its flows that lose.
    pub share: f64,
    pub slow: usize,
    pub flows: usize,
    pub partners: usize,
    /// What the flows of other nodes lose that lose little: their lower quartile, as up to half of them may be sick themselves.
    pub usual: f64,
}

impl Lossy {
    /// The share from which a flow counted as one that loses.
    pub fn least(&self) -> f64 {
        (TIMES * self.usual).max(LEAST)
    }
}

/// Below this share, congestion and tail-loss probes on a network that is well explain it.
const LEAST: f64 = 1e-3;
/// So many times as much as the others' flows.
const TIMES: f64 = 10.0;
/// Of a part's flows so many lose.
const MOST: f64 = 0.8;
/// Partners with whom it shows.
const PARTNERS: usize = 2;

/// Of the flows that no node of `named` explains, those that lose `least` or more, and how many there are.
pub fn unexplained(tests: &[LossTest], named: &[Lossy], least: f64) -> (usize, usize) {
    let left = tests.iter().filter(|t| named.iter().all(|l| l.node != t.from && l.node != t.to));
    left.fold((0, 0), |(losing, all), t| (losing + usize::from(t.share >= least), all + 1))
}

/// The nodes to blame, those first that explain most: what one explains says nothing of its partners. Where all flows lose alike,
/// it is nobody's own.
pub fn lossy(tests: &[LossTest]) -> Vec<Lossy> {
    let mut left: Vec<LossTest> = tests.to_vec();
    let mut out: Vec<Lossy> = Vec::new();
    while let Some(next) = most(&left) {
        left.retain(|t| {
            !(next.side != Side::Receives && t.from == next.node || next.side != Side::Sends && t.to == next.node)
        });
        out.push(next);
    }
    out
}

/// Of all parts the one that explains most flows.
fn most(tests: &[LossTest]) -> Option<Lossy> {
    let mut by_part: BTreeMap<(u32, bool), Vec<&LossTest>> = BTreeMap::new();
    for t in tests {
        by_part.entry((t.from, true)).or_default().push(t);
        by_part.entry((t.to, false)).or_default().push(t);
    }
    let little = |of: &dyn Fn(&LossTest) -> bool| {
        let mut shares: Vec<f64> = tests.iter().filter(|t| of(t)).map(|t| t.share).collect();
        shares.sort_by(f64::total_cmp);
        shares.get(shares.len() / 4).copied()
    };
    let of = |((node, sends), flows): (&(u32, bool), &Vec<&LossTest>)| {
        // Nobody else's flows, nothing to hold it against.
        let usual = little(&|t| t.from != *node && t.to != *node)?;
        let least = (TIMES * usual).max(LEAST);
        let loses = |t: &&&LossTest| t.share >= least;
        let losing: Vec<&&LossTest> = flows.iter().filter(loses).collect();
        let mut partners: Vec<u32> = losing.iter().map(|t| if *sends { t.to } else { t.from }).collect();
        partners.sort_unstable();
        partners.dedup();
        let enough = partners.len() >= PARTNERS && losing.len() as f64 >= MOST * flows.len() as f64;
        let share = stats::median(&losing.iter().map(|t| t.share).collect::<Vec<_>>());
        let side = if *sends { Side::Sends } else { Side::Receives };
        let (slow, flows, partners) = (losing.len(), flows.len(), partners.len());
        enough.then_some(Lossy { node: *node, side, share, slow, flows, partners, usual })
    };
    let parts: Vec<Lossy> = by_part.iter().filter_map(of).collect();
    let best = parts.iter().max_by(|a, b| a.slow.cmp(&b.slow).then(a.share.total_cmp(&b.share)))?;
    // Both ways of one node are one fault.
    let other = parts.iter().find(|p| p.node == best.node && p.side != best.side);
    Some(match other {
        None => best.clone(),
        Some(other) => Lossy {
            side: Side::Both,
            share: best.share.max(other.share),
            slow: best.slow + other.slow,
            flows: best.flows + other.flows,
            partners: best.partners.max(other.partners),
            ..best.clone()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::localise::circle;
    use proptest::prelude::*;

    /// Three rounds among `n` nodes, each way at `share(from, to)`.
    fn measure(n: u32, share: impl Fn(u32, u32) -> f64) -> Vec<LossTest> {
        let both = |(a, b): (u32, u32)| [(a, b), (b, a)];
        let flows = circle(n).into_iter().take(3).flatten().flat_map(both);
        flows.map(|(from, to)| LossTest { from, to, share: share(from, to) }).collect()
    }

    fn named(found: &[Lossy]) -> Vec<(u32, Side)> {
        found.iter().map(|l| (l.node, l.side)).collect()
    }

    #[test]
    fn a_lossy_link_is_its_nodes_and_not_its_partners() {
        assert_eq!(named(&lossy(&measure(8, |a, b| if a == 3 || b == 3 { 0.01 } else { 0.0 }))), [(3, Side::Both)]);
        assert_eq!(named(&lossy(&measure(8, |_, b| if b == 3 { 0.005 } else { 1e-5 }))), [(3, Side::Receives)]);
        assert_eq!(named(&lossy(&measure(8, |a, _| if a == 3 { 0.005 } else { 1e-5 }))), [(3, Side::Sends)]);
        assert_eq!(named(&lossy(&measure(3, |a, b| if a == 2 || b == 2 { 0.01 } else { 0.0 }))), [(2, Side::Both)]);
    }

    #[test]
    fn what_all_lose_and_what_is_little_is_nobodys() {
        assert_eq!(lossy(&measure(8, |_, _| 0.02)), []);
        assert_eq!(lossy(&measure(8, |a, b| if a == 3 || b == 3 { 5e-4 } else { 0.0 })), []);
        // Two nodes alone: either of them.
        assert_eq!(lossy(&measure(2, |_, _| 0.02)), []);
        // One pair alone is a path, and no node.
        assert_eq!(lossy(&measure(8, |a, b| if a.min(b) == 0 && a.max(b) == 7 { 0.02 } else { 0.0 })), []);
    }

    proptest! {
        #[test]
        fn exactly_those_that_lose_are_named(n in 6u32..40, a in 0u32..40, b in 0u32..40, noise in 0.0f64..2e-4) {
            let bad = [a % n, b % n];
            let tests = measure(n, |from, to| if bad.contains(&from) || bad.contains(&to) { 0.012 } else { noise });
            let mut found: Vec<u32> = lossy(&tests).iter().map(|l| l.node).collect();
            let mut wanted = bad.to_vec();
            wanted.sort_unstable();
            wanted.dedup();
            found.sort_unstable();
            // Two that met have fewer other partners: one of them may be open, nobody else may be named.
            prop_assert!(found.iter().all(|f| wanted.contains(f)), "{found:?} of {wanted:?}");
            prop_assert!(!found.is_empty());
        }
    }
}
