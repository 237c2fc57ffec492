//! Accepting batches: an owner's copy into the journal, hints into their queues.
//!
//! Invariants: nothing is answered as stored before its sync, or the answer says that it is only
//! buffered, which hints never are; whatever is refused was not
//! appended; `ShardGone` is said only by a map at or beyond the index the batch was resolved at;
//! what lies behind the wanted end of a group that is being truncated is refused, or this node's answer
//! to the truncation counts it ([`crate::accepted`]).
//! Called for live writes by clients and for deliveries by other nodes' drains.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_protocol::{
    batch::{BatchHeader, EncodedBatch},
    code::Code,
    id::{MetaIndex, NodeId, Sequence},
    message::{
        Answer, Deliver, Delivered, HintAnswer, HintFate, HintFated, Mark, Marked, Write, Written,
    },
};

use crate::{
    core::Core,
    directory::{Place, Snapshot},
    handoff::{HandoffError, MarkReason},
    journal::{Appended, JournalError},
    shard::AdmitError,
};

/// How long a node that is behind waits for its own map before it answers `StaleMeta`.
const CATCH_UP: Duration = Duration::from_secs(2);
/// When to come back to a group that is being truncated, in ms: nodes answer in a few round trips.
const CLOSING_RETRY_MS: u32 = 100;
/// Records of one [`Deliver`] at most.
const MAX_DELIVER: usize = 1024;

const COPIES: &str = "quorate_write_copies_total";
const HINTS: &str = "quorate_write_hints_total";
const DELIVERIES: &str = "quorate_write_deliveries_total";
const MARKS: &str = "quorate_write_marks_total";

/// Why a batch was not taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    code: Code,
    retry_after_ms: u32,
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self { code, retry_after_ms: 0 }
    }
}

/// The answer to one copy, hint or mark, counted under `metric` by what became of it.
fn answer(metric: &'static str, result: Result<Sequence, Refusal>) -> Answer {
    let outcome = result.as_ref().map_or_else(|refusal| refusal.code.text(), |_| "ok");
    metrics::counter!(metric, "outcome" => outcome).increment(1);
    match result {
        Ok(sequence) => Answer { error: None, sequence, retry_after_ms: 0 },
        Err(refusal) => Answer {
            error: Some(refusal.code),
            sequence: Sequence(0),
            retry_after_ms: refusal.retry_after_ms,
        },
    }
}

/// Who sends a batch: live writes are held against the clock, deliveries are not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Perhaps refused already for the series in it.
    Live {
        refused: Option<Code>,
    },
    Hint,
}

impl Core {
    /// A client's batch: this node's copy and hints for others, at the same time.
    pub(crate) async fn write(&self, request: Write, payload: Bytes) -> Result<Written, Code> {
        let batch = EncodedBatch::parse(payload.clone()).map_err(|_| Code::Corrupt)?;
        if batch.header().part.shard != request.shard {
            return Err(Code::Corrupt);
        }
        let unique: BTreeSet<NodeId> = request.hint_for.iter().copied().collect();
        if unique.len() != request.hint_for.len() {
            return Err(Code::Malformed);
        }
        let snapshot = self.snapshot_for(request.meta_index).await?;
        let refused = self.refuses_series(&snapshot, &batch).await;
        let copy = async {
            if !request.store {
                return (None, false);
            }
            self.intake.live();
            let stored = self.store(&snapshot, batch.clone(), Origin::Live { refused }).await;
            let buffered = stored.as_ref().is_ok_and(|appended| appended.buffered);
            (Some(answer(COPIES, stored.map(|appended| appended.sequence))), buffered)
        };
        let hints = async {
            let mut answers = Vec::with_capacity(request.hint_for.len());
            for target in &request.hint_for {
                let result = match refused {
                    // What this owner refuses must not appear through another one's hint.
                    Some(code) => Err(code.into()),
                    None => self.hint(&snapshot, *target, &batch, request.any).await,
                };
                answers.push(HintAnswer { target: *target, answer: answer(HINTS, result) });
            }
            answers
        };
        // Hints first: they only hand over, while the copy may be committed right here.
        let (hints, (copy, buffered)) = tokio::join!(hints, copy);
        if copy.as_ref().is_some_and(|copy| copy.error.is_none()) {
            self.mark_refused(&batch, &hints).await;
        }
        Ok(Written {
            copy,
            hints,
            highest_version: self.highest_version(),
            meta_index: self.directory.index(),
            buffered,
        })
    }

