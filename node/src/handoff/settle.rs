//! How hints end: booked once, quarantined bytes and books synced before a file goes.
//!
//! Invariant: a segment file is removed only when every one of its sequences has ended and the
//! books that say so are synced. Runs in the committer, after the appends of its group.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::id::{NodeId, Sequence, ShardId};

use super::HandoffError;
use super::accounts::Ended;
use super::log::{HandoffLog, Tail, refused};
use super::quarantine::{self, Quarantined};
use super::queue::{Place, Segment};
use super::terminal::{DiscardReason, QuarantineReason, Terminal};
use crate::disk::Disk;
use crate::segment::{Found, Reader, header, trailer};

impl HandoffLog {
    pub(super) fn tail(&mut self, target: NodeId) -> Result<&mut Tail, HandoffError> {
        self.tails.get_mut(&target).ok_or(HandoffError::NoQueue(target))
    }

    /// Books the ends of hints that were handed out.
    pub(super) fn complete(
        &mut self,
        target: NodeId,
        ends: &[(Sequence, Terminal)],
    ) -> Result<(), HandoffError> {
        let disk = Arc::clone(&self.disk);
        let tail = self.tail(target)?;
        let mut entries: Vec<Ended> = Vec::new();
        let mut aside = Vec::new();
        let mut stranger = None;
        let mut places = Vec::new();
        {
            let state = tail.queue.state();
            let mut ends = ends.to_vec();
            ends.sort_by_key(|(sequence, _)| *sequence);
            ends.dedup_by_key(|(sequence, _)| *sequence);
            for (sequence, terminal) in ends {
                match state.place(sequence.0).filter(|_| state.accounts.is_pending(sequence.0)) {
                    Some(place) => places.push((sequence, terminal, place)),
                    None => stranger = Some(sequence),
                }
            }
        }
        for (sequence, terminal, place) in places {
            if matches!(terminal, Terminal::Quarantined(_)) {
                aside.push(tail.read_for_quarantine(&*disk, sequence, terminal, place)?);
            }
            add(&mut entries, sequence.0, terminal, place.shard);
        }
        if !aside.is_empty() {
            tail.quarantine.keep(&aside).map_err(refused)?;
        }
        tail.book(&entries)?;
        self.collect(target)?;
        self.tail(target)?.note_position(&*disk);
        stranger.map_or(Ok(()), |sequence| Err(HandoffError::NotPending { target, sequence }))
    }

    /// Books hints that an operator gives up, handed out or not, as far as they are pending; how
    /// many there were.
    pub(super) fn discard(
        &mut self,
        target: NodeId,
        hints: &[(Sequence, ShardId)],
    ) -> Result<u64, HandoffError> {
        let disk = Arc::clone(&self.disk);
        let tail = self.tail(target)?;
        let mut entries = Vec::new();
        {
            let state = tail.queue.state();
            let pending = |(sequence, _): &&(Sequence, _)| state.accounts.is_pending(sequence.0);
            for (sequence, shard) in hints.iter().filter(pending) {
                let terminal = Terminal::Discarded(DiscardReason::Dropped);
                add(&mut entries, sequence.0, terminal, shard.0);
            }
        }
        tail.book(&entries)?;
        self.collect(target)?;
        self.tail(target)?.note_position(&*disk);
        Ok(entries.iter().map(|entry| entry.count).sum())
    }

    /// Quarantines what readers could not read.
    pub(super) fn quarantine_lost(&mut self, target: NodeId) -> Result<(), HandoffError> {
        let disk = Arc::clone(&self.disk);
        let tail = self.tail(target)?;
        let lost = tail.queue.state().lost.clone();
        if lost.is_empty() {
            return Ok(());
        }
        let reason = Terminal::Quarantined(QuarantineReason::Damaged);
        let mut entries = Vec::new();
        let mut aside = Vec::new();
        for one in &lost {
            let state = tail.queue.state();
            for range in state.accounts.pending_in(one.sequences.clone()) {
                let Range { start: first, end } = range;
                let count = end - first;
                entries.push(Ended { first, count, terminal: reason, shard: one.shard });
            }
            let segment = state.segment(one.number).cloned();
            drop(state);
            if let Some(segment) = segment.filter(|_| !one.bytes.is_empty()) {
                let file = tail.queue.open(&*disk, &segment);
                let bytes = file.and_then(|file| quarantine::raw(&*file, one.bytes.clone()));
                let bytes = bytes.unwrap_or_else(|_| {
                    if let Some(segment) = tail.queue.state().segment_mut(one.number) {
                        segment.suspect = true;
                    }
                    Bytes::new()
                });
                aside.push(Quarantined {
                    sequence: Sequence(one.sequences.start),
                    shard: ShardId(one.shard),
                    appended_at: 0,
                    any_ack: one.any_ack,
                    reason,
                    bytes,
                });
            }
        }
        if !aside.is_empty() {
            tail.quarantine.keep(&aside).map_err(refused)?;
        }
        let records: u64 = entries.iter().map(|entry| entry.count).sum();
        tracing::warn!(target_node = %target, records, "damaged hints were quarantined");
        tail.book(&entries)?;
        tail.queue.state().lost.drain(..lost.len());
        self.collect(target)?;
        self.tail(target)?.note_position(&*disk);
        Ok(())
    }

