//! The only unsafe code: raw, then fallible, then safe to hold. Everything above this folder is safe Rust. Beside it stands what
//! the loader needs to know before it loads a library: where one may lie, and what its headers say.

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
pub mod software;
pub mod verbs;

#[cfg(test)]
mod signature;
