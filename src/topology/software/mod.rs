//! The software that a run brings along: the libraries of an image, and how a container of it was started.
//!
//! Types and readers of files; loading a library is the probe's business, for it runs the library's code.

mod toolkit;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::topology::{SysRoot, os};
use crate::unit::Bytes;

pub use crate::sys::elf::{Elf, ElfError, elf};
pub use toolkit::{Version, architecture, cuda_of, driver_of, net_plugins, newest_cuda, oldest_cuda, oldest_driver};

/// One kind of software in an image, such as NCCL, with every file of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Component {
    /// The files that programs get first, then those that they do not.
    pub files: Vec<LibraryFile>,
}

/// How a program comes to a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Programs that ask for it by name get this file.
    #[default]
    Loaded,
    /// It lies where the loader looks, behind another file of its name, or the loader does not know it.
    Hidden,
    /// It lies where no loader looks: found by programs that bring a path of their own, as Python's packages do.
    Apart,
}

/// A library as a file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LibraryFile {
    /// What a program asks for: `libnccl.so.2`.
    pub name: String,
    /// The file itself, links followed.
    pub path: PathBuf,
    pub reach: Reach,
    /// As the library itself says; else as its file is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The CUDA toolkit that it was built with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
    /// Compute capabilities that it has machine code for: 90 is sm_90.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub code: Vec<u32>,
    /// Compute capabilities that it has PTX for, which the driver can compile for later GPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ptx: Vec<u32>,
    /// Versions of an interface that a plugin offers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offers: Vec<u32>,
    /// It only stands in for the driver's library when programs are linked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stub: bool,
    /// Libraries of the driver that it cannot be loaded without: they come with the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// Why it cannot be loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl LibraryFile {
    /// Loaded here, or complete but for the driver.
    pub fn works(&self) -> bool {
        self.error.is_none()
    }
}

/// How a container was started, and what was set in it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Start {
    pub os: Option<String>,
    pub container: Option<String>,
    /// Allow-listed environment variables.
    pub environment: BTreeMap<String, String>,
    /// Settings in files that NCCL reads by itself: file, variable, value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<(PathBuf, String, String)>,
    /// Absent when unlimited.
    pub memlock: Option<Bytes>,
    /// The size of /dev/shm; absent where the kernel's default of half the memory holds, or it is not mounted.
    pub shm: Option<Bytes>,
    /// Whether /dev/infiniband is there.
    pub infiniband: bool,
    /// Whether NVIDIA's driver is there.
    pub nvidia: bool,
}

/// Files from which NCCL takes its settings, by its documentation.
const NCCL_FILES: &[&str] = &["/etc/nccl.conf", "/root/.nccl.conf"];

/// Reads how this container was started.
pub fn start(root: &SysRoot) -> Start {
    let mut settings = Vec::new();
    for file in NCCL_FILES {
        let text = root.read(file).unwrap_or_default();
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
            if let Some((name, value)) = line.split_once('=') {
                settings.push((PathBuf::from(file), name.trim().to_owned(), value.trim().to_owned()));
            }
        }
    }
    Start {
        os: os::kernel(root).os,
        container: os::container(root),
        environment: root.environment(),
        settings,
        memlock: os::limits(root).memlock,
        shm: os::memory(root).shm,
        infiniband: root.exists("/dev/infiniband"),
        nvidia: root.exists("/dev/nvidiactl") || root.exists("/proc/driver/nvidia/version"),
    }
}
