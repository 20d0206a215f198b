//! `[parallel]`: how a step is divided among ranks, one a GPU, or one a node where nodes have none.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::model::{Shape, Wrong};

/// How a step is divided. What is not stated is 1.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Parallel {
    /// Ranks that share each product (tensor parallel).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tp: Option<u32>,
    /// Ranks that share a sequence (context parallel).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cp: Option<u32>,
    /// Ranks that share the layers (pipeline parallel).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pp: Option<u32>,
    /// Ranks that share the experts (expert parallel), out of those of `dp` and `cp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ep: Option<u32>,
    /// Ranks that share the sequences of a step (data parallel); all that are left unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp: Option<u32>,
    /// Sequences that a rank computes at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microbatch: Option<u64>,
    /// Sequences of a step; one microbatch of each data-parallel rank unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_batch: Option<u64>,
    /// Whether gradients are sent while the rest is computed; true unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<bool>,
}

/// Which ranks divide what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Each product.
    Tensor,
    /// The sequences: each rank holds a part of each.
    Context,
    /// The gradients: ranks that hold the same weights.
    Data,
    /// The gradients of experts.
    ExpertData,
    /// The experts.
    Expert,
    /// The layers.
    Pipeline,
}

impl Dimension {
    pub const ALL: [Dimension; 6] = [
        Dimension::Tensor,
        Dimension::Context,
        Dimension::Data,
        Dimension::ExpertData,
        Dimension::Expert,
        Dimension::Pipeline,
    ];
}

/// Ranks by dimension. Ranks next to each other share products first, then sequences, then batches, then layers, as Megatron-LM orders
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct World {
    pub tp: u32,
    pub cp: u32,
    pub dp: u32,
    pub pp: u32,
    /// Out of `cp` and `dp`.
    pub ep: u32,
}

impl World {
    pub const fn ranks(&self) -> u32 {
        self.tp.saturating_mul(self.cp).saturating_mul(self.dp).saturating_mul(self.pp)
    }

    /// Ranks that divide a thing.
    pub const fn size(&self, by: Dimension) -> u32 {
        match by {
            Dimension::Tensor => self.tp,
            Dimension::Context => self.cp,
            Dimension::Data => self.replicas(),
            Dimension::ExpertData => self.replicas() / self.ep,
            Dimension::Expert => self.ep,
            Dimension::Pipeline => self.pp,
        }
    }

    /// Ranks that hold the same weights, but for experts.
    pub const fn replicas(&self) -> u32 {
        self.cp.saturating_mul(self.dp)
    }

    /// Of `rank`, those that it divides a thing with, in order, itself among them.
    pub fn group(&self, by: Dimension, rank: u32) -> Vec<u32> {
        let (tp, replicas) = (self.tp, self.replicas());
        let (t, r, p) = (rank % tp, rank / tp % replicas, rank / tp / replicas);
        let at = |t: u32, r: u32, p: u32| t + tp * (r + replicas * p);
        match by {
            Dimension::Tensor => (0..tp).map(|t| at(t, r, p)).collect(),
            Dimension::Context => (0..self.cp).map(|i| at(t, r / self.cp * self.cp + i, p)).collect(),
            Dimension::Data => (0..replicas).map(|r| at(t, r, p)).collect(),
            Dimension::Expert => (0..self.ep).map(|i| at(t, r / self.ep * self.ep + i, p)).collect(),
            Dimension::ExpertData => (0..replicas / self.ep).map(|i| at(t, r % self.ep + i * self.ep, p)).collect(),
            Dimension::Pipeline => (0..self.pp).map(|p| at(t, r, p)).collect(),
        }
    }
}

impl World {
    /// What is left of it between nodes, where `each` ranks next to each other are one; `None` where they are no whole part of it.
    pub fn by_nodes(&self, each: u32) -> Option<World> {
        let mut left = each.max(1);
        let [tp, cp, dp, pp] = [self.tp, self.cp, self.dp, self.pp].map(|n| {
            let within = common(n, left);
            left /= within;
            n / within
        });
        (left == 1).then(|| World { tp, cp, dp, pp, ep: common(self.ep, cp * dp) })
    }
}

fn common(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common(b, a % b) }
}

/// Ranks of any one dimension.
const MOST: u32 = 1 << 20;

