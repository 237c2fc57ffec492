//! What can be set about followers of shards.

use serde::{Deserialize, Serialize};

/// Limits of what is kept and sent for whoever follows shards of this node. Without followers nothing
/// is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeedConfig {
    /// Bytes of the newest batches that are kept of each followed shard, for all of its followers
    /// together. Default 8 MiB. More lets followers be slower, or away for longer, without a gap. A
    /// batch that is larger is left out for all of them.
    pub shard_bytes: u64,
    /// Bytes that are kept of all followed shards together. Default 256 MiB; each may use its even
    /// share of it at most.
    pub total_bytes: u64,
    /// Bytes on their way to one follower, out of what is kept. Default 1 MiB; a larger batch goes
    /// alone. More fills longer round trips.
    pub send_bytes: u32,
    /// Followers at the same time: one for each subscription that has an owner here. Default 1,024.
    /// More are answered "busy".
    pub max_followers: usize,
    /// When a follower that was one too many may come back, in milliseconds. Default 1,000.
    pub busy_retry_ms: u32,
    /// How long a shard's batches are still kept when nobody follows it any more, in milliseconds.
    /// Default 60,000. Longer than a client takes to come back.
    pub keep_ms: u64,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self {
            shard_bytes: 8 << 20,
            total_bytes: 256 << 20,
            send_bytes: 1 << 20,
            max_followers: 1_024,
            busy_retry_ms: 1_000,
            keep_ms: 60_000,
        }
    }
}
