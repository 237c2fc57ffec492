//! One field over a run of rows: id, name, type, presence, values.
//!
//! Invariant: only present values are written; what is read back has one slot per row, finite
//! floats, strings within their limit, and at least one present value.

use bytes::Bytes;

use super::{Reader, floats, packed, put_bytes};
use crate::{
    batch::{Column, DecodeError, Presence, Values},
    id::FieldId,
    point::{MAX_KEY_LEN, MAX_STRING_LEN},
    schema::FieldType,
};

/// Every row has a value.
const PRESENT_ALL: u8 = 0;
/// A bitmap follows.
const PRESENT_SOME: u8 = 1;

/// Eight bytes a value, or bits, or lengths and bytes.
const RAW: u8 = 0;
/// Integers, packed.
const PACKED: u8 = 1;
/// Floats as a scale and packed integers.
const SCALED: u8 = 2;

/// What stands before the values of a column.
pub(crate) struct Head<'a> {
    pub(crate) field: FieldId,
    pub(crate) name: &'a [u8],
    pub(crate) present: &'a Presence,
}

/// Buffers that are reused from column to column.
#[derive(Default)]
pub(crate) struct Scratch {
    integers: Vec<i64>,
}

/// Appends a column; `values` has the present values only.
pub(crate) fn encode(out: &mut Vec<u8>, head: &Head<'_>, values: &Values, scratch: &mut Scratch) {
    out.extend_from_slice(&head.field.0.to_le_bytes());
    put_bytes(out, head.name);
    out.push(values.kind() as u8);
    match head.present.words() {
        None => out.push(PRESENT_ALL),
        Some(words) => {
            out.push(PRESENT_SOME);
            let end = out.len() + head.present.len().div_ceil(8);
            words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
            out.truncate(end);
        }
    }
    match values {
        Values::Float(values) => encode_floats(out, values, &mut scratch.integers),
        Values::Integer(values) => encode_integers(out, values),
        Values::Unsigned(values) => {
            scratch.integers.clear();
            scratch.integers.extend(values.iter().map(|value| value.cast_signed()));
            encode_integers(out, &scratch.integers);
        }
        Values::Boolean(values) => {
            out.push(RAW);
            for eight in values.chunks(8) {
                let bits = eight.iter().enumerate();
                out.push(bits.fold(0, |byte, (at, bit)| byte | u8::from(*bit) << at));
            }
        }
        Values::String(values) => {
            out.push(RAW);
            scratch.integers.clear();
            scratch.integers.extend(values.iter().map(|value| value.len() as i64));
            packed::encode(out, &scratch.integers);
            values.iter().for_each(|value| out.extend_from_slice(value));
        }
    }
}

fn encode_floats(out: &mut Vec<u8>, values: &[f64], integers: &mut Vec<i64>) {
    let start = out.len();
    if let Some(scale) = floats::scale(values, integers) {
        out.push(SCALED);
        out.push(scale);
        packed::encode(out, integers);
        if out.len() - start <= 1 + 8 * values.len() {
            return;
        }
        out.truncate(start);
    }
    out.push(RAW);
    out.reserve(8 * values.len());
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn encode_integers(out: &mut Vec<u8>, values: &[i64]) {
    let start = out.len();
    out.push(PACKED);
    packed::encode(out, values);
    if out.len() - start > 1 + 8 * values.len() {
        out.truncate(start);
        out.push(RAW);
        values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    }
}

/// Reads a column over `rows` rows. `string` makes a value from a slice of the encoded bytes.
pub(crate) fn decode(
    reader: &mut Reader<'_>,
    rows: usize,
    string: &dyn Fn(&[u8]) -> Bytes,
) -> Result<Column, DecodeError> {
    let field = FieldId(reader.u32()?);
    let name = reader.bytes()?;
    if name.is_empty() || name.len() > MAX_KEY_LEN {
        return Err(DecodeError::Invalid("a field's name is empty or too long"));
    }
    let name = string(name);
    let kind =
        FieldType::from_u8(reader.u8()?).ok_or(DecodeError::Invalid("a field type is unknown"))?;
    let present = decode_presence(reader, rows)?;
    let count = present.count();
    if count == 0 {
        return Err(DecodeError::Invalid("a column has no values"));
    }
    let values = decode_values(reader, kind, count, string)?;
    let values = if present.is_all() { values } else { spread(values, &present) };
    Ok(Column { field, name, present, values })
}

fn decode_presence(reader: &mut Reader<'_>, rows: usize) -> Result<Presence, DecodeError> {
    match reader.u8()? {
        PRESENT_ALL => Ok(Presence::all(rows)),
        PRESENT_SOME => {
            let bytes = reader.take(rows.div_ceil(8))?;
            let words = bytes.chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            });
            Presence::from_words(rows, words.collect())
                .ok_or(DecodeError::Invalid("padding bits are set"))
        }
        _ => Err(DecodeError::Invalid("a presence tag is unknown")),
    }
}

