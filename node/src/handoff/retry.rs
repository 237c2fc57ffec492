//! Taking hints out of quarantine: back into their queue, or away for good.
//!
//! Invariant: a hint leaves its quarantine file only when its new record is synced, or because an
//! operator drops it. The old sequence stays quarantined in the books and the new one is accepted
//! like any other, so that they balance at every moment. A crash in between leaves the hint in both
//! places; the next retry finds it at the end of the queue and does not append it again. Called by
//! sessions; the second half runs in the committer, a file at a time, between its groups.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::batch::EncodedBatch;
use quorate_protocol::id::{NodeId, Sequence, ShardId};

use super::log::{HandoffLog, Item, Outcome, Output, answer, refused};
use super::quarantine::{self, Kept, Progress, Quarantined};
use super::queue::{ANY_ACK, Segment};
use super::terminal::{QuarantineReason, Terminal};
use super::{Handoff, HandoffError};
use crate::segment::{Found, Reader, RecordMeta, header};

/// Which hints of a queue are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Only those of this shard.
    pub shard: Option<ShardId>,
    /// Also those that an `any` acknowledgement rests on, if they are dropped.
    pub force_any: bool,
}

impl Choice {
    pub(super) fn takes(&self, shard: ShardId) -> bool {
        self.shard.is_none_or(|only| only == shard)
    }
}

/// What became of the hints that were meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Pending again, or dropped; durably.
    pub done: u64,
    /// Kept, because an `any` acknowledgement rests on them.
    pub any: u64,
    /// Kept, because they cannot be read.
    pub damaged: u64,
}

impl Taken {
    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.any += other.any;
        self.damaged += other.damaged;
    }
}

/// What happens to what is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// It is pending again, as appended at this time.
    Retry { now_ns: u64 },
    /// It is gone.
    Drop,
}

/// A quarantine file, parted. Hints have their places in the file.
#[derive(Debug, Default)]
struct Parted {
    chosen: Vec<(usize, Quarantined)>,
    rest: Vec<Quarantined>,
    /// Chosen things that are no hints any more.
    rubble: u64,
    /// Something in it is of a later version: it stays as it is.
    newer: bool,
    taken: Taken,
}

impl Handoff {
    /// Makes the quarantined hints for `target` that are chosen pending again. What is no batch any
    /// more stays where it is.
    ///
    /// # Errors
    /// The first failure, a full queue among them; what was retried before stays retried.
    pub async fn retry(
        &self,
        target: NodeId,
        choice: Choice,
        now_ns: u64,
    ) -> Result<Taken, HandoffError> {
        self.take(target, choice, Take::Retry { now_ns }).await
    }

    /// Removes the quarantined hints for `target` that are chosen.
    ///
    /// # Errors
    /// The first failure; what was removed before stays removed.
    pub async fn discard_quarantined(
        &self,
        target: NodeId,
        choice: Choice,
    ) -> Result<Taken, HandoffError> {
        self.take(target, choice, Take::Drop).await
    }

    async fn take(
        &self,
        target: NodeId,
        choice: Choice,
        take: Take,
    ) -> Result<Taken, HandoffError> {
        let mut taken = Taken::default();
        let Some(queue) = self.shared.queue(target) else {
            return Ok(taken);
        };
        let disk = Arc::clone(&self.disk);
        let numbers = move || quarantine::numbers(&*disk, &queue.directory);
        // What is quarantined from now on is in none of these, or not looked at.
        for number in self.executor.run(numbers).await.map_err(io::Error::from)?? {
            let outcome = self.submit(Item::Take { target, number, choice, take }, 0).await?;
            taken.add(outcome.taken);
        }
        taken.add(self.take_unreadable(target, choice, take).await?);
        Ok(taken)
    }

    /// Segments that could not be read at all stay, or are dropped with the rest. Nobody knows whose
    /// hints they hold, nor how many: each counts as one.
    async fn take_unreadable(
        &self,
        target: NodeId,
        choice: Choice,
        take: Take,
    ) -> Result<Taken, HandoffError> {
        let Some(queue) = self.shared.queue(target).filter(|_| choice.shard.is_none()) else {
            return Ok(Taken::default());
        };
        let disk = Arc::clone(&self.disk);
        let work = move || -> io::Result<u64> {
            let files = quarantine::unreadable(&*disk, &queue.directory)?;
            if take == Take::Drop {
                quarantine::remove(&*disk, &queue.directory, &files)?;
            }
            Ok(files.len() as u64)
        };
        let count = self.executor.run(work).await.map_err(io::Error::from)??;
        Ok(match take {
            Take::Drop => Taken { done: count, ..Taken::default() },
            Take::Retry { .. } => Taken { damaged: count, ..Taken::default() },
        })
    }
}

impl HandoffLog {
    /// Takes what is chosen out of one quarantine file.
    pub(super) fn take(
        &mut self,
        target: NodeId,
        number: u64,
        choice: Choice,
        take: Take,
    ) -> Result<Taken, HandoffError> {
        let disk = Arc::clone(&self.disk);
        let tail = self.tail(target)?;
        tail.quarantine.leave(number);
        let mut parted = Parted::default();
        let directory = &tail.queue.directory;
        quarantine::read_file(&*disk, directory, number, &mut Progress::default(), &mut |kept| {
            parted.add(kept, choice, take);
            true
        })?;
        let Parted { chosen, rest, rubble, newer, mut taken } = parted;
        if newer {
            taken.damaged += chosen.len() as u64 + rubble;
            return Ok(taken);
        }
        if chosen.is_empty() && rubble == 0 {
            return Ok(taken);
        }
        if let Take::Retry { now_ns } = take {
            self.append_again(target, number, &chosen, now_ns)?;
        }
        let tail = self.tail(target)?;
        tail.quarantine.replace(number, &rest).map_err(refused)?;
        tail.retried.retain(|(file, _)| *file != number);
        taken.done += chosen.len() as u64 + rubble;
        Ok(taken)
    }

