//! The windows of one field of one series as bytes.
//!
//! Invariant: what decodes obeys every rule in `SPEC.md`: windows ascend and hold their times,
//! counts are not 0, the least value is not above the greatest, and a sum of integers lies where
//! the count, the least and the greatest allow. Sent by nodes as answers to aggregates.

use bytes::Bytes;

use super::{Partial, Sum, value_cmp};
use crate::{
    batch::{
        DecodeError,
        codec::{Reader, put_bytes, put_varint, zigzag},
    },
    id::FieldId,
    point::{MAX_KEY_LEN, MAX_STRING_LEN, MAX_TIME, MIN_TIME, Value},
    schema::FieldType,
};

/// The version of the format.
const FORMAT: u8 = 1;
/// The least bytes a window takes: start, count, first time and value.
const LEAST_WINDOW: usize = 4;

/// Some windows of one field of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldWindows {
    /// The canonical series key.
    pub key: Bytes,
    /// The field, as metadata numbers it.
    pub field: FieldId,
    /// The field's name, unescaped.
    pub name: Bytes,
    /// The type of its values.
    pub kind: FieldType,
    /// Start of each window and what is in it, ascending; windows without values are left out.
    pub windows: Vec<(i64, Partial)>,
}

impl FieldWindows {
    /// Appends them, self-contained and checksummed.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        out.push(FORMAT);
        put_bytes(out, &self.key);
        out.extend_from_slice(&self.field.0.to_le_bytes());
        put_bytes(out, &self.name);
        out.push(self.kind as u8);
        put_varint(out, self.windows.len() as u64);
        let mut before = None;
        for (start, partial) in &self.windows {
            match before {
                None => put_varint(out, zigzag(*start)),
                Some(before) => put_varint(out, distance(before, *start)),
            }
            before = Some(*start);
            encode_partial(out, *start, partial);
        }
        let checksum = crc32fast::hash(out.get(at + 4..).unwrap_or_default());
        if let Some(head) = out.get_mut(at..at + 4) {
            head.copy_from_slice(&checksum.to_le_bytes());
        }
    }

    /// Reads them back and checks everything about them.
    ///
    /// # Errors
    /// The bytes are damaged, or break a rule of the format.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let checksum = reader.u32()?;
        if crc32fast::hash(bytes.get(4..).unwrap_or_default()) != checksum {
            return Err(DecodeError::BadChecksum);
        }
        match reader.u8()? {
            FORMAT => {}
            other => return Err(DecodeError::UnknownFormat(other.into())),
        }
        let name = |reader: &mut Reader<'_>| match reader.bytes()? {
            name if (1..=MAX_KEY_LEN).contains(&name.len()) => Ok(Bytes::copy_from_slice(name)),
            _ => Err(DecodeError::Invalid("a key or a name is empty or too long")),
        };
        let key = name(&mut reader)?;
        let field = FieldId(reader.u32()?);
        let name = name(&mut reader)?;
        let kind = FieldType::from_u8(reader.u8()?)
            .ok_or(DecodeError::Invalid("a field type is unknown"))?;
        let count = reader.count(LEAST_WINDOW)?;
        // At least four bytes each: never many times what was received.
        let mut windows: Vec<(i64, Partial)> = Vec::with_capacity(count);
        for _ in 0..count {
            let start = match windows.last() {
                None => reader.zigzag()?,
                Some((before, partial)) => {
                    let start = after(*before, reader.varint()?)?;
                    if start <= partial.last.0 {
                        return Err(DecodeError::Invalid("windows overlap"));
                    }
                    start
                }
            };
            windows.push((start, decode_partial(&mut reader, start, kind)?));
        }
        reader.finish()?;
        Ok(Self { key, field, name, kind, windows })
    }
}

/// How far `to` is behind `from`, which is not later.
const fn distance(from: i64, to: i64) -> u64 {
    to.wrapping_sub(from).cast_unsigned()
}

/// The time this far behind another.
fn after(from: i64, distance: u64) -> Result<i64, DecodeError> {
    from.checked_add_unsigned(distance).ok_or(DecodeError::Invalid("a time is out of range"))
}

