//! One batch, sent until it is written, refused for good, or nobody wants to wait longer.
//!
//! Invariants: only rows that failed are sent again, with the version of the first attempt, so that
//! what comes between is not overwritten; a wait ends at once when the load is interrupted. Used by
//! [`super::send`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use indicatif::ProgressBar;
use quorate_client::{Client, Env, Receipt, WriteError, WriteOptions, backoff::Backoff};
use quorate_protocol::batch::Batch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::cli::{tell, time::format_duration};

/// Between two attempts: as long at first, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// For how long a batch is sent again.
#[derive(Clone)]
pub(crate) struct Patience {
    /// From the first failure; none at all for 0.
    pub(crate) how_long: Duration,
    env: Env,
    /// Nobody waits any longer.
    pub(crate) stop: CancellationToken,
    /// Somebody has been told that batches wait, and none has been written since.
    told: Arc<AtomicBool>,
}

/// What all attempts came to.
pub(crate) struct Sent {
    /// Of every attempt but a last one that failed.
    pub(crate) receipts: Vec<Receipt>,
    /// What is not written in the end.
    pub(crate) error: Option<WriteError>,
}

impl Patience {
    pub(crate) fn new(how_long: Duration, env: Env) -> Self {
        Self { how_long, env, stop: CancellationToken::new(), told: Arc::default() }
    }

    /// Sends a batch. The first attempt begins, and takes its version, when this is first polled.
    pub(crate) async fn send(
        &self,
        client: &Client,
        database: &str,
        batch: &Batch,
        options: &WriteOptions,
        bar: &ProgressBar,
    ) -> Sent {
        let mut receipts = Vec::new();
        let mut result = client.write(database, batch, options).await;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let until = Instant::now() + self.how_long;
        loop {
            let error = match result {
                Ok(receipt) => {
                    self.told.store(false, Ordering::Relaxed);
                    receipts.push(receipt);
                    return Sent { receipts, error: None };
                }
                Err(error) => error,
            };
            let next = Instant::now() + backoff.failed(&*self.env.entropy);
            if !error.retryable() || next > until || self.stop.is_cancelled() {
                return Sent { receipts, error: Some(error) };
            }
            self.tell(&error, bar);
            tokio::select! {
                () = self.stop.cancelled() => return Sent { receipts, error: Some(error) },
                () = sleep_until(next) => {}
            }
            result = client.resend(database, batch, &error, options).await;
            receipts.push(*error.receipt);
        }
    }

    /// Once for each time of trouble, whatever number of batches it holds up.
    fn tell(&self, error: &WriteError, bar: &ProgressBar) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let limit = u64::try_from(self.how_long.as_nanos()).map_or_else(
                |_| "as long as it takes".to_owned(),
                |limit| format!("for up to {}", format_duration(limit)),
            );
            bar.suspend(|| tell(&format!("{error}; trying again {limit}")));
        }
    }
}
