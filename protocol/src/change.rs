//! Changes of metadata, as clients and nodes ask for them and as the Raft log keeps them.
//!
//! Invariant: variants and fields are only ever appended, since logs on disks hold them. What a
//! change comes to is decided when it is applied, from the state at that index, so racing askers
//! cannot make two truths.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    code::Code,
    grant::{Access, GrantScope},
    id::{ClusterId, DatabaseId, GroupId, MetaIndex, NodeId, PolicyId},
    schema::FieldType,
};

/// A wanted retention policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySpec {
    /// Its name.
    pub name: String,
    /// How long points are kept, in ns; 0 for ever.
    pub duration: u64,
    /// Length of its groups in ns; 0 for the default of `duration`.
    pub group_duration: u64,
    /// Copies wanted; 0 for the default, 3.
    pub replication: u32,
}

/// What is to be changed of a retention policy; the rest stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// How long points are kept, in ns; 0 for ever.
    pub duration: Option<u64>,
    /// Length of new groups in ns; 0 for the default of the duration.
    pub group_duration: Option<u64>,
    /// Copies wanted in new groups; 0 for the default, 3.
    pub replication: Option<u32>,
}

/// A field to be registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewField {
    /// Unescaped measurement name.
    pub measurement: Bytes,
    /// Unescaped field name.
    pub field: Bytes,
    /// The type its first write has.
    pub kind: FieldType,
}

