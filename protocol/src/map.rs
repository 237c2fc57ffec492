//! The cluster map: what metadata says about nodes, databases, groups, shards and fields.
//!
//! The Raft state machine of the nodes changes it (and nothing else does); clients and nodes hold
//! snapshots of it. Invariants: lists are sorted by id (groups by start); the live groups of a
//! policy never overlap; a group's start and number of shards never change, its end only comes nearer and
//! never leaves a stored point outside; ids are never reused.
//! Parts are shared between maps and copied when they are changed, so that keeping the map before a
//! change, or finding what differs, costs little however large the map is.

mod delta;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    grant::{ClientGrants, OTHERS},
    id::{ClusterId, DatabaseId, Epoch, FieldId, GroupId, MetaIndex, NodeId, PolicyId, ShardId},
    schema::FieldType,
};

pub use delta::{GroupDifferences, MapChange, MapDelta, MapUpdate, UpdateError, apply_updates};

/// Everything metadata knows, at one index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// The last command included.
    pub index: MetaIndex,
    /// The cluster, drawn at bootstrap.
    pub cluster: ClusterId,
    /// The cluster's name, as in its certificates.
    pub name: String,
    /// Members and former members.
    pub nodes: Vec<Node>,
    /// Databases.
    pub databases: Vec<Arc<Database>>,
    /// The next id of each kind.
    pub next: NextIds,
    /// Who may do what in which databases, by client. Known to nodes alone: not in what is sent to
    /// clients, and so in no encoding of the map.
    #[serde(skip)]
    pub grants: Vec<Arc<ClientGrants>>,
}

/// The next id of each kind; 1 at first, since 0 means "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextIds {
    /// Next node.
    pub node: u64,
    /// Next database.
    pub database: u32,
    /// Next policy.
    pub policy: u32,
    /// Next group.
    pub group: u64,
    /// Next shard.
    pub shard: u64,
    /// Next field.
    pub field: u32,
}

impl Default for NextIds {
    fn default() -> Self {
        Self { node: 1, database: 1, policy: 1, group: 1, shard: 1, field: 1 }
    }
}

/// Whether a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// It may own shards.
    Active,
    /// It has left or was removed; its id and name stay taken.
    Removed,
    /// It may own shards and follows metadata, but never votes.
    NonVoter,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name, as in its certificate.
    pub name: String,
    /// Where to dial it, `HOST:PORT`.
    pub addr: String,
    /// Its failure domain.
    pub zone: Option<String>,
    /// Whether it takes part.
    pub state: NodeState,
    /// Drawn once per data directory.
    pub instance: u128,
}

impl Node {
    /// Whether it is a member of the cluster.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.state != NodeState::Removed
    }
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its id.
    pub id: DatabaseId,
    /// Its name.
    pub name: String,
    /// The policy used when a write names none.
    pub default_policy: PolicyId,
    /// Its policies.
    pub policies: Vec<Arc<Policy>>,
    /// Its fields' types, sorted by measurement name.
    pub measurements: Vec<Arc<Measurement>>,
}

/// A retention policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its id.
    pub id: PolicyId,
    /// Its name.
    pub name: String,
    /// How long points are kept, in ns; 0 for ever.
    pub duration: u64,
    /// Length of new groups, in ns.
    pub group_duration: u64,
    /// Copies of each shard that are wanted.
    pub replication: u32,
    /// Live groups, sorted by start.
    pub groups: Vec<Arc<Group>>,
    /// Groups that were deleted lately, oldest first. Nothing depends on them: a shard that is not live
    /// and has an id that was given is gone.
    pub deleted: Vec<Tombstone>,
}

/// What is left of a deleted group for a while, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Its id.
    pub group: GroupId,
    /// First time it had, in ns.
    pub start: i64,
    /// The time behind the last, in ns.
    pub end: i64,
    /// Its shards.
    pub shards: Vec<ShardId>,
    /// When it was deleted, ns since the Unix epoch by the leader's clock.
    pub at_ns: u64,
    /// Why.
    pub reason: DeleteReason,
}

/// Why a group was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeleteReason {
    /// All of its points were beyond the policy's duration.
    Expired,
    /// It was truncated and nothing was in it.
    Emptied,
    /// Somebody asked for it.
    Asked,
}

/// The shards of one time range `[start, end)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// First time, in ns.
    pub start: i64,
    /// The time behind the last, in ns.
    pub end: i64,
    /// Its shards; a series is in `shards[hash % len]`.
    pub shards: Vec<Shard>,
    /// The truncation that is under way, or why the last one has changed nothing.
    pub truncation: Option<Truncation>,
}

