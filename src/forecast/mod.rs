//! The run's arithmetic. Pure: numbers in, numbers out.

mod course;
mod exclude;
mod failures;
mod interval;
mod outlook;
mod price;
mod rehearsed;
mod storage;

pub use course::{Basis, Course, Forecast, Measured, Missing, forecast};
pub use exclude::worth_excluding;
pub use failures::{Rate, RateSource};
pub use outlook::{Full, Outlook, Place, outlook};
pub use price::{longer, run_days, without_one};
pub use rehearsed::{Projected, projected, slowest, together};
pub use storage::{Runway, runway};
