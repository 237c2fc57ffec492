//! What waits for the consumer of a subscription.
//!
//! Invariants: bounded in bytes; nobody waits for room, what does not fit is left out whole and counted
//! by shard, and the count is told before the next batch of that shard, or when nothing else is left;
//! the end comes last. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

use quorate_protocol::id::ShardId;

use super::StoredBatch;
use crate::error::Error;

/// What a batch takes beside its bytes, in bytes, with the gaps that may stand before it.
const OVERHEAD: usize = 512;

/// What comes out of a subscription.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A batch was stored.
    Batch(StoredBatch),
    /// Something was left out, or may have been.
    Gap(Gap),
}

/// Batches of a shard that did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The shard.
    pub shard: ShardId,
    /// Why.
    pub reason: GapReason,
    /// How many batches; none if nobody knows, and there may have been none.
    pub missed: Option<u64>,
}

/// Why batches did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapReason {
    /// The consumer, or its network, did not keep up.
    Slow,
    /// Nobody can tell whether the owner that is followed now has stored something that the ones before
    /// had not, and keeps no more.
    Unknown,
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slow => "the subscriber did not keep up",
            Self::Unknown => "the owner followed now cannot tell of all it has stored",
        })
    }
}

/// What was left out of a shard and not told of.
#[derive(Clone, Copy, Default)]
struct Lost {
    slow: u64,
    unknown: bool,
}

impl Lost {
    fn gaps(self, shard: ShardId) -> impl Iterator<Item = Gap> {
        let unknown = Gap { shard, reason: GapReason::Unknown, missed: None };
        let slow = Gap { shard, reason: GapReason::Slow, missed: Some(self.slow) };
        let unknown = self.unknown.then_some(unknown);
        unknown.into_iter().chain((self.slow > 0).then_some(slow))
    }
}

/// The queue.
pub(super) struct Events {
    waiting: VecDeque<Event>,
    bytes: usize,
    limit: usize,
    lost: BTreeMap<ShardId, Lost>,
    /// Set when nothing more comes; the error until it is taken.
    end: Option<Option<Error>>,
}

impl Events {
    pub(super) const fn new(limit: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, limit, lost: BTreeMap::new(), end: None }
    }

    pub(super) fn batch(&mut self, batch: StoredBatch) {
        let shard = batch.shard();
        let cost = cost(&batch);
        if self.bytes > 0 && self.bytes + cost > self.limit {
            self.lost.entry(shard).or_default().slow += 1;
            return;
        }
        self.tell(shard);
        self.bytes += cost;
        self.waiting.push_back(Event::Batch(batch));
    }

    fn tell(&mut self, shard: ShardId) {
        let lost = self.lost.remove(&shard).unwrap_or_default();
        self.waiting.extend(lost.gaps(shard).map(Event::Gap));
    }

    pub(super) fn gap(&mut self, gap: Gap) {
        let lost = self.lost.entry(gap.shard).or_default();
        match gap.missed {
            Some(missed) => lost.slow = lost.slow.saturating_add(missed),
            None => lost.unknown = true,
        }
    }

    pub(super) fn end(&mut self, why: Option<Error>) {
        self.end.get_or_insert(why);
    }

    /// The error that has ended it, for who has not begun to consume.
    pub(super) fn ended(&mut self) -> Option<Error> {
        self.end.as_mut().map(|error| error.take().unwrap_or(Error::Closed))
    }

    /// The next one; `Some(None)` at the end.
    pub(super) fn next(&mut self) -> Option<Option<Result<Event, Error>>> {
        if self.waiting.is_empty()
            && let Some(shard) = self.lost.keys().next().copied()
        {
            self.tell(shard);
        }
        let Some(event) = self.waiting.pop_front() else {
            return self.end.as_mut().map(|error| error.take().map(Err));
        };
        if let Event::Batch(batch) = &event {
            self.bytes -= cost(batch);
        }
        Some(Some(Ok(event)))
    }
}

fn cost(batch: &StoredBatch) -> usize {
    batch.bytes().len() + OVERHEAD
}
