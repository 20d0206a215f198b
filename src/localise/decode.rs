//! Readings as residuals: the logarithm of a rate against the upper mode of its class, in deviations of that class.
//! Then what explains them, from the widest part to the narrowest: leaves, nodes, pairs.

use std::collections::BTreeMap;

use crate::localise::belief::{self, Belief};
use crate::localise::chance::{AGAIN, ALIKE, Lost, no_fault};
use crate::localise::observed::{LEAST_SLOW, Observed};
use crate::localise::reference::{self, LEAST_DEVIATION, Mode};
use crate::localise::uplinks::{self, Uplink};
use crate::localise::{Hop, Pairs, Reading, Test};
use crate::measure::stats::{self, MAD_SCALE};

/// Share of tests that others' traffic disturbs: with all nodes at once, and with few. They are the least that is
/// reckoned with; where the tests show more, that is taken.
const DISTURBED: f64 = 0.03;
const DISTURBED_QUIET: f64 = 0.005;
/// Of a class's tests at most so many can be others' traffic for a verdict to be worth anything.
const DISTURBED_MOST: f64 = 0.4;
/// Readings of a class in a round from which the round has its own reference.
const ROUND: usize = 24;
/// Tests in a round from which its own reference stands, whatever other rounds reached.
const MANY: usize = 64;
/// Control readings that make a reference of quiet tests.
const CONTROLS: usize = 4;
/// Share of pairs that are bad by themselves.
const PAIR_PRIOR: f64 = 3e-3;
/// Nodes up to which a pair that noise made slow is likely not picked to be measured again.
const PICKED_OF: usize = 256;
/// Logarithms of what is paid for a fault (its prior, its severity) and for a test that others disturb.
const FAULT_COSTS: f64 = 7.0;
const TEST_COSTS: f64 = 5.0;
/// By how much noise must be the better explanation: a cluster that is called noisy hides its faults.
const DOUBT: f64 = 1.3;
/// Log-odds of a node from which what is slow in a quiet test may be it.
const SUSPECTED: f64 = -4.0;
/// Probability that a node comes and goes half of the time; and that such a one is slow both ways in a test, or well both ways.
const COMES_AND_GOES: f64 = 1.5e-3;
const HALF_THE_TIME: f64 = 0.25;
/// A deficit below this (in the logarithm: 3.5 %) is no fault: healthy nodes differ by so much.
const LEAST_LIMIT: f64 = 0.0356;
/// The same where nodes are too few to show how much healthy ones differ: 7 %.
const LEAST_LIMIT_FEW: f64 = 0.0726;
const FEW_NODES: u32 = 8;
/// The same where nodes share one machine, whose cores carry all of their traffic: whoever the scheduler puts beside somebody
/// else stays a tenth behind for as long as it stays there (25 %). And the least deviation of a reading there.
const LEAST_LIMIT_SHARED: f64 = 0.288;
const SHARED_DEVIATION: f64 = 0.08;
/// Half of the rate is a fault however much nodes differ.
const SURELY: f64 = std::f64::consts::LN_2;
/// What is believed after all tests.
#[derive(Debug, Clone, Default)]
pub(super) struct Decoded {
    pub tests: Vec<Observed>,
    pub nodes: Vec<Belief>,
    /// Each node's leaf.
    pub leaf: Vec<u32>,
    pub uplinks: Vec<Uplink>,
    /// Probability that a pair with slow tests is bad by itself.
    pub pairs: BTreeMap<(u32, u32), f64>,
    /// Deficits below this, in the logarithm, are ordinary here.
    pub limit: f64,
    /// What the best class of pairs reaches, bytes per second.
    pub fastest: Option<f64>,
}

impl Pairs {
    pub(super) fn decode(&self) -> Decoded {
        let least = if self.one_machine { SHARED_DEVIATION } else { 0.0 };
        let decoded = self.decode_with(least);
        // Noise that both directions of a test share cannot be seen in their difference. Where it explains the tests at
        // less cost than faults and others' traffic do, it is what there is.
        match decoded.scatter().filter(|(middle, scatter)| decoded.costs() > DOUBT * decoded.noise(*middle, *scatter)) {
            Some((_, scatter)) => self.decode_with(scatter),
            None => decoded,
        }
    }

