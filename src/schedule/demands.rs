//! What a plan demands and nothing that is planned can meet: told before anything is measured.

use crate::baseline::{self, Expectation};
use crate::cluster::Step;
use crate::plan::{CheckPlan, Tier};
use crate::probe;
use crate::topology::Machine;
use crate::unit::Bytes;
use crate::work::{Among, Carrier, Case, Filter, Topology};

/// As many as nodes usually have, where a step must be planned for some number.
const GPUS: u32 = 8;
const NODES: u32 = 8;

/// The first demand of the plan that no case of a check on `nodes` nodes can meet, whatever hardware they have, and what would.
pub fn unmet(plan: &CheckPlan, nodes: u32) -> Option<String> {
    if plan.tier == Tier::Image {
        return None;
    }
    let required = baseline::required(&plan.run);
    let steps = possible(plan, nodes);
    baseline::demands(&required).find_map(|of_key| {
        let key = &of_key[0].provenance;
        let probe = &of_key[0].probe;
        if !plan.wants(probe) {
            return Some(format!("{key}: it is measured by `{probe}`, which --only or --skip leaves out"));
        }
        if !matches!(probe.as_str(), "tcp" | "rdma" | "collective") || met(of_key, &steps) {
            return None;
        }
        Some(format!("{key}: nothing that is planned can meet it; {}", what_would(plan, nodes, of_key)))
    })
}

fn what_would(plan: &CheckPlan, nodes: u32, demands: &[Expectation]) -> String {
    let longer = CheckPlan { tier: Tier::Standard, ..plan.clone() };
    if nodes == 1 && met(demands, &possible(plan, NODES)) {
        return "it is about several nodes, and this is one: start gonogo on all of them (srun, mpirun)".to_owned();
    }
    if met(demands, &possible(&longer, nodes)) {
        return format!("the {} tier does not measure it: --tier standard", plan.tier.name());
    }
    let any_size =
        |e: &Expectation| Expectation { of: Filter { bytes: None, extent: None, ..e.of.clone() }, ..e.clone() };
    let steps = possible(plan, nodes);
    let mut sizes: Vec<Bytes> = steps
        .iter()
        .flat_map(|s| &s.cases)
        .filter(|c| demands.iter().any(|e| any_size(e).of.fits(c, &Among::default())))
        .filter_map(|c| Some(c.collective()?.bytes))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.is_empty() {
        return "no step measures such a case: `gonogo check --dry-run` shows what is measured".to_owned();
    }
    let sizes: Vec<String> = sizes.iter().map(Bytes::to_string).collect();
    format!("messages of {} are measured", sizes.join(", "))
}

fn met(demands: &[Expectation], steps: &[Step]) -> bool {
    let all = Among::all(steps.iter().flat_map(|s| &s.cases));
    let fits = |s: &Step, case: &Case| {
        let among = Among { step: &s.cases, ..all };
        demands.iter().any(|e| e.is_for(s.probe.as_str(), case, &among))
    };
    steps.iter().any(|s| s.cases.iter().any(|c| fits(s, c)))
}

/// Every network step that some machines would have.
fn possible(plan: &CheckPlan, nodes: u32) -> Vec<Step> {
    let quick = plan.tier.is_short();
    let mut out = vec![probe::nccl_step(plan, Topology::Node, 1, GPUS)];
    if nodes == 1 || !quick {
        let local = ["tcp", "collective"].into_iter().filter_map(probe::find);
        out.extend(local.flat_map(|p| p.steps(plan, &Machine::default())));
    }
    if nodes == 1 {
        return out;
    }
    let device = Carrier::Rdma("device".into());
    out.push(probe::pair_step(plan, &crate::id::ProbeName::new("tcp"), None));
    out.push(probe::pair_step(plan, &crate::id::ProbeName::new("rdma"), Some("device")));
    let everywhere = [Topology::Ladder, Topology::World];
    let longer = [Topology::Ring, Topology::Leaf].into_iter().filter(|_| !quick);
    for topology in everywhere.into_iter().chain(longer) {
        out.extend([&Carrier::Tcp, &device].map(|c| probe::group_step(plan, topology, nodes, c, None)));
    }
    out.extend(
        [&Carrier::Interface("interface".into()), &device]
            .map(|c| probe::group_step(plan, Topology::Rail, nodes, c, None)),
    );
    out.push(probe::nccl_step(plan, Topology::World, nodes, GPUS));
    if !quick {
        let others = [Topology::Pair, Topology::Ladder, Topology::Ring, Topology::Leaf, Topology::Rail];
        out.extend(others.map(|t| probe::nccl_step(plan, t, nodes, GPUS)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{RunPlan, Selection, parse, resolve};

    fn said(text: &str, tier: Tier, nodes: u32, only: &[&str]) -> Option<String> {
        let run: RunPlan = parse(std::path::Path::new("run.toml"), text).unwrap_or_else(|e| panic!("{e}"));
        let asked = Selection {
            tier: Some(tier),
            only: only.iter().map(|p| (*p).to_owned()).collect(),
            cluster: nodes > 1,
            ..Selection::default()
        };
        let plan = resolve(asked, run, &probe::names(), 1).unwrap_or_else(|e| panic!("{e}"));
        unmet(&plan, nodes)
    }

    #[test]
    fn a_demand_that_nothing_can_meet_is_told_with_what_would() {
        let busbw = "[require]\nmin_busbw = \"40 GB/s\"\nmax_allreduce_latency = \"1ms\"\nmin_tcp = \"1 GB/s\"\n";
        for nodes in [1, 2, 8] {
            for tier in [Tier::Quick, Tier::Standard, Tier::Soak] {
                assert_eq!(said(busbw, tier, nodes, &[]), None, "{tier:?} {nodes}");
            }
        }
        assert!(
            said(busbw, Tier::Quick, 1, &["gemm"]).is_some_and(|s| s.contains("min_busbw") && s.contains("--only"))
        );
        let world = "[[require.collective]]\ntopology = \"world\"\nmin_busbw = \"1 GB/s\"\n";
        assert!(said(world, Tier::Quick, 1, &[]).is_some_and(|s| s.contains("number 1") && s.contains("srun")));
        assert_eq!(said(world, Tier::Quick, 2, &[]), None);
        let ring = "[[require.collective]]\ntopology = \"ring\"\nmin_busbw = \"1 GB/s\"\n";
        assert!(said(ring, Tier::Quick, 4, &[]).is_some_and(|s| s.contains("--tier standard")));
        let size = "[[require.collective]]\ntopology = \"world\"\nbytes = \"3 MiB\"\nmin_busbw = \"1 GB/s\"\n";
        assert!(said(size, Tier::Standard, 4, &[]).is_some_and(|s| s.contains("16 MiB") && s.contains("messages of")));
        let link = "[[require.link]]\ncarrier = \"rdma\"\nmin_bandwidth = \"390 Gb/s\"\n";
        assert!(said(link, Tier::Quick, 1, &[]).is_some_and(|s| s.contains("several nodes")));
        assert_eq!(said(link, Tier::Quick, 2, &[]), None);
        let nccl = "[[require.link]]\ncarrier = \"nccl\"\nmin_bandwidth = \"390 Gb/s\"\n";
        assert!(said(nccl, Tier::Quick, 2, &[]).is_some_and(|s| s.contains("--tier standard")));
    }
}
