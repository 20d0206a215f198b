//! The run that wants to launch (`run.toml`) and what `check` will do about it.
//!
//! [`RunPlan`] is what a person wrote; [`Tier`] how thorough to be; [`CheckPlan`] both resolved, total and hashed.
//! Nothing here looks at the machine.

mod fill;
mod forecast;
mod model;
mod parallel;
mod parse;
mod resolve;
mod run;
mod tier;
mod training;
mod value;
mod watch;

pub use fill::fill;
pub use forecast::ForecastPlan;
pub use model::{Model, Shape, presets};
pub use parallel::{Dimension, Parallel, World};
pub use parse::{PlanError, parse, place, read, toml_error};
pub use resolve::{CheckPlan, PlanHash, ProbeTable, Selection, SelectionError, hex, resolve, unhex};
pub use run::{
    Checkpoint, ImagePlan, Interval, LeafPlan, Nodes, Require, RequireCollective, RequireLink, RunPlan, SaveMode,
    Waiver,
};
pub use tier::Tier;
pub use training::{Message, Product, Training};
pub use value::Time;
pub use watch::WatchPlan;
