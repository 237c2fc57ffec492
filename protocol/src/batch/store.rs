//! The values of one field while a batch is being filled.
//!
//! Invariant: `values` holds only what was set, in row order. While every row from 0 has a value
//! no row numbers are kept; from the first gap on, `rows` names the row of each value.

use bytes::Bytes;

use super::Values;
use crate::{point::Value, schema::FieldType};

#[derive(Clone, Debug)]
pub(super) struct Store {
    values: Values,
    /// `None`: value `i` is of row `i`.
    rows: Option<Vec<u32>>,
}

impl Store {
    pub(super) fn new(kind: FieldType) -> Self {
        Self { values: Values::with_capacity(kind, 0), rows: None }
    }

    pub(super) fn values(&self) -> &Values {
        &self.values
    }

    /// The row of each value, unless value `i` is of row `i`.
    pub(super) fn rows(&self) -> Option<&[u32]> {
        self.rows.as_deref()
    }

    /// Where the value of a row stands.
    pub(super) fn position(&self, row: u32) -> Option<usize> {
        match &self.rows {
            None => ((row as usize) < self.values.len()).then_some(row as usize),
            Some(rows) => rows.binary_search(&row).ok(),
        }
    }

    pub(super) fn clear(&mut self) {
        each!(&mut self.values, slots => slots.clear());
        self.rows = None;
    }

    /// Where to put the value of a row: over an old one, or before the later ones.
    fn place(&mut self, row: u32) -> Place {
        let len = self.values.len();
        match &mut self.rows {
            None if row as usize == len => Place::End,
            None if (row as usize) < len => Place::Over(row as usize),
            None => {
                self.rows =
                    Some((0..u32::try_from(len).unwrap_or(u32::MAX)).chain([row]).collect());
                Place::End
            }
            Some(rows) if rows.last().is_none_or(|last| *last < row) => {
                rows.push(row);
                Place::End
            }
            Some(rows) => match rows.binary_search(&row) {
                Ok(at) => Place::Over(at),
                Err(at) => {
                    rows.insert(at, row);
                    Place::Before(at)
                }
            },
        }
    }
}

enum Place {
    End,
    Over(usize),
    Before(usize),
}

macro_rules! extenders {
    ($($name:ident($type:ty) $variant:ident;)*) => {$(
        /// Sets the values of rows one behind another, all behind the last that has one; the type
        /// of the values, if the store has another one.
        pub(super) fn $name(&mut self, row: u32, all: &[$type]) -> Result<(), FieldType> {
            let Values::$variant(slots) = &mut self.values else {
                return Err(FieldType::$variant);
            };
            let filled = slots.len();
            slots.extend_from_slice(all);
            self.number(filled, row);
            Ok(())
        }
    )*};
}

macro_rules! setters {
    ($($name:ident($type:ty) $variant:ident;)*) => {$(
        /// Sets a row's value; the type of the value, if the store has another one.
        #[inline]
        pub(super) fn $name(&mut self, row: u32, value: $type) -> Result<(), FieldType> {
            if !matches!(self.values, Values::$variant(_)) {
                return Err(FieldType::$variant);
            }
            let place = self.place(row);
            if let Values::$variant(slots) = &mut self.values {
                match place {
                    Place::End => slots.push(value),
                    Place::Over(at) => slots[at] = value,
                    Place::Before(at) => slots.insert(at, value),
                }
            }
            Ok(())
        }
    )*};
}

impl Store {
    setters! {
        set_float(f64) Float;
        set_integer(i64) Integer;
        set_unsigned(u64) Unsigned;
        set_boolean(bool) Boolean;
        set_string(Bytes) String;
    }

    extenders! {
        extend_float(f64) Float;
        extend_integer(i64) Integer;
        extend_unsigned(u64) Unsigned;
        extend_boolean(bool) Boolean;
    }

    /// Gives the values from `filled` on to the rows from `row` on.
    fn number(&mut self, filled: usize, row: u32) {
        if self.rows.is_none() && filled == row as usize {
            return;
        }
        let count = self.values.len() - filled;
        // Rows are counted in u32.
        let rows = self.rows.get_or_insert_with(|| (0..filled as u32).collect());
        rows.extend((row..).take(count));
    }

    pub(super) fn set(&mut self, row: u32, value: Value) -> Result<(), FieldType> {
        match value {
            Value::Float(value) => self.set_float(row, value),
            Value::Integer(value) => self.set_integer(row, value),
            Value::Unsigned(value) => self.set_unsigned(row, value),
            Value::Boolean(value) => self.set_boolean(row, value),
            Value::String(value) => self.set_string(row, value),
        }
    }
}
