//! The journal's state behind the group commit: rotation, sync, release.
//!
//! Invariant: sequences are given in the order of the file and only to records that were synced,
//! or, where the operator chose so, written; what is lost with the power is then the end of the
//! journal. The first failed write or sync poisons the journal, a full disk does not. Called by
//! the committer, one group at a time.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use metrics::{counter, gauge};
use quorate_protocol::id::{Sequence, ShardId};

use tokio::sync::Notify;

use super::seed::{Checksum, Seed};
use super::spare::Spares;
use super::{
    Appended, Committed, Durability, JournalConfig, JournalError, JournalHome, JournalStats, Sink,
};
use crate::disk::{Disk, is_full};
use crate::poison::Poison;
use crate::segment::commit::Log;
use crate::segment::header::{Header, Kind};
use crate::segment::name;
use crate::segment::record::RecordMeta;
use crate::segment::writer::{FlushError, Writer, capacity_for};

/// What callers submit.
pub(super) enum Item {
    Append {
        shard: ShardId,
        batch: Bytes,
        /// The batch's checksum and the seed it was continued from, which may be an earlier
        /// segment's.
        checksum: Checksum,
        /// Whether it is answered after its sync, whatever the journal does otherwise.
        durable: bool,
    },
    /// Make durable what is written.
    Sync,
    Release(Sequence),
    /// Give back the room that nothing needs, if nothing above this sequence is there.
    Trim(Sequence),
}

/// A segment that is not written any more.
pub(super) struct Sealed {
    pub(super) path: PathBuf,
    /// The sequence of its last record, or the one before its first if it has none.
    pub(super) last: u64,
    pub(super) bytes: u64,
    /// It holds no record, damaged ones included.
    pub(super) empty: bool,
}

pub(super) struct JournalLog {
    pub(super) config: JournalConfig,
    pub(super) home: JournalHome,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) poison: Poison,
    pub(super) stats: Arc<Mutex<JournalStats>>,
    /// `None` until there is room to create one.
    pub(super) active: Option<Writer>,
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) spares: Spares,
    pub(super) next_sequence: u64,
    pub(super) next_number: u64,
    pub(super) seed: Arc<Seed>,
    /// Bytes that were answered and not synced.
    pub(super) unsynced: usize,
    /// Told when there is something that has to be synced in time.
    pub(super) sync_wanted: Arc<Notify>,
}

/// Records pushed but not flushed, with their places in the group.
type Pending = Vec<(usize, Committed)>;

impl Log for JournalLog {
    type Item = Item;
    type Output = Result<Appended, JournalError>;

    fn commit(&mut self, group: Vec<Item>) -> Vec<Self::Output> {
        let mut outputs: Vec<Self::Output> = Vec::new();
        outputs.resize_with(group.len(), || Err(JournalError::Closed));
        let done = || Ok(Appended { sequence: Sequence(0), buffered: false });
        let mut pending = Pending::new();
        let (mut released, mut trim) = (None, None);
        let mut sync = self.home.durability == Durability::Commit;
        for (index, item) in group.into_iter().enumerate() {
            match item {
                Item::Release(upto) => {
                    released = released.max(Some(upto));
                    answer(&mut outputs, index, done());
                }
                Item::Trim(upto) => {
                    trim = trim.max(Some(upto));
                    answer(&mut outputs, index, done());
                }
                Item::Sync => {
                    sync = true;
                    answer(&mut outputs, index, done());
                }
                Item::Append { shard, batch, checksum, durable } => {
                    sync |= durable;
                    if let Err(error) = self.make_room(batch.len(), &mut pending, &mut outputs) {
                        answer(&mut outputs, index, Err(error));
                        continue;
                    }
                    if let Some(record) = self.push(shard, batch, checksum) {
                        pending.push((index, record));
                    }
                }
            }
        }
        self.flush(&mut pending, &mut outputs, sync);
        if let Some(upto) = released {
            self.release(upto);
        }
        if let Some(upto) = trim {
            self.trim(upto);
        }
        self.publish();
        outputs
    }

