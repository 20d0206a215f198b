//! The run's arithmetic. Pure: numbers in, numbers out.

mod exclude;
mod outlook;
mod price;
mod storage;

pub use exclude::worth_excluding;
pub use outlook::{Full, Outlook, Place, outlook};
pub use price::{longer, run_days, without_one};
pub use storage::{Runway, checkpoint_size, runway};
