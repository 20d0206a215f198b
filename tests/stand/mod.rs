//! What tests on machines that are not here (tests/labs/fake-gpu/enter) have in common.

use std::process::{Command, Stdio};

pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;
pub type Json = serde_json::Value;

const ENTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/labs/fake-gpu/enter");

/// False, with the reason told, where this machine cannot host it.
pub fn can() -> Result<bool> {
    let can = Command::new(ENTER).arg("--check").output()?;
    if !can.status.success() {
        crate::skip::skip(true, format_args!("{}", String::from_utf8_lossy(&can.stdout).trim()));
    }
    Ok(can.status.success())
}

/// The binary on one of its machines, ready for arguments.
pub fn enter(machine: &str) -> Command {
    let mut command = Command::new(ENTER);
    command
        .args([machine, "--", env!("CARGO_BIN_EXE_gonogo")])
        .env("FAKE_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/stand-in"))
        .stdin(Stdio::null());
    command
}

pub fn list(of: &Json) -> Vec<Json> {
    of.as_array().cloned().unwrap_or_default()
}

pub fn text(of: &Json) -> String {
    of.as_str().unwrap_or_default().to_owned()
}
