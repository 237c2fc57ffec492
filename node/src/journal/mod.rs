//! The node's journal: what makes an accepted write durable.
//!
//! Invariant: [`Journal::append`] answers only after the record was written, checksummed and
//! synced, and after the [`Sink`] has seen it; records reach the sink in sequence order without
//! gaps. Only with [`Durability::Interval`] may the sync come later, and the answer says so. Sessions append, the shard store is the sink and releases what it has folded into LMDB.

mod config;
mod durability;
mod error;
mod log;
mod recovery;
mod seed;
mod spare;
mod trim;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_protocol::id::{Sequence, ShardId};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::disk::Disk;
use crate::executor::Executor;
use crate::poison::Poison;
use crate::segment::commit::{Committer, Limits, SubmitError, TrySubmitError};
use log::{Item, JournalLog};
use seed::Seed;
use spare::{Spares, Surplus};

pub use config::{JournalConfig, JournalHome};
pub use durability::{Durability, DurabilityError};
pub use error::{JournalError, JournalOpenError};

/// A durable record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The shard the batch belongs to.
    pub shard: ShardId,
    /// Its place in the journal.
    pub sequence: Sequence,
    /// The batch as it arrived.
    pub payload: Bytes,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The record's place in the journal.
    pub sequence: Sequence,
    /// It is written, and will be synced: a power cut may take it until then.
    pub buffered: bool,
}

/// Who makes durable records visible to reads.
pub trait Sink: Send + Sync + 'static {
    /// Takes records in sequence order, after their sync (with [`Durability::Interval`]: after they
    /// were written) and before their writers are answered. Others wait for it to return: must be
    /// quick and must not call the journal.
    fn committed(&self, records: &[Committed]);

    /// Everything up to `through`, which [`committed`](Self::committed) has shown, is synced. Called
    /// before the writers are answered whose records were synced with it.
    fn synced(&self, _through: Sequence) {}
}

/// What [`Journal::open`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// Segment files read.
    pub segments: u64,
    /// Intact records handed to the callback.
    pub records: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// The highest sequence known to have been given; the next one is higher.
    pub highest: Sequence,
    /// Records that were lost to damage; their bytes are in `quarantine/`.
    pub damaged_records: u64,
    /// The damaged ranges, the first 1,000 of them.
    pub damage: Vec<JournalDamage>,
    /// Segment files whose header is unreadable; moved to `quarantine/`.
    pub unreadable_segments: u64,
    /// Whether the last segment ended in a record that was never finished (nor acknowledged).
    pub torn: bool,
    /// Files that are not the journal's; left alone.
    pub unknown_files: Vec<String>,
}

/// A range of the journal that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JournalDamage {
    /// The segment number.
    pub segment: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// The shard, where the record's header is intact.
    pub shard: Option<ShardId>,
    /// The last intact sequence before it, so that what is missing can be told.
    pub after: Sequence,
    /// How many records it held.
    pub records: u64,
}

/// Live figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JournalStats {
    /// Bytes of all segment files, spares included.
    pub bytes: u64,
    /// Segments with records that are not released.
    pub segments: u64,
    /// Released segments kept for reuse.
    pub spare_segments: u64,
    /// The last sequence given.
    pub last_sequence: Sequence,
    /// Syncs since the start.
    pub syncs: u64,
    /// Records since the start.
    pub records: u64,
}

/// The journal of a node.
#[derive(Debug)]
pub struct Journal {
    committer: Committer<JournalLog>,
    poison: Poison,
    stats: Arc<Mutex<JournalStats>>,
    max_record_bytes: usize,
    busy_retry_ms: u32,
    seed: Arc<Seed>,
    durability: Durability,
    sync_wanted: Arc<Notify>,
    surplus: Surplus,
    disk: Arc<dyn Disk>,
    executor: Executor,
}

impl Journal {
    /// Recovers what is there, handing every intact record to `recovered` in order, and starts
    /// committing. Blocks on the disk.
    ///
    /// # Errors
    /// [`JournalOpenError`]; damage inside the files is not an error but in the [`Recovery`].
    pub fn open(
        config: JournalConfig,
        home: JournalHome,
        disk: Arc<dyn Disk>,
        executor: Executor,
        sink: Arc<dyn Sink>,
        recovered: &mut dyn FnMut(Committed),
    ) -> Result<(Self, Recovery), JournalOpenError> {
        let poison = Poison::new("the journal");
        let stats = Arc::new(Mutex::new(JournalStats::default()));
        let limits = Limits { group_bytes: config.group_bytes, queue_bytes: config.queue_bytes };
        let max_record_bytes = config.max_record_bytes.min(crate::segment::record::MAX_PAYLOAD);
        let path = home.directory.clone();
        let (busy_retry_ms, durability) = (config.busy_retry_ms, home.durability);
        let (seed, sync_wanted) = (Arc::new(Seed::default()), Arc::new(Notify::new()));
        let (surplus, remover) = (Surplus::default(), Arc::clone(&disk));
        let mut log = JournalLog {
            spares: Spares::new(config.spare_segments, surplus.clone()),
            config,
            home,
            disk,
            sink,
            poison: poison.clone(),
            stats: Arc::clone(&stats),
            active: None,
            sealed: VecDeque::new(),
            next_sequence: 1,
            next_number: 1,
            seed: Arc::clone(&seed),
            unsynced: 0,
            sync_wanted: Arc::clone(&sync_wanted),
        };
        let recovery = log.recover(recovered)?;
        log.publish();
        let committer = Committer::start_in_place(log, executor, "journal", limits)
            .map_err(|source| JournalOpenError::Io { path, source })?;
        let journal = Self {
            committer,
            poison,
            stats,
            max_record_bytes,
            busy_retry_ms,
            seed,
            durability,
            sync_wanted,
            surplus,
            disk: remover,
            executor,
        };
        Ok((journal, recovery))
    }

