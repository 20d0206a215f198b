//! A rehearsed step in one sentence.

use crate::forecast::{projected, slowest};
use crate::id::clean;
use crate::judge::{Facts, Judgement};
use crate::measure::{Timed, stats};
use crate::unit::{Unit, three_digits};

/// What was rehearsed, and what it says of the run's step; `None` where nothing was.
pub(super) fn step(j: &Judgement<'_>) -> Option<String> {
    let (_, r) = Facts::rehearsal(j.record)?;
    let middle = |what: Timed| {
        let all = slowest(&r.ranks, what);
        (!all.is_empty()).then(|| stats::median(&all))
    };
    let (alone, whole) = (middle(Timed::Alone)?, middle(Timed::Whole)?);
    let ranks = if r.ranks.len() == 1 { "1 rank".to_owned() } else { format!("{} ranks", r.ranks.len()) };
    let mut out = match projected(r) {
        Some(p) => format!(
            "{} ({} to {}), {} of each rank, {} tokens/s; by {} of {} layers on {ranks}, without optimiser, norms and data",
            Unit::Second.show(p.seconds),
            Unit::Second.show(p.low),
            Unit::Second.show(p.high),
            Unit::FlopPerSecond.show(p.flops),
            three_digits(p.tokens_per_second()),
            r.layers,
            r.training.of_layers
        ),
        None => {
            let width = if r.narrow == 2 { "half".to_owned() } else { format!("a {}th of", r.narrow) };
            let like = if r.is_exact() { String::new() } else { format!(" at {width} their width") };
            let what = format!("{} of {} layers{like}", r.layers, r.training.of_layers);
            format!(
                "{} for {what} on {ranks}: it tells ranks apart, not how long the run's step takes",
                Unit::Second.show(whole)
            )
        }
    };
    if r.ranks.len() > 1 {
        let by = r.device.as_ref().map_or(String::new(), |d| format!(" over {}", clean(d)));
        out.push_str(&format!(
            "; messages{by} make it {:.0} % longer than computing alone",
            100.0 * (whole / alone - 1.0).max(0.0)
        ));
    }
    Some(out)
}
