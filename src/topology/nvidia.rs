//! NVIDIA GPUs as their driver tells them (NVML), and Xid errors in the kernel's log.

use std::io::Read;

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, ComputeMode, EccCounter, MemoryError, RetirementCause, TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sys::nvml::fabric;
use crate::topology::SysRoot;
use crate::unit::Bytes;

/// What the driver says of a node's GPUs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Nvidia {
    /// Why nothing could be asked; the rest is then empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub driver: Option<String>,
    /// The version of the library that was asked: of a container's own where the host's was not mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvml: Option<String>,
    /// The newest CUDA that the driver knows, such as `12.8`.
    pub cuda: Option<String>,
    pub gpus: Vec<Gpu>,
    /// GPUs that NVML counts and cannot open, with why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// In the kernel's log since boot; absent where it may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xids: Option<Vec<Xid>>,
}

/// An error of the driver in the kernel's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Xid {
    /// Seconds since boot.
    pub at: u64,
    pub pci: String,
    pub code: u32,
    pub text: String,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vbios: Option<String>,
    /// The firmware of its system processor, which does most of the driver's work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gsp: Option<String>,
    pub memory: Option<Bytes>,
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
    pub compute_mode: Option<String>,
    pub persistence: Option<bool>,
    /// Processes that compute on it.
    pub processes: Vec<GpuProcess>,
    pub numa: Option<u32>,
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

/// Registration with the fabric manager (NVSwitch).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct FabricState {
    /// `completed`, `in progress`, `not started`, or the number of one that is new.
    pub state: String,
    /// NVML's code of a registration that failed.
    pub status: u32,
    pub clique: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuProcess {
    pub pid: u32,
    pub name: Option<String>,
    pub memory: Option<Bytes>,
}

/// What the driver says; `None` where there is no NVIDIA GPU on the PCI bus and no driver either.
pub fn nvidia(root: &SysRoot, gpus_seen: bool) -> Option<Nvidia> {
    root.reading("nvidia.json", || live(gpus_seen)).flatten()
}

fn live(gpus_seen: bool) -> Option<Nvidia> {
    let nvml = match Nvml::init() {
        Ok(nvml) => nvml,
        Err(_) if !gpus_seen => return None,
        Err(e) => return Some(Nvidia { error: Some(why(&e)), ..Nvidia::default() }),
    };
    let mut out = Nvidia {
        driver: nvml.sys_driver_version().ok(),
        cuda: nvml.sys_cuda_driver_version().ok().map(|v| format!("{}.{}", v / 1000, v % 1000 / 10)),
        nvml: nvml.sys_nvml_version().ok(),
        xids: kernel_log().map(|text| parse_xids(&text)),
        ..Nvidia::default()
    };
    for index in 0..nvml.device_count().unwrap_or(0) {
        match nvml.device_by_index(index) {
            Ok(device) => out.gpus.push(gpu(&nvml, index, &device)),
            Err(e) => out.lost.push(format!("GPU {index}: {}", why(&e))),
        }
    }
    Some(out)
}

fn why(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(e) => format!("libnvidia-ml.so.1 is not to be found: {e}"),
        other => other.to_string(),
    }
}

