//! Python's pickles, as data alone: a pickle is a program, and here none of it runs. What would import a name or call something ends the
//! reading with an error.

use serde_json::{Map, Number, Value};
use thiserror::Error;

/// Why a pickle is not read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PickleError {
    #[error("it ends in the middle, at byte {0}")]
    Short(usize),
    #[error("at byte {at} it asks for {what}: it is more than data, and is not run")]
    Code { at: usize, what: &'static str },
    #[error("at byte {at}: opcode {opcode:#04x} is not one of a recorder's")]
    Opcode { at: usize, opcode: u8 },
    #[error("at byte {0}: it takes what is not there")]
    Stack(usize),
    #[error("it unfolds to more than {MOST_VALUES} values")]
    Large,
}

/// Values that one pickle may unfold to: a part that is named once may be used many times.
const MOST_VALUES: usize = 20_000_000;
/// How deep one may be.
const DEEPEST: usize = 16;

/// A value, with its parts by their place in the arena: a part may be used twice, and inside itself.
#[derive(Debug, Clone)]
enum Node {
    Plain(Value),
    List(Vec<usize>),
    Dict(Vec<(usize, usize)>),
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    arena: Vec<Node>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: std::collections::HashMap<u64, usize>,
}

/// The pickle's value, without what stands under the keys of `skipped`.
pub(super) fn read(bytes: &[u8], skipped: &[&str]) -> Result<Value, PickleError> {
    let mut reader =
        Reader { bytes, at: 0, arena: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: Default::default() };
    let root = reader.run()?;
    let mut left = MOST_VALUES;
    unfold(&reader.arena, root, skipped, DEEPEST, &mut left)
}

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8], PickleError> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.bytes.len()).ok_or(PickleError::Short(self.at))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A little-endian number of `n` bytes.
    fn number(&mut self, n: usize) -> Result<u64, PickleError> {
        Ok(self.take(n)?.iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b)))
    }

    fn length(&mut self, n: usize) -> Result<usize, PickleError> {
        let at = self.at;
        usize::try_from(self.number(n)?).map_err(|_| PickleError::Short(at))
    }

    fn push(&mut self, node: Node) {
        self.arena.push(node);
        self.stack.push(self.arena.len() - 1);
    }

    fn plain(&mut self, value: impl Into<Value>) {
        self.push(Node::Plain(value.into()));
    }

    fn text(&mut self, n: usize) -> Result<(), PickleError> {
        let text = String::from_utf8_lossy(self.take(n)?).into_owned();
        self.plain(text);
        Ok(())
    }

    fn top(&mut self) -> Result<usize, PickleError> {
        self.stack.last().copied().ok_or(PickleError::Stack(self.at))
    }

    fn pop(&mut self) -> Result<usize, PickleError> {
        // What lies under a mark is not this opcode's.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(PickleError::Stack(self.at));
        }
        self.stack.pop().ok_or(PickleError::Stack(self.at))
    }

    fn since_mark(&mut self) -> Result<Vec<usize>, PickleError> {
        let mark = self.marks.pop().filter(|m| *m <= self.stack.len()).ok_or(PickleError::Stack(self.at))?;
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: Vec<usize>) -> Result<(), PickleError> {
        let (at, list) = (self.at, self.top()?);
        match &mut self.arena[list] {
            Node::List(list) => list.extend(items),
            _ => return Err(PickleError::Stack(at)),
        }
        Ok(())
    }

    fn set(&mut self, items: &[usize]) -> Result<(), PickleError> {
        let (at, dict) = (self.at, self.top()?);
        match &mut self.arena[dict] {
            Node::Dict(dict) if items.len().is_multiple_of(2) => {
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err(PickleError::Stack(at)),
        }
        Ok(())
    }

    fn keep(&mut self, name: u64) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(name, top);
        Ok(())
    }

    fn recall(&mut self, name: u64) -> Result<(), PickleError> {
        let kept = *self.memo.get(&name).ok_or(PickleError::Stack(self.at))?;
        self.stack.push(kept);
        Ok(())
    }

    fn tuple(&mut self, n: usize) -> Result<(), PickleError> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Node::List(items));
        Ok(())
    }

    /// An integer of `n` bytes in two's complement; one that does not fit is a text.
    fn long(&mut self, n: usize) -> Result<(), PickleError> {
        if n > 8 {
            self.take(n)?;
            self.plain("a number of more than 64 bits");
            return Ok(());
        }
        let value = self.number(n)?;
        let shift = 64 - 8 * n as u32;
        self.plain(if n == 0 { 0 } else { (value << shift).cast_signed() >> shift });
        Ok(())
    }

    /// Opcodes of Python's protocols 2 to 5 (Lib/pickletools.py), as far as they make data.
    fn run(&mut self) -> Result<usize, PickleError> {
        loop {
            let at = self.at;
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return self.pop(),
                b'c' | 0x93 => return Err(PickleError::Code { at, what: "a name to import" }),
                b'R' | b'i' | b'o' | 0x81 | 0x92 | b'b' => return Err(PickleError::Code { at, what: "a call" }),
                b'P' | b'Q' | 0x82..=0x84 => return Err(PickleError::Code { at, what: "an object from elsewhere" }),
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'0' => drop(self.pop()?),
                _ if self.named(opcode)? || self.scalar(opcode)? || self.container(opcode)? => {}
                _ => return Err(PickleError::Opcode { at, opcode }),
            }
        }
    }

    /// What is kept under a name, and called up again. Whether the opcode was one.
    fn named(&mut self, opcode: u8) -> Result<bool, PickleError> {
        match opcode {
            b'q' => self.number(1).and_then(|name| self.keep(name)),
            b'r' => self.number(4).and_then(|name| self.keep(name)),
            0x94 => self.keep(self.memo.len() as u64),
            b'h' => self.number(1).and_then(|name| self.recall(name)),
            b'j' => self.number(4).and_then(|name| self.recall(name)),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn scalar(&mut self, opcode: u8) -> Result<bool, PickleError> {
        match opcode {
            b'X' | b'B' | b'T' => self.length(4).and_then(|n| self.text(n))?,
            0x8c | b'C' | b'U' => self.length(1).and_then(|n| self.text(n))?,
            0x8d | 0x8e => self.length(8).and_then(|n| self.text(n))?,
            b'K' => {
                let n = self.number(1)?;
                self.plain(n);
            }
            b'M' => {
                let n = self.number(2)?;
                self.plain(n);
            }
            b'J' => self.long(4)?,
            0x8a => self.length(1).and_then(|n| self.long(n))?,
            0x8b => self.length(4).and_then(|n| self.long(n))?,
            b'G' => {
                // The one number that is big-endian.
                let bits = self.number(8)?.swap_bytes();
                let value = Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number);
                self.plain(value);
            }
            b'N' => self.plain(Value::Null),
            0x88 => self.plain(true),
            0x89 => self.plain(false),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn container(&mut self, opcode: u8) -> Result<bool, PickleError> {
        match opcode {
            b'}' => self.push(Node::Dict(Vec::new())),
            b']' | b')' => self.push(Node::List(Vec::new())),
            b'(' => self.marks.push(self.stack.len()),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => self.since_mark().and_then(|items| self.append(items))?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => self.since_mark().and_then(|items| self.set(&items))?,
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::List(items));
            }
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn unfold(arena: &[Node], at: usize, skipped: &[&str], depth: usize, left: &mut usize) -> Result<Value, PickleError> {
    *left = left.checked_sub(1).ok_or(PickleError::Large)?;
    let Some(deeper) = depth.checked_sub(1) else { return Ok(Value::Null) };
    Ok(match &arena[at] {
        Node::Plain(value) => value.clone(),
        Node::List(items) => {
            let items = items.iter().map(|i| unfold(arena, *i, skipped, deeper, left));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Node::Dict(pairs) => {
            let mut out = Map::new();
            for (key, value) in pairs {
                let key = match &arena[*key] {
                    Node::Plain(Value::String(key)) => key.clone(),
                    Node::Plain(key) => key.to_string(),
                    _ => continue,
                };
                if !skipped.contains(&key.as_str()) {
                    out.insert(key, unfold(arena, *value, skipped, deeper, left)?);
                }
            }
            Value::Object(out)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_read_and_parts_that_are_used_twice_are_whole() {
        // pickle.dumps({"a": [1, -2, 2.5, None, True, b"x"], "b": ("y", 70000, 2**40)}, 2), by hand where bytes differ.
        let bytes =
            b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG@\x04\x00\x00\x00\x00\x00\x00N\x88e\
                      X\x01\x00\x00\x00bq\x03X\x01\x00\x00\x00yJp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x87q\x04\
                      X\x01\x00\x00\x00cq\x05h\x02u.";
        let read = read(bytes, &[]);
        assert_eq!(
            read,
            Ok(
                serde_json::json!({"a": [1, -2, 2.5, null, true], "b": ["y", 70000, 1u64 << 40], "c": [1, -2, 2.5, null, true]})
            )
        );
    }

    #[test]
    fn what_would_run_is_not_run() {
        // pickle.dumps of an object whose __reduce__ calls os.system.
        let bytes = b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.";
        assert_eq!(read(bytes, &[]), Err(PickleError::Code { at: 2, what: "a name to import" }));
        for code in [&b"R."[..], b"\x81.", b"b.", b"P1\n.", b"\x93.", b"i\n\n."] {
            assert!(matches!(read(code, &[]), Err(PickleError::Code { at: 0, .. })), "{code:?}");
        }
    }

    #[test]
    fn one_that_unfolds_without_end_is_refused() {
        // A list in itself ends at its depth; one that doubles thirty times ends at its size.
        let mut itself = b"]q\x00h\x00a.".to_vec();
        assert!(read(&itself, &[]).is_ok());
        itself = b"]q\x00".to_vec();
        for k in 0..30u8 {
            // A list that holds the one before a hundred times.
            itself.extend([b']', b'q', k + 1, b'(']);
            (0..100).for_each(|_| itself.extend([b'h', k]));
            itself.push(b'e');
        }
        itself.push(b'.');
        assert_eq!(read(&itself, &[]), Err(PickleError::Large));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_a_value_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = read(&bytes, &[]);
        }

        #[test]
        fn any_opcodes_end_in_a_value_or_an_error(picks in proptest::collection::vec(0usize..24, 0..60)) {
            let codes: [&[u8]; 24] = [b"}", b"]", b"(", b"q\x00", b"h\x00", b"a", b"e", b"s", b"u", b"t", b"\x85", b"\x86", b"\x87", b"0", b".", b"N", b"K\x01", b"X\x01\0\0\0a", b"\x94", b"\x8a\x09", b"G", b"J\0\0\0\0", b"\x95", b")"];
            let bytes: Vec<u8> = picks.iter().flat_map(|p| codes[*p].iter().copied()).collect();
            let _ = read(&bytes, &[]);
        }
    }
}
