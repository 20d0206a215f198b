//! What GPUs can do by their datasheets.

use serde::Deserialize;

/// A GPU's datasheet. Rates of products in FLOP/s, dense; of memory and NVLink in bytes per second, one way.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuSpec {
    pub name: String,
    pub source: String,
    pub memory: f64,
    pub nvlink: f64,
    /// NVLinks that make up `nvlink`.
    pub links: u32,
    /// NVLink needs a bridge that is bought apart.
    pub bridge: bool,
    /// To a Grace CPU by NVLink-C2C, one way. `None` for a GPU whose host link is PCIe.
    pub c2c: Option<f64>,
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
    names: Vec<String>,
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
    #[serde(default)]
    links: u32,
    #[serde(default)]
    bridge: bool,
    c2c: Option<f64>,
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
        links: e.links,
        bridge: e.bridge,
        c2c: e.c2c.map(|rate| rate * 1e9),
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
///
/// Words that say nothing of the model (the maker, a trade name, a suffix) are passed over; one that tells variants of a model apart
/// must be the row's own.
pub fn gpu_spec(name: &str) -> Option<GpuSpec> {
    let given = words(name);
    let fit = |row: &str| {
        let row = words(row);
        let fits = row.iter().all(|w| given.contains(w)) && !given.iter().any(|w| tells_apart(w) && !row.contains(w));
        fits.then_some(row.len())
    };
    let best = |e: &Entry| e.names.iter().filter_map(|n| fit(n)).max();
    let found = entries().into_iter().filter_map(|e| Some((best(&e)?, e))).max_by_key(|(words, _)| *words);
    found.map(|(_, e)| spec(e))
}

/// `A100-SXM4-80GB` is three words.
fn words(name: &str) -> Vec<String> {
    let parts = name.split(|c: char| !c.is_alphanumeric());
    parts.filter(|w| !w.is_empty()).map(str::to_ascii_uppercase).collect()
}

/// Words by which drivers tell GPUs of one model apart: form, memory, power, market.
const VARIANTS: &[&str] = &[
    "3E",
    "ACTIVE",
    "ADA",
    "D",
    "DGXS",
    "EMBEDDED",
    "FHHL",
    "GRID",
    "H",
    "HBM2",
    "HBM2E",
    "HBM3",
    "HBM3E",
    "LAPTOP",
    "LS",
    "MAX",
    "MIG",
    "MOBILE",
    "PCIE",
    "PRO",
    "Q",
    "QUADRO",
    "SERVER",
    "SFF",
    "SUPER",
    "TI",
    "TITAN",
    "V2",
    "VGPU",
    "WORKSTATION",
];

fn tells_apart(word: &str) -> bool {
    let after = |start: &str| word.strip_prefix(start);
    // A size of memory (`80GB`, `144G`) or a slice of it (`1g.5gb`), a profile of a virtual GPU (`A10-24Q`).
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let sized = unit.len() < word.len() && matches!(unit, "GB" | "G" | "MB" | "A" | "B" | "C" | "Q");
    let board = after("PG").is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()));
    VARIANTS.contains(&word) || sized || board || after("SXM").is_some() || after("NVL").is_some()
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
        assert!(file.as_ref().is_ok_and(|f| f.gpu.len() > 35), "{:?}", file.err());
        for g in gpu_specs() {
            assert!(g.source.contains("(20") && g.memory > 0.0 && g.rates().count() >= 3, "{g:?}");
        }
    }

    /// What drivers call GPUs, with the row that is meant.
    const NAMES: &str = include_str!("../../tests/fixtures/gpus/driver-names.tsv");

    #[test]
    fn every_name_of_a_driver_finds_its_own_row_or_none() {
        let lines: Vec<(&str, &str)> =
            NAMES.lines().filter(|l| !l.starts_with('#')).map(|l| l.split_once('\t').unwrap()).collect();
        assert!(lines.len() > 250);
        for (driver, row) in &lines {
            let found = gpu_spec(driver).map(|g| g.name);
            assert_eq!(found.as_deref(), Some(*row).filter(|r| *r != "-"), "{driver}");
        }
        for g in gpu_specs() {
            assert!(lines.iter().any(|(_, row)| *row == g.name), "{} is nobody's", g.name);
        }
        assert_eq!((gpu_spec(""), gpu_spec("NVIDIA Z999")), (None, None));
    }

    #[test]
    fn no_name_is_of_two_rows() {
        let mut seen = std::collections::BTreeSet::new();
        for name in entries().iter().flat_map(|e| &e.names) {
            let mut words = words(name);
            words.sort();
            assert!(seen.insert(words), "{name}");
        }
    }

    #[test]
    fn rates_are_dense_and_hang_together() {
        for g in gpu_specs() {
            let rate = |kind| g.rate(kind);
            // FP8 is twice BF16, BF16 twice TF32, in every generation that has them: one that is four times is with sparsity.
            for (fast, slow) in [("fp8", "bf16"), ("bf16", "tf32")] {
                if let (Some(fast), Some(slow)) = (rate(fast), rate(slow)) {
                    assert!((fast / slow / 2.0 - 1.0).abs() < 0.04, "{}: {fast} {slow}", g.name);
                }
            }
            assert_eq!(g.nvlink > 0.0, g.links > 0, "{}", g.name);
            // 14 GB/s a link on GeForce, 25, and 50; 64 to 77 on AMD.
            assert!(g.links == 0 || (14e9..78e9).contains(&(g.nvlink / f64::from(g.links))), "{}", g.name);
        }
        assert_eq!(gpu_spec("NVIDIA H200").and_then(|g| g.rate("bf16")), Some(989e12));
        assert_eq!(gpu_spec("Tesla V100-SXM2-32GB").and_then(|g| g.rate("bf16")), None);
        assert_eq!(gpu_spec("NVIDIA GH200 480GB").map(|g| (g.memory, g.c2c)), Some((4e12, Some(450e9))));
        assert_eq!(gpu_spec("NVIDIA H100 PCIe").map(|g| (g.bridge, g.c2c)), Some((true, None)));
    }

    proptest::proptest! {
        #[test]
        fn any_name_is_data(name in "(H100|A100|RTX|[0-9]{1,3}GB|NVL|-|/| |\\PC){0,12}") {
            let found = gpu_spec(&name);
            // A suffix that says nothing does not change it.
            proptest::prop_assert_eq!(gpu_spec(&format!("{name} stand-in")), found);
        }
    }
}