/// An end that a group may get once every member has said what it has accepted for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncation {
    /// The command that began it: consents to an earlier one do not count.
    pub index: MetaIndex,
    /// The earliest end that the group may get, in ns; not before its start.
    pub at: i64,
    /// When it began, ns since the Unix epoch by the leader's clock.
    pub since_ns: u64,
    /// The latest time at or behind `at` that anybody has accepted, as far as they have answered.
    pub highest: Option<i64>,
    /// Members that have answered, ascending.
    pub consents: Vec<NodeId>,
    /// How it stands.
    pub state: TruncationState,
}

/// How a truncation stands. One that has ended with another end, or with the group deleted, is not
/// kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TruncationState {
    /// Points at or behind `at` are refused until every member has answered.
    Closing,
    /// There are points or hints up to the group's end: it stayed as it was.
    Kept,
    /// Somebody has not answered in time, or has left meanwhile: the group stayed as it was.
    Reopened,
}

/// A shard and who keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its id.
    pub id: ShardId,
    /// Grows when an owner is added or replaced. Owners that only leave do not move it: whoever stays
    /// may take what was meant for more.
    pub epoch: Epoch,
    /// Owners, each once.
    pub owners: Vec<NodeId>,
}

/// The fields of a measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// Its unescaped name.
    pub name: Bytes,
    /// Its fields, sorted by name.
    pub fields: Vec<Field>,
}

/// A field and its type, fixed for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its id.
    pub id: FieldId,
    /// Its unescaped name.
    pub name: Bytes,
    /// Its type.
    pub kind: FieldType,
}

/// Where a shard stands in the map.
#[derive(Clone, Copy, Debug)]
pub struct ShardPlace<'a> {
    /// Its database.
    pub database: &'a Database,
    /// Its policy.
    pub policy: &'a Policy,
    /// Its group.
    pub group: &'a Group,
    /// The shard.
    pub shard: &'a Shard,
}

impl ClusterMap {
    /// The node with this id, member or not.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        find(&self.nodes, |node| node.id, id)
    }

    /// The members, voting or not, in order of id.
    pub fn active_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_member())
    }

    /// The live shards that nobody but this node owns.
    pub fn sole_shards(&self, node: NodeId) -> impl Iterator<Item = ShardPlace<'_>> {
        self.shards().filter(move |place| place.shard.owners == [node])
    }

    /// The node a person means by a number or a name.
    #[must_use]
    pub fn node_named(&self, text: &str) -> Option<&Node> {
        let by_name = self.nodes.iter().find(|node| node.name == text);
        by_name.or_else(|| self.node(NodeId(text.parse().ok()?)))
    }

    /// What limits a client of this name: its own grants, or those for all that have none; none: its
    /// certificate alone.
    #[must_use]
    pub fn limits(&self, client: &str) -> Option<&Arc<ClientGrants>> {
        self.grants_of(client).or_else(|| self.grants_of(OTHERS))
    }

    /// The grants under exactly this name.
    #[must_use]
    pub fn grants_of(&self, client: &str) -> Option<&Arc<ClientGrants>> {
        let find = |known: &Arc<ClientGrants>| known.client.as_str().cmp(client);
        self.grants.get(self.grants.binary_search_by(find).ok()?)
    }

    /// The database with this name.
    #[must_use]
    pub fn database_named(&self, name: &str) -> Option<&Database> {
        self.databases.iter().find(|database| database.name == name).map(AsRef::as_ref)
    }

    /// The database with this id.
    #[must_use]
    pub fn database(&self, id: DatabaseId) -> Option<&Database> {
        find(&self.databases, |database| database.id, id).map(AsRef::as_ref)
    }

    /// The database with this id, to be changed: no other map sees it.
    pub fn database_mut(&mut self, id: DatabaseId) -> Option<&mut Database> {
        find_mut(&mut self.databases, |database| database.id, id)
    }

    /// The policy with this id, to be changed: no other map sees it.
    pub fn policy_mut(&mut self, id: PolicyId) -> Option<&mut Policy> {
        let mut databases = self.databases.iter_mut();
        let database = databases.find(|database| database.policy(id).is_some())?;
        Arc::make_mut(database).policy_mut(id)
    }

    /// The policy that has this live group, and the group. Linear in the number of groups.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<(&Policy, &Group)> {
        self.policies().find_map(|policy| {
            let group = policy.groups.iter().find(|group| group.id == id)?;
            Some((policy, group.as_ref()))
        })
    }

    /// Every policy of every database.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.databases.iter().flat_map(|database| &database.policies).map(AsRef::as_ref)
    }

    /// Every live shard with its place, in no particular order.
    pub fn shards(&self) -> impl Iterator<Item = ShardPlace<'_>> {
        self.databases.iter().flat_map(|database| {
            database.policies.iter().flat_map(move |policy| {
                policy.groups.iter().flat_map(move |group| {
                    group.shards.iter().map(move |shard| ShardPlace {
                        database,
                        policy,
                        group,
                        shard,
                    })
                })
            })
        })
    }

    /// The place of a live shard. Linear in the number of shards: keep the result where it is
    /// needed often.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> Option<ShardPlace<'_>> {
        self.shards().find(|place| place.shard.id == id)
    }
}

