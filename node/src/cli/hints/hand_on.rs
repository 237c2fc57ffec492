//! `quorate hints hand-on`: a holder gives its hints to other nodes, before it leaves.

use std::time::Duration;

use clap::Args;
use quorate_client::Env;
use serde_json::json;

use crate::cli::{connect::Connect, export::node_id, fail::Fail, output::Output, table::grouped};

const ABOUT: &str = "\
A node that is to leave for good may still keep hints for others. This has it give them to nodes
that are up, owners of their shards first; hints whose target is up are delivered meanwhile:
  quorate hints hand-on n3

Exit code 1: some are still there when the time is over. Run it again; nothing is lost. Needs a
certificate with role admin.";

/// Have a node give its hints to other nodes
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct HandOnArgs {
    /// Who gives them away: the name or id of a node
    #[arg(value_name = "NODE")]
    node: String,
    /// How long it may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u32,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: HandOnArgs, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let node = match node_id(&client.map(), &args.node) {
        Ok(node) => node,
        Err(error) => {
            client.close().await;
            return Err(error);
        }
    };
    let handed = client.hand_on(node, Duration::from_secs(args.timeout.into())).await;
    client.close().await;
    let handed = handed?;
    let mut out = Output::new();
    if args.connect.json {
        out.json(&json!({ "node": node, "moved": handed.moved, "pending": handed.pending }))?;
    } else {
        let (moved, pending) = (grouped(handed.moved), grouped(handed.pending));
        out.line(&format!("{moved} handed on, {pending} left"))?;
    }
    out.flush()?;
    if handed.pending > 0 {
        let left = grouped(handed.pending);
        return Err(Fail::failed(format!(
            "{left} hints are still on {}; bring more nodes up and run this again",
            args.node
        )));
    }
    Ok(())
}
