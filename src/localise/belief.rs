//! Belief about nodes from noisy amounts.
//!
//! A node is well, or its sending side, its receiving side or both lose a share of the rate, always or in a share of its
//! tests (its duty). A reading is the least of what the parts of its path leave: the largest deficit counts. Belief
//! travels along the tests until it settles (belief propagation: the graph of random pairs has few short circles), so that
//! a partner which is known to be slow explains a slow test, and two who only met each other share the blame.

use std::collections::BTreeMap;

use crate::localise::observed::{Observed, SLOWEST};
use crate::measure::stats;

/// Shares of the rate that are lost, at which a node's severity is looked for. The last one is dead: no reading at all.
const SEVERITIES: [f64; 14] = [0.035, 0.05, 0.07, 0.095, 0.125, 0.165, 0.22, 0.29, 0.38, 0.49, 0.62, 0.76, 0.9, 0.95];
const G: usize = SEVERITIES.len() + 1;
const DEAD: usize = G;
/// Shares of tests in which a fault shows, with their share of faults.
const DUTIES: [(f64, f64); 3] = [(0.99, 0.8), (0.5, 0.15), (0.2, 0.05)];
/// Share of tests that any fault misses, both ways: even a steady one is away now and then.
const MISSES: f64 = 0.01;
/// Which side is slow, with its share of faults: a NIC, a cable or a CPU slows both.
const SIDES: [(Side, f64); 3] = [(Side::Both, 0.6), (Side::Sends, 0.2), (Side::Receives, 0.2)];
/// States of a node besides being well.
const STATES: usize = SIDES.len() * DUTIES.len() * G;
/// Share of nodes that are bad before anything is known (SuperBench, GREYHOUND: 0.5 to 2 %).
const PRIOR: f64 = 0.01;
/// How well a disturbed test fits, against a test that a fault explains to the point: the amount that others' traffic
/// takes is unknown, but two flows over one link take half each, as a fault may.
const DISTURBED: f64 = 0.15;
/// A connection that fails though nothing is dead, and a reading over something dead.
const FAILS: f64 = 2e-3;
const REVIVES: f64 = 1e-6;
/// Share of disturbed tests that break off.
const DISTURBED_FAILS: f64 = 0.2;
/// Rounds in which belief travels.
const SWEEPS: usize = 8;
/// Share of a new message that counts: short circles of few nodes must not swing.
const STEP: f64 = 0.7;
/// What moves by less than this (in log-odds) moves nobody else; and belief has settled when nothing moves by more than that.
const CALM: f64 = 0.01;
const SETTLED: f64 = 0.05;
/// A partner that is bad less likely than this explains nothing.
const WELL: f64 = 1e-3;

/// Which way a node is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    Both,
    Sends,
    Receives,
}

impl Side {
    pub const fn sends(self) -> bool {
        !matches!(self, Side::Receives)
    }

    pub const fn receives(self) -> bool {
        !matches!(self, Side::Sends)
    }
}

/// What is believed of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Belief {
    /// Natural logarithm of P(it loses at least the limit) / P(it does not).
    pub log_odds: f64,
    pub side: Side,
    /// What it most likely loses, in the logarithm; infinite where it is dead.
    pub deficit: f64,
    /// Share of its tests in which it shows.
    pub duty: f64,
}

/// A node of which every test is as it should be.
const NOTHING: Belief = Belief { log_odds: -20.0, side: Side::Both, deficit: 0.0, duty: 1.0 };

/// Beliefs about nodes that were not tested.
pub(super) fn none(nodes: usize) -> Vec<Belief> {
    vec![NOTHING; nodes]
}

/// How well one direction of a test fits each deficit (index 0: none), undisturbed and disturbed. The best fit is 1.
struct Fit {
    plain: [f64; G + 1],
    disturbed: [f64; G + 1],
    /// Disturbed together with the other direction: what slows both for a moment leaves neither as it was.
    together: [f64; G + 1],
}

/// How often others' traffic that slows both directions takes so little from one of them that noise hides it.
const HARDLY: f64 = 0.1;

/// Student's t with four degrees of freedom, its peak 1: tails that real readings have.
fn bell(z: f64) -> f64 {
    let w = 1.0 + z * z / 4.0;
    1.0 / (w * w * w.sqrt())
}

