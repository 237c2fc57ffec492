//! The map, indexed by shard: what a node must know to accept or refuse a batch.
//!
//! Brought from each map to the next and swapped in whole, so that a request sees one index throughout;
//! only what differs is looked into.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use quorate_protocol::{
    id::{DatabaseId, Epoch, MetaIndex, NodeId, PolicyId, ShardId},
    map::{ClusterMap, GroupDifferences},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// What the map says of one live shard.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) database: DatabaseId,
    pub(crate) policy: PolicyId,
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// While its group is being truncated: times from here on are refused.
    pub(crate) closing: Option<i64>,
    pub(crate) epoch: Epoch,
    pub(crate) owners: Vec<NodeId>,
    /// The shards of its group that this node owns.
    pub(crate) beside: Arc<[ShardId]>,
}

/// One map and its shards by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) map: Arc<ClusterMap>,
    shards: HashMap<ShardId, Arc<Place>>,
}

impl Snapshot {
    /// This snapshot's shards, where they differ, brought to another map.
    fn follow(&self, map: Arc<ClusterMap>, node: NodeId) -> Self {
        let mut shards = self.shards.clone();
        let differences = GroupDifferences::between(&self.map, &map);
        for shard in differences.gone.iter().flat_map(|group| &group.shards) {
            shards.remove(&shard.id);
        }
        for (database, policy, group) in differences.changed {
            let own = group.shards.iter().filter(|shard| shard.owners.contains(&node));
            let beside: Arc<[ShardId]> = own.map(|shard| shard.id).collect();
            shards.extend(group.shards.iter().map(|shard| {
                let place = Place {
                    database,
                    policy,
                    start: group.start,
                    end: group.end,
                    closing: group.closing().map(|it| it.at),
                    epoch: shard.epoch,
                    owners: shard.owners.clone(),
                    beside: Arc::clone(&beside),
                };
                (shard.id, Arc::new(place))
            }));
        }
        Self { map, shards }
    }

    pub(crate) fn shard(&self, id: ShardId) -> Option<&Place> {
        self.shards.get(&id).map(AsRef::as_ref)
    }
}

/// The newest snapshot.
#[derive(Debug)]
pub(crate) struct Directory {
    node: NodeId,
    current: ArcSwap<Snapshot>,
    /// Held while one snapshot is made of the last.
    turn: Mutex<()>,
    index: watch::Sender<MetaIndex>,
}

impl Directory {
    /// The directory of this node.
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            node,
            current: ArcSwap::default(),
            turn: Mutex::default(),
            index: watch::Sender::new(MetaIndex(0)),
        }
    }

    /// Takes a map, unless it is older than the present one.
    pub(crate) fn install(&self, map: Arc<ClusterMap>) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let index = map.index;
        if index <= self.index() {
            return;
        }
        self.current.store(Arc::new(self.current.load().follow(map, self.node)));
        self.index.send_replace(index);
    }

    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub(crate) fn index(&self) -> MetaIndex {
        *self.index.borrow()
    }

    /// Follows the index: it changes after the snapshot has.
    pub(crate) fn changes(&self) -> watch::Receiver<MetaIndex> {
        self.index.subscribe()
    }

    /// The first snapshot at or beyond `index`; none if it does not come within `patience`.
    pub(crate) async fn reach(
        &self,
        index: MetaIndex,
        patience: Duration,
    ) -> Option<Arc<Snapshot>> {
        let mut watch = self.index.subscribe();
        let reached = watch.wait_for(|current| *current >= index);
        timeout_at(Instant::now() + patience, reached).await.ok()?.ok()?;
        Some(self.current())
    }
}
