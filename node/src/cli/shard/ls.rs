//! `quorate shard ls`: where every time range of every database is kept, and how much of it.

use quorate_client::Env;
use quorate_protocol::message::ShardState;
use serde_json::{Value, json};

use crate::cli::{
    connect::Connect,
    fail::Fail,
    output::Output,
    survey::{PATIENCE, Survey},
    table::{Table, bytes, grouped},
    time::format_time,
};

pub(super) async fn run(connect: Connect, env: Env) -> Result<(), Fail> {
    let client = connect.open(&env).await?;
    let (survey, kept) = Survey::with_replicas(&client, PATIENCE).await;
    client.close().await;
    let mut out = Output::new();
    let header =
        [">id", "database", "policy", "from", "owners", ">series", ">runs", ">size", "state"];
    let mut table = Table::new(&header);
    let name = |id| survey.name(id);
    for place in survey.map.shards() {
        let (group, shard) = (place.group, place.shard);
        let replicas = || shard.owners.iter().map(|node| (*node, kept.of(*node, shard.id)));
        if connect.json {
            let replicas: Vec<Value> = replicas()
                .map(|(node, (state, health))| {
                    let behind = kept.behind(node, shard.id);
                    json!({
                        "node": node,
                        "name": name(node),
                        "state": health.word(),
                        "behind": behind.is_behind(),
                        "hints": behind.hints,
                        "marks": behind.marks,
                        "series": state.map(|state| state.series),
                        "runs": state.map(|state| state.runs),
                        "bytes": state.map(|state| state.bytes),
                        "fresh_bytes": state.map(|state| state.fresh_bytes),
                    })
                })
                .collect();
            out.json(&json!({
                "id": shard.id,
                "database": place.database.name,
                "policy": place.policy.name,
                "group": group.id,
                "start": group.start,
                "end": group.end,
                "epoch": shard.epoch,
                "owners": shard.owners,
                "replicas": replicas,
            }))?;
            continue;
        }
        let most = |of: fn(&ShardState) -> u64| {
            replicas().filter_map(|(_, (state, _))| state.map(of)).max().unwrap_or_default()
        };
        let owners: Vec<String> = shard.owners.iter().map(|id| name(*id)).collect();
        let odd: Vec<String> = replicas()
            .filter_map(|(node, (_, health))| {
                let word = kept.odd(node, shard.id, health)?;
                Some(format!("{} {word}", name(node)))
            })
            .collect();
        table.row([
            shard.id.to_string(),
            place.database.name.clone(),
            place.policy.name.clone(),
            format_time(group.start),
            owners.join(","),
            grouped(most(|state| state.series)),
            grouped(most(|state| state.runs)),
            bytes(most(|state| state.bytes)),
            if odd.is_empty() { "ok".to_owned() } else { odd.join(", ") },
        ]);
    }
    if !connect.json {
        out.bytes(table.render().as_bytes())?;
    }
    out.flush()
}
