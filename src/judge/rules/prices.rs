//! What a slow node costs the run, in its days.

use crate::forecast;
use crate::localise::Deficit;
use crate::plan::RunPlan;
use crate::record::Record;
use crate::unit::three_digits;

/// A fault that costs the run less than this is worth keeping where leaving the node out costs more.
const MILD: f64 = 0.05;

/// What slow nodes cost the run, and what it costs to do without them.
pub(super) struct Prices {
    nodes: u32,
    spares: u32,
    /// Of the whole run, where the plan says how long it is.
    days: Option<f64>,
    /// The share by which a node makes everything longer from which leaving it out pays.
    worth: f64,
}

impl Prices {
    /// `slow` are the shares of their speed that slow nodes lose.
    pub fn new(record: &Record, run: &RunPlan, slow: impl Iterator<Item = f64>) -> Self {
        let nodes = record.header.nodes.len() as u32;
        let spares = run.spares_of(nodes);
        let slow: Vec<f64> = slow.map(forecast::longer).collect();
        Prices { nodes, spares, days: forecast::run_days(run), worth: forecast::worth_excluding(&slow, nodes, spares) }
    }

    pub fn is_worth_keeping(&self, d: &Deficit) -> bool {
        forecast::longer(d.high) < MILD && forecast::longer(d.share) < self.worth
    }

    /// In days of the plan, where it has any.
    pub fn of(&self, d: &Deficit) -> String {
        let amount = |longer: f64| match self.days {
            Some(days) => format!("{} days", three_digits(longer * days)),
            None => format!("{} %", three_digits(100.0 * longer)),
        };
        let [cost, low, high] = [d.share, d.low, d.high].map(|lost| amount(forecast::longer(lost)));
        let of = self.days.map_or(" of the run".to_owned(), |days| format!(" of {}", three_digits(days)));
        let without = match forecast::without_one(self.nodes, self.spares) {
            0.0 if self.spares > 0 => "nothing, as the plan has spares".to_owned(),
            0.0 => return format!("a step that waits for it costs up to {cost}{of} ({low} to {high})"),
            longer => amount(longer),
        };
        format!("a step that waits for it costs up to {cost}{of} ({low} to {high}), doing without it {without}")
    }
}
