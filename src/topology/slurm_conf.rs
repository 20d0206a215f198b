//! Slurm's topology.conf, for topology/tree and topology/block, read as Slurm does (topology.conf(5), src/common/parse_config.c):
//! keys in any case, quoted values, `\` at the end of a line, `Include FILE`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::id::clean;
use crate::topology::leaf::{FabricError, Leaf, Leaves};

/// Files within files; a file that includes itself ends here.
const MAX_DEPTH: usize = 8;
/// Files in all.
const MAX_FILES: usize = 1000;

/// Keys that begin a line.
const KEYS: &[&str] =
    &["switchname", "switches", "nodes", "linkspeed", "blockname", "blocksizes", "ringname", "include"];

/// Whether the first line that says anything is `KEY=VALUE` or `Include FILE`, as in all of Slurm's files.
pub(super) fn is_conf(text: &str) -> bool {
    let first = logical_lines(text).map(|(_, line, _)| line).find(|line| !line.trim().is_empty());
    first.is_some_and(|line| {
        let line = line.trim();
        let end = line.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(line.len());
        let (key, after) = (line[..end].to_ascii_lowercase(), line[end..].chars().next());
        let mark = if key == "include" { after.is_some_and(char::is_whitespace) } else { line.contains('=') };
        mark && KEYS.contains(&key.as_str())
    })
}

/// Parses the text of a topology.conf; `include` reads what it includes.
pub(super) fn parse(
    path: &Path,
    text: &str,
    include: &dyn Fn(&Path) -> Result<String, String>,
) -> Result<Vec<Leaf>, FabricError> {
    let top = path.parent().unwrap_or(Path::new(""));
    let mut reader = Reader { top, include, leaves: Leaves::default(), files: 0 };
    reader.file(path, text, 0)?;
    Ok(reader.leaves.into_vec())
}

struct Reader<'a> {
    /// The folder of the file that was named: nothing outside it is read.
    top: &'a Path,
    include: &'a dyn Fn(&Path) -> Result<String, String>,
    leaves: Leaves,
    files: usize,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, text: &str, depth: usize) -> Result<(), FabricError> {
        for (line, content, is_cut) in logical_lines(text) {
            let fail = |message: String| FabricError::Line { path: path.to_owned(), line, message };
            if is_cut {
                return Err(fail("the last line ends with `\\`, and nothing follows it".to_owned()));
            }
            match included(&content) {
                Some(name) => {
                    let (path, text) = self.open(path, name, depth).map_err(fail)?;
                    self.file(&path, &text, depth + 1)?;
                }
                None => self.line(&content).map_err(fail)?,
            }
        }
        Ok(())
    }

    /// The text of an included file, and where it lies.
    fn open(&mut self, from: &Path, name: &str, depth: usize) -> Result<(PathBuf, String), String> {
        let shown = clean(name);
        if name.is_empty() {
            return Err("Include without a file".to_owned());
        }
        if name.contains('%') {
            return Err(format!("Include {shown}: what Slurm puts in the place of `%` is not known here"));
        }
        self.files += 1;
        if depth + 1 > MAX_DEPTH || self.files > MAX_FILES {
            return Err(format!(
                "Include {shown}: more than {MAX_DEPTH} files within each other, or {MAX_FILES} in all; does it include itself?"
            ));
        }
        let path = from.parent().unwrap_or(Path::new("")).join(name);
        let inside = path.strip_prefix(self.top).is_ok_and(|rest| {
            let up = |c: Component<'_>| matches!(c, Component::ParentDir | Component::RootDir | Component::Prefix(_));
            !rest.components().any(up)
        });
        if !inside {
            return Err(format!("Include {shown}: it lies outside the folder of the topology file"));
        }
        let text = (self.include)(&path).map_err(|why| format!("Include {shown}: {why}"))?;
        Ok((path, text))
    }

    fn line(&mut self, content: &str) -> Result<(), String> {
        let mut keys: BTreeMap<String, &str> = BTreeMap::new();
        for (key, value) in pairs(content)? {
            let key = key.to_ascii_lowercase();
            if keys.contains_key(&key) {
                return Err(format!("{} stands twice in one line", clean(&key)));
            }
            keys.insert(key, value);
        }
        if keys.is_empty() {
            return Ok(());
        }
        let only = |allowed: &[&str]| match keys.keys().find(|k| !allowed.contains(&k.as_str())) {
            Some(key) => Err(format!("`{}` is no key of this line; known are {}", clean(key), allowed.join(", "))),
            None => Ok(()),
        };
        if let Some(name) = keys.get("switchname") {
            only(&["switchname", "switches", "nodes", "linkspeed"])?;
            self.leaves.add(name, keys.get("nodes").copied())
        } else if let Some(name) = keys.get("blockname") {
            only(&["blockname", "nodes"])?;
            self.leaves.add(name, keys.get("nodes").copied())
        } else if let Some(sizes) = keys.get("blocksizes") {
            only(&["blocksizes"])?;
            let is_number = |size: &str| size.trim().parse::<u32>().is_ok_and(|n| n > 0);
            match sizes.split(',').all(is_number) {
                true => Ok(()),
                false => Err(format!("BlockSizes={} is no list of numbers", clean(sizes))),
            }
        } else if keys.contains_key("ringname") {
            Err("a ring (topology/ring) has no leaves".to_owned())
        } else {
            Err("a line without SwitchName, BlockName or BlockSizes".to_owned())
        }
    }
}

