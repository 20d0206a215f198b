//! `gonogo list probes|codes|gpus|models|schema`.

use crate::cli::Listed;
use crate::cmd::{Failure, shell};
use crate::exit::Exit;
use crate::judge::CODES;
use crate::plan::presets;
use crate::probe::PROBES;
use crate::record;
use crate::topology::gpu_specs;

pub(super) fn run(what: Listed) -> Result<Exit, Failure> {
    let text = match what {
        Listed::Probes => probes(),
        Listed::Codes => CODES.iter().map(|c| format!("{}  {:<4}  {}\n", c.code, c.severity.name(), c.title)).collect(),
        Listed::Gpus => gpus(),
        Listed::Models => models(),
        Listed::Schema => serde_json::to_string_pretty(&record::schema()).map_err(Failure::internal)? + "\n",
    };
    shell::print(&text).map_err(Failure::internal)?;
    Ok(Exit::Go)
}

/// TFLOP/s dense, GB/s.
fn gpus() -> String {
    const KINDS: [&str; 6] = ["bf16", "f16", "fp8", "tf32", "f32", "f64"];
    let head: String = KINDS.iter().map(|k| format!("{k:>8}")).collect();
    let mut out = format!("{:<25}{head}{:>8}{:>8}  PCIe    source\n", "TFLOP/s", "memory", "NVLink");
    for g in gpu_specs() {
        let show = |rate: Option<f64>, unit: f64| {
            rate.map_or("-".to_owned(), |r| format!("{}", (r / unit * 10.0).round() / 10.0))
        };
        let rates: String = KINDS.iter().map(|k| format!("{:>8}", show(g.rate(k), 1e12))).collect();
        let nvlink = show(Some(g.nvlink).filter(|n| *n > 0.0), 1e9);
        let pcie = format!("{}x{}", g.pcie.0, g.pcie.1);
        out.push_str(&format!(
            "{:<25}{rates}{:>8}{nvlink:>8}  {pcie:<6}  {}\n",
            g.name,
            show(Some(g.memory), 1e9),
            g.source
        ));
    }
    out
}

/// Parameters in billions, operations a token in 10^9.
fn models() -> String {
    let mut out = format!(
        "{:<14}{:>10}{:>8}{:>8}{:>8}{:>7}{:>7}{:>8}{:>9}{:>9}{:>12}  source\n",
        "model", "parameters", "layers", "hidden", "ffn", "heads", "kv", "vocab", "sequence", "experts", "GFLOP/token"
    );
    for (name, preset) in presets() {
        let Ok(Some(s)) = preset.model().shape() else { continue };
        let experts = if s.experts > 0 { format!("{}/{}", s.top_k, s.experts) } else { "-".to_owned() };
        out.push_str(&format!(
            "{name:<14}{:>9.1}B{:>8}{:>8}{:>8}{:>7}{:>7}{:>8}{:>9}{experts:>9}{:>12.0}  {}\n",
            s.parameters() as f64 / 1e9,
            s.layers,
            s.hidden,
            s.ffn,
            s.heads,
            s.kv_heads,
            s.vocab,
            s.sequence,
            s.flops_per_token().iter().sum::<f64>() / 1e9,
            preset.source
        ));
    }
    out
}

fn probes() -> String {
    let mut out = String::new();
    for p in PROBES {
        out.push_str(&format!("{:<12} {}\n{:12} needs {}\n", p.name().as_str(), p.about(), "", p.needs()));
        for m in p.metrics() {
            out.push_str(&format!("{:12}   {:<12} {}\n", "", m.metric.name(), m.about));
        }
    }
    out
}
