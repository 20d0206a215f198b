//! Tests of pairs that missed a limit once, at ends that reach it with their other partners.
//!
//! A limit for pairs is held against each test, and somebody else's traffic or a placement of hashes slows some of them. Whether a node, a
//! pair or a leaf is why, the localiser tells by confirming; a single test is no proof of it.

use rustc_hash::FxHashMap;

use crate::id::NodeName;
use crate::judge::Cell;
use crate::judge::verdict::{Reason, Verdict};
use crate::work::{Metric, Way};

/// In so few of all tests: one in so many. What misses a limit more often is how the network is.
const RARE: usize = 10;

/// Who sent and who received.
fn ends<'r>(cell: &Cell<'r>) -> Option<(&'r NodeName, &'r NodeName)> {
    let row = cell.row();
    let [a, b] = row.group else { return None };
    match row.case.pair_way().filter(|_| cell.series.metric == Metric::Bandwidth)? {
        Way::Out => Some((a, b)),
        Way::Back => Some((b, a)),
        Way::Both => None,
    }
}

/// Tests of an end, as sender or as receiver, that reached the limit, and that missed it.
#[derive(Default)]
struct Tests {
    reached: usize,
    missed: usize,
}

fn missed(cell: &Cell<'_>) -> bool {
    matches!(cell.verdict, Verdict::Fail | Verdict::Inconclusive(Reason::TooFewSamples | Reason::VarianceTooHigh))
}

/// Warns of tests that missed their limit where both ends reached it, each in its direction, in two others at least and in most.
pub(super) fn judge(cells: &mut [Cell<'_>]) {
    let mut by_end: FxHashMap<(&str, &NodeName, bool), Tests> = FxHashMap::default();
    let mut all: FxHashMap<&str, Tests> = FxHashMap::default();
    for cell in cells.iter().filter(|c| c.has_limit() && !c.group().is_empty()) {
        let Some((from, to)) = ends(cell) else { continue };
        let (probe, missed) = (cell.row().probe, missed(cell));
        by_end.entry((probe, from, true)).or_default().add(missed);
        by_end.entry((probe, to, false)).or_default().add(missed);
        all.entry(probe).or_default().add(missed);
    }
    let rare = |probe: &str| all.get(probe).is_some_and(|t| t.missed * RARE <= t.missed + t.reached);
    let well = |probe: &str, end: &NodeName, sends: bool| {
        by_end.get(&(probe, end, sends)).is_some_and(|t| t.reached >= 2 && t.reached > t.missed)
    };
    let mut warned = Vec::new();
    for (i, cell) in cells.iter().enumerate().filter(|(_, c)| !c.group().is_empty() && missed(c)) {
        let probe = cell.row().probe;
        if ends(cell).is_some_and(|(from, to)| rare(probe) && well(probe, from, true) && well(probe, to, false)) {
            warned.push(i);
        }
    }
    for i in warned {
        cells[i].verdict = Verdict::Warn;
    }
}

impl Tests {
    fn add(&mut self, missed: bool) {
        if missed {
            self.missed += 1;
        } else {
            self.reached += 1;
        }
    }
}
