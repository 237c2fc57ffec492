//! Field types, agreed cluster-wide.
//!
//! Invariant: within one database, (measurement, field) has one type for ever; the first write of
//! a field registers it through metadata. Used by the map, the batch codec and the clients.

use serde::{Deserialize, Serialize};

/// The type of a field's values. The discriminants are on the wire and on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum FieldType {
    /// A finite IEEE 754 double.
    Float = 0,
    /// A signed 64-bit integer (`1i`).
    Integer = 1,
    /// An unsigned 64-bit integer (`1u`).
    Unsigned = 2,
    /// `true` or `false`.
    Boolean = 3,
    /// Bytes, usually UTF-8.
    String = 4,
}

impl FieldType {
    /// The type with this discriminant, if there is one.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Float,
            1 => Self::Integer,
            2 => Self::Unsigned,
            3 => Self::Boolean,
            4 => Self::String,
            _ => return None,
        })
    }

    /// The name shown to people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Integer => "integer",
            Self::Unsigned => "unsigned",
            Self::Boolean => "boolean",
            Self::String => "string",
        }
    }
}
