//! Width and speed of a link.

use std::fmt;

/// Signalling of one lane. What this version does not know is kept as it was written and compared with nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Speed {
    Sdr,
    Ddr,
    Qdr,
    Fdr10,
    Fdr,
    Edr,
    Hdr,
    Ndr,
    Xdr,
    Unknown(String),
}

/// Name, lane rate as iblinkinfo writes it, data rate of a lane in Gb/s (IBTA volume 1, release 1.8, table 250).
const SPEEDS: &[(Speed, &str, &str, f64)] = &[
    (Speed::Sdr, "SDR", "2.5", 2.0),
    (Speed::Ddr, "DDR", "5.0", 4.0),
    (Speed::Qdr, "QDR", "10.0", 8.0),
    (Speed::Fdr10, "FDR10", "10.0 Gbps (FDR10)", 10.0),
    (Speed::Fdr, "FDR", "14.0625", 13.64),
    (Speed::Edr, "EDR", "25.78125", 25.0),
    (Speed::Hdr, "HDR", "53.125", 50.0),
    (Speed::Ndr, "NDR", "106.25", 100.0),
    (Speed::Xdr, "XDR", "212.5", 200.0),
];

impl Speed {
    /// `HDR`.
    pub fn of_name(name: &str) -> Self {
        let known = SPEEDS.iter().find(|(_, n, _, _)| *n == name);
        known.map_or_else(|| Speed::Unknown(name.chars().take(24).collect()), |(s, ..)| s.clone())
    }

    /// `53.125 Gbps`, `10.0 Gbps (FDR10)`.
    pub fn of_lane(text: &str) -> Self {
        let text = text.trim();
        if text.contains("FDR10") {
            return Speed::Fdr10;
        }
        let number = text.split_whitespace().next().unwrap_or("");
        let known = SPEEDS.iter().find(|(s, _, lane, _)| *lane == number && *s != Speed::Fdr10);
        known.map_or_else(|| Speed::Unknown(text.chars().take(24).collect()), |(s, ..)| s.clone())
    }

    pub fn lane_gbps(&self) -> Option<f64> {
        SPEEDS.iter().find(|(s, ..)| s == self).map(|(.., gbps)| *gbps)
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Speed::Unknown(text) => f.write_str(text),
            known => f.write_str(SPEEDS.iter().find(|(s, ..)| s == known).map_or("?", |(_, name, ..)| name)),
        }
    }
}

/// Lanes and their speed: `4xHDR`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Lanes; 0 where it is not known.
    pub width: u8,
    pub speed: Speed,
}

impl Rate {
    /// The first of `4xHDR`, `4x HDR`, `4x ???` in a text.
    pub(super) fn of_words(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            if let Some((width, speed)) = word.split_once('x')
                && let Ok(width) = width.parse::<u8>()
            {
                let speed = if speed.is_empty() { words.next().unwrap_or("?") } else { speed };
                return Some(Rate { width, speed: Speed::of_name(speed) });
            }
            // Words of other tools (`s=4 w=2`) may follow, none of them has a width.
            if word.starts_with("??x") || word == "??" {
                return Some(Rate { width: 0, speed: Speed::of_name(word.trim_start_matches("??x")) });
            }
        }
        None
    }

    /// Gb/s of data; `None` for hardware that is not known here.
    pub fn gbps(&self) -> Option<f64> {
        (self.width > 0).then(|| self.speed.lane_gbps()).flatten().map(|lane| lane * f64::from(self.width))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.width == 0 { write!(f, "?x{}", self.speed) } else { write!(f, "{}x{}", self.width, self.speed) }
    }
}
