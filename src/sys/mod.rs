//! The only unsafe code: raw, then fallible, then safe to hold. Everything above this folder is safe Rust. Beside it stands what
//! the loader needs to know before it loads a library: where one may lie, and what its headers say.

mod child;
pub mod cublaslt;
pub mod cuda;
pub mod dl;
pub mod elf;
pub mod environment;
pub mod gemm;
pub mod nccl;
pub mod nvml;
pub mod pages;
pub mod places;
pub mod quota;
pub mod signal;
pub mod software;
mod space;
pub mod spin;
pub mod tcp;
pub mod verbs;

pub use child::{ask, end, wait};
pub use space::{Capacity, space};

#[cfg(test)]
mod signature;

unsafe extern "C" {
    fn _exit(code: std::ffi::c_int) -> !;
    fn fflush(stream: *mut std::ffi::c_void) -> std::ffi::c_int;
}

/// Writes out what C libraries of this process have printed and hold back.
pub fn flush_printed() {
    // SAFETY: `int fflush(FILE *)` of the C library (POSIX): null means all streams, each under its own lock.
    unsafe { fflush(std::ptr::null_mut()) };
}

/// Ends this process at once: handlers at exit, such as a driver's, may hang where the driver does.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `void _exit(int)` of the C library (POSIX) has no conditions.
    unsafe { _exit(code) }
}
