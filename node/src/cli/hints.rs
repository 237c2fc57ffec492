//! `quorate hints ls`: what every node keeps for its peers.

use clap::Subcommand;
use quorate_client::Env;
use serde_json::json;

use super::{
    connect::Connect,
    fail::Fail,
    hints_import,
    output::Output,
    survey::{Survey, accounting},
    table::{Table, bytes},
    time::format_time,
};

const EXAMPLES: &str = "\
A hint is a write that a node keeps for a peer that was down. Every hint that was accepted is
delivered, pending, quarantined, expired or discarded, and nothing else:
  quorate hints ls
  quorate hints ls --json | jq -s 'map(.pending) | add'";

/// The hint queues: writes kept for nodes that are down
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Hints {
    /// List the queues
    Ls(Connect),
    Import(hints_import::Import),
}

pub(crate) async fn run(command: Hints, env: Env) -> Result<(), Fail> {
    let connect = match command {
        Hints::Ls(connect) => connect,
        Hints::Import(import) => return hints_import::run(import, env).await,
    };
    let client = connect.open(&env).await?;
    let survey = Survey::take(&client).await;
    client.close().await;
    let mut out = Output::new();
    let header = [
        "on",
        "for",
        ">accepted",
        ">delivered",
        ">pending",
        ">quarant.",
        ">expired",
        ">discard.",
        ">size",
        "oldest",
    ];
    let mut table = Table::new(&header);
    for (holder, queue) in survey.queues() {
        if connect.json {
            let mut object = json!({
                "node": holder,
                "node_name": survey.name(holder),
                "target": queue.target,
                "target_name": survey.name(queue.target),
                "bytes": queue.bytes,
                "oldest_ns": queue.oldest_ns,
            });
            if let (Some(object), Some(counts)) =
                (object.as_object_mut(), accounting(queue).as_object())
            {
                object.extend(counts.clone());
            }
            out.json(&object)?;
            continue;
        }
        let oldest = match i64::try_from(queue.oldest_ns) {
            Ok(0) | Err(_) => String::new(),
            Ok(oldest) => format_time(oldest - oldest % 1_000_000_000),
        };
        table.row([
            survey.name(holder),
            survey.name(queue.target),
            queue.accepted.to_string(),
            queue.delivered.to_string(),
            queue.pending.to_string(),
            queue.quarantined.to_string(),
            queue.expired.to_string(),
            queue.discarded.to_string(),
            bytes(queue.bytes),
            oldest,
        ]);
    }
    if !connect.json {
        out.bytes(table.render().as_bytes())?;
    }
    out.flush()?;
    if survey.complete() {
        return Ok(());
    }
    let down = survey.nodes.iter().filter(|(_, answer)| answer.is_none());
    let down: Vec<String> = down.map(|(id, _)| survey.name(*id)).collect();
    Err(Fail::failed(format!("no answer from {}; its queues are not listed", down.join(", "))))
}
