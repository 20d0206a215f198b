//! GPUs of the PCI bus that the driver does not show: lost, or only not granted to this container or control group.
//!
//! /sys shows every GPU of the machine to everybody. What a process may use is decided by the device files: a container has only
//! those that it was given, and a control group (Slurm's ConstrainDevices) refuses to open the others. A GPU that failed cannot
//! be opened either, but with another error.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::ErrorKind;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::topology::{Mount, SysRoot};

/// A GPU of the PCI bus, as far as it can be seen without NVML.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DriverView {
    pub pci: String,
    /// Whether NVIDIA's kernel driver lists it in /proc/driver/nvidia/gpus.
    pub bound: bool,
    /// The number of its device file, where the driver lists it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<u32>,
    /// Absent where its number is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<DeviceNode>,
    /// Whether its configuration space answers: a device that fell off the bus reads as ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<bool>,
}

/// What came of opening a GPU's device file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceNode {
    Absent,
    /// This user or control group may not.
    Denied,
    Opens,
    /// The driver refuses, with this errno.
    Fails(i32),
}

/// What a GPU of the PCI bus that NVML does not show is to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The machine has it, and this container, control group or user was not given it.
    Withheld,
    /// Another driver holds it for a virtual machine.
    GivenAway(String),
    /// With what shows it.
    Lost(String),
    /// Nothing tells.
    Unknown,
}

impl DriverView {
    /// Judged by what can be seen without NVML; `driver` is the kernel's driver of the device.
    pub fn standing(&self, driver: Option<&str>, masked: bool, any_bound: bool) -> Standing {
        // Held for a guest (vfio), or a card for the display under another driver: none of this driver's.
        let other = driver.filter(|d| *d != "nvidia");
        match (self.answers, other, self.bound, self.file) {
            (Some(false), ..) => Standing::Lost("its configuration space does not answer".to_owned()),
            (_, Some(driver), ..) => Standing::GivenAway(driver.to_owned()),
            (_, _, true, Some(DeviceNode::Absent | DeviceNode::Denied)) => Standing::Withheld,
            (_, _, true, Some(DeviceNode::Fails(errno))) => {
                let error = std::io::Error::from_raw_os_error(errno);
                let minor = self.minor.unwrap_or_default();
                Standing::Lost(format!("/dev/nvidia{minor} cannot be opened: {error}"))
            }
            (_, _, true, _) => Standing::Unknown,
            // The runtime of containers shows only the GPUs that it granted.
            (_, _, false, _) if masked => Standing::Withheld,
            (_, _, false, _) if any_bound => Standing::Lost("the kernel's driver does not hold it".to_owned()),
            (_, _, false, _) => Standing::Unknown,
        }
    }
}

const PROC: &str = "/proc/driver/nvidia";

/// Whether something is mounted over the driver's files in /proc, as NVIDIA's runtime for containers does.
pub(in crate::topology) fn is_masked(mounts: &[Mount]) -> bool {
    mounts.iter().any(|m| m.point.starts_with(PROC))
}

/// What the kernel's driver has of the GPUs with these PCI addresses. The device files of those that are not `shown` by NVML are opened: what NVML
/// shows is open already.
pub(in crate::topology) fn driver_views(root: &SysRoot, gpus: &[&str], shown: &[&str]) -> Vec<DriverView> {
    let listed = root.list(format!("{PROC}/gpus"));
    let mut out: Vec<DriverView> = gpus
        .iter()
        .map(|pci| {
            let bound = listed.iter().any(|l| l.eq_ignore_ascii_case(pci));
            let about = bound.then(|| root.read(format!("{PROC}/gpus/{pci}/information"))).flatten();
            DriverView {
                pci: (*pci).to_owned(),
                bound,
                minor: about.as_deref().and_then(minor),
                file: None,
                answers: root.read_bytes(format!("/sys/bus/pci/devices/{pci}/config")).and_then(|c| answers(&c)),
            }
        })
        .collect();
    let hidden: Vec<u32> = out.iter().filter(|s| !shown.contains(&s.pci.as_str())).filter_map(|s| s.minor).collect();
    if !hidden.is_empty() {
        let files = root.reading("nvidia-files.json", || open(&hidden)).unwrap_or_default();
        for view in &mut out {
            view.file = view.minor.and_then(|m| files.get(&m).copied());
        }
    }
    out
}

/// `Device Minor: \t 3`
fn minor(information: &str) -> Option<u32> {
    information.lines().find_map(|l| l.strip_prefix("Device Minor:")?.trim().parse().ok())
}

/// Whether the vendor's number is one: a read that no device answers gives ones.
fn answers(config: &[u8]) -> Option<bool> {
    Some(config.get(..2)? != [0xff, 0xff])
}

