//! `quorate node-ctl remove`: a node that does not come back is taken out.
//!
//! Invariant: a node that answers is not removed, since it could still hand its hints on.

use clap::Args;
use quorate_client::{Client, Env};
use quorate_protocol::{change::Change, id::NodeId};
use serde_json::json;

use crate::cli::{connect::Connect, export::node_id, fail::Fail, output::Output, survey::PATIENCE};

const ABOUT: &str = "\
For a node that is dead: every shard goes on with its other owners, and hints that others keep for it
go to those. What only it had is lost: writes that it alone acknowledged ('one'), and the hints on
its disk, unless it is started once more: it then hands these on and stops.
  quorate node-ctl remove n3 --yes

Refused if a shard has no other owner, and while the node answers: that one can 'leave'.
Needs a certificate with role admin.";

/// Take a dead node out of the cluster for good
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct Remove {
    /// Who is removed: the name or id of a node
    #[arg(value_name = "NODE")]
    node: String,
    /// Really do it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Remove, env: Env) -> Result<(), Fail> {
    if !args.yes {
        return Err(Fail::usage(format!(
            "removing {} is for good, and loses what only it has; say --yes to do it",
            args.node
        )));
    }
    let client = args.connect.open(&env).await?;
    let removed = remove(&client, &args).await;
    client.close().await;
    let node = removed?;
    let mut out = Output::new();
    if args.connect.json {
        out.json(&json!({ "removed": node }))?;
    } else {
        out.line(&format!("node {} is removed", args.node))?;
    }
    out.flush()
}

async fn remove(client: &Client, args: &Remove) -> Result<NodeId, Fail> {
    let node = node_id(&client.map(), &args.node)?;
    if client.node_status(node, PATIENCE).await.is_ok() {
        return Err(Fail::failed(format!(
            "node {0} answers; 'quorate node-ctl leave {0}' has it hand its hints on first",
            args.node
        )));
    }
    client.change(Change::LeaveNode { node }).await?;
    Ok(node)
}
