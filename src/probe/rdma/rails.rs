//! All devices of two nodes at once, each with its like: what they share (a PCIe switch, a root port, memory) shows in what
//! they reach together against what each reaches alone.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Step};
use crate::measure::{Check, Counters, Measured, Outcome};
use crate::plan::CheckPlan;
use crate::probe::rdma::{
    BLOCKS, FLOW, MOST, RdmaProbe, SPARE, Seen, TRIES, case, choose, connect, finish, more, phase, prepare, rates,
    seen, span, starts, warm_count, wrong,
};
use crate::probe::{ProbeError, affinity, step};
use crate::sys::verbs::Op;
use crate::topology::SysRoot;
use crate::work::{Case, CheckName, LinkTest, Memory, Metric, Scope, Way};

const BYTES: u32 = FLOW;

#[derive(Serialize, Deserialize)]
pub(super) struct Args {
    /// One rank of each node for each.
    rails: Vec<String>,
}

fn of_rail(way: Way, device: &str) -> Case {
    case(Scope::AllRails, device, LinkTest::Flow { way, memory: Memory::Host })
}

/// The step of pairs of nodes over all of `devices` at once; the caller sets its groups.
pub fn rails_step(plan: &CheckPlan, devices: &[String]) -> Step {
    let cases = [Way::Out, Way::Back].into_iter().flat_map(|w| devices.iter().map(move |d| of_rail(w, d))).collect();
    let args = Args { rails: devices.to_vec() };
    let step = step(&RdmaProbe, plan, cases, args, plan.tier.pick(1200, 3000, 15_000));
    Step { name: "rdma-all-rails".to_owned(), ranks: devices.len() as u32, ..step }
}

/// What a rank tells of its device: bytes per second by block, wrong bytes.
type RankReport = (Vec<f64>, usize);

pub(super) fn run(child: &mut Child, args: &Args) -> Result<(), ProbeError> {
    let rails = args.rails.len() as u32;
    let device = args.rails.get((child.rank % rails.max(1)) as usize).cloned();
    let device = device.filter(|_| child.ranks == 2 * rails);
    let device = device.ok_or_else(|| ProbeError::Broken(format!("{} ranks over {rails} rails", child.ranks)))?;
    // The like device of the other node.
    let partner = (child.rank + rails) % child.ranks;
    let side = child.rank / rails;
    let root = SysRoot::live();
    let address = choose(&root, &device).map_err(ProbeError::Broken)?;
    affinity::near(&root, address.numa);
    let mut end = connect(child, &device, &address, BYTES as usize, 1, partner as usize, None)?;
    end.shares |= std::thread::available_parallelism().is_ok_and(|n| n.get() < rails as usize);
    let budget = child.share(2);
    for way in [Way::Out, Way::Back] {
        end.deadline = Instant::now() + child.time_left().saturating_sub(SPARE);
        let before = Counters::read(&device, address.port);
        let (rates, wrong) = flow(child, &mut end, way, side, budget)?;
        let reports: (RankReport, Seen) = ((rates, wrong), seen(&end, &address, &before, None)?);
        let all = child.exchange(&reports)?;
        if child.rank != 0 {
            continue;
        }
        let all = all.all(child)?;
        for (i, device) in args.rails.iter().enumerate() {
            let ends = [&all[i], &all[i + rails as usize]];
            let wrong: usize = ends.iter().map(|((_, w), _)| w).sum();
            let rates = ends.iter().map(|((r, _), _)| r).find(|r| !r.is_empty()).cloned().unwrap_or_default();
            let detail = format!("{wrong} of {BYTES} compared bytes differ");
            let measured = Measured {
                series: vec![Metric::Bandwidth.series(rates, 1)],
                checks: [Check::new(CheckName::Payload, wrong == 0, detail)].into(),
                ..Measured::default()
            };
            // This rank's own device is not that of the case: its rate is not, either.
            let address = choose(&root, device).map_err(ProbeError::Broken)?;
            let reports: Vec<Seen> = ends.iter().map(|(_, seen)| seen.clone()).collect();
            let outcome = finish(child, device, &address, reports, measured);
            child.outcome(&of_rail(way, device), Outcome::Measured(outcome))?;
        }
    }
    Ok(())
}

/// One way, all devices: as many messages each as fill the time.
fn flow(
    child: &mut Child,
    end: &mut super::End,
    way: Way,
    side: u32,
    budget: Duration,
) -> Result<RankReport, ProbeError> {
    let seed = child.step.seed;
    let (starts, serves) = (starts(way, side), starts(way, 1 - side));
    prepare(end, seed ^ u64::from(side), BYTES)?;
    let first = warm_count(BYTES);
    let warm = phase(child, end, Op::Write, BYTES, 1, (first, 1, budget), starts, serves)?;
    let each = warm.map_or(1.0, |m| span(&m) / m.last().map_or(1, |l| l.1.max(1)) as f64);
    let mut count = ((budget.as_secs_f64() * 0.7 / each.max(1e-9)) as u64).clamp(BLOCKS, MOST);
    let mut tries = 1;
    let marks = loop {
        let marks = phase(child, end, Op::Write, BYTES, 1, (count, BLOCKS, budget), starts, serves)?;
        let larger = marks.as_ref().and_then(|m| more(count, span(m), budget)).filter(|_| tries < TRIES);
        // All flow at once: one that ended early has all of them done again.
        if child.exchange(&larger.is_some())?.all(child)?.iter().all(|again| !again) {
            break marks;
        }
        (count, tries) = (larger.unwrap_or(count), tries + 1);
    };
    let wrong = if serves { wrong(end, seed ^ u64::from(1 - side), BYTES, 0)? } else { 0 };
    Ok((marks.map_or(Vec::new(), |m| rates(&m, BYTES)), wrong))
}
