//! Hinted handoff: writes kept for nodes that are down.
//!
//! Invariant: [`Handoff::append`] answers only when the hint is written, checksummed and synced;
//! every accepted hint ends exactly once (see [`Terminal`]) and the books balance across crashes.
//! Sessions append, the drain takes with [`Handoff::peek`] and reports with
//! [`Handoff::complete`], a timer calls [`Handoff::expire`].
//!
//! Reading order: [`marks`] stands alone; `queue.rs` is what readers share, `reading.rs` and
//! `pick.rs` hand out, `log.rs` appends, `settle.rs` books ends in `accounts.rs` and
//! `exceptions.rs`, which `ledger.rs` stores; `open.rs` brings everything back; [`drain`] delivers.
//! For operators: `look.rs`, `tally.rs`, `verify.rs`, `retry.rs`, `discard.rs`, and `stopped.rs` for a node that
//! does not run.

mod accounts;
mod config;
mod discard;
pub mod drain;
mod error;
mod exceptions;
mod expire;
mod ledger;
mod log;
mod look;
pub mod marks;
mod open;
mod pick;
mod quarantine;
mod queue;
mod reading;
mod retry;
mod settle;
mod stats;
mod stopped;
mod tally;
mod terminal;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_protocol::id::{NodeId, Sequence, ShardId};
use quorate_protocol::message::Fate;
use tokio::sync::watch;

pub use config::HandoffConfig;
pub use drain::DrainConfig;
pub use error::HandoffError;
pub use expire::Expiry;
pub use look::{Look, Seen};
pub use marks::{Mark, MarkReason, Marks};
pub use open::OpenReport;
pub use quarantine::Quarantined;
pub use queue::HintRecord;
pub use retry::{Choice, Taken};
pub use stats::{QueueStats, Reason};
pub use stopped::Stopped;
pub use terminal::{DiscardReason, QuarantineReason, Terminal};

use crate::disk::Disk;
use crate::executor::Executor;
use crate::segment::commit::{Committer, Limits, SubmitError};
use log::{HandoffLog, Item, Outcome, Shared};
use queue::Queue;
use reading::Want;

/// The hint queues of a node, one per target.
#[derive(Debug)]
pub struct Handoff {
    committer: Committer<HandoffLog>,
    shared: Arc<Shared>,
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    executor: Executor,
    config: HandoffConfig,
}

impl Handoff {
    /// Opens all queues under `directory`. `salt` is a random number, drawn per start. Blocks on
    /// the disk, for headers and live tails only.
    ///
    /// # Errors
    /// Only if the directory itself cannot be used; whatever is wrong inside is in the report.
    pub fn open(
        config: HandoffConfig,
        directory: PathBuf,
        salt: u64,
        disk: Arc<dyn Disk>,
        executor: Executor,
    ) -> Result<(Self, OpenReport), HandoffError> {
        let (changed, _) = watch::channel(0);
        let shared = Arc::new(Shared { queues: Mutex::default(), changed });
        let limits = Limits { group_bytes: config.group_bytes, queue_bytes: config.queue_bytes };
        let mut log = HandoffLog {
            config: config.clone(),
            directory: directory.clone(),
            salt,
            disk: Arc::clone(&disk),
            shared: Arc::clone(&shared),
            tails: BTreeMap::new(),
            broken: BTreeSet::new(),
        };
        let report = log.recover()?;
        let committer = Committer::start(log, executor, "handoff", limits)?;
        Ok((Self { committer, shared, directory, disk, executor, config }, report))
    }

    /// Keeps a batch for `target`; answers when it is durable. `any_ack` says that an `any`
    /// acknowledgement will rest on it alone, which keeps it from expiring. Dropping the future
    /// does not take the hint back.
    ///
    /// # Errors
    /// [`HandoffError`], each definite or not: see [`HandoffError::definite`].
    pub async fn append(
        &self,
        target: NodeId,
        shard: ShardId,
        batch: Bytes,
        any_ack: bool,
        now_ns: u64,
    ) -> Result<Sequence, HandoffError> {
        let bytes = batch.len();
        let limit = self.config.max_record_bytes.min(crate::segment::record::MAX_PAYLOAD);
        if bytes > limit {
            return Err(HandoffError::TooLarge { bytes, limit });
        }
        let item = Item::Append { target, shard, batch, any_ack, now_ns };
        self.submit(item, bytes).await.map(|outcome| outcome.sequence)
    }

