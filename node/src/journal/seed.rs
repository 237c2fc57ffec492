//! Checksums of batches, computed by their writers.
//!
//! Invariant: what is written continues from the seed of the segment it goes to; a checksum that was
//! computed for an earlier segment is computed again. [`super::Journal`] computes, [`super::log`]
//! says which seed counts.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::segment::record;

/// The seed of the segment that is written now, for callers to compute checksums with: they run in
/// parallel, the committer does not.
#[derive(Debug, Default)]
pub(super) struct Seed(AtomicU32);

/// A batch's checksum, and the seed it was continued from.
#[derive(Clone, Copy)]
pub(super) struct Checksum {
    seed: u32,
    value: u32,
}

impl Seed {
    pub(super) fn set(&self, seed: u32) {
        self.0.store(seed, Ordering::Relaxed);
    }

    pub(super) fn checksum(&self, bytes: &[u8]) -> Checksum {
        let seed = self.0.load(Ordering::Relaxed);
        Checksum { seed, value: record::checksum(seed, bytes) }
    }
}

impl Checksum {
    /// The checksum under the seed that counts.
    pub(super) fn under(self, seed: u32, bytes: &[u8]) -> u32 {
        if self.seed == seed { self.value } else { record::checksum(seed, bytes) }
    }
}
