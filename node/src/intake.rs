//! How much other nodes' drains may bring at once.
//!
//! Invariants: hints that were received and not yet answered, of all holders together, take at most
//! `hint_receive_bytes`, so that any number of nodes may drain into one that comes back; of these at
//! most `hint_store_bytes` are with the journal, so that a live write's sync waits behind no more
//! than that, and while clients write that room stays empty for a while after each message. A message
//! that is larger than a limit counts as all of it. Used by
//! [`Core::deliver`](crate::core::Core::deliver).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};

use crate::config::NodeConfig;

/// How long after a live write clients count as writing.
const LIVE: Duration = Duration::from_secs(1);
/// The longest rest.
const REST: Duration = Duration::from_millis(500);

const BYTES: &str = "quorate_deliveries_bytes";

/// The limits, and whether clients write.
pub(crate) struct Intake {
    received: Limit,
    stored: Limit,
    pause_percent: u32,
    start: Instant,
    /// Milliseconds from `start` to the end of the time for which clients count as writing.
    live_until: AtomicU64,
}

struct Limit {
    most: u32,
    left: Arc<Semaphore>,
}

impl Limit {
    fn new(most: u32) -> Self {
        let most = most.max(1);
        Self { most, left: Arc::new(Semaphore::new(most as usize)) }
    }
}

/// Room for what was received; given back when dropped.
pub(crate) struct Received {
    bytes: u32,
    _room: OwnedSemaphorePermit,
}

impl Drop for Received {
    fn drop(&mut self) {
        metrics::gauge!(BYTES).decrement(self.bytes);
    }
}

impl Intake {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        metrics::gauge!(BYTES).set(0);
        Self {
            received: Limit::new(config.hint_receive_bytes),
            stored: Limit::new(config.hint_store_bytes),
            pause_percent: config.hint_pause_percent,
            start: Instant::now(),
            live_until: AtomicU64::new(0),
        }
    }

    fn at(&self, after: Duration) -> u64 {
        (self.start.elapsed() + after).as_millis() as u64
    }

    /// A client has written.
    pub(crate) fn live(&self) {
        self.live_until.store(self.at(LIVE), Ordering::Relaxed);
    }

    /// Room for hints that have come in; none if there is too much already.
    pub(crate) fn receive(&self, bytes: u32) -> Option<Received> {
        let limit = &self.received;
        let room = Arc::clone(&limit.left).try_acquire_many_owned(bytes.min(limit.most)).ok()?;
        metrics::gauge!(BYTES).increment(bytes);
        Some(Received { bytes, _room: room })
    }

    /// Waits for room with the journal, in the order of asking.
    pub(crate) async fn store(&self, bytes: u32) -> Option<Stored> {
        let limit = &self.stored;
        // It is never closed.
        let room = Arc::clone(&limit.left).acquire_many_owned(bytes.min(limit.most)).await.ok()?;
        Some(Stored { room, since: Instant::now() })
    }

    /// How long a room stays empty that was used for this time.
    fn rest(&self, used: Duration) -> Duration {
        if self.at(Duration::ZERO) >= self.live_until.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        (used.saturating_mul(self.pause_percent) / 100).min(REST)
    }

    /// Gives the room to the next message, at once or after a rest.
    pub(crate) fn done(&self, stored: Stored) {
        let rest = self.rest(stored.since.elapsed());
        if !rest.is_zero() {
            tokio::spawn(async move {
                sleep(rest).await;
                drop(stored.room);
            });
        }
    }
}

/// Room with the journal; given back when dropped, or by [`Intake::done`].
pub(crate) struct Stored {
    room: OwnedSemaphorePermit,
    since: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_received_is_limited_in_total_and_what_is_stored_takes_turns() {
        let config =
            NodeConfig { hint_receive_bytes: 100, hint_store_bytes: 40, ..NodeConfig::default() };
        let intake = Intake::new(&config);
        let first = intake.receive(60).unwrap();
        assert!(intake.receive(41).is_none());
        let second = intake.receive(40).unwrap();
        assert!(intake.receive(1).is_none());
        drop(first);
        assert!(intake.receive(60).is_some());
        drop(second);
        // As large as it may be: alone.
        let large = intake.receive(4_000).unwrap();
        assert!(intake.receive(1).is_none());
        drop(large);
        let turn = intake.store(30).await.unwrap();
        let wait = Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, intake.store(11)).await.is_err());
        let small = intake.store(10).await.unwrap();
        drop((turn, small));
        assert!(intake.store(4_000).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn hints_rest_while_clients_write_and_only_then() {
        let config =
            NodeConfig { hint_store_bytes: 40, hint_pause_percent: 200, ..NodeConfig::default() };
        let intake = Intake::new(&config);
        let waited = async || {
            let stored = intake.store(40).await.unwrap();
            sleep(Duration::from_millis(10)).await;
            intake.done(stored);
            let begun = Instant::now();
            drop(intake.store(40).await.unwrap());
            begun.elapsed()
        };
        assert_eq!(waited().await, Duration::ZERO);
        intake.live();
        assert_eq!(waited().await, Duration::from_millis(20));
        sleep(LIVE).await;
        assert_eq!(waited().await, Duration::ZERO);
    }
}
