//! Types whose values have names.

/// A type whose values have names: in cases, in plans and in tables.
macro_rules! named {
    ($type:ty { $($value:pat => $name:literal),+ $(,)? } [$($all:expr),+ $(,)?]) => {
        impl $type {
            pub const ALL: &[$type] = &[$($all),+];

            pub const fn name(self) -> &'static str {
                match self {
                    $($value => $name),+
                }
            }

            /// The value of that name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.name() == name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let names: Vec<&str> = Self::ALL.iter().map(|v| v.name()).collect();
                schemars::json_schema!({"enum": names})
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                crate::id::text(d, |name| {
                    Self::named(name).ok_or_else(|| {
                        let shown = crate::id::clean(name);
                        let known = Self::ALL.iter().map(|v| v.name()).collect::<Vec<_>>().join(", ");
                        serde::de::Error::custom(format!("`{shown}` is none of {known}"))
                    })
                })?
            }
        }
    };
}

pub(crate) use named;
