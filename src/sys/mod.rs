//! The only unsafe code: raw, then fallible, then safe to hold. Everything above this folder is safe Rust.

pub mod cublaslt;
pub mod cuda;
pub mod dl;
pub mod environment;
pub mod gemm;
pub mod nccl;
pub mod nvml;
pub mod pages;
pub mod software;
pub mod verbs;
