//! What ended a process, in words that lead somewhere.

use signal_hook::low_level::signal_name;

/// The name of a signal, and what sends it most often.
pub fn describe(signal: i32) -> String {
    let name = signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned);
    let why = match name.as_str() {
        "SIGKILL" => "the kernel's out-of-memory killer sends it, `dmesg` tells",
        "SIGXFSZ" => "a file size limit, `ulimit -f` tells",
        "SIGXCPU" => "a limit of CPU time, `ulimit -t` tells",
        "SIGBUS" => {
            "memory that is not there: a file that was cut off, a full /dev/shm, or memory that failed, `dmesg` tells"
        }
        "SIGILL" => "an instruction that this CPU does not have",
        "SIGSEGV" => "a library's or a driver's error, `dmesg` tells which",
        "SIGABRT" => "a library gave up",
        "SIGSYS" => "a system call that a filter of the container forbids",
        _ => return name,
    };
    format!("{name} ({why})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_reasons() {
        assert_eq!(describe(25), "SIGXFSZ (a file size limit, `ulimit -f` tells)");
        assert!(describe(9).starts_with("SIGKILL (the kernel's out-of-memory killer"));
        assert_eq!(describe(15), "SIGTERM");
        assert_eq!(describe(4711), "signal 4711");
    }
}