    /// `scatter` is the least deviation of a reading.
    fn decode_with(&self, scatter: f64) -> Decoded {
        let (mut tests, fastest) = self.observe(scatter);
        if tests.is_empty() {
            return Decoded { nodes: belief::none(self.nodes as usize), leaf: self.leaf.clone(), ..Decoded::default() };
        }
        let limit = self.limit(&tests);
        let least = if self.one_machine { limit } else { 0.0 };
        let (uplinks, filled) = uplinks::find(&mut tests, &self.leaf, least);
        // Of few pairs nobody sees that others fill a leaf's uplinks; they do so as often as under load. Two leaves lie on the way.
        let crossed = (1.0 - (1.0 - filled).powi(2)).min(DISTURBED_MOST);
        for o in tests.iter_mut().filter(|o| o.quiet && o.hop == Hop::Inter) {
            o.disturbed = o.disturbed.max(crossed);
        }
        let mut nodes = belief::beliefs(&tests, self.nodes as usize, limit);
        let more = disturb(&mut tests, &nodes);
        let pairs = explain_pairs(&mut tests, &nodes);
        if more || pairs.values().any(|p| *p > 0.2) {
            nodes = belief::beliefs(&tests, self.nodes as usize, limit);
        }
        Decoded { tests, nodes, leaf: self.leaf.clone(), uplinks, pairs, limit, fastest }
    }

    /// Every test against its class; and the fastest reference.
    fn observe(&self, scatter: f64) -> (Vec<Observed>, Option<f64>) {
        let mut classes: BTreeMap<(Hop, bool), Vec<&Test>> = BTreeMap::new();
        for t in &self.tests {
            // Of few nodes few are measured at a time in any round.
            let quiet = t.quiet && self.nodes > FEW_NODES;
            classes.entry((self.hop(t.a, t.b), quiet)).or_default().push(t);
        }
        let everything: Vec<&Test> = self.tests.iter().collect();
        let overall = noise(&everything).unwrap_or(LEAST_DEVIATION).max(scatter);
        let mode = |tests: &[&Test], least: f64| {
            let logs: Vec<[Option<f64>; 2]> = tests.iter().map(|t| logs(t)).collect();
            reference::upper_mode(&logs, least)
        };
        let of_all = mode(&everything, overall);
        let mut out = Vec::with_capacity(self.tests.len());
        let mut fastest: Option<f64> = None;
        let within = classes.get(&(Hop::Intra, false)).and_then(|tests| mode(tests, overall));
        for ((hop, quiet), class) in &classes {
            let own = if class.len() >= 8 { noise(class) } else { None };
            let least = own.unwrap_or(overall).max(scatter);
            let loaded = classes.get(&(*hop, false)).and_then(|tests| mode(tests, least));
            let pooled = if *quiet {
                let controls: Vec<&Test> = class.iter().copied().filter(|t| t.control).collect();
                quiet_mode(loaded, mode(&controls, least), mode(class, least))
            } else {
                loaded
            };
            // Where one node is in all tests of a class, its own slowness would be its measure.
            let shared = class.iter().fold(vec![class[0].a, class[0].b], |mut ends, t| {
                ends.retain(|n| *n == t.a || *n == t.b);
                ends
            });
            let pooled = pooled.filter(|m| m.of >= 4 && (shared.is_empty() || self.nodes < 3)).or(of_all);
            let mut rounds: BTreeMap<u32, Vec<&Test>> = BTreeMap::new();
            class.iter().for_each(|t| rounds.entry(t.round).or_default().push(t));
            for (round, tests) in rounds {
                let own = if !*quiet && 2 * tests.len() >= ROUND { mode(&tests, least) } else { None };
                // Chance may put all that is well elsewhere in a round of few tests.
                let lower = |m: &Mode| pooled.is_some_and(|p| tests.len() < MANY && m.at < p.at - 5.0 * m.deviation);
                let Some(mode) = own.filter(|m| !lower(m)).or(pooled) else { continue };
                let deviation = mode.deviation.max(least);
                fastest = Some(fastest.map_or(mode.at, |f| f.max(mode.at)));
                for t in tests {
                    out.push(Observed {
                        ends: [t.a, t.b],
                        round,
                        quiet: t.quiet,
                        hop: *hop,
                        reference: mode.at,
                        residual: logs(t).map(|l| l.map(|l| l - mode.at)),
                        excused: t.excused,
                        deviation: [deviation; 2],
                        floor: [0.0; 2],
                        hidden: behind(within, &mode),
                        disturbed: if t.quiet { DISTURBED_QUIET } else { DISTURBED },
                        explained: 0.0,
                    });
                }
            }
        }
        (out, fastest.map(f64::exp))
    }

