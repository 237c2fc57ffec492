//! `quorate node-ctl promote|demote`: who may vote on metadata.

use clap::Args;
use quorate_client::Env;
use quorate_protocol::change::Change;
use serde_json::json;

use crate::cli::{connect::Connect, export::node_id, fail::Fail, output::Output};

/// The node
#[derive(Args, Debug)]
pub(crate) struct Voting {
    /// The name or id of a node
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Voting, votes: bool, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let done = match node_id(&client.map(), &args.node) {
        Ok(node) => {
            let change = Change::SetVoting { node, votes };
            client.change(change).await.map(|_| node).map_err(Fail::from)
        }
        Err(unknown) => Err(unknown),
    };
    client.close().await;
    let node = done?;
    let mut out = Output::new();
    if args.connect.json {
        out.json(&json!({ "node": node, "votes": votes }))?;
    } else if votes {
        out.line(&format!(
            "node {} may vote; it does once it has caught up and a place is free",
            args.node
        ))?;
    } else {
        out.line(&format!("node {} goes on without a vote", args.node))?;
    }
    out.flush()
}
