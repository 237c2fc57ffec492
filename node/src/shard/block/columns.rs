//! A column's section: presence, then the present values in the encoding that suits them.
//!
//! Invariant: only present values are written; a decoded column has one slot per row, finite floats
//! with the bits they were written with, and at least one value.

use pco::ModeSpec;
use quorate_protocol::{
    batch::{
        Column, Presence, Values,
        codec::{Reader, floats},
    },
    schema::FieldType,
};

use super::{
    BlockError, Density, bits, dense, encode::Scratch, integers, strings, view::ColumnHead,
};

/// Floats, eight bytes each.
const RAW: u8 = 0;
/// Floats as a pco chunk.
const DENSE: u8 = 1;
/// Floats that are integers divided by a power of ten.
const SCALED: u8 = 2;

/// Appends the section of a column.
pub(super) fn encode(out: &mut Vec<u8>, column: &Column, density: Density, scratch: &mut Scratch) {
    let present = &column.present;
    bits::encode(out, present);
    match &column.values {
        Values::Float(values) => {
            let values = squeeze(values, present, &mut scratch.floats);
            encode_floats(out, values, density, &mut scratch.integers);
        }
        Values::Integer(values) => {
            integers::encode(out, squeeze(values, present, &mut scratch.integers), density);
        }
        Values::Unsigned(values) => {
            scratch.integers.clear();
            for run in present.runs() {
                scratch.integers.extend(values[run].iter().map(|value| value.cast_signed()));
            }
            integers::encode(out, &scratch.integers, density);
        }
        Values::Boolean(values) => {
            bits::encode(out, &bits::pack(squeeze(values, present, &mut Vec::new())));
        }
        Values::String(values) => {
            strings::encode(out, squeeze(values, present, &mut Vec::new()), density);
        }
    }
}

/// The present values; `buffer` is used if some are absent.
fn squeeze<'a, T: Clone>(values: &'a [T], present: &Presence, buffer: &'a mut Vec<T>) -> &'a [T] {
    if present.is_all() {
        return values;
    }
    buffer.clear();
    present.runs().for_each(|run| buffer.extend_from_slice(&values[run]));
    buffer
}

fn encode_floats(out: &mut Vec<u8>, values: &[f64], density: Density, integers: &mut Vec<i64>) {
    let start = out.len();
    if let Some(scale) = floats::scale(values, integers) {
        out.push(SCALED);
        out.push(scale);
        integers::encode(out, integers, density);
        if out.len() - start <= 1 + 8 * values.len() {
            return;
        }
        out.truncate(start);
    }
    if density == Density::Dense {
        out.push(DENSE);
        if dense::encode(out, values, &ModeSpec::Auto, dense::ALL_ORDERS, 8 * values.len()) {
            return;
        }
        out.truncate(start);
    }
    out.push(RAW);
    out.reserve(8 * values.len());
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

/// Reads the section of a column over `rows` rows.
pub(super) fn decode(section: &[u8], head: &ColumnHead, rows: usize) -> Result<Column, BlockError> {
    let mut reader = Reader::new(section);
    let present = bits::decode(&mut reader, rows)?;
    let count = present.count();
    if count == 0 {
        return Err(BlockError::Invalid("a column has no values"));
    }
    let reader = &mut reader;
    let values = match head.kind {
        FieldType::Float => Values::Float(spread(decode_floats(reader, count)?, &present)),
        FieldType::Integer => Values::Integer(spread(integers::decode(reader, count)?, &present)),
        FieldType::Unsigned => {
            let values = integers::decode(reader, count)?;
            let values = values.into_iter().map(i64::cast_unsigned).collect();
            Values::Unsigned(spread(values, &present))
        }
        FieldType::Boolean => {
            let values = bits::unpack(&bits::decode(reader, count)?);
            Values::Boolean(spread(values, &present))
        }
        FieldType::String => Values::String(spread(strings::decode(reader, count)?, &present)),
    };
    reader.finish()?;
    Ok(Column { field: head.field, name: head.name.clone(), present, values })
}

fn decode_floats(reader: &mut Reader<'_>, count: usize) -> Result<Vec<f64>, BlockError> {
    match reader.u8()? {
        RAW => finite(integers::words(reader, count)?.map(f64::from_le_bytes).collect()),
        DENSE => finite(dense::decode(reader, count)?),
        SCALED => {
            let scale = reader.u8()?;
            if scale > floats::MAX_SCALE {
                return Err(BlockError::Invalid("a scale is too large"));
            }
            Ok(floats::unscale(integers::decode(reader, count)?, scale))
        }
        _ => Err(BlockError::Invalid("an encoding of floats is unknown")),
    }
}

fn finite(values: Vec<f64>) -> Result<Vec<f64>, BlockError> {
    if values.iter().fold(true, |finite, value| finite & value.is_finite()) {
        Ok(values)
    } else {
        Err(BlockError::Invalid("a float is not finite"))
    }
}

/// Gives absent rows a slot of their own.
fn spread<T: Clone + Default>(values: Vec<T>, present: &Presence) -> Vec<T> {
    if present.is_all() {
        return values;
    }
    let mut out = Vec::with_capacity(present.len());
    let mut from = 0;
    for run in present.runs() {
        out.resize(run.start, T::default());
        out.extend_from_slice(&values[from..from + run.len()]);
        from += run.len();
    }
    out.resize(present.len(), T::default());
    out
}