fn gpu(nvml: &Nvml, index: u32, d: &nvml_wrapper::Device<'_>) -> Gpu {
    let memory = d.memory_info().ok();
    let ecc = |kind| d.total_ecc_errors(kind, EccCounter::Volatile).ok();
    let retired = |cause| d.retired_pages(cause).map(|p| p.len() as u32).ok();
    let watts = |mw: Result<u32, NvmlError>| mw.ok().map(|mw| f64::from(mw) / 1000.0);
    let processes = d.running_compute_processes().unwrap_or_default();
    Gpu {
        index,
        name: d.name().unwrap_or_default(),
        uuid: d.uuid().unwrap_or_default(),
        // NVML writes eight digits of the domain, the kernel four.
        pci: d.pci_info().map(|p| short_pci(&p.bus_id)).unwrap_or_default(),
        serial: d.serial().ok(),
        vbios: d.vbios_version().ok(),
        gsp: d.gsp_firmware_version().ok(),
        memory: memory.as_ref().map(|m| Bytes(m.total)),
        memory_used: memory.as_ref().map(|m| Bytes(m.used)),
        capability: d.cuda_compute_capability().ok().map(|c| (c.major, c.minor)),
        ecc: d.is_ecc_enabled().ok().map(|e| e.currently_enabled),
        ecc_corrected: ecc(MemoryError::Corrected),
        ecc_uncorrected: ecc(MemoryError::Uncorrected),
        retired_pages: retired(RetirementCause::DoubleBitEccError)
            .zip(retired(RetirementCause::MultipleSingleBitEccErrors))
            .map(|(a, b)| a + b),
        retirement_pending: d.are_pages_pending_retired().ok(),
        remapped: remapped(d),
        clocks: Clocks {
            sm_mhz: d.clock_info(Clock::SM).ok(),
            sm_max_mhz: d.max_clock_info(Clock::SM).ok(),
            sm_set_mhz: d.applications_clock(Clock::Graphics).ok(),
            memory_mhz: d.clock_info(Clock::Memory).ok(),
            memory_max_mhz: d.max_clock_info(Clock::Memory).ok(),
        },
        throttled: d.current_throttle_reasons().map(throttled).unwrap_or_default(),
        temperature_c: d.temperature(TemperatureSensor::Gpu).ok(),
        slowdown_c: d.temperature_threshold(TemperatureThreshold::Slowdown).ok(),
        power_w: watts(d.power_usage()),
        power_limit_w: watts(d.enforced_power_limit()),
        power_default_w: watts(d.power_management_limit_default()),
        pcie: PcieState {
            generation: d.current_pcie_link_gen().ok(),
            lanes: d.current_pcie_link_width().ok(),
            generation_max: d.max_pcie_link_gen().ok(),
            lanes_max: d.max_pcie_link_width().ok(),
            replays: d.pcie_replay_counter().ok(),
        },
        nvlinks: nvlinks(d),
        fabric: fabric(nvml, d).filter(|f| f.state != 0).map(|f| FabricState {
            state: match f.state {
                1 => "not started".to_owned(),
                2 => "in progress".to_owned(),
                3 => "completed".to_owned(),
                n => format!("state {n}"),
            },
            status: f.status,
            clique: f.clique,
        }),
        mig: d.mig_mode().ok().map(|m| m.current != 0),
        compute_mode: d.compute_mode().ok().map(|m| {
            match m {
                ComputeMode::Default => "default",
                ComputeMode::ExclusiveThread => "exclusive thread",
                ComputeMode::Prohibited => "prohibited",
                ComputeMode::ExclusiveProcess => "exclusive process",
            }
            .to_owned()
        }),
        persistence: d.is_in_persistent_mode().ok(),
        processes: processes
            .into_iter()
            .map(|p| GpuProcess {
                pid: p.pid,
                name: std::fs::read_to_string(format!("/proc/{}/comm", p.pid)).ok().map(|n| n.trim().to_owned()),
                memory: match p.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Some(Bytes(bytes)),
                    UsedGpuMemory::Unavailable => None,
                },
            })
            .collect(),
        numa: d.numa_node_id().ok(),
    }
}

/// `0000:19:00.0` of `00000000:19:00.0`.
fn short_pci(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) if domain.len() == 8 => format!("{}:{rest}", &domain[4..]),
        _ => lower,
    }
}

/// Since Ampere: rows of memory that were replaced. The wrapper has it as field values.
fn remapped(d: &nvml_wrapper::Device<'_>) -> Option<Remapped> {
    let ids = [
        field_id::NVML_FI_DEV_REMAPPED_COR,
        field_id::NVML_FI_DEV_REMAPPED_UNC,
        field_id::NVML_FI_DEV_REMAPPED_PENDING,
        field_id::NVML_FI_DEV_REMAPPED_FAILURE,
    ];
    let values = d.field_values_for(&ids.map(FieldId)).ok()?;
    let number = |i: usize| match values.get(i)?.as_ref().ok()?.value.as_ref().ok()? {
        SampleValue::U32(v) => Some(u64::from(*v)),
        SampleValue::U64(v) => Some(*v),
        SampleValue::I64(v) => u64::try_from(*v).ok(),
        SampleValue::F64(v) => Some(*v as u64),
    };
    Some(Remapped { corrected: number(0)?, uncorrected: number(1)?, pending: number(2)? != 0, failed: number(3)? != 0 })
}