    /// Removes the segments whose hints have all ended.
    pub(super) fn collect(&mut self, target: NodeId) -> Result<(), HandoffError> {
        let disk = Arc::clone(&self.disk);
        let tail = self.tail(target)?;
        let active = tail.writer.as_ref().map(|writer| writer.header().number);
        let ended: Vec<Segment> = {
            let state = tail.queue.state();
            let done = |index: &usize| {
                let Some(segment) = state.segments.get(*index) else {
                    return false;
                };
                let range = segment.header.first_sequence..state.sequences_end(*index);
                Some(segment.header.number) != active && state.accounts.pending_in(range).is_empty()
            };
            let indexes: Vec<usize> = (0..state.segments.len()).filter(done).collect();
            indexes.into_iter().filter_map(|index| state.segments.get(index).cloned()).collect()
        };
        if ended.is_empty() {
            return Ok(());
        }
        let accounts = tail.queue.state().accounts.clone();
        tail.ledger.sync(&accounts).map_err(refused)?;
        for segment in ended {
            let number = segment.header.number;
            let removed = tail.remove(&*disk, &segment);
            if let Err(error) = removed {
                // It is found again at the next start, with nothing pending in it.
                tracing::warn!(%error, target_node = %target, number, "hint segment not removed");
            }
            let mut state = tail.queue.state();
            if let Some(index) = state.index(number) {
                state.segments.remove(index);
            }
        }
        Ok(())
    }

    /// Removes even the last segment of queues in which nothing is pending.
    pub(super) fn tidy(&mut self) -> Result<(), HandoffError> {
        let targets: Vec<NodeId> = self.tails.keys().copied().collect();
        for target in targets {
            let tail = self.tail(target)?;
            let empty = {
                let state = tail.queue.state();
                let used = state.accounts.pending() > 0 || !tail.pushed.is_empty();
                !used && !state.segments.is_empty()
            };
            if empty {
                // The books name every hint that has ended, and so carry the sequence on.
                tail.writer = None;
                self.collect(target)?;
            }
        }
        Ok(())
    }
}

/// Adds an end, joining runs of one shard, and deliveries of all.
fn add(entries: &mut Vec<Ended>, first: u64, terminal: Terminal, shard: u64) {
    let shard = if terminal == Terminal::Delivered { 0 } else { shard };
    if let Some(last) = entries.last_mut()
        && (last.first + last.count, last.terminal, last.shard) == (first, terminal, shard)
    {
        last.count += 1;
        return;
    }
    entries.push(Ended { first, count: 1, terminal, shard });
}

impl Tail {
    /// Stores ends in the ledger, then in memory. Deliveries need no sync of their own: a hint
    /// whose delivery a power cut forgets is delivered again, and counted once.
    fn book(&mut self, entries: &[Ended]) -> Result<(), HandoffError> {
        if entries.is_empty() {
            return Ok(());
        }
        let accounts = self.queue.state().accounts.clone();
        let sync = entries.iter().any(|entry| entry.terminal != Terminal::Delivered);
        self.ledger.store(&accounts, entries, sync).map_err(refused)?;
        let mut state = self.queue.state();
        for entry in entries {
            state.accounts.end(entry);
            for sequence in entry.first..entry.first + entry.count {
                state.in_flight.remove(&sequence);
                state.take_again(sequence);
            }
        }
        Ok(())
    }

    fn read_for_quarantine(
        &self,
        disk: &dyn Disk,
        sequence: Sequence,
        reason: Terminal,
        place: Place,
    ) -> Result<Quarantined, HandoffError> {
        let segment = self.queue.state().segment(place.number).cloned();
        let Some(segment) = segment else {
            let target = self.queue.target;
            return Err(HandoffError::NotPending { target, sequence });
        };
        let file = self.queue.open(disk, &segment)?;
        let end = place.offset + place.length;
        let mut reader = Reader::within(&*file, &segment.header, place.offset, end, sequence.0);
        let bytes = match reader.next_found()? {
            Found::Record(record) => record.payload,
            // Damaged since it was handed out: what is left of it is kept.
            Found::Damaged(_) | Found::End { .. } => quarantine::raw(&*file, place.offset..end)?,
        };
        let (shard, appended_at) = (ShardId(place.shard), place.stamp);
        Ok(Quarantined { sequence, shard, appended_at, any_ack: place.any_ack, reason, bytes })
    }

    fn remove(&self, disk: &dyn Disk, segment: &Segment) -> io::Result<()> {
        let path = self.queue.path(segment.header.number);
        if segment.suspect {
            let directory = self.quarantine.directory();
            disk.create_directory(directory)?;
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            disk.rename(&path, &directory.join(format!("{}{file}", quarantine::UNREADABLE)))?;
            disk.sync_directory(directory)?;
        } else {
            disk.remove(&path)?;
        }
        disk.sync_directory(&self.queue.directory)
    }

    /// Notes in the segment how far it has been read. Only a note: errors cost a longer start.
    fn note_position(&self, disk: &dyn Disk) {
        let place = {
            let state = self.queue.state();
            let position = state.floor_position().filter(|(_, offset)| *offset > header::LENGTH);
            position.and_then(|(number, offset)| Some((state.segment(number)?.clone(), offset)))
        };
        if let Some((segment, offset)) = place
            && let Ok(file) = self.queue.open(disk, &segment)
        {
            let _ = trailer::write(&*file, &segment.header, offset);
        }
    }
}
