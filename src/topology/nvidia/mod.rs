//! NVIDIA GPUs: what their driver tells through NVML, what the kernel's log and /proc tell of it without NVML, and who may use
//! which. Facts only; a driver that hangs is waited for once, and what was found beside it is kept.

mod ask;
mod driver_view;
mod fabric;
mod facts;
mod imex;
mod log;
mod recovery;

pub use ask::{nvidia, nvidia_within, short_pci, throttled};
pub use driver_view::{DeviceNode, DriverView, Standing};
pub use fabric::{Domain, FabricHealth, FabricState};
pub use facts::{Clocks, Gpu, GpuProcess, NvLink, Nvidia, PcieState, Remapped, Slice};
pub use imex::Imex;
pub use log::{Xid, XidDetail};
pub use recovery::Recovery;

pub(super) use driver_view::{driver_views, is_masked};
pub(super) use imex::imex;
