//! YAML as configuration needs it: words, lists and keys, each with its line. What may grow without bound or mean something else is
//! refused: anchors, aliases, tags, several documents, keys that stand twice.

use saphyr_parser::{Event, Parser, ScanError, Span};

use crate::id::clean;

/// Values within values.
const MAX_DEPTH: usize = 16;

/// A value and the line where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A single value, as it was written, without its quotes.
    Word(usize, String),
    List(usize, Vec<Value>),
    Map(usize, Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Value,
}

impl Value {
    pub(super) fn line(&self) -> usize {
        match self {
            Value::Word(line, _) | Value::List(line, _) | Value::Map(line, _) => *line,
        }
    }
}

/// Reads a text of one document. The error has its line.
pub(super) fn read(text: &str) -> Result<Value, (usize, String)> {
    let mut reader = Reader { events: Parser::new_from_str(text), line: 1 };
    loop {
        match reader.next()? {
            Event::StreamStart | Event::DocumentStart(_) => {}
            Event::StreamEnd => return Ok(Value::List(1, Vec::new())),
            first => {
                let value = reader.value(first, 0)?;
                return reader.end().map(|()| value);
            }
        }
    }
}

struct Reader<I> {
    events: I,
    line: usize,
}

impl<'t, I: Iterator<Item = Result<(Event<'t>, Span), ScanError>>> Reader<I> {
    fn next(&mut self) -> Result<Event<'t>, (usize, String)> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(event)
            }
            Some(Err(e)) => Err((e.marker().line(), clean(e.info()).into_owned())),
            None => Err((self.line, "the text ends too early".to_owned())),
        }
    }

    fn value(&mut self, first: Event<'t>, depth: usize) -> Result<Value, (usize, String)> {
        let line = self.line;
        let refuse = |what: &str| Err((line, format!("{what} is not understood here")));
        if depth > MAX_DEPTH {
            return refuse("so much within each other");
        }
        match first {
            Event::Alias(_) => refuse("an alias (`*`)"),
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                refuse("an anchor (`&`)")
            }
            Event::Scalar(.., Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                refuse("a tag (`!`)")
            }
            Event::Scalar(text, ..) => Ok(Value::Word(line, text.into_owned())),
            Event::SequenceStart(..) => self.list(line, depth),
            Event::MappingStart(..) => self.map(line, depth),
            _ => refuse("this"),
        }
    }

    fn list(&mut self, line: usize, depth: usize) -> Result<Value, (usize, String)> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Value::List(line, items)),
                first => items.push(self.value(first, depth + 1)?),
            }
        }
    }

    fn map(&mut self, line: usize, depth: usize) -> Result<Value, (usize, String)> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let first = match self.next()? {
                Event::MappingEnd => return Ok(Value::Map(line, entries)),
                first => first,
            };
            let Value::Word(line, key) = self.value(first, depth + 1)? else {
                return Err((self.line, "a key should be one word".to_owned()));
            };
            if entries.iter().any(|e| e.key == key) {
                return Err((line, format!("`{}` stands twice", clean(&key))));
            }
            let first = self.next()?;
            let value = self.value(first, depth + 1)?;
            entries.push(Entry { key, line, value });
        }
    }

    /// Nothing follows the document.
    fn end(&mut self) -> Result<(), (usize, String)> {
        loop {
            match self.next()? {
                Event::DocumentEnd => {}
                Event::StreamEnd => return Ok(()),
                _ => return Err((self.line, "a second document is not understood here".to_owned())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_lines() {
        let value = read("a: 1\nb:\n  - 'x: y'\n  - {}\n");
        let word = |line, text: &str| Value::Word(line, text.to_owned());
        let entry = |line, key: &str, value| Entry { key: key.to_owned(), line, value };
        let list = Value::List(3, vec![word(3, "x: y"), Value::Map(4, vec![])]);
        assert_eq!(value, Ok(Value::Map(1, vec![entry(1, "a", word(1, "1")), entry(2, "b", list)])));
        assert_eq!(read("# nothing\n"), Ok(Value::List(1, vec![])));
    }

    #[test]
    fn what_may_mean_something_else_is_refused() {
        for (text, line, what) in [
            ("a: &x 1\nb: 2\n", 1, "an anchor"),
            ("a: &x [1]\n", 1, "an anchor"),
            ("\na: !!str 1\n", 2, "a tag"),
            ("a: 1\na: 2\n", 2, "stands twice"),
            ("a: 1\n---\nb: 2\n", 2, "a second document"),
            ("? [1]\n: 2\n", 1, "one word"),
            ("a: [1\n", 2, ""),
            ("a: 1\n b: 2\n", 2, ""),
        ] {
            let (at, why) = read(text).err().unwrap_or_default();
            assert!(at == line && why.contains(what), "{text:?}: {at}: {why}");
        }
        let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
        assert!(read(&deep).is_err_and(|(_, why)| why.contains("so much within each other")));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(a: |- |\n|\n  |\\[|\\]|\\{|\\}|, |: |\\? |&a |\\*a|!t |\"|'|---\n|\\.\\.\\.|\\| |> |#|%|\t|\\\\|\u{feff}|\\PC){0,40}") {
            let _ = read(&text);
        }
    }
}
