//! What every node has of every shard, and how that is.
//!
//! Invariant: what a node does not say is not guessed: a node that does not answer is shown as down.
//! Used by `status` and `shard ls`.

use std::{collections::BTreeMap, time::Duration};

use quorate_client::Client;
use quorate_protocol::{
    id::{NodeId, ShardId},
    map::{ClusterMap, Shard},
    message::ShardState,
};
use tokio::task::JoinSet;

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It is there and sound.
    Ok,
    /// Nothing has been written to it.
    Empty,
    /// Its node does not answer.
    Down,
    /// Something of it cannot be read.
    Damaged,
    /// It takes no writes after a failed sync.
    Stopped,
}

impl Health {
    /// As reports say it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Empty => "empty",
            Self::Down => "down",
            Self::Damaged => "damaged",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the replica can be written and read.
    pub(crate) const fn is_sound(self) -> bool {
        matches!(self, Self::Ok | Self::Empty)
    }
}

/// What every node has of every shard; none for a node that did not answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replicas(pub(crate) BTreeMap<NodeId, Option<BTreeMap<ShardId, ShardState>>>);

impl Replicas {
    /// Asks all active members at the same time, and gives them so long to answer.
    pub(crate) async fn ask(client: &Client, map: &ClusterMap, patience: Duration) -> Self {
        let mut asked = JoinSet::new();
        for node in map.active_nodes() {
            let (client, id) = (client.clone(), node.id);
            asked.spawn(async move {
                let states = client.shard_states(id, patience).await.ok();
                let by_id = |states: Vec<ShardState>| {
                    states.into_iter().map(|state| (state.shard, state)).collect()
                };
                (id, states.map(by_id))
            });
        }
        Self(asked.join_all().await.into_iter().collect())
    }

    /// What a node has of a shard, and how that is.
    pub(crate) fn of(&self, node: NodeId, shard: ShardId) -> (Option<&ShardState>, Health) {
        match self.0.get(&node).map(Option::as_ref) {
            None | Some(None) => (None, Health::Down),
            Some(Some(states)) => match states.get(&shard) {
                None => (None, Health::Empty),
                Some(state) if state.poisoned => (Some(state), Health::Stopped),
                Some(state) if state.damaged => (Some(state), Health::Damaged),
                Some(state) => (Some(state), Health::Ok),
            },
        }
    }

    /// The owners of a shard, with how their replicas are.
    pub(crate) fn healths(&self, shard: &Shard) -> impl Iterator<Item = (NodeId, Health)> {
        shard.owners.iter().map(|owner| (*owner, self.of(*owner, shard.id).1))
    }

    /// How many of a shard's replicas are sound, and whether a majority is.
    pub(crate) fn sound(&self, shard: &Shard) -> (usize, bool) {
        let sound = self.healths(shard).filter(|(_, health)| health.is_sound()).count();
        (sound, sound > shard.owners.len() / 2)
    }
}