    /// The least deficit that is a fault, in the logarithm: more than healthy nodes differ by.
    fn limit(&self, tests: &[Observed]) -> f64 {
        let mut of: Vec<Vec<f64>> = vec![Vec::new(); self.nodes as usize];
        for o in tests {
            for end in o.ends {
                of[end as usize].extend(o.residual.iter().flatten());
            }
        }
        let middles: Vec<f64> = of.iter().filter(|y| !y.is_empty()).map(|y| stats::median(y)).collect();
        let above: Vec<f64> = middles.iter().copied().filter(|m| *m > 0.0).collect();
        let each = of.iter().map(Vec::len).max().unwrap_or(1).max(1) as f64;
        let chance = tests.iter().map(|o| o.deviation[0]).fold(0.0, f64::max) / each.sqrt();
        let spread = if above.len() >= FEW_NODES as usize { MAD_SCALE * stats::median(&above) } else { chance };
        let least = match self.nodes {
            _ if self.one_machine => LEAST_LIMIT_SHARED,
            n if n < FEW_NODES => LEAST_LIMIT_FEW,
            _ => LEAST_LIMIT,
        };
        (ALIKE * spread).max(least).min(SURELY)
    }
}

/// What a class stays behind pairs within leaves, where the two stand apart.
fn behind(within: Option<Mode>, mode: &Mode) -> f64 {
    let gap = within.map_or(0.0, |w| w.at - mode.at);
    if gap > (5.0 * mode.deviation).max(LEAST_SLOW) { gap } else { 0.0 }
}

/// The reference of quiet tests: the controls', which the far more numerous loaded tests make certain where both agree.
fn quiet_mode(loaded: Option<Mode>, controls: Option<Mode>, class: Option<Mode>) -> Option<Mode> {
    let controls = controls.filter(|c| c.of >= CONTROLS);
    match (loaded, controls) {
        (Some(l), Some(c)) => {
            let apart = 4.0 * c.deviation / (c.of as f64).sqrt() + 0.01;
            // Few pairs at a time are never slower than many: controls that are cross something slow themselves.
            Some(if c.at < l.at + apart { Mode { deviation: l.deviation.max(c.deviation), ..l } } else { c })
        }
        (None, Some(c)) => Some(c),
        // Few against few: whatever is faster shows what can be reached.
        (Some(l), None) => Some(class.filter(|c| c.at > l.at + 5.0 * l.deviation).unwrap_or(l)),
        (None, None) => class,
    }
}

/// What each way reached, in the logarithm, but for what it is excused for.
fn logs(t: &Test) -> [Option<f64>; 2] {
    [(t.out, t.excused[0]), (t.back, t.excused[1])].map(|(r, excused)| match r {
        Reading::Rate(v) if v > 0.0 => Some(v.ln() + excused),
        Reading::Rate(_) | Reading::Failed => None,
    })
}

fn noise(tests: &[&Test]) -> Option<f64> {
    let both = |t: &&Test| match logs(t) {
        [Some(out), Some(back)] => Some(out - back),
        _ => None,
    };
    reference::deviation(&tests.iter().filter_map(both).collect::<Vec<f64>>())
}

/// What nodes that are believed bad take from each way of a test, in the logarithm.
pub(super) fn known(nodes: &[Belief], o: &Observed, way: usize) -> f64 {
    let (from, to) = (&nodes[o.ends[way] as usize], &nodes[o.ends[1 - way] as usize]);
    let of = |b: &Belief, hit: bool| if hit && b.log_odds > 0.0 { (b.deficit - o.hidden).max(0.0) } else { 0.0 };
    of(from, from.side.sends()).max(of(to, to.side.receives()))
}

