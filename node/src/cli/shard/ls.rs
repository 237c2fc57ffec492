//! `quorate shard ls`: where every time range of every database is kept, and how much of it.
//!
//! Invariant: what a node does not say is not guessed: a node that does not answer is shown as down.

use std::{collections::BTreeMap, sync::Arc};

use quorate_client::{Client, Env};
use quorate_protocol::{
    id::{NodeId, ShardId},
    map::ClusterMap,
    message::ShardState,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cli::{
    connect::Connect,
    fail::Fail,
    output::Output,
    survey::PATIENCE,
    table::{Table, bytes, grouped},
    time::format_time,
};

/// What every node has of every shard; none for a node that did not answer.
struct Kept(BTreeMap<NodeId, Option<BTreeMap<ShardId, ShardState>>>);

impl Kept {
    /// Asks all active members at the same time.
    async fn ask(client: &Client, map: &ClusterMap) -> Self {
        let mut asked = JoinSet::new();
        for node in map.active_nodes() {
            let (client, id) = (client.clone(), node.id);
            asked.spawn(async move {
                let states = client.shard_states(id, PATIENCE).await.ok();
                let by_id = |states: Vec<ShardState>| {
                    states.into_iter().map(|state| (state.shard, state)).collect()
                };
                (id, states.map(by_id))
            });
        }
        Self(asked.join_all().await.into_iter().collect())
    }

    /// What a node has of a shard, and how that is.
    fn of(&self, node: NodeId, shard: ShardId) -> (Option<&ShardState>, &'static str) {
        match self.0.get(&node).map(Option::as_ref) {
            None | Some(None) => (None, "down"),
            Some(Some(states)) => match states.get(&shard) {
                None => (None, "empty"),
                Some(state) if state.poisoned => (Some(state), "stopped"),
                Some(state) if state.damaged => (Some(state), "damaged"),
                Some(state) => (Some(state), "ok"),
            },
        }
    }
}

pub(super) async fn run(connect: Connect, env: Env) -> Result<(), Fail> {
    let client = connect.open(&env).await?;
    let map: Arc<ClusterMap> = client.map();
    let kept = Kept::ask(&client, &map).await;
    client.close().await;
    let mut out = Output::new();
    let header =
        [">id", "database", "policy", "from", "owners", ">series", ">runs", ">size", "state"];
    let mut table = Table::new(&header);
    let name = |id| map.node(id).map_or_else(|| id.to_string(), |node| node.name.clone());
    for place in map.shards() {
        let (group, shard) = (place.group, place.shard);
        let replicas = || shard.owners.iter().map(|node| (*node, kept.of(*node, shard.id)));
        if connect.json {
            let replicas: Vec<Value> = replicas()
                .map(|(node, (state, word))| {
                    json!({
                        "node": node,
                        "name": name(node),
                        "state": word,
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
            .filter(|(_, (_, word))| !matches!(*word, "ok" | "empty"))
            .map(|(node, (_, word))| format!("{} {word}", name(node)))
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
