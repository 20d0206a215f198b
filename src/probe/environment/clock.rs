//! Clock skew over all nodes at once, by the exchange: node i publishes its clock after it got one round's answer and
//! before the next round's is complete, so in the first node's clock that moment lies between the two. Several rounds
//! are intersected. As fine as an exchange is quick: milliseconds, where a checkpoint's mtime or a certificate minds
//! seconds.

use jiff::Timestamp;

use crate::cluster::{Child, Step};
use crate::measure::{ClockOffset, Facts, Outcome};
use crate::plan::CheckPlan;
use crate::probe::environment::Environment;
use crate::probe::{ProbeError, step};
use crate::work::{Case, Fact};

const ROUNDS: usize = 6;
pub(super) const CASE: Case = Case::Fact(Fact::Clocks);

/// The step over all nodes; the caller sets its groups.
pub fn clock_step(plan: &CheckPlan) -> Step {
    let mut step = step(&Environment, plan, vec![CASE], (), 300);
    step.name = "clocks".to_owned();
    step.exclusive = false;
    step
}

fn now_ms() -> f64 {
    Timestamp::now().as_microsecond() as f64 / 1e3
}

pub(super) fn run(child: &mut Child) -> Result<(), ProbeError> {
    child.barrier()?;
    let mut bounds = vec![(f64::NEG_INFINITY, f64::INFINITY); child.ranks as usize];
    let mut before = now_ms();
    for _ in 0..ROUNDS {
        let all = child.exchange(&now_ms())?;
        let after = now_ms();
        for (bound, clock) in bounds.iter_mut().zip(all.all(child)?) {
            *bound = (bound.0.max(clock - after), bound.1.min(clock - before));
        }
        before = after;
    }
    if child.rank != 0 {
        return Ok(());
    }
    let offset = |(node, (low, high)): (&crate::id::NodeName, &(f64, f64))| ClockOffset {
        node: node.clone(),
        // A clock that was set meanwhile leaves no room between the bounds: then both are said as they are.
        low_ms: low.min(*high),
        high_ms: high.max(*low),
    };
    let facts = Facts::Clocks(child.members.iter().zip(&bounds).map(offset).collect());
    Ok(child.outcome(&CASE, Outcome::facts(facts))?)
}
