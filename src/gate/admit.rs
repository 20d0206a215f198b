//! Whether a verdict may be used here and now: its age, its plan, its nodes.

use std::time::Duration;

use jiff::Timestamp;

use crate::hostlist;
use crate::plan::{PlanHash, Time};

/// What a verdict is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim<'a> {
    pub measured: Timestamp,
    pub nodes: &'a [String],
    pub run_hash: &'a PlanHash,
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
    #[error("it says nothing about {0}, on which the command would run; run `gonogo check` there")]
    OtherNodes(String),
}

/// Clocks of healthy nodes differ by less.
const SKEW: Duration = Duration::from_secs(60);

/// Every reason not to use the claim.
pub fn admit(
    claim: &Claim<'_>,
    now: Timestamp,
    max_age: Duration,
    plan: Option<&PlanHash>,
    nodes: &[String],
) -> Vec<Refusal> {
    let mut out = Vec::new();
    let age = now.duration_since(claim.measured);
    match Duration::try_from(age) {
        Ok(age) if age > max_age => out.push(Refusal::TooOld { age: Time(age), max: Time(max_age) }),
        Err(_) if age.unsigned_abs() > SKEW => out.push(Refusal::Future(Time(age.unsigned_abs()))),
        _ => {}
    }
    if let Some(given) = plan.filter(|given| *given != claim.run_hash) {
        out.push(Refusal::OtherPlan { made_for: claim.run_hash.short().to_owned(), given: given.short().to_owned() });
    }
    let strangers: Vec<String> =
        nodes.iter().filter(|n| !claim.nodes.iter().any(|c| same_host(c, n))).cloned().collect();
    if !strangers.is_empty() {
        out.push(Refusal::OtherNodes(crate::id::clean(&hostlist::compress(&strangers)).into_owned()));
    }
    out
}

/// Launchers use the short name or the long one of the same host.
fn same_host(a: &str, b: &str) -> bool {
    a == b || ((!a.contains('.') || !b.contains('.')) && hostlist::short(a) == hostlist::short(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_plan_and_nodes_must_fit() {
        let hash = PlanHash("aaaaaaaaaaaaaaaa".into());
        let nodes = ["n1".to_owned(), "n2.cluster".to_owned()];
        let claim = Claim { measured: Timestamp::UNIX_EPOCH, nodes: &nodes, run_hash: &hash };
        let at = |s: i64| Timestamp::from_second(s).unwrap_or_default();
        let hour = Duration::from_secs(3600);
        let ask = |now, plan: Option<&PlanHash>, nodes: &[&str]| {
            let nodes: Vec<String> = nodes.iter().map(|n| (*n).to_owned()).collect();
            admit(&claim, now, hour, plan, &nodes)
        };
        assert_eq!(ask(at(3599), Some(&hash), &["n1", "n2"]), []);
        assert!(matches!(ask(at(3601), None, &["n1"])[..], [Refusal::TooOld { .. }]));
        assert!(matches!(ask(at(-120), None, &["n1"])[..], [Refusal::Future(_)]));
        assert!(matches!(ask(at(1), Some(&PlanHash("b".into())), &["n1"])[..], [Refusal::OtherPlan { .. }]));
        assert_eq!(ask(at(1), None, &["n1", "n3", "n4"]), [Refusal::OtherNodes("n[3-4]".into())]);
        assert_eq!(ask(at(1), None, &["n2.other"]).len(), 1);
    }
}
