//! What a newer map has that an older one has not: how maps travel and how they are stored.
//!
//! Pure. Invariants: applied to the map at its `from`, a delta gives exactly the map at its `index`;
//! it is as large as what differs, whatever the size of the map; parts that both maps share are not
//! looked into. Nodes make deltas of their commands, for watchers and for their disks; clients and
//! nodes apply them.

use std::{cmp::Ordering, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ClusterMap, Database, Field, Group, Measurement, NextIds, Node, Policy};
use crate::grant::ClientGrants;
use crate::id::{ClusterId, DatabaseId, GroupId, MetaIndex, PolicyId};

/// The difference between the maps at two indexes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapDelta {
    /// The index of the older map.
    pub from: MetaIndex,
    /// The index of the newer map.
    pub index: MetaIndex,
    /// The next ids of the newer map.
    pub next: NextIds,
    /// In an order in which they can be applied.
    pub changes: Vec<MapChange>,
}

/// One part that differs. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MapChange {
    /// The cluster's id and name.
    Cluster {
        /// Its id.
        cluster: ClusterId,
        /// Its name.
        name: String,
    },
    /// A node is new or different.
    Node(Node),
    /// A database is new, or its name or default policy is different.
    Database {
        /// Its id.
        id: DatabaseId,
        /// Its name.
        name: String,
        /// Its default policy.
        default_policy: PolicyId,
    },
    /// A database is gone with everything in it.
    DatabaseGone(DatabaseId),
    /// A policy is new, or its settings are different. Its groups stay.
    Policy {
        /// Its database.
        database: DatabaseId,
        /// The policy, with an empty list of groups.
        policy: Policy,
    },
    /// A policy is gone with everything in it.
    PolicyGone {
        /// Its database.
        database: DatabaseId,
        /// The policy.
        policy: PolicyId,
    },
    /// Groups are gone.
    GroupsGone {
        /// Their database.
        database: DatabaseId,
        /// Their policy.
        policy: PolicyId,
        /// The groups.
        groups: Vec<GroupId>,
    },
    /// A group is new or different.
    Group {
        /// Its database.
        database: DatabaseId,
        /// Its policy.
        policy: PolicyId,
        /// The group.
        group: Arc<Group>,
    },
    /// Fields are new.
    Fields {
        /// Their database.
        database: DatabaseId,
        /// The unescaped name of their measurement.
        measurement: Bytes,
        /// The fields, sorted by name.
        fields: Vec<Field>,
    },
    /// A client's grants are new or different. Never sent to clients.
    Grants(ClientGrants),
    /// A client has no grants of its own any more. Never sent to clients.
    GrantsGone(String),
}

/// How a map, or news of it, travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapUpdate {
    /// The whole map.
    Whole(ClusterMap),
    /// What differs from the map before.
    Delta(MapDelta),
}

