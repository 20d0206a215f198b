//! What the kernel's log says of NVIDIA's driver: Xid errors, and when the driver was loaded.

use std::io::Read;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::topology::nvidia::Recovery;

/// An error of the driver in the kernel's log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Xid {
    /// Seconds since boot.
    pub at: u64,
    pub pci: String,
    pub code: u32,
    pub text: String,
    /// What the driver says beside the number, where it says it in words that it keeps to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<XidDetail>,
}

/// What a number alone does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum XidDetail {
    /// Of 144 to 150, errors of NVLink since its fifth generation: whether a link was lost by it.
    Fatal,
    Nonfatal,
    /// Of 154: what the driver wants done from now on.
    Recovery(Recovery),
}

/// What the log tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Log {
    pub xids: Vec<Xid>,
    /// Seconds since boot, of the last time.
    pub loaded: Option<u64>,
}

/// Texts are cut here.
const LONGEST: usize = 200;
/// More Xids than this are not kept: one that comes every second for hours says what the first ones said. The newest stay.
const MOST: usize = 4096;

/// The kernel's log as it is now; `None` where this user may not read it.
pub(super) fn read() -> Option<Log> {
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
    Some(parse(&out))
}

/// Reads records of /dev/kmsg (`level,sequence,microseconds,flags;text`). Never fails: what is not understood is skipped.
pub(super) fn parse(log: &str) -> Log {
    let mut out = Log::default();
    for line in log.lines() {
        let Some((head, text)) = line.split_once(';') else { continue };
        // A record's time, in microseconds since boot.
        let Some(at) = head.split(',').nth(2).and_then(|us| us.parse::<u64>().ok()).map(|us| us / 1_000_000) else {
            continue;
        };
        let Some((_, said)) = text.split_once("NVRM: ") else { continue };
        // `loading NVIDIA UNIX x86_64 Kernel Module  550.54.14`, `loading NVIDIA UNIX Open Kernel Module for x86_64  570.86`.
        if said.starts_with("loading NVIDIA UNIX ") {
            out.loaded = Some(at);
        } else if let Some(xid) = xid(at, said).or_else(|| fallen(at, said)) {
            out.xids.push(xid);
        }
    }
    let surplus = out.xids.len().saturating_sub(MOST);
    out.xids.drain(..surplus);
    out
}

/// `Xid (PCI:0000:19:00): 79, pid=123, name=x, GPU has fallen off the bus.`; of a slice `(PCI:0000:19:00 GPU-I:05)`.
fn xid(at: u64, said: &str) -> Option<Xid> {
    let (device, rest) = said.strip_prefix("Xid (PCI:")?.split_once("): ")?;
    let (code, text) = rest.split_once(',').unwrap_or((rest, ""));
    let code: u32 = code.trim().parse().ok()?;
    let pci = address(device.split(' ').next().unwrap_or(device));
    let text: String = text.trim().chars().take(LONGEST).collect();
    Some(Xid { at, pci, code, detail: detail(code, &text), text })
}

/// At times the driver tells the loss of a GPU without a number, in one record of three lines:
/// `The NVIDIA GPU 0000:b3:00.0\x0aNVRM: (PCI ID: 10de:26b5) installed in this system has\x0aNVRM: fallen off the bus ...`.
fn fallen(at: u64, said: &str) -> Option<Xid> {
    const FALLEN_OFF: u32 = 79;
    let rest = said.strip_prefix("The NVIDIA GPU ")?;
    rest.contains("fallen off the bus").then(|| Xid {
        at,
        pci: address(rest.split([' ', '\\']).next().unwrap_or("")),
        code: FALLEN_OFF,
        text: "the GPU has fallen off the bus (told without an Xid)".to_owned(),
        detail: None,
    })
}

/// The kernel's address: in an Xid the function is left out.
fn address(text: &str) -> String {
    let text: String = text.chars().take(LONGEST).collect::<String>().to_ascii_lowercase();
    if text.matches(':').count() == 2 && !text.contains('.') { format!("{text}.0") } else { text }
}

