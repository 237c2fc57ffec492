//! What a writer has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the writer was made; rows that have neither an outcome nor failed are under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriterStats {
    /// Points that were taken in.
    pub pushed: u64,
    /// Points whose level was reached.
    pub written: u64,
    /// Points beyond retention.
    pub dropped: u64,
    /// Points that failed for good or in time.
    pub failed: u64,
    /// Batches that were sent.
    pub batches: u64,
    /// Attempts after the first.
    pub retries: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) pushed: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) retries: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, name: &'static str, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
        metrics::counter!(name).increment(count);
    }

    pub(super) fn snapshot(&self) -> WriterStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Outcomes first: none is counted before its push.
        let (written, dropped, failed) =
            (read(&self.written), read(&self.dropped), read(&self.failed));
        WriterStats {
            pushed: read(&self.pushed),
            written,
            dropped,
            failed,
            batches: read(&self.batches),
            retries: read(&self.retries),
        }
    }
}