/// Why news of a map could not be used: the whole map must be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The bytes are no updates.
    #[error("map update cannot be read: {0}")]
    Encoding(#[from] postcard::Error),
    /// There is something between the map and the delta.
    #[error("map is at index {have}, the delta starts at {from}")]
    Gap {
        /// The map's index.
        have: MetaIndex,
        /// The delta's start.
        from: MetaIndex,
    },
    /// The delta speaks of something that the map does not have.
    #[error("map has no {0} that the delta speaks of")]
    Unknown(&'static str),
}

/// Applies updates, one after the other in `encoded`, to a map; those that are not newer are passed
/// over. The map at the end, or none if nothing was newer.
///
/// # Errors
/// See [`UpdateError`].
pub fn apply_updates(
    map: &Arc<ClusterMap>,
    mut encoded: &[u8],
) -> Result<Option<Arc<ClusterMap>>, UpdateError> {
    let mut newest: Option<Arc<ClusterMap>> = None;
    while !encoded.is_empty() {
        let (update, rest) = postcard::take_from_bytes::<MapUpdate>(encoded)?;
        encoded = rest;
        let current = newest.as_ref().unwrap_or(map);
        match update {
            MapUpdate::Whole(whole) if whole.index > current.index => {
                newest = Some(Arc::new(whole));
            }
            MapUpdate::Delta(delta) if delta.index > current.index => {
                let mut next = newest.take().unwrap_or_else(|| Arc::clone(map));
                delta.apply(Arc::make_mut(&mut next))?;
                newest = Some(next);
            }
            MapUpdate::Whole(_) | MapUpdate::Delta(_) => {}
        }
    }
    Ok(newest)
}

impl MapDelta {
    /// What makes `new` of `old`. Nodes, fields and measurements are never removed from a map.
    #[must_use]
    pub fn between(old: &ClusterMap, new: &ClusterMap) -> Self {
        let mut changes = Vec::new();
        if (old.cluster, &old.name) != (new.cluster, &new.name) {
            changes.push(MapChange::Cluster { cluster: new.cluster, name: new.name.clone() });
        }
        let nodes = new.nodes.iter().filter(|node| old.node(node.id) != Some(node));
        changes.extend(nodes.cloned().map(MapChange::Node));
        let databases = Differences::of(&old.databases, &new.databases, |database| database.id);
        changes.extend(databases.gone.iter().map(|gone| MapChange::DatabaseGone(gone.id)));
        for (old, new) in databases.changed {
            database(old, new, &mut changes);
        }
        let grants = Differences::of(&old.grants, &new.grants, |grants| grants.client.clone());
        changes.extend(grants.gone.iter().map(|it| MapChange::GrantsGone(it.client.clone())));
        let changed = grants.changed.into_iter().map(|(_, new)| new.as_ref().clone());
        changes.extend(changed.map(MapChange::Grants));
        Self { from: old.index, index: new.index, next: new.next, changes }
    }

    /// Makes the newer map of the older. After an error the map is in between and must be dropped.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub fn apply(&self, map: &mut ClusterMap) -> Result<(), UpdateError> {
        if self.from != map.index {
            return Err(UpdateError::Gap { have: map.index, from: self.from });
        }
        for change in &self.changes {
            change.apply(map)?;
        }
        map.next = self.next;
        map.index = self.index;
        Ok(())
    }
}

impl MapChange {
    /// The database that it is about.
    #[must_use]
    pub fn database(&self) -> Option<DatabaseId> {
        match self {
            Self::Database { id, .. } | Self::DatabaseGone(id) => Some(*id),
            Self::Policy { database, .. }
            | Self::PolicyGone { database, .. }
            | Self::GroupsGone { database, .. }
            | Self::Group { database, .. }
            | Self::Fields { database, .. } => Some(*database),
            Self::Cluster { .. } | Self::Node(_) | Self::Grants(_) | Self::GrantsGone(_) => None,
        }
    }

