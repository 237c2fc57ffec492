//! What a block's head knows of a column's values, so that aggregates need not decode them.
//!
//! Invariant: statistics exist only in blocks of one series that have every time once, and cover
//! every present value of their column; a sum that overflows or a string that is long leaves the
//! column without any.

use quorate_protocol::{
    batch::{
        Column, Presence, Values,
        codec::{Reader, put_bytes, put_varint, zigzag},
    },
    point::Value,
    schema::FieldType,
};

use super::BlockError;

/// Longer strings make their column go without statistics, in bytes.
const MAX_STRING: usize = 64;
/// Sums that are independent of each other, so that the processor can work on all at once.
const LANES: usize = 4;

/// A sum that lost nothing that matters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sum {
    /// Of strings and booleans there is none.
    None,
    /// Of floats: the two numbers added up.
    Float {
        /// The sum, rounded.
        high: f64,
        /// What rounding lost.
        low: f64,
    },
    /// Of integers and unsigned integers.
    Integer(i128),
}

/// Of the present values of a column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statistics {
    /// How many there are, at least 1.
    pub(crate) count: u64,
    /// Their sum.
    pub(crate) sum: Sum,
    /// The smallest; of zeros, the negative one.
    pub(crate) min: Value,
    /// The largest; of zeros, the positive one.
    pub(crate) max: Value,
    /// The earliest, with its time.
    pub(crate) first: (i64, Value),
    /// The latest, with its time.
    pub(crate) last: (i64, Value),
}

impl Statistics {
    /// Of a column with at least one value; `times` ascend strictly.
    pub(crate) fn of(column: &Column, times: &[i64]) -> Option<Self> {
        let present = &column.present;
        let (sum, min, max) = match &column.values {
            Values::Float(values) => {
                let sum = sum_floats(values, present)?;
                let (min, max) = float_extremes(values, present);
                (sum, Value::Float(min), Value::Float(max))
            }
            Values::Integer(values) => {
                let sum = sum_integers(values, present);
                let (min, max) = extremes(values, present, Ord::cmp)?;
                (sum, Value::Integer(*min), Value::Integer(*max))
            }
            Values::Unsigned(values) => {
                let sum = sum_integers(values, present);
                let (min, max) = extremes(values, present, Ord::cmp)?;
                (sum, Value::Unsigned(*min), Value::Unsigned(*max))
            }
            Values::Boolean(values) => {
                let (min, max) = extremes(values, present, Ord::cmp)?;
                (Sum::None, Value::Boolean(*min), Value::Boolean(*max))
            }
            Values::String(values) => {
                if present.runs().any(|run| values[run].iter().any(|it| it.len() > MAX_STRING)) {
                    return None;
                }
                let (min, max) = extremes(values, present, Ord::cmp)?;
                (Sum::None, Value::String(min.clone()), Value::String(max.clone()))
            }
        };
        let at = |row: usize| Some((times[row], column.get(row)?.to_value()));
        Some(Self {
            count: present.count() as u64,
            sum,
            min,
            max,
            first: at(present.runs().next()?.start)?,
            last: at(present.runs().last()?.end - 1)?,
        })
    }

    /// Appends the statistics; `range` are the earliest and the latest time of the block.
    pub(super) fn encode(&self, out: &mut Vec<u8>, range: (i64, i64)) {
        put_varint(out, self.count);
        match self.sum {
            Sum::None => {}
            Sum::Float { high, low } => {
                put_value(out, &Value::Float(high));
                put_value(out, &Value::Float(low));
            }
            Sum::Integer(sum) => out.extend_from_slice(&sum.to_le_bytes()),
        }
        put_value(out, &self.min);
        put_value(out, &self.max);
        put_varint(out, self.first.0.wrapping_sub(range.0).cast_unsigned());
        put_value(out, &self.first.1);
        put_varint(out, range.1.wrapping_sub(self.last.0).cast_unsigned());
        put_value(out, &self.last.1);
    }

    pub(super) fn decode(
        reader: &mut Reader<'_>,
        kind: FieldType,
        rows: usize,
        range: (i64, i64),
    ) -> Result<Self, BlockError> {
        let count = reader.varint()?;
        if count == 0 || count > rows as u64 {
            return Err(BlockError::Invalid("statistics count impossible values"));
        }
        let sum = match kind {
            FieldType::Float => Sum::Float { high: take_float(reader)?, low: take_float(reader)? },
            FieldType::Integer | FieldType::Unsigned => {
                Sum::Integer(i128::from_le_bytes(reader.array()?))
            }
            FieldType::Boolean | FieldType::String => Sum::None,
        };
        let min = take_value(reader, kind)?;
        let max = take_value(reader, kind)?;
        let first = range.0.checked_add_unsigned(reader.varint()?);
        let first_value = take_value(reader, kind)?;
        let last = range.1.checked_sub_unsigned(reader.varint()?);
        let last_value = take_value(reader, kind)?;
        match (first, last) {
            (Some(first), Some(last)) if first <= last => Ok(Self {
                count,
                sum,
                min,
                max,
                first: (first, first_value),
                last: (last, last_value),
            }),
            _ => Err(BlockError::Invalid("statistics have impossible times")),
        }
    }
}

