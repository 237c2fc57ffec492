//! `quorate rp ls`.

use clap::Args;
use quorate_client::Env;

use super::describe;
use crate::cli::{
    connect::{Connect, database, map_with},
    fail::Fail,
    output::Output,
    table::Table,
    time::{format_duration, format_retention},
};

/// List a database's policies
#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Ls, env: Env) -> Result<(), Fail> {
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
