//! What can be set about the journal, and what it must be told about its surroundings.

use std::path::PathBuf;

use quorate_protocol::id::{NodeId, Sequence};
use serde::{Deserialize, Serialize};

use super::Durability;

/// Limits of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// Bytes of one segment file, preallocated. Default 64 MiB. Larger segments mean fewer file
    /// operations, but a segment is given back only when all of it is compacted.
    pub segment_bytes: u64,
    /// Released segments kept for reuse instead of being removed. Default 16. Rewriting an
    /// allocated file makes syncs cheaper, and keeps them from waiting for what else the file system
    /// does; each spare costs `segment_bytes` of disk until the journal is idle.
    pub spare_segments: usize,
    /// Bytes of records one sync may cover. Default 16 MiB. More raises the rate under load and
    /// the wait of a record that arrives while a group is being written.
    pub group_bytes: usize,
    /// Bytes of records that may wait for the disk; appends beyond it are answered with "busy".
    /// Default 64 MiB. With `durability = "interval(D)"` also what may be unsynced. More rides out
    /// longer stalls of the disk and costs that much memory.
    pub queue_bytes: usize,
    /// What "busy" tells the sender to wait, in milliseconds. Default 20.
    pub busy_retry_ms: u32,
    /// The largest batch in bytes. Default 64 MiB; one larger than a segment gets a segment of
    /// its own size.
    pub max_record_bytes: usize,
    /// How long nothing may have come before a journal whose records are all applied gives its
    /// disk space back, in milliseconds. Default 30,000. Shorter frees disk sooner; the first
    /// append afterwards, and those until segments are recycled again, have slower syncs.
    pub idle_trim_ms: u64,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spare_segments: 16,
            group_bytes: 16 << 20,
            queue_bytes: 64 << 20,
            busy_retry_ms: 20,
            max_record_bytes: 64 << 20,
            idle_trim_ms: 30_000,
        }
    }
}

/// Where a journal lies and whom it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalHome {
    /// The directory of the segment files; created if missing.
    pub directory: PathBuf,
    /// The node whose writes it holds; a journal of another node is refused.
    pub node: NodeId,
    /// A random number, drawn per start: mixed into the checksums of new segments so that no
    /// batch can contain bytes that pass for a record.
    pub salt: u64,
    /// The highest sequence that any shard has already applied (0 if none): new records come after
    /// it even if the journal itself was lost.
    pub applied: Sequence,
    /// When appends are answered.
    pub durability: Durability,
}