/// Whether a way of a test is slower than what is known of its nodes explains.
pub(super) fn is_unexplained(nodes: &[Belief], o: &Observed) -> bool {
    (0..2).any(|way| o.is_slow(way, known(nodes, o, way)))
}

/// Takes what the tests show of others' traffic for its share, where that is more than what is reckoned with anyway.
fn disturb(tests: &mut [Observed], nodes: &[Belief]) -> bool {
    let mut more = false;
    let mut times: BTreeMap<[u32; 2], usize> = BTreeMap::new();
    let pair = |o: &Observed| [o.ends[0].min(o.ends[1]), o.ends[0].max(o.ends[1])];
    tests.iter().for_each(|o| *times.entry(pair(o)).or_default() += 1);
    for quiet in [false, true] {
        let (mut all, mut slow) = (0usize, 0usize);
        for o in tests.iter().filter(|o| o.quiet == quiet) {
            let blamed = (0..2).any(|way| known(nodes, o, way) > 0.0 || o.floor[way] > 0.0);
            // A pair that suspects share, or that was picked because it was slow, says nothing about others.
            let picked =
                quiet && (times[&pair(o)] > 1 || o.ends.iter().any(|n| nodes[*n as usize].log_odds > SUSPECTED));
            if !blamed && !picked {
                all += 1;
                slow += usize::from((0..2).any(|way| o.is_slow(way, 0.0)));
            }
        }
        let expected = if quiet { DISTURBED_QUIET } else { DISTURBED } * all as f64;
        if slow as f64 > expected + 3.0 * expected.sqrt() + 1.0 {
            let share = (slow as f64 / all as f64).min(DISTURBED_MOST);
            tests.iter_mut().filter(|o| o.quiet == quiet).for_each(|o| o.disturbed = share.max(o.disturbed));
            more = true;
        }
    }
    more
}

/// A node's test: with whom, in ascending order, and what it lost where it was slow.
type Met = ((u32, u32), Option<Lost>);

