//! The blocks of a run: rows of one or more series, column by column.
//!
//! Invariants: a block is self-contained but for the run's version table; its checksum covers
//! everything; what [`View`] returns has passed every rule of `SPEC.md`, section 13, and takes
//! memory in proportion to the rows that the head claims, which are limited, however few bytes
//! claim them. Nothing here knows LMDB, clocks or files. Written by folds, merges and the dense
//! pass; read by merges, scans, aggregates and digests.

mod bits;
mod clock;
mod columns;
mod dense;
mod encode;
mod group;
mod integers;
mod statistics;
mod strings;
mod versions;
mod view;

use quorate_protocol::batch::DecodeError;

pub(super) use self::{
    encode::{Scratch, encode},
    group::{RowGroup, Span},
    statistics::{Statistics, Sum},
    versions::{MAX_SHARED_VERSIONS, VersionTable},
    view::{ColumnHead, View},
};

/// The version of the format.
const FORMAT: u8 = 1;
/// The most rows of a block.
pub(super) const MAX_ROWS: usize = 1 << 17;
/// The most cells (rows times columns) of a block: what bounds the memory that decoding all of it
/// takes, 8 bytes each, 32 for strings. Whoever fills a group keeps it below.
pub(super) const MAX_CELLS: usize = quorate_protocol::batch::MAX_CELLS;

/// How much work a block is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Density {
    /// Encodings that take nanoseconds per value: for what will be merged again.
    Cheap,
    /// The smallest encoding there is, for what stays.
    Dense,
}

/// Why bytes are not a valid block. Nothing of them may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum BlockError {
    /// The bytes are not what was written.
    #[error("the block's checksum does not match; repair the shard from a peer")]
    BadChecksum,
    /// A format this build does not know.
    #[error("block format {0} is not known here; upgrade this node")]
    UnknownFormat(u8),
    /// The bytes end too early.
    #[error("the block ends too early; repair the shard from a peer")]
    Truncated,
    /// A rule of the format is broken.
    #[error("the block breaks a rule of its format: {0}")]
    Invalid(&'static str),
    /// Counts beyond the limits.
    #[error("the block is too large: {0}")]
    TooLarge(&'static str),
    /// The block names versions by their place in its run's table, and none was given.
    #[error("the run's version table is missing; repair the shard from a peer")]
    NoVersionTable,
}

impl From<DecodeError> for BlockError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Truncated => Self::Truncated,
            DecodeError::BadChecksum => Self::BadChecksum,
            DecodeError::Invalid(what) => Self::Invalid(what),
            DecodeError::TooLarge(what) => Self::TooLarge(what),
            _ => Self::Invalid("a part of it cannot be read"),
        }
    }
}

#[cfg(test)]
mod tests;
