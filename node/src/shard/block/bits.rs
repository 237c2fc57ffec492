//! One bit per row: which rows have a value, and the values of booleans.
//!
//! Invariant: what is decoded has exactly the length that was asked for, and takes an eighth of a
//! byte per row, however few bytes say so.

use quorate_protocol::batch::{
    Presence,
    codec::{Reader, put_varint},
};

use super::BlockError;

/// Every bit is set.
const ALL: u8 = 0;
/// The bits follow.
const BITMAP: u8 = 1;
/// The lengths of runs of equal bits follow.
const RUNS: u8 = 2;

/// Appends the bits in the shortest form.
pub(super) fn encode(out: &mut Vec<u8>, bits: &Presence) {
    let Some(words) = bits.words() else {
        out.push(ALL);
        return;
    };
    let bitmap = bits.len().div_ceil(8);
    let start = out.len();
    if flips(words) < bitmap {
        out.push(RUNS);
        let mut lengths = Vec::new();
        let mut end = 0;
        for run in bits.runs() {
            lengths.extend([run.start - end, run.len()]);
            end = run.end;
        }
        if end < bits.len() {
            lengths.push(bits.len() - end);
        }
        put_varint(out, lengths.len() as u64);
        lengths.iter().for_each(|length| put_varint(out, *length as u64));
        if out.len() - start <= 1 + bitmap {
            return;
        }
        out.truncate(start);
    }
    out.push(BITMAP);
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    out.truncate(start + 1 + bitmap);
}

/// How often a bit differs from the one before.
fn flips(words: &[u64]) -> usize {
    let mut carry = 0;
    let mut flips = 0;
    for word in words {
        flips += (word ^ (word << 1 | carry)).count_ones() as usize;
        carry = word >> 63;
    }
    flips
}

/// Reads `len` bits.
pub(super) fn decode(reader: &mut Reader<'_>, len: usize) -> Result<Presence, BlockError> {
    match reader.u8()? {
        ALL => Ok(Presence::all(len)),
        BITMAP => {
            let words = reader.take(len.div_ceil(8))?.chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            });
            Presence::from_words(len, words.collect())
                .ok_or(BlockError::Invalid("padding bits are set"))
        }
        RUNS => {
            let mut bits = Presence::all(0);
            for at in 0..reader.count(1)? {
                let length = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
                if length > len - bits.len() || (length == 0 && at > 0) {
                    return Err(BlockError::Invalid("a run of bits has an impossible length"));
                }
                bits.extend_with(at % 2 == 1, length);
            }
            if bits.len() == len {
                Ok(bits)
            } else {
                Err(BlockError::Invalid("runs of bits end too early"))
            }
        }
        _ => Err(BlockError::Invalid("an encoding of bits is unknown")),
    }
}

/// The bits of booleans.
pub(super) fn pack(values: &[bool]) -> Presence {
    let word = |chunk: &[bool]| {
        chunk.iter().enumerate().fold(0, |word, (at, bit)| word | u64::from(*bit) << at)
    };
    Presence::from_words(values.len(), values.chunks(64).map(word).collect()).unwrap_or_default()
}

/// The booleans of bits.
pub(super) fn unpack(bits: &Presence) -> Vec<bool> {
    let Some(words) = bits.words() else { return vec![true; bits.len()] };
    let mut out = Vec::with_capacity(words.len() * 64);
    words.iter().for_each(|word| out.extend((0..64).map(|at| word >> at & 1 == 1)));
    out.truncate(bits.len());
    out
}