/// Pairs whose every test is slow though neither node explains it.
fn explain_pairs(tests: &mut [Observed], nodes: &[Belief]) -> BTreeMap<(u32, u32), f64> {
    let mut of: BTreeMap<(u32, u32), Vec<usize>> = BTreeMap::new();
    let ends = |o: &Observed| (o.ends[0].min(o.ends[1]), o.ends[0].max(o.ends[1]));
    // Each node's, whatever explains what it lost.
    let mut met: Vec<Vec<Met>> = vec![Vec::new(); nodes.len()];
    let bare = |o: &Observed| (0..2).any(|w| o.is_slow(w, 0.0));
    for (k, o) in tests.iter().enumerate() {
        of.entry(ends(o)).or_default().push(k);
        // Behind a slow leaf, or with a node that is slow itself, nobody is seen to be well or slow.
        let well = |n: u32| nodes[n as usize].log_odds <= 0.0;
        let seen = |end: &usize| o.floor == [0.0; 2] && o.hidden == 0.0 && well(o.ends[1 - end]);
        for end in [0, 1].into_iter().filter(seen) {
            met[o.ends[end] as usize].push((ends(o), bare(o).then(|| o.lost())));
        }
    }
    let mut out = BTreeMap::new();
    for (pair, of) in of {
        // Between nodes that are slow only with each other a deficit that both share is the pair's: of the tests of each with others, how
        // many there are, and what the slow ones lost.
        let apart = [pair.0, pair.1].map(|n| {
            let others = || met[n as usize].iter().filter(|(with, _)| *with != pair);
            (others().count(), others().filter_map(|(_, lost)| *lost).collect::<Vec<_>>())
        });
        let elsewhere_well = apart.iter().all(|(tests, slow)| *tests > 0 && 2 * slow.len() < *tests);
        // A way between the two, whoever is named first in a test, is slow in every test or it is not the pair's.
        let ways = |o: &Observed| [0, 1].map(|w| o.is_slow(if o.ends[0] == pair.0 { w } else { 1 - w }, 0.0));
        let ever = of.iter().map(|k| ways(&tests[*k])).fold([false; 2], |a, w| [a[0] || w[0], a[1] || w[1]]);
        let hit = |k: &usize| {
            let o = &tests[*k];
            if elsewhere_well { bare(o) && ways(o) == ever } else { is_unexplained(nodes, o) }
        };
        if !of.iter().any(hit) {
            continue;
        }
        let n = of.iter().filter(|k| hit(k)).count() as i32;
        let well = of.len() as f64 - f64::from(n);
        let hits: Vec<&Observed> = of.iter().filter(|k| hit(k)).map(|k| &tests[*k]).collect();
        let lost: Vec<Lost> = hits.iter().map(|o| o.lost()).collect();
        let tests_by = hits.iter().map(|o| (o.disturbed * 0.5, o.lost().by_noise()));
        let chance = no_fault(tests_by, &lost, PICKED_OF, nodes.len());
        let usual = Lost::middle(&lost);
        let of_node = |i: usize| {
            let (tests, slow) = &apart[i];
            let believed = 1.0 / (1.0 + (-nodes[[pair.0, pair.1][i] as usize].log_odds).exp());
            // A node that comes and goes would have to be well with others, both ways, and choose this partner; what else
            // of it is slow needs no reason of its own then, the less where it loses the same.
            let same = slow.iter().filter(|lost| lost.is_like(usual)).count();
            let goes = COMES_AND_GOES
                * HALF_THE_TIME.powi(n + (tests - slow.len()) as i32)
                * (0.5 / DISTURBED).powi(slow.len() as i32)
                * AGAIN.powi(-(same as i32));
            if elsewhere_well { goes } else { believed }
        };
        let otherwise = (chance + of_node(0) + of_node(1)).min(1.0);
        let log_odds = PAIR_PRIOR.ln() - 0.3 * f64::from(n) - 4.0 * well - otherwise.ln();
        let p = 1.0 / (1.0 + (-log_odds).exp());
        // One test of a pair is what others' traffic looks like, and reckoned with.
        if of.len() > 1 {
            of.iter().for_each(|k| tests[*k].explained = p);
        }
        out.insert(pair, p);
    }
    out
}

impl Decoded {
    fn middles(&self) -> Vec<f64> {
        let both = |o: &Observed| o.residual[0].zip(o.residual[1]).map(|(a, b)| (a + b) / 2.0);
        self.tests.iter().filter_map(both).collect()
    }

    /// Middle and standard deviation of a test's residual if nothing were wrong; `None` where it is no more than its
    /// directions'.
    fn scatter(&self) -> Option<(f64, f64)> {
        let (middle, scatter) = stats::robust(&self.middles())?;
        let used = stats::median(&self.tests.iter().map(|o| o.deviation[0]).collect::<Vec<f64>>());
        (scatter > 1.5 * used).then_some((middle, scatter))
    }

    /// What the faults that are believed, and the tests that none explains, cost in likelihood.
    fn costs(&self) -> f64 {
        let faults = self.nodes.iter().filter(|b| b.log_odds > 0.0).count() + self.uplinks.len();
        let unexplained = |o: &&Observed| is_unexplained(&self.nodes, o);
        FAULT_COSTS * faults as f64 + TEST_COSTS * self.tests.iter().filter(unexplained).count() as f64
    }

    /// What it costs to call everything noise of `scatter`: a wider bell for every test, and what lies outside it.
    fn noise(&self, middle: f64, scatter: f64) -> f64 {
        let outside = |y: &f64| {
            let z = (y - middle) / scatter;
            let far = 2.5 * (1.0 + z * z / 4.0).ln();
            // Others' traffic makes a test slower, never faster.
            if z < 0.0 { far.min(TEST_COSTS) } else { far }
        };
        let wider: f64 = self.tests.iter().map(|o| (scatter / o.deviation[0]).ln().max(0.0)).sum();
        wider + self.middles().iter().map(outside).sum::<f64>()
    }
}
