//! The committer's side of all hint queues: appending, rotating, one sync per queue and group.
//!
//! Invariant: a hint is answered only after its record is synced, and only then do readers see it;
//! a queue whose file failed goes on in a new file, so no later hint rests on pages that the
//! kernel may have dropped. How hints end is in `settle.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_protocol::id::{NodeId, Sequence, ShardId};
use tokio::sync::watch;

use super::accounts::Accounts;
use super::ledger::Ledger;
use super::quarantine::Quarantine;
use super::queue::{ANY_ACK, Queue, Segment, State};
use super::retry::{Choice, Take, Taken};
use super::terminal::Terminal;
use super::{HandoffConfig, HandoffError};
use crate::disk::{Disk, is_full};
use crate::segment::commit::Log;
use crate::segment::header::{self, Header, Kind};
use crate::segment::record::RecordMeta;
use crate::segment::writer::{FlushError, capacity_for};
use crate::segment::{Writer, name};

/// What callers submit.
pub(super) enum Item {
    Append {
        target: NodeId,
        shard: ShardId,
        batch: Bytes,
        any_ack: bool,
        now_ns: u64,
    },
    Complete {
        target: NodeId,
        ends: Vec<(Sequence, Terminal)>,
    },
    /// Quarantine what readers found to be lost.
    Lost {
        target: NodeId,
    },
    /// End hints that an operator gives up.
    Discard {
        target: NodeId,
        hints: Vec<(Sequence, ShardId)>,
    },
    /// Take hints out of a quarantine file.
    Take {
        target: NodeId,
        number: u64,
        choice: Choice,
        take: Take,
    },
    /// Remove the files of queues that are empty.
    Tidy,
}

/// What came of an item.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    /// Of what was appended.
    pub(super) sequence: Sequence,
    /// Of what was discarded or taken out of quarantine.
    pub(super) taken: Taken,
}

pub(super) type Output = Result<Outcome, HandoffError>;

/// The queues, shared between the front and the committer.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queues: Mutex<BTreeMap<NodeId, Arc<Queue>>>,
    /// Counts up whenever something can be handed out.
    pub(super) changed: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn queue(&self, target: NodeId) -> Option<Arc<Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).get(&target).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

/// The writing end of one queue.
pub(super) struct Tail {
    pub(super) queue: Arc<Queue>,
    pub(super) ledger: Ledger,
    pub(super) quarantine: Quarantine,
    pub(super) writer: Option<Writer>,
    pub(super) next_sequence: u64,
    pub(super) next_number: u64,
    /// Places in the group of the records that were pushed but not flushed.
    pub(super) pushed: Vec<usize>,
    /// The first sequence of this life: those before it are of earlier ones.
    pub(super) opened_at: u64,
    /// Hints (file, place in it) that are appended anew and have not left quarantine yet.
    pub(super) retried: BTreeSet<(u64, usize)>,
}

pub(super) struct HandoffLog {
    pub(super) config: HandoffConfig,
    pub(super) directory: PathBuf,
    pub(super) salt: u64,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) shared: Arc<Shared>,
    pub(super) tails: BTreeMap<NodeId, Tail>,
    /// Queues that could not be opened; left alone until a restart.
    pub(super) broken: BTreeSet<NodeId>,
}

impl Log for HandoffLog {
    type Item = Item;
    type Output = Output;

