//! Integers whose number is known from elsewhere.
//!
//! Invariant: any 64-bit integers round trip, and decoding allocates at most some words for each
//! that the caller asks for and has limited.

use pco::ModeSpec;
use quorate_protocol::batch::codec::{Reader, packed, put_varint, zigzag};

use super::{BlockError, Density, dense};

/// Eight bytes each.
const RAW: u8 = 0;
/// Chunks of a base and a width.
const PACKED: u8 = 1;
/// A base, a factor and 16-bit numbers as a pco chunk.
const DENSE_16: u8 = 2;
/// The same with 32-bit numbers.
const DENSE_32: u8 = 3;
/// The same with 64-bit numbers.
const DENSE_64: u8 = 4;

/// What packs into this is not worth trying more, in bytes.
const SMALL: usize = 24;

/// Appends integers.
pub(super) fn encode(out: &mut Vec<u8>, numbers: &[i64], density: Density) {
    let start = out.len();
    out.push(PACKED);
    packed::encode(out, numbers);
    let len = out.len() - start;
    if density == Density::Dense && len > SMALL {
        let end = out.len();
        if encode_dense(out, numbers, len.min(1 + 8 * numbers.len())) {
            out.drain(start..end);
            return;
        }
        out.truncate(end);
    }
    if len > 1 + 8 * numbers.len() {
        out.truncate(start);
        out.push(RAW);
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    }
}

/// Appends integers if that takes less than `limit` bytes; if not, what was appended is waste.
fn encode_dense(out: &mut Vec<u8>, numbers: &[i64], limit: usize) -> bool {
    let fold = |(least, most): (i64, i64), number: &i64| (least.min(*number), most.max(*number));
    let (base, most) = numbers.iter().fold((i64::MAX, i64::MIN), fold);
    let above = |number: &i64| number.wrapping_sub(base).cast_unsigned();
    let mut factor = 0;
    for number in numbers {
        factor = common_divisor(factor, above(number));
        if factor == 1 {
            break;
        }
    }
    let factor = factor.max(1);
    let numbers: Vec<u64> = match factor {
        // Dividing by one takes as long as by anything else.
        1 => numbers.iter().map(above).collect(),
        _ => numbers.iter().map(|number| above(number) / factor).collect(),
    };
    let orders = dense::likely_orders(&numbers);
    let (width, start) = (64 - (above(&most) / factor).leading_zeros(), out.len());
    out.push(match width {
        0..=16 => DENSE_16,
        17..=32 => DENSE_32,
        _ => DENSE_64,
    });
    put_varint(out, zigzag(base));
    put_varint(out, factor);
    let Some(limit) = limit.checked_sub(out.len() - start) else { return false };
    match width {
        0..=16 => {
            let numbers: Vec<u16> = numbers.iter().map(|number| *number as u16).collect();
            dense::encode(out, &numbers, &ModeSpec::Classic, orders, limit)
        }
        17..=32 => {
            let numbers: Vec<u32> = numbers.iter().map(|number| *number as u32).collect();
            dense::encode(out, &numbers, &ModeSpec::Classic, orders, limit)
        }
        _ => dense::encode(out, &numbers, &ModeSpec::Classic, orders, limit),
    }
}

/// The greatest common divisor; 0 divides by everything.
const fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    // The usual case: the divisor so far holds.
    if a != 0 && b.is_multiple_of(a) {
        return a;
    }
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Reads `count` integers.
pub(super) fn decode(reader: &mut Reader<'_>, count: usize) -> Result<Vec<i64>, BlockError> {
    fn above<T: pco::data_types::Number + Default + Into<u64>>(
        reader: &mut Reader<'_>,
        count: usize,
    ) -> Result<Vec<i64>, BlockError> {
        let (base, factor) = (reader.zigzag()?, reader.varint()?);
        let numbers = dense::decode::<T>(reader, count)?.into_iter();
        let number =
            |number: T| base.wrapping_add(number.into().wrapping_mul(factor).cast_signed());
        Ok(numbers.map(number).collect())
    }
    match reader.u8()? {
        RAW => Ok(words(reader, count)?.map(i64::from_le_bytes).collect()),
        PACKED => Ok(packed::decode(reader, count)?),
        DENSE_16 => above::<u16>(reader, count),
        DENSE_32 => above::<u32>(reader, count),
        DENSE_64 => above::<u64>(reader, count),
        _ => Err(BlockError::Invalid("an encoding of integers is unknown")),
    }
}

/// Eight bytes each.
pub(super) fn words<'a>(
    reader: &mut Reader<'a>,
    count: usize,
) -> Result<impl Iterator<Item = [u8; 8]> + 'a, BlockError> {
    let (words, _) = reader.take(count.checked_mul(8).ok_or(BlockError::Truncated)?)?.as_chunks();
    Ok(words.iter().copied())
}
