//! The facts of a run on disk: JSON Lines, versioned, one line flushed after every outcome.
//!
//! A record that was cut off (a killed run, a full disk) yields everything before the cut and says so.

mod format;
mod outcomes;
mod packed;
mod reader;
mod writer;

pub use format::{Damage, End, Header, Record, SCHEMA, Spent, schema};
pub use outcomes::{OutcomeLine, Outcomes};
pub use reader::{NAME, NAME_PACKED, RecordError, digest, file_of, parse, read, read_digested};
pub use writer::Writer;
