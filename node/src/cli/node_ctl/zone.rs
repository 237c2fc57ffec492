//! `quorate node-ctl zone`: the failure domain a node is in.

use clap::Args;
use quorate_client::Env;
use quorate_protocol::change::Change;
use serde_json::json;

use crate::cli::{connect::Connect, export::node_id, fail::Fail, output::Output};

const ABOUT: &str = "\
Replicas of a shard are spread over zones before they are balanced over nodes. Counts for shard groups
that are made from now on; those that exist stay where they are.
  quorate node-ctl zone n2 rack-b
  quorate node-ctl zone n2               n2 is a failure domain of its own

A node that is started with --zone, or zone in its configuration, sets that again.";

/// Say in which failure domain a node is
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct Zone {
    /// The name or id of a node
    #[arg(value_name = "NODE")]
    node: String,
    /// The zone: 1 to 64 letters, digits, '.', '_' and '-'; left out: none
    #[arg(value_name = "ZONE")]
    zone: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: Zone, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let done = match node_id(&client.map(), &args.node) {
        Ok(node) => {
            let change = Change::SetZone { node, zone: args.zone.clone() };
            client.change(change).await.map(|_| node).map_err(Fail::from)
        }
        Err(unknown) => Err(unknown),
    };
    client.close().await;
    let node = done?;
    let mut out = Output::new();
    match &args.zone {
        _ if args.connect.json => out.json(&json!({ "node": node, "zone": args.zone }))?,
        Some(zone) => out.line(&format!("node {} is in zone {zone}", args.node))?,
        None => out.line(&format!("node {} is in no zone", args.node))?,
    }
    out.flush()
}