fn detail(code: u32, text: &str) -> Option<XidDetail> {
    match code {
        // `NETIR_LINK_EVT  Fatal   XC1 i0 Link 01 (0x004505c6 ...)`, also with `pid=..., name=...,` before it.
        144..=150 => text.split([' ', ',']).find_map(|word| match word {
            "Fatal" => Some(XidDetail::Fatal),
            "Nonfatal" => Some(XidDetail::Nonfatal),
            _ => None,
        }),
        // `GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)`
        154 => {
            let (_, to) = text.split_once(" to 0x")?;
            let digits: String = to.chars().take_while(char::is_ascii_hexdigit).collect();
            u32::from_str_radix(&digits, 16).ok().map(|n| XidDetail::Recovery(Recovery::of(n)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xids_are_read_from_the_kernels_log() {
        let log = "6,100,1000000,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.14\n\
                   4,1234,98765432,-;NVRM: Xid (PCI:0000:19:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n\
                   4,1235,99000000,-;NVRM: Xid (PCI:0000:3B:00): 48\n\
                   4,1236,99000000,-;NVRM: Xid (PCI:0000:3b:00): nonsense, of it\n\
                   4,1237,x,-;NVRM: Xid (PCI:0000:3b:00): 13, when\n\
                   4,1238,100000000,-;NVRM: Xid (PCI:0000:5d:00 GPU-I:05 GPU-CI:00): 94, pid=7194, Contained\n";
        let read = parse(log);
        let found: Vec<_> = read.xids.into_iter().map(|x| (x.at, x.pci, x.code)).collect();
        let of = |at, pci: &str, code| (at, pci.to_owned(), code);
        assert_eq!(found, [of(98, "0000:19:00.0", 79), of(99, "0000:3b:00.0", 48), of(100, "0000:5d:00.0", 94)]);
        assert_eq!(read.loaded, Some(1));
    }

    #[test]
    fn the_last_time_that_the_driver_was_loaded_counts() {
        let log = "6,1,9000000,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.14\n\
                   6,2,70000000,-;NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n";
        assert_eq!(parse(log).loaded, Some(70));
        assert_eq!(parse("6,1,9000000,-;NVRM: GPU at PCI:0000:9b:00: GPU-5096\n"), Log::default());
    }

    #[test]
    fn a_gpu_that_is_lost_without_a_number_is_lost() {
        let log = "3,7,1843308145,-;NVRM: The NVIDIA GPU 0000:b3:00.0\\x0aNVRM: (PCI ID: 10de:26b5) installed in this system \
                   has\\x0aNVRM: fallen off the bus and is not responding to commands.\n\
                   3,8,1843308145,-;NVRM: The NVIDIA GPU driver says hello\n";
        let found = parse(log).xids;
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].at, found[0].pci.as_str(), found[0].code), (1843, "0000:b3:00.0", 79));
    }

    #[test]
    fn what_the_driver_says_beside_the_number_is_kept() {
        let said = |text: &str| parse(&format!("4,1,5000000,-;NVRM: Xid (PCI:0018:01:00): {text}\n")).xids[0].detail;
        assert_eq!(said("149, NETIR_LINK_EVT  Fatal   XC1 i0 Link 01 (0x004505c6 0x0)"), Some(XidDetail::Fatal));
        let long = "145, pid=77, name=train, RLW_REMAP Nonfatal XC0 i0 Link -1 (0x0)";
        assert_eq!(said(long), Some(XidDetail::Nonfatal));
        assert_eq!(said("149, something else"), None);
        let changed = |to: &str| said(&format!("154, GPU recovery action changed from 0x0 (None) to {to}"));
        assert_eq!(changed("0x1 (GPU Reset Required)"), Some(XidDetail::Recovery(Recovery::Reset)));
        assert_eq!(changed("0x2 (Node Reboot Required)"), Some(XidDetail::Recovery(Recovery::Reboot)));
        assert_eq!(changed("0x0 (None)"), Some(XidDetail::Recovery(Recovery::Nothing)));
        assert_eq!(changed("0x1f"), Some(XidDetail::Recovery(Recovery::Other(31))));
        assert_eq!(changed("bed"), None);
        assert_eq!(said("79, GPU has fallen off the bus, Fatal"), None);
    }

    #[test]
    fn a_storm_keeps_its_end() {
        let log: String =
            (0..MOST + 10).map(|i| format!("4,{i},{i}000000,-;NVRM: Xid (PCI:0000:19:00): 74\n")).collect();
        let found = parse(&log).xids;
        assert_eq!((found.len(), found[0].at), (MOST, 10));
    }

    proptest::proptest! {
        #[test]
        fn no_log_makes_it_panic(text in "(NVRM: |Xid \\(PCI:|The NVIDIA GPU |fallen off the bus|\\): |154| to 0x|[0-9]|,|;|:|\n|\\PC){0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn an_xid_of_any_device_and_number_is_read(at in 0u64..1 << 40, bus in 0u8.., code in 0u32.., text in "[ -~]{0,40}") {
            let read = parse(&format!("4,1,{at},-;NVRM: Xid (PCI:0000:{bus:02x}:00): {code}, {text}\n"));
            proptest::prop_assert_eq!(read.xids.len(), 1);
            let x = &read.xids[0];
            proptest::prop_assert_eq!((x.at, x.code), (at / 1_000_000, code));
            proptest::prop_assert_eq!(&x.pci, &format!("0000:{bus:02x}:00.0"));
        }
    }
}