    /// Appends hints to their queue as if they had just come; all of them, or there is an error.
    fn append_again(
        &mut self,
        target: NodeId,
        number: u64,
        hints: &[(usize, Quarantined)],
        now_ns: u64,
    ) -> Result<(), HandoffError> {
        let mut done = self.appended_before(target, hints)?;
        let tail = self.tail(target)?;
        for ((place, _), is_done) in hints.iter().zip(&mut done) {
            *is_done |= tail.retried.contains(&(number, *place));
        }
        let mut answers: Vec<Output> = Vec::new();
        answers.resize_with(hints.len(), || Err(HandoffError::Closed));
        let mut failure = None;
        for (index, ((_, hint), is_done)) in hints.iter().zip(done).enumerate() {
            if is_done {
                answer(&mut answers, index, Ok(Outcome::default()));
                continue;
            }
            let flags = if hint.any_ack { ANY_ACK } else { 0 };
            let meta = RecordMeta { sequence: 0, shard: hint.shard.0, stamp: now_ns, flags };
            if let Err(error) = self.push(target, meta, &hint.bytes, index, &mut answers) {
                failure = Some(error);
                break;
            }
        }
        let tail = self.tail(target)?;
        tail.flush(&mut answers);
        for ((place, _), output) in hints.iter().zip(&answers) {
            if output.is_ok() {
                tail.retried.insert((number, *place));
            }
        }
        self.shared.notify();
        match failure.or_else(|| answers.into_iter().find_map(Result::err)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Which of these a retry that was cut short has appended: what it appended last is what an
    /// earlier life of this queue ends with. Only a batch that is pending counts, so that nothing
    /// can be lost by this.
    fn appended_before(
        &self,
        target: NodeId,
        hints: &[(usize, Quarantined)],
    ) -> io::Result<Vec<bool>> {
        let mut found = vec![false; hints.len()];
        let Some(tail) = self.tails.get(&target) else {
            return Ok(found);
        };
        let from = tail.opened_at.saturating_sub(hints.len() as u64);
        let segments: Vec<Segment> = {
            let state = tail.queue.state();
            let old = state.segments.iter().enumerate().filter(|(index, segment)| {
                state.sequences_end(*index) > from && segment.header.first_sequence < tail.opened_at
            });
            old.map(|(_, segment)| segment.clone()).collect()
        };
        let mut wanted: HashMap<(u64, Bytes), Vec<usize>> = HashMap::new();
        for (index, (_, hint)) in hints.iter().enumerate() {
            wanted.entry((hint.shard.0, hint.bytes.clone())).or_default().push(index);
        }
        for segment in segments {
            let file = tail.queue.open_to_read(&*self.disk, &segment)?;
            let first = segment.header.first_sequence;
            let start = header::LENGTH;
            let mut reader = Reader::within(&*file, &segment.header, start, segment.end, first);
            loop {
                let record = match reader.next_found()? {
                    Found::Record(record) if record.meta.sequence < tail.opened_at => record,
                    Found::Damaged(_) => continue,
                    Found::Record(_) | Found::End { .. } => break,
                };
                let sequence = record.meta.sequence;
                if sequence < from || !tail.queue.state().accounts.is_pending(sequence) {
                    continue;
                }
                let same = wanted.get_mut(&(record.meta.shard, record.payload));
                if let Some(place) = same.and_then(Vec::pop).and_then(|at| found.get_mut(at)) {
                    *place = true;
                }
            }
        }
        Ok(found)
    }
}

impl Parted {
    fn add(&mut self, kept: Kept, choice: Choice, take: Take) {
        let hint = match kept {
            Kept::Hint(hint) => hint,
            Kept::Newer => {
                self.newer = true;
                return;
            }
            Kept::Damaged { records, bytes } => {
                // Nobody knows any more whose it was.
                if take == Take::Drop && choice.shard.is_none() {
                    self.rubble += records;
                    return;
                }
                self.taken.damaged += if choice.shard.is_none() { records } else { 0 };
                self.rest.push(Quarantined {
                    sequence: Sequence(0),
                    shard: ShardId(0),
                    appended_at: 0,
                    any_ack: false,
                    reason: Terminal::Quarantined(QuarantineReason::Damaged),
                    bytes,
                });
                return;
            }
        };
        let place = self.chosen.len() + self.rest.len();
        if !choice.takes(hint.shard) {
            self.rest.push(hint);
        } else if take == Take::Drop {
            if hint.any_ack && !choice.force_any {
                self.taken.any += 1;
                self.rest.push(hint);
            } else {
                self.chosen.push((place, hint));
            }
        } else if EncodedBatch::parse(hint.bytes.clone()).is_ok() {
            self.chosen.push((place, hint));
        } else {
            self.taken.damaged += 1;
            self.rest.push(hint);
        }
    }
}
