//! `fabric`: what infiniband-diags say of the whole InfiniBand fabric, kept in the record; and its error counters once more when
//! the check's own traffic has gone over it. One node asks.

use crate::cluster::{Child, Step};
use crate::id::ProbeName;
use crate::measure::{Capture, Facts, FailKind, Outcome, WaiveKind};
use crate::plan::CheckPlan;
use crate::probe::{Priority, Probe, ProbeError, step};
use crate::topology::Machine;
use crate::topology::ib::{TOOLS, ask, parse_netdiscover};
use crate::work::{Case, Declared, When};
use std::time::Duration;

pub struct Fabric;

const NAME: ProbeName = ProbeName::new("fabric");
/// Kept of the step's time for what comes after the tools.
const SPARE: Duration = Duration::from_secs(1);
/// The most of a capture that goes into a record; a fabric of ten thousand ports has 2 MB.
const MAX_TEXT: usize = 7 << 20;

/// The step that reads the fabric, `before` or `after` the traffic; the caller sets its groups. `None` where nothing suggests
/// a fabric and nobody asked for it by name.
pub fn fabric_step(plan: &CheckPlan, machine: &Machine, when: When) -> Option<Step> {
    let port = machine
        .infiniband
        .iter()
        .flat_map(|d| &d.ports)
        .any(|p| p.link_layer.as_deref() == Some("InfiniBand") && p.state.as_deref().is_some_and(|s| s != "DOWN"));
    if !port && !plan.named.contains(&NAME) {
        return None;
    }
    let before = when == When::Before;
    let tools = TOOLS.iter().filter(|t| before || t[0] == COUNTERS);
    let cases = tools.map(|t| Case::Fabric { tool: t.join(" ").into(), when });
    let step = step(&Fabric, plan, cases.collect(), (), if before { 3000 } else { 2000 });
    Some(Step { name: format!("fabric-{}", when.name()), exclusive: false, ..step })
}

/// The tool whose counters are differenced.
const COUNTERS: &str = "ibqueryerrors";

impl Probe for Fabric {
    fn name(&self) -> ProbeName {
        NAME
    }

    fn about(&self) -> &'static str {
        "the InfiniBand fabric by infiniband-diags: links, cabling, subnet managers, error counters around the traffic"
    }

    fn needs(&self) -> &'static str {
        "infiniband-diags, an InfiniBand port, and root (or /dev/infiniband/umad*)"
    }

    fn metrics(&self) -> &'static [Declared] {
        &[]
    }

    fn priority(&self, _on_gpus: bool) -> Priority {
        Priority::new(0, 11)
    }

    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        fabric_step(plan, machine, When::Before).into_iter().collect()
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        for case in child.step.cases.clone() {
            let Case::Fabric { tool: name, .. } = &case else { continue };
            let tool = TOOLS.iter().find(|t| t.join(" ") == **name);
            let tool = tool.ok_or_else(|| ProbeError::Broken(format!("`{case}` is no tool that is known")))?;
            let outcome = match ask(tool, child.time_left().saturating_sub(SPARE)) {
                Err(why) => Outcome::waived(WaiveKind::Absent, format!("{}: {why}", tool.join(" "))),
                Ok(text) if text.len() > MAX_TEXT => {
                    let why = format!(
                        "{} said {} bytes; a record keeps {MAX_TEXT}: `gonogo discover fabric` reads them",
                        tool[0],
                        text.len()
                    );
                    Outcome::error(FailKind::Error, why)
                }
                Ok(text) => {
                    let graph = tool[0] == "ibnetdiscover";
                    let leaves = if graph { parse_netdiscover(&text).value.leaves() } else { Vec::new() };
                    let facts = Facts::Fabric(Box::new(Capture { tool: tool.join(" "), text, leaves }));
                    Outcome::facts(facts)
                }
            };
            child.outcome(&case, outcome)?;
        }
        Ok(())
    }
}
