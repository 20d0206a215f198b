//! Programs that `.ci/packages` puts beside the build.

use std::path::PathBuf;

/// A program below `target/tools`; where it is not there, `otherwise` from the PATH.
pub fn tool(place: &str, otherwise: &str) -> PathBuf {
    let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools")).join(place);
    if own.exists() { own } else { otherwise.into() }
}
