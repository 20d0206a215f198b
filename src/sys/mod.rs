//! The only unsafe code: raw, then fallible, then safe to hold. Everything above this folder is safe Rust.

pub mod cublaslt;
pub mod cuda;
pub mod dl;
pub mod gemm;
pub mod nvml;
pub mod pages;
pub mod verbs;
