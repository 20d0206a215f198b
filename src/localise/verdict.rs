//! What was made of all tests of a network: who is slow, by how much, and what nobody can tell.

use std::collections::{BTreeMap, HashSet};

use crate::localise::belief::{Belief, Side};
use crate::localise::crossing::Crossing;
use crate::localise::decode::{Decoded, is_unexplained, known};
use crate::localise::observed::Observed;
use crate::localise::recurrence::{self, Shown};
use crate::localise::uplinks::Uplink;
use crate::localise::{Hop, Pairs, Test};
use crate::measure::stats;

/// A share of the rate that is lost, 0 to 1, with its interval; 1 is dead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deficit {
    pub share: f64,
    pub low: f64,
    pub high: f64,
}

/// A node that is slow by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NodeFault {
    pub node: u32,
    pub side: Side,
    pub deficit: Deficit,
    /// Readings that show it, and how many there are of the slow side.
    pub slow: usize,
    pub readings: usize,
    /// Partners with which it shows.
    pub partners: usize,
}

/// A leaf whose uplinks are slow one way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeafFault {
    pub leaf: u32,
    /// Out of the leaf; else into it.
    pub up: bool,
    pub deficit: Deficit,
    pub readings: usize,
    pub nodes: usize,
}

/// One direction between two nodes that do well with others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairFault {
    pub from: u32,
    pub to: u32,
    pub deficit: Deficit,
    /// Tests that show it, and how many there are.
    pub slow: usize,
    pub tests: usize,
}

/// Why a node is neither blamed nor cleared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Open {
    /// It met so few partners that could show whether it is well.
    Untested { partners: usize },
    /// It may be slow: so many of its readings are, and it is that likely.
    Suspected { slow: usize, readings: usize, probability: f64 },
    /// It was slow again and again, and nothing explains it: it, or one of its partners, comes and goes.
    Recurring { slow: usize, tests: usize },
}

/// What was made of all tests.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    pub nodes: Vec<NodeFault>,
    pub leaves: Vec<LeafFault>,
    pub pairs: Vec<PairFault>,
    pub open: Vec<(u32, Open)>,
    /// Leaves that may be slow: too few rounds crossed their uplinks to tell others' traffic.
    pub open_leaves: Vec<LeafFault>,
    /// Slow readings that nothing explains, of all; and whether they are more than others' traffic is.
    pub unexplained: usize,
    pub readings: usize,
    pub uneven: bool,
    /// What the best class of pairs reaches, bytes per second.
    pub fastest: Option<f64>,
}

/// Log-odds from which a node is named, and a leaf: 9 to 1, by a model that gives others' traffic every benefit.
const NAMED: f64 = 2.2;
/// Rounds in which a leaf is slow before it is named: others may fill its uplinks for two.
const LEAF_ROUNDS: usize = 3;
/// Probability from which a node is not cleared.
const OPEN: f64 = 0.1;
/// Partners that a node must have met to be cleared, and to be blamed; with rounds as many.
pub(super) const PARTNERS: usize = 2;
/// Among more nodes than this there are more than two to ask; and tests that a partner did well in to show a fault.
const FEW: usize = 8;
const WITNESS: usize = 2;
/// Share of its tests from which a fault is there always.
const STEADY: f64 = 0.9;
/// Readings that a node is named by.
const READINGS: usize = 3;
/// Probability from which a pair is named. Its fault may have been away in one test of more than so many.
pub(super) const PAIR: f64 = 0.95;
const PAIR_MISSES: usize = 4;

/// The tests that are needed to name a pair: across leaves others may fill an uplink of either, again and again.
pub(super) const fn pair_tests(hop: Hop) -> usize {
    match hop {
        Hop::Intra => 3,
        Hop::Inter => 4,
    }
}

/// Tests that are slow for a node to be held for them; where they are quiet ones, with a likelihood of all slow ones by others' traffic
/// and noise below this.
const RECURS: usize = 2;
const HARDLY: f64 = 1e-3;
/// Probability from which a node that comes and goes is not cleared.
const GOES: f64 = 0.2;
/// Share of readings that others' traffic slows at most where a fabric is fit for a run.
const UNEVEN: f64 = 0.15;
/// And so many more: of few readings chance makes a share.
const UNEVEN_MORE: f64 = 3.0;

