//! Hands records out of a queue, in order and past damage.
//!
//! Invariant: a record is registered as in flight in the same step that moves the cursor over it;
//! what cannot be read is noted as lost, and never stops what lies behind it. Runs on a blocking
//! thread (or inline in simulations); one reader per queue at a time.

use quorate_protocol::id::{Sequence, ShardId};

use super::HandoffError;
use super::queue::{ANY_ACK, Cursor, HintRecord, Lost, Place, Queue, Segment};
use crate::disk::Disk;
use crate::segment::header;
use crate::segment::{Damage, Found, Reader, Record, record};

/// Failed reads at one place after which the rest of the segment is given up.
const READ_ATTEMPTS: u32 = 3;

/// How much to hand out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) max_records: usize,
    /// At least one record is handed out, however large.
    pub(super) max_bytes: usize,
    /// Only records appended before this time; the first younger one ends the answer.
    pub(super) before: Option<u64>,
}

/// What was handed out so far.
struct Hand {
    want: Want,
    records: Vec<HintRecord>,
    bytes: usize,
}

impl Hand {
    fn takes(&self, length: usize, stamp: u64) -> bool {
        let room = self.records.len() < self.want.max_records.max(1)
            && (self.records.is_empty()
                || self.bytes.saturating_add(length) <= self.want.max_bytes);
        room && self.want.before.is_none_or(|before| stamp < before)
    }

    fn add(&mut self, record: Record) {
        self.bytes += record.payload.len();
        self.records.push(hint_of(record));
    }
}

/// The hint of a record.
pub(super) fn hint_of(record: Record) -> HintRecord {
    HintRecord {
        sequence: Sequence(record.meta.sequence),
        shard: ShardId(record.meta.shard),
        appended_at: record.meta.stamp,
        any_ack: record.meta.flags & ANY_ACK != 0,
        bytes: record.payload,
    }
}

/// Whether to read on.
#[derive(PartialEq)]
enum Step {
    On,
    Stop,
}

impl Queue {
    /// Hands out the next records: those handed back first, then from the cursor on.
    pub(super) fn hand_out(
        &self,
        disk: &dyn Disk,
        want: Want,
    ) -> Result<Vec<HintRecord>, HandoffError> {
        let _reading = self.reading();
        let mut hand = Hand { want, records: Vec::new(), bytes: 0 };
        let outcome = self.hand_back(disk, &mut hand).and_then(|step| match step {
            Step::On => self.hand_on(disk, &mut hand),
            Step::Stop => Ok(()),
        });
        match outcome {
            // What was read before the failure is in flight and must reach the caller.
            Err(error) if hand.records.is_empty() => Err(error),
            _ => Ok(hand.records),
        }
    }

    fn hand_back(&self, disk: &dyn Disk, hand: &mut Hand) -> Result<Step, HandoffError> {
        loop {
            let (sequence, place) = {
                let Some(next) = self.state().again(hand.want.before) else {
                    return Ok(Step::On);
                };
                next
            };
            let length = place.length.saturating_sub(record::SMALLEST);
            if !hand.takes(usize::try_from(length).unwrap_or(usize::MAX), place.stamp) {
                return Ok(Step::Stop);
            }
            let found = self.reread(disk, sequence, &place)?;
            let mut state = self.state();
            // It may have ended in the meantime.
            let Some(place) = state.take_again(sequence) else {
                continue;
            };
            if let Some(record) = found {
                state.in_flight.insert(sequence, place);
                hand.add(record);
            } else {
                state.lost.push(Lost {
                    number: place.number,
                    bytes: place.offset..place.offset + place.length,
                    sequences: sequence..sequence + 1,
                    shard: place.shard,
                    any_ack: place.any_ack,
                });
            }
        }
    }

    /// A record that was handed out before; `None` if it cannot be read any more.
    pub(super) fn reread(
        &self,
        disk: &dyn Disk,
        sequence: u64,
        place: &Place,
    ) -> Result<Option<Record>, HandoffError> {
        let Some(segment) = self.state().segment(place.number).cloned() else {
            return Ok(None);
        };
        let file = match self.open(disk, &segment) {
            // It was dropped in the meantime, with all of its segment.
            Err(error) if self.is_gone(place.number, &error) => return Ok(None),
            other => other?,
        };
        let (start, end) = (place.offset, place.offset + place.length);
        match Reader::within(&*file, &segment.header, start, end, sequence).next_found()? {
            Found::Record(record) => Ok(Some(record)),
            Found::Damaged(_) | Found::End { .. } => Ok(None),
        }
    }

