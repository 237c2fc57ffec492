//! What can be set about hint queues.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of the hint queues of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandoffConfig {
    /// Bytes of one segment file, preallocated. Default 10 MiB. A larger record gets a segment of
    /// its own size.
    pub segment_bytes: u64,
    /// Bytes of segment files one target's queue may occupy. Default 10 GiB. A full queue refuses
    /// hints; the write then needs a repair mark or fails.
    pub max_bytes: u64,
    /// Bytes of segment files all queues together may occupy. Default 20 GiB.
    pub max_total_bytes: u64,
    /// Seconds after which a hint is given up and replaced by a repair mark. Default 604,800
    /// (168 h). Hints that an `any` acknowledgement rests on are quarantined instead.
    pub max_age_seconds: u64,
    /// Bytes of hints one sync may cover. Default 16 MiB.
    pub group_bytes: usize,
    /// Bytes of hints that may wait for the disk; appends beyond it wait. Default 64 MiB.
    pub queue_bytes: usize,
    /// The largest batch in bytes. Default 64 MiB.
    pub max_record_bytes: usize,
    /// Bytes of pending hints that are looked through, of all queues together, when somebody asks
    /// which shards they are for. Default 64 MiB. What lies beyond counts as being for any shard of
    /// its target; more tells longer queues apart, and reads more for every `quorate status`.
    pub tally_bytes: u64,
}

impl Default for HandoffConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 10 << 20,
            max_bytes: 10 << 30,
            max_total_bytes: 20 << 30,
            max_age_seconds: 168 * 3600,
            group_bytes: 16 << 20,
            queue_bytes: 64 << 20,
            max_record_bytes: 64 << 20,
            tally_bytes: 64 << 20,
        }
    }
}

impl HandoffConfig {
    /// The age at which a hint is given up.
    #[must_use]
    pub fn max_age(&self) -> Duration {
        Duration::from_secs(self.max_age_seconds)
    }
}
