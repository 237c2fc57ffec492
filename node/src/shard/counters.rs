//! What the shard store has done and met since it was opened.
//!
//! Counted where it happens; read by the node's status and by tests, and exported as metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use quorate_protocol::id::ShardId;

#[derive(Debug, Default)]
pub(super) struct Counters {
    quarantined_batches: AtomicU64,
    bad_blocks: AtomicU64,
}

impl Counters {
    pub(super) fn quarantine_batch(&self) {
        self.quarantined_batches.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("quorate_shard_quarantined_batches_total").increment(1);
    }

    pub(super) fn bad_block(&self) {
        self.bad_blocks.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("quorate_shard_bad_blocks_total").increment(1);
    }

    pub(super) fn quarantined_batches(&self) -> u64 {
        self.quarantined_batches.load(Ordering::Relaxed)
    }

    pub(super) fn bad_blocks(&self) -> u64 {
        self.bad_blocks.load(Ordering::Relaxed)
    }
}

/// A snapshot of the store's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Shards that have data here, fresh or stored.
    pub shards: usize,
    /// Environments open now.
    pub open: usize,
    /// Shards whose folding was stopped by a failed sync.
    pub poisoned: usize,
    /// Shards that could not be opened since the start and take no writes until they can.
    pub unread: usize,
    /// Bytes of fresh batches, those on their way through the journal included.
    pub fresh_bytes: u64,
    /// Batches put into quarantine.
    pub quarantined_batches: u64,
    /// Stored blocks found damaged.
    pub bad_blocks: u64,
}

/// How much there is of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardSize {
    /// The shard.
    pub shard: ShardId,
    /// Series in its tables, as of the last fold.
    pub series: u64,
    /// Live runs.
    pub runs: u64,
    /// Bytes of their blocks.
    pub bytes: u64,
    /// Bytes of fresh batches.
    pub fresh_bytes: u64,
    /// Whether a stored block was found damaged.
    pub damaged: bool,
    /// Whether its folding was stopped by a failed sync.
    pub poisoned: bool,
}
