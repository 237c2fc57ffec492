//! Encodings of single columns, shared by encoded parts, row blocks and the blocks of a shard's runs.
//!
//! Invariant: for each encoding there is one reader, and it checks every claimed count against the
//! bytes that remain (and callers against [`super::MAX_CELLS`]) before it allocates.

pub(crate) mod column;
pub mod floats;
pub mod packed;
mod reader;
pub mod times;

pub use reader::Reader;

/// Appends an unsigned LEB128 number.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Folds the sign into the lowest bit, so that small magnitudes are small numbers.
#[must_use]
pub const fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

/// Undoes [`zigzag`].
#[must_use]
pub const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}
