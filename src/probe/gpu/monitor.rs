//! What the driver sees of a GPU while it works: clock, power, temperature, what holds it down, its PCIe link.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id;

use crate::measure::{GpuLoad, stats};
use crate::topology::{short_pci, throttled};

/// Between two looks: often enough for a probe of half a second, seldom enough to cost nothing.
const EVERY: Duration = Duration::from_millis(25);

/// A driver that hangs is left alone after this long: what was measured counts without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A thread that looks until it is stopped.
pub(super) struct Monitor {
    stop: Arc<AtomicBool>,
    seen: Receiver<Option<GpuLoad>>,
}

impl Monitor {
    /// Without `nvml` there is nothing to look at.
    pub fn start(nvml: Option<Arc<Nvml>>, uuid: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (until, uuid) = (stop.clone(), uuid.to_owned());
        let (sender, seen) = channel();
        std::thread::spawn(move || sender.send(nvml.and_then(|nvml| watch(&nvml, &uuid, &until))));
        Monitor { stop, seen }
    }

    /// `None` where NVML could not be asked.
    pub fn stop(self) -> Option<GpuLoad> {
        self.stop.store(true, Ordering::Relaxed);
        self.seen.recv_timeout(PATIENCE).ok().flatten()
    }
}

fn watch(nvml: &Nvml, uuid: &str, stop: &AtomicBool) -> Option<GpuLoad> {
    let device = nvml.device_by_uuid(uuid).ok()?;
    let mut out =
        GpuLoad { pci: device.pci_info().map(|p| short_pci(&p.bus_id)).unwrap_or_default(), ..GpuLoad::default() };
    let (mut clocks, mut looks) = (Vec::new(), 0u32);
    let mut held: std::collections::BTreeMap<String, u32> = Default::default();
    loop {
        // The first look and the last are at the edges of the work: both count, for a probe may be short.
        clocks.extend(device.clock_info(Clock::SM).ok().map(f64::from));
        if let Ok(mw) = device.power_usage() {
            out.power_w = Some(out.power_w.unwrap_or(0.0).max(f64::from(mw) / 1000.0));
        }
        if let Ok(c) = device.temperature(TemperatureSensor::Gpu) {
            out.temperature_c = Some(out.temperature_c.unwrap_or(0).max(c));
        }
        for reason in device.current_throttle_reasons().map(throttled).unwrap_or_default() {
            *held.entry(reason).or_default() += 1;
        }
        out.pcie_generation = out.pcie_generation.max(device.current_pcie_link_gen().ok());
        out.pcie_lanes = out.pcie_lanes.max(device.current_pcie_link_width().ok());
        looks += 1;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(EVERY);
    }
    out.pcie_generation_max = device.max_pcie_link_gen().ok();
    out.pcie_lanes_max = device.max_pcie_link_width().ok();
    out.sm_mhz = (!clocks.is_empty()).then(|| stats::median(&clocks));
    out.throttled = held.into_iter().map(|(reason, n)| (reason, f64::from(n) / f64::from(looks))).collect();
    Some(out)
}

/// What the driver says of the link between a GPU and its host.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct HostLink {
    /// Generation and lanes of PCI Express that both GPU and slot can do.
    pub pcie: Option<(u32, u32)>,
    /// Bytes per second of NVLink-C2C one way, of all its links that are up.
    pub c2c: Option<f64>,
}

/// NVML, and what it says of the link of a GPU to its host; `None` where there is none, or where it does not answer.
pub(super) fn ask(uuid: &str) -> Option<(Arc<Nvml>, HostLink)> {
    let (sender, answer) = channel();
    let uuid = uuid.to_owned();
    std::thread::spawn(move || {
        let nvml = Nvml::init().ok().map(Arc::new);
        sender.send(nvml.map(|nvml| (nvml.clone(), host_link(&nvml, &uuid).unwrap_or_default())))
    });
    answer.recv_timeout(PATIENCE).ok().flatten()
}

/// `None` where NVML could not be asked.
fn host_link(nvml: &Nvml, uuid: &str) -> Option<HostLink> {
    let device = nvml.device_by_uuid(uuid).ok()?;
    let told = |value: u32| (value > 0).then_some(value);
    let pcie = device.max_pcie_link_gen().ok().and_then(told).zip(device.max_pcie_link_width().ok().and_then(told));
    // Of the first link: the wrapper asks for no other, and they are alike. NCCL reads them as MB/s (src/graph/xml.cc).
    let ids = [
        field_id::NVML_FI_DEV_C2C_LINK_COUNT,
        field_id::NVML_FI_DEV_C2C_LINK_GET_STATUS,
        field_id::NVML_FI_DEV_C2C_LINK_GET_MAX_BW,
    ];
    let values = device.field_values_for(&ids.map(FieldId)).ok();
    let number = |i: usize| match values.as_ref()?.get(i)?.as_ref().ok()?.value.as_ref().ok()? {
        SampleValue::U32(v) => Some(f64::from(*v)),
        SampleValue::U64(v) => Some(*v as f64),
        SampleValue::I64(v) => Some(*v as f64),
        SampleValue::F64(v) => Some(*v),
    };
    let c2c = match (number(0), number(1), number(2)) {
        (Some(links), Some(1.0), Some(each)) => Some(links * each * 1e6).filter(|rate| *rate > 0.0),
        _ => None,
    };
    Some(HostLink { pcie, c2c })
}
