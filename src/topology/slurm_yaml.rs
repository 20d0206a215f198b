//! Slurm's topology.yaml (25.05 and later; topology.yaml(5)): several topologies, of which the cluster's default is taken.

use crate::id::clean;
use crate::topology::leaf::{FabricError, Leaf, Leaves};
use crate::topology::yaml::{self, Entry, Value};
use std::path::Path;

/// Whether the first line that says anything begins a list, as no other topology file does.
pub(super) fn is_yaml(text: &str) -> bool {
    let said = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.starts_with('%') && *line != "---";
    let first = text.lines().map(str::trim).find(said);
    first.is_some_and(|line| line == "-" || line.starts_with("- ") || line.starts_with("topology:"))
}

/// What one entry of the file is.
struct Topology {
    name: String,
    line: usize,
    is_default: bool,
    kind: String,
    leaves: Vec<Leaf>,
}

/// A message and its line.
type Wrong = (usize, String);

/// Parses the text of a topology.yaml; `path` is for the messages only.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Leaf>, FabricError> {
    let fail = |(line, message): Wrong| FabricError::Line { path: path.to_owned(), line, message };
    let root = yaml::read(text).map_err(fail)?;
    let all = list(&root, "the file").map_err(fail)?;
    let topologies = all.iter().map(topology).collect::<Result<Vec<_>, _>>().map_err(fail)?;
    // As Slurm: the first that says it is the default, else the first.
    let chosen = topologies.iter().position(|t| t.is_default).unwrap_or(0);
    let Some(chosen) = topologies.into_iter().nth(chosen) else { return Err(FabricError::NoLeaf(path.to_owned())) };
    if chosen.leaves.is_empty() {
        let why =
            format!("topology {}, the cluster's default, is {}: it has no leaves", clean(&chosen.name), chosen.kind);
        return Err(fail((chosen.line, why)));
    }
    Ok(chosen.leaves)
}

fn topology(value: &Value) -> Result<Topology, Wrong> {
    let entries =
        map(value, "a topology", &["topology", "cluster_default", "tree", "block", "flat", "ring", "torus3d"])?;
    let name = word(required(entries, "topology", value)?, "topology")?;
    let is_default = get(entries, "cluster_default").map(|v| truth(v, "cluster_default")).transpose()?.unwrap_or(false);
    let mut kinds: Vec<(&str, Vec<Leaf>)> = Vec::new();
    for Entry { key, value, .. } in entries {
        match key.as_str() {
            "tree" => kinds.push(("a tree", tree(value)?)),
            "block" => kinds.push(("of blocks", block(value)?)),
            // `flat: true`, or its options.
            "flat" if matches!(value, Value::Map(..)) || truth(value, "flat")? => kinds.push(("flat", Vec::new())),
            "ring" => kinds.push(("a ring", Vec::new())),
            "torus3d" => kinds.push(("a torus", Vec::new())),
            _ => {}
        }
    }
    let line = value.line();
    match (kinds.pop(), kinds.is_empty()) {
        (Some((kind, leaves)), true) => {
            Ok(Topology { name: name.to_owned(), line, is_default, kind: kind.to_owned(), leaves })
        }
        _ => Err((line, format!("topology {} needs exactly one of tree, block and flat", clean(name)))),
    }
}

fn tree(value: &Value) -> Result<Vec<Leaf>, Wrong> {
    let entries = map(value, "tree", &["switches"])?;
    let mut leaves = Leaves::default();
    for switch in list(required(entries, "switches", value)?, "switches")? {
        let entries = map(switch, "a switch", &["switch", "children", "nodes"])?;
        let name = word(required(entries, "switch", switch)?, "switch")?;
        get(entries, "children").map(|v| hosts(v, "children")).transpose()?;
        add(&mut leaves, name, entries, switch)?;
    }
    Ok(leaves.into_vec())
}

fn block(value: &Value) -> Result<Vec<Leaf>, Wrong> {
    let entries = map(value, "block", &["block_sizes", "blocks"])?;
    if let Some(sizes) = get(entries, "block_sizes") {
        for size in list(sizes, "block_sizes")? {
            let text = word(size, "block_sizes")?;
            if !text.parse::<u32>().is_ok_and(|n| n > 0) {
                return Err((size.line(), format!("`{}` is no size of a block", clean(text))));
            }
        }
    }
    let mut leaves = Leaves::default();
    for block in list(required(entries, "blocks", value)?, "blocks")? {
        let entries = map(block, "a block", &["block", "nodes"])?;
        let name = word(required(entries, "block", block)?, "block")?;
        add(&mut leaves, name, entries, block)?;
    }
    Ok(leaves.into_vec())
}

fn add(leaves: &mut Leaves, name: &str, entries: &[Entry], at: &Value) -> Result<(), Wrong> {
    let nodes = get(entries, "nodes");
    let text = nodes.map(|v| hosts(v, "nodes")).transpose()?;
    leaves.add(name, text.as_deref()).map_err(|why| (nodes.unwrap_or(at).line(), why))
}

/// A list of hosts: Slurm's expression, or several of them.
fn hosts(value: &Value, what: &str) -> Result<String, Wrong> {
    match value {
        Value::List(_, items) => {
            let words = items.iter().map(|i| word(i, what)).collect::<Result<Vec<_>, _>>()?;
            Ok(words.join(","))
        }
        other => word(other, what).map(str::to_owned),
    }
}

