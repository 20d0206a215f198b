//! `[model]`: the shape of what is trained, and what follows from it: parameters, operations a token.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::nearest;
use crate::plan::value::some_positive;

/// The model: its parameters for checkpoints and arithmetic, its shape for the rehearsal of a step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// A published shape, such as `llama-3-70b`; `gonogo list models` names them. Keys beside it win over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Number of parameters, such as `20.55e9`; of the shape unless stated.
    #[serde(deserialize_with = "some_positive", skip_serializing_if = "Option::is_none")]
    pub parameters: Option<f64>,
    /// Tokens to train on.
    #[serde(deserialize_with = "some_positive")]
    pub tokens: Option<f64>,
    /// Transformer layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<u64>,
    /// Width of the residual stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<u64>,
    /// Width within the feed-forward part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ffn: Option<u64>,
    /// Attention heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<u64>,
    /// Heads of keys and values; as many as `heads` unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<u64>,
    /// Width of a head; hidden / heads unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<u64>,
    /// Tokens that the model knows, as padded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab: Option<u64>,
    /// Tokens of one sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Experts of a layer; none unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<u64>,
    /// Experts that a token goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u64>,
    /// Width within an expert; `ffn` unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert_ffn: Option<u64>,
    /// Experts that every token goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_experts: Option<u64>,
    /// The first layers, without experts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense_layers: Option<u64>,
    /// A feed-forward part of three matrices (SwiGLU) and not of two; true unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gated: Option<bool>,
    /// Biases on all products and norms; false unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub biased: Option<bool>,
    /// One matrix for the embedding and the output; false unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tied: Option<bool>,
    /// Attention through narrow projections (MLA).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latent: Option<Latent>,
}

/// Widths of multi-head latent attention; of `rotary`, `key` and `value` each head has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    pub query: u64,
    pub key_value: u64,
    pub rotary: u64,
    pub key: u64,
    pub value: u64,
}

/// A shape with every number known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub layers: u64,
    pub hidden: u64,
    pub ffn: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub vocab: u64,
    pub sequence: u64,
    /// Zero where there are none.
    pub experts: u64,
    pub top_k: u64,
    pub expert_ffn: u64,
    pub shared_experts: u64,
    /// Layers without experts: all, where there are none.
    pub dense_layers: u64,
    pub gated: bool,
    pub biased: bool,
    pub tied: bool,
    pub latent: Option<Latent>,
}

/// A published model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Preset {
    /// Where its numbers stand.
    pub source: String,
    #[serde(flatten)]
    keys: toml::Table,
}

