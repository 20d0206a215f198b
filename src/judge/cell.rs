//! One metric of one case of one node, judged.

use std::borrow::Cow;
use std::hash::Hash;

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use crate::baseline::{Expectation, Limit, Source, Weight};
use crate::cluster::Step;
use crate::id::NodeName;
use crate::judge::finding::Subject;
use crate::judge::verdict::{Reason, Verdict, verdict};
use crate::measure::stats::{self, Summary};
use crate::measure::{Load, Pace, Series};
use crate::record::OutcomeLine;
use crate::record::Record;
use crate::work::{Among, Better, Metric};
use crate::work::{Case, on_gpu};

/// Where an outcome belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row<'r> {
    pub node: &'r NodeName,
    pub probe: &'r str,
    pub step: &'r str,
    pub case: &'r Case,
    /// The group that did it together, `node` first; empty for a node alone.
    pub group: &'r [NodeName],
}

impl<'r> Row<'r> {
    pub(super) fn of(line: &'r OutcomeLine, groups: &Groups<'r>) -> Self {
        // Most records have no groups: nothing is looked up for them.
        let group = if groups.is_empty() { None } else { groups.get(&(&*line.step, &line.node)) };
        Row::among(line, group.copied().unwrap_or(&[]))
    }

    #[inline]
    fn among(line: &'r OutcomeLine, group: &'r [NodeName]) -> Self {
        Row { node: &line.node, probe: line.probe.as_str(), step: &line.step, case: &line.case, group }
    }

    /// Whether a GPU did it.
    pub(super) fn on_gpu(&self) -> bool {
        on_gpu(self.case)
    }

    /// The number of the GPU in its node, of a case of one GPU.
    pub fn gpu(&self) -> Option<u32> {
        self.case.gpu()
    }

    /// The node, or the group that did it together.
    pub fn subject(&self) -> Subject {
        if self.group.is_empty() { Subject::Node(self.node.clone()) } else { Subject::Group(self.group.to_vec()) }
    }
}

/// Groups of several nodes, by step and first node.
pub(super) type Groups<'r> = FxHashMap<(&'r str, &'r NodeName), &'r [NodeName]>;

pub(super) fn groups(record: &Record) -> Groups<'_> {
    record.steps.iter().flat_map(|s| s.together().map(move |g| ((s.name.as_str(), &g[0]), g))).collect()
}

/// A limit as a report shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitShown<'r> {
    /// In the metric's base unit.
    pub value: f64,
    pub source: Source,
    pub weight: Weight,
    pub provenance: Cow<'r, str>,
}

impl<'r> LimitShown<'r> {
    fn of(e: &Expectation, value: f64, provenance: Cow<'r, str>) -> Self {
        LimitShown { value, source: e.source, weight: e.weight, provenance }
    }
}

/// Beside whom something is slow: by that it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Straggler {
    /// A node beside the other nodes, by itself or with most of its GPUs.
    Node,
    /// A GPU beside those of its model.
    Gpu,
    /// A GPU in a slot that is slow on most nodes.
    Slot,
}

/// A judged metric. A large record has a million of them: each byte is a megabyte.
#[derive(Debug, Clone)]
pub struct Cell<'r> {
    /// The last attempt that counts.
    line: &'r OutcomeLine,
    /// As in its row.
    group: &'r [NodeName],
    pub series: &'r Series,
    /// Over the samples of all attempts that count; absent when a sample is not finite.
    pub summary: Option<Summary>,
    /// The expectation that it is held against as that stands: most limits of a large record are of few of them.
    expected: Option<&'r Expectation>,
    rare: Option<Box<Rare<'r>>>,
    /// Set where its peers decided.
    pub straggler: Option<Straggler>,
    pub verdict: Verdict,
}

/// What few cells have.
#[derive(Debug, Clone, Default)]
struct Rare<'r> {
    /// A limit of its own.
    limit: Option<LimitShown<'r>>,
    /// Where it was measured again.
    again: Option<Again<'r>>,
}

