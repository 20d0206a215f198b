//! What cannot be tested here is said where everybody sees it, and is a failure where it may not be missing.

use std::fmt::Display;
use std::io::Write;

/// What is missing: `installed` says whether .ci/packages brings it. Where GONOGO_NO_SKIP is set (.ci/run) that is a failure.
pub fn skip(installed: bool, why: impl Display) {
    let strict = installed && std::env::var_os("GONOGO_NO_SKIP").is_some();
    assert!(!strict, "skipped, where nothing may be: {why}");
    // Past the harness, which keeps what a test prints to itself; one write, so that lines of several tests do not mix.
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = std::io::stderr().write_all(format!("skipped {name}: {why}\n").as_bytes());
}
