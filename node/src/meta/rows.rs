//! The cluster map as rows, so that a change writes what it changed and not the whole map.
//!
//! Invariant: [`load`] gives exactly the map whose rows were stored: the rows of a map are a
//! function of it, and [`save`] brings the rows of one map to those of another. Called by the state
//! machine inside its transactions.
//!
//! ```text
//! 01                                  head: index, cluster, name, nodes, next ids
//! 02 | database u32 BE                database: id, name, default policy, policies with groups
//! 03 | database u32 BE | field u32 BE measurement; the smallest id of its fields names it
//! ```

use std::{collections::BTreeMap, sync::Arc};

use heed::{RoTxn, RwTxn, WithoutTls};
use quorate_protocol::{
    id::{ClusterId, DatabaseId, MetaIndex, PolicyId},
    map::{ClusterMap, Database, Measurement, NextIds, Node, Policy},
};
use serde::{Deserialize, Serialize};

use super::{
    error::StoreError,
    store::{Store, seal, unseal},
};

const HEAD: u8 = 1;
const DATABASE: u8 = 2;
const MEASUREMENT: u8 = 3;

#[derive(PartialEq, Serialize)]
struct Head<'a> {
    index: MetaIndex,
    cluster: ClusterId,
    name: &'a str,
    nodes: &'a [Node],
    next: NextIds,
}

#[derive(Deserialize)]
struct StoredHead {
    index: MetaIndex,
    cluster: ClusterId,
    name: String,
    nodes: Vec<Node>,
    next: NextIds,
}

#[derive(PartialEq, Serialize)]
struct DatabaseRow<'a> {
    id: DatabaseId,
    name: &'a str,
    default_policy: PolicyId,
    policies: &'a [Arc<Policy>],
}

#[derive(Deserialize)]
struct StoredDatabase {
    id: DatabaseId,
    name: String,
    default_policy: PolicyId,
    policies: Vec<Arc<Policy>>,
}

#[derive(PartialEq)]
enum Row<'a> {
    Head(Head<'a>),
    Database(DatabaseRow<'a>),
    Measurement(&'a Measurement),
}

impl Row<'_> {
    fn seal(&self) -> Result<Vec<u8>, StoreError> {
        match self {
            Self::Head(row) => seal("map head", row),
            Self::Database(row) => seal("database", row),
            Self::Measurement(row) => seal("measurement", row),
        }
    }
}

/// Ordered by key, so databases come before measurements.
fn rows(map: &ClusterMap) -> BTreeMap<Vec<u8>, Row<'_>> {
    let mut rows = BTreeMap::new();
    let head = Head {
        index: map.index,
        cluster: map.cluster,
        name: &map.name,
        nodes: &map.nodes,
        next: map.next,
    };
    rows.insert(vec![HEAD], Row::Head(head));
    for database in &map.databases {
        let id = database.id.0.to_be_bytes();
        let row = DatabaseRow {
            id: database.id,
            name: &database.name,
            default_policy: database.default_policy,
            policies: &database.policies,
        };
        rows.insert([&[DATABASE], &id[..]].concat(), Row::Database(row));
        for measurement in &database.measurements {
            // A measurement is made with its first field, whose id stays its smallest.
            let first = measurement.fields.iter().map(|field| field.id.0).min();
            let first = first.unwrap_or(0).to_be_bytes();
            rows.insert(
                [&[MEASUREMENT], &id[..], &first[..]].concat(),
                Row::Measurement(measurement),
            );
        }
    }
    rows
}

/// Brings the stored rows from those of `old` to those of `new`.
pub(super) fn save(
    store: &Store,
    txn: &mut RwTxn<'_>,
    old: &ClusterMap,
    new: &ClusterMap,
) -> Result<(), StoreError> {
    let mut old = rows(old);
    for (key, row) in rows(new) {
        if old.remove(&key).as_ref() != Some(&row) {
            store.map.put(txn, &key, &row.seal()?)?;
        }
    }
    for key in old.into_keys() {
        store.map.delete(txn, &key)?;
    }
    Ok(())
}

