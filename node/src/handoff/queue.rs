//! One target's queue as its readers see it: segments, cursor, what is handed out.
//!
//! Invariant: only synced records are ever handed out, each to one reader at a time, and in order but
//! for those that are picked; a record is in flight, set aside, handed back, ended, or else ahead of the
//! cursor. The committer publishes into it after each sync; the drain takes from it. The lock is held for
//! bookkeeping only, never across disk reads or awaits.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate_protocol::id::{NodeId, Sequence, ShardId};

use super::accounts::Accounts;
use super::stats::QueueStats;
use crate::disk::{Disk, DiskFile, Open};
use crate::segment::header::{self, Header};
use crate::segment::{Reader, name};

/// The flag of a record that an `any` acknowledgement rests on.
pub(super) const ANY_ACK: u32 = 1;

/// A hint, handed out for delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HintRecord {
    /// Its place in the queue.
    pub sequence: Sequence,
    /// The shard the batch belongs to.
    pub shard: ShardId,
    /// When it was appended, nanoseconds since the Unix epoch.
    pub appended_at: u64,
    /// Whether an `any` acknowledgement rests on it.
    pub any_ack: bool,
    /// The batch as it arrived.
    pub bytes: Bytes,
}

/// Where a record lies, and what is needed to book its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) shard: u64,
    pub(super) stamp: u64,
    pub(super) any_ack: bool,
}

/// Records that cannot be read; to be quarantined by the committer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) number: u64,
    pub(super) bytes: Range<u64>,
    pub(super) sequences: Range<u64>,
    pub(super) shard: u64,
    pub(super) any_ack: bool,
}

/// One segment file.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) header: Header,
    /// Where its synced records end; for a sealed one that was not read yet, where they must.
    pub(super) end: u64,
    /// The size of the file.
    pub(super) bytes: u64,
    /// Open while it is written or read.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    /// Reads failed: it is kept for inspection instead of being removed.
    pub(super) suspect: bool,
}

/// The next record to hand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(super) number: u64,
    pub(super) offset: u64,
    pub(super) sequence: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) accounts: Accounts,
    /// By number, ascending.
    pub(super) segments: VecDeque<Segment>,
    pub(super) cursor: Cursor,
    pub(super) in_flight: BTreeMap<u64, Place>,
    /// In the drain's hands, but not under way: only whoever wants old ones may take them.
    pub(super) aside: BTreeMap<u64, Place>,
    pub(super) returned: BTreeMap<u64, Place>,
    pub(super) lost: Vec<Lost>,
    /// Reads that failed in a row at the cursor.
    pub(super) read_failures: u32,
}

/// One target's queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) target: NodeId,
    pub(super) directory: PathBuf,
    state: Mutex<State>,
    /// Held by the one reader that is handing out.
    reading: Mutex<()>,
}

