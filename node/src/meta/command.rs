//! What the metadata's Raft log holds, and the types openraft is used with.
//!
//! Invariant: a command carries everything its application needs, the proposer's time included, so
//! that applying it is a pure function of the state. Logs on disks hold commands: their encoding
//! only ever grows at the end (vectors in `SPEC.md`).

use quorate_protocol::change::{Change, Outcome};
use serde::{Deserialize, Serialize};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command {
    /// The proposing leader's wall clock, ns since the Unix epoch.
    pub(super) at_ns: u64,
    /// What is wanted.
    pub(super) change: Change,
}

/// What applying an entry gave; entries of Raft's own give [`Outcome::Done`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    /// Index of the entry.
    pub(super) index: u64,
    /// What it came to.
    pub(super) outcome: Outcome,
}

openraft::declare_raft_types!(
    /// openraft with our commands; node ids are [`quorate_protocol::id::NodeId`]s.
    pub(super) Types:
        D = Command,
        R = Applied,
        NodeId = u64,
        Node = openraft::BasicNode,
        SnapshotData = Vec<u8>
);

pub(super) type Raft = openraft::Raft<Types>;
pub(super) type Entry = openraft::Entry<Types>;
pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type Membership = openraft::StoredMembership<u64, openraft::BasicNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::BasicNode>;
pub(super) type StorageError = openraft::StorageError<u64>;
