//! The run's arithmetic. Pure: numbers in, numbers out.

mod exclude;
mod price;
mod storage;

pub use exclude::worth_excluding;
pub use price::{longer, run_days, without_one};
pub use storage::{Runway, checkpoint_size, runway};
