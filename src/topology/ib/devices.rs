//! What a device can do at best, by its PCI device id: enough to tell a link that fell back from one that was built slow.

use crate::topology::ib::Speed;

/// Device ids (devid of ibnetdiscover, `MT` and the number in decimal for ibstat) with their fastest signalling: the PCI ID
/// database for vendor 15b3, and the datasheets of the models.
const DEVICES: &[(u32, Speed)] = &[
    // ConnectX, ConnectX-2; InfiniScale IV.
    (0x673c, Speed::Qdr),
    (0xbd36, Speed::Qdr),
    // ConnectX-3, ConnectX-3 Pro, Connect-IB; SwitchX, SwitchX-2.
    (0x1003, Speed::Fdr),
    (0x1007, Speed::Fdr),
    (0x1011, Speed::Fdr),
    (0xc738, Speed::Fdr),
    // ConnectX-4, ConnectX-5, ConnectX-5 Ex, BlueField; Switch-IB, Switch-IB 2.
    (0x1013, Speed::Edr),
    (0x1017, Speed::Edr),
    (0x1019, Speed::Edr),
    (0xa2d2, Speed::Edr),
    (0xcb20, Speed::Edr),
    (0xcf08, Speed::Edr),
    // ConnectX-6, BlueField-2; Quantum.
    (0x101b, Speed::Hdr),
    (0xa2d6, Speed::Hdr),
    (0xd2f0, Speed::Hdr),
    // ConnectX-7, BlueField-3; Quantum-2.
    (0x1021, Speed::Ndr),
    (0xa2dc, Speed::Ndr),
    (0xd2f2, Speed::Ndr),
    // ConnectX-8; Quantum-3.
    (0x1023, Speed::Xdr),
    (0xd2f4, Speed::Xdr),
];

/// The fastest signalling of a device that is known here.
pub fn fastest(device: u32) -> Option<&'static Speed> {
    DEVICES.iter().find(|(id, _)| *id == device).map(|(_, speed)| speed)
}

/// The same by ibstat's `CA type`: `MT4129`.
pub fn fastest_of_type(kind: &str) -> Option<&'static Speed> {
    fastest(kind.strip_prefix("MT")?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_known_by_either_name() {
        assert_eq!((fastest(0x1021), fastest_of_type("MT4129")), (Some(&Speed::Ndr), Some(&Speed::Ndr)));
        assert_eq!((fastest(0x9999), fastest_of_type("MTx"), fastest_of_type("mlx5")), (None, None, None));
    }
}
