//! One view model, several renderers. Pure: a judgement in, text out.

mod json;
mod terminal;
mod view;

pub use json::render as json;
pub use terminal::{Style, findings, render as terminal};
pub use view::{FindingGroup, Row, Table, View, view};
