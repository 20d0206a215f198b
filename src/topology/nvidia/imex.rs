//! IMEX: the daemon that lets nodes of an NVLink domain lend each other GPU memory, and the device files by which a program asks
//! for it (NVIDIA, "IMEX Service for NVLink Networks", 2025-07).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::topology::SysRoot;

/// One node's part in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Imex {
    /// Channels that have a device file here; without one, memory of other nodes cannot be mapped.
    pub channels: Vec<u32>,
    /// Whether the daemon runs; absent in a container, which does not see the host's processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<bool>,
    /// The nodes that the daemon is told of, sorted; absent where that may not be read. They must be the same on all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
}

const CHANNELS: &str = "/dev/nvidia-caps-imex-channels";
const CONFIG: &str = "/etc/nvidia-imex/config.cfg";
const NODES: &str = "/etc/nvidia-imex/nodes_config.cfg";
/// More nodes than any domain has.
const MOST: usize = 4096;

pub(in crate::topology) fn imex(root: &SysRoot, contained: bool) -> Imex {
    let number = |name: &String| name.strip_prefix("channel")?.parse().ok();
    let mut channels: Vec<u32> = root.list(CHANNELS).iter().filter_map(number).collect();
    channels.sort_unstable();
    let runs = root.reading("imex-daemon.json", daemon_runs);
    let nodes = root.read(CONFIG).and_then(|t| nodes_file(&t)).unwrap_or_else(|| NODES.to_owned());
    Imex { channels, daemon: runs.filter(|runs| *runs || !contained), nodes: root.read(nodes).map(|t| parse_nodes(&t)) }
}

/// Whether a process of that name is to be seen.
fn daemon_runs() -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    processes
        .filter(|p| p.file_name().is_some_and(|n| n.as_encoded_bytes().iter().all(u8::is_ascii_digit)))
        .any(|p| std::fs::read_to_string(p.join("comm")).is_ok_and(|name| name.trim_end() == "nvidia-imex"))
}

/// `IMEX_NODE_CONFIG_FILE=/etc/nvidia-imex/nodes_config.cfg`
fn nodes_file(config: &str) -> Option<String> {
    let value =
        config.lines().find_map(|l| l.trim().strip_prefix("IMEX_NODE_CONFIG_FILE")?.trim_start().strip_prefix('='));
    value.map(|v| v.trim().trim_matches('"').to_owned()).filter(|v| v.starts_with('/'))
}

/// An address or a name a line; `#` begins a comment.
fn parse_nodes(text: &str) -> Vec<String> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or("").trim());
    let mut out: Vec<String> =
        lines.filter(|l| !l.is_empty()).take(MOST).map(|l| l.chars().take(255).collect()).collect();
    out.sort_unstable();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(files: &[(&str, &str)], contained: bool) -> Result<Imex, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir_all(dir.path().join("proc"))?;
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(dir.path()))?;
            std::fs::write(path, text)?;
        }
        Ok(imex(&SysRoot::replay(dir.path())?, contained))
    }

    #[test]
    fn channels_daemon_and_nodes_are_read() -> Result<(), Box<dyn std::error::Error>> {
        let channel = ("dev/nvidia-caps-imex-channels/channel0", "");
        let config = ("etc/nvidia-imex/config.cfg", "# x\nIMEX_NODE_CONFIG_FILE=/shared/nodes.cfg\nLOG_LEVEL=4\n");
        let nodes = ("shared/nodes.cfg", "10.0.0.2\n10.0.0.1 # the first\n\n# end\n10.0.0.2\n");
        let list = Some(vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()]);
        let found = recorded(&[channel, config, nodes, ("imex-daemon.json", "true")], false)?;
        assert_eq!(found, Imex { channels: vec![0], daemon: Some(true), nodes: list });
        // In a container nothing is said of the host's daemon.
        let none = ("imex-daemon.json", "false");
        assert_eq!(recorded(&[channel, none], true)?, Imex { channels: vec![0], ..Imex::default() });
        assert_eq!(recorded(&[none], false)?, Imex { daemon: Some(false), ..Imex::default() });
        Ok(())
    }

    proptest::proptest! {
        #[test]
        fn no_configuration_makes_it_panic(text in "(IMEX_NODE_CONFIG_FILE|=|#|/|\"|\n|\\PC){0,40}") {
            let _ = (nodes_file(&text), parse_nodes(&text));
        }
    }
}
