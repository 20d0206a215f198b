//! The run that wants to launch (`run.toml`) and what `check` will do about it.
//!
//! [`RunPlan`] is what a person wrote; [`Tier`] how thorough to be; [`CheckPlan`] both resolved, total and hashed.
//! Nothing here looks at the machine.

mod fill;
mod forecast;
mod parse;
mod resolve;
mod run;
mod tier;
mod value;
mod watch;

pub use fill::fill;
pub use forecast::ForecastPlan;
pub use parse::{PlanError, parse, place, read, toml_error};
pub use resolve::{CheckPlan, PlanHash, ProbeTable, Selection, SelectionError, hex, resolve, unhex};
pub use run::{
    Checkpoint, ImagePlan, Interval, LeafPlan, Model, Nodes, Require, RequireCollective, RequireLink, RunPlan,
    SaveMode, Waiver,
};
pub use tier::Tier;
pub use value::Time;
pub use watch::WatchPlan;
