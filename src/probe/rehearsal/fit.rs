//! How much of a step fits the time that there is for it.

use crate::plan::{Message, Product, Training};
use crate::probe::collective::cost::{self, Link};

/// Layers that are rehearsed at most; of a narrower likeness so many, so that the gradients of one go beside the products of the next.
const LAYERS: u64 = 8;
const NARROW_LAYERS: u64 = 2;
/// The narrowest likeness.
const NARROWEST: u64 = 1 << 10;

/// What fits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fit {
    pub layers: u64,
    /// The part of the width: a half at 2.
    pub narrow: u64,
}

/// How much of the step fits so many seconds and bytes, at `rate` operations a second: the run's own layers if two do (or all that there
/// are), else a narrower likeness of two.
pub(super) fn fit(training: &Training, rate: f64, link: Link, (target, most_memory): (f64, f64)) -> Option<Fit> {
    let sent = |t: &Training| -> f64 {
        let of = |m: &Message| cost::expected(m.op, t.world.size(m.among), m.bytes as usize, link);
        let ring = t.ring.map_or(0.0, |r| r.times().map(|n| n as f64).iter().sum::<f64>() * of(&r.message));
        ring + 2.0 * t.on_path.iter().map(of).sum::<f64>() + t.gradients.iter().map(of).sum::<f64>()
    };
    let mut narrow = 1;
    while narrow <= NARROWEST {
        let t = training.narrowed(narrow);
        let layer = (t.layer_flops() / rate).max(sent(&t));
        let most = if narrow == 1 { LAYERS } else { NARROW_LAYERS }.min(t.layers);
        let least = NARROW_LAYERS.min(most);
        let fits = (target / layer.max(1e-9)) as u64;
        if fits >= least && memory(&t) <= most_memory {
            return Some(Fit { layers: fits.min(most), narrow });
        }
        narrow *= 2;
    }
    None
}

/// Bytes of a rank's matrices and of what it sends; a number that no size is too large for.
fn memory(t: &Training) -> f64 {
    let all = || t.products.iter().flat_map(|p| [*p].into_iter().chain(p.backward()));
    let most = |size: fn(&Product) -> f64| all().map(|p| size(&p)).fold(0.0, f64::max);
    let matrices =
        most(|p| p.m as f64 * p.k as f64) + most(|p| p.k as f64 * p.n as f64) + most(|p| p.m as f64 * p.n as f64);
    let sent: f64 = t.messages().map(|m| 2.0 * m.bytes as f64).sum();
    4.0 * matrices + sent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(text: &str, ranks: u32) -> Training {
        let plan = crate::plan::parse(std::path::Path::new("p"), text).unwrap_or_else(|e| panic!("{e}"));
        let Some(Ok(training)) = Training::of(&plan, ranks) else { panic!("{text}") };
        training
    }

    const SMALL: &str = "[model]\nlayers = 6\nhidden = 128\nffn = 512\nheads = 4\nvocab = 1000\nsequence = 64\n";

    #[test]
    fn what_is_small_runs_whole_and_what_is_large_a_narrow_likeness_of_two_layers() {
        let link = Link { latency: 20e-6, per_byte: 1e-9 };
        assert_eq!(fit(&training(SMALL, 4), 50e9, link, (0.1, 3e8)), Some(Fit { layers: 6, narrow: 1 }));
        let large = training("[model]\npreset = \"llama-3-70b\"\n[parallel]\ntp = 8\n", 64);
        let found = fit(&large, 50e9, link, (0.1, 3e8));
        assert!(found.is_some_and(|f| f.layers == 2 && (8..=64).contains(&f.narrow)), "{found:?}");
        assert_eq!(fit(&large, 1.0, link, (0.1, 3e8)), None);
    }
}
