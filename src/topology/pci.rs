//! GPUs by PCI class, and disks. No driver is asked: a GPU whose driver is broken must still be seen.

use crate::topology::{Disk, PciGpu, SysRoot};
use crate::unit::Bytes;

/// Display and 3D controllers of those who make accelerators; a server's ASPEED or virtio display is none.
const GPU_VENDORS: &[&str] = &["0x10de", "0x1002"];

pub(super) fn gpus(root: &SysRoot) -> Vec<PciGpu> {
    root.list("/sys/bus/pci/devices")
        .into_iter()
        .filter_map(|pci| {
            let dir = format!("/sys/bus/pci/devices/{pci}");
            let class = root.read(format!("{dir}/class"))?;
            let vendor = root.read(format!("{dir}/vendor"))?;
            let is_gpu = ["0x0300", "0x0302", "0x0380", "0x1200"].iter().any(|c| class.starts_with(c));
            (is_gpu && GPU_VENDORS.contains(&vendor.as_str())).then(|| PciGpu {
                device: root.read(format!("{dir}/device")).unwrap_or_default(),
                driver: root.link_name(format!("{dir}/driver")),
                numa: root.parse::<i64>(format!("{dir}/numa_node")).and_then(|n| u32::try_from(n).ok()),
                vendor,
                pci,
            })
        })
        .collect()
}

pub(super) fn disks(root: &SysRoot) -> Vec<Disk> {
    root.list("/sys/block")
        .into_iter()
        .filter(|n| !["loop", "ram", "zram", "dm-", "nbd", "fd", "sr"].iter().any(|p| n.starts_with(p)))
        .map(|name| {
            let dir = format!("/sys/block/{name}");
            Disk {
                model: root.read(format!("{dir}/device/model")).map(|m| m.trim().to_owned()),
                // The kernel counts in units of 512 bytes here, whatever the device's own sector.
                size: root.parse::<u64>(format!("{dir}/size")).and_then(|s| s.checked_mul(512)).map(Bytes),
                rotational: root.parse::<u8>(format!("{dir}/queue/rotational")).map(|r| r == 1),
                name,
            }
        })
        .collect()
}
