//! `quorate rp ls`: retention policies of a database.

use clap::{Args, Subcommand};
use quorate_client::Env;
use quorate_protocol::map::{Database, Policy};
use serde_json::{Value, json};

use super::{
    connect::{Connect, database, map_with},
    fail::Fail,
    output::Output,
    table::Table,
    time::{format_duration, format_retention},
};

/// Retention policies: how long points are kept, and in how many copies
#[derive(Debug, Subcommand)]
pub(crate) enum Rp {
    /// List a database's policies
    Ls(Ls),
}

#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    #[command(flatten)]
    connect: Connect,
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

pub(crate) async fn run(command: Rp, env: Env) -> Result<(), Fail> {
    let Rp::Ls(args) = command;
    let client = args.connect.open(&env).await?;
    let map = map_with(&client, &args.database).await?;
    client.close().await;
    let database = database(&map, &args.database)?;
    let mut out = Output::new();
    let header = ["name", "default", "retention", "shard duration", ">replication"];
    let mut table = Table::new(&header);
    for policy in &database.policies {
        if args.connect.json {
            out.json(&describe(database, policy))?;
            continue;
        }
        let default = if policy.id == database.default_policy { "yes" } else { "no" };
        table.row([
            policy.name.clone(),
            default.to_owned(),
            format_retention(policy.duration),
            format_duration(policy.group_duration),
            policy.replication.to_string(),
        ]);
    }
    if !args.connect.json {
        out.bytes(table.render().as_bytes())?;
    }
    out.flush()
}