fn extremes<'a, T>(
    values: &'a [T],
    present: &Presence,
    order: impl Fn(&T, &T) -> std::cmp::Ordering,
) -> Option<(&'a T, &'a T)> {
    let first = values.get(present.runs().next()?.start)?;
    let (mut min, mut max) = (first, first);
    for run in present.runs() {
        for value in &values[run] {
            min = if order(value, min).is_lt() { value } else { min };
            max = if order(value, max).is_gt() { value } else { max };
        }
    }
    Some((min, max))
}

/// As [`extremes`], in the order of `total_cmp`, but in words that processors have instructions for.
fn float_extremes(values: &[f64], present: &Presence) -> (f64, f64) {
    let (mut min, mut max) = ([f64::INFINITY; LANES], [f64::NEG_INFINITY; LANES]);
    for run in present.runs() {
        let (chunks, rest) = values[run].as_chunks::<LANES>();
        let mut more = |chunk: &[f64]| {
            for ((min, max), value) in min.iter_mut().zip(&mut max).zip(chunk) {
                *min = if value < min { *value } else { *min };
                *max = if value > max { *value } else { *max };
            }
        };
        chunks.iter().for_each(|chunk| more(chunk));
        more(rest);
    }
    let min = min.into_iter().fold(f64::INFINITY, f64::min);
    let max = max.into_iter().fold(f64::NEG_INFINITY, f64::max);
    // The comparisons take both zeros for the same.
    let has = |zero: f64| {
        let mut values = present.runs().flat_map(|run| &values[run]);
        values.any(|value| value.to_bits() == zero.to_bits())
    };
    let min = if min == 0.0 { if has(-0.0) { -0.0 } else { 0.0 } } else { min };
    let max = if max == 0.0 { if has(0.0) { 0.0 } else { -0.0 } } else { max };
    (min, max)
}

fn sum_integers<T: Copy + Into<i128>>(values: &[T], present: &Presence) -> Sum {
    let values = present.runs().flat_map(|run| &values[run]);
    Sum::Integer(values.map(|value| (*value).into()).sum())
}

/// `None` if the sum overflows.
fn sum_floats(values: &[f64], present: &Presence) -> Option<Sum> {
    let mut lanes = [(0.0, 0.0); LANES];
    for run in present.runs() {
        let (chunks, rest) = values[run].as_chunks::<LANES>();
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(lane, value)| add(lane, *value));
        }
        lanes.iter_mut().zip(rest).for_each(|(lane, value)| add(lane, *value));
    }
    let (mut high, mut low) = (0.0, 0.0);
    for (more, rest) in lanes {
        let mut sum = (high, low);
        add(&mut sum, more);
        (high, low) = (sum.0, sum.1 + rest);
    }
    let sum = high + low;
    let low = low - (sum - high);
    (sum.is_finite() && low.is_finite()).then_some(Sum::Float { high: sum, low })
}

/// Adds a value to a sum and what its rounding loses to the second number.
fn add((high, low): &mut (f64, f64), value: f64) {
    let sum = *high + value;
    let part = sum - *high;
    *low += (*high - (sum - part)) + (value - part);
    *high = sum;
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        // Short numbers have zeros in their low bytes.
        Value::Float(value) => put_varint(out, value.to_bits().swap_bytes()),
        Value::Integer(value) => put_varint(out, zigzag(*value)),
        Value::Unsigned(value) => put_varint(out, *value),
        Value::Boolean(value) => out.push(u8::from(*value)),
        Value::String(value) => put_bytes(out, value),
    }
}

fn take_float(reader: &mut Reader<'_>) -> Result<f64, BlockError> {
    let value = f64::from_bits(reader.varint()?.swap_bytes());
    if value.is_finite() { Ok(value) } else { Err(BlockError::Invalid("a float is not finite")) }
}

fn take_value(reader: &mut Reader<'_>, kind: FieldType) -> Result<Value, BlockError> {
    Ok(match kind {
        FieldType::Float => Value::Float(take_float(reader)?),
        FieldType::Integer => Value::Integer(reader.zigzag()?),
        FieldType::Unsigned => Value::Unsigned(reader.varint()?),
        FieldType::Boolean => match reader.u8()? {
            0 => Value::Boolean(false),
            1 => Value::Boolean(true),
            _ => return Err(BlockError::Invalid("a boolean is neither true nor false")),
        },
        FieldType::String => {
            let value = reader.bytes()?;
            if value.len() > MAX_STRING {
                return Err(BlockError::Invalid("statistics have a long string"));
            }
            Value::String(bytes::Bytes::copy_from_slice(value))
        }
    })
}
