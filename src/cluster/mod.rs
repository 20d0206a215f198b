//! Steps, the processes that run them, and what passes between.
//!
//! A step runs in one child process a rank. Parent and child speak JSON lines over the child's stdin and stdout
//! ([`wire`]); `worker` is the parent's side with the deadline, `child` the other. The one primitive that ranks
//! bootstrap with is the exchange: each publishes a text, all receive all texts in rank order.

mod child;
mod step;
pub mod wire;
mod worker;

pub use child::{Child, ChildError};
pub use step::{Step, scratch_prefix};
pub use worker::{Interrupt, Supervisor};