    /// Whose grants it changes.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        match self {
            Self::Grants(grants) => Some(&grants.client),
            Self::GrantsGone(client) => Some(client),
            _ => None,
        }
    }

    /// Makes this one change.
    ///
    /// # Errors
    /// [`UpdateError::Unknown`].
    pub fn apply(&self, map: &mut ClusterMap) -> Result<(), UpdateError> {
        match self {
            Self::Cluster { cluster, name } => {
                map.cluster = *cluster;
                map.name.clone_from(name);
            }
            Self::Node(node) => put(&mut map.nodes, node.clone(), |known| known.id),
            Self::Database { id, name, default_policy } => {
                let known = map.database_mut(*id);
                if let Some(known) = known {
                    known.name.clone_from(name);
                    known.default_policy = *default_policy;
                } else {
                    let new = Database {
                        id: *id,
                        name: name.clone(),
                        default_policy: *default_policy,
                        policies: Vec::new(),
                        measurements: Vec::new(),
                    };
                    put(&mut map.databases, Arc::new(new), |known| known.id);
                }
            }
            Self::DatabaseGone(id) => map.databases.retain(|known| known.id != *id),
            Self::Policy { database, policy } => {
                let policies = &mut database_of(map, *database)?.policies;
                let known = policies.iter().find(|known| known.id == policy.id);
                let mut new = policy.clone();
                new.groups = known.map(|known| known.groups.clone()).unwrap_or_default();
                put(policies, Arc::new(new), |known| known.id);
            }
            Self::PolicyGone { database, policy } => {
                database_of(map, *database)?.policies.retain(|known| known.id != *policy);
            }
            Self::GroupsGone { database, policy, groups } => {
                let mut gone = groups.clone();
                gone.sort_unstable();
                let known = policy_of(map, *database, *policy)?;
                known.groups.retain(|group| gone.binary_search(&group.id).is_err());
            }
            Self::Group { database, policy, group } => {
                let known = policy_of(map, *database, *policy)?;
                put(&mut known.groups, Arc::clone(group), |known| known.start);
            }
            Self::Fields { database, measurement, fields } => {
                let known = &mut database_of(map, *database)?.measurements;
                let at = known.partition_point(|known| known.name < *measurement);
                if known.get(at).is_none_or(|known| known.name != *measurement) {
                    let new = Measurement { name: measurement.clone(), fields: Vec::new() };
                    known.insert(at, Arc::new(new));
                }
                // It is there, or was made just now.
                let Some(known) = known.get_mut(at) else { return Ok(()) };
                let known = &mut Arc::make_mut(known).fields;
                for field in fields {
                    put(known, field.clone(), |known| known.name.clone());
                }
            }
            Self::Grants(grants) => {
                put(&mut map.grants, Arc::new(grants.clone()), |known| known.client.clone());
            }
            Self::GrantsGone(client) => map.grants.retain(|known| known.client != *client),
        }
        Ok(())
    }
}

/// The groups that are different in two maps, with where they belong.
#[derive(Debug, Default)]
pub struct GroupDifferences<'a> {
    /// Groups that only the older map has.
    pub gone: Vec<&'a Group>,
    /// Groups that are new or different in the newer map.
    pub changed: Vec<(DatabaseId, PolicyId, &'a Group)>,
}

impl<'a> GroupDifferences<'a> {
    /// Compares two maps.
    #[must_use]
    pub fn between(old: &'a ClusterMap, new: &'a ClusterMap) -> Self {
        let mut all = Self::default();
        let databases = Differences::of(&old.databases, &new.databases, |database| database.id);
        let policies = databases.gone.into_iter().flat_map(|gone| &gone.policies);
        all.gone.extend(policies.flat_map(|policy| &policy.groups).map(AsRef::as_ref));
        for (old, new) in databases.changed {
            let known = old.map_or(&[][..], |old| &old.policies[..]);
            let policies = Differences::of(known, &new.policies, |policy| policy.id);
            let gone = policies.gone.into_iter().flat_map(|policy| &policy.groups);
            all.gone.extend(gone.map(AsRef::as_ref));
            for (old, policy) in policies.changed {
                let groups = groups(old, policy);
                all.gone.extend(groups.gone.into_iter().map(AsRef::as_ref));
                let changed = groups.changed.into_iter();
                all.changed.extend(changed.map(|(_, group)| (new.id, policy.id, group.as_ref())));
            }
        }
        all
    }
}

