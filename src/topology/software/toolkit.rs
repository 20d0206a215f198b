//! What goes together: CUDA and drivers, GPUs and CUDA, NCCL and its plugins.

use std::fmt;

use crate::topology::gpu_specs;

/// A dotted version; parts that are absent are zero.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(Vec<u32>);

impl Version {
    /// `550.54.14`, `2.21.5+cuda12.4`, `12.9`: numbers between dots until something else comes. `None` without any.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let parts: Option<Vec<u32>> =
            text[..end].trim_end_matches('.').split('.').take(6).map(|p| p.parse().ok()).collect();
        parts.filter(|p| !p.is_empty()).map(|p| Version::of(&p))
    }

    fn of(parts: &[u32]) -> Self {
        let mut parts = parts.to_vec();
        while parts.len() > 1 && parts.last() == Some(&0) {
            parts.pop();
        }
        Version(parts)
    }

    pub fn major(&self) -> u32 {
        self.0[0]
    }

    pub fn minor(&self) -> u32 {
        self.0.get(1).copied().unwrap_or(0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(u32::to_string).collect();
        let minor = if self.0.len() == 1 { ".0" } else { "" };
        write!(f, "{}{minor}", parts.join("."))
    }
}

/// The oldest driver that runs anything of a CUDA major version, by minor version compatibility: CUDA's compatibility guide,
/// <https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html> (read 2026-11-25). `None` for one that
/// is not in it.
pub fn oldest_driver(cuda: &Version) -> Option<Version> {
    Some(match cuda.major() {
        11 => Version::of(&[450, 80, 2]),
        12 => Version::of(&[525]),
        13 => Version::of(&[580]),
        _ => return None,
    })
}

/// Toolkits, oldest first, each with the driver branch that it was released with. From the toolkits' release notes (table of
/// toolkits and drivers).
const TOOLKITS: &[([u32; 2], u32)] = &[
    ([11, 8], 520),
    ([12, 0], 525),
    ([12, 1], 530),
    ([12, 2], 535),
    ([12, 3], 545),
    ([12, 4], 550),
    ([12, 5], 555),
    ([12, 6], 560),
    ([12, 8], 570),
    ([12, 9], 575),
    ([13, 0], 580),
    ([13, 1], 590),
];

/// The driver branch that a toolkit was released with: older ones of its major version run it without what is new in it, and
/// compile none of its PTX.
pub fn driver_of(cuda: &Version) -> Option<Version> {
    let known = TOOLKITS.iter().find(|(toolkit, _)| *toolkit == [cuda.major(), cuda.minor()]);
    known.map(|(_, branch)| Version::of(&[*branch]))
}

/// The newest toolkit that a driver is not older than; CUDA 11.0 for those older than all that are known here.
pub fn cuda_of(driver: &Version) -> Version {
    let newest = TOOLKITS.iter().rev().find(|(_, branch)| *driver >= Version::of(&[*branch]));
    Version::of(&newest.map_or([11, 0], |(toolkit, _)| *toolkit))
}

/// The compute capability of a GPU by its name, `H100` or `sm_90`: 90. `None` for one that is not known, or a name that fits
/// different ones.
pub fn architecture(gpu: &str) -> Option<u32> {
    if let Some(number) = gpu.to_ascii_lowercase().strip_prefix("sm_") {
        return number.trim_end_matches(['a', 'f']).parse().ok().filter(|n| (50..1000).contains(n));
    }
    let wanted = gpu.to_ascii_lowercase().replace(['-', '_'], " ");
    let whole = |name: &str| {
        let name = name.to_ascii_lowercase();
        name == wanted || name.starts_with(&format!("{wanted} "))
    };
    let mut found: Vec<u32> = gpu_specs().into_iter().filter(|s| whole(&s.name)).filter_map(|s| s.capability).collect();
    found.dedup();
    if found.len() == 1 { found.pop() } else { None }
}

/// The first toolkit that makes code for a compute capability, from its release notes.
pub fn oldest_cuda(capability: u32) -> Option<Version> {
    Some(match capability {
        70 => Version::of(&[9]),
        75 => Version::of(&[10]),
        80 => Version::of(&[11]),
        86 => Version::of(&[11, 1]),
        89 | 90 => Version::of(&[11, 8]),
        100 | 120 => Version::of(&[12, 8]),
        103 | 121 => Version::of(&[12, 9]),
        _ => return None,
    })
}

/// The last major version of CUDA that makes code for a compute capability; `None` where none has ended it. CUDA 13's release
/// notes: Maxwell, Pascal and Volta are gone.
pub fn newest_cuda(capability: u32) -> Option<u32> {
    (capability < 75).then_some(12)
}

/// Versions of the net plugin's interface that an NCCL takes, oldest and newest: `src/net.cc` and `src/plugin/net/` of each
/// release, 2.12 to 2.30. Later ones are taken to add, as every release did.
pub fn net_plugins(nccl: &Version) -> Option<(u32, u32)> {
    Some(match (nccl.major(), nccl.minor()) {
        (2, 12) => (4, 5),
        (2, 13..=18) => (4, 6),
        (2, 19) => (5, 7),
        (2, 20..=23) => (5, 8),
        (2, 24 | 25) => (5, 9),
        (2, 26 | 27) => (6, 10),
        (2, 28 | 29) => (6, 11),
        (2, 30) => (6, 12),
        (2, 31..) => (6, u32::MAX),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_are_read_and_compared() {
        assert!(v("550.54.14") > v("550.54") && v("550.54") > v("525") && v("12.10") > v("12.9"));
        assert_eq!(v("2.21.5+cuda12.4"), v("2.21.5"));
        assert_eq!(
            (v("12.0"), v("12.0").to_string(), v("535.54.03").to_string()),
            (v("12"), "12.0".into(), "535.54.3".into())
        );
        for bad in ["", "v1", ".", "1..2", "99999999999"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn gpus_are_known_by_a_beginning_or_by_their_number() {
        for (name, is) in [
            ("H100", 90),
            ("h100 sxm", 90),
            ("H200", 90),
            ("A100", 80),
            ("a100-pcie", 80),
            ("B200", 100),
            ("L40S", 89),
            ("sm_90", 90),
            ("sm_90a", 90),
            ("SM_103", 103),
            ("V100", 70),
            ("B300", 103),
            ("GB200", 100),
        ] {
            assert_eq!(architecture(name), Some(is), "{name}");
        }
        for bad in ["", "H1", "MI300X", "sm_", "sm_9x", "A1"] {
            assert_eq!(architecture(bad), None, "{bad}");
        }
        for spec in gpu_specs().iter().filter(|s| s.capability.is_some()) {
            assert!(oldest_cuda(spec.capability.unwrap_or(0)).is_some(), "{}", spec.name);
        }
    }

    #[test]
    fn tables_rise() {
        let mut before = v("0");
        for cuda in ["11.8", "12.0", "12.1", "12.2", "12.3", "12.4", "12.5", "12.6", "12.8", "12.9", "13.0", "13.1"] {
            let (own, least) = (driver_of(&v(cuda)).unwrap(), oldest_driver(&v(cuda)).unwrap());
            assert!(own > before && own >= least, "{cuda}");
            before = own;
        }
        assert_eq!(oldest_driver(&v("14")), None);
        let range = |t: &str| net_plugins(&v(t));
        assert_eq!((range("2.21.5"), range("2.27.3"), range("2.9")), (Some((5, 8)), Some((6, 10)), None));
        assert!(range("2.40").is_some_and(|(_, newest)| newest > 12));
    }
}
