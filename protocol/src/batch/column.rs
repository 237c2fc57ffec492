//! One field's values over a run of rows, as decoded batches and [`crate::rows::Rows`] hold them.
//!
//! Invariant: `present` and `values` have one entry per row.

use bytes::Bytes;

use super::{Presence, Values};
use crate::{id::FieldId, point::ValueRef, schema::FieldType};

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    /// The field, as metadata numbers it.
    pub field: FieldId,
    /// The field's name, unescaped.
    pub name: Bytes,
    /// Which rows have a value.
    pub present: Presence,
    /// The values; slots of absent rows mean nothing.
    pub values: Values,
}

impl Column {
    /// A column without rows.
    #[must_use]
    pub fn new(field: FieldId, name: Bytes, kind: FieldType) -> Self {
        Self { field, name, present: Presence::all(0), values: Values::with_capacity(kind, 0) }
    }

    /// The type of the field.
    #[must_use]
    pub const fn kind(&self) -> FieldType {
        self.values.kind()
    }

    /// The value of a row, if it has one.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<ValueRef<'_>> {
        if self.present.get(row) { self.values.get(row) } else { None }
    }

    /// Adds a row without a value.
    pub fn push_absent(&mut self) {
        self.present.push(false);
        self.values.push_empty();
    }

    /// Adds rows of another column of the same field.
    pub fn extend(&mut self, other: &Self, range: std::ops::Range<usize>) {
        self.present.extend(&other.present, range.clone());
        self.values.extend(&other.values, range);
    }

    /// The rows of a range as a column of their own.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        Self {
            field: self.field,
            name: self.name.clone(),
            present: self.present.slice(range.clone()),
            values: self.values.slice(range),
        }
    }
}

/// Equal rows: what absent slots hold does not matter.
impl PartialEq for Column {
    fn eq(&self, other: &Self) -> bool {
        self.field == other.field
            && self.name == other.name
            && self.kind() == other.kind()
            && self.present == other.present
            && (0..self.present.len()).all(|row| self.get(row) == other.get(row))
    }
}

impl Eq for Column {}
