//! One text in which several tools' outputs stand, or those of several nodes, taken apart.

use std::collections::BTreeMap;

use crate::topology::ib::Tool;

/// A line that begins a tool's output before any line shows which tool it is of.
fn heading(line: &str) -> Option<Tool> {
    let is_link_head =
        ["Switch: 0x", "CA: ", "Router: "].iter().any(|head| line.starts_with(head)) && line.ends_with(':');
    let is_net_head =
        ["vendid=", "devid=", "sysimgguid=", "# Topology file:"].iter().any(|head| line.starts_with(head));
    match (is_link_head, is_net_head) {
        (true, _) => Some(Tool::Linkinfo),
        (_, true) => Some(Tool::Netdiscover),
        _ => None,
    }
}

/// The same text for each tool that stands in it, all lines of others blank: numbers of lines stay what they are. One alone keeps
/// the text as it is.
pub(super) fn by_tool(text: &str) -> Vec<(Tool, String)> {
    let Some(first) = Tool::of(text) else { return Vec::new() };
    let mut current: Option<Tool> = None;
    let mut marks: Vec<Option<Tool>> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        // A port of a topology is of the node before it, whatever its other end is called.
        let is_port = current == Some(Tool::Netdiscover) && line.starts_with('[');
        let mark = if is_port { None } else { Tool::of_line(line).or_else(|| heading(line)) };
        current = mark.or(current);
        marks.push(current);
    }
    let mut tools: Vec<Tool> = Vec::new();
    for tool in marks.iter().flatten() {
        if !tools.contains(tool) {
            tools.push(*tool);
        }
    }
    // A tool of which nothing but a heading stands there is none.
    if tools.len() < 2 {
        return vec![(first, text.to_owned())];
    }
    // What comes before the first mark is the first tool's.
    let start = marks.iter().flatten().next().copied();
    let of = |tool: Tool| -> String {
        let end = if text.ends_with('\n') { "\n" } else { "" };
        let own = |(line, mark): (&'_ str, &Option<Tool>)| {
            if mark.or(start) == Some(tool) { line.to_owned() } else { String::new() }
        };
        text.lines().zip(&marks).map(own).collect::<Vec<_>>().join("\n") + end
    };
    tools.into_iter().map(|tool| (tool, of(tool))).collect()
}

/// What each node said, where every line begins with the node's name (`pdsh`, `clush`): `node01: CA 'mlx5_0'`.
pub(super) fn by_node(text: &str) -> Option<BTreeMap<&str, String>> {
    let mut out: BTreeMap<&str, String> = BTreeMap::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let (node, rest) = line.split_once(':')?;
        // Of the tools' own lines some begin so, too: none of them with one word and nothing else in all lines.
        let is_name = !node.is_empty() && node.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !is_name
            || !(rest.is_empty() || rest.starts_with(' '))
            || matches!(node, "sminfo" | "ibwarn" | "CA" | "Switch" | "Router")
        {
            return None;
        }
        let own = out.entry(node).or_default();
        own.push_str(rest.strip_prefix(' ').unwrap_or(rest));
        own.push('\n');
    }
    let is_of_a_tool = out.values().any(|text| Tool::of(text).is_some());
    is_of_a_tool.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tool_gets_its_own_lines() {
        let (net, link) = (
            "devid=0x1\nSwitch\t1 \"S-07\"\n[1]\t\"H-08\"[1] # \"==(\"\n",
            "Switch: 0x7 a:\n 1 1[ ] ==( Down/ Polling)==> [ ] \"\" ( )\n",
        );
        let stat = "CA 'mlx5_0'\n\tPort 1:\n";
        let parts = by_tool(&format!("{net}{link}{stat}"));
        let shown: Vec<(Tool, String)> = vec![
            (Tool::Netdiscover, format!("{net}\n\n\n\n")),
            (Tool::Linkinfo, format!("\n\n\n{link}\n\n")),
            (Tool::Ibstat, format!("\n\n\n\n\n{stat}")),
        ];
        assert_eq!(parts, shown);
        assert_eq!(by_tool(stat), [(Tool::Ibstat, stat.to_owned())]);
        assert_eq!(by_tool("hello\n"), []);
    }

    #[test]
    fn each_node_gets_its_own_lines() {
        let text = "n1: CA 'mlx5_0'\nn2: CA 'mlx5_1'\nn1: \tPort 1:\nn2: \n";
        let nodes = by_node(text);
        assert_eq!(
            nodes,
            Some(BTreeMap::from([("n1", "CA 'mlx5_0'\n\tPort 1:\n".to_owned()), ("n2", "CA 'mlx5_1'\n\n".to_owned())]))
        );
        assert_eq!((by_node("sminfo: sm lid 1\n"), by_node("a: b\n"), by_node("CA 'mlx5_0'\n")), (None, None, None));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(n1: |CA '|Switch: 0x|devid=|\\[1\\]|==\\(|Errors for |sminfo: |:|\n|\\PC){0,40}") {
            let _ = (by_tool(&text), by_node(&text));
        }
    }
}
