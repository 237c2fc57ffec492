//! What operators ask about hint queues and repair marks, and have done to them.
//!
//! Invariant: only [`HintsDo`] changes anything; looking at a queue takes nothing out of it and
//! holds no delivery up. Part of [`super`], the op table.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{DatabaseId, NodeId, PolicyId, Sequence, ShardId, Version};

/// Lists the hints that a node keeps for another, in the order they were accepted. Op `0x0051`, on
/// its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// For whom they are.
    pub target: NodeId,
    /// Those that were kept aside, not those that are pending.
    pub quarantined: bool,
    /// With the batches themselves.
    pub content: bool,
    /// How many at most; 0 for all.
    pub limit: u64,
}

/// The payload, over any number of frames, is an entry per hint: `u32 length | postcard of
/// [`HintInfo`] | u32 length | batch`. The batch is empty if it was not asked for or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintList {}

/// A hint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintInfo {
    /// Its place in the queue; of several that were lost together, the first; 0 if not known.
    pub sequence: Sequence,
    /// How many hints these are: more than one only where several were lost together.
    pub count: u64,
    /// The shard; 0 if not known.
    pub shard: ShardId,
    /// When it was accepted, in ns; 0 if not known.
    pub appended_at: u64,
    /// Whether an `any` acknowledgement rests on it, as far as that is known.
    pub any: bool,
    /// Why it was kept aside, by the codes of the accounts; 0 for one that is pending.
    pub reason: u32,
    /// Bytes of the batch, or of what is left of it.
    pub bytes: u64,
    /// What is in it; none if it is damaged.
    pub batch: Option<HintBatch>,
}

/// What is in a hint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintBatch {
    /// The database.
    pub database: DatabaseId,
    /// The retention policy.
    pub policy: PolicyId,
    /// The version of all rows.
    pub version: Version,
    /// How many rows.
    pub rows: u32,
    /// The first time, in ns.
    pub from: i64,
    /// The last time, in ns, included.
    pub to: i64,
    /// How many measurements.
    pub measurements: u32,
    /// The unescaped names of the first of them, at most 8.
    pub names: Vec<Bytes>,
}

/// Has a node do something about the hints it keeps for another. Op `0x0052`, on its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintsDo {
    /// For whom they are.
    pub target: NodeId,
    /// What to do.
    pub action: HintAction,
    /// Only hints of this shard.
    pub shard: Option<ShardId>,
    /// Also what an `any` acknowledgement rests on, if they are dropped.
    pub force_any: bool,
}

/// What can be done about hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HintAction {
    /// What was kept aside is pending again.
    Retry,
    /// What is pending ends as discarded.
    Drop,
    /// What was kept aside is removed.
    DropQuarantined,
}

/// What was done, durably.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintsDone {
    /// Hints that are pending again, or dropped.
    pub done: u64,
    /// Hints that stay because an `any` acknowledgement rests on them.
    pub any: u64,
    /// Hints that stay because they cannot be read.
    pub damaged: u64,
}

/// Asks for the repair marks of a node. Op `0x0053`, on its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {}

/// The payload is the postcard of a list of [`MarkInfo`], ascending by shard, owner and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkList {}

/// A repair mark: an owner may lack something of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkInfo {
    /// The shard.
    pub shard: ShardId,
    /// Who may lack it.
    pub owner: NodeId,
    /// Why, as marks are stored.
    pub reason: u32,
    /// The first time, in ns.
    pub from: i64,
    /// The last time, in ns, included.
    pub to: i64,
}

/// Has a node read everything it stores of its hint queues and repair marks, with every checksum.
/// Changes nothing. Op `0x0054`, on its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintsVerify {}

/// The payload is the postcard of a list of [`QueueVerified`], ascending by target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintsVerified {}

/// What was verified of a queue, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueVerified {
    /// For whom the queue is; 0 for the repair marks and what else is in their directory.
    pub target: NodeId,
    /// Segment files.
    pub segments: u64,
    /// Intact records in them; of target 0, marks.
    pub records: u64,
    /// Those of them that are pending.
    pub pending: u64,
    /// Intact records in quarantine.
    pub aside: u64,
    /// Records that are damaged or missing.
    pub damaged: u64,
    /// Files and directories that are not a queue's.
    pub unknown: u64,
    /// Whether the last segment ends in something that was never finished, and so never accepted.
    pub torn: bool,
    /// Hints ever accepted, by the accounts.
    pub accepted: u64,
    /// Whether accepted = delivered + pending + quarantined + expired + discarded, and each hint
    /// that is pending by the accounts is there.
    pub balanced: bool,
    /// How many problems there are.
    pub found: u64,
    /// The first of them, for people; at most 100, of at most 400 bytes.
    pub problems: Vec<String>,
}
