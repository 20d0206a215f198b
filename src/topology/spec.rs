//! What GPUs can do by their datasheets.

use serde::Deserialize;

/// A GPU's datasheet. Rates of products in FLOP/s, dense; of memory and NVLink in bytes per second, one way.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuSpec {
    pub name: String,
    pub source: String,
    pub memory: f64,
    pub nvlink: f64,
    /// Generation and lanes.
    pub pcie: (u32, u32),
    /// NVIDIA's compute capability: 90 is sm_90. `None` for other makers.
    pub capability: Option<u32>,
    rates: [(&'static str, f64); 6],
}

impl GpuSpec {
    /// The rate of products of a type: `bf16`, `f16`, `tf32`, `f32`, `f64`, `fp8`. `None` where the chip has none.
    pub fn rate(&self, kind: &str) -> Option<f64> {
        self.rates.iter().find(|(k, _)| *k == kind).map(|(_, r)| *r).filter(|r| *r > 0.0)
    }

    /// Types of products, with their rates.
    pub fn rates(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.rates.iter().copied().filter(|(_, r)| *r > 0.0)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    gpu: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    words: Vec<String>,
    #[serde(default)]
    not: Vec<String>,
    #[serde(default)]
    bf16: f64,
    #[serde(default)]
    f16: f64,
    #[serde(default)]
    tf32: f64,
    #[serde(default)]
    f32: f64,
    #[serde(default)]
    f64: f64,
    #[serde(default)]
    fp8: f64,
    memory: f64,
    nvlink: f64,
    pcie: (u32, u32),
    capability: Option<u32>,
    source: String,
}

const FILE: &str = include_str!("gpus.toml");

fn entries() -> Vec<Entry> {
    // The file is part of the binary, and a test reads it.
    toml::from_str::<File>(FILE).map(|f| f.gpu).unwrap_or_default()
}

fn spec(e: Entry) -> GpuSpec {
    let tera = 1e12;
    GpuSpec {
        rates: [
            ("bf16", e.bf16 * tera),
            ("f16", e.f16 * tera),
            ("fp8", e.fp8 * tera),
            ("tf32", e.tf32 * tera),
            ("f32", e.f32 * tera),
            ("f64", e.f64 * tera),
        ],
        memory: e.memory * 1e9,
        nvlink: e.nvlink * 1e9,
        pcie: e.pcie,
        capability: e.capability,
        name: e.name,
        source: e.source,
    }
}

/// Every GPU that is known, in the order of the file.
pub fn gpu_specs() -> Vec<GpuSpec> {
    entries().into_iter().map(spec).collect()
}

/// The datasheet of a GPU by the name that its driver gives it; `None` for one that is not known.
pub fn gpu_spec(name: &str) -> Option<GpuSpec> {
    let fits = |e: &Entry| {
        e.words.iter().all(|w| name.contains(w.as_str())) && !e.not.iter().any(|w| name.contains(w.as_str()))
    };
    entries().into_iter().find(fits).map(spec)
}

/// The datasheet by the name that it has here.
pub fn gpu_spec_named(name: &str) -> Option<GpuSpec> {
    entries().into_iter().find(|e| e.name == name).map(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_and_every_entry_has_a_dated_source() {
        let file: Result<File, _> = toml::from_str(FILE);
        assert!(file.as_ref().is_ok_and(|f| f.gpu.len() > 12), "{:?}", file.err());
        for g in gpu_specs() {
            assert!(g.source.contains("(20") && g.memory > 0.0 && g.rates().count() >= 3, "{g:?}");
        }
    }

    #[test]
    fn a_gpu_is_known_by_its_drivers_name() {
        let of = |n: &str| gpu_spec(n).map(|g| g.name);
        for (driver, name) in [
            ("NVIDIA H200", "H200"),
            ("NVIDIA GH200 480GB", "GH200"),
            ("NVIDIA H100 80GB HBM3", "H100 SXM"),
            ("NVIDIA H100 PCIe", "H100 PCIe"),
            ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB"),
            ("NVIDIA A100-SXM4-40GB", "A100 SXM 40GB"),
            ("NVIDIA A10", "A10"),
            ("NVIDIA B200", "B200"),
            ("NVIDIA GB200", "GB200"),
            ("NVIDIA GeForce RTX 4090", "RTX 4090"),
            ("Tesla V100-SXM2-32GB", "V100 SXM2"),
        ] {
            assert_eq!(of(driver).as_deref(), Some(name), "{driver}");
        }
        assert_eq!((of("NVIDIA A10G"), of("NVIDIA Z999")), (None, None));
        assert_eq!(gpu_spec("NVIDIA H200").and_then(|g| g.rate("bf16")), Some(989e12));
        assert_eq!(gpu_spec("Tesla V100-SXM2-32GB").and_then(|g| g.rate("bf16")), None);
    }
}