/// What there is to say of several attempts.
#[derive(Debug, Clone)]
struct Again<'r> {
    medians: Vec<f64>,
    load: Option<&'r Load>,
    pace: Option<&'r Pace>,
}

impl<'r> Again<'r> {
    fn of(used: &[Attempt<'r>], shown: &[Attempt<'r>]) -> Self {
        let some = used.iter().map(|a| on_core(a.series, &a.line.case)).filter(|s| used.len() > 1 && !s.is_empty());
        let load = shown.iter().filter_map(|a| a.line.load.as_deref());
        Again {
            medians: some.map(|s| stats::median(&s)).collect(),
            load: load.max_by(|a, b| (a.others_cores + a.steal_cores).total_cmp(&(b.others_cores + b.steal_cores))),
            pace: shown.iter().filter_map(|a| pace(a.line)).max_by(|a, b| a.taken().total_cmp(&b.taken())),
        }
    }
}

impl<'r> Cell<'r> {
    #[inline]
    pub fn row(&self) -> Row<'r> {
        Row::among(self.line, self.group)
    }

    /// The group of its row, for which the line is not looked at: of a million of them that is what takes the time.
    #[inline]
    pub fn group(&self) -> &'r [NodeName] {
        self.group
    }

    /// The limit that decided.
    pub fn limit(&self) -> Option<LimitShown<'_>> {
        if let Some(own) = self.rare.as_ref().and_then(|rare| rare.limit.as_ref()) {
            return Some(LimitShown { provenance: Cow::Borrowed(&own.provenance), ..*own });
        }
        let e = self.expected?;
        match e.limit {
            Limit::Value(value) => Some(LimitShown::of(e, value, Cow::Borrowed(&e.provenance))),
            Limit::ShareOfNominal(_) => None,
        }
    }

    pub fn has_limit(&self) -> bool {
        self.limit().is_some()
    }

    /// Held against what it is to reach as it stands, and not against what was before.
    fn expect(&mut self, e: &'r Expectation) {
        self.expected = Some(e);
        if let Some(rare) = &mut self.rare {
            rare.limit = None;
        }
    }

    pub(super) fn hold(&mut self, limit: LimitShown<'r>) {
        self.rare.get_or_insert_default().limit = Some(limit);
    }

    fn again(&self) -> Option<&Again<'r>> {
        self.rare.as_ref()?.again.as_ref()
    }

    /// The median of each attempt that counts; empty where only one does.
    pub fn attempts(&self) -> &[f64] {
        self.again().map_or(&[], |again| &again.medians)
    }

    /// The worst load during the attempts that count.
    pub fn load(&self) -> Option<&'r Load> {
        self.again().map_or(self.line.load.as_deref(), |again| again.load)
    }

    /// The slowest pace of a virtual machine's cores during them.
    pub fn pace(&self) -> Option<&'r Pace> {
        self.again().map_or_else(|| pace(self.line), |again| again.pace)
    }
}

/// So many cells are worth handing to another core.
const SHARE: usize = 1 << 14;

/// Positions of cells by what `key` says of them, in the order of first appearance; those of which it says nothing are left out.
pub fn by_key<'c, 'r, K: Hash + Eq + Clone + Send>(
    cells: &'c [Cell<'r>],
    key: impl Fn(&'c Cell<'r>) -> Option<K> + Sync,
) -> Vec<(K, Vec<u32>)> {
    let share = |(n, share): (usize, &'c [Cell<'r>])| {
        let mut out = Keys::default();
        for (cell, i) in share.iter().zip((n * SHARE) as u32..) {
            if let Some(key) = key(cell) {
                out.of(key).push(i);
            }
        }
        out.all
    };
    let shares: Vec<Vec<(K, Vec<u32>)>> = cells.par_chunks(SHARE).enumerate().map(share).collect();
    let mut out = Keys::default();
    for (key, positions) in shares.into_iter().flatten() {
        out.of(key).extend(positions);
    }
    out.all
}

