//! `quorate rp`: retention policies of a database.

mod alter;
mod create;
mod drop;
mod ls;

use clap::Subcommand;
use quorate_client::{Client, Env};
use quorate_protocol::{
    change::Change,
    map::{Database, Policy},
};
use serde_json::{Value, json};

use super::{
    connect::{Connect, map_with},
    fail::Fail,
    output::Output,
};

const EXAMPLES: &str = "\
  quorate rp create metrics raw --retention 2d --replication 2
  quorate rp alter metrics raw --retention 30d --shard-duration 7d
  quorate rp alter metrics raw --default       writes that name no policy go there from now on
  quorate rp drop metrics raw --yes
  echo 'cpu usage=1' | quorate write metrics --rp raw

Shard groups that exist keep their time range and their copies; only new ones follow an altered
policy. A shorter retention counts at once for what is written, and for what is kept some minutes
later.";

/// Retention policies: how long points are kept, and in how many copies
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Rp {
    Ls(ls::Ls),
    Create(create::Create),
    Alter(alter::Alter),
    Drop(drop::Drop),
}

pub(crate) async fn run(command: Rp, env: Env) -> Result<(), Fail> {
    match command {
        Rp::Ls(args) => ls::run(args, env).await,
        Rp::Create(args) => create::run(args, env).await,
        Rp::Alter(args) => alter::run(args, env).await,
        Rp::Drop(args) => drop::run(args, env).await,
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
