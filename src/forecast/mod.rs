//! The run's arithmetic. Pure: numbers in, numbers out.

mod exclude;
mod storage;

pub use exclude::worth_excluding;
pub use storage::{Runway, checkpoint_size, runway};
