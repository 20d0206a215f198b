//! Units as types. Bits and bytes never mix; conversion happens at the parser, scaling at the renderer.
//!
//! GB/s is 10^9 bytes per second everywhere; MiB and GiB are for sizes; Gb/s is for links.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// `1 node`, `2 nodes`.
pub fn several(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// The unit of a series of samples. Samples are stored in the base unit named here, never scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    FlopPerSecond,
    BytePerSecond,
    Second,
    OperationPerSecond,
    Byte,
    Ratio,
}

impl Unit {
    /// A value for people: three significant digits and a scaled unit.
    pub fn show(self, value: f64) -> String {
        if !value.is_finite() {
            return "not a number".to_owned();
        }
        match self {
            Unit::FlopPerSecond => {
                scaled(value, 1000.0, &["FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s", "PFLOP/s"])
            }
            Unit::BytePerSecond => scaled(value, 1000.0, &["B/s", "kB/s", "MB/s", "GB/s", "TB/s"]),
            Unit::OperationPerSecond => scaled(value, 1000.0, &["/s", "k/s", "M/s", "G/s"]),
            Unit::Byte => Bytes::from_f64(value).to_string(),
            Unit::Second => scaled(value * 1e9, 1000.0, &["ns", "us", "ms", "s"]),
            Unit::Ratio => format!("{:.1} %", value * 100.0),
        }
    }
}

fn scaled(value: f64, step: f64, names: &[&str]) -> String {
    let mut v = value;
    let mut i = 0;
    while v.abs() >= step * 0.9995 && i + 1 < names.len() {
        v /= step;
        i += 1;
    }
    format!("{} {}", three_digits(v), names[i])
}

/// Three significant digits without an exponent: `1.23`, `12.3`, `123`.
pub fn three_digits(v: f64) -> String {
    match v.abs() {
        0.0 => "0".to_owned(),
        a if a < 9.995 => format!("{v:.2}"),
        a if a < 99.95 => format!("{v:.1}"),
        _ => format!("{v:.0}"),
    }
}

/// A number of bytes. Text forms: `268 GiB`, `1.5TB`, `4096`; binary and decimal prefixes are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    pub const KIB: u64 = 1 << 10;
    pub const MIB: u64 = 1 << 20;
    pub const GIB: u64 = 1 << 30;

    /// Rounds to whole bytes; what is negative or not a number becomes 0, what is too large the largest.
    pub fn from_f64(value: f64) -> Self {
        Bytes(value.round() as u64)
    }

    pub fn as_f64(self) -> f64 {
        self.0 as f64
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut v = self.0 as f64;
        let names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut i = 0;
        while v >= 1024.0 && i + 1 < names.len() {
            v /= 1024.0;
            i += 1;
        }
        match i {
            0 => f.pad(&format!("{} B", self.0)),
            _ if v.fract() == 0.0 => f.pad(&format!("{v:.0} {}", names[i])),
            _ => f.pad(&format!("{} {}", three_digits(v), names[i])),
        }
    }
}

/// Why a text is not a quantity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QuantityError {
    #[error("`{0}` is negative; a size cannot be")]
    Negative(String),
    #[error("`{text}` is not a {what}; write it like `{example}`")]
    Malformed { text: String, what: &'static str, example: &'static str },
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// Splits `1.5 TB` in the number and the unit's name.
fn number_and_suffix(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | '_'))).unwrap_or(text.len());
    // `1e12` and `1E12`: an exponent belongs to the number when a digit follows it.
    let rest = &text[end..];
    let end = match rest.strip_prefix(['e', 'E']) {
        Some(r) if r.starts_with(|c: char| c.is_ascii_digit() || c == '+') => {
            let digits = r.strip_prefix('+').unwrap_or(r);
            let n = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            end + 1 + (r.len() - digits.len()) + n
        }
        _ => end,
    };
    let number: f64 = text[..end].replace('_', "").parse().ok()?;
    number.is_finite().then_some((number, text[end..].trim()))
}

impl FromStr for Bytes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bad =
            || QuantityError::Malformed { text: crate::id::clean(text).into_owned(), what: "size", example: "268 GiB" };
        let (number, suffix) = number_and_suffix(text).ok_or_else(bad)?;
        if number < 0.0 {
            return Err(QuantityError::Negative(text.to_owned()));
        }
        let factor = byte_factor(suffix).ok_or_else(bad)?;
        let bytes = number * factor;
        if bytes >= u64::MAX as f64 {
            return Err(QuantityError::TooLarge(text.to_owned()));
        }
        Ok(Bytes::from_f64(bytes))
    }
}

