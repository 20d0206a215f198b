//! NVIDIA GPUs: what their driver tells through NVML, what the kernel's log and /proc tell of it without NVML, and who may use
//! which. Facts only; a driver that hangs is waited for once, and what was found beside it is kept.

mod ask;
mod fabric;
mod facts;
mod imex;
mod log;
mod recovery;
mod seat;

pub use ask::{nvidia, nvidia_within, short_pci, throttled};
pub use fabric::{Domain, FabricHealth, FabricState};
pub use facts::{Clocks, Gpu, GpuProcess, NvLink, Nvidia, PcieState, Remapped, Slice};
pub use imex::Imex;
pub use log::{Xid, XidDetail};
pub use recovery::Recovery;
pub use seat::{DeviceNode, Seat, Standing};

pub(super) use imex::imex;
pub(super) use seat::{is_masked, seats};
