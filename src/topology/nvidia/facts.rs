//! The types of what the driver tells.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::topology::nvidia::{Domain, DriverView, FabricState, Imex, Recovery, Xid};
use crate::unit::Bytes;

/// What the driver says of a node's GPUs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Nvidia {
    /// Why NVML did not answer, or not to the end; what was told before, and what needs no NVML, is still here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub driver: Option<String>,
    /// The version of the library that was asked: of a container's own where the host's was not mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvml: Option<String>,
    /// The newest CUDA that the driver knows, such as `12.8`.
    pub cuda: Option<String>,
    /// What NVML took to start. Without persistence mode the driver initialises every GPU in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvml_ms: Option<u64>,
    pub gpus: Vec<Gpu>,
    /// GPUs that NVML counts and cannot open, with why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Indexes of GPUs that NVML counts and this process has no permission for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<u32>,
    /// Each GPU of the PCI bus as the kernel's driver has it; empty in records from before this was read.
    #[serde(rename = "seats", skip_serializing_if = "Vec::is_empty")]
    pub driver_views: Vec<DriverView>,
    /// A container's runtime has laid its own files over /proc/driver/nvidia: GPUs that are absent there may be well.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub masked: bool,
    /// In the kernel's log since boot; absent where it may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xids: Option<Vec<Xid>>,
    /// When the log was read, in seconds since boot; absent in records from before this was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_read_at: Option<u64>,
    /// When the log says that the driver was loaded last, in seconds since boot. The kernel drops its oldest lines first, so a
    /// line that is gone was older than every Xid that is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_loaded_at: Option<u64>,
    /// Memory that nodes of an NVLink domain lend each other; absent without such a domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imex: Option<Imex>,
}

impl Nvidia {
    /// The GPU of NVML's number, which is what cases of a GPU bear.
    pub fn numbered(&self, number: u32) -> Option<&Gpu> {
        self.gpus.iter().find(|g| g.index == number)
    }

    /// GPUs that a program sees, in the order in which CUDA counts them by the bus: all that can be opened, or those that
    /// CUDA_VISIBLE_DEVICES (`visible`) names, up to the first word that names none; one that comes twice makes the list empty (CUDA C++
    /// Programming Guide, environment variables).
    pub fn shown(&self, visible: Option<&str>) -> Vec<&Gpu> {
        // A GPU in MIG mode is seen by its slices only.
        let whole: Vec<&Gpu> = self.gpus.iter().filter(|g| !g.is_slice() || !g.slices.is_empty()).collect();
        let Some(visible) = visible else { return whole };
        let named = |word: &str| -> Option<&Gpu> {
            if let Ok(index) = word.parse::<usize>() {
                return whole.get(index).copied();
            }
            if word.starts_with("MIG-") {
                return whole.iter().copied().find(|g| g.slices.iter().any(|s| s.uuid == word));
            }
            let mut fits = whole.iter().copied().filter(|g| word.len() > 4 && g.uuid.starts_with(word));
            fits.next().filter(|_| fits.next().is_none())
        };
        let list: Vec<&Gpu> = visible.split(',').map(|w| named(w.trim())).map_while(|g| g).collect();
        let twice = list.iter().enumerate().any(|(i, g)| list[..i].iter().any(|h| h.index == g.index));
        if twice { Vec::new() } else { list }
    }

    /// The domain of all GPUs of the node; `None` where there is none or they are in several.
    pub fn domain(&self) -> Option<Domain<'_>> {
        let mut all = self.gpus.iter().map(|g| g.fabric.as_ref().and_then(FabricState::domain));
        let first = all.next()??;
        all.all(|d| d == Some(first)).then_some(first)
    }
}

/// One GPU. What it does not support is absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Gpu {
    pub index: u32,
    pub name: String,
    pub uuid: String,
    pub pci: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The board's part number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vbios: Option<String>,
    /// The firmware of its system processor, which does most of the driver's work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gsp: Option<String>,
    /// What NVML took to answer all that is asked of this GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvml_ms: Option<u64>,
    pub memory: Option<Bytes>,
    /// Without what the driver itself keeps back.
    pub memory_used: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability: Option<(i32, i32)>,
    pub ecc: Option<bool>,
    /// Since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    pub ecc_uncorrected: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired_pages: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retirement_pending: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remapped: Option<Remapped>,
    /// What the driver wants done before the GPU is used again; drivers before 565 do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    pub clocks: Clocks,
    /// Names of what holds the clocks down at this moment.
    pub throttled: Vec<String>,
    pub temperature_c: Option<u32>,
    pub slowdown_c: Option<u32>,
    pub power_w: Option<f64>,
    pub power_limit_w: Option<f64>,
    pub power_default_w: Option<f64>,
    pub pcie: PcieState,
    pub nvlinks: Vec<NvLink>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fabric: Option<FabricState>,
    pub mig: Option<bool>,
    /// The instances that it is cut into, as far as this process may use them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<Slice>,
    pub compute_mode: Option<String>,
    pub persistence: Option<bool>,
    /// Processes that compute on it.
    pub processes: Vec<GpuProcess>,
    pub numa: Option<u32>,
}

impl Gpu {
    /// Whether programs get slices of it and never the whole: nothing that the card can do is then expected.
    pub fn is_slice(&self) -> bool {
        self.mig == Some(true)
    }
}

/// An instance of a GPU in MIG mode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Slice {
    /// `1g.10gb`; the driver's whole name of it where that has no profile.
    pub profile: String,
    pub uuid: String,
    pub memory: Option<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Remapped {
    pub corrected: u64,
    pub uncorrected: u64,
    /// Rows that will be remapped when the GPU is reset.
    pub pending: bool,
    /// A remapping failed: the memory has a row that cannot be replaced.
    pub failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Clocks {
    pub sm_mhz: Option<u32>,
    pub sm_max_mhz: Option<u32>,
    /// What the clock is set to when applications run.
    pub sm_set_mhz: Option<u32>,
    pub memory_mhz: Option<u32>,
    pub memory_max_mhz: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PcieState {
    /// Of this moment: an idle GPU may save power at a low generation.
    pub generation: Option<u32>,
    pub lanes: Option<u32>,
    pub generation_max: Option<u32>,
    pub lanes_max: Option<u32>,
    pub replays: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NvLink {
    pub link: u32,
    pub active: bool,
    pub version: Option<u32>,
    /// By name, those that are not zero.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<(String, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuProcess {
    pub pid: u32,
    pub name: Option<String>,
    pub memory: Option<Bytes>,
}
