//! Grants come and go.
//!
//! Invariants: an entry stays when its last grant is taken away, and allows nothing then; only
//! `ForgetGrants` removes it. A grant names a database that there is; it goes with the database, and one
//! that is made later under the same name starts without any.

use std::sync::Arc;

use quorate_protocol::{
    change::Outcome,
    code::Code,
    grant::{Access, ClientGrants, GrantScope, MAX_CLIENTS, MAX_GRANTS, OTHERS},
    id::DatabaseId,
    map::ClusterMap,
};

use super::{Refusal, check_name, refuse};

pub(super) fn grant(
    map: &mut ClusterMap,
    client: &str,
    database: Option<&str>,
    access: Access,
) -> Result<Outcome, Refusal> {
    check(client, access)?;
    let database = database.map(|name| database_id(map, name)).transpose()?;
    let known = map.grants_of(client);
    let mut grants = known.map_or_else(|| ClientGrants::nothing(client), |it| it.as_ref().clone());
    match database {
        None => grants.all = grants.all.with(access),
        Some(database) => {
            grants.set(database, grants.single(database).with(access));
        }
    }
    put(map, grants)
}

pub(super) fn revoke(
    map: &mut ClusterMap,
    client: &str,
    scope: &GrantScope,
    access: Access,
) -> Result<Outcome, Refusal> {
    check(client, access)?;
    let known = map.grants_of(client).map(|it| it.as_ref().clone());
    let none = || {
        let detail = format!(
            "client {client} has no grants of its own, so its certificate decides: grant it what it \
             shall keep, or revoke everything"
        );
        refuse(Code::Invalid, detail)
    };
    let grants = match scope {
        GrantScope::Everything => {
            // Until now its certificate decided, or what holds for those without an entry.
            let otherwise = || match map.limits(client) {
                Some(others) => {
                    ClientGrants { client: client.to_owned(), ..others.as_ref().clone() }
                }
                None => ClientGrants { all: Access::ALL, ..ClientGrants::nothing(client) },
            };
            let mut grants = known.unwrap_or_else(otherwise);
            grants.all = grants.all.without(access);
            for grant in std::mem::take(&mut grants.databases) {
                grants.set(grant.database, grant.access.without(access));
            }
            grants
        }
        GrantScope::AllDatabases => {
            let mut grants = known.ok_or_else(none)?;
            grants.all = grants.all.without(access);
            grants
        }
        GrantScope::Database(name) => {
            let database = database_id(map, name)?;
            let mut grants = known.ok_or_else(none)?;
            if !grants.all.and(access).is_none() {
                let detail = format!(
                    "client {client} is granted all databases: grant it the ones it shall keep, then \
                     revoke the grant for all"
                );
                return Err(refuse(Code::Invalid, detail));
            }
            grants.set(database, grants.single(database).without(access));
            grants
        }
        _ => return Err(refuse(Code::Unsupported, "scope is not implemented")),
    };
    put(map, grants)
}

pub(super) fn forget(map: &mut ClusterMap, client: &str) -> Result<Outcome, Refusal> {
    check(client, Access::ALL)?;
    map.grants.retain(|known| known.client != client);
    Ok(Outcome::Done)
}

/// Takes a database that is gone out of all entries.
pub(super) fn gone(map: &mut ClusterMap, database: DatabaseId) {
    for grants in &mut map.grants {
        if !grants.single(database).is_none() {
            Arc::make_mut(grants).set(database, Access::NONE);
        }
    }
}

fn check(client: &str, access: Access) -> Result<(), Refusal> {
    if access.is_none() {
        return Err(refuse(Code::Invalid, "neither read nor write"));
    }
    if client == OTHERS { Ok(()) } else { check_name("client", client) }
}

fn database_id(map: &ClusterMap, name: &str) -> Result<DatabaseId, Refusal> {
    let database = map.database_named(name).map(|database| database.id);
    database.ok_or_else(|| refuse(Code::DatabaseNotFound, "no database has this name"))
}

fn put(map: &mut ClusterMap, grants: ClientGrants) -> Result<Outcome, Refusal> {
    let known = map.grants_of(&grants.client);
    if known.is_none() && map.grants.len() >= MAX_CLIENTS {
        let detail = format!("{MAX_CLIENTS} clients have grants: forget some");
        return Err(refuse(Code::LimitExceeded, detail));
    }
    let before = known.map_or(0, |it| it.databases.len());
    let all: usize = map.grants.iter().map(|it| it.databases.len()).sum();
    if grants.databases.len() > before && all - before + grants.databases.len() > MAX_GRANTS {
        let detail = format!("{MAX_GRANTS} databases are granted: grant all, or revoke some");
        return Err(refuse(Code::LimitExceeded, detail));
    }
    let at = map.grants.partition_point(|known| known.client < grants.client);
    match map.grants.get_mut(at) {
        Some(known) if known.client == grants.client => *known = Arc::new(grants),
        _ => map.grants.insert(at, Arc::new(grants)),
    }
    Ok(Outcome::Done)
}
