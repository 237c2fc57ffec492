//! Integers whose number is known from elsewhere.
//!
//! Invariant: any 64-bit integers round trip, and decoding allocates eight bytes for each that the
//! caller asks for and has limited.

use quorate_protocol::batch::codec::{Reader, packed};

use super::{BlockError, Density};

/// Eight bytes each.
const RAW: u8 = 0;
/// Chunks of a base and a width.
const PACKED: u8 = 1;

/// Appends integers.
pub(super) fn encode(out: &mut Vec<u8>, numbers: &[i64], _density: Density) {
    let start = out.len();
    out.push(PACKED);
    packed::encode(out, numbers);
    if out.len() - start > 1 + 8 * numbers.len() {
        out.truncate(start);
        out.push(RAW);
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    }
}

/// Reads `count` integers.
pub(super) fn decode(reader: &mut Reader<'_>, count: usize) -> Result<Vec<i64>, BlockError> {
    Ok(match reader.u8()? {
        RAW => words(reader, count)?.map(i64::from_le_bytes).collect(),
        PACKED => packed::decode(reader, count)?,
        _ => return Err(BlockError::Invalid("an encoding of integers is unknown")),
    })
}

/// Eight bytes each.
pub(super) fn words<'a>(
    reader: &mut Reader<'a>,
    count: usize,
) -> Result<impl Iterator<Item = [u8; 8]> + 'a, BlockError> {
    let (words, _) = reader.take(count.checked_mul(8).ok_or(BlockError::Truncated)?)?.as_chunks();
    Ok(words.iter().copied())
}
