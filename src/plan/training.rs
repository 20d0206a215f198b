//! What one rank computes and sends in a step of the run.
//!
//! Products and messages are those of a transformer layer as Megatron-LM divides it: weights of attention and feed-forward part by
//! columns, then by rows, an all-reduce of the activations after each; experts' tokens by two all-to-all; gradients in f32 by
//! reduce-scatter, weights in bf16 by all-gather, a layer at a time; activations in bf16. Where a sequence is divided, each part's keys and
//! values go round a ring, and once more beside their gradients, as Megatron-LM's `cp_comm_type = p2p`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::RunPlan;
use crate::plan::model::{Shape, Wrong};
use crate::plan::parallel::{Dimension, Parallel, World};
use crate::work::Collective;

/// Bytes of an activation, of a gradient, of a weight that is sent.
const ACTIVATION: u64 = 2;
const GRADIENT: u64 = 4;
const WEIGHT: u64 = 2;

/// A product `(m x k) (k x n)`, so many times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Product {
    pub m: u64,
    pub n: u64,
    pub k: u64,
    pub times: u64,
}

impl Product {
    pub fn flops(&self) -> f64 {
        2.0 * self.m as f64 * self.n as f64 * self.k as f64 * self.times as f64
    }

    /// The two of the backward pass: for the input's gradient and for the weight's.
    pub const fn backward(&self) -> [Product; 2] {
        let Product { m, n, k, times } = *self;
        [Product { m, n: k, k: n, times }, Product { m: k, n, k: m, times }]
    }
}

/// What ranks that share something send each other; `bytes` as nccl-tests counts them, the larger of what is sent and received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    pub op: Collective,
    pub among: Dimension,
    pub bytes: u64,
}

/// Keys and values of a layer's part of the sequence, passed on so many times forward, and twice as often backward: the gradients go
/// round as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ring {
    pub message: Message,
    pub turns: u64,
}

impl Ring {
    fn of(s: &Shape, tokens: u64, world: World) -> Option<Ring> {
        let tp = u64::from(world.tp);
        // Where fewer heads have keys than ranks divide the products, each rank has one all the same.
        let each = match s.latent {
            Some(l) => s.heads * (l.key + l.rotary + l.value) / tp,
            None => 2 * s.head_dim * (s.kv_heads / tp).max(1),
        };
        let bytes = tokens.saturating_mul(each).saturating_mul(ACTIVATION);
        let message = Message { op: Collective::SendReceive, among: Dimension::Context, bytes };
        (world.cp > 1).then(|| Ring { message, turns: u64::from(world.cp) - 1 })
    }

    /// How often it is sent in a layer's pass, forward and backward.
    pub const fn times(&self) -> [u64; 2] {
        [self.turns, self.turns.saturating_mul(2)]
    }
}

/// Of a layer: its weights' among all that hold the same, its experts' among those that hold the same experts.
fn gradients(s: &Shape, world: World) -> Vec<Message> {
    let [tp, ep] = [world.tp, world.ep].map(u64::from);
    let (layer, experts) = s.layer();
    let of = [(Dimension::Data, (layer - experts) / tp), (Dimension::ExpertData, experts / tp / ep)];
    let sent = of.into_iter().filter(|(among, weights)| *weights > 0 && world.size(*among) > 1);
    let both = [(Collective::ReduceScatter, GRADIENT), (Collective::AllGather, WEIGHT)];
    sent.flat_map(|(among, weights)| both.map(|(op, each)| Message { op, among, bytes: weights * each })).collect()
}

/// A rank's step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Training {
    pub world: World,
    /// Ranks of the run that one stands for.
    pub rank_of: u32,
    /// Layers of the stage that has most, and of the whole model.
    pub layers: u64,
    pub of_layers: u64,
    pub microbatches: u64,
    pub overlap: bool,
    /// Sequences and tokens of a step, all ranks together.
    pub tokens: u64,
    /// Of one layer, forward, for one microbatch.
    pub products: Vec<Product>,
    /// Sent after a layer's forward pass, and as often after its backward pass: computing waits for it.
    pub on_path: Vec<Message>,
    /// Of each layer's pass, among those that share the sequences. A run hides it behind attention's core, which is not rehearsed: here
    /// computing waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<Ring>,
    /// From stage to stage, once a microbatch, and back.
    pub between_stages: Option<Message>,
    /// Of one layer, once a step, beside computing where the plan overlaps.
    pub gradients: Vec<Message>,
    /// Operations of a whole step, all ranks together: in layers' products, and in what the rehearsal does not run.
    pub flops: f64,
    pub beside_flops: f64,
    /// Those of attention's core, among the latter.
    #[serde(default)]
    pub core_flops: f64,
}

