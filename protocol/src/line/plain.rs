//! The fields of plain lines.
//!
//! Invariant: what is read here is what [`super::strict`] reads from the same bytes; anything else is
//! left to it. Used by [`super::fast`].

use std::borrow::Cow;

use bytes::Bytes;

use super::{Cell, Parser, number, strict};
use crate::{
    batch::{ColumnRef, SeriesRef},
    find::find,
    point::{MAX_STRING_LEN, Value},
    schema::FieldType,
};

/// A field of a plain line: scalars that are written one by one and read one by one. As a
/// [`Value`] it would be written in pieces and read as a whole, for which a processor waits.
pub(super) struct PlainCell<'t> {
    pub(super) name: &'t [u8],
    /// Where the name was expected and found.
    column: Option<ColumnRef>,
    kind: FieldType,
    /// Of anything but a string.
    bits: u64,
    /// What stands between the quotes of a string.
    text: &'t [u8],
}

impl<'t> PlainCell<'t> {
    /// The field with the value at the beginning of `text`, and the value's length.
    #[inline]
    pub(super) fn read(
        name: &'t [u8],
        column: Option<ColumnRef>,
        text: &'t [u8],
    ) -> Option<(Self, usize)> {
        let cell = |kind, bits, text| Self { name, column, kind, bits, text };
        match text.first()? {
            b'0'..=b'9' | b'-' | b'.' => {
                let number = number::scan(text)?;
                Some((cell(number.kind, number.bits, b""), number.len))
            }
            b'"' => {
                let raw = string(&text[1..])?;
                Some((cell(FieldType::String, 0, raw), raw.len() + 2))
            }
            b't' | b'T' | b'f' | b'F' => {
                let end = text.iter().position(|byte| matches!(byte, b',' | b' ' | b'\n'));
                let len = end.unwrap_or(text.len());
                let value = strict::boolean(&text[..len])?;
                Some((cell(FieldType::Boolean, u64::from(value), b""), len))
            }
            _ => None,
        }
    }

    fn value(&self) -> Value {
        match self.kind {
            FieldType::Float => Value::Float(f64::from_bits(self.bits)),
            FieldType::Integer => Value::Integer(self.bits.cast_signed()),
            FieldType::Unsigned => Value::Unsigned(self.bits),
            FieldType::Boolean => Value::Boolean(self.bits != 0),
            FieldType::String if self.text.contains(&b'\\') => {
                Value::String(strict::unescape_string(self.text).into())
            }
            FieldType::String => Value::String(Bytes::copy_from_slice(self.text)),
        }
    }

    fn cell(&self) -> Cell<'t> {
        Cell { name: Cow::Borrowed(self.name), column: self.column, value: self.value() }
    }
}

impl Parser<'_, '_> {
    /// Adds the row of `self.plain`.
    pub(super) fn commit_plain(&mut self, measurement: usize, series: SeriesRef, time: i64) {
        let builder = self.batch.measurement_mut(measurement);
        for cell in &mut self.plain {
            let guess = cell.column.filter(|guess| builder.kind(*guess) == cell.kind);
            cell.column = Some(
                guess
                    .or_else(|| builder.find_column(cell.name, cell.kind))
                    .unwrap_or_else(|| builder.add_column(cell.name, cell.kind)),
            );
        }
        if builder.has_mixed_fields() {
            self.cells.clear();
            self.cells.extend(self.plain.iter().map(PlainCell::cell));
            return self.commit(measurement, series, time);
        }
        let row = builder.add_row(series, time);
        for cell in &self.plain {
            let Some(column) = cell.column else { continue };
            let set = match cell.kind {
                FieldType::String => builder.set(row, column, cell.value()),
                kind => builder.set_bits(row, column, kind, cell.bits),
            };
            // The column was chosen for the value, and the value checked by its parser.
            debug_assert!(set.is_ok());
        }
    }
}

/// What a string says up to its closing quote, escapes included.
fn string(text: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        at += find(&text[at..], b'"', b'\\')?;
        if text[at] == b'"' {
            return (at <= MAX_STRING_LEN).then(|| &text[..at]);
        }
        at += 2;
        if at > text.len() {
            return None;
        }
    }
}
