//! From outcomes to decisions, and from judgements to what a person reads.

mod codes;
mod common;
mod counters;
mod diff;
mod differences;
mod fabric;
mod fuzz;
mod golden;
mod gpus;
mod honesty;
mod image;
mod links;
mod names;
mod nccl;
mod offenders;
mod parts;
mod peers;
mod rehearsal;
mod remains;
mod renderers;
mod saving;
mod shared_storage;
mod since;
mod supervisor;
mod unproven;
mod watched;
