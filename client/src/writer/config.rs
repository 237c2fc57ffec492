//! The knobs of a [`Writer`](super::Writer).

use std::time::Duration;

use crate::config::WriteOptions;

/// How a writer batches. `Default` suits many tasks that push single points.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    /// How each batch is written. Its timeout runs from the push on, waiting in the writer included; a
    /// version in it is not used.
    pub options: WriteOptions,
    /// How long a point may wait for others while batches of its shard are under way. Default 1 ms. A
    /// shard with nothing under way sends at once; longer makes larger batches and later answers.
    pub linger: Duration,
    /// Rows of a batch that is sent without waiting for more. Default 5,000; larger batches cost less per
    /// row and answer later.
    pub max_rows: usize,
    /// Batches of one shard that may be under way at once. Default 4. More hide the round trip, fewer make
    /// larger batches.
    pub in_flight: usize,
    /// Memory, in bytes, of points that have no outcome yet. Default 64 MiB. A push waits for room, for as
    /// long as a write may take.
    pub budget_bytes: usize,
    /// Attempts for each batch, the first included, while its time lasts. Default 5. Rows that were refused
    /// for good are not tried again.
    pub attempts: u32,
    /// The wait before the second attempt, doubled each time, with jitter. Default 20 ms.
    pub backoff: Duration,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self {
            options: WriteOptions::default(),
            linger: Duration::from_millis(1),
            max_rows: 5_000,
            in_flight: 4,
            budget_bytes: 64 << 20,
            attempts: 5,
            backoff: Duration::from_millis(20),
        }
    }
}
