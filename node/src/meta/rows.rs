//! The cluster map as rows of the store: what a command changes is all that it writes.
//!
//! Invariants: a row is the [`MapChange`] that makes its part, so that the rows in the order of their
//! keys make the map of nothing; a step's changes are the rows it touches, however large the map is.
//! Called by the state machine inside its transactions.
//!
//! ```text
//! 01                                            index and next ids
//! 02                                            cluster
//! 03 | node u64 BE                              node
//! 04 | database u32 BE                          database
//! 05 | database u32 BE | policy u32 BE          policy
//! 06 | database u32 BE | policy u32 BE | group u64 BE
//! 07 | database u32 BE | field u32 BE           one field, with its measurement
//! 08 | client                                   a client's grants
//! ```

use heed::{RoTxn, RwTxn, WithoutTls};
use quorate_protocol::{
    id::{DatabaseId, MetaIndex, PolicyId},
    map::{ClusterMap, MapChange, MapDelta, NextIds},
};
use serde::{Deserialize, Serialize};

use super::{
    error::StoreError,
    store::{Store, seal, unseal},
};

const HEAD: u8 = 1;
const CLUSTER: u8 = 2;
const NODE: u8 = 3;
const DATABASE: u8 = 4;
const POLICY: u8 = 5;
const GROUP: u8 = 6;
const FIELD: u8 = 7;
const GRANTS: u8 = 8;

#[derive(Serialize, Deserialize)]
struct Head {
    index: MetaIndex,
    next: NextIds,
}

/// Writes what these steps have changed.
pub(super) fn save(
    store: &Store,
    txn: &mut RwTxn<'_>,
    steps: &[MapDelta],
) -> Result<(), StoreError> {
    for change in steps.iter().flat_map(|step| &step.changes) {
        write(store, txn, change)?;
    }
    let Some(last) = steps.last() else { return Ok(()) };
    let head = Head { index: last.index, next: last.next };
    Ok(store.map.put(txn, &[HEAD], &seal("map head", &head)?)?)
}

/// Replaces all rows, whatever they were.
pub(super) fn replace(
    store: &Store,
    txn: &mut RwTxn<'_>,
    new: &ClusterMap,
) -> Result<(), StoreError> {
    store.map.clear(txn)?;
    save(store, txn, &[MapDelta::between(&ClusterMap::default(), new)])
}

/// The stored map; the empty one in a new environment.
pub(super) fn load(store: &Store, txn: &RoTxn<'_, WithoutTls>) -> Result<ClusterMap, StoreError> {
    let mut map = ClusterMap::default();
    for entry in store.map.iter(txn)? {
        let (key, record) = entry?;
        if key == [HEAD] {
            let head: Head = unseal("map head", record)?;
            (map.index, map.next) = (head.index, head.next);
            continue;
        }
        let change: MapChange = unseal("map row", record)?;
        change.apply(&mut map).map_err(|_| StoreError::Corrupt { what: "map row" })?;
    }
    Ok(map)
}

fn write(store: &Store, txn: &mut RwTxn<'_>, change: &MapChange) -> Result<(), StoreError> {
    let key = match change {
        MapChange::Cluster { .. } => vec![CLUSTER],
        MapChange::Node(node) => [&[NODE], &node.id.0.to_be_bytes()[..]].concat(),
        MapChange::Database { id, .. } => of_database(DATABASE, *id),
        MapChange::Policy { database, policy } => of_policy(POLICY, *database, policy.id),
        MapChange::Group { database, policy, group } => {
            let mut key = of_policy(GROUP, *database, *policy);
            key.extend(group.id.0.to_be_bytes());
            key
        }
        MapChange::Fields { database, measurement, fields } => {
            for field in fields {
                let mut key = of_database(FIELD, *database);
                key.extend(field.id.0.to_be_bytes());
                let (measurement, fields) = (measurement.clone(), vec![field.clone()]);
                let row = MapChange::Fields { database: *database, measurement, fields };
                store.map.put(txn, &key, &seal("map row", &row)?)?;
            }
            return Ok(());
        }
        MapChange::DatabaseGone(id) => {
            for kind in [DATABASE, POLICY, GROUP, FIELD] {
                remove(store, txn, &of_database(kind, *id))?;
            }
            return Ok(());
        }
        MapChange::PolicyGone { database, policy } => {
            for kind in [POLICY, GROUP] {
                remove(store, txn, &of_policy(kind, *database, *policy))?;
            }
            return Ok(());
        }
        MapChange::GroupsGone { database, policy, groups } => {
            for group in groups {
                let mut key = of_policy(GROUP, *database, *policy);
                key.extend(group.0.to_be_bytes());
                store.map.delete(txn, &key)?;
            }
            return Ok(());
        }
        MapChange::Grants(grants) => [&[GRANTS], grants.client.as_bytes()].concat(),
        MapChange::GrantsGone(client) => {
            store.map.delete(txn, &[&[GRANTS], client.as_bytes()].concat())?;
            return Ok(());
        }
        // A variant that was added to the protocol and forgotten here.
        _ => return Err(StoreError::Corrupt { what: "map change" }),
    };
    Ok(store.map.put(txn, &key, &seal("map row", change)?)?)
}

/// Removes all rows whose keys begin like this.
fn remove(store: &Store, txn: &mut RwTxn<'_>, prefix: &[u8]) -> Result<(), StoreError> {
    let keys = store.map.prefix_iter(txn, prefix)?;
    let keys: Vec<Vec<u8>> =
        keys.map(|entry| entry.map(|(key, _)| key.to_vec())).collect::<Result<_, _>>()?;
    for key in keys {
        store.map.delete(txn, &key)?;
    }
    Ok(())
}

fn of_database(kind: u8, database: DatabaseId) -> Vec<u8> {
    [&[kind], &database.0.to_be_bytes()[..]].concat()
}

fn of_policy(kind: u8, database: DatabaseId, policy: PolicyId) -> Vec<u8> {
    let mut key = of_database(kind, database);
    key.extend(policy.0.to_be_bytes());
    key
}
