//! The run's arithmetic. Pure: numbers in, numbers out.

mod storage;

pub use storage::{Runway, checkpoint_size, runway};