/// The divisors of `of` nearest to `n` below and above.
fn nearest_divisors(of: u64, n: u64) -> String {
    let below = (1..=n.min(of)).rev().find(|d| of.is_multiple_of(*d));
    let above = (n..=of).find(|d| of.is_multiple_of(*d));
    match (below, above) {
        (Some(a), Some(b)) if a != b => format!("{a} or {b}"),
        (Some(a), _) => a.to_string(),
        (None, _) => "1".to_owned(),
    }
}

impl Parallel {
    fn dimensions(&self) -> [(&'static str, u32); 4] {
        let of = |v: Option<u32>| v.unwrap_or(1);
        [("tp", of(self.tp)), ("cp", of(self.cp)), ("pp", of(self.pp)), ("ep", of(self.ep))]
    }

    pub fn microbatch(&self) -> u64 {
        self.microbatch.unwrap_or(1)
    }

    pub fn overlaps(&self) -> bool {
        self.overlap.unwrap_or(true)
    }

    /// The ranks by dimension, of so many.
    ///
    /// # Errors
    /// Where they do not divide; with the nearest that do.
    pub fn world(&self, ranks: u32) -> Result<World, Wrong> {
        let [(_, tp), (_, cp), (_, pp), (_, ep)] = self.dimensions();
        let each = u64::from(tp) * u64::from(cp) * u64::from(pp);
        if !u64::from(ranks).is_multiple_of(each) || ranks == 0 {
            let (below, above) = (u64::from(ranks) / each * each, (u64::from(ranks) / each + 1) * each);
            let near = if below > 0 { format!("{below} or {above}") } else { above.to_string() };
            let there = if ranks == 1 { "1 rank is".to_owned() } else { format!("{ranks} ranks are") };
            let why = format!("{there} no multiple of tp x cp x pp = {tp} x {cp} x {pp} = {each}; {near} would be");
            return Err(("[parallel]", why));
        }
        let dp = (u64::from(ranks) / each) as u32;
        if self.dp.is_some_and(|stated| stated != dp) {
            let stated = self.dp.unwrap_or(dp);
            let why = format!(
                "`dp` {stated} x tp {tp} x cp {cp} x pp {pp} are not the {ranks} ranks that there are; {dp} would be"
            );
            return Err(("dp", why));
        }
        let replicas = u64::from(dp) * u64::from(cp);
        if !replicas.is_multiple_of(u64::from(ep)) {
            let near = nearest_divisors(replicas, u64::from(ep));
            return Err(("ep", format!("`ep` {ep} does not divide dp x cp = {replicas}; {near} would")));
        }
        Ok(World { tp, cp, dp, pp, ep })
    }

    /// Microbatches that a rank computes in a step of `world`.
    ///
    /// # Errors
    /// Where a step's sequences do not divide.
    pub fn microbatches(&self, world: &World) -> Result<u64, Wrong> {
        let each = self.microbatch() * u64::from(world.dp);
        let whole = self.global_batch.unwrap_or(each);
        if whole == 0 || !whole.is_multiple_of(each) {
            let (below, above) = (whole / each * each, (whole / each + 1) * each);
            let near = if below > 0 { format!("{below} or {above}") } else { above.to_string() };
            let why = format!("`global_batch` {whole} is no multiple of microbatch x dp = {each}; {near} would be");
            return Err(("global_batch", why));
        }
        Ok(whole / each)
    }

    /// What does not divide, of a model of `shape` (if it is known) on `ranks` ranks (if that is known).
    pub(super) fn contradiction(&self, shape: Option<&Shape>, ranks: Option<u32>) -> Option<Wrong> {
        for (key, n) in self.dimensions().into_iter().chain([("dp", self.dp.unwrap_or(1))]) {
            if n == 0 || n > MOST {
                return Some((key, format!("`{key}` must be between 1 and {MOST}")));
            }
        }
        for (key, n) in [("microbatch", self.microbatch), ("global_batch", self.global_batch)] {
            if n.is_some_and(|n| n == 0 || n > u64::from(MOST)) {
                return Some((key, format!("`{key}` must be between 1 and {MOST}")));
            }
        }
        let [(_, tp), (_, cp), (_, pp), (_, ep)] = self.dimensions().map(|(k, n)| (k, u64::from(n)));
        if let Some(s) = shape {
            let mut divided =
                vec![("tp", tp, "heads", s.heads), ("tp", tp, "ffn", s.ffn), ("cp", cp, "sequence", s.sequence)];
            if s.experts > 0 {
                divided.extend([("ep", ep, "experts", s.experts), ("tp", tp, "expert_ffn", s.expert_ffn)]);
            } else if ep > 1 {
                return Some(("ep", "`ep` is above 1, and the model has no `experts`".into()));
            }
            for (key, n, name, whole) in divided {
                if !whole.is_multiple_of(n) {
                    let near = nearest_divisors(whole, n);
                    return Some((key, format!("`{key}` {n} does not divide `{name}` {whole}; {near} would")));
                }
            }
            if pp > s.layers {
                return Some(("pp", format!("`pp` {pp} is more than the model has layers: {}", s.layers)));
            }
        }
        let world = match ranks.map(|r| self.world(r)) {
            Some(Err(wrong)) => return Some(wrong),
            Some(Ok(world)) => world,
            None => return None,
        };
        self.microbatches(&world).err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_rank_is_in_one_group_of_each_kind() {
        let world = World { tp: 2, cp: 2, dp: 4, pp: 3, ep: 4 };
        assert_eq!(world.ranks(), 48);
        for by in Dimension::ALL {
            let groups: BTreeSet<Vec<u32>> = (0..48).map(|r| world.group(by, r)).collect();
            let mut all: Vec<u32> = groups.iter().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..48).collect::<Vec<u32>>(), "{by:?}");
            assert!((0..48).all(|r| world.group(by, r).contains(&r)), "{by:?}");
        }
        assert_eq!(world.group(Dimension::Tensor, 5), [4, 5]);
        assert_eq!(world.group(Dimension::Context, 21), [21, 23]);
        assert_eq!(world.group(Dimension::Data, 1), [1, 3, 5, 7, 9, 11, 13, 15]);
        assert_eq!(world.group(Dimension::Expert, 9), [9, 11, 13, 15]);
        assert_eq!(world.group(Dimension::ExpertData, 9), [1, 9]);
        assert_eq!(world.group(Dimension::Pipeline, 3), [3, 19, 35]);
    }

