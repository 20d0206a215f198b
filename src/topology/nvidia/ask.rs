//! Asks NVML, in a thread that may hang.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SendError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::nvml;
use crate::topology::SysRoot;
use crate::topology::nvidia::fabric::COMPLETED;
use crate::topology::nvidia::{
    Clocks, FabricHealth, FabricState, Gpu, GpuProcess, NvLink, Nvidia, PcieState, Recovery, Remapped, Slice, log,
};
use crate::unit::Bytes;
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

/// How long NVML may take for all of it. Without persistence mode the driver first initialises each GPU, up to a second each; a
/// call into a GPU whose system processor hangs is given up by the driver after 6 s (Xid 119), or never.
const PATIENCE: Duration = Duration::from_secs(7);

/// What the driver says; `None` where there is no NVIDIA GPU on the PCI bus and no driver either.
pub fn nvidia(root: &SysRoot, gpus_seen: bool) -> Option<Nvidia> {
    nvidia_within(root, gpus_seen, PATIENCE)
}

/// The same, for a caller who cannot wait so long.
pub fn nvidia_within(root: &SysRoot, gpus_seen: bool, patience: Duration) -> Option<Nvidia> {
    root.reading("nvidia.json", || live(gpus_seen, patience)).flatten()
}

/// A driver that does not answer leaves its caller in the kernel, where nothing ends him. So a thread asks, and what it has heard
/// when time is up is all there is; a thread that hangs ends with this process.
fn live(gpus_seen: bool, patience: Duration) -> Option<Nvidia> {
    let end = Instant::now() + patience;
    let (tell, answered) = mpsc::channel();
    let asker = thread::Builder::new().name("nvml".into()).spawn(move || ask(&tell));
    if let Err(e) = asker {
        let error = Some(format!("NVML was not asked: no thread could be started: {e}"));
        return gpus_seen.then(|| Nvidia { error, ..Nvidia::default() });
    }
    let mut out = gather(&answered, end, patience);
    if out.error.is_some() && out.driver.is_none() && !gpus_seen {
        return None;
    }
    // The log needs no NVML: where the driver hangs, it says why.
    if let Some(log) = log::read() {
        out.xids = Some(log.xids);
        out.driver_loaded_at = log.loaded;
        out.log_read_at = uptime();
    }
    Some(out)
}

/// Seconds since boot, as the kernel's log counts them (up to time spent asleep, which servers do not).
fn uptime() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    text.split('.').next()?.parse().ok()
}

/// What the asking thread says, piece by piece.
enum Answer {
    /// What it asks for next, to be named if no answer comes.
    Asking(String),
    /// NVML as a whole: versions, and how long it took to start.
    System(Box<Nvidia>),
    Gpu(Box<Gpu>),
    Lost(String),
    Denied(u32),
    Failed(String),
    Done,
}

/// Puts together what is said until it is all said or `end`.
fn gather(answered: &Receiver<Answer>, end: Instant, patience: Duration) -> Nvidia {
    let mut out = Nvidia::default();
    let mut asking = "NVML to load".to_owned();
    loop {
        match answered.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(Answer::Asking(what)) => asking = what,
            Ok(Answer::System(system)) => out = *system,
            Ok(Answer::Gpu(gpu)) => out.gpus.push(*gpu),
            Ok(Answer::Lost(why)) => out.lost.push(why),
            Ok(Answer::Denied(index)) => out.denied.push(index),
            Ok(Answer::Failed(why)) => out.error = Some(why),
            Ok(Answer::Done) => return out,
            Err(RecvTimeoutError::Timeout) => {
                let seconds = patience.as_secs_f64();
                out.error = Some(format!("the driver did not answer within {seconds} s: waited for {asking}"));
                return out;
            }
            Err(RecvTimeoutError::Disconnected) => {
                out.error = Some(format!("asking the driver broke off: waited for {asking}"));
                return out;
            }
        }
    }
}

/// Asks for everything. Whoever listens may have stopped: then nothing more is asked.
fn ask(tell: &Sender<Answer>) {
    let _ = try_ask(tell);
}

fn try_ask(tell: &Sender<Answer>) -> Result<(), SendError<Answer>> {
    tell.send(Answer::Asking("NVML to start".to_owned()))?;
    let start = Instant::now();
    let nvml = match Nvml::init() {
        Ok(nvml) => nvml,
        Err(e) => {
            tell.send(Answer::Failed(why(&e)))?;
            return tell.send(Answer::Done);
        }
    };
    let nvml_ms = Some(milliseconds(start));
    tell.send(Answer::Asking("the driver's version".to_owned()))?;
    let system = Nvidia {
        driver: nvml.sys_driver_version().ok(),
        nvml: nvml.sys_nvml_version().ok(),
        cuda: nvml.sys_cuda_driver_version().ok().map(|v| format!("{}.{}", v / 1000, v % 1000 / 10)),
        nvml_ms,
        ..Nvidia::default()
    };
    tell.send(Answer::System(Box::new(system)))?;
    for index in 0..nvml.device_count().unwrap_or(0) {
        tell.send(Answer::Asking(format!("GPU {index}")))?;
        let start = Instant::now();
        tell.send(match nvml.device_by_index(index) {
            Ok(device) => {
                let gpu = gpu(&nvml, index, &device);
                Answer::Gpu(Box::new(Gpu { nvml_ms: Some(milliseconds(start)), ..gpu }))
            }
            // Counted, and another's: nvmlDeviceGetCount_v2 counts what a control group withholds, too.
            Err(NvmlError::NoPermission) => Answer::Denied(index),
            Err(e) => Answer::Lost(format!("GPU {index}: {}", why(&e))),
        })?;
    }
    // The answer is complete; that NVML is shut down is not waited for.
    tell.send(Answer::Done)
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
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
        board: d.board_part_number().ok(),
        vbios: d.vbios_version().ok(),
        gsp: d.gsp_firmware_version().ok(),
        nvml_ms: None,
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
        recovery: field(d, field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)
            .and_then(|n| u32::try_from(n).ok())
            .map(Recovery::of),
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
        fabric: fabric(nvml, d),
        mig: d.mig_mode().ok().map(|m| m.current != 0),
        slices: slices(d),
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
pub fn short_pci(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) if domain.len() == 8 => {
            domain.get(4..).map_or_else(|| lower.clone(), |domain| format!("{domain}:{rest}"))
        }
        _ => lower,
    }
}

