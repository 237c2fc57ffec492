//! `quorate rp`: retention policies of a database.

mod alter;
mod create;
mod delete_group;
mod drop;
mod groups;
mod ls;
mod truncate;

use clap::Subcommand;
use quorate_client::{Client, Env};
use quorate_protocol::{
    change::Change,
    map::{ClusterMap, Database, Policy},
};
use serde_json::{Value, json};

use super::{
    connect::{self, Connect, map_with},
    fail::Fail,
    output::Output,
};

const EXAMPLES: &str = "\
  quorate rp create metrics raw --retention 2d --replication 2
  quorate rp alter metrics raw --retention 30d --shard-duration 7d
  quorate rp alter metrics raw --default       writes that name no policy go there from now on
  quorate rp truncate metrics --rp raw         ... for present shard groups too, a minute from now
  quorate rp groups metrics --rp raw
  quorate rp drop metrics raw --yes
  echo 'cpu usage=1' | quorate write metrics --rp raw

Shard groups that exist keep their time range and their copies; only new ones follow an altered
policy, until 'rp truncate' ends the present ones early. A shorter retention counts at once for what is written, and for what is kept some minutes
later.";

/// Retention policies: how long points are kept, and in how many copies
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Rp {
    Ls(ls::Ls),
    Create(create::Create),
    Alter(alter::Alter),
    Drop(drop::Drop),
    Groups(groups::Groups),
    Truncate(truncate::Truncate),
    DeleteGroup(delete_group::DeleteGroup),
}

pub(crate) async fn run(command: Rp, env: Env) -> Result<(), Fail> {
    match command {
        Rp::Ls(args) => ls::run(args, env).await,
        Rp::Create(args) => create::run(args, env).await,
        Rp::Alter(args) => alter::run(args, env).await,
        Rp::Drop(args) => drop::run(args, env).await,
        Rp::Groups(args) => groups::run(args, env).await,
        Rp::Truncate(args) => truncate::run(args, env).await,
        Rp::DeleteGroup(args) => delete_group::run(args, env).await,
    }
}

/// A policy as `--json` shows it; durations in ns, 0 for ever.
pub(crate) fn describe(database: &Database, policy: &Policy) -> Value {
    json!({
        "id": policy.id,
        "name": policy.name,
        "default": policy.id == database.default_policy,
        "retention_ns": policy.duration,
        "shard_duration_ns": policy.group_duration,
        "replication": policy.replication,
        "shards": policy.groups.iter().map(|group| group.shards.len()).sum::<usize>(),
    })
}

/// The policy of this name, or the default one.
fn policy<'m>(map: &'m ClusterMap, database: &str, name: Option<&str>) -> Result<&'m Policy, Fail> {
    connect::database(map, database)?.policy_named(name).ok_or_else(|| {
        let name = name.unwrap_or("the default one");
        Fail::failed(format!(
            "database {database:?} has no policy {name:?}; 'quorate rp ls {database}' lists them"
        ))
    })
}

/// Makes changes of one database, in order, and says what that was.
async fn change(
    connect: &Connect,
    env: &Env,
    database: &str,
    changes: Vec<Change>,
    done: (&str, &str),
) -> Result<(), Fail> {
    let client = connect.open(env).await?;
    let changed = make(&client, database, changes).await;
    client.close().await;
    changed?;
    let (what, name) = done;
    let mut out = Output::new();
    if connect.json {
        out.json(&json!({ what: name, "database": database }))?;
    } else {
        out.line(&format!("policy '{name}' of '{database}' is {what}"))?;
    }
    out.flush()
}

async fn make(client: &Client, database: &str, changes: Vec<Change>) -> Result<(), Fail> {
    map_with(client, database).await?;
    for change in changes {
        client.change(change).await?;
    }
    Ok(())
}