impl Queue {
    pub(super) fn new(target: NodeId, directory: PathBuf, state: State) -> Self {
        Self { target, directory, state: Mutex::new(state), reading: Mutex::new(()) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to hand out; whoever has it moves the cursor.
    pub(super) fn reading(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.directory.join(name::of(number))
    }

    /// Whether [`hand_out`](Self::hand_out) has something to give.
    pub(super) fn ready(&self) -> bool {
        let state = self.state();
        !state.returned.is_empty() || state.cursor.sequence < state.accounts.next()
    }

    /// Makes records in flight available again.
    pub(super) fn put_back(&self, sequences: impl IntoIterator<Item = u64>) {
        let mut state = self.state();
        for sequence in sequences {
            if let Some(place) = state.in_flight.remove(&sequence) {
                state.returned.insert(sequence, place);
            }
        }
    }

    /// Sets records in flight aside.
    pub(super) fn set_aside(&self, sequences: impl IntoIterator<Item = u64>) {
        let mut state = self.state();
        for sequence in sequences {
            if let Some(place) = state.in_flight.remove(&sequence) {
                state.aside.insert(sequence, place);
            }
        }
    }

    /// Makes records that are still set aside available again.
    pub(super) fn resume(&self, sequences: impl IntoIterator<Item = u64>) {
        let mut state = self.state();
        for sequence in sequences {
            if let Some(place) = state.aside.remove(&sequence) {
                state.returned.insert(sequence, place);
            }
        }
    }

    pub(super) fn rewind(&self) {
        let mut state = self.state();
        let (mut in_flight, mut aside) =
            (std::mem::take(&mut state.in_flight), std::mem::take(&mut state.aside));
        state.returned.append(&mut in_flight);
        state.returned.append(&mut aside);
    }

    /// The figures, without the age of the oldest hint.
    pub(super) fn figures(&self) -> QueueStats {
        let state = self.state();
        let mut stats = QueueStats::of(&state.accounts);
        stats.disk_bytes = state.segments.iter().map(|segment| segment.bytes).sum();
        stats.bytes = state.pending_bytes();
        stats
    }

    /// The figures; may read one record header for the age of the oldest hint.
    pub(super) fn stats(&self, disk: &dyn Disk) -> QueueStats {
        let mut stats = self.figures();
        if stats.pending > 0 {
            stats.oldest_appended_at = self.oldest(disk);
        }
        stats
    }

    fn oldest(&self, disk: &dyn Disk) -> Option<u64> {
        let (segment, cursor) = {
            let state = self.state();
            if let Some(place) = state.place(state.accounts.floor()) {
                return Some(place.stamp);
            }
            let mut cursor = state.cursor;
            let before = |segment: &Segment| segment.header.number < cursor.number;
            let segment = state.segments.get(state.segments.partition_point(before))?.clone();
            let Header { number, first_sequence: sequence, .. } = segment.header;
            if number > cursor.number {
                // Nothing of it was handed out yet.
                cursor = Cursor { number, offset: header::LENGTH, sequence };
            }
            (segment, cursor)
        };
        let file = self.open(disk, &segment).ok()?;
        let Cursor { offset, sequence, .. } = cursor;
        let mut reader = Reader::within(&*file, &segment.header, offset, segment.end, sequence);
        Some(reader.header().ok()??.meta.stamp)
    }

    /// Whether a segment has been removed, so that an error to open it is none.
    pub(super) fn is_gone(&self, number: u64, error: &std::io::Error) -> bool {
        error.kind() == std::io::ErrorKind::NotFound && self.state().segment(number).is_none()
    }

    /// The file of a segment, for whoever changes nothing.
    pub(super) fn open_to_read(
        &self,
        disk: &dyn Disk,
        segment: &Segment,
    ) -> std::io::Result<Arc<dyn DiskFile>> {
        match &segment.file {
            Some(file) => Ok(Arc::clone(file)),
            None => disk.open(&self.path(segment.header.number), Open::Read),
        }
    }

    /// The file of a segment, opened if it is not.
    pub(super) fn open(
        &self,
        disk: &dyn Disk,
        segment: &Segment,
    ) -> std::io::Result<Arc<dyn DiskFile>> {
        match &segment.file {
            Some(file) => Ok(Arc::clone(file)),
            None => disk.open(&self.path(segment.header.number), Open::Existing),
        }
    }
}

impl State {
    /// A queue without segments.
    pub(super) fn new(accounts: Accounts) -> Self {
        let cursor = Cursor { number: 0, offset: header::LENGTH, sequence: accounts.next() };
        Self {
            accounts,
            segments: VecDeque::new(),
            cursor,
            in_flight: BTreeMap::new(),
            aside: BTreeMap::new(),
            returned: BTreeMap::new(),
            lost: Vec::new(),
            read_failures: 0,
        }
    }

    pub(super) fn index(&self, number: u64) -> Option<usize> {
        self.segments.binary_search_by_key(&number, |segment| segment.header.number).ok()
    }

    pub(super) fn segment(&self, number: u64) -> Option<&Segment> {
        self.segments.get(self.index(number)?)
    }

    pub(super) fn segment_mut(&mut self, number: u64) -> Option<&mut Segment> {
        let index = self.index(number)?;
        self.segments.get_mut(index)
    }

    /// One past the last sequence of the segment at `index`.
    pub(super) fn sequences_end(&self, index: usize) -> u64 {
        let next = self.segments.get(index + 1);
        next.map_or(self.accounts.next(), |segment| segment.header.first_sequence)
    }

    /// Notes records that have no bytes, unless they have all ended: a segment whose hints were
    /// dropped is gone before the cursor has come to it.
    pub(super) fn lose_missing(&mut self, number: u64, sequences: Range<u64>) {
        if !self.accounts.pending_in(sequences.clone()).is_empty() {
            self.lost.push(Lost { number, bytes: 0..0, sequences, shard: 0, any_ack: false });
        }
    }

    /// Where a record that was handed out lies.
    pub(super) fn place(&self, sequence: u64) -> Option<Place> {
        let held = self.in_flight.get(&sequence).or_else(|| self.aside.get(&sequence));
        held.or_else(|| self.returned.get(&sequence)).copied()
    }

    /// The next record to hand out once more: one that was handed back, or for whoever wants only
    /// what is older than this time, one that is set aside.
    pub(super) fn again(&self, before: Option<u64>) -> Option<(u64, Place)> {
        let old = before.and_then(|before| self.aside.iter().find(|(_, it)| it.stamp < before));
        let next = old.or_else(|| self.returned.first_key_value());
        next.map(|(sequence, place)| (*sequence, *place))
    }

    /// Takes what [`Self::again`] has named, if it is still there.
    pub(super) fn take_again(&mut self, sequence: u64) -> Option<Place> {
        self.aside.remove(&sequence).or_else(|| self.returned.remove(&sequence))
    }

    /// Where the lowest pending record starts, if that is known.
    pub(super) fn floor_position(&self) -> Option<(u64, u64)> {
        let floor = self.accounts.floor();
        match self.place(floor) {
            Some(place) => Some((place.number, place.offset)),
            None if floor >= self.cursor.sequence => Some((self.cursor.number, self.cursor.offset)),
            None => None,
        }
    }

    fn pending_bytes(&self) -> u64 {
        if self.accounts.pending() == 0 {
            return 0;
        }
        let (number, offset) = self.floor_position().unwrap_or((0, 0));
        let bytes = |segment: &Segment| {
            let start = if segment.header.number == number { offset } else { header::LENGTH };
            segment.end.saturating_sub(start)
        };
        self.segments.iter().filter(|segment| segment.header.number >= number).map(bytes).sum()
    }
}
