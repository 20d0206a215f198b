//! Pair measurements + topology -> who is slow, and by how much: a node's sending or receiving side, a leaf's uplinks, a
//! single pair. Pure: no clock, no file, no environment.
//!
//! Bandwidth is a `min()`: a pair reads what the worst part of its path leaves. Each reading is held against the upper
//! mode of its class (`reference`), as a residual in deviations that the readings themselves show (`decode`). Leaves that
//! explain all that crosses them come first (`uplinks`), then nodes (`belief`), then pairs; what is left is counted.
//! `rounds` says which pairs to measure next: random disjoint ones first, then each suspect against distinct cleared
//! nodes at low concurrency, beside control pairs that give the reference, while that can change a verdict.

mod belief;
mod chance;
mod crossing;
mod decode;
mod distance;
pub mod infer;
mod ladder;
mod loss;
mod observed;
mod pairs;
mod ranks;
mod record;
mod recurrence;
mod reference;
mod rounds;
#[cfg(test)]
mod trial;
mod uplinks;
mod verdict;

pub use belief::Side;
pub use distance::{Far, far};
pub use ladder::{GroupTest, Level, Scale, Suspects};
pub use loss::{LossTest, Lossy, lossy, unexplained};
pub use pairs::{Hop, Pairs, Reading, Test};
pub use ranks::{Late, Ranks, late};
pub use record::{
    Disturbed, Groups, MAX_INFERRED, Network, Plane, carriers, groups, is_all_reduce, is_pairs, leaf_numbers, leaves,
    losses, network, network_among, planes,
};
pub use rounds::{Round, circle, next};
pub use verdict::{Deficit, Fabric, Held, LeafFault, NodeFault, Open, PairFault, Rate, Verdict};
