//! Whether a verdict may be used here and now: its age, its plan, its job, and the nodes that the command would start on.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::cluster::Job;
use crate::gate::Verdict;
use crate::gate::launch::{Allocation, Placeholder};
use crate::hostlist;
use crate::id::{NodeName, clean};
use crate::plan::{PlanHash, RunPlan, Time};

/// Who asks, and for what.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    pub now: Timestamp,
    pub max_age: Duration,
    /// The plan that was given.
    pub plan: Option<&'a RunPlan>,
    /// The nodes that the launcher has, by its names for them.
    pub nodes: &'a [String],
    /// The job that the gate stands in; `None` outside of one, or where any job's verdict will do.
    pub job: Option<Job>,
    /// What would start; empty when only the verdict is asked for.
    pub command: &'a [String],
}

/// Why a verdict is not used. Each holds the gate.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Refusal {
    #[error("it was measured {age} ago, more than --max-age {max} allows; run `gonogo check` again")]
    TooOld { age: Time, max: Time },
    #[error("it claims to be measured {0} in the future; compare the clocks of the nodes")]
    Future(Time),
    #[error("it was made for another plan ({made_for}) than the one given ({given}); run `gonogo check --plan` again")]
    OtherPlan { made_for: String, given: String },
    #[error(
        "it was made in {made_in}, and this is {here}: run `gonogo check` again (--any-job takes the verdict of another job)"
    )]
    OtherJob { made_in: Job, here: Job },
    #[error("it says nothing about {0}, on which the command would run; run `gonogo check` there")]
    OtherNodes(String),
    #[error("{why} of {given} may be used, and the run needs {needed}{more}")]
    TooFew { needed: u32, why: String, given: String, more: String },
    #[error(
        "the command would start on {0}, which the verdict leaves out: it names no {{nodelist}}, {{exclude}} or {{hostfile}}"
    )]
    Excluded(String),
}

/// Clocks of healthy nodes differ by less.
const SKEW: Duration = Duration::from_secs(60);

/// The nodes to start on, or every reason not to use the verdict.
pub fn admit(verdict: &Verdict, ask: &Ask<'_>) -> Result<Allocation, Vec<Refusal>> {
    let mut out = Vec::new();
    let age = ask.now.duration_since(verdict.measured);
    match Duration::try_from(age) {
        Ok(age) if age > ask.max_age => out.push(Refusal::TooOld { age: Time(age), max: Time(ask.max_age) }),
        Err(_) if age.unsigned_abs() > SKEW => out.push(Refusal::Future(Time(age.unsigned_abs()))),
        _ => {}
    }
    // What is waived changes nothing of what was measured.
    let of = |plan: &RunPlan| PlanHash::of(&RunPlan { waive: Vec::new(), ..plan.clone() });
    let made_for = of(&verdict.plan);
    if let Some(given) = ask.plan.map(of).filter(|given| *given != made_for) {
        out.push(Refusal::OtherPlan { made_for: made_for.short().to_owned(), given: given.short().to_owned() });
    }
    if let (Some(made_in), Some(here)) = (&verdict.job, &ask.job)
        && made_in != here
    {
        out.push(Refusal::OtherJob { made_in: made_in.clone(), here: here.clone() });
    }
    let allocation = allocation(verdict, ask, &mut out);
    if out.is_empty() { Ok(allocation) } else { Err(out) }
}

