//! What can be set about the journal, and what it must be told about its surroundings.

use std::path::PathBuf;

use quorate_protocol::id::{NodeId, Sequence};
use serde::{Deserialize, Serialize};

/// Limits of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// Bytes of one segment file, preallocated. Default 64 MiB. Larger segments mean fewer file
    /// operations, but a segment is given back only when all of it is compacted.
    pub segment_bytes: u64,
    /// Released segments kept for reuse instead of being removed. Default 4. Rewriting an
    /// allocated file makes syncs cheaper; each spare costs `segment_bytes` of disk.
    pub spare_segments: usize,
    /// Bytes of records one sync may cover. Default 16 MiB. More raises the rate under load and
    /// the wait of a record that arrives while a group is being written.
    pub group_bytes: usize,
    /// Bytes of records that may wait for the disk; appends beyond it wait. Default 64 MiB.
    pub queue_bytes: usize,
    /// The largest batch in bytes. Default 64 MiB; one larger than a segment gets a segment of
    /// its own size.
    pub max_record_bytes: usize,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spare_segments: 4,
            group_bytes: 16 << 20,
            queue_bytes: 64 << 20,
            max_record_bytes: 64 << 20,
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
}
