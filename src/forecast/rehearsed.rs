//! The run's step, by the one that was rehearsed.

use std::collections::BTreeSet;

use crate::measure::{RankSteps, Rehearsal, Timed, stats};

/// Layers of a rehearsal that are gone through one by one.
const MOST_LAYERS: u64 = 64;

/// What a rehearsed step says of the run's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Projected {
    /// Seconds of a step: the middle, and its interval by the rounds.
    pub seconds: f64,
    pub low: f64,
    pub high: f64,
    /// Tokens of a step, all ranks together; and how many nodes they are of.
    pub tokens: u64,
    pub nodes: u32,
    /// Operations a second that the model gets of each rank.
    pub flops: f64,
}

impl Projected {
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

/// Of each round, what the slowest rank took.
pub fn slowest(ranks: &[RankSteps], what: Timed) -> Vec<f64> {
    let rounds = ranks.iter().map(|r| r.of(what).len()).min().unwrap_or(0);
    (0..rounds).map(|i| ranks.iter().map(|r| r.of(what)[i]).fold(0.0, f64::max)).collect()
}

/// The run's step; `None` where a narrow likeness of it was rehearsed, or one rank stood for several.
pub fn projected(r: &Rehearsal) -> Option<Projected> {
    let t = &r.training;
    if !r.is_exact() || r.layers == 0 || t.rank_of > 1 || t.world.ranks() == 0 {
        return None;
    }
    let of = |part: Timed| -> Option<[f64; 3]> {
        let s = stats::summary(&slowest(&r.ranks, part)).filter(|s| s.min > 0.0)?;
        let (low, high) = s.interval.unwrap_or((s.min, s.max));
        Some([s.median, low, high])
    };
    let (alone, whole) = (of(Timed::Alone)?, of(Timed::Whole)?);
    // What computing waits for within a microbatch.
    let (messages, gradients) = (of(Timed::Communication), of(Timed::Gradients));
    let waits = messages.zip(gradients).map_or([0.0; 3], |(m, g)| [0, 1, 2].map(|i| (m[i] - g[i]).max(0.0)));
    let ring = of(Timed::Ring).unwrap_or([0.0; 3]);
    let core = t.core_flops / t.flops.max(1.0);
    let layers = r.layers as f64;
    let step = |i: usize| {
        let gradients = gradients.map_or(0.0, |g| g[i]) / layers;
        // Of what the whole takes longer, one layer's gradients come after all else; the rest comes with every layer.
        let longer = (whole[i] - alone[i] - waits[i]).max(0.0);
        let tail = if t.overlap { longer.min(gradients) } else { 0.0 };
        let each = (longer - tail) / if t.overlap { (layers - 1.0).max(1.0) } else { layers };
        let more = tail + each * if t.overlap { t.layers as f64 - 1.0 } else { t.layers as f64 };
        // Keys and values go round while attention's core computes, which is reckoned and does not run here.
        let hidden = ring[i].min(core * alone[i]).clamp(0.0, waits[i]);
        t.step_seconds(alone[i] / layers, (waits[i] - hidden) / layers, more)
    };
    let [seconds, low, high] = [step(0), step(1), step(2)];
    let flops = (t.flops + t.beside_flops) / seconds / f64::from(t.world.ranks());
    let nodes: BTreeSet<_> = r.ranks.iter().map(|r| r.node.as_ref()).collect();
    let nodes = nodes.len() as u32;
    Some(Projected { seconds, low: low.min(seconds), high: high.max(seconds), tokens: t.tokens, nodes, flops })
}

/// How long the rehearsed layers should take together, by computing alone, messages alone and what may go beside what: computing waits
/// for messages on its path, and gradients of a layer go while the next is computed, one after the other.
pub fn together(r: &Rehearsal, alone: f64, communication: f64, gradients: f64) -> f64 {
    let layers = r.layers.max(1) as f64;
    let path = (communication - gradients).max(0.0) / (2.0 * layers);
    let (forward, backward, sent) = (alone / 3.0 / layers, alone * 2.0 / 3.0 / layers, gradients / layers);
    let mut now = layers * (forward + path);
    let mut wire = now;
    // No probe runs more, whatever a record says.
    for _ in 0..r.layers.min(MOST_LAYERS) {
        // A message on the path waits for the gradients before it.
        now = (now + backward).max(if path > 0.0 { wire } else { 0.0 }) + path;
        wire = wire.max(now) + sent;
    }
    if r.training.overlap { wire.max(now) } else { alone + communication }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{RunPlan, Training};

    fn rehearsal(text: &str, ranks: u32, layers: u64, narrow: u64) -> Rehearsal {
        let plan: RunPlan = crate::plan::parse(std::path::Path::new("p"), text).unwrap_or_else(|e| panic!("{e}"));
        let Some(Ok(training)) = Training::of(&plan, ranks) else { panic!("{text}") };
        let one = || RankSteps {
            node: None,
            gpu: None,
            alone: vec![0.06; 12],
            beside: vec![0.06; 12],
            whole: vec![0.08; 12],
            communication: vec![0.02; 12],
            gradients: vec![0.02; 12],
            ring: Vec::new(),
        };
        Rehearsal { training, layers, narrow, own_core: true, device: None, ranks: (0..ranks).map(|_| one()).collect() }
    }

    const PLAN: &str = "[model]\npreset = \"llama-3-8b\"\n[parallel]\nglobal_batch = 32\n";

    /// Known answer: 32 layers at 30 ms each, 4 microbatches of which the last takes its gradients along, and what is not rehearsed.
    #[test]
    fn a_step_is_its_layers_and_microbatches() {
        let r = rehearsal(PLAN, 8, 2, 1);
        let Some(p) = projected(&r) else { panic!("nothing") };
        let microbatch = 0.03 * 32.0;
        let more = r.training.beside_flops / r.training.flops;
        // The whole takes 20 ms longer than computing: 10 of them are the last layer's gradients, 10 come with each layer but one.
        let want = 4.0 * microbatch * (1.0 + more) + 0.01 + 0.01 * 31.0;
        assert!((p.seconds - want).abs() < 1e-9 && p.tokens == 32 * 8192, "{p:?} {want}");
        assert!((p.flops * p.seconds * 8.0 / (r.training.flops + r.training.beside_flops) - 1.0).abs() < 1e-9);
        assert_eq!(projected(&rehearsal(PLAN, 8, 2, 4)), None);
    }

    /// The ring takes 8 of the 12 ms that computing waits for: they go beside attention's core as far as that computes for so long.
    #[test]
    fn keys_and_values_go_round_beside_attention() {
        let mut r = rehearsal(&PLAN.replace("[parallel]", "[parallel]\ncp = 2"), 8, 2, 1);
        for rank in &mut r.ranks {
            (rank.whole, rank.communication) = (vec![0.072; 12], vec![0.013; 12]);
            (rank.gradients, rank.ring) = (vec![0.001; 12], vec![0.008; 12]);
        }
        let core = r.training.core_flops / r.training.flops;
        assert!(0.06 * core > 0.008, "{core}");
        let step = |r: &Rehearsal| projected(r).map_or(0.0, |p| p.seconds);
        let (layers, microbatches) = (32.0 / 2.0, r.training.microbatches as f64);
        let more = r.training.beside_flops / r.training.flops;
        let of = |waits: f64| (0.06 * (1.0 + more) + waits) * layers * microbatches;
        assert!((step(&r) - of(0.004)).abs() < 1e-9, "{} {}", step(&r), of(0.004));
        r.training.core_flops = r.training.flops * 0.05;
        assert!((step(&r) - of(0.009)).abs() < 1e-9);
        // What no run computes hides nothing.
        r.training.core_flops = -1e300;
        assert!((step(&r) - of(0.012)).abs() < 1e-9);
    }

    #[test]
    fn what_goes_beside_what_is_reckoned() {
        let r = rehearsal(PLAN, 8, 2, 1);
        // Forward 20, backward twice 20; the first layer's gradients go beside the second's pass, the last's come after.
        assert!((together(&r, 0.06, 0.02, 0.02) - 0.07).abs() < 1e-12);
        assert!((together(&r, 0.06, 0.08, 0.08) - 0.12).abs() < 1e-12);
        assert!((together(&r, 0.06, 0.0, 0.0) - 0.06).abs() < 1e-12);
        // All on the path: nothing is hidden.
        assert!((together(&r, 0.06, 0.04, 0.0) - 0.10).abs() < 1e-12);
        let mut serial = r;
        serial.training.overlap = false;
        assert!((together(&serial, 0.06, 0.02, 0.02) - 0.08).abs() < 1e-12);
    }
}