fn grid(g: usize) -> f64 {
    match g {
        0 => 0.0,
        DEAD => f64::INFINITY,
        g => -(1.0 - SEVERITIES[g - 1]).ln(),
    }
}

impl Fit {
    fn new(o: &Observed, way: usize) -> Self {
        let (y, floor, own) = (o.seen(way), o.floor[way], o.deviation[way]);
        let (mut plain, mut disturbed, mut together) = ([0.0; G + 1], [0.0; G + 1], [0.0; G + 1]);
        for g in 0..=G {
            let deficit = (grid(g) - o.hidden).max(floor);
            // A step of the grid is as wide as the deficit it stands for is uncertain.
            let wide = if g > 0 && g < DEAD { own.hypot(0.12 * grid(g)) } else { own };
            (plain[g], disturbed[g], together[g]) = match (y, g == DEAD) {
                (None, true) => (1.0, DISTURBED_FAILS, DISTURBED_FAILS),
                (None, false) => (FAILS, DISTURBED_FAILS, DISTURBED_FAILS),
                (Some(_), true) => (REVIVES, REVIVES, REVIVES),
                (Some(y), false) => {
                    let z = (y + deficit) / wide;
                    let fits = bell(z);
                    let seen = HARDLY + (1.0 - HARDLY) * ((-z - 1.0) / 2.0).clamp(0.0, 1.0);
                    if z < 0.0 { (fits, 1.0, seen) } else { (fits, fits, HARDLY * fits) }
                }
            };
        }
        Fit { plain, disturbed, together }
    }
}

/// How well a test fits deficits on its way out and back, by their place in the grid.
struct Table([[f64; G + 1]; G + 1]);

impl Table {
    fn new(o: &Observed) -> Self {
        let (out, back) = (Fit::new(o, 0), Fit::new(o, 1));
        let q = o.disturbed;
        let mut table = [[0.0; G + 1]; G + 1];
        for (i, row) in table.iter_mut().enumerate() {
            for (j, cell) in row.iter_mut().enumerate() {
                let (po, pb, co, cb) = (out.plain[i], back.plain[j], out.disturbed[i], back.disturbed[j]);
                // Others' traffic mostly slows both directions of the moment.
                let both = out.together[i] * back.together[j];
                let disturbed = DISTURBED * (0.8 * both + 0.1 * co * pb + 0.1 * po * cb);
                let fits = (1.0 - q) * po * pb + q * disturbed;
                *cell = (1.0 - o.explained) * fits + o.explained * DISTURBED;
            }
        }
        Table(table)
    }
}

/// Weights of what a node does to a test: nothing, to its way out, to its way back, to both.
struct Weights {
    none: f64,
    out: [f64; G + 1],
    back: [f64; G + 1],
    both: [f64; G + 1],
}

const WELL_KNOWN: Weights = Weights { none: 1.0, out: [0.0; G + 1], back: [0.0; G + 1], both: [0.0; G + 1] };

fn state(side: usize, duty: usize, g: usize) -> usize {
    (side * DUTIES.len() + duty) * G + g - 1
}

/// The way of a test (0 out, 1 back) that an end's sending side bears; its receiving side bears the other.
fn sends_on(end: usize) -> usize {
    end
}

impl Weights {
    /// From log-odds of the states against being well.
    fn of(states: &[f64; STATES], end: usize) -> Self {
        let most = states.iter().copied().fold(0.0, f64::max);
        let well = (-most).exp();
        let total = well + states.iter().map(|s| (s - most).exp()).sum::<f64>();
        if 1.0 - well / total < WELL {
            return WELL_KNOWN;
        }
        let mut w = Weights { none: well / total, ..WELL_KNOWN };
        for (s, (side, _)) in SIDES.iter().enumerate() {
            for (d, (duty, _)) in DUTIES.iter().enumerate() {
                for g in 1..=G {
                    let p = (states[state(s, d, g)] - most).exp() / total;
                    let (one, none) = (duty * p, (1.0 - duty) * p);
                    match (side, sends_on(end)) {
                        (Side::Both, _) => {
                            w.both[g] += duty * one;
                            w.out[g] += duty * none;
                            w.back[g] += duty * none;
                            w.none += (1.0 - duty) * none;
                        }
                        (Side::Sends, 0) | (Side::Receives, 1) => {
                            w.out[g] += one;
                            w.none += none;
                        }
                        (Side::Sends | Side::Receives, _) => {
                            w.back[g] += one;
                            w.none += none;
                        }
                    }
                }
            }
        }
        w
    }