impl Database {
    /// The policy with this name, or the default one.
    #[must_use]
    pub fn policy_named(&self, name: Option<&str>) -> Option<&Policy> {
        let mut policies = self.policies.iter().map(AsRef::as_ref);
        policies.find(|policy: &&Policy| match name {
            Some(name) => policy.name == name,
            None => policy.id == self.default_policy,
        })
    }

    /// As [`Self::policy_named`], shared with every map in which the policy and its groups are the same.
    #[must_use]
    pub fn shared_policy(&self, name: Option<&str>) -> Option<&Arc<Policy>> {
        let id = self.policy_named(name)?.id;
        self.policies.iter().find(|policy| policy.id == id)
    }

    /// The policy with this id.
    #[must_use]
    pub fn policy(&self, id: PolicyId) -> Option<&Policy> {
        find(&self.policies, |policy| policy.id, id).map(AsRef::as_ref)
    }

    /// The policy with this id, to be changed: no other map sees it.
    pub fn policy_mut(&mut self, id: PolicyId) -> Option<&mut Policy> {
        find_mut(&mut self.policies, |policy| policy.id, id)
    }

    /// The measurement with this unescaped name.
    #[must_use]
    pub fn measurement(&self, name: &[u8]) -> Option<&Measurement> {
        let at = self.measurements.binary_search_by(|m| m.name.as_ref().cmp(name)).ok()?;
        self.measurements.get(at).map(AsRef::as_ref)
    }

    /// The field with these unescaped names.
    #[must_use]
    pub fn field(&self, measurement: &[u8], field: &[u8]) -> Option<&Field> {
        self.measurement(measurement)?.field(field)
    }
}

impl Measurement {
    /// The field with this unescaped name.
    #[must_use]
    pub fn field(&self, name: &[u8]) -> Option<&Field> {
        let at = self.fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok()?;
        self.fields.get(at)
    }
}

impl Policy {
    /// The live group that contains `time`.
    #[must_use]
    pub fn group_at(&self, time: i64) -> Option<&Group> {
        let behind = self.groups.partition_point(|group| group.start <= time);
        let group = self.groups.get(behind.checked_sub(1)?)?;
        (time < group.end).then_some(group)
    }

    /// The policy's settings and tombstones alone.
    #[must_use]
    pub fn without_groups(&self) -> Self {
        Self {
            id: self.id,
            name: self.name.clone(),
            duration: self.duration,
            group_duration: self.group_duration,
            replication: self.replication,
            groups: Vec::new(),
            deleted: self.deleted.clone(),
        }
    }

    /// Whether all points that a group can hold have been beyond the policy's duration for
    /// `grace_ns`, at this time since the Unix epoch.
    #[must_use]
    pub fn is_over(&self, group: &Group, now_ns: u64, grace_ns: u64) -> bool {
        let horizon = i128::from(now_ns) - i128::from(grace_ns) - i128::from(self.duration);
        self.duration > 0 && i128::from(group.end) <= horizon
    }
}

impl Tombstone {
    /// Whether the group was deleted `keep_ns` ago, at this time since the Unix epoch.
    #[must_use]
    pub fn is_old(&self, now_ns: u64, keep_ns: u64) -> bool {
        self.at_ns.saturating_add(keep_ns) <= now_ns
    }
}

impl Group {
    /// The truncation that is under way.
    #[must_use]
    pub fn closing(&self) -> Option<&Truncation> {
        self.truncation.as_ref().filter(|it| it.state == TruncationState::Closing)
    }

    /// Members that have not answered the truncation that is under way, or that was given up.
    pub fn unanswered(&self, map: &ClusterMap) -> Vec<NodeId> {
        let Some(truncation) = &self.truncation else { return Vec::new() };
        let members = map.active_nodes().map(|node| node.id);
        members.filter(|node| !truncation.consents.contains(node)).collect()
    }

    /// The shard of the series with this hash; none only if the group has no shards.
    #[must_use]
    pub fn shard_for(&self, series_hash: u64) -> Option<&Shard> {
        let index = series_hash.checked_rem(self.shards.len() as u64)?;
        self.shards.get(usize::try_from(index).ok()?)
    }
}

fn find<T, K: Ord>(list: &[T], key: impl Fn(&T) -> K, wanted: K) -> Option<&T> {
    let at = list.binary_search_by(|item| key(item).cmp(&wanted)).ok()?;
    list.get(at)
}

fn find_mut<T: Clone, K: Ord>(
    list: &mut [Arc<T>],
    key: impl Fn(&T) -> K,
    wanted: K,
) -> Option<&mut T> {
    let at = list.binary_search_by(|item| key(item).cmp(&wanted)).ok()?;
    list.get_mut(at).map(Arc::make_mut)
}
