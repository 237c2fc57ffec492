//! What a write tells its caller: where every part is durable, and what was dropped.
//!
//! Invariant: a receipt says only what a node has answered, or what was never sent; whatever is not known is
//! [`CopyState::Outstanding`].

use quorate_protocol::{
    consistency::Level,
    id::{BatchId, MetaIndex, NodeId, Sequence, ShardId, Version},
};

use crate::{history::WriteHistory, later::Later};

/// Where one owner's copy of one part is, as far as the client knew when it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyState {
    /// Durable on the owner, at this position of its journal.
    Stored {
        /// Position in the owner's journal.
        sequence: Sequence,
    },
    /// Written by the owner, at this position of its journal, and not synced yet: its operator
    /// chose to sync at intervals. It counts for the level; a power cut within the interval may
    /// take it.
    Buffered {
        /// Position in the owner's journal.
        sequence: Sequence,
    },
    /// Durable in a hint queue for the owner.
    Hinted {
        /// The node that keeps the hint.
        holder: NodeId,
        /// Position in the holder's queue for the owner.
        sequence: Sequence,
    },
    /// A durable repair mark says that the owner lacks it.
    Marked {
        /// The co-owner that keeps the mark.
        holder: NodeId,
    },
    /// Refused by the owner before anything was stored, or never sent, since the level was known to be out of
    /// reach.
    Refused,
    /// Not known yet, or never: the background work goes on, and
    /// [`Client::converged`](crate::Client::converged) follows it.
    Outstanding,
}

impl CopyState {
    /// Whether the owner has it, synced or not.
    #[must_use]
    pub const fn held(&self) -> bool {
        matches!(self, Self::Stored { .. } | Self::Buffered { .. })
    }
}

/// One owner's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerCopy {
    /// The owner.
    pub owner: NodeId,
    /// Where its copy is.
    pub state: CopyState,
}

/// One part: the rows of a write that belong to one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReceipt {
    /// Names the part on every resend.
    pub batch: BatchId,
    /// The shard.
    pub shard: ShardId,
    /// Rows in it.
    pub rows: usize,
    /// Whether the write's level was reached for it.
    pub reached: bool,
    /// One per owner of the shard.
    pub copies: Vec<OwnerCopy>,
    /// What became of the copies after this was said.
    pub(crate) later: Later,
}

/// Points that were left out because their policy would have expired them already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// How many.
    pub points: usize,
    /// The earliest of their times, in ns.
    pub min_time: i64,
    /// The latest of their times, in ns.
    pub max_time: i64,
}

impl Dropped {
    pub(crate) fn add(dropped: &mut Option<Self>, time: i64) {
        let entry = dropped.get_or_insert(Self { points: 0, min_time: time, max_time: time });
        entry.points += 1;
        entry.min_time = entry.min_time.min(time);
        entry.max_time = entry.max_time.max(time);
    }

    pub(crate) fn join(dropped: &mut Option<Self>, more: Self) {
        let entry = dropped.get_or_insert(Self { points: 0, ..more });
        entry.points += more.points;
        entry.min_time = entry.min_time.min(more.min_time);
        entry.max_time = entry.max_time.max(more.max_time);
    }
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The version that all of it carries.
    pub version: Version,
    /// The metadata index it was resolved at.
    pub meta_index: MetaIndex,
    /// The level that was asked for.
    pub level: Level,
    /// One per shard it touched.
    pub parts: Vec<PartReceipt>,
    /// Points beyond retention, if any.
    pub dropped: Option<Dropped>,
    /// What was done step by step, if `WriteOptions::history_bytes` asked for it.
    pub history: Option<WriteHistory>,
}

impl Receipt {
    /// Rows that reached the level.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.parts.iter().filter(|part| part.reached).map(|part| part.rows).sum()
    }

    /// Copies that their owners have not synced yet, as far as known.
    #[must_use]
    pub fn buffered(&self) -> usize {
        let copies = self.parts.iter().flat_map(|part| &part.copies);
        copies.filter(|copy| matches!(copy.state, CopyState::Buffered { .. })).count()
    }

    /// Hints that stand in for copies, as far as known.
    #[must_use]
    pub fn hints(&self) -> usize {
        let copies = self.parts.iter().flat_map(|part| &part.copies);
        copies.filter(|copy| matches!(copy.state, CopyState::Hinted { .. })).count()
    }
}