fn encode_partial(out: &mut Vec<u8>, start: i64, partial: &Partial) {
    put_varint(out, partial.count);
    put_varint(out, distance(start, partial.first.0));
    put_value(out, &partial.first.1);
    if partial.count == 1 {
        return;
    }
    put_varint(out, distance(partial.first.0, partial.last.0));
    put_value(out, &partial.last.1);
    if partial.kind() != FieldType::String {
        put_value(out, &partial.min);
        put_value(out, &partial.max);
    }
    match partial.sum {
        Sum::None => {}
        Sum::Float { high, low } => {
            out.extend_from_slice(&high.to_le_bytes());
            out.extend_from_slice(&low.to_le_bytes());
        }
        Sum::Integer(sum) => out.extend_from_slice(&sum.to_le_bytes()),
    }
}

fn decode_partial(
    reader: &mut Reader<'_>,
    start: i64,
    kind: FieldType,
) -> Result<Partial, DecodeError> {
    let count = reader.varint()?;
    let time = after(start, reader.varint()?)?;
    let mut partial = Partial::one(time, value(reader, kind)?);
    let in_range = |time: i64| (MIN_TIME..=MAX_TIME).contains(&time);
    if count == 0 || !in_range(time) {
        return Err(DecodeError::Invalid("a window has no values, or impossible times"));
    }
    if count == 1 {
        return Ok(partial);
    }
    let last = after(time, reader.varint()?)?;
    if last == time || !in_range(last) {
        return Err(DecodeError::Invalid("a window has impossible times"));
    }
    partial.count = count;
    partial.last = (last, value(reader, kind)?);
    if kind != FieldType::String {
        partial.min = value(reader, kind)?;
        partial.max = value(reader, kind)?;
        let (min, max) = (partial.min.as_ref(), partial.max.as_ref());
        for end in [&partial.first.1, &partial.last.1] {
            let end = end.as_ref();
            if value_cmp(end, min).is_lt() || value_cmp(end, max).is_gt() {
                return Err(DecodeError::Invalid("a value lies outside of its window's range"));
            }
        }
    }
    partial.sum = sum(reader, &partial)?;
    Ok(partial)
}

/// The sum, if it is possible.
fn sum(reader: &mut Reader<'_>, partial: &Partial) -> Result<Sum, DecodeError> {
    let bound = |end: &Value| match *end {
        Value::Integer(end) => i128::from(end).saturating_mul(partial.count.into()),
        Value::Unsigned(end) => i128::from(end).saturating_mul(partial.count.into()),
        _ => 0,
    };
    let (sum, possible) = match partial.sum {
        Sum::None => return Ok(Sum::None),
        Sum::Float { .. } => {
            let (high, low) =
                (f64::from_le_bytes(reader.array()?), f64::from_le_bytes(reader.array()?));
            let sum = Sum::float(high, low);
            // In one form only; bits are compared, since -0.0 equals 0.0.
            let same = matches!(sum, Sum::Float { high: h, low: l }
                if (h.to_bits(), l.to_bits()) == (high.to_bits(), low.to_bits()));
            (sum, same)
        }
        Sum::Integer(_) => {
            let sum = i128::from_le_bytes(reader.array()?);
            let range = bound(&partial.min)..=bound(&partial.max);
            (Sum::Integer(sum), range.contains(&sum))
        }
    };
    if possible { Ok(sum) } else { Err(DecodeError::Invalid("a sum is impossible")) }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Float(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Integer(value) => put_varint(out, zigzag(*value)),
        Value::Unsigned(value) => put_varint(out, *value),
        Value::Boolean(value) => out.push(u8::from(*value)),
        Value::String(value) => put_bytes(out, value),
    }
}

fn value(reader: &mut Reader<'_>, kind: FieldType) -> Result<Value, DecodeError> {
    Ok(match kind {
        FieldType::Float => match f64::from_le_bytes(reader.array()?) {
            value if value.is_finite() => Value::Float(value),
            _ => return Err(DecodeError::Invalid("a float is not finite")),
        },
        FieldType::Integer => Value::Integer(reader.zigzag()?),
        FieldType::Unsigned => Value::Unsigned(reader.varint()?),
        FieldType::Boolean => match reader.u8()? {
            bit @ 0..=1 => Value::Boolean(bit == 1),
            _ => return Err(DecodeError::Invalid("a boolean is neither 0 nor 1")),
        },
        FieldType::String => match reader.bytes()? {
            value if value.len() <= MAX_STRING_LEN => Value::String(Bytes::copy_from_slice(value)),
            _ => return Err(DecodeError::Invalid("a string is too long")),
        },
    })
}