    fn is_well(&self) -> bool {
        self.none == 1.0
    }

    /// How well a test fits when this end does what it does by weight and the other adds `i` out and `j` back.
    fn fit(&self, table: &Table, i: usize, j: usize) -> f64 {
        let t = &table.0;
        let mut sum = self.none * t[i][j];
        if self.is_well() {
            return sum;
        }
        for g in 1..=G {
            let (out, back) = (i.max(g), j.max(g));
            sum += self.out[g] * t[out][j] + self.back[g] * t[i][back] + self.both[g] * t[out][back];
        }
        sum
    }
}

/// What a test says of each state of one end: log-odds against being well.
fn message(table: &Table, partner: &Weights, end: usize) -> [f64; STATES] {
    let well = partner.fit(table, 0, 0).max(1e-300);
    let mut out = [0.0; STATES];
    for g in 1..=G {
        let (o, b, both) = (partner.fit(table, g, 0), partner.fit(table, 0, g), partner.fit(table, g, g));
        let (sends, receives) = if sends_on(end) == 0 { (o, b) } else { (b, o) };
        for (s, (side, _)) in SIDES.iter().enumerate() {
            for (d, (duty, _)) in DUTIES.iter().enumerate() {
                let idle = 1.0 - duty;
                let fits = match side {
                    Side::Both => duty * duty * both + duty * idle * (o + b) + idle * idle * well,
                    Side::Sends => duty * sends + idle * well,
                    Side::Receives => duty * receives + idle * well,
                };
                let fits = (1.0 - MISSES) * fits + MISSES * well;
                out[state(s, d, g)] = (fits / well).ln();
            }
        }
    }
    out
}

fn prior() -> [f64; STATES] {
    let mut out = [0.0; STATES];
    for (s, (_, of_side)) in SIDES.iter().enumerate() {
        for (d, (_, of_duty)) in DUTIES.iter().enumerate() {
            for g in 1..=G {
                out[state(s, d, g)] = (PRIOR / (1.0 - PRIOR) * of_side * of_duty / G as f64).ln();
            }
        }
    }
    out
}

/// Whether a test is worth a closer look: slower than its noise, or broken off.
fn strikes(o: &Observed) -> bool {
    (0..2).any(|w| o.residual[w].is_none_or(|y| y + o.floor[w] < -2.2 * o.deviation[w]))
}

/// Nodes that have a slow test, or stay behind a little in all of them.
fn suspicious(tests: &[Observed], nodes: usize) -> Vec<bool> {
    let mut out = vec![false; nodes];
    // By sending and receiving side: the sum of residuals in deviations, of residuals, and their number.
    let mut sums = vec![[(0.0, 0.0, 0u32); 2]; nodes];
    for o in tests {
        let hit = strikes(o);
        for (end, node) in o.ends.iter().enumerate() {
            out[*node as usize] |= hit;
            for way in 0..2 {
                if let Some(y) = o.residual[way].map(|y| y + o.floor[way]) {
                    let s = &mut sums[*node as usize][usize::from(way != end)];
                    *s = (s.0 + y / o.deviation[way], s.1 + y, s.2 + 1);
                }
            }
        }
    }
    for (flag, sides) in out.iter_mut().zip(&sums) {
        *flag |= sides.iter().any(|(z, y, n)| *z < -0.8 * f64::from(*n) && *y < -0.02 * f64::from(*n));
    }
    out
}

