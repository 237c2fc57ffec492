//! `quorate node-ctl leave`: a node that runs leaves for good.
//!
//! Order: its hints go to others first, while it still is a member; then one command takes it out of
//! the owners and the members; what hints came in between it hands on by itself before it stops.

use std::time::Duration;

use clap::Args;
use quorate_client::{Client, Env};
use quorate_protocol::{change::Change, id::NodeId};
use serde_json::json;

use crate::cli::{connect::Connect, export::node_id, fail::Fail, output::Output, table::grouped};

const ABOUT: &str = "\
The node gives the hints it keeps to other nodes, then every shard goes on with its other owners, and
the node stops by itself and stays down:
  quorate node-ctl leave n3

Refused if a shard has no other owner. Owners that are missing are not made up for: replication is
lower by one for what was written so far. For a node that is dead: 'quorate node-ctl remove'.
Needs a certificate with role admin.";

/// Let a running node leave the cluster for good
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct Leave {
    /// Who leaves: the name or id of a node
    #[arg(value_name = "NODE")]
    node: String,
    /// How long handing the hints on may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u32,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Leave, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let left = leave(&client, &args).await;
    client.close().await;
    let (node, moved) = left?;
    let mut out = Output::new();
    if args.connect.json {
        out.json(&json!({ "left": node, "moved": moved }))?;
    } else {
        let moved = grouped(moved);
        out.line(&format!("node {} has left; {moved} hints handed on; it stops now", args.node))?;
    }
    out.flush()
}

async fn leave(client: &Client, args: &Leave) -> Result<(NodeId, u64), Fail> {
    let map = client.map();
    let node = node_id(&map, &args.node)?;
    // Told before any hint is moved; decided when it is applied.
    let only = map.sole_shards(node).count();
    if only > 0 {
        return Err(Fail::failed(format!(
            "node {} is the only owner of {only} shards; move or drop them first, 'quorate shard ls' \
             lists them",
            args.node
        )));
    }
    let timeout = Duration::from_secs(args.timeout.into());
    let handed = client.hand_on(node, timeout).await.map_err(|error| {
        Fail::failed(format!(
            "{error}; a node must be up to leave, one that is dead is removed with 'quorate node-ctl \
             remove'"
        ))
    })?;
    if handed.pending > 0 {
        return Err(Fail::failed(format!(
            "{} hints are still on {}; bring more nodes up and run this again",
            grouped(handed.pending),
            args.node
        )));
    }
    client.change(Change::LeaveNode { node }).await?;
    Ok((node, handed.moved))
}
