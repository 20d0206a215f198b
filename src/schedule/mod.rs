//! The order of a check: discover, measure each node alone, pairs of nodes, groups of nodes, and again what stayed
//! open.
//!
//! A [`Schedule`] works on any [`Fleet`]: this machine, the agents of a cluster, or a simulated cluster. Every outcome
//! goes to the record on disk first and to the one in memory next.

mod demands;
mod fit;
mod fleet;
mod network;
mod run;
mod simulated;

pub use demands::unmet;
pub use fleet::{Fleet, Solo};
pub use run::{Schedule, Watch, machine_of, preview};
pub use simulated::{Fault, Faulty, SIMULATION, Shape, Simulated};
