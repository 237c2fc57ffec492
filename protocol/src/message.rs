//! The op table: every request and its reply.
//!
//! Invariants: op numbers are never reused; a reply's op is its request's with the high bit set;
//! bodies are append-only structs without maps, floats or machine-sized integers. Bulk bytes
//! travel as the frame's payload, never inside a body.

use serde::{Deserialize, Serialize};

use crate::{
    change::Outcome,
    code::Code,
    frame::Message,
    hello::{Hello, Welcome},
    id::{ClusterId, Epoch, MetaIndex, NodeId, Sequence, ShardId, Version},
};

mod follow;
mod grants;
mod hints;
mod read;
mod survey;

pub use self::{
    follow::{Bodies, Follow, FollowShard, Followed, MAX_FOLLOWED},
    grants::{GrantList, Grants},
    hints::{
        HintAction, HintBatch, HintInfo, HintList, Hints, HintsDo, HintsDone, HintsVerified,
        HintsVerify, MarkInfo, MarkList, Marks, QueueVerified,
    },
    read::{
        Aggregate, Aggregated, Digest, Digested, MAX_PATTERN_BYTES, Rows, Scan, ShardList,
        ShardProblem, ShardState, Shards, TagMatch, Verified, Verify,
    },
    survey::{Lacking, Member, MemberReport, Survey, Surveyed},
};

/// A message that expects an answer.
pub trait Request: Message {
    /// The answer's body.
    type Reply: Message;
}

impl Request for Hello {
    type Reply = Welcome;
}

/// Declares a message's op, and for a request its reply.
macro_rules! ops {
    ($($op:literal $request:ident => $reply:ident;)*) => {$(
        impl Message for $request {
            const OP: u16 = $op;
        }
        impl Message for $reply {
            const OP: u16 = $op | 0x8000;
        }
        impl Request for $request {
            type Reply = $reply;
        }
    )*};
}

ops! {
    0x0002 Ping => Pong;
    0x0010 Write => Written;
    0x0011 Deliver => Delivered;
    0x0012 Mark => Marked;
    0x0013 HintFate => HintFated;
    0x0014 HandOn => HandedOn;
    0x0020 MetaGet => MetaState;
    0x0021 Propose => Proposed;
    0x0022 Join => Joined;
    0x0023 MetaWatch => MetaChanged;
    0x0024 Grants => GrantList;
    0x0030 Scan => Rows;
    0x0031 Aggregate => Aggregated;
    0x0032 Digest => Digested;
    0x0033 Verify => Verified;
    0x0034 Shards => ShardList;
    0x0036 Follow => Followed;
    0x0040 RaftAppend => RaftAppended;
    0x0041 RaftVote => RaftVoted;
    0x0042 RaftSnapshot => RaftInstalled;
    0x0050 Status => NodeStatus;
    0x0051 Hints => HintList;
    0x0052 HintsDo => HintsDone;
    0x0053 Marks => MarkList;
    0x0054 HintsVerify => HintsVerified;
    0x0055 Survey => Surveyed;
}

/// Gives up on a request of the same lane; it has no answer of its own. Op `0x0003`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The request's id.
    pub id: u64,
}

impl Message for Cancel {
    const OP: u16 = 0x0003;
}

/// The answer to any request that failed. Op `0xffff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub code: Code,
    /// When to come back, in milliseconds; 0 if the code says nothing about time.
    pub retry_after_ms: u32,
    /// The node's metadata index when it failed.
    pub meta_index: MetaIndex,
    /// One line for people; nothing may depend on it.
    pub detail: String,
}

impl Message for Failure {
    const OP: u16 = 0xffff;
}

/// Asks for a sign of life. Op `0x0002`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {}

/// One encoded batch (the payload) for one shard. Op `0x0010`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The shard; the same as in the batch.
    pub shard: ShardId,
    /// The shard's epoch in the sender's map.
    pub epoch: Epoch,
    /// The metadata index the batch was resolved at.
    pub meta_index: MetaIndex,
    /// Time left for the answer, in milliseconds.
    pub deadline_ms: u32,
    /// Whether the receiver shall store a copy as an owner.
    pub store: bool,
    /// Whether an `any` acknowledgement rests on the hints.
    pub any: bool,
    /// Nodes for which the receiver shall keep a hint.
    pub hint_for: Vec<NodeId>,
}