/// The registration with the fabric manager; `None` where the GPU has no fabric.
fn fabric(nvml: &Nvml, d: &nvml_wrapper::Device<'_>) -> Option<FabricState> {
    let answered = nvml::fabric(nvml, d).filter(|f| f.state != 0)?;
    Some(FabricState {
        state: match answered.state {
            1 => "not started".to_owned(),
            2 => "in progress".to_owned(),
            3 => COMPLETED.to_owned(),
            n => format!("state {n}"),
        },
        status: answered.status,
        clique: answered.clique,
        // Zeros are no cluster: an HGX board registers with its own switches, and its fabric ends with the node.
        cluster: (answered.cluster != [0; 16]).then(|| uuid(answered.cluster)),
        health: FabricHealth::of(answered.health),
    })
}

/// `6ba7b810-9dad-11d1-80b4-00c04fd430c8`
fn uuid(bytes: [u8; 16]) -> String {
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]].map(|part| part.concat()).join("-")
}

/// The instances of a GPU in MIG mode that this process may see.
fn slices(d: &nvml_wrapper::Device<'_>) -> Vec<Slice> {
    // Seven is the most of any GPU yet.
    const MOST: u32 = 64;
    let most = d.mig_device_count().unwrap_or(0).min(MOST);
    (0..most)
        .filter_map(|i| d.mig_device_by_index(i).ok())
        .map(|slice| Slice {
            profile: slice.name().map(|n| profile(&n)).unwrap_or_default(),
            uuid: slice.uuid().unwrap_or_default(),
            memory: slice.memory_info().ok().map(|m| Bytes(m.total)),
        })
        .collect()
}

/// `1g.10gb` of `NVIDIA H100 80GB HBM3 MIG 1g.10gb`.
fn profile(name: &str) -> String {
    name.rsplit_once("MIG ").map_or(name, |(_, profile)| profile).trim().to_owned()
}

fn number(value: &SampleValue) -> Option<u64> {
    match value {
        SampleValue::U32(v) => Some(u64::from(*v)),
        SampleValue::U64(v) => Some(*v),
        SampleValue::I64(v) => u64::try_from(*v).ok(),
        SampleValue::F64(v) => Some(*v as u64),
    }
}

/// One of the values that the wrapper knows by their numbers only.
fn field(d: &nvml_wrapper::Device<'_>, id: u32) -> Option<u64> {
    let values = d.field_values_for(&[FieldId(id)]).ok()?;
    number(values.first()?.as_ref().ok()?.value.as_ref().ok()?)
}

/// Since Ampere: rows of memory that were replaced.
fn remapped(d: &nvml_wrapper::Device<'_>) -> Option<Remapped> {
    let ids = [
        field_id::NVML_FI_DEV_REMAPPED_COR,
        field_id::NVML_FI_DEV_REMAPPED_UNC,
        field_id::NVML_FI_DEV_REMAPPED_PENDING,
        field_id::NVML_FI_DEV_REMAPPED_FAILURE,
    ];
    let values = d.field_values_for(&ids.map(FieldId)).ok()?;
    let number = |i: usize| number(values.get(i)?.as_ref().ok()?.value.as_ref().ok()?);
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn names_of_slices_and_clusters_are_read() {
        assert_eq!(profile("NVIDIA H100 80GB HBM3 MIG 1g.10gb"), "1g.10gb");
        assert_eq!(profile("NVIDIA A100"), "NVIDIA A100");
        let bytes = std::array::from_fn(|i| i as u8);
        assert_eq!(uuid(bytes), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }

    /// What was said before the driver hung is kept, and what it hung at is named.
    #[test]
    fn a_driver_that_hangs_is_waited_for_once() {
        let (tell, answered) = mpsc::channel();
        let system = Nvidia { driver: Some("570.86.15".into()), ..Nvidia::default() };
        let answer = [
            Answer::Asking("NVML to start".into()),
            Answer::System(Box::new(system)),
            Answer::Asking("GPU 0".into()),
            Answer::Gpu(Box::default()),
            Answer::Asking("GPU 1".into()),
            Answer::Denied(1),
            Answer::Asking("GPU 2".into()),
        ];
        assert!(answer.into_iter().all(|s| tell.send(s).is_ok()));
        let found = gather(&answered, Instant::now() + Duration::from_millis(300), Duration::from_secs(5));
        assert_eq!(found.error.as_deref(), Some("the driver did not answer within 5 s: waited for GPU 2"));
        assert_eq!((found.driver.as_deref(), found.gpus.len(), found.denied), (Some("570.86.15"), 1, vec![1]));
        // One whose thread died says so at once.
        drop(tell);
        let found = gather(&answered, Instant::now() + Duration::from_secs(60), Duration::from_secs(60));
        assert_eq!(found.error.as_deref(), Some("asking the driver broke off: waited for NVML to load"));
    }
}
