//! Integers in chunks of 64, each a base and as few bits per number as the chunk allows.
//!
//! A chunk is either *plain* (numbers minus the smallest of them) or *delta* (differences minus the
//! smallest of them), whichever is shorter. Invariant: all arithmetic wraps at 64 bits, so every
//! input has an encoding and every encoding that is long enough has a meaning. The number of
//! numbers is known from elsewhere.

use super::{Reader, put_varint, zigzag};
use crate::batch::DecodeError;

/// Numbers per chunk.
const CHUNK: usize = 64;
/// Eight numbers of this width fit a word.
const NARROW: u8 = 8;
/// The flag of a delta chunk, beside the width in the chunk's first byte.
const DELTA: u8 = 0x80;

/// Appends the numbers.
pub fn encode(out: &mut Vec<u8>, numbers: &[i64]) {
    let mut last = 0;
    for chunk in numbers.chunks(CHUNK) {
        last = encode_chunk(out, chunk, last);
    }
}

fn encode_chunk(out: &mut Vec<u8>, chunk: &[i64], last: i64) -> i64 {
    let (first, end) = (chunk[0], chunk[chunk.len() - 1]);
    let (base, width) = frame(chunk);
    if width > 0 {
        let mut deltas = [0; CHUNK];
        for (delta, two) in deltas.iter_mut().zip(chunk.windows(2)) {
            *delta = two[1].wrapping_sub(two[0]);
        }
        let deltas = &deltas[..chunk.len() - 1];
        let (step, narrow) = frame(deltas);
        // A delta chunk pays a second base, about two bytes.
        if usize::from(narrow) * deltas.len() + 16 < usize::from(width) * chunk.len() {
            out.push(DELTA | narrow);
            put_varint(out, zigzag(first.wrapping_sub(last)));
            put_varint(out, zigzag(step));
            pack(out, deltas, step, narrow);
            return end;
        }
    }
    out.push(width);
    put_varint(out, zigzag(base.wrapping_sub(last)));
    pack(out, chunk, base, width);
    end
}

/// The smallest number, and the bits that the largest distance from it takes.
fn frame(numbers: &[i64]) -> (i64, u8) {
    // Four at a time: each would have to wait for the one before it.
    let (mut least, mut most) = ([i64::MAX; 4], [i64::MIN; 4]);
    let (fours, rest) = numbers.as_chunks::<4>();
    for four in fours {
        for lane in 0..4 {
            least[lane] = least[lane].min(four[lane]);
            most[lane] = most[lane].max(four[lane]);
        }
    }
    for &number in rest {
        least[0] = least[0].min(number);
        most[0] = most[0].max(number);
    }
    if numbers.is_empty() {
        return (0, 0);
    }
    let least = least[0].min(least[1]).min(least[2]).min(least[3]);
    let most = most[0].max(most[1]).max(most[2]).max(most[3]);
    let width = 64 - most.wrapping_sub(least).cast_unsigned().leading_zeros();
    (least, width as u8)
}