fn decode_values(
    reader: &mut Reader<'_>,
    kind: FieldType,
    count: usize,
    string: &dyn Fn(&[u8]) -> Bytes,
) -> Result<Values, DecodeError> {
    let encoding = reader.u8()?;
    Ok(match (kind, encoding) {
        (FieldType::Float, RAW) => {
            let values: Vec<f64> = raw(reader, count)?.map(f64::from_le_bytes).collect();
            if !values.iter().all(|value| value.is_finite()) {
                return Err(DecodeError::Invalid("a float is not finite"));
            }
            Values::Float(values)
        }
        (FieldType::Float, SCALED) => {
            let scale = reader.u8()?;
            if scale > floats::MAX_SCALE {
                return Err(DecodeError::Invalid("a scale is too large"));
            }
            Values::Float(floats::unscale(packed::decode(reader, count)?, scale))
        }
        (FieldType::Integer, RAW) => {
            Values::Integer(raw(reader, count)?.map(i64::from_le_bytes).collect())
        }
        (FieldType::Integer, PACKED) => Values::Integer(packed::decode(reader, count)?),
        (FieldType::Unsigned, RAW) => {
            Values::Unsigned(raw(reader, count)?.map(u64::from_le_bytes).collect())
        }
        (FieldType::Unsigned, PACKED) => {
            let values = packed::decode(reader, count)?;
            Values::Unsigned(values.into_iter().map(i64::cast_unsigned).collect())
        }
        (FieldType::Boolean, RAW) => {
            let bytes = reader.take(count.div_ceil(8))?;
            let tail = count % 8;
            if tail != 0 && bytes.last().is_some_and(|byte| byte >> tail != 0) {
                return Err(DecodeError::Invalid("padding bits are set"));
            }
            let bit = |at: usize| bytes[at / 8] >> (at % 8) & 1 == 1;
            Values::Boolean((0..count).map(bit).collect())
        }
        (FieldType::String, RAW) => {
            let lengths = packed::decode(reader, count)?;
            let mut values = Vec::with_capacity(count);
            for length in lengths {
                let length = usize::try_from(length)
                    .ok()
                    .filter(|length| *length <= MAX_STRING_LEN)
                    .ok_or(DecodeError::Invalid("a string is too long"))?;
                values.push(string(reader.take(length)?));
            }
            Values::String(values)
        }
        _ => return Err(DecodeError::Invalid("an encoding does not suit its type")),
    })
}

fn raw<'a>(
    reader: &mut Reader<'a>,
    count: usize,
) -> Result<impl Iterator<Item = [u8; 8]> + 'a, DecodeError> {
    let len = count.checked_mul(8).ok_or(DecodeError::Truncated)?;
    let (words, _) = reader.take(len)?.as_chunks::<8>();
    Ok(words.iter().copied())
}

/// Gives absent rows a slot of their own.
fn spread(values: Values, present: &Presence) -> Values {
    fn each<T: Clone + Default>(values: Vec<T>, present: &Presence) -> Vec<T> {
        let mut values = values.into_iter();
        (0..present.len())
            .map(|row| if present.get(row) { values.next() } else { None }.unwrap_or_default())
            .collect()
    }
    match values {
        Values::Float(values) => Values::Float(each(values, present)),
        Values::Integer(values) => Values::Integer(each(values, present)),
        Values::Unsigned(values) => Values::Unsigned(each(values, present)),
        Values::Boolean(values) => Values::Boolean(each(values, present)),
        Values::String(values) => Values::String(each(values, present)),
    }
}

/// The present values only, ready to encode.
pub(crate) fn squeeze(column: &Column) -> Values {
    let mut values = Values::with_capacity(column.kind(), column.present.count());
    let mut row = 0;
    while row < column.present.len() {
        let start = row;
        while row < column.present.len() && column.present.get(row) {
            row += 1;
        }
        values.extend(&column.values, start..row);
        row += 1;
    }
    values
}

/// Refuses rows without a value in any column.
pub(crate) fn every_row(columns: &[Column], rows: usize) -> Result<(), DecodeError> {
    if columns.iter().any(|column| column.present.is_all()) {
        return Ok(());
    }
    let mut has = Presence::none(rows);
    columns.iter().for_each(|column| has.union(&column.present));
    if has.is_all() { Ok(()) } else { Err(DecodeError::Invalid("a row has no values")) }
}