/// Links up to the most that NVML numbers; a GPU without any answers with an error at the first.
fn nvlinks(d: &nvml_wrapper::Device<'_>) -> Vec<NvLink> {
    const MOST: u32 = 36;
    let counters = [
        ("replay", ErrorCounter::DlReplay),
        ("recovery", ErrorCounter::DlRecovery),
        ("CRC flit", ErrorCounter::DlCrcFlit),
        ("CRC data", ErrorCounter::DlCrcData),
    ];
    (0..MOST)
        .map_while(|link| {
            let l = d.link_wrapper_for(link);
            let active = l.is_active().ok()?;
            let count = |(name, counter): &(&str, ErrorCounter)| {
                let n = l.error_counter(*counter).ok().filter(|n| *n > 0)?;
                Some(((*name).to_owned(), n))
            };
            let errors = if active { counters.iter().filter_map(count).collect() } else { Vec::new() };
            Some(NvLink { link, active, version: l.version().ok(), errors })
        })
        .collect()
}

/// What holds the clocks down, by name; an idle GPU is not held down.
pub fn throttled(reasons: ThrottleReasons) -> Vec<String> {
    [
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "application clocks"),
        (ThrottleReasons::SW_POWER_CAP, "power cap"),
        (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
        (ThrottleReasons::SYNC_BOOST, "sync boost"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "software thermal slowdown"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hardware thermal slowdown"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
    ]
    .into_iter()
    .filter(|(flag, _)| reasons.contains(*flag))
    .map(|(_, name)| name.to_owned())
    .collect()
}

/// The kernel's log as it is now; `None` where this user may not read it.
fn kernel_log() -> Option<String> {
    use std::os::unix::fs::OpenOptionsExt;
    // One record a read; without waiting, the end is EAGAIN. Records that were overwritten meanwhile are EPIPE.
    const NONBLOCK: i32 = 0o4000;
    let mut log = std::fs::OpenOptions::new().read(true).custom_flags(NONBLOCK).open("/dev/kmsg").ok()?;
    let mut out = String::new();
    let mut record = [0u8; 8192];
    // As many records as the largest log has.
    for _ in 0..1 << 20 {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(n) => {
                let text = String::from_utf8_lossy(&record[..n]);
                if text.contains("NVRM: ") {
                    out.push_str(&text);
                }
            }
            Err(e) if e.raw_os_error() == Some(32) => {}
            Err(_) => break,
        }
    }
    Some(out)
}

/// `4,1234,98765432,-;NVRM: Xid (PCI:0000:19:00): 79, pid=123, GPU has fallen off the bus.`
fn parse_xids(log: &str) -> Vec<Xid> {
    let one = |line: &str| {
        let (head, text) = line.split_once("NVRM: Xid (PCI:")?;
        let (pci, rest) = text.split_once("): ")?;
        let (code, text) = rest.split_once(',').unwrap_or((rest, ""));
        let at = head.split(',').nth(2).and_then(|us| us.parse::<u64>().ok()).unwrap_or(0) / 1_000_000;
        let pci = if pci.matches(':').count() == 2 && !pci.contains('.') { format!("{pci}.0") } else { pci.to_owned() };
        let text = text.trim().chars().take(200).collect();
        Some(Xid { at, pci: pci.to_ascii_lowercase(), code: code.trim().parse().ok()?, text })
    };
    log.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xids_are_read_from_the_kernels_log() {
        let log = "6,100,1000,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module\n\
                   4,1234,98765432,-;NVRM: Xid (PCI:0000:19:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n\
                   4,1235,99000000,-;NVRM: Xid (PCI:0000:3B:00): 48\n\
                   4,1236,x,-;NVRM: Xid (PCI:0000:3b:00): nonsense, of it\n";
        let found: Vec<_> = parse_xids(log).into_iter().map(|x| (x.at, x.pci, x.code)).collect();
        assert_eq!(found, [(98, "0000:19:00.0".to_owned(), 79), (99, "0000:3b:00.0".to_owned(), 48)]);
    }

    #[test]
    fn addresses_are_the_kernels() {
        assert_eq!(short_pci("00000000:19:00.0"), "0000:19:00.0");
        assert_eq!(short_pci("0000:AF:00.0"), "0000:af:00.0");
    }

    #[test]
    fn what_holds_clocks_down_has_a_name_and_idling_does_not() {
        assert_eq!(throttled(ThrottleReasons::GPU_IDLE), [""; 0]);
        let both = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(throttled(both), ["power cap", "hardware thermal slowdown"]);
    }

    proptest::proptest! {
        #[test]
        fn no_log_makes_it_panic(text in "(NVRM: Xid \\(PCI:|\\): |[0-9]|,|;|:|\n|\\PC){0,60}") {
            let _ = parse_xids(&text);
        }
    }
}
