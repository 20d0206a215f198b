//! A loop that takes one cycle a turn.

use std::time::{Duration, Instant};

/// Turns between two looks at the clock: about 10 us.
const TURNS: u64 = 32_768;

/// Turns of an empty loop in `time`, by the second. A decrement and a taken branch are a cycle on every out-of-order core of the last
/// ten years, and two where another thread of the same core takes half of its branches. `None` on a processor whose loop is not known.
pub fn turns_per_second(time: Duration) -> Option<f64> {
    let start = Instant::now();
    let mut turns = 0u64;
    loop {
        if !empty_loop(TURNS) {
            return None;
        }
        turns += TURNS;
        let elapsed = start.elapsed();
        if elapsed >= time {
            return Some(turns as f64 / elapsed.as_secs_f64());
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn empty_loop(turns: u64) -> bool {
    // SAFETY: counts a register down to zero (it starts above it); no memory, no stack.
    unsafe {
        std::arch::asm!("2:", "dec {n}", "jnz 2b", n = inout(reg) turns => _, options(nomem, nostack));
    }
    true
}

#[cfg(target_arch = "aarch64")]
fn empty_loop(turns: u64) -> bool {
    // SAFETY: counts a register down to zero (it starts above it); no memory, no stack.
    unsafe {
        std::arch::asm!("2:", "subs {n}, {n}, #1", "b.ne 2b", n = inout(reg) turns => _, options(nomem, nostack));
    }
    true
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn empty_loop(_: u64) -> bool {
    false
}
