//! What can be measured, as types: no code that measures, and no meaning inside strings.
//!
//! A [`Case`] is the identity of one measurement from the plan to the report. [`Filter`] says which cases a limit is for.

mod case;
mod filter;
mod layout;
mod metric;
mod named;
mod read;

pub use case::{
    Carrier, Case, CheckpointOp, Collective, CollectiveCase, CopyKind, Dtype, Fact, GpuKernel, HostTest, Kernel,
    LinkCase, LinkTest, Load, Memory, NCCL, Name, Presence, RdmaOp, RoundKind, Scope, Software, StepPart, StorageOp,
    Test, Topology, Way, When,
};
pub use filter::{Among, CarrierKind, Extent, Filter, Loopback, On, on_gpu};
pub use layout::Layout;
pub use metric::{Better, CheckName, Declared, Metric};