fn get<'v>(entries: &'v [Entry], key: &str) -> Option<&'v Value> {
    entries.iter().find(|e| e.key == key).map(|e| &e.value)
}

fn required<'v>(entries: &'v [Entry], key: &str, of: &Value) -> Result<&'v Value, Wrong> {
    get(entries, key).ok_or_else(|| (of.line(), format!("`{key}` is missing here")))
}

fn map<'v>(value: &'v Value, what: &str, known: &[&str]) -> Result<&'v [Entry], Wrong> {
    let Value::Map(_, entries) = value else {
        return Err((value.line(), format!("{what} should have keys: {}", known.join(", "))));
    };
    match entries.iter().find(|e| !known.contains(&e.key.as_str())) {
        Some(e) => Err((e.line, format!("`{}` is no key of {what}; known are {}", clean(&e.key), known.join(", ")))),
        None => Ok(entries),
    }
}

fn list<'v>(value: &'v Value, what: &str) -> Result<&'v [Value], Wrong> {
    match value {
        Value::List(_, items) => Ok(items),
        other => Err((other.line(), format!("{what} should be a list"))),
    }
}

fn word<'v>(value: &'v Value, what: &str) -> Result<&'v str, Wrong> {
    match value {
        Value::Word(line, text) if text.is_empty() => Err((*line, format!("{what} has no value"))),
        Value::Word(_, text) => Ok(text),
        other => Err((other.line(), format!("{what} should be one value"))),
    }
}

fn truth(value: &Value, what: &str) -> Result<bool, Wrong> {
    let text = word(value, what)?;
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err((value.line(), format!("{what} is true or false, not `{}`", clean(text)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let show =
            |l: &Leaf| format!("{}:{}", l.name, l.nodes.iter().map(|n| n.0.clone()).collect::<Vec<_>>().join("+"));
        parse(Path::new("t"), text).map(|l| l.iter().map(show).collect::<Vec<_>>().join(" ")).map_err(|e| e.to_string())
    }

    const TREE: &str = "---\n# as in the manual\n- topology: t\n  cluster_default: True\n  tree:\n    switches:\n      - switch: root\n        children: s[1-2]\n      - switch: s1\n        nodes: n[1-2]\n      - switch: s2\n        nodes: [n3, \"n[4-5]\"]\n";
    const BLOCK: &str = "- topology: b\n  block:\n    block_sizes:\n      - 2\n    blocks:\n    - {block: b1, nodes: n1}\n    - block: b2\n";

    #[test]
    fn the_default_topology_gives_the_leaves() {
        assert_eq!(read(TREE), Ok("s1:n1+n2 s2:n3+n4+n5".into()));
        assert_eq!(read(BLOCK), Ok("b1:n1".into()));
        let both = format!("{BLOCK}{}", TREE.trim_start_matches("---\n"));
        assert_eq!(read(&both), read(TREE));
        assert_eq!(read(&both.replace("True", "no")), read(BLOCK));
        assert!(is_yaml(TREE) && is_yaml(BLOCK) && !is_yaml("SwitchName=a"));
    }

    #[test]
    fn what_has_no_leaves_is_said() {
        let flat = "- topology: f\n  flat: true\n";
        assert_eq!(read(flat), Err("t:1: topology f, the cluster's default, is flat: it has no leaves".into()));
        let options = "- topology: f\n  flat:\n    alpha_step_rank: true\n";
        assert_eq!(read(options), read(flat));
        assert_eq!(read(&format!("{BLOCK}{flat}")), read(BLOCK));
        assert!(
            read("- topology: r\n  ring:\n    rings: []\n").is_err_and(|e| e.contains("is a ring: it has no leaves"))
        );
    }

    #[test]
    fn nonsense_is_placed() {
        for (from, to, error) in [
            ("s2\n", "s1\n", "t:12: s1 is named twice"),
            ("[n3,", "[n1,", "t:12: n1 hangs at s1 and at s2"),
            ("n[1-2]", "n[1-", "t:10: `n[1-` is not a list of hosts; write it like `node[001-004,007]`"),
            (
                "        nodes: n[1-2]",
                "        node: n1",
                "t:10: `node` is no key of a switch; known are switch, children, nodes",
            ),
            ("- switch: s1\n        nodes", "- nodes", "t:9: `switch` is missing here"),
            ("True", "perhaps", "t:4: cluster_default is true or false, not `perhaps`"),
            ("  tree:", "  flat: true\n  tree:", "t:3: topology t needs exactly one of tree, block and flat"),
            ("switches:", "switches: 7\n#", "t:6: switches should be a list"),
            ("root", "", "t:7: switch has no value"),
        ] {
            let text = TREE.replacen(from, to, 1);
            let text = if to.ends_with('#') { text.lines().take(6).collect::<Vec<_>>().join("\n") } else { text };
            assert_eq!(read(&text), Err(error.into()), "{text}");
        }
        assert_eq!(read(&BLOCK.replace("- 2", "- two")), Err("t:4: `two` is no size of a block".into()));
        assert_eq!(
            read("- hello\n"),
            Err("t:1: a topology should have keys: topology, cluster_default, tree, block, flat, ring, torus3d".into())
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(- topology: |tree:|block:|flat: |switches:|blocks:|- switch: |- block: |nodes: |n\\[1-2\\]|\n|\n  |\n    |\\[|\\]|\\{|\\}|, |: |&a|\\*a|!t|\"|'|---|\\||>|#|\t|\\PC){0,40}") {
            let _ = (read(&text), is_yaml(&text));
        }
    }
}
