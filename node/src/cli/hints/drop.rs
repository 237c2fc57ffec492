//! `quorate hints drop`: hints given up because an operator says so.
//!
//! Invariant: nothing is dropped without `--yes`, nor what an `any` acknowledgement rests on without
//! `--force-any`; what is reported as dropped is so durably.

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
The points in the hints that are dropped do not reach their target by hinted handoff any more:
  quorate hints export n3 > n3.lp
  quorate hints drop n3 --yes
  quorate hints drop n3 --quarantined --yes

A hint that an 'any' acknowledgement rests on may be the only copy there is; --force-any drops those
too. A hint that cannot be read stays until a drain has put it in quarantine. With --quarantined,
and without --shard, segments that could not be read at all go too; each counts as one hint.
Needs a certificate with role admin. Exit code 1: some hints stay, or a node failed.";

/// Give hints up
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct DropArgs {
    /// For whom the hints are: the name or id of a node
    #[arg(value_name = "TARGET")]
    target: String,
    /// Only what this node keeps
    #[arg(long, value_name = "ID|NAME")]
    on: Option<String>,
    /// Hints that were kept aside, instead of pending ones
    #[arg(long)]
    quarantined: bool,
    /// Only hints of this shard
    #[arg(long, value_name = "N")]
    shard: Option<u64>,
    /// Also hints that an 'any' acknowledgement rests on
    #[arg(long)]
    force_any: bool,
    /// Yes, give them up
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: DropArgs, env: Env) -> Result<(), Fail> {
    if !args.yes {
        return Err(Fail::usage(
            "dropped hints are gone; look with 'quorate hints show', keep their points with \
             'quorate hints export', then say --yes",
        ));
    }
    let client = args.connect.open(&env).await?;
    let ended = drop(&client, &args).await;
    client.close().await;
    ended
}

async fn drop(client: &Client, args: &DropArgs) -> Result<(), Fail> {
    let holders = Holders::find(client, Some(&args.target), args.on.as_deref()).await?;
    let mut out = Output::new();
    let mut table = Table::new(&["on", "for", ">dropped", ">kept for any", ">damaged"]);
    let (mut any, mut damaged, mut failed) = (0, 0, None);
    for (node, target) in holders.pairs() {
        let action = if args.quarantined { HintAction::DropQuarantined } else { HintAction::Drop };
        let shard = args.shard.map(ShardId);
        let request = HintsDo { target, action, shard, force_any: args.force_any };
        let done = match client.hints_do(node, request, PATIENCE).await {
            Ok(done) => done,
            Err(error) => {
                failed.get_or_insert(error);
                continue;
            }
        };
        any += done.any;
        damaged += done.damaged;
        let (on, to) = (holders.name(node), holders.name(target));
        if args.connect.json {
            out.json(&json!({
                "node": node, "node_name": on, "target": target, "target_name": to,
                "dropped": done.done, "kept_any": done.any, "damaged": done.damaged,
            }))?;
        } else {
            table.row([on, to, grouped(done.done), grouped(done.any), grouped(done.damaged)]);
        }
    }
    if !args.connect.json {
        out.bytes(table.render().as_bytes())?;
    }
    out.flush()?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let hints = |number: u64| {
        count(usize::try_from(number).unwrap_or(usize::MAX), "hint stays", "hints stay")
    };
    if any > 0 {
        return Err(Fail::failed(format!(
            "{}: an 'any' acknowledgement rests on them; --force-any drops them too",
            hints(any)
        )));
    }
    if damaged > 0 {
        return Err(Fail::failed(format!(
            "{}: they cannot be read; see 'quorate hints verify'",
            hints(damaged)
        )));
    }
    holders.complete()
}
