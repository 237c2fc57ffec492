//! The node's journal: what makes an accepted write durable.
//!
//! Invariant: [`Journal::append`] answers only after the record was written, checksummed and
//! synced, and after the [`Sink`] has seen it; records reach the sink in sequence order without
//! gaps. Sessions append, the shard store is the sink and releases what it has folded into LMDB.

mod config;
mod error;

use bytes::Bytes;
use quorate_protocol::id::{Sequence, ShardId};
use serde::Serialize;

pub use config::{JournalConfig, JournalHome};
pub use error::{JournalError, JournalOpenError};

/// A durable record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The shard the batch belongs to.
    pub shard: ShardId,
    /// Its place in the journal.
    pub sequence: Sequence,
    /// The batch as it arrived.
    pub payload: Bytes,
}

/// Who makes durable records visible to reads.
pub trait Sink: Send + Sync + 'static {
    /// Takes records in sequence order, after their sync and before their writers are answered.
    /// Runs on the journal's thread: must be quick and must not call the journal.
    fn committed(&self, records: &[Committed]);
}

/// What [`Journal::open`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// Segment files read.
    pub segments: u64,
    /// Intact records handed to the callback.
    pub records: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// The highest sequence known to have been given; the next one is higher.
    pub highest: Sequence,
    /// Records that were lost to damage; their bytes are in `quarantine/`.
    pub damaged_records: u64,
    /// The damaged ranges, the first 1,000 of them.
    pub damage: Vec<JournalDamage>,
    /// Whether the last segment ended in a record that was never finished (nor acknowledged).
    pub torn: bool,
    /// Files that are not the journal's; left alone.
    pub unknown_files: Vec<String>,
}

/// A range of the journal that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JournalDamage {
    /// The segment number.
    pub segment: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// The shard, where the record's header is intact.
    pub shard: Option<ShardId>,
    /// The last intact sequence before it, so that what is missing can be told.
    pub after: Sequence,
    /// How many records it held.
    pub records: u64,
}

/// Live figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JournalStats {
    /// Bytes of all segment files, spares included.
    pub bytes: u64,
    /// Segments with records that are not released.
    pub segments: u64,
    /// Released segments kept for reuse.
    pub spare_segments: u64,
    /// The last sequence given.
    pub last_sequence: Sequence,
    /// Syncs since the start.
    pub syncs: u64,
    /// Records since the start.
    pub records: u64,
}