    /// Hints for this node from a holder's queue.
    pub(crate) async fn deliver(
        self: &Arc<Self>,
        request: Deliver,
        mut payload: Bytes,
    ) -> Result<Delivered, Code> {
        let total: u64 = request.items.iter().map(|item| u64::from(item.length)).sum();
        if request.items.len() > MAX_DELIVER || total != payload.len() as u64 {
            return Err(Code::Malformed);
        }
        // No frame is as long.
        let total = u32::try_from(total).map_err(|_| Code::Malformed)?;
        let Some(_received) = self.intake.receive(total) else {
            let busy =
                Refusal { code: Code::Busy, retry_after_ms: self.config.shard.busy_retry_ms };
            let answers = request.items.iter().map(|_| answer(DELIVERIES, Err(busy))).collect();
            return Ok(Delivered { answers });
        };
        let snapshot = self.snapshot_for(request.meta_index).await?;
        let stored = self.intake.store(total).await;
        // All records are appended before the first is waited for: they share a sync.
        let mut stores = Vec::with_capacity(request.items.len());
        for item in &request.items {
            let bytes = payload.split_to(item.length as usize);
            let (core, snapshot, shard) = (Arc::clone(self), Arc::clone(&snapshot), item.shard);
            stores.push(self.tasks.spawn(async move {
                let batch = EncodedBatch::parse(bytes).map_err(|_| Refusal::from(Code::Corrupt))?;
                if batch.header().part.shard != shard {
                    return Err(Refusal::from(Code::Corrupt));
                }
                Ok(core.store(&snapshot, batch, Origin::Hint).await?.sequence)
            }));
        }
        let mut answers = Vec::with_capacity(stores.len());
        for store in stores {
            answers.push(answer(DELIVERIES, store.await.unwrap_or(Err(Code::Internal.into()))));
        }
        if let Some(stored) = stored {
            self.intake.done(stored);
        }
        Ok(Delivered { answers })
    }

    /// A durable note that another owner lacks something.
    pub(crate) async fn mark(&self, request: Mark) -> Marked {
        // Marks are kept per shard and owner: only those that exist bound their number.
        let snapshot = self.directory.current();
        let place = snapshot.shard(request.shard);
        if !place.is_some_and(|place| place.owners.contains(&request.owner)) {
            let code = match place {
                Some(_) => Code::NotOwner,
                None if request.shard.0 >= snapshot.map.next.shard => Code::StaleMeta,
                None => Code::ShardGone,
            };
            return Marked { answer: answer(MARKS, Err(code.into())) };
        }
        let mark = crate::handoff::Mark {
            shard: request.shard,
            owner: request.owner,
            reason: MarkReason::CopyDropped,
            from: request.from,
            to: request.to,
        };
        let added = self.marks.add(mark).await;
        let added = added.map(|()| Sequence(0)).map_err(|error| hint_code(&error).into());
        Marked { answer: answer(MARKS, added) }
    }

    /// What this node has and could not keep a hint of, its target may lack for good: another node
    /// may still take the hint, and then the mark says too much, which costs repair a comparison.
    async fn mark_refused(&self, batch: &EncodedBatch, hints: &[HintAnswer]) {
        let (from, to) = (batch.header().min_time, batch.header().max_time);
        for hint in hints {
            let Some(Code::QueueFull | Code::DiskFull | Code::TooLarge) = hint.answer.error else {
                continue;
            };
            let (shard, owner) = (batch.header().part.shard, hint.target);
            let reason = MarkReason::HintRefused;
            let mark = crate::handoff::Mark { shard, owner, reason, from, to };
            if let Err(error) = self.marks.add(mark).await {
                tracing::warn!(%shard, %owner, %error, "a refused hint could not be marked");
            }
        }
    }