/// What is wrong with a model: the key to look for, and why.
pub type Wrong = (&'static str, String);

/// Largest value of any key: products of several stay far from the end of `u64` and exact in `f64` where it matters.
const MOST: u64 = 1 << 24;

/// No model has more; what follows from it fits numbers of 64 bits.
const MOST_PARAMETERS: u64 = 10_000_000_000_000_000;

/// Stated parameters may differ from those of the shape by this share: papers round, and count embeddings in two ways.
const NEAR: f64 = 0.05;

fn exact(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// The published models, by name.
pub fn presets() -> &'static BTreeMap<String, Preset> {
    static ALL: LazyLock<BTreeMap<String, Preset>> =
        LazyLock::new(|| toml::from_str(include_str!("models.toml")).unwrap_or_default());
    &ALL
}

impl Preset {
    /// Its keys, as a plan would state them.
    pub fn model(&self) -> Model {
        self.keys.clone().try_into().unwrap_or_default()
    }
}

impl Model {
    /// The number of parameters: as stated, else of the shape; zero where neither is known, which no plan that was read has.
    pub fn parameters(&self) -> f64 {
        let of_shape = || self.shape().ok().flatten().map(|s| s.parameters() as f64);
        self.parameters.or_else(of_shape).unwrap_or(0.0)
    }

    /// Its shape; `None` where the plan tells only how many parameters it has.
    ///
    /// # Errors
    /// What is missing, unknown, or contradicts itself.
    pub fn shape(&self) -> Result<Option<Shape>, Wrong> {
        let of_preset = match &self.preset {
            None => Model::default(),
            Some(name) => match presets().get(name) {
                Some(preset) => preset.model(),
                None => return Err(("preset", unknown(name))),
            },
        };
        let stated = self.over(&of_preset);
        if stated == Model::default() {
            return Ok(None);
        }
        stated.whole().map(Some)
    }

    /// What contradicts itself.
    pub(super) fn contradiction(&self) -> Option<Wrong> {
        let shape = match self.shape() {
            Err(wrong) => return Some(wrong),
            Ok(shape) => shape,
        };
        match (shape, self.parameters) {
            (None, None) => {
                Some(("[model]", "`[model]` needs `parameters`, or a `preset`, or the model's shape".into()))
            }
            (Some(shape), Some(stated)) => {
                let counted = shape.parameters() as f64;
                let apart = (counted / stated - 1.0).abs();
                let why = || {
                    format!(
                        "`parameters` is {:.4e}, and a model of this shape has {counted:.4e}: one of them is not the run's",
                        stated
                    )
                };
                (apart > NEAR).then(|| ("parameters", why()))
            }
            _ => None,
        }
    }
}

fn unknown(name: &str) -> String {
    let shown = crate::id::clean(name);
    let all: Vec<&str> = presets().keys().map(String::as_str).collect();
    match nearest(name, all.iter().copied()) {
        Some(meant) => format!("no model `{shown}` is known; did you mean `{meant}`?"),
        None => format!("no model `{shown}` is known; known are {}", all.join(", ")),
    }
}

impl Model {
    /// The keys of its shape, and those of `other` where they say nothing.
    fn over(&self, other: &Model) -> Model {
        Model {
            preset: None,
            parameters: None,
            tokens: None,
            layers: self.layers.or(other.layers),
            hidden: self.hidden.or(other.hidden),
            ffn: self.ffn.or(other.ffn),
            heads: self.heads.or(other.heads),
            kv_heads: self.kv_heads.or(other.kv_heads),
            head_dim: self.head_dim.or(other.head_dim),
            vocab: self.vocab.or(other.vocab),
            sequence: self.sequence.or(other.sequence),
            experts: self.experts.or(other.experts),
            top_k: self.top_k.or(other.top_k),
            expert_ffn: self.expert_ffn.or(other.expert_ffn),
            shared_experts: self.shared_experts.or(other.shared_experts),
            dense_layers: self.dense_layers.or(other.dense_layers),
            gated: self.gated.or(other.gated),
            biased: self.biased.or(other.biased),
            tied: self.tied.or(other.tied),
            latent: self.latent.or(other.latent),
        }
    }

    /// With what is not stated filled in.
    ///
    /// # Errors
    /// A key that is missing, zero, or does not fit the others.
    fn whole(&self) -> Result<Shape, Wrong> {
        let needed = [
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("ffn", self.ffn),
            ("heads", self.heads),
            ("vocab", self.vocab),
            ("sequence", self.sequence),
        ];
        let missing: Vec<&str> = needed.iter().filter(|(_, v)| v.is_none()).map(|(k, _)| *k).collect();
        let [Some(layers), Some(hidden), Some(ffn), Some(heads), Some(vocab), Some(sequence)] = needed.map(|(_, v)| v)
        else {
            return Err(("[model]", format!("a model's shape needs {} as well", missing.join(", "))));
        };
        let others = [
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("experts", self.experts),
            ("top_k", self.top_k),
            ("expert_ffn", self.expert_ffn),
            ("shared_experts", self.shared_experts.filter(|n| *n > 0)),
            ("dense_layers", self.dense_layers.filter(|n| *n > 0)),
        ];
        for (key, value) in needed.into_iter().chain(others) {
            if value.is_some_and(|v| v == 0 || v > MOST) {
                return Err((key, format!("`{key}` must be between 1 and {MOST}")));
            }
        }
        let kv_heads = self.kv_heads.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(("kv_heads", format!("`heads` {heads} is no multiple of `kv_heads` {kv_heads}")));
        }
        if self.head_dim.is_none() && self.latent.is_none() && !hidden.is_multiple_of(heads) {
            return Err(("hidden", format!("`hidden` {hidden} is no multiple of `heads` {heads}; or give `head_dim`")));
        }
        let widths = self.latent.map_or([1; 5], |l| [l.query, l.key_value, l.rotary, l.key, l.value]);
        if widths.iter().any(|w| *w == 0 || *w > MOST) {
            return Err(("latent", format!("widths of `latent` must be between 1 and {MOST}")));
        }
        let experts = self.experts.unwrap_or(0);
        let top_k = self.top_k.unwrap_or(if experts > 0 { 1 } else { 0 });
        if top_k > experts {
            return Err(("top_k", format!("`top_k` {top_k} is more than there are `experts`: {experts}")));
        }
        let dense_layers = if experts == 0 { layers } else { self.dense_layers.unwrap_or(0) };
        if dense_layers > layers {
            return Err((
                "dense_layers",
                format!("`dense_layers` {dense_layers} is more than there are layers: {layers}"),
            ));
        }
        let shape = Shape {
            layers,
            hidden,
            ffn,
            heads,
            kv_heads,
            head_dim: self.head_dim.unwrap_or_else(|| (hidden / heads).max(1)),
            vocab,
            sequence,
            experts,
            top_k,
            expert_ffn: self.expert_ffn.unwrap_or(ffn),
            shared_experts: self.shared_experts.unwrap_or(0),
            dense_layers,
            gated: self.gated.unwrap_or(true),
            biased: self.biased.unwrap_or(false),
            tied: self.tied.unwrap_or(false),
            latent: self.latent,
        };
        if shape.parameters() > MOST_PARAMETERS {
            return Err(("[model]", "a model of this shape has more than 10^16 parameters".into()));
        }
        Ok(shape)
    }
}