    fn commit(&mut self, group: Vec<Item>) -> Vec<Output> {
        let mut outputs: Vec<Output> = Vec::new();
        outputs.resize_with(group.len(), || Err(HandoffError::Closed));
        let mut touched = BTreeSet::new();
        let mut later = Vec::new();
        for (index, item) in group.into_iter().enumerate() {
            match item {
                Item::Append { target, shard, batch, any_ack, now_ns } => {
                    let flags = if any_ack { ANY_ACK } else { 0 };
                    let meta = RecordMeta { sequence: 0, shard: shard.0, stamp: now_ns, flags };
                    match self.push(target, meta, &batch, index, &mut outputs) {
                        Ok(()) => drop(touched.insert(target)),
                        Err(error) => answer(&mut outputs, index, Err(error)),
                    }
                }
                other => later.push((index, other)),
            }
        }
        for target in &touched {
            if let Some(tail) = self.tails.get_mut(target) {
                tail.flush(&mut outputs);
            }
        }
        if !touched.is_empty() {
            self.shared.notify();
        }
        for (index, item) in later {
            let output = match item {
                Item::Complete { target, ends } => {
                    touched.insert(target);
                    self.complete(target, &ends).map(|()| Taken::default())
                }
                Item::Lost { target } => {
                    touched.insert(target);
                    self.quarantine_lost(target).map(|()| Taken::default())
                }
                Item::Discard { target, hints } => {
                    touched.insert(target);
                    let done = self.discard(target, &hints);
                    done.map(|done| Taken { done, ..Taken::default() })
                }
                Item::Take { target, number, choice, take } => {
                    touched.insert(target);
                    self.take(target, number, choice, take)
                }
                Item::Tidy => self.tidy().map(|()| Taken::default()),
                Item::Append { .. } => continue,
            };
            let output = output.map(|taken| Outcome { taken, ..Outcome::default() });
            answer(&mut outputs, index, output);
        }
        for target in touched {
            if let Some(tail) = self.tails.get(&target) {
                tail.queue.figures().publish(target);
            }
        }
        outputs
    }

    fn close(&mut self) {
        for tail in self.tails.values_mut() {
            let accounts = tail.queue.state().accounts.clone();
            if let Err(FlushError::Failed(error)) = tail.ledger.sync(&accounts) {
                tracing::warn!(%error, target_node = %tail.queue.target, "hint accounts not synced");
            }
        }
    }
}

pub(super) fn answer(outputs: &mut [Output], index: usize, output: Output) {
    if let Some(place) = outputs.get_mut(index) {
        *place = output;
    }
}

pub(super) fn refused(error: FlushError) -> HandoffError {
    match error {
        FlushError::Full => HandoffError::DiskFull,
        FlushError::Failed(error) => HandoffError::from(error),
    }
}

impl HandoffLog {
    pub(super) fn push(
        &mut self,
        target: NodeId,
        mut meta: RecordMeta,
        batch: &[u8],
        index: usize,
        outputs: &mut [Output],
    ) -> Result<(), HandoffError> {
        self.create(target)?;
        let Some(tail) = self.tails.get_mut(&target) else {
            return Err(HandoffError::NoQueue(target));
        };
        if !tail.writer.as_ref().is_some_and(|writer| writer.fits(batch.len())) {
            tail.flush(outputs);
            self.rotate(target, batch.len())?;
        }
        let Some(tail) = self.tails.get_mut(&target) else {
            return Err(HandoffError::NoQueue(target));
        };
        meta.sequence = tail.next_sequence;
        if let Some(writer) = tail.writer.as_mut() {
            tail.next_sequence += 1;
            writer.push(&meta, batch);
            tail.pushed.push(index);
        }
        Ok(())
    }

    /// Makes the directory and the accounts of a queue that is not there yet.
    fn create(&mut self, target: NodeId) -> Result<(), HandoffError> {
        if self.tails.contains_key(&target) {
            return Ok(());
        }
        if self.broken.contains(&target) {
            let reason = "the queue could not be opened at the start";
            return Err(HandoffError::Io(Arc::new(io::Error::other(reason))));
        }
        let directory = self.directory.join(target.to_string());
        self.disk.create_directory(&directory)?;
        self.disk.sync_directory(&self.directory)?;
        let (mut ledger, _) =
            Ledger::open(Arc::clone(&self.disk), &directory, target.0, self.salt)?;
        ledger.create()?;
        let accounts = Accounts::default();
        ledger.turn(&accounts).map_err(refused)?;
        let queue = Queue::new(target, directory.clone(), State::new(accounts));
        self.adopt(queue, ledger, None, 1);
        Ok(())
    }

    /// Takes a queue into service.
    pub(super) fn adopt(
        &mut self,
        queue: Queue,
        ledger: Ledger,
        writer: Option<Writer>,
        next_number: u64,
    ) {
        let target = queue.target;
        let queue = Arc::new(queue);
        let next_sequence = queue.state().accounts.next();
        // Metrics show what is there from the start.
        queue.figures().publish(target);
        let quarantine = Quarantine::new(
            Arc::clone(&self.disk),
            &queue.directory,
            target.0,
            self.salt,
            self.config.segment_bytes,
        );
        let mut queues = self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.insert(target, Arc::clone(&queue));
        drop(queues);
        let tail = Tail {
            queue,
            ledger,
            quarantine,
            writer,
            next_sequence,
            next_number,
            pushed: Vec::new(),
            opened_at: next_sequence,
            retried: BTreeSet::new(),
        };
        self.tails.insert(target, tail);
    }