/// Replaces all rows, whatever they were.
pub(super) fn replace(
    store: &Store,
    txn: &mut RwTxn<'_>,
    new: &ClusterMap,
) -> Result<(), StoreError> {
    store.map.clear(txn)?;
    for (key, row) in rows(new) {
        store.map.put(txn, &key, &row.seal()?)?;
    }
    Ok(())
}

/// The stored map; the empty one in a new environment.
pub(super) fn load(store: &Store, txn: &RoTxn<'_, WithoutTls>) -> Result<ClusterMap, StoreError> {
    let mut map = ClusterMap::default();
    for entry in store.map.iter(txn)? {
        let (key, record) = entry?;
        match key.split_first() {
            Some((&HEAD, _)) => {
                let head: StoredHead = unseal("map head", record)?;
                map.index = head.index;
                map.cluster = head.cluster;
                map.name = head.name;
                map.nodes = head.nodes;
                map.next = head.next;
            }
            Some((&DATABASE, _)) => {
                let row: StoredDatabase = unseal("database", record)?;
                map.databases.push(Arc::new(Database {
                    id: row.id,
                    name: row.name,
                    default_policy: row.default_policy,
                    policies: row.policies,
                    measurements: Vec::new(),
                }));
            }
            Some((&MEASUREMENT, rest)) => measurement(&mut map, rest, record)?,
            _ => return Err(StoreError::Corrupt { what: "map row" }),
        }
    }
    for database in map.databases.iter_mut().map(Arc::make_mut) {
        database.measurements.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(map)
}

fn measurement(map: &mut ClusterMap, key: &[u8], record: &[u8]) -> Result<(), StoreError> {
    let corrupt = StoreError::Corrupt { what: "measurement" };
    let Some((id, _)) = key.split_first_chunk::<4>() else {
        return Err(corrupt);
    };
    let id = DatabaseId(u32::from_be_bytes(*id));
    let Some(database) = map.database_mut(id) else {
        return Err(corrupt);
    };
    database.measurements.push(Arc::new(unseal("measurement", record)?));
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use quorate_protocol::{
        id::FieldId,
        map::{Field, Measurement},
        schema::FieldType,
    };

    use super::*;
    use crate::executor::Executor;

    /// A map of up to three databases with up to three measurements of a few fields. Ids and names
    /// sort differently, as they do when fields come in any order.
    fn map() -> impl Strategy<Value = ClusterMap> {
        let names = prop::collection::btree_set("[a-d]{1,2}", 0..4);
        let databases = prop::collection::btree_map(1u32..4, names, 0..4);
        (any::<u64>(), databases).prop_map(|(index, databases)| ClusterMap {
            index: MetaIndex(index),
            databases: databases.into_iter().map(database).map(Arc::new).collect(),
            ..ClusterMap::default()
        })
    }

    fn database((id, names): (u32, std::collections::BTreeSet<String>)) -> Database {
        let count = names.len() as u32;
        let measurements = names.into_iter().zip(0..).map(|(name, at)| Measurement {
            name: Bytes::from(name),
            fields: (0..=at)
                .map(|field| Field {
                    id: FieldId(100 * (count - at) + field),
                    name: Bytes::from(format!("f{field}")),
                    kind: FieldType::Float,
                })
                .collect(),
        });
        Database {
            id: DatabaseId(id),
            name: format!("db{id}"),
            default_policy: PolicyId(id),
            policies: Vec::new(),
            measurements: measurements.map(Arc::new).collect(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_is_loaded_is_what_was_saved(maps in prop::collection::vec(map(), 1..8)) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), 16 << 20, Executor::Inline).unwrap();
            let mut old = ClusterMap::default();
            for new in maps {
                store.write(|store, txn| save(store, txn, &old, &new)).unwrap();
                let txn = store.env.read_txn().unwrap();
                prop_assert_eq!(&load(&store, &txn).unwrap(), &new);
                prop_assert_eq!(store.map.len(&txn).unwrap(), rows(&new).len() as u64);
                old = new;
            }
            let new = ClusterMap::default();
            store.write(|store, txn| replace(store, txn, &new)).unwrap();
            let txn = store.env.read_txn().unwrap();
            prop_assert_eq!(load(&store, &txn).unwrap(), new);
        }
    }
}
