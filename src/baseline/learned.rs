//! A baseline learned from healthy records of a cluster: what its own nodes reach, by case.
//!
//! A few bad nodes among many do not move it: medians, and whatever lies far on the bad side is left out. It belongs to its hardware and
//! is refused elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::baseline::{Expectation, Limit, Offender, Source, Weight};
use crate::id::clean;
use crate::measure::stats;
use crate::plan::toml_error;
use crate::record::Record;
use crate::topology::Machine;
use crate::unit::Unit;
use crate::work::{Better, Case, Filter, Metric};

const FORMAT: u32 = 1;
/// Fewer values than this are no baseline.
const FEWEST: usize = 3;
/// So many robust standard deviations on the bad side, and so much beside, is a bad node and no part of what is usual.
const FAR: f64 = 5.0;
const FAR_SHARE: f64 = 0.02;
/// What spreads by its own size has no usual value.
const WILD: f64 = 1.0;
/// Least loss that warns and that fails; a metric that spreads more gets more room.
const WARN: (f64, f64) = (0.05, 3.0);
const FAIL: (f64, f64) = (0.10, 5.0);

/// Why a baseline is not used.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum BaselineError {
    #[error("{0}")]
    Malformed(String),
    #[error("format {found}; this gonogo reads {FORMAT}")]
    Format { found: u32 },
    #[error("[[expect]] number {at}, {what}")]
    Value { at: usize, what: String },
    #[error("it was learned on other hardware: {0}")]
    OtherHardware(String),
    #[error(
        "nothing to learn: no case was measured on {FEWEST} nodes or in {FEWEST} records with values near each other"
    )]
    Nothing,
}

/// What the hardware is: a baseline of other hardware says nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    pub cpu: String,
    pub cores: u32,
    /// A name a GPU.
    pub gpus: Vec<String>,
    /// A model an RDMA adapter.
    pub adapters: Vec<String>,
}

impl Hardware {
    pub fn of(m: &Machine) -> Self {
        let mut gpus: Vec<String> =
            m.nvidia.iter().flat_map(|n| &n.gpus).map(|g| clean(&g.name).into_owned()).collect();
        let model = |d: &crate::topology::IbDevice| d.model.clone().or_else(|| d.driver.clone()).unwrap_or_default();
        let mut adapters: Vec<String> = m.infiniband.iter().map(|d| clean(&model(d)).into_owned()).collect();
        gpus.sort();
        adapters.sort();
        Hardware { cpu: clean(m.cpu.model.trim()).into_owned(), cores: m.cpu.cores, gpus, adapters }
    }

    /// That of most machines of a record.
    fn usual(records: &[Record]) -> Option<Self> {
        let mut count: BTreeMap<Hardware, usize> = BTreeMap::new();
        for m in records.iter().flat_map(machines) {
            *count.entry(Hardware::of(m)).or_default() += 1;
        }
        count.into_iter().max_by_key(|(_, n)| *n).map(|(h, _)| h)
    }

    fn differs(&self, other: &Hardware) -> Option<String> {
        let list = |v: &[String]| if v.is_empty() { "none".to_owned() } else { format!("{} x {}", v.len(), v[0]) };
        let parts = [
            ("CPU", self.cpu.clone(), other.cpu.clone()),
            ("cores", self.cores.to_string(), other.cores.to_string()),
            ("GPUs", list(&self.gpus), list(&other.gpus)),
            ("adapters", list(&self.adapters), list(&other.adapters)),
        ];
        let all: Vec<String> =
            parts.into_iter().filter(|(_, a, b)| a != b).map(|(what, a, b)| format!("{what} {a}, here {b}")).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

fn machines(record: &Record) -> impl Iterator<Item = &Machine> {
    record.machines().map(|(_, machine)| machine)
}

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    pub format: u32,
    /// When, from how many records.
    pub learned: String,
    pub hardware: Hardware,
    pub expect: Vec<Entry>,
    /// Who failed in these records, and in those of the file that this one took the place of.
    // `lemon` is what earlier files call them.
    #[serde(default, alias = "lemon", skip_serializing_if = "Vec::is_empty")]
    pub offender: Vec<Offender>,
}

/// A metric of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub probe: String,
    pub case: Case,
    pub metric: Metric,
    pub unit: Unit,
    pub better: Better,
    /// In the metric's base unit.
    pub median: f64,
    /// The twentieth part that does worst begins here.
    pub low: f64,
    /// Relative: 1.4826 MAD over the median.
    pub spread: f64,
    /// Values it rests on, and those left out as bad.
    pub values: usize,
    pub left_out: usize,
}