/// Opens device files and closes them again. A driver that hangs hangs here as it does in NVML, so no more than one is waited for.
fn open(minors: &[u32]) -> BTreeMap<u32, DeviceNode> {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
    let (tell, told) = std::sync::mpsc::channel();
    let minors = minors.to_vec();
    let asker = std::thread::Builder::new().name("device-files".into()).spawn(move || {
        for minor in minors {
            if tell.send((minor, open_one(minor))).is_err() {
                return;
            }
        }
    });
    let mut out = BTreeMap::new();
    if asker.is_ok() {
        let end = std::time::Instant::now() + PATIENCE;
        while let Ok((minor, node)) = told.recv_timeout(end.saturating_duration_since(std::time::Instant::now())) {
            out.insert(minor, node);
        }
    }
    out
}

fn open_one(minor: u32) -> DeviceNode {
    match OpenOptions::new().read(true).write(true).open(format!("/dev/nvidia{minor}")) {
        Ok(_) => DeviceNode::Opens,
        Err(e) if e.kind() == ErrorKind::NotFound => DeviceNode::Absent,
        Err(e) if e.kind() == ErrorKind::PermissionDenied => DeviceNode::Denied,
        Err(e) => DeviceNode::Fails(e.raw_os_error().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> DriverView {
        DriverView { pci: "0000:19:00.0".into(), bound: true, minor: Some(3), file: None, answers: Some(true) }
    }

    #[test]
    fn granted_is_told_from_present() {
        let file = |file| DriverView { file: Some(file), ..view() };
        let stands = |s: DriverView, driver, masked, any| s.standing(driver, masked, any);
        let nvidia = Some("nvidia");
        // A control group that refuses it, a container without its file.
        assert_eq!(stands(file(DeviceNode::Denied), nvidia, false, true), Standing::Withheld);
        assert_eq!(stands(file(DeviceNode::Absent), nvidia, false, true), Standing::Withheld);
        // A container whose runtime shows what it granted.
        let unbound = DriverView { bound: false, minor: None, ..view() };
        assert_eq!(stands(unbound.clone(), nvidia, true, true), Standing::Withheld);
        assert!(matches!(stands(unbound.clone(), nvidia, false, true), Standing::Lost(_)));
        assert!(matches!(stands(unbound.clone(), None, false, true), Standing::Lost(_)));
        assert_eq!(stands(unbound.clone(), nvidia, false, false), Standing::Unknown);
        assert_eq!(
            stands(unbound.clone(), Some("nvgrace-gpu-vfio-pci"), false, true),
            Standing::GivenAway("nvgrace-gpu-vfio-pci".into())
        );
        // EIO: the driver could not initialise it.
        assert!(matches!(stands(file(DeviceNode::Fails(5)), nvidia, false, true), Standing::Lost(_)));
        assert_eq!(stands(file(DeviceNode::Opens), nvidia, false, true), Standing::Unknown);
        // Whatever else is said, a device that does not answer is lost, in a container too.
        let dead = DriverView { answers: Some(false), ..unbound };
        assert!(matches!(stands(dead, nvidia, true, true), Standing::Lost(_)));
    }

    #[test]
    fn seats_are_read_from_a_recording() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let write = |path: &str, text: &[u8]| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(dir.path()))?;
            std::fs::write(path, text)
        };
        let info =
            |minor| format!("Model: \t\t NVIDIA H100\nBus Location: \t 0000:19:00.0\nDevice Minor: \t {minor}\n");
        write("proc/driver/nvidia/gpus/0000:19:00.0/information", info(0).as_bytes())?;
        write("proc/driver/nvidia/gpus/0000:3b:00.0/information", info(1).as_bytes())?;
        write("sys/bus/pci/devices/0000:19:00.0/config", &[0xde, 0x10, 0, 0])?;
        write("sys/bus/pci/devices/0000:5d:00.0/config", &[0xff; 64])?;
        write("nvidia-files.json", br#"{"1": "denied"}"#)?;
        let root = SysRoot::replay(dir.path())?;
        let found = driver_views(&root, &["0000:19:00.0", "0000:3b:00.0", "0000:5d:00.0"], &["0000:19:00.0"]);
        let of = |pci: &str, bound, minor, file, answers| DriverView { pci: pci.into(), bound, minor, file, answers };
        assert_eq!(
            found,
            [
                of("0000:19:00.0", true, Some(0), None, Some(true)),
                of("0000:3b:00.0", true, Some(1), Some(DeviceNode::Denied), None),
                of("0000:5d:00.0", false, None, None, Some(false)),
            ]
        );
        Ok(())
    }

    #[test]
    fn mounts_over_the_drivers_files_are_seen() {
        let mount = |point: &str| vec![Mount { point: point.into(), ..Mount::default() }];
        assert!(is_masked(&mount("/proc/driver/nvidia")) && is_masked(&mount("/proc/driver/nvidia/gpus/0000:19:00.0")));
        assert!(!is_masked(&mount("/proc")) && !is_masked(&mount("/proc/driver/nvidia-uvm")));
    }

    proptest::proptest! {
        #[test]
        fn no_information_makes_it_panic(text in "(Device Minor:|[0-9\t ]|\n|\\PC){0,30}") {
            let _ = minor(&text);
        }
    }
}