impl Training {
    /// Of the plan's run on `ranks` ranks; `None` where the plan has no shape.
    ///
    /// # Errors
    /// Why the plan does not divide among so many.
    pub fn of(run: &RunPlan, ranks: u32) -> Option<Result<Training, String>> {
        let shape = run.model.as_ref()?.shape().ok()??;
        let parallel = run.parallel.clone().unwrap_or_default();
        // A plan in a record was checked by whoever wrote the record, or by nobody.
        if let Some((_, why)) = parallel.contradiction(Some(&shape), None) {
            return Some(Err(why));
        }
        // Fewer or more than the run will have: each computes what it will there.
        let planned = run.nodes.as_ref().map(|n| n.needed.saturating_mul(n.gpus_per_node.max(1)));
        Some(Self::divided(&shape, &parallel, ranks, planned.unwrap_or(ranks)).map_err(|(_, why)| why))
    }

    fn divided(s: &Shape, parallel: &Parallel, ranks: u32, planned: u32) -> Result<Training, Wrong> {
        let of_run = parallel.world(planned)?;
        let microbatches = parallel.microbatches(&of_run)?;
        let world = if ranks == planned { of_run } else { Parallel { dp: None, ..parallel.clone() }.world(ranks)? };
        let [tp, cp, ep, pp] = [world.tp, world.cp, world.ep, world.pp].map(u64::from);
        let tokens = (parallel.microbatch() * s.sequence).div_ceil(cp);
        let h = s.hidden;
        let up = s.matrices() - 1;
        let product = |m: u64, n: u64, k: u64, times: u64| Product { m, n: n.max(1), k: k.max(1), times };
        let mut products = match s.latent {
            Some(l) => vec![
                product(tokens, l.query + l.key_value + l.rotary, h, 1),
                product(tokens, s.heads * (l.key + l.rotary) / tp, l.query, 1),
                product(tokens, s.heads * (l.key + l.value) / tp, l.key_value, 1),
                product(tokens, h, s.heads * l.value / tp, 1),
            ],
            None => vec![
                product(tokens, s.head_dim * (s.heads + 2 * s.kv_heads) / tp, h, 1),
                product(tokens, h, s.head_dim * s.heads / tp, 1),
            ],
        };
        let mut feed = |m: u64, width: u64, times: u64| {
            products.push(product(m, up * width / tp, h, times));
            products.push(product(m, h, width / tp, times));
        };
        let activations = tokens.saturating_mul(h).saturating_mul(ACTIVATION);
        let mut on_path = Vec::new();
        let sparse = s.is_sparse();
        if sparse {
            // Tokens of all that share the experts, evenly.
            feed(tokens.saturating_mul(s.top_k * ep).div_ceil(s.experts).max(1), s.expert_ffn, s.experts / ep);
            if s.shared_experts > 0 {
                feed(tokens, s.expert_ffn * s.shared_experts, 1);
            }
        } else {
            feed(tokens, s.ffn, 1);
        }
        if tp > 1 {
            on_path.extend([Message { op: Collective::AllReduce, among: Dimension::Tensor, bytes: activations }; 2]);
        }
        if sparse && ep > 1 {
            let routed = activations.saturating_mul(s.top_k);
            on_path.extend([Message { op: Collective::AllToAll, among: Dimension::Expert, bytes: routed }; 2]);
        }
        let of_step = microbatches
            .saturating_mul(parallel.microbatch())
            .saturating_mul(u64::from(world.dp))
            .saturating_mul(s.sequence);
        let [in_layers, core, output] = s.flops_per_token();
        Ok(Training {
            world,
            rank_of: 1,
            layers: s.layers.div_ceil(pp),
            of_layers: s.layers,
            microbatches,
            overlap: parallel.overlaps(),
            tokens: of_step,
            products,
            on_path,
            ring: Ring::of(s, tokens, world),
            between_stages: (pp > 1).then_some(Message {
                op: Collective::SendReceive,
                among: Dimension::Pipeline,
                bytes: activations,
            }),
            gradients: gradients(s, world),
            flops: in_layers * of_step as f64,
            beside_flops: (core + output) * of_step as f64,
            core_flops: core * of_step as f64,
        })
    }

