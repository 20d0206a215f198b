//! Samples: what is measured, how it is sampled, what a probe says of it. Facts only.

mod busbw;
mod clock;
mod load;
mod outcome;
mod sampler;
pub mod stats;

pub use busbw::{Collective, bus_factor};
pub use clock::resolution;
pub use load::{Load, LoadMeter};
pub use outcome::{Better, Bound, Check, Facts, FailKind, Measured, Metric, Outcome, Series, WaiveKind};
pub use sampler::{Sampler, Samples};
