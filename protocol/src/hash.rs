//! The series hash that places a series on a shard.
//!
//! 64-bit FNV-1a over the bytes of the series key, as the system this descends from has it, so
//! that a key lands on the same shard index there and here. Compute it once per series.

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The 64-bit FNV-1a hash of a series key.
#[must_use]
pub fn series_hash(key: &[u8]) -> u64 {
    key.iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}
