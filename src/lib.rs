//! gonogo: go or no-go, before a large training run is launched.
//!
//! ```text
//! Config -> Plan -> Topology -> Steps -> Samples -> Record -> Findings -> Report -> Decision
//! ```
//!
//! The modules below stand in that order; each takes types from those above it only, which `tests/layering.rs` holds.
//! Facts (up to [`record`]) never judge; opinions (from [`judge`]) never measure.

// Words that every stage uses.
pub mod exit;
pub mod id;
pub mod unit;
// The machine's own library calls.
pub mod sys;
// Facts.
pub mod plan;
pub mod topology;
pub mod measure;
pub mod cluster;
pub mod probe;
pub mod record;
// What is expected.
pub mod forecast;
pub mod baseline;
pub mod judge;
