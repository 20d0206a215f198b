//! GPUs by PCI class, a device's place on PCI Express, and disks. No driver is asked: a GPU whose driver is broken must still
//! be seen.

use crate::topology::{Disk, PciGpu, Pcie, PcieLink, SysRoot};
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
                pcie: pcie(root, &pci),
                vendor,
                pci,
            })
        })
        .collect()
}

/// A device's place on PCI Express, by its address.
pub(super) fn pcie(root: &SysRoot, address: &str) -> Option<Pcie> {
    let dir = |a: &str| format!("/sys/bus/pci/devices/{a}");
    // `../../../devices/pci0000:16/0000:16:01.0/0000:17:00.0`: the bridges, then the device.
    let target = root.link(dir(address))?;
    let bridges: Vec<String> = target
        .split('/')
        .filter(|part| part.len() == 12 && part.as_bytes()[4] == b':' && *part != address)
        .map(str::to_owned)
        .collect();
    let read: Option<Vec<(&String, bool)>> =
        bridges.iter().map(|b| Some((b, redirects(&root.read_bytes(format!("{}/config", dir(b)))?)?))).collect();
    let redirecting = read.map(|all| all.into_iter().filter(|(_, on)| *on).map(|(b, _)| b.clone()).collect());
    let slot = bridges.last().and_then(|b| link(root, b, "max"));
    Some(Pcie { redirecting, link: link(root, address, "current"), most: link(root, address, "max"), slot, bridges })
}

/// `current` or `max` of a device.
fn link(root: &SysRoot, address: &str, which: &str) -> Option<PcieLink> {
    let dir = format!("/sys/bus/pci/devices/{address}");
    // `16.0 GT/s PCIe`, `Unknown`; a width of 0 or 255 is of a link that is not there.
    let speed = root.read(format!("{dir}/{which}_link_speed"))?;
    let gigatransfers: f64 = speed.split(' ').next()?.parse().ok().filter(|g: &f64| g.is_finite() && *g > 0.0)?;
    let lanes = root.parse::<u32>(format!("{dir}/{which}_link_width")).filter(|w| (1..=32).contains(w))?;
    Some(PcieLink { gigatransfers, lanes })
}

/// The most that the slowest link between a device and its CPU can do: of the device, of its slot, and of every bridge above them. A
/// GPU may hang off a switch at one generation, and the switch off its CPU at an older one.
pub fn host_path(root: &SysRoot, address: &str) -> Option<PcieLink> {
    let place = pcie(root, address)?;
    let all = place.bridges.iter().map(String::as_str).chain([address]);
    all.filter_map(|a| link(root, a, "max")).min_by(|a, b| a.rate().total_cmp(&b.rate()))
}

/// Whether a bridge's Access Control Services redirect peer-to-peer requests, from its configuration space (PCI Express Base
/// Specification, 7.7.11). `None` where only the first part of it may be read, as by a user who is not root.
fn redirects(config: &[u8]) -> Option<bool> {
    const ACS: u32 = 0x000d;
    const REQUEST_REDIRECT: u16 = 1 << 2;
    if config.len() < 4096 {
        return None;
    }
    let word = |at: usize| Some(u32::from_le_bytes(config.get(at..at + 4)?.try_into().ok()?));
    let mut at = 0x100;
    // The list has 960 places at most; one that goes in circles ends there.
    for _ in 0..960 {
        let header = word(at)?;
        if header & 0xffff == ACS {
            let control = u16::from_le_bytes(config.get(at + 6..at + 8)?.try_into().ok()?);
            return Some(control & REQUEST_REDIRECT != 0);
        }
        at = (header >> 20) as usize & !3;
        if at < 0x100 {
            break;
        }
    }
    Some(false)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(capabilities: &[(usize, u32, usize, u16)]) -> Vec<u8> {
        let mut out = vec![0u8; 4096];
        for (at, id, next, control) in capabilities {
            out[*at..at + 4].copy_from_slice(&(id | 1 << 16 | (*next as u32) << 20).to_le_bytes());
            out[at + 6..at + 8].copy_from_slice(&control.to_le_bytes());
        }
        out
    }

    #[test]
    fn a_bridge_that_redirects_is_known_by_its_control_bits() {
        let chain = |control| config(&[(0x100, 0x0001, 0x148, 0xffff), (0x148, 0x000d, 0, control)]);
        assert_eq!(redirects(&chain(0x001d)), Some(true));
        assert_eq!(redirects(&chain(0x0001)), Some(false));
        assert_eq!(redirects(&config(&[])), Some(false));
        assert_eq!(redirects(&chain(0x1d)[..64]), None);
        // A list that points at itself.
        assert_eq!(redirects(&config(&[(0x100, 0x0001, 0x100, 0)])), Some(false));
    }

    #[test]
    fn the_way_to_the_cpu_is_as_fast_as_its_slowest_link() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        // A Gen6 GPU on a Gen6 switch whose own link to the CPU is Gen5; a bridge that is no PCI Express tells nothing.
        let chain =
            [("0000:10:01.0", "64.0"), ("0000:11:00.0", "32.0"), ("0000:12:00.0", "Unknown"), ("0000:13:00.0", "64.0")];
        for (address, speed) in chain {
            write(&format!("sys/bus/pci/devices/{address}/max_link_speed"), &format!("{speed} GT/s PCIe\n"));
            write(&format!("sys/bus/pci/devices/{address}/max_link_width"), "16\n");
        }
        let place: Vec<&str> = chain.iter().map(|(address, _)| *address).collect();
        let link = format!("../../../devices/pci0000:10/{}", place.join("/"));
        write("links.json", &serde_json::json!({ "/sys/bus/pci/devices/0000:13:00.0": link }).to_string());
        write("proc/version", "");
        let root = SysRoot::replay(dir.path()).unwrap();
        assert_eq!(host_path(&root, "0000:13:00.0"), Some(PcieLink { gigatransfers: 32.0, lanes: 16 }));
        assert_eq!(host_path(&root, "0000:14:00.0"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_configuration_makes_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 4096)) {
            let _ = redirects(&bytes);
        }
    }
}