    fn close(&mut self) {
        // What fails here has poisoned the journal, and is logged.
        let _ = self.sync();
    }
}

fn answer<T>(outputs: &mut [T], index: usize, output: T) {
    if let Some(place) = outputs.get_mut(index) {
        *place = output;
    }
}

impl JournalLog {
    /// Makes sure that the active segment takes `length` bytes more.
    fn make_room(
        &mut self,
        length: usize,
        pending: &mut Pending,
        outputs: &mut [<Self as Log>::Output],
    ) -> Result<(), JournalError> {
        self.poison.check()?;
        if self.active.as_ref().is_some_and(|active| active.fits(length)) {
            return Ok(());
        }
        // Synced in any case: what the power takes must be the end of the journal.
        self.flush(pending, outputs, true);
        self.poison.check()?;
        self.rotate(length)
    }

    fn push(&mut self, shard: ShardId, payload: Bytes, checksum: Checksum) -> Option<Committed> {
        let active = self.active.as_mut()?;
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let meta = RecordMeta { sequence, shard: shard.0, stamp: 0, flags: 0 };
        active.push_shared(&meta, &payload, checksum.under(active.seed(), &payload));
        Some(Committed { shard, sequence: Sequence(sequence), payload })
    }

    /// Writes what was pushed, syncs it if so wanted or if too much is not, shows it to the sink
    /// and answers its callers.
    fn flush(&mut self, pending: &mut Pending, outputs: &mut [<Self as Log>::Output], sync: bool) {
        if pending.is_empty() {
            if sync {
                // There is nobody to answer; the next append hears of it.
                let _ = self.sync();
            }
            return;
        }
        let Some(active) = self.active.as_mut() else {
            return;
        };
        let bytes = active.pushed();
        let sync = sync || self.unsynced + bytes > self.config.queue_bytes;
        let result = if sync { active.flush() } else { active.write() };
        let (places, records): (Vec<usize>, Vec<Committed>) = pending.drain(..).unzip();
        let failure = match result {
            Ok(()) => {
                let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
                stats.syncs += u64::from(sync);
                stats.records += records.len() as u64;
                drop(stats);
                counter!("quorate_journal_syncs_total").increment(u64::from(sync));
                counter!("quorate_journal_records_total").increment(records.len() as u64);
                counter!("quorate_journal_written_bytes_total").increment(bytes as u64);
                let first = self.unsynced == 0;
                self.unsynced = if sync { 0 } else { self.unsynced + bytes };
                if first && !sync {
                    self.sync_wanted.notify_one();
                }
                self.sink.committed(&records);
                if sync {
                    self.sink.synced(Sequence(self.next_sequence - 1));
                }
                for (index, record) in places.into_iter().zip(records) {
                    let appended = Appended { sequence: record.sequence, buffered: !sync };
                    answer(outputs, index, Ok(appended));
                }
                return;
            }
            Err(FlushError::Full) => {
                // Nothing of the group remains, so its sequences can be given again.
                self.next_sequence -= records.len() as u64;
                JournalError::DiskFull
            }
            Err(FlushError::Failed(error)) => self.failed(error),
        };
        for index in places {
            answer(outputs, index, Err(failure.clone()));
        }
    }

    fn failed(&self, error: std::io::Error) -> JournalError {
        self.poison.set(&error);
        counter!("quorate_journal_failures_total").increment(1);
        let unsynced = self.unsynced;
        tracing::error!(%error, unsynced, "the journal failed; writes are refused until a restart");
        JournalError::Io(Arc::new(error))
    }