impl Shape {
    /// Matrices of a feed-forward part.
    pub const fn matrices(&self) -> u64 {
        if self.gated { 3 } else { 2 }
    }

    /// Width that attention reads keys in, over all heads; and values.
    fn attended(&self) -> (u64, u64) {
        match self.latent {
            Some(l) => (self.heads * (l.key + l.rotary), self.heads * l.value),
            None => (self.heads * self.head_dim, self.heads * self.head_dim),
        }
    }

    /// Weights of a layer's attention, products only.
    fn attention(&self) -> u128 {
        let h = u128::from(self.hidden);
        match self.latent {
            Some(l) => {
                let [query, key_value, rotary, key, value] =
                    [l.query, l.key_value, l.rotary, l.key, l.value].map(u128::from);
                let heads = u128::from(self.heads);
                h * query
                    + query * heads * (key + rotary)
                    + h * (key_value + rotary)
                    + key_value * heads * (key + value)
                    + heads * value * h
            }
            None => h * u128::from(self.head_dim) * u128::from(2 * self.heads + 2 * self.kv_heads),
        }
    }

    /// Weights of a layer's feed-forward part without experts; with so many, and those that all tokens go to.
    fn dense(&self) -> u128 {
        u128::from(self.matrices() * self.hidden) * u128::from(self.ffn)
    }

    fn sparse(&self, experts: u64) -> u128 {
        let each = u128::from(self.matrices() * self.hidden) * u128::from(self.expert_ffn);
        each * u128::from(experts + self.shared_experts) + u128::from(self.hidden) * u128::from(self.experts)
    }

    /// Norms and biases of a layer.
    fn small(&self, sparse: bool) -> u128 {
        let h = self.hidden;
        let norms = 2 * h + self.latent.map_or(0, |l| l.query + l.key_value);
        if !self.biased {
            // The router of DeepSeek's kind has a bias of each expert, for balance.
            return u128::from(norms + if sparse && self.latent.is_some() { self.experts } else { 0 });
        }
        let attention = u128::from(self.head_dim) * u128::from(self.heads + 2 * self.kv_heads) + u128::from(h);
        u128::from(2 * norms + self.ffn * (self.matrices() - 1) + h) + attention
    }

    /// All parameters.
    pub fn parameters(&self) -> u64 {
        let [layers, dense] = [self.layers, self.dense_layers].map(u128::from);
        let layers = layers * self.attention()
            + dense * (self.dense() + self.small(false))
            + (layers - dense) * (self.sparse(self.experts) + self.small(true));
        let ends = u128::from(self.vocab) * u128::from(self.hidden) * if self.tied { 1 } else { 2 };
        exact(layers + ends + u128::from(self.hidden) * if self.biased { 2 } else { 1 })
    }

    /// Parameters of one layer of the kind that most are of; and of that, its experts'.
    pub fn layer(&self) -> (u64, u64) {
        let sparse = self.is_sparse();
        let feed = if sparse { self.sparse(self.experts) } else { self.dense() };
        let each = u128::from(self.matrices() * self.hidden) * u128::from(self.expert_ffn);
        let experts = if sparse { each * u128::from(self.experts) } else { 0 };
        (exact(self.attention() + feed + self.small(sparse)), exact(experts))
    }

    /// Whether most layers have experts.
    pub fn is_sparse(&self) -> bool {
        2 * self.dense_layers < self.layers
    }