/// Positions by key.
struct Keys<K> {
    all: Vec<(K, Vec<u32>)>,
    known: FxHashMap<K, usize>,
}

impl<K: Hash + Eq + Clone> Keys<K> {
    fn of(&mut self, key: K) -> &mut Vec<u32> {
        let at = *self.known.entry(key).or_insert_with_key(|key| {
            self.all.push((key.clone(), Vec::new()));
            self.all.len() - 1
        });
        &mut self.all[at].1
    }
}

impl<K> Default for Keys<K> {
    fn default() -> Self {
        Keys { all: Vec::new(), known: FxHashMap::default() }
    }
}

/// One attempt at a metric, with the line that tells it.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'r> {
    pub line: &'r OutcomeLine,
    pub series: &'r Series,
}

impl Attempt<'_> {
    fn is_busy(&self) -> bool {
        let load = self.line.load.as_deref();
        load.is_some_and(|l| is_busy(l) || by_kernel(l, &self.line.case)) || pace(self.line).is_some_and(is_taken)
    }
}

fn pace(line: &OutcomeLine) -> Option<&Pace> {
    line.outcome.measured()?.pace.as_deref()
}

/// The floor of a file system is divided by the nodes that share it, by so many at most.
const SHARED: f64 = 10.0;

/// Cores' worth of foreign time from which a slow result says nothing.
pub(super) const BUSY_CORES: f64 = 0.25;

/// A share of the cores' time from which the same holds. A clock under vector load, and looks of 20 ms, account for less.
const TAKEN: f64 = 0.15;

pub(super) fn is_busy(load: &Load) -> bool {
    load.others_cores > BUSY_CORES || load.steal_cores > BUSY_CORES
}

/// What only computes has no kernel threads that work for it: their time is others', too.
pub(super) fn by_kernel(load: &Load, case: &Case) -> bool {
    matches!(case, Case::Host { .. }) && load.others_system_cores > BUSY_CORES
}

/// Of a core by itself as of all: a share, as a host takes of each.
pub(super) fn is_taken(pace: &Pace) -> bool {
    pace.taken() > TAKEN
}

/// So much less of a core than in its best sample, and its thread stood aside for somebody.
const ASIDE: f64 = 0.9;
/// Fewer samples have no interval.
const ENOUGH: usize = 8;

/// The samples of one thread in which it was on its core, where enough of them are left: the others say how others used the core. Of
/// several threads all count: who waits for a slow core is off his own.
fn on_core<'r>(series: &'r Series, case: &Case) -> Cow<'r, [f64]> {
    let all = Cow::Borrowed(&series.samples[..]);
    let (Some(on), Case::Host { cores: 1, .. }) = (&series.on_cpu, case) else { return all };
    if on.len() != series.samples.len() {
        return all;
    }
    let least = ASIDE * f64::from(on.iter().copied().max().unwrap_or(0));
    let kept = series.samples.iter().zip(on).filter(|(_, on)| f64::from(**on) >= least);
    let kept: Vec<f64> = kept.map(|(sample, _)| *sample).collect();
    let enough = kept.len() >= ENOUGH && kept.len() < series.samples.len();
    if enough { Cow::Owned(kept) } else { all }
}

/// The share of the time that a metric's threads were on their cores, where that was told and is low.
pub(super) fn off_cores(series: &Series, case: &Case) -> Option<f64> {
    let (Some(on), Case::Host { cores, .. }) = (&series.on_cpu, case) else { return None };
    let shares: Vec<f64> = on.iter().map(|s| f64::from(*s) / 1000.0).collect();
    // Threads that share work wait for the last of them.
    let usual = if *cores == 1 { ASIDE } else { ASIDE - 0.2 };
    Some(stats::median(&shares)).filter(|share| !shares.is_empty() && *share < usual)
}

/// What a case is measured among.
pub(super) struct Place<'r> {
    pub among: Among<'r>,
    /// So many nodes did the same at the same time.
    pub at_once: f64,
}

