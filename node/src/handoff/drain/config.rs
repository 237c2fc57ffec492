//! What can be set about delivering hints; all of it can be changed while the node runs.

use serde::{Deserialize, Serialize};

/// How hints are delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// Bytes of hints per second and target, at most; 0 for no limit. Default 64 MiB/s. Lower
    /// protects a node that comes back under load, and makes it lag for longer.
    pub rate_limit: u64,
    /// Bytes per second and target to which a drain slows down, at least, while the target answers
    /// that it is busy; default 256 KiB/s. Never more than `rate_limit`. Lower is kinder to a node
    /// that is overloaded for long.
    pub rate_floor: u64,
    /// Messages under way to one target. Default 4.
    pub window: usize,
    /// Bytes of one message at most. Default 512 KiB; a larger hint travels alone. Never more than a
    /// tenth of a second's worth of the rate.
    pub message_bytes: usize,
    /// Hints of one message at most. Default 256, at most 1,024.
    pub message_records: usize,
    /// Hints of busy shards that are set aside so that others pass them; default 65,536, about 100
    /// bytes of memory each. When so many are, the drain waits for the busy shards.
    pub aside_records: usize,
    /// First pause after a failure, in milliseconds, doubled by each further one. Default 1,000.
    pub backoff_min_ms: u64,
    /// Longest pause, in milliseconds. Default 60,000.
    pub backoff_max_ms: u64,
    /// Time for the answer to one message, in milliseconds. Default 10,000.
    pub timeout_ms: u32,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            rate_limit: 64 << 20,
            rate_floor: 256 << 10,
            window: 4,
            message_bytes: 512 << 10,
            message_records: 256,
            aside_records: 65_536,
            backoff_min_ms: 1_000,
            backoff_max_ms: 60_000,
            timeout_ms: 10_000,
        }
    }
}

impl DrainConfig {
    /// Hints of one message, at most.
    pub(super) fn records(&self) -> usize {
        self.message_records.clamp(1, 1024)
    }
}
