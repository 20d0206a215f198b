//! The tools that read a fabric, run.

use std::time::Duration;

use crate::id::clean;
use crate::sys;

/// What is run, and what each is called when it is kept.
pub const TOOLS: &[&[&str]] =
    &[&["ibnetdiscover"], &["iblinkinfo", "-l"], &["ibqueryerrors"], &["sminfo"], &["saquery", "SMIR"]];
/// Largest capture that is read: a fabric of a hundred thousand ports has some 10 MB.
pub const MAX_CAPTURE: u64 = 256 << 20;

/// Runs a tool to its end or its deadline; what it said. Its exit code says whether there are errors in the fabric, not
/// whether it ran. The error says why there is nothing.
pub fn ask(tool: &[&str], patience: Duration) -> Result<String, String> {
    let answer = sys::ask(tool, MAX_CAPTURE, patience).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "not installed (apt: infiniband-diags), or in no folder of the PATH".to_owned(),
        _ => e.to_string(),
    })?;
    let (out, err) = answer.ok_or_else(|| format!("no end after {} s", patience.as_secs()))?;
    match failure(&out, &err) {
        Some(reason) => Err(format!("{}; is this run as root, on a node with an active port?", clean(&reason))),
        None => Ok(out),
    }
}

/// Why a tool has no answer, if it has none: it said nothing, or only that it could not open a port (`sminfo` says so where
/// answers stand), which says nothing of the fabric.
fn failure(out: &str, err: &str) -> Option<String> {
    let first_line = |text: &str| text.lines().map(str::trim).find(|l| !l.is_empty()).map(str::to_owned);
    let unopened = |line: &str| {
        let failures = ["iberror: failed: Failed to open", "iberror: failed: discover failed"];
        failures.iter().any(|f| line.contains(f)) || line.starts_with("Failed to open ")
    };
    match first_line(out) {
        None => Some(first_line(err).unwrap_or_else(|| "it said nothing".to_owned())),
        Some(first) => out.lines().map(str::trim).all(|l| l.is_empty() || unopened(l)).then_some(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_cannot_be_opened_is_no_answer_of_the_fabric() {
        let sminfo = "sminfo: iberror: failed: Failed to open '(null)' port '0'\n";
        assert_eq!(failure(sminfo, "ibwarn: [7] x"), Some(sminfo.trim().to_owned()));
        assert_eq!(failure("Failed to open (null) port 0\n", ""), Some("Failed to open (null) port 0".to_owned()));
        assert_eq!(failure("\n", "ibpanic: [7] main: no\n"), Some("ibpanic: [7] main: no".to_owned()));
        assert_eq!(failure("", ""), Some("it said nothing".to_owned()));
        // A manager that does not answer is an answer.
        assert_eq!(failure("sminfo: iberror: failed: query\n", ""), None);
        assert_eq!(
            failure("sminfo: sm lid 1 sm guid 0x1, activity count 9 priority 0 state 3 SMINFO_MASTER\n", ""),
            None
        );
    }
}
