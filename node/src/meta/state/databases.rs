//! Databases and their first policies.
//!
//! Invariant: a name stands for one database at a time; ids are never given twice, so a database
//! made again under its old name shares nothing with the dropped one.

use std::sync::Arc;

use quorate_protocol::{
    change::{Outcome, PolicySpec},
    code::Code,
    id::{DatabaseId, PolicyId},
    map::{ClusterMap, Database},
};

use super::{Refusal, check_name, grants, policies, refuse, take_id};

pub(super) fn create(
    map: &mut ClusterMap,
    name: &str,
    spec: &PolicySpec,
) -> Result<Outcome, Refusal> {
    check_name("database", name)?;
    let spec = policies::normal(spec)?;
    if let Some(database) = map.database_named(name) {
        let same = database
            .policy(database.default_policy)
            .is_some_and(|policy| policies::is_as_specified(policy, &spec));
        if same {
            return Ok(Outcome::Database(database.id));
        }
        return Err(refuse(
            Code::AlreadyExists,
            format!("database {name} exists with another policy"),
        ));
    }
    let mut ids = map.next;
    let policy = PolicyId(take_id!(ids.policy)?);
    let id = DatabaseId(take_id!(ids.database)?);
    map.next = ids;
    map.databases.push(Arc::new(Database {
        id,
        name: name.to_owned(),
        default_policy: policy,
        policies: vec![Arc::new(policies::new(policy, spec))],
        measurements: Vec::new(),
    }));
    Ok(Outcome::Database(id))
}

pub(super) fn drop(map: &mut ClusterMap, name: &str) -> Result<Outcome, Refusal> {
    let Some(id) = map.database_named(name).map(|database| database.id) else {
        return Err(refuse(Code::DatabaseNotFound, "no database has this name"));
    };
    map.databases.retain(|database| database.id != id);
    grants::gone(map, id);
    Ok(Outcome::Done)
}
