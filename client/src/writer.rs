//! Batches made of single points that many tasks push, each of which hears what became of its own.
//!
//! Reading order: [`Writer`] here, its [`WriterConfig`]; `key` says with which others a point travels, `lane`
//! which batch of those goes when, `state` keeps the order between them, `send` brings a batch to its end.
//! Invariants: every push gets exactly one outcome; memory is bounded by the budget,
//! a share of which each point holds until then; of two pushes of one series and time that one task makes
//! one after the other, the later wins; nothing is awaited under the lock.

mod config;
mod key;
mod lane;
mod send;
mod state;
mod stats;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio_util::sync::CancellationToken;

pub use config::WriterConfig;
use quorate_protocol::{
    batch::Batch,
    code::{Class, Code},
    hash::series_hash,
    id::Version,
    point::{Point, Value},
};
pub use stats::WriterStats;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, sleep, timeout_at},
};

use self::{
    key::Key,
    send::{Points, Push},
    state::{Job, State},
    stats::Counters,
};
use crate::{
    Client,
    error::{Certainty, RowId},
};

/// What a point takes in memory beside its own bytes: its rows, its outcome, its share of the budget.
const OVERHEAD: usize = 256;

/// Takes points from any number of tasks; clones share everything. What was pushed goes on when the last
/// clone is dropped, and the client lives for as long.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
}

/// A point reached its level, or was not worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pushed {
    /// Its level was reached, under this version.
    Written(Version),
    /// It is beyond its policy's retention, and was dropped.
    Dropped,
}

/// A point did not reach its level in time, or never will.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub struct PushError {
    /// Why.
    pub code: Code,
    /// Whether it can still appear.
    pub certainty: Certainty,
    /// The version under which it was tried, if it was.
    pub version: Option<Version>,
    /// One line for people.
    pub detail: Arc<str>,
}

impl PushError {
    fn definite(code: Code, detail: &str) -> Self {
        Self { code, certainty: Certainty::Definite, version: None, detail: detail.into() }
    }

    fn closed() -> Self {
        Self::definite(Code::ShuttingDown, "the writer is closed")
    }

    /// Whether pushing it again may succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.code.class() != Class::Never
    }
}

/// What will become of a push. Dropping it only means not to hear of it.
#[derive(Debug)]
#[must_use = "the outcome of a push is told here only"]
pub struct Pending(oneshot::Receiver<Result<Pushed, PushError>>);

impl Future for Pending {
    type Output = Result<Pushed, PushError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.0).poll(context));
        // Only a runtime that has stopped drops a push without an outcome.
        Poll::Ready(outcome.unwrap_or_else(|_| {
            let detail = "the runtime was stopped".into();
            let (code, certainty) = (Code::ShuttingDown, Certainty::Indefinite);
            Err(PushError { code, certainty, version: None, detail })
        }))
    }
}

/// What all handles and all batches of a writer share.
struct Shared {
    client: Client,
    database: String,
    config: WriterConfig,
    /// Bytes of points that may still be taken in.
    budget: Arc<Semaphore>,
    state: Mutex<State>,
    counters: Counters,
    runtime: Handle,
}

impl Client {
    /// A writer into a database. Must be called within a Tokio runtime, which its batches are sent on.
    #[must_use]
    pub fn writer(&self, database: impl Into<String>, config: WriterConfig) -> Writer {
        let budget = config.budget_bytes.clamp(1, Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            client: self.clone(),
            database: database.into(),
            config,
            budget: Arc::new(Semaphore::new(budget)),
            state: Mutex::default(),
            counters: Counters::default(),
            runtime: Handle::current(),
        });
        Writer { shared }
    }
}

impl Writer {
    /// Takes a point in, once there is room for it, and says where its outcome will come. Nothing of it is
    /// left behind if the future is dropped.
    ///
    /// # Errors
    /// [`Code::Busy`] if there is no room within the timeout of a write, [`Code::ShuttingDown`] after
    /// [`Self::close`].
    pub async fn push(&self, point: &Point) -> Result<Pending, PushError> {
        let deadline = Instant::now() + self.shared.config.options.timeout;
        let budget = Arc::clone(&self.shared.budget);
        match timeout_at(deadline, budget.acquire_many_owned(self.shared.cost(point))).await {
            Ok(Ok(share)) => self.shared.add(point, deadline, share),
            Ok(Err(_)) => Err(PushError::closed()),
            Err(_) => Err(full()),
        }
    }

