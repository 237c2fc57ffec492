//! Retention: directories of shards that metadata has dropped go away.
//!
//! Invariant: a shard goes only if the map has known it and does not list it any more. A map that
//! is behind lists too few shards, but its next id tells which ones it has not heard of yet. Called
//! by the node whenever its map has changed, and at start after the journal was read.

use std::collections::BTreeSet;

use quorate_protocol::{id::ShardId, map::ClusterMap};

use super::{ShardStore, error::ShardError};

/// What metadata knows about shards at some index.
#[derive(Clone, Debug, Default)]
pub struct LiveShards {
    /// Every live shard.
    pub live: BTreeSet<ShardId>,
    /// The id the next shard will get; the map says nothing about this one and later ones.
    pub next: ShardId,
}

impl LiveShards {
    /// What a map says.
    #[must_use]
    pub fn of(map: &ClusterMap) -> Self {
        let live = map.shards().map(|place| place.shard.id).collect();
        Self { live, next: ShardId(map.next.shard) }
    }

    /// Whether the shard existed and does not any more.
    #[must_use]
    pub fn has_dropped(&self, shard: ShardId) -> bool {
        shard < self.next && !self.live.contains(&shard)
    }
}

/// Drops every shard that metadata has dropped, and says which. One that cannot be removed does not
/// keep the others; it is tried again by the next sweep or the next start.
pub async fn sweep(store: &ShardStore, map: &LiveShards) -> Vec<(ShardId, Result<(), ShardError>)> {
    let mut dropped = Vec::new();
    for shard in store.shards().into_iter().filter(|shard| map.has_dropped(*shard)) {
        let result = store.drop_shard(shard).await;
        if let Err(error) = &result {
            tracing::warn!(%shard, %error, "cannot remove a dropped shard");
        }
        dropped.push((shard, result));
    }
    dropped
}
