//! `quorate rp delete-group`.

use clap::Args;
use quorate_client::{Client, Env};
use quorate_protocol::{change::Change, id::GroupId, map::Policy};
use serde_json::json;

use crate::cli::{
    connect::{Connect, database, map_with},
    fail::Fail,
    output::Output,
};

/// Delete one shard group with every point in it, now and on all nodes
#[derive(Args, Debug)]
pub(crate) struct DeleteGroup {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    /// The group's number, from 'quorate rp groups'
    #[arg(value_name = "GROUP")]
    group: u64,
    /// Really do it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: DeleteGroup, env: Env) -> Result<(), Fail> {
    if !args.yes {
        return Err(Fail::usage(format!(
            "deleting group {} loses every point in it; say --yes to do it",
            args.group
        )));
    }
    let client = args.connect.open(&env).await?;
    let deleted = delete(&args, &client).await;
    client.close().await;
    deleted?;
    let mut out = Output::new();
    if args.connect.json {
        out.json(&json!({ "deleted": args.group, "database": args.database }))?;
    } else {
        out.line(&format!("shard group {} of '{}' is deleted", args.group, args.database))?;
    }
    out.flush()
}

async fn delete(args: &DeleteGroup, client: &Client) -> Result<(), Fail> {
    let map = map_with(client, &args.database).await?;
    let group = GroupId(args.group);
    let has = |policy: &Policy| policy.groups.iter().any(|live| live.id == group);
    if !database(&map, &args.database)?.policies.iter().any(|policy| has(policy)) {
        return Err(Fail::failed(format!(
            "database {:?} has no shard group {group}; 'quorate rp groups {}' lists them",
            args.database, args.database
        )));
    }
    client.change(Change::DeleteGroup { group }).await?;
    Ok(())
}