fn allocation(verdict: &Verdict, ask: &Ask<'_>, out: &mut Vec<Refusal>) -> Allocation {
    let list = |names: &[String]| clean(&hostlist::compress(names)).into_owned();
    let (roster, placement) = (verdict.roster(), &verdict.placement);
    // Each node once, by whatever names it is given.
    let (mut given, mut unlisted, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for name in ask.nodes {
        match roster.find(name) {
            Some(node) if seen.insert(node) => given.push((node, name)),
            Some(_) => {}
            None => unlisted.push(name.clone()),
        }
    }
    if !unlisted.is_empty() {
        out.push(Refusal::OtherNodes(list(&unlisted)));
    }
    let is_out = |node: &NodeName| placement.exclude.contains(node);
    let exclude: Vec<String> = given.iter().filter(|(n, _)| is_out(n)).map(|(_, name)| (*name).clone()).collect();
    let healthy: Vec<&(&NodeName, &String)> = given.iter().filter(|(n, _)| !is_out(n)).collect();
    let needed = verdict.plan.nodes.as_ref().map_or(healthy.len().max(1), |n| n.needed as usize);
    if healthy.len() < needed {
        let missing: Vec<String> = placement.run_on.iter().filter(|n| !seen.contains(n)).map(|n| n.0.clone()).collect();
        let more = if missing.is_empty() { String::new() } else { format!(": {} would be there, too", list(&missing)) };
        let all: Vec<String> = given.iter().map(|(_, name)| (*name).clone()).collect();
        let why = if healthy.is_empty() { "none".to_owned() } else { healthy.len().to_string() };
        out.push(Refusal::TooFew { needed: needed as u32, why, given: list(&all), more });
    }
    if !exclude.is_empty() && !ask.command.is_empty() && !Placeholder::any_names_nodes(ask.command) {
        out.push(Refusal::Excluded(list(&exclude)));
    }
    // Those that the report says to run on first, then its spares; in the launcher's order.
    let wanted =
        |nodes: &[NodeName]| healthy.iter().filter(|(n, _)| nodes.contains(n)).map(|(n, _)| *n).collect::<Vec<_>>();
    let first = wanted(&placement.run_on).into_iter().chain(wanted(&placement.spares));
    let chosen: HashSet<&NodeName> = first.take(needed).collect();
    let nodes = healthy.iter().filter(|(n, _)| chosen.contains(n)).map(|(_, name)| (*name).clone()).collect();
    Allocation { nodes, exclude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{Decision, Placement};
    use crate::plan::{Nodes, Waiver};

    fn names(list: &[&str]) -> Vec<NodeName> {
        list.iter().map(|n| NodeName((*n).to_owned())).collect()
    }

    /// Eight nodes, the third bad, seven needed.
    fn verdict() -> Verdict {
        let nodes = names(&["n1", "n2.cluster", "n3", "n4", "n5", "n6", "n7", "n8"]);
        let exclude = names(&["n3"]);
        let run_on = nodes.iter().filter(|n| !exclude.contains(n)).cloned().collect();
        Verdict {
            verdict: Decision::GoWithout { exclude: exclude.clone() },
            placement: Placement { exclude, run_on, spares: Vec::new() },
            nodes,
            kernel_names: Default::default(),
            job: None,
            plan: RunPlan {
                nodes: Some(Nodes { needed: 7, spares: 1, gpus_per_node: 0, mig: false }),
                ..RunPlan::default()
            },
            record: String::new(),
            software: None,
            measured: Timestamp::UNIX_EPOCH,
        }
    }

    fn ask(verdict: &Verdict, nodes: &str, command: &[&str]) -> Result<Allocation, Vec<String>> {
        let nodes = hostlist::expand(nodes).unwrap_or_default();
        let command: Vec<String> = command.iter().map(|c| (*c).to_owned()).collect();
        let ask = Ask {
            now: Timestamp::UNIX_EPOCH,
            max_age: Duration::from_secs(3600),
            plan: None,
            nodes: &nodes,
            job: None,
            command: &command,
        };
        admit(verdict, &ask).map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_run_starts_on_enough_proven_nodes_or_not_at_all() {
        let v = verdict();
        let placed = ["srun", "-w", "{nodelist}"];
        let all = ask(&v, "n[1-8]", &placed);
        assert_eq!(
            all.map(|s| (hostlist::compress(&s.nodes), s.exclude)),
            Ok(("n[1-2,4-8]".into(), vec!["n3".into()]))
        );
        let said = |r: Result<Allocation, Vec<String>>| r.err().unwrap_or_default().join("; ");
        assert!(said(ask(&v, "n3", &placed)).contains("none of n3 may be used, and the run needs 7"));
        let few = said(ask(&v, "n[1-4]", &placed));
        assert!(few.contains("3 of n[1-4] may be used, and the run needs 7: n[5-8] would be there, too"), "{few}");
        // Given twice by two names it is still one node.
        assert!(said(ask(&v, "n[1,2],n2.cluster,n[4-7]", &placed)).contains("6 of"));
        // A command that cannot leave the bad node out.
        let bare = said(ask(&v, "n[1-8]", &["srun", "train.sh"]));
        assert!(bare.contains("would start on n3, which the verdict leaves out"), "{bare}");
        assert!(ask(&v, "n[1-2,4-8]", &["srun", "train.sh"]).is_ok());
        assert!(ask(&v, "n[1-8]", &["mpirun", "--hostfile={hostfile}", "x"]).is_ok());
        assert!(said(ask(&v, "n[1-2,4-9]", &placed)).contains("says nothing about n9"));
    }

    #[test]
    fn the_list_is_that_of_the_report() {
        let mut v = verdict();
        v.plan.nodes = Some(Nodes { needed: 4, spares: 4, gpus_per_node: 0, mig: false });
        v.placement.run_on = names(&["n5", "n6", "n7", "n8"]);
        v.placement.spares = names(&["n1", "n2.cluster", "n4"]);
        let list = |nodes: &str| ask(&v, nodes, &["x", "{nodelist}"]).map(|s| hostlist::compress(&s.nodes));
        assert_eq!(list("n[1-8]"), Ok("n[5-8]".to_owned()));
        // One of them is gone: a spare takes its place, by the launcher's name for it.
        assert_eq!(list("n[2-7]"), Ok("n[2,5-7]".to_owned()));
        v.plan.nodes = None;
        v.placement.run_on = names(&["n1", "n5"]);
        v.placement.spares.clear();
        let all = ask(&v, "n[1,5]", &["x", "{nodelist}"]).map(|s| hostlist::compress(&s.nodes));
        assert_eq!(all, Ok("n[1,5]".to_owned()));
    }

    #[test]
    fn age_plan_and_job_must_fit() {
        let mut v = verdict();
        let nodes: Vec<String> = ["n1", "n2", "n4", "n5", "n6", "n7", "n8"].map(str::to_owned).to_vec();
        let at = |s: i64| Timestamp::from_second(s).unwrap_or_default();
        let waive = Waiver { code: "ENV-002".into(), reason: "r".into(), until: Default::default() };
        let waiving = RunPlan { waive: vec![waive], ..v.plan.clone() };
        let base =
            Ask { now: at(0), max_age: Duration::from_secs(3600), plan: None, nodes: &nodes, job: None, command: &[] };
        let ask = |v: &Verdict, ask: Ask<'_>| admit(v, &ask).err().unwrap_or_default();
        assert_eq!(ask(&v, Ask { now: at(3599), plan: Some(&waiving), ..base.clone() }), []);
        assert!(matches!(ask(&v, Ask { now: at(3601), ..base.clone() })[..], [Refusal::TooOld { .. }]));
        assert!(matches!(ask(&v, Ask { now: at(-120), ..base.clone() })[..], [Refusal::Future(_)]));
        let other = RunPlan { name: Some("other".into()), ..v.plan.clone() };
        assert!(matches!(ask(&v, Ask { plan: Some(&other), ..base.clone() })[..], [Refusal::OtherPlan { .. }]));
        let job = |id: &str, restarts| Some(Job { id: id.into(), restarts });
        // A verdict from outside of any job is nobody else's.
        assert_eq!(ask(&v, Ask { job: job("7", 0), ..base.clone() }), []);
        v.job = job("7", 0);
        assert_eq!(ask(&v, Ask { job: job("7", 0), ..base.clone() }), []);
        for here in [job("7", 1), job("8", 0)] {
            assert!(matches!(ask(&v, Ask { job: here, ..base.clone() })[..], [Refusal::OtherJob { .. }]));
        }
    }
}