    /// Whether a segment of this size may be added to a queue.
    fn within_limits(&self, target: NodeId, capacity: u64) -> Result<(), HandoffError> {
        let (limit, total_limit) = (self.config.max_bytes, self.config.max_total_bytes);
        let bytes = self.tails.get(&target).map_or(0, Tail::disk_bytes);
        if bytes + capacity > limit {
            return Err(HandoffError::QueueFull { target, bytes, limit });
        }
        let bytes: u64 = self.tails.values().map(Tail::disk_bytes).sum();
        if bytes + capacity > total_limit {
            return Err(HandoffError::TotalFull { bytes, limit: total_limit });
        }
        Ok(())
    }

    /// Opens the next segment of a queue, within the limits.
    fn rotate(&mut self, target: NodeId, length: usize) -> Result<(), HandoffError> {
        let (limit, total_limit) = (self.config.max_bytes, self.config.max_total_bytes);
        let usual = self.config.segment_bytes.min(limit).min(total_limit);
        let capacity = capacity_for(usual, length);
        if self.within_limits(target, capacity).is_err() {
            // What has nothing pending gives its room back before anything is refused.
            self.tidy()?;
            self.within_limits(target, capacity)?;
        }
        let (disk, salt) = (Arc::clone(&self.disk), self.salt);
        let result = self.tail(target)?.open_segment(&*disk, capacity, salt);
        match result {
            Ok(()) => self.collect(target),
            Err(error) if is_full(&error) => Err(HandoffError::DiskFull),
            Err(error) => Err(HandoffError::Io(Arc::new(error))),
        }
    }
}

impl Tail {
    fn disk_bytes(&self) -> u64 {
        self.queue.state().segments.iter().map(|segment| segment.bytes).sum()
    }

    fn open_segment(&mut self, disk: &dyn Disk, capacity: u64, salt: u64) -> io::Result<()> {
        // A number is used up even if the attempt fails: whatever it left must not be reused.
        let number = self.next_number;
        self.next_number += 1;
        let header = Header {
            kind: Kind::Hints,
            owner: self.queue.target.0,
            number,
            first_sequence: self.next_sequence,
            capacity,
            salt,
        };
        let directory: &Path = &self.queue.directory;
        let writer = Writer::create(disk, &directory.join(name::of(number)), header)?;
        disk.sync_directory(directory)?;
        let mut state = self.queue.state();
        if let Some(old) = state.segments.back_mut() {
            old.file = None;
        }
        state.segments.push_back(Segment {
            header,
            end: header::LENGTH,
            bytes: capacity,
            file: Some(Arc::clone(writer.file())),
            suspect: false,
        });
        drop(state);
        self.writer = Some(writer);
        Ok(())
    }

    /// Writes and syncs what was pushed, shows it to readers and answers its callers.
    pub(super) fn flush(&mut self, outputs: &mut [Output]) {
        let Some(writer) = self.writer.as_mut().filter(|_| !self.pushed.is_empty()) else {
            return;
        };
        let count = self.pushed.len() as u64;
        let first = self.next_sequence - count;
        let failure = match writer.flush() {
            Ok(()) => {
                let mut state = self.queue.state();
                state.accounts.accept(self.next_sequence);
                if let Some(segment) = state.segment_mut(writer.header().number) {
                    segment.end = writer.position();
                }
                drop(state);
                for (index, sequence) in self.pushed.drain(..).zip(first..) {
                    let sequence = Sequence(sequence);
                    answer(outputs, index, Ok(Outcome { sequence, ..Outcome::default() }));
                }
                return;
            }
            Err(FlushError::Full) => HandoffError::DiskFull,
            Err(FlushError::Failed(error)) => {
                tracing::error!(%error, target_node = %self.queue.target, "a hint segment failed");
                self.writer = None;
                HandoffError::Io(Arc::new(error))
            }
        };
        // Nothing was accepted: the sequences are given again, in a new file if this one failed.
        self.next_sequence = first;
        for index in self.pushed.drain(..) {
            answer(outputs, index, Err(failure.clone()));
        }
    }
}
