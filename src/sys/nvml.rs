//! What `nvml-wrapper` does not wrap: the state of the NVSwitch fabric.

use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::nvmlGpuFabricInfo_v2_t;

/// A GPU's registration with the fabric manager, as numbers of nvml.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fabric {
    /// 0 not supported, 1 not started, 2 in progress, 3 completed.
    pub state: u32,
    /// Why a completed registration failed; 0 is well.
    pub status: u32,
    /// The UUID of the cluster; zeros where there is none.
    pub cluster: [u8; 16],
    pub clique: u32,
    /// NVML_GPU_FABRIC_HEALTH_MASK_*
    pub health: u32,
}

/// `None` where driver or GPU know of no fabric.
pub fn fabric(nvml: &Nvml, device: &Device<'_>) -> Option<Fabric> {
    let call = nvml.lib().nvmlDeviceGetGpuFabricInfoV.as_ref().ok()?;
    // SAFETY: plain numbers, for which zeros are valid.
    let mut info: nvmlGpuFabricInfo_v2_t = unsafe { std::mem::zeroed() };
    // NVML_STRUCT_VERSION: the size, and the version in the highest byte.
    info.version = size_of::<nvmlGpuFabricInfo_v2_t>() as u32 | 2 << 24;
    // SAFETY: the handle is NVML's own for a device that `device` keeps alive; the version tells the library which struct it
    // fills, and the binding's type is that of its newest.
    let code = unsafe { call(device.handle(), (&raw mut info).cast()) };
    (code == 0).then_some(Fabric {
        state: u32::from(info.state),
        status: info.status,
        cluster: info.clusterUuid,
        clique: info.cliqueId,
        health: info.healthMask,
    })
}