/// The place of every step's cases.
pub(super) struct Places<'r> {
    by_step: FxHashMap<&'r str, Place<'r>>,
    nowhere: Place<'r>,
}

impl<'r> Places<'r> {
    pub(super) fn new(record: &'r Record) -> Self {
        let all = Among::all(record.steps.iter().flat_map(|s| &s.cases));
        let place =
            |s: &'r Step| Place { among: Among { step: &s.cases, ..all }, at_once: s.groups().count().max(1) as f64 };
        Places {
            by_step: record.steps.iter().map(|s| (s.name.as_str(), place(s))).collect(),
            nowhere: Place { among: all, at_once: 1.0 },
        }
    }

    pub(super) fn of(&self, step: &str) -> &Place<'r> {
        self.by_step.get(step).unwrap_or(&self.nowhere)
    }
}

/// Expectations by probe and metric: each metric is held against few of many.
pub(super) struct Limits<'r>(FxHashMap<(&'r str, Metric), Vec<&'r Expectation>>);

impl<'r> Limits<'r> {
    pub(super) fn new(all: &'r [Expectation]) -> Self {
        let mut out: FxHashMap<(&str, Metric), Vec<&Expectation>> = FxHashMap::default();
        for e in all {
            out.entry((e.probe.as_str(), e.metric)).or_default().push(e);
        }
        Limits(out)
    }

    fn of(&self, probe: &'r str, metric: Metric) -> &[&'r Expectation] {
        self.0.get(&(probe, metric)).map_or(&[], Vec::as_slice)
    }
}

/// Judges the series of one metric over attempts: those measured while the machine was quiet, if there are any.
pub(super) fn judge<'r>(
    row: Row<'r>,
    attempts: &[Attempt<'r>],
    limits: &Limits<'r>,
    clock_s: f64,
    place: &Place<'_>,
) -> Option<Cell<'r>> {
    let quiet: Cow<'_, [Attempt<'r>]> = if attempts.iter().any(Attempt::is_busy) {
        attempts.iter().filter(|a| !a.is_busy()).copied().collect()
    } else {
        Cow::Borrowed(attempts)
    };
    // A failure is confirmed by another quiet reading: what was disturbed when it was measured again confirms nothing.
    let unconfirmed = quiet.len() < 2 && quiet.len() < attempts.len();
    let used: &[Attempt<'r>] = if quiet.is_empty() { attempts } else { &quiet };
    let Attempt { line, series } = *used.last()?;
    let samples: Cow<'_, [f64]> = match used {
        [only] => on_core(only.series, row.case),
        many => Cow::Owned(many.iter().flat_map(|a| on_core(a.series, row.case).into_owned()).collect()),
    };
    let summary = stats::summary(&samples).filter(|s| s.min > 0.0);
    // What the report shows of disturbance: of the attempts that count, or of those that were to confirm them.
    let again = (attempts.len() > 1).then(|| Again::of(used, if unconfirmed { attempts } else { used }));
    let rare = again.map(|again| Box::new(Rare { limit: None, again: Some(again) }));
    let (group, verdict) = (row.group, Verdict::NoLimit);
    let mut cell = Cell { line, group, series, summary, expected: None, rare, straggler: None, verdict };
    let Some(summary) = summary else {
        cell.verdict = Verdict::Inconclusive(Reason::Invalid);
        return Some(cell);
    };
    for e in limits.of(row.probe, series.metric).iter().filter(|e| e.of.fits(row.case, &place.among)) {
        let value = match (e.limit, &series.nominal) {
            (Limit::Value(v), _) => v,
            (Limit::ShareOfNominal(share), Some(nominal)) if nominal.value > 0.0 && !nominal.claimed => {
                share * nominal.value
            }
            (Limit::ShareOfNominal(_), _) => continue,
        };
        // What a file system gives one node it gives to all of them together; a thousandth of a disk is no way to save, though.
        let value = if e.source == Source::Catalogue && row.probe == "storage" {
            match series.better {
                Better::Higher => value / place.at_once.min(SHARED),
                Better::Lower => value * place.at_once.min(SHARED),
            }
        } else {
            value
        };
        let v = opinion(used, &summary, value, e, series.better);
        // The worst verdict shows its limit; among equals the highest demand.
        let demands_more = cell.limit().is_none_or(|l| match series.better {
            Better::Higher => value > l.value,
            Better::Lower => value < l.value,
        });
        if v > cell.verdict || (v == cell.verdict && demands_more) {
            match (e.limit, &series.nominal) {
                (Limit::ShareOfNominal(s), Some(n)) => {
                    let provenance = format!("{:.0} % of nominal ({}); {}", s * 100.0, n.why, e.provenance);
                    cell.hold(LimitShown::of(e, value, provenance.into()));
                }
                (limit, _) if limit == Limit::Value(value) => cell.expect(e),
                _ => cell.hold(LimitShown::of(e, value, e.provenance.as_str().into())),
            }
            cell.verdict = v;
        }
    }
    if matches!(cell.verdict, Verdict::Fail | Verdict::Inconclusive(_)) && unconfirmed {
        cell.verdict = Verdict::Inconclusive(Reason::Busy);
    }
    let impossible = series.bound.as_ref().is_some_and(|b| match series.better {
        Better::Higher => summary.max > b.value,
        Better::Lower => summary.min < b.value,
    });
    if impossible {
        cell.verdict = Verdict::Inconclusive(Reason::Invalid);
    } else if is_time(series) && summary.median * (series.block as f64) < 20.0 * clock_s {
        cell.verdict = Verdict::Inconclusive(Reason::NearYardstick);
    }
    Some(cell)
}

