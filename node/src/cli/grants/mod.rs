//! `quorate grant`, `quorate revoke`, `quorate grants`: what clients may do in which databases.
//!
//! Invariant: whatever was changed, what holds for the client afterwards is printed, by the map that has
//! the change.

mod give;
mod ls;
mod take;

use std::time::Duration;

use clap::ValueEnum;
use quorate_client::{Client, Env};
use quorate_protocol::{
    change::Change,
    grant::{Access, ClientGrants, OTHERS},
    map::ClusterMap,
};
use serde_json::{Value, json};

pub(crate) use self::{give::Grant, ls::Grants, take::Revoke};
use super::{connect::Connect, fail::Fail, output::Output};

/// How long a node may take to tell of grants.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Query, export, subscribe
    Read,
    /// Write
    Write,
}

/// These roles; all of them if none is named.
fn access(roles: &[Role]) -> Access {
    if roles.is_empty() {
        return Access::ALL;
    }
    Access { read: roles.contains(&Role::Read), write: roles.contains(&Role::Write) }
}

/// A client's name, or `*`.
fn client_name(text: &str) -> Result<String, String> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text == OTHERS || (1..=64).contains(&text.len()) && text.bytes().all(valid) {
        return Ok(text.to_owned());
    }
    Err("a client's name as in its certificate (letters, digits, '.', '_', '-'), or '*'".to_owned())
}

pub(super) async fn grant(args: Grant, env: Env) -> Result<(), Fail> {
    give::run(args, env).await
}

pub(super) async fn revoke(args: Revoke, env: Env) -> Result<(), Fail> {
    take::run(args, env).await
}

pub(super) async fn list(args: Grants, env: Env) -> Result<(), Fail> {
    ls::run(args, env).await
}

/// Makes changes in order, and says what holds for the client then.
async fn change(
    connect: &Connect,
    env: &Env,
    name: &str,
    changes: Vec<Change>,
) -> Result<(), Fail> {
    let client = connect.open(env).await?;
    let done = make(&client, changes).await;
    let (map, grants) = (client.map(), done);
    client.close().await;
    let grants = grants?;
    let entry = grants.iter().find(|entry| entry.client == name);
    let mut out = Output::new();
    if connect.json {
        out.json(&match entry {
            Some(entry) => describe(&map, entry),
            None => json!({"client": name, "limited": false}),
        })?;
    } else {
        out.line(&match entry {
            Some(entry) => sentence(&map, entry),
            None => by_certificate(name, &grants),
        })?;
    }
    out.flush()
}

async fn make(client: &Client, changes: Vec<Change>) -> Result<Vec<ClientGrants>, Fail> {
    for change in changes {
        client.change(change).await?;
    }
    Ok(client.grants(PATIENCE).await?)
}

/// An entry as `--json` shows it.
fn describe(map: &ClusterMap, entry: &ClientGrants) -> Value {
    let databases = entry.databases.iter().map(|grant| {
        json!({"database": database(map, grant.database), "id": grant.database, "roles": roles(grant.access)})
    });
    json!({
        "client": entry.client,
        "limited": true,
        "all_databases": roles(entry.all),
        "databases": databases.collect::<Vec<_>>(),
    })
}

fn roles(access: Access) -> Vec<&'static str> {
    let all = [(access.read, "read"), (access.write, "write")];
    all.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
}

fn database(map: &ClusterMap, id: quorate_protocol::id::DatabaseId) -> String {
    map.database(id).map_or_else(|| id.to_string(), |database| database.name.clone())
}

/// Of whom an entry speaks.
fn subject(client: &str) -> String {
    if client == OTHERS {
        "clients without grants of their own".to_owned()
    } else {
        format!("client '{client}'")
    }
}

fn sentence(map: &ClusterMap, entry: &ClientGrants) -> String {
    let mut parts = Vec::new();
    if !entry.all.is_none() {
        parts.push(format!("{} all databases", roles(entry.all).join(" and ")));
    }
    for grant in &entry.databases {
        let name = database(map, grant.database);
        parts.push(format!("{} '{name}'", roles(grant.access).join(" and ")));
    }
    let who = subject(&entry.client);
    if parts.is_empty() {
        return format!("{who} may neither read nor write any database");
    }
    format!("{who} may {}, and nothing else", parts.join(", "))
}

fn by_certificate(client: &str, grants: &[ClientGrants]) -> String {
    let who = subject(client);
    if client != OTHERS && grants.iter().any(|entry| entry.client == OTHERS) {
        return format!("{who} may do what is granted to '*': 'quorate grants' shows it");
    }
    format!("{who} may do in every database what the certificate says")
}

#[cfg(test)]
mod tests {
    use quorate_protocol::id::DatabaseId;

    use super::*;

    #[test]
    fn an_entry_is_told_in_words() {
        let map = ClusterMap::default();
        let mut entry = ClientGrants::nothing("app");
        assert_eq!(sentence(&map, &entry), "client 'app' may neither read nor write any database");
        entry.all = Access::READ;
        entry.set(DatabaseId(3), Access::ALL);
        let said = "client 'app' may read all databases, read and write '3', and nothing else";
        assert_eq!(sentence(&map, &entry), said);
        let others = [ClientGrants::nothing(OTHERS)];
        assert!(by_certificate("app", &others).contains("granted to '*'"));
        assert!(by_certificate("app", &[]).contains("the certificate"));
        assert!(by_certificate(OTHERS, &others).contains("the certificate"));
    }

    #[test]
    fn names_are_those_of_certificates() {
        for good in ["app", "*", "a.b_c-9"] {
            assert!(client_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a*", "a b", "a/b", &"a".repeat(65)] {
            assert!(client_name(bad).is_err(), "{bad}");
        }
    }
}