/// What is known of one node's tests.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// Partners with whom a slow node would have been seen to be slow, by sending and by receiving.
    cleared_by: [HashSet<u32>; 2],
    /// Partners that did well with others, and rounds, with slow readings that nobody else explains.
    slow_with: HashSet<u32>,
    slow_in: HashSet<u32>,
    /// The same without those whose way others use at that moment, as far as the other tests of the round show.
    alone_with: HashSet<u32>,
    alone_in: HashSet<u32>,
    pub slow: usize,
    pub readings: usize,
    /// It did well in a test with somebody.
    pub well: bool,
    /// Its tests by round.
    tests: BTreeMap<u32, Shown>,
}

impl Standing {
    /// Partners that could clear it, on the side that met fewer.
    pub fn partners(&self) -> usize {
        self.cleared_by[0].len().min(self.cleared_by[1].len())
    }

    /// Others' traffic over a leaf's uplinks comes and goes as well: who does has to be slow where nobody else is.
    fn confirmed(&self, duty: f64) -> bool {
        let (with, rounds) =
            if duty < STEADY { (&self.alone_with, &self.alone_in) } else { (&self.slow_with, &self.slow_in) };
        with.len() >= PARTNERS && rounds.len() >= PARTNERS
    }

    /// How many tests are slow, where that is more than others' traffic explains: two of them while few others were at work, or all of
    /// its tests together look like a fault that comes and goes. `nodes` is how many nodes there are.
    pub fn recurs(&self, nodes: usize) -> Option<usize> {
        let slow = || self.tests.values().filter(|t| t.is_slow());
        let again = slow().filter(|t| t.quiet).count() >= RECURS && recurrence::coincidence(slow(), nodes) < HARDLY;
        let goes = slow().count() >= RECURS && recurrence::probability(self.tests.values(), nodes) > GOES;
        (again || goes).then(|| slow().count())
    }
}

impl Decoded {
    /// `pairs` are those that are named.
    pub(super) fn standings(&self, pairs: &[PairFault]) -> Vec<Standing> {
        let mut out = vec![Standing::default(); self.nodes.len()];
        // Those alone that are named: what may be a pair's explains nothing yet.
        let pairs: HashSet<(u32, u32)> = pairs.iter().map(|p| (p.from, p.to)).collect();
        let crossing = Crossing::new(&self.leaf, &self.tests, |o| is_unexplained(&self.nodes, o));
        // With whom each was seen, and whether it did well.
        let mut seen: Vec<Vec<(u32, bool)>> = vec![Vec::new(); self.nodes.len()];
        for o in self.tests.iter().filter(|o| o.hidden == 0.0) {
            let well = !o.is_slow(0, 0.0) && !o.is_slow(1, 0.0);
            let [a, b] = o.ends;
            seen[a as usize].push((b, well));
            seen[b as usize].push((a, well));
        }
        out.iter_mut().zip(&seen).for_each(|(s, seen)| s.well = seen.iter().any(|(_, well)| *well));
        // A slow test counts against a node where its partner did well with others: twice, or each time. A fault misses a test now and
        // then, so that of many nodes who did well once may be sick.
        let few = self.nodes.len() <= FEW;
        let witness = |partner: u32, node: u32| {
            let others = || seen[partner as usize].iter().filter(|(with, _)| *with != node);
            let good = others().filter(|(_, well)| *well).count();
            good >= WITNESS || good > 0 && (few || good == others().count())
        };
        for o in &self.tests {
            for way in 0..2 {
                for (side, end) in [(0, way), (1, 1 - way)] {
                    let (node, partner) = (o.ends[end], o.ends[1 - end]);
                    let s = &mut out[node as usize];
                    let other = &self.nodes[partner as usize];
                    let covers = if side == 0 { other.side.receives() } else { other.side.sends() };
                    let hidden = if other.log_odds > 0.0 && covers { (other.deficit - o.hidden).max(0.0) } else { 0.0 };
                    let hidden = hidden.max(o.floor[way]);
                    let slow = o.is_slow(way, hidden);
                    s.readings += 1;
                    s.slow += usize::from(slow);
                    let unexplained = o.is_far_behind(way, hidden) && !pairs.contains(&(o.ends[way], o.ends[1 - way]));
                    let shows = hidden <= self.limit;
                    s.tests.entry(o.round).or_insert_with(|| Shown::new(o)).add(unexplained, shows);
                    if slow && witness(partner, node) {
                        s.slow_with.insert(partner);
                        s.slow_in.insert(o.round);
                        if !crossing.may_be_why(o) {
                            s.alone_with.insert(partner);
                            s.alone_in.insert(o.round);
                        }
                    }
                    // Behind a partner that is slower itself nobody is seen.
                    if shows || (o.residual[way].is_some_and(|y| -y <= self.limit)) {
                        s.cleared_by[side].insert(partner);
                    }
                }
            }
        }
        out
    }

