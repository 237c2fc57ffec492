//! `quorate hints show`: the hints that nodes keep for one of them, one by one.
//!
//! Invariant: hints are shown as they come, in flat memory, and none is taken out of its queue.

use clap::Args;
use quorate_client::{Client, Env};
use quorate_protocol::{
    id::NodeId,
    message::{HintInfo, Hints},
};
use serde_json::{Value, json};

use super::holders::{Holders, called, place};
use crate::{
    cli::{
        connect::Connect,
        fail::Fail,
        output::Output,
        survey::PATIENCE,
        table::{bytes, count, pack},
        tell,
        time::format_time,
    },
    handoff::Terminal,
};

const ABOUT: &str = "\
  quorate hints show n3                    what nodes keep for n3, oldest first
  quorate hints show n3 --quarantined      what n3 has refused for good, and why
  quorate hints show 3 --on n1 --limit 0 --json

Two nodes may keep a hint of the same points. A hint that is damaged is quarantined when it is read
for its delivery. Nothing is changed by looking.";

/// Show the hints kept for a node
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct ShowArgs {
    /// For whom they are: the name or id of a node
    #[arg(value_name = "TARGET")]
    target: String,
    /// Only what this node keeps
    #[arg(long, value_name = "ID|NAME")]
    on: Option<String>,
    /// Hints that were kept aside, instead of pending ones
    #[arg(long)]
    quarantined: bool,
    /// How many of each queue at most; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
    #[command(flatten)]
    connect: Connect,
}

pub(super) async fn run(args: ShowArgs, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let ended = show(&client, &args).await;
    client.close().await;
    ended
}

async fn show(client: &Client, args: &ShowArgs) -> Result<(), Fail> {
    let holders = Holders::find(client, Some(&args.target), args.on.as_deref()).await?;
    let mut out = Output::new();
    for (holder, target) in holders.pairs() {
        // One more than is shown tells whether there are more.
        let limit = if args.limit == 0 { 0 } else { args.limit.saturating_add(1) };
        let request = Hints { target, quarantined: args.quarantined, content: false, limit };
        let mut stream = client.hints(holder, request, PATIENCE).await?;
        let mut shown = 0;
        while let Some(hint) = stream.next().await {
            let (info, _) = hint?;
            if args.limit > 0 && shown == args.limit {
                out.flush()?;
                let (on, to) = (holders.name(holder), holders.name(target));
                tell(&format!("there are more on {on} for {to}; --limit 0 shows all"));
                break;
            }
            shown += 1;
            if args.connect.json {
                out.json(&object(&holders, holder, target, &info))?;
            } else {
                out.bytes(paragraph(&holders, holder, target, &info).as_bytes())?;
            }
        }
    }
    out.flush()?;
    holders.complete()
}

fn object(holders: &Holders, node: NodeId, target: NodeId, info: &HintInfo) -> Value {
    let batch = info.batch.as_ref();
    let place = batch.and_then(|batch| place(holders.map(), batch));
    let names = batch.map(|batch| {
        let names = batch.names.iter().map(|name| String::from_utf8_lossy(name).into_owned());
        names.collect::<Vec<_>>()
    });
    json!({
        "node": node,
        "node_name": holders.name(node),
        "target": target,
        "target_name": holders.name(target),
        "sequence": info.sequence,
        "count": info.count,
        "shard": info.shard,
        "database": place.as_ref().map(|(database, _)| database),
        "policy": place.as_ref().map(|(_, policy)| policy),
        "database_id": batch.map(|batch| batch.database),
        "policy_id": batch.map(|batch| batch.policy),
        "measurements": names,
        "measurement_count": batch.map(|batch| batch.measurements),
        "appended_ns": info.appended_at,
        "bytes": info.bytes,
        "rows": batch.map(|batch| batch.rows),
        "from": batch.map(|batch| batch.from),
        "to": batch.map(|batch| batch.to),
        "version": batch.map(|batch| batch.version),
        "any": info.any,
        "damaged": batch.is_none(),
        "reason": reason(info),
    })
}

/// Two lines or more, for people.
fn paragraph(holders: &Holders, node: NodeId, target: NodeId, info: &HintInfo) -> String {
    let what = match &info.batch {
        None => "damaged".to_owned(),
        Some(batch) => {
            let into = match place(holders.map(), batch) {
                Some((database, policy)) => format!("{database}.{policy}"),
                None => format!("database {} policy {}", batch.database, batch.policy),
            };
            let names = batch.names.iter().map(|name| String::from_utf8_lossy(name).into_owned());
            let mut names: Vec<String> = names.collect();
            if batch.measurements as usize > names.len() {
                names.push(format!("{} more", batch.measurements as usize - names.len()));
            }
            let rows = count(batch.rows as usize, "row", "rows");
            format!("{rows} of {into}: {}", names.join(", "))
        }
    };
    let (on, to) = (holders.name(node), holders.name(target));
    let head = format!("{} on {on} for {to}: {what}\n", called(info));
    let mut words = Vec::new();
    if info.shard.0 > 0 {
        words.push(format!("shard={}", info.shard));
    }
    words.push(format!("size={}", bytes(info.bytes)));
    if let (1.., Ok(appended)) = (info.appended_at, i64::try_from(info.appended_at)) {
        words.push(format!("appended={}", format_time(appended)));
    }
    if let Some(batch) = &info.batch {
        words.push(format!("from={}", format_time(batch.from)));
        words.push(format!("to={}", format_time(batch.to)));
    }
    if info.any {
        words.push("any".to_owned());
    }
    if let Some(reason) = reason(info) {
        words.push(format!("reason={reason}"));
    }
    head + &pack(words, "  ")
}

/// Why it was kept aside, in words.
fn reason(info: &HintInfo) -> Option<String> {
    if info.reason == 0 {
        return None;
    }
    let known = Terminal::from_code(info.reason).map(|reason| reason.to_string());
    Some(known.unwrap_or_else(|| format!("code {:#010x}", info.reason)))
}