/// What became of one copy or hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Nothing, or why it failed.
    pub error: Option<Code>,
    /// Where it stands in the journal or queue if it did not.
    pub sequence: Sequence,
    /// When to come back, in milliseconds, if `error` is [`Code::Busy`].
    pub retry_after_ms: u32,
}

/// A hint's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintAnswer {
    /// For whom the hint is.
    pub target: NodeId,
    /// What became of it.
    pub answer: Answer,
}

/// The answer to [`Write`]: copy and hints separately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The owner's copy, if one was asked for.
    pub copy: Option<Answer>,
    /// One per node in `hint_for`, in that order.
    pub hints: Vec<HintAnswer>,
    /// The highest version this node has accepted.
    pub highest_version: Version,
    /// The node's metadata index.
    pub meta_index: MetaIndex,
    /// The copy is written and not yet synced, as the node's operator chose.
    pub buffered: bool,
}

/// One record of a [`Deliver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintItem {
    /// The shard.
    pub shard: ShardId,
    /// Bytes of the batch in the payload, which holds the batches in order.
    pub length: u32,
}

/// Hints for the receiver, from a holder's queue. Op `0x0011`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliver {
    /// The holder's metadata index.
    pub meta_index: MetaIndex,
    /// Time left for the answer, in milliseconds.
    pub deadline_ms: u32,
    /// At most 1,024.
    pub items: Vec<HintItem>,
}

/// The answer to [`Deliver`]: one answer per record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// In the order of the request's items.
    pub answers: Vec<Answer>,
}

/// Asks an owner that has a batch to keep a durable repair mark for an owner whose copy was given
/// up: it lacks something of this shard in this time range. Op `0x0012`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The shard.
    pub shard: ShardId,
    /// Who lacks it.
    pub owner: NodeId,
    /// First time, in ns.
    pub from: i64,
    /// Last time, in ns, included.
    pub to: i64,
}

/// The answer to [`Mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marked {
    /// What became of the mark.
    pub answer: Answer,
}

/// Asks a holder what has become of one of its hints. Op `0x0013`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintFate {
    /// For whom the hint is.
    pub target: NodeId,
    /// Its place in the holder's queue.
    pub sequence: Sequence,
}

/// How a hint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It waits.
    Pending,
    /// The target has acknowledged it.
    Delivered,
    /// It is kept aside, and an operator must look at it.
    Quarantined,
    /// It grew too old; a repair mark stands for it.
    Expired,
    /// It is not needed any more: its shard is gone, or an operator dropped it.
    Discarded,
    /// It went on to the shard's present owners, or to another holder.
    Retargeted,
    /// Nobody knows any more, or no such hint was ever accepted.
    Unknown,
}

/// The answer to [`HintFate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintFated {
    /// How the hint stands.
    pub fate: Fate,
}

/// Asks a holder to give its hints to other nodes that are up, before it leaves. Op `0x0014`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOn {
    /// Time left for it, in milliseconds.
    pub deadline_ms: u32,
}

/// The answer to [`HandOn`], when nothing is pending any more or the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOn {
    /// Hints that others keep now.
    pub moved: u64,
    /// Hints that are still here.
    pub pending: u64,
}

/// Asks for what has come to the cluster map after `after`, once. Op `0x0020`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaGet {
    /// The index the asker has; 0 for none.
    pub after: MetaIndex,
}

/// What makes the answering node's map of the asker's: the payload is
/// [`crate::map::MapUpdate`]s in postcard, one behind the other, over several frames if large; none
/// if nothing is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaState {
    /// The index of the answering node.
    pub index: MetaIndex,
}

/// Asks for what comes to the cluster map after `after`, for as long as the stream is open. Op
/// `0x0023`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaWatch {
    /// The index the asker has; 0 for none.
    pub after: MetaIndex,
}

