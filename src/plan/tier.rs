//! How thorough a check is. A tier is a promise about time before it is anything else.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The built-in tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// At most 20 s, or 30 s on a node with several GPUs: before every launch.
    #[default]
    Quick,
    /// A few minutes: larger sizes, more blocks, every message size.
    Standard,
    /// Tens of minutes: sustained loads.
    Soak,
    /// Seconds, in the CI of a container image: the software in it, no machine.
    Image,
    /// 15 s, before each restart: this node by itself, whatever else a launcher has started; nothing between nodes.
    Node,
}

impl Tier {
    /// The time budget when nobody states one. Between nodes there is more to measure, and on several GPUs than on one; where there are
    /// GPUs, the host itself is looked at for a shorter time.
    pub const fn budget(self, cluster: bool, gpus: usize) -> Duration {
        Duration::from_secs(match (self, cluster) {
            (Tier::Quick, false) => {
                if gpus > 1 {
                    30
                } else {
                    20
                }
            }
            (Tier::Quick, true) => 60,
            (Tier::Standard, false) => match gpus {
                0 => 180,
                1 => 90,
                _ => 120,
            },
            (Tier::Standard, true) => 300,
            (Tier::Soak, false) => 1800,
            (Tier::Soak, true) => 3600,
            (Tier::Image, _) => 5,
            (Tier::Node, _) => 15,
        })
    }

    pub const fn name(self) -> &'static str {
        match self {
            Tier::Quick => "quick",
            Tier::Standard => "standard",
            Tier::Soak => "soak",
            Tier::Image => "image",
            Tier::Node => "node",
        }
    }

    /// Whether a probe belongs to the tier: an image is asked for its software, a machine for what it does; a node by itself saves no
    /// checkpoint of all, rehearses no step, and looks at no fabric.
    pub fn includes(self, probe: &str) -> bool {
        (probe == "image") == (self == Tier::Image)
            && !(self == Tier::Node && matches!(probe, "checkpoint" | "fabric" | "rehearsal"))
    }

    /// Whether there is time for the shortest form of everything only.
    pub const fn is_short(self) -> bool {
        matches!(self, Tier::Quick | Tier::Image | Tier::Node)
    }

    /// The value of the three that belongs to this tier.
    pub fn pick<T>(self, quick: T, standard: T, soak: T) -> T {
        match self {
            Tier::Quick | Tier::Image | Tier::Node => quick,
            Tier::Standard => standard,
            Tier::Soak => soak,
        }
    }
}
