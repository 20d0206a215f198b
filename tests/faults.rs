//! A few cells of the fault matrix (tests/labs/fault-matrix, docs/faults.md): the whole of it takes half an hour.

mod skip;

use std::process::{Command, Stdio};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn a_fault_in_a_phase_names_its_node_and_loses_nothing() -> Result {
    let can = Command::new(format!("{ROOT}/tests/labs/slurm-lab")).arg("check").output()?;
    if !can.status.success() {
        skip::skip(true, format_args!("{}", String::from_utf8_lossy(&can.stdout).trim()));
        return Ok(());
    }
    let out = Command::new(format!("{ROOT}/tests/labs/fault-matrix"))
        .arg(env!("CARGO_BIN_EXE_gonogo"))
        .args(["lie@pairs", "lost-link@solo", "kill@report"])
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}