    /// Hands out the next hints for `target` in order: up to `max_records` and `max_bytes`, at
    /// least one if there is one. They are in flight until [`complete`](Self::complete) or
    /// [`put_back`](Self::put_back); calling again gives the ones after them.
    ///
    /// # Errors
    /// I/O errors; damaged hints are no error but quarantined.
    pub async fn peek(
        &self,
        target: NodeId,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<HintRecord>, HandoffError> {
        let Some(queue) = self.shared.queue(target) else {
            return Ok(Vec::new());
        };
        self.hand_out(queue, Want { max_records, max_bytes, before: None }).await
    }

    async fn hand_out(
        &self,
        queue: Arc<Queue>,
        want: Want,
    ) -> Result<Vec<HintRecord>, HandoffError> {
        let disk = Arc::clone(&self.disk);
        let reader = Arc::clone(&queue);
        let records = self
            .executor
            .run(move || reader.hand_out(&*disk, want))
            .await
            .map_err(io::Error::from)??;
        if !queue.state().lost.is_empty()
            && let Err(error) = self.submit(Item::Lost { target: queue.target }, 0).await
        {
            // They stay noted; the next call tries again.
            tracing::warn!(%error, target_node = %queue.target, "damaged hints not quarantined");
        }
        Ok(records)
    }

    /// Makes hints in flight available again; the next [`peek`](Self::peek) hands them out first.
    pub fn put_back(&self, target: NodeId, sequences: &[Sequence]) {
        if let Some(queue) = self.shared.queue(target) {
            queue.put_back(sequences.iter().map(|sequence| sequence.0));
            self.shared.notify();
        }
    }

    /// Sets hints in flight aside: nobody is waiting for an answer about them, so they may grow too
    /// old like any others.
    pub(crate) fn set_aside(&self, target: NodeId, sequences: &[Sequence]) {
        if let Some(queue) = self.shared.queue(target) {
            queue.set_aside(sequences.iter().map(|sequence| sequence.0));
        }
    }

    /// Makes hints available again, as far as they are still set aside.
    pub(crate) fn resume(&self, target: NodeId, sequences: &[Sequence]) {
        if let Some(queue) = self.shared.queue(target) {
            queue.resume(sequences.iter().map(|sequence| sequence.0));
            self.shared.notify();
        }
    }

    /// Says how many hints are set aside, and of any whether it is.
    pub(crate) fn look_aside(
        &self,
        target: NodeId,
        look: impl FnOnce(usize, &dyn Fn(&Sequence) -> bool),
    ) {
        if let Some(queue) = self.shared.queue(target) {
            let aside = &queue.state().aside;
            look(aside.len(), &|sequence| aside.contains_key(&sequence.0));
        }
    }

    /// Makes all hints in flight or set aside for `target` available again: its connection was lost.
    pub fn rewind(&self, target: NodeId) {
        if let Some(queue) = self.shared.queue(target) {
            queue.rewind();
            self.shared.notify();
        }
    }

    /// Says how a hint ended; in any order. A failure leaves it in flight.
    ///
    /// # Errors
    /// [`HandoffError::NotPending`] if it is not in flight or handed back; otherwise as the disk
    /// decides.
    pub async fn complete(
        &self,
        target: NodeId,
        sequence: Sequence,
        terminal: Terminal,
    ) -> Result<(), HandoffError> {
        self.complete_all(target, vec![(sequence, terminal)]).await
    }

    /// Says how several hints ended, in one step: all are booked or none, except that one which
    /// is not pending is left out and reported.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    pub async fn complete_all(
        &self,
        target: NodeId,
        ends: Vec<(Sequence, Terminal)>,
    ) -> Result<(), HandoffError> {
        if ends.is_empty() {
            return Ok(());
        }
        self.submit(Item::Complete { target, ends }, 0).await.map(drop)
    }

    async fn submit(&self, item: Item, bytes: usize) -> Result<Outcome, HandoffError> {
        match self.committer.submit(item, bytes).await {
            Ok(output) => output,
            Err(SubmitError::Closed) => Err(HandoffError::Closed),
            Err(SubmitError::Died) => Err(io::Error::other(SubmitError::Died).into()),
        }
    }

    /// The nodes that have, or had, hints here.
    #[must_use]
    pub fn targets(&self) -> Vec<NodeId> {
        self.shared.all().iter().map(|queue| queue.target).collect()
    }

    /// Whether [`peek`](Self::peek) would hand something out.
    #[must_use]
    pub fn ready(&self, target: NodeId) -> bool {
        self.shared.queue(target).is_some_and(|queue| queue.ready())
    }

    /// How a hint stands, as far as anybody knows.
    #[must_use]
    pub fn fate(&self, target: NodeId, sequence: Sequence) -> Fate {
        let queue = self.shared.queue(target);
        queue.map_or(Fate::Unknown, |queue| queue.state().accounts.fate(sequence.0))
    }

    /// Hints that have not ended, in flight included.
    #[must_use]
    pub fn pending(&self, target: NodeId) -> u64 {
        self.shared.queue(target).map_or(0, |queue| queue.state().accounts.pending())
    }

    /// The figures of every queue.
    #[must_use]
    pub fn stats(&self) -> BTreeMap<NodeId, QueueStats> {
        let queues = self.shared.all();
        queues.iter().map(|queue| (queue.target, queue.stats(&*self.disk))).collect()
    }

    /// The figures of all queues together.
    #[must_use]
    pub fn totals(&self) -> QueueStats {
        let mut totals = QueueStats::default();
        self.stats().values().for_each(|stats| totals.add(stats));
        totals
    }

    /// What is in the quarantine of a queue. Blocks on the disk.
    ///
    /// # Errors
    /// I/O errors.
    pub fn quarantined(&self, target: NodeId) -> Result<Vec<Quarantined>, HandoffError> {
        let mut found = Vec::new();
        if let Some(queue) = self.shared.queue(target) {
            quarantine::read(&*self.disk, &queue.directory, &mut |hint| found.push(hint))?;
        }
        Ok(found)
    }

    /// Changes whenever some queue may have something to hand out.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Commits what was submitted and stops; later calls fail with [`HandoffError::Closed`].
    pub async fn close(&self) {
        self.committer.close().await;
    }
}

#[cfg(test)]
mod tests;
