//! The map, indexed by shard: what a node must know to accept or refuse a batch.
//!
//! Rebuilt from each new map and swapped in whole, so that a request sees one index throughout.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use quorate_protocol::{
    id::{DatabaseId, Epoch, GroupId, MetaIndex, NodeId, PolicyId, ShardId},
    map::ClusterMap,
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
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) map: Arc<ClusterMap>,
    shards: HashMap<ShardId, Place>,
}

impl Snapshot {
    fn new(map: Arc<ClusterMap>, node: NodeId) -> Self {
        let mut groups: BTreeMap<GroupId, Arc<[ShardId]>> = BTreeMap::new();
        let shards = map.shards().map(|place| {
            let entry = Place {
                database: place.database.id,
                policy: place.policy.id,
                start: place.group.start,
                end: place.group.end,
                closing: place.group.closing().map(|it| it.at),
                epoch: place.shard.epoch,
                owners: place.shard.owners.clone(),
                beside: Arc::clone(groups.entry(place.group.id).or_insert_with(|| {
                    let own = place.group.shards.iter().filter(|s| s.owners.contains(&node));
                    own.map(|shard| shard.id).collect()
                })),
            };
            (place.shard.id, entry)
        });
        Self { shards: shards.collect(), map: Arc::clone(&map) }
    }

    pub(crate) fn shard(&self, id: ShardId) -> Option<&Place> {
        self.shards.get(&id)
    }
}

/// The newest snapshot.
#[derive(Debug)]
pub(crate) struct Directory {
    node: NodeId,
    current: ArcSwap<Snapshot>,
    index: watch::Sender<MetaIndex>,
}

impl Directory {
    /// The directory of this node.
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, current: ArcSwap::default(), index: watch::Sender::new(MetaIndex(0)) }
    }

    pub(crate) fn install(&self, map: Arc<ClusterMap>) {
        let index = map.index;
        self.current.store(Arc::new(Snapshot::new(map, self.node)));
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