/// The verdict on all samples, unless one attempt by itself failed and another passed: what is well at one time and not at another is
/// neither.
fn opinion(attempts: &[Attempt<'_>], all: &Summary, value: f64, e: &Expectation, better: Better) -> Verdict {
    let of = |s: &Summary| verdict(s, value, e.margin, better, e.weight);
    let by_attempt = |wanted: Verdict| {
        attempts.iter().filter_map(|a| stats::summary(&a.series.samples)).any(|s| s.min > 0.0 && of(&s) == wanted)
    };
    let contradict = attempts.len() > 1 && by_attempt(Verdict::Fail) && by_attempt(Verdict::Pass);
    if contradict { Verdict::Inconclusive(Reason::Unsteady) } else { of(all) }
}

fn is_time(series: &Series) -> bool {
    series.unit == crate::unit::Unit::Second
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty samples, of which some were off their core and that much slower.
    fn series(off: usize, share: u16) -> Series {
        let of = |i: usize| if i < off { f64::from(share) / 1000.0 } else { 1.0 };
        let cores: Vec<f64> = (0..20).map(of).collect();
        Metric::Flops.series(cores.iter().map(|c| 100e9 * c).collect(), 1).on_cores(&cores, 1)
    }

    #[test]
    fn samples_of_a_thread_that_stood_aside_are_left_out_while_enough_are_left() {
        let (one, two) = (Case::read("f32 1 core"), Case::read("f32 2 cores"));
        let median = |s: &Series, case: &Case| stats::median(&on_core(s, case));
        assert_eq!(median(&series(0, 500), &one), 100e9);
        assert_eq!(median(&series(12, 500), &one), 100e9);
        // Seven that are left are too few; who is held off always has nothing better; and of two threads all count.
        assert_eq!(median(&series(13, 500), &one), 50e9);
        assert_eq!(median(&series(20, 250), &one), 25e9);
        assert_eq!(median(&series(12, 500), &two), 50e9);
        // What does not belong together proves nothing.
        let mut torn = series(12, 500);
        torn.on_cpu = Some([1000].into());
        assert_eq!(median(&torn, &one), 50e9);
        assert_eq!(off_cores(&series(20, 250), &one), Some(0.25));
        assert_eq!(off_cores(&series(5, 250), &one), None);
        assert_eq!(off_cores(&series(20, 800), &two), None);
    }
}