/// What a node has accepted for a group that is being truncated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// The group.
    pub group: GroupId,
    /// Which truncation this answers: the index of its command.
    pub truncation: MetaIndex,
    /// The latest time at or behind the truncation's that it has stored, or keeps a hint of, for any
    /// shard of the group; it takes no later ones from now on.
    pub highest: Option<i64>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Change {
    /// The first command of a cluster.
    Bootstrap {
        /// The cluster's id, drawn by the bootstrapping node.
        cluster: ClusterId,
        /// The cluster's name, as in its certificates.
        name: String,
    },
    /// Adds a member, or finds it again: the same name and instance give the same id.
    AddNode {
        /// Name as in the certificate.
        name: String,
        /// Where to dial it.
        addr: String,
        /// Failure domain.
        zone: Option<String>,
        /// Drawn once per data directory.
        instance: u128,
    },
    /// A member has another address or zone after a restart.
    UpdateNode {
        /// The member.
        node: NodeId,
        /// Where to dial it.
        addr: String,
        /// Failure domain.
        zone: Option<String>,
    },
    /// Makes a database with one policy, the default one. Asking again for the same is no error.
    CreateDatabase {
        /// Name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
        name: String,
        /// Its first policy.
        policy: PolicySpec,
    },
    /// Drops a database with everything in it.
    DropDatabase {
        /// Name.
        name: String,
    },
    /// Makes sure that there is a live group for each of these times.
    CreateGroups {
        /// The policy.
        policy: PolicyId,
        /// Times in ns.
        times: Vec<i64>,
    },
    /// Registers the types of new fields; what is registered already stays.
    RegisterFields {
        /// The database.
        database: DatabaseId,
        /// All new fields of a batch.
        fields: Vec<NewField>,
    },
    /// A member leaves for good. Refused while it owns a live shard.
    RemoveNode {
        /// The member.
        node: NodeId,
    },
    /// A member leaves for good, and every live shard goes on with its other owners. Refused while a
    /// shard has no other.
    LeaveNode {
        /// The member.
        node: NodeId,
    },
    /// Whether a member may vote on metadata.
    SetVoting {
        /// The member.
        node: NodeId,
        /// Whether it may.
        votes: bool,
    },
    /// A member's failure domain, for groups that are made from now on.
    SetZone {
        /// The member.
        node: NodeId,
        /// The domain; none if it is one of its own.
        zone: Option<String>,
    },
    /// Makes a policy of a database. Asking again for the same is no error.
    CreatePolicy {
        /// The database's name.
        database: String,
        /// The policy.
        policy: PolicySpec,
        /// Whether it becomes the default one.
        default: bool,
    },
    /// Changes a policy, for groups that are made from now on.
    AlterPolicy {
        /// The database's name.
        database: String,
        /// The policy's name.
        name: String,
        /// What becomes different.
        change: PolicyChange,
    },
    /// Drops a policy with everything in it. Refused for the default one.
    DropPolicy {
        /// The database's name.
        database: String,
        /// The policy's name.
        name: String,
    },
    /// Makes a policy the one that is used when a write names none.
    SetDefaultPolicy {
        /// The database's name.
        database: String,
        /// The policy's name.
        name: String,
    },
    /// Makes sure that there are live groups for these times, for many policies at once; what is
    /// dropped meanwhile is passed over.
    PrecreateGroups {
        /// Policies and times in ns.
        wanted: Vec<(PolicyId, i64)>,
    },
    /// Deletes the groups whose points are all beyond their policy's duration.
    ExpireGroups {
        /// For how long they have been, in ns, by the command's time.
        grace_ns: u64,
    },
    /// Begins to give every live group of a policy that reaches behind `at` an end as near to it as the
    /// points allow that were accepted already. One that is being truncated already goes on as it is.
    TruncateGroups {
        /// The database's name.
        database: String,
        /// The policy's name.
        name: String,
        /// The wanted end, in ns.
        at: i64,
    },
    /// A member answers for groups that are being truncated. The last answer decides.
    ConsentGroups {
        /// The member.
        node: NodeId,
        /// What it has accepted.
        groups: Vec<Consent>,
    },
    /// Gives truncations up that not every member has answered: their groups stay as they are.
    ReopenGroups {
        /// For how long they have been under way, in ns, by the command's time.
        older_ns: u64,
    },
    /// Deletes a live group with everything in it.
    DeleteGroup {
        /// The group.
        group: GroupId,
    },
    /// Forgets groups that were deleted long ago.
    PruneTombstones {
        /// For how long they are kept, in ns, by the command's time.
        keep_ns: u64,
    },
    /// Allows a client something in a database, as far as its certificate does. From the first grant
    /// on it may do nothing that is not granted.
    Grant {
        /// The name in its certificate, or [`OTHERS`](crate::grant::OTHERS).
        client: String,
        /// The database's name; none: all of them, those to come included.
        database: Option<String>,
        /// What is added to what it may do; not nothing.
        access: Access,
    },
    /// Takes something that was granted away. What is left is what the client may do, also if that is
    /// nothing.
    Revoke {
        /// As in `Grant`.
        client: String,
        /// From where.
        scope: GrantScope,
        /// What it may do no longer; not nothing.
        access: Access,
    },
    /// Forgets a client's grants: it may do what its certificate says, or what those may that have no
    /// grants of their own.
    ForgetGrants {
        /// As in `Grant`.
        client: String,
    },
}

impl Change {
    /// How it travels: in postcard, which later versions may append to.
    ///
    /// # Errors
    /// None but of memory.
    pub fn encode(&self) -> Result<Bytes, postcard::Error> {
        postcard::to_allocvec(self).map(Bytes::from)
    }

    /// Reads what [`Change::encode`] has written.
    ///
    /// # Errors
    /// If it is no change that this version knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::take_from_bytes(bytes).map(|(change, _)| change)
    }
}

/// What a change came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// It is done.
    Done,
    /// The node's id.
    Node(NodeId),
    /// The database's id.
    Database(DatabaseId),
    /// It was refused; nothing has changed.
    Refused {
        /// Why.
        code: Code,
        /// One line for people.
        detail: String,
    },
    /// A part of it was refused and the rest is done: what the map lacks at this index was refused.
    Partly {
        /// Why the part was refused.
        code: Code,
        /// One line for people.
        detail: String,
    },
}