    /// As [`Self::push`], but fails at once where there is no room.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn try_push(&self, point: &Point) -> Result<Pending, PushError> {
        use tokio::sync::TryAcquireError;
        let deadline = Instant::now() + self.shared.config.options.timeout;
        let budget = Arc::clone(&self.shared.budget);
        match budget.try_acquire_many_owned(self.shared.cost(point)) {
            Ok(share) => self.shared.add(point, deadline, share),
            Err(TryAcquireError::Closed) => Err(PushError::closed()),
            Err(TryAcquireError::NoPermits) => Err(full()),
        }
    }

    /// Pushes a point and waits for its outcome.
    ///
    /// # Errors
    /// As [`Self::push`], or why it did not reach its level.
    pub async fn write(&self, point: &Point) -> Result<Pushed, PushError> {
        self.push(point).await?.await
    }

    /// Sends what is waiting, and returns when everything that was pushed before has an outcome.
    pub async fn flush(&self) {
        let (jobs, ends) = {
            let mut state = self.shared.lock();
            let jobs = state.send_all(&self.shared);
            (jobs, state.ends())
        };
        self.shared.start(jobs);
        for end in ends {
            end.cancelled().await;
        }
    }

    /// Takes no more points, in any clone of this writer, and returns when all have an outcome.
    pub async fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.budget.close();
        self.flush().await;
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> WriterStats {
        self.shared.counters.snapshot()
    }

    /// Memory, in bytes, of points that have no outcome yet.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.shared.config.budget_bytes.saturating_sub(self.shared.budget.available_permits())
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let database = &self.shared.database;
        f.debug_struct("Writer").field("database", database).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A point's share of the budget; all of it at most, so that no point waits for ever.
    fn cost(&self, point: &Point) -> u32 {
        let value = |value: &Value| match value {
            Value::String(text) => text.len(),
            _ => size_of::<u64>(),
        };
        let fields = point.fields().iter().map(|(name, of)| name.len() + value(of));
        let bytes = OVERHEAD + point.key().len() + fields.sum::<usize>();
        let all = self.config.budget_bytes.clamp(1, Semaphore::MAX_PERMITS);
        u32::try_from(bytes.min(all)).unwrap_or(u32::MAX)
    }

    fn add(
        self: &Arc<Self>,
        point: &Point,
        deadline: Instant,
        share: OwnedSemaphorePermit,
    ) -> Result<Pending, PushError> {
        let hash = series_hash(point.key());
        let policy = self.config.options.retention_policy.as_deref();
        let (done, outcome) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(PushError::closed());
        }
        // Under the lock, so that nobody goes by an older map after somebody has gone by a newer.
        let key = state.key(&self.client.map(), &self.database, policy, point, hash);
        let new = || Points::new(Batch::new(), self.client.core.next_version(), deadline);
        let (points, begun) = state.fill(key, new);
        let (measurement, row) = points.batch.push_row(point);
        let row = RowId { measurement: measurement as u32, row };
        points.pushes.push(Push { row, time: point.time(), done, _share: share });
        state.filled(key, self.config.max_rows);
        let jobs = state.send(self, key);
        let waiting = begun.filter(|number| state.is_filling(key, *number));
        let waiting = waiting.and_then(|number| Some((number, state.end(key, number)?)));
        drop(state);
        self.start(jobs);
        if let Some((number, end)) = waiting {
            self.spawn(linger(Arc::clone(self), key, number, end));
        }
        Counters::add(&self.counters.pushed, "quorate_client_writer_points_total", 1);
        Ok(Pending(outcome))
    }

    /// Never under the lock: a runtime that has stopped drops a task here.
    fn start(&self, jobs: Vec<Job>) {
        for (place, points) in jobs {
            self.spawn(send::send(place, points));
        }
    }

    /// The writer's tasks belong to the client, so that closing it waits for them.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.client.core.tasks.spawn_on(work, &self.runtime);
    }
}

/// Has a batch sent that has waited long enough, unless it has ended before or the client is closed.
async fn linger(shared: Arc<Shared>, key: Key, number: u64, end: CancellationToken) {
    tokio::select! {
        biased;
        () = end.cancelled() => return,
        () = shared.client.core.cancel.cancelled() => {}
        () = sleep(shared.config.linger) => {}
    }
    let jobs = {
        let mut state = shared.lock();
        state.due(key, number);
        state.send(&shared, key)
    };
    shared.start(jobs);
}

fn full() -> PushError {
    PushError::definite(Code::Busy, "the writer's budget is full; wait or raise budget_bytes")
}
