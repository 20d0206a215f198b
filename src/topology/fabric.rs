//! Which node hangs at which leaf: from Slurm's topology.conf or topology.yaml, or from what ibnetdiscover says of a fabric.

use std::io;
use std::path::Path;

use crate::files;
use crate::topology::leaf::{FabricError, Leaf};
use crate::topology::{ib, slurm_conf, slurm_yaml};

/// Largest topology file that is read.
const MAX_BYTES: u64 = 32 << 20;

/// Reads a topology file: the switches that have nodes, and Slurm's blocks, are the leaves.
pub fn read_topology(path: &Path) -> Result<Vec<Leaf>, FabricError> {
    let read = |path: &Path, open: fn(&Path) -> io::Result<std::fs::File>| {
        open(path).and_then(|file| files::read_text(file, MAX_BYTES)).map_err(|e| e.to_string())
    };
    let fail = |message: String| FabricError::Read { path: path.to_owned(), message };
    let text = read(path, files::open).map_err(fail)?;
    // What a file includes is not led out of its folder by a link, either.
    leaves_of(path, &text, &|included| read(included, files::open_in_place))
}

/// The leaves in the text of a topology file, whose kind is told by its structure; `include` reads a file that it includes.
pub fn leaves_of(
    path: &Path,
    text: &str,
    include: &dyn Fn(&Path) -> Result<String, String>,
) -> Result<Vec<Leaf>, FabricError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let leaves = if slurm_conf::is_conf(text) {
        slurm_conf::parse(path, text, include)?
    } else if ib::Tool::of(text) == Some(ib::Tool::Netdiscover) {
        ib::parse_netdiscover(text).value.leaves()
    } else if slurm_yaml::is_yaml(text) {
        slurm_yaml::parse(path, text)?
    } else {
        return Err(FabricError::Neither(path.to_owned()));
    };
    if leaves.is_empty() { Err(FabricError::NoLeaf(path.to_owned())) } else { Ok(leaves) }
}
