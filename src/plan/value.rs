//! Values of a plan: lengths of time, and numbers that must make sense.

use std::fmt;
use std::time::Duration;

use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// A length of time. Text forms: `90s`, `3m`, `6h 6m`, `43.92s`; a bare number is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown = crate::id::clean(text);
        let days = text.trim().strip_suffix('d').and_then(|n| n.trim().parse::<f64>().ok());
        let parsed = match days {
            Some(d) => SignedDuration::try_from_secs_f64(d * 86_400.0).map_err(|_| ()),
            None => text.parse::<SignedDuration>().map_err(|_| ()),
        };
        let signed =
            parsed.map_err(|()| format!("`{shown}` is not a length of time; write it like `90s` or `6h 30m`"))?;
        Duration::try_from(signed).map(Time).map_err(|_| format!("`{shown}` is negative; a length of time cannot be"))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0.as_secs_f64();
        let text = match s {
            s if s < 1.0 => crate::unit::Unit::Second.show(s),
            s if s < 120.0 => format!("{} s", crate::unit::three_digits(s)),
            s if s < 7200.0 => format!("{} min", crate::unit::three_digits(s / 60.0)),
            s if s < 172_800.0 => format!("{} h", crate::unit::three_digits(s / 3600.0)),
            s => format!("{} days", crate::unit::three_digits(s / 86_400.0)),
        };
        f.pad(&text)
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{}s", self.0.as_secs_f64()))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "description": "a length of time such as 90s or 6h 30m"})
    }
}

pub(super) fn some_positive<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    optional(d, |v| v > 0.0 && v.is_finite(), "above zero")
}

pub(super) fn some_share<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    optional(d, |v| v > 0.0 && v <= 1.0, "a share above 0 and up to 1")
}

/// An absent value stays absent (the plan inside a record writes it as null).
fn optional<'de, D: Deserializer<'de>>(d: D, good: fn(f64) -> bool, must: &str) -> Result<Option<f64>, D::Error> {
    match Option::<f64>::deserialize(d)? {
        Some(v) if !good(v) => Err(serde::de::Error::custom(format!("`{v}` must be {must}"))),
        v => Ok(v),
    }
}