    /// Whether a node is bad beyond doubt, by what is believed and by who showed it.
    pub(super) fn is_proven(&self, belief: &Belief, standing: &Standing) -> bool {
        belief.log_odds >= NAMED && standing.confirmed(belief.duty)
    }
}

fn probability(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

/// The share that a deficit in the logarithm is.
pub(super) fn share(log: f64) -> f64 {
    if log.is_finite() { (1.0 - (-log).exp()).clamp(0.0, 1.0) } else { 1.0 }
}

/// The middle of losses (in the logarithm), with its interval: of ranks where there are enough, else of their deviation.
fn middle(losses: &[f64], deviation: f64) -> Option<Deficit> {
    let finite: Vec<f64> = losses.iter().copied().filter(|l| l.is_finite()).collect();
    if finite.len() * 2 < losses.len() || finite.is_empty() {
        return (!losses.is_empty()).then_some(Deficit { share: 1.0, low: 1.0, high: 1.0 });
    }
    let s = stats::summary(&finite)?;
    // A median of n normal values scatters 1.25 times as much as their mean.
    let around = 2.0 * 1.25 * deviation / (finite.len() as f64).sqrt();
    let (low, high) = s.interval.unwrap_or((s.median - around, s.median + around));
    Some(Deficit { share: share(s.median), low: share(low), high: share(high) })
}

/// One direction of a test, and what it is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    /// As in [`Test::round`](crate::localise::Test).
    pub round: u32,
    pub from: u32,
    pub to: u32,
    /// Whether the test's second end sends.
    pub back: bool,
    /// Bytes per second; `None` where nothing arrived.
    pub rate: Option<f64>,
    /// What pairs of its class and round reach when nothing is wrong, bytes per second.
    pub reference: f64,
    /// Slower than noise explains.
    pub slow: bool,
}

impl Pairs {
    /// The verdict on everything measured so far.
    pub fn verdict(&self) -> Verdict {
        self.verdict_of(&self.decode())
    }

    /// The same, and what it rests on: every direction of every test, in the order measured.
    pub fn judged(&self) -> (Verdict, Vec<Held>) {
        let decoded = self.decode();
        (self.verdict_of(&decoded), held(decoded.tests))
    }

    pub(super) fn verdict_of(&self, decoded: &Decoded) -> Verdict {
        let mut verdict = Verdict { readings: 2 * decoded.tests.len(), fastest: decoded.fastest, ..Verdict::default() };
        verdict.pairs = pair_faults(decoded);
        let standings = decoded.standings(&verdict.pairs);
        let mut of: Vec<Vec<usize>> = vec![Vec::new(); self.nodes as usize];
        for (k, o) in decoded.tests.iter().enumerate() {
            o.ends.iter().for_each(|n| of[*n as usize].push(k));
        }
        verdict.leaves = decoded.uplinks.iter().filter(|u| is_sure(u)).map(leaf_fault).collect();
        let in_bad_leaf = |i: usize| verdict.leaves.iter().any(|l| l.leaf == self.leaf[i]);
        // Who is slow can clear nobody: two are asked for where there are two.
        let well = decoded.nodes.iter().zip(&standings).filter(|(b, s)| s.readings > 0 && b.log_odds <= 0.0).count();
        for (i, (belief, standing)) in decoded.nodes.iter().zip(&standings).enumerate() {
            let node = i as u32;
            let fault = (belief.log_odds > 0.0).then(|| fault(decoded, node, belief, &of[i], standing)).flatten();
            if let Some(fault) = fault.filter(|_| decoded.is_proven(belief, standing)) {
                verdict.nodes.push(fault);
                continue;
            }
            let p = probability(belief.log_odds);
            if p > OPEN && (belief.log_odds <= 0.0 || belief.deficit >= decoded.limit) {
                let (slow, readings) = (standing.slow, standing.readings);
                verdict.open.push((node, Open::Suspected { slow, readings, probability: p }));
            } else if let Some(slow) =
                standing.recurs(decoded.nodes.len()).filter(|_| !self.one_machine && fault.is_none())
            {
                verdict.open.push((node, Open::Recurring { slow, tests: standing.tests.len() }));
            } else if standing.partners() < PARTNERS.min(well.saturating_sub(1)) && fault.is_none() && !in_bad_leaf(i) {
                verdict.open.push((node, Open::Untested { partners: standing.partners() }));
            }
        }
        verdict.open_leaves = decoded.uplinks.iter().filter(|u| !is_sure(u)).map(leaf_fault).collect();
        verdict.unexplained = unexplained(decoded, &verdict.pairs);
        verdict.uneven = verdict.unexplained as f64 > UNEVEN * verdict.readings as f64 + UNEVEN_MORE;
        verdict
    }
}

