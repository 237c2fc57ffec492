//! What is asked about the content of one shard: rows, aggregates, digests, and whether it is sound.
//!
//! Invariant: each of these only reads, on a stream of its own; an answer that ends without a
//! failure is whole. Part of [`super`], the op table.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{MetaIndex, ShardId, Version};

/// Bytes of a regular expression at most.
pub const MAX_PATTERN_BYTES: usize = 4096;

/// A condition on one tag; all conditions of a request must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagMatch {
    /// Unescaped tag key.
    pub key: Bytes,
    /// The tag has one of these unescaped values; empty if `pattern` is given.
    pub values: Vec<Bytes>,
    /// A regular expression its value matches.
    pub pattern: Option<String>,
}

/// Reads rows of one shard, merged, in order of (series key, time). Op `0x0030`, on its own stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// The shard.
    pub shard: ShardId,
    /// The metadata index of the reader's map.
    pub meta_index: MetaIndex,
    /// Unescaped name of one measurement, or all.
    pub measurement: Option<Bytes>,
    /// Conditions on tags.
    pub tags: Vec<TagMatch>,
    /// Unescaped names of fields; empty for all.
    pub fields: Vec<Bytes>,
    /// First time, in ns.
    pub from: i64,
    /// The time behind the last, in ns; `i64::MAX` for no end.
    pub to: i64,
    /// Only series whose key is behind this one: where the page before ended.
    pub after: Option<Bytes>,
    /// Payload bytes after which the answer ends with the series it is in; 0 for no limit. Pages
    /// let a reader of many shards hold no stream open while it reads another.
    pub limit: u32,
    /// Rows after which the answer ends, within a series too: the reader wants no more; 0 for no limit. Rows of
    /// one series and time count once.
    pub rows: u32,
}

/// Some series of a [`Scan`] as the payload: `u32 key length | key | u32 block length | row block`
/// each. The last frame has no MORE flag. A series may go on in the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Entries in the payload.
    pub entries: u32,
    /// In the last frame: whether the scan has ended, rather than the page.
    pub complete: bool,
}

/// Aggregates of one shard over windows of time, for the series, fields and times of a [`Scan`].
/// Op `0x0031`, on its own stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregate {
    /// The shard.
    pub shard: ShardId,
    /// The metadata index of the reader's map.
    pub meta_index: MetaIndex,
    /// Unescaped name of one measurement, or all.
    pub measurement: Option<Bytes>,
    /// Conditions on tags.
    pub tags: Vec<TagMatch>,
    /// Unescaped names of fields; empty for all.
    pub fields: Vec<Bytes>,
    /// First time, in ns.
    pub from: i64,
    /// The time behind the last, in ns; `i64::MAX` for no end.
    pub to: i64,
    /// Length of the windows, in ns; 0 for one over all times. They are aligned as groups are.
    pub every: u64,
    /// Only series whose key is behind this one.
    pub after: Option<Bytes>,
    /// Payload bytes after which the answer ends with the series it is in; 0 for no limit.
    pub limit: u32,
}

/// Some of an [`Aggregate`] as the payload: `u32 length | field windows` each. Entries come in order
/// of (series key, field, type); a series with very many windows comes in several rounds, each
/// later in time. The last frame has no MORE flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregated {
    /// Entries in the payload.
    pub entries: u32,
    /// In the last frame: whether the shard has ended, rather than the page.
    pub complete: bool,
}

/// Asks for the digests of what a shard holds, per bucket of time. Op `0x0032`, on its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The shard.
    pub shard: ShardId,
    /// The metadata index of the asker's map.
    pub meta_index: MetaIndex,
    /// First time, in ns.
    pub from: i64,
    /// The time behind the last, in ns; `i64::MAX` for no end.
    pub to: i64,
    /// Length of the buckets, in ns; 0 for one over all times. They are aligned as groups are.
    pub bucket: u64,
    /// Values that win with a later version are left out.
    pub up_to: Version,
}

/// The buckets that have content, ascending, as the payload: `i64 start | u64 values | u128 digest`
/// each, perhaps over several frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digested {
    /// How many buckets.
    pub buckets: u32,
}

/// Has a node read everything it stores of a shard, with every checksum and invariant, and say what
/// is wrong. Changes nothing. Op `0x0033`, on its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// The shard.
    pub shard: ShardId,
    /// The metadata index of the asker's map.
    pub meta_index: MetaIndex,
}

/// One thing that is wrong with a stored shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardProblem {
    /// What kind of thing, in one word; later versions know more words.
    pub kind: String,
    /// Where, and more about it, for people.
    pub detail: String,
}

/// What was verified, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Live runs.
    pub runs: u64,
    /// Their blocks.
    pub blocks: u64,
    /// Bytes of these blocks.
    pub bytes: u64,
    /// Rows in them, each version on its own.
    pub rows: u64,
    /// Values in these rows.
    pub values: u64,
    /// Series that have an id.
    pub series: u64,
    /// Blocks that are left over and will be deleted.
    pub garbage_blocks: u64,
    /// Bytes of these.
    pub garbage_bytes: u64,
    /// How many problems there are.
    pub found: u64,
    /// The first of them, at most 100.
    pub problems: Vec<ShardProblem>,
}

/// Asks a node how much it has of its shards. Op `0x0034`, on its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shards {}

/// The payload is the postcard of a list of [`ShardState`], ascending by shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardList {}

/// How much a node has of one shard, as it knows without reading anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardState {
    /// The shard.
    pub shard: ShardId,
    /// Series in its runs.
    pub series: u64,
    /// Live runs.
    pub runs: u64,
    /// Bytes of their blocks.
    pub bytes: u64,
    /// Bytes of batches that are not folded yet.
    pub fresh_bytes: u64,
    /// Whether a stored block was found damaged.
    pub damaged: bool,
    /// Whether a failed sync has stopped its folding.
    pub poisoned: bool,
}
