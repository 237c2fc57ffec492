//! The values of a column, one slot per row.
//!
//! Invariant: all slots have one type. A slot whose row is absent holds zero, `false` or the empty
//! string and means nothing. Used by every [`super::Column`].

use std::ops::Range;

use bytes::Bytes;

use crate::{
    point::{Value, ValueRef},
    schema::FieldType,
};

/// A vector of values of one type.
#[derive(Clone, Debug)]
pub enum Values {
    /// Finite doubles.
    Float(Vec<f64>),
    /// Signed integers.
    Integer(Vec<i64>),
    /// Unsigned integers.
    Unsigned(Vec<u64>),
    /// `true` or `false`.
    Boolean(Vec<bool>),
    /// Bytes, usually UTF-8.
    String(Vec<Bytes>),
}

/// Applies the same expression to the vector inside, whatever its type.
macro_rules! each {
    ($values:expr, $inner:ident => $body:expr) => {
        match $values {
            $crate::batch::Values::Float($inner) => $body,
            $crate::batch::Values::Integer($inner) => $body,
            $crate::batch::Values::Unsigned($inner) => $body,
            $crate::batch::Values::Boolean($inner) => $body,
            $crate::batch::Values::String($inner) => $body,
        }
    };
}

impl Values {
    /// No slots, room for some.
    #[must_use]
    pub fn with_capacity(kind: FieldType, slots: usize) -> Self {
        match kind {
            FieldType::Float => Self::Float(Vec::with_capacity(slots)),
            FieldType::Integer => Self::Integer(Vec::with_capacity(slots)),
            FieldType::Unsigned => Self::Unsigned(Vec::with_capacity(slots)),
            FieldType::Boolean => Self::Boolean(Vec::with_capacity(slots)),
            FieldType::String => Self::String(Vec::with_capacity(slots)),
        }
    }

    /// The type of all slots.
    #[must_use]
    pub const fn kind(&self) -> FieldType {
        match self {
            Self::Float(_) => FieldType::Float,
            Self::Integer(_) => FieldType::Integer,
            Self::Unsigned(_) => FieldType::Unsigned,
            Self::Boolean(_) => FieldType::Boolean,
            Self::String(_) => FieldType::String,
        }
    }

    /// The number of slots.
    #[must_use]
    pub fn len(&self) -> usize {
        each!(self, slots => slots.len())
    }

    /// Whether there are no slots.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slot of a row.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<ValueRef<'_>> {
        Some(match self {
            Self::Float(slots) => ValueRef::Float(*slots.get(row)?),
            Self::Integer(slots) => ValueRef::Integer(*slots.get(row)?),
            Self::Unsigned(slots) => ValueRef::Unsigned(*slots.get(row)?),
            Self::Boolean(slots) => ValueRef::Boolean(*slots.get(row)?),
            Self::String(slots) => ValueRef::String(slots.get(row)?),
        })
    }

    /// Adds an empty slot.
    pub fn push_empty(&mut self) {
        each!(self, slots => slots.push(Default::default()));
    }

    /// Adds a value; false, and nothing added, if it has another type.
    #[must_use]
    pub fn push(&mut self, value: Value) -> bool {
        match (self, value) {
            (Self::Float(slots), Value::Float(value)) => slots.push(value),
            (Self::Integer(slots), Value::Integer(value)) => slots.push(value),
            (Self::Unsigned(slots), Value::Unsigned(value)) => slots.push(value),
            (Self::Boolean(slots), Value::Boolean(value)) => slots.push(value),
            (Self::String(slots), Value::String(value)) => slots.push(value),
            _ => return false,
        }
        true
    }

    /// Adds the slots of a range; columns of another type add empty ones.
    pub fn extend(&mut self, other: &Self, range: Range<usize>) {
        match (self, other) {
            (Self::Float(slots), Self::Float(other)) => slots.extend_from_slice(&other[range]),
            (Self::Integer(slots), Self::Integer(other)) => slots.extend_from_slice(&other[range]),
            (Self::Unsigned(slots), Self::Unsigned(other)) => {
                slots.extend_from_slice(&other[range]);
            }
            (Self::Boolean(slots), Self::Boolean(other)) => slots.extend_from_slice(&other[range]),
            (Self::String(slots), Self::String(other)) => slots.extend_from_slice(&other[range]),
            (slots, _) => range.for_each(|_| slots.push_empty()),
        }
    }

    /// The slots of a range.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Float(slots) => Self::Float(slots[range].to_vec()),
            Self::Integer(slots) => Self::Integer(slots[range].to_vec()),
            Self::Unsigned(slots) => Self::Unsigned(slots[range].to_vec()),
            Self::Boolean(slots) => Self::Boolean(slots[range].to_vec()),
            Self::String(slots) => Self::String(slots[range].to_vec()),
        }
    }
}
