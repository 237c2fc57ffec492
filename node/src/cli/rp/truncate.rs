//! `quorate rp truncate`.
//!
//! Invariant: what is told of a group is what the map says after it has ended; only groups that stayed as
//! they were because somebody did not answer are a failure.

use std::{sync::Arc, time::Duration};

use clap::Args;
use quorate_client::{Client, Env};
use quorate_protocol::{
    change::Change,
    id::{GroupId, NodeId},
    map::{ClusterMap, DeleteReason, Group, Policy, TruncationState},
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::policy;
use crate::cli::{
    connect::{Connect, map_with},
    fail::Fail,
    output::Output,
    time::{format_time, parse_duration, parse_positive},
};

const HELP: &str = "\
  quorate rp alter metrics raw --shard-duration 1d --replication 3
  quorate rp truncate metrics --rp raw

Shard groups that exist keep their time range and their nodes, and only new ones follow an altered
policy or use a new node. Truncating ends the present groups early, so that the next write behind
their new end makes a new one: by default 60 s from now, so that what is written until then goes on
without a pause. Points that are stored already stay in their group: a group ends behind the last of
them, at the earliest; one that has points up to its end stays as it is, and one without any is
deleted.

Every node has to answer for what it has. One that is down cannot: the groups then stay as they were
(truncate_patience_s, 10 s), and the command says which node it was and exits with 1. Meanwhile writes
behind the wanted end wait, which is another reason for the delay.";

/// End the present shard groups early, so that new settings and new nodes are used at once
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct Truncate {
    /// The database
    #[arg(value_name = "DB")]
    database: String,
    /// The policy [default: the database's default one]
    #[arg(long, value_name = "P")]
    rp: Option<String>,
    /// How far from now the groups end, at the earliest: 60s, 5m; 0 for now
    #[arg(long, value_name = "D", default_value = "60s", value_parser = parse_duration)]
    delay: u64,
    /// How long to wait for the outcome
    #[arg(long, value_name = "D", default_value = "60s", value_parser = parse_positive)]
    timeout: u64,
    #[command(flatten)]
    connect: Connect,
}

/// What became of a group.
#[derive(Debug, PartialEq)]
enum Ending {
    /// It ends here now.
    Cut(i64),
    /// Nothing was in it.
    Emptied,
    /// It was deleted for another reason meanwhile.
    Gone,
    /// Something is stored, or kept as a hint, up to this time.
    Kept(Option<i64>),
    /// These nodes have not answered.
    Reopened(Vec<NodeId>),
    /// It is not known yet; these nodes have not answered.
    Waiting(Vec<NodeId>),
}

pub(super) async fn run(args: Truncate, env: Env) -> Result<(), Fail> {
    let client = args.connect.open(&env).await?;
    let told = truncate(&args, &env, &client).await;
    client.close().await;
    told
}

async fn truncate(args: &Truncate, env: &Env, client: &Client) -> Result<(), Fail> {
    let map = map_with(client, &args.database).await?;
    let policy = policy(&map, &args.database, args.rp.as_deref())?;
    let delay = i64::try_from(args.delay).unwrap_or(i64::MAX);
    let now = i64::try_from(env.clock.wall_ns()).unwrap_or(i64::MAX);
    let at = now.saturating_add(delay);
    let change =
        Change::TruncateGroups { database: args.database.clone(), name: policy.name.clone(), at };
    client.change(change).await?;
    let before: Vec<Arc<Group>> =
        policy.groups.iter().filter(|group| group.end > at).cloned().collect();
    let is_open = |map: &Arc<ClusterMap>| {
        let open = |policy: &Policy| policy.groups.iter().any(|group| group.closing().is_some());
        map.policies().any(|it| it.id == policy.id && open(it))
    };
    let deadline = Instant::now() + Duration::from_nanos(args.timeout);
    let mut watch = client.watch();
    // What is still under way then is told as such.
    let _ = timeout_at(deadline, watch.wait_for(|map| !is_open(map))).await;
    let map = client.map();
    let mut out = Output::new();
    let mut failed: Vec<NodeId> = Vec::new();
    if before.is_empty() && !args.connect.json {
        let (name, at) = (&policy.name, format_time(at));
        out.line(&format!("no shard group of '{name}' reaches behind {at}: nothing to do"))?;
    }
    for group in &before {
        let ending = ending(group, &map);
        if args.connect.json {
            out.json(&describe(group, &ending))?;
        } else {
            out.line(&tell(group, &ending, &map))?;
        }
        if let Ending::Reopened(nodes) | Ending::Waiting(nodes) = ending {
            failed.extend(nodes.iter().filter(|node| !failed.contains(node)).collect::<Vec<_>>());
            if nodes.is_empty() {
                failed.push(NodeId(0));
            }
        }
    }
    out.flush()?;
    if failed.is_empty() {
        return Ok(());
    }
    failed.retain(|node| *node != NodeId(0));
    Err(Fail::failed(format!(
        "not all groups were truncated: no answer from {}; see 'quorate status', then try again",
        names(&failed, &map)
    )))
}

/// What a map says of a group that was to be truncated.
fn ending(before: &Group, map: &ClusterMap) -> Ending {
    let Some((_, group)) = map.group(before.id) else {
        let stones = map.policies().flat_map(|policy| &policy.deleted);
        let emptied = stones.filter(|stone| stone.reason == DeleteReason::Emptied);
        let is_it = |group: GroupId| group == before.id;
        let found = emptied.map(|stone| stone.group).any(is_it);
        return if found { Ending::Emptied } else { Ending::Gone };
    };
    match &group.truncation {
        // It may have been asked for once more behind that, if the first answer was lost.
        _ if group.end < before.end => Ending::Cut(group.end),
        None => Ending::Cut(group.end),
        Some(it) => match it.state {
            TruncationState::Kept => Ending::Kept(it.highest),
            TruncationState::Reopened => Ending::Reopened(group.unanswered(map)),
            TruncationState::Closing => Ending::Waiting(group.unanswered(map)),
        },
    }
}

fn names(nodes: &[NodeId], map: &ClusterMap) -> String {
    if nodes.is_empty() {
        return "a node that has left".to_owned();
    }
    let name = |id: &NodeId| match map.node(*id) {
        Some(node) => format!("node {} ({id})", node.name),
        None => format!("node {id}"),
    };
    nodes.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn tell(group: &Group, ending: &Ending, map: &ClusterMap) -> String {
    let (id, end) = (group.id, format_time(group.end));
    match ending {
        Ending::Cut(at) => format!("group {id} ends at {} now, instead of {end}", format_time(*at)),
        Ending::Emptied => format!("group {id} was empty and is deleted"),
        Ending::Gone => format!("group {id} was deleted meanwhile"),
        Ending::Kept(Some(time)) => format!(
            "group {id} stays as it is, until {end}: it has points or hints up to {}",
            format_time(*time)
        ),
        Ending::Kept(None) => format!("group {id} stays as it is, until {end}"),
        Ending::Reopened(nodes) => {
            format!("group {id} stays as it is, until {end}: no answer from {}", names(nodes, map))
        }
        Ending::Waiting(nodes) => {
            format!("group {id} still waits for the answer of {}", names(nodes, map))
        }
    }
}

fn describe(group: &Group, ending: &Ending) -> Value {
    let (outcome, end, highest, nodes) = match ending {
        Ending::Cut(at) => ("cut", *at, None, &[][..]),
        Ending::Emptied => ("deleted", group.end, None, &[][..]),
        Ending::Gone => ("gone", group.end, None, &[][..]),
        Ending::Kept(time) => ("kept", group.end, *time, &[][..]),
        Ending::Reopened(nodes) => ("reopened", group.end, None, &nodes[..]),
        Ending::Waiting(nodes) => ("waiting", group.end, None, &nodes[..]),
    };
    json!({
        "group": group.id,
        "start_ns": group.start,
        "end_ns": end,
        "outcome": outcome,
        "highest_ns": highest,
        "unanswered": nodes,
    })
}

#[cfg(test)]
mod tests {
    use quorate_protocol::{
        id::{DatabaseId, MetaIndex, PolicyId},
        map::{Database, Node, NodeState, Tombstone, Truncation},
    };

    use super::*;

    #[test]
    fn what_became_of_each_group_is_told_with_the_reason() {
        let group = |id, end, truncation| Group {
            id: GroupId(id),
            start: 0,
            end,
            shards: Vec::new(),
            truncation,
        };
        let truncation = |state, consents: &[u64]| {
            let consents = consents.iter().copied().map(NodeId).collect();
            let (index, highest) = (MetaIndex(1), Some(99));
            Some(Truncation { index, at: 5, since_ns: 0, highest, consents, state })
        };
        let node = |id: u64| Node {
            id: NodeId(id),
            name: format!("n{id}"),
            addr: String::new(),
            zone: None,
            state: NodeState::Active,
            instance: 1,
        };
        let live = [
            group(1, 50, None),
            group(2, 100, truncation(TruncationState::Kept, &[])),
            group(3, 100, truncation(TruncationState::Reopened, &[1])),
            group(4, 100, truncation(TruncationState::Closing, &[1, 2])),
        ];
        let stone = |group, reason| {
            let (start, end, shards, at_ns) = (0, 100, Vec::new(), 7);
            Tombstone { group: GroupId(group), start, end, shards, at_ns, reason }
        };
        let policy = Policy {
            id: PolicyId(1),
            name: "p".to_owned(),
            duration: 0,
            group_duration: 100,
            replication: 2,
            groups: live.into_iter().map(Arc::new).collect(),
            deleted: vec![stone(5, DeleteReason::Emptied), stone(6, DeleteReason::Expired)],
        };
        let database = Database {
            id: DatabaseId(1),
            name: "d".to_owned(),
            default_policy: policy.id,
            policies: vec![policy.into()],
            measurements: Vec::new(),
        };
        let (nodes, databases) = ((1..=3).map(node).collect(), vec![database.into()]);
        let map = ClusterMap { nodes, databases, ..ClusterMap::default() };
        let said: Vec<String> = (1..=6)
            .map(|id| {
                let before = group(id, 100, None);
                tell(&before, &ending(&before, &map), &map)
            })
            .collect();
        let ends = [
            "instead of 1970-01-01T00:00:00.000000100Z",
            "points or hints up to 1970-01-01T00:00:00.000000099Z",
            "no answer from node n2 (2), node n3 (3)",
            "waits for the answer of node n3 (3)",
            "was empty and is deleted",
            "was deleted meanwhile",
        ];
        for (said, end) in said.iter().zip(ends) {
            assert!(said.ends_with(end), "{said:?}");
        }
    }
}
