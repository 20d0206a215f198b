//! Slurm's hostlist expressions, `node[001-004,007],login1`, both ways.

use std::collections::BTreeMap;

/// Most names that one expression may stand for.
const MAX_HOSTS: usize = 100_000;
/// Most digits of a number in a bracket, with its zeros.
const MAX_DIGITS: usize = 18;

/// Why an expression is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostlistError {
    #[error("`{0}` is not a list of hosts; write it like `node[001-004,007]`")]
    Malformed(String),
    #[error("`{0}` stands for more than {MAX_HOSTS} hosts")]
    TooMany(String),
}

/// Longest name of a host (POSIX), and so of what an expression stands for.
pub const MAX_NAME: usize = 255;

/// A host's name without its domain; an address is whole.
pub fn short(name: &str) -> &str {
    if name.parse::<std::net::IpAddr>().is_ok() {
        return name;
    }
    name.split('.').next().unwrap_or("")
}

/// Whether a text can be the name of a host, or its address: what goes to a scheduler or into a command is nothing else.
pub fn is_host(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('-') && name.bytes().all(allowed)
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
            if head.len() > MAX_NAME || names.iter().any(|n| n.len() > MAX_NAME) {
                return Err(bad());
            }
            names = names.iter().flat_map(|n| numbers.iter().map(move |x| format!("{n}{head}{x}"))).collect();
            rest = tail;
        }
        if item.is_empty() || rest.contains(']') || names.iter().any(|n| n.len() + rest.len() > MAX_NAME) {
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
        // A width is padded to: no more of it than a number has.
        let digits = |t: &str| {
            (!t.is_empty() && t.len() <= MAX_DIGITS && t.bytes().all(|c| c.is_ascii_digit()))
                .then(|| t.parse::<usize>().ok())
                .flatten()
        };
        let (from, to) = (digits(a)?, digits(b)?);
        if to < from || to - from >= MAX_HOSTS || out.len() > MAX_HOSTS {
            return None;
        }
        out.extend((from..=to).map(|n| format!("{n:0width$}", width = a.len())));
    }
    Some(out)
}

/// Compresses names to an expression, as Slurm prints it: names that differ in the number at their end share a bracket. Sorted. What
/// follows a number, such as a domain, Slurm takes for no list: such names stand by themselves.
pub fn compress(names: &[String]) -> String {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        let head = name.trim_end_matches(|c: char| c.is_ascii_digit());
        // What is too long for a number is a name.
        let head = if name.len() - head.len() > MAX_DIGITS { name } else { head };
        groups.entry(head).or_default().push(&name[head.len()..]);
    }
    let mut out = Vec::new();
    for (head, mut tails) in groups {
        tails.sort_unstable();
        tails.dedup();
        if tails[0].is_empty() {
            out.push(head.to_owned());
            tails.remove(0);
        }
        let ranges = ranges(&tails);
        match &ranges[..] {
            [] => {}
            [one] if tails.len() == 1 => out.push(format!("{head}{one}")),
            _ => out.push(format!("{head}[{}]", ranges.join(","))),
        }
    }
    out.join(",")
}

/// `1 2 3 007 008` -> `1-3 007-008`: the shortest first; a range goes on from 9 to 10 where no zeros stand in front.
fn ranges(tails: &[&str]) -> Vec<String> {
    let mut numbers: Vec<(usize, usize)> = tails.iter().filter_map(|t| Some((t.len(), t.parse().ok()?))).collect();
    numbers.sort_unstable();
    /// From, to, and the width of both texts.
    struct Run(usize, usize, usize, usize);
    let mut runs: Vec<Run> = Vec::new();
    for (width, n) in numbers {
        let plain = |n: usize, w: usize| n.to_string().len() == w;
        let grows = |last: usize, w: usize| w + 1 == width && plain(last, w) && plain(n, width);
        match runs.last_mut() {
            Some(Run(_, last, _, w)) if *last + 1 == n && (*w == width || grows(*last, *w)) => (*last, *w) = (n, width),
            _ => runs.push(Run(n, n, width, width)),
        }
    }
    let text = |Run(a, b, w, _)| if a == b { format!("{a:0w$}") } else { format!("{a:0w$}-{b:0w$}") };
    runs.into_iter().map(text).collect()
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
    fn widths_are_bounded() {
        let wide = format!("n[{}1-2]", "0".repeat(70_000));
        assert!(matches!(expand(&wide), Err(HostlistError::Malformed(_))));
        assert!(expand(&format!("{}[1-9]", "n".repeat(300))).is_err());
        let names = ["n1".to_owned(), format!("n{}", "1".repeat(70_000))];
        assert!(compress(&names) == names.join(","));
    }

    #[test]
    fn only_host_names_are_host_names() {
        for good in ["n1", "node-3.cluster.local", "10.0.0.1", "fd00::1", "a_b"] {
            assert!(is_host(good), "{good}");
        }
        let long = "n".repeat(256);
        for bad in ["", "-n1", "a b", "a,b", "a\nb", "$(x)", "a;b", "{nodelist}", "n[1-2]", "n#2", "ü", long.as_str()]
        {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn names_compress() {
        let names: Vec<String> = ["n3", "n1", "n2", "login", "n007", "n008"].map(str::to_owned).to_vec();
        assert_eq!(compress(&names), "login,n[1-3,007-008]");
        // As `scontrol show hostlistsorted` of Slurm 22.05 prints them; it expands no bracket with something behind it.
        for (names, printed) in [
            ("solo9", "solo9"),
            ("b9x,b10x,b11x", "b10x,b11x,b9x"),
            ("node1.c,node2.c", "node1.c,node2.c"),
            ("r1n1,r1n2,r2n1", "r1n[1-2],r2n1"),
            ("a01,a02,a09,a10,a11,a100", "a[01-02,09-11,100]"),
            ("n9,n10,n99,n100,z,b1,b2", "b[1-2],n[9-10,99-100],z"),
            ("n8,n9,n099,n100,n101", "n[8-9,099-101]"),
            ("n001,n0,n1,n2,n3,n04", "n[0-3,04,001]"),
            ("12,13", "[12-13]"),
        ] {
            let list: Vec<String> = names.split(',').map(str::to_owned).collect();
            assert_eq!(compress(&list), printed);
        }
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
