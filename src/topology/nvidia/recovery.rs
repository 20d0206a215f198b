//! What the driver wants done with a GPU that failed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What has to be done before a GPU can be used again (NVML_GPU_RECOVERY_ACTION_*, the same in Xid 154).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    Nothing,
    Reset,
    Reboot,
    /// End what uses peers' memory.
    DrainPeers,
    DrainPeersAndReset,
    /// One that is new.
    Other(u32),
}

impl Recovery {
    pub fn of(number: u32) -> Self {
        match number {
            0 => Recovery::Nothing,
            1 => Recovery::Reset,
            2 => Recovery::Reboot,
            3 => Recovery::DrainPeers,
            4 => Recovery::DrainPeersAndReset,
            n => Recovery::Other(n),
        }
    }
}