    /// The same where `each` ranks next to each other are one: their messages to each other are left out, and one of them computes.
    pub fn by_nodes(mut self, each: u32) -> Option<Training> {
        self.world = self.world.by_nodes(each)?;
        self.rank_of = each;
        let world = self.world;
        let goes = |m: &Message| world.size(m.among) > 1;
        self.on_path.retain(goes);
        self.gradients.retain(goes);
        self.between_stages = self.between_stages.filter(goes);
        self.ring = self.ring.filter(|r| goes(&r.message));
        Some(self)
    }

    /// All that a rank sends in a step, each kind once.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        let ring = self.ring.as_ref().map(|r| &r.message);
        self.on_path.iter().chain(ring).chain(&self.gradients).chain(&self.between_stages)
    }

    /// Whether ranks of a dimension send each other anything.
    pub fn sends_among(&self, by: Dimension) -> bool {
        self.messages().any(|m| m.among == by)
    }

    /// Operations of one layer for one microbatch on one rank, forward and backward.
    pub fn layer_flops(&self) -> f64 {
        3.0 * self.products.iter().map(Product::flops).sum::<f64>()
    }

    /// The same at one part in `narrow` of its width and, beyond that, of its height: what a slower machine rehearses in the same time.
    /// Where only the width shrinks, computing and gradients shrink alike.
    pub fn narrowed(&self, narrow: u64) -> Training {
        let width = |v: u64| (v / narrow).max(16);
        let square = narrow * narrow;
        let thinner = |m: Message| Message { bytes: (m.bytes / narrow).max(64), ..m };
        Training {
            products: self.products.iter().map(|p| Product { n: width(p.n), k: width(p.k), ..*p }).collect(),
            on_path: self.on_path.iter().copied().map(thinner).collect(),
            ring: self.ring.map(|r| Ring { message: thinner(r.message), ..r }),
            between_stages: self.between_stages.map(thinner),
            gradients: self.gradients.iter().map(|m| Message { bytes: (m.bytes / square).max(64), ..*m }).collect(),
            ..self.clone()
        }
    }

    /// Seconds of a whole step where a layer of a microbatch computes for `computing` seconds and waits for `waiting`, and the last
    /// microbatch takes `more` than that for its gradients; what is not rehearsed is computed as fast. A pipeline waits once for its other
    /// stages.
    pub fn step_seconds(&self, computing: f64, waiting: f64, more: f64) -> f64 {
        let beside = self.beside_flops / self.flops.max(1.0);
        let microbatch = (computing * (1.0 + beside) + waiting) * self.layers as f64;
        let times = self.microbatches.saturating_add(u64::from(self.world.pp)).saturating_sub(1);
        microbatch * times as f64 + more.max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::presets;

    fn training(preset: &str, parallel: &str, ranks: u32) -> Training {
        let shape = presets().get(preset).and_then(|p| p.model().shape().ok().flatten());
        let Some(shape) = shape else { panic!("{preset}") };
        let parallel: Parallel = toml::from_str(parallel).unwrap_or_default();
        Training::divided(&shape, &parallel, ranks, ranks).unwrap_or_else(|(_, why)| panic!("{why}"))
    }

    /// What all ranks compute is what the step is.
    #[test]
    fn the_ranks_together_compute_the_step() {
        for (preset, parallel, ranks) in [
            ("llama-3-70b", "tp = 8\npp = 4\nglobal_batch = 512\n", 512),
            ("llama-3-8b", "cp = 2\nmicrobatch = 2\nglobal_batch = 64\n", 16),
            ("gpt-neox-20b", "tp = 2\npp = 4\nmicrobatch = 4\nglobal_batch = 1536\n", 96),
            ("mixtral-8x7b", "ep = 8\nglobal_batch = 64\n", 32),
        ] {
            let t = training(preset, parallel, ranks);
            let all = t.layer_flops() * t.layers as f64 * t.microbatches as f64 * f64::from(ranks);
            assert!((all / t.flops - 1.0).abs() < 0.002, "{preset}: {all:e} of {:e}", t.flops);
            assert_eq!(t.tokens % u64::from(t.world.dp), 0);
        }
    }

    /// Known answers: a layer of Llama 3 70B has 855.6 million weights, an eighth of them on each rank.
    #[test]
    fn messages_of_llama_3_70b() {
        let t = training("llama-3-70b", "tp = 8\npp = 4\nglobal_batch = 512\n", 512);
        assert_eq!((t.world.dp, t.layers, t.microbatches), (16, 20, 32));
        assert_eq!(t.on_path.len(), 2);
        assert_eq!(t.on_path[0].bytes, 8192 * 8192 * 2);
        let [scatter, gather] = t.gradients[..] else { panic!("{:?}", t.gradients) };
        assert_eq!(scatter.bytes, 855_654_400 / 8 * 4);
        assert_eq!(gather.bytes * 2, scatter.bytes);
        let alone = training("llama-3-8b", "", 1);
        assert!(alone.gradients.is_empty() && alone.on_path.is_empty() && alone.between_stages.is_none());
    }

    /// Known answers: eight heads of Llama 3's keys and values, 128 wide, two bytes each, an eighth of them on each rank of `tp`.
    #[test]
    fn parts_of_a_sequence_pass_on_keys_and_values() {
        let t = training("llama-3-70b", "tp = 8\ncp = 4\n", 64);
        let Some(ring) = t.ring else { panic!("no ring") };
        assert_eq!((ring.message.bytes, ring.turns), (8192 / 4 * 2 * 128 * 2, 3));
        assert_eq!(ring.times(), [3, 6]);
        assert!(t.sends_among(Dimension::Context) && t.core_flops > 0.0 && t.core_flops < t.beside_flops);
        // Two nodes' GPUs are a whole ring: between nodes it still goes as often. A ring within a node does not.
        let far = training("llama-3-70b", "cp = 16\n", 64).by_nodes(8);
        assert_eq!(far.and_then(|t| t.ring.map(|r| (t.world.cp, r.turns))), Some((2, 15)));
        assert!(training("llama-3-70b", "cp = 4\n", 64).by_nodes(8).is_some_and(|t| t.ring.is_none()));
        assert!(training("llama-3-70b", "tp = 8\n", 64).ring.is_none());
    }

    #[test]
    fn a_narrow_step_computes_and_sends_gradients_in_the_same_measure() {
        let t = training("llama-3-70b", "tp = 8\n", 64);
        let narrow = t.narrowed(8);
        let ratio = |t: &Training| t.layer_flops() / t.gradients.iter().map(|m| m.bytes as f64).sum::<f64>();
        assert!((ratio(&narrow) / ratio(&t) - 1.0).abs() < 0.01, "{} {}", ratio(&narrow), ratio(&t));
        assert!((t.layer_flops() / narrow.layer_flops() - 64.0).abs() < 1.0);
    }

    /// A pipeline of p stages takes p - 1 microbatches more than one without.
    #[test]
    fn the_bubble_is_reckoned() {
        let t = Training { beside_flops: 0.0, ..training("llama-3-70b", "tp = 8\npp = 4\nglobal_batch = 512\n", 512) };
        let microbatch = 20.0 * 0.01;
        assert!((t.step_seconds(0.01, 0.0, 0.0) - microbatch * 35.0).abs() < 1e-9);
        assert!((t.step_seconds(0.006, 0.004, 0.3) - microbatch * 35.0 - 0.3).abs() < 1e-9);
        // What is not rehearsed is computed, and waits for nobody.
        let more = Training { beside_flops: t.flops, ..t };
        assert!((more.step_seconds(0.006, 0.004, 0.0) - 20.0 * 0.016 * 35.0).abs() < 1e-9);
    }
}