/// Tests as the verdict reads them.
fn held(mut tests: Vec<Observed>) -> Vec<Held> {
    tests.sort_by_key(|o| o.round);
    let ways = |o: &Observed| {
        let (o, reference) = (*o, o.reference.exp());
        [0, 1].map(|way| Held {
            round: o.round,
            from: o.ends[way],
            to: o.ends[1 - way],
            back: way == 1,
            rate: o.residual[way].map(|y| (y + o.reference - o.excused[way]).exp()),
            reference,
            slow: o.is_slow(way, 0.0),
        })
    };
    tests.iter().flat_map(ways).collect()
}

pub(super) fn is_sure(u: &Uplink) -> bool {
    u.log_odds > NAMED && u.rounds >= LEAF_ROUNDS && u.nodes >= 2 && u.others >= 2
}

fn leaf_fault(u: &Uplink) -> LeafFault {
    let deficit = Deficit { share: share(u.deficit), low: share(u.low), high: share(u.high) };
    LeafFault { leaf: u.leaf, up: u.up, deficit, readings: u.readings, nodes: u.nodes }
}

/// What a node's readings say of its two sides, where it loses more than is ordinary.
fn fault(d: &Decoded, node: u32, belief: &Belief, of: &[usize], standing: &Standing) -> Option<NodeFault> {
    let side = |sending: bool| -> (Vec<f64>, usize, f64) {
        let mut all: Vec<f64> = Vec::new();
        let mut deviation: f64 = 0.0;
        for o in of.iter().map(|k| &d.tests[*k]) {
            let way = usize::from((o.ends[0] == node) != sending);
            let partner = &d.nodes[o.ends[usize::from(o.ends[0] == node)] as usize];
            let covers = if sending { partner.side.receives() } else { partner.side.sends() };
            let hidden = if partner.log_odds > 0.0 && covers { partner.deficit } else { 0.0 };
            let seen = o.hidden == 0.0 || o.is_slow(way, 0.0);
            if seen && hidden.max(o.floor[way]) < 0.7 * belief.deficit && o.explained < 0.5 {
                all.push(o.residual[way].map_or(f64::INFINITY, |y| o.hidden - y));
                deviation = deviation.max(o.deviation[way]);
            }
        }
        let least = (0.4 * belief.deficit.min(3.0)).max(d.limit / 2.0);
        let slow: Vec<f64> = all.iter().copied().filter(|l| *l >= least).collect();
        // A steady fault shows in all of its readings; one that comes and goes, in those where it is there.
        let n = all.len();
        (if slow.len() * 4 >= n * 3 { all } else { slow }, n, deviation)
    };
    let (sends, receives) = (side(true), side(false));
    let of_side = |s: &(Vec<f64>, usize, f64)| middle(&s.0, s.2);
    let is_slow = |s: &(Vec<f64>, usize, f64)| {
        s.0.len() >= 2 && 3 * s.0.len() >= s.1 && of_side(s).is_some_and(|m| m.share >= share(0.9 * d.limit))
    };
    let (out, back) = (is_slow(&sends), is_slow(&receives));
    let (side, losses, readings, deviation) = match (out, back) {
        (true, true) => (Side::Both, [sends.0, receives.0].concat(), sends.1 + receives.1, sends.2.max(receives.2)),
        (true, false) => (Side::Sends, sends.0, sends.1, sends.2),
        (false, true) => (Side::Receives, receives.0, receives.1, receives.2),
        // Too few on either side alone.
        (false, false) => (belief.side, [sends.0, receives.0].concat(), sends.1 + receives.1, sends.2.max(receives.2)),
    };
    let deficit = middle(&losses, deviation)?;
    let steady = losses.len() * 4 >= readings * 3;
    // Who is slow always and yet did well in a test takes one more witness, where there are more: where most are sick, one that is well
    // meets few others, and somebody sick passes for well by a test that its fault missed.
    let doubtful = steady && d.nodes.len() > FEW && standing.well && standing.slow_with.len() <= PARTNERS;
    if deficit.share < share(d.limit) || losses.len() < READINGS || doubtful {
        return None;
    }
    Some(NodeFault { node, side, deficit, slow: losses.len(), readings, partners: standing.slow_with.len() })
}

