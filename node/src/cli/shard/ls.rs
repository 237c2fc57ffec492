//! `quorate shard ls`: where every time range of every database is kept.

use quorate_client::Env;
use serde_json::json;

use crate::cli::{connect::Connect, fail::Fail, output::Output, table::Table, time::format_time};

pub(super) async fn run(connect: Connect, env: Env) -> Result<(), Fail> {
    let client = connect.open(&env).await?;
    let map = client.map();
    client.close().await;
    let mut out = Output::new();
    let mut table = Table::new(&[">id", "database", "policy", "from", "to", "owners"]);
    for place in map.shards() {
        let (group, shard) = (place.group, place.shard);
        if connect.json {
            out.json(&json!({
                "id": shard.id,
                "database": place.database.name,
                "policy": place.policy.name,
                "group": group.id,
                "start": group.start,
                "end": group.end,
                "epoch": shard.epoch,
                "owners": shard.owners,
            }))?;
            continue;
        }
        let name = |id| map.node(id).map_or_else(|| id.to_string(), |node| node.name.clone());
        let owners: Vec<String> = shard.owners.iter().map(|id| name(*id)).collect();
        table.row([
            shard.id.to_string(),
            place.database.name.clone(),
            place.policy.name.clone(),
            format_time(group.start),
            format_time(group.end),
            owners.join(","),
        ]);
    }
    if !connect.json {
        out.bytes(table.render().as_bytes())?;
    }
    out.flush()
}
