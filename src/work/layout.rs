//! How trainers lay out checkpoints.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::work::named::named;

/// A convention of names, and what says that a checkpoint is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// GPT-NeoX and DeepSpeed: `global_step500`, named by the file `latest`.
    DeepSpeed,
    /// Megatron-LM: `iter_0000500`, named by `latest_checkpointed_iteration.txt`.
    Megatron,
    /// Hugging Face's Trainer: `checkpoint-500`, with `trainer_state.json` written last.
    HuggingFace,
    /// NeMo: `...step=500...`, with `...-unfinished` beside it while it is written.
    Nemo,
    /// torch.distributed.checkpoint: any name that ends with the step, with `.metadata` written last.
    Dcp,
    /// A name that ends with the step, and nothing that says when it is complete.
    Plain,
}

named!(Layout {
    Layout::DeepSpeed => "deepspeed",
    Layout::Megatron => "megatron",
    Layout::HuggingFace => "huggingface",
    Layout::Nemo => "nemo",
    Layout::Dcp => "dcp",
    Layout::Plain => "plain",
} [Layout::DeepSpeed, Layout::Megatron, Layout::HuggingFace, Layout::Nemo, Layout::Dcp, Layout::Plain]);
