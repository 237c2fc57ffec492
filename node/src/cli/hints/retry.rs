//! `quorate hints retry`: what was kept aside is pending again.

use std::time::Duration;

use clap::Args;
use quorate_client::{Client, Env};
use quorate_protocol::{
    id::ShardId,
    message::{HintAction, HintsDo},
};
use serde_json::json;

use super::holders::Holders;
use crate::cli::{
    connect::Connect,
    fail::Fail,
    output::Output,
    table::{Table, count, grouped},
};

/// How long one node may take.
const PATIENCE: Duration = Duration::from_secs(3600);

const ABOUT: &str = "\
Hints that their target refused for good, or that grew too old although an 'any' acknowledgement
rests on them, are kept aside. Once the reason is mended, for example by a newer version on the
target, this puts them back at the end of their queue:
  quorate hints show n3 --quarantined
  quorate hints retry n3
  quorate hints retry n3 --shard 7

In the books they stay 'quarantined' and are accepted once more. What is damaged stays aside.
Needs a certificate with role admin. Exit code 1: something was damaged, or a node failed.";

/// Put quarantined hints back into their queue
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct RetryArgs {
    /// For whom the hints are: the name or id of a node
    #[arg(value_name = "TARGET")]
    target: String,
    /// Only what this node keeps
    #[arg(long, value_name = "ID|NAME")]
    on: Option<String>,
    /// Only hints of this shard
    #[arg(long, value_name = "N")]
    shard: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: RetryArgs, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let ended = retry(&client, &args).await;
    client.close().await;
    ended
}

async fn retry(client: &Client, args: &RetryArgs) -> Result<(), Fail> {
    let holders = Holders::find(client, Some(&args.target), args.on.as_deref()).await?;
    let mut out = Output::new();
    let mut table = Table::new(&["on", "for", ">retried", ">damaged"]);
    let (mut damaged, mut failed) = (0, None);
    for (node, target) in holders.pairs() {
        let (action, shard) = (HintAction::Retry, args.shard.map(ShardId));
        let request = HintsDo { target, action, shard, force_any: false };
        let done = match client.hints_do(node, request, PATIENCE).await {
            Ok(done) => done,
            Err(error) => {
                failed.get_or_insert(error);
                continue;
            }
        };
        damaged += done.damaged;
        let (on, to) = (holders.name(node), holders.name(target));
        if args.connect.json {
            out.json(&json!({
                "node": node, "node_name": on, "target": target, "target_name": to,
                "retried": done.done, "damaged": done.damaged,
            }))?;
        } else {
            table.row([on, to, grouped(done.done), grouped(done.damaged)]);
        }
    }
    if !args.connect.json {
        out.bytes(table.render().as_bytes())?;
    }
    out.flush()?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if damaged > 0 {
        let damaged = count(usize::try_from(damaged).unwrap_or(usize::MAX), "hint is", "hints are");
        return Err(Fail::failed(format!(
            "{damaged} damaged and stay in quarantine; 'quorate hints drop {} --quarantined' \
             removes them",
            args.target
        )));
    }
    holders.complete()
}