    /// Operations of a step for one token, forward and backward, nothing computed twice: `(products of layers, attention's core, the
    /// output)`. Attention is counted over the whole sequence, as Megatron-LM's formula does, causal or not.
    pub fn flops_per_token(&self) -> [f64; 3] {
        let sparse = self.layers - self.dense_layers;
        let weights = self.layers as f64 * self.attention() as f64
            + self.dense_layers as f64 * self.dense() as f64
            + sparse as f64 * self.sparse(self.top_k) as f64;
        let (keys, values) = self.attended();
        let core = 6.0 * self.layers as f64 * self.sequence as f64 * (keys + values) as f64;
        [6.0 * weights, core, 6.0 * self.hidden as f64 * self.vocab as f64]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset(name: &str) -> Shape {
        let model = Model { preset: Some(name.to_owned()), ..Model::default() };
        let Ok(Some(shape)) = model.shape() else { panic!("{name}") };
        shape
    }

    /// Known answers: the parameters that the published weights have.
    #[test]
    fn published_models_have_their_published_parameters() {
        for (name, parameters) in [
            ("gpt-neox-20b", 20_554_567_680),
            ("llama-3-8b", 8_030_261_248),
            ("llama-3-70b", 70_553_706_496),
            ("llama-3-405b", 405_853_388_800),
            ("mixtral-8x7b", 46_702_792_704),
            ("deepseek-v3", 671_026_419_200),
        ] {
            assert_eq!(preset(name).parameters(), parameters, "{name}");
        }
        assert_eq!(presets().len(), 6);
    }

    /// Known answers: BLOOM's log, 2048 sequences of 2048 tokens on 384 GPUs in 105.16 s at 149.1 TFLOP/s, layers computed twice.
    #[test]
    fn blooms_log() {
        let model = Model {
            layers: Some(70),
            hidden: Some(14336),
            ffn: Some(4 * 14336),
            heads: Some(112),
            vocab: Some(250_880),
            sequence: Some(2048),
            gated: Some(false),
            biased: Some(true),
            tied: Some(true),
            ..Model::default()
        };
        let Ok(shape) = model.whole() else { panic!("{model:?}") };
        let [layers, core, output] = shape.flops_per_token();
        let flops = ((layers + core) * 4.0 / 3.0 + output) * 2048.0 * 2048.0;
        assert!((flops / 105.16 / 384.0 / 1e12 - 149.11).abs() < 0.01, "{flops}");
        // 6 N D alone would say a quarter less, without the second forward pass.
        assert!((6.0 * shape.parameters() as f64 * 2048.0 * 2048.0 / 105.16 / 384.0 / 1e12 - 109.8).abs() < 0.2);
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let of = |text: &str| -> String {
            let model: Model = toml::from_str(text).unwrap_or_default();
            model.contradiction().map(|(key, why)| format!("{key}: {why}")).unwrap_or_default()
        };
        let small = "layers = 2\nhidden = 64\nffn = 128\nheads = 4\nvocab = 100\nsequence = 32\n";
        assert_eq!(of(small), "");
        assert_eq!(of(""), "[model]: `[model]` needs `parameters`, or a `preset`, or the model's shape");
        assert_eq!(
            of("layers = 2\nhidden = 64\n"),
            "[model]: a model's shape needs ffn, heads, vocab, sequence as well"
        );
        assert_eq!(of("preset = \"lama-3-8b\"\n"), "preset: no model `lama-3-8b` is known; did you mean `llama-3-8b`?");
        assert_eq!(
            of(&small.replace("64", "66")),
            "hidden: `hidden` 66 is no multiple of `heads` 4; or give `head_dim`"
        );
        assert_eq!(of(&format!("{small}kv_heads = 3\n")), "kv_heads: `heads` 4 is no multiple of `kv_heads` 3");
        assert_eq!(
            of(&format!("{small}experts = 2\ntop_k = 3\n")),
            "top_k: `top_k` 3 is more than there are `experts`: 2"
        );
        assert_eq!(of(&small.replace("= 2", "= 0")), "layers: `layers` must be between 1 and 16777216");
        assert!(
            of("preset = \"llama-3-8b\"\nparameters = 70e9\n")
                .starts_with("parameters: `parameters` is 7.0000e10, and")
        );
        assert_eq!(of("preset = \"llama-3-8b\"\nparameters = 8.0e9\n"), "");
    }

    proptest::proptest! {
        #[test]
        fn no_shape_overflows(values in proptest::collection::vec(1u64..=MOST, 12)) {
            let v = |i: usize| Some(values[i]);
            let model = Model {
                layers: v(0), hidden: v(1), ffn: v(2), heads: v(3), head_dim: v(4), vocab: v(5), sequence: v(6), experts: v(7), top_k: v(9),
                expert_ffn: v(8), ..Model::default()
            };
            if let Ok(s) = model.whole() {
                proptest::prop_assert!(s.flops_per_token().iter().all(|f| f.is_finite() && *f > 0.0));
            }
        }
    }
}