fn database(old: Option<&Arc<Database>>, new: &Database, changes: &mut Vec<MapChange>) {
    let id = new.id;
    let head = |database: &Database| (database.name.clone(), database.default_policy);
    if old.map(|old| head(old)) != Some(head(new)) {
        let (name, default_policy) = head(new);
        changes.push(MapChange::Database { id, name, default_policy });
    }
    let known = old.map_or(&[][..], |old| &old.policies[..]);
    let policies = Differences::of(known, &new.policies, |policy| policy.id);
    let gone = policies.gone.iter();
    changes.extend(gone.map(|gone| MapChange::PolicyGone { database: id, policy: gone.id }));
    for (old, new) in policies.changed {
        policy(id, old, new, changes);
    }
    let known = old.map_or(&[][..], |old| &old.measurements[..]);
    let measurements = Differences::of(known, &new.measurements, |known| known.name.clone());
    for (old, new) in measurements.changed {
        let known = |field: &&Field| old.and_then(|old| old.field(&field.name)) == Some(field);
        let fields: Vec<Field> = new.fields.iter().filter(|field| !known(field)).cloned().collect();
        if !fields.is_empty() {
            let measurement = new.name.clone();
            changes.push(MapChange::Fields { database: id, measurement, fields });
        }
    }
}

fn policy(
    database: DatabaseId,
    old: Option<&Arc<Policy>>,
    new: &Policy,
    changes: &mut Vec<MapChange>,
) {
    let bare = new.without_groups();
    if old.map(|old| old.without_groups()) != Some(bare.clone()) {
        changes.push(MapChange::Policy { database, policy: bare });
    }
    let policy = new.id;
    let groups = groups(old, new);
    if !groups.gone.is_empty() {
        let groups = groups.gone.iter().map(|gone| gone.id).collect();
        changes.push(MapChange::GroupsGone { database, policy, groups });
    }
    let changed = groups.changed.into_iter().map(|(_, group)| Arc::clone(group));
    changes.extend(changed.map(|group| MapChange::Group { database, policy, group }));
}

fn groups<'a>(old: Option<&'a Arc<Policy>>, new: &'a Policy) -> Differences<'a, Group> {
    let known = old.map_or(&[][..], |old| &old.groups[..]);
    // Another group may start where one that is gone did.
    Differences::of(known, &new.groups, |group| (group.start, group.id))
}

/// What two lists in ascending order of a key do not share.
struct Differences<'a, T> {
    gone: Vec<&'a Arc<T>>,
    /// The older one, if there was one, and the newer.
    changed: Vec<(Option<&'a Arc<T>>, &'a Arc<T>)>,
}

impl<'a, T: PartialEq> Differences<'a, T> {
    fn of<K: Ord>(old: &'a [Arc<T>], new: &'a [Arc<T>], key: impl Fn(&T) -> K) -> Self {
        let mut found = Self { gone: Vec::new(), changed: Vec::new() };
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                // Shared ones are the rule.
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {
                    old.next();
                    new.next();
                    continue;
                }
                (Some(a), Some(b)) => key(a).cmp(&key(b)),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return found,
            };
            match order {
                Ordering::Less => found.gone.extend(old.next()),
                Ordering::Greater => found.changed.extend(new.next().map(|new| (None, new))),
                Ordering::Equal => {
                    let both = old.next().zip(new.next()).filter(|(a, b)| a != b);
                    found.changed.extend(both.map(|(a, b)| (Some(a), b)));
                }
            }
        }
    }
}

fn database_of(map: &mut ClusterMap, id: DatabaseId) -> Result<&mut Database, UpdateError> {
    map.database_mut(id).ok_or(UpdateError::Unknown("database"))
}

fn policy_of(
    map: &mut ClusterMap,
    database: DatabaseId,
    id: PolicyId,
) -> Result<&mut Policy, UpdateError> {
    database_of(map, database)?.policy_mut(id).ok_or(UpdateError::Unknown("policy"))
}

/// Puts an item into a list in ascending order of a key, in the place of the one with the same key.
fn put<T, K: Ord>(list: &mut Vec<T>, item: T, key: impl Fn(&T) -> K) {
    let at = list.partition_point(|known| key(known) < key(&item));
    match list.get_mut(at) {
        Some(known) if key(known) == key(&item) => *known = item,
        _ => list.insert(at, item),
    }
}