    /// What has become of a hint that this node has accepted.
    pub(crate) fn hint_fate(&self, request: HintFate) -> HintFated {
        HintFated { fate: self.handoff.fate(request.target, request.sequence) }
    }

    /// Stores a hint for this node that is in its own hands: it owns the shard now.
    pub(crate) async fn take_hint(
        &self,
        snapshot: &Snapshot,
        batch: EncodedBatch,
    ) -> Result<(), Code> {
        self.store(snapshot, batch, Origin::Hint).await.map(drop).map_err(|refusal| refusal.code)
    }

    /// The map at or beyond `index`.
    pub(crate) async fn snapshot_for(&self, index: MetaIndex) -> Result<Arc<Snapshot>, Code> {
        self.directory.reach(index, CATCH_UP).await.ok_or(Code::StaleMeta)
    }

    async fn store(
        &self,
        snapshot: &Snapshot,
        batch: EncodedBatch,
        origin: Origin,
    ) -> Result<Appended, Refusal> {
        let header = batch.header();
        let part = header.part;
        let place = self.own(snapshot, header)?;
        if let Origin::Live { refused } = origin {
            if place.epoch != part.epoch {
                return Err(Code::StaleEpoch.into());
            }
            let now = self.env.clock.wall_ns();
            if part.version.0 > now.saturating_add(self.config.max_clock_skew_ns()) {
                return Err(Code::ClockSkew.into());
            }
            let horizon = i64::try_from(now.saturating_add(self.config.future_limit_ns()));
            if header.max_time > horizon.unwrap_or(i64::MAX) {
                return Err(Code::FutureTime.into());
            }
            if let Some(code) = refused {
                return Err(code.into());
            }
        }
        let bytes = batch.bytes().clone();
        // Held until the journal has handed the batch to the store.
        let room = match origin {
            Origin::Live { .. } => self.shards.admit_live(part.shard, bytes.len() as u64).await,
            Origin::Hint => self.shards.admit_hint(part.shard, bytes.len() as u64),
        };
        let _room = room.map_err(|e| match e {
            AdmitError::Busy { retry_after_ms } | AdmitError::Unread { retry_after_ms, .. } => {
                Refusal { code: Code::Busy, retry_after_ms }
            }
            AdmitError::Gone(_) => Code::ShardGone.into(),
            _ => Code::Poisoned.into(),
        })?;
        // Only now, since what is noted counts as accepted.
        self.accepted.accept(part.shard, header.max_time, || {
            self.own(&self.directory.current(), header).map(drop)
        })?;
        // Before the record can be folded and its segment released: the version must outlive it.
        self.saw_version(part.version);
        let appended = match origin {
            Origin::Live { .. } => self.journal.append(part.shard, bytes).await,
            // The holder forgets it.
            Origin::Hint => self.journal.append_durable(part.shard, bytes).await,
        };
        appended.map_err(|error| Refusal {
            code: journal_code(&error),
            retry_after_ms: match error {
                JournalError::Busy { retry_after_ms } => retry_after_ms,
                _ => 0,
            },
        })
    }

