//! Raft's log and vote on disk.
//!
//! Invariants: what Raft is told is written is synced; entries are read without holes or not at
//! all; an entry that cannot be decoded stops this node instead of being skipped. openraft calls
//! it, one write at a time.

use std::{
    fmt::Debug,
    ops::{RangeBounds, RangeInclusive},
};

use heed::PutFlags;
use openraft::{
    LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};

use super::{
    command::{Entry, LogId, StorageError, Types, Vote},
    error::StoreError,
    store::{Store, seal, unseal},
};

const VOTE: &str = "vote";
const PURGED: &str = "purged";

/// The log. Clones read the same environment.
#[derive(Clone)]
pub(super) struct Log {
    store: Store,
    /// Bytes of entries after which a limited read ends.
    read_bytes: usize,
}

fn read_error(error: StoreError) -> StorageError {
    StorageIOError::read_logs(&error).into()
}

fn write_error(error: StoreError) -> StorageError {
    StorageIOError::write_logs(&error).into()
}

impl Log {
    pub(super) fn new(store: Store, read_bytes: usize) -> Self {
        Self { store, read_bytes }
    }

    /// Entries of `range` in order until `limit` bytes are reached; at least one if there is one.
    fn read(&self, range: &impl RangeBounds<u64>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let txn = self.store.env.read_txn()?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0usize;
        for row in self.store.log.range(&txn, range)? {
            let (index, record) = row?;
            bytes = bytes.saturating_add(record.len());
            if bytes > limit && !entries.is_empty() {
                break;
            }
            let entry: Entry = unseal("log entry", record)?;
            let expected = entries.last().map_or(index, |last| last.log_id.index + 1);
            if index != expected || entry.log_id.index != index {
                return Err(StoreError::Corrupt { what: "log" });
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn last(&self) -> Result<LogState<Types>, StoreError> {
        let txn = self.store.env.read_txn()?;
        let last_purged_log_id: Option<LogId> = self.store.get_in(&txn, PURGED)?;
        let last: Option<Entry> = match self.store.log.last(&txn)? {
            Some((_, record)) => Some(unseal("log entry", record)?),
            None => None,
        };
        Ok(LogState {
            last_purged_log_id,
            last_log_id: last.map(|entry| entry.log_id).or(last_purged_log_id),
        })
    }

    /// From the last purged index to the last index; 0 for none.
    pub(super) fn indexes(&self) -> Result<RangeInclusive<u64>, StoreError> {
        let state = self.last()?;
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        Ok(index(state.last_purged_log_id)..=index(state.last_log_id))
    }

    /// Whether neither an entry nor a vote was ever written.
    pub(super) fn is_pristine(&self) -> Result<bool, StoreError> {
        let vote: Option<Vote> = self.store.get(VOTE)?;
        Ok(vote.is_none() && self.last()?.last_log_id.is_none())
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(&range, usize::MAX).map_err(read_error)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(&(start..end), self.read_bytes).map_err(read_error)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        self.last().map_err(read_error)
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let written =
            self.store.run(move |store| store.write(|store, txn| store.put(txn, VOTE, &vote)));
        written.await.map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.store.get(VOTE).map_err(|error| StorageIOError::read_vote(&error).into())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let rows: Result<Vec<(u64, Vec<u8>)>, StoreError> = entries
            .into_iter()
            .map(|entry| Ok((entry.log_id.index, seal("log entry", &entry)?)))
            .collect();
        let rows = rows.map_err(write_error)?;
        let written = self.store.run(move |store| {
            store.write(|store, txn| {
                for (index, record) in &rows {
                    let put = store.log.put_with_flags(txn, PutFlags::APPEND, index, record);
                    put?;
                }
                Ok(())
            })
        });
        // The commit above is synced, so the entries are readable and durable at the same moment.
        written.await.map_err(write_error)?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let written = self.store.run(move |store| {
            store.write(|store, txn| Ok(store.log.delete_range(txn, &(log_id.index..))?))
        });
        written.await.map_err(write_error).map(drop)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let written = self.store.run(move |store| {
            store.write(|store, txn| {
                store.put(txn, PURGED, &log_id)?;
                Ok(store.log.delete_range(txn, &(..=log_id.index))?)
            })
        });
        written.await.map_err(write_error).map(drop)
    }
}