fn byte_factor(suffix: &str) -> Option<f64> {
    let (prefix, binary) = match suffix.strip_suffix("iB") {
        Some(p) => (p, true),
        None => (suffix.strip_suffix('B').unwrap_or(suffix), false),
    };
    let power = match prefix {
        "" if !binary => 0,
        "k" | "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        _ => return None,
    };
    // A bare `G` is ambiguous by a tenth at T: ask for the unit.
    if power > 0 && !suffix.ends_with('B') {
        return None;
    }
    Some(if binary { 1024f64 } else { 1000f64 }.powi(power))
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"268 GiB\", or a number of bytes")
            }
            fn visit_u64<E>(self, v: u64) -> Result<Bytes, E> {
                Ok(Bytes(v))
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Bytes, E> {
                u64::try_from(v).map(Bytes).map_err(|_| E::custom(QuantityError::Negative(v.to_string())))
            }
            fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Bytes, E> {
                v.to_string().parse().map_err(E::custom)
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Bytes, E> {
                v.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Bytes per second. Text forms: `40 GB/s`, and `400 Gb/s` for a link's rate, which is divided by eight here.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct ByteRate(pub f64);

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&Unit::BytePerSecond.show(self.0))
    }
}

impl FromStr for ByteRate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bad =
            || QuantityError::Malformed { text: crate::id::clean(text).into_owned(), what: "rate", example: "40 GB/s" };
        let (number, suffix) = number_and_suffix(text).ok_or_else(bad)?;
        if number < 0.0 {
            return Err(QuantityError::Negative(text.to_owned()));
        }
        let unit = suffix.strip_suffix("/s").ok_or_else(bad)?;
        let rate = match unit {
            "b" => number / 8.0,
            "Kb" | "kb" => number * 1e3 / 8.0,
            "Mb" => number * 1e6 / 8.0,
            "Gb" => number * 1e9 / 8.0,
            "Tb" => number * 1e12 / 8.0,
            _ => number * byte_factor(unit).ok_or_else(bad)?,
        };
        if rate.is_finite() { Ok(ByteRate(rate)) } else { Err(QuantityError::TooLarge(text.to_owned())) }
    }
}

/// Both forms: text with its unit, as a person writes it, and the bare bytes per second that gonogo itself writes.
impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ByteRate;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate with its unit such as \"40 GB/s\"")
            }
            fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<ByteRate, E> {
                if v.is_finite() && v >= 0.0 {
                    Ok(ByteRate(v))
                } else {
                    Err(E::custom(QuantityError::Negative(v.to_string())))
                }
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<ByteRate, E> {
                Ok(ByteRate(v as f64))
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<ByteRate, E> {
                self.visit_f64(v as f64)
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<ByteRate, E> {
                v.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_binary_and_decimal_apart() {
        assert_eq!("268 GiB".parse(), Ok(Bytes(268 << 30)));
        assert_eq!("1.5TB".parse(), Ok(Bytes(1_500_000_000_000)));
        assert_eq!("1e3".parse(), Ok(Bytes(1000)));
        assert_eq!("4096".parse(), Ok(Bytes(4096)));
        assert_eq!("1_000 kB".parse(), Ok(Bytes(1_000_000)));
        for bad in ["", "GiB", "12 Gib", "1 G", "one GB", "1.2.3 GB", "NaN", "inf GB", "5 iB"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
        assert_eq!("-5 GB".parse::<Bytes>(), Err(QuantityError::Negative("-5 GB".to_owned())));
        assert!(matches!("1e40 PB".parse::<Bytes>(), Err(QuantityError::TooLarge(_))));
    }

    #[test]
    fn rates_keep_bits_and_bytes_apart() {
        assert_eq!("400 Gb/s".parse(), Ok(ByteRate(50e9)));
        assert_eq!("40 GB/s".parse(), Ok(ByteRate(40e9)));
        assert!("40".parse::<ByteRate>().is_err());
        assert!("40 GB".parse::<ByteRate>().is_err());
    }

    #[test]
    fn values_show_three_digits() {
        assert_eq!(Unit::BytePerSecond.show(12_345_678_900.0), "12.3 GB/s");
        assert_eq!(Unit::Second.show(1.2345e-5), "12.3 us");
        assert_eq!(Unit::Second.show(0.99999), "1.00 s");
        assert_eq!(Unit::FlopPerSecond.show(f64::NAN), "not a number");
        assert_eq!(Bytes(268 << 30).to_string(), "268 GiB");
        assert_eq!(Unit::Ratio.show(0.123), "12.3 %");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<Bytes>();
            let _ = text.parse::<ByteRate>();
        }

        #[test]
        fn whole_sizes_survive_their_text(n in 0u64..1 << 40) {
            proptest::prop_assert_eq!(n.to_string().parse::<Bytes>(), Ok(Bytes(n)));
        }
    }
}
