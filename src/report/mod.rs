//! One view model, several renderers. Pure: a judgement in, text out.

mod course;
mod csv;
mod diff;
mod format;
mod html;
mod json;
mod junit;
mod markdown;
mod picture;
mod prometheus;
mod proof;
mod rehearsed;
mod saves;
mod software;
mod terminal;
mod timeline;
mod view;

pub use course::{CourseShown, course, measured};
pub use csv::render as csv;
pub use diff::render as diff;
pub use format::{Format, write};
pub use html::render as html;
pub use json::render as json;
pub use junit::render as junit;
pub use markdown::render as markdown;
pub use prometheus::render as prometheus;
pub use proof::{numbered, proof};
pub use saves::{SaveRow, Saves, headline as watch_headline};
pub use software::Software;
pub use terminal::{Style, course as course_whole, findings, render as terminal};
pub use timeline::{Timeline, TimelineRow};
pub use view::{FindingGroup, Row, Table, View, view};
