//! Bakes the commit into the binary, so that every record says what made it.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs/heads");
    println!("cargo::rerun-if-env-changed=GONOGO_COMMIT");
    // Said by whoever builds without the repository, as in an image.
    let said =
        std::env::var("GONOGO_COMMIT").ok().filter(|c| !c.is_empty() && c.bytes().all(|b| b.is_ascii_alphanumeric()));
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let hash = git.ok().filter(|o| o.status.success()).and_then(|o| String::from_utf8(o.stdout).ok());
    let hash = said.or(hash);
    println!("cargo::rustc-env=GONOGO_GIT={}", hash.as_deref().map_or("unknown", str::trim));
}
