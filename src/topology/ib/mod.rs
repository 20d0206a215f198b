//! An InfiniBand fabric as infiniband-diags see it: graph, link states, error counters, subnet managers. Parsers of their
//! saved output; they take what they understand, and say which lines they did not.
//!
//! Formats after the tools' own sources (rdma-core, infiniband-diags) and captures of real fabrics. Names in them are
//! free text, neither escaped nor unique: everything is keyed by GUID.

mod ask;
mod devices;
mod errors;
mod graph;
mod ibstat;
mod linkinfo;
mod netdiscover;
mod ports_report;
mod rate;
mod sections;
mod sm;
mod tool;
mod view;

pub use ask::{MAX_CAPTURE, TOOLS, ask};
pub use devices::{fastest, fastest_of_type};
pub use errors::{Counter, Gap, PortErrors, parse_queryerrors};
pub use graph::{Cable, End, Kind, Node, Port, Subnet};
pub use ibstat::{Adapter, AdapterPort, parse_ibstat};
pub use linkinfo::{LinkState, parse_linkinfo};
pub use netdiscover::parse_netdiscover;
pub use rate::{Rate, Speed};
pub use sm::{Sm, parse_sm};
pub use tool::Tool;
pub use view::Fabric;

/// A line that a parser did not understand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// From 1.
    pub line: usize,
    /// Its beginning.
    pub text: String,
}

/// What came of a capture.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed<T> {
    pub value: T,
    pub skipped: Vec<Skipped>,
}

/// Lines with their numbers, without byte-order marks and carriage returns.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.split('\n').enumerate().map(|(i, l)| (i + 1, l.strip_suffix('\r').unwrap_or(l)))
}

/// Most lines of nonsense that are kept: a capture of something else is not worth more.
const MAX_SKIPPED: usize = 50;

fn skip(skipped: &mut Vec<Skipped>, line: usize, text: &str) {
    if skipped.len() < MAX_SKIPPED {
        skipped.push(Skipped { line, text: text.chars().take(80).collect() });
    }
}

/// `0x2c9030042dff1` or `2c9030042dff1`.
fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

/// The text between the first and the last double quote, and what comes before and after: a name may hold quotes.
fn quoted(text: &str) -> Option<(&str, &str, &str)> {
    let (first, last) = (text.find('"')?, text.rfind('"')?);
    (first < last).then(|| (&text[..first], &text[first + 1..last], &text[last + 1..]))
}
