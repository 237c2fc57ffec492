//! How all members are, from one call to any of them.
//!
//! Invariants: every member of the answering node's map is in the list once, with what it said or with
//! why it said nothing, so that a member that is down fails nothing but its own entry; what a member
//! said travels on as the bytes it sent, each part behind its length, so that parts can grow. The node
//! that is asked makes the list, clients and commands read it.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{NodeStatus, ShardState};
use crate::id::{MetaIndex, NodeId, ShardId};

/// Asks a node how all members are; it asks the others. Op `0x0055`, on its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Time that members have to answer, in milliseconds.
    pub deadline_ms: u32,
    /// Whether a node has passed it on; the receiver then speaks for itself only.
    pub forwarded: bool,
}

/// The payload is the postcard of a list of [`Member`], ascending by node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surveyed {
    /// The node that was asked.
    pub node: NodeId,
    /// The index of its map, whose members these are.
    pub meta_index: MetaIndex,
}

/// One member, and what it said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which.
    pub node: NodeId,
    /// Why it did not answer, if so, in one line for people; the rest is empty then.
    pub failure: Option<String>,
    /// The postcard of a [`NodeStatus`].
    pub status: Bytes,
    /// The postcard of a list of [`ShardState`], ascending by shard.
    pub shards: Bytes,
    /// The postcard of a list of [`Lacking`], ascending by shard and owner.
    pub lacking: Bytes,
}

/// What an owner lacks of a shard, as far as the node knows that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lacking {
    /// The shard; 0 for hints whose shards are not known.
    pub shard: ShardId,
    /// Who lacks it.
    pub owner: NodeId,
    /// Pending hints.
    pub hints: u64,
    /// Repair marks.
    pub marks: u64,
}

/// What one member said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// How it is.
    pub status: NodeStatus,
    /// How much it has of its shards.
    pub shards: Vec<ShardState>,
    /// What it keeps or notes because others lack it.
    pub lacking: Vec<Lacking>,
}

impl Member {
    /// A member that has answered.
    ///
    /// # Errors
    /// If something cannot be encoded.
    pub fn answered(report: &MemberReport) -> postcard::Result<Self> {
        Ok(Self {
            node: report.status.node,
            failure: None,
            status: postcard::to_allocvec(&report.status)?.into(),
            shards: postcard::to_allocvec(&report.shards)?.into(),
            lacking: postcard::to_allocvec(&report.lacking)?.into(),
        })
    }

    /// A member that has not.
    #[must_use]
    pub fn silent(node: NodeId, why: impl Into<String>) -> Self {
        let nothing = Bytes::new;
        let failure = Some(why.into());
        Self { node, failure, status: nothing(), shards: nothing(), lacking: nothing() }
    }

    /// What the member said, or why it said nothing that can be read.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn report(&self) -> Result<MemberReport, String> {
        if let Some(why) = &self.failure {
            return Err(why.clone());
        }
        Ok(MemberReport {
            status: read("status", &self.status)?,
            shards: read("list of shards", &self.shards)?,
            lacking: read("list of what others lack", &self.lacking)?,
        })
    }
}

/// The value in front; what a later version has put behind it is not looked at.
fn read<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, String> {
    let read = postcard::take_from_bytes(bytes).map(|(value, _)| value);
    read.map_err(|error| format!("its {what} cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::RaftRole;

    fn report() -> MemberReport {
        let status = NodeStatus {
            node: NodeId(3),
            role: RaftRole::Follower,
            leader: None,
            meta_index: MetaIndex(5),
            poisoned: false,
            fresh_bytes: 0,
            journal_bytes: 0,
            queues: Vec::new(),
            version: "1".to_owned(),
            sync_interval_ms: 0,
            log_index: 5,
            applied_index: 5,
            certificate_expires_s: 9,
        };
        let lacking = Lacking { shard: ShardId(7), owner: NodeId(2), hints: 1, marks: 0 };
        MemberReport { status, shards: Vec::new(), lacking: vec![lacking] }
    }

    #[test]
    fn a_member_says_what_it_said_or_why_it_did_not() {
        let member = Member::answered(&report()).unwrap();
        assert_eq!((member.node, member.report()), (NodeId(3), Ok(report())));
        let silent = Member::silent(NodeId(4), "down");
        assert_eq!(silent.report(), Err("down".to_owned()));
        let cut = Member { status: member.status.slice(..3), ..member };
        assert!(cut.report().unwrap_err().contains("status cannot be read"));
    }

    /// A status of a later version: its entry does not spoil the ones behind it.
    #[test]
    fn parts_may_grow() {
        let mut later = Member::answered(&report()).unwrap();
        for part in [&mut later.status, &mut later.shards, &mut later.lacking] {
            *part = [&part[..], &[1, 2, 3]].concat().into();
        }
        let list = [later, Member::silent(NodeId(4), "down")];
        let bytes = postcard::to_allocvec(&list[..]).unwrap();
        let read: Vec<Member> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(read[0].report(), Ok(report()));
        assert_eq!(read[1].node, NodeId(4));
    }
}