    /// Where a shard of this node stands, if the batch may go there.
    fn own<'s>(&self, snapshot: &'s Snapshot, header: &BatchHeader) -> Result<&'s Place, Refusal> {
        let part = header.part;
        let place = snapshot.shard(part.shard).ok_or_else(|| absent(snapshot, part.meta_index))?;
        if !place.owners.contains(&self.node) {
            return Err(Code::NotOwner.into());
        }
        if place.database != part.database || place.policy != part.policy {
            return Err(Code::Corrupt.into());
        }
        fits(place, header)?;
        Ok(place)
    }

    async fn hint(
        &self,
        snapshot: &Snapshot,
        target: NodeId,
        batch: &EncodedBatch,
        any: bool,
    ) -> Result<Sequence, Refusal> {
        let shard = batch.header().part.shard;
        self.may_hint(snapshot, target, batch)?;
        self.accepted.accept(shard, batch.header().max_time, || {
            self.may_hint(&self.directory.current(), target, batch)
        })?;
        let now = self.env.clock.wall_ns();
        let appended = self.handoff.append(target, shard, batch.bytes().clone(), any, now).await;
        appended.map_err(|error| hint_code(&error).into())
    }

    /// Whether this node may keep a batch for another one.
    fn may_hint(
        &self,
        snapshot: &Snapshot,
        target: NodeId,
        batch: &EncodedBatch,
    ) -> Result<(), Refusal> {
        let (shard, resolved) = (batch.header().part.shard, batch.header().part.meta_index);
        let place = snapshot.shard(shard).ok_or_else(|| absent(snapshot, resolved))?;
        let part = batch.header().part;
        // Grants were judged by the shard's.
        if place.database != part.database {
            return Err(Code::Corrupt.into());
        }
        // A map from before this node has joined may be from before a truncation that did not wait for it.
        if snapshot.map.node(self.node).is_none() {
            return Err(Code::StaleMeta.into());
        }
        if target == self.node || snapshot.map.node(target).is_none() {
            return Err(Code::NodeNotFound.into());
        }
        // It would have to be handed on at once.
        if self.has_left(self.node) {
            return Err(Code::ShuttingDown.into());
        }
        // A target that would refuse it for ever must not get a queue that waits for it.
        if !place.owners.contains(&target) {
            return Err(Code::NotOwner.into());
        }
        fits(place, batch.header())
    }
}

/// Whether a batch lies in its shard's group, and before the end that the group may get.
fn fits(place: &Place, header: &BatchHeader) -> Result<(), Refusal> {
    if header.min_time < place.start || header.max_time >= place.end {
        return Err(Code::OutOfGroup.into());
    }
    if place.closing.is_some_and(|at| header.max_time >= at) {
        return Err(Refusal { code: Code::GroupClosing, retry_after_ms: CLOSING_RETRY_MS });
    }
    Ok(())
}

/// What a shard that the map does not have is: gone, or not heard of yet. The index in the batch
/// decides, since a request may carry the index of a holder that is behind itself.
fn absent(snapshot: &Snapshot, resolved: MetaIndex) -> Code {
    if snapshot.map.index >= resolved { Code::ShardGone } else { Code::StaleMeta }
}

/// A failed sync is the one failure after which the batch may appear all the same.
const fn journal_code(error: &JournalError) -> Code {
    match error {
        JournalError::Busy { .. } => Code::Busy,
        JournalError::DiskFull => Code::DiskFull,
        JournalError::Poisoned(_) => Code::Poisoned,
        JournalError::TooLarge { .. } => Code::TooLarge,
        JournalError::Closed => Code::ShuttingDown,
        JournalError::Io(_) => Code::Io,
    }
}

/// What a failure of the hint queues is on the wire.
pub(crate) const fn hint_code(error: &HandoffError) -> Code {
    match error {
        HandoffError::QueueFull { .. } | HandoffError::TotalFull { .. } => Code::QueueFull,
        HandoffError::DiskFull => Code::DiskFull,
        HandoffError::TooLarge { .. } => Code::TooLarge,
        HandoffError::Closed => Code::ShuttingDown,
        HandoffError::Io(_) | HandoffError::NoQueue(_) | HandoffError::NotPending { .. } => {
            Code::Io
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::map::ClusterMap;

    use super::*;
    use crate::directory::Directory;

    #[test]
    fn a_shard_is_gone_only_for_a_map_that_must_have_known_it() {
        let directory = Directory::new(NodeId(1));
        directory.install(Arc::new(ClusterMap { index: MetaIndex(5), ..ClusterMap::default() }));
        let snapshot = directory.current();
        assert_eq!(absent(&snapshot, MetaIndex(5)), Code::ShardGone);
        assert_eq!(absent(&snapshot, MetaIndex(6)), Code::StaleMeta);
    }
}