impl Baseline {
    /// Learns from records. `when` stands in the file.
    ///
    /// # Errors
    /// When no case has enough values.
    pub fn learn(records: &[Record], when: &str) -> Result<Self, BaselineError> {
        type Values = BTreeMap<(String, Case, Metric), (Unit, Better, Vec<f64>)>;
        let mut values: Values = BTreeMap::new();
        for line in records.iter().flat_map(|r| &r.outcomes) {
            for s in line.outcome.measured().into_iter().flat_map(|m| &m.series) {
                if s.samples.is_empty() || s.samples.iter().any(|v| !v.is_finite() || *v <= 0.0) {
                    continue;
                }
                let key = (line.probe.as_str().to_owned(), line.case.clone(), s.metric);
                values.entry(key).or_insert((s.unit, s.better, Vec::new())).2.push(stats::median(&s.samples));
            }
        }
        let entry = |((probe, case, metric), (unit, better, all)): (_, (Unit, Better, Vec<f64>))| {
            let kept = without_bad(&all, better);
            let usual = |(median, sigma): &(f64, f64)| kept.len() >= FEWEST && sigma / median < WILD;
            let (median, sigma) = stats::robust(&kept).filter(usual)?;
            let mut sorted = kept.clone();
            sorted.sort_by(f64::total_cmp);
            let twentieth = sorted.len() / 20;
            let low = match better {
                Better::Higher => sorted[twentieth],
                Better::Lower => sorted[sorted.len() - 1 - twentieth],
            };
            let (values, left_out) = (kept.len(), all.len() - kept.len());
            Some(Entry { probe, case, metric, unit, better, median, low, spread: sigma / median, values, left_out })
        };
        let expect: Vec<Entry> = values.into_iter().filter_map(entry).collect();
        if expect.is_empty() {
            return Err(BaselineError::Nothing);
        }
        let learned = format!("{when} from {} record(s)", records.len());
        Ok(Baseline {
            format: FORMAT,
            learned,
            hardware: Hardware::usual(records).unwrap_or_default(),
            expect,
            offender: Vec::new(),
        })
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong, with the place.
    pub fn parse(text: &str) -> Result<Self, BaselineError> {
        let b: Baseline = toml::from_str(text).map_err(|e| {
            let (line, column, message) = toml_error(text, &e);
            BaselineError::Malformed(format!("line {line}, column {column}: {message}"))
        })?;
        if b.format != FORMAT {
            return Err(BaselineError::Format { found: b.format });
        }
        for (i, e) in b.expect.iter().enumerate() {
            let wrong = |what: &str| {
                let what = format!("{} `{}` {}: {what}", clean(&e.probe), e.case, e.metric);
                Err(BaselineError::Value { at: i + 1, what })
            };
            if !(e.median.is_finite() && e.median > 0.0) {
                return wrong("the median must be above 0");
            }
            if !(e.spread.is_finite() && (0.0..WILD).contains(&e.spread)) {
                return wrong("the spread must be a share from 0 to 1");
            }
        }
        Ok(b)
    }

    /// The file's text.
    ///
    /// # Errors
    /// None that a baseline of ours has.
    pub fn text(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Whether it is of this hardware.
    ///
    /// # Errors
    /// What differs.
    pub fn fits(&self, m: &Machine) -> Result<(), BaselineError> {
        match self.hardware.differs(&Hardware::of(m)) {
            Some(what) => Err(BaselineError::OtherHardware(what)),
            None => Ok(()),
        }
    }

    /// Whether it is of the hardware that most nodes of a record have.
    ///
    /// # Errors
    /// What differs.
    pub fn fits_record(&self, record: &Record) -> Result<(), BaselineError> {
        let here = Hardware::usual(std::slice::from_ref(record)).unwrap_or_default();
        self.hardware.differs(&here).map_or(Ok(()), |what| Err(BaselineError::OtherHardware(what)))
    }

    /// As limits.
    pub fn limits(&self) -> Vec<Expectation> {
        let of = |e: &Entry| {
            [(Weight::Warn, WARN), (Weight::Fail, FAIL)].map(|(weight, (least, sigmas))| {
                let loss = f64::max(least, sigmas * e.spread);
                let limit = match e.better {
                    Better::Higher => e.median * (1.0 - loss.min(0.9)),
                    Better::Lower => e.median * (1.0 + loss),
                };
                Expectation {
                    probe: e.probe.clone(),
                    of: Filter::exactly(e.case.clone()),
                    metric: e.metric,
                    limit: Limit::Value(limit),
                    margin: 0.0,
                    weight,
                    source: Source::Baseline,
                    provenance: format!(
                        "{:.0} % from {}, the baseline's median of {} ({})",
                        100.0 * loss,
                        e.unit.show(e.median),
                        e.values,
                        self.learned
                    ),
                }
            })
        };
        self.expect.iter().flat_map(of).collect()
    }
}

/// The values without those far on the bad side.
fn without_bad(all: &[f64], better: Better) -> Vec<f64> {
    let Some((median, sigma)) = stats::robust(all) else { return all.to_vec() };
    let room = FAR * sigma + FAR_SHARE * median;
    let good = |v: &&f64| match better {
        Better::Higher => **v >= median - room,
        Better::Lower => **v <= median + room,
    };
    all.iter().filter(good).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bad_nodes_do_not_move_it() {
        let mut all: Vec<f64> = (0..60).map(|i| 100.0 + f64::from(i % 5)).collect();
        all.extend([40.0, 55.0, 60.0]);
        let kept = without_bad(&all, Better::Higher);
        assert_eq!(kept.len(), 60);
        assert_eq!(without_bad(&[5.0, 5.1, 5.2, 50.0], Better::Lower).len(), 3);
    }

    #[test]
    fn what_was_edited_and_is_wrong_is_refused_with_its_place() {
        let good = Baseline {
            format: FORMAT,
            learned: "today".into(),
            hardware: Hardware::default(),
            expect: vec![Entry {
                probe: "gemm".into(),
                case: Case::read("f32 1 core"),
                metric: Metric::Flops,
                unit: Unit::FlopPerSecond,
                better: Better::Higher,
                median: 9e10,
                low: 8e10,
                spread: 0.01,
                values: 8,
                left_out: 0,
            }],
            offender: vec![Offender {
                node: "n1".into(),
                serial: Some("S1".into()),
                gpus: vec!["GPU-a".into()],
                codes: ["GEM-004".to_owned()].into(),
                on: ["2026-01-01T00:00:00Z".to_owned()].into(),
            }],
        };
        let text = good.text().unwrap();
        assert_eq!(Baseline::parse(&text), Ok(good.clone()));
        assert_eq!(Baseline::parse(&text.replace("[[offender]]", "[[lemon]]")), Ok(good.clone()), "an earlier file");
        let limits = good.limits();
        assert!(matches!(limits[1].limit, Limit::Value(v) if (v / 8.1e10 - 1.0).abs() < 1e-9));
        let wrong = |from: &str, to: &str| Baseline::parse(&text.replace(from, to)).unwrap_err().to_string();
        assert!(wrong("median = 90000000000.0", "median = -1.0").contains("number 1, gemm `f32 1 core` flops"));
        assert!(wrong("median = 90000000000.0", "median = nan").contains("above 0"));
        assert!(wrong("spread = 0.01", "spread = 7").contains("spread"));
        assert!(wrong("format = 1", "format = 9").contains("format 9"));
        assert!(wrong("metric", "metrik").contains("metrik"));
        let other = Machine { cpu: crate::topology::Cpu { cores: 4, ..Default::default() }, ..Machine::default() };
        assert_eq!(good.fits(&Machine::default()), Ok(()));
        assert!(good.fits(&other).unwrap_err().to_string().contains("cores 0, here 4"));
    }

    proptest::proptest! {
        #[test]
        fn nonsense_is_survived(text in "(format = 1\n|\\[\\[expect\\]\\]\n|median = |\\PC{0,10}|\n){0,12}") {
            let _ = Baseline::parse(&text);
        }
    }
}
