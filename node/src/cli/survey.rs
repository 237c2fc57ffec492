//! The cluster as it is now: one node is asked, which asks all others at the same time, so that one
//! node that can be reached from here is enough.
//!
//! Invariant: a node counts as alive only if it has answered just now. Used by `status`, `shard ls`,
//! `hints`, `node-ctl` and the demo.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use quorate_client::{Client, ClusterReport};
use quorate_protocol::{
    id::{MetaIndex, NodeId},
    map::ClusterMap,
    message::{NodeStatus, QueueStatus, RaftRole},
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{replicas::Replicas, table::count};

/// How long a node may take to say how it is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// What every member said, or that it said nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    pub(crate) map: Arc<ClusterMap>,
    pub(crate) nodes: BTreeMap<NodeId, Option<NodeStatus>>,
    /// Who asked the others, if anybody could be asked to.
    pub(crate) asked: Option<NodeId>,
    /// Why those said nothing that said nothing, for people.
    pub(crate) reasons: BTreeMap<NodeId, String>,
}

impl Survey {
    /// Asks all active members.
    pub(crate) async fn take(client: &Client) -> Self {
        Self::with_replicas(client, PATIENCE).await.0
    }

    /// Asks all active members for all they say, and gives them so long to answer.
    pub(crate) async fn with_replicas(client: &Client, patience: Duration) -> (Self, Replicas) {
        match client.survey(patience).await {
            Ok(report) => {
                let map = caught_up(client, report.meta_index, patience).await;
                Self::of_report(map, report)
            }
            Err(error) => {
                let map = client.map();
                let mut survey = Self::default();
                for node in map.active_nodes() {
                    survey.nodes.insert(node.id, None);
                    survey.reasons.insert(node.id, error.to_string());
                }
                (Self { map, ..survey }, Replicas::default())
            }
        }
    }

    fn of_report(map: Arc<ClusterMap>, report: ClusterReport) -> (Self, Replicas) {
        let mut survey = Self { asked: Some(report.node), ..Self::default() };
        let mut replicas = Replicas::default();
        for node in map.active_nodes() {
            survey.nodes.insert(node.id, None);
        }
        let (members, asked) = (report.members, report.node);
        for (node, answer) in members {
            if map.node(node).is_none_or(|node| !node.is_member()) {
                continue;
            }
            match answer {
                Ok(answer) => {
                    replicas.add(node, answer.shards, &answer.lacking);
                    survey.nodes.insert(node, Some(answer.status));
                }
                Err(why) => drop(survey.reasons.insert(node, why)),
            }
        }
        for (node, answer) in &survey.nodes {
            if answer.is_none() {
                let unknown = || format!("node {asked} does not know it yet");
                survey.reasons.entry(*node).or_insert_with(unknown);
            }
        }
        (Self { map, ..survey }, replicas)
    }

    /// Asks the active members that are wanted, each from here, and waits for no other.
    pub(crate) async fn of(client: &Client, wanted: impl Fn(NodeId) -> bool) -> Self {
        let map = client.map();
        let mut asked = JoinSet::new();
        for node in map.active_nodes().filter(|node| wanted(node.id)) {
            let (client, id) = (client.clone(), node.id);
            asked.spawn(async move { (id, client.node_status(id, PATIENCE).await.ok()) });
        }
        let nodes = asked.join_all().await.into_iter().collect();
        Self { map, nodes, ..Self::default() }
    }

    /// What the nodes that answered said.
    pub(crate) fn answers(&self) -> impl Iterator<Item = &NodeStatus> {
        self.nodes.values().flatten()
    }

    /// What this node said.
    pub(crate) fn answer(&self, id: NodeId) -> Option<&NodeStatus> {
        self.nodes.get(&id)?.as_ref()
    }

    /// Whether every member answered.
    pub(crate) fn complete(&self) -> bool {
        self.nodes.values().all(Option::is_some)
    }

    /// The node that leads: it says so itself and is not behind another that says so.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leading = self.answers().filter(|node| node.role == RaftRole::Leader);
        leading.max_by_key(|node| node.meta_index).map(|node| node.node)
    }

    /// All queues, with their holders.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (NodeId, &QueueStatus)> {
        self.answers().flat_map(|node| node.queues.iter().map(move |queue| (node.node, queue)))
    }

    /// The sum over all queues.
    pub(crate) fn hints(&self) -> QueueStatus {
        let mut sum = QueueStatus::default();
        for (_, queue) in self.queues() {
            sum.accepted += queue.accepted;
            sum.delivered += queue.delivered;
            sum.pending += queue.pending;
            sum.quarantined += queue.quarantined;
            sum.expired += queue.expired;
            sum.discarded += queue.discarded;
            sum.bytes += queue.bytes;
        }
        sum
    }

    /// The name of a node, or its number.
    pub(crate) fn name(&self, id: NodeId) -> String {
        self.map.node(id).map_or_else(|| id.to_string(), |node| node.name.clone())
    }

    /// How many entries of the metadata's log a node is behind the leader; none if either is not
    /// known.
    pub(crate) fn lag(&self, id: NodeId) -> Option<u64> {
        let leader = self.answer(self.leader()?)?;
        Some(leader.log_index.saturating_sub(self.answer(id)?.applied_index))
    }

    /// What keeps the cluster from being healthy: all members up, writable and voting or learning
    /// under one leader.
    pub(crate) fn complaints(&self) -> Vec<String> {
        if self.nodes.is_empty() {
            return vec!["there are no nodes".to_owned()];
        }
        let of_node = |(id, answer): (&NodeId, &Option<NodeStatus>)| {
            let what = match answer {
                None => "is down",
                Some(node) if node.poisoned => "stopped writing after a failed sync",
                Some(node) if node.role == RaftRole::Candidate || node.leader.is_none() => {
                    "sees no leader"
                }
                Some(_) => return None,
            };
            Some(format!("node {} {what}", self.name(*id)))
        };
        let mut all: Vec<String> = self.nodes.iter().filter_map(of_node).collect();
        if self.leader().is_none() {
            all.push("there is no leader".to_owned());
        }
        all
    }

    /// What keeps hints from being drained: a node that does not say what it keeps, or a queue that
    /// is not empty.
    pub(crate) fn undrained(&self) -> Vec<String> {
        let down = self.nodes.iter().filter(|(_, answer)| answer.is_none());
        let mut all: Vec<String> =
            down.map(|(id, _)| format!("node {} is down", self.name(*id))).collect();
        let full = self.queues().filter(|(_, queue)| queue.pending > 0);
        all.extend(full.map(|(holder, queue)| {
            let (holder, target) = (self.name(holder), self.name(queue.target));
            let hints =
                count(usize::try_from(queue.pending).unwrap_or(usize::MAX), "hint", "hints");
            format!("{holder} has {hints} for {target}")
        }));
        all
    }
}

/// The map once it includes what a node has answered from, or what there is of it in time.
async fn caught_up(client: &Client, index: MetaIndex, patience: Duration) -> Arc<ClusterMap> {
    let mut watch = client.watch();
    let included = watch.wait_for(|map| map.index >= index);
    let _ = timeout_at(Instant::now() + patience, included).await;
    client.map()
}

/// A queue's accounting as `--json` shows it.
pub(crate) fn accounting(queue: &QueueStatus) -> Value {
    json!({
        "accepted": queue.accepted,
        "delivered": queue.delivered,
        "pending": queue.pending,
        "quarantined": queue.quarantined,
        "expired": queue.expired,
        "discarded": queue.discarded,
    })
}