/// A part of an answer to [`MetaWatch`]: the payload, with those of the frames before it that said
/// that more is left, is [`crate::map::MapUpdate`]s as in [`MetaState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaChanged {
    /// The index that the updates lead to.
    pub index: MetaIndex,
    /// Bytes of these updates that follow in further frames.
    pub left: u32,
}

/// Asks for a change of metadata: the payload, see [`crate::change::Change::encode`]. Op `0x0021`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propose {
    /// Time left for the answer, in milliseconds.
    pub deadline_ms: u32,
    /// Whether a node has passed it on already; such a request is not passed on again.
    pub forwarded: bool,
    /// The index of the asker's map; 0 for none.
    pub after: MetaIndex,
}

/// The change is committed and applied. The payload is what makes the map at or beyond that index of
/// the asker's, as in [`MetaState`], so that the asker need not wait for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposed {
    /// The index at which it was applied.
    pub index: MetaIndex,
    /// What it came to.
    pub outcome: Outcome,
}

/// A node asks to become a member. Op `0x0022`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The address peers and clients shall dial, `HOST:PORT`.
    pub addr: String,
    /// The failure domain it is in.
    pub zone: Option<String>,
    /// Drawn once per data directory: a second disk under the same name is a stranger.
    pub instance: u128,
    /// Whether a node has passed it on already, and for which name (from that node's peer).
    pub forwarded_for: Option<String>,
    /// Time left for the answer, in milliseconds.
    pub deadline_ms: u32,
}

/// The node is in the map; the leader makes it a member of the Raft group next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// The new node's id.
    pub node: NodeId,
    /// The index at which it was added.
    pub index: MetaIndex,
}

/// Raft's AppendEntries; the payload is the library's request in postcard. Op `0x0040`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftAppend {}

/// The payload is the library's result in postcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftAppended {}

/// Raft's RequestVote; the payload is the library's request in postcard. Op `0x0041`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftVote {}

/// The payload is the library's result in postcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftVoted {}

/// A snapshot of the metadata, over several frames, on its own stream. Op `0x0042`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftSnapshot {}

/// The payload is the library's result in postcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftInstalled {}

/// Asks a node how it is. Op `0x0050`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {}

/// A node's part of the Raft group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftRole {
    /// Leads.
    Leader,
    /// Votes and follows.
    Follower,
    /// Votes and is campaigning.
    Candidate,
    /// Follows without a vote.
    Learner,
}

impl RaftRole {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
        }
    }
}

/// One hint queue. accepted = delivered + pending + quarantined + expired + discarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// For whom the hints are.
    pub target: NodeId,
    /// Hints ever accepted.
    pub accepted: u64,
    /// Hints the target has acknowledged.
    pub delivered: u64,
    /// Hints still to be delivered.
    pub pending: u64,
    /// Hints set aside with a reason.
    pub quarantined: u64,
    /// Hints that grew too old.
    pub expired: u64,
    /// Hints whose shard or target is gone.
    pub discarded: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// When the oldest pending hint was appended, ns since the Unix epoch; 0 if none.
    pub oldest_ns: u64,
}

/// A node's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The answering node.
    pub node: NodeId,
    /// Its part of the Raft group.
    pub role: RaftRole,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Its metadata index.
    pub meta_index: MetaIndex,
    /// Whether a failed sync has stopped its writes.
    pub poisoned: bool,
    /// Bytes of fresh batches in memory, not yet folded into runs.
    pub fresh_bytes: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Its hint queues.
    pub queues: Vec<QueueStatus>,
    /// The software version.
    pub version: String,
    /// How long a write may be answered before its sync, in milliseconds; 0: it never is.
    pub sync_interval_ms: u32,
    /// The last entry of the metadata's log that it has.
    pub log_index: u64,
    /// The last entry of it that its map includes. A node is behind the leader by the leader's
    /// `log_index` less this.
    pub applied_index: u64,
    /// The last moment at which peers accept its certificate, in seconds since 1970.
    pub certificate_expires_s: u64,
}
