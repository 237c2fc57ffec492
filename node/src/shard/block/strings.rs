//! Strings: plain, or a dictionary and indices when few of them differ.
//!
//! Invariant: all strings of a decoded column share one copy of the section's bytes, so that their
//! memory is bounded by the section however often one is named.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher},
};

use bytes::Bytes;
use quorate_protocol::{
    batch::codec::{Reader, put_varint},
    point::MAX_STRING_LEN,
};

use super::{BlockError, Density, integers};

/// Lengths and bytes.
const PLAIN: u8 = 0;
/// Number, lengths and bytes of distinct strings, then an index per value.
const DICTIONARY: u8 = 1;

/// Appends strings.
pub(super) fn encode(out: &mut Vec<u8>, values: &[Bytes], density: Density) {
    match dictionary(values) {
        None => {
            out.push(PLAIN);
            put(out, values, density);
        }
        Some((distinct, indices)) => {
            out.push(DICTIONARY);
            put_varint(out, distinct.len() as u64);
            put(out, &distinct, density);
            integers::encode(out, &indices, density);
        }
    }
}

/// The distinct strings in order of their first occurrence, and each value's place among them; none
/// if more than half of the values differ.
fn dictionary(values: &[Bytes]) -> Option<(Vec<&Bytes>, Vec<i64>)> {
    let mut places: HashMap<&[u8], i64, BuildHasherDefault<DefaultHasher>> = HashMap::default();
    let mut distinct = Vec::new();
    let mut indices = Vec::with_capacity(values.len());
    let most = values.len() / 2;
    let mut last: Option<(&Bytes, i64)> = None;
    for value in values {
        let index = match last {
            Some((same, index)) if same == value => index,
            _ => *places.entry(value).or_insert_with(|| {
                distinct.push(value);
                distinct.len() as i64 - 1
            }),
        };
        if distinct.len() > most {
            return None;
        }
        indices.push(index);
        last = Some((value, index));
    }
    Some((distinct, indices))
}

fn put<B: AsRef<[u8]>>(out: &mut Vec<u8>, values: &[B], density: Density) {
    let lengths: Vec<i64> = values.iter().map(|value| value.as_ref().len() as i64).collect();
    integers::encode(out, &lengths, density);
    values.iter().for_each(|value| out.extend_from_slice(value.as_ref()));
}

/// Reads `count` strings.
pub(super) fn decode(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Bytes>, BlockError> {
    match reader.u8()? {
        PLAIN => take(reader, count),
        DICTIONARY => {
            let distinct = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
            if distinct > count {
                return Err(BlockError::Invalid("a dictionary is larger than its column"));
            }
            let distinct = take(reader, distinct)?;
            let indices = integers::decode(reader, count)?;
            let value = |index: i64| usize::try_from(index).ok().and_then(|at| distinct.get(at));
            let values = indices.into_iter().map(|index| value(index).cloned());
            values.collect::<Option<_>>().ok_or(BlockError::Invalid("a string is not there"))
        }
        _ => Err(BlockError::Invalid("an encoding of strings is unknown")),
    }
}

fn take(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Bytes>, BlockError> {
    let lengths = integers::decode(reader, count)?;
    let mut ends = Vec::with_capacity(count);
    let mut end = 0_usize;
    for length in lengths {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_STRING_LEN {
            return Err(BlockError::Invalid("a string is too long"));
        }
        // At most 2^20 lengths of at most 2^20 each.
        end += length;
        ends.push(end);
    }
    let bytes = Bytes::copy_from_slice(reader.take(end)?);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    Ok(starts.zip(&ends).map(|(start, end)| bytes.slice(start..*end)).collect())
}