/// Directions of pairs that were slow in as good as all of their tests, between nodes that do well with others.
pub(super) fn pair_faults(d: &Decoded) -> Vec<PairFault> {
    let mut ways: BTreeMap<(u32, u32), Vec<&Observed>> = BTreeMap::new();
    for o in &d.tests {
        let pair = (o.ends[0].min(o.ends[1]), o.ends[0].max(o.ends[1]));
        if d.pairs.get(&pair).is_some_and(|p| *p > PAIR) {
            ways.entry(pair).or_default().push(o);
        }
    }
    let mut out = Vec::new();
    for ((a, b), tests) in ways {
        for (from, to) in [(a, b), (b, a)] {
            let way = |o: &&Observed| usize::from(o.ends[0] != from);
            let slow = tests.iter().filter(|o| o.is_slow(way(o), known(&d.nodes, o, way(o))));
            let losses: Vec<f64> = slow.map(|o| o.residual[way(o)].map_or(f64::INFINITY, |y| -y)).collect();
            let deviation = tests.iter().map(|o| o.deviation[way(o)]).fold(0.0, f64::max);
            let missed = tests.len() - losses.len();
            if losses.len() >= pair_tests(tests[0].hop)
                && PAIR_MISSES * missed < tests.len()
                && let Some(deficit) = middle(&losses, deviation)
            {
                out.push(PairFault { from, to, deficit, slow: losses.len(), tests: tests.len() });
            }
        }
    }
    out
}

/// Slow readings that no leaf, node or pair explains.
fn unexplained(d: &Decoded, pairs: &[PairFault]) -> usize {
    let one = |o: &Observed, way: usize| {
        let (from, to) = (o.ends[way], o.ends[1 - way]);
        let pair = pairs.iter().any(|p| (p.from, p.to) == (from, to));
        // A node that is suspected may be why.
        let suspected = o.ends.iter().any(|n| d.nodes[*n as usize].log_odds > 0.0);
        !pair && !suspected && o.is_slow(way, known(&d.nodes, o, way))
    };
    d.tests.iter().map(|o| usize::from(one(o, 0)) + usize::from(one(o, 1))).sum()
}

/// Rates of pairs under full load and at low concurrency, bytes per second; absent where too few were measured for an
/// interval.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fabric {
    pub intra: Option<Rate>,
    pub inter: Option<Rate>,
    pub inter_quiet: Option<Rate>,
}

/// A median with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Pairs {
    /// The rates that tell an oversubscribed fabric from slow nodes.
    ///
    /// Within leaves every reading counts: no uplink is in it, however many pairs there are. Across leaves and quiet those between cleared nodes
    /// do; where they are too few for an interval, the faster half of all: faults only slow things down.
    pub fn fabric(&self) -> Fabric {
        let rates = |wanted: &dyn Fn(&Test) -> bool| -> Vec<f64> {
            let of = self.tests.iter().filter(|t| wanted(t)).flat_map(|t| [t.out, t.back]);
            of.filter_map(crate::localise::Reading::rate).collect()
        };
        let rate = |rates: &[f64]| {
            let s = stats::summary(rates)?;
            s.interval.map(|(low, high)| Rate { median: s.median, low, high })
        };
        let across = |t: &Test| self.hop(t.a, t.b) == Hop::Inter;
        let faster = || {
            let mut all = rates(&|t| across(t) && t.quiet);
            all.sort_by(f64::total_cmp);
            rate(&all[all.len() / 2..])
        };
        Fabric {
            intra: rate(&rates(&|t| !across(t))),
            inter: rate(&rates(&|t| across(t) && !t.quiet)),
            inter_quiet: rate(&rates(&|t| across(t) && t.quiet && t.control)).or_else(faster),
        }
    }
}
