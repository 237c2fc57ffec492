//! One look at a cluster: how the nodes are, and how their replicas are.

use std::time::Duration;

use quorate_client::Client;

use crate::cli::{
    replicas::{Health, Replicas},
    survey::{PATIENCE, Survey},
};

/// What all nodes said about themselves and about their shards.
pub(super) struct Look {
    pub(super) survey: Survey,
    pub(super) replicas: Replicas,
}

impl Look {
    pub(super) async fn take(client: &Client) -> Self {
        Self::within(client, PATIENCE).await
    }

    /// A look that gives nodes so long to answer.
    pub(super) async fn within(client: &Client, patience: Duration) -> Self {
        let (survey, replicas) = Survey::with_replicas(client, patience).await;
        Self { survey, replicas }
    }

    /// What keeps the cluster from being healthy.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut all = self.survey.complaints();
        for place in self.survey.map.shards() {
            // That a node is down is said once, not for every shard.
            let odd = self.replicas.healths(place.shard);
            let odd = odd.filter(|(_, health)| !health.is_sound() && *health != Health::Down);
            all.extend(odd.map(|(node, health)| {
                let (node, shard) = (self.survey.name(node), place.shard.id);
                format!("shard {shard} on node {node} is {}", health.word())
            }));
        }
        all
    }
}
