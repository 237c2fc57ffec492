//! Following what an owner stores: batches as they become durable, told by name or whole.
//!
//! Invariant: only what the owner has synced is told, in the order of its journal; whatever of it is
//! not told is counted or said to be unknown. Part of [`super`], the op table.

use serde::{Deserialize, Serialize};

use crate::{
    code::Code,
    id::{BatchId, MetaIndex, Sequence, ShardId, Version},
};

/// Shards of one [`Follow`] at most.
pub const MAX_FOLLOWED: usize = 2_048;

/// Follows shards of the node that is asked, for as long as the stream is open. Op `0x0036`, on its
/// own stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// The metadata index of the follower's map.
    pub meta_index: MetaIndex,
    /// At least one and at most [`MAX_FOLLOWED`], each once.
    pub shards: Vec<FollowShard>,
}

/// One shard of a [`Follow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowShard {
    /// The shard.
    pub shard: ShardId,
    /// Tell what stands behind this record of the owner's journal; 0 for everything there is. None:
    /// what comes from now on.
    pub after: Option<Sequence>,
    /// Whether the batches come along.
    pub bodies: Bodies,
}

/// Which batches come whole, and not by name only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bodies {
    /// None.
    None,
    /// All.
    All,
    /// Those that the owner stores after it has been asked.
    New,
}

/// A part of the answer to [`Follow`]: of each shard first where it begins, with `length` 0; then a
/// batch each. The payload is the batch as it was appended, where its body was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// The shard.
    pub shard: ShardId,
    /// The batch's place in the owner's journal; at the beginning, the record behind which
    /// everything is told.
    pub sequence: Sequence,
    /// Its batch id; 0 without a batch.
    pub batch: BatchId,
    /// Its version; 0 without a batch.
    pub version: Version,
    /// The checksum in its header; with the id it names the batch.
    pub checksum: u32,
    /// Its length in bytes; 0 without a batch.
    pub length: u32,
    /// Batches of this shard that were left out since the answer before, because the follower did
    /// not take them in time.
    pub missed: u64,
    /// At the beginning: there may have been batches behind `after` that the owner cannot tell of
    /// any more.
    pub gap: bool,
    /// Nothing more comes of this shard, and why.
    pub ended: Option<Code>,
}
