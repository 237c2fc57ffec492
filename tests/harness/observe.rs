//! Looking at a cluster from outside, as an operator would: through a client.
//!
//! Invariants: waiting is asking again until a condition holds, with an end and the last reason in
//! the message; what is compared is what each node reads from its own disk and journal. Works on
//! any cluster a client can reach, in this process or in others.

use std::{collections::BTreeMap, time::Duration};

use quorate_client::{Client, Error, Query};
use quorate_protocol::{
    change::{Change, PolicySpec},
    id::NodeId,
    message::{NodeStatus, QueueStatus, RaftRole},
    point::text::write_line,
};
use tokio::time::{Instant, sleep};

/// How long anything may take to happen that must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is `Ok`.
///
/// # Panics
/// After `limit`, with the last reason.
pub async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + limit;
    loop {
        let reason = match look().await {
            Ok(found) => return found,
            Err(reason) => reason,
        };
        assert!(Instant::now() < end, "{what}: not within {limit:?}: {reason}");
        sleep(PAUSE).await;
    }
}

/// Asks until the condition holds.
///
/// # Panics
/// After [`PATIENCE`].
pub async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    wait_for(what, PATIENCE, async || holds().await.then_some(()).ok_or_else(|| "no".to_owned()))
        .await;
}

/// Makes a database whose default policy keeps everything, on so many nodes.
pub async fn create_database(client: &Client, name: &str, replication: u32) {
    let policy =
        PolicySpec { name: "default".to_owned(), duration: 0, group_duration: 0, replication };
    let change = Change::CreateDatabase { name: name.to_owned(), policy };
    client.change(change).await.unwrap();
}

/// Every node's state.
///
/// # Errors
/// The first node that does not answer.
pub async fn statuses(
    client: &Client,
    nodes: &[NodeId],
) -> Result<BTreeMap<NodeId, NodeStatus>, String> {
    let mut all = BTreeMap::new();
    for node in nodes {
        let status = client.node_status(*node, Duration::from_secs(5)).await;
        all.insert(*node, status.map_err(|error| format!("node {node}: {error}"))?);
    }
    Ok(all)
}

/// Waits until the client has all of these nodes, each has a vote, and one leads them all.
pub async fn wait_healthy(client: &Client, nodes: &[NodeId]) {
    wait_for("a healthy cluster", PATIENCE, async || {
        let active: Vec<NodeId> = client.map().active_nodes().map(|node| node.id).collect();
        if active != nodes {
            return Err(format!("the map has nodes {active:?}"));
        }
        let all = statuses(client, nodes).await?;
        let mut leaders: Vec<Option<NodeId>> = all.values().map(|status| status.leader).collect();
        leaders.dedup();
        if leaders.len() != 1 || leaders[0].is_none() {
            return Err(format!("leaders {leaders:?}"));
        }
        if let Some(learner) = all.values().find(|status| status.role == RaftRole::Learner) {
            return Err(format!("node {} has no vote", learner.node));
        }
        Ok(())
    })
    .await;
}

/// The node that leads the metadata group.
pub async fn leader(client: &Client, nodes: &[NodeId]) -> NodeId {
    wait_for("a leader", PATIENCE, async || {
        let all = statuses(client, nodes).await?;
        let leads = all.values().find(|status| status.role == RaftRole::Leader);
        leads.map(|status| status.node).ok_or_else(|| "nobody leads".to_owned())
    })
    .await
}

/// The hint queues of these nodes, with the accounting checked.
///
/// # Errors
/// A node that does not answer.
///
/// # Panics
/// If a queue's numbers do not add up.
pub async fn queues(
    client: &Client,
    nodes: &[NodeId],
) -> Result<BTreeMap<(NodeId, NodeId), QueueStatus>, String> {
    let mut all = BTreeMap::new();
    for (node, status) in statuses(client, nodes).await? {
        for queue in status.queues {
            let ended = queue.delivered + queue.quarantined + queue.expired + queue.discarded;
            assert_eq!(
                queue.accepted,
                ended + queue.pending,
                "node {node} has lost or invented a hint: {queue:?}"
            );
            all.insert((node, queue.target), queue);
        }
    }
    Ok(all)
}

/// All queues as one.
#[must_use]
pub fn total(queues: &BTreeMap<(NodeId, NodeId), QueueStatus>) -> QueueStatus {
    queues.values().fold(QueueStatus::default(), |mut sum, queue| {
        sum.accepted += queue.accepted;
        sum.delivered += queue.delivered;
        sum.pending += queue.pending;
        sum.quarantined += queue.quarantined;
        sum.expired += queue.expired;
        sum.discarded += queue.discarded;
        sum
    })
}

/// Waits until no node has a hint left, and says what has become of them all.
pub async fn wait_drained(client: &Client, nodes: &[NodeId]) -> QueueStatus {
    wait_for("all hints delivered", PATIENCE, async || {
        let all = queues(client, nodes).await?;
        let sum = total(&all);
        if sum.pending == 0 { Ok(sum) } else { Err(format!("pending in {all:?}")) }
    })
    .await
}

/// Everything in a database's default policy, as canonical lines: from one node's own disk, or as
/// readers at quorum see it.
///
/// # Errors
/// Whatever the query ended with.
pub async fn export(
    client: &Client,
    database: &str,
    node: Option<NodeId>,
) -> Result<String, Error> {
    let mut rows = client.query(Query { node, ..Query::all(database) }).await?;
    let mut out = Vec::new();
    while let Some(series) = rows.next().await {
        let (key, rows) = series?;
        for row in 0..rows.len() {
            let mut fields: Vec<_> = rows
                .columns
                .iter()
                .filter_map(|column| Some((&column.name[..], column.get(row)?)))
                .collect();
            fields.sort_by_key(|(name, _)| *name);
            write_line(&mut out, &key, fields, rows.times[row]);
            out.push(b'\n');
        }
    }
    Ok(String::from_utf8(out).unwrap())
}

/// Every node's export, from its own disk; each must answer.
pub async fn exports(client: &Client, database: &str, nodes: &[NodeId]) -> Vec<(NodeId, String)> {
    let mut all = Vec::with_capacity(nodes.len());
    for node in nodes {
        let text = wait_for("an export", PATIENCE, async || {
            export(client, database, Some(*node)).await.map_err(|error| error.to_string())
        });
        all.push((*node, text.await));
    }
    all
}
