//! A GPU's place in a fabric of NVSwitches, and the domain of nodes that such a fabric makes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Registration with the fabric manager (NVSwitch).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct FabricState {
    /// `completed`, `in progress`, `not started`, or the number of one that is new.
    pub state: String,
    /// NVML's code of a registration that failed.
    pub status: u32,
    pub clique: u32,
    /// The UUID of the fabric that reaches beyond the node; absent where it does not, as on an HGX board.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Absent where driver or GPU do not tell, and in records from before this was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<FabricHealth>,
}

/// What the fabric manager says of a GPU's links as a whole; what the GPU does not support is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FabricHealth {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded_bandwidth: Option<bool>,
    /// Routes are being mended at this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_recovery: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_unhealthy: Option<bool>,
    /// The links recover from an access that had no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_timeout_recovery: Option<bool>,
    /// What is wrong with the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misconfigured: Option<String>,
}

impl FabricHealth {
    /// Reads NVML's mask (nvml.h, NVML_GPU_FABRIC_HEALTH_MASK_*): fields of two bits, 1 for yes and 2 for no, and one of four.
    /// `None` where no field is supported.
    pub fn of(mask: u32) -> Option<Self> {
        let flag = |shift: u32| match mask >> shift & 3 {
            1 => Some(true),
            2 => Some(false),
            _ => None,
        };
        let misconfigured = match mask >> 8 & 15 {
            0 | 1 => None,
            2 => Some("incorrect system GUID".to_owned()),
            3 => Some("incorrect chassis serial number".to_owned()),
            4 => Some("no partition".to_owned()),
            5 => Some("too few NVLinks".to_owned()),
            6 => Some("the GPU's firmware does not fit".to_owned()),
            7 => Some("invalid location".to_owned()),
            n => Some(format!("configuration error {n}")),
        };
        (mask & 0xfff != 0).then_some(FabricHealth {
            degraded_bandwidth: flag(0),
            route_recovery: flag(2),
            route_unhealthy: flag(4),
            access_timeout_recovery: flag(6),
            misconfigured,
        })
    }
}

/// GPUs that reach each other's memory over NVLink, on one node or many. A clique's number alone would join GPUs of different fabrics: every fabric
/// counts its cliques from the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain<'a> {
    pub cluster: &'a str,
    pub clique: u32,
}

impl std::fmt::Display for Domain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} clique {}", crate::id::clean(self.cluster), self.clique)
    }
}

impl FabricState {
    pub fn is_completed(&self) -> bool {
        self.state == COMPLETED
    }

    /// The domain that the GPU has joined; `None` for one whose fabric ends with its node (NCCL asks the same: a UUID that is
    /// not zero, and a registration that is complete).
    pub fn domain(&self) -> Option<Domain<'_>> {
        let cluster = self.cluster.as_deref()?;
        (self.is_completed() && self.status == 0).then_some(Domain { cluster, clique: self.clique })
    }
}

pub(super) const COMPLETED: &str = "completed";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Gpu, Nvidia};

    /// All fields at `no`: what a healthy GB200 says.
    const WELL: u32 = 2 | 2 << 2 | 2 << 4 | 2 << 6 | 1 << 8;

    #[test]
    fn each_field_of_the_mask_is_itself() {
        let well = FabricHealth {
            degraded_bandwidth: Some(false),
            route_recovery: Some(false),
            route_unhealthy: Some(false),
            access_timeout_recovery: Some(false),
            misconfigured: None,
        };
        assert_eq!(FabricHealth::of(WELL), Some(well.clone()));
        let flipped = |shift: u32| FabricHealth::of(WELL ^ 3 << shift);
        assert_eq!(flipped(0), Some(FabricHealth { degraded_bandwidth: Some(true), ..well.clone() }));
        assert_eq!(flipped(2), Some(FabricHealth { route_recovery: Some(true), ..well.clone() }));
        assert_eq!(flipped(4), Some(FabricHealth { route_unhealthy: Some(true), ..well.clone() }));
        assert_eq!(flipped(6), Some(FabricHealth { access_timeout_recovery: Some(true), ..well.clone() }));
        let said = FabricHealth::of(5 << 8).and_then(|h| h.misconfigured);
        assert_eq!(said.as_deref(), Some("too few NVLinks"));
        assert_eq!(FabricHealth::of(0), None);
    }

    #[test]
    fn a_domain_needs_a_fabric_beyond_the_node_and_all_gpus() {
        let state = |cluster: Option<&str>, clique| FabricState {
            state: COMPLETED.into(),
            clique,
            cluster: cluster.map(str::to_owned),
            ..FabricState::default()
        };
        let of = |fabrics: &[FabricState]| {
            let gpus = fabrics.iter().map(|f| Gpu { fabric: Some(f.clone()), ..Gpu::default() }).collect();
            Nvidia { gpus, ..Nvidia::default() }.domain().map(|d| d.to_string())
        };
        assert_eq!(of(&[state(Some("ab"), 7), state(Some("ab"), 7)]).as_deref(), Some("ab clique 7"));
        assert_eq!(of(&[state(Some("ab"), 7), state(Some("ab"), 8)]), None);
        assert_eq!(of(&[state(Some("ab"), 7), state(Some("cd"), 7)]), None);
        // An H100 on an HGX board: completed, and no cluster.
        assert_eq!(of(&[state(None, 0)]), None);
        assert_eq!(of(&[FabricState { state: "in progress".into(), ..state(Some("ab"), 7) }]), None);
        assert_eq!(of(&[]), None);
    }

    proptest::proptest! {
        #[test]
        fn a_mask_of_any_bits_is_read(mask in proptest::num::u32::ANY) {
            let read = FabricHealth::of(mask);
            // Bits beyond those that are known say nothing.
            proptest::prop_assert_eq!(read, FabricHealth::of(mask & 0xfff));
        }
    }
}
