//! Words of a command in which something is filled in.

use std::ffi::{OsStr, OsString};

/// A word with each key in it replaced by its value, in one pass: nothing in a value is filled in again, and no byte of it is lost.
pub fn fill(word: &str, values: &[(&str, &OsStr)]) -> OsString {
    let (mut out, mut rest) = (OsString::new(), word);
    while let Some(at) = rest.find('{') {
        out.push(&rest[..at]);
        rest = &rest[at..];
        match values.iter().find(|(key, _)| rest.starts_with(key)) {
            Some((key, value)) => {
                out.push(value);
                rest = &rest[key.len()..];
            }
            None => {
                out.push("{");
                rest = &rest[1..];
            }
        }
    }
    out.push(rest);
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn words_are_filled_once_and_lose_no_byte() {
        let name = OsStr::from_bytes(b"a{source}\xff");
        let got = fill("x{name}-{source}{other}", &[("{name}", name), ("{source}", OsStr::new("/hot/s"))]);
        assert_eq!(got.as_bytes(), b"xa{source}\xff-/hot/s{other}");
    }
}