/// Appends `number - base` in `width` bits each, least significant bit first, padded to a byte.
fn pack(out: &mut Vec<u8>, numbers: &[i64], base: i64, width: u8) {
    if width == 0 {
        return;
    }
    let mut buffer = [0_u8; CHUNK * 8 + 8];
    if width <= NARROW {
        // Eight numbers are as many whole bytes as each is bits.
        for (at, eight) in numbers.chunks(8).enumerate() {
            let mut word = 0;
            for (index, number) in eight.iter().enumerate() {
                let number = number.wrapping_sub(base).cast_unsigned();
                word |= number << (index * usize::from(width));
            }
            let at = at * usize::from(width);
            buffer[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&buffer[..packed_len(numbers.len(), width)]);
        return;
    }
    let (mut pending, mut bits, mut at) = (0_u64, 0_u32, 0);
    let width_bits = u32::from(width);
    for &number in numbers {
        let number = number.wrapping_sub(base).cast_unsigned();
        pending |= number << bits;
        bits += width_bits;
        if bits >= 64 {
            buffer[at..at + 8].copy_from_slice(&pending.to_le_bytes());
            at += 8;
            bits -= 64;
            // What did not fit; nothing if `bits` is 0, when the shift may be of the whole width.
            pending = number.checked_shr(width_bits - bits).unwrap_or(0);
        }
    }
    buffer[at..at + 8].copy_from_slice(&pending.to_le_bytes());
    out.extend_from_slice(&buffer[..packed_len(numbers.len(), width)]);
}

const fn packed_len(count: usize, width: u8) -> usize {
    (count * width as usize).div_ceil(8)
}

/// The fewest bytes that `count` numbers can take.
#[must_use]
pub const fn least_len(count: usize) -> usize {
    count.div_ceil(CHUNK) * 2
}

/// Reads `count` numbers.
///
/// # Errors
/// The bytes end too early or break a rule of the encoding.
pub fn decode(reader: &mut Reader<'_>, count: usize) -> Result<Vec<i64>, DecodeError> {
    if least_len(count) > reader.remaining() {
        return Err(DecodeError::Truncated);
    }
    let mut out = Vec::with_capacity(count);
    let mut last = 0_i64;
    let mut left = count;
    while left > 0 {
        let len = left.min(CHUNK);
        let head = reader.u8()?;
        let width = head & !DELTA;
        if width > 64 {
            return Err(DecodeError::Invalid("a chunk is wider than 64 bits"));
        }
        let first = last.wrapping_add(reader.zigzag()?);
        if head & DELTA == 0 {
            unpack(reader, &mut out, len, width, first)?;
        } else {
            let step = reader.zigzag()?;
            out.push(first);
            let from = out.len();
            unpack(reader, &mut out, len - 1, width, step)?;
            let mut number = first;
            for delta in &mut out[from..] {
                number = number.wrapping_add(*delta);
                *delta = number;
            }
        }
        last = out.last().copied().unwrap_or(last);
        left -= len;
    }
    Ok(out)
}

fn unpack(
    reader: &mut Reader<'_>,
    out: &mut Vec<i64>,
    count: usize,
    width: u8,
    base: i64,
) -> Result<(), DecodeError> {
    let bytes = reader.take(packed_len(count, width))?;
    if width == 0 {
        out.resize(out.len() + count, base);
        return Ok(());
    }
    // Room beyond the last number, so that every number can be read with a full word.
    let mut buffer = [0_u8; CHUNK * 8 + 16];
    buffer[..bytes.len()].copy_from_slice(bytes);
    let width = usize::from(width);
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&buffer[at..at + 8]);
        u64::from_le_bytes(word)
    };
    if width <= usize::from(NARROW) {
        let mask = (1_u64 << width) - 1;
        let mut numbers = [0_i64; CHUNK];
        for (at, eight) in numbers.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let word = word(at * width);
            for (index, number) in eight.iter_mut().enumerate() {
                *number = base.wrapping_add((word >> (index * width) & mask).cast_signed());
            }
        }
        out.extend_from_slice(&numbers[..count]);
    } else if width <= 56 {
        let mask = (1_u64 << width) - 1;
        out.extend((0..count).map(|index| {
            let bit = index * width;
            base.wrapping_add((word(bit / 8) >> (bit % 8) & mask).cast_signed())
        }));
    } else {
        let mask = u64::MAX >> (64 - width);
        out.extend((0..count).map(|index| {
            let bit = index * width;
            let two = u128::from(word(bit / 8)) | u128::from(word(bit / 8 + 8)) << 64;
            base.wrapping_add(((two >> (bit % 8)) as u64 & mask).cast_signed())
        }));
    }
    let tail = count * width % 8;
    if tail != 0 && bytes.last().is_some_and(|byte| byte >> tail != 0) {
        return Err(DecodeError::Invalid("padding bits are set"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(numbers: &[i64]) -> usize {
        let mut out = Vec::new();
        encode(&mut out, numbers);
        let mut reader = Reader::new(&out);
        assert_eq!(decode(&mut reader, numbers.len()).unwrap(), numbers);
        reader.finish().unwrap();
        for cut in 0..out.len() {
            assert!(decode(&mut Reader::new(&out[..cut]), numbers.len()).is_err(), "cut at {cut}");
        }
        out.len()
    }

    #[test]
    fn regular_numbers_take_next_to_nothing() {
        assert_eq!(round_trip(&[]), 0);
        assert_eq!(round_trip(&[7; 64]), 2);
        assert_eq!(round_trip(&[0]), 2);
        let clock: Vec<i64> =
            (0..640).map(|i| 1_700_000_000_000_000_000 + i * 1_000_000_000).collect();
        assert!(round_trip(&clock) < 10 * 12 + 8);
        round_trip(&[i64::MIN, i64::MAX, 0, -1, i64::MAX, i64::MIN]);
    }

    proptest! {
        #[test]
        fn any_numbers_round_trip(
            (numbers, shift) in (prop::collection::vec(any::<i64>(), 0..200), 0_u32..64)
        ) {
            round_trip(&numbers);
            let small: Vec<i64> = numbers.iter().map(|number| number >> shift).collect();
            round_trip(&small);
        }

        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..300), count in 0_usize..10_000) {
            let _ = decode(&mut Reader::new(&bytes), count);
        }
    }
}
