//! Names that travel through the pipeline: nodes, probes, finding codes.
//!
//! A name that comes from outside (a record, a host's own name) may hold anything; [`clean`] makes it safe to show.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// A node's name: the scheduler's where one placed the run, else its own kernel's. Names from two places are compared by a roster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct NodeName(pub String);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clean(&self.0))
    }
}

/// A probe's name, as in `--only gemm`. Free text in a record: an old record may name a probe that is gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct ProbeName(pub Cow<'static, str>);

/// Names that were read, of which a record repeats one in each of a million lines: each is kept once, for the program's life. A record
/// with more of them than any gonogo has probes pays for its own.
static READ: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
const MOST_READ: usize = 64;
const LONGEST_READ: usize = 64;

/// Makes something of a text, which no buffer of its own is taken for.
pub fn text<'de, D: Deserializer<'de>, T>(d: D, make: impl FnOnce(&str) -> T) -> Result<T, D::Error> {
    struct Text<F>(F);
    impl<T, F: FnOnce(&str) -> T> serde::de::Visitor<'_> for Text<F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_str<E>(self, text: &str) -> Result<T, E> {
            Ok((self.0)(text))
        }
    }
    d.deserialize_str(Text(make))
}

thread_local! {
    /// Those that this thread has met: no lock is taken for them.
    static MET: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    /// The last texts that this thread read by [`shared`].
    static SHARED: RefCell<VecDeque<Arc<str>>> = const { RefCell::new(VecDeque::new()) };
    /// The same of nodes' names.
    static NAMES: RefCell<VecDeque<Arc<NodeName>>> = const { RefCell::new(VecDeque::new()) };
}

impl<'de> Deserialize<'de> for ProbeName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        text(d, |name| ProbeName(kept(name).map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed)))
    }
}

/// The one copy of a name that was read; `None` where there are too many of them.
fn kept(name: &str) -> Option<&'static str> {
    if let Some(known) = MET.with_borrow(|met| met.iter().find(|known| **known == name).copied()) {
        return Some(known);
    }
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let known = match read.iter().find(|known| **known == name).copied() {
        Some(known) => known,
        None if read.len() < MOST_READ && name.len() <= LONGEST_READ => {
            let new: &'static str = Box::leak(name.into());
            read.push(new);
            new
        }
        None => return None,
    };
    MET.with_borrow_mut(|met| met.push(known));
    Some(known)
}

/// Reads a text that repeats from line to line: of the last few, each is in memory once.
pub fn shared<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<str>, D::Error> {
    text(d, |text| SHARED.with_borrow_mut(|last| one_of(last, |known| known == text, || text.into())))
}

/// Reads the name of a node, as [`shared`] reads a text.
pub fn shared_name<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<NodeName>, D::Error> {
    text(d, |text| {
        NAMES.with_borrow_mut(|last| one_of(last, |known| known.0 == text, || NodeName(text.to_owned()).into()))
    })
}

/// That of the last few which is meant, else a new one in the place of the oldest.
fn one_of<T: ?Sized>(last: &mut VecDeque<Arc<T>>, is: impl Fn(&T) -> bool, new: impl FnOnce() -> Arc<T>) -> Arc<T> {
    const LAST: usize = 16;
    if let Some(known) = last.iter().find(|known| is(known)) {
        return Arc::clone(known);
    }
    let new = new();
    last.truncate(LAST - 1);
    last.push_front(Arc::clone(&new));
    new
}

impl ProbeName {
    pub const fn new(name: &'static str) -> Self {
        ProbeName(Cow::Borrowed(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProbeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clean(&self.0))
    }
}

/// Whether a text looks like a finding's code, `STO-020`: three capitals, a dash, three digits.
pub fn is_code(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 7
        && bytes[..3].iter().all(u8::is_ascii_uppercase)
        && bytes[3] == b'-'
        && bytes[4..].iter().all(u8::is_ascii_digit)
}

/// Longest piece of foreign text that a report shows before it cuts.
const MAX_SHOWN: usize = 300;

/// Whether a character drives a terminal or turns the direction of text.
pub fn drives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Foreign text made safe for a terminal: control characters and direction marks become `\u{..}`, length is bounded.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_SHOWN && !text.contains(drives) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == MAX_SHOWN {
            out.push('…');
            break;
        }
        if drives(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// The candidate nearest to `typed`, if any is near enough to be what was meant.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::jaro_winkler(typed, c), c))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_drive_a_terminal() {
        assert_eq!(clean("node-1"), "node-1");
        assert_eq!(clean("a\x1b[31mb"), "a\\u{1b}[31mb");
        assert_eq!(clean("x\u{202e}y"), "x\\u{202e}y");
        assert!(clean(&"n".repeat(10_000)).chars().count() <= MAX_SHOWN + 1);
    }

    #[test]
    fn codes_have_one_shape() {
        assert!(is_code("STO-020"));
        for bad in ["sto-020", "STO020", "STO-02", "STORE-020", "STO-0200", "ÄÄ-020"] {
            assert!(!is_code(bad), "{bad}");
        }
    }

    #[test]
    fn nearest_offers_only_what_is_near() {
        assert_eq!(nearest("storge", ["gemm", "storage"]), Some("storage"));
        assert_eq!(nearest("zzz", ["gemm", "storage"]), None);
    }
}