    /// Stores a batch; answers when it is durable (with [`Durability::Interval`]: written) and the
    /// sink has seen it. Dropping the future does not take the batch back. On a runtime with
    /// several threads the commit may run inside this call, which blocks the calling task.
    ///
    /// # Errors
    /// [`JournalError`], each definite or not: see [`JournalError::definite`].
    pub async fn append(&self, shard: ShardId, batch: Bytes) -> Result<Appended, JournalError> {
        self.store(shard, batch, false).await
    }

    /// As [`append`](Self::append), but always answers after the sync: for what somebody else
    /// forgets once it is answered.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn append_durable(
        &self,
        shard: ShardId,
        batch: Bytes,
    ) -> Result<Appended, JournalError> {
        self.store(shard, batch, true).await
    }

    async fn store(
        &self,
        shard: ShardId,
        batch: Bytes,
        durable: bool,
    ) -> Result<Appended, JournalError> {
        let (bytes, limit) = (batch.len(), self.max_record_bytes);
        if bytes > limit {
            return Err(JournalError::TooLarge { bytes, limit });
        }
        self.poison.check()?;
        let checksum = self.seed.checksum(&batch);
        let item = Item::Append { shard, batch, checksum, durable };
        match self.committer.try_submit(item, bytes).await {
            Err(TrySubmitError::Full) => {
                Err(JournalError::Busy { retry_after_ms: self.busy_retry_ms })
            }
            Err(TrySubmitError::Submit(error)) => self.answered(Err(error)),
            Ok(output) => output,
        }
    }

    /// Says that everything up to `upto` is stored elsewhere: segments that hold nothing newer are
    /// reused or removed.
    ///
    /// # Errors
    /// [`JournalError::Closed`] after [`close`](Self::close).
    pub async fn release(&self, upto: Sequence) -> Result<(), JournalError> {
        self.answered(self.committer.submit(Item::Release(upto), 0).await)?;
        if !self.surplus.is_empty() {
            let (surplus, disk) = (self.surplus.clone(), Arc::clone(&self.disk));
            // Without a runtime they stay, and are found at the next start.
            let _ = self.executor.run(move || surplus.remove(&*disk)).await;
        }
        Ok(())
    }

    /// Gives back the disk space of a journal that has nothing to keep: does nothing unless
    /// everything is released, and nothing came after `upto`.
    ///
    /// # Errors
    /// [`JournalError::Closed`] after [`close`](Self::close).
    pub async fn trim(&self, upto: Sequence) -> Result<(), JournalError> {
        self.answered(self.committer.submit(Item::Trim(upto), 0).await).map(drop)
    }

    /// Makes durable, in time, what was answered before its sync; for as long as the journal is
    /// open and well. Without it, [`Durability::Interval`] keeps no promise.
    pub async fn keep_synced(&self) {
        let Durability::Interval(every) = self.durability else {
            return;
        };
        loop {
            self.sync_wanted.notified().await;
            sleep(every).await;
            let synced = self.answered(self.committer.submit(Item::Sync, 0).await);
            if synced.is_err() || self.poison.is_set() {
                return;
            }
        }
    }

    fn answered(
        &self,
        result: Result<Result<Appended, JournalError>, SubmitError>,
    ) -> Result<Appended, JournalError> {
        match result {
            Ok(output) => output,
            Err(SubmitError::Closed) => Err(JournalError::Closed),
            Err(SubmitError::Died) => {
                self.poison.set(SubmitError::Died);
                Err(JournalError::Io(Arc::new(io::Error::other(SubmitError::Died))))
            }
        }
    }

    /// Set when a write or sync has failed: no write is accepted until a restart.
    #[must_use]
    pub fn poison(&self) -> &Poison {
        &self.poison
    }

    /// Live figures.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits what was submitted and stops; later appends fail with [`JournalError::Closed`].
    pub async fn close(&self) {
        self.committer.close().await;
    }
}

#[cfg(test)]
mod tests;
