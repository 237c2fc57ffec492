//! `quorate rp groups`.

use std::collections::BTreeSet;

use clap::Args;
use quorate_client::Env;
use quorate_protocol::{
    id::NodeId,
    map::{DeleteReason, Group, Policy, TruncationState},
};
use serde_json::json;

use super::policy;
use crate::cli::{
    connect::{Connect, map_with},
    fail::Fail,
    output::Output,
    table::Table,
    time::format_time,
};

/// List the shard groups of a policy, or those that were deleted lately
#[derive(Args, Debug)]
pub(crate) struct Groups {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    /// The policy [default: the database's default one]
    #[arg(long, value_name = "P")]
    rp: Option<String>,
    /// Those that were deleted, for a day (tombstone_keep_s), the last 200 of a policy
    #[arg(long)]
    deleted: bool,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Groups, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let map = map_with(&client, &args.database).await;
    client.close().await;
    let map = map?;
    let policy = policy(&map, &args.database, args.rp.as_deref())?;
    let mut out = Output::new();
    match (args.deleted, args.connect.json) {
        (false, false) => out.bytes(live(policy).render().as_bytes())?,
        (true, false) => out.bytes(deleted(policy).render().as_bytes())?,
        (false, true) => {
            for group in &policy.groups {
                out.json(&json!({
                    "group": group.id,
                    "start_ns": group.start,
                    "end_ns": group.end,
                    "shards": group.shards.iter().map(|shard| shard.id).collect::<Vec<_>>(),
                    "nodes": nodes(group),
                    "truncation": state(group),
                }))?;
            }
        }
        (true, true) => {
            for stone in &policy.deleted {
                out.json(&json!({
                    "group": stone.group,
                    "start_ns": stone.start,
                    "end_ns": stone.end,
                    "shards": stone.shards,
                    "deleted_ns": stone.at_ns,
                    "reason": reason(stone.reason),
                }))?;
            }
        }
    }
    out.flush()
}

fn live(policy: &Policy) -> Table {
    let mut table = Table::new(&[">group", "from", "to", ">shards", "nodes", "truncation"]);
    for group in &policy.groups {
        let nodes: Vec<String> = nodes(group).iter().map(ToString::to_string).collect();
        table.row([
            group.id.to_string(),
            format_time(group.start),
            format_time(group.end),
            group.shards.len().to_string(),
            nodes.join(","),
            state(group).unwrap_or("-").to_owned(),
        ]);
    }
    table
}

fn deleted(policy: &Policy) -> Table {
    let mut table = Table::new(&[">group", "from", "to", "deleted", "reason"]);
    for stone in &policy.deleted {
        table.row([
            stone.group.to_string(),
            format_time(stone.start),
            format_time(stone.end),
            format_time(i64::try_from(stone.at_ns).unwrap_or(i64::MAX)),
            reason(stone.reason).to_owned(),
        ]);
    }
    table
}

fn nodes(group: &Group) -> BTreeSet<NodeId> {
    group.shards.iter().flat_map(|shard| shard.owners.iter().copied()).collect()
}

/// How the last truncation stands, if it has not changed the group.
fn state(group: &Group) -> Option<&'static str> {
    group.truncation.as_ref().map(|it| match it.state {
        TruncationState::Closing => "under way",
        TruncationState::Kept => "kept",
        TruncationState::Reopened => "given up",
    })
}

const fn reason(reason: DeleteReason) -> &'static str {
    match reason {
        DeleteReason::Expired => "expired",
        DeleteReason::Emptied => "empty",
        DeleteReason::Asked => "asked for",
    }
}
