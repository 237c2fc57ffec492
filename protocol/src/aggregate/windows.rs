//! Windows of time.
//!
//! Invariant: windows of one length cover all times, do not overlap, and are aligned as shard
//! groups are (counted from year 1, see [`crate::placement`]), so that the windows of two shards,
//! or of two queries, are the same. Used by nodes and by whoever merges their answers.

use crate::placement::group_bounds;

/// How time is cut into windows; by default not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    every: u64,
}

impl Windows {
    /// Windows of `every` ns; with 0, a single one over all times, which begins at `i64::MIN`.
    #[must_use]
    pub const fn new(every: u64) -> Self {
        Self { every }
    }

    /// The length of each in ns; 0 for a single one.
    #[must_use]
    pub const fn every(self) -> u64 {
        self.every
    }

    /// The window `[start, end)` that holds a time.
    #[must_use]
    pub fn bounds(self, time: i64) -> (i64, i64) {
        if self.every == 0 { (i64::MIN, i64::MAX) } else { group_bounds(time, self.every) }
    }
}