/// Lines without comments, those that end with `\` joined with the next: the number of the first, the text, and whether the
/// file ends where more should follow.
fn logical_lines(text: &str) -> impl Iterator<Item = (usize, String, bool)> + '_ {
    let mut lines = text.lines().enumerate();
    std::iter::from_fn(move || {
        let (first, line) = lines.next()?;
        let mut joined = String::new();
        let mut next = Some(line);
        while let Some(line) = next {
            // Slurm takes comments away first: a `\` within one continues nothing.
            let line = line.split('#').next().unwrap_or("");
            match line.trim_end().strip_suffix('\\') {
                Some(head) => {
                    joined.push_str(head);
                    next = lines.next().map(|(_, line)| line);
                }
                None => {
                    joined.push_str(line);
                    return Some((first + 1, joined, false));
                }
            }
        }
        Some((first + 1, joined, true))
    })
}

/// What follows `Include`.
fn included(line: &str) -> Option<&str> {
    let line = line.trim();
    let word = line.get(.."include".len()).filter(|w| w.eq_ignore_ascii_case("include"))?;
    let rest = &line[word.len()..];
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then(|| rest.trim())
}

/// `KEY=VALUE` one after the other, with spaces around `=` and quotes around the value where there are any.
fn pairs(line: &str) -> Result<Vec<(&str, &str)>, String> {
    let mut out = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let word = rest.split(|c: char| c.is_whitespace()).next().unwrap_or(rest);
        let fail = || format!("`{}` is not KEY=VALUE", clean(word));
        let (key, after) = rest.split_once('=').ok_or_else(fail)?;
        let key = key.trim_end();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(fail());
        }
        let after = after.trim_start();
        let (value, following) = match after.strip_prefix('"') {
            Some(quoted) => {
                quoted.split_once('"').ok_or_else(|| format!("the quote after {}= is not closed", clean(key)))?
            }
            None => after.split_at(after.find(char::is_whitespace).unwrap_or(after.len())),
        };
        if value.is_empty() {
            return Err(format!("{}= without a value", clean(key)));
        }
        // `SwitchName= Nodes=n1`: a value was forgotten, and the next key is none.
        if !after.starts_with('"') && value.contains('=') {
            return Err(format!("`{}` stands where {} should have its value", clean(value), clean(key)));
        }
        if !following.is_empty() && !following.starts_with(char::is_whitespace) {
            return Err(format!("something follows the quoted value of {}", clean(key)));
        }
        out.push((key, value));
        rest = following.trim_start();
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str, files: &[(&str, &str)]) -> Result<String, String> {
        let show =
            |l: &Leaf| format!("{}:{}", l.name, l.nodes.iter().map(|n| n.0.clone()).collect::<Vec<_>>().join("+"));
        let include = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| "no such file".to_owned())
        };
        parse(Path::new("d/t"), text, &include)
            .map(|l| l.iter().map(show).collect::<Vec<_>>().join(" "))
            .map_err(|e| e.to_string())
    }

    fn read(text: &str) -> Result<String, String> {
        with(text, &[])
    }

    #[test]
    fn leaves_are_the_switches_with_nodes() {
        let text = "# a tree\nSwitchName=leaf0 Nodes=node[1-2] LinkSpeed=9\nswitchname = leaf1 nodes=\"node3\"\n\nSwitchName=spine Switches=leaf[0-1]\n";
        assert_eq!(read(text), Ok("leaf0:node1+node2 leaf1:node3".into()));
        assert!(is_conf(text));
    }

    #[test]
    fn blocks_are_leaves() {
        let text = "BlockName=b1 Nodes=n[1-2]\nBlockName=b2 Nodes=n3\nBlockName=b3\nBlockSizes=2,4\n";
        assert_eq!(read(text), Ok("b1:n1+n2 b2:n3".into()));
        assert!(is_conf(text) && is_conf("BlockSizes=2\n"));
        assert_eq!(read("BlockSizes=two"), Err("d/t:1: BlockSizes=two is no list of numbers".into()));
    }

    #[test]
    fn lines_go_on_after_a_backslash() {
        let text = "SwitchName=a \\\n  Nodes=n1,\\\nn2 # \\\nSwitchName=b Nodes=n3 \\  \n\n";
        assert_eq!(read(text), Ok("a:n1+n2 b:n3".into()));
        // Errors name the line where it begins.
        assert_eq!(read("\nSwitchName=a \\\n\\\nNodes=n["), read("\nSwitchName=a Nodes=n["));
        let cut = "d/t:1: the last line ends with `\\`, and nothing follows it";
        assert_eq!(read("SwitchName=a Nodes=n1,\\"), Err(cut.into()));
    }

    #[test]
    fn included_files_are_read_where_they_lie() {
        let files =
            [("d/x/a.conf", "SwitchName=a Nodes=n1\ninclude b.conf\n"), ("d/x/b.conf", "SwitchName=b Nodes=n2\n")];
        assert_eq!(
            with("Include x/a.conf # the first row\nSwitchName=c Nodes=n3\n", &files),
            Ok("a:n1 b:n2 c:n3".into())
        );
        assert!(is_conf("include x/a.conf\n"));
        let bad = [("d/a", "\nhello\n"), ("d/loop", "Include loop\n")];
        assert_eq!(with("Include a", &bad), Err("d/a:2: `hello` is not KEY=VALUE".into()));
        assert_eq!(with("\nInclude none", &bad), Err("d/t:2: Include none: no such file".into()));
        assert!(with("Include loop", &bad).is_err_and(|e| e.contains("d/loop:1: ") && e.contains("include itself")));
        for out in ["/etc/passwd", "../a", "x/../../a"] {
            let refused = format!("d/t:1: Include {out}: it lies outside the folder of the topology file");
            assert_eq!(with(&format!("Include {out}"), &bad), Err(refused));
        }
        assert!(with("Include %c.conf", &bad).is_err_and(|e| e.contains("`%`")));
        assert_eq!(with("Include", &bad), Err("d/t:1: Include without a file".into()));
    }

    #[test]
    fn nonsense_is_placed() {
        assert_eq!(
            read("SwitchName=a Nodes=n[1-"),
            Err("d/t:1: `n[1-` is not a list of hosts; write it like `node[001-004,007]`".into())
        );
        for (text, error) in [
            ("\nhello", "d/t:2: `hello` is not KEY=VALUE"),
            ("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n1", "d/t:2: n1 hangs at a and at b"),
            ("SwitchName=a Nodes=n1\nSwitchName=a Nodes=n2", "d/t:2: a is named twice"),
            (
                "SwitchName=a Node=n1",
                "d/t:1: `node` is no key of this line; known are switchname, switches, nodes, linkspeed",
            ),
            ("SwitchName=a SwitchName=b", "d/t:1: switchname stands twice in one line"),
            ("Nodes=n1", "d/t:1: a line without SwitchName, BlockName or BlockSizes"),
            ("RingName=r Nodes=n[1-4]", "d/t:1: a ring (topology/ring) has no leaves"),
            ("SwitchName= Nodes=n1", "d/t:1: `Nodes=n1` stands where SwitchName should have its value"),
            ("SwitchName=\"a Nodes=n1", "d/t:1: the quote after SwitchName= is not closed"),
            ("SwitchName=\"a\"Nodes=n1", "d/t:1: something follows the quoted value of SwitchName"),
            ("SwitchName=", "d/t:1: SwitchName= without a value"),
        ] {
            assert_eq!(read(text), Err(error.into()), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(SwitchName=|BlockName=|BlockSizes=|Include |Nodes=|a|\\[|1-|\\]|,| |\"|\\\\\n|#|\n|\\PC){0,40}") {
            let _ = (with(&text, &[("d/a", &text)]), is_conf(&text));
        }
    }
}
