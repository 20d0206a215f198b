//! Pair measurements + topology -> who is to blame: a node's sending or receiving side, a leaf's uplinks, a single
//! pair. Pure: no clock, no file, no environment.
//!
//! Bandwidth is a `min()`: a pair reads low when any part of its path is bad. So each reading is held against the
//! others of its round and hop class, and belief about every part is worked out from all readings
//! together (`decode`): a part is believed bad when its own readings are bad and nobody else on their paths explains
//! them. `rounds` says which pairs to measure next: random disjoint ones first, then each suspect against distinct
//! cleared nodes at low concurrency, beside control pairs that give the reference.

mod decode;
pub mod infer;
mod ladder;
mod pairs;
mod record;
mod rounds;

pub use decode::{Belief, Model};
pub use ladder::{GroupTest, Level, Scale, Suspects};
pub use pairs::{Fabric, Hop, Pairs, Part, Reading, Test, Verdict};
pub use record::{
    Groups, MAX_INFERRED, Network, Plane, carriers, groups, is_all_reduce, is_pairs, leaf_numbers, leaves, network,
    planes,
};
pub use rounds::{Round, circle, next};
