//! Who else used the machine while a measurement ran. A busy machine makes a slow result say nothing.

use std::fs;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What others took during a window.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Load {
    /// Length of the window.
    pub window_ms: u64,
    /// Cores' worth of user time taken by processes that are not ours.
    pub others_cores: f64,
    /// Cores' worth of system time taken by others: kernel threads that work for our own traffic and files are among them.
    pub others_system_cores: f64,
    /// Cores' worth of time that the hypervisor took.
    pub steal_cores: f64,
}

/// Kernel ticks a second: USER_HZ is 100 on every Linux that gonogo runs on (kernel ABI, `man 5 proc`).
const TICKS: f64 = 100.0;
/// Ticks are 10 ms: a shorter window cannot tell a busy machine from rounding.
const MIN_WINDOW_MS: u128 = 200;

#[derive(Clone, Copy, Default)]
struct Reading {
    user: u64,
    system: u64,
    steal: u64,
}

/// Reads /proc/stat at the start and the end of a window and takes away what our own processes used.
pub struct LoadMeter {
    start: Instant,
    machine: Option<Reading>,
    ours: Reading,
}

impl LoadMeter {
    /// Opens a window. `ours` are the processes whose time is not somebody else's.
    pub fn open(ours: &[u32]) -> Self {
        LoadMeter { start: Instant::now(), machine: machine(), ours: own_ticks(ours) }
    }

    /// What others took since `open`; `None` when the window is too short to say or /proc is not there.
    pub fn read(&self, ours: &[u32]) -> Option<Load> {
        let elapsed = self.start.elapsed();
        if elapsed.as_millis() < MIN_WINDOW_MS {
            return None;
        }
        let (before, after) = (self.machine?, machine()?);
        let own = own_ticks(ours);
        let seconds = elapsed.as_secs_f64();
        let cores = |ticks: u64| ticks as f64 / TICKS / seconds;
        let others = |after: u64, before: u64, own_after: u64, own_before: u64| {
            after.saturating_sub(before).saturating_sub(own_after.saturating_sub(own_before))
        };
        Some(Load {
            window_ms: elapsed.as_millis() as u64,
            others_cores: cores(others(after.user, before.user, own.user, self.ours.user)),
            others_system_cores: cores(others(after.system, before.system, own.system, self.ours.system)),
            steal_cores: cores(after.steal.saturating_sub(before.steal)),
        })
    }
}

/// How long the calling thread was ready to run and had no core, since it began (`Documentation/scheduler/sched-stats.rst`: the second
/// number of `schedstat`, ns). `None` where the kernel does not count it.
pub fn waited_for_core() -> Option<Duration> {
    parse_schedstat(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

fn parse_schedstat(text: &str) -> Option<Duration> {
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

fn machine() -> Option<Reading> {
    parse_stat(&fs::read_to_string("/proc/stat").ok()?)
}

/// `cpu user nice system idle iowait irq softirq steal ...`
fn parse_stat(text: &str) -> Option<Reading> {
    let fields: Vec<u64> =
        text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|f| f.parse().ok()).collect();
    let of = |i: usize| fields.get(i).copied().unwrap_or(0);
    Some(Reading { user: fields.first()?.checked_add(*fields.get(1)?)?, system: of(2), steal: of(7) })
}

/// Ticks of this process, of its reaped children, and of the given live ones.
fn own_ticks(pids: &[u32]) -> Reading {
    // Fields as `man 5 proc_pid_stat` counts them: user and system time of a process, then of the children that it waited for.
    let of = |path: String, user: &[usize], system: &[usize]| {
        let text = fs::read_to_string(path).unwrap_or_default();
        // The command's name may hold blanks: fields are counted after its closing bracket, from `state` = 3.
        let rest: Vec<&str> = text.rsplit_once(')').map_or("", |(_, r)| r).split_whitespace().collect();
        let sum = |fields: &[usize]| fields.iter().filter_map(|f| rest.get(f - 3)?.parse::<u64>().ok()).sum::<u64>();
        (sum(user), sum(system))
    };
    let own = of("/proc/self/stat".to_owned(), &[14, 16], &[15, 17]);
    let live = pids.iter().map(|p| of(format!("/proc/{p}/stat"), &[14], &[15]));
    let (user, system) = live.fold(own, |(u, s), (user, system)| (u + user, s + system));
    Reading { user, system, steal: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_line() {
        let r = parse_stat("cpu  10 5 7 100 1 0 2 9 0 0\ncpu0 1 2 3\n").unwrap_or_default();
        assert_eq!((r.user, r.system, r.steal), (15, 7, 9));
        assert!(parse_stat("nonsense").is_none());
        assert!(parse_stat("cpu  99999999999999999999 1").is_none());
    }

    #[test]
    fn a_thread_knows_how_long_it_waited_for_a_core() {
        assert_eq!(parse_schedstat("12 3429863 1\n"), Some(Duration::from_nanos(3_429_863)));
        for nonsense in ["", "12", "12 -3 1", "12 99999999999999999999 1"] {
            assert_eq!(parse_schedstat(nonsense), None);
        }
    }

    #[test]
    fn a_busy_neighbour_is_seen() {
        // A process of our own that is not declared as ours is somebody else.
        let Ok(mut other) = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn() else {
            return;
        };
        let meter = LoadMeter::open(&[]);
        std::thread::sleep(std::time::Duration::from_millis(600));
        let seen = meter.read(&[]);
        let declared = meter.read(&[other.id()]);
        let _ = other.kill();
        let _ = other.wait();
        assert!(seen.is_some_and(|l| l.others_cores > 0.2), "{seen:?}");
        assert!(declared.zip(seen).is_some_and(|(d, s)| d.others_cores < s.others_cores), "{declared:?}");
    }
}
