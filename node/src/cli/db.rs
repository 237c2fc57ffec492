//! `quorate db create|ls|drop`.
//!
//! Invariant: when `create` has returned, writes to the database work through any node.

use clap::{Args, Subcommand};
use quorate_client::Env;
use quorate_protocol::{
    change::{Change, Outcome, PolicySpec},
    map::Database,
    placement::default_group_duration,
};
use serde_json::json;

use super::{
    connect::{Connect, map_with},
    fail::Fail,
    output::Output,
    rp,
    table::Table,
    time::{format_duration, format_retention, parse_positive, parse_retention},
};

/// Name of the policy that `db create` makes.
const FIRST_POLICY: &str = "autogen";

const EXAMPLES: &str = "\
  quorate db create metrics
  quorate db create metrics --replication 3 --retention 30d --shard-duration 1d
  quorate db ls --json

Creating the same database again is no error; with other settings it is.";

/// Make, list and drop databases
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Db {
    /// Make a database
    Create(Create),
    /// List databases
    Ls(Connect),
    /// Drop a database with everything in it
    Drop(Drop),
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Name: 1 to 64 letters, digits, '.', '_' and '-'
    name: String,
    /// Copies of each shard; no more than there are nodes are made
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    replication: u32,
    /// How long points are kept: 30d, 12h; 0 for ever
    #[arg(long, value_name = "D", default_value = "0", value_parser = parse_retention)]
    retention: u64,
    /// Time range of one shard [default: by the retention, 7d if for ever]
    #[arg(long, value_name = "D", value_parser = parse_positive)]
    shard_duration: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Args, Debug)]
pub(crate) struct Drop {
    /// Name
    name: String,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(command: Db, env: Env) -> Result<(), Fail> {
    match command {
        Db::Create(create) => create_database(create, env).await,
        Db::Ls(connect) => list(connect, env).await,
        Db::Drop(drop) => drop_database(drop, env).await,
    }
}

async fn create_database(args: Create, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let policy = PolicySpec {
        name: FIRST_POLICY.to_owned(),
        duration: args.retention,
        group_duration: args.shard_duration.unwrap_or(default_group_duration(args.retention)),
        replication: args.replication,
    };
    let outcome = client.change(Change::CreateDatabase { name: args.name.clone(), policy }).await?;
    client.close().await;
    let id = match outcome {
        Outcome::Database(id) => json!(id),
        _ => json!(null),
    };
    let mut out = Output::new();
    if args.connect.json {
        out.json(&json!({"created": args.name, "id": id}))?;
    } else {
        out.line(&format!("database '{}' is there", args.name))?;
    }
    out.flush()
}

async fn drop_database(args: Drop, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    map_with(&client, &args.name).await?;
    client.change(Change::DropDatabase { name: args.name.clone() }).await?;
    client.close().await;
    let mut out = Output::new();
    if args.connect.json {
        out.json(&json!({"dropped": args.name}))?;
    } else {
        out.line(&format!("database '{}' is dropped", args.name))?;
    }
    out.flush()
}

async fn list(connect: Connect, env: Env) -> Result<(), Fail> {
    let client = connect.open(&env).await?;
    let map = client.map();
    client.close().await;
    let mut out = Output::new();
    let header = ["name", "policy", "retention", "shard duration", ">replication", ">shards"];
    let mut table = Table::new(&header);
    for database in &map.databases {
        if connect.json {
            out.json(&describe(database))?;
            continue;
        }
        for policy in &database.policies {
            let default = if policy.id == database.default_policy { " (default)" } else { "" };
            let shards: usize = policy.groups.iter().map(|group| group.shards.len()).sum();
            table.row([
                database.name.clone(),
                format!("{}{default}", policy.name),
                format_retention(policy.duration),
                format_duration(policy.group_duration),
                policy.replication.to_string(),
                shards.to_string(),
            ]);
        }
    }
    if !connect.json {
        out.bytes(table.render().as_bytes())?;
    }
    out.flush()
}

fn describe(database: &Database) -> serde_json::Value {
    let policies: Vec<_> =
        database.policies.iter().map(|policy| rp::describe(database, policy)).collect();
    json!({"id": database.id, "name": database.name, "policies": policies})
}
