//! Slurm's hostlist expressions, `node[001-004,007],login1`, both ways.

/// Most names that one expression may stand for.
const MAX_HOSTS: usize = 100_000;

/// Why an expression is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostlistError {
    #[error("`{0}` is not a list of hosts; write it like `node[001-004,007]`")]
    Malformed(String),
    #[error("`{0}` stands for more than {MAX_HOSTS} hosts")]
    TooMany(String),
}

/// A host's name without its domain.
pub fn short(name: &str) -> &str {
    name.split('.').next().unwrap_or("")
}

/// Expands an expression, in its order.
pub fn expand(text: &str) -> Result<Vec<String>, HostlistError> {
    let shown = || crate::id::clean(text).into_owned();
    let bad = || HostlistError::Malformed(shown());
    let mut out = Vec::new();
    for item in split_outside_brackets(text).ok_or_else(bad)? {
        let mut names = vec![String::new()];
        let mut rest = item;
        while let Some((head, tail)) = rest.split_once('[') {
            let (ranges, tail) = tail.split_once(']').ok_or_else(bad)?;
            let numbers = numbers(ranges).ok_or_else(bad)?;
            if names.len().saturating_mul(numbers.len()).saturating_add(out.len()) > MAX_HOSTS {
                return Err(HostlistError::TooMany(shown()));
            }
            names = names.iter().flat_map(|n| numbers.iter().map(move |x| format!("{n}{head}{x}"))).collect();
            rest = tail;
        }
        if item.is_empty() || rest.contains(']') {
            return Err(bad());
        }
        out.extend(names.into_iter().map(|n| n + rest));
    }
    Ok(out)
}

fn split_outside_brackets(text: &str) -> Option<Vec<&str>> {
    let (mut depth, mut start, mut out) = (0, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '[' if depth == 0 => depth = 1,
            ']' if depth == 1 => depth = 0,
            '[' | ']' => return None,
            ',' if depth == 0 => {
                out.push(text.get(start..i)?);
                start = i + 1;
            }
            c if c.is_whitespace() || c.is_control() => return None,
            _ => {}
        }
    }
    out.push(text.get(start..)?);
    (depth == 0).then_some(out)
}

/// `001-003,7` -> `001 002 003 7`: the width of the first number is kept.
fn numbers(ranges: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    for range in ranges.split(',') {
        let (a, b) = range.split_once('-').unwrap_or((range, range));
        let digits = |t: &str| {
            (!t.is_empty() && t.bytes().all(|c| c.is_ascii_digit())).then(|| t.parse::<usize>().ok()).flatten()
        };
        let (from, to) = (digits(a)?, digits(b)?);
        if to < from || to - from >= MAX_HOSTS || out.len() > MAX_HOSTS {
            return None;
        }
        out.extend((from..=to).map(|n| format!("{n:0width$}", width = a.len())));
    }
    Some(out)
}

/// Compresses names to an expression: names that differ in their last number only share a bracket. Sorted.
pub fn compress(names: &[String]) -> String {
    let mut groups: std::collections::BTreeMap<(String, usize, String), Vec<usize>> = Default::default();
    let mut plain = Vec::new();
    for name in names {
        let end = name.rfind(|c: char| c.is_ascii_digit()).map(|i| i + 1);
        let start = end.map(|e| {
            name[..e]
                .rfind(|c: char| !c.is_ascii_digit())
                .map_or(0, |i| i + name[i..].chars().next().map_or(1, char::len_utf8))
        });
        match start.zip(end).and_then(|(s, e)| Some((s, e, name.get(s..e)?.parse::<usize>().ok()?))) {
            Some((s, e, n)) => groups.entry((name[..s].to_owned(), e - s, name[e..].to_owned())).or_default().push(n),
            None => plain.push(name.clone()),
        }
    }
    plain.sort();
    let mut out: Vec<String> = plain;
    for ((head, width, tail), mut numbers) in groups {
        numbers.sort_unstable();
        numbers.dedup();
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for n in numbers {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == n => *last = n,
                _ => ranges.push((n, n)),
            }
        }
        let text: Vec<String> = ranges
            .iter()
            .map(|(a, b)| if a == b { format!("{a:0width$}") } else { format!("{a:0width$}-{b:0width$}") })
            .collect();
        let single = ranges.len() == 1 && ranges[0].0 == ranges[0].1;
        out.push(if single { format!("{head}{}{tail}", text[0]) } else { format!("{head}[{}]{tail}", text.join(",")) });
    }
    out.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurms_own_examples_expand() {
        let names = |t: &str| expand(t).map(|v| v.join(" ")).map_err(|e| e.to_string());
        assert_eq!(names("node[001-003,007]"), Ok("node001 node002 node003 node007".into()));
        assert_eq!(names("a,b[9-11]x"), Ok("a b9x b10x b11x".into()));
        assert_eq!(names("r[1-2]n[1-2]"), Ok("r1n1 r1n2 r2n1 r2n2".into()));
        for bad in ["", "a,,b", "a[", "a[1", "a]1", "a[x]", "a[3-1]", "a[]", "a b", "a[[1]]"] {
            assert!(expand(bad).is_err(), "{bad}");
        }
        assert!(matches!(expand("a[1-999]b[1-999]"), Err(HostlistError::TooMany(_))));
    }

    #[test]
    fn names_compress() {
        let names: Vec<String> = ["n3", "n1", "n2", "login", "n007", "n008"].map(str::to_owned).to_vec();
        assert_eq!(compress(&names), "login,n[1-3],n[007-008]");
        assert_eq!(compress(&["solo9".to_owned()]), "solo9");
    }

    proptest::proptest! {
        #[test]
        fn what_is_compressed_expands_to_the_same(numbers in proptest::collection::btree_set(0usize..5000, 1..60), width in 1usize..6) {
            let mut names: Vec<String> = numbers.iter().map(|n| format!("node{n:0width$}")).collect();
            let mut back = expand(&compress(&names)).unwrap_or_default();
            names.sort();
            back.sort();
            proptest::prop_assert_eq!(names, back);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a-z0-9\\[\\],-]{0,40}|\\PC{0,20}") {
            let _ = expand(&text);
            let _ = compress(&[text]);
        }
    }
}
