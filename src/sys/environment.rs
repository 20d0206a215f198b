//! The environment of this process, for libraries that read their settings from it when they are loaded.

use std::ffi::OsStr;

/// Sets a variable. Only in a child process and before a library is loaded: see the condition below.
pub fn set(name: &str, value: impl AsRef<OsStr>) {
    // SAFETY: nobody reads the environment meanwhile: a child process has one thread beside this, which waits for signals.
    unsafe { std::env::set_var(name, value) };
}
