//! What slowness costs a run whose every step waits for its slowest node.

use crate::plan::RunPlan;

const DAY: f64 = 86_400.0;

/// Shares of the rate that are lost become shares of time that a step takes longer: at 6 % less everything takes 6.4 % longer.
pub fn longer(lost: f64) -> f64 {
    let lost = lost.clamp(0.0, 0.999);
    lost / (1.0 - lost)
}

/// Days that the plan's run takes; `None` where it does not say.
pub fn run_days(run: &RunPlan) -> Option<f64> {
    let checkpoint = run.checkpoint.as_ref()?;
    let steps = || Some(checkpoint.total_steps? * checkpoint.step_time?.0.as_secs_f64());
    let seconds = checkpoint.run_time.map(|t| t.0.as_secs_f64()).or_else(steps)?;
    (seconds > 0.0).then_some(seconds / DAY)
}

/// How much longer (0.14: 14 %) the run takes on `nodes` nodes without one of them; nothing where a spare takes its place.
pub fn without_one(nodes: u32, spares: u32) -> f64 {
    if spares > 0 || nodes < 2 { 0.0 } else { 1.0 / f64::from(nodes - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_at_94_percent_costs_6_4_percent_and_one_of_8_costs_14() {
        assert!((longer(0.06) - 0.0638).abs() < 1e-4);
        assert!((without_one(8, 0) - 1.0 / 7.0).abs() < 1e-12);
        assert_eq!(without_one(8, 1), 0.0);
        assert!(longer(1.0).is_finite());
    }

    #[test]
    fn the_run_is_as_long_as_its_steps_or_as_it_says() {
        let plan = |text: &str| crate::plan::parse(std::path::Path::new("p"), text).unwrap_or_default();
        assert_eq!(run_days(&plan("[checkpoint]\nrun_time = \"30d\"")), Some(30.0));
        assert_eq!(run_days(&plan("[checkpoint]\ntotal_steps = 86400\nstep_time = \"10s\"")), Some(10.0));
        assert_eq!(run_days(&plan("[checkpoint]\ninterval = \"1h\"")), None);
    }
}