/// Beliefs about `nodes` nodes; a deficit below `limit` (in the logarithm) is ordinary.
pub(super) fn beliefs(tests: &[Observed], nodes: usize, limit: f64) -> Vec<Belief> {
    let active = suspicious(tests, nodes);
    let mut all = none(nodes);
    let looked_at: Vec<&Observed> = tests.iter().filter(|o| o.ends.iter().any(|n| active[*n as usize])).collect();
    let tables: Vec<Table> = looked_at.iter().map(|o| Table::new(o)).collect();
    let prior = prior();
    let mut states: Vec<Option<Box<[f64; STATES]>>> = active.iter().map(|a| a.then(|| Box::new(prior))).collect();
    // What a test said to its two ends, and whether its partner was as good as well then.
    let mut said: Vec<[[f64; STATES]; 2]> = vec![[[0.0; STATES]; 2]; looked_at.len()];
    let mut settled = vec![[false; 2]; looked_at.len()];
    // How far each of these, and each node's states in this sweep and in the last, moved.
    let mut stepped = vec![[f64::INFINITY; 2]; looked_at.len()];
    let (mut stirs, mut stirred) = (vec![0.0f64; nodes], vec![f64::INFINITY; nodes]);
    for sweep in 0..SWEEPS {
        let mut moved: f64 = 0.0;
        for (k, o) in looked_at.iter().enumerate() {
            for end in 0..2 {
                let (node, other) = (o.ends[end] as usize, o.ends[1 - end] as usize);
                let calm = stepped[k][end] < CALM && stirs[other].max(stirred[other]) < CALM;
                if states[node].is_none() || calm {
                    continue;
                }
                // What the partner is believed to be without this test.
                let partner = states[other].as_ref().map_or(WELL_KNOWN, |s| {
                    let mut without = **s;
                    without.iter_mut().zip(&said[k][1 - end]).for_each(|(a, b)| *a -= b);
                    Weights::of(&without, 1 - end)
                });
                if settled[k][end] && partner.is_well() {
                    continue;
                }
                let new = message(&tables[k], &partner, end);
                let step = if sweep == 0 || partner.is_well() { 1.0 } else { STEP };
                settled[k][end] = partner.is_well();
                let Some(own) = states[node].as_mut() else { continue };
                let mut most: f64 = 0.0;
                for s in 0..STATES {
                    let change = step * (new[s] - said[k][end][s]);
                    said[k][end][s] += change;
                    own[s] += change;
                    most = most.max(change.abs());
                }
                (stepped[k][end], stirs[node], moved) = (most, stirs[node].max(most), moved.max(most));
            }
        }
        if moved < SETTLED {
            break;
        }
        (stirs, stirred) = (vec![0.0; nodes], stirs);
    }
    for (belief, states) in all.iter_mut().zip(&states) {
        if let Some(states) = states {
            *belief = conclude(states, limit);
        }
    }
    refine(&mut all, &looked_at);
    all
}

/// The deficit of each bad node by its own readings: the grid is coarser than they are.
fn refine(nodes: &mut [Belief], tests: &[&Observed]) {
    let mut losses: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for o in tests {
        for (end, node) in o.ends.iter().enumerate().filter(|_| o.hidden == 0.0) {
            let b = &nodes[*node as usize];
            if b.log_odds <= 0.0 || b.deficit.is_infinite() {
                continue;
            }
            for way in 0..2 {
                let own = if way == end { b.side.sends() } else { b.side.receives() };
                let near =
                    |loss: &f64| (loss.min(SLOWEST) - b.deficit).abs() < 0.3 * b.deficit + 2.0 * o.deviation[way];
                if own && let Some(loss) = o.residual[way].map(|y| -y).filter(near) {
                    losses.entry(*node).or_default().push(loss);
                }
            }
        }
    }
    for (node, losses) in losses {
        nodes[node as usize].deficit = stats::median(&losses);
    }
}

/// The belief that states amount to.
fn conclude(states: &[f64; STATES], limit: f64) -> Belief {
    let most = states.iter().copied().fold(0.0, f64::max);
    let (mut bad, mut well) = (0.0, (-most).exp());
    let mut sides = [0.0; SIDES.len()];
    let mut best = (f64::NEG_INFINITY, 0, 0, 1);
    for s in 0..SIDES.len() {
        for d in 0..DUTIES.len() {
            for g in 1..=G {
                let at = states[state(s, d, g)];
                let p = (at - most).exp();
                if grid(g) >= 0.8 * limit {
                    bad += p
                } else {
                    well += p
                }
                sides[s] += p;
                if at > best.0 {
                    best = (at, s, d, g);
                }
            }
        }
    }
    let side = (0..SIDES.len()).max_by(|a, b| sides[*a].total_cmp(&sides[*b])).unwrap_or(best.1);
    Belief {
        log_odds: (bad.max(1e-300) / well.max(1e-300)).ln().clamp(-60.0, 60.0),
        side: SIDES[side].0,
        deficit: grid(best.3),
        duty: DUTIES[best.2].0,
    }
}