    #[test]
    fn nodes_of_eight_share_what_is_left() {
        let world = World { tp: 8, cp: 1, dp: 16, pp: 4, ep: 1 };
        assert_eq!(world.by_nodes(8), Some(World { tp: 1, cp: 1, dp: 16, pp: 4, ep: 1 }));
        assert_eq!(
            World { tp: 2, dp: 256, ep: 64, ..world }.by_nodes(8),
            Some(World { tp: 1, cp: 1, dp: 64, pp: 4, ep: 64 })
        );
        assert_eq!(World { tp: 3, dp: 1, pp: 1, ..world }.by_nodes(8), None);
    }

    #[test]
    fn what_does_not_divide_is_said_with_the_nearest_that_does() {
        let shape = crate::plan::presets().get("llama-3-70b").and_then(|p| p.model().shape().ok().flatten());
        let of = |text: &str, ranks: u32| -> String {
            let p: Parallel = toml::from_str(text).unwrap_or_default();
            p.contradiction(shape.as_ref(), Some(ranks)).map(|(key, why)| format!("{key}: {why}")).unwrap_or_default()
        };
        assert_eq!(of("tp = 8\npp = 4\nglobal_batch = 512\n", 512), "");
        assert_eq!(of("tp = 6\n", 96), "tp: `tp` 6 does not divide `heads` 64; 4 or 8 would");
        assert_eq!(
            of("tp = 8\npp = 3\n", 64),
            "[parallel]: 64 ranks are no multiple of tp x cp x pp = 8 x 1 x 3 = 24; 48 or 72 would be"
        );
        assert_eq!(
            of("tp = 8\ndp = 4\n", 64),
            "dp: `dp` 4 x tp 8 x cp 1 x pp 1 are not the 64 ranks that there are; 8 would be"
        );
        assert_eq!(
            of("tp = 8\nmicrobatch = 2\nglobal_batch = 100\n", 64),
            "global_batch: `global_batch` 100 is no multiple of microbatch x dp = 16; 96 or 112 would be"
        );
        assert_eq!(of("ep = 2\n", 64), "ep: `ep` is above 1, and the model has no `experts`");
        assert_eq!(of("pp = 128\n", 128), "pp: `pp` 128 is more than the model has layers: 80");
        assert_eq!(of("tp = 0\n", 8), "tp: `tp` must be between 1 and 1048576");
    }
}
