//! One batch of a writer, from leaving its lane to the last outcome.
//!
//! Invariants: every push in it gets its outcome, also if the write panics or its task is dropped; rows
//! that are tried again keep the version of the first attempt, so that an earlier value never wins over a
//! later one; rows that have an outcome are not sent again. Spawned by the writer.

use std::{collections::HashMap, sync::Arc, time::Duration};

use quorate_protocol::{
    batch::Batch,
    code::{Class, Code},
    id::Version,
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::{Instant, sleep_until},
};

use super::{PushError, Pushed, Shared, key::Key, stats::Counters};
use crate::{
    backoff::Backoff,
    config::WriteOptions,
    error::{FailedRows, RowId, WriteError},
    receipt::Receipt,
    route::Selection,
    write::{Full, selection},
};

/// Longest wait between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Points of one shard that are written together.
pub(super) struct Points {
    pub(super) batch: Batch,
    pub(super) pushes: Vec<Push>,
    /// Of all of them, whatever is tried again.
    pub(super) version: Version,
    /// When the first of them must have an outcome.
    deadline: Instant,
}

/// A point that waits for its outcome.
pub(super) struct Push {
    pub(super) row: RowId,
    pub(super) time: i64,
    pub(super) done: oneshot::Sender<Result<Pushed, PushError>>,
    /// Its share of the budget.
    pub(super) _share: OwnedSemaphorePermit,
}

impl Points {
    pub(super) const fn new(batch: Batch, version: Version, deadline: Instant) -> Self {
        Self { batch, pushes: Vec::new(), version, deadline }
    }
}

/// The place of a batch in its lane. If it is dropped before the batch has ended, the runtime has stopped
/// or something has panicked: then nothing that waits would ever go, and everything is given up.
pub(super) struct Place {
    shared: Arc<Shared>,
    key: Key,
    number: u64,
    ended: bool,
}

impl Place {
    pub(super) const fn new(shared: Arc<Shared>, key: Key, number: u64) -> Self {
        Self { shared, key, number, ended: false }
    }

    fn end(mut self) {
        self.ended = true;
        let jobs = self.shared.lock().sent(&self.shared, self.key, self.number);
        self.shared.start(jobs);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.budget.close();
            let lanes = self.shared.lock().give_up();
            drop(lanes);
        }
    }
}

/// Writes these points, and those that may still succeed again.
pub(super) async fn send(place: Place, points: Points) {
    write(&place.shared, points).await;
    place.end();
}

async fn write(shared: &Arc<Shared>, points: Points) {
    let Points { batch, mut pushes, version, deadline } = points;
    let config = &shared.config;
    let mut backoff = Backoff::new(config.backoff, BACKOFF_MAX);
    let mut only: Option<Selection> = None;
    Counters::add(&shared.counters.batches, "quorate_client_writer_batches_total", 1);
    for attempt in 1.. {
        let options = WriteOptions {
            timeout: deadline.saturating_duration_since(Instant::now()),
            version: Some(version),
            ..config.options.clone()
        };
        let core = &shared.client.core;
        let only_these = only.as_ref();
        let result =
            crate::write::write(core, &shared.database, &batch, only_these, &options, Full::Wait)
                .await;
        let next = Instant::now() + backoff.failed(&*core.env.entropy);
        let again = attempt < config.attempts && next < deadline;
        pushes = settle(shared, pushes, &result, version, again);
        if pushes.is_empty() {
            return;
        }
        only = Some(selection(&batch, pushes.iter().map(|push| &push.row)));
        let rows = pushes.len() as u64;
        Counters::add(&shared.counters.retries, "quorate_client_writer_retried_points_total", rows);
        tokio::select! {
            // What is tried then fails at once.
            () = core.cancel.cancelled() => {}
            () = sleep_until(next) => {}
        }
    }
}

/// Tells every push its outcome but those that are tried again, which are returned.
fn settle(
    shared: &Shared,
    pushes: Vec<Push>,
    result: &Result<Receipt, WriteError>,
    version: Version,
    again: bool,
) -> Vec<Push> {
    let (receipt, failed) = match result {
        Ok(receipt) => (receipt, &[][..]),
        Err(error) => (error.receipt.as_ref(), &error.failed[..]),
    };
    let failed = Failures::of(failed);
    let mut left = Vec::new();
    let (mut written, mut dropped, mut lost) = (0, 0, 0);
    for push in pushes {
        let outcome = match failed.by_row.get(&push.row) {
            Some(at) if again && failed.retryable(*at) => {
                left.push(push);
                continue;
            }
            Some(at) => {
                lost += 1;
                Err(failed.error(*at, version))
            }
            // All that is earlier than the horizon is dropped, and nothing else.
            None if receipt.dropped.is_some_and(|dropped| push.time <= dropped.max_time) => {
                dropped += 1;
                Ok(Pushed::Dropped)
            }
            None => {
                written += 1;
                Ok(Pushed::Written(version))
            }
        };
        // Whoever pushed it may not want to know.
        let _ = push.done.send(outcome);
    }
    let counters = &shared.counters;
    Counters::add(&counters.written, "quorate_client_writer_written_points_total", written);
    Counters::add(&counters.dropped, "quorate_client_writer_dropped_points_total", dropped);
    Counters::add(&counters.failed, "quorate_client_writer_failed_points_total", lost);
    left
}

/// The failures of one attempt, by row.
struct Failures<'a> {
    all: &'a [FailedRows],
    by_row: HashMap<RowId, usize>,
    details: Vec<Arc<str>>,
}

impl<'a> Failures<'a> {
    fn of(all: &'a [FailedRows]) -> Self {
        let rows =
            (0..).zip(all).flat_map(|(at, failed)| failed.rows.iter().map(move |r| (*r, at)));
        let details = all.iter().map(|failed| failed.detail.as_str().into()).collect();
        Self { all, by_row: rows.collect(), details }
    }

    fn retryable(&self, at: usize) -> bool {
        self.all[at].code.class() != Class::Never && self.all[at].code != Code::ShuttingDown
    }

    fn error(&self, at: usize, version: Version) -> PushError {
        let FailedRows { code, certainty, .. } = self.all[at];
        PushError { code, certainty, version: Some(version), detail: Arc::clone(&self.details[at]) }
    }
}