    /// Makes durable what was answered before its sync.
    fn sync(&mut self) -> Result<(), JournalError> {
        if self.unsynced == 0 || self.poison.is_set() {
            return Ok(());
        }
        let result = self.active.as_mut().map_or(Ok(()), Writer::sync);
        match result {
            Ok(()) => {
                self.unsynced = 0;
                self.stats.lock().unwrap_or_else(PoisonError::into_inner).syncs += 1;
                counter!("quorate_journal_syncs_total").increment(1);
                // Nothing is pushed and not flushed between two groups, nor before this in a group.
                self.sink.synced(Sequence(self.next_sequence - 1));
                Ok(())
            }
            Err(FlushError::Full) => Err(self.failed(std::io::ErrorKind::StorageFull.into())),
            Err(FlushError::Failed(error)) => Err(self.failed(error)),
        }
    }

    /// Makes `writer` the active segment; the one before.
    pub(super) fn install(&mut self, writer: Writer) -> Option<Writer> {
        self.seed.set(writer.seed());
        self.active.replace(writer)
    }

    /// Seals the active segment and opens the next one.
    pub(super) fn rotate(&mut self, length: usize) -> Result<(), JournalError> {
        match self.open_segment(length) {
            Ok(writer) => {
                if let Some(old) = self.install(writer) {
                    self.sealed.push_back(Sealed {
                        path: self.home.directory.join(name::of(old.header().number)),
                        last: self.next_sequence - 1,
                        bytes: old.header().capacity,
                        empty: self.next_sequence == old.header().first_sequence,
                    });
                }
                Ok(())
            }
            Err(error) if is_full(&error) => Err(JournalError::DiskFull),
            Err(error) => {
                self.poison.set(&error);
                Err(JournalError::Io(Arc::new(error)))
            }
        }
    }

    fn open_segment(&mut self, length: usize) -> std::io::Result<Writer> {
        let capacity = capacity_for(self.config.segment_bytes, length);
        let (path, header) = self.next_header(capacity);
        if capacity == self.config.segment_bytes
            && let Some(writer) = self.spares.reuse(&*self.disk, &path, header)?
        {
            return Ok(writer);
        }
        let writer = Writer::create(&*self.disk, &path, header)?;
        self.disk.sync_directory(&self.home.directory)?;
        Ok(writer)
    }

    /// Where the next segment goes, and what it says about itself.
    pub(super) fn next_header(&mut self, capacity: u64) -> (PathBuf, Header) {
        // A number is used up even if the attempt fails: whatever it left must not be reused.
        let number = self.next_number;
        self.next_number += 1;
        let header = Header {
            kind: Kind::Journal,
            owner: self.home.node.0,
            number,
            first_sequence: self.next_sequence,
            capacity,
            salt: self.home.salt,
        };
        (self.home.directory.join(name::of(number)), header)
    }

    /// Gives back the segments whose records are all at or before `upto`.
    fn release(&mut self, upto: Sequence) {
        let released = self.sealed.iter().take_while(|segment| segment.last <= upto.0).count();
        let released = self.sealed.drain(..released).collect();
        self.give_back(released);
    }

    pub(super) fn give_back(&mut self, segments: VecDeque<Sealed>) {
        for segment in segments {
            let keep = segment.bytes == self.config.segment_bytes;
            if let Err(error) = self.spares.give_back(&*self.disk, &segment.path, keep) {
                // It is found again at the next start, and its records are applied already.
                let path = segment.path.display();
                tracing::warn!(%error, %path, "a released journal segment could not be removed");
            }
        }
    }

    pub(super) fn publish(&self) {
        let active = self.active.as_ref().map_or(0, Writer::allocated);
        let sealed: u64 = self.sealed.iter().map(|segment| segment.bytes).sum();
        let spare = self.spares.count() as u64;
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.bytes = active + sealed + spare * self.config.segment_bytes;
        stats.segments = self.sealed.len() as u64 + u64::from(active > 0);
        stats.spare_segments = spare;
        stats.last_sequence = Sequence(self.next_sequence - 1);
        gauge!("quorate_journal_size_bytes").set(stats.bytes as f64);
        gauge!("quorate_journal_segments").set(stats.segments as f64);
    }
}