    fn hand_on(&self, disk: &dyn Disk, hand: &mut Hand) -> Result<(), HandoffError> {
        while let Some((segment, sequences_end, last)) = self.at_cursor() {
            let at = self.state().cursor;
            if at.sequence >= sequences_end {
                self.leave(&segment, sequences_end, at.offset, last);
                continue;
            }
            let file = match self.open(disk, &segment) {
                Err(error) if self.is_gone(segment.header.number, &error) => continue,
                other => other?,
            };
            let cursor = {
                let mut state = self.state();
                if let Some(segment) = state.segment_mut(segment.header.number) {
                    segment.file = Some(std::sync::Arc::clone(&file));
                }
                state.cursor
            };
            let Cursor { offset, sequence, .. } = cursor;
            let mut reader = Reader::within(&*file, &segment.header, offset, segment.end, sequence);
            loop {
                match reader.next_found() {
                    Ok(Found::Record(record)) if record.meta.sequence < sequences_end => {
                        if self.take(record, reader.position(), hand) == Step::Stop {
                            return Ok(());
                        }
                    }
                    Ok(Found::Damaged(damage)) => self.lose(&segment, damage, &reader),
                    // The end, or what a failed append left behind it.
                    Ok(Found::Record(_) | Found::End { .. }) => break,
                    Err(error) => {
                        if !self.give_up(&segment) {
                            return Err(error.into());
                        }
                        break;
                    }
                }
            }
            self.leave(&segment, sequences_end, reader.position(), last);
            if last {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The segment the cursor is in, having moved over those that are gone; where its sequences
    /// end; and whether it is the last one. `None` if everything was handed out.
    fn at_cursor(&self) -> Option<(Segment, u64, bool)> {
        let mut state = self.state();
        let at = state.cursor;
        let index = state.segments.partition_point(|segment| segment.header.number < at.number);
        let Some(segment) = state.segments.get(index).cloned() else {
            let missing = at.sequence..state.accounts.next();
            if !missing.is_empty() {
                state.lose_missing(at.number, missing);
                state.cursor.sequence = state.accounts.next();
            }
            return None;
        };
        let header = segment.header;
        if header.number > at.number {
            state.lose_missing(at.number, at.sequence..header.first_sequence);
            state.cursor = Cursor {
                number: header.number,
                offset: header::LENGTH,
                sequence: header.first_sequence,
            };
        }
        let end = state.sequences_end(index);
        let last = index + 1 == state.segments.len();
        // Everything in the last one was handed out: no file needs to be opened to know that.
        if last && state.cursor.sequence >= end {
            return None;
        }
        Some((segment, end, last))
    }

    /// Hands out one record, or skips it if it has ended already.
    fn take(&self, record: Record, position: u64, hand: &mut Hand) -> Step {
        let mut state = self.state();
        let sequence = record.meta.sequence;
        // What was picked before is in somebody's hands already.
        if state.accounts.is_pending(sequence) && state.place(sequence).is_none() {
            if !hand.takes(record.payload.len(), record.meta.stamp) {
                return Step::Stop;
            }
            let place = Place {
                number: state.cursor.number,
                offset: record.offset,
                length: position - record.offset,
                shard: record.meta.shard,
                stamp: record.meta.stamp,
                any_ack: record.meta.flags & ANY_ACK != 0,
            };
            state.in_flight.insert(sequence, place);
            hand.add(record);
        }
        state.cursor.offset = position;
        state.cursor.sequence = sequence + 1;
        state.read_failures = 0;
        Step::On
    }

    fn lose(&self, segment: &Segment, damage: Damage, reader: &Reader<'_>) {
        let mut state = self.state();
        let sequences = damage.first_sequence..damage.first_sequence + damage.records;
        state.cursor.offset = reader.position();
        state.cursor.sequence = sequences.end;
        state.lost.push(Lost {
            number: segment.header.number,
            bytes: damage.range,
            sequences,
            shard: damage.header.map_or(0, |header| header.meta.shard),
            any_ack: damage.header.is_some_and(|header| header.meta.flags & ANY_ACK != 0),
        });
    }

    /// After repeated failures: leaves the rest of the segment unread, and says so.
    fn give_up(&self, segment: &Segment) -> bool {
        let mut state = self.state();
        state.read_failures += 1;
        if state.read_failures < READ_ATTEMPTS {
            return false;
        }
        state.read_failures = 0;
        if let Some(segment) = state.segment_mut(segment.header.number) {
            segment.suspect = true;
        }
        true
    }

    /// The end of a segment: notes what should have been there and moves on.
    fn leave(&self, segment: &Segment, sequences_end: u64, position: u64, last: bool) {
        let mut state = self.state();
        let missing = state.cursor.sequence..sequences_end;
        if !missing.is_empty() {
            state.lose_missing(segment.header.number, missing);
            state.cursor.sequence = sequences_end;
        }
        if last {
            state.cursor.offset = segment.end;
        } else {
            if let Some(segment) = state.segment_mut(segment.header.number) {
                segment.end = position;
                segment.file = None;
            }
            state.cursor.number = segment.header.number + 1;
            state.cursor.offset = header::LENGTH;
        }
    }
}
